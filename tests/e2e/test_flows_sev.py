# The launch of SEV and SEV-ES guests as libvirt would have it: two calls, minutes apart if need be,
# to the owner's attestation service, which keeps the launch between them in memory.
import base64
import hmac
import json
import os
import secrets
import struct
import subprocess
import uuid

import pytest

from flows import DOORS, Curl
from harness import ROOT, Program, free_port
from node import at_once

SERVICE = os.path.join(ROOT, "contrib", "attestation-service")
FIRMWARE, POLICY, CPUS = "ab" * 32, 5, 2
PASSPHRASE = b"correct horse battery staple"


class Owner:
    """The owner's service, its admin socket."""

    def __init__(self, world, name):
        self.port, self.admin = free_port(), world.path(f"{name}.admin")
        certificate, key = world.certificates.service
        self.program = Program(world, name, [
            SERVICE, "--listen", f"tcp:127.0.0.1:{self.port}", "--admin-socket", self.admin,
            "--certificate", certificate, "--key", key])
        self.program.wait_log("^serving")
        self.address = f"tcp:127.0.0.1:{self.port}"

    def tell(self, vm, *body):
        p = subprocess.run(["curl", "-sS", "--max-time", "20", "--unix-socket", self.admin, *body,
                            f"http://owner/vm/{vm}"], capture_output=True, check=True)
        return json.loads(p.stdout)

    def register(self, vm):
        told = self.tell(vm, "--json", json.dumps({
            "scheme": "amd-sev-es", "policy": POLICY, "cpu-count": CPUS,
            "firmware-hashes": [FIRMWARE], "cloud-cert": "cloud",
            "secrets": [{"type": "luks-passphrase", "passphrase": PASSPHRASE.decode()}]}))
        assert told["state"] == "registered", told

    def state(self, vm):
        return self.tell(vm)["state"]

    def served(self, step):
        return self.program.count(f"/{step} 200")


def launch(client, vm):
    """The session's key."""
    told = client.json(f"/vm/{vm}/launch", {"pdh": "pdh", "cert-chain": "cloud", "cpu-id": "1"})
    assert told["policy"] == POLICY
    return base64.b64decode(told["session"])


def measurement(key, firmware=FIRMWARE):
    """What the secure processor would say, by the formula of the example."""
    nonce = secrets.token_bytes(16)
    text = struct.pack("<BBBBII", 4, 1, 51, 10, POLICY, CPUS) + bytes.fromhex(firmware) + nonce
    mac = hmac.digest(key, text, "sha256") + nonce
    return {"api-major": 1, "api-minor": 51, "build-id": 10, "policy": POLICY, "cpu-count": CPUS,
            "firmware-hash": FIRMWARE, "measurement": base64.b64encode(mac).decode()}


def validate(client, vm, key):
    """The secret's table, its header verified."""
    body = measurement(key)
    told = client.json(f"/vm/{vm}/validate", body)
    table = base64.b64decode(told["secret-table"])
    header = base64.b64decode(told["secret-header"])
    mac = base64.b64decode(body["measurement"])[:32]
    assert header[20:] == hmac.digest(key, b"\x01" + header[:20] + table + mac, "sha256")
    return table


@pytest.mark.parametrize("door", DOORS)
def test_two_agents_one_service_each(world, door):
    """
    Two agents with a service each, both of which know the VMs: whatever a launch has begun at
    one, its second call reaches the same. Then a tampered VM, which is refused by name.
    """
    relay = world.relay()
    first, second = Owner(world, "first"), Owner(world, "second")
    world.agent(relay, {"kbs": first.address}, name="agent-first")
    world.agent(relay, {"kbs": second.address}, name="agent-second")
    vms = [str(uuid.uuid4()) for _ in range(6)]
    for vm in vms:
        first.register(vm)
        second.register(vm)

    def one(i):
        client = Curl(world, relay, "kbs.acme", door, f"host-{i}")
        key = launch(client, vms[i])
        return PASSPHRASE in validate(client, vms[i], key)
    assert all(at_once(len(vms), one))
    assert [first.served("launch"), first.served("validate")] == [6, 6]
    assert second.served("launch") == second.served("validate") == 0
    assert {first.state(vm) for vm in vms} == {"released"}

    vm = str(uuid.uuid4())
    first.register(vm)
    client = Curl(world, relay, "kbs.acme", door)
    key = launch(client, vm)
    status, answer = client.ask(f"/vm/{vm}/validate", measurement(key, "cd" * 32))
    assert status == 403 and b"measurement is not that" in answer
    assert first.state(vm) == "refused"
    relay.wait_quiet()


def test_agent_lost_between_the_calls(world):
    """
    The launch is lost with its service, and that is what the host is told: not a secret, nor a
    session of somebody else's. A fresh launch goes through at the other.
    """
    relay = world.relay()
    first, second = Owner(world, "first"), Owner(world, "second")
    agent = world.agent(relay, {"kbs": first.address}, name="agent-first")
    world.agent(relay, {"kbs": second.address}, name="agent-second")
    vm = str(uuid.uuid4())
    first.register(vm)
    second.register(vm)
    client = Curl(world, relay, "kbs.acme", "sni")
    key = launch(client, vm)
    agent.kill()
    relay.wait_tunnels(1)
    status, answer = client.ask(f"/vm/{vm}/validate", measurement(key))
    assert status == 409 and b"no launch of this VM is under way" in answer
    assert PASSPHRASE in validate(client, vm, launch(client, vm))


def test_owner_comes_late(world):
    """The launch waits at the relay for the owner's laptop, within pickup, and is then served."""
    relay = world.relay(timeouts={"pickup": "20s"})
    owner = Owner(world, "owner")
    vm = str(uuid.uuid4())
    owner.register(vm)
    client = Curl(world, relay, "kbs.acme", "connect")

    def start():
        relay.wait_metric("live_parked", lambda n: n == 1)
        assert owner.served("launch") == 0
        return world.agent(relay, {"kbs": owner.address}, wait=False)
    key, _ = at_once(2, lambda i: start() if i else launch(client, vm))
    assert PASSPHRASE in validate(client, vm, key)
    assert owner.state(vm) == "released"
