#!/usr/bin/python3
"""An attacker, for the special measurement "attacks": one kind, from one address, at a fixed rate.

Usage: attacks.py KIND HOST PORT ADDRESS

  loris      holds many connections that say a byte now and then
  tunnels    completes TLS as an agent does, and never says hello
  park       asks for a service that no tunnel offers now, over HTTP/2
  reset      opens and resets streams over HTTP/2 (rapid reset)
  settings   floods SETTINGS, and reads no answer

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
HEADERS, RST, SETTINGS = 1, 3, 4
OVER = (OSError, ssl.SSLError)


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def connect(authority):
    """A CONNECT's header block: literals, nothing indexed."""
    return b"\x02\x07CONNECT\x01" + bytes([len(authority)]) + authority.encode()


class Attacker:
    def __init__(self, host, port, address):
        self.at, self.address = (host, int(port)), address
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

    def burst(self, n, then=b""):
        s, block, out = self.session(), connect("nothing.acme"), []
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
        self.burst(100, struct.pack(">I", 8))

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
                if kind in ("park", "reset", "settings") and self.conns:
                    self.forget(self.conns[0])
            if not ready:
                print(json.dumps({"ready": True}), flush=True)
                ready = True
            left = max(0.0, TURN - (time.monotonic() - begin))
            if select.select([sys.stdin], [], [], left)[0] and not sys.stdin.read(1):
                break
        print(json.dumps({"done": self.done, "cpu_seconds": time.process_time()}), flush=True)


if __name__ == "__main__":
    Attacker(*sys.argv[2:5]).run(sys.argv[1])
