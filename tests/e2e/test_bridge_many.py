# Fifty VMs by all kinds of listeners at once: no request is lost or gets another's reply, and what
# the bridge needed for them it gives back.
import os

from bridge import Bridge, assert_never_disturbed, client_address, listener, settled
from harness import wait_for
from qgs import StandIn, ask_by_vms, vms_asking

VMS, REQUESTS = 50, 10000
LIMITS = {"rate_per_vm": 1000000, "burst_per_vm": 1000000}  # it is not about them here


def everywhere(world):
    """Listeners of each kind; and by kind, where VM i goes."""
    folders = world.path("vms")
    for i in range(VMS):
        os.makedirs(f"{folders}/vm{i}")
    tcp = [dict(listener(world, "tcp"), name=f"port{i}") for i in range(VMS // 5)]
    shared = [listener(world, "unix"), listener(world, "hybrid")]
    listeners = [*shared, *tcp,
                 {"name": "per-vm", "address": f"unix:{folders}/*/qgs.socket"},
                 {"name": "hybrids", "address": f"hybrid:{folders}/*/vm.vsock:4050"}]
    return listeners, [
        lambda i: client_address(shared[0]["address"]),
        lambda i: client_address(shared[1]["address"]),
        lambda i: f"unix:{folders}/vm{i}/qgs.socket",
        lambda i: f"unix:{folders}/vm{i}/vm.vsock_4050",
        lambda i: tcp[i // 5]["address"],
    ]


def test_many(world):
    qgs = StandIn(world)
    listeners, ways = everywhere(world)
    bridge = Bridge(world, qgs, listeners, limits=LIMITS)
    bridge.wait_metric("sockets", lambda v: v == 2 + 2 * VMS + VMS // 5)
    vms = [f"vm{i}={ways[i % len(ways)](i)}" for i in range(VMS)]
    fds = bridge.fds()

    def run(requests):
        result = ask_by_vms(vm=vms, requests=requests, concurrency_per_vm=4, client="mix")
        assert (result["ok"], result["first_error"]) == (requests, None), result
        bridge.wait_quiet()
        return result

    run(REQUESTS // 5)  # the allocator's first steps, tables at their size
    before = bridge.rss()
    result = run(REQUESTS)
    grown = bridge.rss() - before
    assert set(result["vms"]) == {f"vm{i}" for i in range(VMS)}
    assert {vm["ok"] for vm in result["vms"].values()} == {REQUESTS // VMS}
    print_waits(bridge, result, grown)
    wait_for(lambda: bridge.fds() <= fds, lambda: f"{fds} descriptors, not {bridge.fds()}")
    assert grown < (4 << 20), grown  # of 10000 requests; most of it is the sanitizer's
    got = assert_never_disturbed(bridge, qgs)
    assert (got["requests"], got["replies"]) == (REQUESTS * 6 // 5,) * 2
    assert (got["max_at_work"] <= 4, got["max_waiting"]) == (True, 0)
    assert bridge.reasons() == {"eof": REQUESTS * 6 // 5}
    assert bridge.metric("vm_answered_total") == REQUESTS * 6 // 5
    assert len(bridge.ends()) == REQUESTS * 6 // 5  # a line for each


def print_waits(bridge, result, grown):
    waits = {}
    for x in bridge.ends():
        waits.setdefault(x["vm"].split(":")[0], []).append(x["waited_ms"])
    print(f"{result['requests']} requests in {result['seconds']} s, p50 {result['p50_ms']}, p99 "
          f"{result['p99_ms']}, most {result['max_ms']} ms; grown by {grown >> 10} KiB")
    for kind, times in sorted(waits.items()):
        times.sort()
        print(f"  waited in line, by {kind}: {len(times)} requests, p50 {times[len(times) // 2]}, "
              f"p99 {times[len(times) * 99 // 100]}, most {times[-1]} ms")
    worst = max(result["vms"].items(), key=lambda x: x[1]["p99_ms"])
    best = min(result["vms"].items(), key=lambda x: x[1]["p99_ms"])
    print(f"  p99 of the VMs: {best[1]['p99_ms']} ({best[0]}) to {worst[1]['p99_ms']} ({worst[0]})")


def test_many_connections(world):
    """As many as may be at a time, all in line at once."""
    qgs = StandIn(world, behave="wedged")
    bridge = Bridge(world, qgs, limits={**LIMITS, "connections": 800, "queue_per_vm": 20})
    fds = bridge.fds()
    load = vms_asking(to=bridge.address(), vms=50, requests=800, concurrency_per_vm=16,
                      timeout_ms=60000)
    bridge.wait_metric("qgs_waiting", lambda v: v == 796)
    qgs.behave("ok")
    result = load.result()
    assert (result["ok"], result["first_error"]) == (800, None)
    bridge.wait_quiet()
    assert settled(qgs)["max_waiting"] == 0
    wait_for(lambda: bridge.fds() <= fds, lambda: f"{fds} descriptors, not {bridge.fds()}")
