# What was measured of the real QGS, request by request, now through the bridge: what hung is
# answered, or refused at once, and QGS is given whole requests only.
import time

import pytest

from bridge import (KINDS, REPLY, Bridge, assert_never_disturbed, connect, read_all, settled, since)
from harness import World
from qgs import StandIn, ask, asking

ANSWERED = {  # options of quote-load one; those marked hang a QGS up to 1.25
    "one write": {},
    "one write and shutdown": {"shut_wr": True},
    "by libtdx_attest": {"client": "tdx"},
    "split 4+1048": {"split": "4+1048"},
    "split 19+1033": {"split": "19+1033"},
    "split 20+1032": {"split": "20+1032"},  # hangs
    "split 500+552": {"split": "500+552"},  # hangs
    "split 1051+1": {"split": "1051+1"},  # hangs
    "split by 100": {"split": "+".join(["100"] * 10), "pause_ms": 2},  # hangs
    "split by bytes": {"split": "+".join(["1"] * 15), "pause_ms": 1},  # hangs
    "split and shutdown": {"split": "20+1032", "shut_wr": True},  # hangs
    "raw in one write": {"client": "raw"},
    "raw and shutdown": {"client": "raw", "shut_wr": True},
    "raw 512+512": {"client": "raw", "split": "512+512"},  # hangs
    "platform information": {"platform": True},
    "platform information in pieces": {"platform": True, "split": "3+15"},
    "4096 bytes": {"report_bytes": 4096 - 28},
    "two requests in one write": {"twice": True},  # one reply, as to what QGS reads first
    "bytes behind it": {"extra": 100},
}
REFUSED = {  # and for what
    "5028 bytes": ({"report_bytes": 5000}, "too-large"),  # hangs
    "4097 bytes": ({"report_bytes": 4097 - 28}, "too-large"),  # hangs
    "100 bytes and shutdown": ({"only": 100, "shut_wr": True}, "closed-early"),  # hangs
    "10 bytes and shutdown": ({"only": 10, "shut_wr": True}, "closed-early"),  # hangs
    "20 bytes of garbage": ({"garbage": 20}, "protocol"),  # hangs
    "garbage and shutdown": ({"garbage": 20, "shut_wr": True}, "protocol"),  # hangs
    "nothing and shutdown": ({"only": 0, "shut_wr": True}, "eof"),
}


class Rig:
    """One QGS of a version and a bridge before it, for all rows."""

    def __init__(self, world, version):
        self.qgs = StandIn(world, name=f"qgs-{version}", behave=version)
        self.bridge = Bridge(world, self.qgs, KINDS, name=f"bridge-{version}")


@pytest.fixture(scope="module")
def rigs(tmp_path_factory, certificates):
    world = World(tmp_path_factory.mktemp("table"), certificates)
    yield {version: Rig(world, version) for version in ("legacy", "1.26")}
    world.close()


@pytest.fixture(params=["legacy", "1.26"])
def rig(request, rigs):
    return rigs[request.param]


def of(table):
    return pytest.mark.parametrize("row", table.values(), ids=list(table))


@of(ANSWERED)
@pytest.mark.parametrize("kind", KINDS)
def test_answered(rig, kind, row):
    before = rig.bridge.reasons()
    result = ask(rig.bridge.address(kind), timeout_ms=20000, **row)
    assert result["outcome"] == "ok", result
    assert result["bytes"] == (68 if row.get("platform") else
                               REPLY - 28 if row.get("client") == "raw" else REPLY)
    rig.bridge.wait_quiet()
    assert rig.bridge.reasons() - before == {"eof": 1}


@of(REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_refused(rig, kind, row):
    """Without a byte, at once (the client has much more time), and QGS hears nothing of it."""
    options, reason = row
    before, requests = rig.bridge.reasons(), rig.qgs.stats()["requests"]
    result = ask(rig.bridge.address(kind), timeout_ms=20000, **options)
    assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    rig.bridge.wait_quiet()
    assert rig.bridge.reasons() - before == {reason: 1}
    assert rig.qgs.stats()["requests"] == requests


@pytest.mark.parametrize("kind", KINDS)
def test_one_request_for_a_connection(rig, kind):
    requests = rig.qgs.stats()["requests"]
    result = ask(rig.bridge.address(kind), second=True)
    # the reply has been taken whole, so the second request is read and dropped, or not taken
    assert result["outcome"] == "ok" and result["second"] in ("", "EPIPE", "ECONNRESET"), result
    rig.bridge.wait_quiet()
    assert rig.qgs.stats()["requests"] == requests + 1


def test_qgs_was_never_disturbed(rigs):
    """After all rows: nothing but whole requests, each in one piece, and the bridge's probes."""
    for rig in rigs.values():
        got = assert_never_disturbed(rig.bridge, rig.qgs)
        assert got["requests"] == got["replies"] == rig.bridge.reasons()["eof"] - len(KINDS)
        assert (got["refused"], got["wasted"]) == (0, 0)


@pytest.mark.parametrize("reason,options", [(r, o) for o, r in REFUSED.values()],
                         ids=list(REFUSED))
def test_reason_in_the_log(world, reason, options):
    bridge = Bridge(world, StandIn(world))
    ask(bridge.address(), **options)
    end = bridge.wait_end(reason=reason)
    assert (end["listener"], end["to"], end["bytes_down"]) == ("unix", "qgs", 0)
    assert end["client"].startswith("unix:pid=") and end["vm"].startswith("pid:")


def test_silence(world):
    """A connection on which nothing comes costs the bridge's time, and not QGS's."""
    qgs = StandIn(world)
    bridge = Bridge(world, qgs, KINDS, timeouts={"request": "300ms"})
    begun = time.monotonic()
    for s in [connect(bridge.address(kind)) for kind in KINDS]:
        with s:
            assert read_all(s) == b""
    assert since(begun) >= 0.3
    assert {x["listener"] for x in bridge.wait_end(n=3, reason="request-timeout")} == set(KINDS)
    assert bridge.reasons() == {"request-timeout": 3}
    assert_never_disturbed(bridge, qgs)


def test_raw_with_more(world):
    """A raw report may be longer than 1024 bytes: what comes at once, or soon, belongs to it."""
    qgs = StandIn(world, behave="1.26")
    bridge = Bridge(world, qgs)
    result = ask(bridge.address(), client="raw", report_bytes=1100)
    # QGS 1.26 without the extension knows no such report, and closes
    assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    assert bridge.wait_end(bytes_up=1100)["reason"] == "no-reply"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [65536, (1 << 20) - 4096])
def test_long_requests(world, kind, size):
    qgs = StandIn(world, behave="1.26")
    bridge = Bridge(world, qgs, [kind], qgs_more={"request_max": "1MiB"})
    clients = [asking(bridge.address(kind), report_bytes=size, timeout_ms=20000)
               for _ in range(3)]
    assert [c.result()["outcome"] for c in clients] == ["ok"] * 3
    assert {x["bytes_up"] for x in bridge.wait_end(n=3)} == {28 + size}
    # more than a socket takes at once: QGS may need several reads, but gets all that it waits for
    got = settled(qgs)
    assert (got["requests"], got["incomplete"], got["replies"]) == (3, 0, 3)


def test_too_long_for_the_newest(world):
    qgs = StandIn(world, behave="1.26")
    bridge = Bridge(world, qgs, qgs_more={"request_max": "1MiB"})
    result = ask(bridge.address(), report_bytes=(1 << 20) + 1)
    assert (result["outcome"], result["bytes"]) == ("closed-early", 0)
    assert bridge.wait_end()["reason"] in ("too-large", "protocol")
    assert_never_disturbed(bridge, qgs)
