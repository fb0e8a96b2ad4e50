# Under faults: between every two parts a proxy that spoils the path. Each stream ends in verified
# data or in an abort that is counted; none hangs, and no abort comes out as an orderly end.
#
# Seeds are drawn anew each time, and printed; ATTEST_SEED repeats one.
import time

import pytest

from faults import ENDS_WELL, LINKS, Field, assert_contract, crosses, faults_of, seed_of_this_run


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
