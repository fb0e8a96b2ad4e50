# bench-load: each mode works against its own far end and through a relay's doors, and what goes wrong
# on the way is seen, counted by its kind, and takes the figures away.
import itertools
import json
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import DEADLINE, DOMAIN, SANITIZER, Program, binary, free_port, wait_for
from streams import Service

KINDS = {"connect", "reset", "short", "mismatch", "timeout", "refused"}
SHORT = ["--seconds", "0.2", "--warmup", "0.1"]
MODES = {
    "new": ["--streams", "8"],
    "new-count": ["--streams", "8", "--count", "100"],
    "pingpong": ["--streams", "3"],
    "pingpong-think": ["--streams", "3", "--think", "1000"],
    "up": [], "down": [],
    "up-compared": ["--verify", "--streams", "3"],
    "down-compared": ["--verify", "--streams", "3"],
    "up-amount": ["--amount", "3000001"],
    "up-amount-open": ["--amount", "3000001", "--no-half-close"],
    "verify-open": ["--streams", "5", "--amount", "1000001", "--no-half-close"],
    "down-amount": ["--amount", "3000001"],
    "verify": ["--streams", "5", "--amount", "1000001"],
}


@pytest.fixture
def far(world):
    """The far end, at a port and a path."""
    p = Program(world, "far", [binary("BENCH_LOAD"), "serve", f"127.0.0.1:{free_port()}",
                               "unix:" + world.path("far")])
    p.tcp, p.unix = p.argv[2:]
    p.wait_output("ready")
    return p


def load(mode, address, *args):
    """The process, to be held or waited for."""
    return subprocess.Popen([binary("BENCH_LOAD"), mode, address, *SHORT, *args], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def report(process):
    """Its result, after what has to be so in any case."""
    out, err = process.communicate(timeout=2 * DEADLINE)
    assert not SANITIZER.search(err), err
    result = json.loads(out.strip().splitlines()[-1])
    figures = [v for k, v in result.items() if k not in ("mode", "streams", "ok", "errors")]
    assert set(result["errors"]) == KINDS and figures
    assert process.returncode == (0 if result["ok"] else 1), err
    if result["ok"]:
        assert not any(result["errors"].values()) and None not in figures and not err, (result, err)
    else:
        assert set(figures) == {None} and err.count("\n") == 1, (result, err)
    return result


def good(*args):
    result = report(load(*args))
    assert result["ok"], result
    return result


def bad(kind, *args):
    result = report(load(*args))
    assert result["errors"][kind], result
    return result


def counted(far, live=0):
    """What the far end has counted, once so many streams are left."""
    def look():
        seen = good("statistics", far.tcp)["far_end"]
        return seen["live"] == live and seen
    return wait_for(look, f"{live} streams at the far end")


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_modes(far, how, kind):
    mode = how.partition("-")[0]
    result = good(mode, getattr(far, kind), *MODES[how])
    seen = counted(far)
    assert not any(seen["errors"].values()), seen
    if "count" in how:
        assert result["done"] == seen["exchanges"] == seen["accepted"] == 100
    elif mode in ("new", "pingpong"):
        assert 0 < result["done"] < result["all_done"] == seen["exchanges"]
        assert result["p50_us"] <= result["p99_us"] <= result["max_us"] * 1.01
    if mode in ("up", "down", "verify"):
        assert 0 < result["bytes"] <= result["all_bytes"]
        through = seen["bytes_received"] - 1024 * seen["accepted"]
        through += seen["bytes_sent"] - 32 * seen["accepted"]
        assert result["all_bytes"] == through
    if "amount" in how or mode == "verify":
        assert result["bytes"] == {"up": 3000001, "down": 3000001, "verify": 10000010}[mode]


@pytest.mark.parametrize("mode", ["idle", "stall"])
def test_held(far, mode):
    p = load(mode, far.tcp, "--streams", "100" if mode == "idle" else "3")
    ready = json.loads(p.stdout.readline())
    assert ready["ready"] and (ready["queued_bytes"] > 0) == (mode == "stall")
    counted(far, ready["streams"])
    result = report(p)  # ends its stdin
    assert result["ok"] and result["done"] == ready["streams"]
    assert result["bytes"] >= ready["queued_bytes"] - 32 * ready["streams"]
    seen = counted(far)
    assert not any(seen["errors"].values()), seen
    assert seen["exchanges"] == (200 if mode == "idle" else 0)  # one before, and one after


@pytest.mark.parametrize("mode", ["idle", "stall"])
def test_held_and_lost(far, mode):
    p = load(mode, far.tcp, "--streams", "3")
    assert json.loads(p.stdout.readline())["ready"]
    far.kill()
    result = report(p)
    assert result["errors"]["short"] + result["errors"]["reset"] > 0


def test_doors(far, world):
    """A relay takes the hello for one and answers the CONNECT; an unknown name is refused."""
    relay = world.relay(services=[{"name": "kbs.acme", "targets": [f"tcp:{far.tcp}"]}])
    front = relay.listeners["front"].removeprefix("tcp:")
    for door in "sni", "connect":
        for mode in "new", "pingpong", "up", "verify":
            good(mode, front, "--prologue", f"{door}:kbs.acme.{DOMAIN}", "--streams", "3")
    assert not any(counted(far)["errors"].values())
    bad("refused", "new", front, "--prologue", f"connect:other.nobody.{DOMAIN}")
    assert not report(load("new", front, "--prologue", f"sni:other.nobody.{DOMAIN}"))["ok"]


# ---- what goes wrong ----

def test_nobody_there(world):
    bad("refused", "new", f"127.0.0.1:{free_port()}")
    bad("connect", "new", "unix:" + world.path("nothing"))


WRONG = {  # what a service does with a connection and its request
    "short": lambda c, request: c.send(request[24:32]),     # the id, as a reply begins
    "reset": lambda c, request: c.abort(),
    "mismatch": lambda c, request: c.send(bytes(4096)),
    "timeout": lambda c, request: c.recv(),
    "refused": lambda c, request: c.send(b"HTTP/1.1 403 Forbidden\r\nA: b\r\n\r\n"),
}


@pytest.mark.parametrize("mode", ["new", "pingpong", "idle"])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answers(world, kind, mode):
    service = world.add(Service(handler=lambda c: WRONG[kind](c, c.recv())))
    prologue = "connect:a" if kind == "refused" else "none"
    result = bad(kind, mode, service.address.removeprefix("tcp:"), "--timeout", "0.3",
                 "--prologue", prologue, "--streams", "2")
    assert sum(result["errors"].values()) == result["errors"][kind]


class Meddler(Service):
    """A proxy that passes each piece, with its position, through what is given for its direction."""

    def __init__(self, far, up=None, down=None, half_close=True):
        def handler(conn):
            with socket.create_connection(far.tcp.split(":")) as there:
                back = threading.Thread(target=pump, args=(there, conn.sock, down), daemon=True)
                back.start()
                pump(conn.sock, there, up, half_close)
                back.join()
        super().__init__(handler=handler)


def pump(source, sink, meddle, half_close=True):
    at = 0
    try:
        while piece := source.recv(65536):
            passed = meddle(at, piece) if meddle else piece
            at += len(piece)
            if passed is None:
                break
            sink.sendall(passed)
        if not half_close:
            source.shutdown(socket.SHUT_RDWR)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def within(at, piece):
    return 0 <= WHERE - at < len(piece)


def flip(at, piece):
    changed = bytearray(piece)
    if within(at, piece):
        changed[WHERE - at] ^= 1
    return bytes(changed)


def swallow(at, piece):
    return piece[:WHERE - at] + piece[WHERE - at + 1:] if within(at, piece) else piece


def end(at, piece):
    return piece[:WHERE - at] if at <= WHERE else None


WHERE = 500000


@pytest.mark.parametrize("mode, meddle, direction, kinds", [
    ("verify", flip, "up", {"mismatch"}), ("verify", flip, "down", {"mismatch"}),
    ("verify", swallow, "up", {"mismatch"}), ("verify", swallow, "down", {"mismatch"}),
    ("up", swallow, "up", {"mismatch"}), ("down", swallow, "down", {"mismatch"}),
    ("up", end, "up", KINDS), ("down", end, "down", {"short"}),
    ("verify", end, "down", {"short", "mismatch"}),
])
def test_meddled_with(far, world, mode, meddle, direction, kinds):
    proxy = world.add(Meddler(far, **{direction: meddle})).address.removeprefix("tcp:")
    good(mode, world.add(Meddler(far)).address.removeprefix("tcp:"))
    result = report(load(mode, proxy, "--timeout", "3"))
    assert not result["ok"]
    assert {k for k, n in result["errors"].items() if n} <= kinds, result


HELD = 1.0      # seconds, longer than the measured time


def hold(which):
    """Meddles with replies: holds those whose number, of all connections', is one of which."""
    replies = itertools.count()

    def pass_on(at, piece):
        if at % 4096 == 0 and which(next(replies)):
            time.sleep(HELD)
        return piece
    return pass_on


@pytest.mark.parametrize("mode", ["new", "pingpong"])
def test_what_outlasts_the_measured_time_counts(far, world, mode):
    proxy = world.add(Meddler(far, down=hold(lambda n: n % 20 == 3)))
    result = good(mode, proxy.address.removeprefix("tcp:"), "--streams", "4",
                  "--warmup", "0", "--seconds", "0.3")
    assert result["seconds"] == 0.3
    assert result["p50_us"] < HELD * 1e6 <= min(result["p99_us"] * 1.01, result["max_us"])
    assert 0 < result["done"] < result["timed"] == result["all_done"]   # held ones are no rate


def test_what_began_before_the_measured_time_is_in_its_max(far, world):
    proxy = world.add(Meddler(far, down=hold(lambda n: n == 0)))
    result = good("pingpong", proxy.address.removeprefix("tcp:"), "--streams", "2")
    assert result["p999_us"] < HELD * 1e6 <= result["max_us"]
    assert 0 < result["timed"] < result["all_done"]


def test_too_slow_for_the_time_out(far, world):
    proxy = world.add(Meddler(far, down=hold(lambda n: n == 3))).address.removeprefix("tcp:")
    bad("timeout", "pingpong", proxy, "--streams", "2", "--warmup", "0", "--timeout", "0.3")


@pytest.mark.parametrize("mode", ["up", "down", "verify"])
def test_through_what_cannot_half_close(far, world, mode):
    proxy = world.add(Meddler(far, half_close=False)).address.removeprefix("tcp:")
    result = good(mode, proxy, "--amount", "1000001", "--no-half-close", "--verify")
    assert result["bytes"] == 1000001 * (2 if mode == "verify" else 1)
    assert not any(counted(far)["errors"].values())
    if mode == "up":
        bad("short", mode, proxy, "--amount", "1000001")
        lossy = world.add(Meddler(far, up=swallow)).address.removeprefix("tcp:")
        bad("timeout", mode, lossy, "--amount", "1000001", "--no-half-close", "--timeout", "0.5")


def test_no_half_close_needs_an_amount(far):
    p = load("up", far.tcp, "--no-half-close")
    assert "--amount" in p.communicate(timeout=DEADLINE)[1] and p.returncode == 2


def test_far_end_counts_what_is_wrong(far):
    host, port = far.tcp.split(":")
    request = b"BNCHX" + bytes(27)
    for said in b"", request[:20], b"HELO" + bytes(1020), request + bytes(992):
        with socket.create_connection((host, port)) as s:
            s.sendall(said)
            s.shutdown(socket.SHUT_WR)
            s.settimeout(DEADLINE)
            assert s.recv(1) == b""
    seen = counted(far)
    assert seen["unused"] == 1
    assert seen["errors"] == {"magic": 1, "early": 0, "short": 1, "mismatch": 1, "reset": 0}
    far.signal(signal.SIGTERM)
    assert far.wait() == 0
