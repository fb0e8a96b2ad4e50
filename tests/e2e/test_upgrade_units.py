# A take-over between the packaged units, by systemd itself (its user manager): attest-relay.service with its
# socket unit, and attest-relay@2.service.
import os
import re
import signal
import subprocess

import pytest

from harness import ROOT, Program, binary, free_port, need, wait_for
from streams import Service, dial, echo
from test_upgrade import Crowd, Lasting

MANAGER = "/lib/systemd/systemd"
# what a user's manager, without PID 1's help, or a program below a test's folder cannot have
LEFT_OUT = re.compile(r"(User|Group|.*Capabilit.*|Protect.*|Private.*|Restrict.*|.*Directory.*|SystemCall.*|"
                      r"Lock.*|Memory.*|NoNewPrivileges|RemoveIPC|LimitNOFILE|ConditionPathExists|After|Wants)=")
BEGIN = """
mount -t tmpfs none /run && mkdir -p /run/systemd/system
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup || exit 77
mkdir -p /sys/fs/cgroup/$GROUP && echo $$ > /sys/fs/cgroup/$GROUP/cgroup.procs || exit 77
exec "$@" --user --log-target=console
"""
# nothing is left of its cgroups
END = "mount -t cgroup2 none /mnt && cd /mnt && find $1 -depth -type d -exec rmdir {} + && ! test -e $1"


class Units:
    """A user's manager with these units, in a mount namespace of its own."""

    def __init__(self, world):
        need("unshare", "nsenter", "systemctl", MANAGER)
        if os.geteuid() != 0:
            pytest.skip("cgroups are root's to mount")
        self.world = world
        self.home = world.path("home")
        self.units = os.path.join(self.home, ".config/systemd/user")
        os.makedirs(self.units)
        self.runtime = world.path("xdg")
        os.mkdir(self.runtime, 0o700)
        self.group = f"attest-test-{os.getpid()}"

    def start(self):
        env = {"HOME": self.home, "XDG_RUNTIME_DIR": self.runtime, "GROUP": self.group}
        self.manager = Program(self.world, "manager",
                               ["unshare", "-m", "/bin/sh", "-c", BEGIN, "sh", MANAGER], env,
                               expect=(0, 77, -signal.SIGRTMIN))

        def up():
            if not self.manager.running():
                self.manager.done = True
                pytest.skip(f"systemd's user manager does not run here: {self.manager.log()}")
            return os.path.exists(os.path.join(self.runtime, "systemd/private"))
        wait_for(up, "the manager is there")

    def ctl(self, *argv, check=True):
        r = subprocess.run(["nsenter", "-m", "-t", str(self.manager.pid), "env",
                            f"XDG_RUNTIME_DIR={self.runtime}", "systemctl", "--user", *argv],
                           capture_output=True, text=True, timeout=60)
        assert not check or r.returncode == 0, r.stderr
        return r.stdout.strip()

    def is_active(self, unit):
        return self.ctl("is-active", unit, check=False)

    def wait(self, unit, state):
        wait_for(lambda: self.is_active(unit) == state, lambda: f"{unit} is {state}: {self.is_active(unit)}")

    def pid(self, unit):
        return int(self.ctl("show", "-p", "MainPID", "--value", unit))

    def close(self):
        if getattr(self, "manager", None) and self.manager.running():
            self.ctl("stop", "attest-relay.socket", "attest-relay", "attest-relay@2")
            self.manager.signal(signal.SIGRTMIN + 24)  # exit at once
            self.manager.wait()
            self.manager.done = True
        end = ["unshare", "-m", "/bin/sh", "-c", END, "sh", self.group]
        wait_for(lambda: subprocess.run(end, capture_output=True).returncode == 0,
                 "its cgroups are gone", every=0.2)


class Setting:
    """Clients come to the socket unit's socket, and to one that the relay has opened itself."""

    def __init__(self, world):
        self.world, self.units = world, world.add(Units(world))
        self.svc = world.add(Service(handler=echo))
        front, own = free_port(), free_port()
        self.addresses = {"front": f"tcp:127.0.0.1:{front}", "own": f"tcp:127.0.0.1:{own}"}
        with open(world.path("relay.yaml"), "w") as f:
            f.write(f"""workers: 2
admin: {{address: "unix:{world.path('admin.sock')}"}}
listeners:
- {{name: front, address: "fd:front", service: near.acme}}
- {{name: own, address: "{self.addresses['own']}", service: near.acme}}
services: [{{name: near.acme, targets: ["{self.svc.address}"]}}]
timeouts: {{drain: 20s}}
limits: {{per_source: {{opens_per_second: 100000, connections: 10000}}}}
""")
        for name in "attest-relay", "attest-relay@":
            self.write(f"{name}.service", f"StandardError=append:{world.path('units.log')}",
                       "Environment=ASAN_OPTIONS=detect_leaks=0")
        self.write("attest-relay.socket")
        self.units.start()
        self.units.ctl("start", "attest-relay.socket")

    def write(self, name, *more):
        with open(os.path.join(ROOT, "packaging", name.replace("@", ""))) as f:
            text = f.read()
        lines = [line for line in text.splitlines()
                 if not LEFT_OUT.match(line) and not line.startswith("#")]
        text = "\n".join(line for line in lines if line != "[Install]" and "WantedBy" not in line)
        text = text.replace("/usr/bin/attest-relay", binary("ATTEST_RELAY"))
        text = text.replace("/etc/attest-relay/relay.yaml", self.world.path("relay.yaml"))
        text = text.replace("ListenStream=443", f"ListenStream={self.addresses['front'][4:]}")
        if more:
            text = text.replace("[Service]", "\n".join(["[Service]", *more]))
        with open(os.path.join(self.units.units, name), "w") as f:
            f.write(text + "\n")

    def connect(self, way):
        return dial(self.addresses[way])

    def log(self):
        with open(self.world.path("units.log")) as f:
            return f.read()


@pytest.fixture
def setting(world, monkeypatch):
    monkeypatch.setattr("test_upgrade.WAYS", ["front", "own"])
    return Setting(world)


def test_take_over_with_a_socket_unit(setting):
    """The instance takes over; the socket unit brings attest-relay.service back with the next client, when
    the old process has ended, and that takes over from the instance. Nobody is lost by either."""
    units = setting.units
    setting.connect("front").close()
    units.wait("attest-relay", "active")
    first = units.pid("attest-relay")
    lasting = Lasting(setting, 6)
    crowd = Crowd(setting, 30)
    crowd.more(20)
    units.ctl("start", "attest-relay@2")
    assert units.is_active("attest-relay") == "deactivating"
    crowd.more(30)
    lasting.say()
    lasting.end()
    units.wait("attest-relay", "active")
    units.wait("attest-relay@2", "inactive")
    assert units.pid("attest-relay") != first
    crowd.more(30)
    assert units.is_active("attest-relay") == "active"
    assert units.is_active("attest-relay.socket") == "active"
    crowd.end()
    assert "no listener has it" not in setting.log()


def test_both_ways_by_hand(setting):
    """The recipe of docs/operations.md: the second command waits for the old one's streams."""
    units = setting.units
    units.ctl("start", "attest-relay")
    first = units.pid("attest-relay")
    crowd = Crowd(setting, 30)
    crowd.more(20)
    units.ctl("start", "attest-relay@2")
    units.ctl("start", "attest-relay")
    units.wait("attest-relay@2", "inactive")
    assert units.pid("attest-relay") != first
    crowd.more(30)
    crowd.end()


def test_instance_that_restarts(setting):
    """It has the socket unit's socket from another service: systemd keeps it for its next run."""
    units = setting.units
    units.ctl("start", "attest-relay")
    units.ctl("start", "attest-relay@2")
    units.wait("attest-relay", "inactive")
    units.ctl("restart", "attest-relay@2")
    before = units.pid("attest-relay@2")
    os.kill(before, signal.SIGKILL)  # Restart=on-failure
    wait_for(lambda: units.is_active("attest-relay@2") == "active"
             and units.pid("attest-relay@2") not in (0, before), "it is back")
    assert "cannot listen" not in setting.log()
    for way in "own", "front":
        with setting.connect(way) as c:
            c.send(b"ping")
            assert c.read_exactly(4) == b"ping"
