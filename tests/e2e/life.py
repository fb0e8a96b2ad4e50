# One relay's life, for test_life: what its operator does to it, and what strangers try.
import json
import os
import random
import shutil
import socket
import ssl
import struct
import time

from admin import Admin
from faults import STORM, WAYS
from harness import (DEADLINE, DOMAIN, PYTHON, Agent, Program, Relay, binary, free_port, sum_of,
                     wait_for)
from streams import DOORS, Aborted, Conn, Refused, Service, dial, echo
from test_enroll import Enrolment
from test_local import Local
from test_websocket_door import Raw

CARRIERS = ("direct", "websocket")
LOCAL = "tunnel-tcp.acme"
READS = ["status", "history", "listeners", "owners", "services", "tunnels", "streams", "limits",
         "failures", "config", "streams?limit=3&after=1", "streams?client=127.0.0.1",
         "services/tunnel-tcp.acme/ready", "services/none.acme/ready"]


class Life:
    """A relay with every door, two agents, a local listener; and clients in a process of their own."""

    def __init__(self, world, seed):
        self.world, self.seed, self.random = world, seed, random.Random(seed)
        self.done, self.leaving, self.enrolled = {}, [], 0
        self.far = Program(world, "far", [
            PYTHON, STORM, "serve", "tcp:127.0.0.1:0", f"unix:{world.path('far.sock')}", "--tls",
            *world.certificates.service, "--seed", str(seed), "--out", world.path("far.lines")])
        found = self.far.wait_output(r"listening (\S+) (\S+)\n").groups()
        self.behind = dict(zip(("tcp", "unix"), found))
        self.echo = world.add(Service(handler=echo))
        self.pair = self.copy_pair(world.certificates.relay)
        self.admin = Admin(world.path("admin.sock"))
        self.spare = [free_port() for _ in range(4)]
        self.enrolment = Enrolment(world, listeners=self.listeners(), services=self.services(),
                                   admin=f"unix:{self.admin.path}",
                                   status=f"tcp:127.0.0.1:{free_port()}",
                                   audit={"file": world.path("audit")}, timeouts=self.timeouts())
        self.relay = self.enrolment.relay
        # strangers come from elsewhere on the loopback
        self.relay.reload(penalties={"exempt": ["127.0.0.1/32"]},
                          tls={"certificate": self.pair[0], "key": self.pair[1]})
        self.base = self.relay.config
        self.agents = [world.agent(self.relay, self.offers(c), name=f"agent-{c}", transport=c)
                       for c in CARRIERS]
        self.local = Local(world, self.relay, {LOCAL: None})

    def copy_pair(self, pair):
        """Where it can be replaced."""
        at = [self.world.path("relay-certificate.pem"), self.world.path("relay-key.pem")]
        for here, there in zip(pair, at):
            shutil.copy(here, there + ".new")
            os.rename(there + ".new", there)
        return at

    @staticmethod
    def timeouts():
        return {"handshake": "4s", "dial": "4s", "drain": "3s", "ping": "1s", "dead": "5s"}

    def offers(self, carrier):
        own = {w: self.behind[kind] for w, (c, kind) in WAYS.items() if c == carrier}
        return {**own, "echo": self.echo.address} if carrier == "direct" else own

    def services(self):
        return [{"name": f"{w}.acme", "targets": [self.behind[kind]]}
                for w, (c, kind) in WAYS.items() if not c]

    def listeners(self):
        found = [{"name": "door", "doors": ["connect", "websocket"]}]
        for w in WAYS:
            found += [{"name": f"tcp-{w}.acme", "service": f"{w}.acme"},
                      {"name": f"unix-{w}.acme", "service": f"{w}.acme",
                       "address": f"unix:{self.world.path('d-' + w)}"}]
        return found

    def clients(self, number, seconds):
        at = {**self.relay.listeners, "bridge_tcp": self.local.addresses[LOCAL]}
        spec = {"seed": self.seed, "first": number * 1_000_000, "count": 1 << 30,
                "seconds": seconds, "threads": 8, "h2_threads": 2, "bits": 18, "listeners": at,
                "ca": self.world.certificates.ca, "out": self.world.path(f"clients-{number}.lines"),
                "doors": [(d, f"{w}.acme") for d in DOORS for w in WAYS] + [("bridge_tcp", LOCAL)] * 4,
                "h2": [f"{w}.acme" for w in WAYS]}
        path = self.world.path(f"clients-{number}.json")
        with open(path, "w") as f:
            json.dump(spec, f)
        p = Program(self.world, f"clients-{number}", [PYTHON, STORM, "run", path])
        p.lines = spec["out"]
        p.wait_output("begun")
        return p

    def lines(self, path):
        with open(path) as f:
            return [json.loads(x) for x in f if x.endswith("\n")]

    def streams(self, clients):
        """All streams, each with what the service said of it (or None)."""
        def both():
            far = {x["number"]: x for x in self.lines(self.world.path("far.lines"))}
            found = [dict(x, far=far.get(x["number"])) for x in self.lines(clients.lines)]
            return found if all(x["far"] for x in found if x["end"] == "whole") else None
        return wait_for(both, "the service's word on each stream", every=0.2)

    # ---- what its operator does ----

    def whole(self, **changes):
        """The first config with changes; None: what is there besides goes."""
        return {**dict.fromkeys(self.relay.config), **self.base, **changes}

    def reload(self, good=True, **changes):
        """By a signal or at the admin socket. A takeover that is under way may say no."""
        config = self.whole(**changes)
        if self.random.random() < 0.3:
            self.relay.reload(good, **config)
            return
        self.relay.write_config(**config)
        code, answer, _ = self.admin.ask("POST", "/v1/reload")
        assert code == (200 if good else 422), (code, answer)

    def reload_well(self):
        r = self.random
        more = [{"name": f"more{i}", "address": f"tcp:127.0.0.1:{p}", "service": "direct-tcp.acme"}
                for i, p in enumerate(self.spare) if r.random() < 0.5]
        self.reload(
            listeners=[*self.base["listeners"], *more],
            services=[*self.services(), *[{"name": f"s{r.randrange(9)}.other",
                                           "targets": [self.behind["tcp"]]}]],
            limits={"parked": r.randrange(5000, 9000), "memory": f"{r.randrange(256, 512)}MiB"},
            timeouts={**self.timeouts(), "idle": f"{r.randrange(60, 90)}s"},
            clients=r.choice([None, [{"name": "all", "networks": ["127.0.0.0/8"],
                                      "services": ["*.acme"]},
                                     {"name": "paths", "services": ["*.acme"], "listeners": [
                                         x["name"] for x in self.base["listeners"]
                                         if x["address"].startswith("unix:")]}]]))

    def reload_badly(self):
        taken = self.echo.address
        self.reload(False, **self.random.choice([
            {"surprise": 1}, {"timeouts": {"dial": "soon"}}, {"workers": 7},
            {"tls": {"certificate": self.pair[0], "key": self.world.path("none.pem")}},
            {"listeners": [*self.base["listeners"], {"name": "taken", "address": taken,
                                                     "service": "direct-tcp.acme"}]}]))
        self.relay.write_config(**self.whole())  # commands read it, too

    def enrol_and_revoke(self):
        """An owner comes with a code, renews, is taken back; its tunnel ends, and for good."""
        e, self.enrolled = self.enrolment, self.enrolled + 1
        e.relay, folder = self.relay, f"own{self.enrolled}"
        e.owner(e.code("other"), folder=folder)
        if self.random.random() < 0.5:
            e.owner("", "--renew", "--force", folder=folder)
        pair = e.pair(folder)
        a = self.world.agent(self.relay, {"late": self.echo.address}, owner="other",
                             token_file=False, certificate=pair[0], key=pair[1], wait=False,
                             name=f"agent-{folder}", expect=(0, 1, 3))
        a.wait_log("up|accepted|connected")
        code, answer, _ = self.admin.ask("POST", "/v1/revoke", json.dumps({"owner": "other"}))
        assert code == 200 and answer["revoked"], (code, answer)
        a.wait_log("revoked|refused|rejected|not accepted|no longer")
        a.stop()

    def take_over(self):
        old, self.names = self.relay, len(self.leaving) + 2
        new = object.__new__(Relay)
        new.config, new.metrics_port, new.path = old.config, old.metrics_port, old.path
        new.listeners = old.listeners
        Program.__init__(new, self.world, f"relay{self.names}",
                         [binary("ATTEST_RELAY"), "--takeover", "--config", old.path])
        new.wait_log("ready, 2 workers")
        self.leaving.append(old)
        self.relay = new
        wait_for(lambda: self.admin.get("/v1/status")["pid"] == new.pid, "the heir at its socket")

    def take_over_in_vain(self):
        """It gets all sockets, and dies."""
        s = self.admin.raw()
        s.sendall(b"POST /v1/takeover HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                  b"Upgrade: attest-takeover/1\r\nContent-Length: 0\r\n\r\n")
        _, fds, _, _ = socket.recv_fds(s, 4096, 8)
        for fd in fds:
            os.close(fd)
        s.close()
        wait_for(lambda: self.relay.count("is gone, or says nonsense|refuses|cannot hand"),
                 "the end of an heir", timeout=DEADLINE)

    def renew_certificate(self):
        self.copy_pair(self.world.certificates.relay)

    def close_something(self):
        what = self.random.choice(["streams", "streams", "streams", "tunnels"])
        found = self.admin.get(f"/v1/{what}?limit=50")[what]
        for x in found[:1 if what == "tunnels" else 5]:
            code, answer, _ = self.admin.ask("POST", f"/v1/{what}/{x['id']}/close")
            assert code in (200, 404), (code, answer)

    def set_log_level(self):
        self.admin.post("/v1/log", {"level": self.random.choice(["debug", "info", "warning"])})

    def act(self):
        acts = [self.reload_well] * 6 + [self.reload_badly] * 4 + [self.close_something] * 4 + [
            self.set_log_level] * 2 + [self.enrol_and_revoke, self.renew_certificate,
                                       self.take_over_in_vain] + [self.take_over] * 2
        one = self.random.choice(acts)
        one()
        self.done[one.__name__] = self.done.get(one.__name__, 0) + 1
        for old in [x for x in self.leaving if not x.done and not x.running()]:
            old.finish()

    # ---- who looks, and who means harm ----

    def look(self, n):
        """One admin read, or one question that is none."""
        r = random.Random(f"{self.seed} look {n}")
        try:
            if r.random() < 0.85:
                code, _, _ = self.admin.ask("GET", "/v1/" + r.choice(READS))
                assert code in (200, 503, 504), code
                return
            s = self.admin.raw()
            s.sendall(r.choice([b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
                                b"POST /v1/log HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
                                b"\x16\x03\x01" + r.randbytes(200), b"GET / HTTP/9\r\n\r\n",
                                b"POST /v1/revoke HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]"]))
            if r.random() < 0.5:
                s.settimeout(0.5)
                s.recv(1000)
            s.close()
        except (ConnectionError, TimeoutError, FileNotFoundError):
            pass  # it is another process' just now, or it has had enough

    def harm(self, n):
        """A connection that is no good, by a door for strangers, from somewhere on the loopback."""
        r = random.Random(f"{self.seed} harm {n}")
        names = [x for x, a in self.relay.listeners.items() if a.startswith("tcp:")]
        s = socket.socket()
        s.settimeout(3)
        try:
            s.bind((f"127.0.{r.randrange(1, 200)}.{r.randrange(1, 250)}", 0))
            s.connect(("127.0.0.1", self.relay.port(r.choice(names + ["front"] * 6))))
            self.misbehave(r, s)
        except (OSError, ssl.SSLError, Aborted, Refused, AssertionError):  # as it should be
            pass
        finally:
            if r.random() < 0.3 and s.fileno() >= 0:  # else ssl has taken it
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()

    def misbehave(self, r, s):
        kind = r.randrange(9)
        if kind == 0:
            s.sendall(r.randbytes(r.randrange(1, 5000)))
        elif kind == 1:  # the half of a ClientHello, and silence
            out = ssl.MemoryBIO()
            tls = self.world.certificates.client().wrap_bio(ssl.MemoryBIO(), out,
                                                            server_hostname=DOMAIN)
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            hello = out.read()
            s.sendall(hello[:r.randrange(1, len(hello))])
            time.sleep(r.random())
        elif kind in (2, 3, 4):  # inside the relay's own TLS
            alpn = [["attest-relay/1"], ["h2"], ["http/1.1"]][kind - 2]
            with self.world.certificates.client(alpn).wrap_socket(
                    s, server_hostname=DOMAIN, do_handshake_on_connect=True) as t:
                t.sendall(r.choice([
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + r.randbytes(300),
                    b"POST /enroll HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123\r\n"
                    b"Content-Length: 9999\r\n\r\n", b"GET /tunnel HTTP/1.1\r\n\r\n",
                    b"GET /connect/echo.acme HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"]))
                t.recv(100)
        elif kind == 5:
            s.sendall(b"CONNECT " + bytes(r.choices(range(33, 127), k=r.randrange(1, 400)))
                      + b" HTTP/1.1\r\n\r\n")
            s.recv(100)
        elif kind == 6:
            s.sendall(b"CONNECT direct-tcp.acme:443 HTTP/1.1\r\nHost: x\r\n\r\n"
                      + r.randbytes(r.randrange(20000)))
        elif kind == 7:
            time.sleep(r.random() * 2)
        else:
            c = Raw(Conn(s), "echo.acme")
            c.conn.send(r.randbytes(r.randrange(1, 200)))

    def websocket(self, n):
        """There and back by a WebSocket. False: it was cut, as streams are here."""
        sent = random.Random(f"{self.seed} ws {n}").randbytes(20000)
        try:
            c = Raw(dial(self.relay.listeners["door"]), "echo.acme")
            c.message(sent)
            got = b""
            while len(got) < len(sent):
                opcode, payload = c.frame()
                if opcode != 2:
                    return False
                got += payload
                assert sent.startswith(got), "other bytes came back"
            c.close_with(1000)
            c.conn.close()
            return True
        except (Aborted, Refused, OSError, AssertionError) as e:
            if "other bytes" in str(e):
                raise
            return False

    # ---- afterwards ----

    def settle(self):
        """The first config again, and nobody is left."""
        for old in [x for x in self.leaving if not x.done]:
            old.finish()
        self.reload()
        self.relay.wait_tunnels(2)
        self.relay.wait_quiet()
        last = {}

        def agreed():
            m = self.relay.metrics()
            last.update(streams=m["attest_relay_streams_total"],
                        ended=sum_of(m, "attest_relay_stream_ended_total", {}),
                        handshakes=self.used("handshakes"))
            return last["streams"] == last["ended"] and last["handshakes"] == 0
        wait_for(agreed, lambda: f"as many streams ended as began: {last}")

    def used(self, what):
        return next(x["used"] for x in self.admin.get("/v1/limits")["limits"]
                    if x["scope"] == "all" and x["what"] == what)
