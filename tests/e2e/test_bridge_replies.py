# Replies of QGS through the bridge: whole ones to their last byte, others not at all; clients that
# are slow, or gone, in each phase of a request.
import os
import signal
import socket
import struct
import subprocess

import pytest

from bridge import (KINDS, REPLY, Bridge, assert_never_disturbed, connect, path_of, read_all,
                    request)
from harness import PYTHON, wait_for
from qgs import StandIn, ask, ask_by_vms, asking


@pytest.fixture
def qgs(world):
    return StandIn(world)


def test_no_reply(world, qgs):
    bridge = Bridge(world, qgs, KINDS)
    qgs.behave("close")
    for kind in KINDS:
        for client in "qemu", "tdx", "raw":
            result = ask(bridge.address(kind), client=client)
            assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    bridge.wait_end(reason="no-reply", vm=f"port:{bridge.address('tcp').rsplit(':', 1)[1]}")
    assert bridge.reasons() == {"no-reply": 9}
    qgs.behave("ok")
    assert ask(bridge.address())["outcome"] == "ok"
    assert_never_disturbed(bridge, qgs)


@pytest.mark.parametrize("client", ["qemu", "tdx"])
def test_cut_at_any_byte(world, client):
    """Not one byte of a reply that is not whole: libtdx_attest would wait for the rest for ever."""
    qgs = StandIn(world, quote_bytes=68)
    bridge = Bridge(world, qgs)
    whole = 28 + 68
    cuts = range(1, whole, 1 if client == "tdx" else 8)
    for cut in cuts:
        qgs.behave(f"cut:{cut}", 1)
        result = ask(bridge.address(), client=client)
        assert (result["outcome"], result["bytes"]) == ("closed-early", 0), (cut, result)
    assert ask(bridge.address(), client=client)["bytes"] == whole
    assert bridge.wait_end(reason="cut-short")
    bridge.wait_quiet()
    assert bridge.reasons() == {"cut-short": len(cuts), "eof": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_usual_reply_cut(world, qgs, kind):
    bridge = Bridge(world, qgs, [kind])
    cuts = [1, 3, 4, 27, 28, 100, 4096, REPLY - 1]
    for cut in cuts:
        qgs.behave(f"cut:{cut}", 1)
        result = ask(bridge.address(kind), client="tdx")
        assert (result["outcome"], result["bytes"]) == ("closed-early", 0), (cut, result)
    bridge.wait_quiet()
    assert bridge.reasons() == {"cut-short": len(cuts)}


def test_cut_without_a_length(world, qgs):
    """A bare quote has no length and is passed on as it comes: the client judges."""
    bridge = Bridge(world, qgs)
    qgs.behave("cut:100")
    result = ask(bridge.address(), client="raw")
    assert (result["outcome"], result["bytes"]) == ("closed-early", 100), result


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_replies(world, qgs, kind):
    bridge = Bridge(world, qgs, [kind])
    qgs.behave("error")
    for client in "qemu", "tdx":
        result = ask(bridge.address(kind), client=client)
        assert (result["outcome"], result["bytes"]) == ("error", 28), result
        assert result["code"] == 0x12001
    bridge.wait_quiet()
    assert bridge.reasons() == {"eof": 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [68, 65536, (1 << 20) - 28])
def test_sizes(world, kind, size):
    qgs = StandIn(world, quote_bytes=size)
    bridge = Bridge(world, qgs, [kind])
    for client in "qemu", "raw":
        result = ask(bridge.address(kind), client=client, reply_max=2 << 20)
        assert result.get("quote_bytes") == size, result
    assert_never_disturbed(bridge, qgs)


def test_too_large(world):
    qgs = StandIn(world, quote_bytes=65536)
    bridge = Bridge(world, qgs, qgs_more={"reply_max": "64KiB"})
    result = ask(bridge.address())
    assert (result["outcome"], result["bytes"]) == ("closed-early", 0), result
    assert bridge.wait_end()["reason"] == "too-large"
    # one without a length is passed on as it comes
    assert ask(bridge.address(), client="raw")["outcome"] == "ok"
    qgs.tell("quote-bytes 5000")
    assert ask(bridge.address())["outcome"] == "ok"


def test_slow(world):
    qgs = StandIn(world, work_ms=2000, threads=9)
    bridge = Bridge(world, qgs, KINDS, qgs_more={"in_flight": 9})
    clients = [asking(bridge.address(kind), client=client) for kind in KINDS
               for client in ("qemu", "tdx", "raw")]
    results = [c.result() for c in clients]
    assert [r["outcome"] for r in results] == ["ok"] * 9
    assert assert_never_disturbed(bridge, qgs)["max_at_work"] == 9


@pytest.mark.parametrize("kind", KINDS)
def test_pieces(world, kind):
    """libtdx_attest wants its first 4 bytes in one recv()."""
    qgs = StandIn(world, quote_bytes=68, behave="pieces:1")
    bridge = Bridge(world, qgs, [kind])
    assert ask(bridge.address(kind), client="tdx")["outcome"] == "ok"
    qgs.behave("pieces:1000")
    qgs.tell("quote-bytes 15000")
    for client in "qemu", "tdx", "raw":
        assert ask(bridge.address(kind), client=client)["outcome"] == "ok"
    assert_never_disturbed(bridge, qgs)


def test_qgs_that_does_not_close(world):
    """A framed reply is whole by its length: the client has it while QGS still holds on."""
    with socket.socket(socket.AF_UNIX) as listening:
        path = world.path("holding.socket")
        listening.bind(path)
        listening.listen(16)
        listening.settimeout(20)
        bridge = Bridge(world, f"unix:{path}")
        with connect(bridge.address()) as client:
            client.sendall(request())
            held = wait_for(lambda: (s := listening.accept()[0]).recv(2000) and s, "a request")
            reply = (24).to_bytes(4, "big") + bytes(24)
            held.sendall(reply)
            assert read_all(client) == reply
        held.close()


# ---- slow clients ----

@pytest.mark.parametrize("kind", KINDS)
def test_slow_reader(world, kind):
    """Its reply waits for it in the bridge; QGS is long free."""
    qgs = StandIn(world, quote_bytes=1 << 20)
    bridge = Bridge(world, qgs, [kind], qgs_more={"reply_max": "2MiB"})
    slow = asking(bridge.address(kind), read_after_ms=1000, reply_max=2 << 20)
    qgs.wait_stats(replies=1, at_work=0)
    assert bridge.metric("qgs_in_flight") == 0
    assert slow.result()["outcome"] == "ok"


@pytest.mark.parametrize("kind", KINDS)
def test_reader_that_never_reads(world, kind):
    qgs = StandIn(world, quote_bytes=8 << 20)
    bridge = Bridge(world, qgs, [kind], qgs_more={"reply_max": "16MiB"},
                    timeouts={"reply": "300ms"})
    with connect(bridge.address(kind)) as client:
        client.sendall(request())
        end = bridge.wait_end(reason="reply-timeout")
        assert 0 < end["bytes_down"] < 8 << 20
    bridge.wait_quiet()
    qgs.tell("quote-bytes 5000")
    assert ask(bridge.address(kind))["outcome"] == "ok"


# ---- clients that leave ----

def leave(s):
    """As the kernel does for one that dies. By TCP its FIN alone could be a half-close as well."""
    if s.family == socket.AF_INET:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def test_gone_while_reading(world, qgs):
    bridge = Bridge(world, qgs, KINDS)
    for kind in KINDS:
        with connect(bridge.address(kind)) as client:
            client.sendall(request()[:500])
            bridge.wait_metric("connections", lambda v: v == 1)
        bridge.wait_quiet()
    assert bridge.reasons() == {"closed-early": 3}
    assert_never_disturbed(bridge, qgs)


def test_gone_while_waiting(world, qgs):
    """It leaves its line, and QGS never hears of it."""
    bridge = Bridge(world, qgs, qgs_more={"in_flight": 1})
    qgs.behave("wedged")
    first = asking(bridge.address())
    qgs.wait_stats(at_work=1)
    with connect(bridge.address()) as client:
        client.sendall(request())
        bridge.wait_metric("qgs_waiting", lambda v: v == 1)
    bridge.wait_metric("qgs_waiting", lambda v: v == 0)
    qgs.behave("ok")
    assert first.result()["outcome"] == "ok"
    assert bridge.wait_end(reason="closed-early")["bytes_up"] == len(request())
    assert assert_never_disturbed(bridge, qgs)["requests"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_gone_while_qgs_works(world, qgs, kind):
    """QGS does not notice, and works on: its slot is not given to another meanwhile."""
    bridge = Bridge(world, qgs, [kind], qgs_more={"in_flight": 2})
    qgs.behave("wedged")
    gone = [connect(bridge.address(kind)) for _ in range(2)]
    for s in gone:
        s.sendall(request())
    qgs.wait_stats(at_work=2)
    for s in gone:
        leave(s)
    others = [asking(bridge.address(kind)) for _ in range(3)]
    bridge.wait_metric("qgs_waiting", lambda v: v == 3)
    assert (bridge.metric("qgs_in_flight"), qgs.stats()["at_work"]) == (2, 2)
    qgs.behave("ok")
    assert [c.result()["outcome"] for c in others] == ["ok"] * 3
    got = assert_never_disturbed(bridge, qgs)
    assert (got["max_at_work"], got["max_waiting"], got["replies"]) == (2, 0, 5)
    reasons = bridge.reasons()
    assert reasons["eof"] == 3 and reasons["closed-early"] + reasons["reset"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_gone_while_it_gets_its_reply(world, kind):
    qgs = StandIn(world, quote_bytes=8 << 20)
    bridge = Bridge(world, qgs, [kind], qgs_more={"reply_max": "16MiB"})
    with connect(bridge.address(kind)) as client:
        client.sendall(request())
        assert client.recv(1000)
    end = bridge.wait_end()
    assert end["reason"] in ("closed-early", "reset") and end["bytes_down"] < 8 << 20
    bridge.wait_quiet()


def test_killed_clients(world, qgs):
    """A VMM that is killed, sixteen requests and all."""
    bridge = Bridge(world, qgs)
    qgs.behave("wedged")
    script = ("import socket,sys,time\n"
              "for _ in range(16):\n"
              "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
              "    s.sendall(bytes.fromhex(sys.argv[2])); globals().setdefault('k', []).append(s)\n"
              "print('all', flush=True); time.sleep(600)\n")
    vmm = subprocess.Popen([PYTHON, "-c", script, path_of(bridge.address()), request().hex()],
                           stdout=subprocess.PIPE)
    try:
        assert vmm.stdout.readline() == b"all\n"
        bridge.wait_metric("qgs_waiting", lambda v: v == 13)
    finally:
        os.kill(vmm.pid, signal.SIGKILL)
        vmm.wait()
        vmm.stdout.close()
    bridge.wait_metric("qgs_waiting", lambda v: v == 0)
    assert bridge.metric("qgs_in_flight") == 3
    qgs.behave("ok")
    bridge.wait_quiet()
    assert ask_by_vms(to=bridge.address(), vms=2, requests=50)["ok"] == 50
    assert_never_disturbed(bridge, qgs)
