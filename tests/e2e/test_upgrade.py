# Another process in the place of a running attest-relay: by --takeover, or by systemd, which holds the
# sockets meanwhile. Nobody is refused, nothing is cut.
import json
import os
import re
import signal
import socket
import struct
import threading
import time

import pytest

from harness import (DEADLINE, DOMAIN, MB, Program, Relay, Task, binary, data, digest, free_port,
                     wait_for)
from streams import Aborted, Service, dial, echo
from systemd import Systemd

FULL = os.environ.get("ATTEST_UPGRADE_FULL") == "yes"
A_SECOND = 200 if FULL else 60  # clients that come and go
LONG = 500 if FULL else 100  # streams that last
SECONDS_AROUND = 4 if FULL else 1.5  # of load before and after


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


class Setting:
    """A relay with each kind of way through it, and an agent."""

    def __init__(self, world, svc, start=True, **config):
        self.world = world
        self.folder = world.path("run")
        os.mkdir(self.folder)
        self.admin = os.path.join(self.folder, "admin.sock")
        self.metrics = free_port()
        front, door, target = free_port(), free_port(), free_port()
        self.addresses = {"front": f"tcp:127.0.0.1:{front}", "door": f"tcp:127.0.0.1:{door}",
                          "target": f"tcp:127.0.0.1:{target}",
                          "path": f"unix:{self.folder}/door.sock"}
        self.config = {
            "workers": 2, "domain": DOMAIN,
            "tls": {"certificate": world.certificates.relay[0],
                    "key": world.certificates.relay[1]},
            "metrics": f"tcp:127.0.0.1:{self.metrics}",
            "admin": {"address": f"unix:{self.admin}"},
            "listeners": [
                {"name": "front", "address": self.addresses["front"],
                 "doors": ["tunnel", "sni", "connect"]},
                {"name": "door", "address": self.addresses["door"], "service": "kbs.acme"},
                {"name": "target", "address": self.addresses["target"], "service": "near.acme"},
                {"name": "path", "address": self.addresses["path"], "service": "kbs.acme"},
            ],
            "services": [{"name": "near.acme", "targets": [svc.address]}],
            "owners": [world.owner()],
            "timeouts": {"drain": "20s"},
            # all of them come from one address
            "limits": {"per_source": {"opens_per_second": 100000, "connections": 10000}},
            **config,
        }
        self.n = 0
        if start:
            self.relay = self.run()
            self.agent = world.agent(self.relay, {"kbs": svc.address})

    def run(self, **changes):
        self.n += 1
        self.config.update(changes)
        return Relay(self.world, f"relay{self.n}", self.config, self.metrics)

    def heir(self, wait=True, env=None, under=(), **changes):
        """--takeover with the same config, or with changes."""
        self.n += 1
        path = self.world.path(f"relay{self.n}.yaml")
        with open(path, "w") as f:
            json.dump({**self.config, **changes}, f)
        p = Program(self.world, f"relay{self.n}",
                    [*under, binary("ATTEST_RELAY"), "--takeover", "--config", path], env)
        if wait:
            p.wait_log("ready, 2 workers")
        return p

    def connect(self, way):
        """A stream by this way, through all that answers."""
        if way != "front":
            return dial(self.addresses[way])
        c = dial(self.addresses["front"])
        c.send(b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme:443\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            got = c.recv(1)
            assert got, f"end in the answer {head}"
            head += got
        assert b" 200 " in head, head
        return c

    def metrics_of(self, pid):
        """The process that answers has this id."""
        raise NotImplementedError


WAYS = ["front", "door", "target", "path"]


class Crowd:
    """Clients that come and go, by all ways in turn; each sends a little and wants it back."""

    def __init__(self, setting, a_second):
        self.setting, self.pause = setting, 1 / a_second
        self.done, self.failures = 0, []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.threads = []
        self.main = Task(self.run)

    def one(self, way):
        try:
            sent = os.urandom(3000)
            with self.setting.connect(way) as c:
                c.send(sent)
                c.eof()
                got = c.read_all()
            assert got == sent, f"{len(got)} of {len(sent)} bytes"
            with self.lock:
                self.done += 1
        except Exception as e:
            with self.lock:
                self.failures.append(f"{way}: {type(e).__name__}: {e}")

    def run(self):
        at = time.monotonic()
        n = 0
        while not self.over.is_set():
            t = threading.Thread(target=self.one, args=(WAYS[n % len(WAYS)],), daemon=True)
            t.start()
            self.threads.append(t)
            n += 1
            at += self.pause
            time.sleep(max(0, at - time.monotonic()))  # the rate is what this is about
        return n

    def more(self, n):
        """Until so many more have been served."""
        goal = self.done + n
        wait_for(lambda: self.done >= goal or self.failures, lambda: f"{self.done} of {goal}")

    def end(self):
        self.over.set()
        n = self.main.result()
        for t in self.threads:
            t.join(2 * DEADLINE)
            assert not t.is_alive(), "a client hangs"
        assert not self.failures, f"{len(self.failures)} of {n}: {self.failures[:10]}"
        assert self.done == n
        return n


class Lasting:
    """Streams that are there before and after."""

    def __init__(self, setting, n):
        self.streams = [setting.connect(WAYS[i % len(WAYS)]) for i in range(n)]
        self.say()

    def say(self):
        for i, c in enumerate(self.streams):
            c.send(struct.pack("!I", i) * 200)
        for i, c in enumerate(self.streams):
            assert c.read_exactly(800) == struct.pack("!I", i) * 200

    def end(self):
        """In order, and all that was said came back."""
        for c in self.streams:
            c.eof()
        for c in self.streams:
            assert c.read_all() == b""
            c.close()
        return len(self.streams)


def test_takeover_under_load(world, svc):
    """Clients come and go, streams last: not one of them notices."""
    s = Setting(world, svc)
    lasting = Lasting(s, LONG)
    crowd = Crowd(s, A_SECOND)
    crowd.more(int(A_SECOND * SECONDS_AROUND))
    heir = s.heir()
    s.relay.wait_log("ending: no new connections")
    crowd.more(int(A_SECOND * SECONDS_AROUND))
    assert s.relay.running()
    lasting.say()
    heir.wait_log(r"tunnel acme/\S+ from .* up: kbs.acme")
    lasted = lasting.end()
    s.relay.finish()
    crowd.more(A_SECOND)
    served = crowd.end()
    print(f"{served} clients came and went at {A_SECOND} a second, {lasted} streams lasted")
    assert os.path.exists(s.addresses["path"][5:]) and os.path.exists(s.admin)
    heir.stop()
    assert not os.path.exists(s.addresses["path"][5:]) and not os.path.exists(s.admin)
