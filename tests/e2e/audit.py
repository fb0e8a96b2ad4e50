# Audit records read back: each one valid by the schema; and a stand-in for journald.
import json
import os
import socket
import threading

from harness import ROOT, missing, need, wait_for

try:
    import jsonschema
except ImportError:
    jsonschema = None

SCHEMA = os.path.join(ROOT, "docs", "audit.schema.json")
ENDS = ("stream-end",)
REFUSALS = ("stream-refused", "connection-refused")
SESSIONS = ("session-end", "session-refused")
H2_CLIENTS = ("connection-end",)
SETTLED = ["live_intakes", "live_openings", "live_splices", "live_h2_clients", "audit_queued"]


def validator():
    if not jsonschema:
        missing("python3-jsonschema is not installed")
    with open(SCHEMA) as f:
        schema = json.load(f)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read(*paths):
    """All records of these files, each checked."""
    check, records = validator(), []
    for path in paths:
        with open(path, "rb") as f:
            for line in f.read().decode("utf-8", "strict").splitlines(keepends=True):
                assert line.endswith("\n") and len(line.encode()) <= 4096, line
                record = json.loads(line)
                check.validate(record)
                records.append(record)
    return records


def by_reason(records, events):
    counts = {}
    for r in records:
        if r["event"] in events:
            counts[r["reason"]] = counts.get(r["reason"], 0) + 1
    return counts


def counted(relay, name):
    prefix = f'attest_relay_{name}{{reason="'
    return {k[len(prefix):-2]: int(v) for k, v in relay.metrics().items()
            if k.startswith(prefix) and v}


def settle(relay):
    """Until nothing is under way and all that was recorded is written."""
    last = [None]

    def look():
        m = relay.metrics()
        last[0] = {g: m[f"attest_relay_{g}"] for g in SETTLED}
        return not any(last[0].values())
    wait_for(look, lambda: f"all is over and recorded: {last[0]}")


def in_namespace(world, monkeypatch, script):
    """Relays run in a mount namespace of their own from now on, which script has changed."""
    need("unshare")
    root = "" if os.geteuid() == 0 else "-r"
    path = world.path("in-namespace")
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\nexec unshare {root} -m sh -ec '{script}\nexec \"$@\"' sh "
                f"{os.environ['ATTEST_RELAY']} \"$@\"\n")
    os.chmod(path, 0o755)
    monkeypatch.setenv("ATTEST_RELAY", path)


class Journal:
    """What journald's socket gets, as journald reads it."""

    def __init__(self, world, monkeypatch):
        folder = world.path("journal")
        os.mkdir(folder)
        in_namespace(world, monkeypatch,
                     "mount -t tmpfs tmpfs /run\nmkdir -p /run/systemd/journal\n"
                     f"mount --bind {folder} /run/systemd/journal")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(os.path.join(folder, "socket"))
        self.raw, self.entries = [], []
        self.reads = threading.Event()
        self.reads.set()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            self.reads.wait()
            try:
                got = self.sock.recv(65536)
            except OSError:
                return
            self.raw.append(got)
            self.entries.append(self.parse(got))

    @staticmethod
    def parse(datagram):
        """systemd's JOURNAL_NATIVE_PROTOCOL."""
        entry, rest = {}, datagram
        while rest:
            line, _, rest = rest.partition(b"\n")
            key, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(rest[:8], "little")
                value, rest = rest[8:8 + size], rest[8 + size + 1:]
            assert key.decode() not in entry
            entry[key.decode()] = value.decode()
        return entry

    def audit(self):
        return [e for e in self.entries if "ATTEST_EVENT" in e]

    def close(self):
        self.sock.close()
