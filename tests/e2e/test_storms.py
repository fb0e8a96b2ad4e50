# Storms and deaths: thousands of streams on paths that change all the time, and kill -9 under load. Each
# stream ends in verified data or in an abort that is counted; whoever survives is as big as before.
#
# Seeds are drawn anew each time, and printed; ATTEST_SEED repeats one. ATTEST_FAULT_SECONDS: for
# how long programs are killed (./tests/run slow: ten minutes).
import os
import random
import time

import pytest

from faults import BRIDGE, SPARE_PIPES, Field, assert_contract, descriptors, seed_of_this_run, spare_pipes
from harness import MB, wait_for

KILLING = int(os.environ.get("ATTEST_FAULT_SECONDS", 40))
CARRIERS = {"direct": "tunnel-", "websocket": "ws-"}


# ---- the storm ----

@pytest.mark.parametrize("how", ["gentle", "harsh"])
def test_storm(world, how):
    """5,000 streams each, by all doors, carriers and targets, on paths that change all the time."""
    seed = seed_of_this_run()
    print(f"ATTEST_SEED={seed}")
    field = Field(world, seed)
    field.wait_well()
    field.wait_quiet()
    before = {p: (descriptors(p), p.rss()) for p in field.programs()}
    field.schedule(how)
    loads = [field.clients(count=2500, threads=40, h2_threads=3) for _ in range(2)]
    for load in loads:
        load.finish(300)
    drawn = sum(len(link.drawn()) for link in field.links.values())
    field.clear()
    streams = field.streams(*loads)
    assert len(streams) == 5000
    ends = assert_contract(streams, seed)
    print(f"{ends}, {drawn} steps of schedules")
    assert drawn > 100
    if how == "gentle":
        assert set(ends) == {"whole"}, (ends, seed)
    else:
        assert ends["whole"] > 500, (ends, seed)
    field.wait_well()
    field.wait_quiet()
    assert_back(before, 120 * MB)


def assert_back(before, growth):
    """Descriptors and memory are what they were; of memory, sanitizers keep some."""
    wait_for(lambda: all(descriptors(p) <= fds for p, (fds, _) in before.items()),
             lambda: f"{[(p.name, n, descriptors(p)) for p, (n, _) in before.items()]}")
    for p, (_, rss) in before.items():
        assert p.rss() - rss < growth, f"{p.name}: {rss / MB:.0f} MB, now {p.rss() / MB:.0f}"
        assert spare_pipes(p) <= SPARE_PIPES, f"{p.name}: {spare_pipes(p)} pipes"


# ---- kill -9 ----

def excuses(deaths):
    """Did a program die that is next to this end, in the time of this stream?"""
    def excuse(side, x):
        began, ended = x["began"] - 1, x["ended"] + 1
        if x["door"] == "sni":  # TLS from end to end
            return False
        if side == "service":
            ended = max(ended, x["far"]["ended"] + 1)
            near = next((c for c, way in CARRIERS.items() if x["service"].startswith(way)), "relay")
        elif x["door"] in ("connect_tls", "h2"):
            return False
        else:
            near = "bridge" if x["door"] in BRIDGE else "relay"
        return any(who == near and began <= when <= ended for who, when in deaths)
    return excuse


def test_killed_at_random(world):
    """Programs die under load; what is left is well, and is no bigger than it was."""
    seed = seed_of_this_run()
    print(f"ATTEST_SEED={seed}")
    r, field, deaths = random.Random(seed), Field(world, seed), []
    field.wait_well()
    # in a long run fewer streams at a time: each is kept to be judged at the end
    load = field.clients(threads=24, h2_threads=2, seconds=KILLING + 60,
                         pause=0.2 if KILLING > 120 else 0)
    time.sleep(2)  # the load is under way
    end = time.monotonic() + KILLING
    while time.monotonic() < end:
        time.sleep(r.uniform(0.3, 4))
        victim = r.choice(["relay", "direct", "websocket", "bridge"])
        deaths.append((victim, time.monotonic()))
        field.kill(victim)
    load.stop(120)
    streams = field.streams(load)
    ends = assert_contract(streams, seed, [], excuses(deaths))
    print(f"{len(deaths)} deaths, {len(streams)} streams, {ends}")
    assert ends["whole"] > KILLING, ends
    field.wait_well()
    field.wait_quiet()
    # who survived that is measured against itself, once more under load without deaths
    before = {p: (descriptors(p), p.rss()) for p in field.programs()}
    field.clients(count=300, threads=16).finish(120)
    field.wait_quiet()
    assert_back(before, 60 * MB)


def test_survivors(world):
    """All others die time and again: descriptors and memory of who stays are what they were."""
    seed = seed_of_this_run()
    print(f"ATTEST_SEED={seed}")
    field = Field(world, seed)
    for victims in (["direct", "websocket", "bridge"], ["relay"]):
        field.wait_well()
        survivors = [p for p in field.programs() if (p is field.relay) == (victims != ["relay"])]
        before = {}
        for turn in range(6):
            load = field.clients(threads=12, h2_threads=1)
            time.sleep(0.5)  # the load is under way
            for victim in victims:
                field.kill(victim)
            load.stop(120)
            field.wait_well()
            field.wait_quiet()
            if turn == 1:
                before = {p: (descriptors(p), p.rss()) for p in survivors}
        assert_back(before, 60 * MB)
