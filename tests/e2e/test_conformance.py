# The half-close contract: every door a client may come in by, every way to the service.
#
# EOF is one direction's end, the other lives on; an abort is never EOF; a slow reader slows itself.
# One relay and two agents (direct and WebSocket carrier) serve the whole module.
import time

import pytest

from harness import MB, Task, data, digest, wait_for
from streams import DOORS, Aborted, Doors, Service, TlsConn, dial

WAYS = {  # name: carrier or None, kind of the service's socket
    "direct-tcp": (None, "tcp"),
    "direct-unix": (None, "unix"),
    "tunnel-tcp": ("direct", "tcp"),
    "tunnel-unix": ("direct", "unix"),
    "ws-tcp": ("websocket", "tcp"),
    "ws-unix": ("websocket", "unix"),
}
HALF_CLOSED = 4  # seconds

CASES = [(d, w) for d in DOORS for w in WAYS]
every = pytest.mark.parametrize("door,way", CASES, ids=[f"{d}-{w}" for d, w in CASES])


class Setting:
    def __init__(self, world):
        self.world, self.services = world, {}
        for way, (_, kind) in WAYS.items():
            address = f"unix:{world.path(way + '.sock')}" if kind == "unix" else "tcp:127.0.0.1:0"
            self.services[way] = world.add(Service(address))
        listeners = []
        for way in WAYS:
            listeners += [
                {"name": f"tcp-{way}.acme", "service": f"{way}.acme"},
                {"name": f"unix-{way}.acme", "service": f"{way}.acme",
                 "address": f"unix:{world.path('door-' + way)}"},
            ]
        self.relay = world.relay(
            listeners=listeners, timeouts={"half_closed": f"{HALF_CLOSED}s", "drain": "3s"},
            services=[{"name": f"{w}.acme", "targets": [self.services[w].address]}
                      for w, (carrier, _) in WAYS.items() if not carrier])
        self.agents = [
            world.agent(self.relay, {w: self.services[w].address
                                     for w, (carrier, _) in WAYS.items() if carrier == c},
                        name=f"agent-{c}", transport=c,
                        timeouts={"half_closed": f"{HALF_CLOSED}s"})
            for c in ("direct", "websocket")]
        self.doors = Doors(self.relay, world.certificates)
        self.tls = world.certificates.server()

    def pair(self, door, way, first=b"first"):
        """A client's end and the service's end of one stream, with first gone through."""
        if door == "sni":
            # TLS end to end: the hello is the first byte that makes a lazy target dial
            other = Task(lambda: TlsConn(self.services[way].accept(), self.tls, server_side=True,
                                         fin=True))
            client = self.doors.sni(f"{way}.acme")
            service = other.result()
            client.send(first)
        else:
            client = self.doors.open(door, f"{way}.acme")
            client.send(first)
            service = self.services[way].accept()
        assert service.read_exactly(len(first)) == first
        return client, service

    def memory(self):
        return sum(p.rss() for p in [self.relay, *self.agents])


@pytest.fixture(scope="module")
def setting(module_world):
    return Setting(module_world)


@pytest.fixture(autouse=True)
def nothing_left_behind(setting):
    yield
    setting.relay.wait_quiet()
    for s in setting.services.values():
        assert s.none_waiting(), "a connection nobody asked for reached a service"


@every
def test_client_ends_first(setting, door, way):
    """EOF of the client, then a late reply of 10 MB."""
    client, service = setting.pair(door, way)
    request, reply = data(100_000), data(10 * MB)
    with client, service:
        client.send(request)
        client.eof()
        assert digest(service.read_all()) == digest(request)
        # only now, after EOF went all the way, does the reply begin
        writer = Task(lambda: (service.send(reply), service.eof()))
        assert digest(client.read_all()) == digest(reply)
        writer.result()


@every
def test_server_ends_first(setting, door, way):
    """EOF of the service, then a late upload of 10 MB."""
    client, service = setting.pair(door, way)
    greeting, upload = data(100_000), data(10 * MB)
    with client, service:
        service.send(greeting)
        service.eof()
        assert digest(client.read_all()) == digest(greeting)
        writer = Task(lambda: (client.send(upload), client.eof()))
        assert digest(service.read_all()) == digest(upload)
        writer.result()


@every
def test_both_at_once(setting, door, way):
    """2 MB each way at the same time, and both ends."""
    client, service = setting.pair(door, way)
    up, down = data(2 * MB), data(2 * MB)
    with client, service:
        tasks = [Task(lambda: (client.send(up), client.eof())),
                 Task(lambda: (service.send(down), service.eof()))]
        other = Task(service.read_all)
        assert digest(client.read_all()) == digest(down)
        assert digest(other.result()) == digest(up)
        for t in tasks:
            t.result()


def drain(conn):
    """Reads to the end: the bytes, and whether it ended in order."""
    parts = []
    try:
        while got := conn.recv():
            parts.append(got)
    except Aborted:
        return b"".join(parts), False
    return b"".join(parts), True


@every
def test_client_aborts(setting, door, way):
    """A reset of the client is never EOF at the service."""
    client, service = setting.pair(door, way)
    with service:
        sent = data(300_000)
        client.send(sent)
        client.abort()
        got, clean = drain(service)
        assert sent.startswith(got)
        if door == "static_unix":
            return  # a Unix client that closes has ended in order: there is no other way to say it
        if door == "sni" or not service.unix:
            assert not clean, "an abort arrived as EOF"


@every
def test_service_aborts(setting, door, way):
    client, service = setting.pair(door, way)
    with client:
        sent = data(300_000)
        service.send(sent)
        service.abort()
        got, clean = drain(client)
        assert sent.startswith(got)
        if way.endswith("unix") and door != "sni":
            return  # as above
        if door == "sni" or not client.unix:
            assert not clean, "an abort arrived as EOF"


@pytest.mark.parametrize("way", WAYS)
def test_tls_cut_short(setting, way):
    """FIN without close_notify under the relay's own TLS: an abort, not EOF."""
    client, service = setting.pair("connect_tls", way)
    with service:
        client.send(b"half a mess")
        client.truncate()
        got, clean = drain(service)
        assert b"half a mess".startswith(got)
        if not service.unix:
            assert not clean, "a truncated TLS stream arrived as EOF"
        client.close()


def test_end_reasons_are_told_apart(setting):
    """The counters name an end in order, and an abort by either side."""
    def ended(reason):
        return setting.relay.metric("stream_ended_total", reason=reason)
    for way in ("direct-tcp", "tunnel-tcp", "ws-tcp"):
        before = {r: ended(r) for r in ("eof", "reset", "target-reset")}
        client, service = setting.pair("static_tcp", way)
        client.eof(), service.eof()
        assert client.recv() == b"" and service.recv() == b""
        client.close(), service.close()
        wait_for(lambda: ended("eof") == before["eof"] + 1, "an end in order counted")
        client, service = setting.pair("static_tcp", way)
        client.abort()
        wait_for(lambda: ended("reset") == before["reset"] + 1, "a reset counted")
        service.close()
        client, service = setting.pair("static_tcp", way)
        service.abort()
        wait_for(lambda: ended("target-reset") == before["target-reset"] + 1,
                 "a target's reset counted")
        client.close()


def test_end_then_silence(setting):
    """One direction ended, the other silent: closed after the half-closed time-out, all at once."""
    before = setting.relay.metric("stream_ended_total", reason="half-closed-idle")
    pairs = []
    for i, (door, way) in enumerate(CASES):
        client, service = setting.pair(door, way)
        by_client = (i + i // len(WAYS)) % 2
        (client if by_client else service).eof()
        pairs.append((door, way, client, service, by_client, time.monotonic()))
    start = time.monotonic()
    for door, way, client, service, by_client, since in pairs:
        quiet, other = (client, service) if by_client else (service, client)
        assert other.recv() == b"", (door, way, by_client)  # the EOF of the quiet side
        _, clean = drain(quiet)
        early = time.monotonic() - since
        assert early > HALF_CLOSED * 0.75, f"{early:.1f} s, {(door, way, by_client)}"
        # not an end in order: the other side never said so
        if door == "sni" or not quiet.unix:
            assert not clean, (door, way, by_client)
        client.close(), service.close()
    took = time.monotonic() - start
    assert took < HALF_CLOSED + 6, f"{took:.1f} s"
    after = setting.relay.metric("stream_ended_total", reason="half-closed-idle")
    # an agent's own clock may strike first; then its reset is what the relay counts
    assert after - before >= sum(1 for _, w in CASES if w.startswith("direct"))


def test_half_closed_timeout_waits_for_silence(setting):
    """Bytes that trickle keep a half-closed stream alive beyond the time-out."""
    client, service = setting.pair("static_tcp", "tunnel-tcp")
    with client, service:
        client.eof()
        assert service.recv() == b""
        end = time.monotonic() + HALF_CLOSED * 1.75
        n = 0
        while time.monotonic() < end:  # the pace is the test
            service.send(b"%08d" % n)
            assert client.read_exactly(8) == b"%08d" % n
            n += 1
            time.sleep(0.5)
        service.eof()
        assert client.recv() == b""


# 200 MB. Each is more than the kernel's own buffers on the way hold: tcp_wmem and tcp_rmem, twice.
STREAMS, EACH = 2, 100 * MB


@pytest.mark.parametrize("upload", [False, True], ids=["download", "upload"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("door", ["static_tcp", "connect_tls"])
def test_slow_reader(setting, door, way, upload):
    """200 MB offered to readers that do not read: bounded memory, and others unharmed."""
    # what the first streams of a door cost for good is not growth
    client, service = setting.pair(door, way)
    client.close(), service.close()
    setting.relay.wait_quiet()
    before = setting.memory()
    block = data(MB)
    pairs = [setting.pair(door, way) for _ in range(STREAMS)]
    offered = [0] * STREAMS

    def offer(i, conn):
        try:
            while offered[i] < EACH:
                conn.send(block[:65536])
                offered[i] += 65536
        except (Aborted, OSError):
            pass
    tasks = [Task(offer, i, client if upload else service)
             for i, (client, service) in enumerate(pairs)]
    try:
        last = [None, time.monotonic()]

        def stuck():
            total = sum(offered)
            if total != last[0]:
                last[:] = [total, time.monotonic()]
            return time.monotonic() - last[1] > 0.7
        wait_for(stuck, "the writers stop")
        assert max(offered) < EACH, "nothing held the writers back"
        grown = setting.memory() - before
        beside(setting, door, way)
        assert grown < 40 * MB, f"{grown / MB:.1f} MB for {STREAMS} stalled streams"
        # one of them wakes up and gets all that was offered
        client, service = pairs[0]
        reader = service if upload else client
        got = 0
        while got < EACH:
            piece = reader.recv()
            assert piece
            at = got % 65536
            head = piece[:65536 - at]
            assert head == block[at:at + len(head)], "other bytes"
            got += len(piece)
    finally:
        for client, service in pairs:
            client.abort(), service.abort()
        for t in tasks:
            t.result()


def beside(setting, door, way):
    """Beside them a stream of the same tunnel gets through whole."""
    client, service = setting.pair(door, way)
    payload = data(4 * MB)
    with client, service:
        writer = Task(lambda: (client.send(payload), client.eof()))
        assert digest(service.read_all()) == digest(payload)
        writer.result()
        writer = Task(lambda: (service.send(payload), service.eof()))
        assert digest(client.read_all()) == digest(payload)
        writer.result()


@every
def test_no_byte_at_all(setting, door, way):
    """A client that sends nothing and ends still gets what the service says to that."""
    if door == "sni":  # not a stream before its hello: it just ends
        with dial(f"tcp:127.0.0.1:{setting.relay.port()}") as client:
            client.eof()
            assert client.recv() == b""
        setting.relay.wait_quiet()
        return
    with setting.doors.open(door, f"{way}.acme") as client:
        client.eof()
        with setting.services[way].accept() as service:
            assert service.recv() == b""
            service.send(b"good bye")
            service.eof()
            assert client.read_all() == b"good bye"


@pytest.mark.parametrize("way", [w for w, (carrier, _) in WAYS.items() if carrier])
def test_lazy_service_is_not_dialled_for_nothing(setting, way):
    """First-byte dialling: a client that goes without a word never reaches the service."""
    for door in ("static_tcp", "connect_plain", "connect_tls"):
        client = setting.doors.open(door, f"{way}.acme")
        setting.relay.wait_metric("live_splices", lambda v: v == 1)
        client.abort()
        setting.relay.wait_quiet()
    assert setting.services[way].none_waiting()


def test_many_pairs_interleaved(setting):
    """A stream by every door and way at once, each with its own bytes."""
    pairs = [(d, w, *setting.pair(d, w)) for d, w in CASES]
    tasks = []
    for door, way, client, service in pairs:
        up, down = data(300_000), data(300_000)

        def run(client=client, service=service, up=up, down=down):
            with client, service:
                a = Task(lambda: (client.send(up), client.eof()))
                b = Task(lambda: (service.send(down), service.eof()))
                c = Task(service.read_all)
                assert digest(client.read_all()) == digest(down)
                assert digest(c.result()) == digest(up)
                a.result(), b.result()
        tasks.append(Task(run))
    for t in tasks:
        t.result()
