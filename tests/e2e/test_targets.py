# How a service's streams find their way among several tunnels, and between tunnels and addresses.
import signal
import socket
import threading
import time

import pytest

from harness import DEADLINE, DOMAIN, Task, data, free_port, wait_for
from streams import (Conn, Doors, Refused, Service, TlsConn, TlsHttpConn, dial,
                     http_connect, roundtrip, tls_service)

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


def closed():
    """An address at which nobody listens, for now."""
    return f"tcp:127.0.0.1:{free_port()}"


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


def test_sticky_by_certificate(world, certificates):
    """Who shows one is the same wherever the connection comes from."""
    relay = world.relay(services=[{"name": "kbs.acme", "balance": "sticky"}],
                        listeners=[{"name": "nodes", "doors": ["connect"],
                                    "client_ca": certificates.ca}])
    for n in AGENTS:
        world.agent(relay, {"kbs": world.add(Service(handler=named(n))).address}, name=n)

    def ask(pair, source):
        context = certificates.client()
        context.load_cert_chain(*pair)
        s = socket.create_connection(("127.0.0.1", relay.port("nodes")), DEADLINE,
                                     source_address=(source, 0))
        with http_connect(TlsHttpConn(Conn(s), context, name=DOMAIN), "kbs.acme") as c:
            return greet(c)
    where = set()
    for i in range(16):
        pair = certificates.issue(f"node-{i}", f"DNS:node-{i}")
        at = {ask(pair, client(100 * j + i)) for j in range(4)}
        assert len(at) == 1, at
        where |= at
    assert where == set(AGENTS)


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


@pytest.mark.parametrize("door", ["connect_plain", "sni", "static_tcp"])
def test_agent_without_service(world, certificates, door):
    """An eager service that its agent cannot reach: another agent is asked, then an address."""
    handler = named("two")
    inside, cloud = closed(), named("cloud")
    if door == "sni":
        handler, cloud = [tls_service(certificates.server(), h) for h in (handler, cloud)]
    two = world.add(Service(handler=handler))
    cloud = world.add(Service(handler=cloud))
    relay = world.relay(
        services=[{"name": "kbs.acme", "targets": ["tunnel", cloud.address]}],
        listeners=[{"name": "tcp-kbs.acme", "service": "kbs.acme"}])
    for name, target in (("one", inside), ("two", two.address)):
        world.agent(relay, [{"name": "kbs", "target": target, "dial": "eager"}], name=name)

    def ask():
        with Doors(relay, certificates).open(door, "kbs.acme") as c:
            who = greet(c)
            roundtrip(c, data(100_000))
        return who
    assert ask() == "two"
    two.close()
    assert ask() == "cloud"
    world.add(Service(inside, handler=tls_service(certificates.server(), named("one"))
                      if door == "sni" else named("one")))
    assert ask() == "one"
    relay.wait_quiet()


# ---- addresses ----

def up(relay, address):
    return relay.metric("target_up", service="kbs.acme", target=address)


def test_passive_health(world):
    """A target that failed is tried last for a while; not left out, and then first again."""
    first, second = closed(), world.add(Service(handler=named("second")))
    relay = world.relay(services=[{"name": "kbs.acme", "targets": [first, second.address]}])
    assert up(relay, first) == 1
    assert request(relay) == "second"
    assert up(relay, first) == 0 and up(relay, second.address) == 1
    back = world.add(Service(first, handler=named("first")))
    assert request(relay) == "second"  # within 10 s nobody asks the first
    assert back.accepted == 0
    second.close()
    assert request(relay) == "first"  # when the others fail it is asked all the same
    assert up(relay, first) == 1 and up(relay, second.address) == 0
    assert relay.count(f"target {first} of kbs.acme is tried last") == 1
    assert relay.count(f"target {first} of kbs.acme answers again") == 1
    second = world.add(Service(second.address, handler=named("second")))
    assert request(relay) == "first"
    back.close()
    assert request(relay) == "second"
    second.close()
    with pytest.raises(Refused):  # both were asked
        request(relay)
    world.add(Service(first, handler=named("first")))
    begin = time.monotonic()
    world.add(Service(second.address, handler=named("second")))
    assert request(relay) == "first"  # of those that are down the first is the first
    assert time.monotonic() - begin < 5
    relay.wait_quiet()


def test_trial(world):
    """When its time is over, one client tries it; and the target has its place again."""
    first, second = closed(), world.add(Service(handler=named("second")))
    relay = world.relay(services=[{"name": "kbs.acme", "targets": [first, second.address]}])
    assert request(relay) == "second"
    world.add(Service(first, handler=named("first")))
    begin = time.monotonic()
    wait_for(lambda: request(relay) == "first", "the first target is asked again", every=0.2)
    assert 8 < time.monotonic() - begin < 20


def test_impatient_clients(world):
    """A target that does not answer is found out by clients that never wait for the time-out."""
    silent = world.add(Service(f"unix:{world.path('silent')}", backlog=0, accepting=False))
    full = socket.socket(socket.AF_UNIX)
    full.connect(world.path("silent"))
    second = world.add(Service(handler=named("second")))
    relay = world.relay(
        listeners=[{"name": "local", "address": f"unix:{world.path('local')}",
                    "service": "kbs.acme"}],
        services=[{"name": "kbs.acme", "targets": [silent.address, second.address]}],
        timeouts={"dial": "60s"})

    def leave(after):
        refused = relay.metric("refused_total", reason="reset")
        with dial(relay.listeners["local"]):
            time.sleep(after)
        relay.wait_metric("refused_total", lambda v: v == refused + 1, reason="reset")
    leave(0.1)  # this says nothing of the target
    assert up(relay, silent.address) == 1
    leave(2)
    assert up(relay, silent.address) == 0
    assert relay.count(f"target {silent.address} of kbs.acme is tried last") == 1
    assert request(relay) == "second"
    full.close()
    relay.wait_quiet()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_check(world, certificates, kind):
    """A probe finds out before any client does; by TLS also that nobody speaks there."""
    def behind(name):
        handler = named(name)
        return tls_service(certificates.server(), handler) if kind == "tls" else handler

    def ask(relay):
        with connect(relay) as c:
            if kind == "tcp":
                return greet(c)
            return greet(TlsConn(c, certificates.client(), name=f"kbs.acme.{DOMAIN}"))
    first, second = closed(), world.add(Service(handler=behind("second")))
    relay = world.relay(services=[
        {"name": "kbs.acme", "targets": [first, second.address],
         "check": {"kind": kind, "every": "100ms",
                   **({"server_name": f"kbs.acme.{DOMAIN}"} if kind == "tls" else {})}}],
        timeouts={"dial": "500ms"})
    relay.wait_metric("target_up", lambda v: v == 0, target=first)
    assert ask(relay) == "second" and relay.count("refused after") == 0
    back = world.add(Service(first, handler=behind("first")))
    relay.wait_metric("target_up", lambda v: v == 1, target=first)
    assert ask(relay) == "first"
    back.close()
    relay.wait_metric("target_up", lambda v: v == 0, target=first)
    wait_for(lambda: relay.count(f"target {first} of kbs.acme does not pass its check: .*refused")
             == 2, "both times in the log")
    assert relay.count(f"target {first} of kbs.acme passes its check") == 1
    # one that connects and says nothing
    mute = world.add(Service(first))
    if kind == "tcp":
        relay.wait_metric("target_up", lambda v: v == 1, target=first)
    else:
        wait_for(lambda: mute.accepted >= 3, "two probes have been judged")
        assert ask(relay) == "second" and up(relay, first) == 0
        assert up(relay, second.address) == 1


# ---- tunnels and addresses ----

@pytest.mark.parametrize("order", ["tunnel first", "address first"])
def test_move_between(world, order):
    """A service moves between tunnel and cloud and back: streams that run lose nothing."""
    cloud = closed()
    inside = world.add(Service(handler=named("inside")))
    targets = ["tunnel", cloud]
    if order == "address first":
        targets.reverse()
    relay = world.relay(services=[{"name": "kbs.acme", "targets": targets,
                                   "check": {"kind": "tcp", "every": "100ms"}}],
                        timeouts={"pickup": "20s"})
    over = threading.Event()
    began = threading.Barrier(9)
    arriving = threading.Lock()

    def stream():
        """One for as long as all goes on; every byte is looked at."""
        sent = 0
        with connect(relay) as c:
            who = greet(c)
            began.wait(DEADLINE)
            while not over.is_set():
                some = data(50_000)
                c.send(some)
                assert c.read_exactly(len(some)) == some
                sent += len(some)
            c.eof()
            assert c.read_all() == b""
        return who, sent

    def clients():
        """Others come and go; each of them is served."""
        seen = []
        while not over.is_set():
            with arriving:
                c = connect(relay)
                seen.append(greet(c))
            with c:
                roundtrip(c, data(3000))
        return seen
    agent = world.agent(relay, {"kbs": inside.address}, instance="one", name="one-1",
                        timeouts={"drain": "60s"})
    long = [Task(stream) for _ in range(8)]
    began.wait(DEADLINE)
    short = [Task(clients) for _ in range(2)]
    try:
        for turn in range(2):
            there = world.add(Service(cloud, handler=named("cloud")))
            relay.wait_metric("target_up", lambda v: v == 1, target=cloud)
            assert request(relay) == ("inside" if order == "tunnel first" else "cloud")
            agent.signal(signal.SIGTERM)  # leaves in order; what runs has time to finish
            relay.wait_metric("services", lambda v: v == 0)
            assert request(relay) == "cloud"
            agent = world.agent(relay, {"kbs": inside.address}, instance="one", wait=False,
                                name=f"one-{turn + 2}", timeouts={"drain": "60s"})
            relay.wait_metric("services", lambda v: v == 1)
            if order == "tunnel first":
                assert request(relay) == "inside"
            with arriving:  # a listener that closes resets those it has not accepted yet
                there.close()
            relay.wait_metric("target_up", lambda v: v == 0, target=cloud)
            assert request(relay) == "inside"
    finally:
        over.set()
    assert all(sent > 0 for _, sent in [t.result() for t in long])
    assert {w for t in short for w in t.result()} == {"inside", "cloud"}
    relay.wait_quiet()
