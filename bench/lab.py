"""What the special measurements stand on: a folder with certificates and a token, the programs
started in it, and what the kernel knows of them.
"""
import collections
import contextlib
import hashlib
import json
import os
import re
import secrets
import select
import signal
import socket
import statistics
import subprocess
import time

from rigs import Failed, Ports

DEADLINE = 60  # seconds any condition may take
DOMAIN = "bench.test"
OWNER = "acme"
SCALES = ("smoke", "short", "normal", "full")

Programs = collections.namedtuple("Programs", "relay tunnel load agents",
                                  defaults=(None, None, None, None))


class Skipped(Exception):
    """A measurement that this machine does not permit."""


# ---- figures ----

def figure(name, title, unit, rounds, better="lower", target=None, pick=statistics.median,
           note="", detail=None):
    rounds = [float(r) for r in rounds]
    value = pick(rounds) if rounds else None
    met = None
    if target is not None and value is not None:
        met = value <= target if better == "lower" else value >= target
    return {"name": name, "title": title, "value": value, "unit": unit, "better": better,
            "target": target, "met": met, "rounds": rounds,
            "spread": [min(rounds), max(rounds)] if rounds else None, "errors": 0, "error": None,
            "skipped": None, "note": note, "detail": detail or {}}


def no_figure(name, title, error=None, skipped=None):
    f = figure(name, title, "", [])
    f.update(errors=0 if skipped else 1, error=error, skipped=skipped)
    return f


# ---- programs ----

def wait_for(condition, what, timeout=DEADLINE, every=0.01):
    end = time.monotonic() + timeout
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise Failed(f"not within {timeout} s: {what}")
        time.sleep(every)


class Process:
    """A program, its log in a file, lines of JSON on its stdout."""

    def __init__(self, lab, name, argv, env=None):
        lab.count += 1
        self.lab, self.name = lab, name
        self.log_path = os.path.join(lab.folder, f"{lab.count:03}-{name}.log")
        with open(self.log_path, "wb") as log:
            self.p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=log, cwd=lab.folder,
                                      env={**os.environ, **(env or {})})
        self.pid, self.rest = self.p.pid, b""
        lab.processes.append(self)

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def fail(self, what):
        last = self.log().strip().splitlines()[-1:]
        raise Failed(f"{self.name}: {what}" + (f": {last[0]}" if last else ""))

    def line(self, timeout=DEADLINE):
        """The next line of its stdout; None: it has closed it."""
        end = time.monotonic() + timeout
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.p.stdout], [], [], left)[0]:
                self.fail(f"says nothing for {timeout} s")
            got = os.read(self.p.stdout.fileno(), 65536)
            if not got:
                return None
            self.rest += got
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()

    def object(self, timeout=DEADLINE):
        line = self.line(timeout)
        if line is None:
            self.fail(f"ended with {self.p.wait()}")
        return json.loads(line)

    def say(self, text="\n"):
        self.p.stdin.write(text.encode())
        self.p.stdin.flush()

    def running(self):
        return self.p.poll() is None

    def status(self, number, timeout=DEADLINE):
        """Ends it; its exit status. number 0: by the end of its stdin."""
        if number and self.running():
            self.p.send_signal(number)
        with contextlib.suppress(OSError):
            self.p.stdin.close()
        try:
            status = self.p.wait(timeout)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            status = None
        self.lab.processes.remove(self)
        if status is None:
            self.fail(f"did not end within {timeout} s")
        return status

    def end(self, number=signal.SIGTERM, timeout=DEADLINE):
        """Ends it; it must do so in order, unless it is killed."""
        status = self.status(number, timeout)
        if status != (-number if number == signal.SIGKILL else 0):
            self.fail(f"ended with {status}")

    def cpu(self):
        """Seconds of processor time, of all its threads that are alive."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(FileNotFoundError):
                with open(f"/proc/{self.pid}/task/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
        return total / 1e9

    def pss(self):
        """Bytes; what is shared with others counted in part."""
        try:
            with open(f"/proc/{self.pid}/smaps_rollup") as f:
                return int(re.search(r"(?m)^Pss:\s+(\d+) kB", f.read())[1]) * 1024
        except PermissionError:
            raise Skipped(f"the memory of {self.name} may only be read by root")


class Ready:
    """Hears READY=1 of a program, as systemd would, and when."""

    def __init__(self, lab):
        lab.count += 1
        self.path = os.path.join(lab.folder, f"notify{lab.count}")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.env = {"NOTIFY_SOCKET": self.path}

    def wait(self, process):
        end = time.monotonic() + DEADLINE
        self.socket.settimeout(0.1)
        try:
            while True:
                try:
                    if b"READY=1" in self.socket.recv(4096):
                        return time.monotonic()
                except socket.timeout:
                    if not process.running():
                        process.fail(f"ended with {process.p.returncode}")
                    if time.monotonic() > end:
                        process.fail("is not ready in time")
        finally:
            self.socket.close()
            os.unlink(self.path)


# ---- the lab ----

class Lab:
    """A folder with what every measurement needs, and the processes it started."""

    def __init__(self, programs, folder, scale, rounds, say):
        self.programs, self.folder, self.scale, self.say = programs, folder, scale, say
        self.wanted_rounds = rounds
        self.processes, self.count = [], 0      # those that have not been ended
        self.ports = Ports()
        self.certificates()
        self.token = self.path("token")
        text = secrets.token_urlsafe(32)
        with open(os.open(self.token, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write(text + "\n")
        self.owner = {"name": OWNER,
                      "tokens": ["sha256:" + hashlib.sha256(text.encode()).hexdigest()]}

    def path(self, name):
        return os.path.join(self.folder, name)

    def by_scale(self, *values):
        """One of four: for smoke, short, normal, full."""
        return values[SCALES.index(self.scale)]

    def rounds(self, *values):
        return self.wanted_rounds or self.by_scale(*values)

    def need(self, *names):
        for name in names:
            path = getattr(self.programs, name)
            if not path or not os.path.exists(path):
                raise Skipped(f"no program given for {name}")

    def certificates(self):
        def openssl(*args):
            subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
                "-subj", "/CN=bench CA", "-addext", "basicConstraints=critical,CA:TRUE")
        with open(self.path("ext"), "w") as f:
            f.write(f"subjectAltName=DNS:{DOMAIN}\n")
        openssl("req", *new, "-keyout", "relay.key", "-out", "relay.csr", "-subj", "/CN=relay")
        openssl("x509", "-req", "-in", "relay.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", "ext", "-out", "relay.pem")

    def relay(self, listeners, under=(), **config):
        """A relay that is ready, and since when. listeners: as in the config."""
        full = {"domain": DOMAIN,
                "tls": {"certificate": self.path("relay.pem"), "key": self.path("relay.key")},
                "owners": [self.owner], "listeners": listeners, **config}
        self.count += 1
        path = self.path(f"relay{self.count}.yaml")
        with open(path, "w") as f:
            json.dump(full, f, indent=1)  # JSON is YAML
        ready = Ready(self)
        relay = Process(self, "relay", [*under, self.programs.relay, "--config", path], ready.env)
        return relay, ready.wait(relay)

    def tunnel(self, relay, services, under=(), instance="bench", wait=True):
        """attest-tunnel, connected. relay: tcp:HOST:PORT."""
        ready = Ready(self)
        argv = [*under, self.programs.tunnel, "--relay", relay, "--server-name", DOMAIN,
                "--token-file", self.token, "--ca-file", self.path("ca.pem"),
                "--transport", "direct", "--instance", instance]
        for name, target in services.items():
            argv += ["--service", f"{name}={target}"]
        p = Process(self, f"tunnel-{instance}", argv, ready.env)
        if wait:
            ready.wait(p)
        return p

    def agents(self, addresses, count, *more):
        return Process(self, "agents", [
            self.programs.agents, *addresses, "--count", str(count), "--token-file", self.token,
            "--ca-file", self.path("ca.pem"), "--server-name", DOMAIN, *more])

    def far_end(self):
        """The address to dial for a tunnel."""
        port = self.ports.take()
        p = FarEnd(self, "far-end", [self.programs.load, "serve", f"127.0.0.1:{port}"])
        if (p.line() or "").strip() != "ready":
            p.fail("is not ready")
        return f"tcp:127.0.0.1:{port}"

    def load(self, mode, address, *more):
        return Process(self, f"load-{mode}", [self.programs.load, mode, address,
                                              *map(str, more)])

    def close(self):
        """Ends everything that still runs; returns what went wrong in it."""
        wrong = []
        for p in self.processes[::-1]:
            try:
                p.end(timeout=10)
            except Failed as e:
                wrong.append(str(e))
        self.ports.close()
        return wrong


class Tunnelled:
    """One tunnel, and a door that leads through it to a far end."""

    def __init__(self, lab, doors=("tunnel",), **config):
        lab.need("relay", "tunnel", "load")
        self.door = f"127.0.0.1:{lab.ports.take()}"
        self.front = f"tcp:127.0.0.1:{lab.ports.take()}"
        target = lab.far_end()
        self.relay, _ = lab.relay([
            {"name": "front", "address": self.front, "doors": list(doors)},
            {"name": "door", "address": f"tcp:{self.door}", "service": f"bulk.{OWNER}"}], **config)
        self.tunnel = lab.tunnel(self.front, {"bulk": target})


class FarEnd(Process):
    """Says at its end what it has counted; there must be no error in it."""

    def end(self, number=signal.SIGTERM, timeout=DEADLINE):
        super().end(number, timeout)
        counted = self.object()
        if any(counted["errors"].values()):
            self.fail(f"saw errors: {json.dumps(counted)}")


def result(load, timeout=DEADLINE):
    """What a load says at its end; it may have said before that it is ready."""
    status = load.status(0, timeout)
    got = load.object()
    while got.get("ready"):
        got = load.object()
    if status != 0 or not got.get("ok"):
        raise Failed(f"{load.name}: {json.dumps(got.get('errors'))}: {load.log().strip()}")
    return got
