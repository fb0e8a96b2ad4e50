"""Guests with CIDs of their own, in a VM that is their host: vsock over virtio."""
import glob
import os
import sys

import pytest
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rig  # noqa: E402

LIMIT = 900  # seconds for everything in the VM: two emulators in an emulator

HOST = ["vhost_iotlb", "vhost", "vhost_vsock"]
GUEST = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
         "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"]
# What a PC without a display reads from QEMU's folders.
FIRMWARE = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"]

# What is checked in guest/nested.sh, where each name stands for a function.
CHECKS = [
    "guests-boot", "relay-answers-guests", "relay-tells-guests-apart", "relay-late-answer",
    "relay-early-end", "relay-100-at-once", "nobody-listens", "bridge-answers-guests",
    "bridge-tells-guests-apart", "bridge-late-reply", "bridge-flood-starves-nobody",
    "bridge-denies-after-reload", "bridge-withdraws", "relay-notices-a-dead-guest",
]

RELAY = {
    "workers": 2,
    "metrics": "tcp:127.0.0.1:9464",
    "domain": "relay.test",
    "listeners": [{"name": "direct", "address": "vsock:any:5000", "service": "direct.acme"}],
    "services": [{"name": "direct.acme", "targets": ["vsock:local:6000"]}],
}


def guest():
    image = rig.Image("guest")
    image.modules(GUEST)
    image.built("vm-peer", "quote-load")
    image.script("inner", "/init")
    return image


def emulator(image):
    image.program(rig.QEMU, "/qemu/bin/" + os.path.basename(rig.QEMU))
    # it looks for this relative to itself
    tcg, = glob.glob("/usr/lib/*/qemu/accel-tcg-x86_64.so")
    image.program(tcg, "/qemu" + tcg.removeprefix("/usr"))
    for name in FIRMWARE:
        path, = [d + name for d in ("/usr/share/qemu/", "/usr/share/seabios/")
                 if os.path.isfile(d + name)][:1]
        image.copy(path, "/qemu/share/" + name)
    image.copy(rig.kernel(), "/guest/kernel")
    image.copy(guest().pack(), "/guest/initrd")


@pytest.fixture(scope="module")
def vm():
    image = rig.Image("nested")
    image.modules(rig.LOOPBACK + HOST)
    image.built("attest-relay", "qgs-bridge", "qgs-stand-in", "quote-load", "vm-peer")
    image.scripts("nested.sh", "lib.sh", "guests.sh", "qgs.sh")
    image.file("/etc/bridge.yaml", yaml.safe_dump(rig.bridge_config()))
    image.file("/etc/relay.yaml", yaml.safe_dump(RELAY))
    emulator(image)
    return rig.boot(image, LIMIT, memory=1536)


@pytest.mark.parametrize("name", CHECKS)
def test(vm, name):
    vm.expect(name)


def test_all_was_said(vm):
    assert vm.ended, vm.tail()
    assert sorted(vm.checks) == sorted(CHECKS)
