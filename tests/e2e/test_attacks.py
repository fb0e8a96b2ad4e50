# Attacks from addresses of their own, on each bound the relay has, while another tenant moves data
# and loses none. What is refused is counted under its own reason; memory and descriptors come back.
import socket
import struct
import subprocess
import time

import pytest
from hpack import Encoder

from harness import DEADLINE, DOMAIN, MB, Task, data, need, sanitizer, sum_of, wait_for
from streams import Aborted, Conn, Doors, Refused, Service, TlsConn, echo, http_connect, roundtrip
from test_bad_input import Bystander
from wire import (ALPN, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING,
                  PREFACE, RST, SETTINGS, WINDOW, RawAgent, Wire, frame)

OVER = (EOFError, OSError, Aborted, AssertionError)
HANDSHAKES, PARKED, TUNNELS = 64, 8, 20
MEMORY = 2 * MB
ALL_PARKED = 100
# What its memory may grow by, with what sanitizers keep of what is freed; ThreadSanitizer's shadow
# is several times as large as what it stands for.
MORE = (250 if sanitizer() == "thread" else 150) * MB
MALLORY, OTHER = "127.0.0.66", "127.0.0.67"


def reasons(relay):
    prefix = 'attest_relay_refused_total{reason="'
    return {k[len(prefix):-2]: int(v) for k, v in relay.metrics().items() if k.startswith(prefix)}


class Setting:
    """acme is attacked or attacks; good is the one that must not notice."""

    def __init__(self, world):
        self.world = world
        self.token = world.token()[0]
        svc = world.add(Service(handler=echo))
        self.relay = world.relay(
            owners=[world.owner("acme"), world.owner("good")],
            listeners=[{"name": "static", "service": "kbs.acme"},
                       {"name": "ws", "doors": ["websocket"]}],
            timeouts={"handshake": "60s", "pickup": "5s", "idle": "60s"},
            limits={"handshakes": 4 * HANDSHAKES, "parked": ALL_PARKED, "streams_per_tunnel": 1000,
                    "per_source": {"connections": 1500, "handshakes": HANDSHAKES,
                                   "parked": PARKED, "memory": "2MiB"},
                    "per_owner": {"tunnels": TUNNELS, "memory": "4MiB"}},
            penalties={"failures": 5, "block": "2s", "half_life": "60s"})
        world.agent(self.relay, {"kbs": svc.address}, owner="good", name="good")
        self.bystander = Bystander(self.relay)

    def dial(self, address=MALLORY, listener="front"):
        at = ("127.0.0.1", self.relay.port(listener))
        try:
            return Conn(socket.create_connection(at, DEADLINE, (address, 0)))
        except ConnectionResetError as e:  # accepted and reset before we looked
            raise Aborted(str(e)) from None

    def dial_all(self, n, first=b"", listener="front"):
        """Those that were let in, as far as is known yet."""
        conns = []
        for _ in range(n):
            try:
                conns.append(self.dial(listener=listener))
                conns[-1].send(first)
            except OVER:
                pass
        return conns

    def tls(self, alpn=None, address=MALLORY):
        return TlsConn(self.dial(address), self.world.certificates.client(alpn), name=DOMAIN)

    def h2(self, settings=b"", address=MALLORY):
        w = Wire(self.dial(address))
        w.send(PREFACE, frame(SETTINGS, payload=settings))
        return w

    def refused(self, reason):
        return self.relay.metric("refused_total", reason=reason)

    def used(self, what, scope, name=""):
        return self.relay.metric("limit_used", what=what, scope=scope, tenant=name)


@pytest.fixture(scope="module")
def setting(module_world):
    s = Setting(module_world)
    yield s
    s.bystander.stop.set()
    s.bystander.task.result()


@pytest.fixture(autouse=True)
def the_other_tenant_loses_nothing(setting):
    relay = setting.relay
    wait_for(lambda: relay.metric("connections") <= 2, "a quiet start")
    memory, fds = relay.rss(), relay.fds()
    yield
    setting.bystander.moves()
    with Doors(relay, None).connect_plain("kbs.good") as c:
        roundtrip(c, data(100_000))
    wait_for(lambda: relay.metric("connections") <= 2,
             lambda: f"all are gone: {relay.metrics()}", 60)
    wait_for(lambda: relay.fds() <= fds + 8, "descriptors come back")
    for what in ("handshakes", "parked", "memory"):
        wait_for(lambda w=what: setting.used(w, "all") == 0, f"{what} come back")
    assert relay.rss() - memory < MORE
    relay.check()


def close_all(conns):
    for c in conns:
        c.close()


def until_over(wire, limit=DEADLINE):
    """Reads on until the relay ends it."""
    end = time.monotonic() + limit
    wire.conn.timeout(limit)
    try:
        while time.monotonic() < end:
            if not wire.conn.recv():
                return
    except TimeoutError:  # an OSError too, but the opposite of an end
        pass
    except OVER:
        return
    pytest.fail("the relay puts up with it for ever")


def flood(wire, chunk, times):
    """False: the relay ended it before all was sent."""
    wire.conn.timeout(DEADLINE)
    try:
        for _ in range(times):
            wire.conn.send(chunk)
    except OVER:
        return False
    return True


# ---- tunnels ----

def test_tunnels_that_come_and_go(setting):
    """An owner that connects, is accepted and resets, again and again."""
    for i in range(150):
        agent = RawAgent(setting.relay, setting.world.certificates, token=setting.token,
                         instance=f"i{i % 7}").accepted()
        agent.conn.abort()
    setting.relay.wait_tunnels(1)


def test_too_many_tunnels_of_an_owner(setting):
    agents = [RawAgent(setting.relay, setting.world.certificates, token=setting.token,
                       instance=f"i{i}") for i in range(2 * TUNNELS)]
    words = [a.answer()[0] for a in agents]
    assert words.count("accepted") == TUNNELS
    assert setting.used("tunnels", "owner", "acme") == TUNNELS
    close_all(a.conn for a in agents)
    setting.relay.wait_metric("session_ended_total", lambda v: v >= TUNNELS, reason="owner-limit")


def test_tunnels_without_a_hello(setting):
    """They count as handshakes: of a source, so many; of all, the oldest goes for the newcomer."""
    conns, turned_away = [], 0
    before = setting.relay.metric("session_ended_total", reason="handshake-limit")
    for i in range(1000):
        try:
            conns.append(setting.tls([ALPN], f"127.0.1.{i % 20}"))
        except OVER:
            turned_away += 1
        if i % 100 == 99:
            with Doors(setting.relay, None).connect_plain("kbs.good") as c:
                roundtrip(c, data(1000))
            assert setting.used("handshakes", "all") <= 4 * HANDSHAKES + 2
    assert setting.relay.metric("session_ended_total", reason="handshake-limit") > before
    close_all(conns)


class Resetting:
    """An owner's agent that resets each stream it is given, in a thread; or says nothing of them."""

    def __init__(self, setting, resets=True):
        self.wire = RawAgent(setting.relay, setting.world.certificates, token=setting.token,
                             instance="resetting").accepted()
        self.given = self.reset = 0
        self.task = Task(self.run, resets)

    def run(self, resets):
        try:
            while True:
                kind, _, stream, _ = self.wire.take()
                self.given += kind == HEADERS
                self.reset += kind == RST
                if kind == HEADERS and resets:
                    self.wire.send(frame(RST, 0, stream, struct.pack(">I", CANCEL)))
        except OVER:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.conn.close()
        self.task.result()


def test_agent_that_resets_every_stream(setting):
    """Over its tunnel, for ever: each client is told, and the tunnel is its owner's own trouble."""
    streams, memory, relay = 3000, setting.relay.rss(), setting.relay
    before = relay.metric("stream_ended_total") + relay.metric("refused_total")
    with Resetting(setting) as agent:
        w, block = setting.h2(), connect(Encoder())
        for start in range(1, 2 * streams, 200):
            w.send(*[frame(HEADERS, END_HEADERS, s, block) for s in range(start, start + 200, 2)])
            over = set()
            while len(over) < 100:
                kind, flags, stream, _ = w.take()
                if kind == RST or (kind in (HEADERS, DATA) and flags & END_STREAM):
                    over.add(stream)
        wait_for(lambda: relay.metric("stream_ended_total") + relay.metric("refused_total")
                 >= before + streams, lambda: f"all are told: {relay.tail()}")
        assert agent.given >= streams
        assert relay.rss() - memory < MORE
        assert relay.metric("live_splices") <= 2  # the bystander's
        w.conn.close()


def test_client_that_resets_through_a_tunnel(setting):
    """What it opens reaches the agent, and is reset there; sessions that do it too fast are ended."""
    memory, relay = setting.relay.rss(), setting.relay
    with Resetting(setting, resets=False) as agent:
        for _ in range(5):
            w, block = setting.h2(), connect(Encoder())
            for start in range(1, 20_000, 200):
                chunk = b"".join(frame(HEADERS, END_HEADERS, s, block) +
                                 frame(RST, 0, s, struct.pack(">I", CANCEL))
                                 for s in range(start, start + 200, 2))
                if not flood(w, chunk, 1):
                    break
            until_over(w)
        for _ in range(200):
            try:  # of those that came before, too many may not have been looked at yet
                c = setting.dial()
                c.send(b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme\r\n\r\n")
                c.abort()
            except OVER:
                pass
        wait_for(lambda: agent.given and agent.reset == agent.given,
                 lambda: f"{agent.reset} of {agent.given} are reset")
        wait_for(lambda: relay.metric("live_splices") <= 2, "its streams are over")
        assert relay.metric("live_tunnels") == 2
        assert relay.rss() - memory < MORE


# ---- the doors ----

@pytest.mark.parametrize("listener,first", [
    ("front", b""), ("front", b"\x16\x03\x01\x02\x00\x01"), ("front", b"CONNECT kbs.ac"),
    ("front", PREFACE[:20]), ("ws", b"GET /connect/kbs.acme HTTP/1.1\r\nHost: ")],
    ids=["silent", "sni", "connect", "h2", "websocket"])
def test_slow_loris(setting, listener, first):
    before = setting.refused("source-limit")
    conns = setting.dial_all(3 * HANDSHAKES, first, listener)
    wait_for(lambda: setting.refused("source-limit") >= before + 2 * HANDSHAKES,
             lambda: f"refused: {setting.relay.tail()}")
    assert setting.used("handshakes", "source") <= HANDSHAKES
    with Doors(setting.relay, None).connect_plain("kbs.good") as c:
        roundtrip(c, data(1000))
    close_all(conns)


def test_slow_loris_of_many_addresses(setting):
    """Nobody has too many; together they do: the oldest lose, whoever comes and speaks is served."""
    before = setting.refused("handshake-limit")
    conns = [setting.dial(f"127.0.1.{i % 40}") for i in range(20 * HANDSHAKES)]
    wait_for(lambda: setting.refused("handshake-limit") >= before + 10 * HANDSHAKES,
             lambda: f"dropped: {setting.relay.tail()}")
    with Doors(setting.relay, None).connect_plain("kbs.good") as c:
        roundtrip(c, data(1000))
    close_all(conns)


def test_too_many_connections(setting):
    """Of one source; others come in."""
    before = setting.refused("source-limit")
    conns = setting.dial_all(1600, listener="static")
    wait_for(lambda: setting.refused("source-limit") >= before + 100,
             lambda: f"refused: {setting.relay.tail()}")
    with Doors(setting.relay, None).connect_plain("kbs.good") as c:
        roundtrip(c, data(1000))
    close_all(conns)


class Parker:
    """A client that opens one stream after the other, and never has too many for its session."""

    AT_A_TIME = 100

    def __init__(self, setting, address):
        self.w, self.block = setting.h2(address=address), connect(Encoder())
        self.opened, self.answered = 0, 0
        self.w.conn.timeout(DEADLINE)

    def turn(self, most):
        """Another batch, once all but those that may be parked have their answer."""
        n = min(self.AT_A_TIME, most - self.opened)
        self.w.send(*[frame(HEADERS, END_HEADERS, 2 * (self.opened + i) + 1, self.block)
                      for i in range(n)])
        self.opened += n
        while self.opened - self.answered > PARKED:
            kind, flags, _, _ = self.w.take()
            assert kind != GOAWAY
            self.answered += kind == HEADERS
        return self.opened < most


def test_parks_100000_streams(setting):
    """From 20 addresses: each of them has so many, all together have so many, the rest is told."""
    streams, addresses, relay = 100_000, 20, setting.relay
    before, memory = reasons(relay), relay.rss()
    clients = [Parker(setting, f"127.0.2.{i + 1}") for i in range(addresses)]
    goes_on, most = True, 0
    while goes_on:
        goes_on = any([c.turn(streams // addresses) for c in clients])
        if clients[0].opened % 1000 == 0:
            m = relay.metrics()
            parked = m["attest_relay_live_parked"]
            assert parked <= ALL_PARKED < addresses * PARKED
            assert sum_of(m, "attest_relay_limit_used", {"what": "parked", "scope": "all"}) <= (
                ALL_PARKED)
            assert sum_of(m, "attest_relay_limit_used", {"what": "parked", "scope": "source"}) <= (
                PARKED)
            most = max(most, parked)
    assert most == ALL_PARKED
    assert relay.rss() - memory < MORE
    close_all(c.w.conn for c in clients)
    relay.wait_metric("live_parked", lambda v: v == 0)
    now = reasons(relay)
    more = {k: v - before.get(k, 0) for k, v in now.items() if v != before.get(k, 0)}
    assert sum(more.values()) == streams, more
    assert more["limit"] > 1000 and more["source-limit"] > 1000, more
    assert more.keys() <= {"limit", "source-limit", "rate-limit", "pickup-timeout", "reset", "eof"}


def test_says_which_limit(setting):
    """A status, a word and the name of the setting."""
    parked = []
    for _ in range(PARKED):
        c = setting.dial(OTHER)
        c.send(b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme\r\n\r\n")
        parked.append(c)
    setting.relay.wait_metric("live_parked", lambda v: v == PARKED)
    start = setting.relay.log_size()

    def is_said():
        with pytest.raises(Refused) as e:
            http_connect(setting.dial(OTHER), "kbs.acme")
        assert "429" in str(e.value) and "source-limit" in str(e.value)
        return "limits.per_source.parked" in setting.relay.log(start)
    wait_for(is_said, "the setting's name, once lines are not left out any more", every=0.5)
    close_all(parked)


# ---- TLS ----

def s_client(setting, version, line, times):
    need("openssl")
    p = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{setting.relay.port()}", version,
         "-servername", DOMAIN, "-bind", f"{MALLORY}:0"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(times):
            p.stdin.write(line)
            p.stdin.flush()
            time.sleep(0.001)  # s_client takes one command a read
            if p.poll() is not None:
                return
        p.wait(DEADLINE)
    except BrokenPipeError:
        pass
    finally:
        p.kill()
        p.wait()


def test_renegotiation(setting):
    """Refused by the first."""
    s_client(setting, "-tls1_2", b"R\n", 50)


def test_key_updates(setting):
    """More than 32 in a second end the connection."""
    before = setting.relay.metric("refused_total")
    s_client(setting, "-tls1_3", b"K\n", 2000)
    assert setting.relay.metric("refused_total") > before


# ---- HTTP/2 ----

def connect(encoder, service="kbs.acme"):
    return encoder.encode([(":method", "CONNECT"), (":authority", service)])


def test_rapid_reset(setting):
    w, e = setting.h2(), Encoder()
    block = connect(e)
    for start in range(1, 200_000, 2000):
        chunk = b"".join(frame(HEADERS, END_HEADERS, s, block) +
                         frame(RST, 0, s, struct.pack(">I", 8)) for s in range(start, start + 2000, 2))
        if not flood(w, chunk, 1):
            break
    until_over(w)


def test_continuation_flood(setting):
    w = setting.h2()
    w.send(frame(HEADERS, 0, 1, connect(Encoder())))
    flood(w, frame(CONTINUATION, 0, 1, b"\x00" * 0), 20_000)
    until_over(w)


def test_settings_flood(setting):
    """Each asks for an answer, and none is read."""
    w = setting.h2()
    flood(w, frame(SETTINGS, payload=struct.pack(">HI", 4, 65535)) * 1000, 2000)
    until_over(w)


def test_ping_flood(setting):
    w = setting.h2()
    flood(w, frame(PING, payload=b"12345678") * 1000, 2000)
    until_over(w)


@pytest.mark.parametrize("frames", [
    frame(WINDOW, payload=struct.pack(">I", 0)),
    frame(WINDOW, payload=struct.pack(">I", 2**31 - 1)) * 2,
    frame(SETTINGS, payload=struct.pack(">HI", 4, 2**31))], ids=["nothing", "overflow", "too-large"])
def test_window_games(setting, frames):
    w = setting.h2()
    flood(w, frames, 1)
    until_over(w)


def test_tiny_windows(setting):
    """A client that lets a byte at a time come back costs a little each time, and holds nothing."""
    w = setting.h2(struct.pack(">HI", 4, 1))
    w.send(frame(HEADERS, END_HEADERS, 1, connect(Encoder(), "kbs.good")))
    w.send(frame(DATA, 0, 1, b"x" * 16000))
    got = b""
    while len(got) < 300:
        kind, _, stream, payload = w.take()
        if kind == DATA and stream == 1:
            assert len(payload) == 1
            got += payload
            w.send(frame(WINDOW, 0, 1, struct.pack(">I", 1)))
    assert got == b"x" * 300
    w.conn.close()


def test_huge_headers(setting):
    w = setting.h2()
    block = Encoder().encode([(":method", "CONNECT"), (":authority", "kbs.good"),
                              *[(f"x-{i}", "a" * 1000) for i in range(200)]], huffman=False)
    parts = [block[i:i + 16000] for i in range(0, len(block), 16000)]
    frames = [frame(HEADERS, 0, 1, parts[0])] + [frame(CONTINUATION, 0, 1, p) for p in parts[1:-1]]
    flood(w, b"".join(frames) + frame(CONTINUATION, END_HEADERS, 1, parts[-1]), 1)
    got = []
    try:
        while not got:
            kind, _, _, fields = w.take()
            if kind in (HEADERS, RST, GOAWAY):
                got.append((kind, fields))
    except OVER:  # without a word
        pass
    assert not got or got[0][0] != HEADERS or dict(got[0][1])[":status"] != "200", got
    w.conn.close()
    c = setting.dial()
    c.send(b"CONNECT kbs.good:443 HTTP/1.1\r\n" + b"X: " + b"a" * 100_000)
    assert b" 431 " in c.recv()
    c.close()


def test_fills_the_memory(setting):
    """Streams whose agent takes nothing: what they hold stays within their source's memory."""
    e, wires, most = Encoder(), [], 0
    agent = RawAgent(setting.relay, setting.world.certificates, hello=False, preface=False)
    assert agent.exactly(24) == PREFACE
    agent.send(frame(SETTINGS, payload=struct.pack(">HI", 4, 0)))
    agent.hello(setting.token)
    agent.accepted().keep_alive()
    for _ in range(3):
        w = setting.h2()
        for s in range(1, 80, 2):
            w.send(frame(HEADERS, END_HEADERS, s, connect(e)))
        e = Encoder()
        wires.append(w)
        w.conn.sock.settimeout(0.2)
        try:
            for _ in range(4):
                for s in range(1, 80, 2):
                    w.conn.sock.sendall(frame(DATA, 0, s, b"x" * 16000))
        except OSError:
            pass
        most = max(most, setting.used("memory", "source"))
        assert setting.used("memory", "source") <= MEMORY * 1.05
    assert most > MEMORY / 2
    close_all(w.conn for w in wires)
    agent.conn.close()


# ---- credentials ----

def test_guesses_tokens(setting):
    """After some failures its address is kept out for a while, and nobody else's."""
    def guess(address):
        w = Wire(setting.tls([ALPN], address))
        assert w.exactly(24) == PREFACE
        w.send(frame(SETTINGS))
        RawAgent.hello(w, "wrong-token-wrong-token")
        word, _ = RawAgent.answer(w)
        w.conn.close()
        return word

    for _ in range(5):
        assert guess("127.0.0.99") == "refused"
    setting.relay.wait_log("127.0.0.99.* blocked")
    with pytest.raises(OVER):
        guess("127.0.0.99")
    assert setting.refused("penalty") >= 1
    assert setting.relay.metric("sources_blocked") == 1
    assert guess("127.0.0.98") == "refused"
    wait_for(lambda: setting.relay.metric("sources_blocked") == 0, "the block ends")
    assert guess("127.0.0.99") == "refused"
