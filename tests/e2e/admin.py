# Asking a program's admin socket, as a client of its own: nothing of ours in between.
import http.client
import json
import socket


class Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Admin:
    def __init__(self, path):
        self.path = path

    def raw(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(30)
        s.connect(self.path)
        return s

    def ask(self, method, target, body=None, headers=None):
        """(status, parsed JSON or the text, headers)"""
        c = Connection(self.path)
        c.request(method, target, body=body, headers=headers or {})
        r = c.getresponse()
        text = r.read()
        c.close()
        kind = r.headers.get("Content-Type", "")
        return r.status, json.loads(text) if text and kind == "application/json" else text, r.headers

    def get(self, target, status=200):
        code, body, _ = self.ask("GET", target)
        assert code == status, (code, body)
        return body

    def post(self, target, body=None, status=200):
        code, answer, _ = self.ask("POST", target, None if body is None else json.dumps(body))
        assert code == status, (code, answer)
        return answer

    def all(self, what, limit=1000, query=""):
        """Every page of streams or tunnels"""
        found, after = [], 0
        while True:
            page = self.get(f"/v1/{what}?after={after}&limit={limit}{query}")
            assert len(page[what]) <= limit
            found += page[what]
            if "next" not in page:
                return found
            assert page["next"] > after
            after = page["next"]
