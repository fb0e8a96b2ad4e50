/*
 * search: finds a target for an opening.
 *
 * Theory of operation: the route's targets are tried in order.
 *
 *   tunnel     the registry names one, by the service's balance, and counts this stream with it
 *              until it is over. If it lives in another worker the whole opening moves
 *              there (the client's conduit is detached, carried by the mailbox and attached: what
 *              the client has sent is still in the kernel; a stream stays with its session, and the
 *              far end of a crossing is carried). One that does not take the stream:
 *              the service's other tunnels, SEARCH_TRIES at most. None: the next target.
 *   address    dialled; on failure the next target. One that does not answer is tried last.
 *   none left  if a tunnel was asked for and there was none, or only such as take nothing more, the
 *              stream is parked until one comes (opening_wake_all) or the pickup time-out ends, but
 *              not if another process has the listeners; else it is refused, with the last reason.
 *
 * An eager service is joined when its agent has reached it; a lazy one at once, since the first
 * byte is what makes its agent try: what that says then comes too late for another target. While it
 * waits, the client is watched for its going and nothing is read.
 *
 * Limits: parked streams by limits.parked, and its source's, client's and owner's part of that.
 */
#include "relay/search.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/health.h"
#include "relay/identity.h"
#include "relay/line.h"
#include "relay/opening_state.h"
#include "relay/registry.h"
#include "relay/router.h"

#define RETRY_MS 100 /* until the next round, if tunnels are there but none takes the stream */

static void try_targets(struct opening *o);
static bool try_tunnel(struct opening *o);
static void on_client_gone(struct conduit *c, unsigned events);

static struct opening *of_timer(struct timer *t)
{
	return ((struct search *)((char *)t - offsetof(struct search, timer)))->opening;
}

/* While it waits: that it has gone is noticed, nothing is read. */
static void watch_client(struct opening *o)
{
	o->client->ready = on_client_gone;
	o->client->user = o;
	conduit_want(o->client, READY_ABORT | READY_GONE);
}

/* ---- a tunnel ---- */

static void target_failed(struct opening *o, enum reason why, const char *detail)
{
	o->search->why = why;
	opening_set_text(&o->search->detail, detail);
	try_targets(o);
}

/* This tunnel did not take the stream: another of the service may, then the next target. */
static void tunnel_failed(struct opening *o, enum reason why)
{
	struct search *f = o->search;
	char text[ADDRESS_TEXT_MAX];

	f->absent |= why == REASON_GOING_AWAY || why == REASON_TUNNEL_LOST;
	timer_cancel(o->worker, &f->timer);
	registry_unload(o->load);
	o->load = NULL;
	if (try_tunnel(o))
		return;
	snprintf(text, sizeof(text), "%s%s", o->tunnel ? "tunnel " : "",
		 o->tunnel ? o->tunnel : "");
	target_failed(o, why, text);
}

/* A stream that must be confirmed first: its agent answered, or gave up. */
static void on_answer(struct conduit *c, unsigned events)
{
	struct opening *o = c->user;
	enum reason why;

	if (events & READY_OPEN) {
		opening_join(o, c);
		return;
	}
	if (!(events & (READY_ABORT | READY_READ)))
		return;
	why = c->ops->why ? c->ops->why(c) : REASON_AGENT_REFUSED;
	o->search->target = NULL;
	conduit_close(c, why);
	tunnel_failed(o, why);
}

static void on_answer_late(struct timer *t)
{
	struct opening *o = of_timer(t);

	conduit_close(o->search->target, REASON_DIAL_TIMEOUT);
	o->search->target = NULL;
	tunnel_failed(o, REASON_DIAL_TIMEOUT);
}

/* In the tunnel's own worker. */
static void open_stream(struct opening *o, const struct offer *offer)
{
	struct search *f = o->search;
	struct tunnel_stream stream;
	enum reason why = REASON_TUNNEL_LOST;
	char id[24], from[PEER_TEXT_MAX];
	struct line number = { id, 0, sizeof(id) - 1 };
	const struct client_words words = {
		.id = id,
		.address = client_address(&o->peer, from, sizeof(from)),
		.asked = f->asked_for,
		.names = o->identity && identity_kind(o->identity) == IDENTITY_CLIENT
				 ? identity_text(o->identity)
				 : NULL,
		.rule = o->rule,
	};

	line_number(&number, o->id);
	id[number.used] = '\0';
	f->asked[f->tries++] = offer->tunnel;
	if (!opening_gateway(o)->tunnel.open(o->worker, offer->tunnel, o->service, &words, &stream,
					     &why)) {
		tunnel_failed(o, why);
		return;
	}
	opening_set_text(&o->tunnel, stream.label);
	if (gateway_audit(o->worker))
		opening_set_text(&o->target_address, stream.address);
	o->carrier = stream.carrier;
	o->tunnel_id = offer->tunnel;
	o->dialled = NULL;
	if (!offer->eager) {
		opening_join(o, stream.conduit);
		return;
	}
	/* no byte is passed on before the agent's yes, so that others may be asked after its no */
	watch_client(o);
	f->target = stream.conduit;
	f->target->ready = on_answer;
	f->target->user = o;
	conduit_want(f->target, READY_OPEN | READY_ABORT);
	timer_set(o->worker, &f->timer, gateway_settings(o->worker)->config->timeouts.dial,
		  on_answer_late);
}

/* The client is in this worker again; false: it could not be, and the opening is over. */
static bool settle_in(struct opening *o)
{
	if (conduit_attach(o->client, o->worker) == 0)
		return true;
	conduit_close(o->client, REASON_NO_MEMORY); /* it could not say more */
	o->client = NULL;
	opening_refuse(o, REASON_NO_MEMORY);
	return false;
}

/* Out of this worker's loop. */
static bool unsettle(struct opening *o)
{
	struct conduit *far;

	if (o->client->ops->detach) {
		conduit_detach(o->client);
		return true;
	}
	/* born detached */
	far = opening_cross(o);
	if (!far)
		return false;
	o->client = far;
	o->crossed = true;
	return true;
}

struct move {
	struct opening *opening;
	struct offer offer;
};

/* The mailbox of the tunnel's worker. */
static void on_arrival(struct worker *w, void *arg)
{
	struct move *m = arg;
	struct opening *o = m->opening;
	struct offer offer = m->offer;
	enum reason why = REASON_NONE;

	free(m);
	o->worker = w;
	opening_enlist(o, &gateway_worker(o->worker)->openings);
	opening_count(o, COUNTER_LIVE_OPENINGS, 1);
	atomic_fetch_sub(&opening_gateway(o)->moving, 1);
	if (!settle_in(o))
		return;
	if (gateway_worker(w)->end_at)
		why = REASON_SHUTDOWN;
	else if (o->judged < gateway_settings(w)->generation)
		why = opening_judge(o); /* it was in no worker's list when they were exchanged */
	if (why == REASON_NONE)
		open_stream(o, &offer);
	else
		opening_refuse(o, why == REASON_FORBIDDEN ? REASON_REVOKED : why);
}

static void move_to(struct opening *o, const struct offer *offer)
{
	struct gateway *g = opening_gateway(o);
	struct move *m = malloc(sizeof(*m));

	if (!m || atomic_load(&g->ending) || !unsettle(o)) {
		free(m);
		opening_refuse(o, atomic_load(&g->ending) ? REASON_SHUTDOWN : REASON_NO_MEMORY);
		return;
	}
	*m = (struct move){ o, *offer };
	atomic_fetch_add(&g->moving, 1);
	opening_delist(o);
	opening_count(o, COUNTER_LIVE_OPENINGS, -1);
	if (worker_post(offer->worker, on_arrival, m) == 0)
		return;
	free(m);
	atomic_fetch_sub(&g->moving, 1);
	opening_enlist(o, &gateway_worker(o->worker)->openings);
	opening_count(o, COUNTER_LIVE_OPENINGS, 1);
	if (settle_in(o))
		opening_refuse(o, REASON_NO_MEMORY);
}

/* A tunnel to try: none that has failed in this round. */
static struct wanted wanted(const struct opening *o)
{
	const struct search *f = o->search;

	return (struct wanted){ .service = o->service,
				.balance = o->to->config ? o->to->config->balance : BALANCE_PRIMARY,
				.client = f->identity,
				.asked = f->asked,
				.n = f->tries };
}

/* True: the tunnel has the opening now. */
static bool try_tunnel(struct opening *o)
{
	const struct wanted w = wanted(o);
	struct offer offer;

	if (w.n >= SEARCH_TRIES)
		return false;
	if (!registry_pick(opening_gateway(o)->registry, &w, &offer)) {
		o->search->absent |= w.n == 0;
		return false;
	}
	o->load = offer.load;
	if (offer.worker == o->worker)
		open_stream(o, &offer);
	else
		move_to(o, &offer);
	return true;
}

/* ---- an address ---- */

/* Who the client is goes before all else, in one piece: a new socket has room for it. */
static bool announce(const struct opening *o, struct conduit *target)
{
	const struct search *f = o->search;

	return !f->header ||
	       conduit_write(target, f->header, f->header_len) == (ssize_t)f->header_len;
}

static void tell_health(const struct opening *o, bool good, const char *detail)
{
	size_t target = (size_t)(o->dialled - o->to->config->targets.at);

	health_tried(o->to->health, target, good, detail, worker_now(o->worker));
}

static void on_dialled(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct opening *o = user;

	o->search->dial = NULL;
	if (c && !announce(o, c)) {
		conduit_close(c, REASON_RESET);
		c = NULL;
		why = REASON_DIAL_FAILED;
		detail = "the target did not take the PROXY header";
	}
	if (c || why != REASON_NO_MEMORY)
		tell_health(o, c, detail);
	if (c)
		opening_join(o, c);
	else
		target_failed(o, why, detail);
}

static void try_address(struct opening *o, const struct address *address)
{
	uint64_t ms = gateway_settings(o->worker)->config->timeouts.dial;
	struct search *f = o->search;
	char text[ADDRESS_TEXT_MAX];

	o->dialled = address;
	f->dialled_at = worker_now(o->worker);
	watch_client(o);
	f->dial = dial_start(o->worker, address, ms, on_dialled, o);
	if (!f->dial)
		target_failed(o, REASON_NO_MEMORY, opening_via(o, text));
}

/* ---- waiting ---- */

static void unpark(struct opening *o)
{
	if (!o->search->parked)
		return;
	o->search->parked = false;
	opening_delist(o);
	opening_enlist(o, &gateway_worker(o->worker)->openings);
	timer_cancel(o->worker, &o->search->timer);
	claim_unpark(&o->claim);
	opening_count(o, COUNTER_LIVE_PARKED, -1);
}

static void on_client_gone(struct conduit *c, unsigned events)
{
	struct opening *o = c->user;
	const struct search *f = o->search;

	if (f->dial && worker_now(o->worker) - f->dialled_at >= HEALTH_PATIENCE_MS)
		tell_health(o, false, "no answer before its client left");
	opening_refuse(o, REASON_RESET);
}

static void on_pickup_timeout(struct timer *t)
{
	struct opening *o = of_timer(t);

	opening_refuse(o, REASON_PICKUP_TIMEOUT);
}

void search_again(struct opening *o)
{
	unpark(o);
	try_targets(o);
}

static void on_retry(struct timer *t)
{
	search_again(of_timer(t));
}

static void park(struct opening *o)
{
	struct gateway *g = opening_gateway(o);
	struct search *f = o->search;
	uint64_t waited = worker_now(o->worker) - o->began, left;
	bool asked = f->tries > 0, there;
	const char *setting;
	enum reason why;
	struct wanted w;

	if (waited >= gateway_settings(o->worker)->config->timeouts.pickup) {
		opening_refuse(o, REASON_PICKUP_TIMEOUT);
		return;
	}
	why = claim_park(&o->claim, &setting);
	if (why != REASON_NONE) {
		opening_set_text(&f->detail, setting);
		opening_refuse(o, why);
		return;
	}
	f->parked = true;
	opening_delist(o);
	opening_enlist(o, &gateway_worker(o->worker)->parked);
	f->absent = false;
	f->tries = 0;
	f->tried = 0;
	opening_count(o, COUNTER_LIVE_PARKED, 1);
	f->parked_at = f->parked_at ? f->parked_at : o->began + waited;
	watch_client(o);
	left = gateway_settings(o->worker)->config->timeouts.pickup - waited;
	timer_set(o->worker, &f->timer, left, on_pickup_timeout);
	/* one may have come while this opening was on its way here: its call was not for us yet */
	w = wanted(o);
	there = registry_has(g->registry, &w);
	if (!there && atomic_load(&g->succeeded)) /* whom it waits for goes to the other process */
		opening_refuse(o, REASON_SHUTDOWN);
	else if (there && asked) /* they take nothing: not again at once */
		timer_set(o->worker, &f->timer, left < RETRY_MS ? left : RETRY_MS, on_retry);
	else if (there)
		on_retry(&f->timer);
}

/* In order, those that seem to be down last. NULL: none is left. */
static const struct address *next_target(struct opening *o)
{
	const struct route route = { .config = o->to->config };
	const struct addresses *targets = router_targets(&route);
	struct search *f = o->search;
	size_t next = targets->n;

	for (size_t i = 0; i < targets->n; i++) {
		if (f->tried >> i & 1)
			continue;
		if (next == targets->n)
			next = i;
		if (targets->at[i].kind == ADDRESS_TUNNEL ||
		    health_admits(o->to->health, i, worker_now(o->worker))) {
			next = i;
			break;
		}
	}
	if (next == targets->n)
		return NULL;
	f->tried |= UINT64_C(1) << next;
	return &targets->at[next];
}

static void try_targets(struct opening *o)
{
	struct search *f = o->search;
	const struct address *a;

	timer_cancel(o->worker, &f->timer);
	while ((a = next_target(o))) {
		if (a->kind != ADDRESS_TUNNEL) {
			try_address(o, a);
			return;
		}
		if (try_tunnel(o))
			return;
	}
	if (f->absent)
		park(o);
	else
		opening_refuse(o, f->why);
}

/* ---- the whole ---- */

void search_free(struct search *f)
{
	if (!f)
		return;
	free(f->detail);
	free(f->header);
	free(f->upgrade);
	free(f);
}

static void on_free(struct reapable *r)
{
	search_free((struct search *)((char *)r - offsetof(struct search, reapable)));
}

struct search *search_new(struct opening *o, const char *asked_for)
{
	size_t size = asked_for ? strlen(asked_for) + 1 : 1;
	struct search *f = calloc(1, sizeof(*f) + size);

	if (!f)
		return NULL;
	f->opening = o;
	f->reapable.free = on_free;
	if (asked_for)
		memcpy(f->asked_for, asked_for, size);
	return f;
}

void search_begin(struct opening *o)
{
	try_targets(o);
}

void search_end(struct opening *o)
{
	struct search *f = o->search;

	if (!f)
		return;
	unpark(o);
	timer_cancel(o->worker, &f->timer);
	dial_cancel(f->dial);
	conduit_close(f->target, REASON_RESET);
	worker_reap(o->worker, &f->reapable);
	o->search = NULL;
}
