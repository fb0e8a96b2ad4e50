# The configs that docs/ shows are taken by the programs.
import os
import re
import subprocess
import textwrap

import pytest

from harness import ROOT, binary

PROGRAMS = {"relay.yaml": "ATTEST_RELAY", "tunnel.yaml": "ATTEST_TUNNEL",
            "qgs-bridge.yaml": "ATTEST_BRIDGE"}
DOCS = ["flows.md", "proxies.md", "quickstart.md",
        *sorted(f"howto/{x}" for x in os.listdir(os.path.join(ROOT, "docs", "howto")))]
FILES = ["cert.pem", "certificate.pem", "nodes-ca.pem", "node.pem", "key.pem", "node.key", "token",
         "proxy-credentials", "owners-ca.pem", "owners-ca.key"]


def blocks():
    """(name, text, document) of each block that begins with its file's name."""
    for doc in DOCS:
        with open(os.path.join(ROOT, "docs", doc)) as f:
            found = re.findall(r"(?:^    .*\n)(?:^(?:    .*)?\n)*", f.read(), re.M)
        for text in map(textwrap.dedent, found):
            named = re.match(r"# (\S+\.yaml)\n", text)
            if named and named[1] in PROGRAMS:
                yield named[1], text, doc


def configs():
    return [(name, text) for name, text, _ in blocks()]


def test_all_are_found():
    names = [name for name, _ in configs()]
    assert all(names.count(name) >= 5 for name in PROGRAMS), names
    for doc in DOCS:
        assert doc == "howto/kata.md" or any(x == doc for _, _, x in blocks()), doc


@pytest.mark.parametrize("at", range(len(configs())))
def test_config(world, at):
    name, text = configs()[at]
    certificate, key = world.certificates.relay
    for file in FILES:
        with open(world.path(file), "w") as to, open(key if "key" in file else certificate) as of:
            to.write(world.token()[0] + "\n" if file == "token" else of.read())
        os.chmod(world.path(file), 0o600)
    with open(world.path(name), "w") as f:
        f.write(text)
    told = subprocess.run([binary(PROGRAMS[name]), "--check-config", "--config", world.path(name)],
                          capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stderr
