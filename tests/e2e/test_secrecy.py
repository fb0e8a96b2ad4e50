# No payload and no secret gets out: not into a log, an audit record, metrics, the journal, a command
# line or an environment, whatever clients, agents and operators do right or wrong.
#
# Everything that must stay inside is marked by random words, and all that programs say is searched
# for them, and for what they look like in hex, base64, percent-encoding, or as a token's hash.
import base64
import glob
import hashlib
import http.client
import os
import secrets
import signal
import subprocess
import urllib.parse

import pytest

import qgs
from audit import Journal
from bridge import Bridge, request
from harness import DOMAIN, free_port, token_hash, wait_for
from node import issue_node
from streams import Doors, Service, dial
from test_audit import attempt
from test_egress import tinyproxy
from wire import RawAgent, websocket_message, websocket_open

try:
    from h2_client import H2Client, over_tls
except ImportError:
    H2Client = None


class Marks:
    """Words that must not be seen."""

    def __init__(self):
        self.words, self.hashes = {}, {}

    def new(self, name):
        self.words[name] = secrets.token_hex(16)
        return self.words[name]

    def token(self, name):
        word = self.new(name)
        self.hashes[f"the hash of {name}"] = hashlib.sha256(word.encode()).hexdigest()
        return word

    def key_file(self, name, path):
        """Each line of a PEM file's body."""
        with open(path) as f:
            for i, line in enumerate(f.read().splitlines()[1:-1]):
                if len(line) >= 24:
                    self.words[f"{name}, line {i}"] = line

    def forms(self, hashes):
        for name, word in self.words.items():
            raw = word.encode()
            yield name, raw
            yield f"{name} in hex", raw.hex().encode()
            yield f"{name} percent-encoded", urllib.parse.quote(word, safe="").encode()
            for shift in range(3):  # wherever it stands in what is encoded
                text = base64.b64encode(b"x" * shift + raw)
                yield f"{name} in base64", text[4:-4]
        if hashes:
            for name, word in self.hashes.items():
                yield name, word.encode()
                yield name, bytes.fromhex(word)
                yield name, base64.b64encode(bytes.fromhex(word))[:-2]

    def found_in(self, said):
        """said: {where: bytes}. What is seen there, in words."""
        return [f"{name} in {where}" for where, text in said.items()
                for name, form in self.forms("--dump-config" not in where)
                if form and form.lower() in text.lower()]


class Said:
    """All that programs have said, and what the kernel tells about them."""

    def __init__(self, world):
        self.world, self.texts = world, {}

    def program(self, *argv, name=None, stdin=None):
        r = subprocess.run(argv, capture_output=True, timeout=60, input=stdin, cwd=self.world.folder)
        self.texts[name or " ".join(map(os.path.basename, argv))] = r.stdout + r.stderr
        return r.returncode

    def look(self):
        for p in self.world.programs:
            for what in ("cmdline", "environ"):
                if p.running() and p.name != "tinyproxy":
                    with open(f"/proc/{p.pid}/{what}", "rb") as f:
                        self.texts[f"{p.name}: {what}"] = f.read()

    def metrics(self, name, port):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        c.request("GET", "/metrics")
        self.texts[f"{name}: metrics"] = c.getresponse().read()
        c.close()

    def files(self):
        for pattern in ("*.err", "*.out", "audit*"):
            for path in glob.glob(self.world.path(pattern)):
                if "tinyproxy" not in path:
                    with open(path, "rb") as f:
                        self.texts[os.path.basename(path)] = f.read()
        return self.texts


class Setting:
    """A relay, agents by both carriers and through a proxy, a bridge before QGS and the relay."""

    def __init__(self, world, how):
        self.world, self.marks, self.said = world, Marks(), Said(world)
        m, c = self.marks, world.certificates
        self.up, self.down = m.new("payload up").encode(), m.new("payload down").encode()
        token = m.token("token")
        with open(world.path("acme.token"), "w") as f:
            f.write(token + "\n")
        os.chmod(world.path("acme.token"), 0o600)
        world.tokens["acme"] = (token, world.path("acme.token"))
        pair = issue_node(c, "node-s")
        for name, path in (("the relay's key", c.relay[1]), ("the node's key", pair[1])):
            m.key_file(name, path)
        self.service = world.add(Service(handler=self.serve))
        self.relay = world.relay(
            listeners=[{"name": "ws", "doors": ["websocket"]},
                       {"name": "tcp-near", "service": "near.acme"},
                       {"name": "nodes", "doors": ["connect"], "client_ca": c.ca}],
            services=[{"name": "near.acme", "targets": [self.service.address]},
                      {"name": "dead.acme", "targets": [f"tcp:127.0.0.1:{free_port()}"]}],
            timeouts={"handshake": "2s", "pickup": "500ms"}, **how)
        self.agents(token)
        self.qgs = qgs.StandIn(world)
        unix = f"unix:{world.path('forward.sock')}"
        self.bridge = Bridge(
            world, self.qgs, ["unix", {"name": "forward", "address": unix,
                                       "forward": "service:near.acme"}],
            relay={"addresses": [self.relay.listeners["nodes"]], "server_name": DOMAIN,
                   "ca_file": c.ca, "certificate": pair[0], "key": pair[1]})

    def agents(self, token):
        w, password = self.world, self.marks.new("proxy password")
        here = {"kbs": self.service.address}
        w.agent(self.relay, here)
        port = tinyproxy(w, f"BasicAuth user {password}")
        path = w.path("proxy-credentials")
        with open(path, "w") as f:
            f.write(f"user:{password}\n")
        os.chmod(path, 0o600)
        w.agent(self.relay, here, transport="websocket", proxy=f"http://127.0.0.1:{port}",
                proxy_credentials_file=path)
        wrong, path = self.marks.new("wrong proxy password"), w.path("wrong-credentials")
        with open(path, "w") as f:
            f.write(f"user:{wrong}\n")
        os.chmod(path, 0o600)
        w.agent(self.relay, here, wait=False, proxy=f"http://127.0.0.1:{port}", expect=(0, 1, 3),
                proxy_credentials_file=path, extra=["--once"]).wait()
        for carrier in ("direct", "websocket"):
            path = w.path(f"wrong-{carrier}.token")
            with open(path, "w") as f:
                f.write(self.marks.token(f"wrong token ({carrier})") + "\n")
            os.chmod(path, 0o600)
            w.agent(self.relay, here, wait=False, transport=carrier, token_file=path,
                    expect=(0, 1, 3), extra=["--once"]).wait()
        for word in (token + "\n", "bad token " + token, "x" * 5000 + token):
            attempt(lambda: RawAgent(self.relay, w.certificates, token=word).answer())

    def serve(self, conn):
        while got := conn.recv():
            conn.send(self.down + got[:0])
        conn.eof()

    # clients, whose payload is a mark

    def exchange(self, conn):
        with conn:
            conn.send(self.up)
            assert conn.read_exactly(len(self.down)) == self.down
            conn.eof()
            conn.read_all()

    def good(self):
        doors = Doors(self.relay, self.world.certificates)
        self.exchange(doors.connect_plain("kbs.acme"))
        self.exchange(doors.connect_tls("kbs.acme"))
        self.exchange(doors.connect_plain("near.acme", early=self.up))
        self.exchange(dial(self.relay.listeners["tcp-near"]))
        self.exchange(dial(f"unix:{self.world.path('forward.sock')}"))
        with dial(self.relay.listeners["ws"]) as c:
            query = self.marks.new("query of a WebSocket")
            status, _ = websocket_open(c, path=f"/connect/kbs.acme?token={query}", protocol=None)
            assert status == 101
            c.send(websocket_message(self.up))
            c.read_exactly(len(self.down) + 2)
        if H2Client:
            with H2Client(over_tls(doors.front(), self.world.certificates)) as c:
                s = c.open("near.acme")
                s.send(self.up)
                c.wait(lambda: self.down in s.got)
        with dial(self.bridge.address("unix")) as c:
            c.send(request(self.up.ljust(1024, b"\0")))
            assert c.recv()

    def bad(self):
        marks, front = self.marks, self.relay.listeners["front"]

        def say(address, words):
            with dial(address) as c:
                c.send(words)
                c.eof()
                while c.recv():
                    pass
        secret = {n: marks.new(n) for n in (
            "header", "cookie", "user of CONNECT", "path", "first bytes", "method", "body",
            "bridge's first bytes", "WebSocket's frame", "HTTP/2 header")}
        head = (f"CONNECT nobody.acme:443 HTTP/1.1\r\nProxy-Authorization: Basic "
                f"{base64.b64encode(secret['header'].encode()).decode()}\r\n"
                f"Cookie: {secret['cookie']}\r\n\r\n{secret['body']}").encode()
        for words in (head, head.replace(b"nobody", b"kbs"), head.replace(b"nobody", b"dead"),
                      head.replace(b"HTTP/1.1", b"HTTP/7"), head.replace(b": Basic", b"\0:"),
                      f"CONNECT u:{secret['user of CONNECT']}@kbs.acme:443 HTTP/1.1\r\n\r\n".encode(),
                      f"GET /?{secret['path']} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
                      f"X{secret['method']} / HTTP/1.1\r\n\r\n".encode(),
                      secret["first bytes"].encode(), b"\x16" + secret["first bytes"].encode()):
            for address in (front, self.relay.listeners["ws"]):
                attempt(say, address, words)
        for way in (self.bridge.address("unix"), f"unix:{self.world.path('forward.sock')}"):
            attempt(say, way, secret["bridge's first bytes"].encode() * 3)
        with dial(self.relay.listeners["ws"]) as c:
            websocket_open(c, path="/connect/kbs.acme", protocol=None)
            c.send(websocket_message(secret["WebSocket's frame"].encode(), opcode=1))
            attempt(c.read_all)
        if H2Client:
            with H2Client(over_tls(Doors(self.relay, None).front(), self.world.certificates)) as c:
                s = c.request([(":method", "CONNECT"), (":authority", "nobody.acme"),
                               ("authorization", secret["HTTP/2 header"])])
                c.wait(lambda: s.status)
        with Doors(self.relay, None).connect_plain("kbs.acme", early=self.up) as c:
            c.read_exactly(len(self.down))
            c.abort()

    # operators

    def configs(self):
        """Dumped and checked; and with secrets where they do not belong."""
        relay, tunnel, bridge = (os.environ[f"ATTEST_{x}"] for x in ("RELAY", "TUNNEL", "BRIDGE"))
        for program, path in ((relay, self.relay.path), (tunnel, self.world.path("agent1.yaml")),
                              (tunnel, self.world.path("agent2.yaml")), (bridge, self.bridge.path)):
            for flag in ("--dump-config", "--check-config"):
                assert self.said.program(program, "--config", path, flag) == 0
        with open(self.relay.path) as f:
            good = f.read()
        with open(self.world.path("agent1.yaml")) as f:
            agent = f.read()
        wrong = self.marks.new("secret in a wrong place of a config")
        for i, (program, text) in enumerate((
                (relay, good.replace(token_hash(self.world.token()[0]), wrong)),
                (relay, good.replace("sha256:", f"sha256:{wrong[:-1]}-")),
                (tunnel, agent + f"proxy: http://user:{wrong}@127.0.0.1:3128\n"),
                (tunnel, agent + f"proxy: 'http://user:{wrong}@@[::/'\n"))):
            path = self.world.path(f"wrong-{i}.yaml")
            with open(path, "w") as f:
                f.write(text)
            assert self.said.program(program, "--config", path, "--check-config",
                                     name=f"wrong config {i}") != 0, text

    def run(self):
        self.good()
        self.bad()
        self.configs()
        self.relay.signal(signal.SIGUSR1)
        self.relay.signal(signal.SIGHUP)
        self.relay.wait_quiet()
        self.relay.wait_metric("audit_queued", lambda n: n == 0)
        self.said.look()
        self.said.metrics("relay", self.relay.metrics_port)
        self.said.metrics("bridge", self.bridge.metrics_port)


@pytest.fixture
def debug(monkeypatch):
    monkeypatch.setenv("ATTEST_TEST_LOG", "debug")


def must_be_there(texts, *words):
    """What was searched is what was meant to be."""
    whole = b"\n".join(texts.values())
    for w in words:
        assert w in whole, w


def test_files(world, debug):
    s = Setting(world, {"audit": {"file": world.path("audit")}})
    s.run()
    texts = s.said.files()
    must_be_there(texts, b'"event":"stream-end"', b'"reason":"bad-credential"', b" debug: ",
                  b"attest_relay_refused_total", b"does not take the user name", b"--config\0",
                  b'"reason":"no-door"', b"qgs_bridge_")
    assert s.marks.found_in(texts) == []
    s.marks.words["proof"] = "pickup-timeout"  # and it does find what is there
    assert any("proof in audit" in x for x in s.marks.found_in(texts))


def test_journal(world, debug, monkeypatch):
    journal = world.add(Journal(world, monkeypatch))
    s = Setting(world, {"audit": {"target": "journal"}, "log": {"target": "journal",
                                                               "level": "debug"}})
    s.run()
    wait_for(lambda: len(journal.audit()) >= s.relay.metric("audit_written_total"), "all records")
    texts = s.said.files()
    texts["the journal"] = b"\n".join(journal.raw)
    must_be_there(texts, b"ATTEST_EVENT=stream-end", b"MESSAGE=#", b"ATTEST_REASON=bad-credential",
                  b"PRIORITY=7")
    assert s.marks.found_in(texts) == []
