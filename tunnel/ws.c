/*
 * ws: a WebSocket as a conduit, on libwebsockets (lws), which this file alone knows.
 *
 * Theory of operation: lws speaks over one end of a Unix socket pair, the caller splices the other
 * end to the network. As server lws adopts its end; as client it cannot adopt, so it connects to an
 * abstract Unix address of ours (random name, one connection, the peer must be this process). Its
 * loop is libuv, inside the worker's loop (ws_loop.c). One object goes through all states:
 *
 *   OPENING  the handshake runs; the timer is its time-out
 *   DECIDED  it came out one way or the other: done() is called at the end of the turn
 *   OPEN     a conduit, the owner's
 *   ENDING   nobody's; lws still sends the rest, the close, or the HTTP error, within a bound
 *
 * lws calls back from its loop, but also from inside calls to it. So its callbacks only note what
 * happened and defer telling the owner. Ops likewise only note what is wanted, and lws is asked for
 * a WRITEABLE callback, in which one message, or the close, is sent. The object is freed at the end
 * of a turn, when it is nobody's and lws has said good-bye (WSI_DESTROY).
 *
 * How it ends: the peer's 1000 is EOF, and writing says EPIPE. Without half-close the two
 * directions end together: shutdown sends 1000 when all is written, and the peer's answer to it is
 * EOF. Another code, or a loss, is ECONNRESET, a text message EPROTO; bytes received before are
 * read first.
 *
 * Limits: received bytes WS_RX_MAX and a piece of lws' more, to send one message and what lws could
 * not hand to the socket of the one before, the end LINGER_MS, headers 4 KiB (lws). After a frame
 * that breaks RFC 6455, lws waits up to 5 s for the peer's close before it tells us. It takes
 * unmasked frames.
 *
 * Longer than other files, so that no other has to know lws.
 */
#include "tunnel/ws.h"

#include <errno.h>
#include <libwebsockets.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"
#include "tunnel/ws_loop.h"
#include "tunnel/ws_rx.h"

#define LINGER_MS 2000     /* to get the rest and the close out */
#define LWS_PIECE 65536    /* lws reads and delivers at most this much at once */
#define LWS_SECONDS 100000 /* lws' own time-outs: out of the way, ours hold */
#define LWS_FDS_MAX 65536  /* WebSockets per worker: lws has tables of this size, all written */
#define CLOSE_EOF 1000
#define CLOSE_TEXT 1003
#define CLOSE_ABORT 1011
#define DESTROY_ROUNDS 1000
#define WRITE_CLOSE ((enum lws_write_protocol)4) /* the gap in lws' enum, see give_close */

_Static_assert(WS_MESSAGE_MAX + LWS_PRE <= WORKER_BUFFER, "a message and its head in one buffer");
_Static_assert(WS_RX_MAX + LWS_PIECE <= (WS_RX_CHUNKS - 1) * WORKER_BUFFER, "the ring holds it");

struct ws_context {
	struct worker *worker;
	struct lws_context *lws; /* lws sets it to NULL when it is really gone */
	struct lws_vhost *vhost;
	struct ws_loop loop;
	struct ws *all;
};

struct ws_opening {
	ws_done *done;
	void *user;
	bool client, good;
	enum reason why;
	char detail[160];
};

enum state { OPENING, DECIDED, OPEN, ENDING };

struct ws {
	struct conduit base; /* first: cast both ways */
	struct ws_opening opening;
	struct ws_context *context; /* NULL: it went away before us */
	struct lws *wsi;            /* NULL: lws is done with us */
	struct ws *next, **prevp;   /* in the context's list */
	enum state state;
	unsigned wanted;
	struct deferred tell;
	struct timer timer;
	struct reapable reapable;
	struct ws_rx rx;
	uint8_t *tx; /* a worker's buffer: LWS_PRE bytes of room, then tx_len bytes; NULL: empty */
	size_t tx_len;
	unsigned close_code; /* to send when tx is empty, 0: none */
	bool close_given;    /* lws has it */
	bool rx_paused, rx_eof, shut, writeable_asked, released;
};

static struct ws *of(struct conduit *c)
{
	return (struct ws *)c;
}

static struct ws *of_opening(struct ws_opening *o)
{
	return (struct ws *)((char *)o - offsetof(struct ws, opening));
}

/* --- life --- */

static void ws_reap(struct reapable *r)
{
	free((char *)r - offsetof(struct ws, reapable));
}

static void tx_drop(struct ws *s)
{
	worker_buffer_put(s->base.worker, s->tx);
	s->tx = NULL;
	s->tx_len = 0;
}

static void unlink_ws(struct ws *s)
{
	if (!s->prevp)
		return;
	*s->prevp = s->next;
	if (s->next)
		s->next->prevp = s->prevp;
	s->prevp = NULL;
}

/* Frees it when nobody has it any more. Must be the last thing done with s. */
static void release(struct ws *s)
{
	if (s->state != ENDING || s->wsi || s->released)
		return;
	s->released = true;
	worker_undefer(&s->tell);
	timer_cancel(s->base.worker, &s->timer);
	tx_drop(s);
	ws_rx_clear(&s->rx, s->base.worker);
	unlink_ws(s);
	conduit_deinit(&s->base);
	worker_reap(s->base.worker, &s->reapable);
}

static unsigned ready_now(const struct ws *s)
{
	unsigned events = 0;

	if (s->rx.len || s->rx_eof || s->base.dead)
		events |= READY_READ;
	if (s->tx_len < WS_MESSAGE_MAX || s->rx_eof || s->base.dead)
		events |= READY_WRITE;
	if (s->base.dead)
		events |= READY_ABORT;
	return events & s->wanted;
}

static void poke(struct ws *s)
{
	if (s->state == DECIDED || (s->state == OPEN && ready_now(s)))
		worker_defer(s->base.worker, &s->tell);
}

/* Ends lws' part without ceremony. Never from inside an lws callback. */
static void kill_wsi(struct ws *s)
{
	if (!s->wsi)
		return;
	lws_set_timeout(s->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_SYNC);
	ws_loop_kick(&s->context->loop); /* libuv closes the handle there */
}

static void on_linger_end(struct timer *t)
{
	struct ws *s = (struct ws *)((char *)t - offsetof(struct ws, timer));

	if (s->state == OPEN && !s->rx_eof && !s->base.dead) {
		s->base.dead = -ETIMEDOUT;
		poke(s);
	}
	kill_wsi(s);
}

static void linger(struct ws *s)
{
	timer_set(s->base.worker, &s->timer, LINGER_MS, on_linger_end);
}

/* The next WRITEABLE callback will do what is to be done. */
static void ask_writeable(struct ws *s)
{
	if (!s->wsi || s->writeable_asked)
		return;
	s->writeable_asked = true;
	lws_callback_on_writable(s->wsi);
	ws_loop_kick(&s->context->loop);
}

static void rx_resume(struct ws *s)
{
	if (!s->rx_paused || !s->wsi)
		return;
	s->rx_paused = false;
	lws_rx_flow_control(s->wsi, 1);
	/* what lws has read already it delivers only after some event: make one */
	lws_cancel_service(s->context->lws);
	ws_loop_kick(&s->context->loop);
}

/* Lets lws finish alone. */
static void end(struct ws *s)
{
	worker_undefer(&s->tell);
	s->state = ENDING;
	s->wanted = 0;
	ws_rx_clear(&s->rx, s->base.worker);
	rx_resume(s); /* the peer's close is behind what nobody reads now */
	if (s->wsi)
		linger(s);
	release(s);
}

/* --- opening --- */

static void __attribute__((format(printf, 3, 4)))
refuse(struct ws *s, enum reason why, const char *fmt, ...)
{
	va_list ap;

	if (s->state != OPENING)
		return;
	va_start(ap, fmt);
	vsnprintf(s->opening.detail, sizeof(s->opening.detail), fmt, ap);
	va_end(ap);
	s->opening.why = why;
	s->opening.good = false;
	s->state = DECIDED;
	timer_cancel(s->base.worker, &s->timer);
	poke(s);
}

static void opened(struct ws *s)
{
	if (s->state != OPENING)
		return;
	s->opening.good = true;
	s->state = DECIDED;
	timer_cancel(s->base.worker, &s->timer);
	poke(s);
}

static void on_handshake_timeout(struct timer *t)
{
	struct ws *s = (struct ws *)((char *)t - offsetof(struct ws, timer));

	refuse(s, REASON_HANDSHAKE_TIMEOUT, "no %s in time",
	       s->opening.client ? "answer to the WebSocket upgrade" : "WebSocket upgrade request");
	kill_wsi(s);
}

static void on_tell(struct deferred *d)
{
	struct ws *s = (struct ws *)((char *)d - offsetof(struct ws, tell));
	unsigned events;

	if (s->state == DECIDED && s->opening.good) {
		s->state = OPEN;
		s->opening.done(s->opening.user, &s->base, REASON_NONE, "");
		return;
	}
	if (s->state == DECIDED) {
		s->opening.done(s->opening.user, NULL, s->opening.why, s->opening.detail);
		end(s);
		return;
	}
	events = ready_now(s);
	if (s->state != OPEN || !events)
		return;
	conduit_ready(&s->base, events);
	poke(s); /* level-triggered */
}

/* --- what lws says --- */

static void on_gone(struct ws *s)
{
	if (s->state == OPENING)
		refuse(s, s->opening.client ? REASON_TARGET_RESET : REASON_RESET,
		       "the connection ended during the WebSocket handshake");
	else if (!s->rx_eof && !s->base.dead)
		s->base.dead = -ECONNRESET;
	poke(s);
}

static void on_destroyed(struct ws *s, struct lws *wsi)
{
	lws_set_opaque_user_data(wsi, NULL);
	s->wsi = NULL;
	timer_cancel(s->base.worker, &s->timer);
	on_gone(s);
	release(s);
}

/*
 * Not lws_close_reason: that sends the close after the callback has returned an error, and Debian's
 * lws (built with _DEBUG) closes twice then when the loop is libuv, the second time without
 * sending. This way the peer's answer comes to on_peer_close, too.
 */
static int give_close(struct ws *s)
{
	uint8_t buf[LWS_PRE + 2] = { 0 };

	buf[LWS_PRE] = (uint8_t)(s->close_code >> 8);
	buf[LWS_PRE + 1] = (uint8_t)s->close_code;
	s->close_given = true;
	linger(s);
	return lws_write(s->wsi, buf + LWS_PRE, 2, WRITE_CLOSE) < 0 ? -1 : 0;
}

static int on_writeable(struct ws *s)
{
	int n;

	s->writeable_asked = false;
	if (s->close_given || s->state == OPENING)
		return 0;
	if (s->tx_len) {
		n = lws_write(s->wsi, s->tx + LWS_PRE, s->tx_len, LWS_WRITE_BINARY);
		tx_drop(s);
		if (n < 0)
			return -1;
		poke(s);
		if (s->close_code)
			ask_writeable(s);
		return 0;
	}
	return s->close_code ? give_close(s) : 0;
}

static int on_receive(struct ws *s, const void *data, size_t len)
{
	int r = 0;

	if (!lws_frame_is_binary(s->wsi))
		r = -EPROTO;
	else if (s->state != ENDING && !s->base.dead)
		r = ws_rx_put(&s->rx, s->base.worker, data, len);
	if (r < 0) {
		if (!s->base.dead)
			s->base.dead = r;
		if (!s->close_given) {
			tx_drop(s);
			s->close_code = r == -EPROTO ? CLOSE_TEXT : CLOSE_ABORT;
			ask_writeable(s);
		}
	}
	if (s->rx.len >= WS_RX_MAX && !s->rx_paused) {
		s->rx_paused = true;
		lws_rx_flow_control(s->wsi, 0);
	}
	poke(s);
	return 0;
}

static int on_peer_close(struct ws *s, const uint8_t *data, size_t len)
{
	unsigned code = len >= 2 ? (unsigned)(data[0] << 8 | data[1]) : 1005;

	log_debug("websocket: the peer closed with code %u", code);
	if (code == CLOSE_EOF)
		s->rx_eof = true;
	else if (!s->base.dead)
		s->base.dead = -ECONNRESET;
	poke(s);
	return s->close_given ? -1 : 0; /* the answer to ours, or lws answers */
}

/* A request that will not do gets its HTTP error, then lws closes. */
static int http_error(struct ws *s, struct lws *wsi, unsigned status, const char *what)
{
	lws_return_http_status(wsi, status, NULL);
	refuse(s, REASON_PROTOCOL, "%s: answered with HTTP %u", what, status);
	return -1;
}

static bool header_is(struct lws *wsi, enum lws_token_indexes h, const char *text)
{
	char buf[64];

	return lws_hdr_copy(wsi, buf, sizeof(buf), h) > 0 && strcmp(buf, text) == 0;
}

/* True when WS_SUBPROTOCOL is an element of the comma-separated list in the request. */
static bool subprotocol_offered(struct lws *wsi)
{
	char buf[256], *save, *word;

	if (lws_hdr_copy(wsi, buf, sizeof(buf), WSI_TOKEN_PROTOCOL) <= 0)
		return false;
	for (word = strtok_r(buf, ", \t", &save); word; word = strtok_r(NULL, ", \t", &save))
		if (strcmp(word, WS_SUBPROTOCOL) == 0)
			return true;
	return false;
}

static int on_request(struct ws *s, struct lws *wsi, const char *upgrade)
{
	if (!header_is(wsi, WSI_TOKEN_GET_URI, WS_PATH))
		return http_error(s, wsi, HTTP_STATUS_NOT_FOUND, "not GET " WS_PATH);
	if (!upgrade || strcasecmp(upgrade, "websocket") != 0)
		return http_error(s, wsi, 426, "a request without upgrade to WebSocket");
	if (!header_is(wsi, WSI_TOKEN_VERSION, "13") ||
	    lws_hdr_total_length(wsi, WSI_TOKEN_KEY) != 24)
		return http_error(s, wsi, HTTP_STATUS_BAD_REQUEST, "not WebSocket version 13");
	if (!subprotocol_offered(wsi))
		return http_error(s, wsi, HTTP_STATUS_BAD_REQUEST,
				  "subprotocol " WS_SUBPROTOCOL " not offered");
	return 0;
}

static int on_answer(struct ws *s, struct lws *wsi)
{
	if (header_is(wsi, WSI_TOKEN_PROTOCOL, WS_SUBPROTOCOL))
		return 0;
	refuse(s, REASON_PROTOCOL, "the server did not agree to subprotocol " WS_SUBPROTOCOL);
	return -1;
}

static void on_connect_error(struct ws *s, struct lws *wsi, const char *text, size_t len)
{
	unsigned status = lws_http_client_http_response(wsi);

	if (status && status != 101)
		refuse(s, REASON_PROTOCOL, "HTTP %u instead of 101 Switching Protocols", status);
	else if (status)
		refuse(s, REASON_PROTOCOL, "the server's WebSocket handshake is wrong: %.*s",
		       text ? (int)len : 0, text ? text : "");
	on_gone(s);
}

static int on_lws(struct lws *wsi, enum lws_callback_reasons why, void *user, void *in, size_t len)
{
	struct ws *s = wsi ? lws_get_opaque_user_data(wsi) : NULL;

	if (!s) /* nobody's: end it where it asks, ignore it otherwise */
		return why == LWS_CALLBACK_HTTP || why == LWS_CALLBACK_HTTP_CONFIRM_UPGRADE ||
				       why == LWS_CALLBACK_RECEIVE ||
				       why == LWS_CALLBACK_CLIENT_RECEIVE
			       ? -1
			       : 0;
	switch (why) {
	case LWS_CALLBACK_HTTP:
		return on_request(s, wsi, NULL);
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
		return on_request(s, wsi, in);
	case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
		return on_answer(s, wsi);
	case LWS_CALLBACK_ESTABLISHED:
	case LWS_CALLBACK_CLIENT_ESTABLISHED:
		opened(s);
		return 0;
	case LWS_CALLBACK_RECEIVE:
	case LWS_CALLBACK_CLIENT_RECEIVE:
		return on_receive(s, in, len);
	case LWS_CALLBACK_SERVER_WRITEABLE:
	case LWS_CALLBACK_CLIENT_WRITEABLE:
		return on_writeable(s);
	case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
		return on_peer_close(s, in, len);
	case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
		on_connect_error(s, wsi, in, len);
		return 0;
	case LWS_CALLBACK_CLOSED:
	case LWS_CALLBACK_CLIENT_CLOSED:
	case LWS_CALLBACK_CLOSED_HTTP:
	case LWS_CALLBACK_CLOSED_CLIENT_HTTP:
		on_gone(s);
		return 0;
	case LWS_CALLBACK_WSI_DESTROY:
		on_destroyed(s, wsi);
		return 0;
	default:
		return 0;
	}
}

/* --- the conduit --- */

static ssize_t ws_peek(struct conduit *c, const uint8_t **data)
{
	struct ws *s = of(c);

	if (s->rx.len)
		return (ssize_t)ws_rx_peek(&s->rx, data);
	if (c->dead)
		return c->dead;
	return s->rx_eof ? 0 : -EAGAIN;
}

static void ws_consume(struct conduit *c, size_t len)
{
	struct ws *s = of(c);

	ws_rx_consume(&s->rx, c->worker, len);
	if (s->rx.len <= WS_RX_MAX / 2)
		rx_resume(s);
}

static ssize_t ws_read(struct conduit *c, void *buf, size_t max)
{
	const uint8_t *data;
	ssize_t n = ws_peek(c, &data);

	if (n <= 0)
		return n;
	if ((size_t)n > max)
		n = (ssize_t)max;
	memcpy(buf, data, (size_t)n);
	ws_consume(c, (size_t)n);
	return n;
}

static ssize_t ws_write(struct conduit *c, const void *buf, size_t len)
{
	struct ws *s = of(c);
	size_t room = WS_MESSAGE_MAX - s->tx_len;

	if (c->dead)
		return c->dead;
	if (s->rx_eof || s->shut)
		return -EPIPE;
	if (room == 0)
		return -EAGAIN;
	if (!s->tx)
		s->tx = worker_buffer_get(c->worker);
	if (!s->tx) {
		c->dead = -ENOMEM;
		return c->dead;
	}
	if (len > room)
		len = room;
	memcpy(s->tx + LWS_PRE + s->tx_len, buf, len);
	s->tx_len += len;
	ask_writeable(s);
	return (ssize_t)len;
}

static int ws_shutdown(struct conduit *c)
{
	struct ws *s = of(c);

	if (c->dead)
		return c->dead;
	if (s->shut || s->rx_eof)
		return 0;
	s->shut = true;
	s->close_code = CLOSE_EOF;
	ask_writeable(s);
	return 0;
}

static void ws_want(struct conduit *c, unsigned events)
{
	struct ws *s = of(c);

	s->wanted = events;
	if (ready_now(s))
		worker_defer(c->worker, &s->tell);
	else
		worker_undefer(&s->tell);
}

static void ws_close(struct conduit *c, enum reason why)
{
	struct ws *s = of(c);

	if (!reason_is_clean(why) && !s->close_given) {
		tx_drop(s);
		s->close_code = CLOSE_ABORT;
		ask_writeable(s);
	} else if (!s->shut && !s->close_given) {
		s->close_code = CLOSE_EOF;
		ask_writeable(s);
	}
	end(s);
}

static const struct conduit_ops ws_ops = {
	.name = "websocket",
	.read = ws_read,
	.write = ws_write,
	.peek = ws_peek,
	.consume = ws_consume,
	.shutdown = ws_shutdown,
	.want = ws_want,
	.close = ws_close,
};

static struct ws *ws_new(struct ws_context *x, bool client, uint64_t timeout_ms, ws_done *done,
			 void *user)
{
	struct ws *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	conduit_init(&s->base, &ws_ops, x->worker);
	s->context = x;
	s->opening = (struct ws_opening){ .done = done, .user = user, .client = client };
	s->tell.run = on_tell;
	s->reapable.free = ws_reap;
	s->next = x->all;
	s->prevp = &x->all;
	if (s->next)
		s->next->prevp = &s->next;
	x->all = s;
	timer_set(x->worker, &s->timer, timeout_ms, on_handshake_timeout);
	return s;
}

/* An opening that did not even start. */
static struct ws_opening *give_up(struct ws *s)
{
	s->state = ENDING;
	worker_undefer(&s->tell);
	kill_wsi(s);
	release(s);
	return NULL;
}

struct ws_opening *ws_accept(struct ws_context *x, struct conduit **network, uint64_t timeout_ms,
			     ws_done *done, void *user)
{
	struct conduit *theirs = NULL;
	lws_adopt_desc_t adopt = { .vh = x->vhost, .type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP };
	struct ws *s;
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) < 0)
		return NULL;
	s = ws_new(x, false, timeout_ms, done, user);
	if (s)
		theirs = fd_conduit_new(x->worker, fd[1]);
	if (!theirs) {
		close(fd[0]);
		close(fd[1]);
		return s ? give_up(s) : NULL;
	}
	adopt.fd.sockfd = fd[0];
	adopt.opaque = s;
	s->wsi = lws_adopt_descriptor_vhost_via_info(&adopt); /* closes fd[0] if it cannot */
	if (!s->wsi) {
		conduit_close(theirs, REASON_INTERNAL);
		return give_up(s);
	}
	ws_loop_kick(&x->loop);
	*network = theirs;
	return &s->opening;
}

/* Listens on a random abstract address for one connection. name: as lws wants it. */
static int listen_for_lws(char name[64])
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	uint8_t random[16];
	socklen_t len;
	int fd, n, i;

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		return -1;
	n = snprintf(name, 64, "+@attest-relay-");
	for (i = 0; i < (int)sizeof(random); i++)
		n += snprintf(name + n, (size_t)(64 - n), "%02x", random[i]);
	memcpy(sun.sun_path + 1, name + 2, strlen(name + 2));
	/* the length is part of an abstract name: as lws 4.1 has it, without zeros at the end */
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name + 1));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&sun, len) < 0 || listen(fd, 1) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The connection lws has just made; one of anybody else's is turned away. */
static int accept_lws(int listener)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int i;

	for (i = 0; i < 4; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return -1;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
		    peer.pid == getpid())
			return fd;
		close(fd);
	}
	return -1;
}

struct ws_opening *ws_connect(struct ws_context *x, const char *host, struct conduit **network,
			      uint64_t timeout_ms, ws_done *done, void *user)
{
	char name[64];
	struct lws_client_connect_info info = {
		.context = x->lws,
		.vhost = x->vhost,
		.address = name,
		.path = WS_PATH,
		.host = host,
		.protocol = WS_SUBPROTOCOL,
		.local_protocol_name = WS_SUBPROTOCOL,
		.ietf_version_or_minus_one = -1,
		/* a redirect would have lws itself dial into the network */
		.ssl_connection = LCCSCF_HTTP_NO_FOLLOW_REDIRECT,
	};
	struct conduit *theirs = NULL;
	int listener, fd = -1;
	struct ws *s;

	listener = listen_for_lws(name);
	if (listener < 0)
		return NULL;
	s = ws_new(x, true, timeout_ms, done, user);
	if (s) {
		info.opaque_user_data = s;
		s->wsi = lws_client_connect_via_info(&info);
		if (s->wsi)
			fd = accept_lws(listener);
	}
	close(listener);
	if (fd >= 0)
		theirs = fd_conduit_new(x->worker, fd);
	if (!theirs) {
		if (fd >= 0)
			close(fd);
		return s ? give_up(s) : NULL;
	}
	ws_loop_kick(&x->loop);
	*network = theirs;
	return &s->opening;
}

void ws_opening_cancel(struct ws_opening *o)
{
	if (o)
		give_up(of_opening(o));
}

/* --- the context --- */

static void on_log(int level, const char *line)
{
	log_debug("libwebsockets: %.*s", (int)strcspn(line, "\n"), line);
}

static unsigned fd_limit(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur > LWS_FDS_MAX)
		return LWS_FDS_MAX;
	return 0; /* lws' own choice: RLIMIT_NOFILE, with a faster look-up */
}

static struct lws_context *create(struct ws_context *x)
{
	static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER; /* lws has globals */
	static const struct lws_protocols protocols[] = {
		{ .name = WS_SUBPROTOCOL,
		  .callback = on_lws,
		  .rx_buffer_size = LWS_PIECE,
		  /* lws copies what is above this; the head is part of it */
		  .tx_packet_size = WORKER_BUFFER },
		{ 0 },
	};
	static const lws_retry_bo_t no_pings = { 0 }; /* the tunnel has its own */
	void *loops[] = { &x->loop.uv };
	struct lws_context_creation_info info = {
		.port = CONTEXT_PORT_NO_LISTEN_SERVER,
		.protocols = protocols,
		.options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_DISABLE_OS_CA_CERTS,
		.foreign_loops = loops,
		.pcontext = &x->lws,
		.http_proxy_address = "", /* not what the environment says */
		.server_string = "attest-relay",
		.timeout_secs = LWS_SECONDS,
		.connect_timeout_secs = LWS_SECONDS,
		.timeout_secs_ah_idle = LWS_SECONDS,
		.pt_serv_buf_size = LWS_PIECE,
		.retry_and_idle_policy = &no_pings,
		.fd_limit_per_thread = fd_limit(),
		.uid = -1,
		.gid = -1,
	};
	struct lws_context *c;

	pthread_mutex_lock(&one_at_a_time);
	lws_set_log_level(LLL_ERR | LLL_WARN | LLL_NOTICE, on_log);
	c = lws_create_context(&info);
	pthread_mutex_unlock(&one_at_a_time);
	return c;
}

struct ws_context *ws_context_new(struct worker *w)
{
	struct ws_context *x = calloc(1, sizeof(*x));
	int r = x ? 0 : -ENOMEM;

	if (r == 0)
		r = ws_loop_init(&x->loop, w);
	if (r < 0) {
		log_error("cannot start WebSocket: %s", strerror(-r));
		free(x);
		return NULL;
	}
	x->worker = w;
	x->lws = create(x);
	if (x->lws)
		x->vhost = lws_get_vhost_by_name(x->lws, "default");
	if (!x->vhost) {
		log_error(
			"cannot start WebSocket: libwebsockets does not start; is its libuv plugin "
			"there (Debian: package libwebsockets-evlib-uv)?");
		return ws_context_free(x);
	}
	ws_loop_kick(&x->loop);
	return x;
}

/* The owner keeps a conduit, dead; what is nobody's goes, and openings are cancelled. */
static void forsake(struct ws *s)
{
	if (s->wsi)
		lws_set_opaque_user_data(s->wsi, NULL);
	s->wsi = NULL;
	timer_cancel(s->base.worker, &s->timer);
	unlink_ws(s);
	s->context = NULL;
	if (s->state == OPEN) {
		on_gone(s);
		return;
	}
	s->state = ENDING;
	release(s);
}

struct ws_context *ws_context_free(struct ws_context *x)
{
	unsigned i;

	if (!x)
		return NULL;
	while (x->all)
		forsake(x->all);
	/* two steps: lws closes its handles, the loop confirms, then lws frees the rest */
	if (x->lws)
		lws_context_destroy(x->lws);
	for (i = 0; i < DESTROY_ROUNDS && x->lws && uv_run(&x->loop.uv, UV_RUN_NOWAIT); i++)
		;
	if (x->lws)
		lws_context_destroy(x->lws);
	if (x->lws)
		log_debug("libwebsockets did not end");
	ws_loop_deinit(&x->loop);
	free(x);
	return NULL;
}
