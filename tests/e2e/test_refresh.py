# Certificates, keys, CAs and revocation lists are taken anew when their files change, in the
# sandbox, however the files are laid out; the config is not.
import os
import shutil
import ssl

import pytest

from harness import DOMAIN, wait_for
from pki import Authority
from streams import Service, TlsHttpConn, dial, http_connect
from test_reload import life, names, says, start, static, to
from test_revocation import Life, all_finish
from test_sandbox import assert_locked


@pytest.fixture
def one(world):
    return world.add(Service(handler=names(b"one")))


def link(target, path):
    os.symlink(target, path + ".new")
    os.rename(path + ".new", path)


class Secret:
    """As Kubernetes mounts one: files are links through ..data, which is exchanged."""

    def __init__(self, folder, pair):
        self.folder, self.n = folder, 0
        os.mkdir(folder)
        self.write(*pair)
        for f in "tls.crt", "tls.key":
            os.symlink(f"..data/{f}", os.path.join(folder, f))
        self.pair = [os.path.join(folder, f) for f in ("tls.crt", "tls.key")]

    def write(self, certificate, key):
        old, self.n = self.n, self.n + 1
        new = os.path.join(self.folder, f"..v{self.n}")
        os.mkdir(new)
        shutil.copy(certificate, os.path.join(new, "tls.crt"))
        shutil.copy(key, os.path.join(new, "tls.key"))
        link(f"..v{self.n}", os.path.join(self.folder, "..data"))
        if old:
            shutil.rmtree(os.path.join(self.folder, f"..v{old}"))


class Certbot:
    """live/NAME has links to archive/NAME, one after the other."""

    def __init__(self, folder, pair):
        self.live, self.archive = os.path.join(folder, "live/x"), os.path.join(folder, "archive/x")
        os.makedirs(self.live)
        os.makedirs(self.archive)
        self.n = 0
        self.pair = [os.path.join(self.live, f) for f in ("fullchain.pem", "privkey.pem")]
        self.write(*pair)

    def half(self, i, source):
        kind = ("fullchain", "privkey")[i]
        shutil.copy(source, os.path.join(self.archive, f"{kind}{self.n}.pem"))
        link(f"../../archive/x/{kind}{self.n}.pem", self.pair[i])

    def write(self, certificate, key):
        self.n += 1
        self.half(0, certificate)
        self.half(1, key)


def serial(world, address):
    context = ssl.create_default_context(cafile=world.certificates.ca)
    with context.wrap_socket(dial(address).sock, server_hostname=DOMAIN) as s:
        return s.getpeercert()["serialNumber"]


@pytest.mark.parametrize("layout", [Secret, Certbot])
def test_files_change(world, one, tmp_path, layout):
    first, second = (world.certificates.issue(n, f"DNS:{DOMAIN}") for n in ("first", "second"))
    files = layout(str(tmp_path / "tls"), first)
    relay = start(world, static("kbs"), services=[to("kbs.acme", one)], pair=files.pair)
    assert_locked(relay)
    lives = [life(relay.listeners["kbs"])]
    lives.append(Life(says(http_connect(TlsHttpConn(
        dial(relay.listeners["front"]), world.certificates.client(), name=DOMAIN), "kbs.acme"),
        b"one")))
    old = serial(world, relay.listeners["front"])
    relay.write_config(clients=[{"name": "nobody", "networks": ["192.0.2.1"], "services": ["*"]}])
    files.write(*second)
    wait_for(lambda: serial(world, relay.listeners["front"]) != old, "the new certificate")
    relay.wait_log("reload: certificates and revocation lists are those of now")
    life(relay.listeners["kbs"]).conn.close()  # the config has not been read
    all_finish(lives)


def test_half_a_pair(world, one, tmp_path):
    first, second = (world.certificates.issue(n, f"DNS:{DOMAIN}") for n in ("first", "second"))
    files = Certbot(str(tmp_path / "tls"), first)
    relay = start(world, pair=files.pair)
    old = serial(world, relay.listeners["front"])
    files.n += 1
    files.half(0, second[0])
    relay.wait_log("reload: .*does not belong to the certificate")
    assert serial(world, relay.listeners["front"]) == old
    files.half(1, second[1])
    wait_for(lambda: serial(world, relay.listeners["front"]) != old, "the new certificate")
    assert relay.count("does not belong to the certificate") == 1  # once for each change


@pytest.mark.parametrize("renamed", [False, True])
def test_revocation_list_changes(world, one, tmp_path, renamed):
    """A list that is written anew ends what it revokes, without a signal, by whatever name it came."""
    ca = Authority(tmp_path, "nodes")
    pairs = [ca.issue(n, f"DNS:{n}.example") for n in ("n1", "n2")]
    ca.write_crl()
    relay = start(world, {"name": "nodes", "doors": ["connect"], "client_ca": ca.pem,
                          "client_crl": ca.crl}, services=[to("kbs.acme", one)])
    lives = []
    for pair in pairs:
        context = world.certificates.client()
        context.load_cert_chain(*pair)
        lives.append(Life(says(http_connect(TlsHttpConn(
            dial(relay.listeners["nodes"]), context, name=DOMAIN), "kbs.acme"), b"one")))
    ca.revoke(pairs[0])
    if renamed:
        relay.reload(listeners=[{**x, "name": x["name"] + "2"} for x in relay.config["listeners"]])
    ca.write_crl()
    wait_for(lambda: lives[0].how, "the revoked one's end")
    assert lives[0].how == "aborted"
    all_finish(lives[1:])
