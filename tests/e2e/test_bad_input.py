# What a stranger, a broken agent or a broken relay may send: refused, counted, said with restraint,
# while a second tenant's stream goes on unharmed.
import os
import re
import struct
import threading
import time

import pytest

from harness import DOMAIN, MB, Task, data, wait_for
from streams import Aborted, Doors, Service, TlsConn, connect_head, dial, echo, roundtrip
from wire import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING,
                  PREFACE, PUSH, RST, SETTINGS, WINDOW, RawAgent, RawRelay, Wire, frame,
                  websocket_message, websocket_open)

OVER = (EOFError, OSError, Aborted)


class Bystander:
    """Another owner's stream, always moving: every byte checked."""

    def __init__(self, relay):
        self.relay, self.rounds, self.stop = relay, 0, threading.Event()
        self.worst = 0  # seconds of the slowest round since it was last asked for
        self.task = Task(self.run)

    def run(self):
        with Doors(self.relay, None).connect_plain("kbs.good") as c:
            while not self.stop.is_set():
                block, begin = data(50_000), time.monotonic()
                c.send(block)
                assert c.read_exactly(len(block)) == block, "the other tenant's bytes"
                self.worst = max(self.worst, time.monotonic() - begin)
                self.rounds += 1
                time.sleep(0.01)  # it is to run beside, not to load the machine
            c.eof()
            assert c.recv() == b""

    def moves(self):
        n = self.rounds
        wait_for(lambda: self.task.error or self.rounds > n + 2, "the other tenant's stream moves")
        if self.task.error:
            raise self.task.error

    def was_prompt(self):
        worst, self.worst = self.worst, 0
        assert worst < 5, f"the other tenant waited {worst:.1f} s"  # a round takes about 15 ms


class Setting:
    def __init__(self, world):
        self.world = world
        self.token = world.token()[0]
        svc = world.add(Service(handler=echo))
        self.relay = world.relay(
            owners=[world.owner("acme"), world.owner("good")],
            timeouts={"handshake": "3s", "pickup": "2s", "dead": "10s"},
            limits={"per_owner": {"tunnels": 200}})
        world.agent(self.relay, {"kbs": svc.address}, owner="good", name="good")
        self.bystander = Bystander(self.relay)

    def raw(self, **more):
        return self.world.add(RawAgent(self.relay, self.world.certificates,
                                       **{"token": self.token, **more}))

    def tls(self, alpn=None):
        return TlsConn(dial(self.relay.listeners["front"]), self.world.certificates.client(alpn),
                       name=DOMAIN)

    def sessions(self):
        return {k: v for k, v in self.relay.metrics().items() if "session_ended_total" in k}

    def ended(self, before, *reasons, n=1):
        """n sessions more have ended since, for one of these reasons."""
        def more():
            return {k.split('"')[1]: v - before.get(k, 0) for k, v in self.sessions().items()
                    if v != before.get(k, 0)}
        got = wait_for(lambda: sum(more().values()) >= n and more(),
                       lambda: f"{n} ended sessions counted; {more()}\n{self.relay.tail()}", 15)
        assert sum(got.values()) == n, got
        assert set(got) <= set(reasons), f"{got}, expected {reasons}"


@pytest.fixture(scope="module")
def setting(module_world):
    s = Setting(module_world)
    yield s
    s.bystander.stop.set()
    s.bystander.task.result()


@pytest.fixture(autouse=True)
def the_other_tenant_is_well(setting):
    memory = setting.relay.rss()
    yield
    setting.bystander.moves()
    setting.bystander.was_prompt()
    with Doors(setting.relay, None).connect_plain("kbs.good") as c:  # and for a new stream
        roundtrip(c, data(1000))
    setting.relay.wait_metric("live_tunnels", lambda v: v == 1)
    assert setting.relay.rss() - memory < 60 * MB
    setting.relay.check()


def relay_works(setting, agent):
    """A stream through a raw agent: CONNECT comes, bytes go both ways."""
    client = Doors(setting.relay, None).front()
    client.send(connect_head("kbs.acme") + b"ping")
    while True:
        kind, flags, stream, fields = agent.until(HEADERS)
        if (":method", "CONNECT") in fields:
            break
    assert (":authority", "kbs.acme") in fields
    agent.headers(stream, [(":status", "200")])
    assert agent.until(DATA, stream)[3] == b"ping"
    agent.send(frame(DATA, END_STREAM, stream, b"pong"))
    got = b""
    while not got.endswith(b"pong"):
        got += client.recv()
    client.eof()
    while not agent.until(DATA, stream)[1] & END_STREAM:
        pass
    client.close()


# ---- an agent that is odd, yet within the protocol ----

def test_unknown_things_are_ignored(setting):
    """Frames, settings, fields and parameters of tomorrow."""
    agent = setting.raw(hello=False)
    agent.send(frame(0xEE, 0xFF, 0, os.urandom(200)), frame(0x42, 0, 1, b"x"),
               frame(SETTINGS, 0, 0, struct.pack(">HIHI", 0xABCD, 7, 0x4242, 9)))
    agent.hello(setting.token, services=("kbs;colour=blue;dial=later", "tang"),
                extra=[("attest-favourite", "yes"), ("x-custom", "1")])
    agent.accepted()
    agent.send(frame(0xEE, 0, 0, b""), frame(0xEF, 1, 3, b"abc"))
    relay_works(setting, agent)
    agent.close()
    setting.relay.wait_tunnels(1)


def test_resets_of_streams_that_are_over(setting):
    """RST_STREAM for what is closed already is no reason to end a tunnel; nor are ten thousand."""
    agent = setting.raw().accepted()
    agent.send(*[frame(RST, 0, 1, struct.pack(">I", 8))] * 100)
    relay_works(setting, agent)
    try:
        agent.send(*[frame(RST, 0, 3, struct.pack(">I", 8))] * 10_000)
    except OVER:
        pass
    agent.close()
    setting.relay.wait_tunnels(1)


def test_storm_of_resets(setting):
    """An agent that resets every stream: each client is told, the tunnel is its own affair."""
    agent = setting.raw().accepted()
    seen = [0]

    def serve():
        try:
            while True:
                kind, flags, stream, fields = agent.take()
                if kind == HEADERS:
                    seen[0] += 1
                    agent.send(frame(RST, 0, stream, struct.pack(">I", (7, 8, 10)[seen[0] % 3])))
        except OVER:
            pass
    t = Task(serve)
    for _ in range(300):
        c = Doors(setting.relay, None).front()
        c.send(connect_head("kbs.acme") + b"x")
        try:
            got = c.read_all()
            assert re.match(rb"HTTP/1.1 (200|50[234])", got), got
            assert not got.startswith(b"HTTP/1.1 200"), "EOF instead of a reset"
        except Aborted:
            pass
        c.close()
    setting.relay.wait_metric("live_openings", lambda v: v == 0)
    assert seen[0] == 300
    agent.conn.abort()
    t.result()
    setting.relay.wait_tunnels(1)


# ---- an agent that breaks the protocol ----

def attack_http1(a):
    a.conn.send(b"GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n" * 3)


def attack_garbage(a):
    a.conn.send(os.urandom(20_000))


def attack_oversized_frame(a):
    a.send(b"\xff\xff\xff\0\0\0\0\0\1" + bytes(50_000))


def attack_data_without_stream(a):
    a.send(frame(DATA, 0, 9, b"who asked?"))


def attack_push(a):
    a.send(frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + b"\x82"))


def attack_window_overflow(a):
    a.send(*[frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFFFFFF))] * 3)


def attack_bad_settings(a):
    a.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0xFFFFFFFF)))


def attack_settings_length(a):
    a.send(frame(SETTINGS, 0, 0, b"abcde"))


def attack_bad_hpack(a):
    a.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff\xff\xff"))


def attack_continuation_alone(a):
    a.send(frame(CONTINUATION, END_HEADERS, 1, b"\x88"))


def attack_headers_interrupted(a):
    a.send(frame(HEADERS, 0, 1, b"\x88"), frame(PING, 0, 0, b"12345678"))


def attack_status_500(a):
    a.headers(1, [(":status", "500")], end=True)


def attack_empty_answer(a):
    a.headers(1, [(":status", "200")], end=True)


def field(name, value):
    """A literal header field without indexing."""
    def text(b):
        n = len(b)
        if n < 127:
            return bytes([n]) + b
        out, n = b"\x7f", n - 127
        while n >= 128:
            out, n = out + bytes([n % 128 + 128]), n // 128
        return out + bytes([n]) + b
    return b"\0" + text(name) + text(value)


def attack_hello_of_10_mb(a):
    """An endless header block."""
    a.send(frame(HEADERS, 0, 1, b"\x88"))
    for i in range(10 * MB // 16000):
        a.send(frame(CONTINUATION, 0, 1, field(b"attest-%d" % i, b"x" * 15900)))


def attack_hello_small_continuations(a):
    a.send(frame(HEADERS, 0, 1, b"\x88"))
    for _ in range(100):
        a.send(*[frame(CONTINUATION, 0, 1, b"")] * 1000)


def attack_header_bomb(a):
    """A few bytes that unpack to megabytes: one big indexed field, named again and again."""
    a.send(frame(HEADERS, 0, 1, b"\x88\x40" + field(b"bomb", b"B" * 3900)[1:]))
    for _ in range(20):
        a.send(frame(CONTINUATION, 0, 1, b"\xbe" * 16000))


def attack_many_fields(a):
    a.headers(1, [(":status", "200"), *[(f"x-{i}", "y") for i in range(900)]], end=True)




ATTACKS = [attack_http1, attack_garbage, attack_oversized_frame, attack_data_without_stream,
           attack_push, attack_window_overflow, attack_bad_settings, attack_settings_length,
           attack_bad_hpack, attack_continuation_alone, attack_headers_interrupted,
           attack_status_500, attack_empty_answer, attack_hello_of_10_mb,
           attack_hello_small_continuations, attack_header_bomb,
           attack_many_fields]


@pytest.mark.parametrize("attack", ATTACKS, ids=[a.__name__[7:] for a in ATTACKS])
def test_broken_agent(setting, attack):
    """Whatever breaks the protocol ends this one session, and is counted."""
    before = setting.sessions()
    agent = setting.raw(hello=False)
    agent.token = setting.token
    if attack not in (attack_http1, attack_garbage):
        agent.until(HEADERS)  # the relay's hello
    try:
        attack(agent)
    except OVER:
        pass
    assert agent.drained(15), "the session goes on"
    agent.close()
    setting.ended(before, "protocol", "too-large")


@pytest.mark.parametrize("fields", [
    {"instance": "bad name"}, {"instance": ""}, {"instance": "x" * 65},
    {"generation": "-1"}, {"generation": "99999999999999999999999"}, {"generation": "9" * 19},
    {"generation": "0x10"}, {"services": ()}, {"services": ("kbs", "kbs")},
    {"services": ("-kbs",)}, {"services": ("a.b",)}, {"services": ("k" * 64,)},
    {"services": tuple(f"s{i}" for i in range(65))},
], ids=lambda f: "-".join(f"{k}-{str(v)[:12]}" for k, v in f.items()))
def test_malformed_hello(setting, fields):
    """... is answered with words for the person there, then closed."""
    before = setting.sessions()
    agent = setting.raw(**fields)
    word, answer = agent.answer()
    assert word == "refused"
    assert dict(answer)["attest-reason"] in ("protocol", "limit")
    assert len(dict(answer)["attest-message"]) > 10
    assert agent.drained()
    setting.ended(before, "protocol", "limit", "too-large")


@pytest.mark.parametrize("token", ["", "x", "A" * 5000, "tok en", "sha256:" + "0" * 64])
def test_bad_credentials(setting, token):
    before = setting.sessions()
    agent = setting.raw(token=token)
    word, answer = agent.answer()
    assert word == "refused"
    assert dict(answer)["attest-reason"] in ("bad-credential", "protocol")
    assert agent.drained()
    setting.ended(before, "bad-credential", "protocol")
    if len(token) > 10:
        assert token not in setting.relay.log()


def test_hello_that_never_comes(setting):
    """Neither silence nor pings buy more than the time for the hello."""
    before = setting.sessions()
    silent, pinging = setting.raw(hello=False, preface=False), setting.raw(hello=False)
    done = threading.Event()

    def ping():
        try:
            while not done.wait(0.3):
                pinging.send(frame(PING, 0, 0, b"stillon!"))
        except OVER:
            pass
    Task(ping)
    both = [Task(a.drained, 16) for a in (silent, pinging)]
    assert all(t.result() for t in both), "still open"
    done.set()
    setting.ended(before, "handshake-timeout", "protocol", "tunnel-dead", n=2)


@pytest.mark.parametrize("flood", ["ping", "settings", "window", "empty-data", "rst"])
def test_floods(setting, flood):
    """Frames that cost an answer each, never read: bounded, whether the session lives or not."""
    agent = setting.raw().accepted()
    one = {"ping": frame(PING, 0, 0, b"floods!!"), "settings": frame(SETTINGS),
           "window": frame(WINDOW, 0, 0, struct.pack(">I", 1)),
           "empty-data": frame(DATA, 0, 1), "rst": frame(RST, 0, 1, struct.pack(">I", 8))}[flood]
    memory, mark = setting.relay.rss(), setting.relay.log_size()
    agent.conn.timeout(3)
    try:
        for _ in range(1000 if flood == "rst" else 200):
            agent.send(one * 1000)
    except OVER:  # closed, or (timeout) not read any more: both fine
        pass
    setting.bystander.moves()
    assert setting.relay.rss() - memory < 40 * MB
    agent.conn.abort()
    setting.relay.wait_tunnels(1)
    fresh = setting.raw().accepted()
    relay_works(setting, fresh)
    fresh.close()
    setting.relay.wait_tunnels(1)
    lines = setting.relay.log(mark).count("\n")
    assert lines <= 60, f"{lines} lines"


def reset_or_over(agent, stream):
    """The stream was reset, or the whole session ended: True for the latter."""
    agent.deadline = time.monotonic() + 20
    agent.conn.timeout(20)
    try:
        agent.until(RST, stream)
        return False
    except OVER:
        assert time.monotonic() < agent.deadline, "neither reset nor ended"
        return True


def pour(agent, stream, size):
    """DATA without regard to any window."""
    agent.conn.timeout(5)
    try:
        for _ in range(size // 16000):
            agent.send(frame(DATA, 0, stream, bytes(16000)))
    except OVER:
        pass


def test_hello_with_a_body_of_10_mb(setting):
    """Not kept, and the end of the session."""
    agent = setting.raw(hello=False)
    agent.until(HEADERS)
    memory = setting.relay.rss()
    agent.headers(1, [(":status", "200"), ("attest-token", setting.token),
                      ("attest-instance", "x"), ("attest-generation", "1"),
                      ("attest-service", "kbs")])
    pour(agent, 1, 10 * MB)
    assert agent.drained(20), "the session goes on"
    assert setting.relay.rss() - memory < 20 * MB
    agent.conn.abort()
    setting.relay.wait_tunnels(1)


def test_data_beyond_the_window(setting):
    """An agent that ignores the windows loses the stream at least; its client sees an abort."""
    agent = setting.raw().accepted()
    memory = setting.relay.rss()
    client = Doors(setting.relay, None).front()
    client.send(connect_head("kbs.acme") + b"x")
    _, _, stream, fields = agent.until(HEADERS)
    agent.headers(stream, [(":status", "200")])
    pour(agent, stream, 64 * MB)  # the client does not read
    reset_or_over(agent, stream)
    assert setting.relay.rss() - memory < 40 * MB
    with pytest.raises(Aborted):
        while client.recv():
            pass
        raise AssertionError("EOF instead of a reset")
    agent.conn.abort()
    setting.relay.wait_tunnels(1)


def test_streams_the_agent_opens(setting):
    """Only the relay opens streams."""
    before = setting.sessions()
    agent = setting.raw().accepted()
    try:
        agent.headers(2, [(":method", "CONNECT"), (":authority", "kbs.good")])
    except OVER:
        pass
    assert agent.drained(15)
    setting.ended(before, "protocol")


RUDE = (b"\xff" * 20, b"CONNECT nobody.nowhere:1 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n")


def test_rude_ones_are_logged_with_restraint(world):
    """Strangers' lines: 10 in 10 s for each kind, then how many were left out. All are counted."""
    relay = world.relay()  # of its own: what it may log in this window is not used up
    sent = {"agents": 0, "clients": 0}

    def rude_agent():
        agent = RawAgent(relay, world.certificates, hello=False)
        attack_http1(agent)
        agent.close()
        sent["agents"] += 1

    def rude_client():
        with Doors(relay, None).front() as c:
            c.send(RUDE[sent["clients"] % len(RUDE)])
            try:
                c.read_all()
            except Aborted:
                pass
        sent["clients"] += 1

    def counted():
        relay.wait_metric("session_ended_total", lambda v: v == sent["agents"])
        relay.wait_metric("refused_total", lambda v: v == sent["clients"])

    def shown():
        return {"agents": relay.count(r" warning: tunnel .* refused: "),
                "clients": relay.count(r" warning: tcp:.* refused: ")}

    rude_agent()
    relay.wait_log(r"tunnel .* refused: (protocol|tunnel-lost|truncated|reset|eof)")
    rude_client()
    relay.wait_log(r"-> .* refused: no-door")
    begin = time.monotonic()
    for _ in range(60):
        rude_agent()
        for _ in range(4):
            rude_client()
    counted()
    windows = 2 + (time.monotonic() - begin) // 10
    for kind, n in shown().items():
        assert 10 <= n <= 10 * windows, f"{n} lines for {kind}\n{relay.tail()}"

    def all_told():
        """One more of each, until the lines that say how many were left out make up for all."""
        rude_agent()
        rude_client()
        counted()
        left = sum(int(n) for n in re.findall(r"(\d+) lines like the next were left out",
                                              relay.log()))
        return sum(shown().values()) + left == sum(sent.values())
    wait_for(all_told, lambda: f"{shown()} of {sent} and what was left out\n{relay.tail()}",
             every=0.5)
    assert relay.count("lines like the next were left out") >= 2  # each kind for itself


# ---- the WebSocket carrier ----

def websocket(setting, **more):
    conn = setting.tls()
    status, rest = websocket_open(conn, **more)
    return conn, status, rest


class WsBytes:
    """Binary messages of a WebSocket as a connection, for Wire."""

    def __init__(self, conn, rest=b""):
        self.conn, self.buffer, self.closed = conn, rest, None

    def send(self, payload, piece=0):
        piece = piece or len(payload) or 1
        for i in range(0, len(payload), piece):
            self.conn.send(websocket_message(payload[i:i + piece]))

    def message(self):
        while True:
            b = self.buffer
            if len(b) >= 2:
                n, at = b[1] & 0x7F, 2
                if n == 126 and len(b) >= 4:
                    n, at = struct.unpack(">H", b[2:4])[0], 4
                elif n == 127 and len(b) >= 10:
                    n, at = struct.unpack(">Q", b[2:10])[0], 10
                elif n >= 126:
                    n = 1 << 62
                if len(b) >= at + n:
                    self.buffer = b[at + n:]
                    return b[0] & 15, b[at:at + n]
            got = self.conn.recv()
            if not got:
                raise EOFError
            self.buffer += got

    def recv(self):
        while True:
            opcode, payload = self.message()
            if opcode in (0, 2):
                return payload
            if opcode == 8:
                self.closed = struct.unpack(">H", payload[:2])[0] if payload else 1005
                return b""

    def timeout(self, s):
        self.conn.timeout(s)

    def abort(self):
        self.conn.abort()

    def close(self):
        self.conn.close()


def ws_wire(setting):
    conn, status, rest = websocket(setting)
    assert status == 101
    return Wire(WsBytes(conn, rest))


def test_websocket_by_hand(setting):
    """The carrier with messages of a single byte, pings and fragments in between."""
    w = ws_wire(setting)
    assert w.exactly(24) == PREFACE
    w.conn.send(frame(SETTINGS), piece=1)
    w.conn.conn.send(websocket_message(b"are you there?", opcode=9))
    RawAgent.hello(w, setting.token, instance="by-hand")
    word, _ = RawAgent.answer(w)
    assert word == "accepted"
    ping = frame(PING, 0, 0, b"fragment")
    w.conn.conn.send(websocket_message(ping[:5], fin=False) +
                     websocket_message(ping[5:9], opcode=0, fin=False) +
                     websocket_message(ping[9:], opcode=0))
    assert w.until(PING)[3] == b"fragment"
    relay_works(setting, w)
    w.conn.conn.send(websocket_message(struct.pack(">H", 1000), opcode=8))
    assert w.drained()
    setting.relay.wait_tunnels(1)
    w.close()


@pytest.mark.parametrize("more,statuses", [
    ({"path": "/"}, (400, 403, 404)), ({"path": "/tunnel/../x"}, (400, 403, 404)),
    ({"protocol": None}, (400, 403, 404, 426)), ({"protocol": "chat"}, (400, 403, 404, 426)),
], ids=["path", "odd-path", "no-subprotocol", "other-subprotocol"])
def test_websocket_upgrades_refused(setting, more, statuses):
    conn, status, _ = websocket(setting, **more)
    assert status in statuses
    conn.close()


def ws_text(conn):
    conn.send(websocket_message(b"hello, is this the tunnel?", opcode=1))


def ws_unmasked(conn):
    conn.send(websocket_message(b"x" * 50, masked=False))


def ws_giant(conn):
    conn.send(b"\x82\xff" + b"\xff" * 8 + b"mask" + bytes(100_000))


def ws_big(conn):
    conn.send(b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0" + os.urandom(200_000))


def ws_opcode(conn):
    conn.send(websocket_message(b"x", opcode=5))


def ws_long_ping(conn):
    conn.send(b"\x89\xfe" + struct.pack(">H", 5000) + b"mask" + bytes(5000))


def ws_garbage(conn):
    conn.send(websocket_message(os.urandom(30_000)))


def ws_close_at_once(conn):
    conn.send(websocket_message(struct.pack(">H", 1000), opcode=8))


def ws_truncated(conn):
    conn.send(websocket_message(b"x" * 1000)[:500])
    conn.truncate()


WS = [ws_text, ws_unmasked, ws_giant, ws_big, ws_opcode, ws_long_ping, ws_garbage,
      ws_close_at_once, ws_truncated]


@pytest.mark.parametrize("attack", WS, ids=[a.__name__[3:] for a in WS])
def test_broken_websocket(setting, attack):
    before = setting.sessions()
    conn, status, rest = websocket(setting)
    assert status == 101
    ws = WsBytes(conn, rest)
    try:
        attack(conn)
    except OVER:
        pass
    conn.timeout(15)
    try:
        while ws.recv():
            pass
    except (EOFError, Aborted):
        pass
    if attack is ws_text:
        assert ws.closed == 1003
    conn.close()
    setting.ended(before, "protocol", "too-large", "tunnel-lost", "truncated", "reset", "eof",
                  "handshake-timeout", "target-reset", "going-away")


def test_websocket_without_tls(setting):
    """An agent's token never travels in the clear: no tunnel without TLS."""
    conn = dial(setting.relay.listeners["front"])
    try:
        status, _ = websocket_open(conn)
        assert status in (400, 403, 404)
    except Exception as e:
        assert isinstance(e, Aborted) or "Refused" in type(e).__name__
    conn.close()


# ---- a broken relay, at the agent ----

def relay_garbage(r, w):
    w.conn.send(os.urandom(5000))


def relay_http1(r, w):
    w.conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def relay_refused_10_mb(r, w):
    w.send(frame(HEADERS, 0, 1, b"\x83\x87"))
    for i in range(10 * MB // 16000):
        w.send(frame(CONTINUATION, 0, 1, field(b"x-%d" % i, b"x" * 15900)))


def relay_unknown_frames(r, w):
    """These are no reason to end; the rest of the hello follows."""
    w.send(frame(0xEE, 0, 0, b"x" * 100))
    r.request(w, 1, "/attest-relay/1/nothing-we-know")
    _, _, stream, fields = w.until(HEADERS)
    assert fields[0] == (":status", "404")
    w.conn.abort()
    return True


def relay_goaway(r, w):
    w.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 2)))


def relay_connect_before_accepted(r, w):
    r.request(w, 1, "/attest-relay/1/hello")
    w.until(HEADERS)
    r.connect(w, 3, "kbs.acme")
    w.send(frame(DATA, 0, 3, b"too early"))
    kind, _, _, _ = w.take()
    assert kind in (RST, GOAWAY), "a stream before the acceptance was served"
    w.conn.abort()
    return True


def relay_beyond_window(r, w):
    r.hello(w)
    r.connect(w, 5, "sink.acme")
    for _ in range(64 * MB // 16000):
        w.send(frame(DATA, 0, 5, bytes(16000)))


def relay_even_stream(r, w):
    r.connect(w, 4, "kbs.acme")


BROKEN = [relay_garbage, relay_http1, relay_refused_10_mb, relay_unknown_frames, relay_goaway,
          relay_connect_before_accepted, relay_beyond_window, relay_even_stream]


@pytest.mark.parametrize("attack", BROKEN, ids=[a.__name__[6:] for a in BROKEN])
def test_broken_relay(world, setting, attack):
    """The agent survives what calls itself a relay, and comes back to a good one."""
    svc = world.add(Service(handler=echo))
    sink = world.add(Service())  # accepts, never reads
    fake = world.add(RawRelay(world.certificates))
    agent = world.agent(None, {"kbs": svc.address, "sink": sink.address}, wait=False,
                        address=fake.address)
    w = fake.session()
    memory = agent.rss()
    if attack is relay_beyond_window:
        w.send(frame(SETTINGS, ACK))
    ended = False
    try:
        ended = attack(fake, w)
    except OVER:
        pass
    assert ended or w.drained(15), "the agent holds on to a broken session"
    w.close()
    assert agent.running() and agent.rss() - memory < 60 * MB
    good = fake.session()
    fake.hello(good)
    fake.connect(good, 5, "kbs.acme")
    good.send(frame(DATA, END_STREAM, 5, b"still here"))
    assert (":status", "200") in good.until(HEADERS, 5)[3]
    got = b""
    while got != b"still here":
        got += good.until(DATA, 5)[3]
    agent.signal(15)
    good.drained(10)
    good.close()


def test_streams_to_services_not_offered(world):
    """Whatever a relay asks for: the agent serves what it offers, and nothing else."""
    svc = world.add(Service(handler=echo))
    fake = world.add(RawRelay(world.certificates))
    agent = world.agent(None, {"kbs": svc.address}, wait=False, address=fake.address)
    w = fake.session()
    fake.hello(w)
    for i, name in enumerate(("tang.acme", "kbs.evil", "kbs", "127.0.0.1:22", "../kbs.acme", "x")):
        fake.connect(w, 5 + 2 * i, name)
        kind, _, stream, payload = w.until(RST, 5 + 2 * i)
        # REFUSED_STREAM; PROTOCOL_ERROR for what is no authority at all
        assert payload[3] == 7 or (payload[3] == 1 and "/" in name), (name, payload)
    assert svc.accepted == 0
    agent.signal(15)
    w.drained(10)
    w.close()
