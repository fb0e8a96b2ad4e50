# One-time enrolment: a code on one side, a certificate on the other; and what must not get one.
import base64
import fcntl
import glob
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import termios
import time

import pytest

from admin import Admin
from harness import (DEADLINE, DOMAIN, Agent, Program, Task, binary, data, free_port, need,
                     wait_for)
from streams import Aborted, Doors, Service, echo, roundtrip

CODE = re.compile(r"^    ([0-9A-Z]{4}(?:-[0-9A-Z]{4}){6})$", re.M)
SAME_WORDS = "this code is not good: unknown, used before, or too old; ask for a new one"
PEM = "application/pkcs10"


class Enrolment:
    """A relay that enrols, and the commands of both sides."""

    def __init__(self, world, **config):
        self.world = world
        self.folder = world.path("enrolment")
        self.ca = world.path("owners-ca.pem")
        enrolment = {"ca": self.ca, "key": world.path("owners-ca.key"), "folder": self.folder,
                     **config.pop("enrolment", {})}
        owners = config.pop("owners", None) or [world.owner("acme"), world.owner("other")]
        # the init command needs the config before the relay is there
        self.path = world.path("init.yaml")
        with open(self.path, "w") as f:
            json.dump({"domain": DOMAIN, "tls": {"certificate": world.certificates.relay[0],
                                                 "key": world.certificates.relay[1]},
                       "listeners": [{"name": "front", "address": "tcp:127.0.0.1:1",
                                      "doors": ["tunnel"]}],
                       "owners": owners, "enrolment": enrolment}, f)
        self.made = self.operator("init")
        # some tests fail on purpose, more often than a stranger may
        config.setdefault("penalties", {"exempt": ["127.0.0.0/8"]})
        self.relay = world.relay(owners=owners, enrolment=enrolment, **config)
        self.path = self.relay.path

    def operator(self, *args, status=0):
        verb = [a for a in args if a in ("init", "list", "revoke")][:1]
        rest = [a for a in args if a not in verb]
        p = subprocess.run([binary("ATTEST_RELAY"), "enroll", *verb, "--config", self.path, *rest],
                           capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert p.returncode == status, p
        assert "runtime error" not in p.stderr and "Sanitizer" not in p.stderr, p.stderr
        return p.stdout if status == 0 else p.stderr

    def code(self, owner="acme", *args):
        return CODE.search(self.operator(owner, *args))[1]

    def records(self):
        found = []
        for path in glob.glob(os.path.join(self.folder, "issued", "*")):
            with open(path) as f:
                found.append(json.load(f))
            assert os.stat(path).st_mode & 0o77 == 0
        return found

    def owner(self, code, *args, folder="own", status=0, env=None, address=None):
        """attest-tunnel enroll, with the code on standard input."""
        argv = [binary("ATTEST_TUNNEL"), "enroll", "--relay",
                address or f"tcp:127.0.0.1:{self.relay.port()}", "--server-name", DOMAIN,
                "--ca-file", self.world.certificates.ca, "--folder", self.world.path(folder), *args]
        p = subprocess.run(argv, input=code + "\n", capture_output=True, text=True,
                           timeout=DEADLINE, check=False, env={**os.environ, **(env or {})})
        assert p.returncode == status, p
        assert "runtime error" not in p.stderr and "Sanitizer" not in p.stderr, p.stderr
        assert not code or code not in p.stdout + p.stderr
        return p.stdout if status == 0 else p.stderr

    def pair(self, folder="own"):
        return (self.world.path(f"{folder}/certificate.pem"), self.world.path(f"{folder}/key.pem"))

    def connect(self):
        raw = socket.create_connection(("127.0.0.1", self.relay.port()), DEADLINE)
        return self.world.certificates.client(["http/1.1"]).wrap_socket(raw, server_hostname=DOMAIN)

    def ask(self, head, body=b""):
        """One request by hand: status and body."""
        with self.connect() as c:
            c.sendall(head.encode() + b"\r\n\r\n" + body)
            return answer(c)

    def post(self, code, body, length=None, kind=PEM, more=()):
        lines = ["POST /enroll HTTP/1.1", f"Host: {DOMAIN}",
                 f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"Content-Type: {kind}"] if kind else []
        lines += [f"Authorization: Bearer {code}"] if code else []
        return self.ask("\r\n".join([*lines, *more]), body)


def answer(c):
    got = b""
    while True:
        try:
            part = c.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            break
        if not part:
            break
        got += part
    if not got:
        return None, ""
    head, _, body = got.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def openssl(*args, status=0, cwd=None):
    p = subprocess.run(["openssl", *args], capture_output=True, text=True, timeout=DEADLINE,
                       check=False, cwd=cwd)
    assert (p.returncode == 0) == (status == 0), p
    return p.stdout + p.stderr


def request(world, name="request", subject="/CN=mallory", extensions=()):
    """A certificate request by openssl, in PEM."""
    args = []
    for e in extensions:
        args += ["-addext", e]
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", subject, *args,
            cwd=world.folder)
    with open(world.path(f"{name}.pem"), "rb") as f:
        return f.read()


@pytest.fixture
def enrolment(world):
    return Enrolment(world)


def shown(path):
    return openssl("x509", "-in", path, "-noout", "-text", "-nameopt", "RFC2253")


def is_owners(enrolment, path, owner="acme"):
    """The certificate says this owner and nothing else, and the CA of owners has signed it."""
    openssl("verify", "-CAfile", enrolment.ca, "-purpose", "sslclient", "-x509_strict", path)
    openssl("verify", "-CAfile", enrolment.ca, "-purpose", "sslserver", path, status=1)
    text = shown(path)
    assert re.search(rf"Subject: CN ?= ?{owner}\n", text), text
    assert re.findall(r"Subject Alternative Name:\s*\n\s*(.*)\n", text) == [
        f"URI:urn:attest-relay:owner:{owner}"]
    assert "CA:FALSE" in text and "mallory" not in text and "DNS:" not in text
    assert re.findall(r"Extended Key Usage:\s*\n\s*(.*)\n", text) == [
        "TLS Web Client Authentication"]
    serial = re.search(r"Serial Number:\s*([0-9a-f:]+)", text)[1].replace(":", "").zfill(32)
    assert serial in [r["serial"] for r in enrolment.records()]
    return serial


# ---- the whole way ----

def test_one_command_on_each_side(world, enrolment):
    code = enrolment.code("acme", "--label", "B\u00fcro, \"2nd\" floor")
    out = enrolment.owner(code)
    certificate, key = enrolment.pair()
    assert os.stat(key).st_mode & 0o7777 == 0o600
    assert sorted(os.listdir(os.path.dirname(key))) == ["certificate.pem", "key.pem"]
    serial = is_owners(enrolment, certificate)
    assert "for the owner acme" in out and f"--certificate {certificate} --key {key}" in out
    record, = enrolment.records()
    assert record["owner"] == "acme" and record["label"] == "B\u00fcro, \"2nd\" floor"
    assert record["client"].startswith("tcp:127.0.0.1:")
    enrolment.relay.wait_log(rf"enrolled as acme \(B\u00fcro, .*certificate {serial} until")
    assert enrolment.relay.metric("enrolments_total") == 1
    listed = enrolment.operator("list")
    assert re.search(rf"^{serial}  good .* acme  B\u00fcro", listed, re.M)
    assert "pending" not in listed
    # not in what the relay says or keeps
    assert code not in enrolment.relay.log() and code.replace("-", "") not in enrolment.relay.log()
    for where, _, names in os.walk(enrolment.folder):
        for name in names:
            with open(os.path.join(where, name), "rb") as f:
                assert code.replace("-", "").encode() not in f.read()
    enrolment.relay.wait_quiet()


def test_then_it_moves_data(world, enrolment):
    """No token: the certificate says whose agent it is, until it is taken back."""
    service = world.add(Service(handler=echo))
    enrolment.owner(enrolment.code())
    certificate, key = enrolment.pair()
    agent = Agent(world, "enrolled", [
        "--relay", f"tcp:127.0.0.1:{enrolment.relay.port()}", "--server-name", DOMAIN,
        "--ca-file", world.certificates.ca, "--certificate", certificate, "--key", key,
        "--service", f"kbs={service.address}"])
    enrolment.relay.wait_tunnels(1)
    with Doors(enrolment.relay, None).connect_plain("kbs.acme") as c:
        roundtrip(c, data(300_000))
    assert "1 certificates revoked" in enrolment.operator("revoke", "--owner", "acme")
    enrolment.relay.wait_tunnels(0)  # it has seen that there is another list
    agent.wait_log("revoked|refused|bad-credential|forbidden|certificate")
    assert enrolment.relay.metric("live_tunnels") == 0


def test_init_makes_a_ca_once(world, enrolment):
    assert os.stat(world.path("owners-ca.key")).st_mode & 0o7777 == 0o600
    text = shown(enrolment.ca)
    assert "CA:TRUE, pathlen:0" in text and "Certificate Sign, CRL Sign" in text
    before = open(enrolment.ca).read()
    assert "there already" in enrolment.operator("init", status=1)
    os.unlink(world.path("owners-ca.key"))
    assert "there already" in enrolment.operator("init", status=1)
    assert open(enrolment.ca).read() == before
    assert not os.path.exists(world.path("owners-ca.key"))


def test_without_a_ca_the_relay_does_not_start(world, enrolment):
    enrolment.relay.stop()
    os.unlink(enrolment.ca)
    p = subprocess.run([binary("ATTEST_RELAY"), "--config", enrolment.path], capture_output=True,
                       text=True, timeout=DEADLINE, check=False)
    assert p.returncode == 1 and "attest-relay enroll init makes a CA" in p.stderr
    assert "enroll init" in enrolment.operator("acme", status=1)


def test_typed_at_a_terminal(world, enrolment):
    """As people type, after a mistake; nothing of it is shown, and the echo is back at the end."""
    code = enrolment.code()
    main, side = pty.openpty()
    shown_text = b""
    p = subprocess.Popen([binary("ATTEST_TUNNEL"), "enroll", "--relay",
                          f"tcp:127.0.0.1:{enrolment.relay.port()}", "--server-name", DOMAIN,
                          "--ca-file", world.certificates.ca, "--folder", world.path("own")],
                         stdin=side, stdout=side, stderr=side, start_new_session=True)

    def wait(pattern):
        nonlocal shown_text
        end = time.monotonic() + DEADLINE
        while not re.search(pattern, shown_text):
            assert time.monotonic() < end, shown_text
            if select.select([main], [], [], 0.1)[0]:
                shown_text += os.read(main, 4096)
    try:
        wait(rb"code: ")
        os.write(main, code[:-1].encode() + b"\n")
        wait(rb"mistyped(.|\n)*code: ")
        typed = code.lower().replace("0", "o").replace("1", "l").replace("-", " ")
        os.write(main, typed.encode() + b"\n")
        wait(rb"this works now")
        assert p.wait(DEADLINE) == 0
    finally:
        p.kill()
        p.wait()
        os.close(main)
        os.close(side)
    assert typed.encode() not in shown_text and code[:-1].encode() not in shown_text
    is_owners(enrolment, enrolment.pair()[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_prompt(world, enrolment, number):
    main, side = pty.openpty()
    p = subprocess.Popen([binary("ATTEST_TUNNEL"), "enroll", "--relay", "tcp:127.0.0.1:1",
                          "--server-name", DOMAIN, "--folder", world.path("own"), "--ca-file",
                          world.certificates.ca], stdin=side, stdout=side, stderr=side)

    def echoes():
        return bool(termios.tcgetattr(side)[3] & termios.ECHO)
    wait_for(lambda: not echoes(), lambda: "the echo to be off")
    p.send_signal(number)
    assert p.wait(DEADLINE) == -number
    assert echoes()
    os.close(main)
    os.close(side)


def test_through_a_proxy(world, enrolment):
    need("tinyproxy")
    port, user = free_port(), "tinyproxy.conf"
    with open(world.path(user), "w") as f:
        f.write(f"Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\n"
                f"LogFile \"{world.path('tinyproxy.log')}\"\nLogLevel Connect\n")
    os.chmod(world.folder, 0o755)
    proxy = Program(world, "tinyproxy", ["tinyproxy", "-d", "-c", world.path(user)],
                    expect=(0, -signal.SIGTERM))

    def listens():
        assert proxy.running(), proxy.tail()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False
    wait_for(listens, lambda: proxy.tail())
    out = enrolment.owner(enrolment.code(), "--proxy", f"http://127.0.0.1:{port}")
    assert f"--proxy http://127.0.0.1:{port}" in out
    is_owners(enrolment, enrolment.pair()[0])
    env = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": ""}
    enrolment.owner(enrolment.code(), folder="second", env=env)
    with open(world.path("tinyproxy.log")) as f:
        assert len(re.findall(rf"CONNECT 127.0.0.1:{enrolment.relay.port()}", f.read())) >= 2
    # one that is not there is not gone around
    words = enrolment.owner(enrolment.code(), "--proxy", "http://127.0.0.1:1", folder="third",
                            status=1)
    assert "proxy" in words


def test_the_next_relay(world, enrolment):
    first = free_port()
    argv = ["--relay", f"tcp:127.0.0.1:{enrolment.relay.port()}"]
    out = enrolment.owner(enrolment.code(), *argv, address=f"tcp:127.0.0.1:{first}")
    assert f"--relay tcp:127.0.0.1:{enrolment.relay.port()}" in out


def test_curl_can_do_it(world, enrolment):
    need("curl")
    code = enrolment.code()
    request(world)
    with open(world.path("authorization"), "w") as f:
        f.write(f"Authorization: Bearer {code}\n")
    curl = ["curl", "-sS", "--http1.1", "--cacert", world.certificates.ca, "--resolve",
            f"{DOMAIN}:{enrolment.relay.port()}:127.0.0.1", "-H", f"Content-Type: {PEM}", "-H",
            f"@{world.path('authorization')}", "-H", "Expect: 100-continue", "--data-binary",
            f"@{world.path('request.pem')}", f"https://{DOMAIN}:{enrolment.relay.port()}/enroll"]
    p = subprocess.run([*curl, "-f", "-o", world.path("got.pem")], timeout=DEADLINE, check=False)
    assert p.returncode == 0
    is_owners(enrolment, world.path("got.pem"))
    again = subprocess.run(curl, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert again.stdout == f"attest-relay: {SAME_WORDS}\n"


# ---- codes that are not good ----

def test_refusals_look_the_same(world, enrolment):
    """Unknown, used, expired, of an owner who is gone: nobody can tell which."""
    used, csr = enrolment.code(), request(world)
    assert enrolment.post(used, csr)[0] == 200
    expired = enrolment.code()
    for path in glob.glob(os.path.join(enrolment.folder, "codes", "*")):
        with open(path) as f:
            lines = f.read().split("\n", 1)
        with open(path, "w") as f:
            f.write(f"{int(time.time()) - 1}\n{lines[1]}")
    gone = enrolment.code("other")
    for path in glob.glob(os.path.join(enrolment.folder, "codes", "*")):
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(text.replace("\nother\n", "\nnobody\n"))
    mistyped, never = "0000-" * 6 + "0000", some_code()
    unknown = enrolment.code()
    enrolment.operator("revoke", "--owner", "acme")
    for code in (used, expired, gone, mistyped, never, unknown, "x", "a" * 4000):
        assert enrolment.post(code, csr) == (403, f"attest-relay: {SAME_WORDS}\n"), code
    assert len(enrolment.records()) == 1
    assert enrolment.relay.metric("enrolments_refused_total") == 8
    assert enrolment.relay.metric("refused_total", reason="bad-credential") == 8


def test_the_owners_side_is_told(world, enrolment):
    code = enrolment.code()
    enrolment.owner(code)
    assert "is there already" in enrolment.owner(enrolment.code(), status=1)
    before = open(enrolment.pair()[1]).read()
    assert SAME_WORDS in enrolment.owner(code, "--force", status=3)
    assert open(enrolment.pair()[1]).read() == before  # a failure changes nothing
    assert sorted(os.listdir(world.path("own"))) == ["certificate.pem", "key.pem"]
    fresh = enrolment.code()
    assert "the relay was not asked" in enrolment.owner(fresh[:-1], "--force", status=1)
    refused = enrolment.relay.metric("enrolments_refused_total")
    enrolment.owner(fresh, "--force")
    assert enrolment.relay.metric("enrolments_refused_total") == refused
    assert open(enrolment.pair()[1]).read() != before
    is_owners(enrolment, enrolment.pair()[0])


def test_code_file_and_no_code_in_arguments(world, enrolment):
    code = enrolment.code()
    with open(world.path("code"), "w") as f:
        f.write(f"\n{code}\n")
    words = enrolment.owner("", code, status=2)
    assert "never" in words and code not in words
    enrolment.owner("", "--code-file", world.path("code"))
    is_owners(enrolment, enrolment.pair()[0])
    assert "No such file" in enrolment.owner("", "--code-file", world.path("absent"),
                                             folder="b", status=1)
    assert os.listdir(world.path("b")) == []


def test_the_relay_is_verified_before_it_hears_the_code(world, enrolment):
    code = enrolment.code()
    for more in (["--server-name", "elsewhere.test"], ["--ca-file", world.certificates.other_ca]):
        enrolment.owner(code, *more, status=1)
    assert enrolment.relay.metric("enrolments_refused_total") == 0
    enrolment.owner(code)


def some_code():
    """Well formed, and nobody's."""
    digits, text = "0123456789ABCDEFGHJKMNPQRSTVWXYZ", "8" + "0" * 25
    check = hashlib.sha256(text.encode()).digest()
    return text + digits[check[0] & 31] + digits[check[1] & 31]


def test_no_enrolment_here(world):
    some = some_code()
    relay = world.relay()
    e = Enrolment.__new__(Enrolment)
    e.world, e.relay, e.path = world, relay, relay.path
    assert "does no enrolment" in e.owner(some, status=3)
    assert "has no enrolment" in e.operator("acme", status=1)
    assert e.post(some, b"x")[0] == 404


def test_only_at_the_tunnel_door(world):
    e = Enrolment(world, listeners=[{"name": "clients", "doors": ["connect"]}])
    code, csr = e.code(), request(world)
    head = (f"POST /enroll HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Type: {PEM}\r\n"
            f"Content-Length: {len(csr)}\r\nAuthorization: Bearer {code}\r\n\r\n").encode()
    port = int(e.relay.listeners["clients"].rsplit(":", 1)[1])
    for secure in (False, True):
        c = socket.create_connection(("127.0.0.1", port), DEADLINE)
        if secure:
            c = world.certificates.client(["http/1.1"]).wrap_socket(c, server_hostname=DOMAIN)
        with c:
            c.sendall(head + csr)
            assert answer(c)[0] == 400
    c = socket.create_connection(("127.0.0.1", e.relay.port()), DEADLINE)
    with c:  # in plain, at the right listener
        c.sendall(head + csr)
        assert answer(c)[0] == 400
    assert e.records() == []
    assert e.post(code, csr)[0] == 200


# ---- once ----

def test_many_at_once_with_one_code(world, enrolment):
    code, csr = enrolment.code(), request(world)
    tasks = [Task(enrolment.post, code, csr) for _ in range(24)]
    statuses = sorted(t.result()[0] for t in tasks)
    assert statuses.count(200) == 1 and set(statuses) <= {200, 403}, statuses
    assert len(enrolment.records()) == 1


def test_two_relays_one_folder(world, enrolment):
    second = world.relay("second", owners=enrolment.relay.config["owners"],
                         enrolment=enrolment.relay.config["enrolment"],
                         penalties=enrolment.relay.config["penalties"])
    other = Enrolment.__new__(Enrolment)
    other.world, other.relay, other.path = world, second, second.path
    csr = request(world)
    for _ in range(5):
        code = enrolment.code()
        tasks = [Task(e.post, code, csr) for e in (enrolment, other) * 4]
        assert sorted(t.result()[0] for t in tasks).count(200) == 1


def test_killed_with_a_claimed_code(world, enrolment):
    """kill -9 at any moment: either the code is still good, or it is gone; never two for one."""
    for delay in (0, 0.001, 0.003, 0.01):
        code, csr = enrolment.code(), request(world)
        before = len(enrolment.records())
        with enrolment.connect() as c:
            c.sendall((f"POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Type: {PEM}\r\n"
                       f"Content-Length: {len(csr)}\r\nAuthorization: Bearer {code}\r\n\r\n")
                      .encode() + csr)
            time.sleep(delay)
            enrolment.relay.kill()
        enrolment.relay = world.restart(enrolment.relay)
        first = len(enrolment.records()) - before
        status, _ = enrolment.post(code, csr)
        assert len(enrolment.records()) - before <= 1
        assert status == 403 if first else status in (200, 403)


# ---- requests that are not good ----

def test_a_request_that_wants_more(world, enrolment):
    csr = request(world, extensions=[
        f"subjectAltName=DNS:{DOMAIN},URI:urn:attest-relay:owner:other,email:mallory@x.test",
        "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign,cRLSign",
        "extendedKeyUsage=serverAuth,anyExtendedKeyUsage"])
    status, pem = enrolment.post(enrolment.code(), csr)
    assert status == 200
    with open(world.path("got.pem"), "w") as f:
        f.write(pem)
    is_owners(enrolment, world.path("got.pem"))


def pem_of(der):
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n".encode()


def nested(size):
    der = b""
    while len(der) < size:
        der = b"\x30" + (bytes([len(der)]) if len(der) < 128 else
                         b"\x82" + len(der).to_bytes(2, "big")) + der
    return der


def test_bad_requests_use_the_code_up(world, enrolment):
    csr = request(world)
    openssl("genrsa", "-out", "weak.key", "1024", cwd=world.folder)
    openssl("req", "-new", "-key", "weak.key", "-out", "weak.pem", "-subj", "/CN=x",
            cwd=world.folder)
    spoilt = bytearray(base64.b64decode(b"".join(csr.split(b"\n")[1:-2])))
    spoilt[-1] ^= 1  # of the signature
    bad = [b"x", csr[:len(csr) // 2], pem_of(nested(11_900)), pem_of(b"\x30\x80" * 5000),
           b"A" * 16384, open(world.path("weak.pem"), "rb").read(), pem_of(bytes(spoilt)),
           csr.replace(b"REQUEST", b"REQUESX"),
           b"-----BEGIN CERTIFICATE REQUEST-----\nProc-Type: 4,ENCRYPTED\n"
           b"DEK-Info: AES-128-CBC,00000000000000000000000000000000\n\n" + csr.split(b"\n", 1)[1]]
    for body in bad:
        code = enrolment.code()
        status, words = enrolment.post(code, body)
        assert status == 400 and "used up" in words, (body[:60], status, words)
        assert enrolment.post(code, csr)[0] == 403
    assert enrolment.records() == []


def test_heads_that_will_not_do(world, enrolment):
    """Known before the code is claimed, so it stays good."""
    code, csr = enrolment.code(), request(world)
    auth = f"Authorization: Bearer {code}"
    kind = f"Content-Type: {PEM}"
    for lines, status in [
            (["GET /enroll HTTP/1.1", auth], 405),
            (["POST /enroll HTTP/1.1", kind], 401),
            (["POST /enroll HTTP/1.1", kind, f"Authorization: Basic {code}"], 401),
            (["POST /enroll HTTP/1.1", kind, auth, auth], 401),
            (["POST /enroll HTTP/1.1", auth, "Content-Length: 5"], 415),
            (["POST /enroll HTTP/1.1", auth, "Content-Type: text/plain", "Content-Length: 5"], 415),
            (["POST /enroll HTTP/1.1", auth, kind], 411),
            (["POST /enroll HTTP/1.1", auth, kind, "Content-Length: 0"], 411),
            (["POST /enroll HTTP/1.1", auth, kind, "Content-Length: -1"], 411),
            (["POST /enroll HTTP/1.1", auth, kind, "Content-Length: 5", "Content-Length: 5"], 411),
            (["POST /enroll HTTP/1.1", auth, kind, "Transfer-Encoding: chunked"], 411),
            (["POST /enroll HTTP/1.1", auth, kind, "Content-Length: 16385"], 413),
            (["POST /enroll HTTP/1.1", auth, kind, "Content-Length: " + "9" * 100], 413),
            (["POST /enroll/ HTTP/1.1", auth, kind, "Content-Length: 5"], 400)]:
        got, words = enrolment.ask("\r\n".join([*lines, "Host: x"]))
        assert got == status, (lines, got, words)
    assert enrolment.post(code, csr)[0] == 200


def test_who_guesses_codes_is_kept_out(world):
    e = Enrolment(world, penalties={"failures": 3, "block": "60s"})
    code, csr = e.code(), request(world)
    for _ in range(3):
        assert e.post(some_code(), csr)[0] == 403
    with pytest.raises(OSError):
        e.post(code, csr)
    assert e.relay.metric("sources_blocked") == 1
    assert e.relay.metric("refused_total", reason="penalty") == 1 and e.records() == []


def test_a_stranger_is_refused_before_the_body(world, enrolment):
    """Nothing is kept for who has no code: the answer is there while the body is not."""
    with enrolment.connect() as c:
        c.sendall(f"POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Type: {PEM}\r\n"
                  "Content-Length: 16384\r\nAuthorization: Bearer x\r\n\r\n".encode())
        assert answer(c) == (403, f"attest-relay: {SAME_WORDS}\n")


def test_slow_drip(world):
    e = Enrolment(world, timeouts={"handshake": "2s"})
    code, csr = e.code(), request(world)
    with e.connect() as c:
        c.sendall(f"POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Type: {PEM}\r\n"
                  f"Content-Length: {len(csr)}\r\nAuthorization: Bearer {code}\r\n\r\n".encode())
        began = time.monotonic()
        try:
            for byte in csr:
                c.sendall(bytes([byte]))
                if select.select([c], [], [], 0.05)[0]:
                    break
        except OSError:
            pass
        assert answer(c)[0] == 408
        assert time.monotonic() - began < DEADLINE
    assert e.records() == []
    assert e.post(code, csr)[0] == 200  # it was never claimed
    e.relay.wait_quiet()


def test_too_many_at_a_time(world):
    """Those with a good code may wait, but not any number of them; the code is good after that."""
    e = Enrolment(world, workers=1, timeouts={"handshake": "20s"})
    code, csr = e.code(), request(world)
    head = (f"POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Type: {PEM}\r\n"
            f"Content-Length: {len(csr)}\r\nAuthorization: Bearer {code}\r\n"
            "Expect: 100-continue\r\n\r\n").encode()
    waiting = []
    for _ in range(64):
        waiting.append(e.connect())
        waiting[-1].sendall(head + csr[:10])
        assert b"100 Continue" in waiting[-1].recv(4096)  # it waits for the body now
    with e.connect() as c:
        c.sendall(head + csr)
        assert answer(c)[0] == 503
    waiting.pop().close()
    e.relay.wait_metric("live_intakes", lambda v: v == 63)
    waiting[0].sendall(csr[10:])
    assert answer(waiting[0])[0] == 200
    waiting[1].sendall(csr[10:])
    assert answer(waiting[1])[0] == 403
    for c in waiting:
        c.close()
    e.relay.wait_quiet()


def test_cut_in_the_middle(world, enrolment):
    code, csr = enrolment.code(), request(world)
    head = (f"POST /enroll HTTP/1.1\r\nHost: x\r\nContent-Type: {PEM}\r\n"
            f"Content-Length: {len(csr)}\r\nAuthorization: Bearer {code}\r\n\r\n").encode()
    whole = head + csr
    for at in (5, len(head) - 1, len(head), len(head) + 1, len(whole) - 1):
        with enrolment.connect() as c:
            c.sendall(whole[:at])
    enrolment.relay.wait_quiet()
    with enrolment.connect() as c:  # in small pieces it is the same request
        for i in range(0, len(whole), 97):
            c.sendall(whole[i:i + 97])
        assert answer(c)[0] == 200


def test_body_and_more_in_one_piece(world, enrolment):
    csr = request(world)
    status, _ = enrolment.post(enrolment.code(), csr + b"GET / HTTP/1.1\r\n\r\n", len(csr))
    assert status == 200
    enrolment.relay.wait_quiet()


# ---- the operator ----

def moving(world, enrolment, name, service, owner="acme", n=1):
    """The n-th agent, with a certificate of its own, and a stream through it: (serial, stream)"""
    enrolment.owner(enrolment.code(owner), folder=name)
    certificate, key = enrolment.pair(name)
    Agent(world, name, [
        "--relay", f"tcp:127.0.0.1:{enrolment.relay.port()}", "--server-name", DOMAIN,
        "--ca-file", world.certificates.ca, "--certificate", certificate, "--key", key,
        "--service", f"{name}={service.address}"])
    enrolment.relay.wait_tunnels(n)
    c = Doors(enrolment.relay, world.certificates).connect_plain(f"{name}.{owner}")
    c.send(b"x")
    assert c.read_exactly(1) == b"x"
    return is_owners(enrolment, certificate, owner), c


def test_revoke_at_the_admin_socket(world):
    """In effect at once: the tunnel ends as revoked, others go on; who asked is in the audit."""
    path, audit = world.path("admin.sock"), world.path("audit.jsonl")
    enrolment = Enrolment(world, admin=f"unix:{path}", audit={"file": audit})
    admin, service = Admin(path), world.add(Service(handler=echo))
    serial, gone = moving(world, enrolment, "one", service)
    _, stays = moving(world, enrolment, "two", service, "other", 2)
    colons = ":".join(serial[i:i + 2] for i in range(0, 32, 2)).upper()
    assert admin.post("/v1/revoke", {"serial": colons}) == {
        "revoked": [serial], "codes_removed": 0, "generation": 2}
    enrolment.relay.wait_metric("session_ended_total", lambda n: n == 1, reason="revoked")
    with pytest.raises(Aborted):
        gone.read_all()
    stays.send(b"y")
    assert stays.read_exactly(1) == b"y"
    assert f"{serial}  revoked" in enrolment.operator("list")
    # all of an owner, and the code that waits
    csr = request(world)
    assert enrolment.post(enrolment.code("other"), csr)[0] == 200
    enrolment.code("other")
    answer = admin.post("/v1/revoke", {"owner": "other"})
    assert set(answer["revoked"]) == {r["serial"] for r in enrolment.records()
                                      if r["owner"] == "other"} and len(answer["revoked"]) == 2
    assert answer["codes_removed"] == 1 and answer["generation"] == 3
    enrolment.relay.wait_metric("session_ended_total", lambda n: n == 2, reason="revoked")
    with pytest.raises(Aborted):
        stays.read_all()
    assert "pending" not in enrolment.operator("list")

    def asked():
        with open(audit) as f:
            return [r["detail"] for r in map(json.loads, f) if r["event"] == "admin"]
    wait_for(lambda: asked() == [f"POST /v1/revoke serial {colons}", "POST /v1/revoke owner other"],
             "two audit records")


def test_revoke_what_cannot_be(world):
    path = world.path("admin.sock")
    enrolment = Enrolment(world, admin=f"unix:{path}", owners=[world.owner("acme"), world.owner("other")])
    admin, crl = Admin(path), os.path.join(enrolment.folder, "crl.pem")
    for body in (None, {}, {"serial": 1}, {"serial": "xyz"}, {"owner": ["acme"]},
                 {"serial": "1", "owner": "acme"}):
        assert admin.post("/v1/revoke", body, status=400)["error"]["code"] == "bad-parameter"
    for body in ({"serial": "ab" * 16}, {"owner": "nobody"}):
        assert admin.post("/v1/revoke", body, status=404)["error"]["code"] == "not-found"
    # an owner who has nothing
    assert admin.post("/v1/revoke", {"owner": "other"})["revoked"] == []
    assert not os.path.exists(crl)
    # another has the folder: nobody is kept waiting
    lock = os.open(enrolment.folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert admin.post("/v1/revoke", {"owner": "acme"}, status=503)["error"]["code"] == "busy"
    os.close(lock)
    # a record that is spoilt keeps none of the others
    for _ in range(2):
        assert enrolment.post(enrolment.code(), request(world))[0] == 200
    good, spoilt = sorted(r["serial"] for r in enrolment.records())
    with open(os.path.join(enrolment.folder, "issued", f"{spoilt}.json"), "w"):
        pass
    answer = admin.post("/v1/revoke", {"owner": "acme"})
    assert answer["revoked"] == [good] and answer["unreadable"] == 1
    enrolment.relay.wait_log(f"{spoilt}.json is no record of a certificate")
    # the CA is gone: nothing is written
    before = os.stat(crl).st_mtime_ns
    os.rename(enrolment.ca, enrolment.ca + ".lost")
    error = admin.post("/v1/revoke", {"serial": good}, status=500)["error"]
    assert error["code"] == "revoke" and enrolment.ca in error["message"]
    assert os.stat(crl).st_mtime_ns == before


def test_attestctl_revokes(world):
    """Serials one by one, each that can be; or all of an owner. What was taken back is printed."""
    path = world.path("admin.sock")
    enrolment = Enrolment(world, admin=f"unix:{path}")
    for _ in range(3):
        assert enrolment.post(enrolment.code(), request(world))[0] == 200
    serials = sorted(r["serial"] for r in enrolment.records())

    def ctl(*args, status=0):
        p = subprocess.run([binary("ATTESTCTL"), "--socket", path, *args], capture_output=True, text=True,
                           timeout=DEADLINE, check=False)
        assert p.returncode == status, p
        assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
        return p
    p = ctl("revoke", serials[0], "ab" * 16, serials[1], status=1)
    assert p.stdout.split() == serials[:2] and "no record of a certificate abab" in p.stderr
    assert enrolment.operator("list").count("revoked") == 2
    assert sorted(json.loads(ctl("--json", "revoke", "--owner", "acme").stdout)["revoked"]) == serials
    assert "no such owner: nobody" in ctl("revoke", "--owner", "nobody", status=1).stderr
    for args in ([], [serials[0], "--owner", "acme"]):
        assert "either" in ctl("revoke", *args, status=2).stderr
    assert enrolment.operator("list").count("revoked") == 3


def test_revoke_without_an_enrolment(world):
    path = world.path("admin.sock")
    world.relay(admin=f"unix:{path}")
    error = Admin(path).post("/v1/revoke", {"owner": "acme"}, status=409)["error"]
    assert error["code"] == "no-enrolment" and "no enrolment" in error["message"]


def test_revoke_by_serial_and_list(world, enrolment):
    csr = request(world)
    for _ in range(3):
        assert enrolment.post(enrolment.code(), csr)[0] == 200
    assert enrolment.post(enrolment.code("other"), csr)[0] == 200
    serials = [r["serial"] for r in enrolment.records() if r["owner"] == "acme"]
    crl = os.path.join(enrolment.folder, "crl.pem")
    assert not os.path.exists(crl)
    colons = ":".join(serials[0][i:i + 2] for i in range(0, 32, 2)).upper()
    assert "1 certificates revoked" in enrolment.operator("revoke", colons)
    listed = enrolment.operator("list")
    assert re.search(rf"^{serials[0]}  revoked", listed, re.M)
    assert len(re.findall(r"  good  ", listed)) == 3
    enrolment.code()
    assert "3 certificates revoked, 1 pending" in enrolment.operator("revoke", "--owner", "acme")
    listed = enrolment.operator("list", "--owner", "acme")
    assert listed.count("revoked") == 3 and "other" not in listed and "pending" not in listed
    text = openssl("crl", "-in", crl, "-noout", "-text", "-CAfile", enrolment.ca)
    assert "verify OK" in text and text.count("Serial Number") == 3
    assert "is no serial" in enrolment.operator("revoke", "xyz", status=1)
    assert re.search("either", enrolment.operator("revoke", status=2))


def test_a_list_that_is_gone(world, enrolment):
    """What was revoked does not become good again because its list was lost."""
    assert enrolment.post(enrolment.code(), request(world))[0] == 200
    enrolment.operator("revoke", enrolment.records()[0]["serial"])
    enrolment.relay.reload()
    crl = os.path.join(enrolment.folder, "crl.pem")
    os.rename(crl, crl + ".lost")
    said = enrolment.relay.reload(good=False)
    assert re.search(r"reload: enrolment: the revocation list .*crl\.pem is gone", said)
    os.rename(crl + ".lost", crl)
    enrolment.relay.reload()


@pytest.mark.parametrize("marked", [True, False], ids=["", "unmarked"])
def test_no_start_without_the_list(world, enrolment, marked):
    """Nor does a relay that starts take it that nothing was revoked; unmarked: as older ones did."""
    assert enrolment.post(enrolment.code(), request(world))[0] == 200
    serial = enrolment.records()[0]["serial"]
    enrolment.operator("revoke", serial)
    crl = os.path.join(enrolment.folder, "crl.pem")
    if not marked:
        os.unlink(crl + ".made")
        enrolment.relay.stop()
        enrolment.relay = world.restart(enrolment.relay)
    enrolment.relay.stop()
    os.rename(crl, crl + ".lost")
    gone = "the revocation list .*crl.pem is gone, and with it what was revoked: put it back"
    argv = [binary("ATTEST_RELAY"), "--config", enrolment.path]
    p = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert p.returncode == 1 and re.search(gone, p.stderr), p
    assert re.search(gone, enrolment.operator("revoke", serial, status=1))
    assert re.search(gone, enrolment.operator("list", status=1))
    assert not os.path.exists(crl)
    os.rename(crl + ".lost", crl)
    assert f"{serial}  revoked" in enrolment.operator("list")


def test_a_spoilt_record_keeps_none_of_the_others(world, enrolment):
    """As after a loss of power: an owner is shut out all the same, and what is unclear is said."""
    for _ in range(2):
        assert enrolment.post(enrolment.code(), request(world))[0] == 200
    good, spoilt = sorted(r["serial"] for r in enrolment.records())
    with open(os.path.join(enrolment.folder, "issued", f"{spoilt}.json"), "w"):
        pass
    said = enrolment.operator("revoke", "--owner", "acme", status=1)
    assert f"{spoilt}.json is no record" in said and "revoke it by its serial" in said
    enrolment.operator("revoke", spoilt)
    text = openssl("crl", "-in", os.path.join(enrolment.folder, "crl.pem"), "-noout", "-text")
    assert ({int(n, 16) for n in re.findall(r"Serial Number: ([0-9A-F]+)", text)}
            == {int(good, 16), int(spoilt, 16)})


def test_revokes_do_not_lose_each_other(world, enrolment):
    csr = request(world)
    for _ in range(8):
        assert enrolment.post(enrolment.code(), csr)[0] == 200
    serials = [r["serial"] for r in enrolment.records()]
    tasks = [Task(enrolment.operator, "revoke", s) for s in serials]
    for t in tasks:
        t.result()
    assert enrolment.operator("list").count("revoked") == 8


def test_wrong_calls(world, enrolment):
    assert "no owner" in enrolment.operator("nobody", status=1)
    assert "which owner" in enrolment.operator(status=2)
    assert "--label" in enrolment.operator("acme", "--label", "a\nb", status=1)
    assert "--label" in enrolment.operator("acme", "--label", "x" * 200, status=1)
    assert enrolment.operator("list").count("pending") == 0
    assert CODE.search(enrolment.operator("ACME"))  # names have no case


def test_the_printed_command(world, enrolment):
    assert (f"attest-tunnel enroll --relay tcp:{DOMAIN}:{enrolment.relay.port()}\n"
            in enrolment.operator("acme"))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_root_becomes_the_folders_owner(world, enrolment):
    """What root makes is the daemon's to read: nothing there belongs to anybody else."""
    shutil.rmtree(enrolment.folder)
    os.chmod(world.folder, 0o700)  # root's, as /var/lib/private above a dynamic user's
    os.mkdir(enrolment.folder, 0o700)
    for path in (enrolment.folder, enrolment.ca, world.path("owners-ca.key")):
        os.chown(path, 65534, 65534)
    enrolment.code()
    for where, folders, names in os.walk(enrolment.folder):
        for name in [".", *folders, *names]:
            st = os.lstat(os.path.join(where, name))
            assert (st.st_uid, st.st_gid) == (65534, 65534), name
    os.chown(world.path("owners-ca.key"), 0, 0)
    assert "Permission denied" in enrolment.operator("acme", status=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_ca_beside_the_folder_of_a_dynamic_user(world, enrolment):
    """init, where systemd keeps what is a dynamic user's: below a folder that is root's alone."""
    private = world.path("private")
    os.mkdir(private, 0o700)
    state = os.path.join(private, "state")
    os.mkdir(state, 0o700)
    os.chown(state, 65534, 65534)
    with open(world.path("init.yaml")) as f:
        config = json.load(f)
    config["enrolment"] = {"ca": f"{state}/ca.pem", "key": f"{state}/ca.key",
                           "folder": f"{state}/enrolment"}
    enrolment.path = world.path("dynamic.yaml")
    with open(enrolment.path, "w") as f:
        json.dump(config, f)
    enrolment.operator("init")
    assert os.stat(f"{state}/ca.key").st_uid == 65534
    assert "is there already" in enrolment.operator("init", status=1)
    assert CODE.search(enrolment.operator("acme"))
