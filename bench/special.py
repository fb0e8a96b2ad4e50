#!/usr/bin/python3
"""The special measurements: what no plain load shows.

  blackhole     a path swallows everything: when do agent and relay each say so (default settings)
  storm-N       a relay is restarted under N agents: when is the last one back
  stall         bulk streams of one tunnel, with and without a stalled stream in the same tunnel
  beside-bulk   small exchanges while a bulk stream runs in the same tunnel
  idle-tunnels  memory of one idle tunnel, at the relay and at the agent
  attacks       bulk streams of a tenant while strangers attack the same relay

Each is a function from a Lab (a folder, certificates, tokens, programs to start) to a list of
figures, plain dicts. A figure has a value only if nothing failed while it was measured,
and every program ended in order.

bench/run calls run(); by itself, for work on one of them:

  special.py --relay P --tunnel P --load P --agents P [--only NAME,...] [--scale WORD] [--rounds N]
"""
import argparse
import collections
import contextlib
import datetime
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import stopping
from attacked import attacks
from lab import (DEADLINE, SCALES, Failed, Lab, Process, Programs, Skipped, Tunnelled, figure,
                 no_figure, result, signal, wait_for)


# ---- blackhole ----

HOSTS = {"agent": "10.91.1", "relay": "10.91.2"}  # .2 the host, .1 the router


class Path:
    """Two hosts and a router between them, each a network namespace, until it turns black."""

    def __init__(self, lab):
        for program in ("unshare", "nsenter", "ip"):
            if not shutil.which(program):
                raise Skipped(f"{program} is not installed")
        if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
            raise Skipped("network namespaces are not permitted here")
        self.router = self.namespace(lab, "router", ["unshare", "-rn"])
        self.hosts = {}
        self.ip("router", "link", "set", "lo", "up")
        for name, net in HOSTS.items():
            self.hosts[name] = self.namespace(lab, name, [*self.enter("router"), "unshare", "-n"])
            self.ip("router", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0",
                    "netns", str(self.hosts[name].pid))
            self.ip("router", "address", "add", f"{net}.1/24", "dev", f"to-{name}")
            self.ip("router", "link", "set", f"to-{name}", "up")
            self.ip(name, "link", "set", "lo", "up")
            self.ip(name, "address", "add", f"{net}.2/24", "dev", "eth0")
            self.ip(name, "link", "set", "eth0", "up")
            self.ip(name, "route", "add", "default", "via", f"{net}.1")
        self.run("router", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    @staticmethod
    def namespace(lab, name, under):
        p = Process(lab, f"net-{name}", [*under, "sh", "-c", "echo up; exec cat"])
        if p.line() != "up":
            p.fail("cannot be made")
        return p

    def enter(self, name):
        pid = self.router.pid if name == "router" else self.hosts[name].pid
        return ["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-n"]

    def run(self, name, *argv):
        done = subprocess.run([*self.enter(name), *argv], capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"{' '.join(argv)}: {done.stderr.strip()}")

    def ip(self, name, *args):
        self.run(name, "ip", *args)

    def turn_black(self):
        """From now on the router swallows all packets, and says nothing. When it began."""
        for net in HOSTS.values():
            self.ip("router", "route", "add", "blackhole", f"{net}.2/32")
        return datetime.datetime.now(datetime.timezone.utc)

    def close(self):
        for p in (*self.hosts.values(), self.router):
            p.end(0)


def stamps(log, pattern):
    """When each line with this pattern was said, by the program's own clock."""
    return [datetime.datetime.fromisoformat(at.replace("Z", "+00:00"))
            for at, text in re.findall(r"(?m)^(\S+Z) (.*)$", log) if re.search(pattern, text)]


def blackhole(lab):
    lab.need("relay", "tunnel")
    path = Path(lab)
    address = f"tcp:{HOSTS['relay']}.2:7000"
    # agents that came at different times are at different places between two pings
    agents, rounds = lab.by_scale(2, 4, 5, 5), lab.rounds(1, 1, 2, 4)
    seen = {"agent": [], "relay": []}
    relay, _ = lab.relay([{"name": "front", "address": address, "doors": ["tunnel"]}],
                         under=path.enter("relay"))
    for r in range(rounds):
        tunnels = [lab.tunnel(address, {f"s{i}": "tcp:127.0.0.1:9"}, under=path.enter("agent"),
                              instance=f"a{r}-{i}") for i in range(agents)
                   if not time.sleep(1.1)]
        time.sleep(1 + 2.3 * r)
        before = len(stamps(relay.log(), "ended: "))
        begin = path.turn_black()
        lab.say(f"path is black, {agents} tunnels")

        def ended(p):
            return stamps(p.log(), r"connection to .* lost")
        wait_for(lambda: len(stamps(relay.log(), "ended: ")) - before == agents and
                 all(ended(t) for t in tunnels), "both sides have noticed")
        for t in tunnels:
            if len(stamps(t.log(), r"lost .*\(tunnel-dead\)")) != 1:
                t.fail("lost its connection in another way")
            seen["agent"].append((ended(t)[0] - begin).total_seconds())
        dead = stamps(relay.log(), r"ended: tunnel-dead")[before:]
        if len(dead) != agents:
            relay.fail("lost its tunnels in another way")
        seen["relay"] += [(at - begin).total_seconds() for at in dead]
        for t in tunnels:
            t.end()
        for net in HOSTS.values():
            path.ip("router", "route", "del", "blackhole", f"{net}.2/32")
    relay.end()
    path.close()
    return [figure(f"blackhole.{who}_s", f"path lost without a word: the {who} says so after",
                   "s", seen[who], pick=max,
                   note="the slowest; default settings (ping 5 s, dead 10 s); each round another "
                        "tunnel, cut at another moment between two pings")
            for who in ("agent", "relay")]


# ---- storm ----

COMING_PER_SECOND = 1000  # agents at the first start; a restarted relay gets them as they come
ADDRESSES = 16  # of the relay, all on loopback
# The loss; then nobody listens for a while (a reset: the socket closed while one was connecting).
EXPECTED = (r"connection to \S+ lost .*|"
            r"cannot connect to the relay: \S+: Connection (refused|reset by peer)")


class Crowd:
    """Many agents and what they have said."""

    def __init__(self, lab, addresses, count):
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if files < count + 256:
            raise Skipped(f"{count} agents need as many descriptors; {files} are allowed")
        self.count = count
        self.p = lab.agents(addresses, count, "--patience", "60",
                            "--spread", str(count / COMING_PER_SECOND))
        self.steps = []  # (at, connected) of the last way up

    def wait_all(self, timeout):
        """When the last one was up, after a loss of all if there was one."""
        end = time.monotonic() + timeout
        self.steps = []
        while True:
            try:
                e = self.p.object(max(0.1, end - time.monotonic()))
            except Failed as failed:
                at = self.steps[-1][1] if self.steps else 0
                raise Failed(f"{at} of {self.count} agents within {timeout} s; {failed}")
            if e["event"] == "lost":
                self.steps = []
            elif e["event"] == "connected":
                self.steps.append((e["at"], e["connected"]))
                if e["connected"] == self.count:
                    return e["at"]

    def wait_lost(self):
        while True:
            e = self.p.object()
            if e["event"] == "lost" and e["connected"] == 0:
                return e["at"]

    def state(self):
        self.p.say()
        while True:
            e = self.p.object()
            if e["event"] == "state":
                return e

    def complaints(self, since):
        """What agents logged from this place in the log on, by kind, without its numbers."""
        kinds = collections.Counter()
        for text in re.findall(r"(?m)^\S+Z (?:warning|error): (.*)$", self.p.log()[since:]):
            kinds[re.sub(r"; next try in .*", "", re.sub(r"after \d+ s", "after N s", text))] += 1
        return dict(kinds)


def storm_restart(lab, crowd, relay, start, number):
    """One restart. (the new relay, seconds, facts)"""
    before, since, busy = crowd.state(), len(crowd.p.log()), crowd.p.cpu()
    relay.end(number)
    crowd.wait_lost()
    relay, ready = start()
    started = relay.cpu()
    took = crowd.wait_all(lab.by_scale(20, 60, 120, 120)) - ready
    cpu = relay.cpu() - started
    state = crowd.state()
    facts = {"failed_attempts": state["failures"] - before["failures"],
             "relay_cpu_s": cpu, "agents_cpu_s": crowd.p.cpu() - busy,
             "half_s": next(at for at, n in crowd.steps if n >= crowd.count / 2) - ready,
             "99_percent_s": next(at for at, n in crowd.steps if n >= crowd.count * .99) - ready}
    facts["complaints"] = crowd.complaints(since)
    if (there := relay.log().count(" up: ")) != crowd.count:
        raise Failed(f"the relay knows of {there} tunnels, not {crowd.count}")
    if state["losses"] - before["losses"] != crowd.count:
        raise Failed(f"{state['losses'] - before['losses'] - crowd.count} tunnels were lost again "
                     "after they were back")
    errors = {k: n for k, n in facts["complaints"].items() if not re.fullmatch(EXPECTED, k)}
    if refused := relay.log().count(" refused: "):
        errors["refused by the relay"] = refused
    if errors:
        raise Failed(f"besides the restart: {errors}")
    return relay, took, facts


def storm(lab, count):
    lab.need("relay", "agents")
    if lab.scale == "smoke":
        count = count // 100
    # Agents at home have an address each. Here a port of this host that a restarted relay's last
    # connection used would be met again, and a SYN that meets TIME_WAIT is repeated a second later.
    port = lab.ports.take()
    addresses = [f"tcp:127.0.0.{i + 1}:{port}" for i in range(ADDRESSES)]

    def start():
        return lab.relay([{"name": f"front{i}", "address": address, "doors": ["tunnel"]}
                          for i, address in enumerate(addresses)], timeouts={"drain": "1s"},
                         limits={"connections": count + 100, "tunnels": count,
                                 "per_owner": {"tunnels": count},
                                 "handshakes": count,
                                 "per_source": {"connections": count + 100,
                                                "handshakes": count}})
    relay, _ = start()
    if fit := re.search(r"descriptors allow (\d+)", relay.log()):
        if int(fit[1]) < count:
            raise Skipped(f"descriptors allow the relay {fit[1]} connections here (ulimit -Hn)")
    crowd = Crowd(lab, addresses, count)
    crowd.wait_all(lab.by_scale(20, 60, 120, 120))
    lab.say(f"{count} agents are in")
    rounds, took, facts = lab.rounds(1, 1, 3, 5), {}, {}
    for _ in range(rounds):
        for word, number in (("term", signal.SIGTERM), ("kill", signal.SIGKILL)):
            relay, seconds, fact = storm_restart(lab, crowd, relay, start, number)
            took.setdefault(word, []).append(seconds)
            facts.setdefault(word, []).append(fact)
            lab.say(f"all {count} back {seconds:.2f} s after SIG{word.upper()} and start")
    crowd.p.end(0)
    name = f"storm-{count}"
    cpu = [f["relay_cpu_s"] * 1000 / count for word in facts for f in facts[word]]
    return [figure(f"{name}.{word}_s", f"{count} agents: the last is back, after the restarted "
                   f"relay (SIG{word.upper()}) is ready", "s", took[word],
                   note="the agents share one core, and are as patient as that needs; the "
                        "relay has its default time-outs", detail={"rounds": facts[word]})
            for word in took] + [
        figure(f"{name}.relay_cpu_ms", "the relay's processor time for each agent that came back",
               "ms", cpu)]


# ---- beside ----

def stall(lab):
    t = Tunnelled(lab)
    seconds, rounds = lab.by_scale(0.3, 1, 2, 4), lab.rounds(1, 3, 5, 9)
    got = {way: {"with": [], "without": []} for way in ("down", "up")}

    def bulk(way):
        return result(lab.load(way, t.door, "--streams", 8, "--seconds", seconds))["MB_per_second"]

    for r in range(rounds):
        for way, values in got.items():
            for which in ("with", "without") if r % 2 else ("without", "with"):
                stalled = None
                if which == "with":
                    stalled = lab.load("stall", t.door, "--streams", 1)
                    if not stalled.object().get("ready"):
                        stalled.fail("is not ready")
                values[which].append(bulk(way))
                if stalled:
                    if not stalled.running():
                        stalled.fail("ended while others were measured")
                    result(stalled)
        lab.say(f"round {r + 1} of {rounds}: " + ", ".join(
            f"{way} {v['without'][-1]:.0f} MB/s, {v['with'][-1]:.0f} beside a stalled stream"
            for way, v in got.items()))
    figures = []
    for way, v in got.items():
        figures.append(figure(f"stall.{way}_ratio", f"8 bulk streams {way}: rate beside a stalled "
                              "stream of the same tunnel to the rate without one", "ratio",
                              [a / b for a, b in zip(v["with"], v["without"])], "higher"))
        figures += [figure(f"stall.{way}_{which}", f"8 bulk streams {way}, {which} a stalled one",
                           "MB/s", v[which], "higher") for which in v]
    return figures


def beside_bulk(lab):
    t = Tunnelled(lab)
    seconds, rounds = lab.by_scale(0.3, 1, 2, 4), lab.rounds(1, 3, 5, 9)
    got = {}
    for r in range(rounds):
        for mode in ("new", "pingpong"):
            for beside in ("alone", "down", "up"):
                if beside != "alone":
                    bulk = lab.load(beside, t.door, "--streams", 1, "--seconds", seconds + 2)
                    time.sleep(0.7)
                small = result(lab.load(mode, t.door, "--streams", 1, "--seconds", seconds))
                if beside != "alone":
                    if not bulk.running():
                        bulk.fail("ended before the exchanges beside it")
                    rate = result(bulk)["MB_per_second"]
                    got.setdefault((mode, beside, "MB_per_second"), []).append(rate)
                for p in ("p50", "p99"):
                    got.setdefault((mode, beside, p), []).append(small[f"{p}_us"])
        lab.say(f"round {r + 1} of {rounds}: p99 " + ", ".join(
            f"{mode} {beside} {v[-1]:.0f} us" for (mode, beside, p), v in got.items()
            if p == "p99"))
    return [figure(f"beside-bulk.{mode}.{beside}_{p}",
                   f"{mode}: {p} of an exchange, " + ("nothing else in the tunnel"
                   if beside == "alone" else f"a bulk stream {beside} in the same tunnel"), "us", v,
                   detail={"bulk_MB_per_second": got.get((mode, beside, "MB_per_second"))})
            for (mode, beside, p), v in got.items() if p != "MB_per_second"]


# ---- idle tunnels ----

def idle_tunnels(lab):
    """PSS with one tunnel and with many; the difference by tunnel."""
    lab.need("relay", "agents")
    count, settle = lab.by_scale(20, 300, 1000, 1000), lab.by_scale(1, 6, 12, 12)
    used = {"relay": [], "agent": []}
    for _ in range(lab.rounds(1, 1, 3, 5)):
        at = {}
        for n in (1, count + 1):
            front = f"tcp:127.0.0.1:{lab.ports.take()}"
            relay, _ = lab.relay([{"name": "front", "address": front, "doors": ["tunnel"]}],
                                 limits={"connections": n + 100, "tunnels": n,
                                         "per_owner": {"tunnels": n},
                                         "handshakes": n + 100,
                                         "per_source": {"connections": n + 100,
                                                        "handshakes": n + 100}})
            crowd = Crowd(lab, [front], n)
            crowd.wait_all(DEADLINE)
            time.sleep(settle)  # some pings later: what is only needed at first is given back
            state = crowd.state()
            if state["losses"] or state["failures"]:
                raise Failed(f"{state['losses']} losses, {state['failures']} failed attempts")
            at[n] = {"relay": relay.pss(), "agent": crowd.p.pss()}
            crowd.p.end(0)
            relay.end()
        for who in used:
            used[who].append((at[count + 1][who] - at[1][who]) / count)
        lab.say(", ".join(f"{who}: {v[-1]:.0f} bytes for each of {count} tunnels"
                          for who, v in used.items()))
    return [figure(f"idle-tunnels.{who}_bytes", f"memory of {whose} for each idle tunnel (PSS)",
                   "bytes", used[who], note="the kernel's sockets are not in it")
            for who, whose in (("relay", "the relay's process"),
                               ("agent", "a process of as many agents"))]


# ---- all of them ----

SPECIALS = {
    "blackhole": ("a path swallows everything: when each side says so", blackhole),
    "storm-2000": ("2,000 agents after a relay's restart", lambda lab: storm(lab, 2000)),
    "storm-10000": ("10,000 agents after a relay's restart", lambda lab: storm(lab, 10000)),
    "stall": ("bulk streams beside a stalled one", stall),
    "beside-bulk": ("small exchanges beside a bulk stream", beside_bulk),
    "idle-tunnels": ("memory of idle tunnels", idle_tunnels),
    "attacks": ("bulk streams beside attacks", attacks),
}
NAMES = tuple(SPECIALS)
TITLES = {name: title for name, (title, _) in SPECIALS.items()}
SECONDS = {  # about, by scale
    "blackhole": (15, 20, 45, 90), "storm-2000": (5, 15, 40, 70),
    "storm-10000": (5, 40, 120, 200), "stall": (5, 20, 60, 190),
    "beside-bulk": (10, 35, 100, 260), "idle-tunnels": (5, 20, 100, 160),
    "attacks": (20, 150, 310, 690),
}


def seconds(name, scale):
    return SECONDS[name][SCALES.index(scale)]


def run(name, programs, folder, scale="normal", rounds=None, say=print):
    lab = None
    try:
        lab = Lab(programs, folder, scale, rounds, lambda text: say(f"{name}: {text}"))
        figures = SPECIALS[name][1](lab)
        if wrong := lab.close():
            raise Failed("; ".join(wrong))
    except Skipped as e:
        return [no_figure(name, TITLES[name], skipped=str(e))]
    except (Failed, BrokenPipeError) as e:
        return [no_figure(name, TITLES[name], error=str(e) or repr(e))]
    finally:
        if lab:
            lab.close()
    if scale == "smoke":
        for f in figures:
            f["note"] = "smoke: only whether it works"
    return figures


def text_of(f):
    if f["skipped"]:
        return f"{f['name']}: skipped: {f['skipped']}"
    if f["error"]:
        return f"{f['name']}: FAILED: {f['error']}"
    low, high = f["spread"]
    target = "" if f["target"] is None else f", target {f['target']:g}" + (
        "" if f["met"] else " MISSED")
    return f"{f['name']}: {f['value']:.4g} {f['unit']} ({low:.4g} .. {high:.4g}){target}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for program in Programs._fields:
        parser.add_argument(f"--{program}", type=os.path.abspath)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--scale", choices=SCALES, default="normal")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--folder", help="kept; otherwise a temporary one")
    parser.add_argument("--json")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"--only: {', '.join(unknown)}; expected some of {', '.join(NAMES)}")
    programs = Programs(args.relay, args.tunnel, args.load, args.agents)
    figures = []
    stopping.on_signals()
    with contextlib.ExitStack() as stack:
        top = args.folder or stack.enter_context(tempfile.TemporaryDirectory())
        for name in names:
            folder = os.path.join(top, name)
            os.makedirs(folder, exist_ok=True)
            got = run(name, programs, folder, args.scale, args.rounds,
                      lambda text: print(text, file=sys.stderr, flush=True))
            figures += got
            print("\n".join(map(text_of, got)), flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(figures, f, indent=1)
    return 1 if any(f["errors"] for f in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
