"""How each subject of the benchmarks is started: attest-relay and its peers, each configured well.

A Subject is a row of the tables; a Rig is one running instance of it; a Lab owns everything that
runs and the folder with its configurations, keys and logs.

Theory of operation: every rig leads from a port of its own on loopback to a port of its own at the
far end, so that no two share a pool of TIME_WAIT. No subject logs streams. Rigs stay up for the
whole session; one that waits for work costs nothing. Whatever a lab started, children of
children included, ends with it: first by SIGTERM to each program, then by SIGKILL to what is left.
"""
import dataclasses
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable

import measure

SOCKET_PROXYD = "/usr/lib/systemd/systemd-socket-proxyd"
DOMAIN = "relay.test"
ALL = os.cpu_count() or 1       # threads, where a program is given all it can use
START_SECONDS = 20              # until a rig must let the first stream through


class Failed(Exception):
    """A subject could not be started, or did not live; the text says why."""


@dataclasses.dataclass(frozen=True)
class Subject:
    name: str
    groups: tuple[str, ...]     # the tables it stands in
    what: str
    start: Callable | None      # (lab, name, far port) -> Rig; None: no relay at all
    ours: bool = False
    needs: tuple[str, ...] = () # programs; without them it is skipped
    root: bool = False          # without, it is skipped too
    idle_streams: int = 2000    # fewer where each stream costs a process or a thread
    half_close: bool = True     # does one direction go on, whole, after the other has ended?

    def missing(self):
        """What it cannot do without, and has not; None: nothing."""
        if self.root and os.getuid() != 0:
            return "it needs root"
        return next((f"{p} is not installed" for p in self.needs if not which(p)), None)


@dataclasses.dataclass
class Rig:
    subject: Subject
    address: str                # where its clients connect
    prologue: str = "none"      # what they say first; see bench-load
    programs: list = dataclasses.field(default_factory=list)
    rates: dict = dataclasses.field(default_factory=dict)   # see measure

    def pids(self):
        return [p.pid for p in self.programs]

    def check(self):
        for p in self.programs:
            if p.process.poll() is not None:
                raise Failed(f"{p.name} ended with {p.process.returncode}: {p.last_words()}")

    def ended(self):
        return any(p.process.poll() is not None for p in self.programs)

    def stop(self):
        """Ends all of it; ours must end in order."""
        left = [fd for p in self.programs for fd in open_descendants(p.pid)]
        try:
            for p in reversed(self.programs):   # agents before relays
                p.stop()
        finally:
            for fd in left:
                kill_open(fd)
        for p in self.programs:
            if self.subject.ours and p.process.returncode != 0:
                raise Failed(f"{p.name} ended with {p.process.returncode}: {p.last_words()}")


class Program:
    """One process and its log."""

    def __init__(self, lab, name, argv):
        self.name = name
        self.log = os.path.join(lab.folder, f"{name}.log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=lab.folder,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": lab.folder, "LC_ALL": "C"})
        self.pid = self.process.pid

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self):
        with open(self.log, errors="replace") as f:
            lines = [x.strip() for x in f if x.strip()]
        return " | ".join(lines[-3:])[-400:] or "its log is empty"


class Ports:
    """Ports below the kernel's ephemeral ones; each run of the benchmarks has its own range."""

    FIRST, EACH, RANGES = 10000, 300, 20

    def __init__(self):
        self.at = 0
        for i in range(self.RANGES):
            name = f"attest-relay-bench-ports-{os.getuid()}-{i}"
            self.lock = open(os.path.join(tempfile.gettempdir(), name), "a")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.first = self.FIRST + i * self.EACH
                return
            except OSError:
                self.lock.close()
        raise Failed("no free range of ports: too many benchmarks at once")

    def take(self):
        for _ in range(self.EACH):
            port = self.first + self.at % self.EACH
            self.at += 1
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    s.bind(("127.0.0.1", port))
                    return port
                except OSError:
                    pass
        raise Failed("no free port")


class Lab:
    """Everything that runs, and the folder it lives in."""

    def __init__(self, folder, programs):
        self.folder = folder
        self.programs = programs    # paths by name: attest-relay, attest-tunnel, bench-load
        self.ports = Ports()
        self.rigs = []
        self.far_ends = {}          # by the subject's name: the program, its port
        self.made = set()
        self.count = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def run(self, *argv):
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Failed(f"{argv[0]}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def once(self, what):
        """Is this the first time? Keys and certificates are made when first needed."""
        first = what not in self.made
        self.made.add(what)
        return first

    def far_port(self, subject):
        """Each subject has a far end of its own; see bench-load."""
        if subject.name not in self.far_ends:
            port = self.ports.take()
            program = Program(self, f"far-end.{slug(subject)}", [
                self.programs["bench-load"], "serve", f"127.0.0.1:{port}"])
            self.far_ends[subject.name] = program, port
        return self.far_ends[subject.name][1]

    def start(self, subject):
        """A running rig of this subject, through which a first stream has gone."""
        self.count += 1
        far = self.far_port(subject)
        if subject.start:
            rig = Rig(subject, "")
            self.rigs.append(rig)
            subject.start(self, rig, f"{slug(subject)}.{self.count}", far)
        else:
            rig = Rig(subject, f"127.0.0.1:{far}")
            self.rigs.append(rig)
        self.wait_up(rig)
        return rig

    def wait_up(self, rig):
        end = time.monotonic() + START_SECONDS
        while True:
            rig.check()
            try:
                return measure.load(self, rig, "new", ["--count", "1", "--timeout", "15"])
            except measure.LoadFailed as e:
                if time.monotonic() > end:
                    raise Failed(f"no stream went through within {START_SECONDS} s: {e}") from e
            time.sleep(0.05)

    def stop(self, rig):
        self.rigs.remove(rig)
        rig.stop()

    def close(self):
        """Returns what went wrong in ending."""
        wrong = []
        for rig in list(self.rigs):
            try:
                self.stop(rig)
            except Failed as e:
                wrong.append(f"{rig.subject.name}: {e}")
        for name, (program, _) in self.far_ends.items():
            program.stop()
            counted = program.last_words()
            if program.process.returncode != 0:
                wrong.append(f"{name}: its far end ended with {program.process.returncode}: "
                             f"{counted}")
            elif any(json.loads(counted.rpartition(" | ")[2])["errors"].values()):
                wrong.append(f"{name}: its far end saw errors: {counted}")
        return wrong


def slug(subject):
    return subject.name.replace(" ", "")


def which(program):
    if program.startswith("/"):
        return program if os.path.exists(program) else None
    return shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


def open_descendants(pid):
    """pidfds, so that no other process can be mistaken for one of them later."""
    fds = []
    for child in measure.tree([pid]):
        try:
            fds.append(os.pidfd_open(child))
        except OSError:
            pass
    return fds


def kill_open(fd):
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass        # it ended by itself
    os.close(fd)


# ---- ours ----

def certificate(lab):
    """A throw-away CA and a certificate by it: ca.pem, cert.pem, cert.key."""
    if not lab.once("certificate"):
        return
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    lab.run("openssl", "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem",
            "-days", "2", "-subj", "/CN=bench CA", "-addext", "keyUsage=critical,keyCertSign")
    lab.run("openssl", "req", *new_key, "-keyout", "cert.key", "-out", "cert.csr",
            "-subj", f"/CN={DOMAIN}")
    lab.write("cert.ext", f"subjectAltName=DNS:{DOMAIN},IP:127.0.0.1\n")
    lab.run("openssl", "x509", "-req", "-in", "cert.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "cert.ext", "-out", "cert.pem")


def token_hash(lab):
    """Makes the file token; returns the hash for the relay's configuration."""
    if lab.once("token"):
        words = lab.run(lab.programs["attest-relay"], "token", "new").split()
        lab.write("token", next(x for x in words if x.startswith("art_")) + "\n")
        os.chmod(lab.path("token"), 0o600)
        lab.write("token.hash", next(x for x in words if x.startswith("sha256:")))
    with open(lab.path("token.hash")) as f:
        return f.read()


def attest_relay(lab, rig, name, workers, listeners, more):
    config = lab.write(f"{name}.yaml", f"""\
workers: {workers}
domain: {DOMAIN}
log: {{ level: warning }}
timeouts: {{ idle: 1h, drain: 1s }}
listeners:
{listeners}{more}""")
    rig.programs.append(Program(lab, name, [lab.programs["attest-relay"], "--config", config]))


def plain_relay(workers, door):
    """The service is at an address the relay can reach; its clients come by this door."""
    def start(lab, rig, name, far):
        port = lab.ports.take()
        rig.address = f"127.0.0.1:{port}"
        opens = "service: far.bench"
        if door != "static":
            opens = f"doors: [{door}]"
            rig.prologue = f"{door}:far.bench" + (f".{DOMAIN}" if door == "sni" else "")
        attest_relay(lab, rig, name, workers,
                     f'  - {{ name: front, address: "tcp:127.0.0.1:{port}", {opens} }}\n',
                     f'services: [ {{ name: far.bench, targets: [ "tcp:127.0.0.1:{far}" ] }} ]\n')
    return start


def tunnel(workers, transport):
    """The service is behind attest-tunnel; clients come by the static door."""
    def start(lab, rig, name, far):
        certificate(lab)
        port, front = lab.ports.take(), lab.ports.take()
        rig.address = f"127.0.0.1:{port}"
        attest_relay(lab, rig, f"{name}.relay", workers, f"""\
  - {{ name: front, address: "tcp:127.0.0.1:{front}", doors: [tunnel] }}
  - {{ name: clients, address: "tcp:127.0.0.1:{port}", service: far.bench }}
""", f"""\
tls: {{ certificate: cert.pem, key: cert.key }}
owners: [ {{ name: bench, tokens: [ "{token_hash(lab)}" ], services: [ far ] }} ]
""")
        config = lab.write(f"{name}.agent.yaml", f"""\
relays: [ "tcp:127.0.0.1:{front}" ]
server_name: {DOMAIN}
token_file: token
ca_file: ca.pem
transport: {transport}
instance: bench
log: {{ level: warning }}
timeouts: {{ idle: 1h, drain: 1s }}
services: [ {{ name: far, target: "tcp:127.0.0.1:{far}" }} ]
""")
        wait_listening(rig, front)
        rig.programs.append(Program(lab, f"{name}.agent",
                                    [lab.programs["attest-tunnel"], "--config", config]))
    return start


def wait_listening(rig, port):
    """For programs that would wait for seconds before they try again to connect."""
    end = time.monotonic() + START_SECONDS
    while True:
        rig.check()
        try:
            return socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError as e:
            if time.monotonic() > end:
                raise Failed(f"{rig.programs[-1].name} does not listen: {e}") from e
        time.sleep(0.02)


# ---- peers ----

def haproxy(threads):
    def start(lab, rig, name, far):
        port = lab.ports.take()
        rig.address = f"127.0.0.1:{port}"
        config = lab.write(f"{name}.cfg", f"""\
global
    nbthread {threads}
    maxconn 4096
defaults
    mode tcp
    maxconn 4096
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    bind 127.0.0.1:{port}
    server far 127.0.0.1:{far}
""")
        rig.programs.append(Program(lab, name, [which("haproxy"), "-db", "-q", "-f", config]))
    return start


def nginx(workers):
    def start(lab, rig, name, far):
        port = lab.ports.take()
        rig.address = f"127.0.0.1:{port}"
        config = lab.write(f"{name}.conf", f"""\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid {lab.path(name)}.pid;
error_log stderr warn;
worker_processes {workers};
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
stream {{
    access_log off;
    tcp_nodelay on;
    proxy_connect_timeout 5s;
    proxy_timeout 1h;
    proxy_half_close on;
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        proxy_pass 127.0.0.1:{far};
    }}
}}
""")
        rig.programs.append(Program(lab, name, [which("nginx"), "-e", "stderr", "-c", config]))
    return start


def socket_proxyd(lab, rig, name, far):
    port = lab.ports.take()
    rig.address = f"127.0.0.1:{port}"
    rig.programs.append(Program(lab, name, [
        which("systemd-socket-activate"), f"--listen=127.0.0.1:{port}",
        SOCKET_PROXYD, "--connections-max=8192", f"127.0.0.1:{far}"]))


def socat(lab, rig, name, far):
    """-t: how long the second direction may go on after the first has ended."""
    port = lab.ports.take()
    rig.address = f"127.0.0.1:{port}"
    rig.programs.append(Program(lab, name, [
        which("socat"), "-b", "65536", "-t", "60",
        f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=4096,nodelay",
        f"TCP:127.0.0.1:{far},nodelay"]))


def ssh(terminal):
    """An sshd of the present user, for this run only; its client forwards a port of the server.

    Without a terminal neither end sets TCP_NODELAY, so that each small message after another waits
    for a delayed acknowledgement. A terminal nobody needs makes both set it.
    """
    def start(lab, rig, name, far):
        port, door = lab.ports.take(), lab.ports.take()
        rig.address = f"127.0.0.1:{port}"
        rig.programs.append(Program(lab, f"{name}.server", [
            which("sshd"), "-D", "-e", "-f", sshd_config(lab, name, door)]))
        wait_listening(rig, door)
        with open(lab.path("ssh-host.pub")) as f:
            known = lab.write(f"{name}.known", f"[127.0.0.1]:{door} {f.read()}")
        rig.programs.append(Program(lab, f"{name}.client", [
            which("ssh"), "-F", "none", "-p", str(door), "-i", lab.path("ssh-user"),
            "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known}",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "Compression=no",
            "-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR",
            "-c", "aes128-gcm@openssh.com", "-R", f"127.0.0.1:{port}:127.0.0.1:{far}",
            *(("-tt",) if terminal else ("-N",)),
            f"{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1",
            *(("exec sleep infinity",) if terminal else ())]))
    return start


def sshd_config(lab, name, door):
    if lab.once("ssh"):
        lab.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "ssh-host")
        lab.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "ssh-user")
    if os.getuid() == 0:
        os.makedirs("/run/sshd", 0o755, exist_ok=True)     # where it locks its helpers in
    return lab.write(f"{name}.sshd", f"""\
ListenAddress 127.0.0.1:{door}
HostKey {lab.path("ssh-host")}
AuthorizedKeysFile {lab.path("ssh-user.pub")}
PidFile none
UsePAM no
UseDNS no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
MaxSessions 1000
MaxStartups 1000
Ciphers aes128-gcm@openssh.com
Compression no
LogLevel ERROR
""")


def stunnel(lab, rig, name, far):
    """A client and a server; each stream is a TLS connection of its own."""
    certificate(lab)
    port, door = lab.ports.take(), lab.ports.take()
    rig.address = f"127.0.0.1:{port}"
    common = """\
foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersion = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
TIMEOUTidle = 3600
"""
    server = lab.write(f"{name}.server.conf", f"""{common}
cert = {lab.path("cert.pem")}
key = {lab.path("cert.key")}
[bench]
accept = 127.0.0.1:{door}
connect = 127.0.0.1:{far}
""")
    client = lab.write(f"{name}.client.conf", f"""{common}
[bench]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{door}
CAfile = {lab.path("ca.pem")}
verifyChain = yes
checkHost = {DOMAIN}
""")
    for end, config in ("server", server), ("client", client):
        rig.programs.append(Program(lab, f"{name}.{end}", [which("stunnel"), config]))


# ---- all of them, in the order of the tables ----

PLAIN, TUNNEL = ("plain",), ("tunnel",)
_nginx = ("nginx", "/usr/lib/nginx/modules/ngx_stream_module.so")
_ssh = ("sshd", "ssh", "ssh-keygen")

SUBJECTS = (
    Subject("direct", PLAIN + TUNNEL, "no relay at all", None),
    Subject("static-1", PLAIN, "attest-relay, 1 worker", plain_relay(1, "static"), True),
    Subject("static", PLAIN, f"attest-relay, {ALL} workers", plain_relay(ALL, "static"), True),
    Subject("sni", PLAIN, f"attest-relay, door sni, {ALL} workers", plain_relay(ALL, "sni"), True),
    Subject("connect", PLAIN, f"attest-relay, door connect, {ALL} workers",
            plain_relay(ALL, "connect"), True),
    Subject("haproxy-1", PLAIN, "mode tcp, splice-auto, 1 thread", haproxy(1), needs=("haproxy",)),
    Subject("haproxy", PLAIN, f"mode tcp, splice-auto, {ALL} threads", haproxy(ALL),
            needs=("haproxy",)),
    Subject("nginx-1", PLAIN, "stream, 1 worker", nginx(1), needs=_nginx),
    Subject("nginx", PLAIN, f"stream, {ALL} workers", nginx(ALL), needs=_nginx),
    Subject("socket-proxyd", PLAIN, "1 thread", socket_proxyd,
            needs=("systemd-socket-activate", SOCKET_PROXYD), half_close=False),
    Subject("socat", PLAIN, "a process for each stream", socat, needs=("socat",),
            idle_streams=200),
    Subject("tunnel-1", TUNNEL, "attest-relay, 1 worker, and attest-tunnel over TLS",
            tunnel(1, "direct"), True),
    Subject("tunnel", TUNNEL, f"attest-relay, {ALL} workers, and attest-tunnel over TLS",
            tunnel(ALL, "direct"), True),
    Subject("websocket", TUNNEL, f"the same over WebSocket, {ALL} workers",
            tunnel(ALL, "websocket"), True),
    Subject("ssh -R", TUNNEL, "OpenSSH, aes128-gcm, 1 thread at each end", ssh(False), needs=_ssh),
    Subject("ssh -R -t", TUNNEL, "the same with a terminal, and so with TCP_NODELAY", ssh(True),
            needs=_ssh, root=True),      # sshd gives the terminal to the user
    Subject("stunnel", TUNNEL, "a TLS connection and two threads for each stream; no reverse",
            stunnel, needs=("stunnel",), idle_streams=200, half_close=False),
)
