# QGS and those who ask it for quotes: the stand-in as a program that takes commands, and the
# clients of tests/tools/quote-load.
import json
import os
import subprocess

from harness import DEADLINE, SANITIZER, Program, binary, wait_for


def flags(options):
    """client="tdx", shut_wr=True -> --client tdx --shut-wr"""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and one is not False:
                words.append("--" + name.replace("_", "-"))
                if one is not True:
                    words.append(str(one))
    return words


class StandIn(Program):
    """QGS at a Unix socket of its own, or at listen. Options are the program's."""

    def __init__(self, world, name="qgs", listen=None, **options):
        self.address = listen or "unix:" + world.path(f"{name}.socket")
        argv = [binary("ATTEST_QGS_STAND_IN"), "--until-eof", "--listen", self.address,
                *flags(options)]
        super().__init__(world, name, argv, stdin=subprocess.PIPE)
        self.answers = 0
        self.wait_output(rf"listening {self.address}\n")

    @property
    def path(self):
        return self.address.removeprefix("unix:")

    def say(self, command):
        """The answer to a command, which has taken effect."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        self.answers += 1

        def answer():
            assert self.running(), f"{self.name} ended\n{self.tail()}"
            lines = [x for x in self.output().splitlines(True) if x[0] == "{" and x[-1] == "\n"]
            return len(lines) >= self.answers and json.loads(lines[self.answers - 1])
        return wait_for(answer, lambda: f"an answer to {command!r}\n{self.tail()}", every=0.002)

    def tell(self, command):
        assert self.say(command) == {"done": True}, command

    def behave(self, how, count=None):
        self.tell(f"behave {how}" + (f" {count}" if count else ""))

    def stats(self):
        return self.say("stats")

    def wait_stats(self, timeout=DEADLINE, **wanted):
        """Until these counts are as wanted: the counts."""
        last = {}

        def look():
            last.update(self.stats())
            return all(last[k] == v for k, v in wanted.items())
        wait_for(look, lambda: f"{wanted} in {last}\n{self.tail()}", timeout, every=0.005)
        return last

    def inode(self):
        return os.stat(self.path).st_ino

    def finish(self, timeout=DEADLINE):
        try:
            super().finish(timeout)
        finally:
            self.process.stdin.close()


class Asking:
    """A quote-load that runs. It ends by itself, at the latest with its time limit."""

    def __init__(self, *words, **options):
        self.process = subprocess.Popen([binary("ATTEST_QUOTE_LOAD"), *words, *flags(options)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    @property
    def pid(self):
        return self.process.pid

    def result(self, timeout=4 * DEADLINE):
        """What it found out. That a request failed is in there, and no error."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"{self.process.args} did not end within {timeout} s") from None
        assert not SANITIZER.search(err), err
        assert self.process.returncode in (0, 1), f"{self.process.args}:\n{err}"
        result = json.loads(out)
        ok = result["outcome"] == "ok" if "outcome" in result else (
            result["ok"] == result["requests"])
        assert ok == (self.process.returncode == 0), result
        return result


def asking(address, **options):
    """One request, in the background."""
    return Asking("one", to=address, **options)


def ask(address, **options):
    """One request and how it ended: outcome, bytes, why..., as quote-load one prints it."""
    return asking(address, **options).result()


def vms_asking(**options):
    """Many VMs in the background: vms=N and to=ADDRESS, or vm=["NAME=ADDRESS", ...]."""
    return Asking("run", **options)


def ask_by_vms(**options):
    return vms_asking(**options).result()
