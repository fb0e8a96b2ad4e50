# What no honest client sends: it costs its sender, for a stated time at most, and nobody else; QGS
# does not get a byte of it.
import time

import pytest

from bridge import KINDS, Bridge, assert_never_disturbed, connect, read_all, request, since
from harness import Task
from qgs import StandIn, ask, vms_asking

PATIENCE = 0.4  # timeouts.request, in seconds

AT_ONCE = {  # and why, while the connection stays open
    "0xff": (b"\xff", "protocol"),
    "text": (b"GET / HTTP/1.1\r\n\r\n", "protocol"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01", "protocol"),
    "4 GB": (b"\xff\xff\xff\xff" + bytes(16), "protocol"),
    "2 GB": (b"\x7f\xff\xff\xff" + bytes(16), "protocol"),
    "over 1 MiB": (b"\x00\x10\x00\x01", "protocol"),
    "length 0": (bytes(4), "protocol"),
    "over request_max": (b"\x00\x00\x10\x00", "too-large"),
}
IN_TIME = {
    "nothing": b"",
    "a byte": b"\0",
    "a length": request()[:4],
    "a header": request()[:20],
    "all but one": request()[:-1],
    "raw, all but one": b"\x81" + bytes(1022),
}


@pytest.fixture
def qgs(world):
    return StandIn(world)


def rows(table):
    return pytest.mark.parametrize("row", table.values(), ids=list(table))


@rows(AT_ONCE)
def test_refused_at_once(world, qgs, row):
    data, reason = row
    bridge = Bridge(world, qgs, KINDS, timeouts={"request": "1h"})
    for kind in KINDS:
        with connect(bridge.address(kind)) as s:
            s.sendall(data)
            assert read_all(s) == b""
    ends = bridge.wait_end(n=3)
    assert {(x["reason"], x["bytes_down"]) for x in ends} == {(reason, 0)}
    assert bridge.reasons() == {reason: 3}
    assert ask(bridge.address())["outcome"] == "ok"
    assert assert_never_disturbed(bridge, qgs)["requests"] == 1


@rows(IN_TIME)
def test_refused_in_time(world, qgs, row):
    bridge = Bridge(world, qgs, KINDS, timeouts={"request": f"{PATIENCE * 1000:.0f}ms"})
    begun = time.monotonic()
    socks = [connect(bridge.address(kind)) for kind in KINDS]
    for s in socks:
        s.sendall(row)
    for s in socks:
        with s:
            assert read_all(s) == b""
    assert since(begun) >= PATIENCE
    ends = bridge.wait_end(n=3, reason="request-timeout")
    assert {x["bytes_up"] for x in ends} == {len(row)}
    assert all(PATIENCE * 1000 <= x["duration_ms"] for x in ends)
    assert assert_never_disturbed(bridge, qgs)["requests"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_byte_by_byte(world, qgs, kind):
    """It goes on sending: that does not buy it more time."""
    bridge = Bridge(world, qgs, [kind], timeouts={"request": f"{PATIENCE * 1000:.0f}ms"})
    sent = 0
    with connect(bridge.address(kind)) as s:
        try:
            for i in range(len(request())):
                s.sendall(request()[i:i + 1])
                sent += 1
                time.sleep(PATIENCE / 20)  # the very thing that is tested
        except OSError:
            pass
        assert read_all(s) == b""
    end = bridge.wait_end(reason="request-timeout")
    assert PATIENCE * 1000 <= end["duration_ms"] and 0 < end["bytes_up"] <= sent
    assert sent < len(request())
    assert assert_never_disturbed(bridge, qgs)["requests"] == 0


def test_many_at_once(world):
    """500 of all these, while good requests go on: none of those fails."""
    qgs = StandIn(world, work_ms=1)
    bridge = Bridge(world, qgs, KINDS, timeouts={"request": f"{PATIENCE * 1000:.0f}ms"},
                    limits={"connections_per_vm": 1000})
    kinds = [data for data, _ in AT_ONCE.values()] + list(IN_TIME.values())
    load = vms_asking(to=bridge.address(), vms=4, requests=400, concurrency_per_vm=2)
    socks = [connect(bridge.address(KINDS[i % 3])) for i in range(500)]

    def send():
        for i, s in enumerate(socks):
            try:
                s.sendall(kinds[i % len(kinds)])
            except OSError:
                pass  # its time was over
    Task(send).result()
    for s in socks:
        assert read_all(s) == b""
        s.close()
    result = load.result()
    assert (result["ok"], result["first_error"]) == (400, None)
    bridge.wait_quiet()
    reasons = bridge.reasons()
    assert reasons["eof"] == 400 and sum(reasons.values()) == 900, reasons
    assert reasons["request-timeout"] >= 500 * len(IN_TIME) // len(kinds) - len(kinds)
    assert assert_never_disturbed(bridge, qgs)["requests"] == 400
    # a line for each would fill the disk: strangers cause a bounded number
    assert len(bridge.ends()) < 400 + 100
