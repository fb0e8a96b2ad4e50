# A real attestation-like exchange: clevis binds to and unlocks by a real tang, through the tunnel.
import os
import subprocess

import pytest

from harness import DEADLINE, free_port, need, wait_for
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
