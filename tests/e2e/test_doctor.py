# `PROGRAM doctor`: each test spoils one thing, and the doctor says that it is that, and what to do.
import contextlib
import email.utils
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import pytest
import yaml

from harness import DOMAIN, SANITIZER, Listening, binary, free_port, wait_for
from pki import Authority
from streams import Doors

LIMIT = 75  # seconds that a doctor may take at most, however much is silent


class Said:
    """What a doctor said: its checks, and how it ended."""

    def __init__(self, done, secrets):
        text = done.stdout + done.stderr
        assert not SANITIZER.search(text), text
        assert not [s for s in secrets if s in text], "a secret is in the output"
        self.status, self.text = done.returncode, done.stdout
        self.json = json.loads(done.stdout)
        self.checks = self.json["checks"]
        assert all(set(c) == {"id", "what", "status", "detail", "advice"} for c in self.checks)
        wrong = any(c["status"] == "wrong" for c in self.checks)
        assert self.status == (1 if wrong else 0)
        assert (self.json["verdict"] == "wrong") == wrong
        # whoever finds a fault says what to do
        assert all(c["advice"] for c in self.checks if c["status"] in ("wrong", "warning"))

    def of(self, name, status=None):
        return [c for c in self.checks if c["id"] == name and status in (None, c["status"])]

    def expect(self, name, status, words, advice=""):
        """One of these is there, in these words (regular expressions)."""
        found = [c for c in self.of(name, status) if re.search(words, c["what"] + " " + c["detail"])
                 and re.search(advice, c["advice"])]
        assert found, f"no {status} {name} with {words!r} / {advice!r} in:\n{self.text}"
        return found[0]

    def only(self, *names):
        """Nothing else is wrong."""
        others = [c for c in self.checks if c["status"] == "wrong" and c["id"] not in names]
        assert not others, others


def run(world, variable, *args, env=None, json_too=True, **more):
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": world.folder, "LC_ALL": "C",
                   **(env or {})}
    return subprocess.run([binary(variable), "doctor", *args, *(["--json"] if json_too else [])],
                          capture_output=True, text=True, timeout=LIMIT, env=environment,
                          cwd=world.folder, check=False, **more)


def doctor(world, variable, *args, secrets=(), **more):
    known = [text for text, _ in world.tokens.values()] + list(secrets)
    return Said(run(world, variable, *args, **more), known)


def write(world, name, **config):
    path = world.path(name)
    with open(path, "w") as f:
        yaml.safe_dump({k: v for k, v in config.items() if v is not None}, f, sort_keys=False)
    return path


@pytest.fixture
def service(world):
    s = world.add(socket.create_server(("127.0.0.1", 0)))
    return s.getsockname()[1]


def tunnel_config(world, port, target, **changes):
    return write(world, "doctor.yaml", **{
        "relays": [f"tcp:127.0.0.1:{port}"], "server_name": DOMAIN,
        "token_file": world.token()[1], "ca_file": world.certificates.ca, "instance": "patient",
        "services": [{"name": "kbs", "target": f"tcp:127.0.0.1:{target}"}], **changes})


def ask_tunnel(world, port, target, env=None, secrets=(), **changes):
    return doctor(world, "ATTEST_TUNNEL", "--config", tunnel_config(world, port, target, **changes),
                  env=env, secrets=secrets)


# ---- attest-tunnel ----

def test_tunnel_all_good(world, service):
    relay = world.relay()
    said = ask_tunnel(world, relay.port(), service)
    said.only()
    said.expect("tls", "warning", "expires")  # the certificates of tests last two days
    said.expect("alpn", "ok", "attest-relay/1")
    said.expect("websocket", "ok", "101")
    said.expect("credential", "ok", "as acme, and would let it offer kbs.acme")
    said.expect("rtt", "ok", r"[1-5] pings: [\d.]+ ms at least")
    said.expect("service", "ok", "kbs at tcp:127.0.0.1")
    assert relay.metric("live_tunnels") == 0


def test_tunnel_flags_are_the_daemons(world, service):
    relay = world.relay()
    said = doctor(world, "ATTEST_TUNNEL", "--relay", f"tcp:127.0.0.1:{relay.port()}",
                  "--server-name", DOMAIN, "--token-file", world.token()[1], "--ca-file",
                  world.certificates.ca, "--service", f"kbs=tcp:127.0.0.1:{service}")
    said.only()
    said.expect("credential", "ok", "kbs.acme")


def test_text_is_one_line_each(world, service):
    relay = world.relay()
    path = tunnel_config(world, relay.port(), service)
    done = run(world, "ATTEST_TUNNEL", "--config", path, json_too=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and all(re.match("OK|WARNING|WRONG|SKIPPED", x) for x in lines[:-1])
    assert lines[-1].startswith("attest-tunnel: wrong: 0, warnings: ")
    assert "\033" not in done.stdout
    assert all(" / " in x for x in lines if x.startswith("WARNING"))


def test_tunnel_beside_its_agent(world, service):
    """Neither the running agent nor the order of two is disturbed, nor do streams come to it."""
    relay = world.relay()
    with contextlib.ExitStack() as stack:
        ports = []
        for name in "first", "second":
            s = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=serve_name, args=(s, name), daemon=True).start()
            ports.append(s.getsockname()[1])
        first = world.agent(relay, {"kbs": f"tcp:127.0.0.1:{ports[0]}"}, name="first")
        second = world.agent(relay, {"kbs": f"tcp:127.0.0.1:{ports[1]}"}, name="second")
        live = Doors(relay, world.certificates).connect_plain("kbs.acme")
        assert say(live) == b"first"
        before = [p.log_size() for p in (first, second)]
        opened = relay.metric("tunnels_total")
        for name in "first", "second":
            said = doctor(world, "ATTEST_TUNNEL", "--config", world.path(f"{name}.yaml"))
            said.only()
            said.expect("credential", "ok", "would let it offer kbs.acme")
        assert [p.log_size() for p in (first, second)] == before
        assert relay.metric("live_tunnels") == 2 and relay.metric("tunnels_total") == opened
        assert say(live) == b"first"
        live.close()
        again = Doors(relay, world.certificates).connect_plain("kbs.acme")
        assert say(again) == b"first"
        again.close()
        relay.wait_quiet()


def say(conn):
    conn.send(b"?")
    return conn.recv(16)


def serve_name(listening, name):
    """Answers its name to whatever is said."""
    def one(c):
        with c:
            while c.recv(100):
                c.sendall(name.encode())
    while True:
        try:
            c, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=one, args=(c,), daemon=True).start()


def test_tunnel_config(world):
    path = write(world, "bad.yaml", relays="tcp:nowhere", foo=1)
    said = doctor(world, "ATTEST_TUNNEL", "--config", path)
    assert len(said.of("config", "wrong")) == 2
    said.expect("relay", "skipped", "because of the config")
    assert said.of("clock")  # what needs no config is looked at all the same
    assert run(world, "ATTEST_TUNNEL", "--no-such-flag").returncode == 2
    assert run(world, "ATTEST_TUNNEL", "--relay", "tcp:127.0.0.1:1").returncode == 2


def test_tunnel_ca_is_another(world, service):
    relay = world.relay()
    said = ask_tunnel(world, relay.port(), service, ca_file=world.certificates.other_ca)
    said.only("tls")
    said.expect("tls", "wrong", "of CN=relay, issued by CN=ca.* leads to no CA", "ca-file")
    said.expect("credential", "skipped", "its certificate")
    said.expect("websocket", "ok", "101")  # what can be seen all the same is seen
    assert relay.count("bad-credential") == 0


def test_tunnel_ca_file_is_not_there(world, service):
    relay = world.relay()
    said = ask_tunnel(world, relay.port(), service, ca_file=world.path("none.pem"))
    said.expect("ca", "wrong", "none.pem.*No such file", "put it there")
    said.expect("tls", "wrong", "leads to no CA")


def test_tunnel_name_is_another(world, service):
    relay = world.relay()
    said = ask_tunnel(world, relay.port(), service, server_name="other.example")
    said.only("tls")
    said.expect("tls", "wrong", "knows no host other.example", "--server-name")
    server = world.add(Https(world.certificates.elsewhere))
    said = ask_tunnel(world, server.port, service, transport="websocket")
    said.expect("tls", "wrong", f"not for {DOMAIN}, but for elsewhere.test", "--server-name")


@pytest.mark.parametrize("times, words", [
    ({"starts": -7200, "ends": -3600}, "expired at"),
    ({"starts": 7200, "ends": 10800}, "good only from"),
])
def test_tunnel_certificate_is_out_of_its_time(world, service, tmp_path, times, words):
    ca = Authority(tmp_path, "dated")
    pair = ca.issue("relay", f"DNS:{DOMAIN}", usage="serverAuth", **times)
    server = world.add(Https(pair))
    said = ask_tunnel(world, server.port, service, ca_file=ca.pem, transport="websocket")
    said.expect("tls", "wrong", words + ".*this machine's clock", "clock")
    assert not said.of("tls", "ok")


class Https(Listening):
    """Something that is no relay: TLS, and one answer to each request."""

    def __init__(self, pair, answer=b"HTTP/1.1 404 Not Found\r\nServer: nginx/1.22.1\r\n", alpn=None,
                 date=None):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        if alpn:
            self.context.set_alpn_protocols(alpn)
        stamp = email.utils.formatdate(date, usegmt=True) if date else ""
        self.answer = (answer + (f"Date: {stamp}\r\n".encode() if date else b"")
                       + b"Content-Length: 0\r\n\r\n")
        super().__init__()

    def serve(self, c):
        with contextlib.suppress(OSError), self.context.wrap_socket(c, server_side=True) as tls:
            if tls.recv(4096):
                tls.sendall(self.answer)


def test_tunnel_what_answers_is_no_relay(world, service):
    server = world.add(Https(world.certificates.relay))
    said = ask_tunnel(world, server.port, service)
    said.only("alpn", "websocket")
    said.expect("alpn", "wrong", "did not choose ALPN attest-relay/1", "not the relay's")
    said.expect("websocket", "wrong", r'"HTTP/1.1 404 Not Found".*nginx/1.22.1', "/tunnel")
    said.expect("credential", "skipped", "door that was not reached")


@pytest.mark.parametrize("apart, status", [(-7200, "wrong"), (3600, "wrong"), (0, "ok")])
def test_tunnel_clocks_differ(world, service, apart, status):
    server = world.add(Https(world.certificates.relay, date=time.time() + apart))
    said = ask_tunnel(world, server.port, service, transport="websocket")
    found = said.expect("skew", status, "clock.*apart")
    if status == "wrong":
        seconds = int(re.search(r"(\d+) s apart", found["detail"])[1])
        assert abs(seconds - abs(apart)) <= 30 and len(re.findall(r"\d\d:\d\d:\d\d", found["detail"])) == 2


class Middlebox(Listening):
    """Ends TLS and makes its own to the relay, without the ALPN it was asked for."""

    def __init__(self, certificates, port):
        self.server = certificates.server(certificates.relay)
        self.client, self.to = certificates.client(["http/1.1"]), port
        super().__init__()

    def serve(self, c):
        with contextlib.suppress(OSError):
            a = self.server.wrap_socket(c, server_side=True)
            b = self.client.wrap_socket(socket.create_connection(("127.0.0.1", self.to)),
                                        server_hostname=DOMAIN)
            back = threading.Thread(target=pump, args=(b, a), daemon=True)
            back.start()
            pump(a, b)


def pump(a, b):
    with contextlib.suppress(OSError):
        while got := a.recv(65536):
            b.sendall(got)
    for s in a, b:
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)


def test_tunnel_alpn_is_lost_on_the_way(world, service):
    relay = world.relay()
    box = world.add(Middlebox(world.certificates, relay.port()))
    said = ask_tunnel(world, box.port, service)
    said.only()
    said.expect("alpn", "warning", "direct transport cannot work.*WebSocket", "breaks TLS open")
    said.expect("websocket", "ok", "101")
    said.expect("credential", "ok", "kbs.acme")
    said = ask_tunnel(world, box.port, service, transport="direct")
    said.only("alpn")
    said.expect("credential", "skipped", "tunnel door")


def test_tunnel_relay_is_down(world, service):
    said = ask_tunnel(world, free_port(), service)
    said.only("connect")
    said.expect("connect", "wrong", "refused", "--proxy")
    said.expect("credential", "skipped", "not reached")
    said.expect("service", "ok", "kbs")  # and what comes after it is looked at


def test_tunnel_name_does_not_resolve(world, service):
    said = ask_tunnel(world, 1, service, relays=["tcp:no-such-host.invalid:443"])
    said.only("resolve")
    said.expect("resolve", "wrong", "no-such-host.invalid", "resolv.conf")


class Proxy(Listening):
    """An HTTP proxy that answers CONNECT so; 200: and connects."""

    def __init__(self, status="407 Proxy Authentication Required"):
        self.status = status
        super().__init__()

    def serve(self, c):
        with contextlib.suppress(OSError, IndexError):
            head = c.recv(4096).decode()
            c.sendall(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
            if not self.status.startswith("200"):
                c.close()
                return
            host, port = head.split()[1].rsplit(":", 1)
            b = socket.create_connection((host, int(port)))
            threading.Thread(target=pump, args=(b, c), daemon=True).start()
            pump(c, b)


def test_tunnel_through_a_proxy(world, service):
    relay = world.relay()
    proxy = world.add(Proxy("200 OK"))
    env = {"https_proxy": f"http://user:hush-hush@127.0.0.1:{proxy.port}"}
    said = ask_tunnel(world, relay.port(), service, env=env, secrets=["hush-hush"])
    said.only()
    said.expect("way", "ok", f"through the proxy http://127.0.0.1:{proxy.port}, by https_proxy")
    said.expect("proxy", "ok", "lets it through")
    said.expect("credential", "ok", "kbs.acme")
    said = ask_tunnel(world, relay.port(), service, env={**env, "no_proxy": "127.0.0.1"})
    said.only()
    said.expect("way", "ok", "directly: no_proxy")


def test_tunnel_proxy_refuses(world, service):
    relay = world.relay()
    proxy = world.add(Proxy())
    said = ask_tunnel(world, relay.port(), service, proxy=f"http://127.0.0.1:{proxy.port}")
    said.only("proxy")
    said.expect("connect", "ok", "takes connections")
    said.expect("proxy", "wrong", "407 Proxy Auth.*proxy-credentials-file")
    said = ask_tunnel(world, relay.port(), service, proxy=f"http://127.0.0.1:{free_port()}")
    said.expect("connect", "wrong", "refused", "proxy's address")
    said.expect("credential", "skipped", "not reached")


def test_tunnel_proxy_is_nonsense(world, service):
    relay = world.relay()
    said = ask_tunnel(world, relay.port(), service, env={"https_proxy": "gopher://x:1"})
    said.only("proxy")
    said.expect("proxy", "wrong", "https_proxy", "--proxy none")
    said.expect("relay", "skipped", "the proxy")
    assert said.of("service", "ok")


def test_tunnel_token_is_another(world, service):
    relay = world.relay()
    world.token("stranger")
    said = ask_tunnel(world, relay.port(), service, token_file=world.token("stranger")[1])
    said.only("credential")
    said.expect("credential", "wrong", r"bad-credential.*not known", "new token")


def test_tunnel_token_file(world, service):
    relay = world.relay()
    os.chmod(world.token()[1], 0o644)
    said = ask_tunnel(world, relay.port(), service)
    said.only()
    said.expect("token", "warning", "0644", "chmod 600")
    with open(world.path("two.token"), "w") as f:
        f.write("one two\n")
    os.chmod(world.path("two.token"), 0o600)
    said = ask_tunnel(world, relay.port(), service, token_file=world.path("two.token"))
    said.only("token", "credential")
    said.expect("token", "wrong", "two.token", "as the relay's operator gave it out")
    said = ask_tunnel(world, relay.port(), service, token_file=world.path("none"))
    said.expect("token", "wrong", "No such file")


def test_tunnel_service_is_not_allowed(world, service):
    relay = world.relay(owners=[world.owner(services=["tang"])])
    said = ask_tunnel(world, relay.port(), service)
    said.only("credential")
    said.expect("credential", "wrong", "forbidden.*may not offer the service kbs", "services: of")


def test_tunnel_limit_is_reached(world, service):
    relay = world.relay(limits={"per_owner": {"tunnels": 1}})
    agent = world.agent(relay, {"kbs": f"tcp:127.0.0.1:{service}"}, name="patient")
    said = ask_tunnel(world, relay.port(), service, instance="another")
    said.expect("credential", "wrong", "limit.*as many tunnels")
    # the running one's own place is not counted against it
    said = ask_tunnel(world, relay.port(), service)
    said.expect("credential", "ok", "kbs.acme")
    assert agent.running() and relay.metric("live_tunnels") == 1


def test_tunnel_is_known_to_each_relay_by_its_name(world, service):
    """At the second relay of a config an agent has another name."""
    relays = [world.relay(name, limits={"per_owner": {"tunnels": 1}}) for name in ("one", "two")]
    addresses = [f"tcp:127.0.0.1:{r.port()}" for r in relays]
    world.agent(relays[0], {"kbs": f"tcp:127.0.0.1:{service}"}, name="patient", relays=addresses)
    for r in relays:
        r.wait_tunnels(1)
    said = ask_tunnel(world, 0, service, relays=addresses)
    said.only()
    assert len(said.of("credential", "ok")) == 2


def test_tunnel_instance_is_newer_elsewhere(world, service):
    relay = world.relay()
    agent = world.h2_agent(relay, {"kbs": f"127.0.0.1:{service}"},
                           args=("--instance", "patient", "--generation", str(2**62)))
    said = ask_tunnel(world, relay.port(), service)
    said.expect("credential", "wrong", "stale", "--instance")
    assert agent.running() and relay.metric("live_tunnels") == 1


def test_tunnel_certificate_and_key(world, service):
    relay = world.relay()
    c = world.certificates
    said = ask_tunnel(world, relay.port(), service, certificate=c.relay[0], key=c.service[1])
    said.expect("certificate", "wrong", "does not belong", "one pair")
    said.expect("credential", "skipped", "the certificate, the key")


def test_tunnel_services_are_down(world, service):
    relay = world.relay()
    said = ask_tunnel(world, relay.port(), service, services=[
        {"name": "kbs", "target": f"tcp:127.0.0.1:{free_port()}"},
        {"name": "tang", "target": f"unix:{world.path('none.sock')}"},
        {"name": "nfs", "target": f"tcp:127.0.0.1:{service}"}])
    said.only("service")
    said.expect("service", "wrong", "kbs at .*refused", "start the service")
    said.expect("service", "wrong", "tang at .*No such file", "start the service")
    said.expect("service", "ok", "nfs at")


def test_tunnel_local_ports(world, service):
    relay = world.relay()
    taken = world.add(socket.create_server(("127.0.0.1", 0)))
    free, ours = free_port(), free_port()
    agent = world.agent(relay, [], token_file=False, wait=False,
                        local=[{"address": f"tcp:127.0.0.1:{ours}", "service": "kbs.acme"},
                                {"address": f"unix:{world.path('local.sock')}", "service": "kbs.acme"}])
    wait_for(lambda: os.path.exists(world.path("local.sock")), "the local listener")
    said = ask_tunnel(world, relay.port(), service, services=[], token_file=None, local=[
        {"address": f"tcp:127.0.0.1:{port}", "service": "kbs.acme"}
        for port in (taken.getsockname()[1], free, ours)] + [
        {"address": f"unix:{world.path(name)}", "service": "kbs.acme"}
        for name in ("local.sock", "new.sock", "no/folder.sock")])
    said.only("local")
    said.expect("local", "wrong", f":{taken.getsockname()[1]} .*python.*pid {os.getpid()}", "end one")
    said.expect("local", "ok", f":{free} it is free")
    said.expect("local", "ok", rf":{ours} attest-tunnel \(pid {agent.pid}\)")
    said.expect("local", "ok", rf"local.sock attest-tunnel \(pid {agent.pid}\)")
    said.expect("local", "ok", "new.sock it is free")
    said.expect("local", "wrong", "no/folder.sock.*No such file", "make the folder")
    said.expect("alpn", "ok", "h2: the relay's connect door")
    said.expect("credential", "ok", "connect door speaks")
    assert not os.path.exists(world.path("new.sock"))


def test_tunnel_no_failure_is_counted_against_it(world, service):
    """At a connect door that wants a certificate, the doctor shows the one that there is."""
    clients = Authority(world.folder, "clients")
    certificate, key = clients.issue("node", "DNS:node.example")
    relay = world.relay(listeners=[{"name": "nodes", "doors": ["connect"], "client_ca": clients.pem}],
                        penalties={"failures": 1})
    local = [{"address": f"tcp:127.0.0.1:{free_port()}", "service": "kbs.acme"}]
    for _ in range(2):
        said = ask_tunnel(world, relay.port("nodes"), service, services=[], token_file=None,
                          certificate=certificate, key=key, local=local)
        said.only()
        said.expect("alpn", "ok", "h2: the relay's connect door")
        said.expect("credential", "ok", "connect door speaks")
    assert not relay.metric("sources_blocked")
    ask_tunnel(world, relay.port("nodes"), service, services=[], token_file=None, local=local)
    relay.wait_metric("sources_blocked", lambda n: n == 1)


def black_hole(world):
    """A port at which nobody ever answers: its queue is full."""
    listening = world.add(socket.socket())
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    for _ in range(8):
        s = world.add(socket.socket())
        s.setblocking(False)
        s.connect_ex(listening.getsockname())
    return listening.getsockname()[1]


def test_tunnel_black_holes(world):
    """What never answers is given up in time, and the rest is looked at."""
    hole = black_hole(world)
    said = ask_tunnel(world, hole, hole, relays=[f"tcp:127.0.0.1:{hole}"] * 2, services=[
        {"name": f"kbs{i}", "target": f"tcp:127.0.0.1:{hole}"} for i in range(2)],
        timeouts={"dial": "1s"})
    said.only("connect", "service")
    said.expect("connect", "wrong", "")
    said.expect("service", "wrong", "kbs1", "firewall")


def test_tunnel_silence_behind_tcp(world, service):
    silent = world.add(socket.create_server(("127.0.0.1", 0), backlog=100))
    said = ask_tunnel(world, silent.getsockname()[1], service, transport="websocket")
    said.only("tls")
    said.expect("tls", "wrong", "no answer in time")


# ---- attest-relay ----

def relay_config(world, **changes):
    c = world.certificates
    base = {
        "domain": DOMAIN, "tls": {"certificate": c.relay[0], "key": c.relay[1]},
        "listeners": [{"name": "front", "address": f"tcp:127.0.0.1:{free_port()}",
                       "doors": ["tunnel", "sni", "connect"]}],
        "owners": [world.owner()],
    }
    return write(world, "doctor.yaml", **{**base, **changes})


def ask_relay(world, **changes):
    return doctor(world, "ATTEST_RELAY", "--config", relay_config(world, **changes))


def test_relay_all_good(world, service):
    said = ask_relay(world, metrics=f"tcp:127.0.0.1:{free_port()}", services=[
        {"name": "kbs.acme", "targets": [f"tcp:127.0.0.1:{service}"]}])
    said.only()
    said.expect("listener", "ok", "front at .*it is free")
    said.expect("names", "ok", r"SERVICE.OWNER.*\*\.OWNER")
    said.expect("chain", "ok", "up to the issuer CN=ca")
    said.expect("target", "ok", "kbs.acme at")


def test_relay_beside_itself(world):
    relay = world.relay(listeners=[{"name": "local", "address": f"unix:{world.path('r.sock')}",
                                    "doors": ["connect"]}])
    before = relay.log_size()
    said = doctor(world, "ATTEST_RELAY", "--config", relay.path)
    said.only()
    for name in "front", "local":
        said.expect("listener", "ok", rf"{name} at .*attest-relay \(pid {relay.pid}\)")
    said.expect("metrics", "ok", f"pid {relay.pid}")
    assert relay.log_size() == before


def test_relay_config_has_errors(world):
    path = write(world, "bad.yaml", listeners=3, foo=1)
    said = doctor(world, "ATTEST_RELAY", "--config", path)
    assert len(said.of("config", "wrong")) == 2
    said.expect("listener", "skipped", "because of the config")
    for args in ([], ["--config", path, "more"], ["--no-such-flag"]):
        assert run(world, "ATTEST_RELAY", *args).returncode == 2


def test_relay_pair_does_not_fit(world):
    c = world.certificates
    said = ask_relay(world, tls={"certificate": c.relay[0], "key": c.service[1]})
    said.only("certificate")
    said.expect("certificate", "wrong", "does not belong", "one pair")


def test_relay_key_is_open_to_all(world, tmp_path):
    pair = Authority(tmp_path, "mine").issue("relay", f"DNS:{DOMAIN}", usage="serverAuth")
    os.chmod(pair[1], 0o644)
    said = ask_relay(world, tls={"certificate": pair[0], "key": pair[1]})
    said.only()
    said.expect("certificate", "warning", "relay.key.*0644", "chmod 600")


def test_relay_certificate_has_expired(world, tmp_path):
    pair = Authority(tmp_path, "mine").issue("relay", f"DNS:{DOMAIN}", starts=-7200, ends=-3600)
    said = ask_relay(world, tls={"certificate": pair[0], "key": pair[1]})
    said.only("certificate")
    said.expect("certificate", "wrong", "has expired at", "renew")


def test_relay_chain(world, tmp_path):
    root = Authority(tmp_path, "root")
    middle = Authority(tmp_path, "middle", by=root)
    other = Authority(tmp_path, "other")
    good = middle.issue("good", f"DNS:{DOMAIN}", usage="serverAuth", chain=(middle,))
    said = ask_relay(world, tls={"certificate": good[0], "key": good[1]})
    said.only()
    said.expect("chain", "ok", "2 certificates, up to the issuer CN=root")
    bad = middle.issue("bad", f"DNS:{DOMAIN}", usage="serverAuth", chain=(other,))
    said = ask_relay(world, tls={"certificate": bad[0], "key": bad[1]})
    said.only("chain")
    said.expect("chain", "wrong", "not issued by the next one .of CN=other", "own first")


def test_relay_names(world, tmp_path):
    ca = Authority(tmp_path, "mine")
    pair = ca.issue("relay", "DNS:gw.example", usage="serverAuth")
    said = ask_relay(world, tls={"certificate": pair[0], "key": pair[1]})
    said.only()
    said.expect("names", "warning", f"not for the domain {DOMAIN}, but for gw.example", "server_name")
    none = ca.issue("none", usage="serverAuth")
    said = ask_relay(world, tls={"certificate": none[0], "key": none[1]})
    said.expect("names", "wrong", "no DNS name")


def test_relay_revocation_list_is_late(world, tmp_path):
    ca = Authority(tmp_path, "clients")
    ca.write_crl(last=-7200, following=-3600)
    front = {"name": "front", "address": f"tcp:127.0.0.1:{free_port()}", "doors": ["connect"],
             "client_ca": ca.pem, "client_crl": ca.crl}
    said = ask_relay(world, listeners=[front])
    said.only("client_ca")
    said.expect("client_ca", "wrong", "next update", "new list")
    ca.write_crl()
    ask_relay(world, listeners=[front]).only()
    with open(ca.crl, "w") as f:
        f.write("nothing\n")
    ask_relay(world, listeners=[front]).expect("client_ca", "wrong", "crl.pem")


def test_relay_port_is_taken(world):
    taken = world.add(socket.create_server(("127.0.0.1", 0)))
    port = taken.getsockname()[1]
    everywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
    said = ask_relay(world, listeners=[
        {"name": "a", "address": f"tcp:127.0.0.1:{port}", "doors": ["connect"]},
        {"name": "b", "address": f"tcp:{everywhere}:{free_port()}", "doors": ["connect"]},
        {"name": "c", "address": "tcp:192.0.2.77:443", "doors": ["connect"]},
        {"name": "d", "address": f"unix:{world.path('no/way')}", "doors": ["connect"]},
        {"name": "e", "address": "fd:front", "doors": ["connect"]}])
    said.only("listener")
    said.expect("listener", "wrong", f"a at .*python.*pid {os.getpid()}", "end one of the two")
    said.expect("listener", "ok", "b at .*free")
    said.expect("listener", "wrong", "c at .*assign requested address", "no interface")
    said.expect("listener", "wrong", "d at .*No such file", "make the folder")
    said.expect("listener", "skipped", "e at .*systemd")


def ask_as_nobody(variable, config):
    """As a user without capabilities and groups."""
    if os.geteuid() != 0:
        pytest.skip("another user cannot be had without root")
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                           binary(variable), "doctor", "--json", "--config", config],
                          capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode in (126, 127):
        pytest.skip("that user cannot run the program")
    return Said(done, [])


def test_relay_low_port(world):
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if int(f.read()) < 1024:
            pytest.skip("here anybody may listen at low ports")
    path = relay_config(world, tls=None, domain=None, listeners=[
        {"name": "low", "address": "tcp:127.0.0.1:443", "doors": ["connect"]}])
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the others are root's alone
        said = ask_as_nobody("ATTEST_RELAY", shutil.copy(path, folder))
    said.expect("listener", "wrong", "low at .*below 1024", "CAP_NET_BIND_SERVICE")


def test_relay_files_that_are_written(world):
    said = ask_relay(world, audit={"target": "file", "file": world.path("no/audit")},
                     metrics=f"unix:{world.path('no/metrics')}")
    said.only("audit", "metrics")
    said.expect("audit", "wrong", "No such file", "make its folder")
    said.expect("metrics", "wrong", "No such file", "make the folder")
    said = ask_relay(world, audit={"target": "file", "file": world.path("audit")})
    said.only()
    said.expect("audit", "ok", "can be made")
    assert not os.path.exists(world.path("audit"))


def test_relay_enrolment(world, tmp_path):
    ca = Authority(tmp_path, "owners")
    folder = world.path("codes")
    os.mkdir(folder, 0o700)
    enrolment = {"ca": ca.pem, "key": ca.path("ca.key"), "folder": folder}
    ask_relay(world, enrolment=enrolment).only()
    os.chmod(folder, 0o777)
    said = ask_relay(world, enrolment=enrolment)
    said.only("enrolment")
    said.expect("enrolment", "wrong", "0777", "chmod go-w")
    said = ask_relay(world, enrolment={**enrolment, "folder": world.path("none")})
    said.expect("enrolment", "wrong", "folder is not there", "0700")
    said = ask_relay(world, enrolment={**enrolment, "key": world.certificates.relay[1]})
    said.expect("enrolment", "wrong", "key", "enroll init")


def test_relay_targets(world):
    said = ask_relay(world, services=[{"name": "kbs.acme", "targets": [
        f"tcp:127.0.0.1:{free_port()}", f"unix:{world.path('none')}",
        "tcp:no-such-host.invalid:80", "tunnel"]}])
    said.only("target", "resolve")
    assert len(said.of("target", "wrong")) == 2
    said.expect("target", "wrong", "refused", "start the service")
    said.expect("resolve", "wrong", "no-such-host", "resolv.conf")


def test_relay_descriptors(world):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    path = relay_config(world)
    said = Said(run(world, "ATTEST_RELAY", "--config", path, preexec_fn=few), [])
    found = said.of("descriptors")[0]  # one that runs elsewhere may have more
    assert found["status"] == "ok" or re.search("LimitNOFILE= .* 33280", found["advice"])


# ---- qgs-bridge ----

class Qgs(Listening):
    """Takes connections, and notes what is said."""

    def __init__(self, world, mode=0o660, path=None):
        self.path, self.came, self.heard = path or world.path("qgs.socket"), 0, []
        super().__init__(self.path)
        os.chmod(self.path, mode)

    def serve(self, c):
        self.came += 1
        with c:
            self.heard.append(c.recv(100))


def ask_bridge(world, qgs=None, listeners=None, qgs_more=None, **changes):
    path = write(world, "doctor.yaml", **{
        "listeners": listeners or [{"name": "q", "address": f"unix:{world.path('b.sock')}"}],
        "qgs": {"address": f"unix:{world.path('qgs.socket')}", **(qgs_more or {})}, **changes})
    return doctor(world, "ATTEST_BRIDGE", "--config", path)


def test_bridge_all_good(world):
    qgs = world.add(Qgs(world))
    said = ask_bridge(world, qgs)
    said.only()
    said.expect("qgs", "ok", "takes connections")
    said.expect("listener", "ok", "q at .*it is free")
    assert said.of("tdx", "ok") and said.of("selinux") and said.of("apparmor")
    wait_for(lambda: qgs.heard, "the connection")
    assert qgs.heard == [b""]  # nothing was ever sent


def test_bridge_flags_are_the_daemons(world):
    qgs = world.add(Qgs(world))
    said = doctor(world, "ATTEST_BRIDGE", "--qgs", f"unix:{qgs.path}", "--listen",
                  f"unix:{world.path('b.sock')}")
    said.only()
    for args in (["--no-such-flag"], []):
        assert run(world, "ATTEST_BRIDGE", *args).returncode == 2


def test_bridge_config_has_errors(world):
    said = doctor(world, "ATTEST_BRIDGE", "--config", write(world, "bad.yaml", listeners=3, foo=1))
    assert len(said.of("config", "wrong")) == 2
    said.expect("qgs", "skipped", "because of the config")


def test_bridge_qgs_is_not_there(world):
    said = ask_bridge(world)
    said.only("qgs")
    said.expect("qgs", "wrong", "No such file", "systemctl start qgsd")
    with open(world.path("qgs.socket"), "w"):
        pass
    said = ask_bridge(world)
    said.expect("qgs", "wrong", "is no socket", "qgs.address")


def test_bridge_qgs_listens_no_more(world):
    qgs = Qgs(world)
    qgs.listening.shutdown(socket.SHUT_RDWR)
    qgs.close()
    ask_bridge(world, qgs).expect("qgs", "wrong", "refused", "start the service")


def test_bridge_qgs_is_open_to_all(world):
    said = ask_bridge(world, world.add(Qgs(world, 0o666)))
    said.only()
    said.expect("qgs", "warning", "past the bridge.*0666", "chmod 660")


def test_bridge_may_not_connect_to_qgs(world):
    """QGS lets its own group in, of which the user that asks is no member."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the others are root's alone
        os.mkdir(os.path.join(folder, "mine"), 0o777)
        os.chmod(os.path.join(folder, "mine"), 0o777)
        qgs = world.add(Qgs(world, path=os.path.join(folder, "qgs.socket")))
        path = write(world, "doctor.yaml", qgs={"address": f"unix:{qgs.path}"}, listeners=[
            {"name": "q", "address": f"unix:{folder}/mine/b.sock", "group": "0"},
            {"name": "r", "address": f"unix:{folder}/c.sock"}])
        said = ask_as_nobody("ATTEST_BRIDGE", shutil.copy(path, folder))
    said.only("qgs", "listener")
    said.expect("qgs", "wrong", "may not connect to QGS.*0660", "SupplementaryGroups")
    said.expect("accounts", "warning", "q this user is no member of the group 0", "CAP_CHOWN")
    said.expect("listener", "ok", "q at .*free")
    said.expect("listener", "wrong", "r at .*may not make files", "make the folder")


def test_bridge_qgs_has_many(world):
    qgs = world.add(Qgs(world))
    for _ in range(9):
        world.add(socket.socket(socket.AF_UNIX)).connect(qgs.path)
    wait_for(lambda: qgs.came == 9, "all of them")
    said = ask_bridge(world, qgs)
    said.expect("qgs", "warning", r"QGS has \d+ connections, and qgs.in_flight is 4", "qgsd")


def test_bridge_listeners(world):
    qgs = world.add(Qgs(world))
    os.mkdir(world.path("open"))
    os.chmod(world.path("open"), 0o777)
    os.mkdir(world.path("vms"))
    taken = world.add(socket.socket(socket.AF_UNIX))
    taken.bind(world.path("taken.sock"))
    taken.listen()
    names = {"open": "open/q.sock", "taken": "taken.sock", "vms": "vms/*/q.sock",
             "none": "none/*/q.sock", "made": "deep/folder/q.sock"}
    said = ask_bridge(world, qgs, listeners=[
        {"name": k, "address": f"unix:{world.path(v)}"} for k, v in names.items()])
    said.only("listener")
    said.expect("listener", "warning", "open at .*anybody may write.*0777", "chmod o-w")
    said.expect("listener", "wrong", f"taken at .*pid {os.getpid()}", "end one")
    said.expect("listener", "ok", "vms at .*is there")
    said.expect("listener", "warning", "none at .*not there", "make it")
    said.expect("listener", "ok", "made at .*free")
    assert not os.path.exists(world.path("deep"))


def test_bridge_accounts(world):
    said = ask_bridge(world, world.add(Qgs(world)), listeners=[
        {"name": "q", "address": f"unix:{world.path('b.sock')}", "group": "no-such-group"},
        {"name": "r", "address": f"unix:{world.path('c.sock')}", "owner": "no-such-user"}])
    said.only("accounts")
    said.expect("accounts", "wrong", "q there is no group", "make it")
    said.expect("accounts", "wrong", "r there is no user", "make it")


def test_bridge_vms_dir(world):
    qgs = world.add(Qgs(world))
    os.mkdir(world.path("vms.d"))
    ask_bridge(world, qgs, vms_dir=world.path("vms.d")).expect("libvirt", "ok", "can be read")
    os.chmod(world.path("vms.d"), 0o777)
    said = ask_bridge(world, qgs, vms_dir=world.path("vms.d"))
    said.expect("libvirt", "wrong", "anybody may write", "chmod o-w")


def test_bridge_relay(world):
    qgs = world.add(Qgs(world))
    relay = world.relay()
    leg = {"addresses": [f"tcp:127.0.0.1:{relay.port()}"], "server_name": DOMAIN,
           "ca_file": world.certificates.ca}
    said = ask_bridge(world, qgs, relay=leg)
    said.only()
    said.expect("alpn", "ok", "h2: the relay's connect door")
    said.expect("credential", "ok", "speaks with us")
    said = ask_bridge(world, qgs, relay={**leg, "ca_file": world.certificates.other_ca})
    said.only("tls")
    said = ask_bridge(world, qgs, relay={**leg, "addresses": [f"tcp:127.0.0.1:{free_port()}"]})
    said.only("connect")


def test_bridge_stuck_command(world):
    said = ask_bridge(world, world.add(Qgs(world)),
                      qgs_more={"stuck_command": ["/no/such/program"]})
    said.only("stuck_command")
    said.expect("stuck_command", "wrong", "No such file", "correct")
