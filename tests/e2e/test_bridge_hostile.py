# What one guest may do to the others, and to what is written down of them.
import os

from bridge import Bridge, connect
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
