# The PROXY protocol, taken at listeners and sent to targets: real proxies in front of the relay and
# behind it, and by hand what no proxy would send.
import ipaddress
import json
import re
import socket
import struct
import time

import pytest

from h2_client import H2Client
from harness import (DOMAIN, MB, Agent, Program, Task, data, free_port, need, wait_for)
from streams import (Aborted, Conn, Service, TlsConn, TlsHttpConn, connect_head, dial,
                     echo, http_connect, read_head, roundtrip, tls_service)
from wire import DATA, RawRelay

HANDSHAKE = 2  # seconds
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT, THERE = ("192.0.2.9", 40112), ("198.51.100.1", 443)
HERE = "127.0.0.2"  # where tests' clients come from, so that no proxy has their address
AUTHORITY, UNIQUE_ID, SSL, SSL_VERSION, SSL_CN = 0x02, 0x05, 0x20, 0x21, 0x22


# ---- headers by hand ----

def v1(client=CLIENT, there=THERE):
    family = "TCP6" if ":" in client[0] else "TCP4"
    return f"PROXY {family} {client[0]} {there[0]} {client[1]} {there[1]}\r\n".encode()


def v2(client=CLIENT, there=THERE, tlvs=b"", command=1):
    six = ":" in client[0]
    body = b"".join(ipaddress.ip_address(a[0]).packed for a in (client, there))
    body += struct.pack(">HH", client[1], there[1]) + tlvs
    return (SIGNATURE + bytes([0x20 | command, 0x21 if six else 0x11]) +
            struct.pack(">H", len(body)) + body)


def headers(**named):
    return [pytest.param(header, id=name) for name, header in named.items()]


LOCAL = SIGNATURE + b"\x20\0\0\0"
UNKNOWN = b"PROXY UNKNOWN\r\n"


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


def tlvs_of(raw):
    found = {}
    while raw:
        kind, n = struct.unpack(">BH", raw[:3])
        assert kind not in found and len(raw) >= 3 + n
        found[kind], raw = raw[3:3 + n], raw[3 + n:]
    return found


def read_v2(conn):
    """A header of version 2: (client, there) or None, and its TLVs."""
    head = conn.read_exactly(16)
    assert head[:12] == SIGNATURE, head
    body = conn.read_exactly(struct.unpack(">H", head[14:])[0])
    size = {0x2111: 4, 0x2121: 16, 0x2000: 0}[struct.unpack(">H", head[12:14])[0]]
    if not size:
        return None, tlvs_of(body)
    ips = [str(ipaddress.ip_address(body[i:i + size])) for i in (0, size)]
    ports = struct.unpack(">HH", body[2 * size:2 * size + 4])
    return tuple(zip(ips, ports)), tlvs_of(body[2 * size + 4:])


def read_line(conn):
    line = b""
    while not line.endswith(b"\r\n"):
        line += conn.read_exactly(1)
    return line


def connect_from(address, source=HERE):
    """A connection to a TCP address whose client is known by its own."""
    host, port = address.split(":")[1:]
    return Conn(socket.create_connection((host, int(port)), 20, (source, 0)))


# ---- what there is ----

class Setting:
    def __init__(self, world):
        self.world, self.certificates = world, world.certificates
        self.echo = world.add(Service(handler=echo))
        self.tls = world.add(Service(handler=tls_service(self.certificates.server(), echo)))
        here, elsewhere = ("127.0.0.1/32", "unix"), ("10.0.0.0/8", "127.0.0.3", "::/0")

        def listener(name, networks, how="required", **more):
            if "service" not in more:
                more.setdefault("doors", ["tunnel", "sni", "connect"])
            return {"name": name, "proxy_protocol": how, "proxy_networks": list(networks), **more}
        self.relay = world.relay(
            listeners=[
                listener("balanced", here),
                listener("static", here, service="echo.acme"),
                listener("by-unix", here, service="v2.acme",
                         address=f"unix:{world.path('by-unix')}"),
                listener("certified", here, doors=["connect"], client_ca=self.certificates.ca),
                listener("optional", here, "optional"),
                listener("elsewhere", elsewhere),
                listener("optional-elsewhere", elsewhere, "optional"),
            ],
            services=[
                {"name": "echo.acme", "targets": [self.echo.address]},
                {"name": "tls.acme", "targets": [self.tls.address]},
                {"name": "v1.acme", "targets": [self.echo.address], "proxy_protocol": "v1"},
                {"name": "v2.acme", "targets": [self.echo.address], "proxy_protocol": "v2"},
                {"name": "second.acme", "proxy_protocol": "v2",
                 "targets": [f"tcp:127.0.0.1:{free_port()}", self.echo.address]},
            ],
            log={"format": "json"},
            timeouts={"handshake": f"{HANDSHAKE}s", "pickup": "2s"})

    def dial(self, listener):
        return dial(self.relay.listeners[listener])

    def lines(self, start, service=None):
        found = [json.loads(x) for x in self.relay.log(start).splitlines() if x.startswith("{")]
        return [x for x in found if "client" in x and service in (None, x.get("service"))]

    def logged(self, start, service=None):
        """The line of the one client there has been since start."""
        found = wait_for(lambda: self.lines(start, service), "a line in the log")
        assert len(found) == 1, found
        return found[0]

    def open(self, conn, door):
        """Through one of the doors of a listener, on an open connection: to an echo."""
        if door == "sni":
            return TlsConn(conn, self.certificates.client(), name=f"tls.acme.{DOMAIN}", fin=True)
        if door == "connect":
            return http_connect(conn, "echo.acme")
        if door == "connect-tls":
            tls = TlsHttpConn(conn, self.certificates.client(), name=DOMAIN)
            return http_connect(tls, "echo.acme")
        assert door == "static"
        return conn

    def h2(self, conn):
        tls = TlsConn(conn, self.certificates.client(["h2"]), name=DOMAIN)
        assert tls.tls.selected_alpn_protocol() == "h2"
        return H2Client(tls)

    def refused(self, listener, sent, reason, end=False):
        """What is sent is answered by a reset, for that reason."""
        start = self.relay.log_size()
        before = self.relay.metric("refused_total", reason=reason)
        with pytest.raises(Aborted):
            with self.dial(listener) as conn:
                conn.send(sent)
                if end:
                    conn.eof()
                got = conn.recv()
                raise AssertionError(f"{got!r} instead of a reset")
        wait_for(lambda: self.relay.metric("refused_total", reason=reason) == before + 1,
                 f"one more refused: {reason}")
        for line in self.lines(start):  # or none, when there were many
            assert line["reason"] == reason and line["client"].startswith("tcp:127.0.0.1:"), line
            assert "via_proxy" not in line


@pytest.fixture(scope="module")
def setting(module_world):
    return Setting(module_world)


@pytest.fixture(autouse=True)
def nothing_left_behind(setting):
    yield
    setting.relay.wait_quiet()
    assert not setting.echo.errors and not setting.tls.errors


# ---- taken ----

LISTENER_OF = {"static": "static", "sni": "balanced", "connect": "balanced",
               "connect-tls": "balanced"}


@pytest.mark.parametrize("header", headers(
    v1=v1(), v2=v2(), long=v2(tlvs=tlv(4, b"x" * 3000)),
    v1_six=v1(("2001:db8::9", 1), ("::1", 2)), v2_six=v2(("2001:db8::9", 1), ("2001:db8::1", 2))))
@pytest.mark.parametrize("door", LISTENER_OF)
def test_header_then_door(setting, door, header):
    """The header is gone before the door looks; half-close holds; the client is the one it names."""
    start = setting.relay.log_size()
    conn = setting.dial(LISTENER_OF[door])
    proxy = f"tcp:127.0.0.1:{conn.sock.getsockname()[1]}"
    conn.send(header)
    with setting.open(conn, door) as c:
        roundtrip(c, data(MB))
    line = setting.logged(start)
    client = "tcp:[2001:db8::9]:1" if b"TCP6" in header or header[13] == 0x21 else \
        "tcp:192.0.2.9:40112"
    assert line["client"] == client and line["via_proxy"] == proxy, line
    assert f" {client} by {proxy} -> " in line["message"]


def test_header_then_h2(setting):
    """HTTP/2 inside the relay's TLS, behind a header: the connection's line and the streams'."""
    start = setting.relay.log_size()
    conn = setting.dial("balanced")
    conn.send(v2())
    client = setting.h2(conn)
    for _ in range(3):
        stream = client.open("echo.acme").opened()
        stream.send(b"hello", end=True)
        assert stream.read_all() == b"hello"
    client.close()
    lines = wait_for(lambda: len(setting.lines(start)) == 4 and setting.lines(start), "4 lines")
    for line in lines:
        assert line["client"] == "tcp:192.0.2.9:40112", line
        assert line["via_proxy"].startswith("tcp:127.0.0.1:"), line


@pytest.mark.parametrize("header", headers(v1=v1(), v2=v2(tlvs=tlv(2, b"kbs.acme"))))
@pytest.mark.parametrize("door", ["connect", "static"])
def test_split_at_every_byte(setting, door, header):
    """Wherever it is cut, and with whatever behind it in the same segment."""
    behind = connect_head("echo.acme") if door == "connect" else b""
    for at in range(1, len(header) + 1):
        with setting.dial(LISTENER_OF[door]) as conn:
            conn.send(header[:at])
            time.sleep(0.002)  # so that each piece is a segment of its own
            conn.send(header[at:] + behind + b"early")
            if door == "connect":
                _, conn.pending = read_head(conn)
            assert conn.read_exactly(5) == b"early"


@pytest.mark.parametrize("header", headers(v1=v1(), v2=v2()))
def test_byte_by_byte(setting, header):
    hello = header + connect_head("echo.acme") + b"end"
    with setting.dial("balanced") as conn:
        for i in range(len(hello)):
            conn.send(hello[i:i + 1])
            time.sleep(0.001)
        _, conn.pending = read_head(conn)
        assert conn.read_exactly(3) == b"end"


def test_only_its_own_bytes(setting):
    """A second header is the client's own bytes; at a door it is garbage, to a service payload."""
    with setting.dial("static") as conn:
        conn.send(v2() + v2() + v1())
        assert conn.read_exactly(len(v2() + v1())) == v2() + v1()
    with setting.dial("balanced") as conn:
        conn.send(v1() + v1() + b"\r\n")
        assert read_head(conn)[0].startswith(b"HTTP/1.1 400 ")


def test_by_unix(setting):
    """unix in proxy_networks; and Unix sockets of the proxy's own, which have no address."""
    for header, client in ((v2(), "tcp:192.0.2.9:40112"),
                           (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), "unix")):
        start = setting.relay.log_size()
        with setting.dial("by-unix") as conn:
            conn.send(header)
            told, more = read_v2(conn)
            assert told == ((CLIENT, THERE) if client != "unix" else None)
            roundtrip(conn, data(1000))
        line = setting.logged(start)
        assert line["client"] == client and re.match(r"unix:pid=\d+,uid=", line["via_proxy"]), line


@pytest.mark.parametrize("header", headers(local=LOCAL, unknown=UNKNOWN, local_too=v2(command=0),
                                           unspecified=SIGNATURE + b"\x21\0\0\5hello"))
def test_headers_that_name_nobody(setting, header):
    """The proxy's own connections: it is the client. And health checks leave no line."""
    start = setting.relay.log_size()
    for _ in range(3):
        with setting.dial("balanced") as conn:
            conn.send(header)
    setting.relay.wait_quiet()
    assert not setting.lines(start)
    with setting.dial("balanced") as conn:
        conn.send(header)
        client = f"tcp:127.0.0.1:{conn.sock.getsockname()[1]}"
        roundtrip(http_connect(conn, "echo.acme"), b"hello")
    line = setting.logged(start)
    assert line["client"] == client and "via_proxy" not in line


def test_missing(setting):
    hello = b"\x16\x03\x01\0\xa5\x01\0"
    for first in (connect_head("echo.acme"), hello, b"P" * 200, b"\r\n\r\nGET / HTTP/1.1\r\n",
                  b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXYING"):
        for listener in ("balanced", "static"):
            setting.refused(listener, first, "protocol")


def test_garbage(setting):
    too_long = b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n"
    assert len(too_long) == 108
    for header in (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", b"PROXY TCP4 1.2.3.4\n",
                   b"PROXY TCP9 1.2.3.4\r\n", too_long, b"PROXY UNKNOWN " + b"f" * 500,
                   SIGNATURE + b"\x31", SIGNATURE + b"\x2f", SIGNATURE + b"\x21\x51",
                   SIGNATURE + b"\x21\x11\0\4abcd", v2(tlvs=b"\4\0\xffx"),
                   v2(tlvs=tlv(3, b"\0\0\0\0"))):
        for listener in ("balanced", "optional"):
            setting.refused(listener, header, "protocol")
    for length in (4081, 65535):
        header = SIGNATURE + b"\x21\x11" + struct.pack(">H", length)
        setting.refused("balanced", header, "too-large")


def test_words(setting, world):
    """What the operator reads."""
    relay = world.relay(listeners=[
        {"name": name, "doors": ["connect"], "proxy_protocol": "required",
         "proxy_networks": [network]} for name, network in (("a", "127.0.0.1"), ("b", "10.0.0.1"))])
    for listener, sent, words in (
            ("a", b"GET", "refused: protocol: no PROXY header, which this listener requires"),
            ("a", b"PROXY TCP4 1 2 3 4\r\n", "refused: protocol: a PROXY line without two"),
            ("b", b"", "refused: forbidden: no proxy of proxy_networks, which this listener")):
        with pytest.raises(Aborted):
            with dial(relay.listeners[listener]) as conn:
                conn.send(sent)
                conn.recv()
        relay.wait_log(words)


def test_cut_short(setting):
    """An end inside the header: gone, as those who say nothing."""
    start = setting.relay.log_size()
    before = setting.relay.metric("refused_total", reason="eof")
    for part in (b"", v1()[:20], v2()[:14], v2()[:20]):
        with setting.dial("balanced") as conn:
            conn.send(part)
            conn.eof()
            try:
                assert conn.recv() == b""
            except Aborted:
                pass
    wait_for(lambda: setting.relay.metric("refused_total", reason="eof") == before + 4, "4 gone")
    assert not setting.lines(start)


@pytest.mark.parametrize("first", headers(nothing=b"", v2=v2()[:20], v1=v1()[:-1], one=b"P",
                                          whole=v2()))
def test_silence(setting, first):
    """timeouts.handshake covers the header and what comes after it together."""
    pause = HANDSHAKE * 0.7 if first == v2() else 0
    start = time.monotonic()
    before = setting.relay.metric("refused_total", reason="handshake-timeout")
    with setting.dial("balanced") as conn:
        time.sleep(pause)
        conn.send(first)
        with pytest.raises(Aborted):
            assert not conn.recv()
            raise AssertionError("EOF instead of a reset")
    assert HANDSHAKE * 0.8 < time.monotonic() - start < HANDSHAKE * 1.6
    assert setting.relay.metric("refused_total", reason="handshake-timeout") == before + 1


def test_from_elsewhere(setting):
    """required: nobody but the proxies, whatever he says. optional: without a header."""
    for first in (v1() + connect_head("echo.acme"), v2(), connect_head("echo.acme"), b""):
        setting.refused("elsewhere", first, "forbidden")
    for first in (v1() + connect_head("echo.acme"), v2(), b"PROXY ", SIGNATURE, b"PROXY junk"):
        setting.refused("optional-elsewhere", first, "forbidden")
    for door in ("sni", "connect", "connect-tls"):
        with setting.open(setting.dial("optional-elsewhere"), door) as conn:
            roundtrip(conn, data(1000))
    # by another address of the same machine, which is listed
    start = setting.relay.log_size()
    conn = connect_from(setting.relay.listeners["elsewhere"], "127.0.0.3")
    conn.send(v2())
    with setting.open(conn, "connect") as c:
        roundtrip(c, b"hello")
    wait_for(lambda: [x for x in setting.lines(start) if x["client"] == "tcp:192.0.2.9:40112"],
             "its line")


@pytest.mark.parametrize("door", ["sni", "connect", "connect-tls"])
def test_optional(setting, door):
    """From a proxy with one and without."""
    for header, client in ((b"", "tcp:127.0.0.1:"), (v1(), "tcp:192.0.2.9:40112")):
        start = setting.relay.log_size()
        conn = setting.dial("optional")
        conn.send(header)
        with setting.open(conn, door) as c:
            roundtrip(c, data(1000))
        line = setting.logged(start)
        assert line["client"].startswith(client) and ("via_proxy" in line) == bool(header)


def test_off(setting):
    """Without the key such bytes are what they were: no door begins like this."""
    with setting.dial("front") as conn:
        conn.send(v1() + b"\r\n")
        assert read_head(conn)[0].startswith(b"HTTP/1.1 400 ")
    with pytest.raises(Aborted):
        with setting.dial("front") as conn:
            conn.send(v2())
            conn.recv()
            raise AssertionError("no reset")


def test_drain(world, setting):
    """Who is in the middle of a header when the relay drains is served, or ends with it."""
    relay = world.relay(listeners=[{"name": "b", "service": "echo.acme",
                                    "proxy_protocol": "required",
                                    "proxy_networks": ["127.0.0.0/8"]}],
                        services=[{"name": "echo.acme", "targets": [setting.echo.address]}],
                        timeouts={"drain": "20s", "handshake": "20s"})
    conns = [dial(relay.listeners["b"]) for _ in range(2)]
    for c in conns:
        c.send(v2()[:20])
    relay.wait_metric("live_intakes", lambda v: v == 2)
    relay.signal(15)
    conns[0].send(v2()[20:])
    roundtrip(conns[0], data(1000))
    relay.signal(15)  # at once
    relay.finish()
    for c in conns:
        c.close()


def test_sticky(world):
    """A client is whom the header names: all come by one proxy, and each stays with its own agent."""
    relay = world.relay(
        listeners=[{"name": "b", "doors": ["connect"], "proxy_protocol": "required",
                    "proxy_networks": ["127.0.0.0/8"]}],
        services=[{"name": "kbs.acme", "balance": "sticky"}])
    for name in (b"one", b"two"):
        service = world.add(Service(handler=lambda c, name=name: (c.recv(), c.send(name))))
        world.agent(relay, {"kbs": service.address}, name=name.decode())

    def ask(client):
        with dial(relay.listeners["b"]) as conn:
            conn.send(v2((f"192.0.2.{client}", 40000 + client)))
            http_connect(conn, "kbs.acme").send(b"?")
            return conn.read_exactly(3)
    first = [ask(i) for i in range(40)]
    assert min(first.count(name) for name in (b"one", b"two")) > 5, first
    assert [ask(i) for i in range(40)] == first


# ---- sent ----

def test_sent_v1(setting):
    with connect_from(setting.relay.listeners["front"]) as conn:
        client, there = conn.sock.getsockname(), conn.sock.getpeername()
        http_connect(conn, "v1.acme")
        assert read_line(conn) == v1(client, there)
        roundtrip(conn, data(MB))


def test_sent_v2(setting):
    with connect_from(setting.relay.listeners["front"]) as conn:
        client, there = conn.sock.getsockname(), conn.sock.getpeername()
        start = setting.relay.log_size()
        http_connect(conn, "v2.acme")
        told, more = read_v2(conn)
        assert told == (client, there)
        assert more.keys() == {AUTHORITY, UNIQUE_ID} and more[AUTHORITY] == b"v2.acme"
        roundtrip(conn, data(MB))
    line = setting.logged(start)
    assert more[UNIQUE_ID] == str(line["stream"]).encode()
    # bytes of the header are not the client's
    assert line["bytes_up"] == MB and line["bytes_down"] > MB


def test_sent_by_tls(setting):
    """The relay's own TLS, over both versions of HTTP; and what came in by a header goes out."""
    conn = setting.dial("balanced")
    conn.send(v2())
    with TlsHttpConn(conn, setting.certificates.client(), name=DOMAIN) as tls:
        version = tls.tls.version().encode()
        http_connect(tls, "v2.acme")
        told, more = read_v2(tls)
        assert told == (CLIENT, THERE)
        assert more[SSL][:5] == b"\x01\0\0\0\x01"
        assert tlvs_of(more[SSL][5:]) == {SSL_VERSION: version}
    conn = setting.dial("balanced")
    conn.send(v1())
    client = setting.h2(conn)
    ids = set()
    for name in ("v2.acme", f"v2.acme.{DOMAIN}:443"):
        stream = client.open(name).opened()
        stream.read_exactly = stream.read
        told, more = read_v2(stream)
        assert told == (CLIENT, THERE) and more[AUTHORITY] == name.split(":")[0].encode()
        assert more[SSL][0] == 1
        ids.add(more[UNIQUE_ID])
        stream.send(end=True)
        assert stream.read_all() == b""
    assert len(ids) == 2
    client.close()


def test_sent_with_certificate(setting):
    context = setting.certificates.client()
    context.load_cert_chain(*setting.certificates.elsewhere)
    conn = setting.dial("certified")
    conn.send(v2())
    with TlsHttpConn(conn, context, name=DOMAIN) as tls:
        http_connect(tls, "v2.acme")
        told, more = read_v2(tls)
        assert told == (CLIENT, THERE)
        assert more[SSL][:5] == b"\x07\0\0\0\0"
        assert tlvs_of(more[SSL][5:])[SSL_CN] == b"elsewhere"


def test_sent_to_the_next_target(setting):
    """Each target that is tried has one."""
    with setting.dial("front") as conn:
        http_connect(conn, "second.acme")
        told, _ = read_v2(conn)
        assert told[0] == conn.sock.getsockname()
        roundtrip(conn, b"hello")


def test_sent_when_the_client_says_nothing(setting):
    """A client's silence, or end, is no reason to wait."""
    with setting.dial("front") as conn:
        told = v1(conn.sock.getsockname(), conn.sock.getpeername())
        http_connect(conn, "v1.acme")
        conn.eof()
        assert read_line(conn) == told
        assert conn.read_all() == b""


# ---- real proxies ----

HAPROXY = """
defaults
  mode tcp
  timeout connect 10s
  timeout client 20s
  timeout server 20s
{}
"""


def haproxy(world, name, port, sections):
    need("haproxy")
    path = world.path(f"{name}.cfg")
    with open(path, "w") as f:
        f.write(HAPROXY.format(sections))
    proxy = Program(world, name, ["haproxy", "-db", "-f", path], expect=(143, 0, -15))
    wait_for(lambda: listens(port), f"{name} listens\n{proxy.tail()}")
    return proxy


def nginx(world, port, body):
    need("nginx")
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    need(module)
    folder, path = world.folder, world.path("nginx.conf")
    with open(path, "w") as f:
        f.write(f"load_module {module}; daemon off; worker_processes 1; pid {folder}/nginx.pid;\n"
                f"error_log {folder}/nginx.log info; events {{ worker_connections 256; }}\n"
                + body.format(folder=folder))
    proxy = Program(world, "nginx", ["nginx", "-c", path, "-p", folder], expect=(0,))
    wait_for(lambda: listens(port), f"nginx listens\n{proxy.tail()}")
    return proxy


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module", params=["haproxy-v1", "haproxy-v2", "nginx"])
def in_front(request, setting):
    """A real proxy in front of the relay's listeners: {listener: port}."""
    world = setting.world
    ports = {name: free_port() for name in ("balanced", "static")}
    if request.param == "nginx":
        servers = "".join(
            f"server {{{{ listen 127.0.0.1:{port}; proxy_protocol on; "
            f"proxy_pass 127.0.0.1:{setting.relay.port(name)}; }}}}"
            for name, port in ports.items())
        proxy = nginx(world, ports["static"], f"stream {{{{ {servers} }}}}\n")
    else:
        how = "send-proxy" if request.param == "haproxy-v1" else \
            "send-proxy-v2 proxy-v2-options crc32c,unique-id"
        proxy = haproxy(world, request.param, ports["static"], "\n".join(
            f"listen {name}\n  bind 127.0.0.1:{port}\n  server relay "
            f"127.0.0.1:{setting.relay.port(name)} {how} check check-send-proxy inter 200"
            for name, port in ports.items()))
    yield ports
    proxy.stop()


@pytest.mark.parametrize("door", LISTENER_OF)
def test_behind_a_proxy(setting, in_front, door):
    setting.relay.wait_quiet()
    start = setting.relay.log_size()
    service = "tls.acme" if door == "sni" else "echo.acme"
    conn = connect_from(f"tcp:127.0.0.1:{in_front[LISTENER_OF[door]]}")
    client = f"tcp:{HERE}:{conn.sock.getsockname()[1]}"
    with setting.open(conn, door) as c:
        payload = data(MB)
        writer = Task(c.send, payload)
        assert c.read_exactly(MB) == payload
        writer.result()

    def line():
        found = [x for x in setting.lines(start, service) if x["client"] == client]
        return found and found[0]
    line = wait_for(line, lambda: f"a line of {client}: {setting.lines(start)}")
    assert line["via_proxy"].startswith("tcp:127.0.0.1:")


def test_h2_behind_a_proxy(setting, in_front):
    start = setting.relay.log_size()
    conn = connect_from(f"tcp:127.0.0.1:{in_front['balanced']}")
    name = f"tcp:{HERE}:{conn.sock.getsockname()[1]}"
    client = setting.h2(conn)
    stream = client.open("v2.acme").opened()
    stream.read_exactly = stream.read
    told, _ = read_v2(stream)
    assert told[0] == conn.sock.getsockname()
    stream.send(b"hello", end=True)
    assert stream.read_all() == b"hello"
    client.close()
    wait_for(lambda: [x for x in setting.lines(start) if x["client"] == name], "its line")


def test_agent_behind_a_proxy(setting, in_front):
    """The tunnel door behind a load balancer: the agent's own address, and streams as ever."""
    start = setting.relay.log_size()
    agent = setting.world.agent(setting.relay, {"deep": setting.echo.address},
                                address=f"tcp:127.0.0.1:{in_front['balanced']}")
    with setting.dial("front") as conn:
        roundtrip(http_connect(conn, "deep.acme"), data(MB))
    agent.stop()

    def line():
        found = [json.loads(x) for x in setting.relay.log(start).splitlines()]
        return [x for x in found if "tunnel" in x and "via_proxy" in x]
    line, = wait_for(line, "the tunnel's line")
    assert line["agent"].startswith("tcp:127.0.0.1:") and line["agent"] != line["via_proxy"]


def test_health_checks(setting):
    """haproxy's own checks, by LOCAL or a line: no refusal, no line, and the relay is up for it."""
    port, stats = free_port(), free_port()
    proxy = haproxy(setting.world, "checking", port,
                    f"listen a\n  bind 127.0.0.1:{port}\n  server relay 127.0.0.1:"
                    f"{setting.relay.port('balanced')} send-proxy-v2 check check-send-proxy "
                    f"inter 50\nlisten b\n  bind 127.0.0.1:{stats}\n  server relay 127.0.0.1:"
                    f"{setting.relay.port('balanced')} send-proxy check inter 50")
    start, before = setting.relay.log_size(), setting.relay.metric("accepted_total")
    setting.relay.wait_metric("accepted_total", lambda v: v > before + 10)
    assert not setting.lines(start)
    with connect_from(f"tcp:127.0.0.1:{port}") as conn:
        http_connect(conn, "echo.acme").send(b"x")
        assert conn.recv() == b"x"
    proxy.stop()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_check_of_a_target(world, certificates, version, kind):
    """A check speaks first as clients do, or a target that expects a header would seem down."""
    told = []

    def handler(conn):
        told.append(read_v2(conn)[0] if version == "v2" else read_line(conn))
        if kind == "tls":
            conn = TlsConn(conn, certificates.server(), server_side=True, fin=True)
        echo(conn)
    port = free_port()
    relay = world.relay(services=[
        {"name": "kbs.acme", "targets": [f"tcp:127.0.0.1:{port}"], "proxy_protocol": version,
         "check": {"kind": kind, "every": "100ms"}}])
    relay.wait_metric("target_up", lambda v: v == 0)
    service = world.add(Service(f"tcp:127.0.0.1:{port}", handler=handler))
    relay.wait_metric("target_up", lambda v: v == 1)
    wait_for(lambda: service.accepted > 5, "more checks")
    assert relay.metric("target_up") == 1
    assert set(told) == {UNKNOWN if version == "v1" else None}
    with connect_from(relay.listeners["front"]) as conn:
        client, there = conn.sock.getsockname(), conn.sock.getpeername()
        conn = http_connect(conn, "kbs.acme")
        if kind == "tls":
            conn = TlsConn(conn, certificates.client(), name=f"kbs.acme.{DOMAIN}", fin=True)
        roundtrip(conn, data(1000))
    assert (v1(client, there) if version == "v1" else (client, there)) in told
    assert not service.errors and relay.count("does not pass its check") == 1


@pytest.fixture(scope="module")
def behind(setting):
    """Real receivers: {kind: port}; each answers a GET with what it was told."""
    world = setting.world
    told = free_port()
    haproxy(world, "receiver", told,
            f"frontend told\n  mode http\n  bind 127.0.0.1:{told} accept-proxy\n"
            "  http-request return status 200 content-type text/plain lf-string "
            "\"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"\n")
    web = free_port()
    nginx(world, web, "http {{ access_log off; client_body_temp_path {folder}/b; "
          "proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; "
          f"scgi_temp_path {{folder}}/s; server {{{{ listen 127.0.0.1:{web} proxy_protocol; "
          "return 200 \"$proxy_protocol_addr:$proxy_protocol_port "
          "$proxy_protocol_server_addr:$proxy_protocol_server_port  \"; }} }}\n")
    return {"haproxy": told, "nginx": web}


def get(conn):
    conn.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, body = read_head(conn)
    assert b" 200 " in head.splitlines()[0], head
    while more := conn.recv():
        body += more
    return body.decode()


def address(pair):
    return f"{pair[0]}:{pair[1]}"


@pytest.mark.parametrize("receiver", ["haproxy", "nginx"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_real_receivers(setting, world, behind, version, receiver):
    relay = world.relay(services=[{"name": "told.acme", "proxy_protocol": version,
                                   "targets": [f"tcp:127.0.0.1:{behind[receiver]}"]}],
                        listeners=[{"name": "local", "doors": ["connect"],
                                    "address": f"unix:{world.path('local')}"}])
    for _ in range(3):
        with connect_from(relay.listeners["front"]) as conn:
            client, there = conn.sock.getsockname(), conn.sock.getpeername()
            words = get(http_connect(conn, "told.acme")).split(" ")
        assert words[:2] == [address(client), address(there)], words
        if version == "v2" and receiver == "haproxy":
            assert words[2] == "told.acme" and words[3].isdigit(), words
    # a client without an address: the receiver goes on with the relay's own
    with dial(relay.listeners["local"]) as conn:
        get(http_connect(conn, "told.acme"))


# ---- through a tunnel ----

def offers(address, **more):
    return [{"name": f"{how}-{dial}", "target": address, "proxy_protocol": how, "dial": dial,
             **more} for how in ("off", "v1", "v2") for dial in ("first-byte", "eager")]


@pytest.fixture(scope="module")
def agents(setting):
    world = setting.world
    direct = world.agent(setting.relay, offers(setting.echo.address), name="direct")
    other = world.agent(setting.relay, [{"name": "ws", "target": setting.echo.address,
                                         "proxy_protocol": "v2"}], name="ws",
                        transport="websocket")
    yield direct
    direct.stop()
    other.stop()
    setting.relay.wait_tunnels(0)


@pytest.mark.parametrize("mode", ["first-byte", "eager"])
def test_sent_by_the_agent(setting, agents, mode):
    """The owner's service is told the client's own address, which only the relay has seen."""
    for header in (b"", v1(), v2(), LOCAL):
        def come(service):
            conn = setting.dial("balanced" if header else "front")
            client = CLIENT if header and header != LOCAL else conn.sock.getsockname()
            conn.send(header)
            return http_connect(conn, service), client
        conn, client = come(f"v1-{mode}.acme")
        conn.send(b"first")
        assert read_line(conn) == v1(client, ("0.0.0.0", 0))
        assert conn.read_exactly(5) == b"first"
        roundtrip(conn, data(MB))
        conn, client = come(f"v2-{mode}.acme")
        conn.send(b"first")
        told, more = read_v2(conn)
        assert told == (client, ("0.0.0.0", 0))
        assert more.keys() == {AUTHORITY, UNIQUE_ID}
        assert more[AUTHORITY] == f"v2-{mode}.acme".encode()
        assert conn.read_exactly(5) == b"first"
        roundtrip(conn, data(MB))
        conn, client = come(f"off-{mode}.acme")
        roundtrip(conn, data(1000))


def test_sent_by_the_agent_over_websocket(setting, agents):
    start = setting.relay.log_size()
    with setting.dial("balanced") as conn:
        conn.send(v2(("2001:db8::9", 7), ("2001:db8::1", 8)))
        http_connect(conn, f"ws.acme.{DOMAIN}").send(b"x")  # its service is not eager
        told, more = read_v2(conn)
        assert told == (("2001:db8::9", 7), ("::", 0))
        assert more[AUTHORITY] == f"ws.acme.{DOMAIN}".encode()
        assert conn.read_exactly(1) == b"x"
        roundtrip(conn, b"hello")
    assert more[UNIQUE_ID] == str(setting.logged(start)["stream"]).encode()


def test_sent_by_the_agent_by_h2(setting, agents):
    conn = setting.dial("balanced")
    conn.send(v1())
    client = setting.h2(conn)
    streams = [client.open("v2-eager.acme").opened() for _ in range(5)]
    for stream in streams:
        stream.read_exactly = stream.read
        told, more = read_v2(stream)
        assert told == (CLIENT, ("0.0.0.0", 0)) and SSL not in more
        stream.send(b"hello", end=True)
        assert stream.read_all() == b"hello"
    client.close()


def test_sent_by_the_agent_without_an_address(setting, world, agents):
    """A client at a Unix socket: the owner learns nothing of its process."""
    relay = world.relay(listeners=[{"name": name, "address": f"unix:{world.path(name)}",
                                    "service": f"{name}.acme"} for name in ("v1-eager", "v2-eager")])
    agent = world.agent(relay, offers(setting.echo.address), name="local")
    with dial(relay.listeners["v1-eager"]) as conn:
        assert read_line(conn) == UNKNOWN
        roundtrip(conn, data(1000))
    with dial(relay.listeners["v2-eager"]) as conn:
        told, more = read_v2(conn)
        assert told is None and more.keys() == {UNIQUE_ID}
        roundtrip(conn, data(1000))
    agent.stop()


@pytest.mark.parametrize("receiver", ["haproxy", "nginx"])
def test_real_receivers_behind_the_agent(setting, behind, receiver):
    """Proxy, relay, tunnel, agent, proxy: the client's address comes through all of it."""
    agent = setting.world.agent(setting.relay, [
        {"name": f"told-{how}", "proxy_protocol": how,
         "target": f"tcp:127.0.0.1:{behind[receiver]}"} for how in ("v1", "v2")])
    for how in "v1", "v2":
        with setting.dial("balanced") as conn:
            conn.send(v2())
            words = get(http_connect(conn, f"told-{how}.acme")).split(" ")
        # both show port 0 as nothing
        assert words[:2] == [address(CLIENT), "0.0.0.0:"], words
        if (how, receiver) == ("v2", "haproxy"):
            assert words[2] == "told-v2.acme" and words[3].isdigit()
    agent.stop()


def test_relay_that_says_nothing(world, certificates, setting):
    """An older relay, or one that says what is no address: the service is told UNKNOWN, LOCAL."""
    relay = RawRelay(certificates)
    agent = Agent(world, "agent", [
        "--relay", relay.address, "--server-name", DOMAIN, "--transport", "direct",
        "--ca-file", certificates.ca, "--token-file", world.token()[1],
        "--service", f"a={setting.echo.address},dial=eager,proxy_protocol=v1",
        "--service", f"b={setting.echo.address},dial=eager,proxy_protocol=v2"])
    wire = relay.session()
    relay.hello(wire)
    stream = 5
    for said in (None, "", "tcp:", "tcp:host:1", "tcp:192.0.2.9:99999", "unix:pid=1,uid=0",
                 "x" * 4000, "tcp:192.0.2.9:1 PROXY"):
        for service, told in (("a", UNKNOWN), ("b", LOCAL[:14])):
            relay.connect(wire, stream, f"{service}.acme",
                          *([] if said is None else [("attest-client", said)]))
            got = wire.until(DATA, stream)[3]
            assert got.startswith(told), (said, got)
            stream += 2
    # and one that is
    relay.connect(wire, stream, "a.acme", ("attest-client", "tcp:192.0.2.9:40112"))
    assert wire.until(DATA, stream)[3] == v1(CLIENT, ("0.0.0.0", 0))
    wire.close()
    relay.close()
    agent.stop()
