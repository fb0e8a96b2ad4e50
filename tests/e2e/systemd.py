# What systemd does for a service, as far as a program can see it: it is told things, it hands over
# sockets, it keeps some between two runs. No cgroups, no units.
import array
import fcntl
import os
import re
import socket
import threading

from harness import DEADLINE, Program, wait_for

FIRST = 3  # SD_LISTEN_FDS_START
KEPT_FROM = 200  # descriptors of ours, out of the way of the child's


class Systemd:
    """NOTIFY_SOCKET, LISTEN_FDS and the store of descriptors of one service."""

    def __init__(self, world, name="notify", store=16):
        self.world, self.store_max = world, store
        self.path = world.path(f"{name}.sock")
        self.messages, self.seen = [], 0
        self.units, self.store = {}, {}  # of socket units; pushed by the program: name -> fd
        self.main_pid = None
        self.lock = threading.Lock()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.bind(self.path)
        threading.Thread(target=self.listen, daemon=True).start()

    # ---- what it is told ----

    def listen(self):
        while True:
            try:
                data, control, _, _ = self.sock.recvmsg(4096, 4096)
            except OSError:
                return
            if not data:
                return
            fds = array.array("i")
            for level, kind, what in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(what[:len(what) - len(what) % fds.itemsize])
            with self.lock:
                self.take(data.decode(), list(fds))

    def take(self, text, fds):
        words = dict(line.partition("=")[::2] for line in text.splitlines())
        name = words.get("FDNAME", "stored")
        if words.get("FDSTORE") == "1" and len(self.store) < self.store_max:
            assert re.fullmatch(r"[!-9;-~ ]{1,255}", name), name  # as systemd wants it: no colon
            for fd in fds:
                self.keep(self.store, name, fd)
        if words.get("FDSTOREREMOVE") == "1" and name in self.store:
            os.close(self.store.pop(name))
        if "MAINPID" in words:
            self.main_pid = int(words["MAINPID"])
        for fd in fds:
            os.close(fd)
        self.messages.append(text)

    @staticmethod
    def keep(where, name, fd):
        if name in where:
            os.close(where.pop(name))
        where[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, KEPT_FROM)

    def wait(self, word, timeout=DEADLINE):
        """The next message with it; those before are passed over."""
        def look():
            with self.lock:
                while self.seen < len(self.messages):
                    self.seen += 1
                    if word in self.messages[self.seen - 1]:
                        return self.messages[self.seen - 1]
        return wait_for(look, lambda: f"{word} told; so far {self.messages}", timeout)

    def count(self, word):
        with self.lock:
            return sum(word in m for m in self.messages)

    # ---- what it gives ----

    def listen_at(self, name, address):
        """A socket unit."""
        if address.startswith("unix:"):
            s = socket.socket(socket.AF_UNIX)
            s.bind(address.removeprefix("unix:"))
            s.listen(4096)
        else:
            host, port = address.removeprefix("tcp:").rsplit(":", 1)
            s = socket.create_server((host, int(port)), backlog=4096)
        with s:
            self.keep(self.units, name, s.fileno())

    def environment(self, **more):
        with self.lock:
            given = [*self.units.items(), *self.store.items()]
        return given, {"NOTIFY_SOCKET": self.path, "FDSTORE": str(self.store_max), **more}

    def run(self, name, argv, **more):
        """argv as the service: with all sockets there are."""
        given, env = self.environment(**more)
        moves = " ".join(f"{FIRST + i}<&{fd} {fd}<&-" for i, (_, fd) in enumerate(given))
        if given:
            env |= {"LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": ":".join(n for n, _ in given)}
            argv = ["/bin/bash", "-c", f'exec {moves}; LISTEN_PID=$$ exec "$0" "$@"', *argv]
        p = Program(self.world, name, argv, env, pass_fds=[fd for _, fd in given])
        self.main_pid = p.pid
        return p

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for fd in [*self.units.values(), *self.store.values()]:
            os.close(fd)
