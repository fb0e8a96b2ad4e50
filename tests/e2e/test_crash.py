# kill -9 at any moment of a relay's life: the next start finds nothing in its way.
import json
import os
import random
import signal
import socket
import time

import pytest

from harness import DEADLINE, DOMAIN, Program, binary, free_port
from streams import Service, dial, echo

TIMES = 50
MOMENTS = ["start", "reload", "drain", "takeover: old", "takeover: new", "takeover: both"]
LATEST = 0.4  # seconds from the beginning of such a moment: a start takes less, even with sanitizers


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


class Setting:
    def __init__(self, world, svc):
        self.world, self.n = world, 0
        self.folder = world.path("run")
        os.mkdir(self.folder)
        os.mkdir(world.path("enrolment"))
        self.tcp = f"tcp:127.0.0.1:{free_port()}"
        self.unix = f"unix:{self.folder}/door.sock"
        self.metrics = free_port()
        self.audit = world.path("audit.jsonl")
        self.config = {
            "workers": 2, "domain": DOMAIN,
            "tls": {"certificate": world.certificates.relay[0],
                    "key": world.certificates.relay[1]},
            "metrics": f"tcp:127.0.0.1:{self.metrics}",
            "status": f"unix:{self.folder}/status.sock",
            "admin": f"unix:{self.folder}/admin.sock",
            "audit": {"file": self.audit},
            "listeners": [{"name": "tcp", "address": self.tcp, "service": "echo.acme"},
                          {"name": "unix", "address": self.unix, "service": "echo.acme"},
                          {"name": "front", "address": f"tcp:127.0.0.1:{free_port()}",
                           "doors": ["tunnel"]}],
            "services": [{"name": "echo.acme", "targets": [svc.address]}],
            "owners": [world.owner()],
            "enrolment": {"ca": world.path("ca.pem"), "key": world.path("ca.key"),
                          "folder": world.path("enrolment")},
            "timeouts": {"drain": "2s"},
        }
        self.path = world.path("relay.yaml")
        with open(self.path, "w") as f:
            json.dump(self.config, f)
        init = Program(world, "init", [binary("ATTEST_RELAY"), "enroll", "init", "--config",
                                       self.path])
        init.finish()

    def start(self, *options):
        self.n += 1
        return Program(self.world, f"relay{self.n}",
                       [binary("ATTEST_RELAY"), "--config", self.path, *options])

    def starts(self):
        """All that it listens at is its own again, and it serves."""
        p = self.start()
        p.wait_log("ready, 2 workers")
        for address in self.tcp, self.unix:
            with dial(address) as c:
                c.send(b"ping")
                assert c.read_exactly(4) == b"ping"
        for name in "admin", "status":
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(f"{self.folder}/{name}.sock")
        return p


def kill(*programs):
    for p in programs:
        if p.running():
            p.process.kill()
    for p in programs:
        p.expect = (0, 1, -signal.SIGKILL)
        p.finish()


def crash(s, moment, after):
    """Ends with nobody alive."""
    if moment == "start":
        p = s.start()
        time.sleep(after)
        kill(p)
        return
    old = s.starts()
    with dial(s.unix) as stays:
        stays.send(b"x")
        assert stays.read_exactly(1) == b"x"
        if moment == "reload":
            old.signal(signal.SIGHUP)
        elif moment == "drain":
            old.signal(signal.SIGTERM)
        else:
            new = s.start("--takeover")
        time.sleep(after)
        if moment == "takeover: old":
            kill(old)
            new.wait_log("ready, 2 workers")
            with dial(s.unix) as c:
                c.send(b"ping")
                assert c.read_exactly(4) == b"ping"
            kill(new)
        elif moment == "takeover: new":
            kill(new)
            kill(old)
        elif moment == "takeover: both":
            kill(old, new)
        else:
            kill(old)


def test_killed_at_any_moment(world, svc):
    """And it starts again, each time; what it left behind does not add up."""
    s = Setting(world, svc)
    chance = random.Random(20261122)
    for n in range(TIMES):
        moment = MOMENTS[n % len(MOMENTS)]
        crash(s, moment, chance.uniform(0, LATEST))
    last = s.starts()
    assert sorted(os.listdir(s.folder)) == ["admin.sock", "door.sock", "status.sock"]
    last.stop()
    assert os.listdir(s.folder) == []
    with open(s.audit) as f:
        for line in f:
            json.loads(line)
    left = [x for x in os.listdir(world.path("enrolment")) if x.startswith(".")]
    assert len(left) <= 1, left


@pytest.mark.parametrize("last_words", [
    b"", b"HTTP/1.1 101 Switching Protocols\r\n\r\nsockets 3 0.1.0\n"], ids=["at-once", "half-way"])
def test_dies_when_it_is_asked(world, svc, last_words):
    """Whoever wants to take its place is not told no by that: it starts as ever."""
    s = Setting(world, svc)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(f"{s.folder}/admin.sock")
        old.listen()
        new = s.start("--takeover")
        old.settimeout(DEADLINE)
        c, _ = old.accept()
        c.recv(1)
        c.sendall(last_words)
    c.close()
    new.wait_log("takeover: nobody serves the admin socket")
    new.wait_log("ready, 2 workers")
    kill(new)


def test_breaks_off_and_lives(world, svc):
    """It may have said no by that: nothing is taken from it."""
    s = Setting(world, svc)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(f"{s.folder}/admin.sock")
        old.listen()
        new = s.start("--takeover")
        old.settimeout(DEADLINE)
        c, _ = old.accept()
        c.recv(1)
        c.close()
        new.wait_log("takeover: no answer at the admin socket")
    new.expect = (1,)
    new.finish()


def test_a_living_one_is_not_robbed(world, svc):
    """A second one with the same config ends with an error, and takes nothing away."""
    s = Setting(world, svc)
    first = s.starts()
    second = s.start()
    second.expect = (1,)
    second.finish()
    assert "another program listens there" in second.log()
    assert sorted(os.listdir(s.folder)) == ["admin.sock", "door.sock", "status.sock"]
    with dial(s.unix) as c:
        c.send(b"ping")
        assert c.read_exactly(4) == b"ping"
    first.stop()
