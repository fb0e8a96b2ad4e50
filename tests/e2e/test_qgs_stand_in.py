# The stand-in for QGS against what was measured of the real one, row by row; its faults; and that
# the clients see each fault for what it is. A hang is: no byte until the connection's time is over.
import os
import stat
import struct
import subprocess

import pytest

from harness import Task, binary
from qgs import StandIn, ask, ask_by_vms, asking, vms_asking
from streams import Service, dial

REQUEST, RAW, REPLY = 1052, 1024, 28 + 5000
TIMEOUT = 400  # ms, in place of 30 s

# options of quote-load one, as names of rows
AT_ONCE = {
    "one write": {},
    "one write and shutdown": {"shut_wr": True},
    "by libtdx_attest": {"client": "tdx"},
    "split 4+1048": {"split": "4+1048"},
    "split 19+1033": {"split": "19+1033"},
    "raw in one write": {"client": "raw"},
    "raw and shutdown": {"client": "raw", "shut_wr": True},
    "platform information": {"platform": True},
}
PIECES = {  # these hang in legacy
    "split 20+1032": {"split": "20+1032"},
    "split 500+552": {"split": "500+552"},
    "split 1051+1": {"split": "1051+1"},
    "split by 100": {"split": "+".join(["100"] * 10)},
    "raw 512+512": {"client": "raw", "split": "512+512"},
    "5028 bytes": {"report_bytes": 5000},
}
INCOMPLETE = {
    "100 bytes and shutdown": {"only": 100, "shut_wr": True},
    "10 bytes and shutdown": {"only": 10, "shut_wr": True},
    "20 bytes of garbage and shutdown": {"garbage": 20, "shut_wr": True},
}


@pytest.fixture
def legacy(world):
    return StandIn(world, timeout_ms=TIMEOUT)


@pytest.fixture
def newer(world):
    return StandIn(world, timeout_ms=TIMEOUT, behave="1.26")


def rows(*tables):
    found = {k: v for t in tables for k, v in t.items()}
    return pytest.mark.parametrize("options", found.values(), ids=list(found))


def hung(result):
    return (result["outcome"], result["bytes"]) == ("closed-early", 0) and (
        TIMEOUT - 1 <= result["ms"])


def answered(result, options):
    assert result["outcome"] == "ok", result
    assert result["bytes"] == (68 if options.get("platform") else
                               REPLY - 28 if options.get("client") == "raw" else REPLY)


# ---- requests, as they are read ----

@rows(AT_ONCE)
@pytest.mark.parametrize("version", ["legacy", "1.26"])
def test_whole_requests(world, version, options):
    qgs = StandIn(world, behave=version)  # of 30 s: what hangs fails
    answered(ask(qgs.address, timeout_ms=20000, **options), options)
    got = qgs.wait_stats(open=0)
    assert (got["connections"], got["requests"], got["replies"]) == (1, 1, 1)
    assert got["in_pieces"] == ("split" in options)
    assert got["max_reads"] == 1 + ("split" in options)
    assert got["raw"] == (options.get("client") == "raw")
    assert got["platform"] == ("platform" in options)
    assert (got["silent"], got["incomplete"], got["timed_out"], got["wasted"]) == (0, 0, 0, 0)


@rows(PIECES, INCOMPLETE, {"20 bytes of garbage": {"garbage": 20}})
def test_legacy_hangs(legacy, options):
    result = ask(legacy.address, **options)
    assert hung(result), result
    got = legacy.wait_stats(open=0)
    assert (got["incomplete"], got["timed_out"]) == (1, 1)
    assert (got["requests"], got["silent"], got["max_at_work"]) == (0, 0, 0)


def head(size):
    """Prefix and header of a request for a quote that say this size."""
    return struct.pack(">I", size) + struct.pack("<HHIII", 1, 1, 0, size, 0)


@pytest.mark.parametrize("first,size", [(head(16 + 1052), 1052), (b"\xff" * 20, 1004)],
                         ids=["framed", "raw"])
def test_legacy_reads_over_the_beginning(world, first, size):
    """What follows the first 20 bytes is taken for all of a request, and answered if it is one."""
    qgs = StandIn(world)
    with dial(qgs.address) as conn:
        conn.send(first)
        qgs.wait_stats(incomplete=1)
        conn.send(head(size - 4) + struct.pack("<II", size - 28, 0) + bytes(size - 28))
        assert len(conn.read_all()) == REPLY


@rows(PIECES)
def test_newer_puts_pieces_together(world, options):
    qgs = StandIn(world, behave="1.26")
    answered(ask(qgs.address, timeout_ms=20000, **options), options)
    got = qgs.wait_stats(open=0)
    assert (got["requests"], got["in_pieces"], got["incomplete"]) == (1, 1, 0)


@rows(INCOMPLETE)
def test_newer_closes_at_eof(world, options):
    qgs = StandIn(world, behave="1.26")
    result = ask(qgs.address, timeout_ms=20000, **options)
    assert (result["outcome"], result["bytes"]) == ("closed-early", 0)
    got = qgs.wait_stats(open=0)
    assert (got["incomplete"], got["timed_out"], got["requests"]) == (1, 0, 0)


@pytest.mark.parametrize("options", [{"report_bytes": 1100000}, {"garbage": 1025}],
                         ids=["over 1 MiB", "longer than raw, not framed"])
def test_newer_closes_at_nonsense(world, options):
    qgs = StandIn(world, behave="1.26")
    result = ask(qgs.address, timeout_ms=20000, **options)
    assert result["outcome"] == "closed-early", result
    assert qgs.wait_stats(open=0)["requests"] == 0


@pytest.mark.parametrize("version", ["legacy", "1.26"])
def test_silence(world, version):
    qgs = StandIn(world, timeout_ms=TIMEOUT, behave=version)
    assert hung(ask(qgs.address, only=0))
    got = qgs.wait_stats(open=0)
    assert (got["silent"], got["incomplete"], got["timed_out"]) == (1, 0, 1)


@pytest.mark.parametrize("version", ["legacy", "1.26"])
def test_one_request_for_a_connection(world, version):
    qgs = StandIn(world, behave=version)
    result = ask(qgs.address, second=True)
    assert (result["outcome"], result["second"]) == ("ok", "EPIPE")
    # two in one write, or more bytes than are said: one reply and the end. It is an error, as the
    # length that QGS compares is that of all it has read
    for options in {"twice": True}, {"extra": 1}:
        result = ask(qgs.address, **options)
        assert (result["outcome"], result["bytes"], result["code"]) == ("error", 28, 0x12001)
    got = qgs.wait_stats(open=0)
    assert (got["requests"], got["trailing"], got["refused"], got["replies"]) == (3, 2, 2, 3)


# ---- threads and time ----

def test_threads(world):
    qgs = StandIn(world, threads=3, work_ms=50)
    result = ask_by_vms(to=qgs.address, vms=2, requests=24, concurrency_per_vm=6)
    assert result["ok"] == 24
    assert result["seconds"] >= 24 / 3 * 0.05
    assert result["max_ms"] >= 100  # twelve at a time, three of them at work
    got = qgs.stats()
    assert got["max_at_work"] == 3 and 3 <= got["max_waiting"] <= 9


def test_wedged_and_released(world):
    qgs = StandIn(world, behave="wedged")
    clients = [asking(qgs.address) for _ in range(10)]
    qgs.wait_stats(at_work=4, waiting=6)
    qgs.behave("ok")
    assert [c.result()["outcome"] for c in clients] == ["ok"] * 10
    got = qgs.wait_stats(open=0)
    assert (got["replies"], got["max_at_work"], got["max_waiting"]) == (10, 4, 6)


def test_time_runs_while_waiting(world):
    """What nobody waits for any more still has its turn, in vain."""
    qgs = StandIn(world, timeout_ms=TIMEOUT, threads=1, behave="wedged")
    clients = [asking(qgs.address) for _ in range(3)]
    assert all(hung(c.result()) for c in clients)
    got = qgs.wait_stats(open=0)
    assert (got["timed_out"], got["at_work"], got["waiting"], got["wasted"]) == (3, 1, 2, 0)
    qgs.behave("ok")
    assert qgs.wait_stats(at_work=0, waiting=0)["wasted"] == 3
    assert ask(qgs.address)["outcome"] == "ok"


def test_a_client_that_left_is_not_noticed(world):
    qgs = StandIn(world, behave="wedged")
    assert ask(qgs.address, timeout_ms=100)["outcome"] == "timeout"
    got = qgs.stats()
    assert (got["at_work"], got["open"]) == (1, 1)
    qgs.behave("ok")
    assert qgs.wait_stats(open=0)["wasted"] == 1


@pytest.mark.parametrize("size", [68, 65536, 1 << 20])
def test_sizes_of_replies(world, size):
    qgs = StandIn(world, quote_bytes=size)
    for client in "qemu", "raw":
        assert ask(qgs.address, client=client, reply_max=2 << 20)["quote_bytes"] == size
    result = ask(qgs.address, client="tdx")
    assert result["outcome"] == ("ok" if size < 16000 else "bad-reply"), result


# ---- faults, and what clients make of them ----

@pytest.mark.parametrize("fault,client,outcome,got", [
    ("close", "qemu", "closed-early", 0), ("close", "tdx", "closed-early", 0),
    ("close", "raw", "closed-early", 0),
    ("cut:2", "qemu", "closed-early", 2), ("cut:2", "tdx", "bad-reply", 2),
    ("cut:100", "qemu", "closed-early", 100), ("cut:100", "tdx", "would-spin", 100),
    ("cut:100", "raw", "closed-early", 100), ("cut:5027", "qemu", "closed-early", 5027),
    ("error", "qemu", "error", 28), ("error", "tdx", "error", 28),
    ("error", "raw", "closed-early", 0),
    ("pieces:1", "tdx", "bad-reply", 1), ("pieces:1000", "qemu", "ok", REPLY),
    ("pieces:1000", "tdx", "ok", REPLY), ("pieces:1000", "raw", "ok", 5000),
])
def test_faults(world, fault, client, outcome, got):
    qgs = StandIn(world, behave=fault)
    result = ask(qgs.address, client=client)
    assert (result["outcome"], result["bytes"]) == (outcome, got), result
    qgs.behave("ok")
    assert ask(qgs.address, client=client)["outcome"] == "ok"


def test_a_fault_for_some_requests(world):
    qgs = StandIn(world)
    qgs.behave("close", 2)
    qgs.behave("1.26")
    assert [ask(qgs.address)["outcome"] for _ in range(3)] == ["closed-early"] * 2 + ["ok"]


def changed(qgs, at, value):
    """A service between client and QGS that changes one byte of the reply."""
    def run(conn):
        request = conn.read_exactly(REQUEST)
        with dial(qgs.address) as on:
            on.send(request)
            reply = bytearray(on.read_all())
        reply[at] = reply[at] ^ value
        conn.send(bytes(reply))
    return Service(handler=run)


@pytest.mark.parametrize("client", ["qemu", "tdx"])
@pytest.mark.parametrize("at,value,why", [
    (0, 0xff, "a length out of bounds"), (4, 2, "another version"), (6, 2, "another version"),
    (8, 4, "another type"), (12, 1, "header and prefix"), (20, 1, "a selected id"),
    (24, 1, "another length of the quote"), (28, 1, "the quote of another request"),
    (91, 1, "the quote of another request"), (92, 1, "another length than it says"),
    (96, 1, "other bytes"), (REPLY - 1, 128, "other bytes"),
])
def test_clients_are_strict(world, client, at, value, why):
    qgs = StandIn(world)
    between = world.add(changed(qgs, at, value))
    result = ask(between.address, client=client)
    assert result["outcome"] == "bad-reply" and why in result["why"], result


def test_a_reply_for_somebody_else(world):
    """Two clients get each other's reply, whole and well-formed."""
    qgs, replies = StandIn(world), []

    def swap(a, b):
        for conn in a, b:
            request = conn.read_exactly(REQUEST)
            with dial(qgs.address) as on:
                on.send(request)
                replies.append(on.read_all())
        a.send(replies[1])
        b.send(replies[0])
        a.close()
        b.close()
    between = world.add(Service())
    clients = [asking(between.address) for _ in range(2)]
    task = Task(swap, between.accept(), between.accept())
    for client in clients:
        assert client.result()["why"] == "the quote of another request"
    task.result()


def test_a_changed_request(world):
    """QGS's quote is that of the report it has got, not of the one that was sent."""
    qgs = StandIn(world)

    def run(conn):
        request = bytearray(conn.read_exactly(REQUEST))
        request[-1] ^= 1
        with dial(qgs.address) as on:
            on.send(bytes(request))
            conn.send(on.read_all())
    between = world.add(Service(handler=run))
    assert ask(between.address)["why"] == "other bytes than this report's quote has"


# ---- the socket ----

def test_recreated(world):
    qgs = StandIn(world, behave="wedged", mode="0660")
    client, before = asking(qgs.address), qgs.inode()
    keeper = os.open(qgs.path, os.O_PATH)  # so that its inode is not used again
    qgs.wait_stats(at_work=1)
    qgs.tell("recreate")
    assert client.result()["outcome"] == "closed-early"
    assert qgs.inode() != before
    assert stat.S_IMODE(os.stat(qgs.path).st_mode) == 0o660
    qgs.behave("ok")
    assert ask(qgs.address)["outcome"] == "ok"
    os.close(keeper)


def test_refused_and_absent(world):
    qgs = StandIn(world)
    qgs.tell("refuse")
    result = ask(qgs.address)
    assert (result["outcome"], result["errno"]) == ("connect-failed", "ECONNREFUSED")
    qgs.tell("recreate")
    assert ask(qgs.address)["outcome"] == "ok"
    qgs.stop()
    result = ask(qgs.address)
    assert (result["outcome"], result["errno"]) == ("connect-failed", "ENOENT")


def test_commands_are_checked(world):
    qgs = StandIn(world)
    for bad in "behave", "behave oddly", "behave cut:", "behave ok 0", "threads 0", "stats now", \
            "threads 1 2", "recreate 1", "nothing":
        assert qgs.say(bad) == {"done": False}, bad
    ask(qgs.address)
    qgs.wait_stats(open=0, requests=1)
    qgs.tell("reset")
    assert set(qgs.stats().values()) == {0}


@pytest.mark.parametrize("words", [["--listen", "vsock:2"], ["--listen", "here"], [],
                                   ["--listen", "unix:relative"]])
def test_wrong_usage(words):
    done = subprocess.run([binary("ATTEST_QGS_STAND_IN"), *words], capture_output=True, timeout=20)
    assert done.returncode == 2 and done.stderr


# ---- many VMs ----

def test_many_vms(world):
    qgs = StandIn(world)
    result = ask_by_vms(to=qgs.address, vms=20, requests=2010, concurrency_per_vm=4, client="mix")
    assert (result["requests"], result["ok"], result["first_error"]) == (2010, 2010, None)
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    vms = result["vms"]
    assert set(vms) == {f"vm{i}" for i in range(20)}
    assert sorted(vm["ok"] for vm in vms.values()) == [100] * 10 + [101] * 10
    assert len({vm["pid"] for vm in vms.values()}) == 20
    got = qgs.wait_stats(open=0)
    assert (got["requests"], got["replies"], got["in_pieces"]) == (2010, 2010, 0)
    assert got["raw"] == sum(vms[f"vm{i}"]["ok"] for i in range(2, 20, 3))


def test_a_flood(world):
    qgs = StandIn(world, work_ms=5)
    running = vms_asking(vm=[f"loud={qgs.address}", f"quiet={qgs.address}"], flood="loud:16",
                         requests=20)
    result = running.result()
    loud, quiet = result["vms"]["loud"], result["vms"]["quiet"]
    assert (result["requests"], quiet["ok"], quiet["flood"], loud["flood"]) == (20, 20, False, True)
    assert loud["ok"] == loud["requests"] > 100  # up to sixteen for each quiet one
    assert qgs.stats()["max_open"] in (16, 17)  # the quiet one may be between two requests


def test_failures_are_counted(world):
    qgs = StandIn(world)
    for fault, name, n in ("close", "closed-early", 3), ("error", "error", 5), (
            "cut:200", "would-spin", 2), ("pieces:1", "bad-reply", 1):
        qgs.behave(fault, n)
        result = ask_by_vms(to=qgs.address, vms=2, requests=40, client="tdx")
        assert (result["ok"], result["errors"][name]) == (40 - n, n), result
        assert sum(result["errors"].values()) == n
        assert result["first_error"]["outcome"] == name
    qgs.behave("wedged", 1)
    result = ask_by_vms(to=qgs.address, vms=3, requests=9, timeout_ms=300)
    assert (result["ok"], result["errors"]["timeout"]) == (8, 1), result
    result = ask_by_vms(vm=[f"here={qgs.address}", "gone=unix:/nowhere/at/all"], requests=10)
    assert (result["ok"], result["errors"]["connect-failed"]) == (5, 5), result
    assert result["first_error"]["errno"] == "ENOENT" and result["first_error"]["vm"] == "gone"


@pytest.mark.parametrize("words", [["one", "--to", "vsock:2:4050"], ["one", "--to", "vsock:0:1"],
                                   ["one", "--to", "vsock:any:1"],
                                   ["run", "--vm", "a=vsock:2:4050"]])
def test_no_other_machine_is_asked(words):
    done = subprocess.run([binary("ATTEST_QUOTE_LOAD"), *words], capture_output=True, text=True,
                          timeout=20)
    assert done.returncode == 2 and "--inside-vm" in done.stderr
