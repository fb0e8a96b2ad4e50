# Headless Chromium as tests drive it: the DevTools protocol over two pipes (--remote-debugging-pipe),
# messages ended by NUL.
import base64
import json
import os
import queue
import shutil
import subprocess
import threading

from harness import DEADLINE, need

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update",
             "--remote-debugging-pipe"]


class Chromium:
    """A browser with one page in it. What it complains of is in complaints."""

    def __init__(self, folder):
        need("chromium")
        self.profile = os.path.join(folder, "profile")
        to_read, self.to = os.pipe()
        self.of, of_write = os.pipe()

        def take_pipes():
            # 3 and 4 are what Chromium wants; copies first, or one may be overwritten by the other
            a, b = os.dup(to_read), os.dup(of_write)
            os.dup2(a, 3)
            os.dup2(b, 4)
        self.process = subprocess.Popen(
            ["chromium", *ARGUMENTS, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": folder}, preexec_fn=take_pipes, close_fds=False)
        os.close(to_read)
        os.close(of_write)
        self.answers, self.next = queue.Queue(), 0
        self.complaints = []
        threading.Thread(target=self.read, daemon=True).start()
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in "Page", "Runtime", "Log", "Network":
            self.send(f"{domain}.enable")

    def read(self):
        rest = b""
        while got := os.read(self.of, 65536):
            *whole, rest = (rest + got).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self.answers.put(message)
                else:
                    self.note(message["method"], message.get("params", {}))

    def note(self, method, params):
        if method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))

    def send(self, method, **params):
        self.next += 1
        message = {"id": self.next, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        answer = self.answers.get(timeout=2 * DEADLINE)
        assert answer["id"] == self.next, answer
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def go(self, url):
        self.send("Page.navigate", url=url)

    def run(self, expression):
        """The value of some JavaScript in the page."""
        r = self.send("Runtime.evaluate", expression=expression, returnByValue=True,
                      awaitPromise=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def look(self, width, height=900, scheme="light", motion="no-preference"):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion}])

    def picture(self, path, whole=True):
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as f:
            f.write(base64.b64decode(shot["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(DEADLINE)
        os.close(self.to)
        os.close(self.of)
        shutil.rmtree(self.profile, ignore_errors=True)
