# The door websocket against those it is for: a browser, and the WebSocket client of Node.js (npm's ws).
#
# Both run the same few lines: 4 MiB to an echo service and back, every byte compared, then close().
# A suite of its own: the browser is large, and ws comes from the registry.
import http.server
import json
import os
import queue
import shutil
import subprocess
import threading

import pytest

from harness import DEADLINE, MB, missing, need
from streams import Service, echo

BYTES, PIECE = 4 * MB, 60_000
CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--ignore-certificate-errors"]

EXCHANGE = """
function exchange(ws, report) {
    const sent = new Uint8Array(%d), got = new Uint8Array(sent.length);
    let word = 1, at = 0, texts = 0;
    for (let i = 0; i < sent.length; i++) {
        word = Math.imul(word, 1103515245) + 12345 | 0;
        sent[i] = word >> 16;
    }
    ws.binaryType = "arraybuffer";
    ws.onopen = () => {
        for (let i = 0; i < sent.length; i += %d)
            ws.send(sent.subarray(i, Math.min(i + %d, sent.length)));
    };
    ws.onmessage = (m) => {
        if (typeof m.data === "string") {
            texts++;
            return;
        }
        got.set(new Uint8Array(m.data), at);
        at += m.data.byteLength;
        if (at === sent.length)
            ws.close();
    };
    ws.onclose = (e) => report({ code: e.code, clean: e.wasClean, protocol: ws.protocol, texts,
                                 bytes: at, same: got.every((b, i) => b === sent[i]) });
}
""" % (BYTES, PIECE, PIECE)

# a close without a code was answered by one
GOOD = {"code": 1005, "clean": True, "protocol": "", "texts": 0, "bytes": BYTES, "same": True}
REFUSED = {"code": 1006, "clean": False, "protocol": "", "texts": 0, "bytes": 0, "same": False}


class Page:
    """A page that opens a WebSocket to url and says what came of it."""

    def __init__(self, url, protocols):
        text = ("<!doctype html><script>" + EXCHANGE +
                f"exchange(new WebSocket({json.dumps(url)}, {json.dumps(protocols)}), (what) => "
                "fetch('/result', { method: 'POST', body: JSON.stringify(what) }));</script>")
        results = self.results = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, status, body=b""):
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path == "/":
                    self.answer(200, text.encode())
                else:
                    self.answer(404)

            def do_POST(self):
                results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(200)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def browse(folder, url, protocols=()):
    need("chromium")
    page = Page(url, list(protocols))
    profile = os.path.join(folder, "profile")
    browser = subprocess.Popen([*CHROMIUM, f"--user-data-dir={profile}", "--remote-debugging-port=0",
                                page.url], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env={**os.environ, "HOME": folder})
    try:
        return page.results.get(timeout=3 * DEADLINE)
    finally:
        browser.terminate()
        browser.wait(DEADLINE)
        page.close()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    need("node", "npm")
    folder = tmp_path_factory.mktemp("node")
    r = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "ws@8"],
                       cwd=folder, capture_output=True, text=True, timeout=4 * DEADLINE)
    if r.returncode:
        missing(f"npm has no ws for us: {r.stderr[-300:]}")
    return str(folder)


def run_node(folder, url, ca, protocols=()):
    script = os.path.join(folder, "exchange.js")
    with open(script, "w") as f:
        f.write("const WebSocket = require('ws'), fs = require('fs');" + EXCHANGE +
                f"const ws = new WebSocket({json.dumps(url)}, {json.dumps(list(protocols))}, "
                f"{{ ca: fs.readFileSync({json.dumps(ca)}) }});"
                "ws.onerror = () => {};"
                "exchange(ws, (what) => console.log(JSON.stringify(what)));")
    r = subprocess.run(["node", script], cwd=folder, capture_output=True, text=True,
                       timeout=3 * DEADLINE)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


@pytest.fixture(scope="module")
def relay(module_world):
    svc = module_world.add(Service(handler=echo))
    relay = module_world.relay(
        listeners=[{"name": "ws", "doors": ["websocket"]}],
        services=[{"name": "near.acme", "targets": [svc.address]}])
    module_world.agent(relay, {"echo": svc.address})
    return relay


@pytest.fixture(autouse=True)
def ends_in_order(relay):
    relay.wait_quiet()
    before = relay.metric("stream_ended_total"), relay.metric("stream_ended_total", reason="eof")
    yield
    relay.wait_quiet()
    after = relay.metric("stream_ended_total"), relay.metric("stream_ended_total", reason="eof")
    assert after[0] - before[0] == after[1] - before[1], relay.tail()


CASES = pytest.mark.parametrize("scheme,service,protocols,result", [
    ("ws", "near.acme", [], GOOD),
    ("wss", "near.acme", [], GOOD),
    ("ws", "echo.acme", ["binary"], {**GOOD, "protocol": "binary"}),
    ("wss", "echo.acme?token=unread", ["base64", "binary"], {**GOOD, "protocol": "binary"}),
    ("wss", "nobody.acme.else", [], REFUSED),
])


@CASES
def test_chromium(relay, tmp_path, scheme, service, protocols, result):
    url = f"{scheme}://127.0.0.1:{relay.port('ws')}/connect/{service}"
    assert browse(str(tmp_path), url, protocols) == result


@CASES
def test_npm_ws(relay, node_modules, certificates, scheme, service, protocols, result):
    url = f"{scheme}://127.0.0.1:{relay.port('ws')}/connect/{service}"
    assert run_node(node_modules, url, certificates.ca, protocols) == result
