# 20,000 short streams, one after another: nothing is left of them.
import os
import socket
import subprocess
import sys

import pytest

from harness import MB, wait_for
from streams import connect_head

COUNT = 20_000

# a service in a process of its own, so that its Python does not compete with the client's
ECHO = """
import socket
s = socket.create_server(("127.0.0.1", 0), backlog=128)
print(s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    while got := c.recv(65536):
        c.sendall(got)
    c.close()
"""


@pytest.fixture
def echo_process():
    p = subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
    yield int(p.stdout.readline())
    p.terminate()
    p.wait()


@pytest.mark.parametrize("carrier", ["direct", "websocket"])
def test_short_streams(world, echo_process, carrier):
    relay = world.relay(listeners=[{"name": "static", "service": "kbs.acme"}])
    agent = world.agent(relay, {"kbs": f"tcp:127.0.0.1:{echo_process}"}, transport=carrier)
    port, static = relay.port(), relay.port("static")

    def one(i):
        payload = b"%d:" % i + os.urandom(1000)
        with socket.create_connection(("127.0.0.1", static if i % 2 else port)) as s:
            if i % 2:
                s.sendall(payload)
            else:
                s.sendall(connect_head("kbs.acme") + payload)
            s.shutdown(socket.SHUT_WR)
            parts = []
            while got := s.recv(65536):
                parts.append(got)
        got = b"".join(parts)
        if not i % 2:
            head, _, got = got.partition(b"\r\n\r\n")
            assert b" 200" in head
        assert got == payload

    one(0), one(1)
    relay.wait_quiet()
    programs = (relay, agent)
    fds = [p.fds() for p in programs]
    rss = []
    for i in range(2, COUNT):
        one(i)
        if i in (5000, COUNT - 1):
            rss.append([p.rss() for p in programs])
    relay.wait_quiet()
    wait_for(lambda: all(p.fds() <= n + 2 for p, n in zip(programs, fds)),
             lambda: f"descriptors: {fds} before, {[p.fds() for p in programs]} now")
    for p, early, late in zip(programs, *rss):
        assert late - early < 2 * MB, f"{p.name}: {early / MB:.1f} MB, then {late / MB:.1f} MB"
    assert relay.metric("stream_ended_total", reason="eof") == COUNT
    assert relay.metric("streams_total") == COUNT
    assert relay.metric("live_tunnels") == 1
    assert relay.metric("services") == 1 and relay.metric("refused_total") == 0
    relay.wait_metric("connections", lambda v: v == 1)  # the tunnel's
    # bounded logs as well: one line a stream at most
    assert relay.log().count("\n") < 2 * COUNT
