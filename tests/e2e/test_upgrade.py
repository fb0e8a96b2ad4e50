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

from admin import Admin
from harness import DEADLINE, DOMAIN, Program, Relay, Task, binary, free_port, wait_for
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


def test_half_way_when_its_agent_moves(world, svc):
    """He has connected to the old one, and says what he wants when the agent has the new one."""
    s = Setting(world, svc)
    c = dial(s.addresses["front"])
    head = b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme:443\r\n\r\n"
    c.send(head[:20])
    wait_for(lambda: s.relay.metric("live_intakes") == 1, "he is in the old one's hands")
    heir = s.heir()
    heir.wait_log(r"tunnel acme/\S+ from .* up: kbs.acme")
    s.relay.wait_log("ending: no new connections")
    c.send(head[20:])
    yes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert c.read_exactly(len(yes)) == yes
    c.send(b"ping")
    assert c.read_exactly(4) == b"ping"
    c.close()
    s.relay.finish()


def test_who_waits_for_an_agent_that_is_away(world, svc):
    """It will come back to the heir: the client is told at once, and finds it there by coming again."""
    s = Setting(world, svc, timeouts={"drain": "20s", "pickup": "600s"})
    lasts = s.connect("target")
    s.agent.stop()
    s.relay.wait_tunnels(0)
    said = dial(s.addresses["front"])
    said.send(b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme:443\r\n\r\n")
    door, path = [dial(s.addresses[way]) for way in ("door", "path")]
    s.relay.wait_metric("live_parked", lambda n: n == 3)
    halfway = dial(s.addresses["front"])
    halfway.send(b"CONNECT kbs.acme:443 HTTP/1.1\r\n")
    wait_for(lambda: s.relay.metric("live_intakes") == 1, "he has not said all yet")
    heir = s.heir()
    assert said.read_all().startswith(b"HTTP/1.1 503 ")
    with pytest.raises(Aborted):
        door.read_all()
    assert path.read_all() == b""  # a Unix socket knows no reset
    halfway.send(b"Host: kbs.acme:443\r\n\r\n")
    assert halfway.read_all().startswith(b"HTTP/1.1 503 ")
    assert s.relay.count("kbs.acme.*shutdown") == 4, s.relay.tail()
    again = [dial(s.addresses[way]) for way in ("door", "path")]
    world.agent(s.relay, {"kbs": svc.address}, wait=False)
    for c in again:
        c.send(b"ping")
        assert c.read_exactly(4) == b"ping"
    lasts.send(b"ping")
    assert lasts.read_exactly(4) == b"ping"
    lasts.close()
    s.relay.finish()
    heir.wait_log("tunnel acme/.* up")


def ask(setting):
    """What --takeover asks, by hand: the socket, after the answer."""
    c = socket.socket(socket.AF_UNIX)
    c.settimeout(DEADLINE)
    c.connect(setting.admin)
    c.sendall(b"POST /v1/takeover HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
              b"Upgrade: attest-takeover/1\r\nContent-Length: 0\r\n\r\n")
    return c


def receive(c, until=rb"sockets 6 .*\n(socket .*\n){6}"):
    """What is said until then, and the descriptors that came with it."""
    text, fds = b"", []
    while not re.search(until, text):
        got, more, _, _ = socket.recv_fds(c, 4096, 16)
        assert got, f"end after {text}"
        text += got
        fds += more
    return text.decode(), fds


def is_well(setting):
    for way in WAYS:
        with setting.connect(way) as c:
            c.send(b"ping")
            assert c.read_exactly(4) == b"ping"


@pytest.fixture
def held(world):
    """Stops what a test has frozen, whatever comes of it."""
    frozen = []
    yield frozen
    for p in frozen:
        if p.running():
            p.kill()


def test_a_heir_that_dies_changes_nothing(world, svc):
    """Killed when it has the sockets and before it serves; streams and newcomers see nothing."""
    s = Setting(world, svc)
    lasting = Lasting(s, 8)
    for _ in range(3):
        c = ask(s)
        _, fds = receive(c)
        assert len(fds) == 6
        with pytest.raises(AssertionError):  # one at a time
            receive(ask(s), b"101 Switching")
        for fd in fds:
            os.close(fd)
        start = s.relay.log_size()
        c.close()
        s.relay.wait_log("nothing has changed here", start=start)
        is_well(s)
    lasting.say()
    heir = s.heir()
    lasting.end()
    s.relay.finish()
    is_well(s)
    heir.stop()


@pytest.mark.parametrize("at", ["taking over from", "listener door at", "ready, "])
def test_killed_heir(world, svc, at):
    """kill -9 at some moments of its start: one of the two serves, and the next one can start."""
    s = Setting(world, svc)
    heir = s.heir(wait=False)
    heir.wait_log(at)
    heir.kill()
    if not s.relay.running() or "ending: " in s.relay.log():
        s.relay.finish()  # it had been told to go already: all is for the next one to do
        s.relay = s.run()
        s.relay.wait_tunnels(1)
    is_well(s)
    s.heir()
    s.relay.finish()
    is_well(s)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_heir_that_did_not_wait(world, svc, held, deaf):
    """It says that it is ready and is gone before that is heard: the old one must not go as well."""
    s = Setting(world, svc)
    c = ask(s)
    fds = [] if deaf else receive(c)[1]  # deaf: with all it was told still unread
    s.relay.wait_log("handed 6 sockets")
    held.append(s.relay)
    s.relay.signal(signal.SIGSTOP)
    c.sendall(b"ready -\n")
    c.close()
    for fd in fds:
        os.close(fd)
    s.relay.signal(signal.SIGCONT)
    s.relay.wait_log("nothing has changed here")
    is_well(s)


def test_killed_predecessor(world, svc, held):
    """The old one dies when the heir has its sockets: the heir serves all the same."""
    s = Setting(world, svc)
    c = ask(s)
    receive(c)
    c.close()
    s.relay.wait_log("nothing has changed here")
    heir = s.heir(wait=False)
    heir.wait_log("taking over from")
    s.relay.kill()
    heir.wait_log("ready, 2 workers")
    wait_for(lambda: re.search("tunnel acme/.* up", heir.log()), "the agent is back")
    is_well(s)


def test_two_at_once(world, svc):
    """One of them takes over, the other says why not, or takes over from the first."""
    s = Setting(world, svc)
    both = [s.heir(wait=False), s.heir(wait=False)]
    s.relay.finish()

    def settled():
        return sum("ready, " in h.log() for h in both) + sum(not h.running() for h in both) >= 2
    wait_for(settled, lambda: both[0].tail() + both[1].tail())
    for h in both:
        h.expect = (0, 1)
    left = [h for h in both if h.running() and "ending: " not in h.log()]
    assert len(left) == 1, both[0].tail() + both[1].tail()
    for h in both:
        if h not in left:
            h.finish()
            assert re.search("taking over just now|ending already|serves now", h.log()), h.tail()
    wait_for(lambda: re.search("tunnel acme/.* up", left[0].log()), "the agent is back")
    is_well(s)


def test_other_listeners(world, svc):
    """Those of the new config: what stays is taken, what is new opened, what went is closed."""
    s = Setting(world, svc)
    new = f"tcp:127.0.0.1:{free_port()}"
    listeners = [x for x in s.config["listeners"] if x["name"] not in ("target", "path")]
    heir = s.heir(listeners=[*listeners, {"name": "new", "address": new, "service": "near.acme"}])
    s.relay.finish()
    with dial(new) as c:
        c.send(b"ping")
        assert c.read_exactly(4) == b"ping"
    with pytest.raises(ConnectionRefusedError):
        dial(s.addresses["target"])
    assert not os.path.exists(s.addresses["path"][5:])
    heir.wait_log("was handed over, and no listener has it: closed")
    heir.stop()


def test_a_heir_that_cannot_start(world, svc):
    """A listener of its config is somebody else's: it says so, and nothing has changed."""
    s = Setting(world, svc)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        heir = s.heir(wait=False, listeners=[
            *s.config["listeners"], {"name": "new", "address": address, "service": "near.acme"}])
        heir.expect = (1,)
        heir.finish()
        assert "Address already in use" in heir.log()
    s.relay.wait_log("nothing has changed here")
    assert os.path.exists(s.addresses["path"][5:]) and os.path.exists(s.admin)
    is_well(s)


def test_told_to_end_meanwhile(world, svc):
    """SIGTERM when an heir has the sockets and does not serve yet: they are its own all the same."""
    s = Setting(world, svc)
    stays = s.connect("door")
    c = ask(s)
    _, fds = receive(c)
    s.relay.signal(signal.SIGTERM)
    s.relay.wait_log("ending: no new connections")
    with pytest.raises(AssertionError):  # nobody else now
        receive(ask(s), b"101 Switching")
    c.sendall(b"ready -\n")
    assert receive(c, b"\n")[0] == "going\n"
    stays.close()
    s.relay.finish()
    for path in s.addresses["path"][5:], s.admin:
        with socket.socket(socket.AF_UNIX) as listens:
            listens.connect(path)
    for fd in fds:
        os.close(fd)


def test_ends_before_its_heir_serves(world, svc):
    """The same, and it is gone first: the paths are the heir's, the admin socket's too."""
    s = Setting(world, svc)
    c = ask(s)
    _, fds = receive(c)
    s.relay.stop()
    for path in s.addresses["path"][5:], s.admin:
        with socket.socket(socket.AF_UNIX) as listens:
            listens.connect(path)
    c.close()
    for fd in fds:
        os.close(fd)


def test_more_sockets_than_a_buffer_holds(world, svc):
    """The heir is slow to read; the old one waits for it."""
    n = 400
    s = Setting(world, svc, start=False)
    s.config["listeners"] += [{"name": f"l{i}", "address": f"unix:@{s.folder}/{i}",
                               "service": "kbs.acme"} for i in range(n)]
    s.relay = s.run()
    world.agent(s.relay, {"kbs": svc.address})
    c = ask(s)
    wait_for(lambda: len(c.recv(65536, socket.MSG_PEEK)) > 0, "it begins")
    said, fds = receive(c, b"sockets %d .*\n(socket .*\n){%d}" % (n + 6, n + 6))
    assert len(fds) == n + 6 == said.count("socket ")
    c.close()
    for fd in fds:
        os.close(fd)
    s.relay.wait_log("nothing has changed here")
    is_well(s)


def test_no_reload_meanwhile(world, svc):
    """What the heir has read may be older than this: it would be undone in a moment."""
    s = Setting(world, svc)
    c = ask(s)
    _, fds = receive(c)
    s.relay.reload(good=False)
    s.relay.wait_log("reload: another process is taking over just now")
    c.close()
    for fd in fds:
        os.close(fd)
    s.relay.wait_log("nothing has changed here")
    s.relay.reload()
    is_well(s)


def test_another_protocol(world, svc):
    """A version of it that this one does not know is told so."""
    s = Setting(world, svc)
    with socket.socket(socket.AF_UNIX) as c:
        c.settimeout(DEADLINE)
        c.connect(s.admin)
        c.sendall(b"POST /v1/takeover HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                  b"Upgrade: attest-takeover/2\r\nContent-Length: 0\r\n\r\n")
        assert c.recv(4096).startswith(b"HTTP/1.1 426 ")
    is_well(s)


def test_nobody_to_take_over_from(world, svc):
    """The first start, and one after a crash, whose sockets' paths are still there."""
    s = Setting(world, svc, start=False)
    heir = s.heir()
    assert "nobody serves the admin socket" in heir.log()
    heir.kill()
    assert os.path.exists(s.admin)
    again = s.heir()
    assert "nobody serves the admin socket" in again.log()
    world.agent(Reached(s), {"kbs": svc.address}, wait=False)
    wait_for(lambda: re.search("tunnel acme/.* up", again.log()), "the agent is there")
    is_well(s)
    again.stop()


class Reached:
    """As much of a Relay as an agent needs."""

    def __init__(self, setting):
        self.setting = setting

    def port(self):
        return int(self.setting.addresses["front"].rsplit(":", 1)[1])


def test_another_user(world, svc):
    """Whoever is not the same user, nor root, gets nothing, though he may use the admin socket."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    s = Setting(world, svc, start=False)
    s.config["admin"]["mode"] = "0660"
    s.config["admin"]["group"] = "65534"
    os.chmod(world.folder, 0o755)
    s.relay = s.run()
    at = os.path.dirname(world.folder)
    while at != "/":
        os.chmod(at, os.stat(at).st_mode | 0o11)
        at = os.path.dirname(at)
    code = """if True:
        import socket, sys, os
        os.setgid(65534); os.setuid(65534)
        c = socket.socket(socket.AF_UNIX)
        c.connect(sys.argv[1])
        c.sendall(b"POST /v1/takeover HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\n"
                  b"Upgrade: attest-takeover/1\\r\\nContent-Length: 0\\r\\n\\r\\n")
        while got := c.recv(4096):
            print(got.decode(), end="")
    """
    other = Program(world, "other", ["/usr/bin/python3", "-c", code, s.admin])
    other.finish()
    assert "403 Forbidden" in other.output() and "sockets" not in other.output()
    # and nothing is taken from somebody else's socket
    s.relay.stop()
    stranger = Program(world, "stranger", ["/usr/bin/python3", "-c", """if True:
        import os, socket, sys
        s = socket.socket(socket.AF_UNIX)
        s.bind(sys.argv[1])
        s.listen()
        os.setgid(65534); os.setuid(65534)
        s.listen()  # its credentials are those of who did this last
        print("listens", flush=True)
        s.accept()[0].recv(1)
    """, s.admin])
    stranger.wait_output("listens")
    heir = s.heir(wait=False)
    heir.expect = (1,)
    heir.finish()
    assert "neither root nor this user" in heir.log()
    stranger.kill()


# ---- systemd ----

def service(setting, systemd, name):
    path = setting.world.path(f"{name}.yaml")
    with open(path, "w") as f:
        json.dump(setting.config, f)
    # as the unit has it: nobody is there to take over from, but for what systemd keeps
    return systemd.run(name, [binary("ATTEST_RELAY"), "--takeover", "--config", path])


def restart_under_load(setting, systemd, svc):
    """systemctl restart: the old one ends, then the new one starts; sockets are held meanwhile."""
    first = service(setting, systemd, "first")
    systemd.wait("READY=1")
    agent = setting.world.agent(Reached(setting), {"kbs": svc.address}, wait=False)
    first.wait_log("tunnel acme/.* up")
    crowd = Crowd(setting, A_SECOND / 4)
    crowd.more(A_SECOND // 4)
    lasting = Lasting(setting, 8)
    first.signal(signal.SIGTERM)
    systemd.wait("STOPPING=1")
    lasting.end()
    first.finish()
    second = service(setting, systemd, "second")
    systemd.wait("READY=1")
    crowd.more(A_SECOND // 2)
    crowd.end()
    agent.stop()
    return second


def test_restart_with_the_store(world, svc):
    """FDSTORE: sockets that it had opened itself are there again, Unix paths with them."""
    systemd = world.add(Systemd(world))
    s = Setting(world, svc, start=False)
    second = restart_under_load(s, systemd, svc)
    assert len(systemd.store) == 6 and "opened" not in second.log()
    inode = os.stat(s.addresses["path"][5:]).st_ino
    # one that a reload takes away is kept no more
    s.config["listeners"] = [x for x in s.config["listeners"] if x["name"] != "target"]
    with open(world.path("second.yaml"), "w") as f:
        json.dump(s.config, f)
    second.signal(signal.SIGHUP)
    systemd.wait("FDSTOREREMOVE=1")
    wait_for(lambda: len(systemd.store) == 5, "it is kept no more")
    second.stop()
    third = service(s, systemd, "third")
    third.wait_log("ready, ")
    assert os.stat(s.addresses["path"][5:]).st_ino == inode
    with dial(s.addresses["path"]):
        third.stop()


def test_a_drain_leaves_nobody_waiting(world, svc):
    """Asked for by an admin: clients are to go elsewhere, so systemd keeps no socket for them."""
    systemd = world.add(Systemd(world))
    s = Setting(world, svc, start=False)
    relay = service(s, systemd, "first")
    wait_for(lambda: len(systemd.store) == 6, "they are kept")
    stays = dial(s.addresses["target"])
    stays.send(b"x")
    assert stays.read_exactly(1) == b"x"
    Admin(s.admin).post("/v1/drain", status=202)
    wait_for(lambda: not systemd.store, "they are kept no more")

    def is_refused(way):
        try:
            dial(s.addresses[way]).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return True
    for way in WAYS:
        wait_for(lambda: is_refused(way), f"nobody listens at {way}")
    stays.close()
    relay.finish()
    assert not os.path.exists(s.admin)


def test_the_store_lies(world, svc):
    """A path that is another's by now: the kept socket is not used, and the path opened anew."""
    systemd = world.add(Systemd(world))
    s = Setting(world, svc, start=False)
    first = service(s, systemd, "first")
    systemd.wait("READY=1")
    first.stop()
    os.unlink(s.addresses["path"][5:])
    second = service(s, systemd, "second")
    systemd.wait("READY=1")
    world.agent(Reached(s), {"kbs": svc.address}, wait=False)
    second.wait_log("tunnel acme/.* up")
    is_well(s)
    second.stop()


def test_restart_with_a_socket_unit(world, svc):
    systemd = world.add(Systemd(world, store=0))
    s = Setting(world, svc, start=False)
    for x in s.config["listeners"]:
        if x["name"] != "path":
            systemd.listen_at(x["name"], x["address"])
            x["address"] = f"fd:{x['name']}"
    s.config["listeners"].pop()
    systemd.listen_at("spare", f"tcp:127.0.0.1:{free_port()}")
    global WAYS
    ways, WAYS = WAYS, ["front", "door", "target"]
    try:
        second = restart_under_load(s, systemd, svc)
    finally:
        WAYS = ways
    second.wait_log("spare was handed over by systemd, and no listener has it: closed")
    assert not systemd.store
    second.stop()


def test_main_process(world, svc):
    """In one unit the heir is its main process; in another, the old one's unit stops."""
    systemd = world.add(Systemd(world))
    s = Setting(world, svc, start=False)
    _, env = systemd.environment(INVOCATION_ID="1")
    s.relay = Relay(world, "relay0", s.config, s.metrics, env)
    systemd.wait("READY=1")
    heir = s.heir(env=env)
    systemd.wait("MAINPID=")
    assert systemd.main_pid == heir.pid and not systemd.count("STOPPING=1")
    s.relay.finish()
    other = s.heir(env={**env, "INVOCATION_ID": "2"})
    systemd.wait("STOPPING=1")
    heir.finish()
    other.stop()
