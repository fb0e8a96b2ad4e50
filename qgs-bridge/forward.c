/*
 * forward: from a guest's connection to a stream to the relay.
 *
 * Theory of operation:
 *
 *   WISHING  the pool is asked for a stream; the client is watched for its going, nothing is read
 *   JOINED   a splice has both; its end is ours
 *
 * The stream is there as soon as a session is: whether the relay takes it on, parks it or refuses
 * it comes later, as bytes or as its abort. A client that goes while it wishes takes the wish with
 * it.
 */
#include "qgs-bridge/forward.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/caller.h"
#include "relay/conduit.h"
#include "relay/splice.h"
#include "relay/worker.h"
#include "tunnel/pool.h"
#include "tunnel/session.h"

struct forward {
	struct bridge *bridge;
	struct caller *caller;
	struct conduit *client;  /* WISHING */
	struct splice *splice;   /* JOINED */
	struct splice_spec spec; /* with the time-outs that held when it began */
	struct pool_wish wish;
	struct forward *next, **prevp;
	struct reapable reapable;
	char via[ADDRESS_TEXT_MAX];
	char service[]; /* as asked for */
};

static void on_free(struct reapable *r)
{
	free((char *)r - offsetof(struct forward, reapable));
}

/* The client is closed, or the splice is at its end. */
static void over(struct forward *f, struct caller_end *end)
{
	struct caller *caller = f->caller;

	*f->prevp = f->next;
	if (f->next)
		f->next->prevp = f->prevp;
	f->caller = NULL; /* consumed */
	end->to = f->service;
	end->via = f->via;
	caller_over(caller, end);
	worker_reap(f->bridge->worker, &f->reapable);
}

/* There was no stream for it. */
static void fail(struct forward *f, enum reason why, const char *detail)
{
	struct caller_end end = { .why = why, .detail = detail };

	pool_cancel(&f->wish);
	conduit_close(f->client, why);
	f->client = NULL;
	over(f, &end);
}

/* The relay said no, and that was all. (After its yes a stream dies of two reasons only.) */
static bool is_refused(const struct splice *s, enum reason why)
{
	return why != REASON_NONE && why != REASON_TARGET_RESET && why != REASON_TUNNEL_LOST &&
	       why == session_stream_reason(s->side[TGT]);
}

static void on_splice_end(struct splice *s, enum reason why)
{
	struct forward *f = s->user;
	bool refused = is_refused(s, why);
	char words[160];
	struct caller_end end = {
		.why = why,
		.detail = refused ? words : "",
		.answered = !refused,
		.up = s->half[INI].bytes,
		.down = s->half[TGT].bytes,
	};

	snprintf(words, sizeof(words), "said by the relay: %s", reason_explanation(why));
	over(f, &end);
}

static void on_stream(struct pool_wish *w, struct conduit *c, enum reason why, const char *detail)
{
	struct forward *f = (struct forward *)((char *)w - offsetof(struct forward, wish));
	struct conduit *client = f->client;

	if (!c) {
		fail(f, why, detail);
		return;
	}
	snprintf(f->via, sizeof(f->via), "%s", pool_via(f->bridge->pool));
	conduit_want(client, 0);
	f->client = NULL; /* consumed, as is c */
	f->spec = f->bridge->splice;
	f->spec.end = on_splice_end;
	f->splice = splice_new(f->bridge->worker, client, c, &f->spec, f);
	if (!f->splice)
		fail(f, REASON_NO_MEMORY, "");
}

static void on_client(struct conduit *c, unsigned events)
{
	fail(c->user, REASON_RESET, "gone before there was a connection to the relay");
}

void forward_new(struct bridge *b, struct caller *caller, struct conduit *client,
		 const char *service)
{
	size_t name = strlen(service) + 1;
	struct forward *f = calloc(1, sizeof(*f) + name);

	if (!f) {
		struct caller_end end = { .to = service, .why = REASON_NO_MEMORY, .detail = "" };

		conduit_close(client, REASON_NO_MEMORY);
		caller_over(caller, &end);
		return;
	}
	f->bridge = b;
	f->caller = caller;
	f->client = client;
	f->reapable.free = on_free;
	memcpy(f->service, service, name);
	f->next = b->forwards;
	f->prevp = &b->forwards;
	if (f->next)
		f->next->prevp = &f->next;
	b->forwards = f;
	client->ready = on_client;
	client->user = f;
	conduit_want(client, READY_ABORT | READY_GONE);
	f->wish.service = f->service;
	f->wish.done = on_stream;
	snprintf(f->wish.id, sizeof(f->wish.id), "%" PRIu64, caller->id);
	pool_open(b->pool, &f->wish);
}

void forward_end_all(struct bridge *b, enum reason why)
{
	while (b->forwards) {
		if (b->forwards->splice)
			splice_end(b->forwards->splice, why);
		else
			fail(b->forwards, why, "");
	}
}

void forward_each(const struct bridge *b, live_each *each, void *arg)
{
	for (const struct forward *f = b->forwards; f; f = f->next) {
		const struct live l = {
			.caller = f->caller,
			.kind = "forward",
			.state = f->splice ? "joined" : "opening",
			.service = f->service,
			.relay = f->via,
			.up = f->splice ? f->splice->half[INI].bytes : 0,
			.down = f->splice ? f->splice->half[TGT].bytes : 0,
		};

		each(&l, arg);
	}
}
