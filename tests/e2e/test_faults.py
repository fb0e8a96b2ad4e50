# Under faults: between every two parts a proxy that spoils the path. Each stream ends in verified
# data or in an abort that is counted; none hangs, and no abort comes out as an orderly end.
#
# Seeds are drawn anew each time, and printed; ATTEST_SEED repeats one. ATTEST_FAULT_SECONDS: for
# how long programs are killed (./tests/run slow: ten minutes).
import os
import random
import time

import pytest

from faults import (BRIDGE, ENDS_WELL, LINKS, SPARE_PIPES, Field, assert_contract, crosses,
                    descriptors, faults_of, seed_of_this_run, spare_pipes)
from harness import MB, wait_for

KILLING = int(os.environ.get("ATTEST_FAULT_SECONDS", 40))
CARRIERS = {"direct": "tunnel-", "websocket": "ws-"}


@pytest.fixture(scope="module")
def shared(module_world):
    """One field for the tests of single toxics, which leave it well."""
    field = Field(module_world, seed_of_this_run())
    field.wait_well()
    return field


# ---- the judge ----

def stream(door="static_tcp", way="tunnel-tcp", mode="both", end="whole", far="whole"):
    return {"door": door, "service": f"{way}.acme", "mode": mode, "end": end,
            "far": far and {"end": far}}


@pytest.mark.parametrize("is_fault,broken,how", [
    (False, LINKS, stream()),
    (False, LINKS, stream(end="aborted", far="aborted")),
    (False, LINKS, stream(end="refused", far=None)),
    (True, LINKS, stream(end="hang")),
    (True, LINKS, stream(far="hang")),
    (True, LINKS, stream(end="wrong", way="tunnel-unix")),
    (True, LINKS, stream(end="short")),
    (True, LINKS, stream(far="short")),
    (True, LINKS, stream(end="short", mode="server-reset")),
    (True, LINKS, stream(far="short", mode="client-reset")),
    (True, LINKS, stream("sni", "tunnel-unix", end="short")),
    (True, LINKS, stream("connect_tls", mode="client-gone", end="aborted", far="short")),
    (False, LINKS, stream(mode="client-gone", end="aborted", far="short")),
    (False, LINKS, stream("static_unix", end="short")),
    (False, ["services"], stream(way="tunnel-unix", end="short")),
    (True, ["tunnels"], stream(way="tunnel-unix", end="short")),
    (True, ["tunnels"], stream("static_unix", far="short")),
    (True, LINKS, stream(mode="client-first", far="aborted")),
])
def test_what_is_a_fault(is_fault, broken, how):
    assert bool(faults_of(how, broken)) == is_fault


# ---- one toxic on one link at a time ----

def assert_unharmed(streams, link, seed):
    """Nothing befell those that are not on the broken link; and there were some, if there can be."""
    others = [x for x in streams if not crosses(x, link) and x["mode"] in ENDS_WELL]
    assert others or link == "services"
    bad = [x for x in others if x["end"] != "whole" or x["far"]["end"] != "whole"]
    assert not bad, f"ATTEST_SEED={seed}: {len(bad)} of {len(others)}, the first: {bad[0]}"


HARMLESS = ["set both delay 20", "set both jitter 20", "set both rate 300000", "set both split 1",
            "set both split 97", "set both coalesce 15", "reorder 4"]


@pytest.mark.parametrize("link", LINKS)
def test_slow_and_torn_paths(shared, link):
    """What harms no byte harms no stream: all are whole, on both sides."""
    for toxic in HARMLESS:
        shared.links[link].tell(toxic)
        single = toxic.endswith("split 1")  # some 15 kB/s
        load = shared.clients(count=60, threads=12, h2_threads=1, bits=10 if single else 18)
        load.finish(120)
        shared.links[link].tell("clear")
        ends = assert_contract(shared.streams(load), shared.seed, [])
        assert set(ends) == {"whole"}, (toxic, ends, shared.seed)
    shared.wait_quiet()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("toxic", ["reset", "hole", "stall"])
def test_broken_paths(shared, link, toxic):
    """Resets after so many bytes, a black hole and a half-open path, in the middle of the load."""
    proxy = shared.links[link]
    load = shared.clients(seconds=3, threads=12, h2_threads=2)
    before = proxy.stats()["injected"]
    steps = {"reset": ["set up reset 1", "set down reset 700", "set both reset 20000"],
             "hole": ["set up hole 1", "set down hole 1", "set both hole 1"],
             "stall": ["set up stall 1", "set down stall 1", "set both stall 1"]}[toxic]
    for step in steps:
        proxy.tell(step)
        time.sleep(0.6)  # for how long the path is broken
        proxy.tell("clear")
        time.sleep(0.4)  # for how long it is not
    load.finish(120)
    streams = shared.streams(load)
    if toxic == "stall":  # shorter than any time-out: harms nobody
        ends = assert_contract(streams, shared.seed, [])
        assert set(ends) == {"whole"}, (ends, shared.seed)
    else:
        assert proxy.stats()["injected"] > before
        ends = assert_contract(streams, shared.seed, [link])
        assert ends["whole"], ends
        assert_unharmed(streams, link, shared.seed)
    shared.wait_well()
    shared.wait_quiet()


@pytest.mark.parametrize("link", LINKS)
def test_path_that_stays_black(shared, link):
    """Whoever is on this side of it is let go by a time-out, before anything is heard of it."""
    proxy = shared.links[link]
    load = shared.clients(seconds=2, threads=12, h2_threads=2)
    time.sleep(1)  # the load is under way
    proxy.tell("set both hole 1")
    if link in ("clients", "guests"):  # who hear nothing
        shared.wait_quiet()
        assert proxy.stats()["live"], "nobody was in the hole"
    else:
        load.finish(60)
        shared.wait_quiet()
    proxy.tell("clear")
    load.finish(60)
    streams = shared.streams(load)
    assert_contract(streams, shared.seed, [link])
    assert_unharmed(streams, link, shared.seed)
    shared.wait_well()


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
