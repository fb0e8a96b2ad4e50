# The doors: how a client says whom it wants, in good and in bad ways, and how it is told no.
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

from harness import DOMAIN, MB, Task, data, digest, free_port, need, wait_for
from streams import (Aborted, Conn, Doors, Refused, Service, TlsConn, connect_head, dial, echo,
                     http_connect, proxy_status, read_head, roundtrip, tls_service)
from wire import ALPN

HANDSHAKE, PICKUP, DIAL = 2, 2, 2  # seconds


class Setting:
    def __init__(self, world):
        self.world = world
        self.certificates = world.certificates
        self.echo = world.add(Service(handler=echo))
        self.tls = world.add(Service(handler=tls_service(self.certificates.server(), echo)))
        dead = f"tcp:127.0.0.1:{free_port()}"
        # a listener whose queue is full never answers a SYN: the dial times out
        self.full = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.filling = []
        full = f"tcp:127.0.0.1:{self.full.getsockname()[1]}"
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(self.full.getsockname())
            self.filling.append(s)
        self.relay = world.relay(
            listeners=[
                {"name": "static", "service": "echo.acme"},
                {"name": "static-absent", "service": "absent.acme"},
                {"name": "static-dead", "service": "dead.acme"},
                {"name": "sni-only", "doors": ["sni"]},
                {"name": "connect-only", "doors": ["connect"]},
                {"name": "unix-front", "doors": ["sni", "connect"],
                 "address": f"unix:{world.path('front')}"},
                {"name": "abstract", "service": "echo.acme",
                 "address": f"unix:@attest-relay-test-{os.getpid()}"},
            ],
            services=[
                {"name": "echo.acme", "targets": [self.echo.address]},
                {"name": "tls.acme", "targets": [self.tls.address],
                 "hostnames": ["kbs.acme.example"]},
                {"name": "dead.acme", "targets": [dead]},
                {"name": "full.acme", "targets": [full]},
                {"name": "first-dead.acme", "targets": [dead, "tunnel"]},
                {"name": "first-tunnel.acme", "targets": ["tunnel", self.echo.address]},
                {"name": "two.acme", "targets": [dead, self.echo.address]},
            ],
            timeouts={"handshake": f"{HANDSHAKE}s", "pickup": f"{PICKUP}s", "dial": f"{DIAL}s"})
        self.doors = Doors(self.relay, self.certificates)

    def refused(self, reason):
        return self.relay.metric("refused_total", reason=reason)

    def counts(self, reason):
        """Asserts that the block refuses exactly one client, for that reason."""
        return Counts(self, reason)


class Counts:
    def __init__(self, setting, reason, n=1):
        self.setting, self.reason, self.n = setting, reason, n

    def __enter__(self):
        self.before = self.setting.refused(self.reason)

    def __exit__(self, kind, *_):
        if kind is None:
            last = [None]

            def look():
                last[0] = self.setting.refused(self.reason) - self.before
                return last[0] == self.n
            wait_for(look, lambda: f"{self.n} refused as {self.reason}; now {last[0]}; "
                     f"{self.setting.relay.metrics()}", 10)


@pytest.fixture(scope="module")
def setting(module_world):
    return Setting(module_world)


@pytest.fixture(autouse=True)
def nothing_left_behind(setting):
    yield
    setting.relay.wait_quiet()
    assert not setting.echo.errors and not setting.tls.errors


# ---- the ClientHello ----

class SlowSocket(Conn):
    """Sends its first bytes in pieces."""

    def __init__(self, sock, piece, first, pause):
        super().__init__(sock)
        self.piece, self.left, self.pause = piece, first, pause

    def send(self, data):
        while self.left > 0 and data:
            n = min(self.piece, self.left, len(data))
            super().send(data[:n])
            data, self.left = data[n:], self.left - n
            time.sleep(self.pause)  # so that each piece is a segment of its own
        if data:
            super().send(data)


def slow(address, piece, first=1000, pause=0.0005):
    return SlowSocket(dial(address).sock, piece, first, pause)


@pytest.mark.parametrize("piece", [1, 5, 43, 200])
def test_hello_in_pieces(setting, piece):
    """A ClientHello in segments of a few bytes is still routed by its name."""
    conn = TlsConn(slow(setting.relay.listeners["front"], piece),
                   setting.certificates.client(), name=f"tls.acme.{DOMAIN}", fin=True)
    with conn:
        roundtrip(conn, data(100_000))


@pytest.mark.parametrize("piece", [1, 7])
def test_own_hello_in_pieces(setting, piece):
    """The same for the relay's own TLS."""
    conn = TlsConn(slow(setting.relay.listeners["front"], piece),
                   setting.certificates.client(), name=DOMAIN)
    with conn:
        roundtrip(http_connect(conn, "echo.acme"), data(100_000))


def hello_of(context, name):
    """The bytes of a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def extend(hello, extensions=(), cipher=b"", records=0):
    """Adds extensions (and cipher suites) to a ClientHello; splits it over records of that size."""
    body = bytearray(hello[9:])
    at = 34 + 1 + body[34]
    n = struct.unpack_from(">H", body, at)[0]
    struct.pack_into(">H", body, at, n + len(cipher))
    body[at + 2:at + 2] = cipher
    at += 2 + n + len(cipher)
    at += 1 + body[at]
    n = struct.unpack_from(">H", body, at)[0]
    added = b"".join(struct.pack(">HH", kind, len(x)) + x for kind, x in extensions)
    struct.pack_into(">H", body, at, n + len(added))
    # before the others, so that the name comes late
    body[at + 2:at + 2] = added
    message = b"\x01" + len(body).to_bytes(3, "big") + bytes(body)
    size = records or len(message)
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(message[i:i + size])) +
                    message[i:i + size] for i in range(0, len(message), size))


PADDING, GREASE_EXT, GREASE_SUITE = 21, 0x1A1A, b"\x2a\x2a"

HELLOS = {
    "plain": {},
    "grease": {"extensions": [(GREASE_EXT, b""), (0xFAFA, b"\0")], "cipher": GREASE_SUITE},
    "over-an-mtu": {"extensions": [(PADDING, bytes(4000))]},
    "large-shares": {"extensions": [(0xFE0D, os.urandom(9000)), (0x3A3A, os.urandom(4000))]},
    "many-records": {"extensions": [(PADDING, bytes(600))], "records": 50},
    "one-byte-records": {"records": 1},
}


@pytest.mark.parametrize("kind", HELLOS)
def test_hello_shapes(setting, module_world, kind):
    """Big, odd and split ClientHellos pass through byte for byte."""
    hello = extend(hello_of(setting.certificates.client(), f"any.acme.{DOMAIN}"), **HELLOS[kind])
    svc = Service()
    try:
        relay = module_world.relay(name=f"relay-{kind}", workers=1, services=[
            {"name": "any.acme", "targets": [svc.address]}])
        for piece in (len(hello), 1000):
            with slow(relay.listeners["front"], piece, first=len(hello)) as client:
                client.send(hello)
                with svc.accept() as service:
                    assert service.read_exactly(len(hello)) == hello
                    service.send(b"pong")
                    assert client.read_exactly(4) == b"pong"
        relay.stop()
    finally:
        svc.close()


def alert(conn):
    """The TLS alert that came in plain, as (level, description)."""
    got = conn.read_exactly(7)
    assert got[0] == 21 and got[3:5] == b"\0\2", got
    return got[5], got[6]


def test_unknown_name_alert(setting):
    """unrecognized_name(112), as any TLS library understands it."""
    for name in ("nobody.nowhere." + DOMAIN, "kbs.else.example", "tls.acme.example",
                 f"a.b.c.{DOMAIN}"):
        with setting.counts("unknown-service"):
            with dial(setting.relay.listeners["front"]) as c:
                c.send(hello_of(setting.certificates.client(), name))
                assert alert(c) == (2, 112), name


def test_alert_as_openssl_sees_it(setting):
    need("openssl")
    out = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{setting.relay.port()}", "-servername",
         "nobody.nowhere." + DOMAIN], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=30)
    assert "unrecognized name" in out.stderr + out.stdout


def test_hostname_of_a_service(setting):
    """A name from hostnames:, in any case."""
    for name in ("kbs.acme.example", "KBS.Acme.Example"):
        c = setting.certificates.client()
        c.check_hostname = False
        with TlsConn(setting.doors.front(), c, name=name, fin=True) as conn:
            roundtrip(conn, data(50_000))


def test_without_sni(setting):
    """No host name: the relay's own TLS, if it has one."""
    c = setting.certificates.client()
    c.check_hostname = False
    with TlsConn(setting.doors.front(), c) as conn:
        assert conn.tls.getpeercert()["subjectAltName"][0] == ("DNS", DOMAIN)
        roundtrip(http_connect(conn, "echo.acme"), data(50_000))


def test_without_sni_without_tls(setting):
    """... and a refusal where it has none."""
    with setting.counts("no-sni"):
        with dial(setting.relay.listeners["sni-only"]) as c:
            c.send(nameless_hello(setting))
            assert alert(c) == (2, 112)


def nameless_hello(setting):
    c = setting.certificates.client()
    c.check_hostname = False
    return hello_of(c, None)


@pytest.mark.parametrize("listener", ["front", "sni-only", "connect-only"])
@pytest.mark.parametrize("what,reason", [
    (b"\0" * 64, {"no-door"}),
    (b"\xff" + os.urandom(511), {"no-door"}),
    (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", {"protocol"}),
    (b"\x16\x03\x01\xff\xff" + b"A" * 200, {"protocol"}),
    (b"SSH-2.0-OpenSSH_9.2\r\n", {"protocol", "no-door"}),  # by its first byte: odd HTTP
], ids=["zeros", "random", "no-client-hello", "huge-record", "ssh"])
def test_garbage(setting, what, reason, listener):
    """What no door understands is turned away, and counted."""
    def refused():
        return {k.split('"')[1]: v for k, v in setting.relay.metrics().items()
                if k.startswith("attest_relay_refused_total")}
    before = refused()
    with dial(setting.relay.listeners[listener]) as c:
        c.send(what)
        try:
            c.read_all()
        except Aborted:
            pass
    wait_for(lambda: sum(refused().values()) == sum(before.values()) + 1, "one more refused")
    words = {k for k, v in refused().items() if v != before.get(k, 0)}
    assert words <= reason, words


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01", b"CONNECT echo.acme:443 HT"],
                         ids=["silent", "tls", "http"])
def test_slow_loris(setting, start):
    """Who does not say in time what it wants is closed, however it trickles."""
    with setting.counts("handshake-timeout"):
        with setting.doors.front() as c:
            begin = time.monotonic()
            c.send(start)
            c.timeout(0.2)
            rest = iter(b"\x02\x00\x01\x00\x01\xfc" if start[:1] == b"\x16" else b"TP/1.1\r\nX: ")
            while True:
                assert time.monotonic() - begin < HANDSHAKE + 8, "still open"
                try:
                    if not c.recv():
                        break
                except (TimeoutError, socket.timeout):
                    pass
                except Aborted:
                    break
                try:
                    if start and (b := next(rest, None)) is not None:
                        c.send(bytes([b]))
                except Aborted:
                    break
            assert time.monotonic() - begin > HANDSHAKE * 0.8


def test_slow_loris_inside_tls(setting):
    """The relay's own TLS does not stop the clock."""
    with setting.counts("handshake-timeout"):
        with TlsConn(setting.doors.front(), setting.certificates.client(), name=DOMAIN) as c:
            c.send(b"CONNECT ec")
            try:
                c.read_all()
            except Aborted:
                pass


# ---- CONNECT ----

def status_of(setting, head, listener="front", tls=False):
    conn = dial(setting.relay.listeners[listener])
    if tls:
        conn = TlsConn(conn, setting.certificates.client(), name=DOMAIN)
    with conn:
        conn.send(head)
        answer, _ = read_head(conn)
        return int(answer.split()[1]), answer


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("head,status", [
    (b"CONNECT nobody.nowhere:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"CONNECT dead.acme:443 HTTP/1.1\r\nHost: x\r\n\r\n", 502),
    (b"CONNECT full.acme:443 HTTP/1.1\r\nHost: x\r\n\r\n", 504),
    (b"CONNECT absent.acme:443 HTTP/1.1\r\nHost: x\r\n\r\n", 504),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404, 405, 501)),
    (b"POST http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd", (400, 404, 405, 501)),
    (b"CONNECT echo.acme:0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"CONNECT echo.acme:99999 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"CONNECT  echo.acme:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"CONNECT echo.acme:443 HTTP/1.1\nHost: x\n\n", 400),
    (b"CONNECT echo.acme:443 HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    (b"CONNECT echo.acme:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
    (b"CONNECT ../../etc/passwd:443 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404)),
    (b"CONNECT echo.acme:443 HTTP/1.1\r\n" + b"X-Long: " + b"a" * 9000 + b"\r\n\r\n", 431),
    (b"CONNECT echo.acme:443 HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
], ids=["unknown", "ipv6", "ipv4", "refused", "dial-timeout", "no-tunnel", "get", "post", "port-0",
        "port-99999", "two-spaces", "bare-lf", "space-colon", "body", "path", "large", "many-lines"])
def test_connect_refusals(setting, head, status, tls):
    got, answer = status_of(setting, head, tls=tls)
    assert got == status or (isinstance(status, tuple) and got in status), answer
    error, word = proxy_status(re.search(r"\r\nProxy-Status: (.*)\r\n", answer.decode())[1])
    assert error == {"no-door": "http_request_error", "protocol": "http_request_error",
                     "too-large": "http_request_error", "unknown-service": "destination_not_found",
                     "dial-refused": "connection_refused", "dial-timeout": "connection_timeout",
                     "pickup-timeout": "destination_unavailable"}[word]


def test_connect_head_without_end(setting):
    """A head that never ends costs no more than its limit."""
    with setting.doors.front() as c:
        c.send(b"CONNECT echo.acme:443 HTTP/1.1\r\n")
        sent = 0
        try:
            while sent < 10 * MB:
                c.send(b"X-Filler: " + b"z" * 1000 + b"\r\n")
                sent += 1012
            raise AssertionError("it still listens")
        except Aborted:
            pass
    wait_for(lambda: setting.refused("too-large") >= 1, "counted as too large")


def test_refusal_says_why(setting):
    """A person at curl sees a line that names the service."""
    need("curl")
    out = subprocess.run(
        ["curl", "-sv", "--max-time", "20", "--proxytunnel", "-x",
         f"http://127.0.0.1:{setting.relay.port()}", "http://nobody.nowhere/"],
        capture_output=True, text=True)
    assert out.returncode != 0
    assert "HTTP/1.1 404" in out.stderr


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_bytes_behind_the_head(setting, tls):
    """What follows the head in the same segment belongs to the stream."""
    early = data(3000)
    for head in (connect_head("echo.acme"), b"CONNECT echo.acme:1 HTTP/1.0\r\n\r\n",
                 b"CONNECT ECHO.Acme:443 HTTP/1.1\r\nHost: echo.acme\r\nUser-Agent: x\r\n"
                 b"Proxy-Connection: keep-alive\r\n\r\n"):
        conn = setting.doors.front()
        if tls:
            conn = TlsConn(conn, setting.certificates.client(), name=DOMAIN)
        with conn:
            conn.send(head + early)
            answer, rest = read_head(conn)
            assert answer.split()[1] == b"200", answer
            got = rest + conn.read_exactly(len(early) - len(rest))
            assert got == early
            conn.eof()
            assert conn.recv() == b""


def test_connect_in_pieces(setting):
    with slow(setting.relay.listeners["front"], 1) as conn:
        roundtrip(http_connect(conn, "echo.acme"), data(20_000))


def test_nothing_else_in_the_answer(setting):
    """A 200 to CONNECT has no body and no length: what follows is the stream's."""
    with setting.doors.front() as conn:
        conn.send(connect_head("echo.acme"))
        answer, rest = read_head(conn)
        assert rest == b"" and answer.startswith(b"HTTP/1.1 200")
        assert not re.search(rb"(?i)content-length|transfer-encoding", answer)


def test_several_doors_on_one_port(setting):
    """TCP and Unix: SNI, own TLS and plain CONNECT, at the same time on the same address."""
    for listener in ("front", "unix-front"):
        address = setting.relay.listeners[listener]
        a = http_connect(dial(address), "echo.acme")
        b = TlsConn(dial(address), setting.certificates.client(), name=f"tls.acme.{DOMAIN}",
                    fin=True)
        c = http_connect(TlsConn(dial(address), setting.certificates.client(), name=DOMAIN),
                         "echo.acme")
        tasks = [Task(roundtrip, x, data(MB)) for x in (a, b, c)]
        for t in tasks:
            t.result()
        for x in (a, b, c):
            x.close()


def test_closed_doors(setting):
    """A door a listener does not have stays shut."""
    with dial(setting.relay.listeners["sni-only"]) as c:
        c.send(connect_head("echo.acme"))
        with pytest.raises((Aborted, Refused)):
            head, _ = read_head(c)
            assert b" 200 " not in head
            raise Refused(0, head)
    with dial(setting.relay.listeners["connect-only"]) as c:
        c.send(hello_of(setting.certificates.client(), f"tls.acme.{DOMAIN}"))
        try:
            assert c.read_all()[:1] in (b"", b"\x15", b"\x16")
        except Aborted:
            pass
    # no tunnel door: an agent's ALPN is not answered
    c = setting.certificates.client([ALPN])
    try:
        with TlsConn(dial(setting.relay.listeners["connect-only"]), c, name=DOMAIN) as conn:
            assert conn.tls.selected_alpn_protocol() is None
    except (Aborted, OSError):
        pass


def test_static_doors(setting):
    for listener in ("static", "abstract"):
        with dial(setting.relay.listeners[listener]) as conn:
            roundtrip(conn, data(MB))
    # anything at all may be its first bytes, TLS included
    with dial(setting.relay.listeners["static"]) as conn:
        roundtrip(conn, hello_of(setting.certificates.client(), f"tls.acme.{DOMAIN}"))
    for listener in ("static-dead", "static-absent"):
        with pytest.raises(Aborted):
            with dial(setting.relay.listeners[listener]) as conn:
                conn.send(b"hello?")
                while conn.recv():
                    pass
                raise AssertionError("refused with EOF instead of a reset")


# ---- targets and parking ----

def test_targets_in_order(setting):
    """The first target that answers gets the stream, and no byte is lost on the way."""
    for door in (setting.doors.connect_plain, setting.doors.connect_tls):
        with door("two.acme") as conn:
            roundtrip(conn, data(200_000))
    tunnelled = setting.world.add(Service(handler=lambda c: (c.recv(), c.send(b"tunnel"), c.eof())))
    # no tunnel: the direct one behind it serves
    with setting.doors.connect_plain("first-tunnel.acme") as conn:
        roundtrip(conn, b"direct?")
    agent = setting.world.agent(setting.relay, {"first-dead": tunnelled.address,
                                                "first-tunnel": tunnelled.address})
    for service in ("first-dead.acme", "first-tunnel.acme"):
        with setting.doors.connect_plain(service) as conn:
            conn.send(b"who?")
            assert conn.read_all() == b"tunnel", service
    agent.stop()
    setting.relay.wait_tunnels(0)


def test_parked_until_the_agent_comes(module_world, certificates):
    """Clients before the agent: served when it comes, nothing they sent is lost."""
    svc = module_world.add(Service(handler=echo))
    tls = module_world.add(Service(handler=tls_service(certificates.server(), echo)))
    relay = module_world.relay(name="relay-park", timeouts={"pickup": "20s"}, listeners=[
        {"name": "static", "service": "kbs.acme"}])
    doors = Doors(relay, certificates)
    payload = data(300_000)
    waiting = [
        Task(lambda: roundtrip(dial(relay.listeners["static"]), payload)),
        Task(lambda: roundtrip(doors.connect_plain("kbs.acme"), payload)),
        Task(lambda: roundtrip(doors.connect_tls("kbs.acme"), payload)),
        Task(lambda: roundtrip(doors.sni("web.acme"), payload)),
    ]
    relay.wait_metric("live_parked", lambda v: v == 4)
    agent = module_world.agent(relay, {"kbs": svc.address, "web": tls.address})
    for t in waiting:
        t.result()
    assert relay.metric("live_parked") == 0
    agent.stop()
    relay.stop()


def test_parked_clients_that_talk_when_the_agent_comes(world):
    """All move to the agent's worker at once, with bytes coming in: none is lost, nor any byte."""
    svc = world.add(Service(handler=echo))
    relay = world.relay(timeouts={"pickup": "20s"}, workers=2, listeners=[
        {"name": "static", "service": "kbs.acme"}])
    for _ in range(4):
        clients = [dial(relay.listeners["static"]) for _ in range(80)]
        said = [0] * len(clients)
        relay.wait_metric("live_parked", lambda v: v == len(clients))
        served = threading.Event()

        def talk():
            while not served.is_set():
                for i, c in enumerate(clients):
                    c.send(b"x")
                    said[i] += 1
        talker = Task(talk)
        try:
            agent = world.agent(relay, {"kbs": svc.address})
            for c in clients:
                assert c.read_exactly(1) == b"x"
        finally:
            served.set()
        talker.result()
        for c, n in zip(clients, said):
            c.eof()
            assert len(c.read_all()) == n - 1
            c.close()
        agent.stop()
        relay.wait_quiet()
        relay.wait_tunnels(0)
    assert relay.metric("refused_total") == 0


def test_who_leaves_while_parked_is_forgotten(setting):
    """Gauges go back when a parked client goes: nothing waits for a ghost."""
    conns = [dial(setting.relay.listeners["static-absent"]) for _ in range(5)]
    for c in conns:
        c.send(b"x")
    setting.relay.wait_metric("live_parked", lambda v: v == 5)
    for c in conns:
        c.abort()
    setting.relay.wait_metric("live_parked", lambda v: v == 0)


def test_who_closes_a_unix_socket_while_parked_is_forgotten(setting):
    """The same where a close can be seen."""
    path = setting.relay.listeners["unix-front"].removeprefix("unix:")
    conns = []
    for _ in range(5):
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        s.sendall(connect_head("absent.acme"))
        conns.append(s)
    setting.relay.wait_metric("live_parked", lambda v: v == 5)
    with Counts(setting, "reset", 5):
        for s in conns:
            s.close()
        setting.relay.wait_metric("live_parked", lambda v: v == 0)


def test_last_words_of_a_unix_client(world):
    """Who says something and closes while parked is still heard when the agent comes."""
    svc = world.add(Service())
    path = world.path("door")
    relay = world.relay(timeouts={"pickup": "20s"}, listeners=[
        {"name": "door", "service": "kbs.acme", "address": f"unix:{path}"}])
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        s.sendall(b"last words")
    relay.wait_metric("live_parked", lambda v: v == 1)
    world.agent(relay, {"kbs": svc.address})
    with svc.accept() as c:
        assert c.read_all() == b"last words"
    relay.wait_quiet()


def test_end_while_parked(setting):
    """A client that half-closes while parked still waits for its answer, until the pickup ends."""
    with dial(setting.relay.listeners["static-absent"]) as c:
        c.send(b"question")
        c.eof()
        begin = time.monotonic()
        with pytest.raises(Aborted):
            c.recv()
            raise AssertionError("EOF instead of a reset")
        assert time.monotonic() - begin > PICKUP * 0.7


def test_nobody_there_in_the_doors_words(setting):
    with setting.counts("pickup-timeout"):
        with pytest.raises(Refused) as e:
            setting.doors.connect_plain("absent.acme")
        assert e.value.status == 504
    with setting.counts("pickup-timeout"):
        with dial(setting.relay.listeners["front"]) as c:
            c.send(hello_of(setting.certificates.client(), f"absent.acme.{DOMAIN}"))
            assert alert(c) == (2, 80) and c.recv() == b""
    with setting.counts("dial-refused"):
        with dial(setting.relay.listeners["front"]) as c:
            c.send(hello_of(setting.certificates.client(), f"dead.acme.{DOMAIN}"))
            assert alert(c) == (2, 80) and c.recv() == b""
    with setting.counts("pickup-timeout"):
        with dial(setting.relay.listeners["static-absent"]) as c:
            c.send(b"x")
            with pytest.raises(Aborted):
                c.recv()
                raise AssertionError("EOF instead of a reset")


def test_parked_limit(module_world, certificates):
    """limits.parked: one more is refused at once, with 503, the others wait on."""
    relay = module_world.relay(name="relay-limit", timeouts={"pickup": "30s"},
                               limits={"parked": 3})
    doors = Doors(relay, certificates)
    waiting = []
    for _ in range(3):
        c = doors.front()
        c.send(connect_head("kbs.acme"))
        waiting.append(c)
    relay.wait_metric("live_parked", lambda v: v == 3)
    with pytest.raises(Refused) as e:
        doors.connect_plain("kbs.acme")
    assert e.value.status == 503
    assert relay.metric("live_parked") == 3
    assert relay.metric("refused_total", reason="limit") == 1
    for c in waiting:
        c.abort()
    relay.wait_quiet()
    relay.stop()


def test_agent_refuses_in_the_doors_words(setting):
    """The agent's dead local service: 502 where the agent confirms, a reset where bytes went."""
    agent = setting.world.agent(setting.relay, [
        {"name": "eager", "target": f"tcp:127.0.0.1:{free_port()}", "dial": "eager"},
        {"name": "lazy", "target": f"tcp:127.0.0.1:{free_port()}"}])
    with pytest.raises(Refused) as e:
        setting.doors.connect_plain("eager.acme")
    assert e.value.status == 502
    with setting.doors.connect_plain("lazy.acme") as conn:
        conn.send(b"x")
        with pytest.raises(Aborted):
            conn.recv()
            raise AssertionError("EOF instead of a reset")
    agent.stop()
    setting.relay.wait_tunnels(0)


@pytest.mark.parametrize("carrier", ["direct", "websocket"])
def test_client_gone_while_its_target_is_dialled(setting, world, carrier):
    """A dial nobody waits for any more is given up at once, by the relay and through the tunnel."""
    full = f"tcp:127.0.0.1:{setting.full.getsockname()[1]}"
    relay = world.relay(services=[{"name": "full.acme", "targets": [full]}],
                        timeouts={"dial": "60s"})
    agent = world.agent(relay, [{"name": "deep", "target": full, "dial": "eager"}],
                        transport=carrier, timeouts={"dial": "60s"})
    before = {p: p.fds() for p in (relay, agent)}
    for service, dialler in (("full.acme", relay), ("deep.acme", agent)):
        clients = [dial(relay.listeners["front"]) for _ in range(5)]
        for c in clients:
            c.send(connect_head(service))
        relay.wait_metric("live_openings", lambda v: v == 5)
        wait_for(lambda: dialler.fds() >= before[dialler] + 5, f"{service} is dialled")
        for c in clients:
            c.abort()
        relay.wait_quiet(8)
        for p in (relay, agent):
            wait_for(lambda: p.fds() <= before[p],
                     lambda: f"{p.fds()} of {before[p]} descriptors, {service}\n{p.tail()}", 8)
    assert relay.running() and agent.running()
    assert relay.metric("live_tunnels") == 1 and relay.metric("tunnels_total") == 1


@pytest.mark.parametrize("service", ["full.acme", "deep.acme"])
def test_client_that_said_all_while_its_target_is_dialled(setting, service):
    """A half-close is no leaving: the answer comes when the dial has failed, heard or not."""
    full = f"tcp:127.0.0.1:{setting.full.getsockname()[1]}"
    agent = setting.world.agent(setting.relay, [{"name": "deep", "target": full, "dial": "eager"}],
                                timeouts={"dial": f"{DIAL}s"})
    begin = time.monotonic()
    gone = [setting.doors.front() for _ in range(5)]
    for c in gone:  # closed for good, which looks the same from the relay until it answers
        c.send(connect_head(service))
        c.close()
    with setting.doors.front() as c:
        c.send(connect_head(service))
        c.eof()
        assert read_head(c)[0].startswith(b"HTTP/1.1 504 ")
    assert time.monotonic() - begin >= DIAL - 0.1
    setting.relay.wait_quiet(8)
    agent.stop()
    setting.relay.wait_tunnels(0)


def test_large_transfer_by_each_door(setting):
    payload = data(20 * MB)
    for door, service in (("connect_plain", "echo.acme"), ("connect_tls", "echo.acme"),
                          ("sni", "tls.acme")):
        with setting.doors.open(door, service) as conn:
            writer = Task(lambda: (conn.send(payload), conn.eof()))
            assert digest(conn.read_all()) == digest(payload)
            writer.result()
