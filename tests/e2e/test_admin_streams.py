# Streams one by one, of attest-tunnel and qgs-bridge too; a worker that does not answer; many pages.
import os

import pytest

from admin import Admin
from bridge import Bridge
from harness import Task, wait_for
from node import Node
from qgs import StandIn, asking
from streams import Service, dial, echo
from test_attestctl import ctl, rows
from test_drain import PTRACE_DETACH, PTRACE_INTERRUPT, PTRACE_SEIZE, WALL, ptrace, workers


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def held(address, n, size=1):
    """n streams that have passed so many bytes each way"""
    streams = [dial(address) for _ in range(n)]
    for s in streams:
        s.send(b"x" * size)
        assert s.read_exactly(size) == b"x" * size
    return streams


def states(admin, query=""):
    return sorted(s["state"] for s in admin.all("streams", query=query))


# ---- qgs-bridge ----

def test_requests_to_qgs(world):
    """Those in QGS and those in line are told as such, and are gone when they are answered."""
    qgs, path = StandIn(world), world.path("bridge-admin.sock")
    bridge = Bridge(world, qgs, admin=f"unix:{path}", qgs_more={"in_flight": 1})
    admin = Admin(path)
    assert admin.get("/v1/streams") == {"streams": [], "remaining": 0}
    qgs.behave("wedged")
    waiting = [asking(bridge.address()) for _ in range(3)]
    wait_for(lambda: states(admin) == ["asking", "waiting", "waiting"], "one in QGS, two in line")
    streams = admin.all("streams")
    assert {(s["kind"], s["service"], s["listener"]) for s in streams} == {("quote", "qgs", "unix")}
    assert {s["vm"] for s in streams} == {f"pid:{w.pid}" for w in waiting}
    assert all(s["bytes_up"] == 1052 and s["bytes_down"] == 0 and "relay" not in s for s in streams)
    vm = streams[0]["vm"]
    assert len(admin.all("streams", query=f"&client={vm}")) == 1
    assert len(admin.all("streams", query=f"&client=unix:{vm.replace(':', '=')}")) == 1
    assert len(admin.all("streams", query="&service=qgs")) == 3
    assert admin.all("streams", query="&service=kbs.acme") == []
    # pages
    page = admin.get("/v1/streams?limit=2")
    assert page["remaining"] == 1 and page["next"] == page["streams"][1]["id"]
    assert admin.all("streams", limit=1) != [] and [s["id"] for s in admin.all("streams", limit=1)] == [
        s["id"] for s in streams]
    admin.get("/v1/streams?limit=1001", 400)
    listed = rows(ctl(path, "streams"))
    assert {r["VM"] for r in listed} == {s["vm"] for s in streams} and len(listed) == 3
    qgs.behave("ok")
    assert [w.result()["outcome"] for w in waiting] == ["ok"] * 3
    wait_for(lambda: admin.all("streams") == [], "none is left")


def test_forwarded_streams(world):
    path = world.path("bridge-admin.sock")
    node = Node(world, admin=f"unix:{path}")
    admin, guests = Admin(path), []
    for _ in range(2):
        guests.append(node.guest())
        guests[-1].send(b"y" * 5000)
        assert guests[-1].read_exactly(5000)
    streams = admin.all("streams")
    assert len(streams) == 2
    for s in streams:
        assert (s["kind"], s["state"], s["service"]) == ("forward", "joined", "echo.acme")
        assert (s["bytes_up"], s["bytes_down"]) == (5000, 5000)
        assert s["relay"] == node.relay.listeners["nodes"] and s["vm"] == f"pid:{os.getpid()}"
    for g in guests:
        g.close()
    node.wait_quiet()
    assert admin.all("streams") == []


def test_bad_reload_of_the_bridge(world):
    """What is wrong is in the answer, as it is in the log; and the exit status says so."""
    qgs, path = StandIn(world), world.path("bridge-admin.sock")
    bridge = Bridge(world, qgs, admin=f"unix:{path}")
    bridge.write_config(limits={"vms": "many"})
    error = Admin(path).post("/v1/reload", status=422)["error"]
    assert error["code"] == "reload" and "vms" in error["message"] and bridge.path in error["message"]
    assert "vms" in ctl(path, "reload", status=1)
    bridge.write_config(limits={}, relay={"addresses": ["tcp:127.0.0.1:1"],
                                          "ca_file": world.path("none.pem")})
    error = Admin(path).post("/v1/reload", status=422)["error"]
    assert "none.pem" in error["message"]
    bridge.write_config(relay={})
    ctl(path, "reload")


# ---- attest-tunnel ----

def test_streams_of_an_agent(world, svc):
    """The same streams as its relay tells, by the relay's numbers; one that waits has no byte yet."""
    paths = world.path("admin.sock"), world.path("agent.sock")
    relay = world.relay(listeners=[{"name": "kbs", "service": "kbs.acme"}, {"name": "tang",
                                   "service": "tang.acme"}], admin=f"unix:{paths[0]}")
    world.agent(relay, {"kbs": svc.address, "tang": svc.address}, admin=f"unix:{paths[1]}")
    of_relay, of_agent = map(Admin, paths)
    assert of_agent.get("/v1/streams") == {"streams": [], "remaining": 0}
    streams = held(relay.listeners["kbs"], 3, 1000) + [dial(relay.listeners["tang"])]
    wait_for(lambda: states(of_agent) == ["joined"] * 3 + ["waiting"], "four streams")
    told = {str(s["id"]): s for s in of_relay.all("streams")}
    listed = of_agent.all("streams")
    assert {s["relay_id"] for s in listed} == set(told) and len(listed) == 4
    for s in listed:
        same = told[s["relay_id"]]
        assert all(s[key] == same[key] for key in ("service", "owner", "client", "bytes_up", "bytes_down"))
        assert s["relay"] == f"tcp:127.0.0.1:{relay.port()}" and s["target"] == svc.address
        assert s["bytes_up"] == s["bytes_down"] == (1000 if s["service"] == "kbs.acme" else 0)
    assert len(of_agent.all("streams", query="&service=tang.acme")) == 1
    assert of_agent.all("streams", query="&owner=other") == []
    assert len(of_agent.all("streams", query=f"&client={listed[0]['client']}")) == 1
    assert [s["id"] for s in of_agent.all("streams", limit=3)] == [s["id"] for s in listed]
    assert len(rows(ctl(paths[1], "streams", "--service", "kbs.acme"))) == 3
    for s in streams:
        s.close()
    wait_for(lambda: of_agent.all("streams") == [], "none is left")


# ---- attest-relay ----

def test_one_worker_is_stuck(world, svc):
    """No half list: 504. Its answer that comes too late harms nobody, and then all is told again."""
    path = world.path("admin.sock")
    relay = world.relay(listeners=[{"name": "direct", "service": "echo.acme"}],
                        services=[{"name": "echo.acme", "targets": [svc.address]}], admin=f"unix:{path}")
    admin, streams = Admin(path), held(relay.listeners["direct"], 8)
    thread = workers(relay.pid)[-1]
    try:
        ptrace(PTRACE_SEIZE, thread)
    except OSError as e:
        pytest.skip(f"another process may not be stopped here: {e}")
    ptrace(PTRACE_INTERRUPT, thread)
    os.waitpid(thread, WALL)
    try:
        asked = [Task(admin.ask, "GET", f"/v1/{what}") for what in ("streams", "tunnels", "streams")]
        for task in asked:
            status, body, _ = task.result()
            assert status == 504 and body["error"]["code"] == "stuck", body
            assert "1 worker did not answer" in body["error"]["message"]
        assert admin.get("/v1/status")["pid"] == relay.pid  # what needs no worker is told
    finally:
        ptrace(PTRACE_DETACH, thread)
    assert len(admin.all("streams")) == 8
    for s in streams:
        s.send(b"still")
        assert s.read_exactly(5) == b"still"
        s.close()
    relay.wait_quiet()


def test_three_thousand(world, svc):
    """Each once, in order, in pages of 250 and at one go of attestctl. (Under ASan 5 to 9 s, most for opening them.)"""
    path = world.path("admin.sock")
    many = {"connections": 8000, "streams": 8000, "opens_per_second": 100000}
    relay = world.relay(listeners=[{"name": "direct", "service": "echo.acme"}],
                        services=[{"name": "echo.acme", "targets": [svc.address]}], admin=f"unix:{path}",
                        limits={"connections": 8000, "per_source": many, "per_owner": {
                            k: v for k, v in many.items() if k != "connections"}})
    streams = []
    for _ in range(30):
        streams += held(relay.listeners["direct"], 100)
    found = [s["id"] for s in Admin(path).all("streams", limit=250)]
    assert len(found) == 3000 and found == sorted(set(found))
    assert len(rows(ctl(path, "streams"))) == 3000
    for s in streams:
        s.close()
    relay.wait_quiet()
