# HTTP/2 at the connect door: attest-relay as the server of a client nobody here wrote the library
# of (h2_client.py, python3-h2), over TLS with ALPN "h2" and in plain with prior knowledge.
import os
import re
import signal
import socket
import ssl
import time

import pytest

from harness import MB, ROOT, Program, Task, data, free_port, missing, need, wait_for
from streams import (Aborted, Doors, Refused, Service, TlsConn, dial, echo, http_connect, proxy_status,
                     read_head)

try:
    import h2  # noqa: F401
    import hpack
    from h2_client import (CONNECT_ERROR, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, H2Client,
                           over_tls)
except ImportError:
    h2 = None

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
HOW = ["tls", "plain"]
PATIENT = "60s"  # clients read only when they are asked to, and do not answer a ping before


@pytest.fixture(autouse=True, scope="module")
def counterpart():
    if not h2:
        missing("python3-h2 is not installed")


def client(relay, certificates, how="tls", listener="front", pair=None):
    conn = dial(relay.listeners[listener])
    return H2Client(over_tls(conn, certificates, pair) if how == "tls" else conn)


def watcher(relay, port):
    """The descriptor of the epoll that watches the connection from this local port; or None."""
    inode = None
    with open(f"/proc/{relay.pid}/net/tcp") as f:
        for line in f.readlines()[1:]:
            fields = line.split()
            if (int(fields[1].split(":")[1], 16) == relay.port()
                    and int(fields[2].split(":")[1], 16) == port):
                inode = fields[9]
    base = f"/proc/{relay.pid}/fd"
    links = {}
    for fd in os.listdir(base):
        try:
            links[fd] = os.readlink(f"{base}/{fd}")
        except OSError:
            pass
    for sock in (fd for fd, to in links.items() if to == f"socket:[{inode}]"):
        for fd, to in links.items():
            if to != "anon_inode:[eventpoll]":
                continue
            with open(f"/proc/{relay.pid}/fdinfo/{fd}") as f:
                if re.search(rf"^tfd:\s+{sock}\s", f.read(), re.M):
                    return fd
    return None


def worker_of(relay, port):
    """Which worker has it. The table of connections leaves some out while others come and go."""
    return wait_for(lambda: watcher(relay, port), f"a worker watches the client at port {port}")


def both_workers(relay, make):
    """A client in the tunnel's own worker, and one in another."""
    found = {}

    def one():
        c = make()
        c.ping()
        return c
    for _ in range(50):  # a worker that is busy leaves some to the other
        for c in [t.result() for t in [Task(one) for _ in range(12)]]:
            worker = worker_of(relay, c.conn.sock.getsockname()[1])
            if found.setdefault(worker, c) is not c:
                c.close()
        if len(found) == 2:
            break
    assert len(found) == 2, "all connections went to one worker"
    return list(found.values())


class Setting:
    def __init__(self, world):
        self.world, self.certificates = world, world.certificates
        self.svc = world.add(Service())
        self.echo = world.add(Service(handler=echo))
        self.relay = world.relay(
            timeouts={"pickup": "2s", "half_closed": "10s", "dead": PATIENT},
            services=[{"name": "near.acme", "targets": [self.echo.address]},
                      {"name": "broken.acme", "targets": [f"tcp:127.0.0.1:{free_port()}"]}])
        self.agent = world.agent(self.relay, [
            {"name": "kbs", "target": self.svc.address},
            {"name": "echo", "target": self.echo.address},
            {"name": "gone", "target": f"tcp:127.0.0.1:{free_port()}", "dial": "eager"},
            {"name": "banner", "dial": "eager", "target": world.add(
                Service(handler=lambda c: (c.send(b"hello"), echo(c)))).address}])
        self.doors = Doors(self.relay, world.certificates)

    def client(self, how="tls", **more):
        return client(self.relay, self.certificates, how, **more)

    def both(self, how):
        return both_workers(self.relay, lambda: self.client(how))

    def pair(self, c, early=b"first"):
        """A stream and the service's end of it."""
        stream = c.connect("kbs.acme:443")
        stream.send(early)
        service = self.svc.accept()
        assert service.read_exactly(len(early)) == early
        return stream.opened(), service


@pytest.fixture(scope="module")
def setting(module_world):
    return Setting(module_world)


@pytest.fixture(autouse=True)
def nothing_left_behind(setting):
    yield
    setting.relay.wait_quiet()
    setting.relay.wait_metric("connections", lambda n: n == 1)  # the agent's
    assert setting.svc.none_waiting()


# ---- bytes ----

def roundtrip(stream, payload):
    sent = 0
    while sent < len(payload):
        stream.send(payload[sent:sent + 100_000])
        sent += 100_000
    stream.send(end=True)
    assert stream.read_all() == payload


@pytest.mark.parametrize("how", HOW)
def test_data(setting, how):
    """Both ways, by a tunnel in either worker and by an address; of all sizes."""
    for c in setting.both(how):
        with c:
            for service in ("echo.acme", "near.acme:80", "ECHO.ACME:443", "echo.acme.attest.test:1"):
                for size in (0, 1, 65535, MB, 5 * MB):
                    roundtrip(c.open(service), data(size))
            early = c.connect("echo.acme:443")  # bytes before any answer
            roundtrip(early, data(MB))
            assert early.status == 200
            c.ping()


@pytest.mark.parametrize("how", HOW)
def test_half_close(setting, how):
    """An end of one direction leaves the other, whichever is first."""
    for c in setting.both(how):
        with c:
            stream, service = setting.pair(c)
            stream.send(end=True)
            assert service.recv() == b""
            c.ping()  # a late reply
            reply = data(MB)
            task = Task(lambda: (service.send(reply), service.eof()))
            assert stream.read_all() == reply
            task.result()
            service.close()

            stream, service = setting.pair(c)
            reply = data(300_000)
            task = Task(lambda: (service.send(reply), service.eof()))
            assert stream.read_all() == reply
            task.result()
            c.ping()
            more = data(MB)
            task = Task(service.read_all)
            stream.send(more, end=True)
            assert task.result() == more
            service.close()

            stream = c.connect("kbs.acme", end=True)  # with the request already
            service = setting.svc.accept()
            assert service.recv() == b""
            service.send(b"still owed")
            service.close()
            assert stream.read_all() == b"still owed"


@pytest.mark.parametrize("how", HOW)
def test_aborts(setting, how):
    """A reset is one at the far end, and costs nobody else anything."""
    for c in setting.both(how):
        with c:
            other = c.open("echo.acme")
            stream, service = setting.pair(c)
            stream.abort()
            with pytest.raises(Aborted):
                service.recv()
            stream, service = setting.pair(c)
            service.abort()
            assert stream.aborted() == CONNECT_ERROR
            # the client's connection goes, with streams in it
            roundtrip(other, data(100_000))
            stream, service = setting.pair(c)
            c.conn.abort()
            with pytest.raises(Aborted):
                service.recv()


def test_slow_reader(setting):
    """A client that reads nothing of one stream holds up that one only."""
    for c in setting.both("tls"):
        with c:
            slow, service = setting.pair(c)
            slow.held = True
            reply = data(8 * MB)
            task = Task(lambda: (service.send(reply), service.eof()))
            roundtrip(c.open("echo.acme"), data(4 * MB))
            assert len(slow.got) < MB
            slow.held = False
            c.credit(slow)
            c.flush()
            assert slow.read_all() == reply
            task.result()
            slow.send(end=True)
            service.close()


def test_many_at_once(setting):
    """A hundred streams in each of two connections, one of which has its tunnel elsewhere."""
    def run(c):
        with c:
            payload = data(50_000)
            streams = [c.connect("echo.acme:443") for _ in range(100)]
            for s in streams:
                s.send(payload[:20_000])
            for s in streams:
                s.opened()
            assert setting.relay.metric("live_splices") >= 100
            for s in streams:
                s.send(payload[20_000:], end=True)
            for s in streams:
                assert s.read_all() == payload
    tasks = [Task(run, c) for c in setting.both("tls")]
    for t in tasks:
        t.result()
    assert setting.relay.metric("bytes_total", direction="up") >= 200 * 50_000


def test_eager(setting):
    for c in setting.both("tls"):
        with c:
            s = c.open("banner.acme")
            assert s.read(5) == b"hello"
            s.send(end=True)
            assert s.read_all() == b""
            assert c.connect("gone.acme").refused() == (502, "dial-failed")


def test_windows(setting):
    """What a stranger's stream can make the relay hold unread: a quarter of limits.stream_window."""
    with setting.client() as c:
        c.ping()
        assert c.h2.remote_settings.initial_window_size == 64 * 1024
        for s in (c.connect("nobody.acme"), c.connect("kbs.acme")):  # parked; its target reads nothing
            s.send(data(64 * 1024))
            c.ping()
            assert c.h2.local_flow_control_window(s.id) <= 64 * 1024
            s.abort()
        setting.svc.accept().close()


# ---- refusals ----

@pytest.mark.parametrize("how", HOW)
def test_refused(setting, how):
    with setting.client(how) as c:
        live = c.open("echo.acme")
        cases = {"kbs.nobody:443": (404, "unknown-service"), "nonsense": (404, "unknown-service"),
                 "kbs.acme:0": (400, "protocol"), "kbs.acme:99999": (400, "protocol"),
                 "a" * 300: (400, "protocol"), "[::1": (400, "protocol"),
                 "kbs,acme": (400, "protocol"), "broken.acme": (502, "dial-refused")}
        errors = {"unknown-service": "destination_not_found", "protocol": "http_request_error",
                  "dial-refused": "connection_refused"}
        for authority, expected in cases.items():
            stream = c.connect(authority)
            assert stream.refused() == expected, authority
            assert proxy_status(stream.head["proxy-status"]) == (errors[expected[1]], expected[1])
            # the client need not say the rest
            c.wait(lambda: stream.reset is not None)
            assert stream.reset == NO_ERROR
            ended = c.connect(authority, end=True)
            assert ended.refused() == expected, authority
            c.ping()
            assert ended.reset is None
        roundtrip(live, data(100_000))


@pytest.mark.parametrize("how", HOW)
def test_no_connect(setting, how):
    """Only CONNECT is done here; what else there is of HTTP/2 harms nobody."""
    with setting.client(how) as c:
        def request(method, end, *more):
            return c.request([(":method", method), (":scheme", "https"), (":path", "/tunnel"),
                              (":authority", "kbs.acme:443"), *more], end)
        for method in ("GET", "POST", "OPTIONS"):
            stream = request(method, False)
            assert stream.refused()[0] == 405
            assert stream.head["allow"] == "CONNECT"
            c.wait(lambda: stream.reset == NO_ERROR)
            assert request(method, True).refused()[0] == 405
        post = request("POST", False)
        post.send(data(10_000), end=True) if post.reset is None else None
        stream = request("CONNECT", False, (":protocol", "websocket"))
        assert stream.aborted() == PROTOCOL_ERROR
        stream = request("CONNECT", False)  # with a path: RFC 9113 8.5
        assert stream.aborted() == PROTOCOL_ERROR
        roundtrip(c.open("echo.acme"), data(1000))
        assert setting.relay.metric("refused_total", reason="internal") == 0


def test_parked(setting, world):
    """A stream waits for its agent, in whichever worker that arrives; or for nobody."""
    relay = world.relay(timeouts={"pickup": "10s"})
    clients = [client(relay, world.certificates) for _ in range(4)]
    waiting = [c.connect("echo.acme") for c in clients]
    for s in waiting:
        s.send(b"early")
    gone = clients[0].connect("echo.acme")
    relay.wait_metric("live_parked", lambda n: n == 5)
    gone.abort()
    relay.wait_metric("live_parked", lambda n: n == 4)
    lost = client(relay, world.certificates)
    lost.connect("echo.acme")
    relay.wait_metric("live_parked", lambda n: n == 5)
    lost.conn.abort()
    relay.wait_metric("live_parked", lambda n: n == 4)
    world.agent(relay, {"echo": setting.echo.address})
    for s in waiting:
        assert s.opened().read(5) == b"early"
        roundtrip(s, data(10_000))
    for c in clients:
        c.close()
    relay.wait_quiet()

    with setting.client() as c:
        began = time.monotonic()
        assert c.connect("nobody.acme").refused() == (504, "pickup-timeout")
        assert time.monotonic() - began > 1.5


def test_limits(world, setting):
    relay = world.relay(limits={"connections": 5, "streams_per_tunnel": 100},
                        services=[{"name": "near.acme", "targets": [setting.echo.address]}])
    world.agent(relay, {"echo": setting.echo.address})
    with client(relay, world.certificates) as c:
        # what is counted for a stream, descriptors too (twice the connections), is given back
        for _ in range(20):
            roundtrip(c.open("echo.acme"), b"x")
            roundtrip(c.open("near.acme"), b"x")
            assert c.connect("kbs.nobody").refused()[0] == 404
            c.open("echo.acme").abort()
            relay.wait_metric("connections", lambda n: n == 2)
        live = [c.open("echo.acme") for _ in range(3)]
        for _ in range(3):
            assert c.connect("echo.acme").refused() == (503, "limit")
        roundtrip(live.pop(), data(1000))
        relay.wait_metric("connections", lambda n: n == 4)
        live.append(c.open("echo.acme"))
        for s in live:
            roundtrip(s, data(1000))
    relay.wait_quiet()
    relay.wait_metric("connections", lambda n: n == 1)

    relay = world.relay("small", limits={"streams_per_tunnel": 3},
                        services=[{"name": "near.acme", "targets": [setting.echo.address]}])
    with client(relay, world.certificates) as c:
        c.ping()
        live = [c.open("near.acme") for _ in range(3)]
        with pytest.raises(h2.exceptions.TooManyStreamsError):  # it knows from SETTINGS
            c.connect("near.acme")
        for s in live:
            roundtrip(s, data(1000))
        c.open("near.acme").abort()
    with client(relay, world.certificates, "plain") as c:  # this one has not seen them yet
        streams = [c.connect("near.acme") for _ in range(5)]
        for s in streams[:3]:
            roundtrip(s, data(1000))
        assert [s.aborted() for s in streams[3:]] == [REFUSED_STREAM] * 2


def test_limit_of_what_waits_for_a_window(world, setting):
    """A stream counts until its client has it whole, wherever its bytes wait meanwhile."""
    relay = world.relay(limits={"connections": 16}, timeouts={"dead": PATIENT})
    world.agent(relay, {"kbs": setting.svc.address})
    for c in both_workers(relay, lambda: client(relay, world.certificates, "plain")):
        streams, reply = [], data(65535 + 20_000)
        for _ in range(11):  # with the clients themselves and the agent: 14, and it gets crowded
            s = c.connect("kbs.acme", end=True)
            s.held = True
            with setting.svc.accept() as service:
                service.send(reply)
            c.wait(lambda: len(s.got) == 65535)
            streams.append(s)
        relay.wait_metric("live_splices", lambda n: n in (0, 11))  # of a crossing, or of none
        assert c.connect("kbs.acme").refused() == (429, "source-limit")
        for s in streams:
            s.held = False
            c.credit(s)
            c.flush()
            assert s.read_all() == reply
        relay.wait_metric("connections", lambda n: n == 3)


# ---- what strangers send ----

def raw_settings(conn):
    """The server's SETTINGS: it has taken the preface."""
    head = conn.read_exactly(9)
    assert head[3] == 4 and head[4] == 0
    conn.read_exactly(int.from_bytes(head[:3], "big"))


@pytest.mark.parametrize("how", HOW)
def test_split_preface(setting, how):
    for at in range(1, len(PREFACE)):
        conn = dial(setting.relay.listeners["front"])
        if how == "tls":  # no ALPN: only the preface tells
            conn = TlsConn(conn, setting.certificates.client(), name="localhost")
        conn.send(PREFACE[:at])
        time.sleep(0.005)  # more likely seen apart; either is right
        conn.send(PREFACE[at:] + SETTINGS)
        raw_settings(conn)
        conn.close()
    conn = dial(setting.relay.listeners["front"])
    for byte in PREFACE:
        conn.send(bytes([byte]))
    conn.send(SETTINGS)
    raw_settings(conn)
    conn.close()


def test_garbage(setting):
    # not quite the preface
    with dial(setting.relay.listeners["front"]) as conn:
        conn.send(PREFACE[:-4] + b"\n\n\n\n")
        assert read_head(conn)[0].startswith(b"HTTP/1.1 400 ")
    for after in (b"GET / HTTP/1.1\r\n\r\n" * 10, b"\xff" * 100, SETTINGS + b"\0\0\2\0\0\0\0\0\1xx",
                  data(1000), SETTINGS + b"\xff\xff\xff\1\5\0\0\0\1"):
        for how in HOW:
            conn = dial(setting.relay.listeners["front"])
            if how == "tls":
                conn = over_tls(conn, setting.certificates)
            try:
                conn.send(PREFACE + after)
                while conn.recv():
                    pass
            except Aborted:
                pass
            conn.close()
    with setting.client() as c:
        roundtrip(c.open("echo.acme"), data(1000))


def test_only_at_its_door(world):
    relay = world.relay(front=False, listeners=[{"name": "front", "doors": ["tunnel"]}])
    with dial(relay.listeners["front"]) as conn:
        conn.send(PREFACE + SETTINGS)
        with pytest.raises(Aborted):
            conn.read_exactly(1)
    context = world.certificates.client(["h2"])
    tls = TlsConn(dial(relay.listeners["front"]), context, name="localhost")
    assert tls.tls.selected_alpn_protocol() is None
    tls.send(PREFACE + SETTINGS)
    assert read_head(tls)[0].startswith(b"HTTP/1.1 400 ")


def reset_many(c, n):
    """Opens n streams, each reset at once. False: the relay has ended the connection."""
    for _ in range(n // 100):
        for _ in range(100):
            id = c.h2.get_next_available_stream_id()
            c.h2.send_headers(id, [(":method", "CONNECT"), (":authority", "echo.acme")])
            c.h2.reset_stream(id)
        c.h2.ping(b"are you?")
        c.flush()
        answered = c.pongs + 1
        while c.pongs < answered and not c.closed:
            c.pump()
        if c.closed or c.goaways:
            return False
    return True


def test_rapid_reset(setting, world):
    """Ten thousand streams, opened and reset: the end of that client, and of no other."""
    with setting.client() as good:
        live = good.open("echo.acme")
        with setting.client() as bad:
            assert not reset_many(bad, 10_000)
            bad.wait_closed()
            assert bad.goaways and bad.goaways[-1][1] != NO_ERROR
        roundtrip(live, data(MB))
    assert setting.agent.running()


def frame(type, flags, id, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([type, flags]) + id.to_bytes(4, "big") + payload


class Flood:
    """Requests without end, from a client that has not seen the relay's SETTINGS."""

    def __init__(self, relay, method="CONNECT"):
        fields = [(":method", method), (":authority", "kbs.nobody")]
        if method == "GET":
            fields += [(":scheme", "https"), (":path", "/")]
        encoder = hpack.Encoder()
        self.first, self.block = encoder.encode(fields), encoder.encode(fields)
        self.flags = 5 if method == "GET" else 4
        self.sent = 0
        self.sock = socket.socket()
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.sock.setsockopt(socket.SOL_SOCKET, option, 16384)
        self.sock.connect(("127.0.0.1", relay.port()))
        self.sock.sendall(PREFACE + SETTINGS + frame(1, self.flags, 1, self.first))

    def run(self, n):
        for at in range(1, n, 1000):
            self.sock.sendall(b"".join(frame(1, self.flags, 2 * i + 1, self.block)
                                       for i in range(at, at + 1000)))
            self.sent = at + 1000
        return self.sent


@pytest.mark.parametrize("method", ["CONNECT", "GET"])
def test_answers_that_nobody_reads(world, method):
    """Who reads no answers is not read either, and that is its end: they would fill the memory."""
    relay = world.relay(limits={"streams_per_tunnel": 100}, timeouts={"ping": "1s", "dead": "3s"})
    flood = Flood(relay, method)
    with pytest.raises(OSError):
        flood.run(2_000_000)
    relay.wait_log(r"HTTP/2\) ended: tunnel-dead \(the peer has read nothing for 3000 ms\)")
    flood.sock.close()


def test_answers_that_are_read_late(world):
    """More of them than the relay keeps: they all come, once the client reads."""
    relay = world.relay(limits={"streams_per_tunnel": 100})
    flood = Flood(relay)
    sending = Task(flood.run, 1_000_000)
    last = [None, 0]

    def stuck():
        if flood.sent != last[0]:
            last[:] = flood.sent, time.monotonic()
        return time.monotonic() - last[1] > 1
    wait_for(stuck, "the relay reads no more")
    assert flood.sent < 1_000_000
    answered, got = set(), bytearray()
    while len(answered) < 1_000_000:
        more = flood.sock.recv(262144)
        assert more, "the relay has ended it"
        got += more
        at = 0
        while len(got) - at >= 9:
            size = 9 + int.from_bytes(got[at:at + 3], "big")
            if len(got) - at < size:
                break
            if got[at + 3] in (1, 3):  # HEADERS, RST_STREAM
                answered.add(bytes(got[at + 5:at + 9]))
            at += size
        del got[:at]
    assert sending.result() >= 1_000_000
    flood.sock.close()


# ---- proxies ----

def haproxy_of_the_docs(relay, port, certificates, how):
    """docs/proxies.md: what it shows, for this relay."""
    with open(os.path.join(ROOT, "docs", "proxies.md")) as f:
        text = re.search(r"    # haproxy\.cfg\n(?:    .*\n)+", f.read())[0]
    text = text.replace("127.0.0.1:3128", f"127.0.0.1:{port}").replace(
        "ca-file ca.pem", f"ca-file {certificates.ca}")
    here, server = f"127.0.0.1:{relay.port('front')}", "attest.example.net"
    assert text.count(server) == 3
    if how == "plain":
        return re.sub(rf"{server}:443 proto h2 .*", f"{here} proto h2", text)
    if how == "tls":
        text = text.replace(" crt node.pem", "")
    return text.replace(f"{server}:443", here).replace(server, "localhost")


@pytest.mark.parametrize("how", [*HOW, "certificate"])
def test_haproxy(setting, guarded, world, certificates, how):
    """HAProxy makes CONNECT over HTTP/1.1 one over HTTP/2."""
    need("haproxy")
    port, path = free_port(), world.path("haproxy.cfg")
    relay = guarded if how == "certificate" else setting.relay
    with open(path, "w") as f:
        f.write(haproxy_of_the_docs(relay, port, certificates, how))
    if how == "certificate":
        with open(world.path("node.pem"), "w") as f:
            for part in issue(certificates, "haproxy"):
                with open(part) as more:
                    f.write(more.read())
    proxy = Program(world, "haproxy", ["haproxy", "-db", "-C", world.folder, "-f", path],
                    expect=(143, 0, -15))

    def up():
        assert proxy.running(), proxy.tail()
        try:
            return dial(f"tcp:127.0.0.1:{port}")
        except OSError:
            return None
    wait_for(up, "haproxy").close()
    for _ in range(3):
        conn = dial(f"tcp:127.0.0.1:{port}")
        http_connect(conn, "echo.acme")
        payload = data(MB)
        task = Task(lambda: (conn.send(payload), conn.eof()))
        assert conn.read_all() == payload
        task.result()
        conn.close()
    conns = [http_connect(dial(f"tcp:127.0.0.1:{port}"), "echo.acme") for _ in range(20)]
    assert relay.metric("live_h2_clients") <= os.cpu_count()  # one for each of its threads
    for conn in conns:
        conn.send(b"hello")
        assert conn.read_exactly(5) == b"hello"
        conn.close()
    refusals = {"kbs.nobody": 404, "nobody.acme": 504, "broken.acme": 502}
    for name, status in refusals.items() if relay is setting.relay else ():
        conn = dial(f"tcp:127.0.0.1:{port}")
        with pytest.raises(Refused) as refused:
            http_connect(conn, name)
        assert refused.value.status == status
        conn.close()
    proxy.stop()


# ---- time ----

def test_drain(world, setting):
    """SIGTERM: GOAWAY, live streams finish, then the relay ends."""
    relay = world.relay(timeouts={"drain": "20s", "dead": PATIENT})
    world.agent(relay, {"echo": setting.echo.address})
    idle = client(relay, world.certificates, "plain")
    idle.ping()
    clients = [client(relay, world.certificates, how) for how in HOW * 2]
    streams = [c.open("echo.acme") for c in clients]
    for s in streams:
        s.send(b"before")
        assert s.read(6) == b"before"
    dialled = dial(relay.listeners["front"])  # and has not said what it speaks
    relay.wait_metric("live_intakes", lambda n: n == 1)
    relay.signal(signal.SIGTERM)
    for c in clients:
        c.wait(lambda: len(c.goaways) == 2)
        assert [code for _, code in c.goaways] == [NO_ERROR, NO_ERROR]
        assert c.goaways[0][0] == 2**31 - 1 and c.goaways[1][0] == 1
    for c in idle, H2Client(dialled):
        c.wait_closed()
        assert c.closed == "end" and c.goaways[-1][1] == NO_ERROR
    late = clients[0].connect("echo.acme")  # after it was told not to
    for s in streams:
        roundtrip(s, data(MB))
    assert late.status is None
    for c in clients:
        c.wait_closed()
        assert c.closed == "end"
    assert relay.running() is False or relay.wait() == 0
    relay.finish()


@pytest.mark.parametrize("size", [65535, 65535 + 20_000])  # END_STREAM alone; bytes as well
def test_drain_of_what_waits_for_a_window(world, setting, size):
    """A reply that the service has ended is whole, however late its client reads it."""
    relay = world.relay(timeouts={"drain": "20s", "dead": PATIENT})
    world.agent(relay, {"kbs": setting.svc.address})
    both = both_workers(relay, lambda: client(relay, world.certificates, "plain"))
    streams, reply = [], data(size)
    for c in both:
        s = c.connect("kbs.acme")
        s.held = True
        s.send(b"all", end=True)
        service = setting.svc.accept()
        assert service.read_exactly(3) == b"all"
        service.send(reply)
        c.wait(lambda: len(s.got) == 65535)
        service.close()
        streams.append(s)
    # all but the one in the tunnel's worker, if it has bytes left
    relay.wait_metric("live_splices", lambda n: n == (size > 65535))

    def is_over(s):
        port = s.client.conn.sock.getsockname()[1]
        return relay.count(rf"127.0.0.1:{port} -> kbs.acme via .* eof")
    relay.signal(signal.SIGTERM)
    for s in sorted(streams, key=is_over):
        s.client.wait(lambda: len(s.client.goaways) >= 2)
        time.sleep(0.5)  # the relay looks several times whether it is idle
        s.held = False
        s.client.credit(s)
        s.client.flush()
        assert s.read_all() == reply
        s.client.wait_closed()
        assert s.client.closed == "end"
    relay.finish()


def test_shutdown_cuts(world, setting):
    relay = world.relay(timeouts={"drain": "0"})
    world.agent(relay, {"echo": setting.echo.address})
    with client(relay, world.certificates) as c:
        stream = c.open("echo.acme")
        parked = c.connect("nobody.acme")
        relay.wait_metric("live_parked", lambda n: n == 1)
        relay.stop()
        c.wait_closed()
        assert stream.reset == CONNECT_ERROR
        assert (parked.status, parked.reason) == (503, "shutdown")


def test_idle(world, setting):
    """A connection without streams is retired after timeouts.idle, one with streams is not."""
    relay = world.relay(timeouts={"idle": "1s"}, services=[{"name": "echo.acme", "idle": "1h"}])
    world.agent(relay, {"echo": setting.echo.address})
    never, after, busy = (client(relay, world.certificates) for _ in range(3))
    roundtrip(after.open("echo.acme"), b"x")
    live = busy.open("echo.acme")
    for c in (never, after):
        c.wait_closed()
        assert c.closed == "end" and c.goaways[-1][1] == NO_ERROR
    busy.ping()
    assert not busy.goaways
    roundtrip(live, data(1000))
    busy.wait_closed()


def test_clients_in_the_log(world, setting):
    relay = world.relay()
    with client(relay, world.certificates, "plain") as c:
        assert c.connect("kbs.nobody").refused()[0] == 404
        c.ping()
    relay.wait_log(r"client tcp:127.0.0.1:\d+ \(front, HTTP/2\) ended: eof \(.*\), 1 streams")
    assert relay.count(r"-> kbs.nobody \(front\): refused: unknown-service") == 1
    with client(relay, world.certificates, "plain") as c:
        c.connect("nobody.acme")
        relay.wait_metric("live_parked", lambda n: n == 1)
    relay.wait_log(r"HTTP/2\) ended: reset \(.*\), 1 streams")
    relay.wait_log(r"-> nobody.acme \(front, connect\): refused after .*: reset")
    assert relay.metric("refused_total", reason="reset") == 1
    c = client(relay, world.certificates)
    c.ping()
    c.conn.truncate()
    relay.wait_log(r"HTTP/2\) ended: reset \(the peer closed it without TLS's close_notify\), 0")


def test_dead_client(world, setting):
    """Who answers no PING is dead, and its streams' far ends are told."""
    relay = world.relay(timeouts={"ping": "200ms", "dead": "1s"})
    world.agent(relay, {"kbs": setting.svc.address}, timeouts={"ping": "200ms", "dead": "1s"})
    c = client(relay, world.certificates)
    stream = c.connect("kbs.acme")
    stream.send(b"first")
    service = setting.svc.accept()
    assert service.read_exactly(5) == b"first"
    with pytest.raises(Aborted):
        service.recv()
    relay.wait_log(r"HTTP/2\) ended: tunnel-dead")
    c.close()


# ---- certificates of clients ----

def issue(certificates, name, ca="ca", days="2"):
    certificates.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    certificates.run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey",
                     f"{ca}.key", "-CAcreateserial", "-days", days, "-out", f"{name}.pem")
    base = os.path.join(certificates.folder, name)
    return f"{base}.pem", f"{base}.key"


@pytest.fixture(scope="module")
def guarded(setting, module_world):
    relay = module_world.relay(
        "guarded", front=False,
        listeners=[{"name": "front", "doors": ["tunnel", "sni", "connect"],
                    "client_ca": module_world.certificates.ca}],
        limits={"per_source": {"opens_per_second": 100_000},
                "per_owner": {"opens_per_second": 100_000}})
    module_world.agent(relay, {"echo": setting.echo.address})  # shows none
    return relay


def test_certificate(setting, guarded, certificates):
    node = issue(certificates, "node")
    with client(guarded, certificates, pair=node) as c:
        roundtrip(c.open("echo.acme"), data(MB))
        assert c.h2.remote_settings.initial_window_size == 256 * 1024
        assert reset_many(c, 10_000)  # it passes on what its own clients do
        roundtrip(c.open("echo.acme"), data(MB))
    context = certificates.client()
    context.load_cert_chain(*node)
    with TlsConn(dial(guarded.listeners["front"]), context, name="localhost") as tls:
        http_connect(tls, "echo.acme")
    guarded.wait_quiet()


@pytest.mark.parametrize("how", HOW)
def test_no_certificate(setting, guarded, certificates, how):
    with client(guarded, certificates, how) as c:
        for _ in range(3):
            assert c.connect("echo.acme").refused() == (403, "forbidden")
        assert c.connect("kbs.nobody").refused() == (403, "forbidden")
    conn = dial(guarded.listeners["front"])
    if how == "tls":
        conn = TlsConn(conn, certificates.client(), name="localhost")
    with pytest.raises(Refused) as refused:
        http_connect(conn, "echo.acme")
    assert refused.value.status == 403
    conn.close()
    guarded.wait_quiet()
    guarded.wait_metric("connections", lambda n: n == 1)


@pytest.mark.parametrize("kind", ["other-ca", "expired", "self-signed"])
def test_bad_certificate(setting, guarded, certificates, kind):
    if kind == "other-ca":
        pair = issue(certificates, "stranger", "other-ca")
    elif kind == "expired":
        pair = issue(certificates, "expired", days="-1")
    else:
        pair = (certificates.other_ca, certificates.other_ca[:-3] + "key")
    for alpn in (["h2"], ["http/1.1"]):
        context = certificates.client(alpn)
        context.load_cert_chain(*pair)
        with pytest.raises((Aborted, ssl.SSLError, OSError)):
            tls = TlsConn(dial(guarded.listeners["front"]), context, name="localhost")
            tls.send(PREFACE + SETTINGS)
            got = tls.read_exactly(1)  # in TLS 1.3 the alert comes after the handshake
            raise AssertionError(f"let in: {got!r}")
    assert guarded.metric("refused_total", reason="handshake-failed") >= 1
    guarded.wait_quiet()
