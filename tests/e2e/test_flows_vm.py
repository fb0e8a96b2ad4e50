# What comes out of a VM before its system runs, by qgs-bridge: SVSM at an aproxy, a Realm's session
# with its owner; and the console of a VM, whose server speaks first.
import asyncio
import base64
import json
import os
import re
import struct
import textwrap
import threading
import time

import pytest

from flows import Kbs
from harness import (DEADLINE, HERE, PYTHON, ROOT, Program, data, free_port, missing, need,
                     wait_for)
from node import Node, at_once
from streams import Aborted, dial

try:
    import websockets
except ImportError:
    websockets = None

SVSM_PORT = 1995


# ---- SVSM ----

class Aproxy:
    """The stand-in, started again whenever it ends, as by Restart=always."""

    def __init__(self, world, kbs):
        self.world, self.over, self.deaths = world, False, 0
        self.address = f"unix:{world.path('aproxy.sock')}"
        self.argv = [PYTHON, os.path.join(HERE, "aproxy.py"), f"http://{kbs.address[4:]}",
                     self.address]
        self.start()
        threading.Thread(target=self.keep, daemon=True).start()

    def start(self):
        self.program = Program(self.world, "aproxy", self.argv, expect=(0, 1, -15))
        self.program.wait_output("listening")

    def keep(self):
        while not self.over:
            self.program.process.wait()
            if not self.over:
                self.program.finish()
                time.sleep(0.1)
                self.start()
                self.deaths += 1

    def close(self):
        self.over = True
        self.program.stop()


class Svsm:
    """A VM's SVSM: two round trips. It has no time-out, and its end comes when it has the secret."""

    def __init__(self, address):
        self.conn = dial(address)

    def message(self, what):
        text = json.dumps(what).encode()
        self.conn.send(struct.pack("<Q", len(text)) + text)
        size, = struct.unpack("<Q", self.conn.read_exactly(8))
        return json.loads(self.conn.read_exactly(size))

    def negotiate(self):
        return self.message({"version": "0.1.0", "tee": "snp"})["challenge"]

    def attest(self, nonce):
        report = base64.b64encode(data(1184)).decode()
        return self.message({"tee": "snp", "nonce": nonce, "evidence": report})

    def secret(self):
        """Everything, and its end."""
        told = self.attest(self.negotiate())
        self.conn.close()
        return told["success"] and base64.b64decode(told["secret"])


class SvsmNode(Node):
    """VMs' sockets as Cloud Hypervisor or Firecracker has them, and a Unix socket for a serial line."""

    def __init__(self, world, **config):
        os.mkdir(world.path("vms"))
        super().__init__(world, [
            {"name": "vsock", "address": f"hybrid:{world.path('vms')}/*/vm.vsock:{SVSM_PORT}",
             "forward": "service:svsm.acme"},
            {"name": "serial", "address": f"unix:{world.path('com3.sock')}",
             "forward": "service:svsm.acme"}], agent=False, **config)
        self.broker = world.add(Kbs())
        self.aproxy = world.add(Aproxy(world, self.broker))

    def start_svsm_agent(self):
        return self.world.agent(self.relay, {"svsm": self.aproxy.address}, name="svsm")

    def vm(self, name):
        """Where its SVSM goes."""
        os.mkdir(os.path.join(self.world.path("vms"), name))
        path = os.path.join(self.world.path("vms"), name, f"vm.vsock_{SVSM_PORT}")
        wait_for(lambda: os.path.exists(path), f"{path}: the socket of a VM that has come")
        return f"unix:{path}"


def test_svsm(world):
    """Over both kinds of sockets, all the way to a key broker and its secret."""
    node = SvsmNode(world)
    node.start_svsm_agent()
    for address in node.vm("vm-1"), node.bridge.address("serial"):
        assert Svsm(address).secret() == node.broker.secret
    assert node.broker.requests.count("/kbs/v0/attest") == 2
    node.wait_quiet()
    assert node.aproxy.deaths == 0


def test_svsm_one_after_the_other(world):
    """
    aproxy serves one VM at a time and reads to its end: ends that come at once are what lets 12 VMs
    through. One that stays holds up the next, until it goes.
    """
    node = SvsmNode(world)
    node.start_svsm_agent()
    vms = [node.vm(f"vm-{i}") for i in range(12)]
    begun = time.monotonic()
    assert at_once(12, lambda i: Svsm(vms[i]).secret()) == [node.broker.secret] * 12
    assert time.monotonic() - begun < DEADLINE / 2
    first = Svsm(vms[0])
    assert first.attest(first.negotiate())["success"]  # and stays
    second = Svsm(vms[1])
    second.conn.timeout(0.5)
    with pytest.raises(TimeoutError):
        second.negotiate()
    first.conn.close()
    second.conn.timeout(20)
    size, = struct.unpack("<Q", second.conn.read_exactly(8))
    nonce = json.loads(second.conn.read_exactly(size))["challenge"]
    assert second.attest(nonce)["success"]
    second.conn.close()
    node.wait_quiet()
    assert node.aproxy.deaths == 0


def test_svsm_before_its_owner(world):
    """VMs that boot first are kept, their first message with them, until the tunnel is there."""
    node = SvsmNode(world, timeouts={"pickup": "30s"}, relay_timeouts={"pickup": "30s"})
    vms = [node.vm(f"vm-{i}") for i in range(3)]

    def run(i):
        if i < 3:
            return Svsm(vms[i]).secret()
        node.relay.wait_metric("live_parked", lambda n: n == 3)
        assert "accepted" not in node.aproxy.program.output()
        node.start_svsm_agent()
    assert at_once(4, run)[:3] == [node.broker.secret] * 3
    assert node.aproxy.deaths == 0


def test_svsm_and_an_aproxy_that_dies(world):
    """A VM that talks nonsense ends aproxy; the VM after its restart is served."""
    node = SvsmNode(world)
    node.start_svsm_agent()
    bad, good = node.vm("bad"), node.vm("good")
    with dial(bad) as conn:
        conn.send(struct.pack("<Q", 8) + b"nonsense")
        try:
            assert conn.recv() == b""  # it has ended, and that is seen at once
        except Aborted:
            pass
    wait_for(lambda: node.aproxy.deaths == 1, "aproxy has been started again")
    assert Svsm(good).secret() == node.broker.secret
    assert node.aproxy.deaths == 1
    node.wait_quiet()


def test_svsm_one_aproxy_each(world):
    """docs/flows.md: an aproxy for each connection. Nobody waits for, nor dies with, somebody else."""
    need("socat")
    node = SvsmNode(world)
    script = world.path("one-aproxy")
    with open(os.path.join(ROOT, "docs", "flows.md")) as f:
        shown = re.search(r"    #!/bin/sh\n    # one-aproxy.*?\n(?=\n\S)", f.read(), re.S)[0]
    with open(script, "w") as f:
        f.write(textwrap.dedent(shown))
    os.chmod(script, 0o755)
    with open(world.path("aproxy"), "w") as f:  # --protocol kbs --url URL --unix PATH
        f.write(f'#!/bin/sh\nexec {PYTHON} {HERE}/aproxy.py "$4" "unix:$6"\n')
    os.chmod(world.path("aproxy"), 0o755)
    at = world.path("each.sock")
    Program(world, "socat", ["socat", f"UNIX-LISTEN:{at},fork", f"EXEC:{script}"], expect=(0, 143),
            env={"PATH": f"{world.folder}:{os.environ['PATH']}",
                 "KBS": f"http://{node.broker.address[4:]}"})
    wait_for(lambda: os.path.exists(at), "socat listens")
    world.agent(node.relay, {"svsm": f"unix:{at}"}, name="svsm")
    vms = [node.vm(f"vm-{i}") for i in range(8)]
    first = Svsm(vms[0])
    assert first.attest(first.negotiate())["success"]  # and stays
    with dial(vms[1]) as conn:
        conn.send(struct.pack("<Q", 8) + b"nonsense")
        try:
            assert conn.recv() == b""
        except Aborted:
            pass
    assert at_once(6, lambda i: Svsm(vms[2 + i]).secret()) == [node.broker.secret] * 6
    first.conn.close()
    node.wait_quiet()


def test_svsm_that_is_refused(world):
    """The broker's refusal comes back as aproxy says it, and no secret."""
    node = SvsmNode(world)
    node.start_svsm_agent()
    svsm = Svsm(node.vm("vm-1"))
    svsm.negotiate()
    assert svsm.attest("another VM's nonce") == {"success": False, "secret": None}
    assert not any(r.startswith("/kbs/v0/resource") for r in node.broker.requests)
    svsm.conn.close()
    node.wait_quiet()


# ---- Arm CCA: a Realm's host session ----

def test_realm_session(world):
    """
    kvmtool connects to 127.0.0.1, a port for each VM. The owner comes when it likes; each Realm is
    with its own owner's service, on one connection for all its messages.
    """
    ports = [free_port(), free_port()]
    node = Node(world, [{"name": f"realm-{i}", "address": f"tcp:127.0.0.1:{port}",
                         "forward": "by-vm"} for i, port in enumerate(ports)],
                agent=False, timeouts={"pickup": "30s"}, relay_timeouts={"pickup": "30s"},
                vms=[{"port": port, "service": f"context-{i}.acme"}
                     for i, port in enumerate(ports)])
    realms = [dial(f"tcp:127.0.0.1:{port}") for port in ports]
    for i, realm in enumerate(realms):
        realm.send(b"open %d" % i)
    node.relay.wait_metric("live_parked", lambda n: n == 2)
    assert node.kbs.none_waiting() and node.echo.accepted == 0
    # services kbs and echo of this node stand for two owners' user contexts
    world.agent(node.relay, {"context-0": node.kbs.address}, name="owner-0")
    service = node.kbs.accept()
    assert service.read_exactly(6) == b"open 0"
    assert node.relay.metric("live_parked") == 1 and node.echo.accepted == 0
    for _ in range(5):
        up, down = data(2000), data(3000)
        realms[0].send(up)
        assert service.read_exactly(2000) == up
        service.send(down)
        assert realms[0].read_exactly(3000) == down
    world.agent(node.relay, {"context-1": node.echo.address}, name="owner-1")
    assert realms[1].read_exactly(6) == b"open 1"
    assert node.kbs.none_waiting()
    # RHI_SESSION_CLOSE is the connection's end
    realms[0].close()
    assert service.recv() == b""
    service.close()
    realms[1].close()
    node.wait_quiet()


# ---- a console ----

QEMU = "/usr/bin/qemu-system-x86_64"


class Rfb:
    """A client of RFB 3.8: without a password, the whole screen, uncompressed."""

    def __init__(self, conn):
        self.conn = conn
        self.greeting = self.conn.read_exactly(12)  # the server speaks first

    def screen(self):
        c = self.conn
        assert self.greeting == b"RFB 003.008\n"
        c.send(self.greeting)
        kinds = c.read_exactly(c.read_exactly(1)[0])
        assert 1 in kinds, kinds
        c.send(b"\x01")
        assert c.read_exactly(4) == bytes(4)
        c.send(b"\x01")  # shared
        self.width, self.height = struct.unpack(">HH", c.read_exactly(4))
        c.read_exactly(16)
        c.read_exactly(struct.unpack(">I", c.read_exactly(4))[0])
        c.send(struct.pack(">BxHi", 2, 1, 0))  # raw only
        return self.update()

    def update(self):
        """The pixels of one whole update, put together."""
        c = self.conn
        c.send(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        kind, _, n = struct.unpack(">BBH", c.read_exactly(4))
        assert kind == 0
        pixels = bytearray(4 * self.width * self.height)
        for _ in range(n):
            x, y, w, h, encoding = struct.unpack(">HHHHi", c.read_exactly(12))
            assert encoding == 0
            got = c.read_exactly(4 * w * h)
            for row in range(h):
                at = 4 * ((y + row) * self.width + x)
                pixels[at:at + 4 * w] = got[4 * w * row:4 * w * (row + 1)]
        return bytes(pixels)


class WebSocket:
    """As noVNC's: binary messages, of which only the bytes count."""

    def __init__(self, url, context=None):
        self.loop = asyncio.new_event_loop()
        self.got = b""

        async def opening():
            return await websockets.connect(url, ssl=context, subprotocols=["binary"],
                                            max_size=None, ping_interval=None)
        self.ws = self.run(opening())

    def run(self, what):
        async def soon():
            return await asyncio.wait_for(what, DEADLINE)
        return self.loop.run_until_complete(soon())

    def send(self, data):
        self.run(self.ws.send(data))

    def read_exactly(self, n):
        parts = [self.got]
        have = len(self.got)
        while have < n:
            parts.append(self.run(self.ws.recv()))
            assert isinstance(parts[-1], bytes)
            have += len(parts[-1])
        whole = b"".join(parts)
        self.got = whole[n:]
        return whole[:n]

    def close(self):
        self.run(self.ws.close())
        self.loop.close()


class Console:
    """QEMU's VNC server, the tunnel to it, and what it shows to who is beside it."""

    def __init__(self, world, dial_when="eager", front=None, **timeouts):
        need(QEMU)
        path = world.path("vnc.sock")
        qemu = Program(world, "qemu", [
            QEMU, "-accel", "tcg", "-m", "16", "-nodefaults", "-vga", "std", "-display", "none",
            "-S", "-vnc", f"unix:{path}"], expect=(0, -15))
        wait_for(lambda: os.path.exists(path), lambda: f"QEMU listens\n{qemu.tail()}")
        listeners = [{"name": "vnc", "service": "console.acme"}]
        if front:
            listeners.append({"name": "front", **front})
        self.relay = world.relay(front=not front, listeners=listeners)
        self.agent = world.agent(self.relay, [{"name": "console", "target": f"unix:{path}",
                                               "dial": dial_when}], timeouts=timeouts)
        beside = Rfb(dial(f"unix:{path}"))
        self.shown = beside.screen()
        beside.conn.close()
        assert len(self.shown) > 500_000 and len(set(self.shown)) > 1

    def looks_right(self, conn):
        """What is seen by this connection is what is there."""
        there = Rfb(conn)
        assert there.screen() == self.shown
        for _ in range(5):
            assert there.update() == self.shown
        there.conn.close()
        self.relay.wait_quiet()


def test_vnc(world):
    """The server greets first: an eager service at a static door."""
    console = Console(world)
    console.looks_right(dial(console.relay.listeners["vnc"]))


def test_vnc_through_websockify(world):
    """A browser's way today: Debian's websockify beside the static door."""
    need("websockify")
    if not websockets:
        missing("python3-websockets is not installed")
    console = Console(world)
    port = free_port()
    ws = Program(world, "websockify", ["websockify", f"127.0.0.1:{port}",
                                       f"127.0.0.1:{console.relay.port('vnc')}"],
                 expect=(0, 1, -15, 143))
    ws.wait_log("proxying from")

    def client():
        try:
            return WebSocket(f"ws://127.0.0.1:{port}/")
        except ConnectionRefusedError:  # it says so before it listens
            return None

    console.looks_right(wait_for(client, "websockify listens"))


def test_vnc_at_the_websocket_door(world):
    """noVNC's way without anything beside the relay: wss, the service's name in the path."""
    if not websockets:
        missing("python3-websockets is not installed")
    console = Console(world, front={"doors": ["tunnel", "websocket"]})
    context = world.certificates.client()
    url = f"wss://localhost:{console.relay.port()}/connect/console.acme"
    console.looks_right(WebSocket(url, context))


def test_vnc_without_eager(world):
    """Nobody dials, both wait for the other's first word, and the idle time ends it."""
    console = Console(world, "first-byte", idle="500ms")
    with dial(console.relay.listeners["vnc"]) as conn:
        try:
            assert conn.recv() == b""
        except Aborted:
            pass
    console.agent.wait_log("idle")
    console.relay.wait_quiet()
