#!/usr/bin/python3
"""A stand-in for coconut-svsm's aproxy, with its habits: aproxy.py URL unix:PATH|tcp:HOST:PORT

Between an SVSM and a key broker at URL: a message is its length, 8 bytes little-endian, and so
much JSON. One SVSM at a time, two messages each, and then it reads to the SVSM's end, however long
that takes. Whatever is wrong ends the program; who started it starts it again.
"""
import http.client
import json
import os
import socket
import struct
import sys
import urllib.parse


def exactly(s, n):
    got = b""
    while len(got) < n:
        more = s.recv(n - len(got))
        if not more:
            sys.exit(f"the end after {len(got)} of {n} bytes")
        got += more
    return got


def message(s):
    return json.loads(exactly(s, struct.unpack("<Q", exactly(s, 8))[0]))


def answer(s, what):
    text = json.dumps(what).encode()
    s.sendall(struct.pack("<Q", len(text)) + text)


class Broker:
    """The key broker, with the cookie that it gives."""

    def __init__(self, url):
        self.at, self.cookie = urllib.parse.urlparse(url).netloc, {}

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection(self.at, timeout=60)
        c.request(method, path, json.dumps(body) if body else None, self.cookie)
        r = c.getresponse()
        if "Set-Cookie" in r.headers:
            self.cookie = {"Cookie": r.headers["Set-Cookie"].split(";")[0]}
        told = json.loads(r.read())
        c.close()
        return r.status, told


def serve(s, url):
    broker = Broker(url)
    asked = message(s)
    status, told = broker.ask("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": asked["tee"]})
    assert status == 200, status
    answer(s, {"challenge": told["nonce"], "params": []})
    asked = message(s)
    status, _ = broker.ask("POST", "/kbs/v0/attest", {
        "tee-evidence": {"nonce": asked["nonce"], "report": asked["evidence"]}})
    if status == 200:
        status, told = broker.ask("GET", "/kbs/v0/resource/default/sample/test")
        assert status == 200, status
        answer(s, {"success": True, "secret": told["ciphertext"]})
    else:
        answer(s, {"success": False, "secret": None})
    while s.recv(4096):
        pass


def main():
    url, address = sys.argv[1:]
    kind, at = address.split(":", 1)
    if kind == "unix":
        if os.path.exists(at):
            os.unlink(at)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(at)
        listening.listen()
    else:
        host, port = at.rsplit(":", 1)
        listening = socket.create_server((host, int(port)))
    print("listening", flush=True)
    while True:
        s, _ = listening.accept()
        print("accepted", flush=True)
        serve(s, url)
        s.close()
        print("served", flush=True)


main()
