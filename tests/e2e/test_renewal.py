# attest-tunnel enroll --renew: a certificate for one that is good, and what gets none.
import fcntl
import json
import os
import socket
import subprocess

import pytest

import audit
from harness import DEADLINE, DOMAIN, Agent, Task, binary, data
from pki import Authority
from streams import Doors, Service, echo, roundtrip
from test_enroll import Enrolment, answer, is_owners, openssl, request


@pytest.fixture
def enrolment(world):
    return Enrolment(world, audit={"file": world.path("audit")})


def enrolled(enrolment, owner="acme", *args, **how):
    enrolment.owner(enrolment.code(owner, *args), **how)
    return serial_of(enrolment.pair(how.get("folder", "own"))[0])


def renew(enrolment, *args, **how):
    return enrolment.owner("", "--renew", *args, **how)


def serial_of(certificate):
    text = openssl("x509", "-in", certificate, "-noout", "-serial")
    return text.strip().split("=")[1].lower().zfill(32)


def fits(pair):
    return (openssl("x509", "-in", pair[0], "-noout", "-pubkey")
            == openssl("pkey", "-in", pair[1], "-pubout"))


def by_hand(enrolment, csr, pair, listener="front"):
    context = enrolment.world.certificates.client(["http/1.1"])
    context.load_cert_chain(*pair)
    raw = socket.create_connection(("127.0.0.1", enrolment.relay.port(listener)), DEADLINE)
    with context.wrap_socket(raw, server_hostname=DOMAIN) as c:
        c.sendall(f"POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/pkcs10\r\n"
               f"Content-Length: {len(csr)}\r\n\r\n".encode() + csr)
        return answer(c)


def test_renewed(world, enrolment):
    """Another serial and key for the same owner and label; recorded, and the old one stays good."""
    first = enrolled(enrolment, "acme", "--label", "office")
    certificate, key = enrolment.pair()
    os.chmod(key, 0o640)
    before = open(key).read()
    assert "nothing to do yet" in renew(enrolment)
    assert serial_of(certificate) == first
    out = renew(enrolment, "--force")
    assert "renewed the certificate for the owner acme" in out and certificate in out
    second = is_owners(enrolment, certificate)
    assert second != first and open(key).read() != before and fits((certificate, key))
    assert os.stat(key).st_mode & 0o777 == 0o640
    assert sorted(os.listdir(os.path.dirname(key))) == ["certificate.pem", "key.pem"]
    assert {r["serial"]: r["label"] for r in enrolment.records()} == {first: "office",
                                                                    second: "office"}
    enrolment.relay.wait_log(rf"renewed as acme \(office\): certificate {second} until "
                             rf"\S+, for the one of serial {first}")
    audit.settle(enrolment.relay)
    record = [r for r in audit.read(world.path("audit")) if r["event"] == "certificate-issued"][-1]
    assert (record["serial"], record["owner"], record["detail"]) == (
        second, "acme", f"for the one of serial {first}")
    before = open(key).read()
    renew(enrolment, "--force", "--keep-key")
    assert open(key).read() == before and serial_of(certificate) not in (first, second)
    assert fits((certificate, key))


def test_when_it_is_due(world):
    """Less than a third of its time is left: certificates start five minutes early."""
    e = Enrolment(world, enrolment={"certificate_valid": "2min"})
    first = enrolled(e)
    assert "renewed" in renew(e)
    assert serial_of(e.pair()[0]) != first


def test_a_running_agent_goes_on_with_it(world, enrolment):
    """It sees the new pair by itself, or at SIGHUP, and shows it when it connects again."""
    service = world.add(Service(handler=echo))
    first = enrolled(enrolment)
    certificate, key = enrolment.pair()
    agent = Agent(world, "enrolled", [
        "--relay", f"tcp:127.0.0.1:{enrolment.relay.port()}", "--server-name", DOMAIN,
        "--ca-file", world.certificates.ca, "--certificate", certificate, "--key", key,
        "--service", f"kbs={service.address}"])
    enrolment.relay.wait_tunnels(1)
    renew(enrolment, "--force")
    agent.wait_log("others now: reading them again")
    enrolment.operator("revoke", first)
    enrolment.relay.reload()
    agent.wait_log("revoked")
    enrolment.relay.wait_tunnels(1)
    with Doors(enrolment.relay, None).connect_plain("kbs.acme") as c:
        roundtrip(c, data(100_000))


def test_one_file_after_the_other(world, enrolment):
    """Whoever renews by other means may put the certificate there before its key."""
    enrolled(enrolment)
    enrolled(enrolment, folder="next")
    pair, new = enrolment.pair(), enrolment.pair("next")
    agent = world.agent(enrolment.relay, {"kbs": "tcp:127.0.0.1:1"}, token_file=False,
                        certificate=pair[0], key=pair[1])
    os.rename(new[0], pair[0])
    agent.wait_log("new connections use what was read before: .*does not belong to")
    start = agent.log_size()
    os.rename(new[1], pair[1])
    agent.wait_log("reading them again", start=start)
    enrolment.operator("revoke", first_of(enrolment, pair[0]))
    enrolment.relay.reload()
    agent.wait_log("revoked", start=start)
    enrolment.relay.wait_tunnels(1)


def first_of(enrolment, certificate):
    """The serial of the one that it took the place of."""
    return next(r["serial"] for r in enrolment.records() if r["serial"] != serial_of(certificate))


def test_by_a_config(world, enrolment):
    """The pair that it names, wherever that is."""
    enrolled(enrolment)
    certificate, key = (world.path("cert.pem"), world.path("private.pem"))
    for old, new in zip(enrolment.pair(), (certificate, key)):
        os.rename(old, new)
    config = world.path("tunnel.yaml")
    with open(config, "w") as f:
        json.dump({"relays": [f"tcp:127.0.0.1:{enrolment.relay.port()}"], "server_name": DOMAIN,
                   "ca_file": world.certificates.ca, "certificate": certificate, "key": key,
                   "services": [{"name": "kbs", "target": "tcp:127.0.0.1:1"}]}, f)
    first = serial_of(certificate)
    subprocess.run([binary("ATTEST_TUNNEL"), "enroll", "--renew", "--force", "--config", config],
                   check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
    assert serial_of(certificate) != first and fits((certificate, key))


def test_two_at_a_time(world, enrolment):
    """Whichever wins, the pair fits."""
    enrolled(enrolment)
    argv = [binary("ATTEST_TUNNEL"), "enroll", "--renew", "--force", "--relay",
            f"tcp:127.0.0.1:{enrolment.relay.port()}", "--server-name", DOMAIN, "--ca-file",
            world.certificates.ca, "--folder", world.path("own")]
    for _ in range(3):
        tasks = [Task(lambda: subprocess.run(argv, capture_output=True, text=True,
                                             timeout=DEADLINE, check=False)) for _ in range(4)]
        done = [t.result() for t in tasks]
        assert any(p.returncode == 0 for p in done), done
        assert all(p.returncode == 0 or "another enrolment is under way" in p.stderr
                   for p in done), done
        assert fits(enrolment.pair())


def test_nothing_is_read_of_another_ones_half(world, enrolment):
    """The pair is read under the lock: between another's two renames it does not fit."""
    enrolled(enrolment)
    certificate, key = enrolment.pair()
    folder = os.open(os.path.dirname(key), os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with open(key, "w") as f:
        f.write(open(world.certificates.relay[1]).read())
    assert "another enrolment is under way" in renew(enrolment, "--force", status=1)
    os.close(folder)
    assert "does not belong" in renew(enrolment, "--force", status=1)
    assert sorted(os.listdir(os.path.dirname(key))) == ["certificate.pem", "key.pem"]


def test_killed_between_two_names(world, enrolment):
    """The next one finishes what that one began, and goes on from there."""
    enrolled(enrolment)
    certificate, key = enrolment.pair()
    old = open(certificate).read()
    renew(enrolment, "--force")
    os.rename(certificate, certificate + ".new")
    with open(certificate, "w") as f:
        f.write(old)
    half = serial_of(certificate + ".new")
    assert "renewed" in renew(enrolment, "--force")
    assert fits((certificate, key))
    enrolment.relay.wait_log(f"for the one of serial {half}")


def test_revoked(world, enrolment):
    """Also between the operator's command and the relay's reload, which would not find another."""
    first = enrolled(enrolment)
    enrolment.operator("revoke", first)
    assert "revoked" in renew(enrolment, "--force", status=3)
    enrolment.relay.reload()
    words = renew(enrolment, "--force", status=1)
    assert "refused the certificate that is to be renewed" in words
    assert len(enrolment.records()) == 1 and serial_of(enrolment.pair()[0]) == first
    assert fits(enrolment.pair())


def test_an_owner_that_is_gone(world, enrolment):
    enrolled(enrolment, "other")
    enrolment.relay.reload(owners=[world.owner("acme")])
    assert "its owner is none of this relay any more" in renew(enrolment, "--force", status=3)
    assert len(enrolment.records()) == 1


def test_not_by_another_ca(world):
    """A listener's client_ca says who may connect, and nothing of the relay's own certificates."""
    clients = Authority(world.folder, "clients")
    node = clients.issue("node", "URI:urn:attest-relay:owner:acme")
    e = Enrolment(world, listeners=[{"name": "mixed", "doors": ["tunnel", "connect"],
                                     "client_ca": clients.pem}])
    status, words = by_hand(e, request(world), node, "mixed")
    assert status == 401 and "a code is needed" in words
    assert not e.records()


def test_so_many_in_an_hour(world, enrolment):
    enrolled(enrolment)
    csr = request(world)
    statuses = [by_hand(enrolment, csr, enrolment.pair())[0] for _ in range(102)]
    assert statuses[:100] == [200] * 100 and statuses[101] == 429
    assert len(enrolment.records()) <= 102


def test_wrong_calls(world, enrolment):
    assert "--renew takes no code" in renew(enrolment, "--code-file", "x", status=2)
    assert "--keep-key is for --renew" in enrolment.owner("", "--keep-key", status=2)
    assert "no certificate" in renew(enrolment, folder="nowhere", status=1)
    assert not os.path.exists(world.path("nowhere"))
