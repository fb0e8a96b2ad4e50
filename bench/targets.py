"""What attest-relay is to reach, as ratios to its peers on the same machine.

Theory of operation: a target is computed for each round by itself, against what the peer did in
that round, so that a machine that is slow for a while is slow for both. It is met if the median of
the rounds meets it; a bound on every single case, if the worst does. A round in which the peer has
no figure gives none. Of ours nothing may be missing: one error anywhere, and no target of that
subject is met. Programs are compared with as many threads each: one with one, all with all.
"""
import dataclasses
import statistics
from collections.abc import Callable

BULK = {"up-1": "1 up", "down-1": "1 down", "up-4": "4 up", "down-4": "4 down"}
# The best of those at each number of threads that ours are compared with.
PLAIN = {
    "static-1": ("1 thread", ("haproxy-1", "nginx-1", "socket-proxyd")),
    "static": ("all threads", ("haproxy", "nginx", "socket-proxyd")),
}
SSH, SSH_T = "ssh -R", "ssh -R -t"


@dataclasses.dataclass(frozen=True)
class Target:
    what: str
    at_least: bool              # or at most
    bound: float | None         # none: for information
    values: Callable            # results -> one value a round, None where there is none; or Erred
    unit: str = "x"
    decides: str = "median"     # or "worst"

    def judge(self, results):
        row = {"what": self.what, "unit": self.unit, "at_least": self.at_least,
               "bound": self.bound, "decides": self.decides, "values": [], "met": None,
               "erred": False}
        try:
            values = sorted((v for v in self.values(results) if v is not None),
                            reverse=self.at_least)
        except Erred:
            return row | {"met": None if self.bound is None else False, "erred": True}
        if values:
            row.update(values=values, best=values[0], median=statistics.median(values),
                       worst=values[-1])
            if self.bound is not None:
                decisive = row[self.decides]
                row["met"] = decisive >= self.bound if self.at_least else decisive <= self.bound
        return row


class Erred(Exception):
    """What is to be judged had an error: the figures that are left say nothing."""


def erred(results, subject, cell=None):
    """Has this cell of the subject an error in any round, or the subject failed? None: any cell."""
    of_cells = [(c, figures) for stage in (results["warm_up"], *results["rounds"])
                for c, figures in stage.get(subject, {}).items()]
    return subject in results["failed"] or \
        any("error" in figures for c, figures in of_cells if cell in (None, c))


def series(results, subject, cell, figure):
    """This figure in each round."""
    return [r.get(subject, {}).get(cell, {}).get(figure) for r in results["rounds"]]


def ours(results, subject, cell, figure):
    if erred(results, subject):
        raise Erred
    return series(results, subject, cell, figure)


def divide(a, b):
    return [x / y if x is not None and y else None for x, y in zip(a, b)]


def ratio(subject, peers, cell, figure, best=max):
    """Ours to the best of the peers, round by round."""
    def values(results):
        theirs = zip(*(series(results, p, cell, figure) for p in peers
                       if p not in results["failed"]))
        there = [[v for v in of_round if v is not None] for of_round in theirs]
        return divide(ours(results, subject, cell, figure),
                      [best(v) if v else None for v in there])
    return values


def figure_of(subject, cell, figure, scale=1):
    return lambda results: [v and v / scale for v in ours(results, subject, cell, figure)]


def special(name, scale=1):
    def values(results):
        measurement = name.partition(".")[0]    # all it says in place of figures, if it failed
        if any(f["error"] for f in results["special"] if f["name"] in (name, measurement)):
            raise Erred
        return [v / scale for f in results["special"] if f["name"] == name for v in f["rounds"]]
    return values


def tunnel_targets():
    yield Target("tunnel: new streams/s, to ssh -R", True, 10,
                 ratio("tunnel", [SSH], "new", "per_second"))
    yield Target("tunnel: new streams/s, to no relay", True, 10000 / 14000,
                 ratio("tunnel", ["direct"], "new", "per_second"))
    yield Target("tunnel: ping-pong p50, to ssh -R", False, 0.95,
                 ratio("tunnel", [SSH], "pingpong", "p50_us"))
    yield Target("tunnel: ping-pong p50, to no relay", False, 1.7,
                 ratio("tunnel", ["direct"], "pingpong", "p50_us"))
    for cell, title in BULK.items():
        yield Target(f"tunnel: bulk {title}, to ssh -R", True, 1.2,
                     ratio("tunnel", [SSH], cell, "MB_per_second"))
    for cell, title in BULK.items():
        yield Target(f"tunnel over WebSocket: bulk {title}, to ssh -R", True, 0.7,
                     ratio("websocket", [SSH], cell, "MB_per_second"))
    # OpenSSH at its best: the option that makes it so is not known to many.
    yield Target("tunnel: new streams/s, to ssh -R -t", True, None,
                 ratio("tunnel", [SSH_T], "new", "per_second"))
    yield Target("tunnel: ping-pong p50, to ssh -R -t", False, None,
                 ratio("tunnel", [SSH_T], "pingpong", "p50_us"))
    for cell, title in BULK.items():
        yield Target(f"tunnel: bulk {title}, to ssh -R -t", True, None,
                     ratio("tunnel", [SSH_T], cell, "MB_per_second"))
    yield Target("tunnel: memory of an idle stream, both ends", False, 4,
                 figure_of("tunnel", "idle", "bytes_per_stream", 1024), "KiB")


def plain_targets():
    for ours, (threads, peers) in PLAIN.items():
        for cell, title in BULK.items():
            yield Target(f"plain: bulk {title}, to the best of three; {threads}", True, 1,
                         ratio(ours, peers, cell, "MB_per_second"))
        for cell, title in BULK.items():
            yield Target(f"plain: CPU per GB, bulk {title}, to the best of three; {threads}",
                         False, 0.8, ratio(ours, peers, cell, "cpu_per_gb", min))
        haproxy = [peers[0]]
        yield Target(f"plain: new streams/s, to haproxy; {threads}", True, 1,
                     ratio(ours, haproxy, "new", "per_second"))
        yield Target(f"plain: new streams' p99, to haproxy; {threads}", False, 1,
                     ratio(ours, haproxy, "new", "p99_us"))
        yield Target(f"plain: CPU per new stream, to haproxy; {threads}", False, 1,
                     ratio(ours, haproxy, "new", "cpu_per_1000"))
    yield Target("plain: memory of an idle pair", False, 0.7,
                 figure_of("static", "idle", "bytes_per_stream", 1024), "KiB")
    for door in "sni", "connect":
        for cell, title in BULK.items():
            yield Target(f"door {door}: bulk {title}, to the static door", True, 0.9,
                         ratio(door, ["static"], cell, "MB_per_second"))
        yield Target(f"door {door}: ping-pong p50, to the static door", False, 1.1,
                     ratio(door, ["static"], "pingpong", "p50_us"))


def special_targets():
    for way in "down", "up":
        yield Target(f"8 bulk streams {way} beside a stalled one, to without it", True, 0.95,
                     special(f"stall.{way}_ratio"))
    for kind, title in ("new", "new small streams"), ("pingpong", "small exchanges"):
        for way in "down", "up":
            yield Target(f"{title}: p99 beside a bulk stream {way} in the same tunnel", False, 5,
                         special(f"beside-bulk.{kind}.{way}_p99", 1000), "ms")
    for how, title in ("term", "ordered"), ("kill", "killed"):
        yield Target(f"10,000 agents back after a restart of the relay ({title})", False, 20,
                     special(f"storm-10000.{how}_s"), "s")
    for end in "agent", "relay":
        yield Target(f"black hole noticed by the {end}", False, 10,
                     special(f"blackhole.{end}_s"), "s", decides="worst")


def judge(results):
    return [t.judge(results) for t in (*tunnel_targets(), *plain_targets(), *special_targets())]
