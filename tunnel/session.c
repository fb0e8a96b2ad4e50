/*
 * session: HTTP/2 over a carrier, by libnghttp2.
 *
 * Theory of operation
 *
 * In. What the carrier has is fed to nghttp2 (session_input.c), whose callbacks (session_h2.c,
 * message.c) tell streams and users. Nothing is sent and the session is never ended inside them:
 * they mark, submit, and schedule a flush.
 *
 * Out. One flush at the end of a turn sends all that the turn produced (session_send.c).
 *
 * Memory. Unread bytes of all streams are at most session_window: the connection's window is half
 * of it (or what HTTP/2 begins with, if that is more), and what comes in is given back to the
 * window at once while less than the rest is unread; above that, only as streams are read. So a
 * stalled stream does not slow the others before the session's own bound.
 *
 * The session may be told whose memory that is (budget.h). Without any left the carrier is not
 * read for a moment, and its peer's silence proves nothing meanwhile; its own would, to the
 * peer: so it goes on to send PINGs. A tunnel may hold RESERVE whatever others have left: it is
 * read for as long as its own streams are, or slow readers in one would be the end of all others.
 *
 * Time. A PING every ping_ms; whatever is received proves the peer alive, and dead_ms without a
 * byte ends the session; also when it is not read because it does not read either.
 *
 * Life: OPEN -> CLOSING (session_close, an error of the peer's, or nothing left after GOAWAY) ->
 * GOODBYE -> LINGER -> ENDED. Each step is taken by flush when all is sent. After LINGER_MS, or
 * when the carrier fails, it goes to ENDED from anywhere. LINGER waits for the peer's end of the
 * carrier: closing a socket with bytes unread resets it, and the peer might never see why.
 *
 */
#include "tunnel/session.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/tls.h"
#include "tunnel/session_private.h"

#define LINGER_MS 1000
#define FIRST_PING_MS 1000
#define RETIRE_MS 1000                 /* the shutdown notice is known to the peer by then */
#define TIME_SLACK (TIMER_TICK_MS + 5) /* how late timer and clock may be */
#define OPEN_AFTER_EXHAUSTED 1024
#define STREAMS_TOTAL_MAX (1u << 29)

static void end(struct session *s, enum reason why);

void session_schedule(struct session *s)
{
	if (s->phase != PHASE_ENDED && !s->blocked)
		worker_defer(s->worker, &s->flush);
}

uint32_t session_connection_window(const struct session *s)
{
	uint32_t half = s->limits.session_window / 2;

	/* what HTTP/2 begins with is the peer's before we can say anything */
	return half > NGHTTP2_INITIAL_CONNECTION_WINDOW_SIZE
		       ? half
		       : NGHTTP2_INITIAL_CONNECTION_WINDOW_SIZE;
}

void session_settle(struct session *s)
{
	size_t all = s->limits.session_window, window = session_connection_window(s);
	size_t free_part = all > window ? all - window : 0;
	size_t keep = s->held > free_part ? s->held - free_part : 0;

	if (s->owed <= keep)
		return;
	nghttp2_session_consume_connection(s->h2, s->owed - keep);
	s->owed = keep;
	session_schedule(s);
}

/* The first reason given is the one that counts. */
void session_begin_close(struct session *s, enum reason why, const char *fmt, ...)
{
	va_list ap;

	if (s->phase != PHASE_OPEN)
		return;
	s->phase = PHASE_CLOSING;
	s->why = why;
	va_start(ap, fmt);
	vsnprintf(s->detail, sizeof(s->detail), fmt, ap);
	va_end(ap);
	worker_defer(s->worker, &s->flush); /* blocked or not: streams die now */
	timer_set(s->worker, &s->timer, LINGER_MS, s->timer.fire);
}

void session_check_idle(struct session *s)
{
	session_schedule(s); /* which looks whether HTTP/2 has anything left to do */
	if (s->retiring && s->role == SESSION_CLIENT && s->n_streams == 0 && exchange_count(s) == 0)
		session_begin_close(s, REASON_GOING_AWAY, "retired: its last stream has ended");
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
		session_begin_close(s, REASON_GOING_AWAY, "retired: its last stream has ended");
	else if (s->peer_error != NGHTTP2_NO_ERROR)
		session_begin_close(s, REASON_PROTOCOL, "the peer gave up: %s",
				    nghttp2_http2_strerror(s->peer_error));
	else
		session_begin_close(s, REASON_EOF, "the peer ended the session in order");
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
		nghttp2_session_terminate_session(s->h2, s->why == REASON_PROTOCOL
								 ? NGHTTP2_PROTOCOL_ERROR
								 : NGHTTP2_NO_ERROR);
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
	    s->role != SESSION_CLIENT)
		return;
	s->told_exhausted = true;
	if (s->events->exhausted)
		s->events->exhausted(s);
}

/* A TLS 1.3 server looks at our certificate when our handshake is over. True: s->detail says it. */
static bool is_certificate_refused(struct session *s)
{
	const char *alert = tls_conduit_refusal(s->carrier);

	if (!*alert)
		return false;
	snprintf(s->detail, sizeof(s->detail), "this side's certificate was refused: %s", alert);
	return true;
}

static void flush(struct deferred *d)
{
	struct session *s = (struct session *)((char *)d - offsetof(struct session, flush));
	int r, refused;

	s->flushed = s->opened;
	tell_exhausted(s);
	do {
		if (s->phase == PHASE_ENDED)
			return;
		r = s->phase == PHASE_LINGER ? 1 : session_send(s);
		if (s->phase >= PHASE_CLOSING) /* those that were ended have sent END_STREAM now */
			kill_streams(s);
	} while (r > 0 && next_phase(s));
	if (r >= 0)
		return;
	refused = s->phase == PHASE_OPEN && is_certificate_refused(s);
	if (s->phase == PHASE_OPEN && !refused)
		snprintf(s->detail, sizeof(s->detail), "sending failed: %s", strerror(-r));
	end(s, s->phase != PHASE_OPEN ? s->why
	       : refused              ? REASON_HANDSHAKE_FAILED
	       : r == -ENOMEM         ? REASON_NO_MEMORY
				      : REASON_TUNNEL_LOST);
}

/* The carrier */

void session_lost(struct session *s, ssize_t error)
{
	const char *text = error == -ECONNABORTED ? "the peer closed it without TLS's close_notify"
			   : error ? strerror((int)-error) : "the peer closed it without a word";
	enum reason why = s->why;

	s->peer_closed = error == 0;
	if (s->phase == PHASE_OPEN && error == 0 && s->retiring) {
		why = REASON_GOING_AWAY;
		snprintf(s->detail, sizeof(s->detail), "retired: the peer closed the session");
	} else if (s->phase == PHASE_OPEN && error == 0 && s->goaway_seen) {
		why = s->peer_error ? REASON_PROTOCOL : REASON_EOF;
		snprintf(s->detail, sizeof(s->detail), "the peer closed the session: %s",
			 nghttp2_http2_strerror(s->peer_error));
	} else if (s->phase == PHASE_OPEN && error && is_certificate_refused(s)) {
		why = REASON_HANDSHAKE_FAILED;
	} else if (s->phase == PHASE_OPEN) {
		why = error || s->n_streams ? REASON_RESET : REASON_EOF; /* few say goodbye */
		if (s->role == SESSION_CLIENT || s->limits.peer > SESSION_PEER_CLIENT)
			why = REASON_TUNNEL_LOST;
		snprintf(s->detail, sizeof(s->detail), "%s", text);
	}
	end(s, why);
}

static void on_carrier(struct conduit *c, unsigned events)
{
	struct session *s = c->user;

	if (events & READY_WRITE) {
		s->blocked = false;
		conduit_want(c, READY_READ);
		session_schedule(s);
	}
	if (events & READY_ABORT && s->starving)
		session_lost(s, -ECONNRESET);
	else if (events & (READY_READ | READY_ABORT) && !s->unfed)
		session_input(s);
}

/* Time */

/* Returns what was sent, for its acknowledgement; never 0. */
static uint64_t ping(struct session *s)
{
	uint64_t now = session_now_us(), wire;

	if (now == s->ping_us || now == s->retire_us)
		now++;
	wire = htobe64(now);
	nghttp2_submit_ping(s->h2, NGHTTP2_FLAG_NONE, (const uint8_t *)&wire);
	session_schedule(s);
	return now;
}

/* While the carrier is not read, the peer's silence proves nothing. */
static bool is_dead(const struct session *s)
{
	return s->limits.dead_ms && !s->starving && !s->unfed &&
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
	if (s->phase == PHASE_OPEN && is_dead(s) && !session_is_stuffed(s) && !session_input(s))
		return;
	if (s->phase != PHASE_OPEN) {
		if (s->timer.at <= now) /* not when session_input() has only just begun to close */
			end(s, s->why);
		return;
	}
	if (is_dead(s)) {
		snprintf(s->detail, sizeof(s->detail), "%s for %llu ms",
			 session_is_stuffed(s) ? "the peer has read nothing" : "nothing received",
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
		if (s->events->retired)
			s->events->retired(s);
	}
	if (s->limits.ping_ms && now >= s->last_ping + s->limits.ping_ms) {
		s->last_ping = now;
		if (!s->ping_us || s->starving) /* one under way is enough, if it could be heard */
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
	budget_keep(s->budget, 0);
	budget_drop(s->budget);
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
	session_drop_input(s);
	timer_cancel(s->worker, &s->timer);
	timer_cancel(s->worker, &s->hunger);
	conduit_close(s->carrier, orderly                ? REASON_EOF
				  : reason_is_clean(why) ? REASON_TUNNEL_LOST
							 : why);
	s->carrier = NULL;
	s->events->end(s, why, s->detail);
	worker_reap(s->worker, &s->reapable);
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
	s->scan.skip = role == SESSION_SERVER ? NGHTTP2_CLIENT_MAGIC_LEN : 0;
	s->flush.run = flush;
	s->timer.fire = on_time;
	s->reapable.free = free_session;
	if (session_h2_new(s) != 0)
		goto fail;
	s->last_rx = s->last_ping = worker_now(s->worker);
	/* the first PING soon, while nothing else queues: streams want to know the round trip */
	if (limits->ping_ms > FIRST_PING_MS)
		s->last_ping -= limits->ping_ms - FIRST_PING_MS;
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
		peer = nghttp2_session_get_remote_settings(s->h2,
							   NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	if (peer > 1 && s->events->reply)
		peer--; /* so that a control request always gets through */
	if (s->n_streams >= s->limits.streams || s->n_streams >= peer)
		return REASON_LIMIT;
	return REASON_NONE;
}

struct conduit *session_open(struct session *s, const char *authority,
			     const struct client_words *words, enum reason *why)
{
	nghttp2_nv nv[MESSAGE_CONNECT_FIELDS];
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
	st->id = nghttp2_submit_request(s->h2, NULL, nv, message_connect(nv, authority, words),
					&provider, st);
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
	if (s->role == SESSION_SERVER) {
		nghttp2_submit_shutdown_notice(s->h2);
		s->retire_us = ping(s);
		s->retire_at = worker_now(s->worker) + RETIRE_MS;
		arm(s);
	}
	session_check_idle(s);
}

void session_close(struct session *s, enum reason why, const char *detail)
{
	session_begin_close(s, why, "%s", detail ? detail : reason_explanation(why));
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
