# A key broker that speaks gRPC, as kbs-rs does for SEV's launch: GetBundle, then GetSecret; and
# calls that stand for long, which gRPC's own pings keep.
import json
import os
import secrets
import time
from concurrent import futures

import pytest

from harness import DOMAIN, MB, data, digest, missing
from node import at_once

try:
    import grpc
except ImportError:
    grpc = None

SERVICE = "keybroker.KeyBrokerService"
WAYS = ["static", "connect", "sni"]
IDLE = 1.5  # seconds without a byte, at the relay; at the agent twice as long: so it is never first
LIVING = float(os.environ.get("ATTEST_LIVING_SECONDS", 6))  # of minutes in suite slow
PINGS = [("grpc.keepalive_time_ms", 300), ("grpc.keepalive_timeout_ms", 20000),
         ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0)]
PINGS_TAKEN = [("grpc.http2.min_ping_interval_without_data_ms", 100),
               ("grpc.http2.max_ping_strikes", 0), ("grpc.keepalive_permit_without_calls", 1)]


class Broker:
    """Bundles and the secrets that go with them, in memory; cleartext HTTP/2, or TLS of its own."""

    def __init__(self, world, tls):
        self.launches, self.secret, self.calls = {}, secrets.token_bytes(32), 0
        self.server = grpc.server(futures.ThreadPoolExecutor(32), options=PINGS_TAKEN)
        handlers = {
            "GetBundle": grpc.unary_unary_rpc_method_handler(self.get_bundle),
            "GetSecret": grpc.unary_unary_rpc_method_handler(self.get_secret),
            "Digests": grpc.stream_stream_rpc_method_handler(self.digests),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),))
        if tls:
            certificate, key = (open(x, "rb").read() for x in world.certificates.service)
            credentials = grpc.ssl_server_credentials([(key, certificate)])
            port = self.server.add_secure_port("127.0.0.1:0", credentials)
        else:
            port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"tcp:127.0.0.1:{port}"
        self.server.start()

    def get_bundle(self, request, _):
        self.calls += 1
        launch = secrets.token_hex(16)
        self.launches[launch] = json.loads(request)["policy"]
        return json.dumps({"launch_id": launch}).encode()

    def get_secret(self, request, context):
        self.calls += 1
        asked = json.loads(request)
        if self.launches.pop(asked["launch_id"], None) != asked["policy"]:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such launch here")
        return self.secret

    @staticmethod
    def digests(requests, _):
        for request in requests:
            yield digest(request).encode()

    @staticmethod
    def watch(request, context):
        """A word at once, and one after so many seconds."""
        yield b"begun"
        until = time.monotonic() + float(request)
        while context.is_active() and time.monotonic() < until:
            time.sleep(0.05)
        yield b"done"

    def close(self):
        self.server.stop(0).wait(20)


@pytest.fixture
def proxy(monkeypatch):
    """Tells gRPC of its proxy as users do: its address in grpc_proxy, and no host to go without."""
    for name in "no_grpc_proxy", "no_proxy":
        monkeypatch.delenv(name, raising=False)
    return lambda address: monkeypatch.setenv("grpc_proxy", address)


class Setting:
    def __init__(self, world, way, proxy, brokers=1, idle=None):
        if not grpc:
            missing("python3-grpcio is not installed")
        self.world, self.way = world, way
        self.relay = world.relay(timeouts={"idle": f"{idle * 1000:.0f}ms"} if idle else {},
                                 listeners=[{"name": "static", "service": "keys.acme"}])
        self.brokers = [world.add(Broker(world, way == "sni")) for _ in range(brokers)]
        self.agents = [world.agent(self.relay, {"keys": b.address}, name=f"agent-{i}",
                                   timeouts={"idle": f"{2000 * idle:.0f}ms"} if idle else {})
                       for i, b in enumerate(self.brokers)]
        proxy(f"http://127.0.0.1:{self.relay.port()}")

    def channel(self, options=()):
        """A connection of its own, by this way."""
        options = [("grpc.use_local_subchannel_pool", 1), *options]
        if self.way == "static":
            target = f"127.0.0.1:{self.relay.port('static')}"
            return grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0), *options])
        if self.way == "connect":
            return grpc.insecure_channel("keys.acme:44444", options)
        with open(self.world.certificates.ca, "rb") as f:
            credentials = grpc.ssl_channel_credentials(f.read())
        return grpc.secure_channel(
            f"127.0.0.1:{self.relay.port()}", credentials,
            [("grpc.ssl_target_name_override", f"keys.acme.{DOMAIN}"),
             ("grpc.enable_http_proxy", 0), *options])


def call(channel, method, request, timeout=30):
    return channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=timeout)


@pytest.mark.parametrize("way", WAYS)
def test_bundle_and_secret(world, way, proxy):
    """10 launches, a connection for each call, two brokers with an agent each: none is split."""
    setting = Setting(world, way, proxy, 2)
    first, second = setting.brokers

    def one(i):
        with setting.channel() as channel:
            bundle = json.loads(call(channel, "GetBundle", json.dumps({"policy": i}).encode()))
        asked = {"launch_id": bundle["launch_id"], "policy": i}
        with setting.channel() as channel:
            return call(channel, "GetSecret", json.dumps(asked).encode())
    assert at_once(10, one) == [first.secret] * 10
    assert (first.calls, second.calls) == (20, 0)
    # a refusal is gRPC's own, with its words
    with setting.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        call(channel, "GetSecret", b'{"launch_id": "x", "policy": 1}')
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == "no such launch here"
    setting.relay.wait_quiet()


@pytest.mark.parametrize("way", WAYS)
def test_streams_both_ways(world, way, proxy):
    """20 calls in one connection, each with 2 MB up in large messages, each answered in its turn."""
    setting = Setting(world, way, proxy)
    with setting.channel() as channel:
        digests = channel.stream_stream(f"/{SERVICE}/Digests")

        def one(_):
            parts = [data(MB // 2) for _ in range(4)]
            got = list(digests(iter(parts), timeout=60))
            return got == [digest(p).encode() for p in parts]
        assert all(at_once(20, one))
        assert setting.relay.metric("live_splices") == 1
    setting.relay.wait_quiet()


@pytest.mark.parametrize("way", WAYS)
def test_pings_keep_a_silent_call(world, way, proxy):
    """
    A call of which nothing is heard for several idle time-outs: with gRPC's keepalive it stands and
    is answered. Without it is cut, and the caller is told so when the idle time is over.
    """
    setting = Setting(world, way, proxy, idle=IDLE)
    with setting.channel(PINGS) as kept, setting.channel() as silent:
        watch = f"/{SERVICE}/Watch"
        with_pings = kept.unary_stream(watch)(b"%f" % (3 * IDLE), timeout=40)
        without = silent.unary_stream(watch)(b"%f" % (3 * IDLE), timeout=40)
        assert next(with_pings) == next(without) == b"begun"
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as cut:
            next(without)
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        assert IDLE - 0.5 < time.monotonic() - begun < 3 * IDLE
        assert next(with_pings) == b"done"
        assert time.monotonic() - begun > 2.9 * IDLE
        setting.relay.wait_metric("stream_ended_total", lambda n: n == 1, reason="idle")
        # idle between two calls, the connection is kept as well
        time.sleep(1.5 * IDLE)
        assert json.loads(call(kept, "GetBundle", b'{"policy": 1}'))["launch_id"]
        assert setting.relay.metric("streams_total") == 2  # this one was in a connection there was


@pytest.mark.parametrize("way", WAYS)
def test_lives_for_long(world, way, proxy):
    """
    At default settings one connection lives for LIVING seconds: a call stands in it all the time,
    others come now and then, and each is answered.
    """
    setting = Setting(world, way, proxy)
    with setting.channel() as channel:
        begun = time.monotonic()
        standing = channel.unary_stream(f"/{SERVICE}/Watch")(b"%f" % LIVING, timeout=LIVING + 60)
        assert next(standing) == b"begun"
        digests = channel.stream_stream(f"/{SERVICE}/Digests")
        while time.monotonic() - begun < LIVING - 1:
            assert json.loads(call(channel, "GetBundle", b'{"policy": 1}'))["launch_id"]
            part = data(MB)
            assert list(digests(iter([part]), timeout=60)) == [digest(part).encode()]
            time.sleep(LIVING / 10)
        assert next(standing) == b"done"
        assert time.monotonic() - begun >= LIVING
    assert setting.relay.metric("streams_total") == 1
    setting.relay.wait_quiet()
