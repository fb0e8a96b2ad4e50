# The sandbox, from the outside: what the kernel says of the programs, that they do their work in it
# from one end to the other, and that --no-sandbox is loud. What is forbidden is in unit/test_sandbox.
import ctypes
import os
import shutil
import signal
from unittest import mock

import pytest

from bridge import Bridge
from harness import Agent, Program, binary, data, free_port, wait_for
from qgs import StandIn, ask
from streams import Service, dial, echo, roundtrip
from test_local import Local

CHOWN, DAC_OVERRIDE, NET_BIND_SERVICE, SYS_PTRACE, SYS_ADMIN = 0, 1, 10, 19, 21
ROOT = os.geteuid() == 0


def landlock():
    """Its version; below 1: there is none."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1)


def states(program):
    """What stands in the status of each thread, as dicts."""
    folder = f"/proc/{program.pid}/task"
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/status") as f:
            yield dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def mask(*capabilities):
    return sum(1 << c for c in capabilities)


def assert_locked(program, keeps=()):
    """All its threads; keeps: capabilities, of those that we have ourselves."""
    said = program.wait_log("sandbox: no_new_privs, [^\"\n]*")[0]
    with open("/proc/self/status") as f:
        held = next(int(line.split()[1], 16) for line in f if line.startswith("CapEff"))
    for state in states(program):
        assert state["NoNewPrivs"] == "1", state
        assert state["Seccomp"] == "2", state
        left = int(state["CapEff"], 16)
        assert left == mask(*keeps) & held, f"{left:x}"
        assert int(state["CapPrm"], 16) == left
        assert int(state["CapAmb"], 16) == int(state["CapInh"], 16) == 0
    assert (f"landlock ABI {landlock()}" in said) == (landlock() > 0), said
    assert program.log().count("runs as root and need not") == ROOT


def replace(path, text):
    with open(path + ".new", "w") as f:
        f.write(text)
    os.chmod(path + ".new", 0o600)
    os.rename(path + ".new", path)


# ---- attest-relay and attest-tunnel ----

def test_stream_and_token(world):
    """A name is looked up, Unix sockets are listened at, a new token is read, twice over."""
    svc = world.add(Service(handler=echo))
    port = svc.address.rsplit(":", 1)[1]
    relay = world.relay(listeners=[
        {"name": "plain", "service": "kbs.acme", "address": f"unix:{world.path('kbs.sock')}"},
        {"name": "named", "service": "named.acme"}],
        services=[{"name": "named.acme", "targets": [f"tcp:localhost:{port}"]}])
    token, path = world.token()
    agent = world.agent(relay, {"kbs": f"tcp:localhost:{port}"})
    assert_locked(relay)
    assert_locked(agent)
    payload = data(3 << 20)
    for listener in "plain", "named":
        with dial(relay.listeners[listener]) as conn:
            roundtrip(conn, payload)
    # the token in the file is read for each connection
    replace(path, "0" * 43 + "\n")
    relay.stop()
    relay = world.restart(relay)
    agent.wait_log("refuses this agent")
    replace(path, token + "\n")
    agent.signal(signal.SIGHUP)
    relay.wait_tunnels(1)
    with dial(relay.listeners["plain"]) as conn:
        roundtrip(conn, payload)
    relay.stop()
    assert not os.path.exists(world.path("kbs.sock"))


def test_relay_reload(world):
    """A new certificate in the old place is read, and an audit file that was moved made anew."""
    audit = world.path("audit")
    certificate, key = (shutil.copy(f, world.path(os.path.basename(f)))
                        for f in world.certificates.relay)
    own = type("Own", (), {"relay": (certificate, key)})
    with mock.patch.object(world, "certificates", own):
        relay = world.relay(audit={"file": audit})
    assert_locked(relay)
    for f in certificate, key:
        with open(f) as old:
            replace(f, old.read())
    os.rename(audit, audit + ".1")
    relay.signal(signal.SIGHUP)
    relay.wait_log("reload: done")
    assert "audit" in [state["Name"] for state in states(relay)]
    wait_for(lambda: os.path.exists(audit), "a new audit file")
    assert "Permission denied" not in relay.log()


def test_local_listener(world):
    """A certificate of its own, which it reads again; a Unix listener, removed at the end."""
    svc = world.add(Service(handler=echo))
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    at = world.path("local.sock")
    certificate, key = world.certificates.service
    files = [shutil.copy(f, world.path(os.path.basename(f))) for f in (certificate, key)]
    local = Local(world, relay, {"kbs.acme": f"unix:{at}"},
                  extra=["--certificate", files[0], "--key", files[1]])
    assert_locked(local)
    with local.dial() as conn:
        roundtrip(conn, data(1 << 20))
    for f in files:
        with open(f) as old:
            replace(f, old.read())
    local.signal(signal.SIGHUP)
    local.wait_log("reload: done")
    with local.dial() as conn:
        roundtrip(conn, data(1 << 20))
    assert "cannot read" not in local.log() and "Permission denied" not in local.log()
    local.stop()
    assert not os.path.exists(at)


def test_unix_target(world):
    """Root connects to others' sockets by a capability: it stays if there is such a target."""
    svc = world.add(Service(f"unix:{world.path('svc.sock')}", handler=echo))
    if ROOT:
        os.chown(world.path("svc.sock"), 12345, 12345)
        os.chmod(world.path("svc.sock"), 0o600)
    relay = world.relay(listeners=[{"name": "plain", "service": "kbs.acme"}])
    agent = world.agent(relay, {"kbs": svc.address})
    assert_locked(agent, [DAC_OVERRIDE] if ROOT else [])
    assert_locked(relay)
    with dial(relay.listeners["plain"]) as conn:
        roundtrip(conn, data(1 << 16))


@pytest.mark.skipif(not ROOT, reason="root alone can read what it may not")
def test_unreadable_later(world):
    """What would fail at the next connection fails now."""
    relay = world.relay()
    text, _ = world.token()
    path = world.path("others.token")
    replace(path, text + "\n")
    os.chown(path, 12345, 12345)
    agent = world.agent(relay, {"kbs": "tcp:127.0.0.1:1"}, token_file=path, wait=False,
                        expect=(1,))
    assert agent.wait() == 1
    agent.wait_log(f"sandbox: {path} cannot be read any more: Permission denied; make it readable")
    agent = world.agent(relay, {"kbs": "tcp:127.0.0.1:1"}, token_file=path, extra=["--no-sandbox"])


# ---- qgs-bridge ----

@pytest.fixture
def qgs(world):
    return StandIn(world)


BRIDGE_KEEPS = [CHOWN, NET_BIND_SERVICE] + ([DAC_OVERRIDE] if ROOT else [SYS_PTRACE])


def wait_ok(path):
    wait_for(lambda: os.path.exists(path), f"a socket at {path}")
    result = ask(f"unix:{path}")
    assert result["outcome"] == "ok", result


def test_bridge(world, qgs):
    """VMs' folders come and go, and the one above them; QGS is away and back; a reload."""
    vms = world.path("vms")
    listeners = [{"name": "unix", "address": f"unix:{world.path('bridge.sock')}"},
                 {"name": "vms", "address": f"unix:{vms}/*/qgs.socket"}]
    bridge = Bridge(world, qgs, listeners, wait=False)
    bridge.wait_state("up")
    assert_locked(bridge, BRIDGE_KEEPS)
    wait_ok(world.path("bridge.sock"))
    for _ in range(2):
        os.makedirs(f"{vms}/a")
        wait_ok(f"{vms}/a/qgs.socket")
        shutil.rmtree(vms)
        bridge.wait_metric("sockets", lambda v: v == 1)
    bridge.reload(listeners=[*listeners, {"name": "new", "mode": "0600",
                                          "address": f"unix:{world.path('new.sock')}"}])
    wait_ok(world.path("new.sock"))
    assert "sandbox was entered without" not in bridge.log()
    bridge.stop()
    assert not os.path.exists(world.path("new.sock"))


def test_bridge_drop_ins(world, qgs):
    """With vms_dir a listener may be anywhere, and in other network namespaces."""
    os.mkdir(world.path("vms.d"))
    elsewhere = f"{world.folder}.elsewhere"
    bridge = Bridge(world, qgs, ["unix"], vms_dir=world.path("vms.d"))
    assert_locked(bridge, [*BRIDGE_KEEPS, SYS_ADMIN])
    os.mkdir(elsewhere)
    try:
        replace(world.path("vms.d/a.yaml"),
                f"listeners: [ {{ name: a, address: 'unix:{elsewhere}/s' }} ]\n")
        wait_ok(f"{elsewhere}/s")
        bridge.stop()
    finally:
        shutil.rmtree(elsewhere)


def test_bridge_beyond(world, qgs):
    """What a reload brings that the sandbox has no room for is said."""
    bridge = Bridge(world, qgs)
    assert_locked(bridge, BRIDGE_KEEPS)
    elsewhere = "/var/tmp/" + os.path.basename(world.folder)
    os.mkdir(elsewhere)
    try:
        bridge.reload(listeners=[*bridge.config["listeners"],
                                 {"name": "far", "address": f"unix:{elsewhere}/s"}],
                      qgs={**bridge.config["qgs"], "stuck_command": ["/bin/true"]})
        bridge.wait_log("stuck_command cannot be run: the sandbox")
        if landlock() > 0:
            bridge.wait_log("listener far: .*Permission denied")
            assert not os.path.exists(f"{elsewhere}/s")
    finally:
        shutil.rmtree(elsewhere)


def test_bridge_command(world):
    """It inherits the sandbox, so that has to let it do its work: here, write a file."""
    qgs = StandIn(world, behave="wedged")
    notes = world.path("notes")
    bridge = Bridge(world, qgs, qgs_more={
        "stuck_after": "100ms", "stuck_count": 1,
        "stuck_command": ["/bin/sh", "-c", f"grep -E '^(NoNewPrivs|Seccomp):' "
                                           f"/proc/self/status >{notes}.new; mv {notes}.new {notes}"]})
    bridge.wait_log("seccomp .all but hostile calls.")
    ask(bridge.address())
    wait_for(lambda: os.path.exists(notes), lambda: f"the command's file\n{bridge.tail()}")
    with open(notes) as f:
        assert f.read().split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    bridge.wait_log("/bin/sh has ended in order")


# ---- out of it ----

def test_no_sandbox(world, qgs):
    relay = world.relay()
    programs = [
        Program(world, "loud-relay", [binary("ATTEST_RELAY"), "--no-sandbox", "--config",
                                      relay_config(world, relay)]),
        Agent(world, "loud-tunnel", ["--no-sandbox", "--relay", relay.listeners["front"], "--local",
                                     f"tcp:127.0.0.1:{free_port()}=service:kbs.acme"]),
        Bridge(world, qgs, name="loud-bridge", extra=["--no-sandbox"])]
    for p in programs:
        p.wait_log("warning.*--no-sandbox: whoever takes this process over")
        assert p.count("--no-sandbox") == 1
        assert p.count("sandbox: no_new_privs") == 0
        with open("/proc/self/status") as f:
            own = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        for state in states(p):
            for key in "NoNewPrivs", "Seccomp", "CapEff":
                assert state[key] == own[key]


def relay_config(world, relay):
    """The relay's, at other ports."""
    path = world.path("loud.yaml")
    with open(relay.path) as f:
        text = f.read()
    for address in [*relay.listeners.values(), f"tcp:127.0.0.1:{relay.metrics_port}"]:
        text = text.replace(address, f"tcp:127.0.0.1:{free_port()}")
    with open(path, "w") as f:
        f.write(text)
    return path
