# Local listeners of attest-tunnel whose sockets are systemd's (fd:NAME): by config and by flag, over
# reloads and restarts. They stay systemd's: never closed, never removed.
import os
import signal

import pytest
import yaml

from harness import DOMAIN, binary, free_port
from streams import Service, dial, echo
from systemd import Systemd


def named(name):
    """A service that says its name to whoever begins, then echoes."""
    def handle(conn):
        conn.recv()
        conn.send(name)
        echo(conn)
    return handle


class Handed:
    """A relay with two services, and an agent whose local listeners systemd has opened."""

    def __init__(self, world):
        self.world = world
        self.relay = world.relay()
        world.agent(self.relay, {n: world.add(Service(handler=named(n.encode()))).address
                                 for n in ("one", "two")})
        self.systemd = world.add(Systemd(world))
        self.at = {"port": f"tcp:127.0.0.1:{free_port()}", "path": f"unix:{world.path('path.sock')}"}
        for name, address in self.at.items():
            self.systemd.listen_at(name, address)
        self.config = world.path("local.yaml")
        self.runs = 0

    def write(self, **local):
        """Which of its names leads to which service."""
        with open(self.config, "w") as f:
            yaml.safe_dump({
                "relays": [self.relay.listeners["front"]], "server_name": DOMAIN, "proxy": "none",
                "ca_file": self.world.certificates.ca, "timeouts": {"drain": "5s"},
                "local": [{"address": f"fd:{k}", "service": f"{v}.acme"} for k, v in local.items()],
            }, f)

    def run(self, *argv):
        self.runs += 1
        return self.systemd.run(f"local{self.runs}", [
            binary("ATTEST_TUNNEL"), *(argv or ("--config", self.config))])

    def asks(self, name, expected):
        c = dial(self.at[name])
        c.send(b"?")
        assert c.read_exactly(3) == expected
        return c


def goes_on(conn):
    conn.send(b"more")
    assert conn.read_exactly(4) == b"more"


@pytest.fixture
def handed(world):
    return Handed(world)


def reload(agent, good=True):
    start = agent.log_size()
    agent.signal(signal.SIGHUP)
    agent.wait_log("reload: done" if good else "(?s)reload: .*nothing has changed", start=start)


def test_over_reloads_and_restarts(handed):
    handed.write(port="one", path="two")
    first = handed.run()
    first.wait_log("fd:port leads to one.acme")
    first.wait_log("fd:path leads to two.acme")
    live = handed.asks("port", b"one")
    handed.asks("path", b"two").close()
    handed.write(port="two")
    reload(first)
    handed.asks("port", b"two").close()
    goes_on(live)
    late = dial(handed.at["path"])  # nobody accepts there now: it waits in systemd's queue
    late.send(b"?")
    handed.write(port="one", path="one", other="one")
    reload(first, good=False)
    first.wait_log("fd:other.*systemd handed over no listening socket of this name")
    handed.asks("port", b"two").close()
    handed.write(port="one", path="one")
    reload(first)
    assert late.read_exactly(3) == b"one"
    handed.asks("port", b"one").close()
    live.close()
    late.close()
    first.stop()
    assert os.path.exists(handed.at["path"].removeprefix("unix:"))
    between = {name: dial(handed.at[name]) for name in handed.at}
    for conn in between.values():
        conn.send(b"?")
    second = handed.run()
    for conn in between.values():
        assert conn.read_exactly(3) == b"one"
        conn.close()
    second.stop()
    assert os.path.exists(handed.at["path"].removeprefix("unix:"))


def test_by_flag(handed, world):
    """The one that no listener has is closed in this process, and said so."""
    agent = handed.run("--relay", handed.relay.listeners["front"], "--server-name", DOMAIN,
                       "--ca-file", world.certificates.ca, "--proxy", "none",
                       "--local", "fd:path=service:two.acme")
    agent.wait_log("port was handed over by systemd, and no listener has it: closed")
    handed.asks("path", b"two").close()
    agent.stop()


@pytest.mark.parametrize("name, at, words", [
    ("far", "tcp:0.0.0.0:0", "fd:far is not on loopback"),
    ("none", None, "systemd handed over no listening socket of this name"),
])
def test_refused(handed, name, at, words):
    """Who is on the network would use the service in the name of our certificate."""
    if at:
        handed.systemd.listen_at(name, at)
    handed.write(**{name: "one"})
    agent = handed.run()
    agent.expect = (1,)
    agent.finish()
    agent.wait_log(words)
