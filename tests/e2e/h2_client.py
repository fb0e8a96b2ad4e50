# A client of attest-relay's connect door over HTTP/2, on python3-h2: a library nobody here wrote.
#
# One thread: whoever waits for something reads for all streams. GOAWAY is taken out of the input
# (see h2_agent.py), since live streams go on after it.
import ssl
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from h2_agent import Frames
from harness import DEADLINE, DOMAIN
from streams import Aborted, TlsConn

SESSION_WINDOW = 32 * 1024 * 1024
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, CONNECT_ERROR = 0, 1, 7, 8, 10


class Stream:
    def __init__(self, client, id):
        self.client, self.id = client, id
        self.status, self.reason, self.reset, self.head = None, None, None, None
        self.ended, self.held = False, False
        self.got, self.owed = bytearray(), 0

    def opened(self):
        self.client.wait(lambda: self.status or self.reset is not None)
        assert self.status == 200, (self.status, self.reason, self.reset)
        return self

    def refused(self):
        """The status and reason's word of a no; the stream is over with it."""
        self.client.wait(lambda: self.ended or self.reset is not None)
        assert self.status not in (None, 200), (self.status, self.reset)
        assert not self.got
        return self.status, self.reason

    def send(self, data=b"", end=False):
        conn, view = self.client.h2, memoryview(data)
        while view:
            assert self.reset is None, f"reset: {self.reset}"
            n = min(conn.local_flow_control_window(self.id), conn.max_outbound_frame_size)
            if n <= 0:
                self.client.pump()
                continue
            conn.send_data(self.id, bytes(view[:n]))
            view = view[n:]
            self.client.flush()
        if end:
            conn.end_stream(self.id)
            self.client.flush()

    def read(self, n):
        self.client.wait(lambda: len(self.got) >= n or self.ended or self.reset is not None)
        got, self.got = bytes(self.got[:n]), self.got[n:]
        assert len(got) == n, (len(got), self.ended, self.reset)
        return got

    def read_all(self):
        self.client.wait(lambda: self.ended or self.reset is not None)
        assert self.ended, f"reset: {self.reset}"
        got, self.got = bytes(self.got), bytearray()
        return got

    def abort(self, code=CANCEL):
        self.client.h2.reset_stream(self.id, code)
        self.client.flush()

    def aborted(self):
        self.client.wait(lambda: self.reset is not None)
        assert not self.ended
        return self.reset


class H2Client:
    def __init__(self, conn):
        self.conn = conn
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False,
            normalize_outbound_headers=False))
        self.streams, self.goaways, self.frames = {}, [], Frames()
        self.closed, self.pongs = None, 0  # closed: "end" or "abort"
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(SESSION_WINDOW - 65535)
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data and not self.closed:
            try:
                self.conn.send(data)
            except Aborted:
                self.closed = "abort"

    def pump(self):
        assert not self.closed, f"the connection is over: {self.closed}, {self.goaways}"
        try:
            got = self.conn.recv()
        except Aborted:
            self.closed = "abort"
            return
        if not got:
            self.closed = "end"
            return
        rest, goaways = self.frames.feed(got)
        self.goaways += goaways
        for event in self.h2.receive_data(rest) if rest else []:
            self.event(event)
        self.flush()

    def wait(self, condition, timeout=DEADLINE):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s"
            self.pump()

    def wait_closed(self):
        while not self.closed:
            self.pump()

    def event(self, e):
        stream = self.streams.get(getattr(e, "stream_id", None))
        if isinstance(e, h2.events.PingAckReceived):
            self.pongs += 1
        elif stream is None:
            return
        elif isinstance(e, h2.events.ResponseReceived):
            head = stream.head = dict(e.headers)
            stream.status, stream.reason = int(head[":status"]), head.get("attest-reason")
        elif isinstance(e, h2.events.DataReceived):
            stream.got += e.data
            stream.owed += e.flow_controlled_length
            self.credit(stream)
        elif isinstance(e, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(e, h2.events.StreamReset):
            stream.reset = int(e.error_code)

    def credit(self, stream):
        if not stream.held and stream.owed:
            self.h2.acknowledge_received_data(stream.owed, stream.id)
            stream.owed = 0

    def request(self, headers, end=False):
        id = self.h2.get_next_available_stream_id()
        stream = self.streams[id] = Stream(self, id)
        self.h2.send_headers(id, headers, end_stream=end)
        self.flush()
        return stream

    def connect(self, authority, end=False):
        return self.request([(":method", "CONNECT"), (":authority", authority)], end)

    def open(self, authority):
        return self.connect(authority).opened()

    def ping(self):
        before = self.pongs
        self.h2.ping(b"12345678")
        self.flush()
        self.wait(lambda: self.pongs > before)

    def close(self):
        self.conn.close()
        self.closed = self.closed or "by us"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def over_tls(conn, certificates, pair=None, alpn=("h2",)):
    """TLS with the relay itself; pair: the client's certificate and key."""
    context = certificates.client(list(alpn))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if pair:
        context.load_cert_chain(*pair)
    tls = TlsConn(conn, context, name=DOMAIN)
    assert tls.tls.selected_alpn_protocol() == alpn[0]
    return tls
