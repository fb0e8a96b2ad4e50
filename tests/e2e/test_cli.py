# The command lines: what users type, what they are told, and what must never be seen.
import glob
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess

import pytest
import yaml

from harness import DOMAIN, ROOT, Agent, Program, binary, data, free_port, token_hash, wait_for
from streams import Doors, Service, dial, echo, roundtrip

RELAY, TUNNEL = "ATTEST_RELAY", "ATTEST_TUNNEL"


def run(program, *args, timeout=30, **more):
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C",
           "ASAN_OPTIONS": "detect_leaks=1:exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1"}
    p = subprocess.run([binary(program), *args], capture_output=True, text=True, timeout=timeout,
                       env=env, stdin=subprocess.DEVNULL, **more)
    assert "Sanitizer" not in p.stderr and "runtime error:" not in p.stderr, p.stderr
    return p


def ssl_version():
    """That of the library, by the tool that uses the same one; the headers may be older."""
    p = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True)
    return re.search(r"Library: OpenSSL (\S+)", p.stdout)[1]


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    return str(path)


def test_log_level_of_the_relay(world):
    """A flag as the other two programs have it, above the file's."""
    path = world.relay().path
    p = run(RELAY, "--config", path, "--log-level", "debug", "--dump-config")
    assert p.returncode == 0 and yaml.safe_load(p.stdout)["log"]["level"] == "debug"
    p = run(RELAY, "doctor", "--config", path, "--log-level", "debug", "--takeover")
    assert p.returncode < 2  # it takes the daemon's options
    p = run(RELAY, "--config", path, "--log-level", "loud")
    assert p.returncode == 2 and "--log-level loud: expected error, warning, info or debug" in p.stderr


LIBRARIES = ["OpenSSL", "libevent", "nghttp2", "json-c", "libyaml", "libsystemd", "libseccomp"]


@pytest.mark.parametrize("program,name", [(RELAY, "attest-relay"), (TUNNEL, "attest-tunnel")])
def test_help_and_version(program, name):
    p = run(program, "--help")
    assert p.returncode == 0 and p.stderr == ""
    assert name in p.stdout and "--config" in p.stdout
    if program == RELAY:
        assert "--check-config" in p.stdout and "--dump-config" in p.stdout
        assert "token new" in p.stdout
    else:
        for flag in ("--relay", "--token-file", "--service", "--ca-file", "--transport", "--once"):
            assert flag in p.stdout, flag
    assert all(len(line) <= 100 for line in p.stdout.splitlines())
    p = run(program, "--version")
    assert p.returncode == 0
    first, *further = p.stdout.splitlines()
    assert re.fullmatch(name + r" \d+\.\d+\.\d+", first), p.stdout
    assert [re.match(r"[\w-]+", line)[0] for line in further] == LIBRARIES
    assert f"OpenSSL {ssl_version()}" in further, p.stdout


@pytest.mark.parametrize("program,args", [
    (RELAY, []), (RELAY, ["--nonsense"]), (RELAY, ["--config"]), (RELAY, ["surplus"]),
    (RELAY, ["token"]), (RELAY, ["token", "old"]), (RELAY, ["--config", "x", "surplus"]),
    (TUNNEL, []), (TUNNEL, ["--nonsense"]), (TUNNEL, ["--relay", "tcp:127.0.0.1:1"]),
    (TUNNEL, ["--relay", "nonsense", "--token-file", "x", "--service", "kbs=tcp:127.0.0.1:1"]),
    (TUNNEL, ["--relay", "tcp:127.0.0.1:1", "--token-file", "x", "--service", "kbs"]),
    (TUNNEL, ["--relay", "tcp:127.0.0.1:1", "--token-file", "x", "--service",
              "kbs=tcp:127.0.0.1:1", "--transport", "pigeon"]),
    (TUNNEL, ["--relay", "tcp:127.0.0.1:1", "--token-file", "x", "surplus"]),
], ids=lambda x: " ".join(x) if isinstance(x, list) else x)
def test_usage_errors(program, args):
    p = run(program, *args)
    assert p.returncode == 2, (p.returncode, p.stderr)
    assert p.stderr and p.stdout == ""


def test_token_new():
    seen = set()
    for _ in range(3):
        p = run(RELAY, "token", "new")
        assert p.returncode == 0
        token = re.search(r"\bart_[A-Za-z0-9_-]{43}\b", p.stdout + p.stderr).group()
        line = re.search(r"sha256:[0-9a-f]{64}", p.stdout + p.stderr).group()
        assert line == "sha256:" + hashlib.sha256(token.encode()).hexdigest()
        assert (p.stdout + p.stderr).count(token) == 1
        seen.add(token)
    assert len(seen) == 3


def relay_yaml(certificates, **more):
    return {
        "domain": DOMAIN,
        "tls": {"certificate": certificates.relay[0], "key": certificates.relay[1]},
        "listeners": [
            {"name": "front", "address": "tcp:[::1]:8443", "doors": ["tunnel", "sni", "connect"]},
            {"name": "kbs", "address": "unix:/run/kbs.sock", "service": "kbs.acme"},
            {"name": "vs", "address": "vsock:any:4050", "service": "kbs.acme"}],
        "owners": [{"name": "acme", "tokens": [token_hash("x" * 30)], "services": ["kbs"]}],
        "services": [{"name": "kbs.acme", "hostnames": ["kbs.acme.example"], "idle": "90s",
                      "targets": ["tunnel", "tcp:10.0.0.7:8080", "hybrid:/run/vm.sock:7"]}],
        "timeouts": {"pickup": "1500ms", "idle": "1h"},
        "limits": {"stream_window": "1MiB"},
        **more}


def test_check_config(tmp_path, certificates):
    path = write(tmp_path / "r.yaml", yaml.safe_dump(relay_yaml(certificates)))
    p = run(RELAY, "--config", path, "--check-config")
    assert p.returncode == 0, p.stderr
    p = run(RELAY, "--config", str(tmp_path / "absent.yaml"), "--check-config")
    assert p.returncode == 1 and "absent.yaml" in p.stderr and "No such file" in p.stderr


def test_dump_config_goes_round(tmp_path, certificates):
    """What is dumped loads again and dumps the same; it holds the defaults too."""
    path = write(tmp_path / "r.yaml", yaml.safe_dump(relay_yaml(certificates)))
    first = run(RELAY, "--config", path, "--dump-config")
    assert first.returncode == 0, first.stderr
    again = write(tmp_path / "again.yaml", first.stdout)
    second = run(RELAY, "--config", again, "--dump-config")
    assert second.returncode == 0 and second.stdout == first.stdout
    dumped = yaml.safe_load(first.stdout)
    assert dumped["listeners"][0]["name"] == "front"
    assert set(dumped["listeners"][0]["doors"]) == {"tunnel", "sni", "connect"}
    assert dumped["services"][0]["targets"] == ["tunnel", "tcp:10.0.0.7:8080",
                                                "hybrid:/run/vm.sock:7"]
    assert dumped["timeouts"]["handshake"] == "10s" and dumped["timeouts"]["idle"] in ("1h", "60min")
    assert str(dumped["limits"]["stream_window"]) in ("1MiB", "1048576")
    assert dumped["owners"][0]["tokens"] == [token_hash("x" * 30)]


def test_config_errors(tmp_path, certificates):
    """All of them in one go, each as file:line:column and what was expected."""
    path = write(tmp_path / "bad.yaml", f"""\
workers: many
domain: {DOMAIN}
tls: {{ certificate: {certificates.relay[0]}, key: {certificates.relay[1]} }}
listenerz: []
listeners:
  - {{ name: front, address: "tcp:127.0.0.1", doors: [tunnel, windows] }}
  - {{ name: front, address: "tcp:127.0.0.1:99999", service: kbs.acme }}
owners:
  - name: acme
    tokens: [ "md5:abc" ]
  - name: "not a name"
    tokens: []
timeouts: {{ idle: soon, pickup: -3s }}
""")
    for flag in ("--check-config", "--dump-config", None):
        p = run(RELAY, "--config", path, *([flag] if flag else []))
        assert p.returncode == 1, p.stderr
        at = [tuple(map(int, m)) for m in re.findall(rf"{re.escape(path)}:(\d+):(\d+): \S", p.stderr)]
        lines = {line for line, _ in at}
        assert {1, 4, 6, 7, 10, 11, 12, 13} <= lines, p.stderr
        assert [x for x, _ in at] == sorted(x for x, _ in at), "in the order of the file"
        assert "listenerz" in p.stderr and "windows" in p.stderr and "soon" in p.stderr
        assert all(column >= 1 for _, column in at)
    # the column points at the value
    line, column = next(x for x in at if x[0] == 1)
    assert column == len("workers: ") + 1


@pytest.mark.parametrize("text,line", [
    ("listeners: [\n", None), ("a: b: c\n", 1), ("\t- x\n", 1), ("[]\n", 1), ("", None),
    ("listeners: *nobody\n", 1), ("domain: a\ndomain: b\n", 2),
], ids=["unclosed", "colons", "tab", "list", "empty", "alias", "twice"])
def test_no_yaml_at_all(tmp_path, text, line):
    path = write(tmp_path / "odd.yaml", text)
    p = run(RELAY, "--config", path, "--check-config")
    assert p.returncode == 1
    assert path in p.stderr
    if line:
        assert f"{path}:{line}:" in p.stderr, p.stderr


def test_auth_configured_but_empty(tmp_path, certificates):
    """An owner without any credential is an error, not an open door."""
    for owner in ({"name": "acme", "tokens": []}, {"name": "acme"}):
        path = write(tmp_path / "r.yaml", yaml.safe_dump(relay_yaml(certificates, owners=[owner])))
        p = run(RELAY, "--config", path, "--check-config")
        assert p.returncode == 1 and re.search(rf"{re.escape(path)}:\d+:\d+: ", p.stderr), p.stderr


def test_settings_of_other_versions(tmp_path, certificates):
    """Restrictions this version cannot keep are refused, never dropped in silence."""
    path = write(tmp_path / "r.yaml", yaml.safe_dump(relay_yaml(certificates, client_ca="ca.pem")))
    p = run(RELAY, "--config", path, "--check-config")
    assert p.returncode == 1
    assert "client_ca: not supported by this version" in p.stderr, p.stderr


def test_unusable_certificates(tmp_path, certificates):
    """A key of another certificate, or no file: said at the start, with the path."""
    for key in (certificates.service[1], str(tmp_path / "absent.key")):
        config = relay_yaml(certificates, tls={"certificate": certificates.relay[0], "key": key},
                            listeners=[{"name": "front", "doors": ["tunnel"],
                                        "address": f"tcp:127.0.0.1:{free_port()}"}])
        path = write(tmp_path / "r.yaml", yaml.safe_dump(config))
        p = run(RELAY, "--config", path)
        assert p.returncode == 1 and key in p.stderr, p.stderr


def test_address_in_use(tmp_path, certificates):
    with socket.create_server(("127.0.0.1", 0)) as s:
        address = f"tcp:127.0.0.1:{s.getsockname()[1]}"
        config = relay_yaml(certificates, listeners=[
            {"name": "front", "address": address, "doors": ["connect"]}])
        path = write(tmp_path / "r.yaml", yaml.safe_dump(config))
        p = run(RELAY, "--config", path)
        assert p.returncode == 1 and address in p.stderr and "in use" in p.stderr, p.stderr


def test_as_many_workers_as_processors_it_may_use(world):
    """As in a container with a part of a large machine: not one for each that the machine has."""
    path = world.path("relay.yaml")
    with open(path, "w") as f:
        yaml.safe_dump({"listeners": [{"name": "a", "address": "tcp:127.0.0.1:0",
                                       "doors": ["sni"]}]}, f)
    one = str(min(os.sched_getaffinity(0)))
    relay = Program(world, "relay", ["taskset", "-c", one, binary("ATTEST_RELAY"), "--config", path])
    relay.wait_log("ready, 1 workers")


def test_any_free_port(world):
    """Port 0 to listen: the log says which it became."""
    relay = world.relay(listeners=[{"name": "any", "address": "tcp:127.0.0.1:0",
                                    "doors": ["connect"]}])
    port = int(relay.wait_log(r"127\.0\.0\.1:(?!0\b)(?!%d\b)(\d+)" % relay.port()).group(1))
    with dial(f"tcp:127.0.0.1:{port}") as c:
        c.send(b"CONNECT nobody.nowhere:1 HTTP/1.1\r\n\r\n")
        assert b"404" in c.recv()


def test_unix_paths(world):
    """Left behind by a dead relay: taken over. Served by a living one: not. Gone after its end."""
    path = world.path("door")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    relay = world.relay(listeners=[{"name": "u", "address": f"unix:{path}", "doors": ["connect"]}])
    dial(f"unix:{path}").close()
    other = write(world.path("other.yaml"), yaml.safe_dump(
        {"listeners": [{"name": "u", "address": f"unix:{path}", "doors": ["connect"]}],
         "owners": [world.owner()]}))
    p = run(RELAY, "--config", other)
    assert p.returncode == 1 and path in p.stderr, p.stderr
    dial(f"unix:{path}").close()
    relay.stop()
    assert not os.path.exists(path)
    # what is no socket is never removed
    write(path, "precious")
    p = run(RELAY, "--config", other)
    assert p.returncode == 1
    with open(path) as f:
        assert f.read() == "precious"


def test_metrics_path_of_others(world):
    """A metrics address that cannot be had is an error, and what is there stays."""
    path = write(world.path("precious"), "precious")
    config = write(world.path("metrics.yaml"), yaml.safe_dump(
        {"listeners": [{"name": "u", "address": f"unix:{world.path('u')}", "doors": ["connect"]}],
         "owners": [world.owner()], "metrics": f"unix:{path}"}))
    p = run(RELAY, "--config", config)
    assert p.returncode == 1 and path in p.stderr, p.stderr
    with open(path) as f:
        assert f.read() == "precious"


def examples():
    found = []
    for top in ("contrib", "packaging", "config"):
        found += glob.glob(os.path.join(ROOT, top, "**", "*.yaml"), recursive=True)
    return sorted(f for f in found if re.search(r"(relay|tunnel)[^/]*\.yaml$", f))


@pytest.mark.parametrize("path", examples(), ids=[os.path.relpath(p, ROOT) for p in examples()])
def test_examples(path):
    """Every example config is one."""
    program = TUNNEL if "tunnel" in os.path.basename(path) else RELAY
    p = run(program, "--config", path, "--check-config")
    assert p.returncode == 0, p.stderr
    p = run(program, "--config", path, "--dump-config")
    assert p.returncode == 0 and yaml.safe_load(p.stdout)


def tunnel_yaml(world):
    return {"relays": ["tcp:gw.example.net:443"], "server_name": "gw.example.net",
            "token_file": world.token()[1], "transport": "websocket", "instance": "office-1",
            "services": [{"name": "kbs", "target": "tcp:127.0.0.1:8080"},
                         {"name": "mail", "target": "unix:/run/mail", "dial": "eager"}]}


def test_tunnel_config(world, tmp_path):
    path = write(tmp_path / "t.yaml", yaml.safe_dump(tunnel_yaml(world)))
    assert run(TUNNEL, "--config", path, "--check-config").returncode == 0
    first = run(TUNNEL, "--config", path, "--dump-config")
    assert first.returncode == 0, first.stderr
    again = write(tmp_path / "again.yaml", first.stdout)
    assert run(TUNNEL, "--config", again, "--dump-config").stdout == first.stdout
    dumped = yaml.safe_load(first.stdout)
    assert dumped["services"][1]["dial"] == "eager" and dumped["transport"] == "websocket"
    assert world.token()[0] not in first.stdout + first.stderr
    bad = write(tmp_path / "bad.yaml", "relays: [ nowhere ]\ntransport: pigeon\nservices:\n"
                "  - { name: a.b, target: tunnel }\ncolour: blue\n")
    p = run(TUNNEL, "--config", bad, "--check-config")
    assert p.returncode == 1
    assert {"1", "2", "4", "5"} <= set(re.findall(rf"{re.escape(bad)}:(\d+):\d+: ", p.stderr)), \
        p.stderr


def test_flags_alone(world):
    """The command of the manual's first page, without any file but the token's."""
    svc = world.add(Service(handler=echo))
    relay = world.relay()
    agent = Agent(world, "flags", [
        "--relay", f"tcp:localhost:{relay.port()}", "--token-file", world.token()[1],
        "--service", f"kbs={svc.address}", "--service", f"tang={svc.address},dial=eager",
        "--ca-file", world.certificates.ca, "--transport", "direct"])
    relay.wait_tunnels(1)
    for name in ("kbs.acme", "tang.acme"):
        with Doors(relay, None).connect_plain(name) as c:
            roundtrip(c, data(10_000))
    agent.signal(signal.SIGINT)
    assert agent.wait() == 0


def test_no_secret_anywhere(world):
    """The token is in no log, no command line, no environment, at the most talkative level."""
    svc = world.add(Service(handler=echo))
    token, _ = world.token()
    relay = world.relay(log={"level": "debug"})
    agents = [world.agent(relay, {f"kbs-{t}": svc.address}, transport=t, log={"level": "debug"})
              for t in ("direct", "websocket")]
    payload = b"the-secret-in-the-stream-" + os.urandom(8).hex().encode()
    for t in ("direct", "websocket"):
        with Doors(relay, None).connect_plain(f"kbs-{t}.acme") as c:
            roundtrip(c, payload)
    for p in (relay, *agents):
        for what in ("cmdline", "environ"):
            with open(f"/proc/{p.pid}/{what}", "rb") as f:
                assert token.encode() not in f.read(), what
    relay.wait_quiet()
    for p in reversed((relay, *agents)):
        p.stop()
        assert token not in p.log() + p.output()
        assert payload.decode() not in p.log() + p.output()


def test_once_without_relay(world):
    """--once gives up after one attempt: not 0, and not the code for a refusal."""
    agent = Agent(world, "once", [
        "--relay", f"tcp:localhost:{free_port()}", "--token-file", world.token()[1], "--service",
        "kbs=tcp:127.0.0.1:9", "--ca-file", world.certificates.ca, "--once"], expect=(1,))
    assert agent.wait() == 1
    assert "refused" in agent.log().lower()


def test_json_logs(world):
    """log.format json: every line is an object with a message and a level."""
    svc = world.add(Service(handler=echo))
    relay = world.relay(log={"format": "json", "target": "stderr"})
    agent = world.agent(relay, {"kbs": svc.address}, log={"format": "json"})
    with Doors(relay, None).connect_plain("kbs.acme") as c:
        roundtrip(c, data(12_345))
    relay.wait_quiet()
    wait_for(lambda: "12345" in relay.log(), "the stream's end in the log")
    agent.stop()
    relay.stop()
    for p in (relay, agent):
        lines = [json.loads(line) for line in p.log().splitlines()]
        assert lines and all(isinstance(x, dict) and len(x) >= 2 for x in lines)
    ends = [x for x in map(json.loads, relay.log().splitlines()) if 12345 in x.values()]
    assert ends and any("eof" in str(v) for v in ends[0].values()), ends


def test_audit_of_a_stream(world):
    """One line at its end: who, service, bytes each way, how long, why."""
    svc = world.add(Service(handler=echo))
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    with Doors(relay, None).connect_plain("kbs.acme") as c:
        roundtrip(c, data(4321))
    line = relay.wait_log(r".*4321.*").group()
    for part in ("kbs.acme", "eof", "127.0.0.1"):
        assert part in line, line


def test_metrics(world):
    """Prometheus' text format: names, types, help, and numbers that move."""
    svc = world.add(Service(handler=echo))
    relay = world.relay()
    world.agent(relay, {"kbs": svc.address})
    up, down = (relay.metric("bytes_total", direction=d) for d in ("up", "down"))
    with Doors(relay, None).connect_plain("kbs.acme") as c:
        roundtrip(c, data(5000))
    relay.wait_quiet()
    assert relay.metric("bytes_total", direction="up") == up + 5000
    assert relay.metric("bytes_total", direction="down") == down + 5000
    assert relay.metric("accepted_total") >= 2
    c = http.client.HTTPConnection("127.0.0.1", relay.metrics_port, timeout=10)
    c.request("GET", "/metrics")
    r = c.getresponse()
    text = r.read().decode()
    assert r.getheader("Content-Type").startswith("text/plain")
    histograms = re.findall(r"# TYPE (\w+) histogram", text)
    names = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"}
    for name in names:
        base = re.sub("_(bucket|sum|count)$", "", name)
        name = base if base in histograms else name
        assert f"# TYPE {name} " in text and f"# HELP {name} " in text, name
    c.request("GET", "/")
    assert c.getresponse().status in (200, 302, 404)
    c.close()


@pytest.mark.parametrize("program", [RELAY, TUNNEL, "ATTEST_BRIDGE"])
def test_signals_of_habit(world, tmp_path, program):
    """What has other daemons say how they are, or open their logs anew, ends none of them."""
    at = f"unix:{tmp_path}/at.sock"
    p = world.relay() if program == RELAY else Program(world, "program", [
        binary(program), *(("--relay", f"tcp:127.0.0.1:{free_port()}", "--local",
                            f"{at}=service:kbs.acme") if program == TUNNEL else
                           ("--listen", at, "--qgs", f"unix:{tmp_path}/qgs.sock"))])
    p.wait_log(" (ready|started)")
    p.signal(signal.SIGUSR2)
    p.signal(signal.SIGUSR1)
    p.wait_log("info: status: ")
    p.signal(signal.SIGHUP)
    p.wait_log("reload|no config file")
    p.stop()
