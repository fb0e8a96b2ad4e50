# Audit records of attest-relay: there is one for all that ends or is refused, wherever they go.
import os
import re
import signal
import socket
import subprocess
import time

import audit
from audit import ENDS, H2_CLIENTS, REFUSALS, SESSIONS, Journal, by_reason, counted, in_namespace, settle
from h2_client import H2Client, over_tls
from harness import DOMAIN, ROOT, Task, data, free_port, token_hash, wait_for
from streams import (Aborted, Doors, Refused, Service, TlsConn, TlsHttpConn, connect_head, dial, echo,
                     http_connect, read_head, roundtrip)
from wire import RawAgent, websocket_open

ROTATED_STREAMS = 1000


def relay_with(world, target, **more):
    """A relay with an audit file and a service whose target is an address."""
    how = more.pop("audit", {})
    if "target" not in how:
        how.setdefault("file", world.path("audit"))
    return world.relay(audit=how,
                       services=[{"name": "near.acme", "targets": [target]}],
                       listeners=[{"name": "tcp-near", "service": "near.acme"}], **more)


def stream(relay, payload=b"hello"):
    with dial(relay.listeners["tcp-near"]) as c:
        roundtrip(c, payload)


def last(world, relay, event):
    settle(relay)
    return [r for r in audit.read(world.path("audit")) if r["event"] == event][-1]


# ---- what a record says ----

def test_stream_by_address(world):
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address)
    with dial(relay.listeners["tcp-near"]) as c:
        port = c.sock.getsockname()[1]
        roundtrip(c, data(12345))
    r = last(world, relay, "stream-end")
    assert 0 <= r.pop("duration_ms") < 30000 and r.pop("id") and r.pop("time")
    assert r == {"event": "stream-end", "reason": "eof", "bytes_up": 12345, "bytes_down": 12345,
                 "listener": "tcp-near", "door": "static", "client": f"tcp:127.0.0.1:{port}",
                 "service": "near.acme", "owner": "acme", "target": svc.address,
                 "target_address": svc.address}


def test_stream_by_tunnel(world):
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address)
    world.agent(relay, {"kbs": svc.address}, transport="websocket", instance="one")
    with Doors(relay, world.certificates).connect_tls("kbs.acme") as c:
        roundtrip(c, data(1000))
    r = last(world, relay, "stream-end")
    start = last(world, relay, "session-start")
    assert r["target"] == "tunnel" and r["tunnel"] == "acme/one" and r["carrier"] == "websocket"
    assert r["door"] == "connect" and r["target_address"] == start["client"]
    assert (start["owner"], start["tunnel"], start["services"], start["carrier"]) == (
        "acme", "acme/one", "kbs.acme", "websocket")
    assert start["listener"] == "front"


def test_h2_client(world):
    """Its connection has a record, beside those of its streams, whatever came of them."""
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address)
    conn = Doors(relay, world.certificates).front()
    port = conn.sock.getsockname()[1]
    with H2Client(over_tls(conn, world.certificates)) as c:
        s = c.open("near.acme")
        s.send(b"hello")
        assert s.read(5) == b"hello"
        c.connect("nobody.acme").refused()
    r = last(world, relay, "connection-end")
    assert 0 <= r.pop("duration_ms") < 30000 and r.pop("time") and r.pop("detail")
    assert r == {"event": "connection-end", "reason": "reset", "streams": 2, "listener": "front",
                 "door": "connect", "client": f"tcp:127.0.0.1:{port}"}
    with H2Client(Doors(relay, world.certificates).front()) as c:
        c.ping()
    assert last(world, relay, "connection-refused")["listener"] == "front"
    assert len([r for r in audit.read(world.path("audit")) if r["event"] == "connection-end"]) == 1


def test_who_is_asking(world):
    """The rule that allows it, the certificate's names, what the config calls the token."""
    svc = world.add(Service(handler=echo))
    token = world.token()[0]
    node = world.certificates.issue("node-audit", f"DNS:node.{DOMAIN}")
    relay = world.relay(
        audit={"file": world.path("audit")},
        listeners=[{"name": "nodes", "doors": ["connect"], "client_ca": world.certificates.ca}],
        owners=[{"name": "acme", "tokens": [{"hash": token_hash(token), "label": "of-spring"}]}],
        clients=[{"name": "the-node", "certificates": [f"dns:node.{DOMAIN}"],
                  "services": ["kbs.acme"]}])
    world.agent(relay, {"kbs": svc.address})
    context = world.certificates.client()
    context.load_cert_chain(*node)
    with http_connect(TlsHttpConn(dial(relay.listeners["nodes"]), context, name=DOMAIN),
                      "kbs.acme") as c:
        roundtrip(c, b"x")
    r = last(world, relay, "stream-end")
    assert r["client_rule"] == "the-node" and r["client_identity"] == f"dns:node.{DOMAIN}", r
    assert last(world, relay, "session-start")["credential"] == "of-spring"
    text = open(world.path("audit")).read()
    assert token not in text and token_hash(token)[7:] not in text


def test_start_of_what_lasts(world):
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address, audit={"start_after": "1s"}, workers=1)

    def starts():
        return [r for r in audit.read(world.path("audit")) if r["event"] == "stream-start"]
    held = [dial(relay.listeners["tcp-near"]) for _ in range(20)]
    stream(relay)
    wait_for(lambda: len(starts()) == 20, "those that last are recorded")
    more = dial(relay.listeners["tcp-near"])
    wait_for(lambda: len(starts()) == 21, "and one that came later")
    for c in [*held, more]:
        roundtrip(c, b"x")
        c.close()
    settle(relay)
    records = audit.read(world.path("audit"))
    ends = {r["id"]: r for r in records if r["event"] == "stream-end"}
    assert len(starts()) == 21 and len(ends) == 22
    short = [r for i, r in ends.items() if i not in {s["id"] for s in starts()}]
    assert len(short) == 1 and short[0]["duration_ms"] < 5000
    for s in starts():
        same = ["listener", "door", "client", "service", "target", "target_address"]
        assert [s[k] for k in same] == [ends[s["id"]][k] for k in same]
        assert ends[s["id"]]["duration_ms"] >= 1000


# ---- none is missing ----

def attempt(run, *args):
    try:
        run(*args)
    except (Aborted, Refused, OSError, EOFError, AssertionError):
        pass


class Mixed:
    """Good and bad clients and agents, by all doors."""

    def __init__(self, world):
        self.world = world
        self.echo = world.add(Service(handler=echo))
        dead = f"tcp:127.0.0.1:{free_port()}"
        self.relay = world.relay(
            audit={"file": world.path("audit")}, timeouts={"handshake": "1s", "pickup": "500ms"},
            listeners=[{"name": "tcp-near", "service": "near.acme"},
                       {"name": "tcp-dead", "service": "dead.acme"},
                       {"name": "ws", "doors": ["websocket"]},
                       {"name": "plain", "doors": ["sni"]},
                       {"name": "nodes", "doors": ["connect"], "client_ca": world.certificates.ca},
                       {"name": "proxied", "doors": ["connect"], "proxy_protocol": "required",
                        "proxy_networks": ["127.0.0.1"]}],
            owners=[world.owner(services=["kbs", "gone", "raw"])],
            services=[{"name": "near.acme", "targets": [self.echo.address]},
                      {"name": "dead.acme", "targets": [dead]}])
        self.agent = world.agent(self.relay, [
            {"name": "kbs", "target": self.echo.address},
            {"name": "gone", "target": dead, "dial": "eager"}])
        self.doors = Doors(self.relay, world.certificates)

    def say(self, listener, words, wait=True):
        with dial(self.relay.listeners[listener]) as c:
            c.send(words)
            while wait and c.recv():
                pass

    def good(self):
        for open_ in (lambda: self.doors.connect_plain("kbs.acme"),
                      lambda: self.doors.connect_tls("near.acme"),
                      lambda: dial(self.relay.listeners["tcp-near"])):
            with open_() as c:
                roundtrip(c, data(5000))
        c = dial(self.relay.listeners["ws"])
        assert websocket_open(c, path="/connect/kbs.acme", protocol=None)[0] == 101
        c.close()

    def sni(self):
        for name in ("nobody.acme", "kbs.nobody", "near.acme", "dead.acme"):
            attempt(lambda: self.doors.sni(name))
        attempt(lambda: TlsConn(dial(self.relay.listeners["plain"]),
                                self.world.certificates.client(), name="192.0.2.1"))
        attempt(self.say, "plain", b"GET / HTTP/1.0\r\n\r\n")

    def http(self):
        for name in ("nobody.acme", "dead.acme", "gone.acme", "raw.acme"):
            attempt(self.doors.connect_plain, name)
        for words in (b"CONNECT nothing HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                      b"POST\0/ HTTP/1.1\r\n\r\n", b"CONNECT " + b"a" * 70000, b"\x16garbage",
                      b"CONN", b"SSH-2.0-x\r\n"):
            attempt(self.say, "front", words)
        attempt(self.say, "nodes", connect_head("kbs.acme"))
        attempt(self.say, "front", b"CONN", False)
        for path in ("/connect/nobody.acme", "/connect/dead.acme", "/elsewhere"):
            c = dial(self.relay.listeners["ws"])
            attempt(lambda: websocket_open(c, path=path, protocol=None))
            c.close()
        attempt(self.say, "ws", b"GET /connect/kbs.acme HTTP/1.1\r\nHost: a\r\n\r\n")

    def h2(self):
        with H2Client(over_tls(self.doors.front(), self.world.certificates)) as c:
            for name in ("kbs.acme:443", "nobody.acme", "dead.acme", "a b"):
                s = c.connect(name)
                c.wait(lambda: s.status or s.reset is not None or c.closed)
        with H2Client(self.doors.front()) as c:
            c.ping()
        with H2Client(dial(self.relay.listeners["nodes"])) as c:
            s = c.connect("kbs.acme")
            c.wait(lambda: s.status)

    def proxied(self):
        for words in (b"PROXY TCP4 192.0.2.9 192.0.2.1 5 443\r\n" + connect_head("nobody.acme"),
                      b"PROXY TCP4 192.0.2.9 192.0.2.1 5 443\r\n" + connect_head("dead.acme"),
                      b"PROXY nonsense\r\n", connect_head("kbs.acme")):
            attempt(self.say, "proxied", words)
        attempt(lambda: socket.create_connection(  # reset before or after it is there
            ("127.0.0.1", self.relay.port("proxied")), 5, ("127.0.0.2", 0)).recv(1))

    def gone(self):
        for listener in ("front", "proxied", "plain"):
            dial(self.relay.listeners[listener]).close()
            with dial(self.relay.listeners[listener]) as c:
                c.abort()
        with self.doors.connect_plain("kbs.acme") as c:
            c.send(b"x")
            assert c.recv() == b"x"
            c.abort()
        with dial(self.relay.listeners["front"]) as c:  # parked, then gone
            c.send(connect_head("raw.acme"))
            self.relay.wait_metric("live_parked", lambda n: n > 0)
            c.abort()

    def agents(self):
        token = self.world.token()[0]
        for how in ({"token": "nobody's"}, {"token": token, "services": ("tang",)},
                    {"token": token, "services": ("kbs", "kbs")}, {"token": ""}):
            attempt(lambda: RawAgent(self.relay, self.world.certificates, **how).answer())
        a = RawAgent(self.relay, self.world.certificates, token=token, services=("raw",)).accepted()
        a.close()
        attempt(lambda: RawAgent(self.relay, self.world.certificates, preface=False, hello=False)
                .conn.send(b"nonsense" * 20))
        tls = TlsConn(self.doors.front(), self.world.certificates.client(), name=DOMAIN)
        attempt(lambda: websocket_open(tls, protocol="another"))
        tls.close()
        tls = TlsConn(self.doors.front(), self.world.certificates.client(), name=DOMAIN)
        attempt(lambda: websocket_open(tls))
        tls.close()


def totals(relay):
    """What is counted and recorded in one: {name: {reason: how many}}, and bytes"""
    names = ("stream_ended_total", "refused_total", "session_ended_total", "h2_client_ended_total")
    return {**{name: counted(relay, name) for name in names},
            **{way: relay.metric("bytes_total", direction=way) for way in ("up", "down")},
            "records": relay.metric("audit_written_total")}


def totals_of(records):
    events = {"stream_ended_total": ENDS, "refused_total": REFUSALS, "session_ended_total": SESSIONS,
              "h2_client_ended_total": H2_CLIENTS}
    return {**{name: by_reason(records, of) for name, of in events.items()},
            **{way: sum(r.get(f"bytes_{way}", 0) for r in records) for way in ("up", "down")},
            "records": len(records)}


def read_all(relay, path):
    """
    The records, once they are as many as counted. A worker counts a moment before its record is in the
    file, and nothing says of a client who has gone already that he waits to be accepted: so they need
    not be at one look, but are as soon as nothing happens any more.
    """
    last = {}

    def look():
        settle(relay)
        records = audit.read(path)
        last.update(counted=totals(relay), recorded=totals_of(records))
        return last["counted"] == last["recorded"] and records
    return wait_for(look, lambda: f"as many records as counted: {last}")


def test_records_are_as_many_as_counted(world):
    m = Mixed(world)
    for part in (m.good, m.sni, m.http, m.h2, m.proxied, m.gone, m.agents, m.good):
        part()
    m.relay.wait_tunnels(1)
    m.relay.wait_metric("session_ended_total", lambda n: n >= 7)
    records = read_all(m.relay, world.path("audit"))
    # or the comparison would say little
    refused, sessions = by_reason(records, REFUSALS), by_reason(records, SESSIONS)
    assert {"unknown-service", "no-door", "protocol", "handshake-timeout", "dial-refused",
            "forbidden", "pickup-timeout", "too-large", "eof", "reset"} <= refused.keys(), refused
    assert {"bad-credential", "forbidden", "protocol"} <= sessions.keys(), sessions
    assert {"eof", "reset"} <= by_reason(records, ENDS).keys()
    assert sum(by_reason(records, H2_CLIENTS).values()) == 2
    assert m.relay.metric("audit_lost_total") == 0
    m.agent.signal(signal.SIGSTOP)  # or it may be back before the relay has stopped listening
    m.relay.stop()
    m.agent.signal(signal.SIGCONT)
    records = audit.read(world.path("audit"))
    of = {e: {r.get("id") for r in records if r["event"] == e} for e in
          ("session-start", "session-end")}
    assert of["session-start"] == of["session-end"] and len(of["session-start"]) == 2
    assert [r["reason"] for r in records if r["event"] == "session-end"][-1] == "shutdown"


# ---- the file ----

def test_rotation(world):
    """Renamed and SIGHUP, again and again: each stream is there once."""
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address)
    path, old = world.path("audit"), []

    def some():
        for _ in range(ROTATED_STREAMS // 8):
            stream(relay)
    tasks = [Task(some) for _ in range(8)]
    while any(t.is_alive() for t in tasks):
        old.append(f"{path}.{len(old)}")
        os.rename(path, old[-1])
        relay.signal(signal.SIGHUP)
        wait_for(lambda: os.path.exists(path), "a fresh file")
        time.sleep(0.05)
    for t in tasks:
        t.result()
    settle(relay)
    files = [f for f in [*old, path] if os.path.getsize(f)]
    ids = [r["id"] for r in audit.read(*files) if r["event"] == "stream-end"]
    assert len(ids) == len(set(ids)) == ROTATED_STREAMS
    assert len(files) > 3
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_disk_full(world, monkeypatch):
    """Streams go on, records wait, and when there is room again none is missing."""
    small = world.path("small")
    os.mkdir(small)
    in_namespace(world, monkeypatch, f"mount -t tmpfs -o size=128k tmpfs {small}\n"
                 f"dd if=/dev/zero of={small}/filler bs=4096 count=28 2>/dev/null")
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address, audit={"file": f"{small}/audit"})
    there = f"/proc/{relay.pid}/root{small}"
    for _ in range(150):
        stream(relay)
    relay.wait_log(r"audit: cannot write to .*: No space left on device")
    assert relay.metric("audit_queued") > 50 and relay.metric("audit_lost_total") == 0
    assert relay.count("audit: cannot write") == 1
    with open(f"{there}/filler", "w"):
        pass
    relay.wait_log("audit: writing to .* again")
    settle(relay)
    records = audit.read(f"{there}/audit")
    assert relay.metric("audit_lost_total") == 0
    assert len({r["id"] for r in records}) == len(records) == 150


def test_unusable_file(world):
    config = world.path("relay.yaml")
    relay = world.relay()
    relay.stop()
    with open(relay.path) as f:
        text = f.read()
    with open(config, "w") as f:
        f.write(text + f"audit: {{file: {world.path('none')}/audit}}\n")
    r = subprocess.run([os.environ["ATTEST_RELAY"], "--config", config], capture_output=True,
                       text=True, timeout=30)
    assert r.returncode == 1
    assert re.search(r"error: cannot write audit records to .*/none/audit: No such file", r.stderr)


# ---- the journal ----

def test_journal(world, monkeypatch):
    journal = world.add(Journal(world, monkeypatch))
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address, audit={"target": "journal"})
    world.agent(relay, {"kbs": svc.address})
    stream(relay)
    attempt(Doors(relay, None).connect_plain, "nobody.acme")
    settle(relay)
    wait_for(lambda: len(journal.audit()) == 3, "three records")
    ids = dict(re.findall(r'^AUDIT\(\w+,\s+"([a-z-]+)",.*?"([0-9a-f]{32})"',
                          open(os.path.join(ROOT, "relay", "audit.def")).read(), re.M))
    assert len(ids) == 11 and len(set(ids.values())) == 11
    for e in journal.audit():
        assert e["MESSAGE_ID"] == ids[e["ATTEST_EVENT"]]
        assert e["SYSLOG_IDENTIFIER"] == "attest-relay" and e["PRIORITY"] in "56"
        assert e["MESSAGE"].startswith(e["ATTEST_EVENT"] + " tcp:127.0.0.1:")
    end = next(e for e in journal.audit() if e["ATTEST_EVENT"] == "stream-end")
    assert end["ATTEST_BYTES_UP"] == end["ATTEST_BYTES_DOWN"] == "5"
    assert end["ATTEST_TARGET_ADDRESS"] == svc.address and end["ATTEST_REASON"] == "eof"
    with open(os.path.join(ROOT, "docs", "audit.md")) as f:
        text = f.read()
    for word, number in ids.items():
        assert re.search(rf"`{word}`.*`{number}`", text), word


def test_stuck_journal(world, monkeypatch):
    """journald that reads nothing costs streams nothing."""
    journal = world.add(Journal(world, monkeypatch))
    svc = world.add(Service(handler=echo))
    relay = relay_with(world, svc.address, audit={"target": "journal"})
    stream(relay)
    wait_for(lambda: len(journal.audit()) == 1, "a record")
    journal.reads.clear()
    stream(relay)  # its reader wakes for one more
    before = time.monotonic()
    for _ in range(1000):
        stream(relay)
    took = time.monotonic() - before
    relay.wait_log("audit: cannot write to .*: it takes nothing more")
    queued = relay.metric("audit_queued")
    assert queued > 300 and relay.metric("audit_lost_total") == 0
    assert took < 60  # the first to wait would wait for ever
    journal.reads.set()
    wait_for(lambda: len(journal.audit()) == 1002, lambda: f"all: {len(journal.audit())}")
    assert len({e["ATTEST_ID"] for e in journal.audit()}) == 1002
