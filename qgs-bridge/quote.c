/*
 * quote: one request to QGS and its reply.
 *
 * Theory of operation: quote.h has the states. Why whole messages only: a QGS up to DCAP 1.25 that
 * gets a request in pieces hangs for 30 s, and starts that clock when it accepts; and a guest's
 * library that gets a piece of a reply, then its end, waits for ever. So QGS is not connected to
 * before there is a whole request, which it gets in one write, and the client gets no byte of a
 * reply that is not all there. Nothing else is ever sent to QGS, not even our end.
 *
 * What a client sends behind its request is dropped, as QGS does. It is not even read until the
 * reply is on its way: but then, since closing a socket with unread bytes would destroy the reply
 * (so it lingers). While it waits, a client that has ended its direction wants its reply all the
 * same; one that is gone altogether is noticed where the kind of socket can tell.
 *
 * The reply to a raw request has no length and is passed on as it comes, no faster than the client
 * takes it; but it keeps its slot meanwhile, so from the first time that it is slow, timeouts.reply
 * is all that it has.
 *
 * QGS's end before the reply is whole is read, not guessed: what it wrote before closing comes
 * first. Whether it answered at all, and when, is told to qgs.h.
 *
 * Longer than other files: all the ways a request can go are ways of one state machine.
 *
 * Owns both conduits, both buffers, and the caller until it is over. Bounds: request_max,
 * reply_max; QUOTE_TURN bytes a wake-up.
 */
#include "qgs-bridge/quote.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/caller.h"
#include "qgs-bridge/framing.h"
#include "qgs-bridge/gather.h"
#include "qgs-bridge/qgs.h"
#include "qgs-bridge/ticket.h"
#include "relay/conduit.h"
#include "relay/linger.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define REQUEST_FIRST ((size_t)1280) /* usual requests are 1052 bytes */
#define REPLY_FIRST ((size_t)8192)   /* usual replies are 5 KB */
#define QUOTE_TURN ((size_t)256 * 1024)
#define QUOTE_AGAIN_MS 50 /* from QGS's end to the sign that it was QGS's own */

enum state { READING, WAITING, ASKING, REPLYING, LINGERING };

struct quote {
	struct bridge *bridge;
	struct caller *caller;
	enum state state;
	bool raw;		/* a raw report, or so it seems while READING */
	bool answered;
	enum reason gone;	/* ASKING: the client went, and why; else NONE */
	bool again;		/* it is asked for the second time */
	int error;		/* of the connection to QGS that ended early, or 0 */
	uint64_t changes;	/* qgs_changes, when it was asked */
	uint64_t waited_ms;	/* in the line, the first time */
	uint64_t asked;		/* worker_now, when it was asked */
	struct conduit *client; /* NULL: gone, or lingers */
	struct conduit *qgs;	/* ASKING */
	struct ticket ticket;
	struct gather request, reply;
	size_t request_len;	/* of a whole one */
	size_t sent, given;	/* of the request to QGS, of the reply to the client */
	size_t taken;		/* raw: of what reply holds, by the client */
	uint64_t patience;	/* raw: worker_now till which it may be slow; 0: it was not yet */
	struct timer timer;	/* of the state; a ticket has its own */
	struct quote *next, **prevp;
	struct reapable reapable;
};

/* ---- its end ---- */

static void on_free(struct reapable *r)
{
	struct quote *q = (struct quote *)((char *)r - offsetof(struct quote, reapable));

	gather_free(&q->request);
	gather_free(&q->reply);
	free(q);
}

/* The client is closed for good. */
static void over(struct quote *q, enum reason why, const char *detail)
{
	struct caller *caller = q->caller;
	char via[ADDRESS_TEXT_MAX];
	const struct caller_end end = {
		.to = "qgs",
		.via = address_format(&q->bridge->config->qgs.address, via, sizeof(via)),
		.why = why,
		.detail = detail,
		.answered = q->answered,
		.up = q->request_len ? q->request_len : q->request.len,
		.down = q->given,
		.waited_ms = q->waited_ms + q->ticket.waited_ms,
	};

	*q->prevp = q->next;
	if (q->next)
		q->next->prevp = q->prevp;
	q->caller = NULL; /* consumed */
	worker_reap(q->bridge->worker, &q->reapable);
	caller_over(caller, &end);
}

/* Without a whole reply. */
static void end(struct quote *q, enum reason why, const char *detail)
{
	struct conduit *client = q->client;

	q->client = NULL;
	timer_cancel(q->bridge->worker, &q->timer);
	conduit_close(q->qgs, REASON_EOF);
	q->qgs = NULL;
	conduit_close(client, why);
	ticket_over(&q->ticket);
	over(q, q->gone ? q->gone : why, q->gone ? "" : detail);
}

static void on_lingered(void *arg)
{
	over(arg, REASON_EOF, "");
}

static void let_go(struct quote *q)
{
	struct conduit *client = q->client;

	q->answered = true;
	q->state = LINGERING;
	q->client = NULL;
	timer_cancel(q->bridge->worker, &q->timer);
	gather_free(&q->reply);
	linger_close(client, on_lingered, q);
}

/* ---- the reply ---- */

static void on_client_busy(struct conduit *c, unsigned events);
static void on_timer(struct timer *t);
static void on_turn(struct ticket *t, struct conduit *qgs, enum reason why, const char *detail);

static void write_reply(struct quote *q)
{
	ssize_t n = conduit_write(q->client, q->reply.bytes + q->given, q->reply.len - q->given);

	if (n < 0 && n != -EAGAIN) {
		end(q, n == -EPIPE ? REASON_CLOSED_EARLY : REASON_RESET, "");
		return;
	}
	if (n > 0)
		q->given += (size_t)n;
	if (q->given == q->reply.len)
		let_go(q);
	else
		conduit_want(q->client, READY_WRITE | READY_ABORT | READY_GONE);
}

static void met_answer(struct quote *q)
{
	struct worker *w = q->bridge->worker;

	durations_add(w->counters.durations, DURATIONS_QGS, (worker_now(w) - q->asked) * 1000);
	if (q->bridge->qgs)
		qgs_met_answer(q->bridge->qgs);
}

static void reply_is_whole(struct quote *q, size_t len)
{
	struct bridge *b = q->bridge;

	met_answer(q);
	if (!q->client) {
		end(q, q->gone, "");
		return;
	}
	conduit_close(q->qgs, REASON_EOF);
	q->qgs = NULL;
	q->reply.len = len;
	q->state = REPLYING;
	ticket_over(&q->ticket);
	timer_set(b->worker, &q->timer, b->config->timeouts.reply, on_timer);
	write_reply(q);
}

static void fail_unfinished(struct quote *q)
{
	char detail[96];

	snprintf(detail, sizeof(detail), "after %zu bytes of its reply%s%s", q->reply.len,
		 q->error ? ": " : "", q->error ? strerror(q->error) : "");
	end(q, q->reply.len ? REASON_CUT_SHORT : REASON_NO_REPLY,
	    q->reply.len || q->error ? detail : "");
}

/* QGS has ended (0), or the connection to it died, and the client has not got a byte. */
static void reply_ended(struct quote *q, int error)
{
	q->error = error;
	if (!q->client || q->again || !q->bridge->qgs) {
		fail_unfinished(q);
		return;
	}
	conduit_close(q->qgs, REASON_EOF);
	q->qgs = NULL;
	q->state = WAITING; /* in no line yet: the timer decides */
	timer_set(q->bridge->worker, &q->timer, QUOTE_AGAIN_MS, on_timer);
	ticket_over(&q->ticket);
}

/* QUOTE_AGAIN_MS after that. */
static void ask_again(struct quote *q)
{
	if (!q->bridge->qgs || qgs_changes(q->bridge->qgs) == q->changes) {
		fail_unfinished(q);
		return;
	}
	q->again = true;
	q->sent = 0;
	gather_free(&q->reply);
	q->waited_ms = q->ticket.waited_ms;
	q->ticket = (struct ticket){ 0 };
	ticket_begin(&q->ticket, q->bridge, &q->caller->vm->line, on_turn);
}

static void read_reply(struct quote *q)
{
	const size_t max = q->bridge->config->qgs.reply_max, before = q->reply.len;

	while (q->reply.len - before < QUOTE_TURN) {
		enum framing_verdict verdict = FRAMING_MORE;
		ssize_t n = gather_read(&q->reply, q->qgs, REPLY_FIRST, max);
		size_t len = 0;

		if (n == -EAGAIN)
			return;
		if (n == -ENOMEM) {
			end(q, REASON_NO_MEMORY, "");
			return;
		}
		if (n <= 0 && n != -EMSGSIZE) {
			reply_ended(q, (int)-n);
			return;
		}
		if (n == -EMSGSIZE)
			verdict = FRAMING_TOO_LARGE;
		else if (!q->raw)
			verdict = framing_reply(q->reply.bytes, q->reply.len, max, &len);
		if (verdict == FRAMING_WHOLE) {
			reply_is_whole(q, len);
			return;
		}
		if (verdict == FRAMING_TOO_LARGE) {
			end(q, REASON_TOO_LARGE, "QGS's reply is over qgs.reply_max");
			return;
		}
	}
}

/* ---- the reply to a raw request, as it comes ---- */

/* QGS works on it all the same. */
static void client_gone(struct quote *q, enum reason why)
{
	struct conduit *client = q->client;

	q->gone = why;
	q->client = NULL;
	conduit_close(client, why);
}

/* True: all that came is given, or nobody wants it any more. */
static bool give_raw(struct quote *q)
{
	struct worker *w = q->bridge->worker;
	ssize_t n = q->client ? conduit_write(q->client, q->reply.bytes + q->taken,
					      q->reply.len - q->taken) :
				0;

	if (n < 0 && n != -EAGAIN)
		client_gone(q, n == -EPIPE ? REASON_CLOSED_EARLY : REASON_RESET);
	if (n > 0) {
		q->taken += (size_t)n;
		q->given += (size_t)n;
	}
	if (q->client && q->taken < q->reply.len) {
		const uint64_t now = worker_now(w);

		conduit_want(q->client, READY_WRITE | READY_ABORT | READY_GONE);
		conduit_want(q->qgs, READY_ABORT);
		if (!q->patience)
			q->patience = now + q->bridge->config->timeouts.reply;
		timer_set(w, &q->timer, q->patience > now ? q->patience - now : 0, on_timer);
		return false;
	}
	q->reply.len = q->taken = 0;
	if (q->client)
		conduit_want(q->client, READY_ABORT | READY_GONE);
	conduit_want(q->qgs, READY_READ);
	timer_set(w, &q->timer, q->bridge->config->qgs.stuck_after, on_timer);
	return true;
}

/* Its end is QGS's. error: the connection to it died. */
static void raw_ended(struct quote *q, int error)
{
	if (!q->given) {
		reply_ended(q, error);
		return;
	}
	if (error || !q->client) {
		end(q, REASON_CUT_SHORT, error ? strerror(error) : "");
		return;
	}
	met_answer(q);
	conduit_close(q->qgs, REASON_EOF);
	q->qgs = NULL;
	ticket_over(&q->ticket);
	let_go(q);
}

static void read_raw(struct quote *q)
{
	size_t budget = QUOTE_TURN / REPLY_FIRST;
	ssize_t n;

	if (q->reply.len) /* told of an abort while the client is slow: what it has comes first */
		return;
	do {
		n = gather_read(&q->reply, q->qgs, REPLY_FIRST, REPLY_FIRST);
	} while (n > 0 && give_raw(q) && --budget);
	if (n == -ENOMEM)
		end(q, REASON_NO_MEMORY, "");
	else if (n <= 0 && n != -EAGAIN)
		raw_ended(q, (int)-n);
}

/* ---- asking ---- */

static void write_request(struct quote *q)
{
	ssize_t n = conduit_write(q->qgs, q->request.bytes + q->sent, q->request_len - q->sent);

	if (n > 0)
		q->sent += (size_t)n;
	else if (n != -EAGAIN)
		q->sent = q->request_len; /* QGS is gone; what it said before is read */
	conduit_want(q->qgs, READY_READ | (q->sent < q->request_len ? READY_WRITE : 0));
}

static void on_qgs(struct conduit *c, unsigned events)
{
	struct quote *q = c->user;

	if (events & READY_WRITE && q->sent < q->request_len)
		write_request(q);
	if (events & READY_READ && q->raw)
		read_raw(q);
	else if (events & READY_READ)
		read_reply(q);
}

static void on_turn(struct ticket *t, struct conduit *qgs, enum reason why, const char *detail)
{
	struct quote *q = (struct quote *)((char *)t - offsetof(struct quote, ticket));

	if (!qgs) {
		end(q, why, detail);
		return;
	}
	q->state = ASKING;
	q->asked = worker_now(q->bridge->worker);
	q->qgs = qgs;
	qgs->ready = on_qgs;
	qgs->user = q;
	q->changes = q->bridge->qgs ? qgs_changes(q->bridge->qgs) : 0;
	timer_set(q->bridge->worker, &q->timer, q->bridge->config->qgs.stuck_after, on_timer);
	write_request(q);
}

/* The client's events while its bytes are of no interest, and while it gets its reply. */
static void on_client_busy(struct conduit *c, unsigned events)
{
	struct quote *q = c->user;
	enum reason why = events & READY_ABORT ? REASON_RESET : REASON_CLOSED_EARLY;

	if (q->state == ASKING && q->reply.len && q->raw) {
		if (events & (READY_ABORT | READY_GONE))
			client_gone(q, why);
		give_raw(q);
	} else if (q->state == REPLYING && !(events & (READY_ABORT | READY_GONE))) {
		write_reply(q);
	} else if (q->state == ASKING) {
		client_gone(q, why);
	} else if (events & (READY_ABORT | READY_GONE)) {
		end(q, why, "");
	}
}

/* ---- the request ---- */

static void request_is_whole(struct quote *q, size_t len)
{
	q->request_len = len;
	q->raw = framing_is_raw(q->request.bytes);
	q->state = WAITING;
	timer_cancel(q->bridge->worker, &q->timer);
	q->client->ready = on_client_busy;
	conduit_want(q->client, READY_ABORT | READY_GONE);
	ticket_begin(&q->ticket, q->bridge, &q->caller->vm->line, on_turn);
}

/* The client sends no more. */
static void request_ended(struct quote *q)
{
	if (q->raw)
		request_is_whole(q, q->request.len);
	else if (q->request.len == 0)
		end(q, REASON_EOF, "it was closed without a request");
	else
		end(q, REASON_CLOSED_EARLY, "the request was not whole");
}

/* True: it is not whole yet. */
static bool is_incomplete(struct quote *q)
{
	size_t len = 0;

	switch (framing_request(q->request.bytes, q->request.len,
				q->bridge->config->qgs.request_max, &len)) {
	case FRAMING_WHOLE:
		request_is_whole(q, len);
		return false;
	case FRAMING_TOO_LARGE:
		end(q, REASON_TOO_LARGE, "the request is over qgs.request_max");
		return false;
	case FRAMING_GARBAGE:
		end(q, REASON_PROTOCOL, "the first bytes are no request to QGS");
		return false;
	case FRAMING_RAW_SO_FAR:
		if (!q->raw)
			timer_set(q->bridge->worker, &q->timer, QUOTE_RAW_MS, on_timer);
		q->raw = true;
		break;
	case FRAMING_MORE:
		break;
	}
	return true;
}

static void on_client_reading(struct conduit *c, unsigned events)
{
	struct quote *q = c->user;
	ssize_t n;

	do {
		n = gather_read(&q->request, c, REQUEST_FIRST, q->bridge->config->qgs.request_max);
	} while (n > 0 && is_incomplete(q));
	if (n > 0 || n == -EAGAIN)
		return;
	if (n == 0)
		request_ended(q);
	else if (n == -EMSGSIZE) /* a reload has made the bound less */
		end(q, REASON_TOO_LARGE, "the request is over qgs.request_max");
	else
		end(q, n == -ENOMEM ? REASON_NO_MEMORY : REASON_RESET, "");
}

/* ---- life ---- */

static void on_timer(struct timer *t)
{
	struct quote *q = (struct quote *)((char *)t - offsetof(struct quote, timer));
	char detail[96];

	switch (q->state) {
	case READING:
		if (q->raw) {
			request_is_whole(q, q->request.len);
			break;
		}
		snprintf(detail, sizeof(detail), "%zu bytes of it came", q->request.len);
		end(q, REASON_REQUEST_TIMEOUT, detail);
		break;
	case WAITING:
		ask_again(q);
		break;
	case ASKING:
		if (q->raw && q->reply.len) { /* QGS is not to blame */
			end(q, REASON_REPLY_TIMEOUT, "");
			break;
		}
		if (q->bridge->qgs)
			qgs_met_silence(q->bridge->qgs);
		ticket_unanswered(&q->ticket);
		snprintf(detail, sizeof(detail), "%zu bytes of its reply within qgs.stuck_after",
			 q->raw ? q->given : q->reply.len);
		end(q, REASON_QGS_STUCK, detail);
		break;
	default:
		end(q, REASON_REPLY_TIMEOUT, "");
	}
}

void quote_new(struct bridge *b, struct caller *caller, struct conduit *client)
{
	const uint64_t patience = b->config->timeouts.request;
	uint64_t passed = worker_now(b->worker) - caller->began;
	struct quote *q = calloc(1, sizeof(*q));

	if (!q) {
		const struct caller_end end = { .to = "qgs", .why = REASON_NO_MEMORY };

		conduit_close(client, REASON_NO_MEMORY);
		caller_over(caller, &end);
		return;
	}
	q->bridge = b;
	q->caller = caller;
	q->client = client;
	q->reapable.free = on_free;
	q->next = b->quotes;
	q->prevp = &b->quotes;
	if (q->next)
		q->next->prevp = &q->next;
	b->quotes = q;
	client->ready = on_client_reading;
	client->user = q;
	timer_set(b->worker, &q->timer, passed < patience ? patience - passed : 0, on_timer);
	conduit_want(client, READY_READ);
}

void quote_end_all(struct bridge *b, enum reason why)
{
	struct quote *q, *next;

	b->scheduling = true; /* who ends lets nobody else begin */
	for (q = b->quotes; q; q = next) {
		next = q->next;
		if (q->state != LINGERING)
			end(q, why, "");
	}
	b->scheduling = false;
	ticket_schedule(b);
}

void quote_each(const struct bridge *b, live_each *each, void *arg)
{
	static const char *const states[] = { [READING] = "reading",
					      [WAITING] = "waiting",
					      [ASKING] = "asking",
					      [REPLYING] = "replying",
					      [LINGERING] = "lingering" };

	for (const struct quote *q = b->quotes; q; q = q->next) {
		const struct live l = {
			.caller = q->caller,
			.kind = "quote",
			.state = states[q->state],
			.service = "qgs",
			.up = q->request_len ? q->request_len : q->request.len,
			.down = q->given,
		};

		each(&l, arg);
	}
}
