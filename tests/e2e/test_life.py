# Minutes of a relay's life at once: streams by every door, while its operator reloads it (well and
# badly), enrols and revokes, closes, lets others take its place; while others look, and strangers do
# what strangers do. Every byte is compared, and in the end nothing is left.
#
# ATTEST_LIFE_SECONDS: for how long (./tests/run slow: ten minutes). Seeds are drawn anew, and printed.
import collections
import json
import os
import threading
import time

from faults import assert_contract, descriptors, seed_of_this_run
from harness import Task, wait_for
from life import Life

SECONDS = int(os.environ.get("ATTEST_LIFE_SECONDS", 20))


class Crowd:
    """What is done again and again, by threads, until it is enough."""

    def __init__(self, *what):
        self.over, self.counts = threading.Event(), collections.Counter()
        self.tasks = [Task(self.run, one, i, len(what)) for i, one in enumerate(what)]

    def run(self, one, n, step):
        while not self.over.is_set():
            self.counts[one.__name__, one(n)] += 1
            n += step

    def end(self):
        self.over.set()
        for t in self.tasks:
            t.result()
        return dict(self.counts)


def audit_is_whole(path):
    with open(path) as f:
        records = [json.loads(line) for line in f]
    assert all("event" in r for r in records)
    return collections.Counter(r["event"] for r in records)


def test_life(world):
    seed = seed_of_this_run()
    print(f"ATTEST_SEED={seed}")
    life = Life(world, seed)
    assert life.websocket(0)
    life.settle()
    before = descriptors(life.relay)
    clients = life.clients(1, SECONDS)
    crowd = Crowd(life.look, life.look, life.harm, life.harm, life.harm, life.websocket)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        life.act()
        world.check()
    clients.finish(120)
    counts = crowd.end()
    ends = assert_contract(life.streams(clients), seed)
    life.settle()
    print(f"{sum(life.done.values())} acts {life.done}, {dict(ends)}, {counts}")
    assert ends["whole"] > 0 and counts["websocket", True] > 0
    wait_for(lambda: descriptors(life.relay) <= before + 2,
             lambda: f"{before} descriptors before, {descriptors(life.relay)} now")
    events = audit_is_whole(world.path("audit"))
    assert not events["records-lost"] and events["stream-end"] > 0, events
    assert "hang" not in ends
