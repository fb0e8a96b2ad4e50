/*
 * ws_opening: a WebSocket's handshake, over a conduit.
 *
 * Theory of operation: what is to be said is in say, what was heard in head. The client says its
 * request and listens; the server listens and says its answer. It is decided when the head heard
 * is whole, or will not do, or when the network or the time ends; when all has been said, too, the
 * owner is told: what came behind the head goes back into the network conduit, and a WebSocket
 * conduit is put over it. A refused client's last words are given time to arrive (relay/linger).
 *
 * Limits: a head of HTTPHEAD_MAX bytes, the time-out. Freed by the reaper after done or cancel.
 */
#include "tunnel/ws.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/linger.h"
#include "relay/timer.h"
#include "relay/tls.h"
#include "relay/worker.h"

_Static_assert(HTTPHEAD_MAX <= CONDUIT_PUSHBACK_MAX, "what follows a head can be given back");

struct ws_opening {
	struct conduit *network;
	struct worker *worker;
	enum ws_frame_role role;
	struct ws_handshake_terms terms;
	ws_done *done;
	void *user;
	struct timer timer;
	struct reapable reapable;
	bool decided, lost; /* lost: nothing can be said any more */
	enum reason why;
	struct ws_handshake_heard heard;
	char key[WS_HANDSHAKE_KEY];
	char say[WS_HANDSHAKE_SAY];
	size_t say_at, say_len;
	size_t head_len;
	char head[HTTPHEAD_MAX];
};

static void on_free(struct reapable *r)
{
	free((char *)r - offsetof(struct ws_opening, reapable));
}

static void decide(struct ws_opening *o, enum reason why, const char *detail)
{
	o->decided = true;
	o->why = why;
	if (detail)
		snprintf(o->heard.detail, sizeof(o->heard.detail), "%s", detail);
}

static void lose(struct ws_opening *o, enum reason why, const char *detail)
{
	o->lost = true;
	if (!o->decided)
		decide(o, why, detail);
}

static void lose_network(struct ws_opening *o)
{
	const char *alert = o->role == WS_FRAME_CLIENT ? tls_conduit_refusal(o->network) : "";
	char text[sizeof(o->heard.detail)];

	snprintf(text, sizeof(text), "this side's certificate was refused: %s", alert);
	lose(o, o->role == WS_FRAME_CLIENT ? REASON_TARGET_RESET : REASON_RESET,
	     *alert ? text : "the connection ended during the WebSocket handshake");
}

/* Consumes the network, whatever came of it. */
static struct conduit *outcome(struct ws_opening *o)
{
	struct conduit *network = o->network;

	o->network = NULL;
	if (o->why != REASON_NONE) {
		if (o->lost || o->role == WS_FRAME_CLIENT)
			conduit_close(network, o->why);
		else
			linger_close(network, NULL, NULL);
		return NULL;
	}
	if (conduit_unread(network, o->head + o->heard.head, o->head_len - o->heard.head) < 0) {
		conduit_close(network, REASON_NO_MEMORY);
		network = NULL;
	} else {
		network = ws_conduit_new(network, o->role);
	}
	if (!network)
		decide(o, REASON_NO_MEMORY, "out of memory");
	return network;
}

static void finish(struct ws_opening *o)
{
	struct conduit *c;

	timer_cancel(o->worker, &o->timer);
	c = outcome(o);
	o->done(o->user, c, o->why, c ? "" : o->heard.detail);
	worker_reap(o->worker, &o->reapable);
}

static void hear(struct ws_opening *o)
{
	enum ws_handshake_verdict verdict;
	ssize_t n = conduit_read(o->network, o->head + o->head_len, HTTPHEAD_MAX - o->head_len);

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		lose_network(o);
		return;
	}
	o->head_len += (size_t)n;
	if (o->role == WS_FRAME_CLIENT)
		verdict = ws_handshake_judge_answer(o->head, o->head_len, &o->terms, o->key,
						    &o->heard);
	else
		verdict = ws_handshake_judge_request(o->head, o->head_len, &o->terms, &o->heard,
						     o->say, &o->say_len);
	if (verdict != WS_HANDSHAKE_MORE)
		decide(o, verdict == WS_HANDSHAKE_GOOD ? REASON_NONE : REASON_PROTOCOL, NULL);
}

static void speak(struct ws_opening *o)
{
	while (o->say_at < o->say_len && !o->lost) {
		ssize_t n = conduit_write(o->network, o->say + o->say_at, o->say_len - o->say_at);

		if (n == -EAGAIN || n == 0)
			break;
		if (n > 0)
			o->say_at += (size_t)n;
		else
			lose_network(o);
	}
}

static void on_network(struct conduit *c, unsigned events)
{
	struct ws_opening *o = c->user;

	if (events & READY_READ && !o->decided)
		hear(o);
	speak(o);
	if (o->decided && (o->lost || o->say_at == o->say_len))
		finish(o);
	else
		conduit_want(c, (o->decided ? 0 : READY_READ) |
					(o->say_at < o->say_len ? READY_WRITE : 0));
}

static void on_timeout(struct timer *t)
{
	struct ws_opening *o =
		(struct ws_opening *)((char *)t - offsetof(struct ws_opening, timer));

	o->decided = false; /* a verdict that could not be told in time does not count */
	lose(o, REASON_HANDSHAKE_TIMEOUT,
	     o->role == WS_FRAME_CLIENT ? "no answer to the WebSocket upgrade in time"
					: "no WebSocket upgrade request in time");
	finish(o);
}

/* The caller says what there is to say, and starts it. */
static struct ws_opening *opening_new(struct conduit *network, enum ws_frame_role role,
				      const struct ws_handshake_terms *terms, ws_done *done,
				      void *user)
{
	struct ws_opening *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->network = network;
	o->worker = network->worker;
	o->role = role;
	o->terms = *terms;
	o->done = done;
	o->user = user;
	o->reapable.free = on_free;
	return o;
}

static void start(struct ws_opening *o, uint64_t timeout_ms)
{
	timer_set(o->worker, &o->timer, timeout_ms, on_timeout);
	o->network->ready = on_network;
	o->network->user = o;
	conduit_want(o->network, READY_READ | (o->say_len ? READY_WRITE : 0));
}

struct ws_opening *ws_accept(struct conduit *network, const struct ws_handshake_terms *terms,
			     uint64_t timeout_ms, ws_done *done, void *user)
{
	struct ws_opening *o = opening_new(network, WS_FRAME_SERVER, terms, done, user);

	if (o)
		start(o, timeout_ms);
	else
		conduit_close(network, REASON_NO_MEMORY);
	return o;
}

struct ws_opening *ws_connect(struct conduit *network, const char *host,
			      const struct ws_handshake_terms *terms, uint64_t timeout_ms,
			      ws_done *done, void *user)
{
	struct ws_opening *o = opening_new(network, WS_FRAME_CLIENT, terms, done, user);

	if (o && ws_handshake_key(o->key))
		o->say_len = ws_handshake_request(o->say, host, terms, o->key);
	if (!o || !o->say_len) {
		free(o);
		conduit_close(network, REASON_NO_MEMORY);
		return NULL;
	}
	start(o, timeout_ms);
	return o;
}

void ws_opening_cancel(struct ws_opening *o)
{
	if (!o)
		return;
	timer_cancel(o->worker, &o->timer);
	conduit_close(o->network, REASON_SHUTDOWN);
	worker_reap(o->worker, &o->reapable);
}
