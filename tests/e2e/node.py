# A node whose guests' streams go through qgs-bridge and attest-relay to services elsewhere.
import contextlib
import os
import socket
import struct
import threading

import yaml

from bridge import Bridge
from harness import DOMAIN, Task, data, free_port, wait_for
from streams import Service, dial, echo

FORWARDED = "service:echo.acme"


def issue_node(certificates, name="node-1"):
    """A node's certificate and key, by the CA of certificates."""
    return certificates.issue(name, f"DNS:{name}")


def issue_stranger(world):
    """One that another CA has signed."""
    folder = world.path("stranger")
    os.mkdir(folder)
    c = world.certificates
    base = os.path.join(folder, "node")
    c.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
          f"{base}.key", "-out", f"{base}.csr", "-subj", "/CN=stranger")
    c.run("x509", "-req", "-in", f"{base}.csr", "-CA", "other-ca.pem", "-CAkey", "other-ca.key",
          "-CAcreateserial", "-days", "2", "-out", f"{base}.pem")
    return f"{base}.pem", f"{base}.key"


class Node:
    """Relay with a door for nodes, tunnel, services echo and kbs, and a bridge to all that."""

    def __init__(self, world, listeners=None, agent=True, timeouts=None, relay_more=None,
                 relay_timeouts=None, pair=None, **config):
        self.world = world
        world.node_pair = getattr(world, "node_pair", None) or issue_node(world.certificates)
        self.echo = world.add(Service(handler=echo))
        self.kbs = world.add(Service())
        self.relay = world.relay(
            listeners=[{"name": "nodes", "doors": ["connect"],
                        "client_ca": world.certificates.ca}],
            timeouts={"pickup": "5s", **(relay_timeouts or {})})
        self.agent = self.start_agent() if agent else None
        self.relay_leg = {
            "addresses": [self.relay.listeners["nodes"]], "server_name": DOMAIN,
            "ca_file": world.certificates.ca, **(relay_more or {})}
        pair = world.node_pair if pair is None else pair
        if pair:
            self.relay_leg.update(certificate=pair[0], key=pair[1])
        self.timeouts = {"pickup": "5s", "drain": "5s", **(timeouts or {})}
        self.listeners, self.config = listeners or [self.unix("unix")], config
        self.start_bridge()

    def start_bridge(self):
        self.bridge = Bridge(self.world, None, self.listeners, wait=False, relay=self.relay_leg,
                             timeouts=self.timeouts, **self.config)
        if not any("*" in x["address"] for x in self.listeners):
            self.bridge.wait_metric("sockets", lambda n: n == len(self.listeners))

    def start_agent(self, **more):
        return self.world.agent(self.relay, {"echo": self.echo.address, "kbs": self.kbs.address},
                                name="tunnel", **more)

    def unix(self, name, forward=FORWARDED, **more):
        return {"name": name, "address": f"unix:{self.world.path(name + '.sock')}",
                "forward": forward, **more}

    def guest(self, listener="unix"):
        return dial(self.bridge.address(listener))

    def pair(self, listener="unix", early=b"first"):
        """A guest and its end at the service kbs."""
        guest = self.guest(listener)
        guest.send(early)
        service = self.kbs.accept()
        assert service.read_exactly(len(early)) == early
        return guest, service

    def nodes_connected(self):
        """Connections at the relay but that of the tunnel."""
        return self.relay.metric("connections") - self.relay.metric("live_tunnels")

    def wait_quiet(self):
        self.bridge.wait_metric("connections", lambda n: n == 0)
        self.bridge.wait_metric("relay_streams", lambda n: n == 0)
        self.bridge.wait_metric("relay_waiting", lambda n: n == 0)
        self.relay.wait_quiet()

    def ended(self, reason):
        return self.bridge.metric("streams_total", reason=reason)


def listeners_of(world, forward=FORWARDED, names=("unix", "tcp", "pattern")):
    """One of each kind that needs no AF_VSOCK; pattern: hybrid, a socket for each VM's folder."""
    os.makedirs(world.path("vms"), exist_ok=True)
    all_of_them = {
        "unix": f"unix:{world.path('guest.sock')}",
        "tcp": f"tcp:127.0.0.1:{free_port()}",
        "pattern": f"hybrid:{world.path('vms')}/*/vm.vsock:8080",
    }
    return [{"name": n, "address": all_of_them[n], "forward": forward} for n in names]


def make_vm(world, name):
    """A VM's folder, and where its guest's port 8080 is soon to be."""
    os.mkdir(os.path.join(world.path("vms"), name))
    path = os.path.join(world.path("vms"), name, "vm.vsock_8080")
    wait_for(lambda: os.path.exists(path), f"{path}: the socket of a VM that has come")
    return f"unix:{path}"


def drop_in(folder, name, content):
    """Written whole, then renamed into place."""
    hidden = os.path.join(folder, f".{name}")
    with open(hidden, "w") as f:
        yaml.safe_dump(content, f)
    os.rename(hidden, os.path.join(folder, f"{name}.yaml"))


class Serial:
    """
    A service like aproxy: one client at a time, two rounds of a length and so many bytes, and then
    it waits for its client's end. Whatever is wrong ends it; world-wise it is started again.
    """

    def __init__(self):
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"tcp:127.0.0.1:{self.sock.getsockname()[1]}"
        self.served = self.restarts = self.most = self.now = 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                with contextlib.closing(self.sock.accept()[0]) as s:
                    self.now += 1
                    self.most = max(self.most, self.now)
                    try:
                        self.serve(s)
                        self.served += 1
                    except (OSError, AssertionError, struct.error):
                        self.restarts += 1
                    self.now -= 1
            except OSError:
                return

    @staticmethod
    def message(s):
        def exactly(n):
            got = b""
            while len(got) < n:
                more = s.recv(n - len(got))
                assert more, "it ended too early"
                got += more
            return got
        size, = struct.unpack("<Q", exactly(8))
        assert size < 1 << 20
        return exactly(size)

    def serve(self, s):
        s.settimeout(20)
        for _ in range(2):
            got = self.message(s)
            s.sendall(struct.pack("<Q", len(got)) + got[::-1])
        assert s.recv(1) == b"", "more than two requests"

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def attest(conn, sizes=(400, 3000)):
    """What SVSM says to aproxy: two round trips, then its end."""
    for size in sizes:
        report = data(size)
        conn.send(struct.pack("<Q", size) + report)
        assert struct.unpack("<Q", conn.read_exactly(8)) == (size,)
        assert conn.read_exactly(size) == report[::-1]
    conn.close()


def at_once(n, run):
    """run(i) in so many threads; their results."""
    return [t.result() for t in [Task(run, i) for i in range(n)]]
