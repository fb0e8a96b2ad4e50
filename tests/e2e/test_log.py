# The relay's log when nobody takes it: streams go on, and what is missing is said afterwards.
import os
import re
import threading

from audit import Journal
from harness import binary, wait_for
from streams import Service, dial, echo, roundtrip

STREAMS = 400  # at debug level more lines than pipe, or journald's socket, and queue hold


class StuckPipe:
    """Standard error of relays from now on: a pipe that is read when told so."""

    def __init__(self, world, monkeypatch):
        fifo, path = world.path("stderr"), world.path("with-stderr")
        os.mkfifo(fifo)
        self.fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\nexec {binary('ATTEST_RELAY')} \"$@\" 2>{fifo}\n")
        os.chmod(path, 0o755)
        monkeypatch.setenv("ATTEST_RELAY", path)
        self.got = b""

    def lines(self):
        try:
            while True:
                self.got += os.read(self.fd, 65536)
        except BlockingIOError:
            return self.got.decode().splitlines()

    def close(self):
        os.close(self.fd)


def relay_with(world, target, svc):
    return world.relay(log={"target": target, "level": "debug"}, audit={"target": "off"},
                       services=[{"name": "near.acme", "targets": [svc.address]}],
                       listeners=[{"name": "near", "service": "near.acme"}])


def many_streams(relay):
    def some():
        for _ in range(STREAMS // 8):
            with dial(relay.listeners["near"]) as c:
                roundtrip(c, b"hello")
    threads = [threading.Thread(target=some, daemon=True) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "a stream waits for the log"


def told(lines):
    found = [re.search(r"(\d+) lines of the log were lost before this one", x) for x in lines]
    return sum(int(m[1]) for m in found if m)


def fill(relay):
    """Until lines are lost; they wait for no reader before that, either."""
    for _ in range(100):
        many_streams(relay)
        if relay.metric("log_lost_total"):
            return
    raise AssertionError("all found room")


def test_stuck_pipe(world, monkeypatch):
    pipe = world.add(StuckPipe(world, monkeypatch))
    relay = relay_with(world, "stderr", world.add(Service(handler=echo)))
    fill(relay)
    wait_for(lambda: told(pipe.lines()) and told(pipe.lines()) == relay.metric("log_lost_total"),
             lambda: f"told: {told(pipe.lines())} of {relay.metric('log_lost_total')}")
    before = len(pipe.lines())
    many_streams(relay)
    wait_for(lambda: len(pipe.lines()) >= before + STREAMS, "lines as before")


def test_stuck_journal(world, monkeypatch):
    journal = world.add(Journal(world, monkeypatch))
    relay = relay_with(world, "journal", world.add(Service(handler=echo)))
    wait_for(lambda: any("MESSAGE" in e for e in journal.entries), "a line")
    first = journal.entries[0]
    assert first["SYSLOG_IDENTIFIER"] == "attest-relay" and first["PRIORITY"] in "34567"
    journal.reads.clear()
    fill(relay)
    journal.reads.set()

    def messages():
        return [e["MESSAGE"] for e in journal.entries]
    wait_for(lambda: told(messages()) and told(messages()) == relay.metric("log_lost_total"),
             lambda: f"told: {told(messages())} of {relay.metric('log_lost_total')}")
    many_streams(relay)
    ends = [e for e in journal.entries if e.get("SERVICE") == "near.acme"]
    assert ends and ends[-1]["REASON"] == "eof" and ends[-1]["BYTES_UP"] == "5", ends[-1:]
