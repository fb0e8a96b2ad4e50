"""The programs on AF_VSOCK itself: one VM, its loopback (CID 1)."""
import os
import random
import sys

import pytest
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rig  # noqa: E402

LIMIT = 400  # seconds for everything in the VM

# What is checked in guest/relay.sh, bridge.sh, svsm.sh and faults.sh, where each name stands for a function.
CHECKS = [
    "relay-listens-at-any-cid", "relay-late-answer", "tunnel-late-answer", "relay-early-end",
    "tunnel-early-end", "nobody-listens", "relay-target-refuses", "relay-names-the-caller",
    "relay-200-at-once", "tunnel-200-at-once", "relay-restart-in-order", "relay-restart-killed",
    "relay-rebinds-while-draining", "relay-gentle-faults", "relay-harsh-faults",
    "relay-reset-by-the-path", "relay-takes-a-socket-unit", "relay-ends-in-order",
    "bridge-listens-at-any-cid", "bridge-serves-qemu", "bridge-serves-libtdx",
    "bridge-serves-raw", "bridge-late-reply", "bridge-mends-split-requests",
    "bridge-names-the-caller", "bridge-200-at-once", "bridge-10000-by-all-kinds",
    "bridge-qgs-on-vsock", "bridge-withdraws",
    "bridge-withdraws-on-vsock", "bridge-denies-after-reload", "bridge-restart-in-order",
    "bridge-restart-killed", "bridge-rebinds-while-draining",
    "bridge-gentle-faults-at-clients", "bridge-harsh-faults-at-clients",
    "bridge-gentle-faults-at-qgs", "bridge-harsh-faults-at-qgs", "bridge-ends-in-order",
    "svsm-before-its-owner", "svsm-in-turn", "svsm-ends-in-order",
]


def relay_config(token_hash):
    return {
        "workers": 2,
        "domain": "relay.test",
        "tls": {"certificate": "/etc/relay.pem", "key": "/etc/relay.key"},
        "listeners": [
            {"name": "front", "address": "tcp:127.0.0.1:443", "doors": ["tunnel", "connect"]},
            {"name": "direct", "address": "vsock:any:5000", "service": "direct.acme"},
            {"name": "tunnelled", "address": "vsock:any:5001", "service": "far.acme"},
            {"name": "dead", "address": "vsock:any:5002", "service": "dead.acme"},
        ],
        "owners": [{"name": "acme", "tokens": [token_hash]}],
        "services": [
            {"name": "direct.acme", "targets": ["vsock:local:6000"]},
            {"name": "dead.acme", "targets": ["vsock:local:6999"]},
        ],
        "timeouts": {"drain": "5s", "pickup": "60s"},
    }


def activated_config():
    return {
        "workers": 1,
        "listeners": [{"name": "handed", "address": "fd:unit", "service": "direct.acme"}],
        "services": [{"name": "direct.acme", "targets": ["vsock:local:6000"]}],
        "timeouts": {"drain": "5s"},
    }


def svsm_config():
    return {
        "listeners": [{"name": "svsm", "address": "vsock:any:1995", "forward": "by-vm"}],
        "vms": [{"cid": 1, "service": "svsm.acme"}],
        "relay": {"addresses": ["tcp:127.0.0.1:443"], "server_name": "relay.test",
                  "ca_file": "relay.pem"},
        "timeouts": {"drain": "5s", "pickup": "60s"},
    }


@pytest.fixture(scope="module")
def vm():
    image = rig.Image("plain")
    image.modules(rig.LOOPBACK)
    image.built("attest-relay", "attest-tunnel", "qgs-bridge", "qgs-stand-in", "quote-load",
                "vm-peer", "vm-svsm", "fault-proxy")
    image.scripts("plain.sh", "lib.sh", "relay.sh", "qgs.sh", "bridge.sh", "svsm.sh",
                  "faults.sh")
    image.file("/etc/relay.yaml", yaml.safe_dump(relay_config(rig.credentials(image))))
    image.file("/etc/bridge.yaml", yaml.safe_dump(rig.bridge_config()))
    # which streams there are in faults.sh, and what befalls them; ATTEST_SEED repeats a run
    seed = os.environ.get("ATTEST_SEED") or random.SystemRandom().randrange(1 << 32)
    image.file("/etc/seed", f"{seed}\n")
    image.file("/etc/activated.yaml", yaml.safe_dump(activated_config()))
    image.file("/etc/svsm.yaml", yaml.safe_dump(svsm_config()))
    return rig.boot(image, LIMIT)


@pytest.mark.parametrize("name", CHECKS)
def test(vm, name):
    vm.expect(name)


def test_all_was_said(vm):
    assert vm.ended, vm.tail()
    assert sorted(vm.checks) == sorted(CHECKS)
