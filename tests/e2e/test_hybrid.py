# Unix-backed vsock as VMMs do it (Firecracker, Cloud Hypervisor), both ways: a guest that connects
# makes its VMM connect to PATH_PORT; who connects to PATH and says "CONNECT PORT" is answered "OK N".
import contextlib
import os
import re
import socket
import threading

import pytest

from bridge import Bridge, listener
from harness import DEADLINE, data, need, wait_for
from node import Node
from qgs import StandIn, ask
from streams import Aborted, dial


class Vmm:
    """
    A VMM and the program in its guest that listens at a port. say: how the handshake is answered;
    guest: what the program does with a connection, after what was sent to it.
    """

    def __init__(self, path, guest, port=4050, say="OK"):
        self.path, self.guest, self.port, self.say = path, guest, port, say
        self.heads, self.held = [], []
        self.start()

    def start(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(64)
        threading.Thread(target=self.run, args=(self.sock,), daemon=True).start()

    def stop(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        os.unlink(self.path)

    def run(self, sock):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(sock.accept()[0],), daemon=True).start()

    def serve(self, c):
        head = b""
        while not head.endswith(b"\n"):
            byte = c.recv(1)
            if not byte:
                return
            head += byte
        self.heads.append(head)
        if self.say == "silence":
            self.held.append(c)
        elif self.say == "close" or head != b"CONNECT %d\n" % self.port:
            c.close()
        elif self.say == "nonsense":
            c.sendall(b"NO such port here\n")
            self.held.append(c)
        else:
            self.guest(c, b"OK 1073741824\n")


def pieces_of(line):
    """The OK line byte by byte, each as a packet of its own as far as the kernel lets us."""
    return [line[i:i + 1] for i in range(len(line))]


def greeting(size, split):
    """A program that speaks first: its first bytes are glued to the OK line, or the line is in pieces."""
    words = data(size)

    def guest(c, ok):
        with c:
            if split:
                for piece in pieces_of(ok):
                    c.sendall(piece)
                c.sendall(words)
            else:
                c.sendall(ok + words)
            c.shutdown(socket.SHUT_WR)
            while c.recv(65536):
                pass
    return guest, words


def echo_until_eof(c, ok):
    with c:
        c.sendall(ok)
        got = b""
        while chunk := c.recv(65536):
            got += chunk
        c.sendall(got)


@pytest.fixture
def path(world):
    return world.path("vm.vsock")


def relay_to(world, path, port=4050, **more):
    """A relay whose listener leads to a port of the guest."""
    return world.relay(listeners=[{"name": "guest", "service": "app.vm"}], front=False, tls=False,
                       services=[{"name": "app.vm", "targets": [f"hybrid:{path}:{port}"]}], **more)


def expect_abort(relay):
    with pytest.raises(Aborted), dial(f"tcp:127.0.0.1:{relay.port('guest')}") as c:
        c.read_all()


@pytest.mark.parametrize("size, split", [(1, False), (40, False), (300_000, False), (5, True)])
def test_bytes_glued_to_ok(world, path, size, split):
    guest, words = greeting(size, split)
    vmm = Vmm(path, guest)
    relay = relay_to(world, path)
    with dial(f"tcp:127.0.0.1:{relay.port('guest')}") as c:
        assert c.read_all() == words
        c.eof()
    assert vmm.heads == [b"CONNECT 4050\n"]
    relay.wait_quiet()


def test_half_close(world, path):
    """The guest's answer comes after the client's end."""
    Vmm(path, echo_until_eof)
    relay = relay_to(world, path)
    payload = data(2_000_000)
    with dial(f"tcp:127.0.0.1:{relay.port('guest')}") as c:
        c.send(payload)
        c.eof()
        assert c.read_all() == payload


@pytest.mark.parametrize("say, reason", [("silence", "dial-timeout"), ("close", "dial-refused"),
                                         ("nonsense", "dial-failed")])
def test_no_ok(world, path, say, reason):
    """A VMM that never answers, one that closes (nobody listens in its guest), one that is none."""
    vmm = Vmm(path, echo_until_eof, say=say)
    relay = relay_to(world, path, timeouts={"dial": "300ms"})
    expect_abort(relay)
    assert relay.wait_log(r"refused after \S+ s: (dial-\S+): .*" + re.escape(path))[1] == reason
    vmm.say = "OK"
    with dial(f"tcp:127.0.0.1:{relay.port('guest')}") as c:
        c.send(b"now")
        c.eof()
        assert c.read_all() == b"now"
    relay.wait_quiet()


def test_socket_that_goes_and_returns(world, path):
    """The VM is restarted: the relay does not keep what was."""
    relay = relay_to(world, path)
    for _ in range(3):
        expect_abort(relay)
        vmm = Vmm(path, echo_until_eof)
        with dial(f"tcp:127.0.0.1:{relay.port('guest')}") as c:
            c.send(b"hello")
            c.eof()
            assert c.read_all() == b"hello"
        vmm.stop()
    relay.wait_quiet()


def to_unix(address):
    """A program in the guest that hands on to a Unix socket of ours, such as a QGS in a service VM."""
    def guest(c, ok):
        with c, contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as there:
            there.connect(address.removeprefix("unix:"))
            c.sendall(ok)
            back = threading.Thread(target=copy, args=(there, c))
            back.start()
            copy(c, there)
            back.join()
    return guest


def copy(a, b):
    with contextlib.suppress(OSError):
        while chunk := a.recv(65536):
            b.sendall(chunk)
        b.shutdown(socket.SHUT_WR)


def test_qgs_in_a_guest(world, path):
    """QGS behind a hybrid socket, guests in front of another: it goes, and comes back."""
    qgs = StandIn(world, listen=f"unix:{world.path('inner.sock')}")
    vmm = Vmm(path, to_unix(qgs.address))
    bridge = Bridge(world, f"hybrid:{path}:4050", [listener(world, "hybrid")],
                    qgs_more={"stuck_count": 1}, timeouts={"dial": "500ms"})
    assert ask(bridge.address("hybrid"))["outcome"] == "ok"
    vmm.stop()
    bridge.wait_state("down")
    wait_for(lambda: not os.path.exists(bridge.address("hybrid").removeprefix("unix:")),
             "the guests' socket is taken away")
    assert ask(bridge.address("hybrid"))["errno"] == "ENOENT"
    vmm.start()
    bridge.wait_state("up")
    bridge.wait_metric("sockets", lambda n: n == 1)
    assert ask(bridge.address("hybrid"), client="tdx")["outcome"] == "ok"
    vmm.say = "silence"  # takes connections, and that is all: no QGS
    assert ask(bridge.address("hybrid"))["outcome"] == "closed-early"
    bridge.wait_state("wedged")


def test_qgs_that_crashes_in_a_guest(world, path):
    """Its socket is the VMM's and stays: a connection that stands open tells."""
    qgs = StandIn(world, listen=f"unix:{world.path('inner.sock')}", behave="1.26")
    Vmm(path, to_unix(qgs.address))
    bridge = Bridge(world, f"hybrid:{path}:4050", [listener(world, "hybrid")])
    for _ in range(3):
        assert ask(bridge.address("hybrid"))["outcome"] == "ok"
    bridge.wait_quiet()
    qgs.wait_stats(open=1, connections=4)
    qgs.kill()
    bridge.wait_state("down")
    assert ask(bridge.address("hybrid"))["errno"] == "ENOENT"


def test_guest_that_waits_for_us(world, path):
    """socket: connect at a hybrid address: the bridge goes to the guest's port and waits for it."""
    need("openssl")
    spoken = threading.Event()
    heard = []

    def guest(c, ok):
        with c, contextlib.suppress(OSError):  # the last one is cut at the end
            c.sendall(ok)
            if not spoken.wait(DEADLINE):
                return
            c.sendall(b"asking")
            c.settimeout(DEADLINE)
            heard.append(c.recv(100))

    Vmm(path, guest, port=1995)
    node = Node(world, [{"name": "svsm", "address": f"hybrid:{path}:1995", "socket": "connect",
                         "forward": "service:kbs.acme"}])
    wait_for(lambda: node.bridge.metric("connections") == 0, "nobody has spoken")
    spoken.set()
    service = node.kbs.accept()
    assert service.read_exactly(6) == b"asking"
    service.send(b"answer")
    wait_for(lambda: heard == [b"answer"], "the guest has its answer")
    service.close()
