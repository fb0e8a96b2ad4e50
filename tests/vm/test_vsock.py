"""The programs on AF_VSOCK itself: one VM, its loopback (CID 1)."""
import os
import sys

import pytest
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rig  # noqa: E402

LIMIT = 240  # seconds for everything in the VM

# What is checked in guest/plain.sh, where each name stands for a function.
CHECKS = [
    "relay-listens-at-any-cid", "relay-late-answer", "tunnel-late-answer", "relay-early-end",
    "tunnel-early-end", "nobody-listens", "relay-target-refuses", "relay-names-the-caller",
    "relay-200-at-once", "tunnel-200-at-once", "relay-restart-in-order", "relay-restart-killed",
    "relay-rebinds-while-draining", "relay-ends-in-order",
]


def relay_config(token_hash):
    return {
        "workers": 2,
        "domain": "relay.test",
        "tls": {"certificate": "/etc/relay.pem", "key": "/etc/relay.key"},
        "listeners": [
            {"name": "front", "address": "tcp:127.0.0.1:443", "doors": ["tunnel"]},
            {"name": "direct", "address": "vsock:any:5000", "service": "direct.acme"},
            {"name": "tunnelled", "address": "vsock:any:5001", "service": "far.acme"},
            {"name": "dead", "address": "vsock:any:5002", "service": "dead.acme"},
        ],
        "owners": [{"name": "acme", "tokens": [token_hash]}],
        "services": [
            {"name": "direct.acme", "targets": ["vsock:local:6000"]},
            {"name": "dead.acme", "targets": ["vsock:local:6999"]},
        ],
        "timeouts": {"drain": "5s"},
    }


@pytest.fixture(scope="module")
def vm():
    image = rig.Image("plain")
    image.modules(rig.LOOPBACK)
    image.built("attest-relay", "attest-tunnel", "vm-peer")
    for name, path in {"init": "/init", "lib.sh": "/lib.sh", "plain.sh": "/checks"}.items():
        image.script(name, path)
    image.file("/etc/relay.yaml", yaml.safe_dump(relay_config(rig.credentials(image))))
    return rig.boot(image, LIMIT)


@pytest.mark.parametrize("name", CHECKS)
def test(vm, name):
    vm.expect(name)


def test_all_was_said(vm):
    assert vm.ended, vm.tail()
    assert sorted(vm.checks) == sorted(CHECKS)
