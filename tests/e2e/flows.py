# What the tests of whole attestation flows share: a compute host that asks with curl, by either door,
# and a key broker with the timers, limits and sessions of Trustee's.
import base64
import http.server
import json
import os
import secrets
import socket
import ssl
import subprocess
import threading
import time

from harness import DOMAIN, MB, need

DOORS = ["sni", "connect"]


class Curl:
    """A client of one service, by its host name, as a compute host has it; cookies are kept."""

    def __init__(self, world, relay, service, door, name="curl"):
        need("curl")
        self.host = f"{service}.{DOMAIN}"
        self.jar = world.path(f"{name}.cookies")
        self.argv = ["curl", "-sS", "--max-time", "30", "--cacert", world.certificates.ca,
                     "--cookie", self.jar, "--cookie-jar", self.jar, "-w", "\n%{http_code}"]
        if door == "sni":
            self.argv += ["--connect-to", f"{self.host}:443:127.0.0.1:{relay.port()}"]
        else:
            self.argv += ["--proxy", f"https://127.0.0.1:{relay.port()}", "--proxy-cacert",
                          world.certificates.ca]

    def url(self, path):
        return path if "://" in path else f"https://{self.host}{path}"

    def ask(self, path, body=None, *more):
        """The status and what came with it; a body, bytes or JSON, makes it a POST."""
        argv = [*self.argv, *more]
        if body is not None:
            argv += ["-H", "Content-Type: application/json", "-H", "Expect:", "--data-binary", "@-"]
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        p = subprocess.run([*argv, self.url(path)], input=body, capture_output=True, timeout=60,
                           env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
        assert p.returncode == 0, p.stderr.decode()
        answer, _, status = p.stdout.rpartition(b"\n")
        return int(status), answer

    def json(self, path, body=None, status=200):
        got, answer = self.ask(path, body)
        assert got == status, (got, answer)
        return json.loads(answer)


class Kbs:
    """
    A key broker like Trustee's: sessions by cookie, in its memory; actix' timers; 2 MiB a request.
    A client asks for a challenge, shows evidence that holds it, and then may have the resource.
    """

    HANDSHAKE, HEAD, KEEP_ALIVE, BODY_MAX = 3, 5, 5, 2 * MB

    def __init__(self, tls=None, address=None):
        self.tls = tls
        self.sock = socket.create_server(("127.0.0.1", address or 0), backlog=512)
        self.address = f"tcp:127.0.0.1:{self.sock.getsockname()[1]}"
        self.secret = secrets.token_bytes(32)
        self.sessions = {}  # id: [nonce, attested]
        self.lock = threading.Lock()
        self.accepted, self.requests = 0, []
        self.closed_idle = []  # when connections were closed because nothing came
        self.handshakes_failed = 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                s, _ = self.sock.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.tls:
                s.settimeout(self.HANDSHAKE)
                try:
                    s = self.tls.wrap_socket(s, server_side=True)
                except (OSError, ssl.SSLError):
                    self.handshakes_failed += 1
                    return
            KbsRequests(s, ("", 0), self)
            if self.tls:
                s.settimeout(1)
                s.unwrap()
        except (OSError, ValueError):  # a client that went away
            pass
        finally:
            s.close()

    def answer(self, method, path, cookie, body):
        """Status, headers, answer."""
        with self.lock:
            self.requests.append(path)
            if (method, path) == ("POST", "/kbs/v0/auth"):
                session, nonce = secrets.token_hex(16), secrets.token_hex(32)
                self.sessions[session] = [nonce, False]
                return 200, {"Set-Cookie": f"kbs-session-id={session}; Path=/"}, {"nonce": nonce}
            session = self.sessions.get(cookie.removeprefix("kbs-session-id="))
            if not session:
                return 401, {}, {"type": "no session of this server's"}
            if (method, path) == ("POST", "/kbs/v0/attest"):
                session[1] = json.loads(body)["tee-evidence"]["nonce"] == session[0]
                return (200, {}, {"token": "yes"}) if session[1] else (401, {}, {"type": "evidence"})
            if method == "GET" and path.startswith("/kbs/v0/resource/"):
                if session[1]:
                    return 200, {}, {"ciphertext": base64.b64encode(self.secret).decode()}
                return 401, {}, {"type": "not attested"}
        return 404, {}, {"type": "no such path"}

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class KbsRequests(http.server.BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def handle_one_request(self):
        kbs, first = self.server, not getattr(self, "requestline", None)
        self.connection.settimeout(kbs.HEAD if first else kbs.KEEP_ALIVE)
        begun, self.raw_requestline = time.monotonic(), b""
        super().handle_one_request()
        if not self.raw_requestline and time.monotonic() - begun >= self.connection.gettimeout():
            kbs.closed_idle.append(time.monotonic())

    def log_message(self, *_):
        pass

    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        if size > self.server.BODY_MAX:
            self.close_connection = True
            self.reply(413, {}, {"type": "too large"})
            while size > 0 and (got := self.rfile.read(min(size, 65536))):
                size -= len(got)
            return
        body = self.rfile.read(size)
        self.reply(*self.server.answer(self.command, self.path, self.headers.get("Cookie", ""), body))

    do_GET = do_POST

    def reply(self, status, headers, answer):
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def evidence(nonce, size=0):
    """What a guest sends to be attested, of this many bytes at least where a size is given."""
    body = json.dumps({"tee-evidence": {"nonce": nonce, "quote": ""}}).encode()
    return body.replace(b'"quote": ""', b'"quote": "' + b"A" * max(0, size - len(body)) + b'"')


def has_resource(client, kbs, size=0):
    """The whole handshake of a guest, one connection for each request; it got the secret."""
    nonce = client.json("/kbs/v0/auth", {"version": "0.4.0", "tee": "snp"})["nonce"]
    client.json("/kbs/v0/attest", evidence(nonce, size))
    got = client.json("/kbs/v0/resource/default/sample/test")
    return base64.b64decode(got["ciphertext"]) == kbs.secret
