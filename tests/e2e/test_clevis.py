# A real attestation-like exchange: clevis binds to and unlocks by a real tang, through the tunnel.
import os
import subprocess

import pytest

from harness import DEADLINE, free_port, need, wait_for
from node import at_once
from streams import dial

TANGD, KEYGEN = "/usr/libexec/tangd", "/usr/libexec/tangd-keygen"


@pytest.fixture(scope="module")
def tang(module_world):
    """tangd as tangd.socket runs it: one process per connection. Its port."""
    need("clevis", "jose", "socat", "curl", TANGD, KEYGEN)
    folder = module_world.path("tang-db")
    os.mkdir(folder)
    subprocess.run([KEYGEN, folder], check=True, capture_output=True)
    port = free_port()
    p = subprocess.Popen(["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork",
                          f"EXEC:{TANGD} {folder}"], stdin=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)

    def up():
        try:
            dial(f"tcp:127.0.0.1:{port}").close()
            return True
        except OSError:
            return False
    wait_for(up, "tangd answers")
    yield port
    p.terminate()
    p.wait(DEADLINE)


def clevis(world, *args, stdin, home=None):
    env = {"PATH": os.environ["PATH"], "HOME": home or world.folder, "LC_ALL": "C"}
    if home:
        env["CURL_HOME"] = home
    p = subprocess.run(["clevis", *args], input=stdin, capture_output=True, env=env, timeout=60)
    assert p.returncode == 0, p.stderr.decode()
    return p.stdout


@pytest.mark.parametrize("carrier", ["direct", "websocket"])
@pytest.mark.parametrize("door", ["static", "connect"])
def test_encrypt_and_decrypt(module_world, tang, door, carrier):
    world = module_world
    relay = world.relay(name=f"relay-{door}-{carrier}",
                        timeouts={"pickup": "2s"},
                        listeners=[{"name": "tang", "service": "tang.acme"}])
    agent = world.agent(relay, {"tang": f"tcp:127.0.0.1:{tang}"}, transport=carrier)
    home = None
    if door == "static":
        url = f"http://127.0.0.1:{relay.port('tang')}"
    else:
        # curl's own way: CONNECT to the relay, then plain HTTP inside
        home = world.path(f"curl-{carrier}")
        os.mkdir(home)
        with open(os.path.join(home, ".curlrc"), "w") as f:
            f.write(f"proxytunnel\nproxy = http://127.0.0.1:{relay.port()}\n")
        url = "http://tang.acme"
    secret = os.urandom(48)
    sealed = clevis(world, "encrypt", "tang", f'{{"url":"{url}"}}', "-y", stdin=secret, home=home)
    assert secret not in sealed and len(sealed) > 200
    before = relay.metric("streams_total")
    assert before >= 1
    assert clevis(world, "decrypt", stdin=sealed, home=home) == secret
    assert relay.metric("streams_total") > before
    # without the tunnel there is no key
    agent.stop()
    relay.wait_tunnels(0)
    relay.wait_quiet()
    env = {"PATH": os.environ["PATH"], "HOME": home or world.folder}
    p = subprocess.run(["clevis", "decrypt"], input=sealed, capture_output=True, env=env,
                       timeout=60)
    assert p.returncode != 0 and secret not in p.stdout
    relay.stop()


@pytest.fixture(scope="module")
def network_bound(module_world, tang):
    """A relay with tang behind it at a static door, and its URL there."""
    relay = module_world.relay(name="relay-bound", timeouts={"pickup": "20s"},
                               listeners=[{"name": "tang", "service": "tang.acme"}])
    module_world.agent(relay, {"tang": f"tcp:127.0.0.1:{tang}"}, name="agent-bound")
    return relay, f"http://127.0.0.1:{relay.port('tang')}"


def test_fifty_at_once(module_world, network_bound):
    """50 machines that boot together, each with a secret of its own."""
    relay, url = network_bound
    secrets = [os.urandom(32) for _ in range(5)]
    sealed = [clevis(module_world, "encrypt", "tang", f'{{"url":"{url}"}}', "-y", stdin=s)
              for s in secrets]
    before = relay.metric("streams_total")
    opened = at_once(50, lambda i: clevis(module_world, "decrypt", stdin=sealed[i % 5]))
    assert opened == [secrets[i % 5] for i in range(50)]
    assert relay.metric("streams_total") == before + 50
    relay.wait_quiet()


def luks(*args, stdin=b"", status=0):
    """cryptsetup or clevis luks; what it said."""
    p = subprocess.run(args, input=stdin, capture_output=True, timeout=60,
                       env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C"})
    assert p.returncode == status, (args, p.returncode, p.stderr)
    return p.stdout


@pytest.fixture(scope="module")
def disk(module_world, network_bound):
    """A LUKS2 volume in a file, bound to tang by its key slot 1."""
    need("/usr/sbin/cryptsetup", "clevis-luks-bind", "clevis-luks-pass")
    path = module_world.path("disk.img")
    with open(path, "wb") as f:
        f.truncate(20 << 20)
    luks("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", path, "-", stdin=b"by hand")
    luks("clevis", "luks", "bind", "-f", "-y", "-k", "-", "-d", path, "tang",
         f'{{"url":"{network_bound[1]}"}}', stdin=b"by hand")
    return path


def test_luks_passphrase(network_bound, disk):
    """The key slot's passphrase comes by the tunnel, and opens the volume; no tunnel, none comes."""
    relay, url = network_bound
    assert url.encode() in luks("clevis", "luks", "list", "-d", disk)
    before = relay.metric("streams_total")
    passphrase = luks("clevis", "luks", "pass", "-d", disk, "-s", "1")
    assert relay.metric("streams_total") == before + 1
    opens = ["cryptsetup", "open", "--test-passphrase", "--key-slot", "1", "--key-file", "-", disk]
    luks(*opens, stdin=passphrase)
    luks(*opens, stdin=passphrase[:-1], status=2)


def test_luks_unlock(disk):
    """The volume itself, where the kernel has what it takes."""
    with open("/proc/misc") as f:
        if "device-mapper" not in f.read() or os.geteuid() != 0:
            pytest.skip("the kernel has no device-mapper, or not for this user")
    name = f"attest-relay-test-{os.getpid()}"
    luks("clevis", "luks", "unlock", "-d", disk, "-n", name)
    try:
        assert os.path.exists(f"/dev/mapper/{name}")
    finally:
        luks("cryptsetup", "close", name)
