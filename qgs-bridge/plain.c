/*
 * plain: bytes as they come between a guest and QGS.
 *
 * Theory of operation:
 *
 *   SILENT   nothing has come from the client: timeouts.request. The first bytes are read and given
 *            back to the conduit, for the splice
 *   WAITING  in line, then dialling (ticket.h); the client is watched for its going
 *   JOINED   a splice has both; its end is ours. The slot is kept till then
 *
 * Owns the client until joined. Bound: PLAIN_FIRST bytes before it is joined.
 */
#include "qgs-bridge/plain.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/caller.h"
#include "qgs-bridge/ticket.h"
#include "relay/conduit.h"
#include "relay/splice.h"
#include "relay/worker.h"

#define PLAIN_FIRST 4096

struct plain {
	struct bridge *bridge;
	struct caller *caller;
	struct conduit *client;  /* NULL: the splice's, or closed */
	struct splice *splice;   /* JOINED */
	struct splice_spec spec; /* with the time-outs that held when it was joined */
	struct ticket ticket;
	struct timer timer; /* SILENT */
	struct plain *next, **prevp;
	struct reapable reapable;
};

static void on_free(struct reapable *r)
{
	free((char *)r - offsetof(struct plain, reapable));
}

/* The client is closed, or the splice is at its end. */
static void over(struct plain *p, struct caller_end *end)
{
	struct caller *caller = p->caller;
	char via[ADDRESS_TEXT_MAX];

	end->to = "qgs";
	end->via = address_format(&p->bridge->config->qgs.address, via, sizeof(via));
	end->waited_ms = p->ticket.waited_ms;
	timer_cancel(p->bridge->worker, &p->timer);
	*p->prevp = p->next;
	if (p->next)
		p->next->prevp = p->prevp;
	p->caller = NULL; /* consumed */
	worker_reap(p->bridge->worker, &p->reapable);
	ticket_over(&p->ticket);
	caller_over(caller, end);
}

/* Before it was joined. */
static void fail(struct plain *p, enum reason why, const char *detail)
{
	struct caller_end end = { .why = why, .detail = detail };

	conduit_close(p->client, why);
	p->client = NULL;
	over(p, &end);
}

static void on_splice_end(struct splice *s, enum reason why)
{
	struct plain *p = s->user;
	struct caller_end end = {
		.why = why,
		.detail = "",
		.answered = s->half[TGT].bytes > 0,
		.up = s->half[INI].bytes,
		.down = s->half[TGT].bytes,
	};

	over(p, &end);
}

static void on_turn(struct ticket *t, struct conduit *qgs, enum reason why, const char *detail)
{
	struct plain *p = (struct plain *)((char *)t - offsetof(struct plain, ticket));
	struct conduit *client = p->client;

	if (!qgs) {
		fail(p, why, detail);
		return;
	}
	p->client = NULL; /* consumed */
	p->spec = p->bridge->splice;
	p->spec.end = on_splice_end;
	p->splice = splice_new(p->bridge->worker, client, qgs, &p->spec, p);
	if (!p->splice)
		fail(p, REASON_NO_MEMORY, "");
}

static void on_client_gone(struct conduit *c, unsigned events)
{
	fail(c->user, events & READY_ABORT ? REASON_RESET : REASON_CLOSED_EARLY, "");
}

static void on_first_byte(struct conduit *c, unsigned events)
{
	struct plain *p = c->user;
	uint8_t first[PLAIN_FIRST];
	ssize_t n = conduit_read(c, first, sizeof(first));

	if (n == -EAGAIN)
		return;
	if (n == 0) {
		fail(p, REASON_EOF, "it was closed without a request");
	} else if (n < 0) {
		fail(p, REASON_RESET, "");
	} else if (conduit_unread(c, first, (size_t)n) < 0) {
		fail(p, REASON_NO_MEMORY, "");
	} else {
		timer_cancel(p->bridge->worker, &p->timer);
		c->ready = on_client_gone;
		conduit_want(c, READY_ABORT | READY_GONE);
		ticket_begin(&p->ticket, p->bridge, &p->caller->vm->line, on_turn);
	}
}

static void on_silence(struct timer *t)
{
	fail((struct plain *)((char *)t - offsetof(struct plain, timer)), REASON_REQUEST_TIMEOUT,
	     "nothing came of it");
}

void plain_new(struct bridge *b, struct caller *caller, struct conduit *client)
{
	const uint64_t patience = b->config->timeouts.request;
	uint64_t passed = worker_now(b->worker) - caller->began;
	struct plain *p = calloc(1, sizeof(*p));

	if (!p) {
		const struct caller_end end = { .to = "qgs", .why = REASON_NO_MEMORY };

		conduit_close(client, REASON_NO_MEMORY);
		caller_over(caller, &end);
		return;
	}
	p->bridge = b;
	p->caller = caller;
	p->client = client;
	p->reapable.free = on_free;
	p->next = b->plains;
	p->prevp = &b->plains;
	if (p->next)
		p->next->prevp = &p->next;
	b->plains = p;
	client->ready = on_first_byte;
	client->user = p;
	timer_set(b->worker, &p->timer, passed < patience ? patience - passed : 0, on_silence);
	conduit_want(client, READY_READ);
}

void plain_end_all(struct bridge *b, enum reason why)
{
	struct plain *p, *next;

	b->scheduling = true; /* who ends lets nobody else begin */
	for (p = b->plains; p; p = next) {
		next = p->next;
		if (p->splice)
			splice_end(p->splice, why);
		else
			fail(p, why, "");
	}
	b->scheduling = false;
	ticket_schedule(b);
}

void plain_each(const struct bridge *b, live_each *each, void *arg)
{
	for (const struct plain *p = b->plains; p; p = p->next) {
		const struct live l = {
			.caller = p->caller,
			.kind = "plain",
			.state = p->splice          ? "joined"
				 : p->ticket.bridge ? "waiting"
						    : "reading",
			.service = "qgs",
			.up = p->splice ? p->splice->half[INI].bytes : 0,
			.down = p->splice ? p->splice->half[TGT].bytes : 0,
		};

		each(&l, arg);
	}
}
