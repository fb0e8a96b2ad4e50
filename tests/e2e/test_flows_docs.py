# The configs that docs/flows.md and docs/proxies.md show are taken by the programs.
import os
import re
import subprocess
import textwrap

import pytest

from harness import ROOT, binary

PROGRAMS = {"relay.yaml": "ATTEST_RELAY", "tunnel.yaml": "ATTEST_TUNNEL",
            "qgs-bridge.yaml": "ATTEST_BRIDGE"}
DOCS = ["flows.md", "proxies.md"]
FILES = ["cert.pem", "nodes-ca.pem", "node.pem", "key.pem", "node.key", "token",
         "proxy-credentials"]


def configs():
    """(name, text) of each block that begins with its file's name."""
    blocks = []
    for name in DOCS:
        with open(os.path.join(ROOT, "docs", name)) as f:
            blocks += re.findall(r"(?:^    .*\n)(?:^(?:    .*)?\n)*", f.read(), re.M)
    named = [(re.match(r"# (\S+\.yaml)\n", text), text) for text in map(textwrap.dedent, blocks)]
    return [(m[1], text) for m, text in named if m and m[1] in PROGRAMS]


def test_all_are_found():
    assert [name for name, _ in configs()].count("qgs-bridge.yaml") >= 2
    assert {name for name, _ in configs()} == set(PROGRAMS)
    assert [name for name, _ in configs()].count("relay.yaml") == 2


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
