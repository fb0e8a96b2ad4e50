# What one guest may do to the others, and to what is written down of them.
import errno
import os
import signal

from bridge import REPLY, Bridge, connect, connect_error, read_all, request
from qgs import StandIn


def vms_of(world, *names):
    """A socket for each VM, and where they are."""
    for name in names:
        os.makedirs(world.path(f"vms/{name}"))
    return ({"name": "vms", "address": f"unix:{world.path('vms')}/*/qgs.socket"},
            [f"unix:{world.path('vms')}/{name}/qgs.socket" for name in names])


def test_line_of_its_own(world):
    """Who fails over and over has not all of his lines, but hides none of another's."""
    qgs = StandIn(world)
    listener, (loud, quiet) = vms_of(world, "loud", "quiet")
    bridge = Bridge(world, qgs, [listener], wait=False)
    bridge.wait_metric("sockets", lambda v: v == 2)

    def fail(address):
        with connect(address) as s:
            s.sendall(b"garbage")
            assert s.recv(1) == b""

    for _ in range(30):
        fail(loud)
    bridge.wait_metric("requests_total", lambda v: v == 30, reason="protocol")
    fail(quiet)
    bridge.wait_end(vm="name:quiet", reason="protocol")
    assert 0 < len(bridge.ends(vm="name:loud")) < 30


def test_queue_at_the_end(world):
    """Who had connected before it was told to end is answered, though he was not accepted yet."""
    qgs = StandIn(world, work_ms=200)
    bridge = Bridge(world, qgs, ["unix", "tcp"])
    bridge.signal(signal.SIGSTOP)
    socks = [connect(bridge.address(kind)) for kind in ("unix", "tcp")]
    for s in socks:
        s.sendall(request())
    bridge.signal(signal.SIGTERM)
    bridge.signal(signal.SIGCONT)
    for s in socks:
        with s:
            assert len(read_all(s)) == REPLY
    bridge.finish()


def test_queue_of_a_listener_that_goes(world):
    """The same of a listener that another config does not have any more."""
    qgs = StandIn(world)
    bridge = Bridge(world, qgs, ["unix", "tcp"])
    bridge.write_config(listeners=bridge.config["listeners"][1:])
    address = f"unix:{world.path('bridge.sock')}"
    bridge.signal(signal.SIGSTOP)
    with connect(address) as s:
        s.sendall(request())
        bridge.signal(signal.SIGHUP)
        bridge.signal(signal.SIGCONT)
        assert len(read_all(s)) == REPLY
    assert connect_error(address) == errno.ENOENT
