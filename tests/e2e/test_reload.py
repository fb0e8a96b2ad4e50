# A reload changes all that a config says, or nothing: under live streams, in several workers, under
# load. What is taken back from owners and clients is in test_revocation.
import json
import os
import shutil
import signal
import ssl
import threading
from unittest import mock

import pytest

from h2_client import H2Client
from harness import DOMAIN, Task, free_port, wait_for
from pki import Authority
from streams import (Aborted, Refused, Service, TlsConn, TlsHttpConn, dial, echo, http_connect,
                     tls_service)
from test_revocation import Life, all_finish, all_go_on
from test_sandbox import assert_locked, landlock

WORKERS = 3


def names(text):
    """A service that says who it is, then echoes."""
    def handler(conn):
        conn.send(text)
        echo(conn)
    return handler


@pytest.fixture
def one(world):
    return world.add(Service(handler=names(b"one")))


@pytest.fixture
def two(world):
    return world.add(Service(handler=names(b"two")))


def start(world, *listeners, services=None, pair=None, **config):
    own = type("Own", (), {"relay": pair or world.certificates.relay})
    with mock.patch.object(world, "certificates", own):
        return world.relay(listeners=listeners, services=services, workers=WORKERS, **config)


def static(name, service="kbs.acme", **more):
    return {"name": name, "service": service, **more}


def to(name, *targets, **more):
    return {"name": name, "targets": [t.address for t in targets], **more}


def says(conn, *texts):
    assert conn.read_exactly(3) in texts
    return conn


def life(address, *texts):
    return Life(says(dial(address), *(texts or [b"one"])))


def listeners(relay, *gone, **changed):
    """Those of now without some, with changes to some, by their names; new ones come last."""
    old = [x for x in relay.config["listeners"] if x["name"] not in gone]
    kept = [{k: v for k, v in {**x, **changed.pop(x["name"], {})}.items() if v is not None}
            for x in old]
    new = [{"name": n, "address": f"tcp:127.0.0.1:{free_port()}", **x} for n, x in changed.items()]
    for x in new:
        relay.listeners[x["name"]] = x["address"]
    return kept + new


def refused(address):
    """Nobody listens there."""
    try:
        dial(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


# ---- each kind of change, under live streams ----

def test_listeners_come_and_go(world, one):
    path = world.path("gone.sock")
    relay = start(world, static("stays"), static("goes"),
                  static("path", address=f"unix:{path}"), services=[to("kbs.acme", one)])
    lives = [life(relay.listeners[n]) for n in ("stays", "goes", "path") for _ in range(4)]
    relay.reload(listeners=listeners(relay, "goes", "path", comes=static("comes")))
    assert refused(relay.listeners["goes"]) and not os.path.exists(path)
    lives += [life(relay.listeners[n]) for n in ("stays", "comes") for _ in range(4)]
    all_go_on(lives)
    assert relay.metric("listener_accepted_total", listener="comes") == 4
    # back at the same places, and a stranger's file is not removed
    relay.reload(listeners=listeners(relay, "comes", goes=static("goes"), path=static(
        "path", address=f"unix:{path}")))
    lives += [life(relay.listeners["goes"]), life(f"unix:{path}")]
    os.unlink(path)
    world.add(Service(f"unix:{path}"))
    relay.reload(listeners=listeners(relay, "path"))
    assert os.path.exists(path)
    all_finish(lives)
    relay.wait_quiet()


def test_listener_moves_and_is_renamed(world, one):
    relay = start(world, static("a"), static("b"), services=[to("kbs.acme", one)])
    a, b = relay.listeners["a"], relay.listeners["b"]
    lives = [life(a), life(b)]
    relay.reload(listeners=listeners(relay, a={"address": b}, b={"address": a}))
    lives += [life(a), life(b)]
    relay.reload(listeners=[{**x, "name": x["name"] * 2} for x in relay.config["listeners"]])
    lives += [life(a), life(b)]
    new = f"tcp:127.0.0.1:{free_port()}"
    relay.reload(listeners=listeners(relay, aa={"address": new}))
    assert refused(b)
    lives += [life(a), life(new)]
    all_finish(lives)


def test_queue_of_a_removed_listener(world, one):
    """Who came before it was removed is taken in, even if nobody had accepted him yet."""
    relay = start(world, static("goes"), services=[to("kbs.acme", one)], limits={"connections": 2})
    held = [life(relay.listeners["goes"]) for _ in range(2)]
    late = dial(relay.listeners["goes"])
    relay.wait_metric("accept_paused_total", lambda n: n > 0)
    relay.reload(listeners=listeners(relay, "goes"), limits={"connections": 20})
    all_finish(held)
    says(late, b"one").close()


def test_doors(world, one, tmp_path):
    """Doors, client_ca, what a certificate is wanted for, and PROXY headers."""
    ca = Authority(tmp_path, "nodes")
    pair = ca.issue("n1", "DNS:n1.example")
    relay = start(world, {"name": "door", "doors": ["connect"]}, static("static"),
                  services=[to("kbs.acme", one)])
    address = relay.listeners["door"]

    def enter(alpn=None, own=None):
        context = world.certificates.client([alpn] if alpn else None)
        if own:
            context.load_cert_chain(*own)
        return TlsHttpConn(dial(address), context, name=DOMAIN)

    lives = [Life(says(http_connect(enter(), "kbs.acme"), b"one")), life(relay.listeners["static"])]
    h2 = H2Client(enter("h2"))
    stream = h2.open("kbs.acme")
    assert stream.read(3) == b"one"
    relay.reload(listeners=listeners(relay, door={"client_ca": ca.pem}))
    with pytest.raises(Refused):
        http_connect(enter(), "kbs.acme")
    # the same connection may not go round it, though what is live goes on
    h2.wait(lambda: h2.goaways)
    stream.send(b"still here")
    assert stream.read(10) == b"still here"
    lives.append(Life(says(http_connect(enter(own=pair), "kbs.acme"), b"one")))
    relay.reload(listeners=listeners(relay, door={"client_ca": None, "doors": ["sni"]},
                                     static={"proxy_protocol": "required",
                                             "proxy_networks": ["127.0.0.1"]}))
    with pytest.raises((Aborted, ssl.SSLError, AssertionError)):
        http_connect(enter(), "kbs.acme")
    with dial(relay.listeners["static"]) as conn:
        conn.send(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n")
        says(conn, b"one")
    all_go_on(lives[:2])
    # its CA is not asked for any more: nobody vouches for what it has signed
    wait_for(lambda: lives[2].how, "the end of a certificate's stream")
    assert lives[2].how == "aborted"
    all_finish(lives[:2])


def test_services(world, one, two):
    """Targets, host names, domain; a removed one's streams go on, a removed owner's do not."""
    pair = world.certificates.issue("reload", f"DNS:new.{DOMAIN},DNS:kbs.acme.other.test")
    tls = world.add(Service(handler=tls_service(world.certificates.server(pair), names(b"tls"))))
    owners = [world.owner("acme"), world.owner("beta")]
    relay = start(world, static("kbs"), static("tang", "tang.beta"), owners=owners,
                  services=[to("kbs.acme", one), to("tang.beta", one), to("sni.acme", tls)])
    kept = [life(relay.listeners["kbs"]) for _ in range(4)]
    ends = [life(relay.listeners["tang"]) for _ in range(4)]
    relay.reload(services=[to("kbs.acme", two), to("tang.beta", one),
                           to("sni.acme", tls, hostnames=[f"new.{DOMAIN}"])], domain="other.test")
    kept += [life(relay.listeners["kbs"], b"two") for _ in range(4)]
    says(TlsConn(dial(relay.listeners["front"]), world.certificates.client(),
                 name=f"new.{DOMAIN}", fin=True), b"tls").close()
    relay.reload(listeners=listeners(relay, "tang"), owners=owners[:1],
                 services=[to("sni.acme", tls)])
    wait_for(lambda: all(x.how for x in ends), "ends of a removed owner's streams")
    assert {x.how for x in ends} == {"aborted"}
    all_go_on(kept)
    with dial(relay.listeners["kbs"]):  # nobody offers it
        relay.wait_metric("live_parked", lambda n: n == 1)
    relay.reload(services=[to("kbs.acme", one)])
    kept.append(life(relay.listeners["kbs"]))
    all_finish(kept)


def test_checks_go_on(world, one, two):
    """What is known of a target outlives a reload; a new one is asked, one that is gone is not."""
    check = {"kind": "tcp", "every": "100ms"}
    relay = start(world, static("kbs"), services=[to("kbs.acme", one, check=check)])
    down = f"tcp:127.0.0.1:{free_port()}"
    services = [{"name": "kbs.acme", "targets": [down, one.address], "check": check}]
    relay.reload(services=services)
    relay.wait_metric("target_up", lambda n: n == 0, target=down)
    for _ in range(20):
        relay.reload(limits={"parked": 100 + _})
        assert relay.metric("target_up", target=down) == 0
    relay.reload(services=[{"name": "kbs.acme", "targets": [down, two.address], "check": check}])
    assert relay.metric("target_up", target=down) == 0
    assert relay.metric("target_up", target=two.address) == 1
    world.add(Service(down))
    relay.wait_metric("target_up", lambda n: n == 1, target=down)
    relay.reload(services=[to("kbs.acme", two)])
    life(relay.listeners["kbs"], b"two")


def test_limits_and_timeouts(world, one):
    relay = start(world, static("kbs"), static("nobody", "nobody.acme"),
                  services=[to("kbs.acme", one)], timeouts={"pickup": "60s"})
    lives = [life(relay.listeners["kbs"]) for _ in range(5)]
    relay.reload(limits={"per_source": {"connections": 6}})
    assert relay.metric("limit", scope="source", what="connections") == 6
    lives.append(life(relay.listeners["kbs"]))
    with pytest.raises((Aborted, OSError, AssertionError)):
        life(relay.listeners["kbs"])
    relay.reload(limits={"connections": 500, "handshakes": 300}, timeouts={"pickup": "100ms"})
    assert relay.metric("limit", scope="all", what="connections") == 500
    assert relay.metric("limit", scope="all", what="handshakes") == 300
    with dial(relay.listeners["nobody"]) as conn, pytest.raises(Aborted):
        conn.read_exactly(1)
    assert relay.metric("refused_total", reason="pickup-timeout") == 1
    all_finish(lives)


def test_log_and_audit(world, one):
    first, second = world.path("first.audit"), world.path("second.audit")
    relay = start(world, static("kbs"), services=[to("kbs.acme", one)], audit={"file": first})
    life(relay.listeners["kbs"]).conn.close()
    wait_for(lambda: b"stream-end" in open(first, "rb").read(), "a record in the first file")
    relay.reload(audit={"file": second, "start_after": "1s"}, log={"level": "debug"})
    mark = relay.log_size()
    size = os.path.getsize(first)
    goes_on = life(relay.listeners["kbs"])
    wait_for(lambda: b"stream-start" in open(second, "rb").read(), "a record in the second file")
    assert os.path.getsize(first) == size
    relay.reload(audit={"target": "off"}, log={"format": "json"})
    relay.signal(signal.SIGUSR1)
    line = relay.wait_log(r"\{.*status: .*", start=mark)[0]
    assert "status" in json.loads(line)["message"]
    mark = relay.log_size()
    relay.reload(log={"format": "text"})  # nothing else
    relay.wait_log(r"(?m)^\S+ info: reload: done", start=mark)
    all_finish([goes_on])
    assert b"stream-end" not in open(second, "rb").read()


@pytest.mark.parametrize("there", ["0.0.0.0", "[::]"])
def test_overlapping_addresses(world, one, there):
    """From 127.0.0.1 to all addresses of the same port and back, while clients come: none is lost."""
    relay = start(world, static("kbs"), services=[to("kbs.acme", one)])
    narrow, port = relay.listeners["kbs"], relay.port("kbs")
    last = life(narrow)
    over, served = threading.Event(), []

    def come():
        while not over.is_set():
            with dial(narrow) as c:
                says(c, b"one")
                c.send(b"ping")
                assert c.read_exactly(4) == b"ping"
            served.append(1)
    crowd = [Task(come) for _ in range(4)]
    for address in [f"tcp:{there}:{port}", narrow] * 4:
        goal = len(served) + 20
        wait_for(lambda: len(served) > goal or not all(c.is_alive() for c in crowd), "clients come")
        relay.reload(listeners=listeners(relay, kbs={"address": address}))
    over.set()
    for c in crowd:
        c.result()
    all_finish([last])


# ---- all or nothing ----

def spoilt(relay, world, how):
    """What a config with much that is new has besides; and what is said of it."""
    files = world.certificates
    tls = {"certificate": files.relay[0], "key": files.relay[1]}
    door = {"name": "door", "doors": ["connect"], "address": f"tcp:127.0.0.1:{free_port()}"}
    kept = listeners(relay)
    if how == "port":
        taken = world.add(Service())
        return {"listeners": [*kept, door, static("taken", address=taken.address)]}, \
            f"listener taken: cannot listen at {taken.address}: .*another program listens"
    if how == "overlap":
        port = relay.port("kbs")
        wide = static("wide", address=f"tcp:0.0.0.0:{port}")
        return {"listeners": [*kept, door, wide]}, r"listener wide: .* only one of them can be"
    if how == "pair":
        return {"tls": {**tls, "key": files.service[1]}}, "does not belong to the certificate"
    if how == "crl":
        door = {**door, "client_ca": files.ca, "client_crl": world.path("none.pem")}
        return {"listeners": [*kept, door]}, "listener door: cannot read the revocation list"
    if how == "audit":
        return {"audit": {"file": world.path("no/folder/audit")}}, "cannot write audit records"
    if how == "enrolment":
        return {"enrolment": {"ca": world.path("no.pem"), "key": world.path("no.key"),
                              "folder": world.path("enrolment")}}, "enrolment: .*no.pem"
    if how == "metrics":
        return {"metrics": f"tcp:127.0.0.1:{free_port()}"}, \
            "metrics has changed, which needs a restart"
    assert how == "workers"
    return {"workers": WORKERS + 1}, "workers has changed, which needs a restart"


@pytest.mark.parametrize("how", ["port", "overlap", "pair", "crl", "audit", "enrolment", "metrics",
                                 "workers"])
def test_all_or_nothing(world, one, two, how):
    relay = start(world, static("kbs"), services=[to("kbs.acme", one)])
    lives = [life(relay.listeners["kbs"]) for _ in range(3)]
    before, fds = relay.config, relay.fds()
    change, said = spoilt(relay, world, how)
    comes = f"tcp:127.0.0.1:{free_port()}"
    every = [static("comes", address=comes), *change.pop("listeners", relay.config["listeners"])]
    mark = relay.log_size()
    relay.reload(good=False, **{
        "listeners": every, "services": [to("kbs.acme", two)], "log": {"level": "error"},
        "limits": {"per_source": {"connections": 1}}, "owners": [world.owner("beta")], **change})
    relay.wait_log(f"reload: .*{said}", start=mark)
    assert refused(comes)
    lives.append(life(relay.listeners["kbs"]))
    all_finish(lives)
    relay.wait_quiet()
    wait_for(lambda: relay.fds() <= fds, lambda: f"descriptors back: {relay.fds()}, {fds}")
    relay.reload(**{k: before.get(k) for k in relay.config})
    life(relay.listeners["kbs"])


def test_outside_the_sandbox(world, one, tmp_path_factory):
    """What Landlock or capabilities that are gone keep from it is said to need a restart."""
    relay = start(world, static("kbs"), services=[to("kbs.acme", one)])
    assert_locked(relay)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    if landlock() > 0:
        ca = shutil.copy(world.certificates.ca, elsewhere / "ca.pem")
        said = relay.reload(good=False, listeners=listeners(
            relay, door={"doors": ["connect"], "client_ca": str(ca)}))
        assert "needs a restart (the sandbox" in said
        said = relay.reload(good=False, listeners=listeners(
            relay, "door", path=static("path", address=f"unix:{elsewhere}/s")))
        assert "needs a restart (the sandbox" in said
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        low = int(f.read()) > 1
    if low:
        said = relay.reload(good=False, listeners=listeners(
            relay, "door", "path", low=static("low", address="tcp:127.0.0.1:1")))
        assert "it needs a restart (the relay gives up its privileges" in said
    assert landlock() > 0 or low or pytest.skip("nothing is kept from it here")


# ---- many, under load ----

def churn(address, over, came):
    """Connections to a listener that is always there: not one may be lost."""
    while not over.is_set():
        with says(dial(address), b"one", b"two") as conn:
            conn.send(b"x" * 3000)
            assert conn.read_exactly(3000) == b"x" * 3000
        came[0] += 1


def test_hundred_reloads(world, one, two):
    """Listeners and services come, go and change all the time; nobody is lost, nothing is left."""
    places = [f"tcp:127.0.0.1:{free_port()}", f"unix:{world.path('s')}"]
    relay = start(world, static("kbs"), static("other", address=places[1]),
                  services=[to("kbs.acme", one)],
                  limits={"per_source": {"opens_per_second": 100000}})
    lives = [life(relay.listeners["kbs"]) for _ in range(8)]
    over, came = threading.Event(), [0]
    kbs = listeners(relay, "other")

    def reloads(n):
        for i in range(n):
            more = [static("other", address=places[i % 2])] if i % 3 else []
            relay.reload(listeners=[*kbs, *more], services=[
                to("kbs.acme", *((one, two) if i % 2 else (two,))),
                to(f"more{i}.acme", one)], limits={"parked": 100 + i,
                                                   "per_source": {"opens_per_second": 100000}})
            if more and i % 25 == 1:
                lives.append(life(places[i % 2], b"one", b"two"))

    reloads(10)
    relay.wait_metric("accepted_total", lambda n: n > 0)
    visitors = [Task(churn, relay.listeners["kbs"], over, came) for _ in range(3)]
    fds, rss = relay.fds(), relay.rss()
    reloads(100)
    over.set()
    for v in visitors:
        v.result()
    assert came[0] > 50
    all_finish(lives)
    relay.wait_quiet()
    relay.reload(listeners=kbs)
    wait_for(lambda: relay.fds() <= fds, lambda: f"descriptors back: {relay.fds()}, {fds}")
    assert relay.rss() - rss < 24 * 1024 * 1024
    assert relay.log().count("reload: done") == 111
