# An agent nobody here wrote the library of (h2_agent.py, python3-h2) against attest-relay as it is.
import signal

import pytest

from harness import MB, Task, data, digest, free_port, missing, wait_for
from streams import Aborted, Doors, Refused, Service, TlsConn, echo, roundtrip

try:
    import h2  # noqa: F401
except ImportError:
    h2 = None


class Setting:
    def __init__(self, world):
        if not h2:
            missing("python3-h2 is not installed")
        self.world = world
        self.svc = world.add(Service())
        self.relay = world.relay(timeouts={"pickup": "3s", "half_closed": "10s"})
        self.agent = world.h2_agent(self.relay, {
            "kbs": self.svc.address, "echo": "echo", "no": "refuse",
            "gone": f"tcp:127.0.0.1:{free_port()},dial=eager",
            "banner": world.add(Service(handler=lambda c: (c.send(b"hi"), echo(c)))).address
            + ",dial=eager"})
        self.doors = Doors(self.relay, world.certificates)

    def pair(self):
        client = self.doors.connect_plain("kbs.acme")
        client.send(b"first")
        service = self.svc.accept()
        assert service.read_exactly(5) == b"first"
        return client, service


@pytest.fixture(scope="module")
def setting(module_world):
    return Setting(module_world)


@pytest.fixture(autouse=True)
def nothing_left_behind(setting):
    yield
    setting.relay.wait_quiet()
    assert "Traceback" not in setting.agent.log(), setting.agent.log()
    assert "failed:" not in setting.agent.output(), setting.agent.output()


def test_echo(setting):
    for size in (0, 1, 16384, 65535, 300_000, 5 * MB):
        with setting.doors.connect_plain("echo.acme") as c:
            roundtrip(c, data(size))


def test_many_at_once(setting):
    tasks = [Task(lambda: roundtrip(setting.doors.connect_plain("echo.acme"), data(100_000)))
             for _ in range(40)]
    for t in tasks:
        t.result()


@pytest.mark.parametrize("client_first", [True, False])
def test_half_close(setting, client_first):
    client, service = setting.pair()
    first, second = (client, service) if client_first else (service, client)
    early, late = data(100_000), data(3 * MB)
    with client, service:
        first.send(early)
        first.eof()
        assert digest(second.read_all()) == digest(early)
        writer = Task(lambda: (second.send(late), second.eof()))
        assert digest(first.read_all()) == digest(late)
        writer.result()


@pytest.mark.parametrize("by_client", [True, False])
def test_reset(setting, by_client):
    client, service = setting.pair()
    one, other = (client, service) if by_client else (service, client)
    one.abort()
    with other, pytest.raises(Aborted):
        while other.recv():
            pass
        raise AssertionError("an abort arrived as EOF")


def test_refusals(setting):
    """The agent's codes in the words of the connect door."""
    with pytest.raises(Refused) as e:
        setting.doors.connect_plain("gone.acme")
    assert e.value.status == 502
    with pytest.raises((Aborted, Refused)):  # refused after the relay has said 200, or before
        with setting.doors.connect_plain("no.acme") as c:
            c.send(b"x")
            c.recv()
            raise AssertionError("EOF instead of a reset")


def test_server_speaks_first(setting):
    with setting.doors.connect_plain("banner.acme") as c:
        assert c.read_exactly(2) == b"hi"
        roundtrip(c, data(1000))


def test_slow_reader(setting):
    """The service's flood stops at the windows, others go on, and all arrives in the end."""
    client, service = setting.pair()
    block, sent, total = data(65536), [0], 20 * MB

    def pour():
        while sent[0] < total:
            service.send(block)
            sent[0] += len(block)
        service.eof()
    pouring = Task(pour)
    for _ in range(3):
        roundtrip(setting.doors.connect_plain("echo.acme"), data(MB))
    assert sent[0] < total
    with client, service:
        assert digest(client.read_all()) == digest(block * (total // len(block)))
        pouring.result()
        client.eof()


def test_end_to_end_tls(setting):
    """SNI door, the service's own TLS, through the foreign agent."""
    other = Task(lambda: TlsConn(setting.svc.accept(), setting.world.certificates.server(),
                                 server_side=True, fin=True))
    client = setting.doors.sni("kbs.acme")
    service = other.result()
    with client, service:
        run = Task(echo, service)
        roundtrip(client, data(MB))
        run.result()


def test_it_leaves_in_order(setting):
    """GOAWAY with live streams: they finish, the relay opens no new ones, the agent ends."""
    client, service = setting.pair()
    setting.agent.signal(signal.SIGTERM)
    setting.agent.wait_output("leaving with 1 streams")
    with pytest.raises(Refused) as e:
        setting.doors.connect_plain("kbs.acme")
    assert e.value.status in (503, 504)
    with client, service:
        payload = data(MB)
        writer = Task(lambda: (service.send(payload), service.eof()))
        assert digest(client.read_all()) == digest(payload)
        writer.result()
        client.eof()
        assert service.read_all() == b""
    wait_for(lambda: not setting.agent.running(), "the agent ends")
    setting.relay.wait_tunnels(0)


def test_bad_token(setting):
    with open(setting.world.path("nobody.token"), "w") as f:
        f.write("not-a-token-of-anybody\n")
    setting.world.tokens["nobody"] = ("", setting.world.path("nobody.token"))
    agent = setting.world.h2_agent(setting.relay, {"kbs": "echo"}, name="nobody", owner="nobody",
                                   wait=False)
    assert agent.wait_output("refused bad-credential .+")
    agent.wait_output("goaway|closed")
    agent.finish()
