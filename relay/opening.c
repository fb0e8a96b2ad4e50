/*
 * opening: finds a target for a routed client and stays with the stream until it ends.
 *
 * Theory of operation: the route's targets are tried in order.
 *
 *   tunnel     the registry names one, by the service's balance, and counts this stream with it
 *              until it is over. If it lives in another worker the whole opening moves
 *              there (the client's conduit is detached, carried by the mailbox and attached: what
 *              the client has sent is still in the kernel; a stream stays with its session, and the
 *              far end of a crossing is carried). One that does not take the stream:
 *              the service's other tunnels, TRIES_MAX at most. None: the next target.
 *   address    dialled; on failure the next target. One that does not answer is tried last.
 *   none left  if a tunnel was asked for and there was none, or only such as take nothing more, the
 *              stream is parked until one comes (opening_wake_all) or the pickup time-out ends;
 *              else the client is refused with the last reason.
 *
 * Fail-over stops at the first byte: once joined, a lost target ends the stream. An eager service
 * is joined when its agent has reached it; a lazy one at once, since the first byte is what makes
 * its agent try: what that says then comes too late for another target. While it waits, the client
 * is watched for its going and nothing is read. Then a splice moves the bytes, and its end is ours:
 * one log line, counters, and the door's own words if nothing had been sent to the client yet. What
 * only the way there needed (struct search) is given back when joined.
 *
 * Limits: parked streams by limits.parked; all of them by limits.connections, in which a stream
 * behind a crossing counts until both of its ends are gone: its bytes may wait for its client.
 *
 * Longer than other files: every state leads to every other, through one struct nobody else sees.
 */
#include "relay/opening.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/balance.h"
#include "relay/crossing.h"
#include "relay/dial.h"
#include "relay/health.h"
#include "relay/linger.h"
#include "relay/listener.h"
#include "relay/log.h"
#include "relay/refusal.h"
#include "relay/registry.h"

#define TRIES_MAX 8 /* tunnels of one service asked in one round */
#define RETRY_MS 100 /* until the next round, if tunnels are there but none takes the stream */

static const char established[] = "HTTP/1.1 200 Connection established\r\n\r\n";

/* What only an opening on its way needs. */
struct search {
	struct opening *opening;
	struct dial *dial;
	uint64_t dialled_at; /* worker_now */
	struct conduit *target; /* between its opening and the far end's answer */
	struct timer timer;
	struct reapable reapable;
	uint64_t tried;	 /* bits: the targets that were asked in this round; there are few */
	uint64_t identity; /* of the client, if the service's balance asks for it */
	bool parked;	 /* waits for a tunnel to come */
	bool absent;	 /* a tunnel target had no tunnel: worth waiting for one */
	uint8_t tries;	 /* how many tunnels were asked in this round: those did not take it */
	uint64_t asked[TRIES_MAX];
	enum reason why; /* of the last target that failed */
	char *detail;	 /* the same in words; NULL: none */
	uint8_t *header; /* for targets that are addresses, before all else; NULL: none is sent */
	size_t header_len;
	char *upgrade; /* see opening_new */
	char asked_for[]; /* the name, as the client said it; "": none */
};

/* One per stream for as long as it lives: kept small. */
struct opening {
	struct worker *worker;
	const struct listener *listener;
	const struct service_config *config;
	struct conduit *client; /* until joined */
	struct splice *splice;	/* when joined */
	struct search *search;	/* until joined */
	/* For the log: the target in use. via: the tunnel, if it is none that is dialled. */
	const struct address *dialled;
	char *via;
	struct registry_load *load; /* of the tunnel it is in, or on its way to; or NULL */
	char *proxy;	    /* the same of a proxy that has said who the client is; NULL: none */
	uint64_t id, began; /* began: worker_now */
	struct opening *link, **prevp;
	struct reapable reapable;
	struct peer peer;
	enum door door;
	bool answered; /* the door has said yes */
	bool lingers;  /* the client's connection ends after us, and counts until then */
	bool in_tunnel; /* joined to a stream, which takes no descriptor */
	bool in_session; /* the client is a stream */
	bool crossed;	 /* ... and the crossing it is behind counts until it is over */
	char service[]; /* its name */
};

static void try_targets(struct opening *o);
static bool try_tunnel(struct opening *o);
static void on_client_gone(struct conduit *c, unsigned events);

/* ---- the record: list, words, log ---- */

static struct gateway *gateway_of(const struct opening *o)
{
	return o->listener->gateway;
}

static struct opening *of_timer(struct timer *t)
{
	return ((struct search *)((char *)t - offsetof(struct search, timer)))->opening;
}

static void enlist(struct opening *o, struct opening **list)
{
	o->link = *list;
	o->prevp = list;
	if (o->link)
		o->link->prevp = &o->link;
	*list = o;
}

static void delist(struct opening *o)
{
	*o->prevp = o->link;
	if (o->link)
		o->link->prevp = o->prevp;
}

/* While it waits: that it has gone is noticed, nothing is read. */
static void watch_client(struct opening *o)
{
	o->client->ready = on_client_gone;
	o->client->user = o;
	conduit_want(o->client, READY_ABORT | READY_GONE);
}

static void set_text(char **to, const char *text)
{
	free(*to);
	*to = strdup(text); /* NULL: a log line says less */
}

static const char *text_of(const char *text)
{
	return text ? text : "";
}

/* The target in use, for people. */
static const char *via_of(const struct opening *o, char text[ADDRESS_TEXT_MAX])
{
	return o->dialled ? address_format(o->dialled, text, ADDRESS_TEXT_MAX) : text_of(o->via);
}

static void gauge(const struct opening *o, enum counter which, int change)
{
	counter_add(&o->worker->counters.value[which], (uint64_t)(int64_t)change);
}

static const char *door_word(enum door door)
{
	return door == DOOR_SNI	      ? "sni" :
	       door == DOOR_CONNECT   ? "connect" :
	       door == DOOR_WEBSOCKET ? "websocket" :
					"static";
}

static void log_end(const struct opening *o, enum reason why, uint64_t up, uint64_t down)
{
	char from[PEER_TEXT_MAX], to[ADDRESS_TEXT_MAX];
	const char *via = via_of(o, to);
	uint64_t ms = worker_now(o->worker) - o->began;
	const struct log_field fields[] = {
		{ "stream", NULL, o->id },
		{ "client", peer_format(&o->peer, from, sizeof(from)), 0 },
		{ "listener", o->listener->config->name, 0 },
		{ "door", door_word(o->door), 0 },
		{ "service", o->service, 0 },
		{ "via", via, 0 },
		{ "bytes_up", NULL, up },
		{ "bytes_down", NULL, down },
		{ "duration_ms", NULL, ms },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", o->proxy, 0 }, /* the last: left out if there was none */
	};
	const unsigned n = sizeof(fields) / sizeof(fields[0]) - !o->proxy;
	const char *by = o->proxy ? " by " : "", *proxy = text_of(o->proxy);
	enum log_level level = why == REASON_EOF ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING;

	if (!o->splice) {
		counter_add(&o->worker->counters.refused[why], 1);
		log_limited(level, fields, n,
			    "#%" PRIu64 " %s%s%s -> %s (%s, %s): refused after %" PRIu64
			    ".%03u s: %s%s%s",
			    o->id, from, by, proxy, o->service, o->listener->config->name,
			    door_word(o->door), ms / 1000, (unsigned)(ms % 1000), reason_word(why),
			    o->search->detail ? ": " : "", text_of(o->search->detail));
		return;
	}
	log_fields(LOG_LEVEL_INFO, fields, n,
		   "#%" PRIu64 " %s%s%s -> %s via %s (%s, %s): %" PRIu64 " up, %" PRIu64
		   " down, %" PRIu64 ".%03u s, %s",
		   o->id, from, by, proxy, o->service, via, o->listener->config->name,
		   door_word(o->door), up, down, ms / 1000, (unsigned)(ms % 1000),
		   reason_word(why));
}

void opening_log_refused(struct worker *w, const char *listener, const struct client *who,
			 const char *wanted, enum reason why, const char *detail)
{
	char from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX], both[CLIENT_TEXT_MAX];
	const struct log_field fields[] = {
		{ "client", peer_format(&who->peer, from, sizeof(from)), 0 },
		{ "listener", listener, 0 },
		{ "service", wanted, 0 },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", client_proxy(who, proxy, sizeof(proxy)), 0 }, /* the last, too */
	};

	counter_add(&w->counters.refused[why], 1);
	log_limited(LOG_LEVEL_WARNING, fields, sizeof(fields) / sizeof(fields[0]) - !*proxy,
		    "%s -> %s (%s): refused: %s%s%s", client_format(who, both, sizeof(both)),
		    *wanted ? wanted : "?", listener, reason_word(why), *detail ? ": " : "",
		    detail);
}

/* ---- the end ---- */

static void on_free(struct reapable *r)
{
	struct opening *o = (struct opening *)((char *)r - offsetof(struct opening, reapable));

	free(o->via);
	free(o->proxy);
	free(o);
}

static void on_search_free(struct reapable *r)
{
	struct search *f = (struct search *)((char *)r - offsetof(struct search, reapable));

	free(f->detail);
	free(f->header);
	free(f->upgrade);
	free(f);
}

/* Found, or given up. */
static void end_search(struct opening *o)
{
	struct search *f = o->search;

	if (!f)
		return;
	timer_cancel(o->worker, &f->timer);
	dial_cancel(f->dial);
	conduit_close(f->target, REASON_RESET);
	worker_reap(o->worker, &f->reapable);
	o->search = NULL;
}

static void unpark(struct opening *o)
{
	if (!o->search || !o->search->parked)
		return;
	o->search->parked = false;
	delist(o);
	enlist(o, &gateway_worker(o->worker)->openings);
	timer_cancel(o->worker, &o->search->timer);
	atomic_fetch_sub(&gateway_of(o)->parked, 1);
	gauge(o, COUNTER_LIVE_PARKED, -1);
}

/* Tells that the client's connection is gone for good. NULL: somebody else tells it. */
static void (*counter_of(const struct opening *o))(void *gateway)
{
	if (o->crossed)
		return NULL;
	return o->in_session ? gateway_on_stream_over : gateway_on_connection_over;
}

static void release(struct opening *o)
{
	void (*over)(void *gateway) = counter_of(o);

	unpark(o);
	end_search(o);
	registry_unload(o->load);
	if (!o->splice)
		gauge(o, COUNTER_LIVE_OPENINGS, -1);
	delist(o);
	if (over && !o->lingers)
		over(gateway_of(o));
	worker_reap(o->worker, &o->reapable);
}

/* The client gets no target. */
static void refuse(struct opening *o, enum reason why)
{
	void (*over)(void *gateway) = counter_of(o);
	struct gateway *g = gateway_of(o);
	struct conduit *client = o->client;
	char about[256];

	log_end(o, why, 0, 0);
	o->client = NULL; /* consumed */
	o->lingers = client && why != REASON_RESET && !o->answered;
	release(o);
	snprintf(about, sizeof(about), "%s: %s", o->service, reason_explanation(why));
	if (o->lingers)
		refusal_send(client, o->door, why, about, over, g);
	else
		conduit_close(client, why);
}

void opening_on_splice_end(struct splice *s, enum reason why)
{
	struct opening *o = s->user;

	if (o->in_tunnel)
		gateway_target_restored(gateway_of(o));
	if (why != REASON_EOF && why != REASON_RESET && why != REASON_CLOSED_EARLY &&
	    s->half[TGT].bytes == 0 && o->door == DOOR_SNI) {
		/* the client waits for a ServerHello: an alert says more than a reset */
		refusal_send(s->side[INI], DOOR_SNI, why, "", gateway_on_connection_over,
			     gateway_of(o));
		s->side[INI] = NULL; /* consumed */
		o->lingers = true;
	}
	log_end(o, why, s->half[INI].bytes, s->half[TGT].bytes);
	release(o);
}

/* ---- joined ---- */

/* The door's yes: REASON_NONE, or why the client, if there still is one, did not get it. */
static enum reason establish(struct opening *o)
{
	const char *yes = o->door == DOOR_CONNECT ? established : text_of(o->search->upgrade);
	size_t len = strlen(yes);

	if (o->client->ops->answer) {
		o->client->ops->answer(o->client, REASON_NONE);
		return REASON_NONE;
	}
	if (len && conduit_write(o->client, yes, len) != (ssize_t)len)
		return REASON_RESET;
	o->answered = true;
	if (o->door == DOOR_WEBSOCKET)
		o->client = gateway_of(o)->websocket.open(o->client);
	return o->client ? REASON_NONE : REASON_NO_MEMORY;
}

static void join(struct opening *o, struct conduit *target)
{
	bool in_tunnel = !target->ops->fd;
	enum reason why = establish(o);
	struct conduit *client = o->client;

	if (why != REASON_NONE) {
		o->search->target = target;
		refuse(o, why);
		return;
	}
	o->answered = true;
	o->client = o->search->target = NULL; /* consumed */
	gauge(o, COUNTER_LIVE_OPENINGS, -1);
	o->splice = splice_new(o->worker, client, target,
			       gateway_splice_spec(gateway_of(o), o->config), o);
	if (o->splice) {
		o->in_tunnel = in_tunnel;
		if (in_tunnel)
			gateway_target_unneeded(gateway_of(o));
		end_search(o);
	} else {
		gauge(o, COUNTER_LIVE_OPENINGS, 1);
		refuse(o, REASON_NO_MEMORY);
	}
}

/* ---- a tunnel ---- */

static void target_failed(struct opening *o, enum reason why, const char *detail)
{
	o->search->why = why;
	set_text(&o->search->detail, detail);
	try_targets(o);
}

/* This tunnel did not take the stream: another of the service may, then the next target. */
static void tunnel_failed(struct opening *o, enum reason why)
{
	struct search *f = o->search;

	f->absent |= why == REASON_GOING_AWAY || why == REASON_TUNNEL_LOST;
	timer_cancel(o->worker, &f->timer);
	registry_unload(o->load);
	o->load = NULL;
	if (!try_tunnel(o))
		target_failed(o, why, text_of(o->via));
}

/* A stream that must be confirmed first: its agent answered, or gave up. */
static void on_answer(struct conduit *c, unsigned events)
{
	struct opening *o = c->user;
	enum reason why;

	if (events & READY_OPEN) {
		join(o, c);
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
	char id[24], from[PEER_TEXT_MAX], via[sizeof(stream.label) + 8];
	const struct client_words words = {
		.id = id,
		.address = client_address(&o->peer, from, sizeof(from)),
		.asked = f->asked_for,
	};

	snprintf(id, sizeof(id), "%" PRIu64, o->id);
	f->asked[f->tries++] = offer->tunnel;
	if (!gateway_of(o)->tunnel.open(o->worker, offer->tunnel, o->service, &words, &stream,
				       &why)) {
		tunnel_failed(o, why);
		return;
	}
	snprintf(via, sizeof(via), "tunnel %s", stream.label);
	set_text(&o->via, via);
	o->dialled = NULL;
	if (!offer->eager) {
		join(o, stream.conduit);
		return;
	}
	/* no byte is passed on before the agent's yes, so that others may be asked after its no */
	watch_client(o);
	f->target = stream.conduit;
	f->target->ready = on_answer;
	f->target->user = o;
	conduit_want(f->target, READY_OPEN | READY_ABORT);
	timer_set(o->worker, &f->timer, gateway_of(o)->config->timeouts.dial, on_answer_late);
}

/* The client is in this worker again; false: it could not be, and the opening is over. */
static bool settle_in(struct opening *o)
{
	if (conduit_attach(o->client, o->worker) == 0)
		return true;
	conduit_close(o->client, REASON_NO_MEMORY); /* it could not say more */
	o->client = NULL;
	refuse(o, REASON_NO_MEMORY);
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
	far = crossing_new(o->client, gateway_on_stream_over, gateway_of(o)); /* born detached */
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

	free(m);
	o->worker = w;
	enlist(o, &gateway_worker(o->worker)->openings);
	gauge(o, COUNTER_LIVE_OPENINGS, 1);
	atomic_fetch_sub(&gateway_of(o)->moving, 1);
	if (!settle_in(o))
		return;
	if (gateway_worker(w)->end_at)
		refuse(o, REASON_SHUTDOWN);
	else
		open_stream(o, &offer);
}

static void move_to(struct opening *o, const struct offer *offer)
{
	struct move *m = malloc(sizeof(*m));

	if (!m || atomic_load(&gateway_of(o)->ending) || !unsettle(o)) {
		free(m);
		refuse(o, atomic_load(&gateway_of(o)->ending) ? REASON_SHUTDOWN : REASON_NO_MEMORY);
		return;
	}
	*m = (struct move){ o, *offer };
	atomic_fetch_add(&gateway_of(o)->moving, 1);
	delist(o);
	gauge(o, COUNTER_LIVE_OPENINGS, -1);
	if (worker_post(offer->worker, on_arrival, m) == 0)
		return;
	free(m);
	atomic_fetch_sub(&gateway_of(o)->moving, 1);
	enlist(o, &gateway_worker(o->worker)->openings);
	gauge(o, COUNTER_LIVE_OPENINGS, 1);
	if (settle_in(o))
		refuse(o, REASON_NO_MEMORY);
}

/* A tunnel to try: none that has failed in this round. */
static struct wanted wanted(const struct opening *o)
{
	const struct search *f = o->search;

	return (struct wanted){ .service = o->service,
				.balance = o->config ? o->config->balance : BALANCE_PRIMARY,
				.client = f->identity,
				.asked = f->asked,
				.n = f->tries };
}

/* True: the tunnel has the opening now. */
static bool try_tunnel(struct opening *o)
{
	const struct wanted w = wanted(o);
	struct offer offer;

	if (w.n >= TRIES_MAX)
		return false;
	if (!registry_pick(gateway_of(o)->registry, &w, &offer)) {
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
	health_tried(gateway_of(o)->health, o->config, (size_t)(o->dialled - o->config->targets.at),
		     good, detail, worker_now(o->worker));
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
		join(o, c);
	else
		target_failed(o, why, detail);
}

static void try_address(struct opening *o, const struct address *address)
{
	struct search *f = o->search;
	char text[ADDRESS_TEXT_MAX];

	o->dialled = address;
	f->dialled_at = worker_now(o->worker);
	watch_client(o);
	f->dial = dial_start(o->worker, address, gateway_of(o)->config->timeouts.dial, on_dialled,
			     o);
	if (!f->dial)
		target_failed(o, REASON_NO_MEMORY, via_of(o, text));
}

/* ---- waiting ---- */

static void on_client_gone(struct conduit *c, unsigned events)
{
	struct opening *o = c->user;
	const struct search *f = o->search;

	if (f->dial && worker_now(o->worker) - f->dialled_at >= HEALTH_PATIENCE_MS)
		tell_health(o, false, "no answer before its client left");
	refuse(o, REASON_RESET);
}

static void on_pickup_timeout(struct timer *t)
{
	struct opening *o = of_timer(t);

	refuse(o, REASON_PICKUP_TIMEOUT);
}

static void on_retry(struct timer *t)
{
	struct opening *o = of_timer(t);

	unpark(o);
	try_targets(o);
}

static void park(struct opening *o)
{
	struct gateway *g = gateway_of(o);
	struct search *f = o->search;
	uint64_t waited = worker_now(o->worker) - o->began, left;
	bool asked = f->tries > 0;
	struct wanted w;

	if (waited >= g->config->timeouts.pickup) {
		refuse(o, REASON_PICKUP_TIMEOUT);
		return;
	}
	if (atomic_fetch_add(&g->parked, 1) >= g->config->limits.parked) {
		atomic_fetch_sub(&g->parked, 1);
		refuse(o, REASON_LIMIT);
		return;
	}
	f->parked = true;
	delist(o);
	enlist(o, &gateway_worker(o->worker)->parked);
	f->absent = false;
	f->tries = 0;
	f->tried = 0;
	gauge(o, COUNTER_LIVE_PARKED, 1);
	watch_client(o);
	left = g->config->timeouts.pickup - waited;
	timer_set(o->worker, &f->timer, left, on_pickup_timeout);
	/* one may have come while this opening was on its way here: its call was not for us yet */
	w = wanted(o);
	if (!registry_has(g->registry, &w))
		return;
	if (asked) /* they are there and take nothing: not again at once */
		timer_set(o->worker, &f->timer, left < RETRY_MS ? left : RETRY_MS, on_retry);
	else
		on_retry(&f->timer);
}

/* In order, those that seem to be down last. NULL: none is left. */
static const struct address *next_target(struct opening *o)
{
	const struct route route = { .config = o->config };
	const struct addresses *targets = router_targets(&route);
	struct search *f = o->search;
	size_t next = targets->n;

	for (size_t i = 0; i < targets->n; i++) {
		if (f->tried >> i & 1)
			continue;
		if (next == targets->n)
			next = i;
		if (targets->at[i].kind == ADDRESS_TUNNEL ||
		    health_admits(gateway_of(o)->health, o->config, i, worker_now(o->worker))) {
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
		refuse(o, f->why);
}

static void wake(struct worker *w, void *arg)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct opening *o, *next;
	char *service = arg;

	for (o = gw->parked; o; o = next) {
		next = o->link;
		if (strcmp(o->service, service) != 0)
			continue;
		unpark(o);
		try_targets(o);
	}
	free(service);
}

void opening_wake_all(struct gateway *g, const char *service)
{
	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct counters *count = &g->workers[i]->counters;
		char *copy;

		/* who parks raises this before it looks for a tunnel for the last time */
		if (counter_get(&count->value[COUNTER_LIVE_PARKED]) == 0)
			continue;
		copy = strdup(service);
		if (!copy || worker_post(g->workers[i], wake, copy) < 0)
			free(copy); /* whoever is parked there waits for the time-out */
	}
}

/* False: out of memory. */
static bool know_client(struct opening *o, const struct client *who, const struct route *route)
{
	int version = route->config ? route->config->proxy_protocol : PROXY_SENT_NONE;
	uint8_t header[PROXYPROTO_SENT_MAX];
	char text[CLIENT_TEXT_MAX];

	o->peer = who->peer;
	if (route->config && route->config->balance == BALANCE_STICKY)
		o->search->identity = balance_client(who);
	if (who->proxy.family)
		set_text(&o->proxy, client_proxy(who, text, sizeof(text)));
	if (!version)
		return true;
	snprintf(text, sizeof(text), "%" PRIu64, o->id);
	o->search->header_len = client_header(who, (unsigned)version, route->asked, text, header);
	o->search->header = malloc(o->search->header_len);
	if (o->search->header)
		memcpy(o->search->header, header, o->search->header_len);
	return o->search->header;
}

void opening_new(struct listener *l, struct worker *w, struct conduit *client, enum door door,
		 const char *upgrade, const struct client *who, const struct route *route)
{
	size_t name = strlen(route->service) + 1;
	struct opening *o = calloc(1, sizeof(*o) + name);
	size_t asked = route->asked ? strlen(route->asked) + 1 : 1;
	struct search *f = calloc(1, sizeof(*f) + asked);

	if (!o || !f) {
		free(o);
		free(f);
		opening_log_refused(w, l->config->name, who, route->service, REASON_NO_MEMORY, "");
		if (client->ops->answer)
			gateway_stream_over(l->gateway);
		else
			gateway_connection_over(l->gateway);
		conduit_close(client, REASON_NO_MEMORY);
		return;
	}
	o->worker = w;
	o->listener = l;
	o->door = door;
	o->id = gateway_next_id(l->gateway);
	o->began = worker_now(w);
	o->config = route->config;
	o->client = client;
	o->in_session = client->ops->answer;
	o->reapable.free = on_free;
	o->search = f;
	f->opening = o;
	f->reapable.free = on_search_free;
	memcpy(o->service, route->service, name);
	if (route->asked)
		memcpy(f->asked_for, route->asked, asked);
	enlist(o, &gateway_worker(o->worker)->openings);
	gauge(o, COUNTER_LIVE_OPENINGS, 1);
	if (upgrade)
		set_text(&f->upgrade, upgrade);
	if (know_client(o, who, route) && (f->upgrade || !upgrade))
		try_targets(o);
	else
		refuse(o, REASON_NO_MEMORY);
}

void opening_end_all(struct gateway_worker *gw, enum reason why)
{
	while (gw->parked)
		refuse(gw->parked, why);
	while (gw->openings) {
		if (gw->openings->splice)
			splice_end(gw->openings->splice, why);
		else
			refuse(gw->openings, why);
	}
}
