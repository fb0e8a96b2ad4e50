/*
 * stream: one CONNECT stream as a conduit.
 *
 * Theory of operation
 *
 * Receiving. A chunk of DATA lies in the worker's input buffer while nghttp2 tells us of it. It is
 * offered to the owner there (peek and consume see it, no copy); what the owner leaves is copied
 * into blocks and told again from the loop for as long as the owner wants READ. What was consumed
 * opens the stream's window again, so unread bytes never exceed it. The window grows, up to
 * GROWTH_MAX doublings, while the owner takes everything in the turn in which it came (at once, or
 * when a stream that it feeds is pulled) and a whole window takes less than RTT_PER_WINDOW of the
 * shortest round trips to come (in a busy one there are wake-ups and queues besides): then it is
 * the window that slows the sender. In a larger one there would only be more for the session's
 * other streams to queue behind.
 *
 * Sending. Nothing is buffered here. When the session can send a DATA frame of this stream, nghttp2
 * calls pull(): the owner is told READY_WRITE and writes right into the frame (room). A stream
 * whose owner has nothing is deferred, and costs nothing until its owner wants WRITE again.
 *
 * Ends. END_STREAM each way: eof_in, eof_sent. Reset, or a session that ends: dead; what had been
 * received before can still be read, then comes the error, never EOF. Refused: the server's answer
 * is all it sends; that reset which lets a client stop talking follows the answer (message.c).
 *
 * Ownership. The struct is freed when its owner has closed it and HTTP/2 has (closed && gone). Ops
 * only mark and submit; the session sends at the end of the turn. ready() is called from nghttp2's
 * callbacks (data, EOF, room) and from the loop (tell), never from an op.
 *
 * Longer than other files: conduit operations and nghttp2's callbacks work on the same flags.
 */
#include "tunnel/stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/refusal.h"
#include "tunnel/session_private.h"

#define GROWTH_MAX 2
#define RTT_PER_WINDOW 8

static struct stream *stream_of(const struct conduit *c)
{
	return (struct stream *)c; /* base is first */
}

/* True when read and peek will not say -EAGAIN. */
static bool readable(const struct stream *st)
{
	return st->received.held || st->eof_in || st->base.dead;
}

/* Received bytes */

static void give_back(struct stream *st, size_t len)
{
	budget_give(st->session ? st->session->budget : st->budget, len);
}

static void drop_received(struct stream *st)
{
	give_back(st, st->received.held);
	if (st->session) {
		st->session->held -= st->received.held;
		session_settle(st->session);
	}
	received_clear(&st->received);
}

static int append(struct stream *st, const uint8_t *data, size_t len)
{
	size_t before = st->received.held;
	int r = received_add(&st->received, data, len);

	st->session->held += st->received.held - before;
	session_keep(st->session, st->received.held - before);
	return r;
}

/* The owner took len bytes: the peer may send as many. */
static void reopen_window(struct stream *st, size_t len)
{
	struct session *s = st->session;

	if (!s)
		return;
	if (!st->eof_in && !st->gone)
		nghttp2_session_consume_stream(s->h2, st->id, len);
	session_schedule(s);
}

/* All that came in earlier turns has been taken in time. */
static void grow_window(struct stream *st)
{
	struct session *s = st->session;
	uint32_t window = s->limits.stream_window << st->growth;
	uint64_t now, took;

	if (st->prompt < window || st->growth == GROWTH_MAX || window > INT32_MAX / 2 ||
	    st->eof_in || st->gone || st->reset)
		return;
	now = session_now_us();
	took = now - st->window_us;
	st->prompt = 0;
	st->window_us = now;
	if (took > RTT_PER_WINDOW * s->least_rtt_us)
		return;
	st->growth++;
	nghttp2_session_set_local_window_size(s->h2, NGHTTP2_FLAG_NONE, st->id,
					      (int32_t)(window * 2));
}

void stream_on_data(struct stream *st, const uint8_t *data, size_t len)
{
	struct session *s = st->session;

	if (st->closed) { /* nobody reads any more */
		if (!st->refused)
			stream_reset(st, NGHTTP2_CANCEL);
		return;
	}
	if (!st->received.held)
		grow_window(st);
	else if (st->held_since != s->inputs)
		st->prompt = 0;
	st->prompt += (uint32_t)len;
	s->chunk_of = st;
	s->chunk = data;
	s->chunk_len = len;
	if (!st->received.held && st->wants & READY_READ)
		conduit_ready(&st->base, READY_READ);
	s->chunk_of = NULL;
	if (st->closed || s->chunk_len == 0)
		return;
	if (!st->received.held)
		st->held_since = s->inputs;
	if (append(st, s->chunk, s->chunk_len) < 0) {
		drop_received(st);
		stream_die(st, NGHTTP2_INTERNAL_ERROR, -ENOMEM);
		stream_reset(st, NGHTTP2_INTERNAL_ERROR);
	} else if (st->wants & READY_READ) {
		worker_defer(st->base.worker, &st->tell);
	}
}

static ssize_t stream_peek(struct conduit *c, const uint8_t **data)
{
	struct stream *st = stream_of(c);
	struct session *s = st->session;

	if (st->received.held)
		return (ssize_t)received_peek(&st->received, data);
	if (s && s->chunk_of == st && s->chunk_len > 0) {
		*data = s->chunk;
		return (ssize_t)s->chunk_len;
	}
	if (st->eof_in)
		return 0;
	return st->base.dead ? st->base.dead : -EAGAIN;
}

static void stream_consume(struct conduit *c, size_t len)
{
	struct stream *st = stream_of(c);
	struct session *s = st->session;

	if (len == 0)
		return;
	if (st->received.held) {
		received_take(&st->received, len);
		give_back(st, len);
		if (s) {
			s->held -= len;
			session_settle(s);
		}
	} else {
		s->chunk += len;
		s->chunk_len -= len;
	}
	reopen_window(st, len);
}

static ssize_t stream_read(struct conduit *c, void *buf, size_t max)
{
	size_t done = 0;

	while (done < max) {
		const uint8_t *data;
		ssize_t n = stream_peek(c, &data);

		if (n <= 0)
			return done > 0 ? (ssize_t)done : n;
		if ((size_t)n > max - done)
			n = (ssize_t)(max - done);
		/* NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): set: dead is never over 0 */
		memcpy((uint8_t *)buf + done, data, (size_t)n);
		stream_consume(c, (size_t)n);
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* Sending */

static void resume(struct stream *st)
{
	if (!st->deferred || st->gone)
		return;
	st->deferred = false;
	nghttp2_session_resume_data(st->session->h2, st->id);
	session_schedule(st->session);
}

/* nghttp2 can send a frame of this stream: what is in it? */
static ssize_t pull(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
		    nghttp2_data_source *source, void *session)
{
	struct session *s = session;
	struct stream *st = nghttp2_session_get_stream_user_data(h2, id);
	size_t n = 0;

	if (!st) /* the session is closing */
		return NGHTTP2_ERR_DEFERRED;
	if (!st->eof_out && !st->reset && s->phase == PHASE_OPEN && st->wants & READY_WRITE) {
		s->room_of = st;
		s->room = s->worker->output + s->out + FRAME_HEAD;
		s->room_len = len;
		s->room_used = 0;
		conduit_ready(&st->base, READY_WRITE);
		s->room_of = NULL;
		n = s->room_used;
	}
	if (st->reset || (n == 0 && !st->eof_out)) {
		st->deferred = true;
		if (st->wants & READY_WRITE && !st->reset) /* level-triggered: again, later */
			worker_defer(st->base.worker, &st->tell);
		return NGHTTP2_ERR_DEFERRED;
	}
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (st->eof_out) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		st->eof_sent = true;
	}
	return (ssize_t)n;
}

nghttp2_data_provider stream_provider(void)
{
	return (nghttp2_data_provider){ .read_callback = pull };
}

static void *stream_room(struct conduit *c, size_t *len)
{
	struct stream *st = stream_of(c);
	struct session *s = st->session;

	if (!s || s->room_of != st || s->room_used == s->room_len || st->eof_out)
		return NULL;
	*len = s->room_len - s->room_used;
	return s->room + s->room_used;
}

static ssize_t stream_write(struct conduit *c, const void *buf, size_t len)
{
	struct stream *st = stream_of(c);
	size_t room;
	void *to;

	if (st->base.dead)
		return st->base.dead;
	if (st->eof_out || st->gone)
		return -EPIPE;
	to = stream_room(c, &room);
	if (!to)
		return -EAGAIN;
	if (len > room)
		len = room;
	if (buf != to)
		memcpy(to, buf, len);
	st->session->room_used += len;
	return (ssize_t)len;
}

static int stream_shutdown(struct conduit *c)
{
	struct stream *st = stream_of(c);

	if (st->base.dead)
		return st->base.dead;
	st->eof_out = true;
	resume(st);
	return 0;
}

/* Events */

static void tell(struct deferred *d)
{
	struct stream *st = (struct stream *)((char *)d - offsetof(struct stream, tell));
	unsigned events = 0;

	if (!st->wants)
		return;
	if (st->base.dead) {
		events = (st->wants & (READY_READ | READY_WRITE)) | READY_ABORT;
	} else {
		if (st->wants & READY_WRITE)
			resume(st);
		if (st->wants & READY_READ && readable(st))
			events |= READY_READ;
		if (st->wants & READY_OPEN && st->open && !st->open_told)
			events |= READY_OPEN;
	}
	if (events & READY_OPEN)
		st->open_told = true;
	if (events)
		conduit_ready(&st->base, events);
	/* st is there until the end of the turn even if its owner has closed it */
	if ((st->wants & READY_READ && readable(st)) || (st->wants & READY_WRITE && st->base.dead))
		worker_defer(st->base.worker, &st->tell);
}

static void stream_want(struct conduit *c, unsigned events)
{
	struct stream *st = stream_of(c);

	st->wants = (uint8_t)events;
	if (events & READY_WRITE && !st->base.dead)
		resume(st);
	if (events & READY_OPEN)
		st->open_told = false;
	if ((events && st->base.dead) || (events & READY_READ && readable(st)) ||
	    (events & READY_OPEN && st->open))
		worker_defer(c->worker, &st->tell);
	else
		worker_undefer(&st->tell);
}

void stream_on_open(struct stream *st)
{
	st->open = true;
	if (st->wants & READY_OPEN)
		worker_defer(st->base.worker, &st->tell);
}

/* What a relay's refusal stands for. */
static enum reason refusal_reason(int status, const char *word)
{
	enum reason why = reason_of_word(word);

	if (!reason_is_clean(why))
		return why;
	switch (status) {
	case 400:
	case 405:
		return REASON_PROTOCOL;
	case 403:
		return REASON_FORBIDDEN;
	case 404:
		return REASON_UNKNOWN_SERVICE;
	case 503:
		return REASON_AGENT_REFUSED;
	case 504:
		return REASON_PICKUP_TIMEOUT;
	default:
		return REASON_DIAL_FAILED;
	}
}

void stream_on_refused(struct stream *st, int status, const char *word, bool whole)
{
	if (st->base.dead)
		return;
	if (st->peer == SESSION_PEER_RELAY && !st->open)
		st->why = (uint8_t)refusal_reason(status, word);
	stream_die(st, NGHTTP2_CONNECT_ERROR, -ECONNRESET);
	if (!whole || st->peer != SESSION_PEER_RELAY) {
		stream_reset(st, NGHTTP2_CANCEL);
		return;
	}
	/* an end instead of a reset: resets are counted where the peer does not know us */
	st->refused = true;
	st->eof_out = true;
	resume(st);
}

void stream_on_eof(struct stream *st)
{
	if (st->base.dead) /* an answer we do not take: its end is no EOF */
		return;
	st->eof_in = true;
	if (!st->received.held && st->wants & READY_READ)
		conduit_ready(&st->base, READY_READ);
	if (st->wants & READY_READ)
		worker_defer(st->base.worker, &st->tell);
}

/* Ends */

static void unlink_stream(struct stream *st)
{
	if (!st->prevp)
		return;
	*st->prevp = st->next;
	if (st->next)
		st->next->prevp = st->prevp;
	st->prevp = NULL;
}

static void free_stream(struct reapable *r)
{
	struct stream *st = (struct stream *)((char *)r - offsetof(struct stream, reapable));

	conduit_deinit(&st->base);
	budget_drop(st->budget);
	free(st);
}

static void reap_if_over(struct stream *st)
{
	if (!st->closed || !st->gone)
		return;
	unlink_stream(st);
	worker_reap(st->base.worker, &st->reapable);
}

void stream_die(struct stream *st, uint32_t code, int error)
{
	if (st->base.dead)
		return;
	st->error = code;
	st->base.dead = error;
	if (st->wants)
		worker_defer(st->base.worker, &st->tell);
}

void stream_reset(struct stream *st, uint32_t code)
{
	if (st->reset || st->gone)
		return;
	st->reset = true;
	nghttp2_submit_rst_stream(st->session->h2, NGHTTP2_FLAG_NONE, st->id, code);
	session_schedule(st->session);
}

void stream_on_close(struct stream *st, uint32_t code)
{
	struct session *s = st->session;

	st->gone = true;
	s->n_streams--;
	if (code != NGHTTP2_NO_ERROR || !st->eof_in || !st->eof_sent)
		stream_die(st, code, -ECONNRESET);
	reap_if_over(st);
	if (s->n_streams == 0 && s->phase == PHASE_OPEN && s->events->quiet)
		s->events->quiet(s);
	session_check_idle(s);
}

/* What this side ended a session for, and not what became of it. */
static bool is_a_decision(enum reason why)
{
	return why == REASON_REVOKED || why == REASON_EXPIRED || why == REASON_SHUTDOWN;
}

void stream_lose(struct stream *st)
{
	if (!st->base.dead && !(st->eof_in && st->eof_sent && st->gone)) {
		st->lost = true;
		if (is_a_decision(st->session->why))
			st->why = (uint8_t)st->session->why;
		stream_die(st, NGHTTP2_NO_ERROR, -ECONNRESET);
	}
	if (!st->gone) { /* HTTP/2 still has it, until the session is freed */
		nghttp2_session_set_stream_user_data(st->session->h2, st->id, NULL);
		st->session->n_streams--;
	}
	st->session->held -= st->received.held;
	if (st->received.held)
		st->budget = budget_hold(st->session->budget);
	st->gone = true;
	unlink_stream(st);
	st->session = NULL;
	reap_if_over(st);
}

/* The other end is no tunnel's. */
static bool serves_client(const struct stream *st)
{
	return st->server && st->peer <= SESSION_PEER_CLIENT;
}

/* The HTTP/2 code that says why. */
static uint32_t code_of(const struct stream *st, enum reason why)
{
	/* to a proxy's client, whatever became of the connection is the same (RFC 9113 8.5) */
	if (st->answered && serves_client(st))
		return NGHTTP2_CONNECT_ERROR;
	switch (why) {
	case REASON_DIAL_REFUSED:
	case REASON_DIAL_TIMEOUT:
	case REASON_DIAL_UNREACHABLE:
	case REASON_DIAL_FAILED:
	case REASON_AGENT_REFUSED:
		return NGHTTP2_CONNECT_ERROR;
	case REASON_UNKNOWN_SERVICE:
	case REASON_FORBIDDEN:
	case REASON_LIMIT:
	case REASON_GOING_AWAY:
	case REASON_SHUTDOWN:
		return NGHTTP2_REFUSED_STREAM;
	default:
		return NGHTTP2_CANCEL;
	}
}

static void stream_close(struct conduit *c, enum reason why)
{
	struct stream *st = stream_of(c);

	st->closed = true;
	st->wants = 0;
	worker_undefer(&st->tell);
	drop_received(st);
	if (!st->gone) {
		/* in order: END_STREAM may still be on its way; what the peer sends now is reset */
		if (reason_is_clean(why) && !st->base.dead && st->answered)
			stream_shutdown(c);
		else if (!st->refused)
			stream_reset(st, code_of(st, why));
	}
	reap_if_over(st);
}

static void stream_answer(struct conduit *c, enum reason why)
{
	struct stream *st = stream_of(c);
	nghttp2_data_provider provider = stream_provider();
	char status[8], proxy_status[REFUSAL_PROXY_STATUS_MAX];
	nghttp2_nv nv[] = {
		{ .name = (uint8_t *)":status", .value = (uint8_t *)status, .namelen = 7 },
		{ .name = (uint8_t *)"attest-reason",
		  .value = (uint8_t *)reason_word(why),
		  .namelen = 13,
		  .valuelen = strlen(reason_word(why)) },
		{ .name = (uint8_t *)"proxy-status",
		  .value = (uint8_t *)proxy_status,
		  .namelen = 12 },
	};

	if (!st->server || st->answered || st->refused || st->gone || st->reset)
		return;
	st->answered = why == REASON_NONE;
	st->refused = !st->answered;
	nv[0].valuelen = (size_t)snprintf(status, sizeof(status), "%d",
					  st->answered ? 200 : refusal_status(why));
	nv[2].valuelen = (size_t)refusal_proxy_status(why, proxy_status);
	nghttp2_submit_response(st->session->h2, st->id, nv, st->answered ? 1 : 3,
				st->answered ? &provider : NULL);
	session_schedule(st->session);
}

void session_stream_answer(struct conduit *c)
{
	stream_answer(c, REASON_NONE);
}

enum reason session_stream_reason(const struct conduit *c)
{
	const struct stream *st = stream_of(c);

	if (!st->base.dead)
		return REASON_NONE;
	if (st->base.dead == -ENOMEM)
		return REASON_NO_MEMORY;
	if (st->lost && !serves_client(st))
		return REASON_TUNNEL_LOST;
	/* who has it in another worker learns so that it was not the client */
	if (st->lost)
		return st->why != REASON_NONE ? (enum reason)st->why : REASON_RESET;
	if (st->server)
		return REASON_RESET;
	if (st->why != REASON_NONE)
		return (enum reason)st->why;
	if (st->open && st->peer == SESSION_PEER_RELAY)
		return REASON_TARGET_RESET;
	switch (st->error) {
	case NGHTTP2_CONNECT_ERROR:
		return REASON_DIAL_FAILED;
	case NGHTTP2_REFUSED_STREAM:
		return st->peer == SESSION_PEER_RELAY ? REASON_GOING_AWAY : REASON_AGENT_REFUSED;
	default:
		return REASON_TARGET_RESET;
	}
}

static const struct conduit_ops stream_ops = {
	.name = "stream",
	.read = stream_read,
	.write = stream_write,
	.peek = stream_peek,
	.consume = stream_consume,
	.room = stream_room,
	.shutdown = stream_shutdown,
	.want = stream_want,
	.close = stream_close,
	.answer = stream_answer,
	.why = session_stream_reason,
};

bool conduit_is_stream(const struct conduit *c)
{
	return c->ops == &stream_ops;
}

struct stream *stream_new(struct session *s, int32_t id)
{
	struct stream *st = calloc(1, sizeof(*st));

	if (!st)
		return NULL;
	conduit_init(&st->base, &stream_ops, s->worker);
	st->tell.run = tell;
	st->reapable.free = free_stream;
	st->session = s;
	st->id = id;
	st->server = s->role == SESSION_SERVER;
	st->peer = (uint8_t)s->limits.peer;
	st->next = s->streams;
	st->prevp = &s->streams;
	if (st->next)
		st->next->prevp = &st->next;
	s->streams = st;
	s->n_streams++;
	return st;
}

void stream_drop(struct stream *st)
{
	unlink_stream(st);
	st->session->n_streams--;
	conduit_deinit(&st->base);
	free(st);
}
