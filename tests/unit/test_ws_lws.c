/*
 * test_ws_lws: our WebSockets against libwebsockets, as server and as client.
 *
 * Theory of operation: libwebsockets runs its own loop on a second thread, over loopback TCP. It
 * sends a pattern, our side echoes it, libwebsockets compares; then one of the two ends it, and
 * both have to see the end as it was meant.
 */
#include <libwebsockets.h>
#include <pthread.h>
#include <stdatomic.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "tests/unit/loop.h"
#include "tunnel/ws.h"

#define BYTES (3 * 1024 * 1024)
#define PIECE 50000 /* the longest fragment it sends */

enum ending { THEY_CLOSE, THEY_GO_AWAY, THEY_SEND_TEXT, WE_SHUT, WE_ABORT, ENDINGS };

static const struct ws_handshake_terms terms = { .path = "/tunnel",
						 .subprotocol = "attest-relay.v1" };

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i ^ i >> 8 ^ i >> 16);
}

/* --- libwebsockets' side --- */

static struct {
	struct lws_context *context;
	pthread_t thread;
	enum ending ending;
	bool in_message, close_now;
	size_t sent, received, pieces;
	atomic_bool stop, gone, pong;
	atomic_uint code; /* of our close, as libwebsockets saw it */
} lws;

static int lws_send(struct lws *wsi)
{
	static uint8_t buf[LWS_PRE + PIECE];
	size_t len = 1 + lws.pieces * 7919 % PIECE, left = BYTES - lws.sent;
	enum lws_write_protocol how = lws.in_message ? LWS_WRITE_CONTINUATION : LWS_WRITE_BINARY;

	if (lws.close_now && lws.ending == THEY_SEND_TEXT) {
		lws.close_now = false;
		return lws_write(wsi, buf + LWS_PRE, 0, LWS_WRITE_TEXT) < 0 ? -1 : 0;
	}
	if (lws.close_now) {
		lws_close_reason(wsi,
				 lws.ending == THEY_CLOSE ? LWS_CLOSE_STATUS_NORMAL
							  : LWS_CLOSE_STATUS_GOINGAWAY,
				 NULL, 0);
		return -1;
	}
	if (lws.pieces++ % 10 == 9 && !lws.in_message) {
		memcpy(buf + LWS_PRE, "ping", 4);
		lws_callback_on_writable(wsi);
		return lws_write(wsi, buf + LWS_PRE, 4, LWS_WRITE_PING) < 0 ? -1 : 0;
	}
	len = len < left ? len : left;
	for (size_t i = 0; i < len; i++)
		buf[LWS_PRE + i] = pattern(lws.sent + i);
	lws.in_message = len < left && lws.pieces % 3; /* fragments, some */
	if (lws_write(wsi, buf + LWS_PRE, len,
		      how | (lws.in_message ? LWS_WRITE_NO_FIN : 0)) < 0)
		return -1;
	lws.sent += len;
	if (lws.sent < BYTES)
		lws_callback_on_writable(wsi);
	return 0;
}

static void lws_receive(struct lws *wsi, const uint8_t *data, size_t len)
{
	CHECK(lws_frame_is_binary(wsi));
	for (size_t i = 0; i < len; i++)
		if (data[i] != pattern(lws.received + i))
			CHECK(!"the echo is the pattern");
	lws.received += len;
	CHECK(lws.received <= lws.sent);
	if (lws.received == BYTES && lws.ending <= THEY_SEND_TEXT) {
		lws.close_now = true;
		lws_callback_on_writable(wsi);
	}
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t len)
{
	const uint8_t *data = in;

	switch (why) {
	case LWS_CALLBACK_ESTABLISHED:
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		lws_callback_on_writable(wsi);
		break;
	case LWS_CALLBACK_SERVER_WRITEABLE:
	case LWS_CALLBACK_CLIENT_WRITEABLE:
		return lws_send(wsi);
	case LWS_CALLBACK_RECEIVE:
	case LWS_CALLBACK_CLIENT_RECEIVE:
		lws_receive(wsi, data, len);
		break;
	case LWS_CALLBACK_RECEIVE_PONG:
	case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
		CHECK(len == 4 && memcmp(data, "ping", 4) == 0);
		lws.pong = true;
		break;
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
		lws.code = len >= 2 ? (unsigned)(data[0] << 8 | data[1]) : 1005;
		break;
	case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
		fprintf(stderr, "libwebsockets: %.*s\n", (int)len, in ? (const char *)in : "");
		abort();
	case LWS_CALLBACK_CLOSED:
	case LWS_CALLBACK_CLIENT_CLOSED:
		lws.gone = true;
		break;
	default:
		break;
	}
	return 0;
}

static void *lws_run(void *arg)
{
	while (!lws.stop)
		lws_service(lws.context, 0);
	return NULL;
}

/* port: to listen on, 0: any; or CONTEXT_PORT_NO_LISTEN. */
static void lws_begin(int port, enum ending ending)
{
	static const struct lws_protocols protocols[] = {
		{ .name = "attest-relay.v1", .callback = on_lws, .rx_buffer_size = 65536 },
		{ 0 },
	};
	struct lws_context_creation_info info = {
		.port = port,
		.iface = port == CONTEXT_PORT_NO_LISTEN ? NULL : "lo",
		.protocols = protocols,
		.options = LWS_SERVER_OPTION_DISABLE_IPV6,
		.uid = -1,
		.gid = -1,
	};

	memset(&lws, 0, sizeof(lws));
	lws.ending = ending;
	lws_set_log_level(LLL_ERR, NULL);
	lws.context = lws_create_context(&info);
	CHECK(lws.context);
}

static void lws_start(void)
{
	CHECK_INT(pthread_create(&lws.thread, NULL, lws_run, NULL), 0);
}

static void lws_end(void)
{
	lws.stop = true;
	lws_cancel_service(lws.context);
	CHECK_INT(pthread_join(lws.thread, NULL), 0);
	lws_context_destroy(lws.context);
}

/* --- our side: an echo --- */

static struct {
	struct conduit *c;
	uint8_t held[65536];
	size_t start, end, echoed;
	int eof, error;
	bool done;
} us;

static void echo_read(void)
{
	ssize_t n = conduit_read(us.c, us.held, sizeof(us.held));

	if (n > 0)
		us.end = (size_t)n;
	else if (n == 0)
		us.eof = 1;
	else if (n != -EAGAIN)
		us.error = (int)n;
}

static void echo_write(void)
{
	ssize_t n = conduit_write(us.c, us.held + us.start, us.end - us.start);

	if (n == -EAGAIN)
		return;
	CHECK(n > 0);
	us.start += (size_t)n;
	us.echoed += (size_t)n;
	if (us.start == us.end)
		us.start = us.end = 0;
	if (us.echoed == BYTES && lws.ending == WE_SHUT)
		CHECK_INT(conduit_shutdown(us.c), 0);
	if (us.echoed == BYTES && lws.ending == WE_ABORT) {
		conduit_close(us.c, REASON_RESET);
		us.c = NULL;
	}
}

static void on_ready(struct conduit *c, unsigned events)
{
	if (us.end == 0 && events & READY_READ)
		echo_read();
	if (us.end)
		echo_write();
	if (us.c)
		conduit_want(c, us.end ? READY_WRITE : us.eof || us.error ? 0 : READY_READ);
}

static void on_done(void *user, struct conduit *c, enum reason why, const char *detail)
{
	us.done = true;
	us.c = c;
	if (!c)
		fprintf(stderr, "%s\n", detail);
	CHECK(c);
	c->ready = on_ready;
	conduit_want(c, READY_READ);
}

static void run(bool client, enum ending ending)
{
	static const unsigned code[ENDINGS] = { [THEY_SEND_TEXT] = 1003,
						[WE_SHUT] = 1000,
						[WE_ABORT] = 1011 };

	UNTIL(us.done);
	switch (ending) {
	case THEY_CLOSE:
		UNTIL(us.eof);
		break;
	case THEY_GO_AWAY:
		UNTIL(us.error == -ECONNRESET);
		break;
	case THEY_SEND_TEXT:
		UNTIL(us.error == -EPROTO);
		break;
	case WE_SHUT:
		UNTIL(us.eof);
		break;
	default:
		UNTIL(!us.c);
	}
	CHECK_INT(us.echoed, BYTES);
	conduit_close(us.c, us.error ? REASON_RESET : REASON_EOF);
	UNTIL(w->conduits == 0);
	UNTIL(lws.gone);
	lws_end();
	CHECK_INT(lws.received, BYTES);
	CHECK(lws.pong);
	CHECK_INT(lws.code, code[ending]);
	fprintf(stderr, "%s, ending %d: good\n", client ? "client" : "server", ending);
}

static void test_server(enum ending ending)
{
	struct sockaddr_in at;
	struct lws_client_connect_info info = {
		.address = "127.0.0.1",
		.host = "127.0.0.1",
		.path = "/tunnel",
		.protocol = "attest-relay.v1",
		.ietf_version_or_minus_one = -1,
	};
	int listener = listen_tcp4(&at, 1), fd;

	memset(&us, 0, sizeof(us));
	lws_begin(CONTEXT_PORT_NO_LISTEN, ending);
	info.context = lws.context;
	info.port = ntohs(at.sin_port);
	CHECK(lws_client_connect_via_info(&info));
	lws_start();
	do
		fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (fd < 0 && errno == EAGAIN);
	CHECK(fd >= 0);
	close(listener);
	CHECK(ws_accept(fd_conduit_new(w, fd), &terms, 10000, on_done, NULL));
	run(false, ending);
}

static void test_client(enum ending ending)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset(&us, 0, sizeof(us));
	lws_begin(0, ending);
	at.sin_port = htons(
		(uint16_t)lws_get_vhost_listen_port(lws_get_vhost_by_name(lws.context, "default")));
	lws_start();
	CHECK_INT(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(evutil_make_socket_nonblocking(fd), 0);
	CHECK(ws_connect(fd_conduit_new(w, fd), "127.0.0.1", &terms, 10000, on_done, NULL));
	run(true, ending);
}

int main(void)
{
	alarm(100);
	loop_begin();
	for (enum ending e = 0; e < ENDINGS; e++) {
		test_server(e);
		test_client(e);
	}
	loop_end();
	return 0;
}
