# What every end-to-end test stands on: programs under test, certificates, ports, conditions.
#
# A World owns the programs of one test (or module). It is checked after every test: whoever should
# run still runs, no sanitizer has spoken; and at its end every program ends in order, by its pid.
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest
import yaml

DEADLINE = 30  # seconds a condition may take on a busy machine
DOMAIN = "attest.test"
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SANITIZER = re.compile(
    r"(AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|ThreadSanitizer|runtime error:)")
PYTHON = "/usr/bin/python3"


def raise_nofile():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def binary(variable):
    path = os.environ.get(variable, "")
    if not path or not os.path.exists(path):
        missing(f"{variable} names no program: {path!r}")
    return path


def sanitizer(variable="ATTEST_RELAY"):
    """Which one the program was built with: "thread", "address" or ""."""
    try:
        with open(os.environ.get(variable, ""), "rb") as f:
            text = f.read()
    except OSError:
        return ""
    return "thread" if b"__tsan_init" in text else "address" if b"__asan_init" in text else ""


def missing(what):
    """A counterpart is not there: a skip, or a failure where everything should be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def need(*programs):
    for p in programs:
        if not shutil.which(p) and not os.path.exists(p):
            missing(f"{p} is not installed")


def wait_for(condition, what, timeout=DEADLINE, every=0.02):
    """Waits until condition() is true and returns what it returned."""
    end = time.monotonic() + timeout
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(every)


# ---- ports: a range of its own for each test process, below the kernel's ephemeral ones ----

class Ports:
    FIRST, EACH, SLOTS = 16000, 400, 40

    def __init__(self):
        self.at = 0
        for slot in range(self.SLOTS):
            self.lock = open(f"/tmp/attest-relay-e2e-ports-{slot}", "a")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.first = self.FIRST + slot * self.EACH
                return
            except OSError:
                self.lock.close()
        raise RuntimeError("no free range of ports")

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
        raise RuntimeError("no free port")


_ports = None


def free_port():
    global _ports
    _ports = _ports or Ports()
    return _ports.take()


# ---- certificates ----

class Certificates:
    """A throw-away CA and what it signs, made by openssl once per session."""

    def __init__(self, folder):
        need("openssl")
        self.folder = folder
        self.ca = self.authority("ca")
        self.other_ca = self.authority("other-ca")
        self.relay = self.issue("relay", f"DNS:{DOMAIN},DNS:gw.{DOMAIN},DNS:localhost,IP:127.0.0.1")
        self.service = self.issue("service", f"DNS:*.acme.{DOMAIN},DNS:*.evil.{DOMAIN},"
                                  "DNS:kbs.acme.example")
        self.elsewhere = self.issue("elsewhere", "DNS:elsewhere.test")

    def run(self, *args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=self.folder)

    def authority(self, name):
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                 "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
                 "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        return os.path.join(self.folder, f"{name}.pem")

    def issue(self, name, names):
        with open(os.path.join(self.folder, f"{name}.ext"), "w") as f:
            f.write(f"subjectAltName={names}\n")
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                 "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        base = os.path.join(self.folder, name)
        return f"{base}.pem", f"{base}.key"

    def client(self, alpn=None):
        c = ssl.create_default_context(cafile=self.ca)
        if alpn:
            c.set_alpn_protocols(alpn)
        return c

    def server(self, pair=None, alpn=None):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        c.load_cert_chain(*(pair or self.service))
        if alpn:
            c.set_alpn_protocols(alpn)
        return c


# ---- programs ----

class Program:
    """One process, its log, how it should end."""

    def __init__(self, world, name, argv, env=None, expect=(0,), stdin=subprocess.DEVNULL,
                 pass_fds=()):
        self.name, self.argv, self.expect = name, argv, expect
        self.err_path = os.path.join(world.folder, f"{name}.err")
        self.out_path = os.path.join(world.folder, f"{name}.out")
        self.at = 0
        self.done = False
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": world.folder, "LC_ALL": "C",
            "ASAN_OPTIONS": "detect_leaks=1:exitcode=99:quarantine_size_mb=16:"
                            "malloc_context_size=12:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        }
        environment.update(env or {})
        # append: a program started again under its name goes on in the same file
        with open(self.err_path, "ab") as err, open(self.out_path, "ab") as out:
            self.at = err.tell()
            self.out_at = out.tell()
            self.process = subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=err,
                                            env=environment, cwd=world.folder,
                                            pass_fds=pass_fds)
        world.programs.append(self)

    @property
    def pid(self):
        return self.process.pid

    def log(self, start=None):
        with open(self.err_path, errors="replace") as f:
            f.seek(self.at if start is None else start)
            return f.read()

    def output(self):
        with open(self.out_path, errors="replace") as f:
            f.seek(self.out_at)
            return f.read()

    def log_size(self):
        return os.path.getsize(self.err_path)

    def tail(self):
        return f"--- {self.name} (pid {self.pid}), end of its log:\n" + self.log()[-4000:]

    def wait_log(self, pattern, timeout=DEADLINE, start=None):
        def look():
            m = re.search(pattern, self.log(start))
            if not m and self.process.poll() is not None:
                m = re.search(pattern, self.log(start))
                if not m:
                    raise AssertionError(
                        f"{self.name} ended with {self.process.returncode} before it logged "
                        f"{pattern!r}\n{self.tail()}")
            return m
        return wait_for(look, lambda: f"{pattern!r} in the log\n{self.tail()}", timeout)

    def wait_output(self, pattern, timeout=DEADLINE):
        return wait_for(lambda: re.search(pattern, self.output()),
                        lambda: f"{pattern!r} in the output {self.output()!r}\n{self.tail()}",
                        timeout)

    def count(self, pattern):
        return len(re.findall(pattern, self.log()))

    def running(self):
        return self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=DEADLINE):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s\n{self.tail()}")

    def kill(self):
        """As a power cut: no goodbye."""
        self.expect = (-signal.SIGKILL,)
        self.process.kill()
        self.process.wait(DEADLINE)
        self.done = True

    def stop(self, timeout=DEADLINE):
        if self.running():
            self.signal(signal.SIGTERM)
        self.finish(timeout)

    def cut(self, number=None):
        """It drains: the signal that ends it at once, and not the echo of the one before."""
        def said():
            if self.running():
                self.signal(number or signal.SIGTERM)
            return not self.running() or "second signal" in self.log()
        wait_for(said, lambda: f"the second signal to be taken for one\n{self.tail()}", every=0.1)

    def finish(self, timeout=DEADLINE):
        """Waits for its end and checks it."""
        self.done = True
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end within {timeout} s\n{self.tail()}")
        self.sanitizers()
        assert self.process.returncode in self.expect, (
            f"{self.name} ended with {self.process.returncode}, expected {self.expect}\n"
            + self.tail())

    def sanitizers(self):
        m = SANITIZER.search(self.log())
        if m:
            at = max(0, m.start() - 500)
            raise AssertionError(f"{self.name}: a sanitizer speaks:\n{self.log()[at:at + 12000]}")

    def check(self):
        if self.done:
            return
        self.sanitizers()
        code = self.process.poll()
        assert code is None or code in self.expect, (
            f"{self.name} ended by itself with {code}\n{self.tail()}")

    # what the kernel knows of it

    def rss(self):
        with open(f"/proc/{self.pid}/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


# ---- metrics ----

def fetch_metrics(port):
    """All series of a program: {'name{labels}': value}."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        c.request("GET", "/metrics")
        r = c.getresponse()
        assert r.status == 200, r.status
        text = r.read().decode()
    finally:
        c.close()
    values = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(None, 1)
            values[name] = float(value)
    return values


def sum_of(metrics, name, labels):
    """Over the series of this name that have these labels."""
    total = 0
    for key, value in metrics.items():
        base, _, rest = key.partition("{")
        if base == name and all(f'{k}="{v}"' in rest for k, v in labels.items()):
            total += value
    return int(total)


class Relay(Program):
    def __init__(self, world, name, config, metrics, env=None):
        self.config, self.metrics_port = config, metrics
        self.path = os.path.join(world.folder, f"{name}.yaml")
        self.write_config()
        super().__init__(world, name, [binary("ATTEST_RELAY"), "--config", self.path], env)
        self.listeners = {x["name"]: x["address"] for x in config["listeners"]}
        self.wait_up()

    def write_config(self, **changes):
        """A key with None is left out."""
        self.config = {k: v for k, v in {**self.config, **changes}.items() if v is not None}
        with open(self.path + ".new", "w") as f:
            # what stands there twice is written out: anchors are refused
            yaml.safe_dump(json.loads(json.dumps(self.config)), f, sort_keys=False)
        os.rename(self.path + ".new", self.path)

    def reload(self, good=True, **changes):
        """SIGHUP, and it has taken effect, or has been refused: what was logged of it."""
        self.write_config(**changes)
        start = self.log_size()
        self.signal(signal.SIGHUP)
        self.wait_log("reload: done" if good else "(?s)reload: .*nothing has changed", start=start)
        return self.log(start)

    def wait_up(self):
        def up():
            assert self.running(), f"{self.name} did not start\n{self.tail()}"
            try:
                return self.metrics() is not None
            except OSError:
                return False
        wait_for(up, lambda: f"metrics of {self.name}\n{self.tail()}")

    def port(self, listener="front"):
        return int(self.listeners[listener].rsplit(":", 1)[1])

    def metrics(self):
        return fetch_metrics(self.metrics_port)

    def metric(self, name, **labels):
        """The sum of attest_relay_NAME over the series that have these labels."""
        return sum_of(self.metrics(), f"attest_relay_{name}", labels)

    def wait_metric(self, name, condition, timeout=DEADLINE, **labels):
        last = [None]

        def look():
            last[0] = self.metric(name, **labels)
            return condition(last[0])
        wait_for(look, lambda: f"metric {name}{labels} is {last[0]}\n{self.tail()}", timeout)
        return last[0]

    def wait_tunnels(self, n, timeout=DEADLINE):
        self.wait_metric("live_tunnels", lambda v: v == n, timeout)

    def wait_quiet(self, timeout=DEADLINE):
        """No client is left behind in any gauge."""
        gauges = ["live_intakes", "live_openings", "live_parked", "live_splices"]
        last = [None]

        def look():
            m = self.metrics()
            last[0] = {g: m.get(f"attest_relay_{g}") for g in gauges}
            return all(v == 0 for v in last[0].values())
        wait_for(look, lambda: f"gauges back to 0: {last[0]}\n{self.tail()}", timeout)


class Agent(Program):
    def __init__(self, world, name, argv, env=None, expect=(0,), under=()):
        super().__init__(world, name, [*under, binary("ATTEST_TUNNEL"), *argv], env, expect)


class World:
    """The programs and threads of one test or module; a folder; tokens."""

    all = []  # those alive, for the check after every test

    def __init__(self, folder, certificates):
        self.folder, self.certificates = str(folder), certificates
        self.programs = []
        self.others = []  # things with close()
        self.tokens = {}
        self.names = 0
        World.all.append(self)

    def path(self, name):
        return os.path.join(self.folder, name)

    def token(self, owner="acme"):
        """The token of an owner: its text and the path of its file."""
        if owner not in self.tokens:
            text = new_token()
            path = self.path(f"{owner}.token")
            with open(path, "w") as f:
                f.write(text + "\n")
            os.chmod(path, 0o600)
            self.tokens[owner] = (text, path)
        return self.tokens[owner]

    def owner(self, name="acme", **more):
        return {"name": name, "tokens": [token_hash(self.token(name)[0])], **more}

    def relay(self, name="relay", listeners=(), front=True, env=None, tls=True, metrics=None,
              **config):
        """listeners: dicts as in the config; address may be left out (a free TCP port)."""
        metrics = metrics or free_port()
        lists = []
        if front:
            lists.append({"name": "front", "doors": ["tunnel", "sni", "connect"]})
        lists.extend(dict(x) for x in listeners)
        for x in lists:
            x.setdefault("address", f"tcp:127.0.0.1:{free_port()}")
        timeouts = {"drain": "5s", **config.pop("timeouts", {})}
        full = {"workers": 2, "domain": DOMAIN}
        if tls:
            full["tls"] = {"certificate": self.certificates.relay[0],
                           "key": self.certificates.relay[1]}
        full["metrics"] = f"tcp:127.0.0.1:{metrics}"
        if os.environ.get("ATTEST_TEST_LOG"):
            full["log"] = {"level": os.environ["ATTEST_TEST_LOG"]}
        full["listeners"] = lists
        full["owners"] = config.pop("owners", None) or [self.owner()]
        full["timeouts"] = timeouts
        full.update(config)
        return Relay(self, name, full, metrics, env)

    def restart(self, relay):
        """The same config again, after its end."""
        assert not relay.running()
        return Relay(self, relay.name, relay.config, relay.metrics_port)

    def agent(self, relay, services, name=None, owner="acme", transport="direct", wait=True,
              address=None, token_file=None, instance=None, expect=(0,), env=None, extra=(),
              under=(), **config):
        """services: {"kbs": "tcp:...", ...} or a list as in the config; under: what execs it."""
        if isinstance(services, dict):
            services = [{"name": k, "target": v} for k, v in services.items()]
        self.names += 1
        name = name or f"agent{self.names}"
        full = {
            "relays": [address or f"tcp:127.0.0.1:{relay.port()}"],
            "server_name": DOMAIN,
            "token_file": None if token_file is False else token_file or self.token(owner)[1],
            "ca_file": self.certificates.ca,
            "transport": transport,
            "instance": instance or name,
            "services": services,
        }
        if os.environ.get("ATTEST_TEST_LOG"):
            full["log"] = {"level": os.environ["ATTEST_TEST_LOG"]}
        timeouts = {"drain": "5s", **config.pop("timeouts", {})}
        full["timeouts"] = timeouts
        full.update(config)
        full = {k: v for k, v in full.items() if v is not None}
        path = self.path(f"{name}.yaml")
        with open(path, "w") as f:
            yaml.safe_dump(full, f, sort_keys=False)
        before = relay.metric("live_tunnels") if wait else 0
        a = Agent(self, name, ["--config", path, *extra], env, expect, under)
        if wait:
            def up():
                assert a.running(), f"{a.name} ended\n{a.tail()}"
                return relay.metric("live_tunnels") > before
            wait_for(up, lambda: f"a tunnel by {a.name}\n{a.tail()}\n{relay.tail()}")
        return a

    def h2_agent(self, relay, services, name="h2-agent", owner="acme", wait=True, args=()):
        need(PYTHON)
        argv = [PYTHON, os.path.join(HERE, "h2_agent.py"), "--relay",
                f"127.0.0.1:{relay.port()}", "--server-name", DOMAIN, "--ca-file",
                self.certificates.ca, "--token-file", self.token(owner)[1], "--owner", owner,
                *args]
        for k, v in services.items():
            argv += ["--service", f"{k}={v}"]
        p = Program(self, name, argv)
        if wait:
            p.wait_output("accepted")
        return p

    def add(self, thing):
        self.others.append(thing)
        return thing

    def check(self):
        for p in self.programs:
            p.check()

    def close(self):
        World.all.remove(self)
        failures = []
        # agents before relays: the last started first
        for p in reversed(self.programs):
            if not p.done:
                try:
                    p.stop()
                except AssertionError as e:
                    failures.append(str(e))
        for o in reversed(self.others):
            o.close()
        assert not failures, "\n".join(failures)


def new_token():
    return secrets.token_urlsafe(32)


def token_hash(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


# ---- data ----

_random = random.Random(20260101)
MB = 1024 * 1024


def data(size):
    return _random.randbytes(size)


def digest(parts):
    return hashlib.sha256(parts).hexdigest()


# ---- threads ----

class Task(threading.Thread):
    """A thread with a result."""

    def __init__(self, run, *args):
        super().__init__(daemon=True)
        self.run_, self.args, self.value, self.error = run, args, None, None
        self.start()

    def run(self):
        try:
            self.value = self.run_(*self.args)
        except BaseException as e:
            self.error = e

    def result(self, timeout=2 * DEADLINE):
        self.join(timeout)
        assert not self.is_alive(), f"{self.run_.__name__} did not end within {timeout} s"
        if self.error:
            raise self.error
        return self.value


# ---- what a test has at the other end ----

class Listening:
    """Listens at a port of loopback, or at a path; whoever comes is served by a thread of his own."""

    def __init__(self, path=None):
        if path:
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(path)
            self.listening.listen(100)
        else:
            self.listening = socket.create_server(("127.0.0.1", 0))
            self.port = self.listening.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                s, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        raise NotImplementedError

    def close(self):
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)  # or the thread would go on listening
        self.listening.close()


class Blackhole(Listening):
    """A TCP proxy that can stop forwarding, both ways, without closing anything."""

    def __init__(self, port):
        self.target = port
        self.flows = threading.Event()
        self.flows.set()
        self.over = False
        self.socks = []
        self.lock = threading.Lock()
        super().__init__()

    def hold(self):
        self.flows.clear()

    def release(self):
        self.flows.set()

    def serve(self, a):
        self.flows.wait()
        try:
            b = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            a.close()
            return
        with self.lock:
            self.socks += [a, b]
        threading.Thread(target=self.pump, args=(a, b), daemon=True).start()
        self.pump(b, a)

    def pump(self, a, b):
        try:
            while True:
                got = a.recv(65536)
                self.flows.wait()
                if self.over:
                    return
                if not got:
                    b.shutdown(socket.SHUT_WR)
                    return
                b.sendall(got)
        except OSError:
            for s in (a, b):
                try:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()
                except OSError:
                    pass

    def close(self):
        self.over = True
        super().close()
        self.flows.set()
        with self.lock:
            for s in self.socks:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                s.close()
