"""What is measured: loads by bench-load, the subject's CPU time and its memory.

Theory of operation: a cell is one run of bench-load against one rig. CPU time is the kernel's own
account, in nanoseconds, of every process of the rig, read just before and just after the load; a
child that ended in between is in its parent's account. It is divided by all that bench-load did,
its warm-up included. Memory is PSS, of a rig that has just been started; for each idle stream it is
what the last three quarters of them add, since the first ones fill what the heap has free. They
would fill what others have left, too: opening and closing them first would hide all they cost.

A bulk stream lasts for a time, and then its sender ends that direction. Through a subject that
drops the other direction at that, a stream has an amount instead, so that either end knows when it
has all: as much as went through in the time by the load before.
"""
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import time

WARMUP = 0.2            # seconds at most before the measured ones
FIRST_AMOUNT = 32 << 20 # bytes, where no rate is known yet
SETTLE = 0.03           # seconds for a subject to close what the load has closed
GUARD = 60              # seconds a load may take beyond those measured
SCHEDULER_CLOCK = 2     # the kernel's CPUCLOCK_SCHED
TICKS = os.sysconf("SC_CLK_TCK")


class LoadFailed(Exception):
    """bench-load saw an error, or ended without a word, or there is no sense in what was measured;
    the text says which.
    """


class NotPermitted(Exception):
    """What only root may look at; the text says what."""


@dataclasses.dataclass(frozen=True)
class Cell:
    name: str
    mode: str
    streams: int
    args: tuple[str, ...] = ()


CELLS = (
    Cell("new", "new", 16, ("--source-spread",)),
    Cell("pingpong", "pingpong", 1),
    Cell("up-1", "up", 1),
    Cell("down-1", "down", 1),
    Cell("up-4", "up", 4),
    Cell("down-4", "down", 4),
)


# ---- the load ----

def load_command(lab, rig, mode, args):
    return [lab.programs["bench-load"], mode, rig.address, "--prologue", rig.prologue, *args]


def load(lab, rig, mode, args, guard=GUARD, under=()):
    """Runs bench-load to its end; returns what it reports, or raises LoadFailed."""
    argv = [*under, *load_command(lab, rig, mode, args)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=guard)
    except subprocess.TimeoutExpired as e:
        raise LoadFailed(f"bench-load {mode} did not end within {guard} s") from e
    return judged(done.returncode, done.stdout, done.stderr)


def judged(status, out, err):
    lines = out.strip().splitlines()
    try:
        report = json.loads(lines[-1]) if lines else {}
    except ValueError:
        report = {}
    if status == 0 and report.get("ok") is True:
        return report
    counts = ", ".join(f"{n} {kind}" for kind, n in report.get("errors", {}).items() if n)
    words = err.strip().splitlines()
    raise LoadFailed("; ".join(x for x in (words[0] if words else "", counts) if x)
                     or f"bench-load ended with {status} and said nothing")


def amount_of(rig, amount):
    return ["--amount", str(amount), *(() if rig.subject.half_close else ("--no-half-close",))]


def how_long(rig, cell, seconds):
    bulk = cell.mode in ("up", "down")
    if not seconds:     # it only has to work, however slow the machine
        return amount_of(rig, 1 << 20) if bulk else ["--count", "200"]
    if not bulk or rig.subject.half_close:
        return ["--seconds", str(seconds), "--warmup", str(min(WARMUP, seconds / 4))]
    rate = rig.rates.get(cell.name)
    amount = int(rate * seconds / cell.streams) if rate else FIRST_AMOUNT
    return amount_of(rig, max(amount, 1 << 20))


@contextlib.contextmanager
def apart(lab, rig, cell):
    """Ping-pong: the two ends on two cores, as two machines would be. What bench-load runs under.

    The scheduler may put the ends of a connection on one core, and does so mostly where there is no
    relay between them: that halves the wake-ups from idle, and the figure is another in each round.
    """
    cores = sorted(os.sched_getaffinity(0))
    if cell.mode != "pingpong" or len(cores) < 2 or not shutil.which("taskset"):
        yield ()
        return
    far = lab.far_ends[rig.subject.name][0].pid
    os.sched_setaffinity(far, cores[1:2])
    try:
        yield ("taskset", "-c", str(cores[0]))
    finally:
        os.sched_setaffinity(far, cores)


def run_cell(lab, rig, cell, seconds):
    """The figures of one cell. No seconds: of a little of it."""
    rig.check()
    before = cpu_seconds(rig.pids())
    args = ["--streams", str(cell.streams), *cell.args, *how_long(rig, cell, seconds)]
    with apart(lab, rig, cell) as under:
        report = load(lab, rig, cell.mode, args, seconds + GUARD, under)
    time.sleep(SETTLE)
    cpu = cpu_seconds(rig.pids()) - before
    rig.check()
    if cell.mode in ("up", "down"):
        figures = {"MB_per_second": report["MB_per_second"]}
        rig.rates[cell.name] = report["MB_per_second"] * 1e6
        per = {"cpu_per_gb": report["all_bytes"] / 1e9}
    else:
        figures = {k: report[k] for k in ("p50_us", "p99_us", "max_us", "per_second")}
        per = {"cpu_per_1000": report["all_done"] / 1000}
    if rig.pids():
        figures.update((k, cpu / amount) for k, amount in per.items() if amount)
    figures["load_cpu_seconds"] = report["cpu_seconds"]
    return figures


def verify(lab, rig, streams, amount):
    """Random data both ways at once, each byte compared."""
    return load(lab, rig, "verify", ["--streams", str(streams), *amount_of(rig, amount)])


# ---- CPU and memory of processes ----

def tree(pids):
    """These processes and all their descendants."""
    return [*pids, *descendants(pids)]


def descendants(pids):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(entry)
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], list(pids)
    while todo:
        own = children.get(todo.pop(), ())
        found.extend(own)
        todo.extend(own)
    return found


def stat(pid):
    """The fields of /proc/PID/stat from the third on, the state; none if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_seconds(pids):
    """All threads of all processes, and their children that have ended."""
    total = 0.0
    for pid in tree(pids):
        fields = stat(pid)
        try:
            total += time.clock_gettime(~pid << 3 | SCHEDULER_CLOCK)
        except OSError:
            continue
        total += sum(map(int, fields[13:15])) / TICKS if fields else 0
    return total


def pss_bytes(pids):
    return sum(map(pss_of, tree(pids)))


def pss_of(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0        # it has ended, and has none
    except PermissionError as e:
        raise NotPermitted("memory of its programs may only be read by root") from e


def idle_memory(lab, rig, streams):
    """Bytes for each idle stream, and of the rig without any."""
    first = streams // 4
    base = pss_bytes(rig.pids())
    with Idle(lab, rig, first):
        before = pss_bytes(rig.pids())
        with Idle(lab, rig, streams - first):
            after = pss_bytes(rig.pids())
    rig.check()
    if after <= before:
        raise LoadFailed(f"{streams - first} more idle streams took {after - before} bytes")
    return {"bytes_per_stream": (after - before) / (streams - first), "base_bytes": base,
            "streams": streams}


class Idle:
    """Streams that are open and silent for as long as this is entered; they must live till then."""

    def __init__(self, lab, rig, streams):
        self.argv = load_command(lab, rig, "idle", ["--streams", str(streams)])

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if '"ready"' not in line:
            self.finish(line)
            raise LoadFailed(f"bench-load idle: {line.strip()}")
        time.sleep(0.2)
        return self

    def __exit__(self, kind, value, trace):
        self.finish("")

    def finish(self, said):
        try:
            out, err = self.process.communicate(timeout=GUARD)
        except subprocess.TimeoutExpired as e:
            self.process.kill()
            self.process.communicate()
            raise LoadFailed(f"bench-load idle did not end within {GUARD} s") from e
        judged(self.process.returncode, said + out, err)
