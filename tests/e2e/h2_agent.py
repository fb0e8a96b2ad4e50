#!/usr/bin/python3
# An agent written from tunnel/PROTOCOL.md alone, on python3-h2: a library nobody here wrote.
#
# Serves `--service NAME=tcp:HOST:PORT`, `NAME=unix:/path`, `NAME=echo` and `NAME=refuse` over the
# direct carrier. It prints one line per event a test waits for. Notes for other authors of agents:
#
#  - The relay's CONNECT has no :scheme and no :path (RFC 9113 section 8.5). Libraries that check
#    pseudo header fields as of an ordinary request (h2 4.1 does) must be told not to.
#  - h2 takes a GOAWAY for the end of the connection. PROTOCOL.md section 6 does not, so GOAWAY
#    frames are taken out of the stream before h2 sees them, and sent past it.
import argparse
import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import sys
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hpack import NeverIndexedHeaderTuple

WINDOW = 262144
SESSION_WINDOW = 32 * 1024 * 1024
FRAME_GOAWAY = 7
LAST_STREAM = 2**31 - 1


def say(*words):
    print(*words, flush=True)


class Frames:
    """Splits HTTP/2's byte stream; hands on everything but GOAWAY."""

    def __init__(self):
        self.data = b""

    def feed(self, data):
        self.data += data
        rest, goaways, at = [], [], 0
        if self.data[:3] == b"PRI"[: len(self.data)]:
            if len(self.data) < 24:
                return b"", []
            rest.append(self.data[:24])
            at = 24
        while len(self.data) - at >= 9:
            length = int.from_bytes(self.data[at : at + 3], "big")
            end = at + 9 + length
            if len(self.data) < end:
                break
            if self.data[at + 3] == FRAME_GOAWAY:
                goaways.append(struct.unpack(">II", self.data[at + 9 : at + 17]))
            else:
                rest.append(self.data[at:end])
            at = end
        self.data = self.data[at:]
        return b"".join(rest), goaways


class Stream:
    def __init__(self, agent, id, service):
        self.agent, self.id, self.service = agent, id, service
        self.inbox = asyncio.Queue()  # (bytes, credit) or None at END_STREAM; bounded by the window
        self.window = asyncio.Event()
        self.over = False
        self.writer = None
        self.task = None

    async def send(self, data):
        conn = self.agent.conn
        while data:
            if self.over:
                raise ConnectionResetError
            n = min(conn.local_flow_control_window(self.id), conn.max_outbound_frame_size)
            if n <= 0:
                self.window.clear()
                await self.window.wait()
                continue
            conn.send_data(self.id, data[:n])
            data = data[n:]
            await self.agent.flush()

    async def end(self):
        if not self.over:
            self.agent.conn.end_stream(self.id)
            await self.agent.flush()

    async def reset(self, code):
        if not self.over:
            self.over = True
            try:
                self.agent.conn.reset_stream(self.id, code)
            except h2.exceptions.StreamClosedError:
                pass
            await self.agent.flush()

    async def credit(self, n):
        if n and not self.agent.ended:
            self.agent.conn.acknowledge_received_data(n, self.id)
            await self.agent.flush()

    def answer(self):
        self.agent.conn.send_headers(self.id, [(":status", "200")])

    async def run(self):
        target = self.agent.services.get(self.service)
        try:
            if target is None or target == "refuse":
                await self.reset(h2.errors.ErrorCodes.REFUSED_STREAM)
            elif target == "echo":
                await self.echo()
            else:
                await self.forward(target)
        except h2.exceptions.ProtocolError as e:
            if not self.over and not self.agent.ended:
                say("stream", self.id, "failed:", repr(e))
        finally:
            if self.writer:
                self.writer.close()
            self.agent.forget(self)

    async def echo(self):
        self.answer()
        await self.agent.flush()
        try:
            while (item := await self.inbox.get()) is not None:
                await self.send(item[0])
                await self.credit(item[1])
            await self.end()
        except ConnectionResetError:
            pass

    async def dial(self, target):
        if target.startswith("unix:"):
            return await asyncio.open_unix_connection(target[5:])
        host, port = target[4:].rsplit(":", 1)
        return await asyncio.open_connection(host, int(port))

    async def forward(self, target):
        eager = self.service in self.agent.eager
        first = None
        if not eager:
            self.answer()
            await self.agent.flush()
            first = [await self.inbox.get()]
        try:
            reader, self.writer = await self.dial(target)
        except OSError as e:
            say("stream", self.id, "cannot dial:", e)
            await self.reset(h2.errors.ErrorCodes.CONNECT_ERROR)
            return
        if eager:
            self.answer()
            await self.agent.flush()
        down = asyncio.ensure_future(self.down(reader))
        try:
            while (item := first.pop() if first else await self.inbox.get()) is not None:
                self.writer.write(item[0])
                await self.writer.drain()
                await self.credit(item[1])
            self.writer.write_eof()
            await down
        except OSError:
            await self.reset(h2.errors.ErrorCodes.CANCEL)
            self.abort()
        finally:
            down.cancel()

    async def down(self, reader):
        try:
            while data := await reader.read(65536):
                await self.send(data)
            await self.end()
        except OSError:
            await self.reset(h2.errors.ErrorCodes.CANCEL)
            self.task.cancel()

    def abort(self):
        if not self.writer:
            return
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Agent:
    def __init__(self, args):
        self.args = args
        self.services, self.eager = {}, set()
        for text in args.service:
            name, target = text.split("=", 1)
            target, _, option = target.partition(",")
            self.services[f"{name}.{args.owner}"] = target
            if option == "dial=eager":
                self.eager.add(f"{name}.{args.owner}")
        self.streams = {}
        self.ended = False
        self.leaving = False
        self.last = 0
        self.heard = time.monotonic()
        self.pong = asyncio.Event()

    async def run(self):
        context = ssl.create_default_context(cafile=self.args.ca_file)
        context.set_alpn_protocols(["attest-relay/1"])
        host, port = self.args.relay.rsplit(":", 1)
        self.reader, self.writer = await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname=self.args.server_name or host)
        alpn = self.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        if alpn != "attest-relay/1":
            say("no relay: ALPN", alpn)
            return 1
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=False, header_encoding="utf-8", validate_inbound_headers=False))
        codes = h2.settings.SettingCodes
        self.conn.local_settings = h2.settings.Settings(client=False, initial_values={
            codes.INITIAL_WINDOW_SIZE: WINDOW,
            codes.MAX_CONCURRENT_STREAMS: self.args.streams,
            codes.MAX_HEADER_LIST_SIZE: 16384,
        })
        self.conn.initiate_connection()
        self.conn.increment_flow_control_window(SESSION_WINDOW - 65535)
        await self.flush()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.leave)
        pinger = asyncio.ensure_future(self.ping())
        frames = Frames()
        try:
            while data := await self.reader.read(65536):
                self.heard = time.monotonic()
                data, goaways = frames.feed(data)
                for event in self.conn.receive_data(data) if data else []:
                    self.event(event)
                await self.flush()
                for last, code in goaways:
                    say("goaway", last, code)
            say("closed by the relay")
        except OSError as e:
            say("connection lost:", e)
        finally:
            self.ended = True
            pinger.cancel()
            for stream in list(self.streams.values()):
                stream.over = True
                stream.abort()
                stream.task.cancel()
            self.writer.close()
        return 0

    async def flush(self):
        data = self.conn.data_to_send()
        if data:
            self.writer.write(data)
        await self.writer.drain()

    async def ping(self):
        while True:
            await asyncio.sleep(5)
            if time.monotonic() - self.heard > 10:
                say("relay is dead")
                self.writer.transport.abort()
            self.conn.ping(b"liveness")
            await self.flush()

    def event(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.request(event.stream_id, dict(event.headers), event.headers)
        elif isinstance(event, h2.events.DataReceived):
            stream = self.streams.get(event.stream_id)
            if stream:
                stream.inbox.put_nowait((event.data, event.flow_controlled_length))
            else:
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            if stream := self.streams.get(event.stream_id):
                stream.inbox.put_nowait(None)
        elif isinstance(event, h2.events.StreamReset):
            if stream := self.streams.get(event.stream_id):
                say("stream", event.stream_id, "reset", int(event.error_code))
                stream.over = True
                stream.abort()
                stream.task.cancel()
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            for stream in self.streams.values():
                stream.window.set()
        elif isinstance(event, h2.events.PingAckReceived):
            self.pong.set()

    def request(self, id, head, fields):
        if head[":method"] == "CONNECT":
            self.last = max(self.last, id)
            stream = self.streams[id] = Stream(self, id, head[":authority"].lower())
            if self.args.heads:
                say("head", json.dumps(list(fields)))
            stream.task = asyncio.ensure_future(stream.run())
            return
        path = head[":path"]
        if path == "/attest-relay/1/hello":
            with open(self.args.token_file) as f:
                token = f.read().strip()
            answer = [(":status", "200"), NeverIndexedHeaderTuple("attest-token", token),
                      ("attest-instance", self.args.instance),
                      ("attest-generation", str(self.args.generation or time.time_ns() // 1000))]
            for service in self.services:
                name = service.split(".")[0]
                answer.append(("attest-service",
                               name + (";dial=eager" if service in self.eager else "")))
            self.conn.send_headers(id, answer, end_stream=True)
            return
        self.conn.send_headers(id, [(":status", "204" if path.startswith("/attest-relay/1/") else
                                     "404")], end_stream=True)
        if path == "/attest-relay/1/accepted":
            say("accepted", *[v for n, v in fields if n == "attest-service"])
        elif path == "/attest-relay/1/refused":
            say("refused", head.get("attest-reason"), head.get("attest-message"))
        elif path == "/attest-relay/1/move":
            say("asked to move:", head.get("attest-reason"))

    def forget(self, stream):
        self.streams.pop(stream.id, None)
        if self.leaving and not self.streams:
            self.writer.close()

    def goaway(self, last):
        self.writer.write(struct.pack(">BHBBIII", 0, 8, FRAME_GOAWAY, 0, 0, last, 0))

    def leave(self):
        asyncio.ensure_future(self.go())

    async def go(self):
        self.goaway(LAST_STREAM)
        self.pong.clear()
        self.conn.ping(b"goodbye!")
        await self.flush()
        await self.pong.wait()
        self.goaway(self.last)
        self.leaving = True
        say("leaving with", len(self.streams), "streams")
        if not self.streams:
            self.writer.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--relay", required=True, help="HOST:PORT")
    p.add_argument("--server-name")
    p.add_argument("--ca-file", required=True)
    p.add_argument("--token-file", required=True)
    p.add_argument("--owner", required=True)
    p.add_argument("--service", action="append", default=[])
    p.add_argument("--instance", default="h2-agent")
    p.add_argument("--generation", type=int)
    p.add_argument("--streams", type=int, default=1024)
    p.add_argument("--heads", action="store_true", help="say each CONNECT's fields")
    sys.exit(asyncio.run(Agent(p.parse_args()).run()))


if __name__ == "__main__":
    main()
