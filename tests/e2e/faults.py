# Paths that can be spoilt: tests/tools/fault-proxy, and all programs with one on each way between
# them.
import collections
import json
import os
import random
import subprocess
import types

from bridge import Bridge, client_address
from harness import (DEADLINE, DOMAIN, HERE, PYTHON, Agent, Program, binary, free_port, sum_of,
                     wait_for)
from node import issue_node
from streams import DOORS, Doors

STORM = os.path.join(HERE, "storm.py")


def seed_of_this_run():
    """ATTEST_SEED, or another one each time; whoever uses it prints it."""
    return int(os.environ.get("ATTEST_SEED") or random.SystemRandom().randrange(1 << 32))


class FaultProxy(Program):
    """One link. ways: what is to be reached; address(way) is where it then listens."""

    def __init__(self, world, name, ways):
        self.world, self.answers, self.at_address = world, 0, {}
        argv = [binary("ATTEST_FAULT_PROXY")]
        for i, way in enumerate(ways):
            here = (f"unix:{world.path(f'{name}-{i}')}" if way.startswith("unix:")
                    else f"tcp:127.0.0.1:{free_port()}")
            self.at_address[way] = here
            argv += ["--listen", here, "--to", way]
        super().__init__(world, name, argv, stdin=subprocess.PIPE)
        for here in self.at_address.values():
            self.wait_output(rf"listening {here}\n")

    def address(self, way=None):
        return self.at_address[way] if way else next(iter(self.at_address.values()))

    def say(self, command):
        """The answer to a command, which has taken effect."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        self.answers += 1

        def answer():
            assert self.running(), f"{self.name} ended\n{self.tail()}"
            lines = [x for x in self.output().splitlines(True) if x[0] == "{" and x[-1] == "\n"]
            return len(lines) >= self.answers and json.loads(lines[self.answers - 1])
        return wait_for(answer, lambda: f"an answer to {command!r}\n{self.tail()}", every=0.002)

    def tell(self, *commands):
        for command in commands:
            assert self.say(command) == {"done": True}, command

    def stats(self):
        return self.say("stats")

    def drawn(self):
        """What its schedule has drawn so far: commands, each with its planned time."""
        return [x for x in self.log().splitlines() if x.startswith("+")]

    def stop(self, timeout=DEADLINE):
        if self.running():
            self.process.stdin.close()  # which ends it
        self.finish(timeout)


# ---- descriptors ----

SPARE_PIPES = 2 * 16 * 2 + 4  # ends; WORKER_PIPES_KEPT; workers; what wakes these


def kinds(program):
    """Its descriptors by kind: socket, pipe, anon_inode, or a path."""
    folder, found = f"/proc/{program.pid}/fd", collections.Counter()
    for fd in os.listdir(folder):
        try:
            found[os.readlink(f"{folder}/{fd}").split(":")[0]] += 1
        except FileNotFoundError:  # closed meanwhile
            pass
    return found


def spare_pipes(program):
    return kinds(program)["pipe"]


def descriptors(program):
    """All but pipes, of which a worker keeps some for the next splice."""
    found = kinds(program)
    return sum(found.values()) - found["pipe"]


# ---- programs with a link that can be spoilt between every two ----

WAYS = {  # as in test_conformance: carrier or None, kind of the service's socket
    "direct-tcp": (None, "tcp"), "direct-unix": (None, "unix"),
    "tunnel-tcp": ("direct", "tcp"), "tunnel-unix": ("direct", "unix"),
    "ws-tcp": ("websocket", "tcp"), "ws-unix": ("websocket", "unix"),
}
BRIDGE = {"bridge_tcp": "tunnel-tcp.acme", "bridge_unix": "ws-tcp.acme"}  # listener: to where
LINKS = ["clients", "tunnels", "services", "nodes", "guests"]
TIMEOUTS = {"handshake": "8s", "dial": "4s", "idle": "10s", "half_closed": "8s", "ping": "1s",
            "dead": "4s", "drain": "3s"}


class Field:
    """
    guests -> bridge -> nodes -> relay; clients -> relay; relay -> services; relay <- tunnels <- two
    agents -> services. A FaultProxy is on each arrow, in `links`.
    """

    def __init__(self, world, seed):
        self.world, self.seed, self.runs = world, seed, 0
        self.far = Program(world, "far", [
            PYTHON, STORM, "serve", "tcp:127.0.0.1:0", f"unix:{world.path('far.sock')}", "--tls",
            *world.certificates.service, "--seed", str(seed), "--out", world.path("far.lines")])
        found = self.far.wait_output(r"listening (\S+) (\S+)\n")
        self.links = {"services": FaultProxy(world, "services", found.groups())}
        self.behind = dict(zip(("tcp", "unix"), map(self.links["services"].address,
                                                    found.groups())))
        self.start_relay()
        self.links["tunnels"] = FaultProxy(world, "tunnels", [self.relay.listeners["front"]])
        self.agents = {c: self.start_agent(c) for c in ("direct", "websocket")}
        self.start_bridge()
        inside = {x["name"]: client_address(x["address"]) for x in self.bridge_listeners}
        self.links["guests"] = FaultProxy(world, "guests", inside.values())
        self.at = {n: self.links["clients"].address(a) for n, a in self.relay.listeners.items()
                   if n != "nodes"}
        self.at.update({n: self.links["guests"].address(a) for n, a in inside.items()})
        self.doors = Doors(types.SimpleNamespace(listeners=self.at), world.certificates)

    def start_relay(self):
        world, listeners = self.world, []
        for way in WAYS:
            listeners += [{"name": f"tcp-{way}.acme", "service": f"{way}.acme"},
                          {"name": f"unix-{way}.acme", "service": f"{way}.acme",
                           "address": f"unix:{world.path('d-' + way)}"}]
        listeners.append({"name": "nodes", "doors": ["connect"],
                          "client_ca": world.certificates.ca})
        self.relay = world.relay(
            listeners=listeners, timeouts={**TIMEOUTS, "pickup": "6s"},
            services=[{"name": f"{w}.acme", "targets": [self.behind[kind]]}
                      for w, (carrier, kind) in WAYS.items() if not carrier])
        addresses = self.relay.listeners
        self.links["clients"] = FaultProxy(
            world, "clients", [a for n, a in addresses.items() if n != "nodes"])
        self.links["nodes"] = FaultProxy(world, "nodes", [addresses["nodes"]])

    def start_agent(self, carrier):
        return self.world.agent(
            self.relay, {w: self.behind[kind] for w, (c, kind) in WAYS.items() if c == carrier},
            name=f"agent-{carrier}", transport=carrier, timeouts=TIMEOUTS,
            address=self.links["tunnels"].address())

    def start_bridge(self):
        world = self.world
        pair = issue_node(world.certificates)
        self.bridge_listeners = [
            {"name": "bridge_tcp", "address": f"tcp:127.0.0.1:{free_port()}",
             "forward": f"service:{BRIDGE['bridge_tcp']}"},
            {"name": "bridge_unix", "address": f"unix:{world.path('guest.sock')}",
             "forward": f"service:{BRIDGE['bridge_unix']}"}]
        self.bridge_config = {
            "relay": {"addresses": [self.links["nodes"].address()], "server_name": DOMAIN,
                      "ca_file": world.certificates.ca, "certificate": pair[0], "key": pair[1]},
            "timeouts": {**TIMEOUTS, "pickup": "6s"}}
        self.bridge = Bridge(world, None, self.bridge_listeners, wait=False, **self.bridge_config)
        self.bridge.wait_metric("sockets", lambda n: n == 2)

    # ---- one of them dies, and is started again by whoever looks after it ----

    def kill(self, victim):
        if victim == "relay":
            self.relay.kill()
            self.relay = self.world.restart(self.relay)
        elif victim == "bridge":
            self.bridge.kill()
            self.bridge = Bridge(self.world, None, self.bridge_listeners, wait=False,
                                 **self.bridge_config)
        else:
            old = self.agents[victim]
            old.kill()
            self.agents[victim] = Agent(self.world, old.name, old.argv[1:])

    def programs(self):
        return [self.relay, self.bridge, *self.agents.values()]

    # ---- faults ----

    def schedule(self, how, links=LINKS):
        for i, name in enumerate(links):
            self.links[name].tell(f"schedule {self.seed + i} {how}")

    def clear(self):
        for link in self.links.values():
            link.tell("schedule off", "clear")

    # ---- load ----

    def clients(self, count=1 << 30, seconds=DEADLINE * 20, threads=24, h2_threads=2, **more):
        """A process that makes streams; it ends by itself, or when it is stopped."""
        self.runs += 1
        spec = {"seed": self.seed, "first": self.runs * 1_000_000, "count": count,
                "seconds": seconds, "threads": threads, "h2_threads": h2_threads,
                "ca": self.world.certificates.ca, "listeners": self.at,
                "doors": [(d, f"{w}.acme") for d in DOORS for w in WAYS] + list(BRIDGE.items()) * 2,
                "h2": [f"{w}.acme" for w in WAYS],
                "out": self.world.path(f"clients-{self.runs}.lines"), **more}
        path = self.world.path(f"clients-{self.runs}.json")
        with open(path, "w") as f:
            json.dump(spec, f)
        p = Program(self.world, f"clients-{self.runs}", [PYTHON, STORM, "run", path])
        p.lines = spec["out"]
        p.wait_output("begun")
        return p

    def lines(self, path):
        with open(path) as f:
            return [json.loads(x) for x in f if x.endswith("\n")]

    def streams(self, *clients):
        """All of these processes' streams, each with what the service said of it (or None)."""
        found = []

        def both_sides():
            far = {x["number"]: x for x in self.lines(self.world.path("far.lines"))}
            found[:] = [dict(x, far=far.get(x["number"])) for c in clients
                        for x in self.lines(c.lines)]
            return all(x["far"] for x in found if x["end"] == "whole")
        wait_for(both_sides, "the service's word on each stream", every=0.2)
        return found

    # ---- afterwards ----

    def wait_well(self):
        """Tunnels are up, and a stream gets through by each door and way."""
        self.relay.wait_tunnels(2)
        check = self.clients(count=200, threads=8, h2_threads=1)
        check.finish(120)
        bad = [x for x in self.streams(check) if x["mode"] in ENDS_WELL and x["end"] != "whole"]
        assert not bad, bad[:3]

    def wait_quiet(self):
        for gauge in "connections", "relay_streams", "relay_waiting":
            self.bridge.wait_metric(gauge, lambda n: n == 0)
        self.relay.wait_quiet()
        last = {}

        def agreed():
            m = self.relay.metrics()
            last.update(streams=m["attest_relay_streams_total"],
                        ended=sum_of(m, "attest_relay_stream_ended_total", {}),
                        sockets=m["attest_relay_live_sockets"])
            return last["streams"] == last["ended"]
        wait_for(agreed, lambda: f"as many streams ended as began: {last}")


ENDS_WELL = ("client-first", "server-first", "both")
GONE_IN_ORDER = ("static_tcp", "static_unix", "connect_plain", "bridge_tcp", "bridge_unix")


def crosses(x, link):
    """Whether a stream's bytes, or the tunnel that carries them, go over this link."""
    by_bridge = x["door"] in BRIDGE
    return {"clients": not by_bridge, "guests": by_bridge, "nodes": by_bridge,
            "tunnels": not x["service"].startswith("direct-"), "services": True}[link]


def wordless(side, x, broken):
    """Whether an abort may have come to this end by a Unix socket, which has no word for it."""
    unix_door = x["door"] in ("static_unix", "bridge_unix")
    unix_way = x["service"].endswith("-unix.acme")
    if x["door"] == "sni":  # whose TLS goes from end to end, and says how it ends
        return False
    if side == "client":
        return unix_door or (unix_way and ("services" in broken or x["mode"] == "server-reset"))
    return unix_way or (unix_door and (x["mode"].startswith("client-") or
                                       {"clients", "guests"} & set(broken)))


def faults_of(x, broken, excuses=None):
    """
    What is wrong with how a stream ended; nothing can be said of "aborted" and "refused".

    An abort is never an orderly end, but where the transport has no word for it: at the ends of
    Unix sockets, and where a program that dies is next to an end without TLS (the kernel closes
    its sockets in order). excuses(side, stream) says whether one of these died in its time.
    """
    found, far = [], x["far"]
    for side, end in (("client", x["end"]), ("service", far and far["end"])):
        if end in ("hang", "wrong"):
            found.append(f"{side}: {end}")
        if end != "short" or wordless(side, x, broken) or (excuses and excuses(side, x)):
            continue
        if x["mode"] == "client-gone" and side == "service" and x["door"] in GONE_IN_ORDER:
            continue
        found.append(f"{side}: an orderly end after too few bytes")
    if x["mode"] == "client-first" and x["end"] == "whole" and (not far or far["end"] != "whole"):
        found.append("a reply to what did not arrive whole")
    return found


def assert_contract(streams, seed, broken=LINKS, excuses=None):
    """No stream broke it, on these links being broken. Returns how they ended: whole is both."""
    bad = [(f, x) for x in streams if (f := faults_of(x, broken, excuses))]
    assert not bad, (f"ATTEST_SEED={seed}: {len(bad)} of {len(streams)} streams, the first:\n"
                     + "\n".join(f"{f}: {json.dumps(x)}" for f, x in bad[:4]))
    return collections.Counter(
        "whole" if x["end"] == "whole" and x["far"]["end"] == "whole" else
        x["end"] if x["end"] != "whole" else f"service {x['far']['end']}"
        for x in streams if x["mode"] in ENDS_WELL)
