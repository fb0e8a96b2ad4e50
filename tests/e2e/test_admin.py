# The admin API of attest-relay: what it says is what the test did, and what it closes is that alone.
import contextlib
import json
import os
import re
import signal
import socket
import threading

import pytest

from admin import Admin
from bridge import Bridge
from harness import ROOT, Task, data, free_port, wait_for
from qgs import StandIn, ask
from streams import Aborted, Service, dial, echo, roundtrip
from wire import RawAgent


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def start(world, svc, **more):
    """A relay with an admin socket, a service by a tunnel and one by an address."""
    more.setdefault("owners", [world.owner("acme")])
    relay = world.relay(
        listeners=[{"name": "direct", "service": "echo.acme"}, {"name": "kbs", "service": "kbs.acme"}],
        services=[{"name": "echo.acme", "targets": [svc.address]}], audit={"file": world.path("audit.jsonl")},
        admin=f"unix:{world.path('admin.sock')}", status=f"tcp:127.0.0.1:{free_port()}", **more)
    return relay, Admin(world.path("admin.sock"))


def held(address, n):
    """n streams that have passed a byte each way"""
    streams = [dial(address) for _ in range(n)]
    for s in streams:
        s.send(b"x")
    for s in streams:
        assert s.read_exactly(1) == b"x"
    return streams


def close_all(streams):
    for s in streams:
        s.close()


def test_status(world, svc):
    relay, admin = start(world, svc)
    world.agent(relay, {"kbs": svc.address})
    streams = held(relay.listeners["direct"], 3) + held(relay.listeners["kbs"], 2)
    status = admin.get("/v1/status")
    assert status["program"] == "attest-relay" and status["pid"] == relay.pid
    assert status["generation"] == 1 and status["draining"] is False and status["workers"] == 2
    assert status["workers_stuck"] == 0 and "last_reload" not in status
    counts = status["counts"]
    assert (counts["streams"], counts["tunnels"], counts["parked"]) == (5, 1, 0)
    assert status["audit"]["on"] is True and status["audit"]["lost_total"] == 0
    close_all(streams)
    relay.wait_quiet()
    assert admin.get("/v1/status")["counts"]["streams_total"] == 5


def test_streams(world, svc):
    relay, admin = start(world, svc)
    world.agent(relay, {"kbs": svc.address}, instance="one")
    a = held(relay.listeners["direct"], 2)
    b = held(relay.listeners["kbs"], 1)
    b[0].send(b"y" * 9999)
    assert b[0].read_exactly(9999)
    streams = admin.all("streams")
    assert len(streams) == 3 and [s["id"] for s in streams] == sorted(s["id"] for s in streams)
    tunnel, = admin.get("/v1/tunnels")["tunnels"]
    kbs, = [s for s in streams if s["service"] == "kbs.acme"]
    assert kbs["bytes_up"] == kbs["bytes_down"] == 10000
    assert kbs["state"] == "joined" and kbs["owner"] == "acme" and kbs["door"] == "static"
    assert kbs["listener"] == "kbs" and kbs["target"] == "tunnel" and kbs["tunnel"] == "acme/one"
    assert kbs["tunnel_id"] == tunnel["id"] and kbs["carrier"] == "direct"
    host, port = b[0].sock.getsockname()
    assert kbs["client"] == f"tcp:{host}:{port}"
    direct = [s for s in streams if s["service"] == "echo.acme"]
    assert all(s["target"] == svc.address and "tunnel" not in s for s in direct)
    # filters
    def count(query):
        return len(admin.get(f"/v1/streams?{query}")["streams"])
    assert count("service=kbs.acme") == 1 and count("service=none.acme") == 0
    assert count("owner=acme") == 3 and count("owner=acm") == 0
    assert count(f"tunnel={tunnel['id']}") == 1 and count("tunnel=1") == 0
    assert count(f"client=tcp:{host}:{port}") == 1 and count(f"client=tcp:{host}") == 3
    assert count("client=tcp:127.0.0") == 0
    # a tunnel tells the same
    assert tunnel["owner"] == "acme" and tunnel["instance"] == "one" and tunnel["state"] == "up"
    assert tunnel["streams"] == 1 and tunnel["streams_total"] == 1
    assert tunnel["services"] == "kbs.acme" and tunnel["listener"] == "front"
    close_all(a + b)
    relay.wait_quiet()
    assert admin.all("streams") == []


def test_parked(world, svc):
    """One that waits is told as such, and can be closed like any other."""
    relay, admin = start(world, svc, timeouts={"pickup": "1min"})
    waiting = dial(relay.listeners["kbs"])
    relay.wait_metric("live_parked", lambda v: v == 1)
    stream, = admin.all("streams")
    assert stream["state"] == "parked" and stream["bytes_up"] == 0 and "target" not in stream
    assert admin.post(f"/v1/streams/{stream['id']}/close") == {"closed": 1}
    with pytest.raises(Aborted):
        waiting.read_all()
    relay.wait_quiet()
    assert relay.metric("refused_total", reason="closed-by-admin") == 1


def test_close(world, svc):
    """Exactly the one that is named ends, with a reason of its own."""
    relay, admin = start(world, svc)
    agent = world.agent(relay, {"kbs": svc.address}, instance="one")
    other = world.agent(relay, {"tang": svc.address}, instance="two")
    streams = held(relay.listeners["direct"], 3)
    ports = {s["client"].rsplit(":", 1)[1]: s["id"] for s in admin.all("streams")}
    victim = streams[1]
    number = ports[str(victim.sock.getsockname()[1])]
    admin.post(f"/v1/streams/{number}/close")
    with pytest.raises(Aborted):
        victim.read_all()
    for s in (streams[0], streams[2]):
        s.send(b"still")
        assert s.read_exactly(5) == b"still"
    assert relay.metric("stream_ended_total", reason="closed-by-admin") == 1
    assert len(admin.all("streams")) == 2
    admin.post(f"/v1/streams/{number}/close", status=404)
    # the same of a tunnel: its streams end with it, the agent comes back
    inside = held(relay.listeners["kbs"], 1)
    one, = [t for t in admin.all("tunnels") if t["instance"] == "one"]
    two, = [t for t in admin.all("tunnels") if t["instance"] == "two"]
    admin.post(f"/v1/tunnels/{one['id']}/close")
    with pytest.raises(Aborted):
        inside[0].read_all()
    agent.wait_log("lost after")
    def back():
        return {t["instance"]: t["id"] for t in admin.all("tunnels")}
    wait_for(lambda: back().get("one", one["id"]) != one["id"], "the agent is back")
    assert back()["two"] == two["id"] and other.running()
    assert relay.metric("session_ended_total", reason="closed-by-admin") == 1
    for bad in ("0", "x", "", "-1", "1x", f"{number}/", "18446744073709551616"):
        admin.post(f"/v1/streams/{bad}/close", status=404)
    close_all(streams[::2])


def test_who_did_it(world, svc):
    """Each change is in the log and in the audit, with who asked."""
    relay, admin = start(world, svc)
    admin.post("/v1/log", {"level": "debug"})
    admin.post("/v1/streams/77/close", status=404)
    relay.wait_log(f"admin: uid {os.getuid()}, pid {os.getpid()}: POST /v1/log")

    def records():
        with open(world.path("audit.jsonl")) as f:
            return [r for r in map(json.loads, f) if r["event"] == "admin"]
    wait_for(lambda: len(records()) == 2, "two audit records")
    assert [r["detail"] for r in records()] == ["POST /v1/log", "POST /v1/streams/77/close"]
    assert all(r["client"] == f"unix:pid={os.getpid()},uid={os.getuid()}" for r in records())
    # reading leaves no record
    admin.get("/v1/status")
    assert len(records()) == 2


def test_paging_under_change(world, svc):
    """Streams come and go between pages: those that stay are each told once."""
    relay, admin = start(world, svc, limits={"connections": 8000, "per_source": {"connections": 8000,
                         "streams": 8000, "opens_per_second": 100000}, "per_owner": {"streams": 8000,
                         "opens_per_second": 100000}})
    stay = held(relay.listeners["direct"], 1500)
    go = held(relay.listeners["direct"], 300)
    staying = {f"tcp:127.0.0.1:{s.sock.getsockname()[1]}" for s in stay}
    seen, after = [], 0
    while True:
        page = admin.get(f"/v1/streams?limit=200&after={after}")
        seen += page["streams"]
        if "next" not in page:
            break
        after = page["next"]
        for _ in range(20):
            if go:
                go.pop().close()
        stay += held(relay.listeners["direct"], 5)
    ids = [s["id"] for s in seen]
    assert len(ids) == len(set(ids)) and ids == sorted(ids)
    assert staying <= {s["client"] for s in seen}
    close_all(stay + go)
    relay.wait_quiet()


def test_names(world, svc):
    """Listeners, owners, services, limits: as configured, with what the test did."""
    owners = [world.owner("acme", limits={"streams": 7}), world.owner("other")]
    relay, admin = start(world, svc, owners=owners)
    world.agent(relay, {"kbs": svc.address, "tang": svc.address})
    streams = held(relay.listeners["direct"], 2) + held(relay.listeners["kbs"], 1)
    listeners = {x["name"]: x for x in admin.get("/v1/listeners")["listeners"]}
    assert set(listeners) == {"front", "direct", "kbs"}
    assert listeners["front"]["doors"] == ["tunnel", "sni", "connect"]
    assert listeners["direct"]["service"] == "echo.acme" and listeners["direct"]["open"] is True
    assert listeners["direct"]["accepted_total"] == 2
    assert listeners["kbs"]["bound"] == relay.listeners["kbs"]
    owner = {x["name"]: x for x in admin.get("/v1/owners")["owners"]}
    assert set(owner) == {"acme", "other"}
    assert owner["acme"]["limits"]["streams"] == {"used": 3, "most": 7}
    assert owner["acme"]["limits"]["tunnels"]["used"] == 1
    assert owner["acme"]["streams"] == 3 and owner["other"]["limits"]["tunnels"]["used"] == 0
    services = {x["name"]: x for x in admin.get("/v1/services")["services"]}
    assert set(services) == {"echo.acme", "kbs.acme", "tang.acme"}
    assert services["echo.acme"]["configured"] and not services["tang.acme"]["configured"]
    assert services["echo.acme"]["targets"] == [{"address": svc.address, "up": True}]
    assert services["kbs.acme"]["tunnels"] == 1 and services["kbs.acme"]["streams"] == 1
    assert all(s["ready"] for s in services.values())
    limits = {(x["scope"], x.get("name"), x["what"]): x for x in admin.get("/v1/limits")["limits"]}
    assert limits["owner", "acme", "streams"]["used"] == 3
    assert limits["all", None, "tunnels"]["used"] == 1
    top = admin.get("/v1/limits")["sources"]["top"]
    assert top[0]["source"] == "127.0.0.1" and top[0]["streams"] == 3
    close_all(streams)


def test_ready(world, svc):
    relay, admin = start(world, svc)
    assert admin.get("/v1/services/echo.acme/ready")["ready"] is True
    assert admin.get("/v1/services/kbs.acme/ready", 503)["ready"] is False
    admin.get("/v1/services/kbs.nobody/ready", 404)
    admin.get("/v1/services/kbs.acme/steady", 404)
    world.agent(relay, {"kbs": svc.address})
    assert admin.get("/v1/services/kbs.acme/ready")["tunnels"] == 1


def test_failures(world, svc):
    relay, admin = start(world, svc, timeouts={"pickup": "100ms"})
    with pytest.raises(Aborted):
        dial(relay.listeners["kbs"]).read_all()
    relay.wait_quiet()
    failure, = admin.get("/v1/failures")["failures"]
    assert failure["reason"] == "pickup-timeout" and failure["event"] == "stream-refused"
    assert failure["service"] == "kbs.acme" and failure["listener"] == "kbs"
    with RawAgent(relay, world.certificates, token="nobody's").conn as agent:
        agent.read_all()
    failure, _ = wait_for(lambda: (f := admin.get("/v1/failures")["failures"]) and len(f) == 2 and f,
                          "the agent's failure")
    assert failure["event"] == "session-refused" and failure["reason"] == "bad-credential"
    assert failure["listener"] == "front"
    for _ in range(300):
        with contextlib.suppress(Aborted):  # one source has not that many a second
            dial(relay.listeners["kbs"]).close()
    relay.wait_quiet()
    last = admin.get("/v1/failures")["failures"]
    assert len(last) == 256 and [f["number"] for f in last] == sorted(
        (f["number"] for f in last), reverse=True)


def test_config_and_secrets(world, svc):
    """The config in effect, as --dump-config has it; no answer has a token or a key."""
    relay, admin = start(world, svc)
    token, path = world.token("acme")
    world.agent(relay, {"kbs": svc.address})
    config = admin.get("/v1/config")
    assert config["file"] == relay.path and config["generation"] == 1
    assert "name: \"direct\"" in config["yaml"]
    texts = [json.dumps(admin.get(f"/v1/{what}")) for what in
             ("status", "listeners", "owners", "services", "tunnels", "streams", "limits", "failures", "config")]
    with open(world.certificates.relay[1]) as f:
        key = f.read().splitlines()[1]
    for text in texts:
        assert token not in text and key not in text


def names(answer):
    """Every member of an answer, at whatever depth"""
    if isinstance(answer, dict):
        return set(answer).union(*map(names, answer.values()))
    return set().union(*map(names, answer)) if isinstance(answer, list) else set()


def test_all_is_documented(world, svc):
    """Each field that any answer has is in docs/admin-api.md."""
    relay, admin = start(world, svc, timeouts={"pickup": "100ms", "ping": "50ms"})
    path = world.path("agent.sock")
    world.agent(relay, {"kbs": svc.address}, admin=f"unix:{path}", timeouts={"ping": "1h", "dead": "2h"})
    wait_for(lambda: "rtt_us" in admin.get("/v1/tunnels")["tunnels"][0], "a ping came back")
    assert "rtt_us" not in Admin(path).get("/v1/relays")["relays"][0]  # what is not known is left out
    streams = held(relay.listeners["direct"], 1) + held(relay.listeners["kbs"], 1)
    relay.write_config(owners=[{"name": "bad name", "tokens": ["x"]}])
    admin.post("/v1/reload", status=422)
    qgs = StandIn(world)
    bridge = Bridge(world, qgs, admin=f"unix:{world.path('bridge-admin.sock')}")
    ask(bridge.address())
    seen = set()
    for of, routes in ((admin, ("status", "listeners", "owners", "services", "services/kbs.acme/ready", "tunnels",
                                "streams?limit=9", "limits", "failures", "config")),
                       (Admin(path), ("status", "relays", "services", "streams", "listeners", "config")),
                       (Admin(world.path("bridge-admin.sock")), ("status", "listeners", "vms", "config"))):
        for route in routes:
            seen |= names(of.get(f"/v1/{route}"))
    with open(os.path.join(ROOT, "docs", "admin-api.md")) as f:
        told = set(re.findall(r"`(\w+)`", f.read()))
    with open(os.path.join(ROOT, "docs", "metrics.md")) as f:
        told |= set(re.findall(r"`([\w-]+)`", f.read()))
    assert {"tunnel_id", "rtt_us", "waited_ms_max"} <= seen
    assert not seen - told
    close_all(streams)


def test_reload(world, svc):
    relay, admin = start(world, svc)
    relay.write_config(owners=[world.owner("acme"), world.owner("more")])
    assert admin.post("/v1/reload")["generation"] == 2
    assert admin.get("/v1/status")["last_reload"]["ok"] is True
    assert {o["name"] for o in admin.get("/v1/owners")["owners"]} == {"acme", "more"}
    relay.write_config(owners=[{"name": "bad name", "tokens": ["x"]}])
    error = admin.post("/v1/reload", status=422)["error"]
    assert error["code"] == "reload" and "owners" in error["message"] or "name" in error["message"]
    status = admin.get("/v1/status")
    assert status["generation"] == 2 and status["last_reload"]["ok"] is False
    assert status["last_reload"]["error"] == error["message"]


def test_drain(world, svc):
    relay, admin = start(world, svc, timeouts={"drain": "1min"})
    streams = held(relay.listeners["direct"], 1)
    assert admin.post("/v1/drain", status=202) == {"done": "drain"}
    assert admin.get("/v1/status")["draining"] is True
    admin.get("/readyz", 503)
    assert admin.post("/v1/reload", status=409)["error"]["code"] == "reload"
    streams[0].send(b"end")
    assert streams[0].read_exactly(3) == b"end"
    close_all(streams)
    assert relay.wait() == 0
    assert not os.path.exists(world.path("admin.sock"))


def test_scopes(world, svc):
    """TCP shows and changes nothing; metrics are metrics; and only this machine's name is answered."""
    relay, admin = start(world, svc)
    port = int(relay.config["status"].rsplit(":", 1)[1])

    def tcp(port, request):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.settimeout(30)
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            text = b""
            while chunk := s.recv(65536):
                text += chunk
        return text

    def get(port, path, host=b"localhost", method=b"GET"):
        text = tcp(port, method + b" " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        return int(text.split(b" ", 2)[1]), text
    status, text = get(port, b"/v1/status")
    assert status == 200 and b"nosniff" in text and b"default-src 'self'" in text
    assert b"frame-ancestors 'none'" in text and b"Cache-Control: no-store" in text
    assert b"Access-Control" not in text
    for host in (b"127.0.0.1:80", b"[::1]", b"[::1]:1", b"LOCALHOST:7"):
        assert get(port, b"/v1/status", host)[0] == 200, host
    for host in (b"evil.example", b"127.0.0.1.evil.example", b"10.0.0.1", b"", b"localhost.evil"):
        assert get(port, b"/v1/status", host)[0] in (400, 421), host
    for path in (b"/v1/drain", b"/v1/reload", b"/v1/streams/1/close"):
        assert get(port, path, method=b"POST")[0] in (404, 405), path
    assert get(port, b"/v1/config")[0] == 404  # has what not everybody on this machine may read
    assert get(port, b"/metrics")[0] == 200
    assert get(relay.metrics_port, b"/metrics", b"any.example")[0] == 200
    assert get(relay.metrics_port, b"/v1/status")[0] == 404
    assert get(relay.metrics_port, b"/")[0] == 404
    assert relay.running() and admin.get("/v1/status")["draining"] is False


def test_who_may(world, svc):
    """The socket's mode says who may connect: nobody else by default."""
    if os.getuid() != 0:
        pytest.skip("needs another user")
    relay, admin = start(world, svc)
    assert os.stat(admin.path).st_mode & 0o777 == 0o600

    def as_nobody():
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                admin.raw()
                os._exit(1)
            except PermissionError:
                os._exit(0)
            finally:
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for folder in (world.folder,):
        os.chmod(folder, 0o755)
    assert as_nobody() == 0
    assert relay.running()


def test_who_may_not(world, svc):
    """A socket without a path is open to all; changes are root's and ours, and others' tries are written down."""
    if os.getuid() != 0:
        pytest.skip("needs another user")
    name = f"attest-test-{os.getpid()}-{free_port()}"
    relay = world.relay(services=[{"name": "echo.acme", "targets": [svc.address]}],
                        audit={"file": world.path("audit.jsonl")}, admin=f"unix:@{name}")
    admin = Admin("\0" + name)

    def as_nobody(method, path):
        pid = os.fork()
        if pid == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                os._exit(admin.ask(method, path)[0] - 200)  # an exit status has eight bits
            finally:
                os._exit(255)
        return pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) + 200
    assert as_nobody("GET", "/v1/status")[1] == 200
    pid, status = as_nobody("POST", "/v1/drain")
    assert status == 403
    relay.wait_log(f"admin: uid 65534, pid {pid}: refused: POST /v1/drain")

    def records():
        with open(world.path("audit.jsonl")) as f:
            return [(r["client"], r["detail"]) for r in map(json.loads, f) if r["event"] == "admin"]
    wait_for(records, "an audit record")
    assert records() == [(f"unix:pid={pid},uid=65534", "refused: POST /v1/drain")]
    assert admin.get("/v1/status")["draining"] is False
    assert admin.post("/v1/log", {"level": "info"}) == {"level": "info"}


BAD = [
    (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),
    (b"GET  /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", 413),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", 400),
    (b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"level\":", 400),
    (b"GET /v1/streams?limit=x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v1/streams?limit=1001 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v1/streams?after=18446744073709551616 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /v1/streams?service=" + b"a" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    (b"DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"GET /v1/drain HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    (b"GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
]


def test_hostile(world, svc):
    """What is no good request gets its status, costs its connection, and nothing else."""
    relay, admin = start(world, svc)
    for request, status in BAD:
        s = admin.raw()
        s.sendall(request)
        s.shutdown(socket.SHUT_WR)
        text = b""
        while chunk := s.recv(65536):
            text += chunk
        assert text.startswith(b"HTTP/1.1 %d " % status), (request[:60], text[:200])
        s.close()
    # sent ahead: answered in turn
    s = admin.raw()
    s.sendall(b"GET /v1/streams HTTP/1.1\r\nHost: x\r\n\r\n" * 50 +
              b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = b""
    while chunk := s.recv(65536):
        text += chunk
    assert text.count(b"HTTP/1.1 200 ") == 51
    s.close()
    # a byte at a time
    s = admin.raw()
    for byte in b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{\"level\":\"info\"}":
        s.sendall(bytes([byte]))
    assert s.recv(100).startswith(b"HTTP/1.1 200 ")
    s.close()
    # HEAD is GET without the body
    code, body, headers = admin.ask("HEAD", "/v1/status")
    assert code == 200 and int(headers["Content-Length"]) > 0
    assert admin.get("/v1/status")["pid"] == relay.pid


def test_gone_early(world, svc):
    """Clients that leave before an answer, or never take one, hurt nobody."""
    relay, admin = start(world, svc)
    streams = held(relay.listeners["direct"], 50)
    for i in range(200):
        s = admin.raw()
        s.sendall(b"GET /v1/streams?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        if i % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    stuck = [admin.raw() for _ in range(10)]
    for s in stuck:
        s.sendall(b"GET /v1/streams HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    half = [admin.raw() for _ in range(20)]
    for s in half:
        s.sendall(b"GET /v1/sta")
    assert len(admin.all("streams")) == 50
    close_all([*stuck, *half, *streams])
    relay.wait_quiet()


def test_full_listener(world, svc):
    """Who takes all connections of one listener keeps nobody from another."""
    relay, admin = start(world, svc)
    held_open = [socket.create_connection(("127.0.0.1", relay.metrics_port)) for _ in range(100)]
    for s in held_open:
        s.sendall(b"GET /met")
    assert admin.get("/v1/status")["pid"] == relay.pid
    late = socket.create_connection(("127.0.0.1", relay.metrics_port))
    late.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
    close_all(held_open)
    assert late.recv(100).startswith(b"HTTP/1.1 200 ")
    late.close()


def test_many(world, svc):
    """Fifty at once, and more connections than there may be: all are answered."""
    relay, admin = start(world, svc)
    streams = held(relay.listeners["direct"], 20)
    results = []

    def ask():
        for _ in range(4):
            results.append(len(admin.all("streams")))
    threads = [threading.Thread(target=ask) for _ in range(100)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [20] * 400
    close_all(streams)


def test_all_at_once(world, svc):
    """Lists, closes, reloads and new streams at the same time: every answer is whole, and nothing is left."""
    relay, admin = start(world, svc, timeouts={"pickup": "200ms", "drain": "30s"}, workers=2,
                         limits={"per_source": {"opens_per_second": 100000}})
    world.agent(relay, {"kbs": svc.address}, instance="one")
    world.agent(relay, {"kbs": svc.address}, instance="two")
    over = threading.Event()
    wrong = []

    def until_over(step):
        def run():
            try:
                while not over.is_set():
                    step()
            except Exception as e:  # told by the main thread
                wrong.append(e)
        return threading.Thread(target=run)

    def clients():
        for name in ("direct", "kbs", "kbs"):
            try:
                with dial(relay.listeners[name]).sock as s:
                    s.sendall(b"x")
                    s.recv(1)
            except (Aborted, ConnectionError):
                pass  # closed by then, at whatever step

    def closes():
        for what in ("streams", "streams", "tunnels"):
            for one in admin.get(f"/v1/{what}?limit=3")[what]:
                code, answer, _ = admin.ask("POST", f"/v1/{what}/{one['id']}/close")
                assert (code, answer) == (200, {"closed": 1}) or code == 404, (code, answer)

    def looks():
        for path in ("streams", "tunnels", "services", "owners", "limits", "failures", "status", "listeners"):
            admin.get(f"/v1/{path}")
        s = admin.raw()
        s.sendall(b"GET /v1/streams HTTP/1.1\r\nHost: x\r\n\r\n")
        s.close()

    threads = [until_over(f) for f in (clients, clients, clients, closes, looks, looks)]
    for t in threads:
        t.start()
    try:
        for n in range(40):
            relay.write_config(limits={"connections": 1000 + n, "per_source": {"opens_per_second": 100000}})
            relay.signal(signal.SIGHUP)
            two = [Task(lambda: admin.post("/v1/reload")["generation"]) for _ in range(2)]
            assert len({t.result() for t in two}) == 2
    finally:
        over.set()
        for t in threads:
            t.join()
    assert not wrong, wrong
    relay.wait_quiet()
    assert admin.get("/v1/limits")["limits"][0]["most"] == 1039


def test_stuck_worker(world, svc):
    """A whole process that stands still answers nothing; once it goes on, those who waited are told."""
    relay, admin = start(world, svc)
    s = admin.raw()
    os.kill(relay.pid, signal.SIGSTOP)
    try:
        s.sendall(b"GET /v1/streams HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    finally:
        os.kill(relay.pid, signal.SIGCONT)
    assert s.recv(100).startswith(b"HTTP/1.1 200 ")
    s.close()


def test_status_changes_with_traffic(world, svc):
    """A counter of bytes follows a stream that is still open."""
    relay, admin = start(world, svc)
    c = dial(relay.listeners["direct"])
    payload = data(1_000_000)
    task = Task(lambda: c.send(payload))
    assert len(c.read_exactly(len(payload))) == len(payload)
    task.result()
    stream, = admin.all("streams")
    assert stream["bytes_up"] == stream["bytes_down"] == len(payload)
    assert roundtrip
    c.close()


def test_agent(world, svc):
    """attest-tunnel tells of its relays and services, and can be told to read again and to end."""
    relay, _ = start(world, svc)
    path = world.path("agent.sock")
    agent = world.agent(relay, {"kbs": svc.address}, instance="one", admin=f"unix:{path}",
                        local=[{"address": f"unix:{world.path('local.sock')}", "service": "echo.acme"}])
    admin = Admin(path)
    streams = held(relay.listeners["kbs"], 2)
    status = admin.get("/v1/status")
    assert status["program"] == "attest-tunnel" and status["pid"] == agent.pid
    assert status["instance"] == "one" and status["problems"] == []
    assert status["counts"]["relays_up"] == 1 and status["counts"]["streams"] == 2
    link, = admin.get("/v1/relays")["relays"]
    assert (link["state"], link["owner"], link["streams"]) == ("up", "acme", 2)
    assert link["address"] == f"tcp:127.0.0.1:{relay.port()}" and "error" not in link
    service, = admin.get("/v1/services")["services"]
    assert (service["name"], service["target"], service["streams"]) == ("kbs", svc.address, 2)
    local, = admin.get("/v1/listeners")["listeners"]
    assert local["service"] == "echo.acme" and local["open"] is True
    assert "kbs" in admin.get("/v1/config")["yaml"]
    assert admin.post("/v1/reload") == {"done": "reload"}
    admin.post("/v1/log", {"level": "debug"})
    close_all(streams)
    relay.wait_quiet()

    def bytes_of():
        service, = admin.get("/v1/services")["services"]
        return service["streams"], service["bytes_up_total"], service["bytes_down_total"]
    wait_for(lambda: bytes_of() == (0, 2, 2), "two bytes each way")
    assert admin.post("/v1/drain", status=202) == {"done": "drain"}
    assert agent.wait() == 0


def test_agent_without_a_relay(world, svc):
    """What is wrong with the way there is told as it was logged."""
    relay, _ = start(world, svc)
    path = world.path("agent.sock")
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, address=f"tcp:127.0.0.1:{free_port()}",
                        admin=f"unix:{path}")
    admin = Admin(path)
    wait_for(lambda: os.path.exists(path) and "error" in admin.get("/v1/relays")["relays"][0], "an error")
    problem, = admin.get("/v1/status")["problems"]
    assert problem["code"] == "relay-not-connected" and problem["advice"]
    admin.get("/readyz", 503)
    assert agent.running()


def test_bridge(world):
    """qgs-bridge tells of its listeners, VMs and QGS; a bad reload is said to be one."""
    qgs = StandIn(world)
    path = world.path("bridge-admin.sock")
    bridge = Bridge(world, qgs, admin=f"unix:{path}")
    admin = Admin(path)
    ask(bridge.address())
    status = admin.get("/v1/status")
    assert status["program"] == "qgs-bridge" and status["pid"] == bridge.pid
    assert status["qgs"]["state"] == "up" and status["qgs"]["waiting"] == 0
    assert status["problems"] == []
    one, = admin.get("/v1/listeners")["listeners"]
    assert one["name"] == "unix" and one["open"] is True and one["sockets"] == 1
    vm, = admin.get("/v1/vms")["vms"]
    assert vm["answered_total"] == 1 and vm["connections_total"] == 1
    assert "listeners" in admin.get("/v1/config")["yaml"]
    assert admin.post("/v1/reload") == {"done": "reload"}
    bridge.write_config(limits={"vms": "many"})
    assert admin.post("/v1/reload", status=422)["error"]["code"] == "reload"
    assert admin.get("/v1/status")["counts"]["reload_failures_total"] == 1
    qgs.stop()
    bridge.wait_state("down")
    problems = {p["code"] for p in admin.get("/v1/status")["problems"]}
    assert problems == {"qgs", "listener-closed"}
    admin.post("/v1/drain", status=202)
    assert bridge.wait() == 0
