# Listeners over time: folders of VMs that come and go, sockets of systemd's, flags, a config that
# changes, and the end.
import errno
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from bridge import (KINDS, Bridge, assert_never_disturbed, client_address, connect, connect_error,
                    listener, path_of, read_all, request, since)
from harness import DEADLINE, PYTHON, Program, binary, free_port, need, wait_for
from qgs import StandIn, ask, ask_by_vms, asking, vms_asking


@pytest.fixture
def qgs(world):
    return StandIn(world)


def vm_folder(world, name):
    return os.path.join(world.folder, "vms", name)


def make_vm(world, name):
    os.makedirs(vm_folder(world, name))


def pattern(world, kind):
    """A listener for each VM, and where one's clients go."""
    if kind == "unix":
        config = {"name": "vms", "address": f"unix:{world.folder}/vms/*/qgs.socket"}
        return config, lambda name: f"unix:{vm_folder(world, name)}/qgs.socket"
    config = {"name": "vms", "address": f"hybrid:{world.folder}/vms/*/vm.vsock:4050"}
    return config, lambda name: f"unix:{vm_folder(world, name)}/vm.vsock_4050"


def wait_ok(address):
    wait_for(lambda: os.path.exists(path_of(address)), f"a socket at {address}")
    result = ask(address)
    assert result["outcome"] == "ok", result


# ---- patterns ----

@pytest.mark.parametrize("kind", ["unix", "hybrid"])
def test_folders(world, qgs, kind):
    config, at = pattern(world, kind)
    make_vm(world, "early")
    bridge = Bridge(world, qgs, [config])
    wait_ok(at("early"))
    for i in range(20):
        make_vm(world, f"later{i}")
    for i in range(20):
        wait_ok(at(f"later{i}"))
    assert bridge.metric("sockets") == 21
    for i in range(10):
        shutil.rmtree(vm_folder(world, f"later{i}"))
    bridge.wait_metric("sockets", lambda v: v == 11)
    wait_ok(at("later10"))
    make_vm(world, "later0")
    wait_ok(at("later0"))
    bridge.wait_end(n=23)
    assert {x["vm"] for x in bridge.ends()} == {"name:early"} | {
        f"name:later{i}" for i in range(20)}
    assert_never_disturbed(bridge, qgs)


def test_folder_above_is_late(world, qgs):
    """/run/vms itself is made by the first VM, and may go with the last."""
    config, at = pattern(world, "unix")
    bridge = Bridge(world, qgs, [config], wait=False)
    bridge.wait_state("up")
    for _ in range(2):
        make_vm(world, "vm")
        wait_ok(at("vm"))
        shutil.rmtree(world.path("vms"))
        bridge.wait_metric("sockets", lambda v: v == 0)


def test_folder_moved_into_place(world, qgs):
    config, at = pattern(world, "unix")
    make_vm(world, "a")
    bridge = Bridge(world, qgs, [config])
    os.mkdir(world.path("elsewhere"))
    os.rename(world.path("elsewhere"), vm_folder(world, "b"))
    wait_ok(at("b"))
    os.rename(vm_folder(world, "a"), world.path("gone"))
    bridge.wait_metric("sockets", lambda v: v == 1)


def test_requests_survive_their_folder(world, qgs):
    """A VM that is torn down while QGS works for it, and one that is not disturbed by that."""
    config, at = pattern(world, "unix")
    for name in "a", "b":
        make_vm(world, name)
    bridge = Bridge(world, qgs, [config])
    bridge.wait_metric("sockets", lambda v: v == 2)
    qgs.behave("wedged")
    clients = [asking(at(name)) for name in ("a", "b")]
    qgs.wait_stats(at_work=2)
    shutil.rmtree(vm_folder(world, "a"))
    bridge.wait_metric("sockets", lambda v: v == 1)
    qgs.behave("ok")
    assert [c.result()["outcome"] for c in clients] == ["ok"] * 2


def test_folders_and_qgs(world):
    """QGS goes: all are taken away; meanwhile VMs come and go; it is back: those there are."""
    config, at = pattern(world, "unix")
    for name in "a", "b":
        make_vm(world, name)
    address = "unix:" + world.path("qgs.socket")
    qgs = StandIn(world, name="first", listen=address)
    bridge = Bridge(world, qgs, [config])
    bridge.wait_metric("sockets", lambda v: v == 2)
    qgs.stop()
    bridge.wait_metric("sockets", lambda v: v == 0)
    assert os.listdir(vm_folder(world, "a")) == []
    shutil.rmtree(vm_folder(world, "a"))
    make_vm(world, "c")
    StandIn(world, listen=address)
    wait_ok(at("b"))
    wait_ok(at("c"))


def test_names_that_lead_elsewhere(world, qgs):
    """Whoever may make links among the folders does not have sockets made where he likes."""
    config, at = pattern(world, "unix")
    make_vm(world, "real")
    os.mkdir(world.path("elsewhere"))
    os.symlink(world.path("elsewhere"), vm_folder(world, "link"))
    os.mkdir(vm_folder(world, ".hidden"))
    bridge = Bridge(world, qgs, [config])
    wait_ok(at("real"))
    os.symlink(world.path("elsewhere"), vm_folder(world, "link2"))
    make_vm(world, "real2")
    wait_ok(at("real2"))
    assert os.listdir(world.path("elsewhere")) == []
    assert bridge.wait_end()["vm"] == "name:real"


# ---- a path that somebody touches ----

def test_removed_path(world, qgs):
    """Somebody removes our socket: it is made again."""
    bridge = Bridge(world, qgs)
    path = path_of(bridge.address())
    before = os.stat(path).st_ctime_ns
    os.unlink(path)
    wait_for(lambda: os.path.exists(path) and os.stat(path).st_ctime_ns != before,
             lambda: f"a new socket\n{bridge.tail()}")
    assert ask(bridge.address())["outcome"] == "ok"


def test_stale_path(world, qgs):
    """A socket left over by a crash is replaced; one at which somebody listens is not."""
    bridge = Bridge(world, qgs, name="first")
    bridge.kill()
    assert connect_error(bridge.address()) == errno.ECONNREFUSED
    again = Bridge(world, qgs, bridge.config["listeners"])
    assert ask(again.address())["outcome"] == "ok"
    third = Program(world, "third", [binary("ATTEST_BRIDGE"), "--qgs", qgs.address, "--listen",
                                     again.address()], expect=(1,))
    third.wait()
    third.finish()
    assert "listens there" in third.log()
    assert ask(again.address())["outcome"] == "ok"


def test_restart_after_a_crash(world, qgs):
    """With a socket left over in every VM's folder."""
    config, at = pattern(world, "hybrid")
    for i in range(20):
        make_vm(world, f"vm{i}")
    bridge = Bridge(world, qgs, [config, *KINDS], name="first")
    bridge.wait_metric("sockets", lambda v: v == 23)
    bridge.kill()
    again = Bridge(world, qgs, bridge.config["listeners"])
    again.wait_metric("sockets", lambda v: v == 23)
    for address in [at(f"vm{i}") for i in range(20)] + [again.address(k) for k in KINDS]:
        assert ask(address)["outcome"] == "ok"


# ---- pods with a network of their own ----

@pytest.fixture
def netns():
    """Makes a network namespace: its path, and how to run something in it."""
    if os.geteuid() != 0:
        pytest.skip("takes root: network namespaces")
    need("ip")
    made = []

    def make():
        name = f"qgs-bridge-test-{os.getpid()}-{len(made)}"
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=DEADLINE)
        made.append(name)
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True, timeout=DEADLINE)
        return f"/run/netns/{name}", inside
    yield make
    for name in made:
        subprocess.run(["ip", "netns", "del", name], timeout=DEADLINE)


def ask_inside(inside, address):
    done = subprocess.run([*inside, binary("ATTEST_QUOTE_LOAD"), "one", "--to", address],
                          capture_output=True, text=True, timeout=DEADLINE)
    return json.loads(done.stdout)["outcome"]


def test_pods_with_the_same_port(world, qgs, netns):
    pods = [netns() for _ in range(2)]
    port = free_port()
    bridge = Bridge(world, qgs, ["unix"] + [
        {"name": f"pod{i}", "address": f"tcp:127.0.0.1:{port}", "netns": path}
        for i, (path, _) in enumerate(pods)])
    for _, inside in pods:
        assert ask_inside(inside, f"tcp:127.0.0.1:{port}") == "ok"
    assert connect_error(f"tcp:127.0.0.1:{port}") == errno.ECONNREFUSED  # not out here
    ends = {x["listener"]: x for x in bridge.wait_end(n=2)}
    for i, (path, _) in enumerate(pods):
        inode = os.stat(path).st_ino
        assert (ends[f"pod{i}"]["vm"], ends[f"pod{i}"]["netns"]) == (f"port:{port}@{inode}", inode)


def test_pod_that_comes_later(world, qgs, netns):
    path, inside = netns()
    later, port = world.path("netns"), free_port()
    bridge = Bridge(world, qgs, [{"name": "pod", "address": f"tcp:127.0.0.1:{port}",
                                  "netns": later}], wait=False)
    bridge.wait_state("up")
    assert bridge.metric("sockets") == 0
    os.symlink(path, later)
    bridge.wait_metric("sockets", lambda v: v == 1)
    assert ask_inside(inside, f"tcp:127.0.0.1:{port}") == "ok"


# ---- sockets handed over ----

HAND_OVER = """
import os, socket, sys
path, *argv = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.bind(path)
s.listen(64)
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="quotes")
os.execv(argv[0], argv)
"""


def test_systemd_socket(world):
    path = world.path("handed.sock")
    address = "unix:" + world.path("qgs.socket")
    qgs = StandIn(world, name="first", listen=address)
    bridge = Bridge(world, qgs, [{"name": "quotes", "address": "fd:quotes"}],
                    under=[PYTHON, "-c", HAND_OVER, path])
    assert ask(f"unix:{path}")["outcome"] == "ok"
    inode = os.stat(path).st_ino
    qgs.stop()
    bridge.wait_state("down")
    for _ in range(3):  # systemd's socket stays; who comes is told at once
        result = ask(f"unix:{path}")
        assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    StandIn(world, listen=address)
    bridge.wait_state("up")
    wait_for(lambda: ask(f"unix:{path}")["outcome"] == "ok", "answers again")
    bridge.stop()
    assert os.stat(path).st_ino == inode  # it is not ours to remove


class Notified:
    """What systemd is told."""

    def __init__(self, path):
        self.path, self.seen = path, []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.sock.settimeout(DEADLINE)

    def wait(self, word):
        """The message that begins with it; those before are dropped."""
        while True:
            got = self.sock.recv(4096).decode()
            if got.startswith(word):
                return got

    def close(self):
        self.sock.close()


def test_systemd_is_told(world, qgs):
    told = world.add(Notified(world.path("notify")))
    bridge = Bridge(world, qgs, env={"NOTIFY_SOCKET": told.path, "WATCHDOG_USEC": "200000"})
    told.wait("READY=1")
    assert "QGS" in told.wait("STATUS=")
    told.wait("WATCHDOG=1")
    told.wait("WATCHDOG=1")
    bridge.reload()
    assert "MONOTONIC_USEC=" in told.wait("RELOADING=1")
    told.wait("READY=1")
    bridge.signal(signal.SIGTERM)
    told.wait("STOPPING=1")
    bridge.finish()


def test_health(world, qgs):
    """For probes of Kubernetes: well, until it drains."""
    bridge = Bridge(world, qgs, timeouts={"drain": "1h"})
    qgs.behave("wedged")

    def health(path="/healthz"):
        c = http.client.HTTPConnection("127.0.0.1", bridge.metrics_port, timeout=DEADLINE)
        try:
            c.request("GET", path)
            return c.getresponse().status
        finally:
            c.close()
    assert health() == 200
    assert health("/livez") == health("/readyz?verbose") == 200
    client = asking(bridge.address())
    qgs.wait_stats(at_work=1)
    bridge.signal(signal.SIGTERM)
    bridge.wait_log("no new connections")
    assert health() == health("/readyz") == 503
    assert health("/livez") == 200
    qgs.behave("ok")
    assert client.result()["outcome"] == "ok"
    bridge.finish()


# ---- the command line ----

def run(*argv):
    return subprocess.run([binary("ATTEST_BRIDGE"), *argv], capture_output=True, text=True,
                          timeout=DEADLINE)


def test_one_line(world, qgs):
    path = world.path("run/qgs-bridge/qgs.socket")
    os.mkdir(world.path("run"))
    bridge = Program(world, "bridge", [binary("ATTEST_BRIDGE"), "--listen", f"unix:{path}",
                                       "--qgs", qgs.address, "--mode", "0600"])
    bridge.wait_log("QGS at .* is up")
    wait_ok(f"unix:{path}")
    assert os.stat(path).st_mode & 0o777 == 0o600
    bridge.signal(signal.SIGHUP)
    bridge.wait_log("no config file")
    bridge.signal(signal.SIGUSR1)
    bridge.wait_log("status: QGS up; 1 sockets open, 0 connections")
    bridge.stop()
    assert not os.path.exists(path)


def test_dumped_config_is_the_same(world, qgs):
    """What is printed, as a config of its own, prints the same; and it runs."""
    words = ["--listen", f"unix:{world.path('a.sock')}", "--listen",
             f"hybrid:{world.path('b')}:1", "--qgs", qgs.address, "--group", "0"]
    dumped = run(*words, "--dump-config")
    assert dumped.returncode == 0, dumped.stderr
    path = world.path("dumped.yaml")
    with open(path, "w") as f:
        f.write(dumped.stdout)
    assert run("--config", path, "--dump-config").stdout == dumped.stdout
    assert run("--config", path, "--check-config").returncode == 0
    Program(world, "bridge", [binary("ATTEST_BRIDGE"), "--config", path])
    wait_ok(f"unix:{world.path('a.sock')}")
    wait_ok(f"unix:{world.path('b')}_1")


def test_checks(world):
    path = world.path("bad.yaml")
    with open(path, "w") as f:
        f.write("listeners:\n  - { name: a, address: 'unix:relative' }\nqgs: { in_flight: 0 }\n")
    checked = run("--config", path, "--check-config")
    assert checked.returncode == 1
    assert f"{path}:2:" in checked.stderr and f"{path}:3:" in checked.stderr
    assert run("--config", path).returncode == 1  # nor does it start
    assert run("--check-config").returncode == 2  # no listener
    assert run("--listen", "here").returncode == 2
    assert run("--help").returncode == run("--version").returncode == 0


@pytest.mark.parametrize("address,word", [
    ("unix:/dev/null/qgs.socket", "/dev/null"), ("unix:/proc/qgs.socket", "/proc"),
    ("tcp:127.0.0.1:{port}", "127.0.0.1"), ("fd:none", "none")])
def test_cannot_listen(world, qgs, address, word):
    """What will never be had ends the start, and says which and why."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address.format(port=taken.getsockname()[1])
        done = run("--qgs", qgs.address, "--listen", address)
    assert done.returncode == 1 and "listener-1" in done.stderr and word in done.stderr, done


# ---- a config that changes ----

def test_reload(world, qgs):
    """Listeners that stay are not touched, the others come and go; so do limits."""
    stays = listener(world, "unix")
    bridge = Bridge(world, qgs, [stays, listener(world, "hybrid")])
    inode = os.stat(path_of(bridge.address())).st_ino
    hybrid = bridge.address("hybrid")
    qgs.behave("wedged")
    inside = [asking(bridge.address()), asking(hybrid)]
    qgs.wait_stats(at_work=2)
    bridge.reload(listeners=[stays, listener(world, "tcp")])
    assert not os.path.exists(path_of(hybrid))
    qgs.behave("ok")
    assert [c.result()["outcome"] for c in inside] == ["ok"] * 2  # also of the one that is gone
    assert os.stat(path_of(bridge.address())).st_ino == inode
    for kind in "unix", "tcp":
        assert ask(bridge.address(kind))["outcome"] == "ok"
    bridge.reload(listeners=[stays, listener(world, "hybrid")])
    wait_ok(hybrid)
    assert os.stat(path_of(bridge.address())).st_ino == inode
    assert_never_disturbed(bridge, qgs)


def test_reload_changes_a_listener(world, qgs):
    bridge = Bridge(world, qgs)
    changed = dict(bridge.config["listeners"][0], mode="0600")
    bridge.reload(listeners=[changed])
    assert os.stat(path_of(bridge.address())).st_mode & 0o777 == 0o600
    wait_ok(bridge.address())


def test_bad_reload(world, qgs):
    bridge = Bridge(world, qgs, KINDS)
    good = dict(bridge.config)
    for bad in ({"listeners": [{"name": "unix", "address": "unix:relative"}]},
                {"limits": {"vms": 0}}, {"listeners": None}, {"nonsense": 1}):
        bridge.reload(good=False, **bad)
        bridge.config = dict(good)
        for kind in KINDS:
            assert ask(bridge.address(kind))["outcome"] == "ok"
    bridge.reload()


def test_reload_to_another_qgs(world, qgs):
    other = StandIn(world, name="other")
    bridge = Bridge(world, qgs, KINDS)
    qgs.behave("wedged")
    inside = asking(bridge.address())
    qgs.wait_stats(at_work=1)
    bridge.reload(qgs={"address": other.address})
    bridge.wait_state("up")
    for kind in KINDS:
        assert ask(bridge.address(kind))["outcome"] == "ok"
    assert other.stats()["requests"] == 3
    qgs.behave("ok")
    assert inside.result()["outcome"] == "ok"


def test_reload_under_load(world, qgs):
    bridge = Bridge(world, qgs, KINDS)
    load = vms_asking(vm=[f"vm{i}={bridge.address(KINDS[i % 3])}" for i in range(6)],
                      requests=300, concurrency_per_vm=2)
    for i in range(10):
        bridge.reload(limits={"queue_per_vm": 60 + i}, qgs={**bridge.config["qgs"],
                                                            "in_flight": 2 + i % 3})
    result = load.result()
    assert (result["ok"], result["first_error"]) == (300, None)
    assert assert_never_disturbed(bridge, qgs)["max_at_work"] <= 4


# ---- the end ----

def test_drain(world, qgs):
    """Requests under way are answered, in QGS and in line; nobody new is let in."""
    bridge = Bridge(world, qgs, KINDS, qgs_more={"in_flight": 1})
    qgs.behave("wedged")
    clients = [asking(bridge.address(kind)) for kind in KINDS]
    bridge.wait_metric("qgs_waiting", lambda v: v == 2)
    bridge.signal(signal.SIGTERM)
    bridge.wait_log("no new connections; 3 have")
    for kind in KINDS:
        assert ask(bridge.address(kind))["outcome"] == "connect-failed"
    bridge.signal(signal.SIGHUP)
    bridge.wait_log("reload: the program is ending")
    qgs.behave("ok")
    assert [c.result()["outcome"] for c in clients] == ["ok"] * 3
    bridge.finish()
    assert len(bridge.ends(reason="eof")) == 3


def test_drain_waits_no_longer_than_told(world, qgs):
    bridge = Bridge(world, qgs, timeouts={"drain": "300ms"})
    qgs.behave("wedged")
    client = asking(bridge.address())
    qgs.wait_stats(at_work=1)
    begun = time.monotonic()
    bridge.signal(signal.SIGTERM)
    bridge.finish()
    assert since(begun) >= 0.3
    result = client.result()
    assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    assert bridge.ends()[0]["reason"] == "shutdown"


def test_idle_end(world, qgs):
    """Nobody is there: it ends without waiting for its drain time."""
    bridge = Bridge(world, qgs, KINDS, timeouts={"drain": "1h"})
    assert ask(bridge.address())["outcome"] == "ok"
    bridge.wait_quiet()
    bridge.stop()
    assert not os.path.exists(path_of(bridge.address()))
    assert not os.path.exists(path_of(bridge.address("hybrid")))


def test_second_signal(world, qgs):
    bridge = Bridge(world, qgs, timeouts={"drain": "1h"})
    qgs.behave("wedged")
    with connect(bridge.address()) as inside, connect(bridge.address()) as silent:
        inside.sendall(request())
        qgs.wait_stats(at_work=1)
        bridge.wait_metric("connections", lambda v: v == 2)
        bridge.signal(signal.SIGTERM)
        bridge.wait_log("no new connections")
        bridge.cut(signal.SIGINT)
        assert read_all(inside) == read_all(silent) == b""
        bridge.finish()
    assert {x["reason"] for x in bridge.ends()} == {"shutdown"}


def test_restart_under_load(world, qgs):
    """Clients that come between the two are turned away at connect, and nobody else."""
    bridge = Bridge(world, qgs)
    load = vms_asking(to=bridge.address(), vms=4, requests=200, think_ms=2)
    bridge.wait_metric("requests_total", lambda v: v >= 40)
    bridge.stop()
    Bridge(world, qgs, bridge.config["listeners"], name="bridge2")
    result = load.result()
    assert result["ok"] + result["errors"]["connect-failed"] == 200, result
    assert result["ok"] >= 40
    assert ask_by_vms(to=client_address(bridge.config["listeners"][0]["address"]), vms=2,
                      requests=20)["ok"] == 20
