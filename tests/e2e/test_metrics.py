# What the three programs tell Prometheus: well-formed, documented, right, and no more than there
# may be, whatever strangers and agents do.
import datetime
import http.client
import os
import re
import subprocess
import time

import pytest
import yaml

from bridge import Bridge
from harness import (DEADLINE, ROOT, Program, Task, binary, data, fetch_metrics, free_port, need,
                     sum_of, wait_for)
from node import Node
from pki import Authority
from qgs import StandIn, ask
from streams import Doors, Refused, Service, dial, echo, http_connect, roundtrip
from wire import RawAgent

OTHER = "_other"
NAMES_MAX, OFFERED_MAX, HELLO_MAX = 1024, 256, 64


def scrape(port):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    c.request("GET", "/metrics")
    r = c.getresponse()
    assert r.status == 200
    text = r.read().decode()
    c.close()
    return text


def check(text):
    """As Prometheus' own linter sees it."""
    need("promtool")
    r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True,
                       timeout=DEADLINE)
    assert r.returncode == 0 and not r.stdout and not r.stderr, r.stdout + r.stderr


def declared(text):
    """{name: (type, its labels)} of what was exposed."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    labels = {name: set() for name in kinds}
    for series, rest in re.findall(r"^(\w+)(\{.*\})? \S+$", text, re.M):
        base = re.sub("_(bucket|sum|count)$", "", series)
        name = base if kinds.get(base) == "histogram" else series
        labels[name] |= set(re.findall(r'[{,](\w+)="', rest)) - {"le"}
    return {name: (kind, labels[name]) for name, kind in kinds.items()}


def documented():
    """{name: (type, its labels)} of docs/metrics.md."""
    with open(os.path.join(ROOT, "docs/metrics.md")) as f:
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", f.read(), re.M)
    assert len(rows) == len({r[0] for r in rows})
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


class Metrics:
    """One scrape of a program."""

    def __init__(self, program, prefix):
        port = program if isinstance(program, int) else program.metrics_port
        self.all, self.prefix = fetch_metrics(port), prefix

    def __call__(self, name, **labels):
        return sum_of(self.all, self.prefix + name, labels)

    def names(self, name, label):
        return {re.search(rf'{label}="([^"]*)"', k)[1] for k in self.all
                if k.partition("{")[0] == self.prefix + name}


def relay_metrics(relay):
    return Metrics(relay, "attest_relay_")


# ---- the documentation, and Prometheus' linter ----

def test_documented_and_well_formed(world):
    """All that can be exposed is, with traffic; docs/metrics.md has just that, and promtool finds
    nothing to say."""
    owners = Authority(world.folder, "clients")
    node = Node(world, relay_more={}, agent=False)
    agent_port, local_port = free_port(), free_port()
    relay = world.relay(
        "second", listeners=[{"name": "certified", "doors": ["connect"], "client_ca": owners.pem,
                              "client_crl": owners.write_crl()}],
        services=[{"name": "static.acme", "targets": [node.echo.address, "tunnel"]}])
    world.agent(relay, {"kbs": node.echo.address}, metrics=f"tcp:127.0.0.1:{agent_port}",
                local=[{"address": f"tcp:127.0.0.1:{local_port}", "service": "static.acme"}],
                certificate=world.node_pair[0], key=world.node_pair[1], expect=(0,))
    with http_connect(dial(relay.listeners["front"]), "kbs.acme") as c:
        roundtrip(c, data(1000))
    with pytest.raises(Refused):
        http_connect(dial(relay.listeners["front"]), "kbs.nobody")
    qgs = StandIn(world)
    both = Bridge(world, qgs, ["unix", node.unix("forwarding")], name="both", wait=False,
                  relay=node.relay_leg)
    both.wait_state("up")
    assert ask(both.address())["outcome"] == "ok"
    texts = [scrape(port) for port in (relay.metrics_port, agent_port, both.metrics_port)]
    has = {}
    for text in texts:
        check(text)
        for name, (kind, labels) in declared(text).items():
            assert has.get(name, (kind,))[0] == kind
            has[name] = (kind, labels | has.get(name, (kind, set()))[1])
    told = documented()
    assert sorted(has) == sorted(told)
    assert {k: v for k, v in has.items() if told[k] != v} == {}


# ---- attest-relay ----

def test_relay_counts_what_was_done(world):
    svc = world.add(Service(handler=echo))
    relay = world.relay(
        listeners=[{"name": "static", "service": "fixed.acme"}],
        services=[{"name": "fixed.acme", "targets": [svc.address]},
                  {"name": "closed.acme", "targets": [f"tcp:127.0.0.1:{free_port()}"]}],
        owners=[world.owner(), world.owner("idle")], timeouts={"ping": "1s"})
    # it waits for a tunnel, and its service is not known before there is one
    head = b"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme:443\r\n\r\n"
    waiting = dial(relay.listeners["front"])
    waiting.send(head)
    relay.wait_metric("live_parked", lambda v: v == 1)
    m = relay_metrics(relay)
    assert m("service_parked", service=OTHER) == 1
    assert m.names("service_streams_total", "service") == {"fixed.acme", "closed.acme", OTHER}
    world.agent(relay, {"kbs": svc.address})
    assert b" 200 " in waiting.recv(4096)
    waiting.send(data(3000))
    waiting.read_exactly(3000)
    for size in (10, 200):
        with dial(relay.listeners["static"]) as c:
            roundtrip(c, data(size))
    with pytest.raises(Refused):
        http_connect(dial(relay.listeners["front"]), "closed.acme")
    relay.wait_metric("service_streams", lambda v: v == 1)
    m = relay_metrics(relay)
    # what has passed is seen while the stream lives
    assert m("service_bytes_total", service="kbs.acme", direction="up") == 3000
    assert m("service_streams", service="kbs.acme") == m("owner_streams", owner="acme") == 1
    waiting.eof()
    assert waiting.read_all() == b""
    waiting.close()
    relay.wait_quiet()
    relay.wait_metric("tunnel_rtt_seconds_count", lambda v: v >= 1)

    m = relay_metrics(relay)
    assert m("service_streams_total", service="kbs.acme") == 1
    assert m("service_streams_total", service="fixed.acme") == 2
    assert m("service_ended_total", service="fixed.acme", **{"class": "clean"}) == 2
    assert m("service_ended_total", service="fixed.acme") == 2
    assert m("service_ended_total", service="closed.acme", **{"class": "unreachable"}) == 1
    assert m("service_ended_total", service="kbs.acme") == 1
    for direction in ("up", "down"):
        assert m("service_bytes_total", service="fixed.acme", direction=direction) == 210
        assert m("owner_bytes_total", owner="acme", direction=direction) == 3210
        assert m("bytes_total", direction=direction) == 3210
    assert m("service_parked") == m("service_streams") == m("owner_streams") == 0
    assert m("service_tunnels", service="kbs.acme") == 1
    assert m.names("service_tunnels", "service") == {"kbs.acme"}
    assert m("owner_tunnels_total", owner="acme") == m("tunnels_total") == 1
    assert m("owner_streams_total", owner="acme") == m("streams_total") == 3
    assert m.names("owner_streams_total", "owner") == {"acme", "idle", OTHER}
    assert m("owner_streams_total", owner="idle") == 0
    assert m("listener_accepted_total", listener="static") == 2
    assert m("listener_accepted_total", listener="front") == 3
    assert m("listener_refused_total", listener="front", reason="dial-refused") == 1
    assert m("listener_refused_total") == 1
    assert RawAgent(relay, world.certificates, token="nobody's").answer()[0] == "refused"
    relay.wait_metric("listener_refused_total", lambda n: n == 1, listener="front", reason="bad-credential")
    # times: one waited, three streams, two dials (the third was in vain)
    assert m("pickup_seconds_count") == 1
    assert m("stream_duration_seconds_count") == 3
    assert m("dial_seconds_count") == 2
    assert m("turn_seconds_count", worker="0") > 0 and m("turn_seconds_count", worker="1") > 0
    assert m("turn_current_seconds") == 0 or m("turn_current_seconds") < 10
    assert m("draining") == 0 and m("settings_generation") == 1
    relay.reload(owners=[world.owner()])
    relay.reload(good=False, owners=[{"name": "acme"}])
    m = relay_metrics(relay)
    assert m("settings_generation") == 2
    assert m("reloads_total") == m("reload_failures_total") == 1
    assert abs(m("reload_timestamp_seconds") - time.time()) < DEADLINE
    assert m("owner_streams_total", owner="acme") == 3  # it outlives its config


def test_lost_tunnels_are_seen(world):
    svc = world.add(Service(handler=echo))
    relay = world.relay(timeouts={"pickup": "200ms"})
    agent = world.agent(relay, {"kbs": svc.address})
    assert relay_metrics(relay)("service_tunnels", service="kbs.acme") == 1
    agent.stop()
    relay.wait_metric("service_tunnels", lambda v: v == 0)
    with pytest.raises(Refused):
        http_connect(dial(relay.listeners["front"]), "kbs.acme")
    m = relay_metrics(relay)
    assert m.names("service_tunnels", "service") == {"kbs.acme"}
    assert m("service_ended_total", service="kbs.acme", **{"class": "no-tunnel"}) == 1
    assert m("pickup_seconds_count") == 0


def test_no_more_names_than_there_may_be(world):
    """Owners offer thousands of services, clients ask for thousands more."""
    owners = [f"o{i}" for i in range(6)]
    relay = world.relay(owners=[world.owner(o) for o in owners],
                        timeouts={"pickup": "10ms"})
    asked = 40
    for i in range(asked):
        for name in (f"made-up{i}.o1", f"kbs.made-up{i}"):
            with pytest.raises(Refused):
                http_connect(dial(relay.listeners["front"]), name)
    m = relay_metrics(relay)
    assert m.names("service_streams_total", "service") == {OTHER}
    assert m.names("owner_streams_total", "owner") == {*owners, OTHER}
    assert m("service_ended_total", service=OTHER, **{"class": "no-tunnel"}) == asked

    # the first owner stays connected, with many more than its part
    offered = 0
    agents = []
    for i in range(OFFERED_MAX // HELLO_MAX + 2):
        services = [f"s{i}-{k}" for k in range(HELLO_MAX)]
        agents.append(RawAgent(relay, world.certificates, token=world.token("o0")[0],
                               services=services, instance=f"i{i}").accepted())
        agents[-1].keep_alive()
        offered += len(services)
    m = relay_metrics(relay)
    assert offered > OFFERED_MAX
    assert len(m.names("service_tunnels", "service")) == OFFERED_MAX
    # others come and go
    for turn in range(6):
        for owner in owners[1:]:
            services = [f"t{turn}-{k}" for k in range(HELLO_MAX)]
            a = RawAgent(relay, world.certificates, token=world.token(owner)[0],
                         services=services).accepted()
            a.close()
            offered += len(services)
    assert offered > 2 * NAMES_MAX
    m = relay_metrics(relay)
    names = m.names("service_streams_total", "service")
    assert len(names) == NAMES_MAX + 1 and "s0-0.o0" in names and "t5-63.o5" in names
    assert m("service_ended_total", **{"class": "no-tunnel"}) == asked
    assert m.names("owner_streams_total", "owner") == {*owners, OTHER}
    check(scrape(relay.metrics_port))
    for a in agents:
        a.close()


def end_of(path, what="x509", key="enddate"):
    r = subprocess.run(["openssl", what, "-in", path, "-noout", f"-{key}"], capture_output=True,
                       text=True, check=True)
    at = datetime.datetime.strptime(r.stdout.split("=", 1)[1].strip(), "%b %d %H:%M:%S %Y %Z")
    return int(at.replace(tzinfo=datetime.timezone.utc).timestamp())


def test_ends_of_files(world):
    """Each file once, with its first end; and as it is in use, not as it lies there."""
    ca = Authority(world.folder, "ends")
    certified = [{"name": f"c{i}", "doors": ["connect"], "client_ca": ca.pem,
                  "client_crl": ca.write_crl(following=3600)} for i in range(2)]
    relay = world.relay(listeners=certified)

    def ends():
        m = relay.metrics()
        return {k.split('"')[1]: int(v) for k, v in m.items()
                if "_expires_timestamp_" in k or "_next_update_timestamp_" in k}
    before = ends()
    assert before == {world.certificates.relay[0]: end_of(world.certificates.relay[0]),
                      ca.pem: end_of(ca.pem), ca.crl: end_of(ca.crl, "crl", "nextupdate")}
    ca.write_crl(following=7200)
    assert ends() == before
    relay.reload()
    after = ends()
    assert after[ca.crl] == end_of(ca.crl, "crl", "nextupdate") == before[ca.crl] + 3600 or (
        3590 < after[ca.crl] - before[ca.crl] < 3600 + DEADLINE)


def test_ends_of_authorities(world):
    """What a program verifies others by ends, too: each program has its own, beside what it shows."""
    ca = Authority(world.folder, "clients")
    node = Node(world)
    agent_port = free_port()
    trusted = world.path("trusted.pem")
    with open(trusted, "w") as f:
        for path in (world.certificates.ca, ca.pem):
            with open(path) as one:
                f.write(one.read())
    world.agent(node.relay, {"other": world.add(Service(handler=echo)).address}, ca_file=trusted,
                metrics=f"tcp:127.0.0.1:{agent_port}")
    node.relay.reload(listeners=[*node.relay.config["listeners"], {
        "name": "certified", "doors": ["connect"], "client_ca": ca.pem,
        "address": f"tcp:127.0.0.1:{free_port()}"}])

    def ends(port, program):
        name = f"{program}_certificate_expires_timestamp_seconds"
        return {k.removeprefix(name): int(v) for k, v in fetch_metrics(port).items()
                if k.startswith(name) and 'what="ca"' in k}
    ours = world.certificates.ca
    assert ends(agent_port, "attest_tunnel") == {
        f'{{file="{trusted}",what="ca"}}': min(end_of(ours), end_of(ca.pem))}
    assert ends(node.bridge.metrics_port, "qgs_bridge") == {f'{{file="{ours}",what="ca"}}': end_of(ours)}
    of_relay = ends(node.relay.metrics_port, "attest_relay")
    assert of_relay[f'{{file="{ca.pem}",what="ca"}}'] == end_of(ca.pem)
    assert not any(node.relay.config["tls"]["certificate"] in k for k in of_relay)


# ---- probes from the first moment on ----

class Prober:
    """Asks again and again from before the start; refused is an answer, silence is none."""

    def __init__(self, port, path, answers=20):
        self.port, self.path, self.wanted, self.answers = port, path, answers, []
        self.task = Task(self.run)

    def run(self):
        end = time.monotonic() + DEADLINE
        while len(self.answers) < self.wanted and time.monotonic() < end:
            c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
            try:
                c.request("GET", self.path)
                r = c.getresponse()
                self.answers.append((r.status, r.read().decode()))
            except ConnectionRefusedError:
                time.sleep(0.001)
            finally:
                c.close()


@pytest.mark.parametrize("program, status, says", [
    ("relay", 200, "ok"),
    ("tunnel", 503, "relays: none has accepted this agent"),
    ("bridge", 503, "qgs: "),
])
def test_probes_while_it_starts(world, program, status, says):
    """Whoever gets through has an answer, the first one, too; and what the program waits for is no
    reason to restart it."""
    port, at = free_port(), f"unix:{world.path('at.sock')}"
    probers = [Prober(port, path) for path in ("/livez", "/readyz", "/livez", "/readyz")]
    if program == "relay":
        world.relay(metrics=port)
    elif program == "tunnel":
        relay = world.relay()
        relay.stop()
        world.agent(relay, {"kbs": at}, wait=False, metrics=f"tcp:127.0.0.1:{port}")
    else:
        path = world.path("bridge.yaml")
        with open(path, "w") as f:
            yaml.safe_dump({"metrics": f"tcp:127.0.0.1:{port}",
                            "qgs": {"address": f"unix:{world.path('none.sock')}"},
                            "listeners": [{"name": "quotes", "address": at}]}, f)
        Program(world, "bridge", [binary("ATTEST_BRIDGE"), "--config", path])
    for p in probers:
        p.task.result()
        assert len(p.answers) == p.wanted
        for got in p.answers:
            assert got == (200, "ok\n") if p.path == "/livez" else (
                got[0] == status and got[1].startswith(says)), got


# ---- the process ----

def process_of(program, port):
    m = fetch_metrics(port)
    with open(f"/proc/{program.pid}/stat") as f:
        ticks = int(f.read().rpartition(")")[2].split()[19])
    with open("/proc/stat") as f:
        boot = int(re.search(r"^btime (\d+)$", f.read(), re.M)[1])
    assert abs(m["process_start_time_seconds"] - boot - ticks / os.sysconf("SC_CLK_TCK")) < 3
    assert abs(m["process_open_fds"] - program.fds()) <= 3
    assert 0.5 < m["process_resident_memory_bytes"] / program.rss() < 2
    assert m["process_virtual_memory_bytes"] > m["process_resident_memory_bytes"]
    with open(f"/proc/{program.pid}/limits") as f:
        most = re.search(r"^Max open files +(\d+)", f.read(), re.M)[1]
    assert m["process_max_fds"] == int(most)
    assert 0 < m["process_cpu_seconds_total"] < 1000


def test_process_in_the_sandbox(world):
    svc = world.add(Service(handler=echo))
    port = free_port()
    relay = world.relay()
    agent = world.agent(relay, {"kbs": svc.address}, metrics=f"tcp:127.0.0.1:{port}")
    qgs = StandIn(world)
    bridge = Bridge(world, qgs)
    process_of(relay, relay.metrics_port)
    process_of(agent, port)
    process_of(bridge, bridge.metrics_port)


# ---- attest-tunnel ----

def test_tunnel_counts_what_was_done(world):
    svc = world.add(Service(handler=echo))
    relay, port = world.relay(timeouts={"ping": "1s"}), free_port()
    agent = world.agent(
        relay, [{"name": "kbs", "target": svc.address},
                {"name": "off", "target": f"tcp:127.0.0.1:{free_port()}"},
                {"name": "mine", "target": svc.address, "allow": ["client:nobody"]}],
        extra=("--metrics", f"tcp:127.0.0.1:{port}", "--relay", f"tcp:127.0.0.1:{free_port()}"),
        timeouts={"ping": "1s"})
    for size in (100, 2000):
        with Doors(relay, None).connect_plain("kbs.acme") as c:
            roundtrip(c, data(size))
    for name in ("off", "mine"):
        with Doors(relay, None).connect_plain(f"{name}.acme") as c:
            with pytest.raises(Exception):
                roundtrip(c, data(10))
    relay.wait_quiet()

    def look():
        m = Metrics(port, "attest_tunnel_")
        return m if m("service_streams") == 0 and m("rtt_seconds_count") >= 1 else None
    m = wait_for(look, lambda: f"no streams, and a PING\n{agent.tail()}")
    up, down = relay.listeners["front"], None
    down = next(x for x in m.names("relay_up", "relay") if x != up)
    assert m("relay_up", relay=up) == 1 and m("relay_up", relay=down) == 0
    assert m("relay_sessions_total", relay=up) == 1 and m("relay_sessions_total", relay=down) == 0
    assert m("relay_failures_total", relay=up) == 0
    wait_for(lambda: Metrics(port, "attest_tunnel_")("relay_failures_total", relay=down) >= 1,
             "an attempt that fails")
    assert 0 < m.all[f'attest_tunnel_relay_rtt_seconds{{relay="{up}",link="1"}}'] < DEADLINE
    assert m("service_streams_total", service="kbs") == m("streams_total") == 2
    assert m("service_ended_total", service="kbs", **{"class": "clean"}) == 2
    assert m("service_ended_total", service="off", **{"class": "unreachable"}) == 1
    assert m("service_bytes_total", service="kbs", direction="up") == 2100
    assert m("service_bytes_total", service="kbs", direction="down") == 2100
    assert m("refused_total", reason="forbidden") == m("refused_total") == 1
    assert m("dial_seconds_count") == m("stream_duration_seconds_count") == 2
    assert m("limit", what="streams") == 4096 and m("limit_used", what="streams") == 0

    # a relay that goes is a loss, and one that is back a session
    relay.kill()
    wait_for(lambda: Metrics(port, "attest_tunnel_")("relay_up") == 0, "no relay is up")
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    c.request("GET", "/readyz")
    assert c.getresponse().status == 503
    c.close()
    world.restart(relay)
    m = wait_for(lambda: (m := Metrics(port, "attest_tunnel_"))("relay_up") == 1 and m,
                 "it is up again")
    assert m("relay_sessions_total", relay=up) == 2 and m("relay_losses_total", relay=up) == 1


# ---- qgs-bridge ----

def test_bridge_counts_what_was_done(world):
    qgs = StandIn(world)
    bridge = Bridge(world, qgs)
    for _ in range(5):
        assert ask(bridge.address())["outcome"] == "ok"
    m = Metrics(bridge, "qgs_bridge_")
    assert m("requests_total", reason="eof") == m("requests_total") == 5
    assert m("qgs_queue_seconds_count") == m("qgs_reply_seconds_count") == 5
    assert m("qgs_reply_seconds_bucket", le="+Inf") == 5
    assert m("turn_seconds_count") > 5
    assert m("limit", what="connections") == 2048
    assert m("reloads_total") == m("reload_failures_total") == 0
    bridge.reload(limits={"connections": 7})
    bridge.reload(good=False, limits={"connections": 0})
    m = Metrics(bridge, "qgs_bridge_")
    assert m("limit", what="connections") == 7
    assert m("reloads_total") == m("reload_failures_total") == 1
