# Which worker tunnels live in: each takes its part of them, wherever they came in.
import contextlib

import pytest

from admin import Admin
from harness import data, new_token, wait_for
from streams import Doors, Service, echo, roundtrip
from wire import RawAgent

WORKERS = 2
EACH = 4    # tunnels a worker


@pytest.fixture
def relay(world):
    return world.relay(workers=WORKERS, admin=f"unix:{world.path('admin.sock')}", owners=[world.owner("acme")])


@pytest.fixture
def admin(world, relay):
    return Admin(world.path("admin.sock"))


def by_worker(admin):
    """Instances of tunnels, by the index of their worker"""
    found = {i: set() for i in range(WORKERS)}
    for t in admin.all("tunnels"):
        found[t["worker"]].add(t["instance"])
    return found


def sizes(admin):
    return [len(names) for names in by_worker(admin).values()]


@pytest.mark.parametrize("carrier", ["direct", "websocket"])
def test_each_worker_has_its_part(world, relay, admin, certificates, carrier):
    """One after the other to a relay at rest: the kernel would wake the same worker for all of them."""
    service = world.add(Service(handler=echo))
    agents = {}
    for n in range(WORKERS * EACH):
        a = world.agent(relay, {f"s{n}": service.address}, transport=carrier)
        agents[a.name] = a, f"s{n}.acme"
        assert max(sizes(admin)) - min(sizes(admin)) <= 1
    assert sizes(admin) == [EACH] * WORKERS
    for _, name in agents.values():   # from whichever worker the client is in
        for _ in range(WORKERS):
            with Doors(relay, None).connect_plain(name) as c:
                roundtrip(c, data(300_000))

    # all of one worker end: those that come after fill its places, which none is kept of by those
    # that are refused there, or leave too soon
    for gone in by_worker(admin)[0]:
        agents[gone][0].stop()
    wait_for(lambda: sizes(admin) == [0, EACH], "they are gone")
    for _ in range(EACH):
        with contextlib.closing(RawAgent(relay, certificates, token=new_token())) as refused:
            assert refused.answer()[0] == "refused"
        RawAgent(relay, certificates, hello=False).close()
    relay.wait_metric("session_ended_total", lambda n: n == EACH, reason="bad-credential")
    wait_for(lambda: relay.metric("limit_used", scope="all", what="connections") == EACH, "the others have left")
    for n in range(EACH):
        world.agent(relay, {f"t{n}": service.address}, transport=carrier)
    assert sizes(admin) == [EACH] * WORKERS
