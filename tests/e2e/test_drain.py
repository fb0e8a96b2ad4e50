# The end of a program that is told to end: nobody new, agents go elsewhere, what runs may finish.
import ctypes
import os
import re
import signal

import pytest

from harness import MB, Blackhole, data, wait_for
from node import Node
from streams import Aborted, Service, dial, echo
from systemd import Systemd

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000


def door(service="kbs.acme"):
    return [{"name": "door", "service": service}]


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def live_stream(address):
    c = dial(address)
    c.send(b"x")
    assert c.read_exactly(1) == b"x"
    return c


def roundtrip(c, size=MB):
    sent = data(size)
    c.send(sent)
    assert c.read_exactly(size) == sent


def is_refused(address):
    try:
        dial(address).close()
    except ConnectionRefusedError:
        return True


def is_gone(c):
    try:
        return c.recv() == b""  # a Unix socket knows no reset
    except Aborted:
        return True


# ---- attest-relay ----

@pytest.mark.parametrize("transport", ["direct", "websocket"])
def test_agents_go_elsewhere_at_once(world, svc, transport):
    """The drain begins: the agent has a tunnel to another relay while its streams here live on."""
    old = world.relay("old", listeners=door(), timeouts={"drain": "1h"})
    new = world.relay("new", listeners=door())
    balancer = world.add(Blackhole(old.port()))
    agent = world.agent(old, {"kbs": svc.address}, transport=transport,
                        address=f"tcp:127.0.0.1:{balancer.port}")
    live = live_stream(old.listeners["door"])
    balancer.target = new.port()
    old.signal(signal.SIGTERM)
    new.wait_tunnels(1)
    agent.wait_log(r"asks for a fresh session \(drain\)")
    assert old.running()
    roundtrip(live)
    with live_stream(new.listeners["door"]) as c:
        roundtrip(c)
    live.close()
    old.finish()
    assert agent.count("ended: going-away") == 0


def test_an_agent_in_vain_elsewhere_is_soon_back(world, svc):
    """While the relay drains nobody takes the agent, who waits longer and longer: not any more when
    the relay has ended, which is where a restarted one begins."""
    relay = world.relay(listeners=door(), timeouts={"drain": "1h"})
    agent = world.agent(relay, {"kbs": svc.address}, extra=["--log-level", "debug"])
    live = live_stream(relay.listeners["door"])
    relay.signal(signal.SIGTERM)
    agent.wait_log(r"waiting ([3-9]|\d\d)\d{3} ms", timeout=60)
    live.close()
    relay.finish()
    agent.wait_log(r"connection to .* lost after .*; next try in [012]\.")


def test_ends_early(world, svc):
    """With the last stream, whatever time there were."""
    relay = world.relay(listeners=door(), timeouts={"drain": "1h"})
    world.agent(relay, {"kbs": svc.address})
    live = live_stream(relay.listeners["door"])
    relay.signal(signal.SIGTERM)
    relay.wait_log("ending: no new connections")
    wait_for(lambda: is_refused(relay.listeners["door"]), "nobody new is let in")
    roundtrip(live)
    live.close()
    relay.finish()


def test_waits_no_longer_than_told(world, svc):
    relay = world.relay(listeners=door(), timeouts={"drain": "200ms"})
    world.agent(relay, {"kbs": svc.address})
    live = live_stream(relay.listeners["door"])
    relay.stop()
    with pytest.raises(Aborted):
        live.recv()


def ending_relay(world, svc):
    relay = world.relay(listeners=door(), timeouts={"drain": "1h"})
    world.agent(relay, {"kbs": svc.address})
    return relay, live_stream(relay.listeners["door"])


def ending_agent(world, svc):
    relay = world.relay(listeners=door())
    agent = world.agent(relay, {"kbs": svc.address}, timeouts={"drain": "1h"})
    return agent, live_stream(relay.listeners["door"])


def ending_bridge(world, svc):
    node = Node(world, timeouts={"drain": "1h"})
    live = node.guest()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    return node.bridge, live


@pytest.mark.parametrize("which", [ending_relay, ending_agent, ending_bridge])
def test_an_echo_cuts_nothing_short(world, svc, which):
    """The same signal twice, and one to read the config: what runs goes on. Then a second one."""
    program, live = which(world, svc)
    for number in signal.SIGTERM, signal.SIGTERM, signal.SIGHUP:
        program.signal(number)
    program.wait_log("ending: ")
    program.signal(signal.SIGHUP)
    roundtrip(live)
    assert "second signal" not in program.log()
    program.cut()
    assert is_gone(live)
    program.finish()


# ---- systemd ----

def test_systemd_is_told(world, svc):
    systemd = world.add(Systemd(world))
    relay = world.relay(listeners=door(), services=[{"name": "kbs.acme", "targets": ["tunnel"]}],
                        env={"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "300000"})
    systemd.wait("READY=1")
    status = systemd.wait("STATUS=")
    # the certificates of tests are good for two days
    assert "0 tunnels" in status and re.search(r"; 2 problems, the worst: \S", status), status
    world.agent(relay, {"kbs": svc.address})
    for _ in range(3):
        systemd.wait("WATCHDOG=1")
    relay.reload()
    assert "MONOTONIC_USEC=" in systemd.wait("RELOADING=1")
    systemd.wait("READY=1")
    assert "1 tunnels, 1 services" in systemd.wait("STATUS=")
    relay.reload(good=False, owners=[])
    systemd.wait("RELOADING=1")
    systemd.wait("READY=1")  # it goes on as it was
    live = live_stream(relay.listeners["door"])
    relay.signal(signal.SIGTERM)
    systemd.wait("STOPPING=1")
    assert "draining: " in systemd.wait("STATUS=")
    systemd.wait("WATCHDOG=1")
    live.close()
    relay.finish()


def test_systemd_need_not_wait_for_a_relay(world, svc):
    """An agent is ready soon, though nobody takes it; and says so."""
    systemd = world.add(Systemd(world))
    relay = world.relay(listeners=door())
    world.agent(relay, {"kbs": svc.address}, wait=False, env={"NOTIFY_SOCKET": systemd.path},
                address="tcp:127.0.0.1:1")
    systemd.wait("READY=1")
    assert "0 of 1 relays" in systemd.wait("STATUS=")


def ptrace(request, thread, sig=0):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    if libc.ptrace(request, thread, 0, sig) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def workers(pid):
    """Threads other than the first one, in the order they were made."""
    return sorted(int(t) for t in os.listdir(f"/proc/{pid}/task"))[1:]


def hold(thread):
    """It does not move until PTRACE_DETACH, or the end of this process."""
    try:
        ptrace(PTRACE_SEIZE, thread)
    except OSError as e:
        pytest.skip(f"another process may not be stopped here: {e}")
    ptrace(PTRACE_INTERRUPT, thread)
    os.waitpid(thread, WALL)


def test_a_stuck_worker_does_not_keep_it(world, svc):
    """Told to end, it ends without the one that hangs, and says so; others get their last words."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    relay.expect = (1,)
    thread = workers(relay.pid)[-1]
    hold(thread)
    relay.signal(signal.SIGTERM)
    relay.wait_log(r"worker \d hangs; ending without it")
    os.waitpid(thread, WALL)  # as who traces it we are told first
    relay.finish()


def test_a_stuck_worker_feeds_no_watchdog(world, svc):
    """One thread of several does not move: it is named, and systemd is told nothing until it does."""
    systemd = world.add(Systemd(world))
    relay = world.relay(env={"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "300000"})
    systemd.wait("WATCHDOG=1")
    thread = workers(relay.pid)[-1]
    hold(thread)
    relay.wait_log(r"worker \d is stuck")
    fed = systemd.count("WATCHDOG=1")
    relay.signal(signal.SIGUSR1)
    relay.wait_log("1 of 2 workers are stuck")
    assert systemd.count("WATCHDOG=1") == fed
    ptrace(PTRACE_DETACH, thread)
    relay.wait_log(r"worker \d turns again")
    wait_for(lambda: systemd.count("WATCHDOG=1") > fed, "the watchdog is fed again")
    relay.stop()
