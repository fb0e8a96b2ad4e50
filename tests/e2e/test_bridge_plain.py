# framing: none, QGS elsewhere than at a Unix socket, and a process that may not have enough.
import signal

import pytest

from bridge import KINDS, REPLY, Bridge, connect, read_all, request
from harness import Listening, wait_for
from qgs import StandIn, ask, ask_by_vms, asking


@pytest.fixture
def qgs(world):
    return StandIn(world, behave="1.26")


def plain(world, qgs, kinds=KINDS, **more):
    return Bridge(world, qgs, kinds, qgs_more={"framing": "none", **more.pop("qgs_more", {})},
                  **more)


# ---- bytes as they come ----

@pytest.mark.parametrize("kind", KINDS)
def test_plain(world, qgs, kind):
    bridge = plain(world, qgs, [kind])
    for client in "qemu", "tdx", "raw":
        assert ask(bridge.address(kind), client=client)["outcome"] == "ok"
    assert ask(bridge.address(kind), split="20+500", shut_wr=True)["outcome"] == "ok"
    qgs.behave("cut:100", 1)
    result = ask(bridge.address(kind))  # nothing is known of wholes here
    assert (result["outcome"], result["bytes"]) == ("closed-early", 100), result
    bridge.wait_quiet()
    assert qgs.stats()["requests"] == 5


def test_plain_is_dialled_at_the_first_byte(world, qgs):
    bridge = plain(world, qgs, timeouts={"request": "300ms"})
    before = qgs.stats()["connections"] - bridge.metric("qgs_probes_total")
    for kind in KINDS:
        with connect(bridge.address(kind)) as s:
            assert read_all(s) == b""
    assert bridge.reasons() == {"request-timeout": 3}
    assert qgs.stats()["connections"] - bridge.metric("qgs_probes_total") <= before


def test_plain_in_turn(world, qgs):
    bridge = plain(world, qgs, qgs_more={"in_flight": 2})
    result = ask_by_vms(vm=[f"vm{i}={bridge.address(KINDS[i % 3])}" for i in range(6)],
                        requests=300, concurrency_per_vm=3)
    assert (result["ok"], result["first_error"]) == (300, None)
    assert qgs.stats()["max_open"] <= 2 + 1  # and a probe
    bridge.wait_quiet()


def test_plain_without_qgs(world):
    address = "unix:" + world.path("qgs.socket")
    qgs = StandIn(world, listen=address, name="first")
    bridge = plain(world, qgs)
    qgs.stop()
    bridge.wait_metric("sockets", lambda v: v == 0)
    StandIn(world, listen=address)
    bridge.wait_metric("sockets", lambda v: v == 3)
    for kind in KINDS:
        wait_for(lambda kind=kind: ask(bridge.address(kind))["outcome"] == "ok", "an answer")


# ---- QGS in a VM of its own, by a hybrid vsock ----

class Hybrid(Listening):
    """What Firecracker shows of a VM's vsock: CONNECT PORT, then bytes for QGS."""

    def __init__(self, path, port, to):
        self.port, self.to, self.asked = port, to, []
        super().__init__(path)

    def serve(self, s):
        with s:
            line = b""
            while not line.endswith(b"\n"):
                got = s.recv(1)
                if not got:
                    return
                line += got
            self.asked.append(line)
            if line != b"CONNECT %d\n" % self.port:
                return
            try:
                s.sendall(b"OK 1073741824\n")
                got = s.recv(65536)
            except OSError:  # a probe
                return
            if got:
                with connect(self.to) as on:
                    on.sendall(got)
                    s.sendall(read_all(on))


def test_qgs_by_hybrid(world, qgs):
    path = world.path("qgs-vm.vsock")
    between = world.add(Hybrid(path, 4050, qgs.address))
    bridge = Bridge(world, f"hybrid:{path}:4050", KINDS)
    for kind in KINDS:
        assert ask(bridge.address(kind))["bytes"] == REPLY
    result = ask_by_vms(to=bridge.address(), vms=4, requests=100, client="mix")
    assert (result["ok"], result["first_error"]) == (100, None)
    assert set(between.asked) == {b"CONNECT 4050\n"}


def test_qgs_by_hybrid_not_there(world, qgs):
    """Its VM runs, and nobody listens in it."""
    path = world.path("qgs-vm.vsock")
    world.add(Hybrid(path, 1, qgs.address))
    bridge = Bridge(world, f"hybrid:{path}:4050", wait=False)
    bridge.wait_log("is down")
    assert bridge.metric("sockets") == 0


# ---- a QGS that stands still ----

def test_stopped_process(world):
    """SIGSTOP: it is there, the kernel takes connections for it, and nothing comes back."""
    qgs = StandIn(world)
    bridge = Bridge(world, qgs, KINDS, qgs_more={"stuck_after": "200ms"})
    qgs.signal(signal.SIGSTOP)
    try:
        clients = [asking(bridge.address(kind)) for kind in KINDS]
        assert {c.result()["outcome"] for c in clients} == {"closed-early"}
        bridge.wait_state("wedged")
        bridge.wait_metric("sockets", lambda v: v == 0)
    finally:
        qgs.signal(signal.SIGCONT)
    bridge.wait_state("up")
    for kind in KINDS:
        assert ask(bridge.address(kind))["outcome"] == "ok"


# ---- too few descriptors ----

def test_few_descriptors(world):
    """Whoever holds all that there are delays the others' requests, and no more than that."""
    qgs = StandIn(world, work_ms=1)
    bridge = Bridge(world, qgs, under=["prlimit", "--nofile=100:100"],
                    timeouts={"request": "500ms"})
    assert "LimitNOFILE" in bridge.log()
    silent = [connect(bridge.address()) for _ in range(150)]
    load = [asking(bridge.address()) for _ in range(20)]
    results = [c.result() for c in load]
    assert [r["outcome"] for r in results] == ["ok"] * 20, results
    for s in silent:
        assert read_all(s) == b""
        s.close()
    bridge.wait_quiet()
    reasons = bridge.reasons()
    assert reasons == {"eof": 20, "request-timeout": 150}, reasons


def test_few_descriptors_while_waiting(world):
    """All descriptors are held by those who wait in line: each is served."""
    qgs = StandIn(world, behave="wedged")
    bridge = Bridge(world, qgs, under=["prlimit", "--nofile=100:100"],
                    limits={"queue_per_vm": 200, "connections_per_vm": 200})
    clients = [connect(bridge.address()) for _ in range(150)]
    for s in clients:
        s.sendall(request())
    qgs.wait_stats(at_work=3)  # this process is one VM
    wait_for(lambda: bridge.metric("accept_paused_total") > 0, "no more accepted")
    qgs.behave("ok")
    answers = []
    for s in clients:
        with s:
            answers.append(len(read_all(s)))
    assert answers == [REPLY] * 150
