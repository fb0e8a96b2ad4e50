# bench/run --smoke: the one command that measures everything does so, and nothing errs on the way.
# How fast anything was is not looked at.
import json
import os
import subprocess
import sys

from harness import ROOT, SANITIZER, binary

CELLS = {"new": "per_second", "pingpong": "p50_us", "up-1": "MB_per_second",
         "down-1": "MB_per_second", "up-4": "MB_per_second", "down-4": "MB_per_second",
         "idle": "bytes_per_stream"}
OURS = ["static-1", "static", "sni", "connect", "tunnel-1", "tunnel", "websocket-1", "websocket"]
SPECIAL = ["storm-20", "stall", "beside-bulk", "idle-tunnels"]


def test_smoke(tmp_path):
    binary("BENCH_LOAD")
    done = subprocess.run(
        [sys.executable, os.path.join(ROOT, "bench", "run"), "--smoke", "--no-install",
         "--build", os.path.dirname(binary("ATTEST_RELAY")), "--out", tmp_path],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
    said = done.stdout + done.stderr
    assert not SANITIZER.search(said), said
    assert done.returncode == 0, said
    with open(tmp_path / "results.json") as f:
        results = json.load(f)
    assert results["errors"] == []
    figures, = results["rounds"]
    for subject in ["direct", *OURS]:
        for cell, figure in CELLS.items():
            if (subject, cell) != ("direct", "idle"):
                assert figures[subject][cell][figure] > 0, (subject, cell)
    for name in SPECIAL:
        found = [f for f in results["special"] if f["name"].startswith(name + ".")]
        assert found and all(f["value"] is not None and f["errors"] == 0 for f in found), found
    # no bound is judged by so little
    assert results["targets"] == []
    text = (tmp_path / "results.txt").read_text()
    assert all(f"\n  {subject} " in text for subject in OURS)
