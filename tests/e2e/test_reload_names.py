# Reloads whose listeners have names, and a DNS server that does not answer: nobody else waits for it.
import random
import signal
import socket
import struct
import threading

import pytest

import test_upgrade
from admin import Admin
from audit import in_namespace
from harness import Task, free_port, missing, wait_for
from streams import Service, dial, echo
from systemd import Systemd

WATCHDOG_US = 600_000


class Dns:
    """A server, and this machine's only one for relays started from now on: silent until it is to answer."""

    def __init__(self, world, monkeypatch):
        self.answers = None  # {name: an IPv4 address}; others are not there
        self.questions, self.waiting = [], []
        self.lock = threading.Lock()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}"
        try:
            self.sock.bind((self.address, 53))
        except PermissionError:
            missing("a right to port 53")
        for name, text in (("resolv.conf", f"nameserver {self.address}\noptions timeout:30\n"),
                           ("nsswitch.conf", "hosts: files dns\n")):
            with open(world.path(name), "w") as f:
                f.write(text)
        in_namespace(world, monkeypatch,
                     "".join(f"mount --bind {world.path(n)} /etc/{n}\n"
                             for n in ("resolv.conf", "nsswitch.conf")))
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                self.take(*self.sock.recvfrom(4096))
            except OSError:
                return

    def take(self, question, client):
        name, at = [], 12
        while question[at]:
            name.append(question[at + 1:at + 1 + question[at]].decode())
            at += 1 + question[at]
        with self.lock:
            self.questions.append(".".join(name))
            self.waiting.append((".".join(name), question[:2], question[12:at + 5], client))
            if self.answers is not None:
                self.reply()

    def reply(self):
        for name, number, asked, client in self.waiting:
            ip = self.answers.get(name)
            record = b""
            if ip and asked.endswith(b"\0\1\0\1"):  # A, IN
                record = struct.pack("!HHHIH", 0xc00c, 1, 1, 1, 4) + socket.inet_aton(ip)
            code = 0x8180 if ip else 0x8183
            self.sock.sendto(number + struct.pack("!HHHHH", code, 1, bool(record), 0, 0) + asked
                             + record, client)
        self.waiting = []

    def answer(self, answers):
        """From now on, and those who wait."""
        with self.lock:
            self.answers = answers
            self.reply()

    def close(self):
        self.sock.close()


class Setting:
    def __init__(self, world, monkeypatch):
        self.world = world
        self.dns = world.add(Dns(world, monkeypatch))
        self.systemd = world.add(Systemd(world, store=0))
        self.admin = world.path("admin.sock")
        self.svc = world.add(Service(handler=echo))
        _, env = self.systemd.environment(WATCHDOG_USEC=str(WATCHDOG_US))
        self.relay = world.relay(env=env, admin={"address": f"unix:{self.admin}"},
                                 listeners=[{"name": "here", "service": "near.acme"}],
                                 services=[{"name": "near.acme", "targets": [self.svc.address]}])
        self.systemd.wait("READY=1")
        self.stream = dial(self.relay.listeners["here"])
        self.before = list(self.relay.config["listeners"])

    def write(self, *names):
        """The config has a listener at each of these names, too: their addresses."""
        new = [{"name": f"new{i}", "address": f"tcp:{name}:{free_port()}", "service": "near.acme"}
               for i, name in enumerate(names)]
        self.relay.write_config(listeners=self.before + new)
        return [x["address"] for x in new]

    def post(self):
        return Task(Admin(self.admin).ask, "POST", "/v1/reload")

    def waits(self, n=1):
        """So many reloads have begun to wait for the DNS."""
        wait_for(lambda: self.relay.count("asking for the addresses") == n,
                 lambda: f"{n} reloads wait\n{self.relay.tail()}")
        wait_for(lambda: self.dns.questions, "the DNS is asked")

    def goes_on(self, stream=None):
        stream = stream or self.stream
        stream.send(b"ping")
        assert stream.read_exactly(4) == b"ping"

    def is_well(self):
        self.goes_on()
        with dial(self.relay.listeners["here"]) as c:
            self.goes_on(c)
        assert Admin(self.admin).get("/livez")
        assert self.relay.metric("live_splices") >= 1


@pytest.fixture
def setting(world, monkeypatch):
    s = Setting(world, monkeypatch)
    yield s
    s.stream.close()


def line_of(relay, what):
    with open(relay.path) as f:
        return 1 + next(i for i, line in enumerate(f) if what in line)


def test_silent_dns(setting):
    """All is served while the reload waits; it fails in the end, says which listener, and nothing has
    changed."""
    relay, systemd = setting.relay, setting.systemd
    was = relay.metric("generation"), relay.metric("reload_failures_total")
    good, lost = setting.write("127.0.0.1", "front.example")
    relay.signal(signal.SIGHUP)
    setting.waits()
    asked = setting.post()
    beats = systemd.count("WATCHDOG=1")
    wait_for(lambda: systemd.count("WATCHDOG=1") >= beats + 5, "the watchdog is told meanwhile")
    setting.is_well()
    assert asked.is_alive() and "has changed" not in relay.log()
    relay.wait_log("reload: nothing has changed")
    status, answer, _ = asked.result()
    why = answer["error"]["message"]
    assert status == 422 and "not resolved in time: no DNS server answers" in why, answer
    assert f"{relay.path}:{line_of(relay, 'name: new1')}: listener new1: cannot listen at {lost}: " in why
    assert why in relay.log() and "new0" not in why
    systemd.wait("READY=1")
    setting.is_well()
    with pytest.raises(ConnectionRefusedError):
        dial(good)
    assert (relay.metric("generation"), relay.metric("reload_failures_total")) == (was[0], was[1] + 1)
    assert relay.count("asking for the addresses") == 1  # the second one waited for the same names
    assert systemd.count("RELOADING=1") == 2


def test_slow_dns(setting):
    """Two ask while it is silent, then it answers: one reload, and both are told."""
    address, = setting.write("slow.example")
    first = setting.post()
    setting.waits()
    second = setting.post()
    wait_for(lambda: setting.systemd.count("RELOADING=1") == 2, "the second has asked")
    setting.is_well()
    setting.dns.answer({"slow.example": "127.0.0.1"})
    for asked in first, second:
        status, answer, _ = asked.result()
        assert status == 200 and answer["generation"] == 2, answer
    assert setting.relay.count("reload: done") == 1
    with dial(address.replace("slow.example", "127.0.0.1")) as c:
        setting.goes_on(c)
    # what is listened at already is not asked for again
    setting.dns.answers, setting.dns.questions = None, []
    assert setting.post().result()[0] == 200
    assert not setting.dns.questions
    setting.is_well()


def test_mended_meanwhile(setting):
    """The file is corrected while the reload waits: that counts at once, for the first one, too."""
    setting.write("dead.example")
    first = setting.post()
    setting.waits()
    address, = setting.write("127.0.0.1")
    second = setting.post()
    for asked in first, second:
        status, answer, _ = asked.result()
        assert status == 200 and answer["generation"] == 2, answer
    with dial(address) as c:
        setting.goes_on(c)
    # others instead: they are asked for, and what the DNS says of them is told
    setting.write("dead.example")
    first = setting.post()
    setting.waits(2)
    setting.write("other.example", "third.example")
    setting.dns.answer({"other.example": "127.0.0.1"})
    status, answer, _ = setting.post().result()
    assert status == 422 and "Name or service not known" in answer["error"]["message"], answer
    assert "third.example" in answer["error"]["message"]
    assert "other.example" not in answer["error"]["message"]
    assert first.result()[0] == 422
    setting.is_well()


def test_end_while_it_waits(setting):
    """SIGTERM is not kept waiting, and whoever asked is told."""
    setting.write("dead.example")
    asked = setting.post()
    setting.waits()
    setting.stream.close()
    setting.relay.stop()
    status, answer, _ = asked.result()
    assert (status, answer["error"]["message"]) == (409, "not while draining")


def test_takeover_while_it_waits(setting):
    """An heir gets the sockets first: the config that waited does not take effect."""
    address, = setting.write("slow.example")
    asked = setting.post()
    setting.waits()
    heir = test_upgrade.ask(setting)
    setting.relay.wait_log("handed .* sockets")
    setting.dns.answer({"slow.example": "127.0.0.1"})
    status, answer, _ = asked.result()
    assert status == 422 and "taking over just now" in answer["error"]["message"], answer
    heir.close()
    setting.relay.wait_log("nothing has changed here")
    assert setting.post().result()[0] == 200
    with dial(address.replace("slow.example", "127.0.0.1")) as c:
        setting.goes_on(c)


def test_many_names_that_hang(setting):
    """Threads that wait for a DNS server are bounded, and it is said when there are enough."""
    for i in range(8):
        setting.write(f"dead{i}.example")
        setting.relay.signal(signal.SIGHUP)
        wait_for(lambda: f"dead{i}.example" in setting.dns.questions, f"name {i} is asked for")
    setting.write("one-more.example")
    status, answer, _ = setting.post().result()
    assert status == 422 and "too many earlier questions" in answer["error"]["message"], answer
    setting.write("127.0.0.1")
    assert setting.post().result()[0] == 200
    setting.is_well()
