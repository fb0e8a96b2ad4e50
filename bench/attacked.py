"""The special measurement "attacks": a tenant's streams while attacks.py attacks the same relay.

The processors are shared, too: by the attacker's own process, and by the work that any relay has
with it. So there are two relays, and three states that each round goes through in another order:
no attack; this relay is attacked; the other one is. What a tenant loses by sharing a relay, and
not only a machine, is the difference between the last two.
"""
import contextlib
import hashlib
import os
import secrets
import sys
import time

from lab import Process, Tunnelled, figure, result

ATTACKS = ("loris", "tunnels", "park", "reset", "settings", "agent", "through")
ATTACKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "attacks.py")


class Attacked:
    """A relay with a tenant, and another that has nobody but the attacker."""

    def __init__(self, lab, seconds):
        self.lab, self.seconds = lab, seconds
        self.token = secrets.token_urlsafe(32)  # of an owner that attacks
        mallory = {"name": "mallory",
                   "tokens": ["sha256:" + hashlib.sha256(self.token.encode()).hexdigest()]}
        config = {"timeouts": {"handshake": "10s", "pickup": "2s"}, "owners": [lab.owner, mallory]}
        doors = ["tunnel", "connect"]
        self.tenant = Tunnelled(lab, doors, **config)
        front = f"tcp:127.0.0.1:{lab.ports.take()}"
        self.other, _ = lab.relay([{"name": "front", "address": front, "doors": doors}], **config)
        self.fronts = {"same": self.tenant.front, "other": front}

    def load(self, mode, *options, seconds=None):
        return result(self.lab.load(mode, self.tenant.door, *options,
                                    "--seconds", seconds or self.seconds, "--warmup", 0.15))

    def bulk(self):
        """As much as the processors can. MB/s, and the relay's milliseconds for each."""
        before = self.tenant.relay.cpu()
        rate = self.load("down", "--streams", 4)["MB_per_second"]
        return rate, (self.tenant.relay.cpu() - before) * 1000 / (rate * self.seconds)

    def calm(self):
        """Each stream an exchange a millisecond: most of the processors' time is left."""
        # on a machine that stands still for a moment something has to be finished, too
        got = self.load("pingpong", "--streams", 8, "--think", 1000, seconds=max(self.seconds, 1))
        return got["per_second"], got["p99_us"]

    @contextlib.contextmanager
    def attack(self, kind, where):
        address = f"127.0.0.{66 + ATTACKS.index(kind)}"
        p = Process(self.lab, f"attack-{kind}", [sys.executable, ATTACKER, kind,
                                                 *self.fronts[where].split(":")[1:], address,
                                                 self.token])
        if not p.object().get("ready"):
            p.fail("is not ready")
        time.sleep(self.lab.by_scale(0.1, 0.7, 1, 1))  # it has reached what it may
        yield p
        p.p.stdin.close()
        p.object()
        p.status(0)

    def measure(self, kind, where):
        """In one state: no attack ("none"), or one on this relay or the other."""
        if where == "none":
            return {"bulk": self.bulk(), "calm": self.calm()}
        with self.attack(kind, where) as p:
            took, began = (p.cpu(), self.other.cpu()), time.monotonic()
            got = {"bulk": self.bulk()}
            span = (time.monotonic() - began) / 1000
            got["takes"] = [(a.cpu() - b) / span for a, b in zip((p, self.other), took)]
            if where == "same":
                got["calm"] = self.calm()
        return got


def attack_figures(kind, rounds):
    """rounds: of the three states. Ratios are of one round."""
    def ratios(key, i, over):
        return [r["same"][key][i] / r[over][key][i] for r in rounds]

    def takes(i):  # where nothing else is asked of the relay
        return [r["other"]["takes"][i] for r in rounds]
    beside = f"beside the attack \"{kind}\""
    return [
        figure(f"attacks.{kind}_ratio", f"4 bulk streams: rate {beside} to the rate without",
               "ratio", ratios("bulk", 0, "none"), "higher", target=0.9),
        figure(f"attacks.{kind}_shared", f"4 bulk streams: rate {beside} to the rate while another "
               "relay has it", "ratio", ratios("bulk", 0, "other"), "higher"),
        figure(f"attacks.{kind}_calm", f"8 streams, an exchange a millisecond on each: rate "
               f"{beside} to the rate without", "ratio", ratios("calm", 0, "none"), "higher",
               target=0.9),
        figure(f"attacks.{kind}_calm_p99", f"the same: p99 of an exchange {beside}", "us",
               [r["same"]["calm"][1] for r in rounds],
               detail={"without": [r["none"]["calm"][1] for r in rounds]}),
        figure(f"attacks.{kind}_relay_cpu", f"the relay's processor time for a MB, {beside} to "
               "without", "ratio", ratios("bulk", 1, "none")),
        figure(f"attacks.{kind}_takes", f"the attack \"{kind}\" takes of a relay's processor time",
               "ms/s", takes(1)),
        figure(f"attacks.{kind}_attacker", f"the attack \"{kind}\" takes of its own process's",
               "ms/s", takes(0))]


def attacks(lab):
    """Side by side, with the default limits; the states of each round in another order."""
    a = Attacked(lab, lab.by_scale(0.5, 0.5, 1, 2))
    rounds, states = lab.rounds(1, 4, 5, 7), ["none", "same", "other"]
    got = {kind: [] for kind in ATTACKS}
    for r in range(rounds):
        first = r % len(states)
        for kind, all_rounds in got.items():
            all_rounds.append({where: a.measure(kind, where)
                               for where in states[first:] + states[:first]})
        lab.say(f"round {r + 1} of {rounds}: " + ", ".join(
            f"{kind} {v[-1]['same']['bulk'][0] / v[-1]['none']['bulk'][0]:.2f} "
            f"({v[-1]['same']['bulk'][0] / v[-1]['other']['bulk'][0]:.2f})"
            for kind, v in got.items()))
    return [f for kind, v in got.items() for f in attack_figures(kind, v)]
