# The agent's way out through proxies: real ones (tinyproxy, squid, haproxy, microsocks, ssh -D), and
# small ones of Python that do what those do on bad days.
import base64
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from harness import DOMAIN, MB, Agent, Program, data, free_port, need, wait_for
from streams import Aborted, Doors, Service, TlsConn, dial, echo, read_head, roundtrip

USER, PASSWORD = "us-er", "s3cret word: 100%"
CARRIERS = ["direct", "websocket"]
PATIENCE = int(os.environ.get("ATTEST_PROXY_PATIENCE", 2))  # seconds; a minute in suite slow


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def ask(relay, service="kbs.acme", size=300_000):
    with Doors(relay, None).connect_plain(service) as c:
        roundtrip(c, data(size))


def listens(port, program):
    def look():
        assert program.running(), program.tail()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False
    wait_for(look, lambda: f"{program.name} listens\n{program.tail()}")
    return port


def credentials(world, text=f"{USER}:{PASSWORD}\n"):
    path = world.path("credentials")
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o600)
    return path


def no_secret(*agents, secret=PASSWORD):
    """Not in a log, on a command line, in an environment; nor as HTTP says it."""
    encoded = base64.b64encode(f"{USER}:{secret}".encode()).decode()
    for a in agents:
        for what in ("cmdline", "environ"):
            if a.running():
                with open(f"/proc/{a.pid}/{what}", "rb") as f:
                    assert secret.encode() not in f.read(), what
        assert secret not in a.log() and encoded not in a.log()


# ---- real proxies ----

def tinyproxy(world, *lines, name="tinyproxy", patience=600):
    need("tinyproxy")
    port, path = free_port(), world.path(f"{name}.conf")
    with open(path, "w") as f:
        f.write("\n".join([f"Port {port}", "Listen 127.0.0.1", f"Timeout {patience}", "MaxClients 50",
                           "Allow 127.0.0.1", *lines]) + "\n")
    return listens(port, Program(world, name, ["tinyproxy", "-d", "-c", path]))


def squid(world, *lines, ports=None, name="squid"):
    """ports: what CONNECT may go to, as Debian's own config has it: 443 only."""
    need("squid")
    port, path = free_port(), world.path(f"{name}.conf")
    with open(path, "w") as f:
        f.write("\n".join([
            f"http_port 127.0.0.1:{port}", *lines[:1],
            f"acl tls_ports port {ports or 443}", "http_access deny CONNECT !tls_ports",
            *lines[1:],
            "http_access allow localhost", "http_access deny all", "pid_filename none",
            "cache_log stdio:/dev/stderr", "access_log none", "cache_store_log none",
            "pinger_enable off", "visible_hostname proxy.test", "shutdown_lifetime 0 seconds",
            f"coredump_dir {world.folder}", "netdb_filename none", "cache deny all"]) + "\n")
    return listens(port, Program(world, name, ["squid", "-N", "-f", path], expect=(0, 1)))


class Remove:
    def __init__(self, folder):
        self.folder = folder

    def close(self):
        shutil.rmtree(self.folder)


def squid_users(world):
    """Lines for a squid that lets nobody through without the right password."""
    helper = "/usr/lib/squid/basic_ncsa_auth"
    need(helper)
    folder = tempfile.mkdtemp(prefix="attest-squid-")  # its helper is another user's, if we are root
    os.chmod(folder, 0o755)
    world.add(Remove(folder))
    path = os.path.join(folder, "users")
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, text=True,
                            capture_output=True).stdout
    with open(path, "w") as f:
        f.write(f"{USER}:{hashed}")
    os.chmod(path, 0o644)
    return [f"auth_param basic program {helper} {path}", "acl known proxy_auth REQUIRED",
            "http_access deny !known"]


def haproxy(world, text, name="haproxy"):
    need("haproxy")
    path = world.path(f"{name}.cfg")
    with open(path, "w") as f:
        f.write("global\n  maxconn 200\ndefaults\n  timeout connect 5s\n  timeout client 60s\n"
                f"  timeout server 60s\n  timeout tunnel 60s\n{text}\n")
    return Program(world, name, ["haproxy", "-db", "-q", "-f", path], expect=(0, -signal.SIGTERM))


def pem(world, pair):
    path = world.path("both.pem")
    with open(path, "w") as out:
        for part in pair:
            with open(part) as f:
                out.write(f.read())
    return path


def tls_front(world, port):
    """TLS in front of a proxy: haproxy with the certificate for 127.0.0.1."""
    door = free_port()
    h = haproxy(world, f"""
listen front
  mode tcp
  bind 127.0.0.1:{door} ssl crt {pem(world, world.certificates.relay)}
  server proxy 127.0.0.1:{port}""")
    return listens(door, h)


# ---- one of ours ----

class Proxy(Service):
    """HTTP CONNECT: notes what it was asked for. Goes where it is told, or to `to`; each end that
    has been silent for `idle` seconds is cut, as middle boxes do; glue goes behind its yes."""

    def __init__(self, to=None, idle=None, glue=b"", answer=b"HTTP/1.1 200 Yes\r\n\r\n"):
        self.to, self.idle, self.glue, self.answer = to, idle, glue, answer
        self.heads, self.cut = [], 0
        super().__init__(handler=self.connect)

    @property
    def url(self):
        return "http://" + self.address[4:]

    def connect(self, conn):
        head, rest = read_head(conn)
        assert not rest, "something was said before the answer"
        self.heads.append(head)
        host, port = head.split()[1].rsplit(b":", 1)
        if not self.answer.startswith(b"HTTP/1.1 200"):
            conn.send(self.answer)
            return
        far = dial(self.to or f"tcp:{host.decode()}:{int(port)}")
        conn.send(self.answer + self.glue)
        moved = [time.monotonic()]
        back = threading.Thread(target=self.pump, args=(far, conn, moved), daemon=True)
        back.start()
        self.pump(conn, far, moved)
        back.join()
        far.close()

    def pump(self, a, b, moved):
        """One way, a to b; moved: when a byte last went either way."""
        try:
            while not (self.idle and time.monotonic() - moved[0] > self.idle):
                if not select.select([a.sock], [], [], 0.05)[0]:
                    continue
                got = a.recv()
                moved[0] = time.monotonic()
                if not got:
                    b.eof()
                    return
                b.send(got)
            self.cut += 1
        except (Aborted, OSError, ValueError):  # the other way has closed them
            pass
        for c in (a, b):
            try:
                c.abort()
            except OSError:
                pass


# ---- tests: HTTP ----

@pytest.mark.parametrize("carrier", CARRIERS)
def test_tinyproxy(world, svc, carrier):
    relay = world.relay()
    port = tinyproxy(world)
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier,
                        proxy=f"http://127.0.0.1:{port}")
    agent.wait_log(rf"through the proxy http://127\.0\.0\.1:{port} \(by proxy\)")
    agent.wait_log(rf"connected to .* through the proxy http://127\.0\.0\.1:{port} as acme")
    ask(relay, size=5 * MB)
    agent.stop()
    relay.wait_tunnels(0)


def test_tinyproxy_basic(world, svc):
    """Right, wrong and no password; then the right one, without a restart of the agent."""
    relay = world.relay()
    word = "s3cret"  # tinyproxy's config knows no quotes
    port = tinyproxy(world, f"BasicAuth {USER} {word}")
    path = credentials(world, f"{USER}:wrong-{word}\n")
    log = {"level": "debug"}
    without = world.agent(relay, {"kbs": svc.address}, wait=False, log=log,
                          proxy=f"http://127.0.0.1:{port}", expect=(0, 1), extra=["--once"])
    without.wait_log(rf"127\.0\.0\.1:{relay.port()}: the proxy http://127\.0\.0\.1:{port} answers "
                     r'"HTTP/1\.. 407 .*" to CONNECT: it wants .*--proxy-credentials-file')
    assert without.wait() == 1
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, log=log,
                        proxy=f"http://127.0.0.1:{port}", proxy_credentials_file=path)
    agent.wait_log(r"the proxy .* answers .* 40[17] .*does not take the user name and password")
    credentials(world, f"{USER}:{word}\n")
    agent.signal(signal.SIGHUP)  # now, and not when its pause is over
    relay.wait_tunnels(1)
    ask(relay)
    no_secret(agent, without, secret=word)


def test_wrong_password_is_shown_once(world, svc):
    """Many proxies lock an account after a few wrong ones; a new one is shown at once."""
    relay = world.relay()
    proxy = world.add(Proxy(answer=b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n"))
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, log={"level": "debug"},
                        proxy=proxy.url, proxy_credentials_file=credentials(world))
    agent.wait_log("does not take the user name and password")
    wait_for(lambda: agent.count("are not shown to it again") >= 2, agent.tail)
    assert len(proxy.heads) == 1
    agent.signal(signal.SIGHUP)
    wait_for(lambda: len(proxy.heads) == 2, agent.tail)
    proxy.answer = b"HTTP/1.1 200 Yes\r\n\r\n"
    credentials(world, f"{USER}:new\n")
    relay.wait_tunnels(1)
    assert len(proxy.heads) == 3
    no_secret(agent)


def test_squid_basic(world, svc):
    relay = world.relay()
    port = squid(world, "", *squid_users(world), ports=relay.port())
    agent = world.agent(relay, {"kbs": svc.address}, log={"level": "debug"},
                        proxy=f"http://{USER}@127.0.0.1:{port}",
                        proxy_credentials_file=credentials(world))
    ask(relay, size=5 * MB)
    no_secret(agent)
    wrong = world.agent(relay, {"kbs": svc.address}, wait=False,
                        proxy=f"http://{USER}@127.0.0.1:{port}", extra=["--once"], expect=(1,))
    wrong.wait_log(r'answers "HTTP/1\.1 407 .*" to CONNECT: it does not take the user name')
    assert wrong.wait() == 1


def test_squid_port_443_only(world, svc):
    """As most are set up: another port is refused, and the agent says so; 443 is let through."""
    door = "127.43.0.1:443"
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.43.0.1", 443))
        except OSError as e:
            pytest.skip(f"no relay can listen at {door}: {e}")
    relay = world.relay(listeners=[{"name": "low", "address": f"tcp:{door}", "doors": ["tunnel"]}])
    port = squid(world)
    refused = world.agent(relay, {"kbs": svc.address}, wait=False, transport="auto",
                          proxy=f"http://127.0.0.1:{port}", extra=["--once"], expect=(1,))
    refused.wait_log(r'answers "HTTP/1\.1 403 Forbidden" to CONNECT: .*port 443 only')
    assert refused.wait() == 1
    assert refused.count("CONNECT") == 1, "the other carrier would get the same answer"
    world.agent(relay, {"kbs": svc.address}, address=f"tcp:{door}",
                proxy=f"http://127.0.0.1:{port}")
    ask(relay)


def test_name_that_only_the_proxy_knows(world, svc):
    """In many networks the names of the world are not resolved at all: the proxy is asked for one."""
    relay = world.relay()
    proxy = world.add(Proxy(to=relay.listeners["front"]))
    world.agent(relay, {"kbs": svc.address}, proxy=proxy.url, address="tcp:relay.invalid:443")
    assert proxy.heads[0].startswith(b"CONNECT relay.invalid:443 HTTP/1.1\r\n")
    ask(relay)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_name_with_the_dot_of_the_root(world, svc, carrier):
    """DNS is asked with it; certificates, SNI and Host know none."""
    relay = world.relay()
    proxy = world.add(Proxy(to=relay.listeners["front"]))
    Agent(world, "dot", [
        "--relay", f"tcp:gw.{DOMAIN}.:443", "--token-file", world.token()[1], "--service",
        f"kbs={svc.address}", "--ca-file", world.certificates.ca, "--proxy", proxy.url,
        "--transport", carrier])
    relay.wait_tunnels(1)
    assert proxy.heads[0].startswith(f"CONNECT gw.{DOMAIN}.:443 ".encode())
    ask(relay)


def test_flags(world, svc):
    """The same by flags alone."""
    relay = world.relay()
    port = tls_front(world, tinyproxy(world, f"BasicAuth {USER} s3cret"))
    agent = Agent(world, "flags", [
        "--relay", f"tcp:127.0.0.1:{relay.port()}", "--token-file", world.token()[1],
        "--service", f"kbs={svc.address}", "--ca-file", world.certificates.ca,
        "--server-name", DOMAIN, "--proxy", f"https://{USER}@127.0.0.1:{port}",
        "--proxy-ca-file", world.certificates.ca,
        "--proxy-credentials-file", credentials(world, f"{USER}:s3cret\n")])
    relay.wait_tunnels(1)
    ask(relay)
    no_secret(agent, secret="s3cret")


def test_relay_behind_is_down(world, svc):
    relay = world.relay()
    port = tinyproxy(world)
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, extra=["--once"], expect=(1,),
                        address=f"tcp:127.0.0.1:{free_port()}", proxy=f"http://127.0.0.1:{port}")
    agent.wait_log(r'the proxy .* answers "HTTP/1\.. 50[0-9] .*')
    assert agent.wait() == 1


@pytest.mark.parametrize("url,says", [
    ("http://127.0.0.1:{closed}", "the proxy cannot be reached: .*: Connection refused"),
    ("http://127.0.0.1:{relay}", "answers \"HTTP/1.1 404 .*is it a proxy"),
    ("http://127.0.0.1:{tls}", "is it a proxy for http://, or one for https://|speaks TLS"),
    ("https://127.0.0.1:{plain}", "cannot be spoken to by TLS: .*the peer does not speak TLS here"),
    ("http://127.0.0.1:{socks}", "https:// or socks5://|SOCKS"),
    ("socks5h://127.0.0.1:{plain}", "gave no answer to SOCKS5 within 5000 ms: is it a proxy of that kind"),
    ("socks5h://127.0.0.1:{closed}", "Connection refused"),
    ("socks5://127.0.0.1:{socks}", "no.such.host.invalid does not resolve here"),
], ids=["nobody", "relay", "tls", "no-tls", "socks", "no-socks", "no-socks-at-all", "no-name"])
def test_wrong_kind(world, svc, url, says):
    """What is at the URL is no such proxy, and the log says what it seems to be."""
    relay = world.relay()
    plain = tinyproxy(world)
    url = url.format(closed=free_port(), relay=relay.port(), plain=plain,
                     tls=tls_front(world, plain), socks=microsocks(world))
    more = {"proxy_ca_file": world.certificates.ca} if url.startswith("https") else {}
    host = "no.such.host.invalid" if "resolve" in says else "127.0.0.1"
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, proxy=url, extra=["--once"],
                        address=f"tcp:{host}:{relay.port()}", expect=(1,),
                        timeouts={"handshake": "5s"}, **more)
    agent.wait_log(says)
    assert agent.wait() == 1


def test_a_proxy_that_is_silent(world, svc):
    """It takes the connection and says nothing: there is an end to that."""
    relay = world.relay()
    hole = world.add(Service())
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, expect=(1,), extra=["--once"],
                        proxy="http://" + hole.address[4:], timeouts={"handshake": "500ms"})
    agent.wait_log(r"the proxy .* gave no answer within 500 ms")
    assert agent.wait() == 1


# ---- TLS to the proxy ----

@pytest.mark.parametrize("carrier", CARRIERS)
def test_https_proxy(world, svc, carrier):
    """TLS inside TLS: a large body both ways, and an end in order."""
    relay = world.relay()
    port = tls_front(world, tinyproxy(world))
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier,
                        proxy=f"https://127.0.0.1:{port}",
                        proxy_ca_file=world.certificates.ca)
    ask(relay, size=20 * MB)
    agent.stop()
    relay.wait_tunnels(0)
    relay.stop()


def test_https_proxy_is_verified(world, svc):
    relay = world.relay()
    port = tls_front(world, tinyproxy(world))
    for name, ca, says in (
            ("127.0.0.1", world.certificates.other_ca, "name its CA .--proxy-ca-file"),
            ("127.0.0.2", world.certificates.ca, "certificate is not for 127.0.0.2")):
        if name != "127.0.0.1":
            port = listens_at(world, name, port)
        agent = world.agent(relay, {"kbs": svc.address}, wait=False, expect=(1,),
                            proxy=f"https://{name}:{port}", proxy_ca_file=ca, extra=["--once"])
        agent.wait_log(says)
        assert agent.wait() == 1


def listens_at(world, address, port):
    """A way to port of 127.0.0.1 at another address."""
    door = free_port()
    p = Program(world, f"to-{port}", ["socat", f"TCP-LISTEN:{door},bind={address},fork,reuseaddr",
                                      f"TCP:127.0.0.1:{port}"], expect=(0, 143, -signal.SIGTERM))

    def look():
        try:
            socket.create_connection((address, door), 1).close()
            return True
        except OSError:
            return False
    wait_for(look, lambda: f"socat listens\n{p.tail()}")
    return door


def test_squid_https_port(world, svc):
    """squid's own TLS, and its password inside it."""
    relay = world.relay()
    door = free_port()
    line = f"https_port 127.0.0.1:{door} tls-cert={pem(world, world.certificates.relay)}"
    users = squid_users(world)
    os.chmod(world.path("both.pem"), 0o644)
    squid(world, line, *users, ports=relay.port())
    agent = world.agent(relay, {"kbs": svc.address}, log={"level": "debug"},
                        proxy=f"https://127.0.0.1:{door}",
                        proxy_ca_file=world.certificates.ca,
                        proxy_credentials_file=credentials(world))
    ask(relay, size=5 * MB)
    no_secret(agent)


def test_https_proxy_dies(world, svc):
    """The joined sockets end together; the agent notices at once and comes back."""
    relay = world.relay()
    inner = tinyproxy(world)
    port = tls_front(world, inner)
    front = world.programs[-1]
    agent = world.agent(relay, {"kbs": svc.address}, proxy=f"https://127.0.0.1:{port}",
                        proxy_ca_file=world.certificates.ca)
    held = agent.fds()
    front.kill()
    agent.wait_log(r"connection to .* lost")
    again = Program(world, "haproxy-again", front.argv, expect=(0, -signal.SIGTERM))
    listens(port, again)
    relay.wait_tunnels(1)
    ask(relay)
    wait_for(lambda: agent.fds() <= held, lambda: f"{agent.fds()} descriptors, {held} before")


def test_https_proxy_that_stays(world, svc):
    """It takes our end and does not end itself: the program ends all the same, and leaks nothing."""
    relay = world.relay()
    context = world.certificates.server(world.certificates.relay)
    stay = threading.Event()

    def serve(conn):
        tls = TlsConn(conn, context, server_side=True)
        head, _ = read_head(tls)
        assert head.startswith(b"CONNECT ")
        far = dial(f"tcp:127.0.0.1:{relay.port()}")
        tls.send(b"HTTP/1.1 200 Yes\r\n\r\n")
        threading.Thread(target=pump, args=(far, tls), daemon=True).start()
        pump(tls, far)
        stay.wait(60)

    def pump(a, b):
        try:
            while got := a.recv():
                b.send(got)
        except (Aborted, OSError):
            pass
    proxy = world.add(Service(handler=serve))
    agent = world.agent(relay, {"kbs": svc.address}, proxy="https://" + proxy.address[4:],
                        proxy_ca_file=world.certificates.ca)
    ask(relay)
    agent.stop()
    stay.set()


# ---- SOCKS5 ----

def microsocks(world, *args):
    need("microsocks")
    port = free_port()
    return listens(port, Program(world, "microsocks", [
        "microsocks", "-i", "127.0.0.1", "-p", str(port), *args], expect=(0, -signal.SIGTERM)))


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_microsocks(world, svc, scheme, carrier):
    relay = world.relay()
    port = microsocks(world)
    agent = world.agent(relay, {"kbs": svc.address}, transport=carrier,
                        address=f"tcp:localhost:{relay.port()}",
                        proxy=f"{scheme}://127.0.0.1:{port}")
    ask(relay, size=5 * MB)
    agent.stop()


def test_microsocks_password(world, svc):
    relay = world.relay()
    port = microsocks(world, "-u", USER, "-P", PASSWORD)
    agent = world.agent(relay, {"kbs": svc.address}, log={"level": "debug"},
                        proxy=f"socks5h://127.0.0.1:{port}",
                        proxy_credentials_file=credentials(world))
    ask(relay)
    no_secret(agent)
    for more, says in (({}, "without a user name and password.*--proxy-credentials-file"),
                       ({"proxy_credentials_file": credentials(world, f"{USER}:wrong\n")},
                        "does not take the user name and password")):
        wrong = world.agent(relay, {"kbs": svc.address}, wait=False, extra=["--once"],
                            proxy=f"socks5h://127.0.0.1:{port}", expect=(1,), **more)
        wrong.wait_log(says)
        assert wrong.wait() == 1


def test_ssh_d(world, svc):
    """ssh -D: the way out that people make themselves."""
    need("/usr/sbin/sshd", "ssh", "ssh-keygen")
    if os.getuid() == 0:
        os.makedirs("/run/sshd", 0o755, exist_ok=True)  # where it locks its helpers in
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", world.path(key)],
                       check=True)
    door, port = free_port(), free_port()
    with open(world.path("sshd.conf"), "w") as f:
        f.write(f"""ListenAddress 127.0.0.1:{door}
HostKey {world.path("host")}
AuthorizedKeysFile {world.path("user.pub")}
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
""")
    listens(door, Program(world, "sshd", ["/usr/sbin/sshd", "-D", "-e", "-f",
                                          world.path("sshd.conf")], expect=(0, 255)))
    client = Program(world, "ssh", [
        "ssh", "-N", "-D", f"127.0.0.1:{port}", "-p", str(door), "-i", world.path("user"),
        "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "-o", "ExitOnForwardFailure=yes", "127.0.0.1"], expect=(0, 255, -signal.SIGTERM))
    listens(port, client)
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, address=f"tcp:localhost:{relay.port()}",
                        proxy=f"socks5h://127.0.0.1:{port}")
    ask(relay, size=5 * MB)
    agent.stop()


# ---- the environment ----

def test_environment(world, svc):
    """HTTPS_PROXY with a password in it: used, wiped, not told."""
    relay = world.relay()
    port = squid(world, "", *squid_users(world), ports=relay.port())
    url = f"http://{USER}:{PASSWORD.replace('%', '%25').replace(' ', '%20')}@127.0.0.1:{port}"
    agent = world.agent(relay, {"kbs": svc.address}, log={"level": "debug"},
                        env={"HTTPS_PROXY": url, "ALL_PROXY": "socks5h://127.0.0.1:9"})
    agent.wait_log(rf"through the proxy http://127\.0\.0\.1:{port} \(by HTTPS_PROXY\)")
    ask(relay)
    with open(f"/proc/{agent.pid}/environ", "rb") as f:
        assert b"s3cret" not in f.read()
    assert "s3cret" not in agent.log()


def test_config_before_environment(world, svc):
    relay = world.relay()
    proxy = world.add(Proxy())
    nowhere = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    world.agent(relay, {"kbs": svc.address}, env=nowhere, proxy=proxy.url)
    assert len(proxy.heads) == 1
    world.agent(relay, {"kbs": svc.address}, proxy="none",
                env={"all_proxy": "http://127.0.0.1:9"})
    assert len(proxy.heads) == 1
    ask(relay)


def test_no_proxy_of_several_relays(world, svc):
    """One relay through the proxy, the other directly, by the environment and by the config."""
    far, near = world.relay("far"), world.relay("near")
    proxy = world.add(Proxy())
    relays = [f"tcp:127.0.0.1:{far.port()}", f"tcp:localhost:{near.port()}"]
    for n, (env, more) in enumerate((
            ({"https_proxy": proxy.url, "no_proxy": "other.test, localhost"}, {}),
            ({}, {"proxy": proxy.url, "no_proxy": [f"localhost:{near.port()}"]}))):
        agent = world.agent(far, {"kbs": svc.address}, env=env, relays=relays, **more)
        near.wait_tunnels(1)
        assert len(proxy.heads) == n + 1
        assert f"CONNECT 127.0.0.1:{far.port()} ".encode() in proxy.heads[-1]
        agent.wait_log(r"localhost:\d+ is through no proxy \(by no_proxy\)")
        ask(far)
        ask(near)
        agent.stop()
        far.wait_tunnels(0)
        near.wait_tunnels(0)


def test_no_proxy_flag(world, svc):
    """--no-proxy instead of NO_PROXY, for the environment's proxy and for that of --proxy."""
    relay = world.relay()
    proxy = world.add(Proxy())
    env = {"https_proxy": proxy.url, "NO_PROXY": "*"}
    for n, more in enumerate(({"env": env}, {"proxy": proxy.url})):
        agent = world.agent(relay, {"kbs": svc.address}, extra=["--no-proxy", "other.test"], **more)
        assert len(proxy.heads) == n + 1
        agent.stop()
        agent = world.agent(relay, {"kbs": svc.address}, extra=["--no-proxy", "a.test,127.0.0.0/8"],
                            **more)
        agent.wait_log(r"is through no proxy \(by no_proxy")
        assert len(proxy.heads) == n + 1
        agent.stop()


@pytest.mark.parametrize("env", [{"HTTPS_PROXY": "http://u:s3cret@127.0.0.1"},
                                 {"https_proxy": "socks4://u:s3cret@127.0.0.1:1"}])
def test_unusable_environment(world, svc, env):
    """No start: going out directly instead would be a surprise."""
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, env=env, expect=(1,))
    assert agent.wait() == 1
    assert next(iter(env)) in agent.log() and "s3cret" not in agent.log()


def test_password_on_the_command_line(world, svc):
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, wait=False, expect=(1,),
                        extra=["--proxy", "http://u:s3cret@127.0.0.1:1"])
    assert agent.wait() == 1
    assert "everybody can read a command line" in agent.log() and "s3cret" not in agent.log()


# ---- what gets in between ----

def test_idle_connections_are_cut(world, svc):
    """Middle boxes cut what is silent: pings keep a tunnel alive, for as long as it takes."""
    relay = world.relay()
    proxy = world.add(Proxy(idle=1))
    agent = world.agent(relay, {"kbs": svc.address}, proxy=proxy.url,
                        timeouts={"ping": "200ms", "dead": "5s"})
    time.sleep(4)
    assert proxy.cut == 0 and len(proxy.heads) == 1
    ask(relay)
    agent.stop()
    relay.wait_tunnels(0)


def test_a_proxy_that_cuts_after_a_minute(world, svc):
    """
    A real one that cuts what is silent for PATIENCE seconds, a minute in suite slow: then at default
    settings, pings keep the connection, and what has been silent all the time still works.
    """
    relay = world.relay()
    port = tinyproxy(world, patience=PATIENCE)
    agent = world.agent(relay, {"kbs": svc.address}, proxy=f"http://127.0.0.1:{port}",
                        **({"timeouts": {"ping": "500ms"}} if PATIENCE < 10 else {}))
    time.sleep(2.5 * PATIENCE)
    ask(relay)
    assert relay.metric("tunnels_total") == 1, "it never had to come back"
    agent.stop()
    relay.wait_tunnels(0)


def test_cut_and_back(world, svc):
    """The same box, and pings that are too rare on both sides: it does cut; the agent is back."""
    slow = {"ping": "20s", "dead": "40s"}
    relay = world.relay(timeouts=slow)
    proxy = world.add(Proxy(idle=1))
    agent = world.agent(relay, {"kbs": svc.address}, proxy=proxy.url, timeouts=slow)
    agent.wait_log(r"connection to .* lost")
    assert proxy.cut >= 1
    wait_for(lambda: len(proxy.heads) >= 2, "a second CONNECT")
    relay.wait_tunnels(1)


def test_interception(world, svc):
    """A box that ends TLS with a certificate of its own, trusted here, and speaks HTTP/1.1 only: no
    ALPN of ours gets through, and auto goes on with a WebSocket."""
    relay = world.relay()
    door = free_port()
    h = haproxy(world, f"""
listen intercept
  mode http
  bind 127.0.0.1:{door} ssl crt {pem(world, world.certificates.relay)} alpn http/1.1
  server relay 127.0.0.1:{relay.port()} ssl verify none alpn http/1.1""")
    listens(door, h)
    proxy = world.add(Proxy(to=f"tcp:127.0.0.1:{door}"))
    agent = world.agent(relay, {"kbs": svc.address}, transport="auto", proxy=proxy.url)
    agent.wait_log(r"connected to .* over WebSocket through the proxy")
    assert len(proxy.heads) == 2, "direct TLS first"
    ask(relay, size=5 * MB)
    stubborn = world.agent(relay, {"kbs": svc.address}, proxy=proxy.url, transport="direct",
                           wait=False, extra=["--once"], expect=(1,))
    stubborn.wait_log(r"through the proxy http://.*did not choose ALPN")
    assert stubborn.wait() == 1


def test_interception_is_noticed(world, svc):
    """The same with a CA that is not trusted: nothing is said inside."""
    relay = world.relay()
    fake = world.add(Service(handler=lambda c: c.read_all()))
    door = free_port()
    h = haproxy(world, f"""
listen intercept
  mode tcp
  bind 127.0.0.1:{door} ssl crt {pem(world, world.certificates.relay)}
  server fake {fake.address[4:]}""")
    listens(door, h)
    proxy = world.add(Proxy(to=f"tcp:127.0.0.1:{door}"))
    agent = world.agent(relay, {"kbs": svc.address}, transport="auto", proxy=proxy.url,
                        ca_file=world.certificates.other_ca, wait=False, extra=["--once"],
                        expect=(1,))
    agent.wait_log(r"through the proxy .*certificate verify failed")
    assert agent.wait() == 1


@pytest.mark.parametrize("glue", [b"\x16\x03\x03", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 20000],
                         ids=["record", "answer", "much"])
def test_bytes_behind_the_answer(world, svc, glue):
    """Whoever can write to the line before TLS begins is not the relay: refused, and said."""
    relay = world.relay()
    proxy = world.add(Proxy(glue=glue))
    agent = world.agent(relay, {"kbs": svc.address}, transport="auto", proxy=proxy.url,
                        wait=False, extra=["--once"], expect=(1,))
    agent.wait_log(r"the proxy .* sent bytes behind its answer, before the relay was spoken to")
    assert agent.wait() == 1
    relay.wait_tunnels(0)


def test_answer_in_pieces(world, svc):
    """A long answer, byte by byte."""
    relay = world.relay()
    pipe = world.add(Proxy())  # only its pump is of use

    def slowly(conn):
        head, _ = read_head(conn)
        far = dial(f"tcp:{head.split()[1].decode()}")
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200\r\nX: " + 200 * b"y" + b"\r\n\r\n":
            conn.send(bytes([byte]))
        threading.Thread(target=pipe.pump, args=(far, conn, [0]), daemon=True).start()
        pipe.pump(conn, far, [0])
    slow = world.add(Service(handler=slowly))
    world.agent(relay, {"kbs": svc.address}, proxy="http://" + slow.address[4:])
    ask(relay)


def test_agent_stops_while_a_proxy_thinks(world, svc):
    """At every stage of the way: no wait, no leak."""
    relay = world.relay()
    hole = world.add(Service())
    where = hole.address[4:]
    for scheme in ("http", "https", "socks5", "socks5h"):
        agent = world.agent(relay, {"kbs": svc.address}, wait=False, proxy=f"{scheme}://{where}")
        conn = hole.accept()
        if scheme != "https":
            assert conn.recv(), "a greeting"
        begin = time.monotonic()
        agent.stop()
        assert time.monotonic() - begin < 5
        conn.close()
