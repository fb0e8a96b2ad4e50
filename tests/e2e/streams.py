# Both ends of a stream: connections by each door, and services to reach.
#
# All connections look alike: recv() gives bytes, b"" at an orderly end, and raises Aborted for
# everything else (a TCP reset, TLS without close_notify), so that the two can never be mixed up.
import errno
import os
import queue
import re
import socket
import ssl
import struct
import threading

from harness import DEADLINE, DOMAIN, Task

ABORTS = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)

SILENCE = 20  # seconds without a byte, where one must come
IGNORE_UNEXPECTED_EOF = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 1 << 7)


class Aborted(Exception):
    pass


class Conn:
    """A plain socket."""

    def __init__(self, sock, pending=b""):
        self.sock, self.pending = sock, pending
        sock.settimeout(SILENCE)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def unix(self):
        return self.sock.family == socket.AF_UNIX

    def send(self, data):
        try:
            self.sock.sendall(data)
        except ABORTS as e:
            raise Aborted(str(e)) from None

    def recv(self, n=262144):
        if self.pending:
            got, self.pending = self.pending[:n], self.pending[n:]
            return got
        try:
            return self.sock.recv(n)
        except ABORTS as e:
            raise Aborted(str(e)) from None

    def read_all(self):
        parts = []
        while got := self.recv():
            parts.append(got)
        return b"".join(parts)

    def read_exactly(self, n):
        parts, have = [], 0
        while have < n:
            got = self.recv(n - have)
            assert got, f"end after {have} of {n} bytes"
            parts.append(got)
            have += len(got)
        return b"".join(parts)

    def eof(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as e:
            raise Aborted(str(e)) from None

    def abort(self):
        if not self.unix:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()

    def timeout(self, seconds):
        self.sock.settimeout(seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TlsConn(Conn):
    """TLS over another connection, with a half-close of its own (which ssl.SSLSocket lacks)."""

    def __init__(self, under, context, server_side=False, name=None, fin=False):
        self.under, self.fin = under, fin
        self.sock = under.sock
        context.options &= ~IGNORE_UNEXPECTED_EOF  # Python's default hides truncation
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side,
                                    server_hostname=None if server_side else name)
        self.lock, self.sending = threading.RLock(), threading.Lock()
        self.stash, self.stash_end = [], None  # read ahead by eof()
        while True:
            try:
                self.tls.do_handshake()
                self.flush()
                return
            except ssl.SSLWantReadError:
                self.flush()
                self.fetch()

    def flush(self):
        with self.sending:
            with self.lock:
                out = self.outgoing.read()
            if out:
                self.under.send(out)

    def fetch(self):
        got = self.under.recv()
        with self.lock:
            if got:
                self.incoming.write(got)
            else:
                self.incoming.write_eof()

    def send(self, data):
        view = memoryview(data)
        for at in range(0, len(view), 65536):
            with self.sending:
                with self.lock:
                    self.tls.write(view[at:at + 65536])
                    out = self.outgoing.read()
                self.under.send(out)

    def decrypted(self, n):
        """Bytes, b"" at close_notify, None when more is needed, Aborted (returned) for the rest."""
        try:
            return self.tls.read(n)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as e:
            return Aborted(str(e))

    def recv(self, n=262144):
        while True:
            with self.lock:
                if self.stash:
                    got, self.stash[0] = self.stash[0][:n], self.stash[0][n:]
                    if not self.stash[0]:
                        self.stash.pop(0)
                    return got
                got = self.stash_end if self.stash_end is not None else self.decrypted(n)
                if isinstance(got, Aborted):
                    self.stash_end = got
                    raise got
                if got is not None:
                    if not got:
                        self.stash_end = b""
                    return got
            self.fetch()

    def eof(self):
        # close_notify. Python's unwrap() goes on to read, which fails over data not yet taken:
        # so all that is here is taken first.
        with self.sending:
            with self.lock:
                while self.stash_end is None:
                    got = self.decrypted(262144)
                    if got is None:
                        break
                    if got and not isinstance(got, Aborted):
                        self.stash.append(got)
                    else:
                        self.stash_end = got
                try:
                    self.tls.unwrap()
                except ssl.SSLError:
                    pass
                out = self.outgoing.read()
            self.under.send(out)
            if self.fin:
                self.under.eof()

    def raw(self, data):
        """Bytes under the TLS."""
        self.under.send(data)

    def abort(self):
        self.under.abort()

    def truncate(self):
        """FIN without close_notify."""
        self.under.eof()

    def close(self):
        self.under.close()


def dial(address):
    kind, rest = address.split(":", 1)
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(DEADLINE)
        s.connect("\0" + rest[1:] if rest.startswith("@") else rest)
        return Conn(s)
    host, port = rest.rsplit(":", 1)
    try:
        return Conn(socket.create_connection((host.strip("[]"), int(port)), DEADLINE))
    except ConnectionResetError as e:  # accepted and reset before we looked
        raise Aborted(str(e)) from None


# ---- doors ----

class Refused(Exception):
    def __init__(self, status, head):
        super().__init__(f"{status}: {head!r}")
        self.status, self.head = status, head


def read_head(conn, limit=65536):
    """An HTTP head, and what came after it."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = conn.recv()
        if not more:
            raise Refused(0, got)
        got += more
        assert len(got) < limit
    head, _, rest = got.partition(b"\r\n\r\n")
    return head, rest


def proxy_status(value):
    """(error type, details) of a Proxy-Status (RFC 9209) as ours says it."""
    found = re.fullmatch(r'attest-relay; error=([a-z_]+); details="([a-z-]+)"', value)
    assert found, value
    return found.groups()


def connect_head(service, port=443):
    return f"CONNECT {service}:{port} HTTP/1.1\r\nHost: {service}:{port}\r\n\r\n".encode()


def http_connect(conn, service, early=b"", head=None):
    """CONNECT on an open connection; early goes into the same segment as the head."""
    conn.send((head or connect_head(service)) + early)
    answer, rest = read_head(conn)
    status = int(answer.split()[1])
    if status != 200:
        raise Refused(status, answer + rest)
    conn.pending = rest
    return conn


class TlsHttpConn(TlsConn):
    """TLS to the relay itself, whose first bytes inside were HTTP."""

    pending = b""

    def recv(self, n=262144):
        if self.pending:
            got, self.pending = self.pending[:n], self.pending[n:]
            return got
        return super().recv(n)


class Doors:
    """Ways for a client into one relay."""

    def __init__(self, relay, certificates):
        self.relay, self.certificates = relay, certificates

    def front(self):
        return dial(self.relay.listeners["front"])

    def static_tcp(self, service):
        return dial(self.relay.listeners[f"tcp-{service}"])

    def static_unix(self, service):
        return dial(self.relay.listeners[f"unix-{service}"])

    def sni(self, service, context=None):
        context = context or self.certificates.client()
        return TlsConn(self.front(), context, name=f"{service}.{DOMAIN}", fin=True)

    def connect_plain(self, service, early=b""):
        return http_connect(self.front(), service, early)

    def connect_tls(self, service, early=b""):
        tls = TlsHttpConn(self.front(), self.certificates.client(), name=DOMAIN)
        return http_connect(tls, service, early)

    def open(self, door, service):
        return getattr(self, door)(service)


DOORS = ["static_tcp", "static_unix", "sni", "connect_plain", "connect_tls"]


# ---- services ----

class Service:
    """Something that listens. What comes in waits in a queue, or is handled by a thread each."""

    def __init__(self, address="tcp:127.0.0.1:0", handler=None, backlog=4096, accepting=True):
        if address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(address[5:])
            self.sock.listen(backlog)
            self.address = address
        else:
            port = int(address.rsplit(":", 1)[1])
            self.sock = socket.create_server(("127.0.0.1", port), backlog=backlog)
            self.address = f"tcp:127.0.0.1:{self.sock.getsockname()[1]}"
        self.came = queue.Queue()
        self.handler = handler
        self.accepted = 0
        self.errors = []
        self.open = []
        if accepting:
            self.start()

    def start(self):
        threading.Thread(target=self.loop, daemon=True).start()

    def loop(self):
        while True:
            try:
                s, _ = self.sock.accept()
            except OSError:
                return
            self.accepted += 1
            conn = Conn(s)
            if self.handler:
                threading.Thread(target=self.handle, args=(conn,), daemon=True).start()
            else:
                self.came.put(conn)

    def handle(self, conn):
        try:
            self.handler(conn)
        except Aborted:
            pass
        except OSError as e:
            if e.errno != errno.EBADF:
                self.errors.append(e)
        except Exception as e:
            self.errors.append(e)
        finally:
            conn.close()

    def accept(self, timeout=DEADLINE):
        try:
            return self.came.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nobody came to {self.address} within {timeout} s") from None

    def none_waiting(self):
        return self.came.empty()

    def close(self):
        # shutdown wakes accept(); close alone does not
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
        while not self.came.empty():
            self.came.get().close()
        if self.address.startswith("unix:") and os.path.exists(self.address[5:]):
            os.unlink(self.address[5:])


def echo(conn):
    while got := conn.recv():
        conn.send(got)
    conn.eof()
    # the other side may still read: closing now would be fine, waiting for its end is gentler


def tls_service(context, handler):
    """A handler behind TLS of the service's own."""
    def run(conn):
        handler(TlsConn(conn, context, server_side=True, fin=True))
    return run


def roundtrip(conn, payload):
    """Sends payload and EOF to an echo service while reading; checks every byte."""
    writer = Task(lambda: (conn.send(payload), conn.eof()))
    got = conn.read_all()
    writer.result()
    assert len(got) == len(payload), f"{len(got)} of {len(payload)} bytes came back"
    assert got == payload, "other bytes came back"


