"""What the benchmarks run: programs, and rigs of them.

A Subject is a row of the tables; a Rig is one running instance of it; a Lab owns everything that
runs and the folder with its configurations, keys and logs.

Theory of operation: every rig leads from a port of its own on loopback to a far end of its own, so
that no two share a pool of TIME_WAIT. Rigs stay up for the whole session; one that waits for work
costs nothing. Whatever a lab started, children of children included, ends with it: first by SIGTERM
to each program, then by SIGKILL to what is left.
"""
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import measure

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
        left = open_pids(measure.tree(self.pids()))
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
            # A name that only one process can have, and that ends with it; no file, so anybody's.
            self.lock = socket.socket(socket.AF_UNIX)
            try:
                self.lock.bind(f"\0attest-relay-bench-ports-{i}")
                self.first = self.FIRST + i * self.EACH
                return
            except OSError:
                self.lock.close()
        raise Failed("no free range of ports: too many benchmarks at once")

    def close(self):
        self.lock.close()

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
        # A signal may come between the start of a program and its entry in a list.
        for fd in open_pids(measure.descendants([os.getpid()])):
            kill_open(fd)
        return wrong


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


def slug(subject):
    return subject.name.replace(" ", "")


def which(program):
    if program.startswith("/"):
        return program if os.path.exists(program) else None
    return shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


def open_pids(pids):
    """pidfds, so that no other process can be mistaken for one of them later."""
    fds = []
    for pid in pids:
        try:
            fds.append(os.pidfd_open(pid))
        except OSError:
            pass
    return fds


def kill_open(fd):
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass        # it ended by itself
    os.close(fd)
