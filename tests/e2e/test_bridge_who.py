# Who may connect, as the kernel has it and as rules do; and that it is written down.
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import uuid

import pytest

from bridge import Bridge, assert_never_disturbed, path_of, read_all, request
from harness import DEADLINE, PYTHON, wait_for
from qgs import StandIn, ask, ask_by_vms, asking

QEMU, NOBODY = 107, 65534  # KubeVirt's QEMU runs as the first

# connects, asks, prints how many bytes came (0: it was closed) or the errno at connect
CLIENT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except OSError as e:
    print(-e.errno)
    sys.exit()
n = 0
try:
    s.sendall(bytes.fromhex(sys.argv[2]))
    while got := s.recv(65536):
        n += len(got)
except (BrokenPipeError, ConnectionResetError):
    pass
print(n)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: other users' processes")


@pytest.fixture
def qgs(world):
    return StandIn(world)


@pytest.fixture
def open_folder():
    """One that all may go through, as those of pytest may not be."""
    path = tempfile.mkdtemp()
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def ask_as(user, path, groups=(), enter=None):
    """Bytes of the reply to a process of this user and group; -errno of connect."""
    done = subprocess.run([PYTHON, "-c", CLIENT, path, request().hex()], user=user, group=user,
                          extra_groups=list(groups), preexec_fn=enter, capture_output=True,
                          text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


# ---- the kernel's say ----

@as_root
def test_group_and_mode(world, qgs, open_folder):
    path = f"{open_folder}/qgs-bridge/qgs.socket"
    bridge = Bridge(world, qgs, [{"name": "unix", "address": f"unix:{path}", "group": str(QEMU)}])
    st = os.stat(path)
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (0, QEMU, 0o660)
    assert stat.S_IMODE(os.stat(f"{open_folder}/qgs-bridge").st_mode) == 0o755
    assert ask_as(QEMU, path) == 5028
    assert ask_as(4711, path, groups=[QEMU]) == 5028
    assert ask_as(NOBODY, path) == -errno.EACCES
    ends = bridge.wait_end(n=2)
    assert all("uid=107" in x["client"] or "uid=4711" in x["client"] for x in ends), ends
    assert bridge.metric("accepted_total") == 2


@as_root
def test_owner_and_modes(world, qgs, open_folder):
    listeners = [
        {"name": "own", "address": f"unix:{open_folder}/own/s", "owner": str(QEMU),
         "mode": "0600"},
        {"name": "all", "address": f"unix:{open_folder}/all/s", "mode": "0666"},
        {"name": "hidden", "address": f"unix:{open_folder}/hidden/s", "mode": "0666",
         "directory_mode": "0700"},
        {"name": "hybrid", "address": f"hybrid:{open_folder}/vm.vsock:4050",
         "owner": str(QEMU), "group": str(QEMU), "mode": "0600"},
    ]
    Bridge(world, qgs, listeners)
    hybrid = f"{open_folder}/vm.vsock_4050"
    assert [ask_as(QEMU, f"{open_folder}/{x}/s") for x in ("own", "all", "hidden")] == [
        5028, 5028, -errno.EACCES]
    assert [ask_as(NOBODY, f"{open_folder}/{x}/s") for x in ("own", "all", "hidden")] == [
        -errno.EACCES, 5028, -errno.EACCES]
    assert (ask_as(QEMU, hybrid), ask_as(NOBODY, hybrid)) == (5028, -errno.EACCES)


# ---- rules ----

@as_root
def test_rules_by_user(world, qgs, open_folder):
    path = f"{open_folder}/s"
    bridge = Bridge(world, qgs, [{"name": "unix", "address": f"unix:{path}", "mode": "0666"}],
                    rules=[{"action": "deny", "uid": "5000-5999"},
                           {"action": "allow", "uid": str(QEMU), "gid": str(QEMU)},
                           {"action": "allow", "gid": "4711", "listener": "un*"}])
    assert [ask_as(u, path) for u in (QEMU, 4711, NOBODY, 5001, 0)] == [5028, 5028, 0, 0, 0]
    ends = {next(u for u in (NOBODY, 5001, 0) if f"uid={u}" in x["client"]): x
            for x in bridge.wait_end(n=3, reason="forbidden")}
    assert "no rule allows it" in ends[NOBODY]["message"] and "line" in ends[5001]["message"]
    assert ends[0]["bytes_up"] == 0 and ends[0]["to"] == "qgs"
    assert bridge.metric("refused_total", reason="forbidden") == 3
    assert assert_never_disturbed(bridge, qgs)["requests"] == 2


def folders(world, *names):
    for name in names:
        os.makedirs(world.path(f"vms/{name}"))


def test_rules_by_name_and_listener(world, qgs):
    folders(world, "prod-1", "prod-2", "test-1")
    bridge = Bridge(world, qgs, [
        "unix", "tcp", {"name": "vms", "address": f"unix:{world.folder}/vms/*/s"}],
        rules=[{"action": "deny", "vm": "name:prod-2"},
               {"action": "allow", "vm": "name:prod-*", "listener": "vms"},
               {"action": "allow", "listener": "tcp"}])
    bridge.wait_metric("sockets", lambda v: v == 5)
    vms = f"unix:{world.folder}/vms"
    got = {where: ask(where)["outcome"] for where in (
        f"{vms}/prod-1/s", f"{vms}/prod-2/s", f"{vms}/test-1/s", bridge.address("unix"),
        bridge.address("tcp"))}
    assert list(got.values()) == ["ok", "closed-early", "closed-early", "closed-early", "ok"], got
    assert {x["vm"] for x in bridge.wait_end(n=3, reason="forbidden")} >= {
        "name:prod-2", "name:test-1"}
    assert bridge.metric("refused_total", reason="forbidden") == 3
    assert bridge.metric("vm_connections_total", vm="name:prod-2") == 0
    assert assert_never_disturbed(bridge, qgs)["requests"] == 2


def test_rules_change(world, qgs):
    """A reload counts for who comes then; who is in already is served."""
    bridge = Bridge(world, qgs)
    qgs.behave("wedged")
    inside = asking(bridge.address())
    qgs.wait_stats(at_work=1)
    bridge.reload(rules=[{"action": "deny"}])
    assert ask(bridge.address())["outcome"] == "closed-early"
    qgs.behave("ok")
    assert inside.result()["outcome"] == "ok"
    bridge.reload(rules=None)
    assert ask(bridge.address())["outcome"] == "ok"


@pytest.fixture
def cgroup():
    """Makes a cgroup of this path, if one may be made here; gives the function to enter it."""
    made = []

    def make(path):
        top = "/sys/fs/cgroup"
        if os.path.isdir(f"{top}/unified"):
            top += "/unified"
        at = top
        try:
            for part in path.split("/"):
                at = f"{at}/{part}"
                if not os.path.isdir(at):
                    os.mkdir(at)
                    made.append(at)
            assert os.path.exists(f"{at}/cgroup.procs")
        except (OSError, AssertionError) as e:
            pytest.skip(f"no cgroup can be made here: {e}")

        def enter():
            with open(f"{at}/cgroup.procs", "w") as f:
                f.write("0")
        return enter
    yield make
    for path in reversed(made):
        wait_for(lambda path=path: remove(path), f"{path} is empty")


def remove(path):
    try:
        os.rmdir(path)
        return True
    except OSError:
        return False


@as_root
@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
def test_pods(world, qgs, cgroup, driver):
    """QEMU's pod is told by its cgroup, which it cannot choose."""
    uids = [str(uuid.uuid4()) for _ in range(2)]
    container = uuid.uuid4().hex
    enter = [cgroup(f"kubepods.slice/kubepods-burstable.slice/"
                    f"kubepods-burstable-pod{u.replace('-', '_')}.slice/cri-{container}.scope"
                    if driver == "systemd" else f"kubepods/burstable/pod{u}/{container}")
             for u in uids]
    bridge = Bridge(world, qgs, rules=[{"action": "allow", "pod": uids[0]}])
    path = path_of(bridge.address())
    # the socket is root's
    assert ask_as(0, path, enter=enter[0]) == 5028
    assert ask_as(0, path, enter=enter[1]) == 0
    good, denied = bridge.wait_end(reason="eof"), bridge.wait_end(reason="forbidden")
    assert (good["vm"], good["pod"]) == (f"pod:{uids[0]}", uids[0])
    assert (denied["vm"], denied["pod"]) == (f"pod:{uids[1]}", uids[1])
    assert bridge.metric("vm_answered_total", vm=f"pod:{uids[0]}") == 1


# ---- what is written down ----

def test_identity_in_lines(world, qgs):
    folders(world, "web-1")
    bridge = Bridge(world, qgs, ["unix", "tcp", "hybrid",
                                 {"name": "vms", "address": f"hybrid:{world.folder}/vms/*/v:4050"}])
    bridge.wait_metric("sockets", lambda v: v == 4)
    port = bridge.address("tcp").rsplit(":", 1)[1]
    pids = {}
    for where in (bridge.address("unix"), bridge.address("tcp"), bridge.address("hybrid"),
                  f"unix:{world.folder}/vms/web-1/v_4050"):
        client = asking(where)
        pids[where] = client.pid
        assert client.result()["outcome"] == "ok"
    bridge.wait_end(n=4)
    ends = {x["listener"]: x for x in bridge.ends()}
    pid = pids[bridge.address("unix")]
    assert ends["unix"]["vm"] == f"pid:{pid}"
    assert ends["unix"]["client"] == f"unix:pid={pid},uid={os.getuid()}"
    assert ends["tcp"]["vm"] == f"port:{port}" and ends["tcp"]["client"].startswith("tcp:127.0.0.1")
    assert ends["hybrid"]["vm"] == f"pid:{pids[bridge.address('hybrid')]}"
    assert ends["vms"]["vm"] == "name:web-1"
    for end in ends.values():
        assert (end["level"], end["reason"], end["to"]) == ("info", "eof", "qgs")
        assert end["via"] == qgs.address
        assert (end["bytes_up"], end["bytes_down"]) == (1052, 5028)
        assert end["duration_ms"] >= end["waited_ms"] >= 0
    assert len({x["stream"] for x in ends.values()}) == 4


def test_text_lines(world, qgs):
    """For people: the same, in words."""
    bridge = Bridge(world, qgs, log={"format": "text"})
    ask(bridge.address())
    bridge.wait_log(r"#\d+ pid:\d+ \(unix:pid=\d+,uid=\d+\) -> qgs \(unix\): 1052 up, 5028 down, ")


def test_labels_are_bounded(world, qgs):
    """Whoever makes processes all day makes no new series with each."""
    bridge = Bridge(world, qgs, limits={"vm_labels": 4, "vms": 8})
    for _ in range(20):
        assert ask_by_vms(to=bridge.address(), vms=1, requests=5)["ok"] == 5
    bridge.wait_quiet()
    for name in ("vm_connections_total", "vm_answered_total", "vm_failed_total",
                 "vm_waited_seconds_total"):
        series = [k for k in bridge.metrics() if k.startswith(f"qgs_bridge_{name}{{")]
        assert len(series) <= 4 + 1 and f'qgs_bridge_{name}{{vm="other"}}' in series, series
    assert bridge.metric("vm_answered_total") == bridge.metric("vm_connections_total") == 100
    assert bridge.metric("vms") <= 8


def test_metrics_are_well_formed(world, qgs):
    """Every series has its HELP and TYPE, once, and a number."""
    folders(world, "x")
    bridge = Bridge(world, qgs, [
        "unix", {"name": "vms", "address": f"unix:{world.folder}/vms/*/s"}])
    ask(bridge.address())
    with socket.create_connection(("127.0.0.1", bridge.metrics_port), DEADLINE) as s:
        s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = read_all(s).decode().split("\r\n\r\n", 1)[1]
    declared = [x.split()[2] for x in text.splitlines() if x.startswith("# TYPE")]
    assert len(declared) == len(set(declared)) > 20
    assert declared == [x.split()[2] for x in text.splitlines() if x.startswith("# HELP")]
    histograms = re.findall(r"# TYPE (\w+) histogram", text)
    for line in text.splitlines():
        if not line.startswith("#"):
            name = line.split("{")[0].split()[0]
            base = re.sub("_(bucket|sum|count)$", "", name)
            assert (base if base in histograms else name) in declared
            float(line.rsplit(None, 1)[1])
