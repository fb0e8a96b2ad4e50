# The status page without JavaScript, its history, and what probes are told.
import json
import signal

import pytest

from bridge import Bridge
from harness import free_port, wait_for
from qgs import StandIn
from status_page import Page, ask, number
from streams import Refused, Service, dial, echo, http_connect

LONG = 40  # seconds: the history has steps of ten


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def start(world, **config):
    """A relay with a status page; its port."""
    port = free_port()
    relay = world.relay(status=f"tcp:127.0.0.1:{port}", **config)
    relay.status_port = port
    return relay


def page_when(relay, condition, what, path="/", timeout=30):
    last = [None]

    def look():
        last[0] = Page(relay.status_port, path)
        return condition(last[0])
    wait_for(look, lambda: f"{what}: {last[0].html}\n{relay.tail()}", timeout, every=0.2)
    return last[0]


def open_stream(relay, service):
    c = http_connect(dial(relay.listeners["front"]), service)
    c.send(b"ping")
    assert c.read_exactly(4) == b"ping"
    return c


def test_tables_say_what_happens(world, svc):
    relay = start(world, owners=[world.owner(services=["kbs", "tang"])],
                  services=[{"name": "kbs.acme"},
                            {"name": "near.acme", "targets": [svc.address]}])
    page = Page(relay.status_port)
    assert page.problems()["kbs.acme: no tunnel offers it yet."] == "notice"
    services = page.table("services")
    # those in trouble first; tang may be offered, but nobody said that it is
    assert list(services) == ["kbs.acme", "near.acme", "tang.acme"]
    assert services["kbs.acme"]["State"] == "\u2717 unreachable"
    assert services["near.acme"]["State"] == "\u2713 reachable"
    assert services["near.acme"]["Addresses up"] == "1 of 1"
    assert services["tang.acme"]["State"] == "\u2013 no tunnel"
    assert page.table("owners")["acme"]["Tunnels"] == "0 of 16"

    agent = world.agent(relay, {"kbs": svc.address})
    page = page_when(relay, lambda p: "kbs.acme: no tunnel offers it yet." not in p.problems(), "gone")
    assert page.table("services")["kbs.acme"]["State"] == "\u2713 reachable"
    assert page.table("services")["kbs.acme"]["Tunnels"] == "1"
    assert page.table("owners")["acme"]["Tunnels"] == "1 of 16"
    assert page.facts["Tunnels"] == "1"

    streams = [open_stream(relay, s) for s in ("kbs.acme", "kbs.acme", "near.acme")]
    streams[0].send(bytes(200_000))
    streams[0].read_exactly(200_000)
    page = page_when(relay, lambda p: p.facts["Streams"] == "3", "three streams")
    services = page.table("services")
    assert (services["kbs.acme"]["Streams"], services["near.acme"]["Streams"]) == ("2", "1")
    assert (services["kbs.acme"]["Since start"], services["tang.acme"]["Since start"]) == ("2", "0")
    page = page_when(relay, lambda p: p.table("services")["kbs.acme"]["To service"] == "200 kB",
                     "bytes")
    assert page.table("owners")["acme"]["Streams"].startswith("3 of ")
    for c in streams:
        c.close()
    agent.stop()
    # it has been there: nothing is awaited
    page_when(relay, lambda p: p.problems().get("kbs.acme: no tunnel offers it.") == "critical" and
              p.table("services")["kbs.acme"]["State"] == "\u2717 unreachable", "down again")


def test_parked(world):
    relay = start(world, owners=[world.owner()], services=[{"name": "kbs.acme"}])
    c = dial(relay.listeners["front"])
    c.send(b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme:443\r\n\r\n")
    page = page_when(relay, lambda p: p.facts["Parked"] == "1", "parked")
    assert page.table("services")["kbs.acme"]["Parked"] == "1"
    assert number(page.table("limits")["Parked streams"]["In use"]) == 1
    c.close()
    page_when(relay, lambda p: p.facts["Parked"] == "0", "parked no more")


def test_last_hour(world, svc):
    relay = start(world, services=[{"name": "near.acme", "targets": [svc.address]}])
    for _ in range(3):
        with pytest.raises(Refused):
            http_connect(dial(relay.listeners["front"]), "no.such")
    c = open_stream(relay, "near.acme")
    relay.wait_metric("live_splices", lambda v: v == 1)
    c.close()
    relay.wait_quiet()
    page = page_when(relay, lambda p: {"unknown-service", "eof"} <= set(p.table("reasons")),
                     "reasons", timeout=LONG)
    unknown = page.table("reasons")["unknown-service"]
    assert (unknown["Stream"], unknown["Hour"], unknown["5 min"]) == ("refused", "3", "3")
    assert page.table("reasons")["eof"]["Stream"] == "ended"
    rows = page.table("hour").values()
    assert len(rows) == 12
    assert sum(number(r["Refused"]) for r in rows if r["To services"] != "not known") == 3
    assert sum(number(r["Joined"]) for r in rows if r["To services"] != "not known") == 1
    # what is drawn is there without JavaScript
    curves = page.section("hour").findall(".//div[@class='plot']/svg/path")
    assert len([c for c in curves if c.get("class") != "grid" and c.get("d")]) == 7

    history = json.loads(ask(relay.status_port, "/v1/history").text)
    assert history["step_seconds"] == 10
    assert sum(s["refused"].get("unknown-service", 0) for s in history["samples"]) == 3
    assert sum(s["bytes_up"] for s in history["samples"]) == 4
    ended = [s["ended_at"] for s in history["samples"]]
    assert ended == sorted(ended) and ended[-1] <= history["now"]


def test_limits(world, svc):
    relay = start(world, services=[{"name": "near.acme", "targets": [svc.address]}],
                  limits={"connections": 20}, owners=[world.owner(limits={"streams": 16})])
    said = [c for c in Page(relay.status_port).problems() if "limits.connections" in c]
    assert not said
    some = [open_stream(relay, "near.acme") for _ in range(16)]
    page = page_when(relay, lambda p: p.problems().get(
        "limits.connections: 16 of 20 in use.") == "warning", "nearly")
    assert page.table("limits")["Connections"]["In use"] == "16 of 20 \u26a0 nearly all"
    assert page.problems()["owner acme, streams: 16 of 16 in use."] == "warning"
    assert page.table("owners")["acme"]["Streams"] == "16 of 16 \u2717 all"
    for c in some:
        c.close()
    page_when(relay, lambda p: not [c for c in p.problems() if "in use" in c], "over")


def test_certificate_ends_soon(world):
    """That of the tests has two days."""
    relay = start(world)
    said = [w for w in Page(relay.status_port).problems() if "tls.certificate" in w]
    assert len(said) == 1 and "hours" in said[0], said


def test_a_reload_that_fails(world):
    relay = start(world)
    relay.reload(good=False, timeouts={"drain": "tomorrow"})
    failed = [w for w in Page(relay.status_port).problems() if "reload" in w]
    assert len(failed) == 1 and "drain" in failed[0], failed
    # what stands in a file is text on the page
    relay.reload(good=False, timeouts={}, **{"<script>alert(1)</script>": 1})
    failed = [w for w in Page(relay.status_port).problems() if "reload" in w]
    assert len(failed) == 1 and "<script>alert(1)</script>" in failed[0], failed
    relay.write_config(**{"<script>alert(1)</script>": None})
    relay.reload(timeouts={"drain": "5s"})
    assert not [w for w in Page(relay.status_port).problems() if "reload" in w]


def test_a_target_that_is_down(world, svc):
    relay = start(world, services=[{"name": "near.acme", "targets": [
        svc.address, f"tcp:127.0.0.1:{free_port()}"], "check": {"kind": "tcp", "every": "1s"}}])
    page = page_when(relay, lambda p: p.table("services")["near.acme"]["Addresses up"] == "1 of 2",
                     "one is down")
    assert page.table("services")["near.acme"]["State"] == "\u26a0 partly"
    assert page.problems()[
        "near.acme: 1 of its 2 targets that are addresses do not answer."] == "notice"
    assert ask(relay.status_port, "/readyz/near.acme").status == 200


def test_a_target_that_nobody_tries(world):
    """A dial that failed once is no reason to keep clients away for good: they alone could find out."""
    address = f"tcp:127.0.0.1:{free_port()}"
    relay = start(world, services=[{"name": "near.acme", "targets": [address]}])
    with pytest.raises(Refused):
        http_connect(dial(relay.listeners["front"]), "near.acme")
    assert ask(relay.status_port, "/readyz/near.acme").status == 503
    assert Page(relay.status_port).problems()["near.acme: none of its 1 targets answers."] == "critical"
    world.add(Service(address, handler=echo))
    wait_for(lambda: ask(relay.status_port, "/readyz/near.acme").status == 200, "ready, and nobody has tried it",
             every=0.2)
    assert not [p for p in Page(relay.status_port).problems() if "near.acme" in p]
    open_stream(relay, "near.acme").close()


def test_probes(world, svc):
    relay = start(world, services=[{"name": "kbs.acme"},
                                   {"name": "near.acme", "targets": [svc.address]}])
    for port in relay.status_port, relay.metrics_port:
        for path in "/livez", "/readyz", "/healthz", "/readyz/near.acme":
            r = ask(port, path)
            assert (r.status, r.text) == (200, "ok\n")
            assert r.headers["Content-Type"].startswith("text/plain")
    port = relay.metrics_port
    r = ask(port, "/readyz/kbs.acme")
    assert (r.status, r.text) == (503, "service: no tunnel offers it\n")
    assert ask(port, "/readyz?service=kbs.acme").text == r.text
    r = ask(port, "/readyz?service=kbs.acme&verbose")
    assert (r.status, r.text) == (503, "[+]workers ok\n[+]accepting ok\n"
                                  "[-]service failed: no tunnel offers it\nreadyz check failed\n")
    r = ask(port, "/livez?verbose")
    assert (r.status, r.text) == (200, "[+]loop ok\n[+]workers ok\nlivez check passed\n")
    assert ask(port, "/readyz/no.such").status == 404
    agent = world.agent(relay, {"kbs": svc.address})
    wait_for(lambda: ask(port, "/readyz/kbs.acme").status == 200, "ready")
    agent.stop()
    wait_for(lambda: ask(port, "/readyz/kbs.acme").status == 503, "not ready")


def test_probes_of_the_agent(world, svc):
    relay, port = world.relay(), free_port()
    world.agent(relay, {"kbs": svc.address}, metrics=f"tcp:127.0.0.1:{port}")
    assert ask(port, "/livez").text == ask(port, "/readyz").text == "ok\n"
    relay.kill()
    wait_for(lambda: ask(port, "/readyz").status == 503, "not ready")
    assert ask(port, "/readyz").text == "relays: none has accepted this agent\n"
    assert ask(port, "/livez").status == 200
    world.restart(relay)
    wait_for(lambda: ask(port, "/readyz").status == 200, "ready again")


def test_probes_of_the_bridge(world):
    """Ready is who has a QGS; well is who does not drain."""
    address = "unix:" + world.path("qgs.socket")
    bridge = Bridge(world, address, wait=False)
    port = bridge.metrics_port
    bridge.wait_state("down")
    r = ask(port, "/readyz")
    assert r.status == 503 and r.text.startswith("qgs: ")
    assert ask(port, "/livez").status == ask(port, "/healthz").status == 200
    StandIn(world, listen=address)
    bridge.wait_state("up")
    assert ask(port, "/readyz?verbose").text == "[+]accepting ok\n[+]qgs ok\nreadyz check passed\n"


def test_draining(world, svc):
    relay = start(world, services=[{"name": "near.acme", "targets": [svc.address]}],
                  timeouts={"drain": "30s"})
    c = open_stream(relay, "near.acme")
    relay.signal(signal.SIGTERM)
    page = page_when(relay, lambda p: "draining" in p.state, "draining")
    assert "The relay drains: no new connections, streams may finish." in page.problems()
    r = ask(relay.status_port, "/readyz")
    assert (r.status, r.text) == (503, "accepting: draining: no new connections\n")
    assert ask(relay.status_port, "/livez").status == 200
    c.close()
    relay.finish()


def test_hostile_filter(world):
    relay = start(world, services=[{"name": "kbs.acme"}])
    evil = "%3C/input%3E%3Cscript%3Ealert(1)%3C/script%3E%22%27%3E%00%ff"
    page = Page(relay.status_port, f"/?filter={evil[:-6]}")
    field = page.section("services").find(".//input")
    assert field.get("value") == "</input><script>alert(1)</script>\"'>"
    assert not page.table("services")
    assert "kbs.acme" in Page(relay.status_port, "/?filter=KBS").table("services")
    assert not Page(relay.status_port, "/?filter=tang").table("services")
    # whatever else is sent, the page is whole or there is none
    for query in evil, "filter=" + "x" * 4000, "filter", "&&=&", "filter=%":
        r = ask(relay.status_port, f"/?{query}")
        assert r.status in (200, 400), query
        if r.status == 200:
            Page(relay.status_port, f"/?{query}")


def test_how_it_is_served(world):
    relay = start(world)
    r = ask(relay.status_port, "/")
    assert r.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in r.headers["Content-Security-Policy"]
    assert "unsafe" not in r.headers["Content-Security-Policy"]
    assert r.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert r.headers["Cache-Control"] == "no-store"
    assert len(r.text) < 60_000
    for path, kind in ("/status.css", "text/css"), ("/status.js", "text/javascript"):
        r = ask(relay.status_port, path)
        assert r.status == 200 and r.headers["Content-Type"].startswith(kind) and r.text
        again = ask(relay.status_port, path, If_None_Match=r.headers["ETag"])
        assert again.status == 304 and not again.text
        assert not again.headers["Content-Length"]  # that of the page, or none
        assert ask(relay.status_port, path, If_None_Match='"other"').text == r.text
    assert not ask(relay.status_port, "/", "HEAD").text
    assert ask(relay.status_port, "/", "POST").status == 405
    assert ask(relay.status_port, "/nothing").status == 404
    assert ask(relay.metrics_port, "/").status == 404
    assert ask(relay.status_port, "/", Host="attacker.example").status == 421


def test_500_services(world):
    names = [f"service-{i:03}" for i in range(500)]
    relay = start(world, owners=[world.owner(services=names)],
                  services=[{"name": f"{n}.acme"} for n in names])
    page = Page(relay.status_port)
    assert len(page.table("services")) == 500
    assert len(page.html) < 200_000
    problems = page.problems()
    assert "492 further services have no tunnel yet." in problems
    assert len(problems) < 20
    assert list(Page(relay.status_port, "/?filter=-123").table("services")) == ["service-123.acme"]
