#!/usr/bin/python3
# Streams of random sizes and orders of ends, each verified at both ends, as processes of their own:
#
#   storm.py serve ADDRESS... --tls CERTIFICATE KEY --seed N --out FILE
#   storm.py run SPEC        (a JSON file, see Field in faults.py)
#
# All of a stream follows from the seed and its number. Both sides write a line of JSON for each:
# what it was to be, and how it ended there: whole | short (an orderly end, but too early) | wrong
# (other bytes) | aborted | refused (before it was open) | hang. Which of these is a fault is
# not known here: that depends on what was done to the way.
import collections
import json
import os
import random
import signal
import ssl
import struct
import sys
import threading
import time
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import h2.exceptions  # noqa: E402

from h2_client import H2Client, over_tls  # noqa: E402
from harness import MB, Task, raise_nofile  # noqa: E402
from streams import (Aborted, Doors, Refused, Service, TlsConn, dial)  # noqa: E402

PATIENCE = 30  # seconds without a byte: more than any time-out of the programs on the way
AT_MOST = 90   # seconds for a stream; the slowest link carries 100 kB/s
HEAD = struct.Struct(">cQIIBI")  # "S", number, bytes up, bytes down, mode, cut
MODES = ["client-first", "server-first", "both", "client-reset", "server-reset", "client-gone"]
WEIGHTS = [38, 20, 25, 6, 6, 5]
H2_STREAMS = 25  # on one connection

Plan = collections.namedtuple("Plan", "number up down mode cut")


class Bytes:
    """Pieces of one block of random bytes: cheap, and another stream's are others."""

    def __init__(self, seed):
        self.block = random.Random(seed).randbytes(3 * MB)

    def of(self, number, direction, size):
        at = random.Random(f"{number} {direction}").randrange(2 * MB)
        return self.block[at:at + size]


def plan(seed, number, bits=20):
    r = random.Random(f"{seed} {number}")
    up, down = (int(2 ** (bits * r.random() ** 2)) for _ in range(2))
    mode = r.choices(MODES, WEIGHTS)[0]
    cut = r.randrange(down if mode == "server-reset" else up)
    return Plan(number, up, down, mode, cut)


class Wrong(Exception):
    pass


class Short(Exception):
    pass


def read_whole(conn, wanted):
    """To the end, which has to be where the data's is; every byte is compared as it comes."""
    have = 0
    while got := conn.recv():
        if wanted[have:have + len(got)] != got:
            raise Wrong(f"other bytes from {have} on, {len(got)} of them, of {len(wanted)}")
        have += len(got)
    if have < len(wanted):
        raise Short(f"{have} of {len(wanted)}")


def exchange(conn, out, wanted):
    """Both directions at once."""
    def send():
        conn.send(out)
        conn.eof()
    if len(out) <= 65536:  # the kernel's buffers have room for it
        send()
        read_whole(conn, wanted)
        return
    writer = Task(send)
    try:
        read_whole(conn, wanted)
    except Short:
        writer.join(1)  # a reset is said once: if the writer has heard it, this is what came after
        if isinstance(writer.error, Aborted):
            raise writer.error from None
        raise
    writer.result(AT_MOST)


def outcome(run):
    """How it ended, and a word on it."""
    try:
        run()
        return "whole", ""
    except Short as e:
        return "short", str(e)
    except Wrong as e:
        return "wrong", str(e)
    except TimeoutError as e:
        return "hang", repr(e)
    except (Aborted, Refused, OSError, ssl.SSLError) as e:
        return "aborted", repr(e)
    except AssertionError as e:
        return "hang" if "did not end" in str(e) else "aborted", repr(e)


class Lines:
    def __init__(self, path):
        self.file, self.lock = open(path, "a", buffering=1), threading.Lock()

    def write(self, **what):
        with self.lock:
            self.file.write(json.dumps(what) + "\n")


# ---- the service ----

def serve_stream(conn, p, data):
    up, down = data.of(p.number, "up", p.up), data.of(p.number, "down", p.down)
    if p.mode == "server-first":
        conn.send(down)
        conn.eof()
        read_whole(conn, up)
    elif p.mode == "both":
        exchange(conn, down, up)
    elif p.mode == "server-reset":
        conn.send(down[:p.cut])
        conn.abort()
        raise Aborted("by itself")
    else:
        read_whole(conn, up)
        conn.send(down)
        conn.eof()


def read_plan(conn):
    head = b""
    while len(head) < HEAD.size:
        got = conn.recv(HEAD.size - len(head))
        if not got:
            raise Short(f"{len(head)} bytes of the head")
        head += got
    mark, number, up, down, mode, cut = HEAD.unpack(head)
    if mark != b"S" or mode >= len(MODES):
        raise Wrong(f"a head of {head!r}")
    return Plan(number, up, down, MODES[mode], cut)


def handler(context, data, lines):
    def handle(conn):
        conn.timeout(PATIENCE)
        began, plans = time.monotonic(), []
        unix, tls = conn.unix, []

        def run(conn=conn):
            first = conn.recv(1)
            conn.pending = first
            if first == b"\x16":  # of a ClientHello
                tls.append(True)
                conn = TlsConn(conn, context, server_side=True, fin=True)
            plans.append(read_plan(conn))
            serve_stream(conn, plans[0], data)
        end, why = outcome(run)
        number = plans[0].number if plans else None
        lines.write(number=number, end=end, why=why, unix=unix, tls=bool(tls), began=began,
                    ended=time.monotonic())
        if end != "whole":
            conn.abort()
    return handle


def serve(args):
    tls, seed, out = args.index("--tls"), args.index("--seed"), args.index("--out")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args[tls + 1], args[tls + 2])
    handle = handler(context, Bytes(int(args[seed + 1])), Lines(args[out + 1]))
    services = [Service(address, handle) for address in args[:tls]]
    print("listening", *[s.address for s in services], flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(0.2):
        pass
    for s in services:
        for e in s.errors:
            print(f"service: {e!r}", file=sys.stderr)
        s.close()
    os._exit(1 if any(s.errors for s in services) else 0)


# ---- clients ----

class H2Conn:
    """A stream of an HTTP/2 connection, looking like the others."""

    unix = False

    def __init__(self, client, service):
        self.client = client
        self.stream = self.guard(client.connect, f"{service}:443")
        self.guard(client.wait, lambda: self.stream.status or self.over(), PATIENCE)
        if self.stream.status != 200:
            raise Refused(self.stream.status or 0, b"")

    def over(self):
        return self.stream.ended or self.stream.reset is not None or self.client.closed

    def guard(self, run, *args):
        try:
            return run(*args)
        except h2.exceptions.ProtocolError as e:
            self.client.close()
            raise Aborted(str(e)) from None
        except AssertionError as e:
            if self.client.closed or self.stream.reset is not None:
                raise Aborted(str(e)) from None
            raise TimeoutError(str(e)) from None

    def timeout(self, seconds):
        self.client.conn.timeout(seconds)

    def send(self, data):
        if self.client.closed or self.stream.reset is not None:
            raise Aborted("over")
        self.guard(self.stream.send, data)

    def eof(self):
        if self.client.closed or self.stream.reset is not None:
            raise Aborted("over")
        self.guard(lambda: self.stream.send(end=True))

    def recv(self, n=0):
        if not self.stream.got:
            self.guard(self.client.wait, lambda: self.stream.got or self.over(), PATIENCE)
        got, self.stream.got = bytes(self.stream.got), bytearray()
        if got or (self.stream.ended and self.stream.reset is None):
            return got
        raise Aborted(f"reset {self.stream.reset}, connection {self.client.closed}")

    def abort(self):
        if not self.client.closed and not self.over():
            try:
                self.guard(self.stream.abort)
            except Aborted:
                pass

    def close(self):
        self.abort()


class Clients:
    """The ways in of a spec: {"listeners": {name: address}, "ca", "seed", "doors": [[door,
    service]...], "h2": ["service"...], "threads", "h2_threads", "first", "count", "seconds"}."""

    def __init__(self, spec):
        self.spec, self.seed = spec, spec["seed"]
        self.data, self.lines = Bytes(self.seed), Lines(spec["out"])
        context = ssl.create_default_context(cafile=spec["ca"])
        self.certificates = types.SimpleNamespace(
            client=lambda alpn=None: self.context(alpn) if alpn else context)
        relay = types.SimpleNamespace(listeners=spec["listeners"])
        self.doors = Doors(relay, self.certificates)
        self.lock, self.next = threading.Lock(), spec["first"]
        self.stop = threading.Event()
        self.until = time.monotonic() + spec["seconds"]

    def context(self, alpn):
        c = ssl.create_default_context(cafile=self.spec["ca"])
        c.set_alpn_protocols(alpn)
        return c

    def take(self):
        with self.lock:
            if (self.next >= self.spec["first"] + self.spec["count"] or self.stop.is_set()
                    or time.monotonic() > self.until):
                return None
            self.next += 1
            return plan(self.seed, self.next - 1, self.spec.get("bits", 20))

    def open(self, door, service):
        if door.startswith("bridge"):
            return dial(self.spec["listeners"][door])
        return self.doors.open(door, service)

    def stream(self, conn, p):
        up, down = self.data.of(p.number, "up", p.up), self.data.of(p.number, "down", p.down)
        conn.send(HEAD.pack(b"S", p.number, p.up, p.down, MODES.index(p.mode), p.cut))
        if p.mode == "server-first":
            read_whole(conn, down)
            conn.send(up)
            conn.eof()
            if conn.recv():
                raise Wrong("bytes after the end")
        elif p.mode == "both":
            # an HTTP/2 client here reads while it writes
            (exchange_h2 if isinstance(conn, H2Conn) else exchange)(conn, up, down)
        elif p.mode == "server-reset":
            read_whole(conn, down)
        elif p.mode in ("client-reset", "client-gone"):
            conn.send(up[:p.cut])
            conn.abort() if p.mode == "client-reset" else conn.close()
            raise Aborted("by itself")
        else:
            conn.send(up)
            conn.eof()
            read_whole(conn, down)

    def one(self, p, door, service, opening):
        began, conns = time.monotonic(), []

        def run():
            conn = opening()
            conns.append(conn)
            conn.timeout(PATIENCE)
            self.stream(conn, p)
        end, why = outcome(run)
        if end == "aborted" and not conns:
            end = "refused"
        for c in conns:
            c.close()
        ended = time.monotonic()
        if ended - began > AT_MOST:
            end, why = "hang", f"{end} after {ended - began:.0f} s"
        self.lines.write(**p._asdict(), door=door, service=service, end=end, why=why, began=began,
                         ended=ended)
        if end == "refused" or self.spec.get("pause"):
            time.sleep(self.spec.get("pause") or 0.02)

    def work(self):
        while p := self.take():
            door, service = random.Random(p.number).choice(self.spec["doors"])
            self.one(p, door, service, lambda: self.open(door, service))

    def work_h2(self):
        kept = []

        def opening(service):
            if kept and (kept[0].closed or kept[0].used >= H2_STREAMS):
                leave(kept.pop())
            if not kept:
                client = H2Client(over_tls(self.doors.front(), self.certificates))
                client.used = 0
                kept.append(client)
            kept[0].used += 1
            return H2Conn(kept[0], service)
        while p := self.take():
            service = random.Random(p.number).choice(self.spec["h2"])
            self.one(p, "h2", service, lambda: opening(service))
        for c in kept:
            leave(c)


def leave(client):
    """Not before the relay has all that was sent: what is unread here turns the end into an abort."""
    try:
        client.ping()
    except (AssertionError, Aborted, h2.exceptions.ProtocolError, OSError):
        pass  # it is broken: so be it
    client.close()


def exchange_h2(conn, out, wanted):
    conn.send(out)
    conn.eof()
    read_whole(conn, wanted)


def run(path):
    with open(path) as f:
        clients = Clients(json.load(f))
    signal.signal(signal.SIGTERM, lambda *_: clients.stop.set())
    raise_nofile()
    threads = [Task(clients.work) for _ in range(clients.spec["threads"])]
    threads += [Task(clients.work_h2) for _ in range(clients.spec["h2_threads"])]
    print("begun", flush=True)
    for t in threads:
        while t.is_alive():
            t.join(0.2)
        t.result()
    print("done", clients.next - clients.spec["first"], flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        raise_nofile()
        serve(sys.argv[2:])
    else:
        run(sys.argv[2])
