# The fault proxy itself: does it do what it is told, and nothing else?
import time

import pytest

from faults import FaultProxy
from harness import Task, data, wait_for
from streams import Aborted, Service, dial, echo, roundtrip

KINDS = ["tcp", "unix"]


@pytest.fixture(params=KINDS)
def link(request, world):
    """A proxy, and the service behind it."""
    where = f"unix:{world.path('far')}" if request.param == "unix" else "tcp:127.0.0.1:0"
    far = world.add(Service(where))
    return FaultProxy(world, "proxy", [far.address]), far


def pair(link, first=b"first"):
    proxy, far = link
    near = dial(proxy.address())
    near.send(first)
    other = far.accept()
    assert other.read_exactly(len(first)) == first
    return near, other


def silent(conn, seconds=0.3):
    """Nothing comes: no byte, no end."""
    conn.timeout(seconds)
    try:
        got = conn.recv(1)
    except TimeoutError:
        conn.timeout(20)
        return True
    raise AssertionError(f"{got!r} came")


@pytest.mark.parametrize("toxic", ["clear", "set both delay 30", "set both jitter 30",
                                   "set both rate 3000000", "set both split 1",
                                   "set both split 1000", "set both coalesce 20", "reorder 2"])
def test_bytes_stay_as_they_are(world, link, toxic):
    """Whatever harms none: all bytes in order, and each direction's end after them."""
    proxy, far = link
    proxy.tell(toxic)
    size = 20_000 if toxic.endswith("split 1") else 500_000
    near, other = pair(link)
    for a, b in ((near, other), (other, near)):
        payload = data(size)
        writer = Task(lambda: (a.send(payload), a.eof()))
        assert b.read_all() == payload
        writer.result()
    wait_for(lambda: proxy.stats()["live"] == 0, "the flow is over")
    got = proxy.stats()
    assert (got["up"], got["down"], got["ended"]) == (size + 5, size, 1), got


def test_delay_and_rate(link):
    near, other = pair(link)
    proxy, _ = link
    proxy.tell("set up delay 200")
    begin = time.monotonic()
    near.send(b"x")
    assert other.recv() == b"x" and time.monotonic() - begin >= 0.19
    other.send(b"y")
    begin = time.monotonic()
    assert near.recv() == b"y" and time.monotonic() - begin < 0.19
    proxy.tell("clear", "set down rate 100000")
    begin = time.monotonic()
    writer = Task(other.send, data(50_000))
    near.read_exactly(50_000)
    writer.result()
    assert time.monotonic() - begin >= 0.45


def test_pieces(link):
    """split: who is quick to read sees single bytes; coalesce: all comes at once."""
    near, other = pair(link)
    proxy, _ = link
    proxy.tell("set up split 1")
    near.send(data(3000))
    reads = have = 0
    while have < 3000:
        have += len(other.recv())
        reads += 1
    assert reads > 30, reads
    proxy.tell("clear", "set up coalesce 300")
    for i in range(5):
        near.send(b"%d" % i)
    assert other.recv() == b"01234"


def test_hole(link):
    """Bytes, ends and resets vanish; when it is over, so is the connection."""
    near, other = pair(link)
    proxy, _ = link
    proxy.tell("set up hole 1")
    near.send(b"lost")
    assert silent(other)
    other.send(b"the other way is open")
    assert near.read_exactly(21) == b"the other way is open"
    near.abort()
    assert silent(other)
    assert proxy.stats()["swallowed_up"] == 4
    proxy.tell("set up hole 0")
    if other.unix:
        assert other.recv() == b""
    else:
        with pytest.raises(Aborted):
            other.recv()


def test_stall(link):
    """Nothing is read, nothing is closed; then it goes on where it was."""
    near, other = pair(link)
    proxy, _ = link
    proxy.tell("set up stall 1")
    near.send(b"later")
    near.eof()
    assert silent(other)
    proxy.tell("set up stall 0")
    assert other.read_all() == b"later"


@pytest.mark.parametrize("bytes_", [6, 100, 100_000])
def test_reset(link, bytes_):
    """After so many bytes and no more, for both sides."""
    near, other = pair(link)
    proxy, _ = link
    proxy.tell(f"set up reset {bytes_}")
    writer = Task(near.send, data(200_000))
    have = 0
    try:
        while got := other.recv():
            have += len(got)
        assert other.unix
    except Aborted:
        assert not other.unix
    # a reset may overtake what lies unread in the receiver
    assert have == bytes_ - 5 if other.unix else have <= bytes_ - 5
    with pytest.raises(Aborted):
        writer.result()
        near.recv()
        near.send(b"x")
    assert proxy.stats()["injected"] == 1


def test_reset_now_and_resets_of_ends(link):
    near, other = pair(link)
    proxy, _ = link
    proxy.tell("reset")
    for conn in (near, other):
        if conn.unix:
            assert conn.recv() == b""
        else:
            with pytest.raises(Aborted):
                conn.recv()
    near, other = pair(link)
    near.abort()
    if other.unix:
        assert other.recv() == b""
    else:
        with pytest.raises(Aborted):
            other.recv()
        assert proxy.stats()["aborted"] == 1


def test_reset_after_an_end(world):
    """Who has ended its direction can still be reset, and the other side hears of it."""
    far = world.add(Service())
    link = FaultProxy(world, "proxy", [far.address]), far
    near, other = pair(link)
    near.eof()
    assert other.recv() == b""
    near.abort()
    with pytest.raises(Aborted):
        other.recv()
        while True:  # a FIN was here before: only writing tells
            other.send(data(1000))
    assert link[0].stats()["live"] == 0


def test_nobody_there(world):
    """A far end that refuses: a reset."""
    far = Service()
    far.close()
    proxy = FaultProxy(world, "proxy", [far.address])
    with pytest.raises(Aborted):
        dial(proxy.address()).recv()
    assert proxy.stats()["unreachable"] == 1


def test_reorder(world):
    """Connections arrive in another order than they were made in; less than enough go on too."""
    far = world.add(Service())
    proxy = FaultProxy(world, "proxy", [far.address])
    proxy.tell("reorder 8")
    orders = []
    for _ in range(4):
        conns = [dial(proxy.address()) for _ in range(8)]
        for i, c in enumerate(conns):
            c.send(bytes([i]))
        orders.append([far.accept().recv()[0] for _ in range(8)])
        assert sorted(orders[-1]) == list(range(8))
    assert any(x != sorted(x) for x in orders), orders
    with dial(proxy.address()) as c:
        c.send(b"alone")
        assert far.accept().recv() == b"alone"


@pytest.mark.parametrize("how", ["gentle", "harsh"])
def test_schedule_follows_from_its_seed(world, how):
    far = world.add(Service(handler=echo))
    proxies = [FaultProxy(world, f"proxy{i}", [far.address]) for i in range(3)]
    for proxy, seed in zip(proxies, (7, 7, 8)):
        proxy.tell(f"schedule {seed} {how}")
    wait_for(lambda: all(len(p.drawn()) >= 12 for p in proxies), "a dozen steps")
    a, b, c = (p.drawn()[:12] for p in proxies)
    assert a == b and a != c
    if how == "gentle":
        with dial(proxies[0].address()) as conn:
            roundtrip(conn, data(100_000))
    proxies[0].tell("schedule off", "clear")
    with dial(proxies[0].address()) as conn:
        roundtrip(conn, data(100_000))


def test_what_it_does_not_understand(world):
    proxy = FaultProxy(world, "proxy", ["tcp:127.0.0.1:1"])
    for command in ("", "set", "set up", "set up delay", "set up delay x", "set over delay 1",
                    "set up dely 1", "schedule", "schedule 1", "schedule 1 mild", "reorder",
                    "nonsense"):
        assert proxy.say(command) == {"done": False}, command
