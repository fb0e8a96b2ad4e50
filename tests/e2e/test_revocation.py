# What is taken back ends what is live by it, within seconds, and nothing else: by SIGHUP, or when
# its time is over. Whatever goes on is verified byte by byte.
import os
import re
import shutil
import signal
import threading
import time

import pytest

from h2_client import H2Client
from harness import DOMAIN, Task, token_hash, wait_for
from pki import Authority
from streams import (Aborted, Refused, Service, TlsConn, TlsHttpConn, connect_head, dial, echo,
                     http_connect, proxy_status, read_head, tls_service)
from wire import websocket_message, websocket_open

WITHIN = 5  # seconds from the reload, or from the moment it was to end
WORKERS = 4


# ---- streams that live until they are ended ----

class WsConn:
    """Messages of a WebSocket as bytes."""

    def __init__(self, conn, rest):
        self.conn, conn.pending = conn, rest

    def send(self, part):
        self.conn.send(websocket_message(part))

    def read_exactly(self, n):
        got = b""
        while len(got) < n:
            first, length = self.conn.read_exactly(2)
            if first == 0x88:
                code = int.from_bytes(self.conn.read_exactly(length)[:2], "big")
                assert code not in (1000, 1001), code
                raise Aborted(f"close, {code}")
            assert first == 0x82, hex(first)
            if length == 126:
                length = int.from_bytes(self.conn.read_exactly(2), "big")
            got += self.conn.read_exactly(length)
        return got

    def finish(self):
        self.conn.close()


class Life(threading.Thread):
    """An echo of a stream, verified, again and again. how: None while it goes on."""

    def __init__(self, conn):
        super().__init__(daemon=True)
        self.conn, self.how, self.rounds, self.stopping = conn, None, 0, False
        self.round()
        self.start()

    def round(self):
        part = os.urandom(700)
        self.conn.send(part)
        if self.conn.read_exactly(len(part)) != part:
            self.how = "other bytes"
        self.rounds += 1

    def run(self):
        try:
            while not self.stopping and not self.how:
                self.round()
                time.sleep(0.02)
            if isinstance(self.conn, WsConn):
                self.conn.finish()
            else:
                self.conn.eof()
                assert not self.conn.read_all()
            self.how = self.how or "whole"
        except Aborted:
            self.how = "aborted"
        except AssertionError as e:
            self.how = f"an end in order: {e}"
        except Exception as e:
            self.how = repr(e)


class H2Lives(threading.Thread):
    """The same of many streams in one HTTP/2 connection; each is taken back on its own."""

    def __init__(self, conn, service, n):
        super().__init__(daemon=True)
        self.client = H2Client(conn)
        self.streams = [self.client.open(service) for _ in range(n)]
        self.ends, self.rounds, self.stopping, self.error = {}, 0, False, None
        self.start()

    @property
    def how(self):
        if self.error:
            return self.error
        if len(self.ends) < len(self.streams):
            return None
        kinds = set(self.ends.values())
        return kinds.pop() if len(kinds) == 1 else str(kinds)

    def round(self, s):
        part = os.urandom(700)
        try:
            s.send(part)
            if s.read(len(part)) != part:
                self.error = "other bytes"
        except AssertionError:
            self.ends[s] = ("aborted" if s.reset is not None or self.client.closed else
                            "an end in order")

    def run(self):
        try:
            while not self.stopping and self.how is None:
                for s in self.streams:
                    if s not in self.ends:
                        self.round(s)
                self.rounds += 1
                time.sleep(0.02)
            for s in self.streams:
                if s not in self.ends:
                    s.send(end=True)
                    assert not s.read_all()
                    self.ends[s] = "whole"
        except Exception as e:
            self.error = repr(e)


def count_of(life):
    return len(life.streams) if isinstance(life, H2Lives) else 1


def all_end(lives, within=WITHIN):
    """Each by an abort, and soon."""
    wait_for(lambda: all(x.how for x in lives),
             lambda: f"the end of all: {[x.how for x in lives]}", within)
    assert {x.how for x in lives} == {"aborted"}, [x.how for x in lives]


def all_go_on(lives):
    """Nobody noticed; then they end in order, all bytes there."""
    before = [x.rounds for x in lives]
    wait_for(lambda: all(x.rounds > n + 3 or x.how for x, n in zip(lives, before)),
             lambda: f"more rounds: {[(x.rounds, x.how) for x in lives]}")
    assert not any(x.how for x in lives), [x.how for x in lives]


def all_finish(lives):
    all_go_on(lives)
    for x in lives:
        x.stopping = True
    wait_for(lambda: all(x.how for x in lives), "their ends")
    assert {x.how for x in lives} == {"whole"}, [x.how for x in lives]


# ---- a place where much is allowed ----

def stamp(seconds):
    """So many seconds from now, as configs have it; rounded up."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds + 0.999))


class Place:
    def __init__(self, world, folder, workers=WORKERS):
        self.world = world
        self.nodes, self.owners = Authority(folder, "nodes"), Authority(folder, "owners")
        self.pairs = {n: self.nodes.issue(n, f"DNS:{n}.example") for n in ("n1", "n2")}
        self.beta = self.owners.issue("beta", "URI:spiffe://beta")
        for ca in (self.nodes, self.owners):
            ca.write_crl()
            shutil.copy(ca.pem, ca.path("asked.pem"))
        self.service = world.add(Service(handler=echo))
        pair = world.certificates.issue("services", f"DNS:*.acme.{DOMAIN},DNS:*.beta.{DOMAIN}")
        self.tls = world.add(Service(handler=tls_service(world.certificates.server(pair), echo)))
        self.token = world.token("acme")[0]
        self.relay = world.relay(
            front=False, workers=workers, penalties={"failures": 0},
            owners=self.owners_config(), clients=self.rules(),
            timeouts={"pickup": "60s"},
            listeners=[
                {"name": "front", "doors": ["tunnel"], "client_ca": self.owners.path("asked.pem"),
                 "client_crl": self.owners.crl},
                {"name": "nodes", "doors": ["connect", "websocket"],
                 "client_ca": self.nodes.path("asked.pem"), "client_crl": self.nodes.crl},
                {"name": "static", "service": "kbs.acme"},
                {"name": "static-beta", "service": "kbs.beta"},
                {"name": "sni", "doors": ["sni"]}])
        offers = {"kbs": self.service.address, "tls": self.tls.address}
        self.agents = {
            "acme": world.agent(self.relay, offers, name="acme-agent"),
            "beta": world.agent(self.relay, offers, name="beta-agent", token_file=False,
                                transport="websocket", certificate=self.beta[0],
                                key=self.beta[1])}

    def owners_config(self, **acme):
        token = {"hash": token_hash(self.token), "label": "first", **acme}
        return [{"name": "acme", "tokens": [token]},
                {"name": "beta", "certificates": ["uri:spiffe://beta"]}]

    @staticmethod
    def rules(n1=None):
        """n1: what is otherwise with its rule; False: there is none."""
        mine = [] if n1 is False else [{"name": "n1", "certificates": ["dns:n1.example"],
                                        "services": ["*"], **(n1 or {})}]
        return mine + [{"name": "n2", "certificates": ["dns:n2.example"], "services": ["*"]},
                       {"name": "others", "listeners": ["static", "static-beta", "sni"],
                        "services": ["*"]}]

    def enter(self, who, alpn=None):
        context = self.world.certificates.client([alpn] if alpn else None)
        context.load_cert_chain(*self.pairs[who])
        return TlsHttpConn(dial(self.relay.listeners["nodes"]), context, name=DOMAIN)

    def connect(self, who, service="kbs.acme"):
        return http_connect(self.enter(who), service)

    def websocket(self, who, service="kbs.acme"):
        conn = self.enter(who)
        status, rest = websocket_open(conn, path=f"/connect/{service}", protocol=None)
        assert status == 101
        return WsConn(conn, rest)

    def lives(self, who, service="kbs.acme", times=2):
        """Streams of a node by each of its doors. With several workers, some have crossed."""
        found = []
        for _ in range(times):
            found += [Life(self.connect(who, service)), Life(self.websocket(who, service)),
                      H2Lives(self.enter(who, "h2"), service, 3)]
        return found

    def sni(self, owner):
        return TlsConn(dial(self.relay.listeners["sni"]), self.world.certificates.client(),
                       name=f"tls.{owner}.{DOMAIN}", fin=True)

    def others(self, owner):
        """Streams of clients that are known by their listener."""
        static = "static" if owner == "acme" else "static-beta"
        return [Life(dial(self.relay.listeners[static])), Life(self.sni(owner))]

    def parked(self, who, service):
        """A stream that waits for a tunnel: by HTTP/1.1; what it was told at last."""
        conn = self.enter(who)
        before = self.relay.metric("live_parked")
        conn.send(connect_head(service))
        self.relay.wait_metric("live_parked", lambda n: n == before + 1)

        def wait():
            head, _ = read_head(conn)
            return proxy_status(re.search(rb"(?im)^proxy-status: (.*?)\r?$",
                                          head + b"\r\n")[1].decode().strip())[1]
        return Task(wait)


def ends_as(relay, name, reason, n):
    relay.wait_metric(name, lambda got: got == n, reason=reason)


# ---- clients ----

CLIENT_CHANGES = ["rule-removed", "rule-narrowed", "rule-expired", "certificate-revoked"]


def take_back(place, change):
    if change == "rule-removed":
        place.relay.reload(clients=place.rules(n1=False))
    elif change == "rule-narrowed":
        place.relay.reload(clients=place.rules(n1={"services": ["tang.*"]}))
    elif change == "rule-expired":
        place.relay.reload(clients=place.rules(n1={"expires": "2020-01-01T00:00:00Z"}))
    else:
        place.nodes.revoke(place.pairs["n1"])
        place.relay.reload()


@pytest.mark.parametrize("change", CLIENT_CHANGES)
def test_client(world, tmp_path, change):
    place = Place(world, tmp_path)
    relay = place.relay
    lost = place.lives("n1") + place.lives("n1", "kbs.beta", 1)
    kept = place.lives("n2") + place.others("acme") + place.others("beta")
    waits, stays = place.parked("n1", "gone.beta"), place.parked("n2", "gone.beta")
    quiet = H2Client(place.enter("n1", "h2"))
    quiet.ping()
    sessions = relay.metric("live_h2_clients")
    take_back(place, change)
    all_end(lost)
    assert waits.result(WITHIN) == "revoked"
    ends_as(relay, "stream_ended_total", "revoked", sum(count_of(x) for x in lost))
    ends_as(relay, "refused_total", "revoked", 1)
    assert relay.log().count(", revoked") == sum(count_of(x) for x in lost)
    if change == "certificate-revoked":  # its connections too, those without streams as well
        quiet.wait_closed()
        relay.wait_metric("live_h2_clients", lambda n: n == sessions - 4)
        with pytest.raises(Aborted, match="(?i)revoked"):
            place.connect("n1")
    else:
        assert quiet.connect("kbs.acme").refused() == (403, "forbidden")
        with pytest.raises(Refused, match="forbidden"):
            place.connect("n1")
    all_finish(kept)
    assert stays.is_alive() and relay.metric("live_tunnels") == 2
    quiet.close()


def test_ca_exchanged(world, tmp_path):
    """All that the old one has signed is out; what the new one has signed is in."""
    place = Place(world, tmp_path)
    lost, kept = place.lives("n1") + place.lives("n2", times=1), place.others("acme")
    other = tmp_path / "other"
    os.mkdir(other)
    new = Authority(other, "new")
    shutil.copy(new.pem, place.nodes.path("asked.pem"))
    new.write_crl(to=place.nodes.crl)
    place.relay.reload()
    all_end(lost)
    with pytest.raises(Aborted, match="(?i)unknown.ca"):
        place.connect("n2")
    place.pairs["n1"] = new.issue("n1", "DNS:n1.example")
    all_finish(place.lives("n1") + kept)


# ---- owners ----

OWNER_CHANGES = {  # whose tunnel ends, and as what
    "token-exchanged": ("acme", "revoked"), "token-expired": ("acme", "expired"),
    "service-removed": ("acme", "revoked"),
    "certificate-revoked": ("beta", "revoked"), "name-exchanged": ("beta", "revoked"),
    "ca-exchanged": ("beta", "revoked"),
}


def take_credential(place, change):
    relay, config = place.relay, place.owners_config()
    if change == "token-exchanged":
        config[0]["tokens"] = [token_hash("another-token-of-quite-some-length-0123456789")]
    elif change == "token-expired":
        config = place.owners_config(expires=stamp(-2))
    elif change == "service-removed":
        config[0]["services"] = ["kbs", "gone"]
    elif change == "name-exchanged":
        config[1]["certificates"] = ["uri:spiffe://beta/2"]
    elif change == "certificate-revoked":
        place.owners.revoke(place.beta)
    else:
        os.mkdir(place.owners.path("other"))
        new = Authority(place.owners.path("other"), "new")
        shutil.copy(new.pem, place.owners.path("asked.pem"))
        new.write_crl(to=place.owners.crl)
    return relay.reload(owners=config)


@pytest.mark.parametrize("change", OWNER_CHANGES)
def test_owner(world, tmp_path, change):
    place = Place(world, tmp_path)
    relay, (owner, reason) = place.relay, OWNER_CHANGES[change]
    other = "beta" if owner == "acme" else "acme"
    lost = place.lives("n1", f"kbs.{owner}") + place.others(owner)
    kept = place.lives("n1", f"kbs.{other}") + place.others(other)
    start = relay.log_size()
    take_credential(place, change)
    all_end(lost)
    all_go_on(kept)
    assert re.search(f"tunnel {owner}/{owner}-agent .* ended: {reason} ", relay.log(start))
    assert relay.metric("session_ended_total", reason=reason) >= 1
    told, then = {
        "token-exchanged": ("the certificate|the token is not known", None),
        "token-expired": ("has expired", None),
        "service-removed": ("may offer one of these services no more", "may not offer the service tls"),
        "certificate-revoked": ("was revoked", "certificate was refused: .*revoked"),
        "name-exchanged": ("no owner of this relay has a certificate", None),
        "ca-exchanged": ("was revoked", "certificate was refused: .*unknown ca"),
    }[change]
    agent = place.agents[owner]
    first = agent.wait_log(r"refuses this agent \(bad-credential\): (.*)")
    assert re.search(told, first[1]), first[1]
    if then:
        agent.wait_log(then)
    relay.wait_tunnels(1)
    all_finish(kept)


def test_owner_removed(world, tmp_path):
    """Its name leads nowhere any more; and one that is added can be reached at once."""
    token = world.token("late")[0]
    place = Place(world, tmp_path)
    relay, config = place.relay, place.owners_config()
    late = {"name": "late", "tokens": [token_hash(token)]}
    relay.reload(owners=[*config, late])
    agent = world.agent(relay, {"kbs": place.service.address}, owner="late", name="late-agent")
    lost, kept = place.lives("n1", "kbs.late"), place.lives("n1") + place.others("beta")
    waits = place.parked("n1", "gone.late")
    relay.reload(owners=config)
    all_end(lost)
    assert waits.result(WITHIN) == "revoked"
    with pytest.raises(Refused, match="unknown-service"):
        place.connect("n1", "kbs.late")
    agent.wait_log("the token is not known")
    all_go_on(kept)
    relay.reload(owners=[late, *config])
    agent.signal(signal.SIGHUP)  # its pause is over now
    relay.wait_tunnels(3)
    all_finish(place.lives("n1", "kbs.late", 1) + kept)


# ---- by time ----

def wait_until(at, lives):
    """They live until then, and not much longer."""
    assert time.time() < at, "too slow a machine for this"
    time.sleep(max(0, at - 0.5 - time.time()))
    assert not any(x.how for x in lives)
    all_end(lives, 0.5 + 1 + WITHIN)
    assert time.time() >= at


def test_rule_expires(world, tmp_path):
    place = Place(world, tmp_path)
    kept, at = place.lives("n2", times=1), time.time() + 5
    too = {"name": "n1-too", "certificates": ["dns:n1.example"], "services": ["kbs.beta"]}
    place.relay.reload(clients=[*place.rules(n1={"expires": stamp(5)}), too])
    kept += place.lives("n1", "kbs.beta", 1)  # another rule allows these
    lost, waits = place.lives("n1"), place.parked("n1", "gone.acme")
    wait_until(at, lost)
    assert waits.result(WITHIN) == "expired"
    ends_as(place.relay, "stream_ended_total", "expired", sum(count_of(x) for x in lost))
    with pytest.raises(Refused, match="forbidden"):
        place.connect("n1")
    all_finish(kept)


def test_certificates_expire(world, tmp_path):
    """A node's and an agent's, both in the midst of their streams."""
    place = Place(world, tmp_path)
    kept = place.lives("n2", times=1) + place.others("acme")
    place.agents["beta"].stop()
    at = time.time() + 8
    pem, key = place.owners.issue("soon", "URI:spiffe://beta", ends=8)
    place.pairs["n1"] = place.nodes.issue("soon", "DNS:n1.example", ends=8)
    world.agent(place.relay, {"kbs": place.service.address, "tls": place.tls.address},
                name="soon-agent", token_file=False, certificate=pem, key=key)
    lost = place.lives("n1") + place.others("beta")
    quiet = H2Client(place.enter("n1", "h2"))
    quiet.ping()
    wait_until(at - 1, lost)  # openssl has whole seconds
    quiet.wait_closed()
    quiet.close()
    place.relay.wait_log("tunnel beta/soon-agent .* ended: expired ")
    with pytest.raises(Aborted, match="(?i)expired"):
        place.connect("n1")
    all_finish(kept)


def test_token_expires(world, tmp_path):
    """Two of one owner: the end of one is nothing to who has shown the other."""
    place = Place(world, tmp_path)
    token, path = world.token("spare")
    config, at = place.owners_config(), time.time() + 6
    config[0]["tokens"].append({"hash": token_hash(token), "expires": stamp(6), "label": "spare"})
    place.relay.reload(owners=config)
    spare = world.agent(place.relay, {"spare": place.service.address}, name="spare-agent",
                        token_file=path)
    lost, kept = place.lives("n1", "spare.acme"), place.lives("n1") + place.lives("n1", "kbs.beta")
    wait_until(at, lost)
    place.relay.wait_log("tunnel acme/spare-agent .* ended: expired ")
    spare.wait_log("expired")
    all_finish(kept)


# ---- what is wrong changes nothing ----

def spoil(place, how):
    """What is said of it; and how it is made good again."""
    relay, files = place.relay, place.world.certificates
    asked = place.nodes.path("asked.pem")
    if how == "syntax":
        with open(relay.path, "a") as f:
            f.write("clients: [\n")
        return None, "relay.yaml", lambda: None
    if how == "unknown-key":
        return {"clientele": []}, "clientele", lambda: None
    if how == "listener":
        changed = [{**x, "client_ca": x["client_ca"] + "2"} if x["name"] == "nodes" else x
                   for x in relay.config["listeners"]]
        return {"listeners": changed}, f"client CA file {asked}2: No such file", lambda: None
    if how == "restart":
        return {"workers": 3}, "workers has changed, which needs a restart", lambda: None
    if how == "ca-gone":
        os.rename(asked, asked + ".away")
        return {}, f"listener nodes: cannot read the client CA file {asked}", lambda: os.rename(
            asked + ".away", asked)
    if how == "ca-garbage":
        shutil.copy(asked, asked + ".away")
        with open(asked, "w") as f:
            f.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        return {}, f"{asked} cannot be used", lambda: os.rename(asked + ".away", asked)
    if how == "crl-gone":
        os.rename(place.nodes.crl, asked + ".away")
        return {}, "revocation list", lambda: os.rename(asked + ".away", place.nodes.crl)
    assert how == "key"
    return {"tls": {"certificate": files.relay[0], "key": files.service[1]}}, \
        "does not belong to the certificate", lambda: None


@pytest.mark.parametrize("how", ["syntax", "unknown-key", "listener", "restart", "ca-gone", "ca-garbage",
                                 "crl-gone", "key"])
def test_bad_reload(world, tmp_path, how):
    """With it came a taking back that must not be half done."""
    place = Place(world, tmp_path, workers=2)
    relay, good = place.relay, dict(place.relay.config)
    lives = place.lives("n1", times=1) + place.others("acme") + place.others("beta")
    change, says, mend = spoil(place, how)
    if change is None:
        start = relay.log_size()
        relay.signal(signal.SIGHUP)
        relay.wait_log("reload: nothing has changed", start=start)
        text = relay.log(start)
    else:
        text = relay.reload(good=False, clients=place.rules(n1=False), **change)
    assert says in text and "nothing has changed" in text, text
    time.sleep(1.2)  # a sweep
    all_go_on(lives)
    place.connect("n1").close()
    mend()
    relay.config = good
    relay.reload()
    all_finish(lives + place.lives("n1", times=1))


# ---- many at once ----

def test_two_hundred_reloads(world, tmp_path):
    """Under load: nobody loses a byte, nothing is left behind."""
    place = Place(world, tmp_path)
    relay = place.relay
    lives = place.lives("n1") + place.others("acme") + place.others("beta")
    over, came = threading.Event(), [0]

    def come_and_go():
        while not over.is_set():
            with place.connect("n2") as conn:
                part = os.urandom(3000)
                conn.send(part)
                assert conn.read_exactly(len(part)) == part
                came[0] += 1

    visitors = [Task(come_and_go) for _ in range(3)]

    def reloads(n):
        for i in range(n):
            relay.reload(clients=place.rules(n1={"services": ["*", f"x{i}.acme"]}))

    reloads(40)
    fds, rss = relay.fds(), relay.rss()
    reloads(200)
    grown = relay.rss() - rss
    all_go_on(lives)
    over.set()
    for v in visitors:
        v.result()
    assert came[0] > 50
    all_finish(lives)
    relay.wait_quiet()
    assert relay.fds() <= fds + 40, (relay.fds(), fds)
    # a leak of one config each would be tens of KB each; sanitizers keep what was freed a while
    assert grown < 24 * 1024 * 1024, grown
    assert relay.log().count("reload: done") == 240


class Openers:
    """Threads that open streams at all times, many of them on their way between two workers."""

    def __init__(self, place):
        self.place, self.over, self.said = place, threading.Event(), []
        self.tasks = [Task(self.by_connect), Task(self.by_connect), Task(self.by_h2),
                      Task(self.by_h2)]

    def by_connect(self):
        while not self.over.is_set():
            try:
                with self.place.connect("n1") as conn:
                    conn.send(b"hello")
                    assert conn.read_exactly(5) == b"hello"
                self.said.append((time.monotonic(), "yes"))
            except (Refused, Aborted):
                self.said.append((time.monotonic(), "no"))

    def by_h2(self):
        while not self.over.is_set():
            try:
                with H2Client(self.place.enter("n1", "h2")) as c:
                    for _ in range(10):
                        streams = [c.connect("kbs.acme") for _ in range(8)]
                        c.wait(lambda: all(s.status or s.reset is not None for s in streams))
                        self.said += [(time.monotonic(), "yes" if s.status == 200 else "no")
                                      for s in streams]
            except (Aborted, AssertionError):
                self.said.append((time.monotonic(), "no"))

    def since(self, at):
        return [what for when, what in list(self.said) if when > at]

    def close(self):
        self.over.set()
        for t in self.tasks:
            t.result()


def test_reload_while_they_move(world, tmp_path):
    """Whatever a stream is at when the right to it ends: it ends, and none gets through after."""
    place = Place(world, tmp_path)
    relay = place.relay
    kept = place.lives("n2", times=1) + place.others("beta")
    steady = sum(count_of(x) for x in kept)
    openers = world.add(Openers(place))
    for _ in range(6):
        lost = place.lives("n1", times=1)
        relay.reload(clients=place.rules(n1=False))
        all_end(lost)
        relay.wait_metric("live_splices", lambda n: n <= steady, WITHIN)
        at = time.monotonic()
        wait_for(lambda: len(openers.since(at + 0.2)) > 30, "more attempts")
        assert set(openers.since(at + 0.2)) == {"no"}
        relay.reload(clients=place.rules())
        at = time.monotonic()
        wait_for(lambda: "yes" in openers.since(at), "they may again")
    openers.close()
    all_finish(kept)
    relay.wait_quiet()
