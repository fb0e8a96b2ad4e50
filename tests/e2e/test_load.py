# Many streams at once, and clients that give up by the thousand.
import asyncio
import hashlib
import os
import random
import socket
import struct
import time

import pytest

from harness import MB, Task, data
from streams import Doors, Service, connect_head, echo

LINGER = struct.pack("ii", 1, 0)


async def head(reader):
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in answer, answer


# ---- a thousand at once ----

STREAMS = 1000


async def serve(reader, writer):
    """First byte: who ends first. C: read all, then reply; S: say all, then read."""
    try:
        kind = await reader.readexactly(1)
        number = struct.unpack(">I", await reader.readexactly(4))[0]
        writer.write(b"k")
        reply = payload(number, b"down")
        if kind == b"C":
            got = await reader.read(-1)
            writer.write(hashlib.sha256(got).digest() + reply)
            writer.write_eof()
        else:
            assert await reader.readexactly(1) == b"g"
            writer.write(reply)
            writer.write_eof()
            got = await reader.read(-1)
            arrived[number] = hashlib.sha256(got).digest()
        await writer.drain()
    finally:
        writer.close()


arrived = {}


def payload(number, salt):
    r = random.Random(salt + b"%d" % number)
    return r.randbytes(20_000 + r.randrange(40_000))


async def client(port, number, ready, go, service):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    kind = b"CS"[number % 2:number % 2 + 1]
    up, down = payload(number, b"up"), payload(number, b"down")
    try:
        writer.write(connect_head(service) + kind + struct.pack(">I", number))
        await head(reader)
        assert await reader.readexactly(1) == b"k"
        ready()
        await go.wait()
        if kind == b"C":
            writer.write(up)
            writer.write_eof()
            got = await reader.read(-1)
            assert got[:32] == hashlib.sha256(up).digest(), f"stream {number}: upload differs"
            assert got[32:] == down, f"stream {number}: reply differs"
        else:
            writer.write(b"g")
            got = await reader.read(-1)
            assert got == down, f"stream {number}: reply differs"
            writer.write(up)
            writer.write_eof()
            await writer.drain()
            assert await reader.read(-1) == b""
    finally:
        writer.close()


@pytest.mark.parametrize("carrier", ["direct", "websocket"])
def test_a_thousand_streams(world, carrier):
    """At once, through one tunnel, every byte of each checked, ends in both orders."""
    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
        address = f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
        loop = asyncio.get_running_loop()
        relay = await loop.run_in_executor(None, lambda: world.relay(timeouts={"dial": "30s"}))
        agent = await loop.run_in_executor(
            None, lambda: world.agent(relay, {"kbs": address}, transport=carrier))
        arrived.clear()
        count, all_open, go = [0], asyncio.Event(), asyncio.Event()

        def ready():
            count[0] += 1
            if count[0] == STREAMS:
                all_open.set()
        tasks = [asyncio.ensure_future(client(relay.port(), n, ready, go, "kbs.acme"))
                 for n in range(STREAMS)]
        opened = asyncio.ensure_future(all_open.wait())
        done, _ = await asyncio.wait([opened, *tasks], timeout=120,
                                     return_when=asyncio.FIRST_COMPLETED)
        assert opened in done, (f"{count[0]} of {STREAMS} open",
                                [t.exception() for t in done if t is not opened][:3])
        m = await loop.run_in_executor(None, relay.metrics)
        assert m["attest_relay_live_splices"] == STREAMS
        assert m["attest_relay_live_tunnels"] == 1
        go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
        for n in range(1, STREAMS, 2):
            end = time.monotonic() + 30
            while n not in arrived and time.monotonic() < end:
                await asyncio.sleep(0.01)
            assert arrived[n] == hashlib.sha256(payload(n, b"up")).digest(), f"stream {n}: upload"
        await loop.run_in_executor(None, relay.wait_quiet)
        assert relay.metric("stream_ended_total", reason="eof") == STREAMS
        assert agent.running()
        server.close()
    asyncio.run(run())


# ---- clients that give up ----

RATE, SECONDS = 500, 10


async def give_up(port, number):
    """Aborts at one of several moments of a stream's life."""
    loop = asyncio.get_running_loop()
    s = socket.socket()
    s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    try:
        await loop.sock_connect(s, ("127.0.0.1", port))
        when = number % 4
        if when == 0:
            await loop.sock_sendall(s, connect_head("kbs.acme"))
        elif when == 1:
            await loop.sock_sendall(s, connect_head("kbs.acme") + os.urandom(3000))
        elif when >= 2:
            await loop.sock_sendall(s, connect_head("kbs.acme"))
            assert b" 200 " in await loop.sock_recv(s, 4096)
            await loop.sock_sendall(s, os.urandom(3000))
            if when == 3:
                assert await loop.sock_recv(s, 4096)
    finally:
        s.close()


@pytest.mark.parametrize("carrier", ["direct", "websocket"])
def test_storm_of_aborts(world, carrier):
    """500 a second for ten seconds: the tunnel stays, and the streams beside them lose nothing."""
    svc = world.add(Service(handler=echo))
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier)
    stop = []

    def beside():
        n = 0
        with Doors(relay, None).connect_plain("kbs.acme") as c:
            while not stop:
                block = data(30_000)
                c.send(block)
                assert c.read_exactly(len(block)) == block
                n += 1
            c.eof()
            assert c.recv() == b""
        return n
    others = [Task(beside) for _ in range(3)]

    async def storm():
        begin, failures, tasks = time.monotonic(), [], set()
        for number in range(RATE * SECONDS):
            due = begin + number / RATE
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
            while len(tasks) > 300:  # this machine does not keep up: do not pile up
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            t = asyncio.ensure_future(give_up(relay.port(), number))
            tasks.add(t)

            def done(t):
                tasks.discard(t)
                if t.exception():
                    failures.append(t.exception())
            t.add_done_callback(done)
        took = time.monotonic() - begin
        if tasks:
            _, pending = await asyncio.wait(set(tasks), timeout=60)
            assert not pending, f"{len(pending)} clients hang"
        return took, failures
    took, failures = asyncio.run(storm())
    stop.append(True)
    rounds = [t.result() for t in others]
    assert not failures, (len(failures), failures[:3])
    assert took < 2 * SECONDS, f"only {RATE * SECONDS / took:.0f} aborts/s"  # for a noisy machine
    assert relay.metric("tunnels_total") == 1, "the tunnel did not survive"
    assert relay.metric("live_tunnels") == 1
    assert min(rounds) > 20, rounds
    relay.wait_quiet()
    ended = relay.metric("stream_ended_total")
    assert ended + relay.metric("refused_total") >= RATE * SECONDS
    assert agent.rss() < 300 * MB and relay.rss() < 300 * MB
    print(f"{RATE * SECONDS / took:.0f} aborts/s, {rounds} rounds beside")
