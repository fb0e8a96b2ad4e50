# attestctl against running daemons: each command, both ways to print, and its exit statuses.
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import threading

import pytest

from harness import DEADLINE, binary, wait_for
from streams import Aborted, Service, dial, echo


TERMINAL = {**os.environ, "TERM": "xterm"}


@pytest.fixture
def svc(world):
    return world.add(Service(handler=echo))


def ctl(socket, *args, status=0, env=None):
    p = subprocess.run([binary("ATTESTCTL"), "--socket", socket, *map(str, args)], capture_output=True,
                       text=True, timeout=2 * DEADLINE, env={**os.environ, **(env or {})})
    assert p.returncode == status, (args, p.returncode, p.stdout, p.stderr)
    assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
    return p.stdout if status == 0 else p.stderr


def rows(text):
    """A table's, each a dict by its titles; cells of these tests have no blanks in them."""
    lines = [line.split() for line in text.splitlines()]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


@pytest.fixture
def relay(world, svc):
    r = world.relay(listeners=[{"name": "direct", "service": "echo.acme"},
                               {"name": "kbs", "service": "kbs.acme"}],
                    services=[{"name": "echo.acme", "targets": [svc.address]}],
                    admin=f"unix:{world.path('admin.sock')}")
    r.socket = world.path("admin.sock")
    return r


def held(address, n):
    streams = [dial(address) for _ in range(n)]
    for s in streams:
        s.send(b"x")
        assert s.read_exactly(1) == b"x"
    return streams


def test_lists(world, svc, relay):
    world.agent(relay, {"kbs": svc.address}, instance="one")
    streams = held(relay.listeners["direct"], 2) + held(relay.listeners["kbs"], 1)
    assert {r["NAME"] for r in rows(ctl(relay.socket, "listeners"))} == {"front", "direct", "kbs"}
    tunnel, = rows(ctl(relay.socket, "tunnels"))
    assert (tunnel["OWNER"], tunnel["INSTANCE"], tunnel["STREAMS"]) == ("acme", "one", "1")
    listed = rows(ctl(relay.socket, "streams"))
    assert [r["SERVICE"] for r in listed].count("echo.acme") == 2 and len(listed) == 3
    assert len(rows(ctl(relay.socket, "streams", "--service", "kbs.acme"))) == 1
    assert len(rows(ctl(relay.socket, "streams", "--of-tunnel", tunnel["ID"]))) == 1
    assert len(rows(ctl(relay.socket, "streams", "--limit", 2))) == 2
    assert ctl(relay.socket, "streams", "--owner", "nobody") == ""
    service = {r["SERVICE"]: r for r in rows(ctl(relay.socket, "services"))}
    assert service["kbs.acme"]["READY"] == "yes" and service["kbs.acme"]["TUNNELS"] == "1"
    owner, = rows(ctl(relay.socket, "owners"))
    assert owner["OWNER"] == "acme" and owner["STREAMS"].startswith("3/")
    limits, sources = ctl(relay.socket, "limits").split("\n\n")
    assert any(r["SCOPE"] == "owner" for r in rows(limits))
    source, = rows(sources)
    assert source["SOURCE"] == "127.0.0.1" and source["BLOCKED"] == "no" and source["STREAMS"] == "3"
    assert ctl(relay.socket, "failures") == ""
    status = ctl(relay.socket, "status")
    assert re.search(r"^counts.streams +3$", status, re.M) and re.search(r"^draining +false$", status, re.M)
    assert "name: \"direct\"" in ctl(relay.socket, "config")
    for what in ("status", "listeners", "tunnels", "streams", "services", "owners", "limits", "failures",
                 "config"):
        answer = json.loads(ctl(relay.socket, "--json", what))
        assert isinstance(answer, dict) and answer
    top = ctl(relay.socket, "top")
    assert "\x1b" not in top and top.count("echo.acme") == 2
    for s in streams:
        s.close()


def test_pages_are_gathered(world, svc, relay):
    """More streams than one page has."""
    relay.reload(limits={"connections": 4000, "per_source": {"connections": 4000, "streams": 4000,
                 "opens_per_second": 100000}, "per_owner": {"streams": 4000, "opens_per_second": 100000}})
    streams = held(relay.listeners["direct"], 1100)
    answer = json.loads(ctl(relay.socket, "--json", "streams"))["streams"]
    assert len(answer) == 1100 and len({s["id"] for s in answer}) == 1100
    assert len(json.loads(ctl(relay.socket, "--json", "--limit", 1050, "streams"))["streams"]) == 1050
    for s in streams:
        s.close()
    relay.wait_quiet()


def test_changes(world, svc, relay):
    streams = held(relay.listeners["direct"], 2)
    port = streams[0].sock.getsockname()[1]
    first, = json.loads(ctl(relay.socket, "--json", "--client", f"tcp:127.0.0.1:{port}", "streams"))["streams"]
    ctl(relay.socket, "close", "stream", first["id"])
    with pytest.raises(Aborted):
        streams[0].read_all()
    assert "none of this number" in ctl(relay.socket, "close", "stream", first["id"], status=1)
    ctl(relay.socket, "log", "debug")
    assert "expected error" in ctl(relay.socket, "log", "loud", status=1)
    relay.write_config(owners=[world.owner("acme"), world.owner("more")])
    ctl(relay.socket, "reload")
    assert len(rows(ctl(relay.socket, "owners"))) == 2
    relay.write_config(timeouts={"idle": "forever"})
    assert "idle" in ctl(relay.socket, "reload", status=1)
    assert ctl(relay.socket, "ready") == "ready\n"
    assert ctl(relay.socket, "ready", "echo.acme") == "ready\n"
    ctl(relay.socket, "ready", "kbs.acme", status=1)
    ctl(relay.socket, "ready", "no.body", status=1)
    ctl(relay.socket, "drain")
    ctl(relay.socket, "ready", status=1)
    streams[1].close()
    assert relay.wait() == 0
    ctl(relay.socket, "status", status=3)


def test_usage(world):
    none = world.path("none.sock")
    for args in ([], ["nothing"], ["status", "x"], ["close", "stream"], ["close", "cat", "1"],
                 ["close", "stream", "1x"], ["log"], ["--limit", "0", "streams"],
                 ["--limit", "x", "streams"], ["--of-tunnel", "x", "streams"], ["--bad"]):
        ctl(none, *args, status=2)
    assert f"{none}: No such file or directory\n" in ctl(none, "status", status=3)
    assert "Usage" in ctl(none, "--help")
    assert ctl(none, "--version").startswith("attestctl ")


def test_which_socket(world, svc, relay):
    """The environment's; and an address as configs have it."""
    p = subprocess.run([binary("ATTESTCTL"), "ready"], capture_output=True, text=True, timeout=DEADLINE,
                       env={**os.environ, "ATTESTCTL_SOCKET": relay.socket})
    assert p.returncode == 0 and p.stdout == "ready\n"
    assert ctl(f"unix:{relay.socket}", "ready") == "ready\n"


def test_other_daemons_lists(world, svc, relay):
    """What a daemon does not have it says, in words."""
    assert "no such thing" in ctl(relay.socket, "vms", status=1)
    assert "no such thing" in ctl(relay.socket, "relays", status=1)


class Top:
    """attestctl top on a terminal of its own."""

    def __init__(self, relay, env=TERMINAL):
        program = binary("ATTESTCTL")  # before there are two of us
        self.text = b""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execve(program, ["attestctl", "--socket", relay.socket, "top"], env)

    def wait_drawn(self, what, times=1):
        def drawn():
            self.text += os.read(self.terminal, 65536)
            return self.text.count(what) >= times
        wait_for(drawn, f"{what} on the terminal")

    def end(self):
        """What it drew until it ended is in text; its exit status."""
        with contextlib.suppress(OSError):
            while chunk := os.read(self.terminal, 65536):
                self.text += chunk
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_top_on_a_terminal(world, svc, relay):
    """It draws until q, fits the terminal, and gives it back."""
    streams = held(relay.listeners["direct"], 30)
    top = Top(relay)
    fcntl.ioctl(top.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    top.wait_drawn(b"\x1b[H\x1b[2J", times=2)
    os.write(top.terminal, b"q")
    assert top.end() == 0
    assert top.text.rstrip().endswith(b"\x1b[?1049l")
    last = top.text.split(b"\x1b[H\x1b[2J")[-1].split(b"\x1b[?1049l")[0].decode()
    lines = last.splitlines()
    assert len(lines) <= 20 and all(len(line) <= 60 for line in lines), lines
    for s in streams:
        s.close()


def test_interrupted(world, svc, relay):
    top = Top(relay)
    top.wait_drawn(b"attest-relay")
    os.kill(top.pid, signal.SIGINT)
    assert top.end() == 0
    assert b"\x1b[?1049l" in top.text


# ---- daemons that go away, and what is none ----

class Odd:
    """Listens at a socket and answers each connection's requests with the next of these bytes."""

    def __init__(self, world, *answers, name="odd.sock"):
        self.path = world.path(name)
        self.answers = list(answers)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        for answer in self.answers:
            s, _ = self.listening.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                head += s.recv(65536)
            try:
                s.sendall(answer)
            except BrokenPipeError:
                pass
            s.close()


def said(body, status=b"200 OK", length=None):
    return (b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % (status, len(body) if length is None else length)) + body


def test_odd_answers(world):
    """Whatever it is that answers: an exit status, a line, and nothing that a terminal obeys."""
    good = b'{"streams": []}'
    for n, (answer, status, words) in enumerate([
            (said(good, length=100), 3, "odd"),               # it ends in the middle of its answer
            (said(good[:9]), 1, "is this the socket of"),     # what it says is whole, and no JSON
            (said(b"<html>"), 1, "is this the socket of"),
            (said(b""), 1, "is this the socket of"),
            (said(b"[1]"), 1, "is this the socket of"),
            (said(b"null"), 1, "is this the socket of"),
            (b"", 3, "odd"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", 3, "odd"),
            (said(b"x" * 70_000_000), 3, "odd"),              # more than it takes
            (said(b'{"error": {"code": "x", "message": "a\\u001b[31mb"}}', b"400 No"), 1, "a?[31mb (400)"),
            (said(b'{"error": "no"}', b"500 No"), 1, "said no (500)"),
    ]):
        odd = Odd(world, answer, name=f"odd{n}.sock")
        error = ctl(odd.path, "streams", status=status)
        assert words in error and "\x1b" not in error and error.count("\n") == 1, error


def test_odd_shapes(world):
    """Members that are something else are as good as none; a page that leads nowhere is the last."""
    shapes = [b'{"streams": 5, "problems": "x", "counts": [1]}', b'{"streams": {"a": 1}}',
              b'{"streams": [5, null, [], {"id": {}}]}', b'{"problems": [1], "counts": 7}']
    for n, shape in enumerate(shapes):
        for what in ("streams", "status", "top", "owners", "config"):
            ctl(Odd(world, said(shape), said(shape), name=f"{what}{n}.sock").path, what)
    stays = said(b'{"streams": [{"id": 7}], "next": 7}')
    assert rows(ctl(Odd(world, *[stays] * 3).path, "streams")) == [{"ID": "7"}] * 2
    evil = said(b'{"program": "a\\u001b[2Jb", "counts": {"\\u001b]0;x\\u0007": 1}, "streams": []}')
    assert "\x1b" not in ctl(Odd(world, evil, evil, name="evil.sock").path, "top")


def test_top_says_why_it_ended(world, svc, relay):
    """The daemon goes away: the error stands on the screen that is given back."""
    top = Top(relay)
    top.wait_drawn(b"attest-relay")
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    assert top.end() == 3
    assert top.text.count(b"\x1b[?1049l") == 1
    assert relay.socket.encode() in top.text.split(b"\x1b[?1049l")[1], top.text


def test_top_on_a_dumb_terminal(world, svc, relay):
    """It is told once, in nothing but text."""
    top = Top(relay, {**TERMINAL, "TERM": "dumb"})
    assert top.end() == 0
    assert top.text.startswith(b"attest-relay") and b"\x1b" not in top.text


def test_not_allowed(world, svc, relay):
    """Who may not open the socket is told so."""
    if os.getuid() != 0:
        pytest.skip("needs another user")
    os.chmod(world.folder, 0o755)
    p = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", binary("ATTESTCTL"),
                        "--socket", relay.socket, "status"], capture_output=True, text=True, timeout=DEADLINE)
    assert p.returncode == 3 and f"{relay.socket}: Permission denied\n" in p.stderr, p.stderr
