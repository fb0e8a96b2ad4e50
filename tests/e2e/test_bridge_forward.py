# Guests' other streams: node (qgs-bridge) -> relay (attest-relay, HTTP/2 connect door) -> tunnel
# (attest-tunnel) -> a service; whose they are, how they end, what becomes of them when a part of the
# way goes.
import os
import random
import select
import shutil
import signal
import socket
import threading
import time

import pytest

from harness import MB, Task, data, free_port, wait_for
from node import (FORWARDED, Node, Serial, at_once, attest, drop_in, issue_node, issue_stranger,
                  listeners_of, make_vm)
from streams import Aborted, dial, roundtrip

KBS = "service:kbs.acme"


def kinds(world, forward=FORWARDED):
    """A node with a listener of each kind, and where guests go."""
    node = Node(world, listeners_of(world, forward))
    return node, [node.bridge.address("unix"), node.bridge.address("tcp"), make_vm(world, "vm-1")]


def let_go(guest):
    """No bytes, and the end. A Unix socket says RST if and only if what was sent lies unread."""
    try:
        return guest.recv() == b""
    except Aborted:
        return True


# ---- bytes ----

def test_data(world):
    """Both ways, of all sizes; the line of each says whose it was, and how much."""
    node, addresses = kinds(world)
    for address in addresses:
        for size in (1, 1000, 65536, 3 * MB):
            with dial(address) as guest:
                roundtrip(guest, data(size))
    node.wait_quiet()
    assert node.ended("eof") == 12
    ends = node.bridge.ends(reason="eof")
    assert {e["vm"] for e in ends} == {f"pid:{os.getpid()}", "name:vm-1",
                                       f"port:{addresses[1].rsplit(':', 1)[1]}"}
    for e in ends:
        assert e["to"] == "echo.acme" and e["via"] == node.relay.listeners["nodes"], e
    assert sorted(e["bytes_up"] for e in ends) == sorted([1, 1000, 65536, 3 * MB] * 3)
    assert all(e["bytes_up"] == e["bytes_down"] for e in ends)


def test_nothing_before_a_guest(world):
    """No connection to the relay, nor to a service, before there is a guest who wants one."""
    node = Node(world, listeners_of(world))
    make_vm(world, "vm-1")
    assert node.nodes_connected() == 0
    assert node.bridge.metric("relay_sessions_total") == 0
    assert node.echo.accepted == 0
    with node.guest() as guest:
        roundtrip(guest, b"now")
    assert node.nodes_connected() == 1
    assert node.echo.accepted == 1


def test_half_close(world):
    """An end of one direction travels on at once and leaves the other, whichever is first."""
    node, addresses = kinds(world, KBS)
    for address in addresses:
        with dial(address) as guest:
            guest.send(b"question")
            service = node.kbs.accept()
            assert service.read_exactly(8) == b"question"
            guest.eof()
            assert service.recv() == b""
            reply = data(MB)  # late
            service.send(reply)
            service.close()
            assert guest.read_all() == reply
        with dial(address) as guest:
            guest.send(b"question")
            service = node.kbs.accept()
            assert service.read_exactly(8) == b"question"
            service.send(b"all I have to say")
            service.eof()
            assert guest.read_all() == b"all I have to say"
            more = data(MB)
            guest.send(more)
            guest.eof()
            assert service.read_all() == more
            service.close()
    node.wait_quiet()
    assert node.ended("eof") == 6


def test_guest_aborts(world):
    """TCP can say it; a Unix socket that is closed takes nothing any more."""
    node, (unix, tcp, _) = kinds(world, KBS)
    guest = dial(tcp)
    guest.send(b"x")
    service = node.kbs.accept()
    assert service.read_exactly(1) == b"x"
    guest.abort()
    with pytest.raises(Aborted):
        service.recv()
    assert node.bridge.wait_end(reason="reset")["to"] == "kbs.acme"

    guest = dial(unix)
    guest.send(b"x")
    service = node.kbs.accept()
    assert service.read_exactly(1) == b"x"
    guest.close()
    assert service.recv() == b""
    with pytest.raises(Aborted):
        while True:  # nobody takes it
            service.send(data(100_000))
    node.bridge.wait_end(reason="closed-early")
    node.wait_quiet()


def test_service_aborts(world):
    node, (unix, tcp, _) = kinds(world, KBS)
    guest = dial(tcp)
    guest.send(b"x")
    service = node.kbs.accept()
    assert service.read_exactly(1) == b"x"
    service.abort()
    with pytest.raises(Aborted):
        guest.recv()
    guest = dial(unix)
    guest.send(b"x")
    service = node.kbs.accept()
    assert service.read_exactly(1) == b"x"
    service.abort()
    assert guest.recv() == b""  # all that a Unix socket can say
    node.wait_quiet()
    assert node.ended("target-reset") == 2


def test_guest_goes_while_it_waits(world):
    """Before there is a connection to the relay: it leaves nothing behind."""
    node = Node(world, timeouts={"pickup": "20s"})
    node.relay.stop()
    guests = [node.guest() for _ in range(5)]
    node.bridge.wait_metric("relay_waiting", lambda n: n == 5)
    for guest in guests[:4]:
        guest.close()
    node.bridge.wait_metric("relay_waiting", lambda n: n == 1)
    assert node.ended("reset") == 4
    guests[4].send(b"said and gone")  # what it has said is to arrive
    guests[4].eof()
    world.restart(node.relay).wait_tunnels(1)
    assert guests[4].read_all() == b"said and gone"


# ---- which service ----

def test_by_vm(world):
    """By path, by port, by name; a drop-in counts at once, and no more when it is gone."""
    os.mkdir(world.path("vms.d"))
    a, b = free_port(), free_port()
    listeners = [
        *listeners_of(world, "by-vm", ["unix", "pattern"]),
        {"name": "realm-1", "address": f"tcp:127.0.0.1:{a}", "forward": "by-vm"},
        {"name": "realm-2", "address": f"tcp:127.0.0.1:{b}", "forward": "by-vm"},
    ]
    node = Node(world, listeners, vms_dir=world.path("vms.d"), vms=[
        {"path": world.path("guest.sock"), "service": "echo.acme"},
        {"port": a, "service": "echo.acme"}, {"port": b, "service": "kbs.acme"}])
    with node.guest("unix") as guest:
        roundtrip(guest, b"by path")
    with node.guest("realm-1") as guest:
        roundtrip(guest, b"by port")
    with node.guest("realm-2") as guest:
        guest.send(b"x")
        with node.kbs.accept() as service:
            assert service.read_exactly(1) == b"x"

    vm = make_vm(world, "vm-1")
    assert let_go(dial(vm))  # nobody's
    e = node.bridge.wait_end(reason="unknown-service", vm="name:vm-1")
    assert e["listener"] == "pattern" and "no entry of vms" in e["message"]
    drop_in(world.path("vms.d"), "vm-1", {"vms": [{"vm": "name:vm-1", "service": "echo.acme"}]})

    def has_it():
        with dial(vm) as guest:
            try:
                guest.send(b"by name")
                guest.eof()
                return guest.read_all() == b"by name"
            except Aborted:  # turned away, as before
                return False
    wait_for(has_it, "the drop-in is in effect")
    live = dial(vm)
    live.send(b"goes on")
    assert live.read_exactly(7) == b"goes on"
    # another service, before the config's own
    drop_in(world.path("vms.d"), "realm", {"vms": [{"port": a, "service": "kbs.acme"}]})

    def switched():
        with node.guest("realm-1") as guest:
            guest.send(b"?")
            wait_for(lambda: select.select([guest.sock], [], [], 0)[0]
                     or not node.kbs.none_waiting(), "one of the services has it")
            return not node.kbs.none_waiting()
    wait_for(switched, "the second drop-in is in effect")
    node.kbs.accept().close()
    # what is under way stays; what comes is refused
    os.unlink(world.path("vms.d/vm-1.yaml"))
    wait_for(lambda: not has_it(), "the drop-in is not in effect any more")
    live.send(b" still")
    assert live.read_exactly(6) == b" still"
    live.close()


def test_listener_of_a_drop_in(world):
    """Whatever starts a VM may bring its socket, too; and it may be the first to make the folder."""
    node = Node(world, vms_dir=world.path("vms.d"))
    node.bridge.wait_log(r"vms\.d: No such file or directory; it is read when it is there")
    os.mkdir(world.path("vms.d"))
    path = world.path("vm-7.sock")
    drop_in(world.path("vms.d"), "vm-7", {
        "listeners": [{"name": "vm-7", "address": f"unix:{path}", "forward": FORWARDED}]})
    wait_for(lambda: os.path.exists(path), "the drop-in's socket")
    with dial(f"unix:{path}") as guest:
        roundtrip(guest, b"hello")
    live = dial(f"unix:{path}")
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    inode = os.stat(path).st_ino
    node.bridge.reload()
    drop_in(world.path("vms.d"), "vm-8", {"vms": [{"cid": 8, "service": "kbs.acme"}]})
    live.send(b"z")
    assert live.read_exactly(1) == b"z"
    with dial(f"unix:{path}") as guest:
        roundtrip(guest, b"the socket is the same one")
    assert os.stat(path).st_ino == inode
    os.unlink(world.path("vms.d/vm-7.yaml"))
    wait_for(lambda: not os.path.exists(path), "the drop-in's socket is gone")
    live.send(b"y")
    assert live.read_exactly(1) == b"y"
    live.close()
    with node.guest() as guest:
        roundtrip(guest, b"the others are as they were")


def test_unknown_service(world):
    """Unknown to the relay: it says so, and so does the bridge."""
    node = Node(world, listeners_of(world, "service:nobody.acme2", ["tcp"]))
    with node.guest("tcp") as guest:
        guest.send(b"x")
        with pytest.raises(Aborted):
            guest.recv()
    e = node.bridge.wait_end(reason="unknown-service", to="nobody.acme2")
    assert "said by the relay" in e["message"], e
    assert e["level"] == "warning"
    node.wait_quiet()


# ---- waiting ----

def test_parked_until_the_tunnel_comes(world):
    """Accepted at once, kept at the relay; then its bytes arrive, those it had said already too."""
    node = Node(world, agent=False, relay_timeouts={"pickup": "30s"})
    guests = [node.guest() for _ in range(10)]
    for i, guest in enumerate(guests):
        guest.send(b"early %d" % i)
    node.relay.wait_metric("live_parked", lambda n: n == 10)
    node.start_agent()
    for i, guest in enumerate(guests):
        want = b"early %d" % i
        assert guest.read_exactly(len(want)) == want
        roundtrip(guest, data(100_000))
        guest.close()
    node.wait_quiet()
    assert node.ended("eof") == 10


def test_no_tunnel_in_time(world):
    """The relay gives up first: its word for it is in the bridge's line."""
    node = Node(world, listeners_of(world, FORWARDED, ["tcp", "unix"]), agent=False,
                relay_timeouts={"pickup": "300ms"})
    with node.guest("tcp") as guest:
        guest.send(b"x")
        with pytest.raises(Aborted):
            guest.recv()
    with node.guest("unix") as guest:
        guest.send(b"x")
        assert let_go(guest)
    for e in node.bridge.wait_end(reason="pickup-timeout", n=2):
        assert "said by the relay: no tunnel" in e["message"], e
    assert node.ended("pickup-timeout") == 2


def test_no_relay(world):
    """Nobody at the address: the guest is let go after pickup, and the line says what was wrong."""
    node = Node(world, timeouts={"pickup": "600ms"})
    node.relay.stop()
    began = time.monotonic()
    with node.guest() as guest:
        guest.send(b"x")
        assert let_go(guest)
    assert time.monotonic() - began > 0.55
    e = node.bridge.wait_end(reason="pickup-timeout")
    assert node.relay.listeners["nodes"] in e["message"] and "refused" in e["message"], e
    assert (e["to"], e["via"], e["bytes_up"]) == ("echo.acme", "", 0)


def test_relay_that_does_not_answer(world):
    """It takes connections and is silent: no better than none."""
    silent = socket.create_server(("127.0.0.1", 0))
    world.add(silent)
    node = Node(world, timeouts={"pickup": "1s", "handshake": "200ms"},
                relay_more={"addresses": [f"tcp:127.0.0.1:{silent.getsockname()[1]}"]})
    with node.guest() as guest:
        assert let_go(guest)
    e = node.bridge.wait_end(reason="pickup-timeout")
    assert str(silent.getsockname()[1]) in e["message"], e


def test_next_relay(world):
    """The first address leads nowhere: the second one is taken."""
    node = Node(world)
    node.bridge.reload(relay={**node.relay_leg, "addresses": [
        f"tcp:127.0.0.1:{free_port()}", node.relay.listeners["nodes"]]})
    with node.guest() as guest:
        roundtrip(guest, b"by the second")
    assert node.bridge.wait_end(reason="eof")["via"] == node.relay.listeners["nodes"]


def test_relay_on_a_unix_socket(world):
    """A relay on the same machine: TLS and certificates all the same."""
    node = Node(world)
    other = world.relay(name="beside", front=False, listeners=[
        {"name": "nodes", "address": f"unix:{world.path('relay.sock')}", "doors": ["connect"],
         "client_ca": world.certificates.ca}],
        services=[{"name": "echo.acme", "targets": [node.echo.address]}])
    node.bridge.reload(relay={**node.relay_leg, "addresses": [other.listeners["nodes"]]})
    with node.guest() as guest:
        roundtrip(guest, data(MB))
    assert node.bridge.wait_end(reason="eof")["via"] == other.listeners["nodes"]
    # taken away from the config: its streams go on, nobody new comes
    live = node.guest()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    at = node.bridge.address().removeprefix("unix:")
    node.bridge.reload(listeners=[{"name": "quotes", "address": f"unix:{world.path('q.sock')}"}],
                       relay={})
    assert not os.path.exists(at)
    roundtrip(live, data(MB))
    live.close()
    node.bridge.wait_metric("streams_total", lambda n: n == 2, reason="eof")
    node.bridge.wait_metric("connections", lambda n: n == 0)


# ---- who may ----

@pytest.mark.parametrize("which", ["another CA's", "none"])
def test_wrong_certificate(world, which):
    """The relay refuses the node: by an alert, or by 403 if it shows none. The line says which."""
    pair = issue_stranger(world) if which != "none" else ()
    node = Node(world, pair=pair, timeouts={"pickup": "700ms"})
    with node.guest() as guest:
        guest.send(b"x")
        assert let_go(guest)
    if which == "none":
        e = node.bridge.wait_end(reason="forbidden")
        assert "said by the relay" in e["message"], e
    else:
        e = node.bridge.wait_end(reason="pickup-timeout")
        assert "certificate was refused" in e["message"] and "unknown ca" in e["message"], e
        node.bridge.wait_log(r"relay tcp:[^ ]*: this side's certificate was refused")
    assert node.echo.accepted == 0
    # with the right one it goes on from there
    certificate, key = world.node_pair
    node.bridge.reload(relay={**node.relay_leg, "certificate": certificate, "key": key})
    with node.guest() as guest:
        roundtrip(guest, b"let in")


def test_relay_is_not_who_it_should_be(world):
    node = Node(world, relay_more={"server_name": "elsewhere.test"}, timeouts={"pickup": "500ms"})
    with node.guest() as guest:
        assert let_go(guest)
    e = node.bridge.wait_end(reason="pickup-timeout")
    assert "elsewhere.test" in e["message"], e


def test_door_without_http2(world):
    """An address that is no connect door of a relay's: said so that it can be mended."""
    node = Node(world, timeouts={"pickup": "500ms"})
    other = world.relay(name="other", front=False, listeners=[
        {"name": "tunnels", "doors": ["tunnel"]}])
    node.bridge.reload(relay={**node.relay_leg, "addresses": [other.listeners["tunnels"]]})
    with node.guest() as guest:
        assert let_go(guest)
    e = node.bridge.wait_end(reason="pickup-timeout")
    assert other.listeners["tunnels"] in e["message"], e


# ---- many ----

def test_many_at_once(world):
    """200 over two sessions, each with bytes of its own; at the relay in whichever worker."""
    node = Node(world, listeners_of(world, FORWARDED, ["unix", "tcp"]),
                limits={"connections_per_vm": 400})

    def one(i):
        with node.guest("tcp" if i % 2 else "unix") as guest:
            guest.send(b"x")
            assert guest.read_exactly(1) == b"x"
            roundtrip(guest, data(200_000))
        return True
    assert all(at_once(200, one))
    node.wait_quiet()
    assert node.ended("eof") == 200
    assert node.nodes_connected() <= 2
    assert node.bridge.metric("relay_sessions_total") <= 2
    assert not node.echo.errors


def test_more_than_a_session_takes(world):
    """The relay's own limit: who is over it waits, and is served."""
    node = Node(world, relay_more={"connections": 2, "streams": 4}, timeouts={"pickup": "30s"},
                limits={"connections_per_vm": 400})
    assert all(at_once(40, lambda i: roundtrip(node.guest(), data(50_000)) is None))
    node.wait_quiet()
    assert node.ended("eof") == 40


def test_limit_of_one_vm(world):
    """One VM's share, not the others'."""
    node, (unix, tcp, vm) = kinds(world, KBS)
    node.bridge.reload(limits={"connections_per_vm": 3})
    held = [dial(tcp) for _ in range(3)]
    node.bridge.wait_metric("connections", lambda n: n == 3)
    with pytest.raises(Aborted), dial(tcp) as guest:
        guest.recv()
    assert "connections_per_vm" in node.bridge.wait_end(reason="limit")["message"]
    for other in unix, vm:
        with dial(other) as guest:
            guest.send(b"x")
            with node.kbs.accept() as service:
                assert service.read_exactly(1) == b"x"
    for guest in held:
        guest.abort()
    node.bridge.wait_metric("connections", lambda n: n == 0)
    with dial(tcp) as guest:
        guest.send(b"x")
        node.kbs.accept().close()


def test_serial_service(world):
    """One client at a time, which waits for its end: the others wait in its queue and come in turn."""
    node = Node(world)
    serial = world.add(Serial())
    node.agent.stop()
    world.agent(node.relay, {"echo": serial.address}, name="serial")
    at_once(20, lambda i: attest(node.guest()))
    assert wait_for(lambda: serial.served == 20, "all are served")
    assert (serial.most, serial.restarts) == (1, 0)
    # one that breaks off ends it; it is started again, and the rest notice nothing
    with node.guest() as guest:
        guest.send(b"\xff" * 8)
        assert let_go(guest)
    at_once(5, lambda i: attest(node.guest()))
    wait_for(lambda: serial.served == 25, "those after it are served")
    assert serial.restarts == 1
    node.wait_quiet()


# ---- what goes away ----

def test_relay_restarted_under_load(world):
    """Streams in it are lost, closed and counted; those after it find the way by themselves."""
    node = Node(world, listeners_of(world, FORWARDED, ["unix", "tcp"]),
                limits={"connections_per_vm": 400}, timeouts={"pickup": "25s"})
    live = []
    for i in range(40):
        guest = node.guest("tcp" if i % 2 else "unix")
        guest.send(b"x")
        assert guest.read_exactly(1) == b"x"
        live.append(guest)
    node.relay.kill()
    for guest in live:
        if guest.unix:
            assert guest.recv() == b""
        else:
            with pytest.raises(Aborted):
                guest.recv()
        guest.close()
    node.bridge.wait_metric("streams_total", lambda n: n == 40, reason="tunnel-lost")
    waiting = [node.guest() for _ in range(10)]  # while it is away
    node.bridge.wait_metric("relay_waiting", lambda n: n == 10)
    relay = world.restart(node.relay)
    relay.wait_tunnels(1)
    for guest in waiting:
        roundtrip(guest, data(10_000))
        guest.close()
    with node.guest() as guest:
        roundtrip(guest, data(MB))
    node.bridge.wait_metric("connections", lambda n: n == 0)
    assert node.ended("eof") == 11


def test_relay_drained(world):
    """SIGTERM: live streams finish, those who come wait for the next relay."""
    node = Node(world, timeouts={"pickup": "25s"}, relay_timeouts={"drain": "20s"})
    live = node.guest()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    node.relay.signal(signal.SIGTERM)
    for early in range(100):  # some may still come before the relay's word reaches the bridge
        late = node.guest()
        late.send(b"late")
        wait_for(lambda: node.bridge.metric("relay_waiting") == 1 or select.select([late.sock], [], [], 0)[0],
                 "one waits, or is answered")
        if node.bridge.metric("relay_waiting") == 1:
            break
        assert late.read_exactly(4) == b"late"
        late.close()
    roundtrip(live, data(MB))
    live.close()
    node.relay.finish()
    relay = world.restart(node.relay)
    relay.wait_tunnels(1)
    assert late.read_exactly(4) == b"late"
    late.close()
    node.bridge.wait_metric("connections", lambda n: n == 0)
    assert node.ended("eof") == 2 + early


def test_tunnel_gone(world):
    """Only what went through it is lost."""
    node = Node(world)
    live = node.guest()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    node.agent.kill()
    assert live.recv() == b""
    live.close()
    node.relay.wait_tunnels(0)
    waiting = node.guest()
    waiting.send(b"parked")
    node.relay.wait_metric("live_parked", lambda n: n == 1)
    world.agent(node.relay, {"echo": node.echo.address}, name="tunnel-2")
    assert waiting.read_exactly(6) == b"parked"
    waiting.close()
    assert node.bridge.metric("relay_sessions_total") == 1  # the way to the relay was good


def test_reload_with_another_certificate(world):
    """The same files, written anew: streams that live go on, new ones show the new certificate."""
    pair = issue_node(world.certificates, "node-2")
    own = world.path("node.pem"), world.path("node.key")

    def install(of):
        for source, to in zip(of, own):
            with open(source) as f, open(to, "w") as t:
                t.write(f.read())
    install(pair)
    node = Node(world, pair=own)
    live = node.guest()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    # a wrong one first: it is refused as a whole, and what was stays
    with open(own[1], "w") as f:
        f.write("no key\n")
    node.bridge.reload(good=False)
    with node.guest() as guest:
        roundtrip(guest, b"as before")
    assert node.bridge.metric("relay_sessions_total") == 1
    install(issue_node(world.certificates, "node-3"))
    node.bridge.reload()
    with node.guest() as guest:
        roundtrip(guest, data(MB))
    assert node.bridge.metric("relay_sessions_total") == 2
    assert node.bridge.metric("relay_sessions") == 2
    roundtrip(live, data(MB))
    live.close()
    node.bridge.wait_metric("relay_sessions", lambda n: n == 1)
    node.bridge.wait_metric("streams_total", lambda n: n == 3, reason="eof")


def test_renewed_certificate(world):
    """Nobody tells the bridge: it sees it, though the certificate is there before its key."""
    own = world.path("node.pem"), world.path("node.key")

    def install(of, *which):
        for i in which:
            shutil.copy(of[i], own[i] + ".new")
            os.rename(own[i] + ".new", own[i])
    install(issue_node(world.certificates, "node-2"), 0, 1)
    node = Node(world, pair=own)
    live = node.guest()
    roundtrip_of(live, b"x")
    pair = issue_node(world.certificates, "node-3")
    install(pair, 0)
    node.bridge.wait_log("new sessions with the relay use what was read before: .*not belong to")
    roundtrip_of(live, b"as before")
    assert node.bridge.metric("relay_sessions_total") == 1
    start = node.bridge.log_size()
    install(pair, 1)
    node.bridge.wait_log("reading them again", start=start)
    with node.guest() as guest:
        roundtrip(guest, data(MB))
    assert node.bridge.metric("relay_sessions_total") == 2
    roundtrip(live, data(MB))
    live.close()


def roundtrip_of(conn, payload):
    """There and back, and it goes on."""
    conn.send(payload)
    assert conn.read_exactly(len(payload)) == payload


def test_bridge_drains(world):
    """SIGTERM: nobody new, those who are there finish."""
    node = Node(world, timeouts={"drain": "20s"})
    live = node.guest()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    node.bridge.signal(signal.SIGTERM)
    wait_for(lambda: not os.path.exists(world.path("unix.sock")), "its socket is gone")
    roundtrip(live, data(MB))
    live.close()
    node.bridge.finish()


def test_bridge_ends_at_once(world):
    """A second SIGTERM: the far end hears of an abort, not of an orderly end."""
    node = Node(world, listeners_of(world, KBS, ["tcp"]), timeouts={"drain": "20s"})
    guest, service = node.pair("tcp")
    waiting = node.guest("tcp")
    node.bridge.wait_metric("connections", lambda n: n == 2)
    node.bridge.signal(signal.SIGTERM)
    node.bridge.wait_log("ending: no new connections")
    node.bridge.cut()
    with pytest.raises(Aborted):
        guest.recv()
    with pytest.raises(Aborted):
        service.recv()
    waiting.close()
    node.bridge.finish()
    assert node.bridge.wait_end(reason="shutdown", n=2)


def test_idle(world):
    """timeouts.idle and half_closed are the bridge's own."""
    node = Node(world, listeners_of(world, KBS, ["tcp"]),
                timeouts={"idle": "400ms", "half_closed": "150ms"})
    guest, service = node.pair("tcp")
    with pytest.raises(Aborted):
        guest.recv()
    node.bridge.wait_end(reason="idle")
    guest, service = node.pair("tcp")
    guest.eof()
    assert service.recv() == b""
    with pytest.raises(Aborted):
        guest.recv()
    node.bridge.wait_end(reason="half-closed-idle")
    node.wait_quiet()


def test_storm(world):
    """Guests of all manners, while relays come and go, drop-ins change and configs are read again."""
    os.mkdir(world.path("vms.d"))
    node = Node(world, listeners_of(world, "by-vm", ["unix", "tcp"]), vms_dir=world.path("vms.d"),
                vms=[{"listener": "unix", "service": "echo.acme"}],
                limits={"connections_per_vm": 400}, timeouts={"pickup": "3s"},
                relay_timeouts={"drain": "200ms"})
    descriptors = node.bridge.fds()
    over = threading.Event()
    whole = []

    def guests(seed):
        dice = random.Random(seed)
        while not over.is_set():
            try:
                with node.guest(dice.choice(["unix", "tcp"])) as guest:
                    manner = dice.choice(["all", "all", "say", "close", "abort", "eof"])
                    if manner in ("say", "abort", "eof"):
                        guest.send(data(dice.choice([1, 1000, 300_000])) if manner != "say"
                                   else b"x")
                    if manner == "all":
                        roundtrip(guest, data(dice.choice([1, 1000, 300_000])))
                        whole.append(1)
                    elif manner == "say":
                        guest.recv()
                    elif manner == "abort":
                        guest.abort()
                    elif manner == "eof":
                        guest.eof()
            except (Aborted, AssertionError):  # cut off, which is fine here
                pass

    def trouble():
        relay = node.relay
        for n in range(1, 13):
            drop_in(world.path("vms.d"), "a", {"vms": [
                {"listener": "tcp", "service": "echo.acme" if n % 3 else "nobody.acme2"}]})
            node.bridge.reload(relay={**node.relay_leg, "connections": 1 + n % 3})
            served = len(whole)
            wait_for(lambda: len(whole) >= served + 20, "some are served")
            if n % 4 == 0:
                relay.kill()
                relay = world.restart(relay)
            elif n % 4 == 2:
                relay.stop()
                relay = world.restart(relay)
    tasks = [Task(guests, i) for i in range(24)]
    try:
        Task(trouble).result(120)
    finally:
        over.set()
    for task in tasks:
        task.result()
    node.bridge.wait_metric("connections", lambda n: n == 0)
    node.bridge.wait_metric("relay_streams", lambda n: n == 0)
    node.bridge.wait_metric("relay_waiting", lambda n: n == 0)
    wait_for(lambda: node.bridge.fds() <= descriptors + 3, "all but a session's descriptors")
    with node.guest("unix") as guest:
        roundtrip(guest, data(MB))
