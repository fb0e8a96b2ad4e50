# Our WebSockets against python3-websockets: a proxy made of it between an agent and its relay, so
# that it is the agent's server and the relay's client.
import asyncio
import random

import pytest

from harness import DEADLINE, DOMAIN, MB, Task, data, missing, wait_for
from streams import Doors, Service, echo, roundtrip

try:
    import websockets
except ImportError:
    websockets = None

SUBPROTOCOL = "attest-relay.v1"


class Proxy:
    """Passes messages on as it likes, whole or in fragments, and pings both sides all the time."""

    def __init__(self, relay, certificates):
        self.relay, self.certificates = relay, certificates
        self.port, self.closes, self.messages, self.pongs = None, [], 0, 0
        self.loop = asyncio.new_event_loop()
        self.over = asyncio.Event()
        self.task = Task(lambda: self.loop.run_until_complete(self.run()))
        wait_for(lambda: self.port or self.task.error, "the proxy listens")

    async def run(self):
        how = {"subprotocols": [SUBPROTOCOL], "max_size": None, "ping_interval": 0.1,
               "ping_timeout": DEADLINE}
        self.how = how
        async with websockets.serve(self.passage, "127.0.0.1", 0,
                                    ssl=self.certificates.server(self.certificates.relay),
                                    **how) as server:
            self.port = server.sockets[0].getsockname()[1]
            await self.over.wait()

    async def passage(self, agent):
        assert agent.path == "/tunnel" and agent.subprotocol == SUBPROTOCOL, agent.path
        async with websockets.connect(f"wss://{DOMAIN}/tunnel", host="127.0.0.1",
                                      port=self.relay.port(), ssl=self.certificates.client(),
                                      **self.how) as relay:
            assert relay.subprotocol == SUBPROTOCOL
            await asyncio.gather(self.one_way("agent", agent, relay),
                                 self.one_way("relay", relay, agent),
                                 self.ping(agent), self.ping(relay))

    async def ping(self, peer):
        await (await peer.ping(b"are you there?"))
        self.pongs += 1

    async def one_way(self, name, source, sink):
        try:
            while True:
                message = await source.recv()
                assert isinstance(message, bytes)
                self.messages += 1
                if len(message) > 1 and self.messages % 3 == 0:
                    cut = random.randrange(1, len(message))
                    await sink.send([message[:cut], message[cut:]])
                else:
                    await sink.send(message)
        except websockets.ConnectionClosed:
            await source.wait_closed()
            self.closes.append((name, source.close_code))
            await sink.close(1000 if source.close_code == 1000 else 1011)

    def close(self):
        self.loop.call_soon_threadsafe(self.over.set)
        self.task.result()


@pytest.fixture
def proxy(world):
    if not websockets:
        missing("python3-websockets is not installed")
    relay = world.relay()
    return world.add(Proxy(relay, world.certificates))


def test_through_python_websockets(world, proxy):
    svc = world.add(Service(handler=echo))
    agent = world.agent(proxy.relay, {"kbs": svc.address}, transport="websocket",
                        address=f"tcp:127.0.0.1:{proxy.port}")
    for size in (1, 20_000, 5 * MB):
        with Doors(proxy.relay, None).connect_plain("kbs.acme") as c:
            roundtrip(c, data(size))
    wait_for(lambda: proxy.pongs == 2, "a pong from each side")
    agent.stop()
    wait_for(lambda: len(proxy.closes) == 2, lambda: f"both sides closed: {proxy.closes}")
    assert {code for _, code in proxy.closes} == {1000}, proxy.closes
    proxy.relay.wait_tunnels(0)
