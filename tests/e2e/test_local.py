# Local listeners: client -> attest-tunnel --local -> relay (connect door) -> another attest-tunnel
# -> the service; whose bytes they are, how they end, what is said when there is no way.
import ctypes
import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hyperframe.frame import GoAwayFrame

from harness import DEADLINE, DOMAIN, MB, Agent, Task, data, free_port, need, wait_for
from h2_client import SESSION_WINDOW
from streams import Aborted, Service, TlsConn, dial, echo, roundtrip, tls_service

PIDFD_GETFD = 438  # system call
KBS_HOST = f"kbs.acme.{DOMAIN}"


class Local(Agent):
    """attest-tunnel with local listeners: {service: address}, a free TCP port by default."""

    def __init__(self, world, relay, services, name="local", listener="front", extra=(), env=None,
                 expect=(0,), ready=True):
        self.addresses = {s: a or f"tcp:127.0.0.1:{free_port()}" for s, a in services.items()}
        argv = ["--relay", relay.listeners[listener], "--server-name", DOMAIN, "--ca-file",
                world.certificates.ca, "--proxy", "none", *extra]
        for service, address in self.addresses.items():
            argv += ["--local", f"{address}=service:{service}"]
        super().__init__(world, name, argv, env, expect)
        for address in self.addresses.values() if ready else ():
            self.wait_log(f"{address} leads to")

    def dial(self, service="kbs.acme"):
        return dial(self.addresses[service])

    def port(self, service="kbs.acme"):
        return int(self.addresses[service].rsplit(":", 1)[1])


def gone(conn):
    """It ends without a byte, by a reset where the socket can say so."""
    try:
        return conn.recv() == b"" and conn.unix
    except Aborted:
        return True


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def web(world):
    """An HTTPS server that answers each request with a megabyte, and that megabyte. Only its end says
    that it is whole: a client that left at a Content-Length would leave a close_notify unread."""
    body = data(MB)

    def answer(conn):
        while b"\r\n\r\n" not in conn.recv():
            pass
        conn.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        conn.send(body)
        conn.eof()
        conn.read_all()
    return world.add(Service(handler=tls_service(world.certificates.server(), answer))), body


def test_curl(world):
    """curl through a local port: the service's own certificate, every byte, one line at the end."""
    need("curl")
    service, body = web(world)
    relay = world.relay()
    world.agent(relay, {"kbs": service.address})
    local = Local(world, relay, {"kbs.acme": None})
    got = subprocess.run(["curl", "-sS", "--noproxy", "*", "--cacert", world.certificates.ca,
                          "--resolve", f"{KBS_HOST}:{local.port()}:127.0.0.1",
                          f"https://{KBS_HOST}:{local.port()}/"], capture_output=True, timeout=60)
    assert got.returncode == 0, got.stderr
    assert hashlib.sha256(got.stdout).digest() == hashlib.sha256(body).digest()
    said = local.wait_log(r"#1 tcp:127\.0\.0\.1:\d+ -> kbs\.acme \((\S+)\): \d+ up, (\d+) down, "
                          r"[\d.]+ s, (\S+)")
    assert said[1] == relay.listeners["front"] and int(said[2]) > MB and said[3] == "eof"
    relay.wait_quiet()


def test_tls_half_close(world):
    """The client ends its direction; the reply comes much later and whole. And the other way."""
    service = world.add(Service())
    relay = world.relay()
    world.agent(relay, {"kbs": service.address})
    local = Local(world, relay, {"kbs.acme": None})
    accepting = Task(lambda: TlsConn(service.accept(), world.certificates.server(),
                                     server_side=True, fin=True))
    client = TlsConn(local.dial(), world.certificates.client(), name=KBS_HOST, fin=True)
    far = accepting.result()
    client.send(b"question")
    client.eof()
    assert far.read_all() == b"question"
    reply = data(3 * MB)
    sending = Task(lambda: (far.send(reply), far.eof()))
    assert client.read_all() == reply
    sending.result()
    local.wait_log(r"#1 .* eof")
    # the service ends first
    with local.dial() as client:
        client.send(b"x")
        far = service.accept()
        far.eof()
        assert client.recv() == b""
        client.send(b"late")
        client.eof()
        assert far.read_all() == b"xlate"
        far.close()
    local.wait_log(r"#2 .* eof")


def test_only_an_end(world):
    """Not a byte and the end, before there is a connection to the relay: passed on, and answered."""
    service = world.add(Service())
    relay = world.relay()
    world.agent(relay, {"kbs": service.address})
    path = world.path("kbs.sock")
    local = Local(world, relay, {"kbs.acme": None, "KBS.acme": f"unix:{path}"})
    for name in local.addresses:
        with local.dial(name) as client:
            client.eof()
            far = service.accept()
            assert far.recv() == b""
            far.send(b"answer")
            far.eof()
            assert client.read_all() == b"answer"
            far.close()


def test_gone_early(world):
    """A client that goes before there is a connection to the relay takes its wish with it."""
    service = world.add(Service())
    relay = world.relay(timeouts={"pickup": "20s"})
    world.agent(relay, {"kbs": service.address})
    local = Local(world, relay, {"kbs.acme": None})
    relay.kill()
    client = local.dial()
    local.wait_log(r"relay .*refused")
    client.abort()
    local.wait_log(r"#1 .* no connection after [\d.]+ s: reset: it went before")
    world.restart(relay)
    with local.dial() as client:
        client.send(b"x")
        assert service.accept().read_exactly(1) == b"x"
    assert service.accepted == 1


def test_idle(world):
    """timeouts.idle of this end ends a stream in which nothing moves."""
    service = world.add(Service())
    relay = world.relay()
    world.agent(relay, {"kbs": service.address})
    path = world.path("idle.yaml")
    with open(path, "w") as f:
        f.write("timeouts: {idle: 500ms}\n")
    local = Local(world, relay, {"kbs.acme": None}, extra=["--config", path])
    with local.dial() as client:
        client.send(b"x")
        far = service.accept()
        assert far.read_exactly(1) == b"x"
        assert gone(client) and gone(far)
    local.wait_log(r"#1 .* s, idle\n")


def test_half_closed_idle(world):
    """timeouts.half_closed of this end: for a reply that does not come; one that comes in time does."""
    service = world.add(Service())
    relay = world.relay()
    world.agent(relay, {"kbs": service.address})
    path = world.path("half.yaml")
    with open(path, "w") as f:
        f.write("timeouts: {half_closed: 2s}\n")
    local = Local(world, relay, {"kbs.acme": None}, extra=["--config", path])
    for late in (False, True):
        with local.dial() as client:
            client.send(b"x")
            client.eof()
            far = service.accept()
            assert far.read_all() == b"x"
            if late:
                assert gone(client)
                with pytest.raises(Aborted):
                    while True:  # an end was here before: only writing tells
                        far.send(b"reply")
                continue
            time.sleep(1)  # shorter than it may take
            far.send(b"reply")
            far.eof()
            assert client.read_all() == b"reply"
    local.wait_log(r"#2 .* s, half-closed-idle\n")
    assert local.count(r"#1 .* s, eof\n") == 1


def test_once(world, svc):
    """--once: local listeners end with the session of the services, and finish what they have."""
    relay = world.relay()
    port = free_port()
    agent = world.agent(relay, {"kbs": svc.address}, proxy="none", extra=["--once"], local=[
        {"address": f"tcp:127.0.0.1:{port}", "service": "kbs.acme"}], expect=(0, 1))
    with dial(f"tcp:127.0.0.1:{port}") as c:
        roundtrip(c, data(MB))
    relay.stop()
    agent.finish()


def test_aborts(world):
    """A reset on one side is one on the other, and no end of file."""
    service = world.add(Service())
    relay = world.relay()
    world.agent(relay, {"kbs": service.address})
    local = Local(world, relay, {"kbs.acme": None})
    for who, word in ((0, "reset"), (1, "target-reset")):
        client = local.dial()
        client.send(b"x")
        ends = [client, service.accept()]
        assert ends[1].read_exactly(1) == b"x"
        ends[who].abort()
        with pytest.raises(Aborted):
            ends[1 - who].recv()
            raise AssertionError("an end of file instead of a reset")
        local.wait_log(rf"#{who + 1} .* s, {word}\n")
        ends[1 - who].close()


def test_many_at_once(world, svc):
    """200 connections, all open before any ends: few sessions, every byte."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    local = Local(world, relay, {"kbs.acme": None})
    conns = [local.dial() for _ in range(200)]
    for i, c in enumerate(conns):
        c.send(b"%04d" % i)
    for i, c in enumerate(conns):
        assert c.read_exactly(4) == b"%04d" % i
    assert 1 <= local.count(r"relay \S+: connected") <= 4
    tasks = [Task(roundtrip, c, data(20_000)) for c in conns]
    for t in tasks:
        t.result()
    wait_for(lambda: local.count(r"-> kbs\.acme .* s, eof") == 200, local.tail)
    relay.wait_quiet()


def test_limit(world, svc):
    """At limits.streams accept pauses: the others wait in the kernel, and none is lost."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    path = world.path("limits.yaml")
    with open(path, "w") as f:
        f.write("limits: {streams: 2}\n")
    local = Local(world, relay, {"kbs.acme": None}, extra=["--config", path])
    conns = [local.dial() for _ in range(3)]
    for c in conns:
        c.send(b"x")
    assert conns[0].read_exactly(1) == conns[1].read_exactly(1) == b"x"
    local.wait_log("accept pauses: limits.streams")
    conns[0].eof()
    assert conns[0].read_all() == b""
    assert conns[2].read_exactly(1) == b"x"


def test_shares(world, svc):
    """Those who wait for a service that nobody offers do not keep out those of another listener."""
    relay = world.relay(timeouts={"pickup": "60s"})
    world.agent(relay, {"kbs": svc.address})
    path = world.path("limits.yaml")
    with open(path, "w") as f:
        f.write("limits: {streams: 8}\n")
    local = Local(world, relay, {"kbs.acme": None, "lost.acme": None}, extra=["--config", path])
    lost = [local.dial("lost.acme") for _ in range(9)]
    local.wait_log("accept pauses: limits.streams")
    relay.wait_metric("live_parked", lambda v: v == 6)
    both = [local.dial(), local.dial()]  # its share of half of them
    for c in both:
        roundtrip(c, data(1000))
    for c in lost:
        c.abort()


def test_certificate(world, svc):
    """A listener with client_ca: with a certificate of it in, without one told what is missing."""
    pair = world.certificates.issue("person", "DNS:person")
    relay = world.relay(listeners=[{"name": "closed", "doors": ["connect"],
                                    "client_ca": world.certificates.ca}])
    world.agent(relay, {"kbs": svc.address})
    shown = Local(world, relay, {"kbs.acme": None}, listener="closed",
                  extra=["--certificate", pair[0], "--key", pair[1]])
    with shown.dial() as c:
        roundtrip(c, data(MB))
    path = world.path("impatient.yaml")
    with open(path, "w") as f:
        f.write("timeouts: {pickup: 2s}\n")
    bare = Local(world, relay, {"kbs.acme": None}, name="bare", listener="closed",
                 extra=["--config", path])
    with bare.dial() as c:
        c.send(b"x")
        assert gone(c)
    bare.wait_log(r"#1 .* no connection .*certificate")
    assert svc.accepted == 1


def test_certificate_renewed(world, svc):
    """SIGHUP: its files are read again. What cannot be read leaves the old one in force."""
    pair = world.certificates.issue("renewed", "DNS:renewed")
    relay = world.relay(listeners=[{"name": "closed", "doors": ["connect"],
                                    "client_ca": world.certificates.ca}])
    world.agent(relay, {"kbs": svc.address})
    local = Local(world, relay, {"kbs.acme": None}, listener="closed",
                  extra=["--certificate", pair[0], "--key", pair[1]])
    with local.dial() as c:
        roundtrip(c, b"first")
    os.rename(pair[0], pair[0] + ".away")
    local.signal(signal.SIGHUP)
    local.wait_log(r"(?s)reload: .*renewed\.pem.*reload: nothing has changed")
    with local.dial() as c:
        roundtrip(c, b"second")
    os.rename(pair[0] + ".away", pair[0])
    connected = local.count(r"relay \S+: connected")
    local.signal(signal.SIGHUP)
    local.wait_log("reload: done")
    with local.dial() as c:
        roundtrip(c, b"third")
    assert local.count(r"relay \S+: connected") == connected + 1


@pytest.mark.parametrize("service,words", [
    ("other.acme", "pickup-timeout: nobody offers"),
    ("kbs.nobody", "unknown-service: the relay knows no service"),
])
def test_no_such_service(world, svc, service, words):
    """Aborted, and the log says why."""
    relay = world.relay(timeouts={"pickup": "300ms"})
    world.agent(relay, {"kbs": svc.address})
    local = Local(world, relay, {service: None})
    with local.dial(service) as c:
        c.send(b"x")
        assert gone(c)
    local.wait_log(rf"#1 tcp:\S+ -> {service}: no connection after [\d.]+ s: {words}")


def test_no_relay(world):
    """Nobody listens there: the client is let go after timeouts.pickup, with the reason logged."""
    relay = world.relay()
    path = world.path("impatient.yaml")
    with open(path, "w") as f:
        f.write("timeouts: {pickup: 1s}\n")
    local = Local(world, relay, {"kbs.acme": None}, extra=["--config", path])
    relay.stop()
    with local.dial() as c:
        assert gone(c)
    local.wait_log(r"#1 .* no connection after 1\.\d s: pickup-timeout: .*refused")


def test_stuck_relay(world, svc):
    """The first relay takes connections and no more: the second one is there in time."""
    stuck, good = world.relay("stuck"), world.relay("good")
    world.agent(good, {"kbs": svc.address})
    local = Local(world, stuck, {"kbs.acme": None}, extra=["--relay", good.listeners["front"]])
    stuck.signal(signal.SIGSTOP)
    try:
        with local.dial() as c:
            roundtrip(c, data(MB))
    finally:
        stuck.signal(signal.SIGCONT)
    local.wait_log(rf"#1 .* \({good.listeners['front']}\): .* eof")


class LeavingRelay(Service):
    """A connect door that says GOAWAY to its first `leaves` sessions when a stream has come, and has
    not taken it; later ones echo. read: it waits for the stream's first byte before."""

    def __init__(self, world, leaves, read=False):
        self.context = world.certificates.server(world.certificates.relay, alpn=["h2"])
        self.leaves, self.read, self.streams = leaves, read, 0
        super().__init__(handler=self.session)
        self.listeners = {"front": self.address}

    def session(self, conn):
        tls = TlsConn(conn, self.context, server_side=True)
        http = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=False, validate_inbound_headers=False))
        http.local_settings = h2.settings.Settings(client=False, initial_values={
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: SESSION_WINDOW})
        http.initiate_connection()
        http.increment_flow_control_window(SESSION_WINDOW)
        tls.send(http.data_to_send())
        while got := tls.recv():
            for event in http.receive_data(got):
                self.on_event(http, event, tls)
            tls.send(http.data_to_send())

    def on_event(self, http, event, tls):
        come = isinstance(event, h2.events.RequestReceived)
        self.streams += come
        if self.streams <= self.leaves:
            if isinstance(event, h2.events.DataReceived) if self.read else come:
                tls.send(GoAwayFrame(0, last_stream_id=0).serialize())  # h2 itself would end now
        elif come:
            http.send_headers(event.stream_id, [(":status", "200")])
        elif isinstance(event, h2.events.DataReceived):
            http.send_data(event.stream_id, event.data)
        elif isinstance(event, h2.events.StreamEnded):
            http.end_stream(event.stream_id)


class StuffedRelay(LeavingRelay):
    """Its first session reads no more when a byte has come, until it leaves; then all of it."""

    def __init__(self, world):
        self.stuffed, self.leave, self.got = None, threading.Event(), 0
        super().__init__(world, leaves=0)

    def on_event(self, http, event, tls):
        if not isinstance(event, h2.events.DataReceived) or self.stuffed not in (None, http):
            super().on_event(http, event, tls)
            return
        self.got += len(event.data)
        if not self.stuffed:
            self.stuffed = http
            assert self.leave.wait(DEADLINE)
            tls.send(GoAwayFrame(0, last_stream_id=1).serialize())


def test_relay_leaves_while_the_way_is_full(world):
    """A stream that could not even be asked for, since the one before fills the connection."""
    relay = world.add(StuffedRelay(world))
    local = Local(world, relay, {"kbs.acme": None}, extra=["--log-level", "debug"])
    sent = [0, 0]

    def upload(conn):
        for _ in range(256):
            conn.send(bytes(65536))
            sent[0] += 1

    def full():
        before, sent[1] = sent[1], sent[0]
        return before == sent[0] > 0

    with local.dial() as first:
        uploading = Task(upload, first)
        wait_for(full, "the way is full", every=1)
        held = local.fds()
        with local.dial() as late:
            wait_for(lambda: local.fds() == held + 1, "it is accepted")
            relay.leave.set()
            local.wait_log("has not taken it")  # or a byte of it might be gone to that one
            late.send(b"question")
            assert late.read_exactly(8) == b"question"
        uploading.result()
        wait_for(lambda: relay.got == 256 * 65536, lambda: relay.got)


@pytest.mark.parametrize("eof", [False, True])
def test_relay_leaves_before_a_byte(world, eof):
    """GOAWAY says that a stream was not taken, and no byte of it is gone: another session takes it."""
    relay = world.add(LeavingRelay(world, leaves=2))
    local = Local(world, relay, {"kbs.acme": None})
    with local.dial() as c:
        if eof:  # which was passed on already, perhaps, to the one that did not take it
            c.eof()
        wait_for(lambda: relay.streams == 3, lambda: f"{relay.errors}\n{local.tail()}")
        if not eof:
            c.send(b"question")
            assert c.read_exactly(8) == b"question"
            c.eof()
        assert c.read_all() == b""
    local.wait_log(r"#1 .* s, eof\n")
    assert not relay.errors


def test_relay_leaves_after_a_byte(world):
    """What was sent is gone, so the client is told; and one that leaves for ever is not asked so."""
    for relay, word in ((LeavingRelay(world, leaves=1, read=True), "going-away"),
                        (LeavingRelay(world, leaves=99), "going-away")):
        world.add(relay)
        local = Local(world, relay, {"kbs.acme": None}, name=f"local-{relay.leaves}")
        with local.dial() as c:
            if relay.read:
                c.send(b"question")
            assert gone(c)
        local.wait_log(rf"#1 .* no connection after .*: {word}: ")
        assert relay.streams == (1 if relay.read else 4)


def test_parked(world, svc):
    """It comes before the owner does: its bytes wait at the relay."""
    relay = world.relay(timeouts={"pickup": "20s"})
    local = Local(world, relay, {"kbs.acme": None})
    payload = data(MB)
    waiting = Task(lambda: roundtrip(local.dial(), payload))
    relay.wait_metric("live_parked", lambda v: v == 1)
    world.agent(relay, {"kbs": svc.address}, wait=False)
    waiting.result()


def test_relay_restarted(world, svc):
    """Its streams end by a reset, but for those without a byte; who comes then finds the way again,
    even before the relay is up."""
    relay = world.relay(timeouts={"pickup": "20s"})
    world.agent(relay, {"kbs": svc.address})
    local = Local(world, relay, {"kbs.acme": None})
    live = local.dial()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    silent = local.dial()
    relay.wait_metric("live_splices", lambda v: v == 2)
    relay.kill()
    assert gone(live)
    local.wait_log(r"#1 .* tunnel-lost")
    early = Task(lambda: roundtrip(local.dial(), b"early"))
    local.wait_log(r"relay .*refused")
    relay = world.restart(relay)
    early.result()
    roundtrip(silent, data(MB))
    with local.dial() as c:
        roundtrip(c, data(MB))


def no_delay(pid, port):
    """TCP_NODELAY of each connection of the process at this port of its own."""
    libc, found = ctypes.CDLL(None, use_errno=True), []
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                continue
            fd = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
            if fd < 0 and ctypes.get_errno() == errno.EPERM:
                pytest.skip("no right to look at another process's sockets")
            with socket.socket(fileno=fd) as s:
                if s.family == socket.AF_INET and s.getsockname()[1] == port and \
                        not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    finally:
        os.close(pidfd)
    return found


def test_small_writes_are_not_held_back(world, svc):
    """Nagle's algorithm and delayed ACKs would add 40 ms to each answer in two writes."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    local = Local(world, relay, {"kbs.acme": None})
    with local.dial() as c:
        c.send(b"x")
        assert c.read_exactly(1) == b"x"
        assert no_delay(local.pid, local.port()) == [1]


def test_unix(world, svc):
    """A Unix socket, abstract or not; the path is gone at the end."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address, "web": svc.address})
    path = world.path("kbs.sock")
    local = Local(world, relay, {"kbs.acme": f"unix:{path}", "web.acme": f"unix:@web-{os.getpid()}"})
    for service in local.addresses:
        with local.dial(service) as c:
            roundtrip(c, data(MB))
    local.stop()
    assert not os.path.exists(path)


def test_unix_mode(world, svc):
    """A path's mode, whatever the umask is; and a path that is another's by now is left alone."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    paths = {mode: world.path(f"{mode}.sock") for mode in ("0600", "0666", "left-out")}
    config = world.path("modes.yaml")
    with open(config, "w") as f:
        f.write("local:\n")
        for mode, path in paths.items():
            f.write(f"  - {{address: 'unix:{path}', service: kbs.acme" +
                    (f", mode: '{mode}'}}\n" if mode.isdigit() else "}\n"))
    before = os.umask(0o027)
    try:
        local = Local(world, relay, {"KBS.acme": None}, extra=["--config", config])
    finally:
        os.umask(before)
    modes = {mode: os.stat(path).st_mode & 0o777 for mode, path in paths.items()}
    assert modes == {"0600": 0o600, "0666": 0o666, "left-out": 0o750}
    with dial(f"unix:{paths['0600']}") as c:
        roundtrip(c, data(MB))
    os.unlink(paths["0666"])
    other = world.add(Service(f"unix:{paths['0666']}"))
    local.stop()
    assert [os.path.exists(p) for p in paths.values()] == [False, True, False]
    other.close()


def test_taken_port(world, svc):
    """Somebody else listens there: it does not start, and says where."""
    relay = world.relay()
    local = Local(world, relay, {"kbs.acme": svc.address}, expect=(1,), ready=False)
    local.finish()
    assert svc.address.split(":", 1)[1] in local.log() and "in use" in local.log()


def test_both(world, svc):
    """Services and local listeners in one process: a stream goes out of it and in again."""
    relay = world.relay()
    port = free_port()
    agent = world.agent(relay, {"kbs": svc.address}, proxy="none", local=[
        {"address": f"tcp:127.0.0.1:{port}", "service": "kbs.acme"}])
    with dial(f"tcp:127.0.0.1:{port}") as c:
        roundtrip(c, data(MB))
    agent.wait_log(r"#\d+ tcp:127\.0\.0\.1:\d+ -> kbs \(.* eof")
    agent.wait_log(r"#1 tcp:\S+ -> kbs\.acme .* eof")
    live = dial(f"tcp:127.0.0.1:{port}")
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    agent.signal(signal.SIGTERM)
    agent.wait_log("have 5 s to finish")
    roundtrip(live, b"last")
    agent.finish()


def test_client_in_the_log_of_services(world, svc):
    """The agent's line for a stream has the client's address, as far as the relay tells it."""
    path = world.path("front.sock")
    relay = world.relay(listeners=[{"name": "path", "address": f"unix:{path}", "service": "kbs.acme"}])
    agent = world.agent(relay, {"kbs": svc.address}, log={"format": "json"})
    local = Local(world, relay, {"kbs.acme": None})
    with local.dial() as c, dial(f"unix:{path}") as at_path:
        roundtrip(c, b"x")
        roundtrip(at_path, b"x")
    line = local.wait_log(r"\((\S+)\): 1 up, 1 down")
    assert line[1] == relay.listeners["front"]
    lines = [json.loads(agent.wait_log(rf'\{{.*"client":"{of}.*\}}')[0])
             for of in ("tcp:127.0.0.1:", "unknown")]
    assert [x["bytes_up"] for x in lines] == [1, 1]
    assert f"{lines[0]['client']} -> kbs (" in lines[0]["message"]


def test_drain(world, svc):
    """SIGTERM: nobody new, live streams finish, then it ends with 0; a second one ends at once."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    local = Local(world, relay, {"kbs.acme": None})
    live = local.dial()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    local.signal(signal.SIGTERM)
    local.wait_log("ending: open streams")

    def closed():
        try:
            local.dial().close()
        except ConnectionRefusedError:
            return True
        return False
    wait_for(closed, "the port is closed")
    assert local.running()
    payload = data(MB)
    roundtrip(live, payload)
    local.finish()
    again = Local(world, relay, {"kbs.acme": None}, name="again")
    live = again.dial()
    live.send(b"x")
    assert live.read_exactly(1) == b"x"
    again.signal(signal.SIGTERM)
    again.wait_log("ending: open streams")
    again.cut()
    assert gone(live)
    again.finish()


def test_systemd(world, svc):
    """Ready when it listens, with no relay needed; and it says when it stops."""
    relay = world.relay()
    path = world.path("notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(30)
        local = Local(world, relay, {"kbs.acme": None}, env={"NOTIFY_SOCKET": path})
        assert b"READY=1" in s.recv(4096)
        assert b"STATUS=1 local listeners, 0 streams" in s.recv(4096)
        local.stop()
        while b"STOPPING=1" not in s.recv(4096):
            pass


def test_other_proxy(world, svc):
    """The program's proxy is the way for these streams too."""
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    asked = []

    def pass_on(conn):
        head = b""
        while b"\r\n\r\n" not in head:
            head += conn.recv()
        asked.append(head.split(b"\r\n")[0])
        far = dial(relay.listeners["front"])
        conn.send(b"HTTP/1.1 200 OK\r\n\r\n")

        def pump(a, b):
            while got := a.recv():
                b.send(got)
            b.eof()
        back = Task(pump, far, conn)
        pump(conn, far)
        back.result()
    proxy = world.add(Service(handler=pass_on))
    # --proxy again: the last one counts
    local = Local(world, relay, {"kbs.acme": None},
                  extra=["--proxy", proxy.address.replace("tcp:", "http://")])
    with local.dial() as c:
        roundtrip(c, data(MB))
    at = relay.listeners["front"].split(":", 1)[1].encode()
    assert asked == [b"CONNECT " + at + b" HTTP/1.1"]
