# The tunnel's life: it comes, it dies in every way, it comes back, and who may have it.
import datetime
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from harness import (DEADLINE, DOMAIN, MB, Agent, Blackhole, Task, data, digest, free_port, need,
                     new_token, wait_for)
from streams import Aborted, Doors, Refused, Service, connect_head, dial, echo, roundtrip, tls_service
from wire import GOAWAY, HEADERS, RawAgent, frame

CARRIERS = ["direct", "websocket"]
SECONDS_TO_NOTICE = 10.5  # 10 s by the default settings, and a busy machine's scheduler


def ask(relay, service="kbs.acme", payload=None):
    """One stream through: every byte comes back."""
    with Doors(relay, None).connect_plain(service) as c:
        roundtrip(c, data(20_000) if payload is None else payload)


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_agent_killed(world, svc, carrier):
    """kill -9: the name is free at once; the next client waits for the next agent."""
    relay = world.relay(timeouts={"pickup": "20s"})
    agent = world.agent(relay, {"kbs": svc.address}, instance="one", transport=carrier)
    ask(relay)
    live = Doors(relay, None).connect_plain("kbs.acme")
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    begin = time.monotonic()
    agent.kill()
    relay.wait_tunnels(0)
    with pytest.raises(Aborted):  # its streams end with it, and not in order
        live.recv()
        raise AssertionError("EOF instead of a reset")
    assert time.monotonic() - begin < 3
    assert relay.metric("session_ended_total") == 1
    waiting = Task(ask, relay)
    relay.wait_metric("live_parked", lambda v: v == 1)
    world.agent(relay, {"kbs": svc.address}, instance="one", transport=carrier)
    waiting.result()
    relay.wait_quiet()


@pytest.mark.parametrize("carrier,down", [("direct", 0), ("websocket", 0), ("direct", 6)])
def test_relay_killed(world, svc, carrier, down):
    """The relay dies and comes back: the agent is there within 3 s of its listening."""
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier)
    ask(relay)
    relay.kill()
    time.sleep(down)  # attempts that fail do not put the next one off
    relay = world.restart(relay)
    begin = time.monotonic()
    relay.wait_tunnels(1)
    took = time.monotonic() - begin
    assert took < 3, f"{took:.1f} s"
    ask(relay)
    assert agent.running()


def test_agent_before_relay(world, svc):
    """An agent that starts first keeps trying."""
    port = free_port()
    agent = Agent(world, "early", [
        "--relay", f"tcp:localhost:{port}", "--token-file", world.token()[1], "--service",
        f"kbs={svc.address}", "--ca-file", world.certificates.ca])
    agent.wait_log("(?i)refused|failed|cannot|unreachable")
    relay = world.relay(front=False, listeners=[
        {"name": "front", "address": f"tcp:127.0.0.1:{port}", "doors": ["tunnel", "connect"]}])
    relay.wait_tunnels(1)
    ask(relay)


@pytest.mark.parametrize("event", ["network", "hangup"])
def test_retry_at_once(world, svc, event):
    """A network that changes, and SIGHUP, end the wait for the next attempt."""
    need("unshare", "nsenter", "ip")
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not permitted")
    # unix sockets reach across network namespaces: the agent has one of its own to change
    relay = world.relay(listeners=[{"name": "local", "address": f"unix:{world.path('local')}",
                                    "doors": ["tunnel"]}])
    later = world.path("later")
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, address=f"unix:{later}",
                        transport="direct", log={"level": "debug"}, under=["unshare", "-rn"])
    agent.wait_log(r"waiting ([5-9]|[12]\d|30)\d{3} ms", timeout=150)  # by the back-off's dice
    os.symlink(world.path("local"), later)
    if event == "hangup":
        agent.signal(signal.SIGHUP)
    else:
        subprocess.run(["nsenter", "-t", str(agent.pid), "-U", "--preserve-credentials", "-n",
                        "ip", "link", "set", "lo", "up"], check=True)
    relay.wait_tunnels(1, timeout=3)
    assert relay.metric("tunnels_total") == 1


def test_black_hole(world, svc):
    """A path that swallows everything: both sides know within 10 s, at the default settings."""
    relay = world.relay()
    hole = world.add(Blackhole(relay.port()))
    agents = [world.agent(relay, {f"kbs-{c}": svc.address}, name=c, transport=c,
                          address=f"tcp:127.0.0.1:{hole.port}") for c in CARRIERS]
    for c in CARRIERS:
        ask(relay, f"kbs-{c}.acme")
    stuck = Doors(relay, None).connect_plain("kbs-direct.acme")
    starts = [a.log_size() for a in agents]
    mark = relay.log_size()
    hole.hold()
    begin = datetime.datetime.now(datetime.timezone.utc)

    def noticed(program, line, start):
        """When the program said so, by its own clock, in seconds since the path went black."""
        program.wait_log(line, start=start)
        stamps = [at for at, text in re.findall(r"(?m)^(\S+Z) (.*)$", program.log(start))
                  if re.search(line, text)]
        return [(datetime.datetime.fromisoformat(at.replace("Z", "+00:00")) - begin).total_seconds()
                for at in stamps]
    seen = [Task(noticed, a, r"(?i)tunnel-dead|nothing.*(received|came)", s)
            for a, s in zip(agents, starts)]
    relay.wait_metric("session_ended_total", lambda v: v == 2, reason="tunnel-dead")
    assert relay.metric("live_tunnels") == 0
    took = noticed(relay, "ended: tunnel-dead", mark)
    assert len(took) == 2 and max(took) <= SECONDS_TO_NOTICE, took
    with pytest.raises(Aborted):
        stuck.recv()
        raise AssertionError("EOF instead of a reset")
    for carrier, t in zip(CARRIERS, seen):
        assert max(t.result()) <= SECONDS_TO_NOTICE, f"the {carrier} agent took {t.value} s"
    # the names are free, and the path heals
    hole.release()
    relay.wait_tunnels(2)
    for c in CARRIERS:
        ask(relay, f"kbs-{c}.acme")


def test_take_over_of_a_stale_session(world, svc):
    """The agent came back by another way before the relay noticed: it has its name at once."""
    relay = world.relay()
    hole = world.add(Blackhole(relay.port()))
    old = world.agent(relay, {"kbs": svc.address}, instance="one", name="old",
                      address=f"tcp:127.0.0.1:{hole.port}")
    ask(relay)
    hole.hold()
    old.kill()  # behind the hole: the relay cannot know
    assert relay.metric("live_tunnels") == 1
    begin = time.monotonic()
    world.agent(relay, {"kbs": svc.address}, instance="one", name="new", wait=False)
    relay.wait_metric("session_ended_total", lambda v: v == 1, reason="replaced")
    ask(relay)
    assert time.monotonic() - begin < 5
    relay.wait_tunnels(1)


def raw(relay, world, token=None, **more):
    return world.add(RawAgent(relay, world.certificates, token=token or world.token()[0], **more))


def test_generations(world):
    """Higher takes over at once; equal or lower is refused as stale; another instance is a backup."""
    relay = world.relay()
    first = raw(relay, world, instance="one", generation=10)
    assert first.answer()[0] == "accepted"
    for generation in (10, 9, 1):
        other = raw(relay, world, instance="one", generation=generation)
        word, fields = other.answer()
        assert word == "refused"
        assert dict(fields)["attest-reason"] == "stale"
        assert len(dict(fields)["attest-message"]) > 20
        assert other.drained() and other.goaway
    relay.wait_metric("session_ended_total", lambda v: v == 3, reason="stale")
    relay.wait_tunnels(1)
    second = raw(relay, world, instance="one", generation=11)
    assert second.answer()[0] == "accepted"
    assert first.drained(5), "the older session is still open"
    relay.wait_metric("session_ended_total", lambda v: v == 1, reason="replaced")
    backup = raw(relay, world, instance="two", generation=1)
    assert backup.answer()[0] == "accepted"
    relay.wait_tunnels(2)
    for a in (second, backup):
        a.close()
    relay.wait_tunnels(0)


def test_owners_are_apart(world):
    """The owner comes from the credential: the same instance and service name collide with nobody."""
    relay = world.relay(owners=[world.owner("acme"), world.owner("evil")])
    a = raw(relay, world, instance="one", generation=5)
    b = raw(relay, world, token=world.token("evil")[0], instance="one", generation=9)
    word, fields = a.answer()
    assert word == "accepted" and ("attest-service", "kbs.acme") in fields
    word, fields = b.answer()
    assert word == "accepted" and ("attest-service", "kbs.evil") in fields
    relay.wait_tunnels(2)
    # a label with a dot would be another owner's name
    c = raw(relay, world, token=world.token("evil")[0], services=("kbs.acme",))
    word, fields = c.answer()
    assert word == "refused" and dict(fields)["attest-reason"] in ("protocol", "forbidden")
    for x in (a, b):
        x.close()
    relay.wait_tunnels(0)


def test_primary_and_backup(world):
    """Two agents for one service: the first serves, the second when the first has gone."""
    one, two = [world.add(Service(handler=lambda c, n=n: (c.recv(), c.send(n), c.eof())))
                for n in (b"one", b"two")]
    relay = world.relay()
    first = world.agent(relay, {"kbs": one.address})
    world.agent(relay, {"kbs": two.address})

    def who():
        with Doors(relay, None).connect_plain("kbs.acme") as c:
            c.send(b"?")
            return c.read_all()
    assert [who() for _ in range(6)] == [b"one"] * 6
    first.kill()
    relay.wait_tunnels(1)
    assert [who() for _ in range(3)] == [b"two"] * 3


# ---- who may ----

def test_bad_token(world, svc):
    """A clear line, once, and exit code 3 for whoever asked for --once."""
    relay = world.relay()
    path = world.path("wrong")
    with open(path, "w") as f:
        f.write(new_token() + "\n")
    once = world.agent(relay, {"kbs": svc.address}, name="once", token_file=path, wait=False,
                       extra=["--once"], expect=(3,))
    assert once.wait() == 3
    assert re.search("(?i)token|credential", once.log())
    assert relay.metric("session_ended_total", reason="bad-credential") == 1
    # without --once it stays, but does not hammer: nothing changes by itself
    patient = world.agent(relay, {"kbs": svc.address}, name="patient", token_file=path, wait=False)
    patient.wait_log("(?i)token|credential")
    relay.wait_metric("session_ended_total", lambda v: v == 2, reason="bad-credential")
    time.sleep(3)  # a second attempt would be a failure; the next is due in a minute
    assert relay.metric("session_ended_total", reason="bad-credential") == 2
    assert patient.count("bad-credential") == 1, patient.tail()
    after = re.search(r"bad-credential.*next try in (\d+)\.", patient.log())
    assert after and 45 <= int(after.group(1)) <= 75, patient.tail()
    for n in (3, 4, 5):  # each is an attempt, and none of them is said again
        patient.signal(signal.SIGHUP)
        relay.wait_metric("session_ended_total", lambda v: v == n, reason="bad-credential")
    assert patient.count("bad-credential") == 1, patient.tail()
    with open(path) as f:
        secret = f.read().strip()
    with open(path, "w") as f:  # a refusal is not for ever
        f.write(world.token()[0] + "\n")
    patient.signal(signal.SIGHUP)
    relay.wait_tunnels(1)
    ask(relay)
    for p in (relay, once, patient):
        assert secret not in p.log() + p.output()
        assert world.token()[0] not in p.log() + p.output()


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "x" * 300 + "\n", "tok\x01en\n", None])
def test_unusable_token_file(world, svc, text):
    """An empty or odd token file is an error at the start, with its path, not an open door."""
    relay = world.relay()
    path = world.path("odd")
    if text is not None:
        with open(path, "w") as f:
            f.write(text)
    agent = world.agent(relay, {"kbs": svc.address}, token_file=path, wait=False,
                        extra=["--once"], expect=(1,))
    assert agent.wait() == 1
    assert path in agent.log()


def test_service_not_allowed(world, svc):
    """services: of an owner bounds what it may offer."""
    relay = world.relay(owners=[world.owner(services=["kbs"])])
    agent = world.agent(relay, {"tang": svc.address}, wait=False, extra=["--once"], expect=(3,))
    assert agent.wait() == 3
    assert "tang" in agent.log()
    assert relay.metric("session_ended_total", reason="forbidden") == 1
    with pytest.raises(Refused) as e:
        Doors(relay, None).connect_plain("tang.acme")
    assert e.value.status in (403, 404, 503, 504)
    world.agent(relay, {"kbs": svc.address})
    ask(relay)


def test_tunnels_per_owner(world):
    relay = world.relay(limits={"per_owner": {"tunnels": 2}})
    kept = [raw(relay, world, instance=f"i{i}") for i in range(2)]
    assert [a.answer()[0] for a in kept] == ["accepted"] * 2
    third = raw(relay, world, instance="i2")
    word, fields = third.answer()
    assert word == "refused" and dict(fields)["attest-reason"] == "limit"
    assert "per_owner.tunnels" in dict(fields)["attest-message"]
    assert third.drained()
    for a in kept:
        a.close()
    relay.wait_tunnels(0)


@pytest.mark.parametrize("kind", ["wrong-ca", "wrong-name"])
@pytest.mark.parametrize("carrier", ["auto", *CARRIERS])
def test_relay_is_verified(world, svc, kind, carrier):
    """Another CA or another name: the agent will not send its token, and says what is wrong."""
    relay = world.relay()
    more = ({"ca_file": world.certificates.other_ca} if kind == "wrong-ca" else
            {"server_name": "elsewhere.test"})
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier, wait=False, **more)
    agent.wait_log("(?i)certificate" if kind == "wrong-ca" else "(?i)name|certificate")
    assert re.search("(?i)ca.file|issuer|self-signed|verif" if kind == "wrong-ca"
                     else r"(?i)elsewhere\.test|mismatch", agent.log()), agent.tail()
    assert relay.metric("live_tunnels") == 0
    assert relay.metric("session_ended_total", reason="bad-credential") == 0


# ---- carriers ----

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        location /tunnel {{
            proxy_pass https://127.0.0.1:{relay};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_read_timeout 60s;
            proxy_buffering off;
        }}
    }}
}}
"""


@pytest.fixture
def nginx(world):
    """nginx in front of a relay, as an HTTPS reverse proxy that lets WebSocket through."""
    need("nginx")
    relay = world.relay()
    port = free_port()
    path = world.path("nginx.conf")
    with open(path, "w") as f:
        f.write(NGINX.format(folder=world.folder, port=port, relay=relay.port(),
                             certificate=world.certificates.relay[0],
                             key=world.certificates.relay[1]))
    p = subprocess.Popen(["nginx", "-c", path, "-p", world.folder], stdin=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)

    def up():
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        except OSError:
            return False
    wait_for(up, "nginx listens")
    yield relay, port
    p.send_signal(signal.SIGTERM)
    p.wait(DEADLINE)


@pytest.mark.parametrize("transport", ["auto", "websocket"])
def test_websocket_through_nginx(world, svc, nginx, transport):
    relay, port = nginx
    agent = world.agent(relay, {"kbs": svc.address}, transport=transport,
                        address=f"tcp:127.0.0.1:{port}")
    ask(relay)
    payload = data(10 * MB)
    with Doors(relay, None).connect_plain("kbs.acme") as c:
        roundtrip(c, payload)
    # half-close and abort are the session's, whatever carries it
    late = world.add(Service(handler=lambda c: (c.read_all(), c.send(payload), c.eof())))
    world.agent(relay, {"late": late.address}, transport=transport,
                address=f"tcp:127.0.0.1:{port}")
    with Doors(relay, None).connect_plain("late.acme") as c:
        c.send(b"request")
        c.eof()
        assert digest(c.read_all()) == digest(payload)
    agent.stop()
    relay.wait_tunnels(1)


def test_auto_remembers(world, svc, nginx):
    """auto behind a proxy that only speaks HTTP: after a loss it comes back just as well."""
    relay, port = nginx
    world.agent(relay, {"kbs": svc.address}, transport="auto", address=f"tcp:127.0.0.1:{port}")
    ask(relay)
    relay.kill()
    relay = world.restart(relay)
    relay.wait_tunnels(1)
    ask(relay)


def test_direct_does_not_fall_back(world, svc, nginx):
    relay, port = nginx
    agent = world.agent(relay, {"kbs": svc.address}, transport="direct", wait=False,
                        address=f"tcp:127.0.0.1:{port}")
    agent.wait_log("(?i)alpn|websocket|no relay|not a relay|alert|protocol")
    assert relay.metric("live_tunnels") == 0


@pytest.mark.parametrize("carrier", CARRIERS)
def test_by_unix_socket(world, svc, carrier):
    """The relay's own address may be a Unix socket."""
    relay = world.relay(listeners=[{"name": "local", "doors": ["tunnel"],
                                    "address": f"unix:{world.path('tunnel.sock')}"}])
    world.agent(relay, {"kbs": svc.address}, transport=carrier,
                address=f"unix:{world.path('tunnel.sock')}")
    ask(relay)


# ---- moving and ending ----

@pytest.mark.parametrize("carrier", CARRIERS)
def test_stream_ids_run_out(world, svc, carrier):
    """A fresh session takes over every 50 streams; with traffic all the time no stream is lost."""
    relay = world.relay(limits={"streams_per_session": 50},
                        timeouts={"pickup": "20s", "drain": "1s"})
    world.agent(relay, {"kbs": svc.address}, transport=carrier, timeouts={"drain": "1s"})
    # one that outlives many sessions, and the time that those in a hurry have
    long = Doors(relay, None).connect_plain("kbs.acme")
    long.send(b"a")
    assert long.read_exactly(1) == b"a"
    threads, each = 6, 60

    def work():
        for _ in range(each):
            ask(relay, payload=data(3000))
    for t in [Task(work) for _ in range(threads)]:
        t.result(120)
    assert relay.metric("refused_total") == 0
    assert relay.metric("streams_total") == threads * each + 1
    end = time.monotonic() + 3
    while time.monotonic() < end:  # the pace is the test
        long.send(b"still")
        assert long.read_exactly(5) == b"still"
        time.sleep(0.1)
    roundtrip(long, data(100_000))
    long.close()
    relay.wait_quiet()
    # those retired are gone, the last one is there
    relay.wait_tunnels(1)
    assert relay.metric("tunnels_total") >= threads * each // 50


@pytest.mark.parametrize("carrier", CARRIERS)
def test_agent_leaves_in_order(world, carrier):
    """SIGTERM of the agent: no new streams, live ones finish, then it ends with 0."""
    svc = world.add(Service())
    relay = world.relay(timeouts={"pickup": "20s"})
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier, timeouts={"drain": "25s"})
    doors = Doors(relay, None)
    client = doors.connect_plain("kbs.acme")
    client.send(b"hello")
    service = svc.accept()
    assert service.read_exactly(5) == b"hello"
    agent.signal(signal.SIGTERM)
    # a client from now on goes to another agent; this one still has its stream
    other = world.add(Service(handler=echo))
    relay.wait_metric("services", lambda v: v == 0)  # the relay heard that the agent leaves
    assert relay.metric("live_tunnels") == 1
    waiting = Task(ask, relay)
    world.agent(relay, {"kbs": other.address}, transport=carrier, wait=False)
    waiting.result()
    assert agent.running()
    payload = data(5 * MB)
    with client, service:
        writer = Task(lambda: (service.send(payload), service.eof()))
        assert digest(client.read_all()) == digest(payload)
        writer.result()
        client.send(b"bye")
        client.eof()
        assert service.read_all() == b"bye"
    assert agent.wait() == 0
    relay.wait_tunnels(1)


def test_drain_is_bounded(world):
    """A stream that never ends does not keep either program: the drain time-out cuts it."""
    svc = world.add(Service())
    relay = world.relay(timeouts={"drain": "2s"})
    agent = world.agent(relay, {"kbs": svc.address}, timeouts={"drain": "2s"})
    doors = Doors(relay, None)
    for program in (agent, relay):
        if program is relay:
            world.agent(relay, {"kbs": svc.address}, name="second")
        client = doors.connect_plain("kbs.acme")
        client.send(b"hello")
        service = svc.accept()
        assert service.read_exactly(5) == b"hello"
        begin = time.monotonic()
        program.signal(signal.SIGTERM)
        assert program.wait(15) == 0
        assert 1.5 < time.monotonic() - begin < 10
        with pytest.raises(Aborted):
            client.recv()
            raise AssertionError("EOF instead of a reset")
        client.close(), service.close()


def test_agent_says_it_leaves_and_stays(world):
    """Its streams have timeouts.drain; then the relay ends it, and they are cut."""
    relay = world.relay(timeouts={"drain": "1s"})
    agent = raw(relay, world).accepted()
    client = dial(relay.listeners["front"])
    client.send(connect_head("kbs.acme") + b"x")
    stream = agent.until(HEADERS)[2]
    agent.headers(stream, [(":status", "200")])
    assert client.read_exactly(12) == b"HTTP/1.1 200"
    agent.send(frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0)))
    with pytest.raises(Aborted):
        client.read_all()
    assert agent.drained()
    relay.wait_metric("session_ended_total", lambda n: n == 1, reason="going-away")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_relay_leaves_in_order(world, carrier):
    """SIGTERM of the relay: live streams finish, then it ends with 0 at once."""
    svc = world.add(Service())
    relay = world.relay(timeouts={"drain": "20s"})
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier)
    client = Doors(relay, None).connect_plain("kbs.acme")
    client.send(b"hello")
    service = svc.accept()
    assert service.read_exactly(5) == b"hello"
    bystander = raw(relay, world)
    assert bystander.answer()[0] == "accepted"
    mark = agent.log_size()
    relay.signal(signal.SIGTERM)
    payload = data(MB)
    with client, service:
        wait_for(lambda: not listens(relay.port()), "no new clients")
        client.send(payload)
        client.eof()
        assert digest(service.read_all()) == digest(payload)
        service.send(payload)
        service.eof()
        assert digest(client.read_all()) == digest(payload)
    begin = time.monotonic()
    assert bystander.drained(8) and bystander.goaway[1] == 0  # a goodbye, for no error
    bystander.close()
    assert relay.wait() == 0
    assert time.monotonic() - begin < 8
    assert agent.running()
    agent.wait_log("going-away", start=mark)
    assert "tunnel-lost" not in agent.log(mark), agent.tail()


@pytest.mark.parametrize("end,code", [("stop", 0), ("kill", 1)])
def test_once_when_the_relay_ends(world, svc, end, code):
    """--once: 0 when the relay said goodbye, 1 when the connection was lost."""
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, extra=["--once"], expect=(code,))
    ask(relay)
    getattr(relay, end)()
    assert agent.wait() == code


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
        return True
    except OSError:
        return False


def test_second_signal_ends_at_once(world):
    svc = world.add(Service())
    relay = world.relay(timeouts={"drain": "60s"})
    world.agent(relay, {"kbs": svc.address})
    client = Doors(relay, None).connect_plain("kbs.acme")
    client.send(b"hello")
    service = svc.accept()
    relay.signal(signal.SIGTERM)
    wait_for(lambda: not listens(relay.port()), "no new clients")
    assert relay.running()
    relay.cut()
    relay.finish()
    client.close(), service.close()


# ---- services ----

@pytest.mark.parametrize("carrier", CARRIERS)
def test_server_speaks_first(world, carrier):
    """dial: eager, for a service that says its banner before the client says anything."""
    banner = b"220 mail.acme.example ready\r\n"
    svc = world.add(Service(handler=lambda c: (c.send(banner), echo(c))))
    relay = world.relay(listeners=[{"name": "static", "service": "mail.acme"}])
    world.agent(relay, [{"name": "mail", "target": svc.address, "dial": "eager"}],
                transport=carrier)
    for client in (dial(relay.listeners["static"]), Doors(relay, None).connect_plain("mail.acme")):
        with client:
            assert client.read_exactly(len(banner)) == banner
            roundtrip(client, data(50_000))


def test_several_services(world):
    """Each name reaches its own service, through one tunnel."""
    names = [f"s{i}" for i in range(20)]
    services = {n: world.add(Service(handler=lambda c, n=n: (c.recv(), c.send(n.encode()), c.eof())))
                for n in names}
    relay = world.relay()
    world.agent(relay, {n: s.address for n, s in services.items()})
    for n in names:
        with Doors(relay, None).connect_plain(f"{n.upper()}.acme") as c:
            c.send(b"who?")
            assert c.read_all() == n.encode()
    assert relay.metric("live_tunnels") == 1


def test_a_dead_service_does_not_hurt_the_others(world, svc):
    """Streams to a service that is not there are reset, one by one; the tunnel lives on."""
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address, "gone": f"tcp:127.0.0.1:{free_port()}"})
    for _ in range(100):
        with Doors(relay, None).connect_plain("gone.acme") as c:
            c.send(b"x")
            with pytest.raises(Aborted):
                c.recv()
                raise AssertionError("EOF instead of a reset")
    ask(relay)
    assert relay.metric("live_tunnels") == 1 and relay.metric("tunnels_total") == 1
    # said, but not a hundred times
    assert 1 <= agent.count("(?i)refused") <= 40


def test_one_stalled_stream_beside_others(world, certificates):
    """Streams of the same tunnel run at speed beside one whose reader has stopped."""
    svc = world.add(Service())
    fast = world.add(Service(handler=echo))
    relay = world.relay()
    world.agent(relay, {"stall": svc.address, "kbs": fast.address})
    doors = Doors(relay, certificates)
    client = doors.connect_plain("stall.acme")
    client.send(b"x")
    service = svc.accept()
    stop = threading.Event()

    def pour():
        try:
            while not stop.is_set():
                service.send(b"z" * 65536)
        except (Aborted, OSError):
            pass
    pouring = Task(pour)
    for _ in range(10):
        ask(relay, payload=data(2 * MB))
    stop.set()
    client.abort(), service.abort()
    pouring.result()


def test_streams_per_tunnel(world):
    """limits.streams_per_tunnel: one more is refused with 503, and taken again after one ended."""
    svc = world.add(Service(handler=echo))
    relay = world.relay(limits={"streams_per_tunnel": 3})
    world.agent(relay, {"kbs": svc.address})
    doors = Doors(relay, None)
    held = []
    for _ in range(3):
        c = doors.connect_plain("kbs.acme")
        c.send(b"x")
        assert c.read_exactly(1) == b"x"
        held.append(c)
    with pytest.raises(Refused) as e:
        doors.connect_plain("kbs.acme")
    assert e.value.status == 503
    held.pop().close()
    relay.wait_metric("live_splices", lambda v: v == 2)
    ask(relay)
    for c in held:
        c.close()


def test_tls_end_to_end_stays_end_to_end(world, certificates):
    """By SNI through the tunnel the client sees the service's own certificate."""
    svc = world.add(Service(handler=tls_service(certificates.server(), echo)))
    relay = world.relay()
    world.agent(relay, {"web": svc.address})
    with Doors(relay, certificates).sni("web.acme") as c:
        names = [v for _, v in c.tls.getpeercert()["subjectAltName"]]
        assert f"*.acme.{DOMAIN}" in names
        roundtrip(c, data(MB))
