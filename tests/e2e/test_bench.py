# bench/run --smoke: the one command that measures everything does so, and nothing errs on the way.
# How fast anything was is not looked at. What goes wrong is seen, and nothing is left behind.
import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from harness import PYTHON, ROOT, SANITIZER, binary, wait_for

BENCH = os.path.join(ROOT, "bench")
sys.path.insert(0, BENCH)
import report  # noqa: E402
import targets  # noqa: E402

CELLS = {"new": "per_second", "pingpong": "p50_us", "up-1": "MB_per_second",
         "down-1": "MB_per_second", "up-4": "MB_per_second", "down-4": "MB_per_second"}
OURS = ["static-1", "static", "sni", "connect", "tunnel-1", "tunnel", "websocket-1", "websocket"]
SPECIAL = ["storm-20", "stall", "beside-bulk", "idle-tunnels"]


def command(out, *more):
    return [PYTHON, os.path.join(BENCH, "run"), "--no-install",
            "--build", os.path.dirname(binary("ATTEST_RELAY")), "--out", out, *more]


@pytest.fixture
def folder():
    """For what is started: the names of Unix sockets are short, so tmp_path will not do."""
    with tempfile.TemporaryDirectory() as path:
        yield path


def logs(folder):
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".log"):
                with open(os.path.join(where, name), errors="replace") as f:
                    yield name, f.read()


def test_smoke(tmp_path, folder):
    binary("BENCH_LOAD")
    done = subprocess.run(
        command(tmp_path, "--smoke", "--keep"), env={**os.environ, "TMPDIR": folder},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = list(logs(folder))
    assert {"relay", "far-end"} <= {name.split("-", 1)[-1][:-4] for name, _ in kept}
    for name, text in [("bench/run", done.stdout + done.stderr), *kept]:
        assert not SANITIZER.search(text), (name, text)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["errors"] == []
    figures, = results["rounds"]
    for subject in ["direct", *OURS]:
        for cell, figure in CELLS.items():
            assert figures[subject][cell][figure] > 0, (subject, cell)
    root = os.geteuid() == 0    # who is not may not read memory, and must be told so
    assert results["machine"]["root"] == root
    for subject in OURS:
        assert figures[subject]["idle"]["bytes_per_stream"] > 0 if root else \
            "root" in results["skipped"][f"{subject}/idle"]
    for name in SPECIAL if root else SPECIAL[:-1]:
        found = [f for f in results["special"] if f["name"].startswith(name + ".")]
        assert found and all(f["value"] is not None and f["errors"] == 0 for f in found), found
    # no bound is judged by so little
    assert results["targets"] == []
    text = (tmp_path / "results.txt").read_text()
    assert all(f"\n  {subject} " in text for subject in OURS)


# ---- errors ----

def made_up(**more):
    """Three rounds in which `tunnel` meets what is asked of its bulk streams."""
    rounds = [{"tunnel": {"up-1": {"MB_per_second": 800}, "down-1": {"MB_per_second": 800}},
               "ssh -R": {"up-1": {"MB_per_second": 500}, "down-1": {"MB_per_second": 500}}}
              for _ in range(3)]
    return {"warm_up": {}, "failed": {}, "special": [], "rounds": rounds, **more}


def judged(results, what):
    row, = [t for t in targets.judge(results) if t["what"] == what]
    return report.verdict(row), row["met"]


def test_targets_are_not_met_by_who_errs():
    up, down = (f"tunnel: bulk 1 {way}, to ssh -R" for way in ("up", "down"))
    assert judged(made_up(), up) == judged(made_up(), down) == ("met", True)
    one_round = made_up()
    one_round["rounds"][1]["tunnel"]["up-1"] = {"error": "the far end received less"}
    at_first = made_up(warm_up={"tunnel": {"verify": {"error": "the data is wrong"}}})
    failed = made_up(failed={"tunnel": "ended with 1"})
    for results in one_round, at_first, failed:
        assert judged(results, up) == judged(results, down) == ("ERR", False)
    column = "MB_per_second", True, 1
    assert report.entry(one_round, "tunnel", "up-1", *column) == "ERR"
    assert report.entry(one_round, "tunnel", "down-1", *column) == "800..800 (800)"
    assert report.entry(failed, "tunnel", "down-1", *column) == "ERR"
    # an error of the peer leaves the rounds in which it had none; if it failed, nothing
    peer = made_up()
    peer["rounds"][1]["ssh -R"]["up-1"] = {"error": "reset"}
    assert judged(peer, up) == ("met", True)
    assert judged(made_up(failed={"ssh -R": "ended with 1"}), up) == ("not measured", None)


def test_targets_of_special_measurements():
    def special(name, rounds, error=None):
        return made_up(special=[{"name": name, "rounds": rounds, "error": error}])
    hole = "black hole noticed by the agent"
    assert judged(special("blackhole.agent_s", [4, 5, 6]), hole) == ("met", True)
    # the worst decides
    assert judged(special("blackhole.agent_s", [4, 5, 6, 25, 30]), hole) == ("MISSED", False)
    storm = "10,000 agents back after a restart of the relay (killed)"
    assert judged(special("storm-10000", [], "not within 60 s"), storm) == ("ERR", False)
    assert judged(special("storm-2000", [], "not within 60 s"), storm) == ("not measured", None)


def test_a_wrong_end_is_an_error(folder):
    """Of the stalled stream, which by then has delivered nothing else to judge it by."""
    liar = os.path.join(folder, "bench-load")
    with open(liar, "w") as f:
        f.write('#!/bin/sh\n'
                f'[ "$1" = stall ] || exec "{binary("BENCH_LOAD")}" "$@"\n'
                f'"{binary("BENCH_LOAD")}" "$@"\nexit 1\n')
    os.chmod(liar, 0o755)

    def stall(load):
        return subprocess.run(
            [PYTHON, os.path.join(BENCH, "special.py"), "--only", "stall", "--scale", "smoke",
             "--relay", binary("ATTEST_RELAY"), "--tunnel", binary("ATTEST_TUNNEL"),
             "--load", load],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    good, bad = stall(binary("BENCH_LOAD")), stall(liar)
    assert good.returncode == 0 and "stall.down_ratio" in good.stdout, good
    assert bad.returncode == 1 and "stall: FAILED: load-stall" in bad.stdout, bad


# ---- signals ----

def session_of(pid):
    """The processes that live in this session: their commands, by their ids."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as f:
                state, _, _, session = f.read().rpartition(")")[2].split()[:4]
            with open(f"/proc/{entry}/cmdline") as f:
                command_line = f.read().replace("\0", " ")
        except OSError:
            continue
        if int(session) == pid and state != "Z":
            found[int(entry)] = command_line
    return found


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_behind(tmp_path, folder, first):
    with open(tmp_path / "said", "w+") as said:
        run = subprocess.Popen(
            command(tmp_path, "--rounds", "100", "--only", "static/new,tunnel/new"),
            env={**os.environ, "TMPDIR": folder}, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=said)
        try:
            wait_for(lambda: "round 1" in (tmp_path / "said").read_text(), "the first round", 60)
            assert any("attest-tunnel" in c for c in session_of(run.pid).values())
            for number in first, signal.SIGTERM, signal.SIGINT:     # whoever is impatient
                run.send_signal(number)
                wait_for(lambda: "stopped" in (tmp_path / "said").read_text(), "it stops")
            assert run.wait(60) == 130
        finally:
            run.kill()
            run.wait()
            left = session_of(run.pid)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert os.listdir(folder) == []     # no keys either
