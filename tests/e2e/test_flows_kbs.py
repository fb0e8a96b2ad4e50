# Guests at a key broker like Trustee's, and at a verifier like Veraison's: HTTPS by host name,
# sessions, the timers of actix.
import http.client
import json
import secrets
import socket
import threading
import time

import pytest

from flows import DOORS, Curl, Kbs, evidence, has_resource
from harness import DOMAIN, MB, wait_for
from node import at_once
from streams import Doors, Service, TlsConn, read_head


def start(world, n=1, **relay):
    """A relay, and so many brokers with an agent each; the first agent is who came first."""
    relay = world.relay(**relay)
    brokers = [world.add(Kbs(world.certificates.server())) for _ in range(n)]
    agents = [world.agent(relay, {"kbs": kbs.address}, name=f"agent-{i}")
              for i, kbs in enumerate(brokers)]
    return relay, brokers, agents


@pytest.mark.parametrize("door", DOORS)
def test_a_session_is_never_split(world, door):
    """20 guests, each call a connection of its own, two brokers: no session's calls are parted."""
    relay, (first, second), _ = start(world, 2)
    clients = [Curl(world, relay, "kbs.acme", door, f"guest-{i}") for i in range(20)]
    assert all(at_once(20, lambda i: has_resource(clients[i], first)))
    assert (len(first.requests), first.accepted, second.accepted) == (60, 60, 0)
    relay.wait_quiet()


def test_broker_lost_within_a_session(world):
    """The other does not know the session and says so; the guest begins anew, and there it ends."""
    relay, (first, second), (agent, _) = start(world, 2)
    client = Curl(world, relay, "kbs.acme", "connect")
    nonce = client.json("/kbs/v0/auth", {})["nonce"]
    agent.kill()
    relay.wait_tunnels(1)
    assert client.ask("/kbs/v0/attest", evidence(nonce))[0] == 401
    assert has_resource(client, second)
    assert (first.requests, len(second.requests)) == (["/kbs/v0/auth"], 4)


@pytest.mark.parametrize("door", DOORS)
def test_large_evidence(world, door):
    """2 MiB is taken, whole; a byte more is the broker's to refuse, and the guest reads why."""
    relay, (kbs,), _ = start(world)
    client = Curl(world, relay, "kbs.acme", door)
    assert has_resource(client, kbs, 2 * MB)
    status, answer = client.ask("/kbs/v0/attest", bytes(2 * MB + 1))
    assert status == 413 and b"too large" in answer


@pytest.mark.parametrize("door", ["connect_plain", "connect_tls"])
def test_dialled_when_the_guest_speaks(world, door):
    """
    A guest whose CONNECT has its answer may take longer than the broker gives a handshake: the
    broker's clock starts with the first byte.
    """
    relay, (kbs,), _ = start(world)
    conn = Doors(relay, world.certificates).open(door, "kbs.acme")
    time.sleep(kbs.HANDSHAKE + 0.5)
    assert kbs.accepted == 0
    tls = TlsConn(conn, world.certificates.client(), name=f"kbs.acme.{DOMAIN}")
    tls.send(b"POST /kbs/v0/auth HTTP/1.1\r\nHost: kbs\r\nContent-Length: 2\r\n\r\n{}")
    head, _ = read_head(tls)
    assert head.startswith(b"HTTP/1.1 200") and (kbs.accepted, kbs.handshakes_failed) == (1, 0)
    tls.close()


def test_never_dialled_for_nobody(world):
    """A tunnel that is up connects to no broker, nor does a guest who breaks off without a byte."""
    relay, (kbs,), _ = start(world)
    for _ in range(5):
        Doors(relay, world.certificates).connect_plain("kbs.acme").abort()
    relay.wait_metric("streams_total", lambda n: n == 5)
    relay.wait_quiet()
    assert kbs.accepted == 0
    assert has_resource(Curl(world, relay, "kbs.acme", "sni"), kbs)
    assert kbs.accepted == 3


def test_kept_alive_and_closed(world):
    """
    A session on one connection; 5 s after its last request the broker closes, which the guest sees
    at once and not when it tries to use it again.
    """
    relay, (kbs,), _ = start(world)
    conn = http.client.HTTPSConnection(f"kbs.acme.{DOMAIN}", timeout=20,
                                       context=world.certificates.client())
    conn._create_connection = lambda *_: socket.create_connection(("127.0.0.1", relay.port()))
    conn.request("POST", "/kbs/v0/auth", b"{}")
    answer = conn.getresponse()
    cookie = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
    nonce = json.loads(answer.read())["nonce"]
    conn.request("POST", "/kbs/v0/attest", evidence(nonce), cookie)
    answer = conn.getresponse()
    assert answer.status == 200 and answer.read()
    assert kbs.accepted == 1
    assert conn.sock.recv(1) == b""
    seen = time.monotonic()
    wait_for(lambda: kbs.closed_idle, "the broker's own end")
    assert seen - kbs.closed_idle[0] < 1
    conn.close()
    relay.wait_quiet()


# ---- challenge and response, as Veraison has it ----

class Verifier:
    """
    newSession gives the URL of a session and a nonce; evidence with it, sent there, is answered
    once. The URL is absolute, made from the Host that the client asked for.
    """

    def __init__(self, context):
        self.context, self.nonces, self.lock = context, {}, threading.Lock()
        self.results, self.service = 0, Service(handler=self.serve)
        self.address = self.service.address

    def serve(self, conn):
        tls = TlsConn(conn, self.context, server_side=True, fin=True)
        head, body = read_head(tls)
        line, *headers = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (x.split(": ", 1) for x in headers)}
        while len(body) < int(headers.get("content-length", 0)):
            body += tls.recv()
        method, path, _ = line.split()
        status, more, answer = self.answer(method, path, headers["host"], body)
        text = json.dumps(answer).encode()
        tls.send(f"HTTP/1.1 {status} X\r\n{more}Content-Length: {len(text)}\r\n"
                 "Connection: close\r\n\r\n".encode() + text)
        tls.eof()

    def answer(self, method, path, host, body):
        with self.lock:
            if path.startswith("/challenge-response/v1/newSession"):
                session, nonce = secrets.token_hex(8), secrets.token_hex(32)
                self.nonces[f"/challenge-response/v1/session/{session}"] = nonce
                where = f"https://{host}/challenge-response/v1/session/{session}"
                return 201, f"Location: {where}\r\n", {"nonce": nonce, "status": "waiting"}
            if path not in self.nonces:
                return 404, "", {"title": "no such session"}
            if body.decode() != self.nonces.pop(path):
                return 400, "", {"title": "the nonce is another one"}
            self.results += 1
            return 200, "", {"status": "complete", "result": "ear"}

    def close(self):
        assert not self.service.errors, self.service.errors
        self.service.close()


@pytest.mark.parametrize("door", DOORS)
def test_challenge_and_response(world, door):
    """The session's URL, as the verifier says it, leads through the relay to that verifier."""
    relay = world.relay()
    first, second = [world.add(Verifier(world.certificates.server())) for _ in range(2)]
    for i, verifier in enumerate((first, second)):
        world.agent(relay, {"veraison": verifier.address}, name=f"agent-{i}")

    def one(i):
        client = Curl(world, relay, "veraison.acme", door, f"guest-{i}")
        status, told = client.ask("/challenge-response/v1/newSession?nonceSize=32", b"", "-D", "-")
        head, _, told = told.partition(b"\r\n\r\n") if door == "sni" else last_head(told)
        assert status == 201
        where = next(x.split(b": ", 1)[1] for x in head.split(b"\r\n") if x.startswith(b"Location"))
        assert where.startswith(f"https://veraison.acme.{DOMAIN}/".encode())
        nonce = json.loads(told)["nonce"].encode()
        done = client.json(where.decode(), nonce)
        assert client.ask(where.decode(), nonce)[0] == 404  # it counts once
        return done["status"] == "complete"
    assert all(at_once(8, one))
    assert (first.results, second.results, second.service.accepted) == (8, 0, 0)


def last_head(told):
    """curl shows the head of the CONNECT's answer first."""
    _, _, rest = told.partition(b"\r\n\r\n")
    return rest.partition(b"\r\n\r\n")
