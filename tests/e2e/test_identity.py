# Who may do what at the relay: owners by token and certificate, clients by certificate, network,
# user and listener; and what a service's owner allows further (allow of attest-tunnel).
#
# Security incidents of other programs, and the tests here and elsewhere that are of them:
#   permission looked at when a session begins and not for each stream (chisel,
#     GHSA-24fp-5v3p-rvpw): test_each_stream_of_a_session_is_judged, and test_revocation.py
#   authentication that is configured and empty lets all in (chisel, CVE-2024-43798):
#     test_empty_authentication_is_refused
#   a route or a right by what a client says of itself (frp, CVE-2026-40910):
#     test_a_stranger_says_who_he_is, test_owner_is_of_the_credential
#   a resumed session of another name skips the certificate (nginx, CVE-2025-23419):
#     test_no_session_is_resumed
#   the handshake is good though the certificate is not (nginx, CVE-2026-28755):
#     test_certificates
#   plain text before TLS taken for what was inside (nginx, CVE-2026-1642): unit test proxy_open,
#     test_egress.py; at the relay's doors test_words_before_tls
#   secrets in arguments and logs (cloudflared, wstunnel): test_egress.py, unit test secrets
#   a server's certificate that nobody looks at (wstunnel): test_tunnel.py, test_local.py
#   sessions that outlive their credential (nova): test_revocation.py
#   lengths by peers that are allocated (aproxy): test_bad_input.py, fuzz targets
import json
import os
import re
import socket
import ssl
import subprocess

import pytest
import yaml

from bridge import Bridge
from h2_client import H2Client, over_tls
from harness import DOMAIN, binary, data, free_port
from pki import Authority
from streams import (Aborted, Conn, Refused, Service, TlsConn, TlsHttpConn, connect_head, dial, echo,
                     proxy_status, read_head, roundtrip, tls_service)

UID = os.getuid()
RSA = ("-newkey", "rsa:1024")
HEADS = ("attest-client-certificate", "attest-client-rule")


class Pki:
    """Nodes' CA with an intermediate one, owners' CA, and one that nobody trusts."""

    def __init__(self, folder):
        self.nodes, self.owners = Authority(folder, "nodes"), Authority(folder, "owners")
        self.stranger = Authority(folder, "stranger")
        self.middle = Authority(folder, "middle", by=self.nodes)
        self.middle.write_crl()
        self.nodes.write_crl(self.middle)
        self.node = self.nodes.issue("node", "DNS:Node-1.example")
        self.owner = self.owners.issue("beta", "URI:spiffe://owners/beta")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("authorities"))


def clients():
    return [
        {"name": "node", "certificates": ["dns:node-1.example"], "services": ["kbs.acme"]},
        {"name": "spiffe", "certificates": ["uri:spiffe://cloud/ns/node"], "services": ["*.acme"]},
        {"name": "mail", "certificates": ["email:ops@example"], "services": ["kbs.*"]},
        {"name": "both", "certificates": ["dns:both.example"], "networks": ["192.0.2.0/24"],
         "services": ["*"]},
        {"name": "told", "networks": ["203.0.113.0/24"], "services": ["kbs.acme"]},
        {"name": "near", "networks": ["127.0.0.9"], "services": ["kbs.acme"]},
        {"name": "user", "uids": [str(UID)], "services": ["kbs.acme"]},
        {"name": "others", "uids": [f"{UID + 1}-{UID + 9}"], "services": ["*"]},
        {"name": "by-open", "listeners": ["open", "static-kbs"], "services": ["kbs.acme"]},
        {"name": "by-sni", "listeners": ["sni"], "services": ["tls.acme"]},
        {"name": "over", "networks": ["127.0.0.0/8"], "services": ["*"],
         "expires": "2020-01-01T00:00:00Z"},
    ]


class Place:
    """A relay with a listener of each kind, two owners, and their services."""

    def __init__(self, world, pki):
        self.world, self.pki = world, pki
        c = world.certificates
        self.echo = world.add(Service(handler=echo))
        self.tls = world.add(Service(handler=tls_service(c.server(), echo)))
        proxied = {"proxy_protocol": "required", "proxy_networks": ["127.0.0.0/8"]}
        ask = {"client_ca": pki.nodes.pem, "client_crl": pki.nodes.crl}
        http = ["connect", "websocket"]
        self.relay = world.relay(
            front=False, clients=clients(),
            owners=[world.owner(), {"name": "beta", "certificates": [
                {"name": "uri:spiffe://owners/beta", "label": "beta-2026"}]}],
            penalties={"failures": 0},
            listeners=[
                {"name": "front", "doors": ["tunnel"], "client_ca": pki.owners.pem},
                {"name": "nodes", "doors": http, **ask},
                {"name": "perhaps", "doors": http, "client_certificates": "optional", **ask},
                {"name": "plain", "doors": http},
                {"name": "open", "doors": http},
                {"name": "sni", "doors": ["sni"]},
                {"name": "proxied", "doors": http, "client_certificates": "optional", **ask,
                 **proxied},
                {"name": "static-kbs", "service": "kbs.acme"},
                {"name": "static-tang", "service": "tang.acme"},
                {"name": "unix", "doors": http, "address": f"unix:{world.path('relay.sock')}"},
                {"name": "unix-kbs", "service": "kbs.acme",
                 "address": f"unix:{world.path('kbs.sock')}"}])
        world.agent(self.relay, {"kbs": self.echo.address, "tang": self.echo.address,
                                 "tls": self.tls.address}, name="acme-agent")
        self.owner_agent = world.agent(
            self.relay, {"kbs": self.echo.address}, name="beta-agent", owner="beta",
            token_file=False, certificate=pki.owner[0], key=pki.owner[1])

    def client(self, pair=None, version=None):
        context = self.world.certificates.client()
        if version:
            context.minimum_version = context.maximum_version = version
        if pair:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")  # a weak one is for the relay to refuse
            context.load_cert_chain(*pair)
        return context

    def enter(self, listener, pair=None, tls=True, source=None, first=b"", version=None,
              alpn=None):
        """A connection to the relay, inside its TLS if there is to be any."""
        address = self.relay.listeners[listener]
        if source:
            host, port = address[4:].rsplit(":", 1)
            sock = socket.create_connection((host, int(port)), 30, (source, 0))
            conn = Conn(sock)
        else:
            conn = dial(address)
        if first:
            conn.send(first)
        if not tls:
            return conn
        context = self.client(pair, version)
        if alpn:
            context.set_alpn_protocols([alpn])
        return TlsHttpConn(conn, context, name=DOMAIN)


@pytest.fixture(scope="module")
def place(module_world, pki):
    return Place(module_world, pki)


def through(conn):
    roundtrip(conn, data(2000))
    return "yes"


def reason_in(head):
    return proxy_status(re.search(rb"(?im)^proxy-status: (.*)\r?$", head + b"\r\n")[1].decode(
        ).strip())[1]


def connect(conn, service, more=b""):
    conn.send(connect_head(service)[:-2] + more + b"\r\n")
    head, conn.pending = read_head(conn)
    return through(conn) if head.split()[1] == b"200" else reason_in(head)


def websocket(conn, service):
    conn.send((f"GET /connect/{service} HTTP/1.1\r\nHost: {DOMAIN}\r\nUpgrade: websocket\r\n"
               "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").encode())
    head, _ = read_head(conn)
    return "yes" if head.split()[1] == b"101" else reason_in(head)


def h2(conn, service):
    with H2Client(conn) as c:
        stream = c.connect(service)
        c.wait(lambda: stream.status or stream.reset is not None or c.closed)
        if c.closed:
            return f"aborted: {c.closed}"
        if stream.status != 200:
            return stream.reason
        payload = data(2000)
        stream.send(payload, end=True)
        assert stream.read_all() == payload
        return "yes"


def tried(run, *args):
    """yes, the relay's word for its no, or the alert that ended the handshake."""
    try:
        return run(*args)
    except Aborted as e:
        return f"aborted: {e}"
    except Refused as e:
        return f"closed: {e}"
    except ssl.SSLError as e:
        return f"aborted: {e}"


WAYS = {"connect": (connect, None), "websocket": (websocket, None), "h2": (h2, "h2")}


def ask(place, listener, way, service, pair=None, **how):
    run, alpn = WAYS[way]

    def go():
        conn = place.enter(listener, pair, alpn=alpn, **how)
        try:
            return run(conn, service)
        finally:
            conn.close()
    return tried(go)


# ---- clients: each kind of rule, at each door ----

@pytest.mark.parametrize("way", WAYS)
def test_by_certificate(place, way):
    pki = place.pki
    spiffe = pki.nodes.issue(f"spiffe-{way}", "URI:spiffe://cloud/ns/node")
    mail = pki.nodes.issue(f"mail-{way}", "email:ops@example")
    assert ask(place, "nodes", way, "kbs.acme", pki.node) == "yes"
    assert ask(place, "perhaps", way, "kbs.acme", pki.node) == "yes"
    assert ask(place, "nodes", way, "KBS.Acme", pki.node) == "yes"
    assert ask(place, "nodes", way, "tang.acme", pki.node) == "forbidden"
    assert ask(place, "nodes", way, "kbs.beta", pki.node) == "forbidden"
    assert ask(place, "nodes", way, "tang.acme", spiffe) == "yes"
    assert ask(place, "nodes", way, "kbs.beta", spiffe) == "forbidden"
    assert ask(place, "nodes", way, "kbs.beta", mail) == "yes"
    assert ask(place, "nodes", way, "tang.acme", mail) == "forbidden"
    assert ask(place, "nodes", way, "kbs.acme") == "forbidden"
    assert ask(place, "perhaps", way, "kbs.acme") == "forbidden"
    assert ask(place, "nodes", way, "kbs.acme", tls=False) == "forbidden"
    # a listener that asks for none takes none: it proves nothing there
    assert ask(place, "plain", way, "kbs.acme", pki.node) == "forbidden"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tls", [True, False])
def test_by_network_and_listener(place, way, tls):
    assert ask(place, "plain", way, "kbs.acme", tls=tls, source="127.0.0.9") == "yes"
    assert ask(place, "plain", way, "tang.acme", tls=tls, source="127.0.0.9") == "forbidden"
    assert ask(place, "plain", way, "kbs.acme", tls=tls, source="127.0.0.8") == "forbidden"
    assert ask(place, "open", way, "kbs.acme", tls=tls) == "yes"
    assert ask(place, "open", way, "tang.acme", tls=tls) == "forbidden"


@pytest.mark.parametrize("way", WAYS)
def test_by_user(place, way):
    assert ask(place, "unix", way, "kbs.acme", tls=False) == "yes"
    assert ask(place, "unix", way, "tang.acme", tls=False) == "forbidden"
    assert ask(place, "unix", way, "kbs.beta", tls=False) == "forbidden"


def test_static_and_sni(place):
    relay = place.relay
    for listener in ("static-kbs", "unix-kbs"):
        with dial(relay.listeners[listener]) as conn:
            through(conn)
    before = relay.metric("refused_total", reason="forbidden")
    assert tried(lambda: dial(relay.listeners["static-tang"]).recv()).startswith("aborted")
    relay.wait_metric("refused_total", lambda n: n == before + 1, reason="forbidden")
    context = place.world.certificates.client()
    with TlsConn(dial(relay.listeners["sni"]), context, name=f"tls.acme.{DOMAIN}",
                 fin=True) as conn:
        through(conn)
    assert "access denied" in tried(lambda: TlsConn(
        dial(relay.listeners["sni"]), context, name=f"kbs.acme.{DOMAIN}")).lower().replace(
            "_", " ")


@pytest.mark.parametrize("way", WAYS)
def test_by_network_that_a_proxy_tells(place, way):
    """A header of a listed proxy counts; one that names nobody is of no network."""
    told = b"PROXY TCP4 203.0.113.7 192.0.2.1 4000 443\r\n"
    assert ask(place, "proxied", way, "kbs.acme", first=told) == "yes"
    assert ask(place, "proxied", way, "tang.acme", first=told) == "forbidden"
    other = b"PROXY TCP4 203.0.114.7 192.0.2.1 4000 443\r\n"
    assert ask(place, "proxied", way, "kbs.acme", first=other) == "forbidden"
    both = place.pki.nodes.issue(f"both-{way}", "DNS:both.example")
    there = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n"
    assert ask(place, "proxied", way, "tang.acme", both, first=there) == "yes"
    assert ask(place, "proxied", way, "tang.acme", first=there) == "forbidden"
    assert ask(place, "proxied", way, "tang.acme", both, first=told) == "forbidden"
    for nobody in (b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"):
        assert ask(place, "proxied", way, "kbs.acme", first=nobody,
                   source="127.0.0.9") == "forbidden"
        assert ask(place, "proxied", way, "kbs.acme", place.pki.node, first=nobody) == "yes"


def test_each_stream_of_a_session_is_judged(place):
    with H2Client(place.enter("nodes", place.pki.node, alpn="h2")) as c:
        for _ in range(3):
            assert c.connect("tang.acme").refused() == (403, "forbidden")
            stream = c.open("kbs.acme")
            stream.send(b"x", end=True)
            assert stream.read_all() == b"x"
            assert c.connect("kbs.beta").refused() == (403, "forbidden")


# ---- certificates that will not do ----

def bad_certificates(pki):
    n, name = pki.nodes, "DNS:node-1.example"
    revoked = n.issue("revoked", name)
    n.revoke(revoked)
    n.write_crl(pki.middle)
    middle_revoked = pki.middle.issue("middle-revoked", name, chain=[pki.middle])
    pki.middle.revoke(middle_revoked)
    n.write_crl(pki.middle)
    lone = pki.nodes.path("lone")
    n.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
          "-keyout", f"{lone}.key", "-out", f"{lone}.pem", "-days", "2", "-subj", "/CN=node-1",
          "-addext", f"subjectAltName={name}")
    return {  # what is refused in the handshake, by the alert
        "server-only": (n.issue("server-only", name, usage="serverAuth"),
                        "unsupported certificate|unknown"),
        "expired": (n.issue("expired", name, starts=-7200, ends=-5), "certificate expired"),
        "not-yet": (n.issue("not-yet", name, starts=3600), "bad certificate"),
        "revoked": (revoked, "certificate revoked"),
        "revoked-below": (middle_revoked, "certificate revoked"),
        "no-chain": (pki.middle.issue("no-chain", name), "unknown ca"),
        "weak": (n.issue("weak", name, key=RSA), "bad certificate|key too small|insufficient"),
        "stranger": (pki.stranger.issue("node", name), "unknown ca"),
        "owners": (pki.owners.issue("node", name), "unknown ca"),
        "alone": ((f"{lone}.pem", f"{lone}.key"), "unknown ca"),
    }


def der_name(text):
    """A DNS name as it is, whatever bytes it has."""
    name = bytes([0x82, len(text)]) + text
    return "DER:" + (bytes([0x30, len(name)]) + name).hex(":")


def nameless_certificates(pki):
    """Good ones that give no right."""
    n = pki.nodes
    sans = {
        "wildcard": "DNS:*.example", "common-name": None, "longer": "DNS:node-1.example.org",
        "shorter": "DNS:node-1", "other-kind": "URI:node-1.example",
        "as-email": "email:dns@node-1.example", "ip": "IP:127.0.0.1",
        "uri-case": "URI:spiffe://cloud/ns/Node", "uri-more": "URI:spiffe://cloud/ns/node/x",
        "uri-escape": "URI:spiffe://cloud/ns/n%6fde", "email-case": "email:Ops@example",
        "prefixed": "DNS:dns:node-1.example",
        **{f"byte-{byte}-{end}": der_name(b"node-1.example" + bytes([byte]) + end.encode())
           for byte in (0, 9, 32, 44, 0xe9) for end in ("", ".evil")},
        "comma": "@alt\n[alt]\nDNS.1=x,dns:node-1.example",
        "beyond": ",".join([f"DNS:n{i}.example" for i in range(16)] + ["DNS:node-1.example"]),
    }
    return {name: n.issue(name, san, common="node-1.example") for name, san in sans.items()}


def test_certificates(place):
    """Not one gets in but by its own name, from its own CA, in its time."""
    pki, relay = place.pki, place.relay
    bad, nameless = bad_certificates(pki), nameless_certificates(pki)
    good = pki.middle.issue("below", "DNS:x.example,DNS:NODE-1.EXAMPLE", chain=[pki.middle])
    text = relay.reload()
    assert "revocation list" not in text.replace("revocation lists are", ""), text
    for way in WAYS:
        assert ask(place, "nodes", way, "kbs.acme", good) == "yes"
        assert ask(place, "nodes", way, "kbs.acme", pki.node) == "yes"
        for name, pair in nameless.items():
            for listener in ("nodes", "perhaps"):
                assert ask(place, listener, way, "kbs.acme", pair) == "forbidden", (name, listener)
        before = relay.metric("refused_total", reason="handshake-failed")
        for name, (pair, alert) in bad.items():
            for listener in ("nodes", "perhaps"):
                got = ask(place, listener, way, "kbs.acme", pair)
                assert got.startswith("aborted"), (name, listener, got)
                assert way == "h2" or re.search(alert, got.lower().replace("_", " ")), (name, got)
        relay.wait_metric("refused_total", lambda n: n == before + 2 * len(bad),
                          reason="handshake-failed")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_either_tls(place, version):
    revoked = place.pki.nodes.path("revoked")
    if not os.path.exists(f"{revoked}.pem"):
        place.pki.nodes.revoke(place.pki.nodes.issue("revoked", "DNS:node-1.example"))
        place.pki.nodes.write_crl(place.pki.middle)
        place.relay.reload()
    assert ask(place, "nodes", "connect", "kbs.acme", place.pki.node, version=version) == "yes"
    assert ask(place, "nodes", "connect", "kbs.acme", version=version) == "forbidden"
    got = ask(place, "nodes", "connect", "kbs.acme", (f"{revoked}.pem", f"{revoked}.key"),
              version=version)
    assert "certificate revoked" in got.lower().replace("_", " "), got


@pytest.mark.parametrize("crl", ["expired", "of-another", "of-one", "forged"])
def test_lists_that_say_nothing(world, pki, tmp_path, crl):
    """A CA without a list in force has no good certificates; that is said when it is read."""
    ca = Authority(tmp_path, "ca")
    node = ca.issue("node", "DNS:node.example")
    cas = str(tmp_path / "cas.pem")
    with open(cas, "w") as f:
        f.write(open(ca.pem).read())
    if crl == "expired":
        ca.write_crl(last=-7200, following=-60)
        says = "past its next update"
    elif crl == "of-another":
        pki.stranger.write_crl(to=ca.crl)
        says = "has none of the CA /CN=ca"
    elif crl == "of-one":
        with open(cas, "a") as f:
            f.write(open(pki.stranger.pem).read())
        pki.stranger.write_crl(to=ca.crl)
        says = "has none of the CA /CN=ca"
    else:
        os.mkdir(tmp_path / "again")
        Authority(tmp_path / "again", "ca").write_crl(to=ca.crl)
        says = ""
    relay = world.relay(front=False, listeners=[
        {"name": "front", "doors": ["tunnel", "connect"], "client_ca": cas, "client_crl": ca.crl}],
        clients=[{"name": "all", "certificates": ["dns:node.example"], "services": ["*"]}])
    assert says in relay.log()
    assert ("the revocation list" in relay.log()) == bool(says), relay.log()
    context = world.certificates.client()
    context.load_cert_chain(*node)

    def go():
        return connect(TlsHttpConn(dial(relay.listeners["front"]), context, name=DOMAIN),
                       "kbs.acme")
    assert tried(go).startswith("aborted")
    ca.write_crl()
    if crl == "of-one":
        with open(cas, "w") as f:
            f.write(open(ca.pem).read())
    relay.reload()
    service = world.add(Service(handler=echo))
    world.agent(relay, {"kbs": service.address})
    assert tried(go) == "yes"


# ---- owners ----

@pytest.mark.parametrize("transport", ["direct", "websocket"])
def test_owner_by_certificate(place, transport):
    world, relay, pki = place.world, place.relay, place.pki
    agent = world.agent(relay, {"extra": place.echo.address}, owner="beta", token_file=False,
                        transport=transport, certificate=pki.owner[0], key=pki.owner[1])
    assert f"tunnel beta/{agent.name}" in relay.log()
    agent.stop()
    relay.wait_log(f"tunnel beta/{agent.name} .* ended")


def refused_agent(place, says, transport="direct", pair=None, token=False, name=None):
    relay = place.relay
    start = relay.log_size()
    agent = place.world.agent(
        relay, {"kbs": place.echo.address}, token_file=token, transport=transport, wait=False,
        name=name, **({"certificate": pair[0], "key": pair[1]} if pair else {}))
    relay.wait_log(says, start=start)
    assert relay.metric("live_tunnels") == 2
    agent.stop()


@pytest.mark.parametrize("transport", ["direct", "websocket"])
def test_owner_refused(place, transport):
    pki, token = place.pki, place.world.token()[1]
    refused = r"refused: bad-credential: "
    # one of the nodes' CA at the owners' door; others that are not good
    for who in (pki.nodes.issue(f"o-{transport}", "URI:spiffe://owners/beta"),
                pki.stranger.issue(f"o-{transport}", "URI:spiffe://owners/beta")):
        refused_agent(place, "handshake-failed.*unable to get", transport, who)
    refused_agent(place, "handshake-failed.*expired", transport,
                  pki.owners.issue(f"old-{transport}", "URI:spiffe://owners/beta", ends=-5,
                                   starts=-7200))
    refused_agent(place, refused + "no owner of this relay has a certificate", transport,
                  pki.owners.issue(f"none-{transport}", "URI:spiffe://owners/gamma",
                                   common="beta"))
    # a token beside another owner's certificate; and one beside a certificate of nobody's
    refused_agent(place, refused + "the token is not known to this relay, or the certificate",
                  transport, pki.owner, token)


def test_whose_ca_says_who_an_owner_is(world, pki):
    """That of a listener for tunnels, at that listener; a CA for clients alone says nothing of it."""
    name = {"name": "beta", "certificates": [{"name": "uri:spiffe://owners/beta"}]}
    relay = world.relay(front=False, owners=[name], penalties={"failures": 0}, listeners=[
        {"name": "front", "doors": ["tunnel"], "client_ca": pki.owners.pem},
        {"name": "nodes", "doors": ["connect"], "client_ca": pki.nodes.pem},
        {"name": "mixed", "doors": ["tunnel", "connect"], "client_ca": pki.stranger.pem}])

    def agent(listener, ca, name, wait):
        pair = ca.issue(name, "URI:spiffe://owners/beta")
        return world.agent(relay, {"kbs": "tcp:127.0.0.1:1"}, name=name, token_file=False,
                           address=relay.listeners[listener], certificate=pair[0], key=pair[1],
                           wait=wait)
    agent("front", pki.owners, "right", True)
    agent("mixed", pki.stranger, "by-choice", True)  # it is trusted with both there
    relay.wait_tunnels(2)
    for listener, ca in (("front", pki.stranger), ("front", pki.nodes), ("mixed", pki.owners),
                         ("mixed", pki.nodes), ("nodes", pki.nodes)):
        start = relay.log_size()
        lost = agent(listener, ca, f"lost-{listener}-{ca.name}", False)
        lost.wait_log("next try in")
        assert listener == "nodes" or relay.wait_log("not accepted: unable to get", start=start)
        lost.stop()
    assert relay.metric("live_tunnels") == 2


def test_token_beside_a_certificate_of_nobody(place):
    pair = place.pki.owners.issue("beside", "DNS:some.host")
    agent = place.world.agent(place.relay, {"more": place.echo.address}, certificate=pair[0],
                              key=pair[1])
    assert f"tunnel acme/{agent.name}" in place.relay.log()
    agent.stop()
    place.relay.wait_log(f"tunnel acme/{agent.name} .* ended")


def test_owner_is_of_the_credential(place):
    """The owner's name is in nothing that an agent says."""
    assert "tunnel beta/beta-agent" in place.relay.log()
    start = place.relay.log_size()
    agent = place.world.h2_agent(place.relay, {"kbs": "echo"}, name="claims", owner="acme",
                                 args=["--instance", "beta-agent"])
    agent.wait_output("accepted kbs.acme")
    assert "tunnel acme/beta-agent" in place.relay.log(start)
    assert place.relay.metric("live_tunnels") == 3  # it took nobody's over
    agent.signal(15)
    agent.wait()
    agent.done = True
    place.relay.wait_tunnels(2)


# ---- what is told to agents ----

def test_a_stranger_says_who_he_is(world, pki, certificates):
    """What a client says in the relay's own words is not passed on and allows nothing."""
    relay = world.relay(
        listeners=[{"name": "nodes", "doors": ["connect", "websocket"],
                    "client_ca": pki.nodes.pem, "client_certificates": "optional"}],
        clients=[{"name": "node", "certificates": ["dns:node-1.example", "dns:a.example"],
                  "services": ["*"]},
                 {"name": "rest", "networks": ["127.0.0.0/8"], "services": ["echo.acme"]}])
    agent = world.h2_agent(relay, {"echo": "echo", "kbs": "echo"}, args=["--heads"])
    heads = [[":method", "CONNECT"], [":authority", "echo.acme"]]
    lies = [("attest-client-certificate", "dns:node-1.example"), ("attest-client-rule", "node"),
            ("attest-client", "tcp:192.0.2.1:1"), ("attest-stream", "1")]

    def told():
        head = json.loads(re.findall(r"^head (.*)$", agent.output(), re.M)[-1])
        assert [list(x) for x in head[:2]] == heads
        names = [n for n, _ in head]
        assert len(set(names)) == len(names)
        return {k: v for k, v in head if k in HEADS}

    for tls in (False, True):
        under = dial(relay.listeners["nodes"])
        with H2Client(over_tls(under, certificates) if tls else under) as c:
            for authority, status in (("echo.acme", 200), ("kbs.acme", 403)):
                stream = c.request([(":method", "CONNECT"), (":authority", authority), *lies])
                c.wait(lambda: stream.status)
                assert stream.status == status
                if status == 200:
                    stream.send(b"x", end=True)
                    assert stream.read_all() == b"x"
            assert told() == {"attest-client-rule": "rest"}
    said = "".join(f"{k}: {v}\r\n" for k, v in lies).encode()
    assert connect(dial(relay.listeners["nodes"]), "kbs.acme", said) == "forbidden"
    assert connect(dial(relay.listeners["nodes"]), "echo.acme", said) == "yes"
    assert told() == {"attest-client-rule": "rest"}
    many = pki.nodes.issue("many", "DNS:A.example,URI:spiffe://x/y,email:m@example,IP:127.0.0.1,"
                           "DNS:*.example")
    context = certificates.client()
    context.load_cert_chain(*many)
    assert connect(TlsHttpConn(dial(relay.listeners["nodes"]), context, name=DOMAIN), "echo.acme",
                   said) == "yes"
    assert told() == {"attest-client-rule": "node", "attest-client-certificate":
                      "dns:a.example,uri:spiffe://x/y,email:m@example,dns:*.example"}
    agent.signal(15)
    agent.wait()
    agent.done = True


ALLOWS = {"client:node": True, "client:nod": False, "client:Node": False,
          "dns:node-1.example": True, "dns:NODE-1.example": True, "dns:node-1": False,
          "uri:spiffe://x/y": True, "uri:spiffe://x/Y": False, "uri:spiffe://x/": False,
          "email:m@example": True, "email:n@example": False, "client:dns:node-1.example": False}


def test_allow_of_an_agent(world, pki, certificates):
    relay = world.relay(
        listeners=[{"name": "nodes", "doors": ["connect"], "client_ca": pki.nodes.pem}],
        clients=[{"name": "node", "certificates": ["dns:node-1.example"], "services": ["*"]}])
    service = world.add(Service(handler=echo))
    allows = {k: v for k, v in ALLOWS.items() if k != "client:dns:node-1.example"}
    offers = [{"name": f"s{i}", "target": service.address, "allow": [k]}
              for i, k in enumerate(allows)]
    offers.append({"name": "any", "target": service.address})
    offers.append({"name": "two", "target": service.address,
                   "allow": ["dns:other", "client:node"]})
    agent = world.agent(relay, offers)
    context = certificates.client()
    context.load_cert_chain(*pki.nodes.issue(
        "allowed", "DNS:node-1.example,URI:spiffe://x/y,email:m@example"))

    def go(name):
        with TlsHttpConn(dial(relay.listeners["nodes"]), context, name=DOMAIN) as conn:
            return tried(connect, conn, f"{name}.acme")
    assert go("any") == "yes" and go("two") == "yes"
    for i, (what, may) in enumerate(allows.items()):
        got = go(f"s{i}")
        assert (got == "yes") == may, (what, got)
        assert may or got == "agent-refused" or got.startswith("aborted"), (what, got)
    assert service.accepted == 2 + sum(allows.values())
    assert "refused: node may not use s1 (allow)" in agent.log()


def test_allow_with_a_relay_that_says_nothing(world):
    """Without clients there is no rule's name, and without a certificate no other: refused."""
    relay = world.relay()
    service = world.add(Service(handler=echo))
    world.agent(relay, [{"name": "kbs", "target": service.address,
                         "allow": ["client:node", "dns:node"]},
                        {"name": "any", "target": service.address}])
    got = tried(connect, dial(relay.listeners["front"]), "kbs.acme")
    assert got != "yes" and service.accepted == 0, got
    assert connect(dial(relay.listeners["front"]), "any.acme") == "yes"


# ---- a node by qgs-bridge ----

def test_bridge_as_a_node(world, pki):
    """Its certificate is judged as any other's: by the rule for its name."""
    relay = world.relay(
        listeners=[{"name": "nodes", "doors": ["connect"], "client_ca": pki.nodes.pem,
                    "client_crl": pki.nodes.crl}],
        clients=[{"name": "node", "certificates": ["dns:node-1.example"],
                  "services": ["echo.acme"]}])
    service = world.add(Service(handler=echo))
    world.agent(relay, {"echo": service.address, "kbs": service.address})
    listeners = [{"name": name, "address": f"unix:{world.path(name + '.sock')}",
                  "forward": f"service:{name}.acme"} for name in ("echo", "kbs")]
    bridge = Bridge(world, None, listeners, wait=False, relay={
        "addresses": [relay.listeners["nodes"]], "server_name": DOMAIN,
        "ca_file": world.certificates.ca, "certificate": pki.node[0], "key": pki.node[1]})
    bridge.wait_metric("sockets", lambda n: n == 2)
    with dial(bridge.address("echo")) as guest:
        through(guest)
    with dial(bridge.address("kbs")) as guest:
        guest.send(b"x")
        assert tried(guest.recv) in (b"", "aborted: [Errno 104] Connection reset by peer")
    relay.wait_metric("refused_total", lambda n: n == 1, reason="forbidden")


# ---- what is no answer ----

@pytest.mark.parametrize("change,says", [
    ({"clients": []}, "clients"),
    ({"owners": [{"name": "acme", "tokens": []}]}, "tokens"),
    ({"owners": [{"name": "acme", "certificates": []}]}, "certificates"),
    ({"owners": [{"name": "acme"}]}, "neither tokens nor certificates"),
    ({"clients": [{"name": "a", "services": ["*"]}]}, "says not who a is"),
    ({"clients": [{"name": "a", "networks": [], "services": ["*"]}]}, "networks"),
    ({"clients": [{"name": "a", "uids": [], "services": ["*"]}]}, "uids"),
    ({"clients": [{"name": "a", "networks": ["0.0.0.0/0"], "services": []}]}, "services"),
    ({"clients": [{"name": "a", "networks": ["0.0.0.0/0"]}]}, "services"),
    ({"clients": None}, "clients"),
    ({"listeners": [{"name": "front", "doors": ["tunnel", "connect"], "address": "tcp:[::1]:1",
                     "client_ca": ""}]}, "client_ca"),
])
def test_empty_authentication_is_refused(world, change, says):
    config = {"tls": {"certificate": world.certificates.relay[0],
                      "key": world.certificates.relay[1]},
              "listeners": [{"name": "front", "doors": ["tunnel", "connect"],
                             "address": "tcp:127.0.0.1:1"}],
              "owners": [world.owner()], **change}
    path = world.path("bad.yaml")
    with open(path, "w") as f:
        yaml.safe_dump(config, f)
    done = subprocess.run([binary("ATTEST_RELAY"), "--config", path], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 1 and says in done.stderr, done.stderr


def test_empty_files_are_refused(world, pki):
    empty = world.path("empty.pem")
    open(empty, "w").close()
    for ca, crl in ((empty, None), (pki.nodes.pem, empty), (world.path("none"), None),
                    (pki.nodes.pem, world.path("none")), (pki.nodes.crl, None),
                    (pki.nodes.pem, pki.nodes.pem)):
        listener = {"name": "front", "doors": ["tunnel"], "client_ca": ca}
        if crl:
            listener["client_crl"] = crl
        listener["address"] = f"tcp:127.0.0.1:{free_port()}"
        path = world.path("bad.yaml")
        with open(path, "w") as f:
            yaml.safe_dump({"tls": {"certificate": world.certificates.relay[0],
                                    "key": world.certificates.relay[1]},
                            "listeners": [listener], "owners": [world.owner()]}, f)
        done = subprocess.run([binary("ATTEST_RELAY"), "--config", path], capture_output=True,
                              text=True, timeout=30)
        assert done.returncode == 1 and (crl or ca) in done.stderr, (ca, crl, done.stderr)


# ---- strangers ----

def test_warning_of_strangers(world, pki):
    """Without clients, each listener that others may reach is named; with them, none."""
    ca = {"client_ca": pki.nodes.pem}
    every = "tcp:0.0.0.0:"
    relay = world.relay(
        front=False,
        listeners=[{"name": "front", "doors": ["tunnel"], "address": f"{every}{free_port()}"},
                   {"name": "near", "doors": ["connect"]},
                   {"name": "near6", "doors": ["sni"], "address": f"tcp:[::1]:{free_port()}"},
                   {"name": "local", "doors": ["connect"], "address":
                    f"unix:{world.path('s.sock')}"},
                   {"name": "far", "doors": ["connect", "sni"], "address":
                    f"{every}{free_port()}"},
                   {"name": "far6", "doors": ["websocket"], "address":
                    f"tcp:[::]:{free_port()}"},
                   {"name": "one", "service": "kbs.acme", "address": f"{every}{free_port()}"},
                   {"name": "nodes", "doors": ["connect"], "address": f"{every}{free_port()}",
                    **ca}])
    warned = re.findall(r"listener (\S+) at \S+: (.*?), since there are no clients", relay.log())
    assert warned == [
        ("far", "anybody who can connect may open any service"),
        ("far6", "anybody who can connect may open any service"),
        ("one", "anybody who can connect may open its service kbs.acme"),
        ("nodes", "whoever has a certificate of its client_ca may open any service")]
    text = relay.reload(clients=[{"name": "a", "networks": ["192.0.2.1"], "services": ["*"]}])
    assert "no clients" not in text
    assert relay.reload(clients=None).count("no clients") == 4


# ---- sessions ----

LISTENERS = ["front", "nodes", "perhaps", "plain"]


def s_client(place, listener, *args, cert=None):
    host = place.relay.listeners[listener].removeprefix("tcp:")
    argv = ["openssl", "s_client", "-connect", host, "-servername", DOMAIN, "-CAfile",
            place.world.certificates.ca, "-verify_return_error", *args]
    if cert:
        argv += ["-cert", cert[0], "-key", cert[1]]
    # what it sends is answered at the door, and behind it a ticket would have come
    return subprocess.run(argv, input=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", capture_output=True,
                          timeout=60).stdout.decode(errors="replace")


def foreign_session(place, version, path):
    """A session with a ticket, by a server that gives them."""
    server = place.world.add(Service(handler=tls_service(
        place.world.certificates.server(), lambda c: (c.send(b"x"), c.eof()))))
    host = server.address.removeprefix("tcp:")
    subprocess.run(["openssl", "s_client", "-connect", host, version, "-sess_out", path,
                    "-ign_eof"], input=b"x", capture_output=True, timeout=60)
    assert os.path.exists(path)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("listener", LISTENERS)
def test_no_session_is_resumed(place, listener, version, tmp_path):
    """No ticket, no session's id; and one that is shown all the same is a new handshake."""
    cert = place.pki.owner if listener == "front" else place.pki.node
    path, foreign = str(tmp_path / "session"), str(tmp_path / "foreign")
    got = s_client(place, listener, version, "-sess_out", path, "-ign_eof", cert=cert)
    assert "Verify return code: 0 (ok)" in got and "New, TLSv1" in got, got
    assert "ession ticket" not in got.lower() and not re.search(r"Session-ID: [0-9A-F]", got), got
    assert not os.path.exists(path)  # openssl writes those that can be resumed
    foreign_session(place, version, foreign)
    for who in (cert, None):
        again = s_client(place, listener, version, "-sess_in", foreign, "-ign_eof", cert=who)
        assert "New, TLSv1" in again and "Reused" not in again, again


def test_session_by_python(place):
    """The same by another library: nothing of a verified client goes on to one without."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = place.client(place.pki.node, version)
        session = None
        for listener in ("nodes", "perhaps", "nodes", "plain"):
            sock = socket.create_connection(
                ("127.0.0.1", place.relay.port(listener)), timeout=30)
            with context.wrap_socket(sock, server_hostname=DOMAIN, session=session) as tls:
                tls.send(connect_head("kbs.acme"))
                assert tls.recv(100).startswith(b"HTTP/1.1 ")
                assert not tls.session_reused
                session = tls.session or session


def test_words_before_tls(place):
    """A request in front of the ClientHello is a request, and one behind it is never plain."""
    with dial(place.relay.listeners["nodes"]) as conn:
        conn.send(connect_head("kbs.acme"))
        head, _ = read_head(conn)
        assert reason_in(head) == "forbidden"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = place.client(place.pki.node).wrap_bio(incoming, outgoing, server_hostname=DOMAIN)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with dial(place.relay.listeners["nodes"]) as conn:
        conn.send(outgoing.read() + connect_head("kbs.acme"))
        got = b""
        try:
            while more := conn.recv():
                got += more
        except Aborted:
            pass
        assert b"HTTP/1.1 " not in got
    place.relay.wait_quiet()
