# What streams keep for readers that take nothing: within limits.memory, and nobody else's loss.
#
# Everything here is one thread: sockets are filled and emptied as far as they go. Both directions
# stall at Unix sockets, which the kernel lets hold little, so that the relay has to keep something.
import socket

import pytest

from h2_client import H2Client, over_tls
from harness import DOMAIN, Task, data, sanitizer, wait_for
from streams import (Conn, Service, TlsConn, TlsHttpConn, dial, echo, http_connect,
                     roundtrip)
from test_connect_h2 import both_workers
from wire import websocket_open

KB, MB = 1024, 1024 * 1024
MEMORY = 8 * MB          # limits.memory
SOURCE = OWNER = 6 * MB  # ... per_source, per_owner
PART = 2                 # QUOTA_WAY_PARTS: streams may keep so much less
LITTLE = 4 * KB          # ... and each way of each one so much beside
STREAMS = 400
BEYOND = 300 * KB        # bytes of each way that are sent when it is read again
PAYLOAD = data(64 * MB)


class Way:
    """One direction of a stream: who writes, who reads, and how far they are."""

    def __init__(self, writer, reader, at):
        self.writer, self.reader = writer.sock, reader.sock
        self.writer.setblocking(False)
        self.reader.setblocking(False)
        self.at = at % (len(PAYLOAD) - 16 * MB)  # where in PAYLOAD it begins
        self.sent, self.got, self.until = 0, 0, 16 * MB
        self.ended = False

    def fill(self):
        """As much as goes now; True: something went."""
        before = self.sent
        view = memoryview(PAYLOAD)[self.at:self.at + self.until]
        try:
            while self.sent < self.until:
                self.sent += self.writer.send(view[self.sent:self.sent + 256 * KB])
        except BlockingIOError:
            pass
        if self.sent == self.until and not self.ended:
            self.writer.shutdown(socket.SHUT_WR)
            self.ended = True
        return self.sent > before

    def drain(self):
        """All that is there now, checked; True: that was all, in order."""
        while True:
            try:
                got = self.reader.recv(256 * KB)
            except BlockingIOError:
                return False
            if not got:
                assert self.got == self.until, f"{self.got} of {self.until} bytes"
                return True
            at = self.at + self.got
            assert PAYLOAD[at:at + len(got)] == got, "other bytes"
            self.got += len(got)


def memory_of(relay, scope, tenant=""):
    return relay.metric("limit_used", what="memory", scope=scope, tenant=tenant)


def still(relay, ways):
    """Nothing goes in any more, and nothing moves inside."""
    moved = [None]

    def look():
        going = [w.fill() for w in ways]
        before, moved[0] = moved[0], relay.metric("bytes_total")
        return not any(going) and moved[0] == before
    wait_for(look, "everything stands still")


def read_again(ways):
    for w in ways:
        w.until = w.sent + BEYOND
    left = list(ways)

    def look():
        for w in left:
            w.fill()
        left[:] = [w for w in left if not w.drain()]
        return not left
    wait_for(look, lambda: f"{len(left)} ways to arrive whole", every=0)


def others_are_well(world, relay):
    """From another source: a plain stream, one to the same owner's tunnel, one to another's."""
    for service in ("echo.near", "kbs.near", "kbs.beta"):
        sock = socket.create_connection(("127.0.0.1", relay.port()), 20, ("127.0.0.7", 0))
        with http_connect(Conn(sock), service) as c:
            roundtrip(c, data(3 * MB))


@pytest.fixture
def stalled(world):
    """A service that takes nothing and says more than anybody takes."""
    return world.add(Service(f"unix:{world.path('stalled')}"))


@pytest.fixture
def relay(world, stalled):
    near = world.add(Service(handler=echo))
    relay = world.relay(
        listeners=[{"name": "stall", "address": f"unix:{world.path('stall')}",
                    "service": "stall.near"},
                   {"name": "doors", "address": f"unix:{world.path('doors')}",
                    "doors": ["connect", "websocket"]}],
        owners=[world.owner("near"), world.owner("beta")],
        services=[{"name": "stall.near", "targets": [stalled.address]},
                  {"name": "echo.near", "targets": [near.address]}],
        timeouts={"dead": "60s"},  # of clients that read nothing, not even what asks for a sign
        limits={"memory": f"{MEMORY // MB}MiB", "per_source": {"memory": f"{SOURCE // MB}MiB"},
                "per_owner": {"memory": f"{OWNER // MB}MiB"}})
    world.agent(relay, {"kbs": near.address}, owner="near")
    world.agent(relay, {"kbs": near.address}, owner="beta")
    return relay


def open_stalled(relay, stalled, n):
    ends = []
    for _ in range(n):
        client = dial(relay.listeners["stall"])
        ends.append((client, stalled.accept()))
    return ends


@pytest.mark.parametrize("up,down", [(False, True), (True, False), (True, True)])
def test_stalled_streams(world, relay, stalled, up, down):
    """Many, by one source: what the relay keeps is bounded, others go on, and nothing is lost."""
    before = relay.rss()
    ends = open_stalled(relay, stalled, STREAMS)
    opened = relay.rss() - before
    ways = []
    for i, (client, service) in enumerate(ends):
        if up:
            ways.append(Way(client, service, i * 1001))
        if down:
            ways.append(Way(service, client, i * 1003))
    still(relay, ways)

    most = SOURCE // PART
    grown = relay.rss() - before - opened
    assert most / 2 < memory_of(relay, "source") <= 2 * most  # two workers asked at once, at worst
    assert memory_of(relay, "source") == memory_of(relay, "owner", "near")
    assert memory_of(relay, "all") <= MEMORY
    assert relay.metric("live_buffers") * 64 * KB <= 2 * most
    if not sanitizer():  # which keeps more for each allocation
        assert grown < 2 * most + len(ways) * 2 * LITTLE + 4 * MB
    others_are_well(world, relay)

    read_again(ways)
    for client, service in ends:
        client.close()
        service.close()
    relay.wait_quiet()
    nothing_left(relay)


def by_tls(relay):
    tls = TlsHttpConn(dial(relay.listeners["doors"]), relay.certificates.client(), name=DOMAIN)
    return tls, http_connect(tls, "stall.near").recv


def by_websocket(relay, under=None):
    """What its messages say; none of them is masked, or longer than 64 KiB."""
    conn = under or dial(relay.listeners["doors"])
    status, got = websocket_open(conn, path="/connect/stall.near", protocol=None)
    assert status == 101

    def recv():
        nonlocal got
        while True:
            if len(got) >= 2 and got[0] == 0x88:
                return b""
            if len(got) >= 4:
                n, at = (got[1], 2) if got[1] < 126 else (int.from_bytes(got[2:4], "big"), 4)
                assert got[0] == 0x82 and got[1] <= 126
                if len(got) >= at + n:
                    said, got = got[at:at + n], got[at + n:]
                    return said
            more = conn.recv()
            assert more
            got += more
    return conn, recv


def by_wss(relay):
    return by_websocket(relay, TlsConn(dial(relay.listeners["doors"]),
                                       relay.certificates.client(), name=DOMAIN))


@pytest.mark.parametrize("come,layers", [(by_tls, 1), (by_websocket, 1), (by_wss, 2)])
def test_layers(world, relay, stalled, come, layers):
    """What TLS and WebSockets keep for a client that reads nothing counts as well."""
    relay.certificates = world.certificates
    clients, ways = [], []
    for i in range(60):
        clients.append(come(relay))
        service = stalled.accept()
        ways.append(Way(service, service, i * 1003))
    still(relay, ways)
    # two workers, each with one buffer more than there is room for, and one more in each layer
    most = SOURCE // PART + 2 * (1 + layers) * 64 * KB
    assert most / 2 < memory_of(relay, "source") <= most
    assert relay.metric("live_buffers") * 64 * KB <= most
    others_are_well(world, relay)
    for (conn, recv), way in zip(clients, ways):
        way.until = way.sent + BEYOND
        got = 0
        while said := (way.fill(), recv())[1]:
            assert PAYLOAD[way.at + got:way.at + got + len(said)] == said
            got += len(said)
        assert got == way.until
        way.writer.close()
        conn.close()
    relay.wait_quiet()
    nothing_left(relay)


@pytest.mark.parametrize("how", ["plain", "tls"])
def test_sessions(world, relay, stalled, how):
    """HTTP/2 clients that read nothing, with more windows open than their sockets hold."""
    clients, streams, ways, reply = [], [], [], PAYLOAD[:65535]
    for _ in range(60):
        conn = dial(relay.listeners["doors"])
        clients.append(H2Client(over_tls(conn, world.certificates) if how == "tls" else conn))
        for _ in range(10):
            streams.append(clients[-1].connect("stall.near", end=True))
            end = stalled.accept()
            ways.append(Way(end, end, 0))
            ways[-1].until = len(reply)
    still(relay, ways)
    most = SOURCE // PART + 2 * 5 * 64 * KB
    assert most / 2 < memory_of(relay, "source") <= most
    others_are_well(world, relay)
    for s in streams:
        assert s.read_all() == reply
    for c in clients:
        c.close()
    relay.wait_quiet()
    nothing_left(relay)


def nothing_left(relay):
    relay.wait_metric("limit_used", lambda v: v == 0, what="memory", scope="all")
    for scope, tenant in (("source", ""), ("owner", "near"), ("owner", "beta")):
        assert memory_of(relay, scope, tenant) == 0
    relay.wait_metric("live_buffers", lambda v: v == 0)


def test_ends_of_stalled_streams(world, relay, stalled):
    """However they end, what they had is given back."""
    ends = open_stalled(relay, stalled, 100)
    ways = [Way(a, b, 0) for client, service in ends for a, b in ((client, service),
                                                                  (service, client))]
    still(relay, ways)
    assert memory_of(relay, "source") > 0
    for i, (client, service) in enumerate(ends):  # either first; with bytes unread: aborts
        (client, service)[i % 2].close()
    for client, service in ends:
        client.close()
        service.close()
    relay.wait_quiet()
    nothing_left(relay)
    others_are_well(world, relay)


def test_across_workers(world, relay):
    """Streams of HTTP/2 clients that are not read: the rings between workers count as well."""
    service = world.add(Service())
    world.agent(relay, {"stall": service.address}, owner="beta", instance="stall")
    streams, ways, reply = [], [], PAYLOAD[:65535 + 100 * KB]
    clients = both_workers(relay, lambda: H2Client(dial(relay.listeners["front"])))

    def more(n):
        for c in clients:  # one crosses, the other does not
            for _ in range(n):
                s = c.connect("stall.beta", end=True)
                s.held = True
                streams.append(s)
                end = service.accept()
                ways.append(Way(end, end, 0))
                ways[-1].until = len(reply)
        still(relay, ways)
    more(10)
    rings = relay.metric("live_buffers")
    assert rings > 0
    assert memory_of(relay, "source") >= rings * 64 * KB  # of what sessions have, nothing is
    more(50)
    assert relay.metric("live_buffers") * 64 * KB <= OWNER
    # what its tunnels are read for in any case, by two workers
    assert memory_of(relay, "owner", "beta") <= OWNER + 4 * 128 * KB
    others_are_well(world, relay)

    def read(c):
        own = [s for s in streams if s.client is c]
        for s in own:
            s.held = False
            c.credit(s)
        c.flush()
        return [s.read_all() for s in own]
    readers = [Task(read, c) for c in clients]
    wait_for(lambda: [w.fill() for w in ways] and all(w.ended for w in ways), "all is sent")
    for r in readers:
        assert r.result() == [reply] * 60
    for c in clients:
        c.close()
    relay.wait_quiet()
    nothing_left(relay)
