# qgs-bridge as a program under test: its config, what it listens on, what it says and counts.
import collections
import ctypes
import json
import os
import socket
import struct
import time

import yaml

from harness import DEADLINE, Program, binary, fetch_metrics, free_port, sum_of, wait_for

REQUEST, REPLY = 1052, 28 + 5000  # the usual sizes, as the stand-in has them
HYBRID_PORT = 4050


def request(report=bytes(1024)):
    """What QEMU sends for this report."""
    size = 24 + len(report)
    return (struct.pack(">I", size) + struct.pack("<HHIII", 1, 1, 0, size, 0)
            + struct.pack("<II", len(report), 0) + report)


def client_address(address):
    """Where a client has to go to come in by a listener's address."""
    kind, rest = address.split(":", 1)
    if kind == "hybrid":
        path, port = rest.rsplit(":", 1)
        return f"unix:{path}_{port}"
    return address


def path_of(address):
    return client_address(address).removeprefix("unix:")


def listener(world, kind, of="bridge"):
    """The config of a listener of this kind, and name, at an address of its own."""
    address = {"unix": f"unix:{world.path(of + '.sock')}",
               "hybrid": f"hybrid:{world.path(of + '.vsock')}:{HYBRID_PORT}",
               "tcp": f"tcp:127.0.0.1:{free_port()}" if kind == "tcp" else ""}[kind]
    return {"name": kind, "address": address}


KINDS = ["unix", "tcp", "hybrid"]


class Bridge(Program):
    """listeners: names of kinds, or dicts as in the config. config: its other keys."""

    def __init__(self, world, qgs=None, listeners=("unix",), name="bridge", wait=True, under=(),
                 extra=(), env=None, **config):
        self.world = world
        self.metrics_port = free_port()
        listeners = [listener(world, x, name) if isinstance(x, str) else x for x in listeners]
        qgs = {"address": qgs if isinstance(qgs, str) else qgs.address} if qgs else {}
        self.config = {
            "log": {"format": "json", "level": os.environ.get("ATTEST_TEST_LOG", "info")},
            "metrics": f"tcp:127.0.0.1:{self.metrics_port}",
            "listeners": listeners,
            "qgs": {**qgs, **config.pop("qgs_more", {})},
            **config,
        }
        self.path = world.path(f"{name}.yaml")
        self.write_config()
        super().__init__(world, name, [*under, binary("ATTEST_BRIDGE"), "--config", self.path,
                                       *extra], env)
        self.wait_metric("build_info", lambda v: v == 1)
        if wait:
            self.wait_state("up")
            self.wait_metric("sockets", lambda v: v >= len(listeners))

    def write_config(self, **changes):
        self.config.update(changes)
        with open(self.path + ".new", "w") as f:
            yaml.safe_dump({k: v for k, v in self.config.items() if v}, f, sort_keys=False)
        os.rename(self.path + ".new", self.path)

    def reload(self, good=True, **changes):
        """SIGHUP, and it has taken effect, or has been refused."""
        self.write_config(**changes)
        start = self.log_size()
        self.signal(1)
        self.wait_log("the config was read again" if good else "the config is as it was",
                      start=start)

    def address(self, name="unix"):
        """Where clients of this listener go."""
        return next(client_address(x["address"]) for x in self.config["listeners"]
                    if x["name"] == name)

    # what it says

    def lines(self, start=None):
        """Its log as dicts; lines of sanitizers and such are left out."""
        found = []
        for line in self.log(start).splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                pass
        return found

    def ends(self, start=None, **wanted):
        """The lines of connections that are over."""
        return [x for x in self.lines(start) if "stream" in x
                and all(x.get(k) == v for k, v in wanted.items())]

    def wait_end(self, start=None, n=1, **wanted):
        found = wait_for(lambda: len(x := self.ends(start, **wanted)) >= n and x,
                         lambda: f"{n} lines with {wanted}\n{self.tail()}")
        return found[0] if n == 1 else found

    # what it counts

    def metrics(self):
        return fetch_metrics(self.metrics_port)

    def metric(self, name, **labels):
        return sum_of(self.metrics(), f"qgs_bridge_{name}", labels)

    def wait_metric(self, name, condition, timeout=DEADLINE, **labels):
        last = [None]

        def look():
            assert self.running(), f"{self.name} ended\n{self.tail()}"
            try:
                last[0] = self.metric(name, **labels)
            except OSError:  # it has not begun to listen
                return False
            return condition(last[0])
        wait_for(look, lambda: f"metric {name}{labels} is {last[0]}\n{self.tail()}", timeout)
        return last[0]

    def wait_state(self, state):
        self.wait_metric("qgs_state", lambda v: v == 1, state=state)

    def wait_quiet(self):
        """No connection from a guest is left, nor anything it had in QGS."""
        for gauge in "connections", "qgs_in_flight", "qgs_waiting":
            self.wait_metric(gauge, lambda v: v == 0)

    def reasons(self):
        """How requests have ended so far, and callers were turned away."""
        found = collections.Counter()
        for key, value in self.metrics().items():
            base, _, label = key.partition('{reason="')
            if base in ("qgs_bridge_requests_total", "qgs_bridge_refused_total"):
                found[label.removesuffix('"}')] += int(value)
        return +found  # those that there were


def settled(qgs):
    """The counts of QGS once it works on nothing. (A QGS up to 1.25 keeps a probe's connection
    for its 30 s, though it is closed: that takes no thread of it.)"""
    return qgs.wait_stats(at_work=0, waiting=0)


def assert_never_disturbed(bridge, qgs):
    """QGS had connections with one whole request each, in one piece; and the bridge's probes."""
    bridge.wait_quiet()
    got = settled(qgs)
    probes = bridge.metric("qgs_probes_total")
    assert got["silent"] <= probes, (got, probes)
    assert got["connections"] == got["silent"] + got["requests"], got
    assert (got["incomplete"], got["in_pieces"], got["trailing"]) == (0, 0, 0), got
    assert got["timed_out"] <= got["silent"] and got["max_reads"] <= 1, got
    return got


# ---- clients by hand: for what quote-load does not do ----

def connect(address):
    """A socket, connected; errors as the kernel gives them."""
    kind, rest = address.split(":", 1)
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX)
        at = rest
    else:
        s = socket.socket()
        host, port = rest.rsplit(":", 1)
        at = host, int(port)
    s.settimeout(DEADLINE)
    try:
        s.connect(at)
    except OSError:
        s.close()
        raise
    return s


def connect_error(address):
    """errno of connecting, or 0."""
    try:
        connect(address).close()
    except OSError as e:
        return e.errno
    return 0


def read_all(s):
    """What comes until its end; an end by reset has given nothing before, or this fails."""
    parts = []
    while True:
        try:
            got = s.recv(65536)
        except ConnectionResetError:
            assert not parts
            return b""
        if not got:
            return b"".join(parts)
        parts.append(got)


# ---- inotify, as KubeVirt's device plugin uses it ----

class Inotify:
    CREATE, DELETE, MOVED_FROM, MOVED_TO = 0x100, 0x200, 0x40, 0x80

    def __init__(self, folder):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = self.CREATE | self.DELETE | self.MOVED_FROM | self.MOVED_TO
        if self.fd < 0 or self.libc.inotify_add_watch(self.fd, folder.encode(), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self.seen = []

    def events(self):
        """All so far: (name, "+" or "-")."""
        while True:
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return self.seen
            while data:
                _, mask, _, size = struct.unpack("iIII", data[:16])
                name = data[16:16 + size].rstrip(b"\0").decode()
                self.seen.append((name, "+" if mask & (self.CREATE | self.MOVED_TO) else "-"))
                data = data[16 + size:]

    def of(self, name):
        """What became of this name: "-+" is gone, then there again."""
        return "".join(what for which, what in self.events() if which == name)

    def wait(self, name, what):
        wait_for(lambda: self.of(name) == what, lambda: f"{what} of {name}, seen: {self.seen}")

    def close(self):
        os.close(self.fd)


def since(moment):
    """Seconds: for lower bounds."""
    return time.monotonic() - moment
