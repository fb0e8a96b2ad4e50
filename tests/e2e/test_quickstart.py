# The quick starts of docs/quickstart.md for operator and owner, run as they are written.
#
# Each command goes to a shell as it stands there, in a folder of its own for each of the two people,
# which has the file that the document shows. Replaced are, in commands and files alike:
#
#   /etc/attest-relay, /run/attest-relay, /var/lib/attest-relay    folders of this test
#   attest.example.net:443, tcp:[::]:443, 127.0.0.1:8080, 10.0.0.0/8   this test's ports and loopback
#   attest-relay, attest-tunnel    the programs under test. In place of the system's CAs and DNS they
#       have SSL_CERT_FILE and --server-name; `enroll` the --config that is its default otherwise
#   sudo    nothing: we are one user. Hence no `-g attest-relay` for install
#   apt install    nothing: the programs are built. Only the packages' names are looked at
#   systemctl enable --now attest-relay    the ExecStart= of the unit, kept running by this test
#   the last command of the owner, which stays    kept running
#   the code, typed at a terminal    comes by standard input
#   curl's names    this test's CA, domain and, by --connect-to, address
import os
import re
import shlex
import subprocess
import textwrap

import pytest

from harness import DEADLINE, DOMAIN, ROOT, Program, binary, free_port
from streams import Service

CODE = re.compile(r"^    ([0-9A-Z]{4}(?:-[0-9A-Z]{4}){6})$", re.M)
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nproven"
RELAY_NAME = "attest.example.net"
SERVICE_NAME = f"kbs.acme.{RELAY_NAME}"


def sections():
    """{heading: [block, ...]}"""
    with open(os.path.join(ROOT, "docs", "quickstart.md")) as f:
        parts = re.split(r"^## (.*)\n", f.read(), flags=re.M)[1:]
    return {head: [textwrap.dedent(x).strip() for x in
                   re.findall(r"(?:^    .*\n)(?:^(?:    .*)?\n)*", text, re.M)]
            for head, text in zip(parts[::2], parts[1::2])}


def commands(block):
    """One for each line that is not continued, without what is said behind it."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.join(shlex.split(line, comments=True)) for line in lines]


def parts(head):
    """Files by their names, and lists of commands."""
    blocks = sections()[head]
    files = {m[1]: x for x in blocks if (m := re.match(r"# (\S+\.yaml)\n", x))}
    return files, [commands(x) for x in blocks if not x.startswith("# ")]


@pytest.mark.parametrize("head", ["The cloud operator", "The guest owner", "The node admin"])
def test_at_most_five_commands(head):
    _, lists = parts(head)
    assert 1 <= len(lists[0]) <= 5, lists[0]


class Person:
    """Somebody with a shell."""

    def __init__(self, world, folder, replaced):
        self.world, self.replaced = world, replaced
        self.folder = world.path(folder)
        os.mkdir(self.folder)
        self.env = {**os.environ, "LC_ALL": "C", "HOME": self.folder,
                    "SSL_CERT_FILE": world.certificates.ca, "UBSAN_OPTIONS": "halt_on_error=1"}

    def replace(self, text):
        for old, new in self.replaced:
            text = text.replace(old, new)
        return text

    def file(self, name, text):
        with open(os.path.join(self.folder, name), "w") as f:
            f.write(self.replace(text))

    def line(self, command):
        words = shlex.split(self.replace(command).removeprefix("sudo "))
        if words[0] == "attest-relay":
            words[0] = binary("ATTEST_RELAY")
            words += ["--config", self.replace("/etc/attest-relay/relay.yaml")]
        elif words[0] == "attest-tunnel":
            words[0] = binary("ATTEST_TUNNEL")
            words += ["--server-name", DOMAIN]
        return words

    def run(self, command, stdin=""):
        p = subprocess.run(self.line(command), cwd=self.folder, env=self.env, input=stdin,
                           capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert p.returncode == 0, p
        return p.stdout

    def keep(self, name, words):
        return Program(self.world, name, ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.folder,
                                          *words], self.env)


def people(world, service):
    """The operator and the owner; the port of the relay."""
    port = free_port()
    moved = [(old, world.path(new)) for old, new in
             [("/etc/attest-relay", "etc"), ("/run/attest-relay", "run"),
              ("/var/lib/attest-relay", "state")]]
    for _, folder in moved:
        os.mkdir(folder)
    replaced = moved + [
        ("tcp:[::]:443", f"tcp:127.0.0.1:{port}"), (f"{RELAY_NAME}:443", f"127.0.0.1:{port}"),
        (f"domain: {RELAY_NAME}", f"domain: {DOMAIN}"), ("127.0.0.1:8080", service),
        ("10.0.0.0/8", "127.0.0.0/8"), ("-g attest-relay ", "")]
    return Person(world, "operator", replaced), Person(world, "owner", replaced), port


def operate(world, operator):
    """The operator's commands: what the last one says, and the relay."""
    files, (todo, *_) = parts("The cloud operator")
    operator.file("relay.yaml", files["relay.yaml"])
    for name, path in zip(["cert.pem", "key.pem"], world.certificates.relay):
        with open(path) as f:
            operator.file(name, f.read())
    relay, said = None, ""
    for command in todo:
        if "apt install" in command:
            assert "attest-relay_" in command and "attestctl_" in command, command
        elif "systemctl" in command:
            assert command == "sudo systemctl enable --now attest-relay", command
            with open(os.path.join(ROOT, "packaging", "attest-relay.service")) as f:
                start = re.search(r"^ExecStart=(.*)", f.read(), re.M)[1]
            words = shlex.split(operator.replace(start))
            relay = operator.keep("relay", [binary("ATTEST_RELAY"), *words[1:]])
            relay.wait_log("ready")
        else:
            said = operator.run(command)
    return said, relay


def test_from_nothing_to_an_answer(world):
    context = world.certificates.server()

    def answer(conn):
        with context.wrap_socket(conn.sock, server_side=True) as tls:
            assert tls.recv(65536).startswith(b"GET / ")
            tls.sendall(PAGE)
            tls.unwrap()
    service = world.add(Service(handler=answer))
    operator, owner, port = people(world, service.address.removeprefix("tcp:"))
    said, relay = operate(world, operator)
    code = CODE.search(said)[1]

    _, (todo, (curl,)) = parts("The guest owner")
    agent = None
    for command in todo:
        if "apt install" in command:
            assert "attest-tunnel_" in command, command
        elif "attest-tunnel enroll" in command:
            owner.run(command, stdin=code + "\n")
        elif command is todo[-1]:
            agent = owner.keep("agent", owner.line(command))
        else:
            assert "attest-tunnel doctor" in command, command
            said = owner.run(command)
            assert "wrong: 0," in said and not re.search("^WRONG", said, re.M), said
            assert re.search("^OK .*credential", said, re.M), said
    agent.wait_log("connected to .* as acme: kbs.acme")

    name = f"kbs.acme.{DOMAIN}"
    words = shlex.split(curl.replace(SERVICE_NAME, name).replace("acme-ca.pem",
                                                                 world.certificates.ca))
    got = subprocess.run([*words, "-sS", "--connect-to", f"{name}:443:127.0.0.1:{port}"],
                         capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert got.stdout == "proven", got

    # as the operator is told to look
    for command in ("attestctl status", "attest-relay doctor"):
        assert command in open(os.path.join(ROOT, "docs", "quickstart.md")).read()
    status = subprocess.run([binary("ATTESTCTL"), "--socket", world.path("run/admin.sock"), "status"],
                            capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert re.search(r"^counts\.tunnels +1$", status.stdout, re.M), status
    assert "wrong: 0," in operator.run("attest-relay doctor"), relay.tail()
