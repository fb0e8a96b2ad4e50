# How a service's streams find their way among several tunnels, and between tunnels and addresses.
import socket
import threading

import pytest

from harness import DEADLINE, Task, data, wait_for
from streams import Aborted, Conn, Doors, Refused, Service, http_connect, roundtrip

AGENTS = ["one", "two"]
SESSIONS = 200


def named(name):
    """Says who it is, then echoes: whoever speaks with it knows where its bytes are."""
    def handler(conn):
        first = conn.read_exactly(1)
        conn.send(name.encode().ljust(8) + first)
        while got := conn.recv():
            conn.send(got)
        conn.eof()
    return handler


def connect(relay, source=None, service="kbs.acme"):
    s = socket.create_connection(("127.0.0.1", relay.port()), DEADLINE,
                                 source_address=(source, 0) if source else None)
    return http_connect(Conn(s), service)


def greet(conn):
    """Who is there. The stream goes on."""
    conn.send(b"?")
    said = conn.read_exactly(9)
    assert said[8:] == b"?"
    return said[:8].decode().strip()


def request(relay, source=None, size=3000):
    """A connection with one request; who answered, when all of it is there."""
    with connect(relay, source) as c:
        who = greet(c)
        roundtrip(c, data(size))
    return who


def client(i):
    return f"127.1.{i // 250}.{i % 250 + 1}"


class Site:
    """A relay, and two agents of one service, each with a service of its own behind it."""

    def __init__(self, world, balance, **config):
        self.world = world
        self.relay = world.relay(
            services=[{"name": "kbs.acme", "balance": balance, **config}],
            timeouts={"pickup": "20s"})
        self.services = {n: world.add(Service(handler=named(n))) for n in AGENTS}
        self.agents = {}
        self.starts = 0
        for n in AGENTS:
            self.start(n)

    def start(self, name):
        self.starts += 1
        self.agents[name] = self.world.agent(
            self.relay, {"kbs": self.services[name].address}, instance=name,
            name=f"{name}-{self.starts}")

    def kill(self, name):
        self.agents[name].kill()
        self.relay.wait_tunnels(len(AGENTS) - 1)


def sessions(relay, n=SESSIONS):
    """Each two requests one after the other, all at once: {client: who answered both}."""
    barrier = threading.Barrier(n)

    def session(i):
        barrier.wait(DEADLINE)
        return [request(relay, client(i)) for _ in range(2)]
    answers = [t.result() for t in [Task(session, i) for i in range(n)]]
    split = {client(i): a for i, a in enumerate(answers) if a[0] != a[1]}
    assert not split, split
    return {client(i): a[0] for i, a in enumerate(answers)}


def test_primary(world):
    """The first is used, the next when it is gone, and the first again when it is back."""
    site = Site(world, "primary")
    assert set(sessions(site.relay).values()) == {"one"}
    site.kill("one")
    standby = connect(site.relay)
    assert greet(standby) == "two"
    assert request(site.relay) == "two"
    site.start("one")
    assert set(sessions(site.relay, 20).values()) == {"one"}
    roundtrip(standby, data(100_000))  # stays where it is
    site.agents["one"].stop()  # in order, too
    assert request(site.relay) == "two"
    site.start("one")
    assert request(site.relay) == "one"
    site.kill("two")
    site.start("two")
    assert request(site.relay) == "one"
    standby.close()


def test_sticky(world):
    """No session is split; when an agent goes only its own clients move, and then return."""
    site = Site(world, "sticky")
    before = sessions(site.relay)
    each = [list(before.values()).count(n) for n in AGENTS]
    assert min(each) > SESSIONS / 4, each
    site.kill("one")
    assert set(sessions(site.relay).values()) == {"two"}
    site.start("one")
    assert sessions(site.relay) == before
    # as it was behind another relay, and after a restart
    site.relay.stop()
    site.relay = world.restart(site.relay)
    site.relay.wait_tunnels(2)
    assert {c: request(site.relay, c) for c in list(before)[:40]} == \
        {c: before[c] for c in list(before)[:40]}


def test_least_streams(world):
    """Streams that live are spread evenly, whatever came and went before."""
    site = Site(world, "least-streams")
    live = [connect(site.relay) for _ in range(20)]
    where = [greet(c) for c in live]
    assert where.count("one") == where.count("two") == 10, where
    for c, w in zip(live, where):
        if w == "one":
            c.close()
    site.relay.wait_metric("live_splices", lambda v: v == 10)
    more = [connect(site.relay) for _ in range(10)]
    assert [greet(c) for c in more] == ["one"] * 10
    # all at once: each counts for the next, though none is there yet
    barrier = threading.Barrier(40)

    def burst():
        barrier.wait(DEADLINE)
        c = connect(site.relay)
        return c, greet(c)
    got = [t.result() for t in [Task(burst) for _ in range(40)]]
    where = [w for _, w in got]
    assert where.count("one") == where.count("two") == 20, where
    site.kill("one")
    assert request(site.relay) == "two"
    site.start("one")
    assert request(site.relay) == "one"
    for c in live + more + [c for c, _ in got]:
        c.close()
    site.relay.wait_quiet()
