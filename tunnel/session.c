/*
 * session: HTTP/2 over a carrier, by libnghttp2.
 *
 * Theory of operation
 *
 * In. The carrier is read into the worker's input buffer, INPUT_TURN bytes at most a turn, and fed
 * to nghttp2, whose callbacks (here and in message.c) tell streams and users. Nothing is sent and
 * the session is never ended inside them: they mark, submit, and schedule a flush.
 *
 * Out. One flush at the end of a turn sends all that the turn produced. Frames are gathered in the
 * worker's output buffer (DATA is written there by its owner: NGHTTP2_DATA_FLAG_NO_COPY), then go
 * out in one write. A DATA frame is FRAME_MAX with its header, so it fills one TLS record. What
 * the carrier does not take is kept in rest, and nghttp2 is not asked for more until it is gone:
 * so rest is bounded by WORKER_SCRATCH and one frame, and everything else waits at its source.
 *
 * Memory. Unread bytes of all streams are at most session_window: the connection's window is half
 * of it, and what comes in is given back to the window at once while less than the other half is
 * unread; above that, only as streams are read. So a stalled stream does not slow the others
 * before the session's own bound.
 *
 * Time. A PING every ping_ms; whatever is received proves the peer alive, and dead_ms without a
 * byte ends the session.
 *
 * Life: OPEN -> CLOSING (session_close, an error of the peer's, or nothing left after GOAWAY) ->
 * GOODBYE -> LINGER -> ENDED. Each step is taken by flush when all is sent. After LINGER_MS, or when
 * the carrier fails, it goes to ENDED from anywhere. LINGER waits for the peer's end of the carrier:
 * closing a socket with bytes unread resets it, and the peer might never see why.
 */
#include "tunnel/session.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tunnel/session_private.h"

#define INPUT_TURN ((size_t)256 * 1024)
#define INPUT_SMALL 8192 /* a read this short has emptied the carrier, for now */
#define OUTPUT_TURN ((size_t)512 * 1024)
#define FRAME_MAX ((size_t)16384) /* of DATA, with its header: one TLS record */
#define REST_SMALL ((size_t)32 * 1024)
#define LINGER_MS 1000
#define RETIRE_MS 1000		      /* the shutdown notice is known to the peer by then */
#define TIME_SLACK (TIMER_TICK_MS + 5) /* how late timer and clock may be */
#define OPEN_AFTER_EXHAUSTED 1024
#define STREAMS_TOTAL_MAX (1u << 29)
#define PEER_STREAMS_UNKNOWN 100
#define HEADER_LIST_MAX 16384
/* Clients that abort reset streams; the relay has proven who it is and counts them by owner. */
#define RESETS_BURST 1000000
#define RESETS_A_SECOND 100000

static void end(struct session *s, enum reason why);

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void session_schedule(struct session *s)
{
	if (s->phase != PHASE_ENDED && !s->blocked)
		worker_defer(s->worker, &s->flush);
}

void session_settle(struct session *s)
{
	size_t free_part = s->limits.session_window - s->limits.session_window / 2;
	size_t keep = s->held > free_part ? s->held - free_part : 0;

	if (s->owed <= keep)
		return;
	nghttp2_session_consume_connection(s->h2, s->owed - keep);
	s->owed = keep;
	session_schedule(s);
}

/* The first reason given is the one that counts. */
__attribute__((format(printf, 3, 4))) static void begin_close(struct session *s, enum reason why,
							      const char *fmt, ...)
{
	va_list ap;

	if (s->phase != PHASE_OPEN)
		return;
	s->phase = PHASE_CLOSING;
	s->why = why;
	va_start(ap, fmt);
	vsnprintf(s->detail, sizeof(s->detail), fmt, ap);
	va_end(ap);
	session_schedule(s);
	timer_set(s->worker, &s->timer, LINGER_MS, s->timer.fire);
}

void session_check_idle(struct session *s)
{
	session_schedule(s); /* which looks whether HTTP/2 has anything left to do */
	if (s->retiring && s->role == SESSION_RELAY && s->n_streams == 0 && exchange_count(s) == 0)
		begin_close(s, REASON_GOING_AWAY, "retired: its last stream has ended");
}

/* Callbacks of nghttp2 */

static int on_chunk(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
		    void *session)
{
	struct session *s = session;
	struct stream *st = nghttp2_session_get_stream_user_data(h2, id);

	s->owed += len;
	if (st)
		stream_on_data(st, data, len);
	else
		exchange_body(s, id, len);
	session_settle(s);
	return 0;
}

static void on_ping_ack(struct session *s, const nghttp2_ping *ping)
{
	uint64_t sent;

	memcpy(&sent, ping->opaque_data, sizeof(sent));
	sent = be64toh(sent);
	if (sent && sent == s->ping_us) {
		s->rtt_us = now_us() - sent;
		s->ping_us = 0;
	} else if (sent && sent == s->retire_us) {
		s->retire_at = worker_now(s->worker);
		timer_set(s->worker, &s->timer, 0, s->timer.fire);
	}
}

static void on_goaway(struct session *s, const nghttp2_goaway *goaway)
{
	bool first = !s->goaway_seen;

	s->goaway_seen = true;
	s->peer_error = goaway->error_code;
	if (first && s->phase == PHASE_OPEN && s->events->goaway)
		s->events->goaway(s);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *session)
{
	struct session *s = session;
	struct stream *st;

	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		message_end(s, frame);
		if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
			break; /* END_STREAM was noted with the request */
		/* fall through */
	case NGHTTP2_DATA:
		st = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
		if (st && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
			stream_on_eof(st);
		break;
	case NGHTTP2_SETTINGS:
		s->settings_seen = true;
		break;
	case NGHTTP2_PING:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			on_ping_ack(s, &frame->ping);
		break;
	case NGHTTP2_GOAWAY:
		on_goaway(s, &frame->goaway);
		break;
	default:
		break;
	}
	return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *session)
{
	struct session *s = session;
	struct stream *st = nghttp2_session_get_stream_user_data(h2, id);

	if (st)
		stream_on_close(st, code);
	else
		exchange_closed(s, id);
	return 0;
}

/* nghttp2 says GOAWAY by itself when the peer breaks the protocol; its debug data says how. */
static int on_sent(nghttp2_session *h2, const nghttp2_frame *frame, void *session)
{
	struct session *s = session;
	const nghttp2_goaway *g = &frame->goaway;

	if (frame->hd.type != NGHTTP2_GOAWAY || g->error_code == NGHTTP2_NO_ERROR ||
	    s->phase != PHASE_OPEN)
		return 0;
	begin_close(s, REASON_PROTOCOL, "%s (%.*s)", nghttp2_http2_strerror(g->error_code),
		    g->opaque_data_len > 100 ? 100 : (int)g->opaque_data_len,
		    g->opaque_data ? (const char *)g->opaque_data : "");
	return 0;
}

static ssize_t frame_payload_max(nghttp2_session *h2, uint8_t type, int32_t id,
				 int32_t session_window, int32_t stream_window, uint32_t frame_max,
				 void *session)
{
	return FRAME_MAX - FRAME_HEAD;
}

/* The payload lies where it belongs already: pull() had it written there. */
static int on_data_out(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *header, size_t len,
		       nghttp2_data_source *source, void *session)
{
	struct session *s = session;

	memcpy(s->worker->output + s->out, header, FRAME_HEAD);
	s->out += FRAME_HEAD + len;
	return s->out + FRAME_MAX > WORKER_SCRATCH ? NGHTTP2_ERR_PAUSE : 0;
}

/* Sending */

/* 0, or -errno when the carrier is dead. What it does not take goes to rest. */
static int write_out(struct session *s, const uint8_t *data, size_t len)
{
	ssize_t n = s->rest ? -EAGAIN : conduit_write(s->carrier, data, len);

	if (n < 0 && n != -EAGAIN)
		return (int)n;
	if (n < 0)
		n = 0;
	if ((size_t)n == len)
		return 0;
	data += n;
	len -= (size_t)n;
	if (s->rest) { /* one frame more, behind the gathered ones */
		uint8_t *more = realloc(s->rest, s->rest_end + len);

		if (!more)
			return -ENOMEM;
		memcpy(more + s->rest_end, data, len);
		s->rest = more;
		s->rest_end += len;
		return 0;
	}
	if (len > REST_SMALL && data + len == s->worker->output + s->out) {
		/* much is left: take the buffer as it is, and give the worker another */
		uint8_t *other = malloc(WORKER_SCRATCH);

		if (!other)
			return -ENOMEM;
		s->rest = s->worker->output;
		s->rest_start = (size_t)(data - s->worker->output);
		s->rest_end = s->rest_start + len;
		s->worker->output = other;
		return 0;
	}
	s->rest = malloc(len);
	if (!s->rest)
		return -ENOMEM;
	memcpy(s->rest, data, len);
	s->rest_start = 0;
	s->rest_end = len;
	return 0;
}

/* 0: rest is gone. -EAGAIN, or dead. */
static int write_rest(struct session *s)
{
	while (s->rest) {
		ssize_t n = conduit_write(s->carrier, s->rest + s->rest_start,
					  s->rest_end - s->rest_start);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EAGAIN;
		s->rest_start += (size_t)n;
		if (s->rest_start == s->rest_end) {
			free(s->rest);
			s->rest = NULL;
		}
	}
	return 0;
}

/* Gathers frames into worker->output and writes them. 1: nothing more to send; 0; or -errno. */
static int gather(struct session *s)
{
	bool all = false;
	int r = 0;

	s->out = 0;
	while (s->out + FRAME_MAX <= WORKER_SCRATCH) {
		size_t before = s->out;
		const uint8_t *frame;
		ssize_t n = nghttp2_session_mem_send(s->h2, &frame);

		if (n < 0)
			return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
		if (n == 0 && s->out == before) {
			all = true;
			break;
		}
		if (n == 0)
			continue;
		if (s->out + (size_t)n <= WORKER_SCRATCH) {
			memcpy(s->worker->output + s->out, frame, (size_t)n);
			s->out += (size_t)n;
			continue;
		}
		/* DATA filled the buffer in the same call, or a long header block */
		r = write_out(s, s->worker->output, s->out);
		s->out = 0;
		return r < 0 ? r : write_out(s, frame, (size_t)n);
	}
	if (s->out > 0)
		r = write_out(s, s->worker->output, s->out);
	s->out = 0;
	return r < 0 ? r : all;
}

/* 1: all is sent; 0: more to do, later (blocked, or flush is queued again); or -errno. */
static int send_all(struct session *s)
{
	size_t turn = 0;

	for (;;) {
		int r = write_rest(s);

		if (r == -EAGAIN) {
			s->blocked = true;
			conduit_want(s->carrier, READY_READ | READY_WRITE);
			return 0;
		}
		if (r < 0)
			return r;
		if (turn >= OUTPUT_TURN) {
			session_schedule(s);
			return 0;
		}
		r = gather(s);
		if (r < 0)
			return r;
		if (r > 0 && !s->rest)
			return 1;
		turn += WORKER_SCRATCH;
	}
}

static void kill_streams(struct session *s)
{
	while (s->streams)
		stream_lose(s->streams);
}

/* HTTP/2 has nothing left to do: both sides said what there was. */
static void over(struct session *s)
{
	if (s->retiring)
		begin_close(s, REASON_GOING_AWAY, "retired: its last stream has ended");
	else if (s->peer_error != NGHTTP2_NO_ERROR)
		begin_close(s, REASON_PROTOCOL, "the peer gave up: %s",
			    nghttp2_http2_strerror(s->peer_error));
	else
		begin_close(s, REASON_EOF, "the peer ended the session in order");
}

/* All is sent: the next step of the session's end. False: there is none now. */
static bool next_phase(struct session *s)
{
	int r;

	switch (s->phase) {
	case PHASE_OPEN:
		if (nghttp2_session_want_read(s->h2) || nghttp2_session_want_write(s->h2))
			return false;
		over(s);
		return true;
	case PHASE_CLOSING:
		nghttp2_session_terminate_session(s->h2, s->why == REASON_PROTOCOL ?
								 NGHTTP2_PROTOCOL_ERROR :
								 NGHTTP2_NO_ERROR);
		s->phase = PHASE_GOODBYE;
		return true;
	case PHASE_GOODBYE:
		s->phase = PHASE_LINGER;
		/* fall through */
	case PHASE_LINGER:
		r = conduit_shutdown(s->carrier);
		if (r < 0 && r != -EAGAIN)
			end(s, s->why);
		else
			conduit_want(s->carrier, r ? READY_READ | READY_WRITE : READY_READ);
		return false;
	default:
		return false;
	}
}

static void tell_exhausted(struct session *s)
{
	if (s->told_exhausted || s->opened < s->limits.streams_total || s->phase != PHASE_OPEN ||
	    s->role != SESSION_RELAY)
		return;
	s->told_exhausted = true;
	if (s->events->exhausted)
		s->events->exhausted(s);
}

static void flush(struct deferred *d)
{
	struct session *s = (struct session *)((char *)d - offsetof(struct session, flush));
	int r;

	tell_exhausted(s);
	do {
		if (s->phase == PHASE_ENDED)
			return;
		if (s->phase >= PHASE_CLOSING)
			kill_streams(s);
		r = s->phase == PHASE_LINGER ? 1 : send_all(s);
	} while (r > 0 && next_phase(s));
	if (r >= 0)
		return;
	if (s->phase == PHASE_OPEN)
		snprintf(s->detail, sizeof(s->detail), "sending failed: %s", strerror(-r));
	end(s, s->phase != PHASE_OPEN ? s->why : r == -ENOMEM ? REASON_NO_MEMORY :
								REASON_TUNNEL_LOST);
}

/* Receiving */

static void lost(struct session *s, ssize_t error)
{
	enum reason why = s->why;

	s->peer_closed = error == 0;
	if (s->phase == PHASE_OPEN && error == 0 && s->retiring) {
		why = REASON_GOING_AWAY;
		snprintf(s->detail, sizeof(s->detail), "retired: the peer closed the session");
	} else if (s->phase == PHASE_OPEN && error == 0 && s->goaway_seen) {
		why = s->peer_error ? REASON_PROTOCOL : REASON_EOF;
		snprintf(s->detail, sizeof(s->detail), "the peer closed the session: %s",
			 nghttp2_http2_strerror(s->peer_error));
	} else if (s->phase == PHASE_OPEN) {
		why = REASON_TUNNEL_LOST;
		snprintf(s->detail, sizeof(s->detail), "%s",
			 error ? strerror((int)-error) : "the peer closed it without a word");
	}
	end(s, why);
}

/* Reads what the carrier has. False: the session has ended. */
static bool input(struct session *s)
{
	for (size_t turn = 0; turn < INPUT_TURN;) {
		ssize_t n = conduit_read(s->carrier, s->worker->input, WORKER_SCRATCH), r;

		if (n == -EAGAIN)
			break;
		if (n <= 0) {
			lost(s, n);
			return false;
		}
		s->last_rx = worker_now(s->worker);
		turn += (size_t)n;
		if (s->phase == PHASE_OPEN) {
			r = nghttp2_session_mem_recv(s->h2, s->worker->input, (size_t)n);
			if (r < 0)
				begin_close(s, REASON_PROTOCOL, "%s", nghttp2_strerror((int)r));
		}
		if (n < INPUT_SMALL)
			break;
	}
	if (s->phase == PHASE_OPEN)
		session_schedule(s);
	return true;
}

static void on_carrier(struct conduit *c, unsigned events)
{
	struct session *s = c->user;

	if (events & READY_WRITE) {
		s->blocked = false;
		conduit_want(c, READY_READ);
		session_schedule(s);
	}
	if (events & (READY_READ | READY_ABORT))
		input(s);
}

/* Time */

/* Returns what was sent, for its acknowledgement; never 0. */
static uint64_t ping(struct session *s)
{
	uint64_t now = now_us(), wire;

	if (now == s->ping_us || now == s->retire_us)
		now++;
	wire = htobe64(now);
	nghttp2_submit_ping(s->h2, NGHTTP2_FLAG_NONE, (const uint8_t *)&wire);
	session_schedule(s);
	return now;
}

static bool is_dead(const struct session *s)
{
	return s->limits.dead_ms &&
	       worker_now(s->worker) + TIME_SLACK >= s->last_rx + s->limits.dead_ms;
}

static void arm(struct session *s)
{
	uint64_t now = worker_now(s->worker), at = UINT64_MAX;

	if (s->limits.dead_ms)
		at = s->last_rx + s->limits.dead_ms - TIME_SLACK;
	if (s->limits.ping_ms && s->last_ping + s->limits.ping_ms < at)
		at = s->last_ping + s->limits.ping_ms;
	if (s->retire_at && s->retire_at < at)
		at = s->retire_at;
	if (at != UINT64_MAX)
		timer_set(s->worker, &s->timer, at > now ? at - now : 0, s->timer.fire);
}

static void on_time(struct timer *t)
{
	struct session *s = (struct session *)((char *)t - offsetof(struct session, timer));
	uint64_t now = worker_now(s->worker);

	/* when this process slept, the proof of life may lie unread in the carrier */
	if (s->phase == PHASE_OPEN && is_dead(s) && !input(s))
		return;
	if (s->phase != PHASE_OPEN) {
		if (s->timer.at <= now) /* not when input() has only just begun to close */
			end(s, s->why);
		return;
	}
	if (is_dead(s)) {
		snprintf(s->detail, sizeof(s->detail), "nothing received for %llu ms",
			 (unsigned long long)s->limits.dead_ms);
		end(s, REASON_TUNNEL_DEAD);
		return;
	}
	if (s->retire_at && now >= s->retire_at) {
		s->retire_at = 0;
		s->retire_us = 0;
		nghttp2_submit_goaway(s->h2, NGHTTP2_FLAG_NONE,
				      nghttp2_session_get_last_proc_stream_id(s->h2),
				      NGHTTP2_NO_ERROR, NULL, 0);
		session_schedule(s);
	}
	if (s->limits.ping_ms && now >= s->last_ping + s->limits.ping_ms) {
		s->last_ping = now;
		if (!s->ping_us) /* one under way is enough */
			s->ping_us = ping(s);
	}
	arm(s);
}

/* Life */

static void free_session(struct reapable *r)
{
	struct session *s = (struct session *)((char *)r - offsetof(struct session, reapable));

	nghttp2_session_del(s->h2);
	message_deinit(&s->message);
	free(s->rest);
	free(s);
}

/* Never from a callback of nghttp2. */
static void end(struct session *s, enum reason why)
{
	bool orderly = s->phase == PHASE_LINGER || s->peer_closed;

	if (s->phase == PHASE_ENDED)
		return;
	s->phase = PHASE_ENDED;
	kill_streams(s);
	worker_undefer(&s->flush);
	timer_cancel(s->worker, &s->timer);
	conduit_close(s->carrier, orderly ? REASON_EOF :
				  reason_is_clean(why) ? REASON_TUNNEL_LOST :
							 why);
	s->carrier = NULL;
	s->events->end(s, why, s->detail);
	worker_reap(s->worker, &s->reapable);
}

static int make_h2(struct session *s)
{
	nghttp2_session_callbacks *cb = NULL;
	nghttp2_option *option = NULL;
	int r = nghttp2_session_callbacks_new(&cb);

	if (r == 0)
		r = nghttp2_option_new(&option);
	if (r != 0)
		goto done;
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, message_begin);
	nghttp2_session_callbacks_set_on_header_callback(cb, message_field);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_chunk);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_send_data_callback(cb, on_data_out);
	nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_payload_max);
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_option_set_no_closed_streams(option, 1);
	nghttp2_option_set_peer_max_concurrent_streams(option, PEER_STREAMS_UNKNOWN);
	nghttp2_option_set_stream_reset_rate_limit(option, RESETS_BURST, RESETS_A_SECOND);
	if (s->role == SESSION_RELAY)
		r = nghttp2_session_client_new2(&s->h2, cb, s, option);
	else
		r = nghttp2_session_server_new2(&s->h2, cb, s, option);
done:
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(cb);
	return r;
}

static int submit_settings(struct session *s)
{
	const struct session_limits *l = &s->limits;
	nghttp2_settings_entry entry[] = {
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, l->stream_window },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX },
		/* one more: session_open leaves it to control requests */
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, l->streams + 1 },
	};
	int r;

	if (s->role == SESSION_RELAY)
		entry[2] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
	r = nghttp2_submit_settings(s->h2, NGHTTP2_FLAG_NONE, entry, 3);
	if (r != 0)
		return r;
	return nghttp2_session_set_local_window_size(s->h2, NGHTTP2_FLAG_NONE, 0,
						     (int32_t)(l->session_window / 2));
}

struct session *session_new(struct conduit *carrier, enum session_role role,
			    const struct session_limits *limits,
			    const struct session_events *events, void *user)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		goto fail;
	s->carrier = carrier;
	s->worker = carrier->worker;
	s->events = events;
	s->user = user;
	s->limits = *limits;
	if (s->limits.streams_total == 0)
		s->limits.streams_total = STREAMS_TOTAL_MAX;
	s->role = role;
	s->flush.run = flush;
	s->timer.fire = on_time;
	s->reapable.free = free_session;
	if (make_h2(s) != 0 || submit_settings(s) != 0)
		goto fail;
	s->last_rx = s->last_ping = worker_now(s->worker);
	carrier->ready = on_carrier;
	carrier->user = s;
	conduit_want(carrier, READY_READ);
	arm(s);
	session_schedule(s);
	return s;
fail:
	if (s)
		nghttp2_session_del(s->h2);
	free(s);
	conduit_close(carrier, REASON_NO_MEMORY);
	return NULL;
}

static enum reason may_open(struct session *s)
{
	uint32_t peer = PEER_STREAMS_UNKNOWN;

	if (s->phase != PHASE_OPEN || s->retiring || s->goaway_seen ||
	    s->opened >= (uint64_t)s->limits.streams_total + OPEN_AFTER_EXHAUSTED)
		return REASON_GOING_AWAY;
	if (s->settings_seen)
		peer = nghttp2_session_get_remote_settings(
			s->h2, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	if (peer > 1)
		peer--; /* so that a control request always gets through */
	if (s->n_streams >= s->limits.streams || s->n_streams >= peer)
		return REASON_LIMIT;
	return REASON_NONE;
}

struct conduit *session_open(struct session *s, const char *service, const char *id,
			     enum reason *why)
{
	nghttp2_nv nv[] = {
		{ (uint8_t *)":method", (uint8_t *)"CONNECT", 7, 7, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t *)":authority", (uint8_t *)service, 10, strlen(service),
		  NGHTTP2_NV_FLAG_NONE },
		/* differs each time: it would only push others out of the HPACK table */
		{ (uint8_t *)"attest-stream", (uint8_t *)id, 13, strlen(id),
		  NGHTTP2_NV_FLAG_NO_INDEX },
	};
	enum reason refused = may_open(s);
	nghttp2_data_provider provider;
	struct stream *st;

	if (refused != REASON_NONE) {
		*why = refused;
		return NULL;
	}
	st = stream_new(s, 0);
	if (!st) {
		*why = REASON_NO_MEMORY;
		return NULL;
	}
	st->answered = true;
	provider = stream_provider();
	st->id = nghttp2_submit_request(s->h2, NULL, nv, 3, &provider, st);
	if (st->id < 0) {
		*why = st->id == NGHTTP2_ERR_NOMEM ? REASON_NO_MEMORY : REASON_GOING_AWAY;
		stream_drop(st);
		return NULL;
	}
	s->opened++;
	session_schedule(s);
	return &st->base;
}

void session_retire(struct session *s)
{
	if (s->phase != PHASE_OPEN || s->retiring)
		return;
	s->retiring = true;
	if (s->role == SESSION_AGENT) {
		nghttp2_submit_shutdown_notice(s->h2);
		s->retire_us = ping(s);
		s->retire_at = worker_now(s->worker) + RETIRE_MS;
		arm(s);
	}
	session_check_idle(s);
}

void session_close(struct session *s, enum reason why, const char *detail)
{
	begin_close(s, why, "%s", detail ? detail : reason_explanation(why));
}

void *session_user(const struct session *s)
{
	return s->user;
}

struct worker *session_worker(const struct session *s)
{
	return s->worker;
}

unsigned session_streams(const struct session *s)
{
	return s->n_streams;
}

uint64_t session_opened(const struct session *s)
{
	return s->opened;
}

size_t session_memory(const struct session *s)
{
	return s->held;
}

uint64_t session_rtt_us(const struct session *s)
{
	return s->rtt_us;
}
