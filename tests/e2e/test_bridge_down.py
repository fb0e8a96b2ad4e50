# When QGS is not there, not yet, not any more, or does not answer: clients fail as they would
# without the bridge, and at once; and nobody fails while QGS only makes its socket anew.
import errno
import os
import signal
import stat
import time

import pytest

from bridge import (KINDS, Bridge, Inotify, assert_never_disturbed, connect, connect_error, path_of,
                    read_all, request, settled, since)
from harness import need, wait_for
from qgs import StandIn, ask, asking, vms_asking

# what a client gets at connect from a listener that is not there
ABSENT = {"unix": errno.ENOENT, "hybrid": errno.ENOENT, "tcp": errno.ECONNREFUSED}


def is_away(bridge, kinds=KINDS):
    """The sockets of all listeners are gone."""
    return [connect_error(bridge.address(k)) for k in kinds] == [ABSENT[k] for k in kinds]


def wait_away(bridge, kinds=KINDS):
    wait_for(lambda: is_away(bridge, kinds), lambda: f"no sockets\n{bridge.tail()}")
    assert bridge.metric("sockets") == 0


def wait_back(bridge, kinds=KINDS):
    """Sockets are there again, and lead to QGS."""
    bridge.wait_state("up")
    for kind in kinds:
        wait_for(lambda: connect_error(bridge.address(kind)) == 0,
                 lambda: f"a socket of {kind}\n{bridge.tail()}")
        assert ask(bridge.address(kind))["outcome"] == "ok"


def said(bridge, words):
    return [x for x in bridge.lines() if words in x["message"]]


def killed(qgs):
    """As a crash: its socket stays, and nobody listens there."""
    qgs.kill()
    qgs.process.stdin.close()
    assert stat.S_ISSOCK(os.stat(qgs.path).st_mode)


@pytest.fixture
def address(world):
    return "unix:" + world.path("qgs.socket")


# ---- absent, dead, stopped ----

def test_absent_at_start(world, address):
    bridge = Bridge(world, address, KINDS, wait=False)
    bridge.wait_log(r"QGS at unix:\S+ is down")
    wait_away(bridge)
    assert bridge.metric("qgs_state", state="down") == 1
    qgs = StandIn(world, listen=address)
    wait_back(bridge)
    assert len(said(bridge, "is down")) == len(said(bridge, "is up")) == 1
    assert_never_disturbed(bridge, qgs)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root: another user's socket")
def test_not_permitted(world, address):
    """The first thing that goes wrong on a node: the message says what to do."""
    need("setpriv")
    qgs = StandIn(world, listen=address)
    os.chmod(qgs.path, 0o700)
    os.chown(qgs.path, 4711, 4711)
    bridge = Bridge(world, qgs, wait=False, under=["setpriv", "--bounding-set=-dac_override"])
    bridge.wait_log(r"is down: Permission denied; this process needs to be in the group")
    os.chown(qgs.path, 0, 0)
    wait_back(bridge, ["unix"])


def test_folder_absent_at_start(world):
    """QGS's RuntimeDirectory comes and goes with it."""
    folder = world.path("tdx-qgs")
    bridge = Bridge(world, f"unix:{folder}/qgs.socket", wait=False)
    bridge.wait_log("is down")
    os.mkdir(folder)
    StandIn(world, listen=f"unix:{folder}/qgs.socket")
    wait_back(bridge, ["unix"])


def test_dead_file_at_start(world, address):
    killed(StandIn(world, listen=address, name="first"))
    bridge = Bridge(world, address, KINDS, wait=False)
    bridge.wait_log("is down")
    wait_away(bridge)
    os.unlink(address.removeprefix("unix:"))
    StandIn(world, listen=address)
    wait_back(bridge)


@pytest.mark.parametrize("end", ["killed", "stopped", "refusing"])
def test_gone_and_back(world, address, end):
    qgs = StandIn(world, listen=address, name="first")
    bridge = Bridge(world, qgs, KINDS)
    assert ask(bridge.address())["outcome"] == "ok"
    if end == "killed":
        killed(qgs)
    elif end == "stopped":
        qgs.stop()
    else:
        qgs.tell("refuse")
        assert ask(bridge.address())["outcome"] == "closed-early"  # so it is noticed at once
    wait_away(bridge)
    bridge.wait_metric("qgs_downs_total", lambda v: v == 1)
    for kind in KINDS:  # for those who come now, what it would be without us
        result = ask(bridge.address(kind))
        assert (result["outcome"], result["errno"]) == (
            "connect-failed", errno.errorcode[ABSENT[kind]])
    if end == "refusing":
        qgs.tell("recreate")
    else:
        if end == "killed":
            os.unlink(qgs.path)
        StandIn(world, listen=address)
    wait_back(bridge)
    assert len(said(bridge, "is down")) == 1 and len(said(bridge, "is up")) == 2


def test_killed_with_requests_in_it(world, address):
    """All wait for the moment in which QGS may come back, and then fail; a crash is no answer."""
    qgs = StandIn(world, listen=address, behave="wedged")
    bridge = Bridge(world, qgs, qgs_more={"in_flight": 2})
    clients = [asking(bridge.address()) for _ in range(6)]
    bridge.wait_metric("qgs_waiting", lambda v: v == 4)
    killed(qgs)
    results = [c.result() for c in clients]
    assert [(r["outcome"], r["bytes"]) for r in results] == [("closed-early", 0)] * 6
    wait_away(bridge, ["unix"])
    bridge.wait_quiet()
    assert bridge.reasons() == {"qgs-down": 6}


def test_killed_and_restarted(world, address):
    """Those who were in QGS, and in line, are served by the next one."""
    qgs = StandIn(world, listen=address, name="first", behave="wedged")
    bridge = Bridge(world, qgs, qgs_more={"in_flight": 2})
    clients = [asking(bridge.address(), client=c) for c in ("qemu", "tdx", "raw") * 2]
    bridge.wait_metric("qgs_waiting", lambda v: v == 4)
    killed(qgs)
    os.unlink(qgs.path)
    again = StandIn(world, listen=address)
    assert [c.result()["outcome"] for c in clients] == ["ok"] * 6
    assert assert_never_disturbed(bridge, again)["requests"] == 6


def test_crashing_again_and_again(world, address):
    """A request that ends QGS is asked twice at most."""
    bridge = Bridge(world, address, wait=False)
    qgs = StandIn(world, listen=address, name="qgs0", behave="wedged")
    bridge.wait_state("up")
    client = asking(bridge.address())
    for n in range(1, 3):
        qgs.wait_stats(requests=1)
        killed(qgs)
        os.unlink(qgs.path)
        qgs = StandIn(world, listen=address, name=f"qgs{n}", behave="wedged")
    assert client.result()["outcome"] == "closed-early"
    assert bridge.wait_end()["reason"] == "no-reply"
    assert qgs.stats()["requests"] == 0


def test_as_kubevirt_sees_it(world, address):
    """Its device plugin watches the folder: the node can quote while the socket is there."""
    folder = world.path("mounted")
    qgs = StandIn(world, listen=address, name="first")
    bridge = Bridge(world, qgs, [{"name": "unix", "address": f"unix:{folder}/qgs.socket"}])
    seen = world.add(Inotify(folder))
    qgs.stop()
    seen.wait("qgs.socket", "-")
    StandIn(world, listen=address)
    seen.wait("qgs.socket", "-+")
    wait_back(bridge, ["unix"])
    assert seen.of("qgs.socket") == "-+"


# ---- made anew ----

@pytest.mark.parametrize("how", ["signal", "command"])
def test_recreated(world, address, how):
    """SIGHUP makes QGS bind its socket anew: our own stays as it is."""
    qgs = StandIn(world, listen=address)
    bridge = Bridge(world, qgs, KINDS)
    inodes = [os.stat(path_of(bridge.address(k))).st_ino for k in ("unix", "hybrid")]
    seen = world.add(Inotify(world.folder))
    before = os.stat(qgs.path).st_ctime_ns
    if how == "signal":
        qgs.signal(signal.SIGHUP)
        wait_for(lambda: os.path.exists(qgs.path) and os.stat(qgs.path).st_ctime_ns != before,
                 "a new socket")
    else:
        qgs.tell("recreate")
    for kind in KINDS:
        assert ask(bridge.address(kind))["outcome"] == "ok"
    assert [os.stat(path_of(bridge.address(k))).st_ino for k in ("unix", "hybrid")] == inodes
    assert not [x for x in seen.events() if "bridge" in x[0]]
    assert bridge.metric("qgs_downs_total") == 0 and not said(bridge, "is down")


@pytest.mark.parametrize("how", ["signal", "command"])
def test_recreated_with_requests_in_it(world, address, how):
    qgs = StandIn(world, listen=address, behave="wedged")
    bridge = Bridge(world, qgs, KINDS)
    clients = [asking(bridge.address(kind), client=client) for kind in ("unix", "hybrid")
               for client in ("qemu", "tdx", "raw")]
    bridge.wait_metric("qgs_waiting", lambda v: v == 2)
    if how == "signal":
        qgs.signal(signal.SIGHUP)
    else:
        qgs.tell("recreate")
    # those in line, and perhaps some once more, while the old ones still have their threads
    wait_for(lambda: qgs.stats()["requests"] >= 6, lambda: f"more requests\n{bridge.tail()}")
    qgs.behave("ok")
    assert [c.result()["outcome"] for c in clients] == ["ok"] * 6
    assert bridge.reasons() == {"eof": 6}
    assert settled(qgs)["requests"] == 10 and bridge.metric("qgs_downs_total") == 0


def test_recreated_under_load(world, address):
    """While 200 requests are made, of which some are in QGS each time: none fails. (One that it
    happens to twice would.)"""
    qgs = StandIn(world, listen=address, work_ms=10)
    bridge = Bridge(world, qgs, KINDS)
    load = vms_asking(vm=[f"vm{i}={bridge.address(KINDS[i % 3])}" for i in range(12)],
                      requests=200, concurrency_per_vm=2)
    recreated = done = 0
    while done < 140:
        if recreated % 2:
            qgs.tell("recreate")
        else:
            qgs.signal(signal.SIGHUP)
        recreated += 1
        done = bridge.wait_metric("requests_total", lambda v: v >= done + 60)
    result = load.result()
    assert (result["ok"], result["first_error"]) == (200, None)
    bridge.wait_quiet()
    assert bridge.reasons() == {"eof": 200} and recreated >= 2
    assert settled(qgs)["requests"] >= 200  # those that were in it were asked again
    assert bridge.metric("qgs_downs_total") == 0


def test_away_for_a_moment(world, address):
    """Nobody listens between the old socket and the new one: requests wait."""
    qgs = StandIn(world, listen=address)
    bridge = Bridge(world, qgs, KINDS)
    clients = [connect(bridge.address(kind)) for kind in KINDS for _ in range(10)]
    bridge.wait_metric("connections", lambda v: v == 30)
    os.rename(qgs.path, qgs.path + ".away")
    for c in clients:  # at once: it waits for a second
        c.sendall(request())
    bridge.wait_metric("qgs_waiting", lambda v: v == 30)
    os.rename(qgs.path + ".away", qgs.path)
    assert all(len(read_all(c)) > 1000 for c in clients)
    bridge.wait_metric("requests_total", lambda v: v == 30, reason="eof")
    assert bridge.metric("qgs_downs_total") == 0


def test_restarted_under_load(world, address):
    """Whoever had come in before QGS's process ended is served by the next one. Who comes while
    there is none may be turned away at once, as QGS itself would."""
    qgs = StandIn(world, listen=address, name="first", work_ms=5)
    bridge = Bridge(world, qgs)
    load = vms_asking(to=bridge.address(), vms=4, requests=400, concurrency_per_vm=2)
    bridge.wait_metric("requests_total", lambda v: v >= 50)
    killed(qgs)
    os.unlink(qgs.path)
    StandIn(world, listen=address)
    result = load.result()
    bridge.wait_quiet()
    assert bridge.reasons() == {"eof": result["ok"]}, bridge.tail()
    # at connect, or in the queue of a socket that was closed: one for each client at most
    turned_away = result["errors"]["connect-failed"] + result["errors"]["closed-early"]
    assert result["ok"] + turned_away == 400 and result["errors"]["closed-early"] <= 8, result
    wait_back(bridge, ["unix"])


# ---- wedged ----

def wedge(world, address, tmp, **more):
    qgs = StandIn(world, listen=address, behave="wedged")
    bridge = Bridge(world, qgs, KINDS, qgs_more={
        "stuck_after": "300ms", "stuck_count": 3,
        "stuck_command": ["/bin/sh", "-c", f"echo once >>{tmp}"], **more})
    return qgs, bridge


def test_wedged(world, address):
    notes = world.path("notes")
    qgs, bridge = wedge(world, address, notes)
    begun = time.monotonic()
    clients = [asking(bridge.address(kind)) for kind in KINDS for _ in range(4)]
    for c in clients:
        result = c.result()
        assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    assert since(begun) >= 0.3
    bridge.wait_state("wedged")
    wait_away(bridge)
    assert bridge.reasons() == {"qgs-stuck": 12}
    assert qgs.stats()["max_at_work"] == 4
    assert bridge.metric("qgs_wedges_total") == 1
    wait_for(lambda: os.path.exists(notes), "the command has run")
    qgs.behave("ok")  # its threads come back: the next probe is answered
    wait_back(bridge)
    with open(notes) as f:
        assert f.read() == "once\n"
    assert len(said(bridge, "is wedged")) == 1 and len(said(bridge, "has ended in order")) == 1


def test_wedged_and_restarted_by_the_command(world, address):
    """As systemctl restart does it."""
    notes = world.path("notes")
    qgs, bridge = wedge(world, address, notes)
    clients = [asking(bridge.address()) for _ in range(4)]
    bridge.wait_state("wedged")
    assert {c.result()["outcome"] for c in clients} == {"closed-early"}
    wait_away(bridge)
    killed(qgs)
    os.unlink(qgs.path)
    StandIn(world, listen=address, name="restarted")
    wait_back(bridge)


def test_few_silences_are_not_wedged(world, address):
    """One answer in between, and it counts anew."""
    qgs, bridge = wedge(world, address, world.path("notes"))
    for _ in range(3):
        for n in range(2):
            qgs.behave("wedged", 1)
            assert ask(bridge.address())["outcome"] == "closed-early"
        assert ask(bridge.address())["outcome"] == "ok"
        qgs.behave("wedged", 1)
        qgs.behave("ok")  # threads are free again
    assert bridge.metric("qgs_silences_total") == 6
    assert bridge.metric("qgs_wedges_total") == 0 and not is_away(bridge)
    assert not os.path.exists(world.path("notes"))


def test_command_that_cannot_run(world, address):
    qgs = StandIn(world, listen=address, behave="wedged")
    bridge = Bridge(world, qgs, qgs_more={"stuck_after": "100ms", "stuck_count": 1,
                                          "stuck_command": ["/nowhere/at/all"]})
    ask(bridge.address())
    bridge.wait_state("wedged")
    assert said(bridge, "/nowhere/at/all")
    qgs.behave("ok")
    wait_back(bridge, ["unix"])


# ---- others are not meant ----

def test_others_stay(world, address):
    """A file of somebody else's at our path is not removed; it is ours again when it is gone."""
    qgs = StandIn(world, listen=address, name="first")
    bridge = Bridge(world, qgs)
    path = path_of(bridge.address())
    qgs.stop()
    wait_away(bridge, ["unix"])
    with open(path, "w") as f:
        f.write("somebody else's")
    StandIn(world, listen=address)
    bridge.wait_state("up")
    bridge.wait_log(r"listener unix: .*unix\S+bridge\.sock")
    with open(path) as f:
        assert f.read() == "somebody else's"
    os.unlink(path)
    wait_back(bridge, ["unix"])
