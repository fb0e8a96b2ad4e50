"""
virtio-serial: a guest's ports, QEMU's chardevs, and outside the VM qgs-bridge, a relay, a tunnel and
a service.
"""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rig  # noqa: E402

sys.path.insert(0, os.path.join(rig.ROOT, "tests", "e2e"))
os.environ.update(ATTEST_RELAY=os.path.join(rig.BUILD, "attest-relay"),
                  ATTEST_TUNNEL=os.path.join(rig.BUILD, "attest-tunnel"),
                  ATTEST_BRIDGE=os.path.join(rig.BUILD, "qgs-bridge", "qgs-bridge"))

import harness  # noqa: E402
from node import FORWARDED, Node  # noqa: E402
from test_bridge_qemu import reconnect  # noqa: E402

LIMIT = 100  # seconds for everything in the VM
CHECKS = ["qemu-connects", "qemu-listens", "port-opened-again"]
MODULES = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
           "virtio_console"]


@pytest.fixture(scope="module")
def vm(tmp_path_factory):
    image = rig.Image("serial")
    image.modules(MODULES)
    image.scripts("serial.sh", "lib.sh")
    world = harness.World(tmp_path_factory.mktemp("world"),
                          harness.Certificates(str(tmp_path_factory.mktemp("pki"))))
    a, b = world.path("a.sock"), world.path("b.sock")
    node = Node(world, [
        {"name": "connects", "address": f"unix:{a}", "forward": FORWARDED},
        {"name": "listens", "address": f"unix:{b}", "socket": "connect", "forward": FORWARDED}])
    results = rig.boot(image, LIMIT, more=[
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=a,path={a},{reconnect()}",
        "-device", "virtserialport,chardev=a,name=attest.0",
        "-chardev", f"socket,id=b,path={b},server=on,wait=off",
        "-device", "virtserialport,chardev=b,name=attest.1"])
    try:
        yield results
        for listener in "connects", "listens":  # QEMU has ended, and so have its lines
            node.bridge.wait_end(listener=listener, bytes_up=201000)
        node.wait_quiet()
    finally:
        world.close()


@pytest.mark.parametrize("name", CHECKS)
def test(vm, name):
    vm.expect(name)


def test_all_was_said(vm):
    assert vm.ended, vm.tail()
    assert sorted(vm.checks) == sorted(CHECKS)
