# attest-tunnel reads its config again: all of it or nothing, under live streams and new clients.
import os
import shutil
import signal
import subprocess
import threading

import pytest
import yaml

from admin import Admin
from harness import (DEADLINE, Program, Task, binary, data, fetch_metrics, free_port, token_hash,
                     wait_for)
from streams import Aborted, Doors, Refused, Service, dial, echo, roundtrip


def named(name):
    """A service that says its name to whoever begins, then echoes."""
    def handle(conn):
        conn.recv()
        conn.send(name)
        echo(conn)
    return handle


@pytest.fixture
def one(world):
    return world.add(Service(handler=named(b"one")))


@pytest.fixture
def two(world):
    return world.add(Service(handler=named(b"two")))


class Reloaded:
    """An agent with a config that is written anew."""

    def __init__(self, world, relay, services, **config):
        self.metrics_port = free_port()
        self.agent = world.agent(relay, services, name="agent",
                                 metrics=f"tcp:127.0.0.1:{self.metrics_port}", **config)
        self.path = world.path("agent.yaml")
        with open(self.path) as f:
            self.config = yaml.safe_load(f)

    def write(self, text):
        with open(self.path + ".new", "w") as f:
            f.write(text)
        os.rename(self.path + ".new", self.path)

    def reload(self, good=True, text=None, **changes):
        self.config.update(changes)
        self.write(text or yaml.safe_dump(self.config, sort_keys=False))
        start = self.agent.log_size()
        self.agent.signal(signal.SIGHUP)
        self.agent.wait_log("reload: done" if good else "(?s)reload: .*nothing has changed",
                            start=start)
        return start

    def metric(self, name):
        return fetch_metrics(self.metrics_port)[f"attest_tunnel_{name}"]


def target(service, name="kbs", **more):
    return {"name": name, "target": service.address, **more}


def asks(relay, service="kbs.acme"):
    """Which one answers there."""
    with Doors(relay, None).connect_plain(service) as c:
        c.send(b"?")
        return c.read_exactly(3)


def goes_on(conn):
    conn.send(b"more")
    assert conn.read_exactly(4) == b"more"


def begin(relay, service="kbs.acme"):
    c = Doors(relay, None).connect_plain(service)
    c.send(b"?")
    c.read_exactly(3)
    return c


def is_cut(conn):
    try:
        return conn.recv() == b""
    except Aborted:
        return True


class Crowd:
    """Clients that come all the time until it ends; each has to be served."""

    def __init__(self, relay, n=4):
        self.relay, self.over, self.served = relay, threading.Event(), 0
        self.tasks = [Task(self.run) for _ in range(n)]

    def run(self):
        while not self.over.is_set():
            assert asks(self.relay) in (b"one", b"two")
            self.served += 1

    def passes(self):
        """So many more were served."""
        until = self.served + 10
        wait_for(lambda: self.served >= until or any(not t.is_alive() for t in self.tasks),
                 "clients are served")

    def end(self):
        self.over.set()
        for t in self.tasks:
            t.result()


@pytest.mark.parametrize("transport", ["direct", "websocket"])
def test_services_come_and_go(world, one, two, transport):
    """Added, changed, removed: nobody is lost, and what was begun goes on past timeouts.drain."""
    relay = world.relay(timeouts={"drain": "300ms"})
    r = Reloaded(world, relay, {"kbs": one.address}, transport=transport)
    live = begin(relay)
    crowd = Crowd(relay)
    crowd.passes()
    start = r.reload(services=[target(one), target(two, "second")])
    r.agent.wait_log("kbs.acme, second.acme", start=start)
    assert asks(relay, "second.acme") == b"two"
    other = begin(relay, "second.acme")
    crowd.passes()
    r.reload(services=[target(two), target(two, "second", dial="eager", idle="1h")])
    crowd.passes()
    wait_for(lambda: asks(relay) == b"two", "kbs leads to the other one")
    r.reload(services=[target(two)])
    assert is_cut(other)
    r.agent.wait_log(r"second .*revoked")
    crowd.passes()
    crowd.end()
    relay.wait_log("tunnel acme/agent from .* up: kbs.acme\n(?s:.*)up: kbs.acme\n")
    roundtrip(live, data(300_000))
    live.close()
    relay.wait_tunnels(1)
    assert r.metric("reloads_total") == 3 and r.metric("reload_failures_total") == 0


def test_a_live_stream_outlasts_the_drain(world, one, two):
    """Its session retires in favour of another one of the same agent: no time is set to it."""
    relay = world.relay(timeouts={"drain": "300ms"})
    r = Reloaded(world, relay, {"kbs": one.address}, timeouts={"ping": "200ms", "dead": "10s"})
    live = begin(relay)
    r.reload(services=[target(one), target(two, "second")])
    relay.wait_tunnels(2)
    assert asks(relay, "second.acme") == b"two"
    with begin(relay) as later:  # 300 ms and more pass by what the relay's own clock does
        wait_for(lambda: r.metric("rtt_seconds_count") >= 6, "some pings", every=0.2)
        goes_on(later)
        goes_on(live)
    assert relay.metric("live_tunnels") == 2
    roundtrip(live, data(300_000))
    live.close()
    relay.wait_tunnels(1)

def test_sessions_of_before_are_bounded(world, one):
    """Each reload leaves one behind, with a stream that lasts: 8 may, then the oldest ends."""
    relay = world.relay()
    r = Reloaded(world, relay, [target(one)])
    live = []
    for i in range(10):
        live.append(begin(relay))
        start = r.reload(services=[target(one), target(one, f"more-{i}")])
        r.agent.wait_log(f"connected to .*, more-{i}.acme", start=start)
    for conn in live[:2]:
        assert is_cut(conn)
    for conn in live[2:]:
        goes_on(conn)
    assert r.agent.count("8 sessions of before still had streams") == 2
    assert relay.metric("live_tunnels") == 9
    for conn in live:
        conn.close()
    relay.wait_tunnels(1)


def test_a_relay_is_replaced_when_many_retire(world, one):
    """It asks for a fresh session once: followed although 8 retire, or new clients would find nobody."""
    relay = world.relay(admin={"address": f"unix:{world.path('admin.sock')}"},
                        timeouts={"drain": "1h"})
    r = Reloaded(world, relay, [target(one)])
    live = [begin(relay)]
    for i in range(8):
        start = r.reload(services=[target(one), target(one, f"more-{i}")])
        r.agent.wait_log(f"connected to .*, more-{i}.acme", start=start)
        live.append(begin(relay))
    heir = Program(world, "heir", [binary("ATTEST_RELAY"), "--takeover", "--config", relay.path])
    heir.wait_log("tunnel acme/agent from .* up: kbs.acme")
    assert is_cut(live[0])
    for conn in live[1:]:
        goes_on(conn)
        conn.close()
    relay.finish()


def test_no_new_listeners_at_the_end(world, one):
    """--once: what finishes when the session of the services is over is no reason to listen again."""
    relay = world.relay(services=[{"name": "near.acme", "targets": [one.address]}])
    ca = world.path("cas.pem")
    shutil.copy(world.certificates.ca, ca)
    port = free_port()
    agent = world.agent(relay, {"kbs": one.address}, extra=["--once"], ca_file=ca, expect=(0, 1),
                        proxy="none", timeouts={"drain": "1h"},
                        local=[{"address": f"tcp:127.0.0.1:{port}", "service": "near.acme"}])
    with dial(f"tcp:127.0.0.1:{port}") as c:
        c.send(b"?")
        assert c.read_exactly(3) == b"one"
        relay.reload(owners=[{"name": "acme", "tokens": [token_hash(world.token("beta")[0])]}])
        agent.wait_log("connection to .* ended")
        os.utime(ca)
        agent.wait_log("reading them again")
        goes_on(c)
    agent.finish()
    assert agent.count("leads to near.acme") == 1


def test_a_bad_config(world, one):
    """Nothing changes, and it is said why; then a good one."""
    relay = world.relay()
    r = Reloaded(world, relay, {"kbs": one.address})
    live = begin(relay)
    for what in ({"text": "relays: ["}, {"instance": "another"}, {"instance": "agent", "services": []},
                 {"services": [target(one)], "token_file": world.path("missing")}):
        r.reload(good=False, **what)
        goes_on(live)
        assert asks(relay) == b"one"
    assert "instance has changed, which needs a restart" in r.agent.log()
    r.reload(token_file=world.token()[1])
    assert r.metric("reload_failures_total") == 4 and r.metric("reloads_total") == 1
    live.close()


def test_what_the_relay_does_not_take(world, one, two):
    """It is asked first: the session that there is goes on."""
    relay = world.relay(owners=[world.owner("acme", services=["kbs"])])
    r = Reloaded(world, relay, {"kbs": one.address})
    live = begin(relay)
    r.reload(services=[target(one), target(two, "second")])
    r.agent.wait_log("may not offer the service second.*goes on")
    goes_on(live)
    assert asks(relay) == b"one"
    r.reload(services=[target(two)])
    assert asks(relay) == b"two"
    live.close()


def test_another_token(world, one):
    """Another owner's: the services are that one's."""
    relay = world.relay(owners=[world.owner("acme"), world.owner("evil")])
    r = Reloaded(world, relay, {"kbs": one.address})
    r.reload(token_file=world.token("evil")[1])
    r.agent.wait_log("as evil: kbs.evil")
    assert asks(relay, "kbs.evil") == b"one"
    relay.wait_tunnels(1)


def test_when_to_dial_changes(world):
    """The relay is told, too: it waits for the target before it tells the client."""
    gone = {"name": "kbs", "target": f"tcp:127.0.0.1:{free_port()}"}
    relay = world.relay()
    r = Reloaded(world, relay, [gone])
    Doors(relay, None).connect_plain("kbs.acme").close()
    start = r.reload(services=[{**gone, "dial": "eager"}])
    r.agent.wait_log("as acme: kbs.acme", start=start)
    with pytest.raises(Refused) as refused:
        Doors(relay, None).connect_plain("kbs.acme")
    assert refused.value.status == 502


def test_allow_is_tightened(world, one):
    """Who may not use it now is cut off."""
    relay = world.relay()
    r = Reloaded(world, relay, {"kbs": one.address})
    live = begin(relay)
    r.reload(services=[target(one, allow=["dns:nobody.test"])])
    assert is_cut(live)
    r.agent.wait_log("kbs .*revoked")


def test_local_listeners(world, one, two):
    """Added, removed, led elsewhere: a socket that stays is the same, and so are connections."""
    relay = world.relay()
    ports = [free_port() for _ in range(3)]

    def local(port, service="kbs.acme"):
        return {"address": f"tcp:127.0.0.1:{port}", "service": service}
    r = Reloaded(world, relay, [target(one), target(two, "second")],
                 local=[local(ports[0]), local(ports[1])])

    def at(port):
        c = dial(f"tcp:127.0.0.1:{port}")
        c.send(b"?")
        return c, c.read_exactly(3)
    first, second = at(ports[0])[0], at(ports[1])[0]
    r.reload(local=[local(ports[0], "second.acme"), local(ports[2])])
    for port, says in ((ports[0], b"two"), (ports[2], b"one")):
        c, said = at(port)
        assert said == says
        c.close()
    with pytest.raises(OSError):
        dial(f"tcp:127.0.0.1:{ports[1]}")
    for c in first, second:
        goes_on(c)
    taken = free_port()
    world.add(Service(f"tcp:127.0.0.1:{taken}"))
    r.reload(good=False, local=[local(ports[1]), local(taken)])
    with pytest.raises(OSError):
        dial(f"tcp:127.0.0.1:{ports[1]}")
    r.reload(local=[])
    goes_on(first)
    first.close()
    second.close()


def test_relays_come_and_go(world, one):
    """A second relay, then without the first: its streams finish."""
    first, second = world.relay(), world.relay("second")
    r = Reloaded(world, first, {"kbs": one.address})
    live = begin(first)
    addresses = [f"tcp:127.0.0.1:{relay.port()}" for relay in (first, second)]
    nobody = f"tcp:127.0.0.1:{free_port()}"
    silent = world.add(Service())  # takes the connection, and then says nothing
    r.reload(relays=[*addresses, nobody, silent.address])
    second.wait_tunnels(1)
    assert asks(second) == b"one"
    silent.accept()
    r.reload(relays=addresses[1:])
    r.agent.wait_log("is a relay of this agent no more")
    assert asks(second) == b"one"
    goes_on(live)
    live.close()
    first.wait_tunnels(0)
    second.wait_tunnels(1)


def test_flags_stay(world, one, two):
    """What was given by flags is on top of the file, then as now; the log's level changes."""
    relay = world.relay()
    r = Reloaded(world, relay, {"kbs": one.address}, extra=["--service", f"second={two.address}"])
    start = r.reload(log={"level": "debug"}, services=[target(two)])
    wait_for(lambda: asks(relay) == b"two", "the file's service leads elsewhere")
    assert asks(relay, "second.acme") == b"two"
    assert "connecting" not in r.agent.log(start)  # nothing that needs a session has changed
    start = r.reload(log={"level": "info"}, services=[target(two), target(one, "third")])
    r.agent.wait_log("third.acme", start=start)
    assert asks(relay, "third.acme") == b"one"


def test_asked_for_at_the_admin_socket(world, one):
    """The answer is what came of it: attestctl's exit status, too."""
    path = world.path("agent.sock")
    relay = world.relay()
    r = Reloaded(world, relay, {"kbs": one.address}, admin=f"unix:{path}")
    admin = Admin(path)
    attestctl = [binary("ATTESTCTL"), "--socket", path, "reload"]
    assert admin.post("/v1/reload") == {"done": "reload"}
    assert subprocess.run(attestctl, capture_output=True, timeout=DEADLINE).returncode == 0
    r.write("relays: [")
    assert "agent.yaml:2:1: not valid YAML" in admin.post("/v1/reload", status=422)["error"]["message"]
    bad = subprocess.run(attestctl, capture_output=True, text=True, timeout=DEADLINE)
    assert bad.returncode != 0 and "agent.yaml:2:1: not valid YAML" in bad.stderr
    assert asks(relay) == b"one"
    assert r.metric("reloads_total") == 2 and r.metric("reload_failures_total") == 2
