"""Who is measured: attest-relay and its peers, each configured as well as is known how to.

Theory of operation: a function for each way to start one makes its configuration in the lab's
folder and adds the programs to the rig. None logs its streams; all set TCP_NODELAY, except for ssh
without a terminal, which cannot be asked to; the peers that encrypt do so with AES-128-GCM, which
ours prefer. SUBJECTS has them in the order of the tables.
"""
import os
import pwd

from rigs import Program, Subject, wait_listening, which

SOCKET_PROXYD = "/usr/lib/systemd/systemd-socket-proxyd"
DOMAIN = "relay.test"
ALL = os.cpu_count() or 1       # threads, where a program is given all it can use


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
# All its clients have one address, and one owner.
limits:
  connections: 65536
  per_source: {{ connections: 65536, streams: 65536, opens_per_second: 1000000 }}
  per_owner: {{ streams: 65536, opens_per_second: 1000000 }}
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
    """With the default buffer of 16k it spends some 25 % more CPU time on a GB, and saves no memory
    of idle streams: what is not filled takes none."""
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
    proxy_buffer_size 64k;
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
    Subject("websocket-1", TUNNEL, "the same over WebSocket, 1 worker", tunnel(1, "websocket"),
            True),
    Subject("websocket", TUNNEL, f"the same over WebSocket, {ALL} workers",
            tunnel(ALL, "websocket"), True),
    Subject("ssh -R", TUNNEL, "OpenSSH, aes128-gcm, 1 thread at each end", ssh(False), needs=_ssh),
    Subject("ssh -R -t", TUNNEL, "the same with a terminal, and so with TCP_NODELAY", ssh(True),
            needs=_ssh, root=True),      # sshd gives the terminal to the user
    Subject("stunnel", TUNNEL, "a TLS connection and two threads for each stream; no reverse",
            stunnel, needs=("stunnel",), idle_streams=200, half_close=False),
)
