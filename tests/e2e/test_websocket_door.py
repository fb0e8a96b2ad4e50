# The door websocket: clients made of python3-websockets, and by hand where a library would not do it.
import asyncio
import random
import re
import struct
import time

import pytest

from harness import DEADLINE, DOMAIN, MB, Task, data, free_port, missing, wait_for
from streams import Aborted, Service, TlsConn, dial, echo, read_head
from wire import websocket_message

try:
    import websockets
except ImportError:
    websockets = None

CLIENTS = 1000
EOF, GOING, PROTOCOL, TYPE, FAILED = 1000, 1001, 1002, 1003, 1011
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # and what is answered to it: RFC 6455 section 1.3
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
CLOSE, PING, PONG = 8, 9, 10


@pytest.fixture(autouse=True, scope="module")
def counterpart():
    if not websockets:
        missing("python3-websockets is not installed")


class Setting:
    def __init__(self, world):
        self.world, self.certificates = world, world.certificates
        self.svc = world.add(Service())
        self.echo = world.add(Service(handler=echo))
        banner = world.add(Service(handler=lambda c: (c.send(b"hello"), echo(c))))
        self.relay = world.relay(
            listeners=[{"name": "ws", "doors": ["websocket"]},
                       {"name": "all", "doors": ["tunnel", "sni", "connect", "websocket"]},
                       {"name": "nodes", "doors": ["connect", "websocket"],
                        "client_ca": world.certificates.ca},
                       {"name": "unix", "doors": ["websocket"],
                        "address": f"unix:{world.path('ws')}"}],
            timeouts={"pickup": "2s", "half_closed": "10s", "handshake": "5s"},
            services=[{"name": "near.acme", "targets": [self.echo.address]},
                      {"name": "direct.acme", "targets": [self.svc.address]},
                      {"name": "broken.acme", "targets": [f"tcp:127.0.0.1:{free_port()}"]}])
        self.agent = world.agent(self.relay, [
            {"name": "kbs", "target": self.svc.address},
            {"name": "echo", "target": self.echo.address},
            {"name": "gone", "target": f"tcp:127.0.0.1:{free_port()}", "dial": "eager"},
            {"name": "banner", "target": banner.address, "dial": "eager"}])

    # by the library

    def connect(self, service, tls=False, listener="ws", pair=None, **more):
        context = self.certificates.client() if tls else None
        if pair:
            context.load_cert_chain(*pair)
        return websockets.connect(
            f"{'wss' if tls else 'ws'}://{DOMAIN}/connect/{service}", host="127.0.0.1",
            port=self.relay.port(listener), ssl=context, max_size=None, compression=None,
            open_timeout=DEADLINE, close_timeout=DEADLINE, **more)

    # by hand

    def conn(self, tls=False, listener="ws"):
        conn = dial(self.relay.listeners[listener])
        return TlsConn(conn, self.certificates.client(), name=DOMAIN, fin=True) if tls else conn

    def raw(self, service, early=b"", **more):
        return Raw(self.conn(**more), service, early)

    def pair(self, service="kbs.acme", **more):
        """A WebSocket by hand, and the service's end of it."""
        c = self.raw(service, **more)
        c.message(b"first")
        s = self.svc.accept()
        assert s.read_exactly(5) == b"first"
        return c, s

    def ended(self, reason):
        return Ended(self.relay, reason)


class Ended:
    """Asserts that a stream ends in the block, for this reason and for no other."""

    def __init__(self, relay, reason):
        self.relay, self.reason = relay, reason

    def of(self, **labels):
        return self.relay.metric("stream_ended_total", **labels)

    def __enter__(self):
        self.relay.wait_quiet()
        self.before = self.of(reason=self.reason), self.of()

    def __exit__(self, kind, *_):
        if kind:
            return
        wait_for(lambda: self.of() > self.before[1], "a stream ends")
        wait_for(lambda: (self.of(reason=self.reason), self.of()) ==
                 (self.before[0] + 1, self.before[1] + 1),
                 lambda: f"one stream ends by {self.reason}\n{self.relay.tail()}")


def request(target, method="GET", key=KEY, version="13", upgrade="websocket", protocols=None,
            more=""):
    return (f"{method} {target} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: Upgrade\r\n" +
            (f"Upgrade: {upgrade}\r\n" if upgrade else "") +
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {version}\r\n" +
            (f"Sec-WebSocket-Protocol: {protocols}\r\n" if protocols else "") +
            more + "\r\n").encode()


class Raw:
    """A WebSocket by hand. early: what is sent with the request already."""

    def __init__(self, conn, service, early=b""):
        self.conn = conn
        conn.send(request(f"/connect/{service}") + early)
        self.head, self.buffer = read_head(conn)
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        assert b"Sec-WebSocket-Accept: " + ACCEPT in self.head

    def message(self, payload, **more):
        self.conn.send(websocket_message(payload, **more))

    def close_with(self, code):
        self.message(struct.pack(">H", code) if code else b"", opcode=CLOSE)

    def need(self, n):
        while len(self.buffer) < n:
            got = self.conn.recv()
            assert got, f"end inside a frame: {self.buffer!r}"
            self.buffer += got

    def frame(self):
        """(opcode, payload)"""
        self.need(2)
        assert self.buffer[0] & 0xf0 == 0x80 and self.buffer[1] < 128, "fragmented, or masked"
        n, at = self.buffer[1], 2
        if n > 125:
            at += 2 if n == 126 else 8
            self.need(at)
            n = int.from_bytes(self.buffer[2:at], "big")
        self.need(at + n)
        opcode, payload = self.buffer[0] & 15, self.buffer[at:at + n]
        self.buffer = self.buffer[at + n:]
        return opcode, payload

    def read_exactly(self, n):
        got = b""
        while len(got) < n:
            opcode, payload = self.frame()
            assert opcode == 2, (opcode, payload)
            got += payload
        assert len(got) == n
        return got

    def closed(self):
        """The code of the relay's close, which comes next."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload[:100])
        return struct.unpack(">H", payload)[0] if payload else None

    def at_end(self):
        return not self.buffer and self.conn.recv() == b""


@pytest.fixture(scope="module")
def setting(module_world):
    return Setting(module_world)


@pytest.fixture(autouse=True)
def nothing_left_behind(setting):
    yield
    setting.relay.wait_quiet()
    setting.relay.wait_metric("connections", lambda n: n == 1)  # the agent's
    assert setting.svc.none_waiting()


async def exchange(ws, payload):
    """To an echo service and back, in messages of all sizes; then the close."""
    async def write():
        at, sizes = 0, random.Random(7)
        while at < len(payload):
            n = sizes.choice([1, 125, 126, 4096, 65535, 65536, 300_000])
            piece = payload[at:at + n]
            at += n
            if n == 4096:  # in fragments
                await ws.send([piece[:1], piece[1:]] if len(piece) > 1 else piece)
            else:
                await ws.send(piece)
    task = asyncio.ensure_future(write())
    got = bytearray()
    while len(got) < len(payload):
        message = await ws.recv()
        assert isinstance(message, bytes)
        got += message
    await task
    assert bytes(got) == payload, "other bytes came back"
    await ws.close()
    assert ws.close_code == EOF


# ---- bytes ----

@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("service", ["near.acme", "ECHO.Acme"])
def test_bytes_both_ways(setting, service, tls):
    async def run():
        for _ in range(2):
            async with setting.connect(service, tls=tls) as ws:
                assert ws.subprotocol is None and not ws.extensions
                await exchange(ws, data(4 * MB))
    asyncio.run(run())


@pytest.mark.parametrize("listener,tls", [("all", False), ("all", True)])
def test_beside_other_doors(setting, listener, tls):
    async def run():
        async with setting.connect("echo.acme", tls=tls, listener=listener) as ws:
            await exchange(ws, data(MB))
    asyncio.run(run())
    # and these are not there where nobody asked for them
    conn = setting.conn(listener="ws")
    conn.send(f"CONNECT near.acme:443 HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
    assert b" 400 " in read_head(conn)[0]
    conn = dial(setting.relay.listeners["front"])
    conn.send(request("/connect/near.acme"))
    assert b" 400 " in read_head(conn)[0]


def test_over_a_unix_socket(setting):
    c = setting.raw("near.acme", listener="unix")
    c.message(b"hello")
    assert c.read_exactly(5) == b"hello"
    c.close_with(EOF)
    assert c.closed() == EOF and c.at_end()


def test_bytes_before_the_101(setting):
    # against the RFC's letter, but not lost
    c = setting.raw("echo.acme", early=websocket_message(b"early ") + websocket_message(b"bird"))
    assert c.read_exactly(10) == b"early bird"
    c.close_with(EOF)
    assert c.closed() == EOF and c.at_end()


def test_service_speaks_first(setting):
    c = setting.raw("banner.acme")
    assert c.read_exactly(5) == b"hello"
    c.close_with(EOF)
    assert c.closed() == EOF


def test_many_at_once(setting):
    payload = data(20_000)

    async def one(gate):
        async with gate:
            return await setting.connect("echo.acme")

    async def use(ws):
        await ws.send(payload)
        got = b""
        while len(got) < len(payload):
            got += await ws.recv()
        assert got == payload
        await ws.close()
        assert ws.close_code == EOF

    async def run():
        gate = asyncio.Semaphore(100)
        all_of_them = await asyncio.gather(*(one(gate) for _ in range(CLIENTS)))
        assert setting.relay.metric("connections") == CLIENTS + 1
        await asyncio.gather(*(use(ws) for ws in all_of_them))
    asyncio.run(run())


def test_slow_reader(setting):
    """Backpressure up to the service, and nothing is lost."""
    c, s = setting.pair(tls=True)
    payload = data(8 * MB)
    sent = [0]

    def write():
        for at in range(0, 64 * MB, len(payload)):
            for i in range(0, len(payload), 65536):
                s.send(payload[i:i + 65536])
                sent[0] += 65536
        s.eof()
    s.timeout(4 * DEADLINE)
    task = Task(write)
    seen = [-1]

    def stalled():
        before, seen[0] = seen[0], sent[0]
        return before == seen[0]
    wait_for(stalled, "the service is held up", every=1)
    assert sent[0] < 32 * MB and setting.relay.rss() < 400 * MB
    got, total = bytearray(), 0
    while total < 64 * MB:
        opcode, piece = c.frame()
        assert opcode == 2
        total += len(piece)
        got += piece
        while len(got) >= len(payload):
            assert got[:len(payload)] == payload, "other bytes came"
            del got[:len(payload)]
    assert c.closed() == EOF
    c.close_with(EOF)
    task.result()
    assert s.recv() == b"" and c.at_end()
    s.close()
    c.conn.close()


# ---- ends ----

WAYS = pytest.mark.parametrize("service", ["kbs.acme", "direct.acme"])


@WAYS
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_half_closed_by_the_service(setting, service, tls):
    with setting.ended("eof"):
        c, s = setting.pair(service, tls=tls)
        tail = data(300_000)
        writer = Task(lambda: (s.send(tail), s.eof()))
        assert c.read_exactly(len(tail)) == tail
        assert c.closed() == EOF
        writer.result()
        # our direction is still open
        more = data(300_000)
        writer = Task(lambda: (c.message(more), c.close_with(EOF)))
        assert s.read_exactly(len(more)) == more and s.recv() == b""
        writer.result()
        assert c.at_end()
        s.close()


@WAYS
@pytest.mark.parametrize("code", [EOF, GOING, None])
def test_closed_by_the_client(setting, service, code):
    with setting.ended("eof"):
        c, s = setting.pair(service)
        last = data(300_000)
        writer = Task(lambda: (c.message(last), c.close_with(code)))
        assert s.read_exactly(len(last)) == last and s.recv() == b""
        writer.result()
        # answered, and the connection ended, whatever the service still does
        assert c.closed() == code and c.at_end()
        assert setting.relay.metric("live_splices") == 1
        s.close()


@WAYS
def test_service_speaks_after_the_close(setting, service):
    """It is heard out for some seconds, in vain; then it is reset."""
    with setting.ended("closed-early"):
        c, s = setting.pair(service)
        c.close_with(EOF)
        assert c.closed() == EOF and c.at_end()
        assert s.recv() == b""

        def is_reset():
            try:
                s.send(b"is anybody there?" * 1000)
            except Aborted:
                return True
            return False
        begin = time.monotonic()
        wait_for(is_reset, "a reset", every=0.1)
        assert time.monotonic() - begin > 5


@WAYS
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("size", [300_000, 8 * MB])
def test_slow_service_gets_all(setting, service, size, tls):
    """The close comes while the service is behind, and talking: nothing that it says then harms
    what it has yet to read."""
    with setting.ended("eof"):
        c, s = setting.pair(service, tls=tls)
        payload = data(size)
        writer = Task(lambda: (c.message(payload), c.close_with(EOF)))
        if size < MB:  # the relay is through with the client before the service reads a byte
            writer.result()
            assert c.closed() == EOF and c.at_end()
            c.conn.close()
        got = bytearray()
        while len(got) < len(payload):
            s.send(b"so far so good")
            piece = s.recv(65536)
            assert piece, f"end after {len(got)} bytes"
            got += piece
        assert bytes(got) == payload and s.recv() == b""
        writer.result()
        s.send(b"that was all")
        s.close()


@WAYS
@pytest.mark.parametrize("how", [3000, FAILED, "fin", "reset"])
def test_aborted_by_the_client(setting, service, how):
    with setting.ended("reset"):
        c, s = setting.pair(service)
        if how == "fin":
            c.conn.eof()
        elif how == "reset":
            c.conn.abort()
        else:
            c.close_with(how)
            assert c.closed() == how and c.at_end()
        with pytest.raises(Aborted):
            s.recv()


@WAYS
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_aborted_by_the_service(setting, service, tls):
    with setting.ended("target-reset"):
        c, s = setting.pair(service, tls=tls)
        s.abort()
        assert c.closed() == FAILED
        c.close_with(FAILED)
        assert c.at_end()


@pytest.mark.parametrize("fault,code", [
    (websocket_message(b"hello", opcode=1), TYPE),
    (websocket_message(b"hello", masked=False), PROTOCOL),
    (websocket_message(b"hello", opcode=5), PROTOCOL),
    (websocket_message(b"", opcode=0), PROTOCOL),
    (websocket_message(b"x" * 126, opcode=PING), PROTOCOL),
    (websocket_message(b"\x03", opcode=CLOSE), PROTOCOL),
    (websocket_message(struct.pack(">H", 1005), opcode=CLOSE), PROTOCOL),
], ids=["text", "unmasked", "opcode", "continuation", "long-ping", "close", "close-code"])
def test_broken_protocol(setting, fault, code):
    with setting.ended("protocol"):
        c, s = setting.pair()
        c.conn.send(fault)
        assert c.closed() == code and c.at_end()
        with pytest.raises(Aborted):
            s.recv()


def test_pings(setting):
    c, s = setting.pair()
    c.message(b"are you there?", opcode=PING)
    assert c.frame() == (PONG, b"are you there?")
    c.message(b"unasked", opcode=PONG)
    c.message(b"between", fin=False)
    c.message(b"", opcode=PING)
    c.message(b" fragments", opcode=0)
    assert c.frame() == (PONG, b"")
    assert s.read_exactly(17) == b"between fragments"
    c.close_with(EOF)
    assert s.recv() == b""
    s.close()
    assert c.closed() == EOF


# ---- no ----

def refused(setting, head, early=b"", **more):
    conn = setting.conn(**more)
    conn.send(head + early)
    answer, rest = read_head(conn)
    length = int(re.search(rb"Content-Length: (\d+)", answer)[1])
    while len(rest) < length:
        rest += conn.recv()
    assert conn.recv() == b"", "the connection is ended"
    return int(answer.split()[1]), rest.decode(), answer.decode()


@pytest.mark.parametrize("name,status,word", [
    ("nobody.acme/", 404, "unknown-service"),
    ("acme", 404, "unknown-service"),
    ("", 404, "unknown-service"),
    ("near.nobody", 404, "unknown-service"),
    ("near%2eacme", 404, "unknown-service"),
    ("near.acme/more", 404, "unknown-service"),
    ("x" * 3000, 404, "unknown-service"),
    ("near.acme" + "x" * 119, 404, "unknown-service"),
    ("absent.acme", 504, "pickup-timeout"),
    ("broken.acme", 502, "dial-refused"),
    ("gone.acme", 502, "dial-failed"),
])
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_no_target(setting, name, status, word, tls):
    before = setting.relay.metric("refused_total", reason=word)
    said, body, _ = refused(setting, request(f"/connect/{name}"), tls=tls)
    assert said == status and f"({word})" in body, body
    assert setting.relay.metric("refused_total", reason=word) == before + 1


@pytest.mark.parametrize("head,status,header", [
    (request("/connect/near.acme", method="POST"), 405, "Allow: GET"),
    (request("/connect/near.acme", upgrade=None), 426, "Upgrade: websocket"),
    (request("/connect/near.acme", version="8"), 426, "Sec-WebSocket-Version: 13"),
    (request("/connect/near.acme", key="short"), 400, ""),
    (request("/connect/near.acme", protocols="base64, chat"), 400, ""),
    (request("/connect/near.acme").replace(b"HTTP/1.1", b"HTTP/1.0"), 400, ""),
    (request("/connect/near.acme").replace(b"Host", b"Hast"), 400, ""),
    (request("/"), 400, ""),
    (request("/connect"), 400, ""),
    (request("/tunnel"), 400, ""),
    (request("http://near.acme/connect/near.acme"), 400, ""),
    (request("/connect/near.acme", more=f"X: {'x' * 9000}\r\n"), 431, ""),
])
def test_no_handshake(setting, head, status, header):
    before = setting.relay.metric("streams_total")
    said, _, answer = refused(setting, head, early=b"")
    assert said == status and header in answer
    assert setting.relay.metric("streams_total") == before


def test_query_is_nobodys(world):
    svc = world.add(Service(handler=echo))
    relay = world.relay(listeners=[{"name": "ws", "doors": ["websocket"]}],
                        services=[{"name": "near.acme", "targets": [svc.address]}])
    for name, status in (("near.acme", b" 101 "), ("nobody.acme.else", b" 404 ")):
        with dial(relay.listeners["ws"]) as conn:
            conn.send(request(f"/connect/{name}?token=s3cr3t&a=/b?c"))
            assert status in read_head(conn)[0]
    relay.wait_log(r"nobody\.acme\.else")
    relay.wait_log(r"-> near\.acme ")
    assert "s3cr3t" not in relay.log() and "token=" not in relay.log()


def test_subprotocols(setting):
    async def run():
        async with setting.connect("near.acme", subprotocols=["base64", "binary"]) as ws:
            assert ws.subprotocol == "binary"
            await exchange(ws, b"hello")
        with pytest.raises(websockets.InvalidStatusCode) as e:
            await setting.connect("near.acme", subprotocols=["base64"])
        assert e.value.status_code == 400
    asyncio.run(run())


def test_no_extension(setting):
    """What is offered is not agreed to, and so not used."""
    conn = setting.conn()
    conn.send(request("/connect/echo.acme", more="Sec-WebSocket-Extensions: permessage-deflate; "
                      "client_max_window_bits, x-webkit-deflate-frame\r\n"))
    head, rest = read_head(conn)
    assert head.startswith(b"HTTP/1.1 101 ") and b"extensions" not in head.lower() and not rest
    conn.send(b"\xc2\x80" + b"\0\0\0\0")  # RSV1: compressed
    assert conn.read_exactly(4) == b"\x88\x02" + struct.pack(">H", PROTOCOL)
    assert conn.recv() == b""


def test_client_certificates(setting):
    async def run():
        for service in ("near.acme", "echo.acme"):
            async with setting.connect(service, tls=True, listener="nodes",
                                       pair=setting.certificates.elsewhere) as ws:
                await exchange(ws, data(100_000))
    asyncio.run(run())
    for tls in (False, True):
        for name in ("near.acme", "nobody.acme/"):  # a name tells a stranger nothing
            status, body, _ = refused(setting, request(f"/connect/{name}"), tls=tls,
                                      listener="nodes")
            assert status == 403 and "(forbidden)" in body, body


def test_limits(world):
    svc = world.add(Service(handler=echo))
    relay = world.relay(listeners=[{"name": "ws", "doors": ["websocket"]}],
                        timeouts={"pickup": "20s"}, limits={"parked": 1},
                        services=[{"name": "near.acme", "targets": [svc.address]}])
    waiting = dial(relay.listeners["ws"])
    waiting.send(request("/connect/late.acme"))
    relay.wait_metric("live_parked", lambda n: n == 1)
    conn = dial(relay.listeners["ws"])
    conn.send(request("/connect/late.acme"))
    head, body = read_head(conn)
    assert b" 503 " in head and b"(limit)" in body + conn.read_all()
    # whoever is reset while waiting is noticed; a FIN alone could be half of an end
    waiting.abort()
    relay.wait_metric("live_parked", lambda n: n == 0)
    relay.wait_quiet()


def test_parked_until_the_agent_comes(world):
    svc = world.add(Service(handler=echo))
    relay = world.relay(listeners=[{"name": "ws", "doors": ["websocket"]}],
                        timeouts={"pickup": f"{DEADLINE}s"})
    conns = [dial(relay.listeners["ws"]) for _ in range(20)]
    for c in conns:
        c.send(request("/connect/kbs.acme") + websocket_message(b"patience"))
    relay.wait_metric("live_parked", lambda n: n == len(conns))
    world.agent(relay, {"kbs": svc.address})
    for c in conns:
        assert b" 101 " in read_head_and_keep(c)
        ws = Raw.__new__(Raw)
        ws.conn, ws.buffer = c, c.pending
        c.pending = b""
        assert ws.read_exactly(8) == b"patience"
        ws.close_with(EOF)
        assert ws.closed() == EOF and ws.at_end()


def read_head_and_keep(conn):
    head, conn.pending = read_head(conn)
    return head


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_ends_with_the_relay(world, tls):
    svc = world.add(Service())
    relay = world.relay(listeners=[{"name": "ws", "doors": ["websocket"]}],
                        timeouts={"drain": "1s"},
                        services=[{"name": "near.acme", "targets": [svc.address]}])
    conn = dial(relay.listeners["ws"])
    c = Raw(TlsConn(conn, world.certificates.client(), name=DOMAIN) if tls else conn, "near.acme")
    s = svc.accept()
    relay.signal(15)
    assert c.closed() == FAILED
    c.close_with(FAILED)
    with pytest.raises(Aborted):
        s.recv()
    relay.stop()
    assert re.search(r"near\.acme .*\(ws, websocket\): .*shutdown", relay.log()), relay.tail()


def test_time_outs(world):
    svc = world.add(Service())
    relay = world.relay(listeners=[{"name": "ws", "doors": ["websocket"]}],
                        timeouts={"idle": "1s", "handshake": "1s", "half_closed": "1s"},
                        services=[{"name": "near.acme", "targets": [svc.address]}])
    slow = dial(relay.listeners["ws"])
    slow.send(request("/connect/near.acme")[:-2])
    assert b" 408 " in read_head(slow)[0]
    c = Raw(dial(relay.listeners["ws"]), "near.acme")
    s = svc.accept()
    c.message(b"", opcode=PING)  # is no byte of the stream
    assert c.frame() == (PONG, b"")
    assert c.closed() == FAILED
    with pytest.raises(Aborted):
        s.recv()
    # a client that has been told the end, and does not answer
    c = Raw(dial(relay.listeners["ws"]), "near.acme")
    s = svc.accept()
    s.eof()
    assert c.closed() == EOF
    with pytest.raises(Aborted):
        c.conn.recv()
    relay.wait_log("half-closed-idle")
