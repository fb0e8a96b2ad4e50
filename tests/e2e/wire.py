# HTTP/2 by hand, for what no library would send: an agent and a relay made of raw frames.
#
# RawAgent speaks to attest-relay's tunnel door, RawRelay to attest-tunnel. Both are single-threaded:
# take() reads the next frame of interest and answers SETTINGS and PING on the way.
import base64
import os
import socket
import struct
import threading
import time

from hpack import Decoder, Encoder

from harness import DEADLINE, DOMAIN
from streams import Aborted, Conn, TlsConn, dial, read_head

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ALPN = "attest-relay/1"

CANCEL, REFUSED_STREAM, CONNECT_ERROR = 8, 7, 10


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Wire:
    def __init__(self, conn):
        self.conn, self.buffer = conn, b""
        self.encoder, self.decoder = Encoder(), Decoder()
        self.decoder.max_allowed_table_size = 65536
        self.goaway = None
        self.settings = {}
        self.deadline = None  # of take(), which pings alone must not put off

    def send(self, *frames):
        self.conn.send(b"".join(frames))

    def exactly(self, n):
        while len(self.buffer) < n:
            got = self.conn.recv()
            if not got:
                raise EOFError(f"end of the connection; {self.goaway or 'no GOAWAY'}")
            self.buffer += got
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def raw(self):
        head = self.exactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        return kind, flags, struct.unpack(">I", head[5:])[0] & 0x7FFFFFFF, self.exactly(length)

    def take(self):
        """The next frame that is not housekeeping; a header block comes as a list of fields."""
        while True:
            if self.deadline and time.monotonic() > self.deadline:
                raise TimeoutError
            kind, flags, stream, payload = self.raw()
            if kind == SETTINGS:
                if not flags & ACK:
                    for at in range(0, len(payload), 6):
                        k, v = struct.unpack(">HI", payload[at:at + 6])
                        self.settings[k] = v
                    self.send(frame(SETTINGS, ACK))
            elif kind == PING:
                if not flags & ACK:
                    self.send(frame(PING, ACK, 0, payload))
                else:
                    return kind, flags, stream, payload
            elif kind == GOAWAY:
                last, code = struct.unpack(">II", payload[:8])
                self.goaway = (last, code, payload[8:])
                return kind, flags, stream, payload
            elif kind == HEADERS:
                while not flags & END_HEADERS:
                    k, f, s, more = self.raw()
                    assert k == CONTINUATION and s == stream
                    payload += more
                    flags |= f & END_HEADERS
                fields = [(_text(n), _text(v)) for n, v in self.decoder.decode(payload)]
                return kind, flags, stream, fields
            else:
                return kind, flags, stream, payload

    def until(self, kind, stream=None):
        while True:
            got = self.take()
            if got[0] == kind and stream in (None, got[2]):
                return got

    def headers(self, stream, fields, end=False):
        block = self.encoder.encode(fields)
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))

    def drained(self, timeout=DEADLINE):
        """Reads until the other side has ended the connection: True (or False: it did not)."""
        self.deadline = time.monotonic() + timeout
        self.conn.timeout(timeout)
        try:
            while True:
                self.take()
        except (EOFError, Aborted):
            return True
        except TimeoutError:
            return False

    def close(self):
        self.conn.close()


def _text(x):
    return x if isinstance(x, str) else x.decode()


class RawAgent(Wire):
    """An agent that does as it is told, on the direct carrier."""

    def __init__(self, relay, certificates, name=DOMAIN, hello=True, token=None, preface=True,
                 **more):
        context = certificates.client([ALPN])
        tls = TlsConn(dial(f"tcp:127.0.0.1:{relay.port()}"), context, name=name)
        super().__init__(tls)
        assert tls.tls.selected_alpn_protocol() == ALPN
        if preface:
            assert self.exactly(24) == PREFACE
            self.send(frame(SETTINGS))
        if hello:
            self.hello(token, **more)

    def hello(self, token, services=("kbs",), instance="raw", generation=None, extra=()):
        kind, flags, stream, fields = self.until(HEADERS)
        assert dict(fields)[":path"] == "/attest-relay/1/hello", fields
        self.headers(stream, [
            (":status", "200"), ("attest-token", token), ("attest-instance", instance),
            ("attest-generation", str(generation or time.time_ns() // 1000)),
            *[("attest-service", s) for s in services], *extra], end=True)

    def answer(self):
        """What the relay says to the hello: ("accepted" or "refused", fields)."""
        kind, flags, stream, fields = self.until(HEADERS)
        path = dict(fields)[":path"]
        self.headers(stream, [(":status", "204")], end=True)
        return path.rsplit("/", 1)[1], fields

    def accepted(self):
        word, fields = self.answer()
        assert word == "accepted", (word, fields)
        return self

    def keep_alive(self):
        """Answers pings from a thread until the connection ends; frames are thrown away."""
        def run():
            try:
                while True:
                    self.take()
            except (EOFError, OSError, Aborted, AssertionError):
                pass
        t = threading.Thread(target=run, daemon=True)
        t.start()
        return t


class RawRelay:
    """A relay of sorts: a TLS server whose sessions are Wires in the HTTP/2 client's role."""

    def __init__(self, certificates, alpn=(ALPN,), pair=None):
        self.context = certificates.server(pair or certificates.relay, list(alpn) or None)
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.sock.getsockname()[1]
        self.address = f"tcp:127.0.0.1:{self.port}"

    def tls(self, timeout=DEADLINE):
        self.sock.settimeout(timeout)
        s, _ = self.sock.accept()
        return TlsConn(Conn(s), self.context, server_side=True)

    def session(self, timeout=DEADLINE):
        w = Wire(self.tls(timeout))
        w.send(PREFACE, frame(SETTINGS, payload=struct.pack(">HIHI", 2, 0, 4, 262144)),
               frame(WINDOW, payload=struct.pack(">I", 2**24)))
        return w

    def request(self, w, stream, path, *fields):
        w.headers(stream, [(":method", "POST"), (":scheme", "https"), (":authority", "relay"),
                           (":path", path), *fields], end=True)

    def hello(self, w, owner="acme"):
        """Hello and acceptance; returns the agent's fields."""
        self.request(w, 1, "/attest-relay/1/hello")
        _, _, stream, fields = w.until(HEADERS)
        assert stream == 1 and fields[0] == (":status", "200"), fields
        names = [v.split(";")[0] for n, v in fields if n == "attest-service"]
        self.request(w, 3, "/attest-relay/1/accepted", ("attest-owner", owner),
                     *[("attest-service", f"{n}.{owner}") for n in names])
        _, _, stream, answer = w.until(HEADERS)
        assert stream == 3 and answer[0] == (":status", "204"), answer
        return fields

    def connect(self, w, stream, service, *fields):
        w.headers(stream, [(":method", "CONNECT"), (":authority", service),
                           ("attest-stream", str(stream)), *fields])

    def close(self):
        self.sock.close()


def websocket_open(conn, host=DOMAIN, path="/tunnel", protocol="attest-relay.v1"):
    """An upgrade on an open (TLS) connection; the status that came back and what followed."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
             f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    if protocol:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    conn.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    head, rest = read_head(conn)
    return int(head.split()[1]), rest


def websocket_message(payload, opcode=2, fin=True, masked=True):
    head = bytes([(0x80 if fin else 0) | opcode])
    n, mask = len(payload), 0x80 if masked else 0
    if n < 126:
        head += bytes([mask | n])
    elif n < 65536:
        head += bytes([mask | 126]) + struct.pack(">H", n)
    else:
        head += bytes([mask | 127]) + struct.pack(">Q", n)
    if not masked:
        return head + payload
    key = os.urandom(4)
    long = (key * (n // 4 + 1))[:n]
    return head + key + bytes(a ^ b for a, b in zip(payload, long))


