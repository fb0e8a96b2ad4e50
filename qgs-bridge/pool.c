/*
 * pool: sessions to the relay, made when they are wanted.
 *
 * Theory of operation: a leg is one attempt and the session that follows:
 *
 *   CONNECTING  a carrier: dial, TLS, ALPN h2
 *   UP          a session: streams are opened in it
 *   RETIRING    it takes no new streams (the relay said so, its settings are old, or it was idle);
 *               it ends with those it has
 *
 * A wish is served at once if a leg that is up has room, the one with the fewest streams first. If
 * none has, it waits, and a leg is made: at most one at a time, at most relay.connections of them
 * up or connecting. After a failure the next address is tried, after a wait that grows (backoff.h);
 * wishes wait meanwhile, timeouts.pickup at most.
 *
 * A leg holds a reference of the config and of the TLS context it was made with, so a reload can
 * replace both while it lives on. It is freed by the reaper when its session has ended.
 */
#include "qgs-bridge/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "config/bridge.h"
#include "relay/conduit.h"
#include "relay/log.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/backoff.h"
#include "tunnel/carrier.h"
#include "tunnel/session.h"

#define POOL_DETAIL_MAX 512
#define STREAMS_TOTAL ((1u << 29) - 1) /* then a fresh session takes over */

enum leg_state { CONNECTING, UP, RETIRING };

struct leg {
	struct pool *pool;
	struct leg *next, **prevp;
	enum leg_state state;
	struct bridge_config *config; /* a reference */
	struct carrier_shared shared; /* its tls: a reference */
	struct carrier *carrier;      /* CONNECTING */
	struct session *session;      /* from UP on */
	uint64_t since;
	struct timer idle;
	struct reapable reapable;
	char address[ADDRESS_TEXT_MAX];
};

struct pool {
	struct worker *worker;
	struct bridge_config *config; /* a reference */
	struct tls_context *tls;
	struct leg *legs;
	struct pool_wish *first, **last;
	unsigned waiting;
	unsigned next_address;
	struct backoff backoff;
	struct timer retry;
	struct deferred serve; /* wishes that may have become possible */
	bool ending;
	struct pool_counts counts;
	char via[ADDRESS_TEXT_MAX];
	char detail[POOL_DETAIL_MAX]; /* of the last failure */
};

static void serve(struct pool *p);

/* ---- wishes ---- */

static void forget(struct pool_wish *w)
{
	struct pool *p = w->pool;

	*w->prevp = w->next;
	if (w->next)
		w->next->prevp = w->prevp;
	else
		p->last = w->prevp;
	timer_cancel(p->worker, &w->timer);
	w->pool = NULL;
	p->waiting--;
}

static void fulfil(struct pool_wish *w, struct conduit *c, enum reason why, const char *detail)
{
	forget(w);
	w->done(w, c, why, detail);
}

void pool_cancel(struct pool_wish *w)
{
	if (w->pool)
		forget(w);
}

static void on_late(struct timer *t)
{
	struct pool_wish *w = (struct pool_wish *)((char *)t - offsetof(struct pool_wish, timer));
	char detail[POOL_DETAIL_MAX];

	snprintf(detail, sizeof(detail), "%s",
		 *w->pool->detail ? w->pool->detail : "no connection to the relay in time");
	fulfil(w, NULL, REASON_PICKUP_TIMEOUT, detail);
}

void pool_open(struct pool *p, struct pool_wish *w)
{
	if (p->ending || p->waiting >= POOL_WAITING_MAX) {
		w->done(w, NULL, p->ending ? REASON_SHUTDOWN : REASON_LIMIT, "");
		return;
	}
	w->pool = p;
	w->next = NULL;
	w->prevp = p->last;
	*p->last = w;
	p->last = &w->next;
	p->waiting++;
	timer_set(p->worker, &w->timer, p->config->timeouts.common.pickup, on_late);
	serve(p);
}

/* ---- legs ---- */

static void on_leg_free(struct reapable *r)
{
	struct leg *l = (struct leg *)((char *)r - offsetof(struct leg, reapable));

	tls_context_unref(l->shared.tls[CARRIER_DIRECT]);
	bridge_config_unref(l->config);
	free(l);
}

/* No carrier and no session any more. */
static void leg_over(struct leg *l)
{
	struct pool *p = l->pool;

	*l->prevp = l->next;
	if (l->next)
		l->next->prevp = l->prevp;
	timer_cancel(p->worker, &l->idle);
	worker_reap(p->worker, &l->reapable);
	if (!p->ending && p->waiting)
		worker_defer(p->worker, &p->serve);
}

static void retire(struct leg *l)
{
	if (l->state != UP)
		return;
	l->state = RETIRING;
	timer_cancel(l->pool->worker, &l->idle);
	session_retire(l->session);
}

static void on_idle(struct timer *t)
{
	struct leg *l = (struct leg *)((char *)t - offsetof(struct leg, idle));

	if (session_streams(l->session) == 0)
		retire(l);
	else
		timer_set(l->pool->worker, t, POOL_IDLE_MS, on_idle);
}

/* Said once in a while; each address has its own line. */
static void complain(struct pool *p, const char *address, const char *detail)
{
	snprintf(p->detail, sizeof(p->detail), "relay %s: %s", address, detail);
	log_limited(LOG_LEVEL_WARNING, NULL, 0, "relay %s: %s", address, detail);
}

static uint64_t random_number(void)
{
	uint64_t n = 0;

	RAND_bytes((unsigned char *)&n, sizeof(n)); /* jitter only: 0 will do as well */
	return n;
}

static void on_retry(struct timer *t)
{
	serve((struct pool *)((char *)t - offsetof(struct pool, retry)));
}

/* A leg came to nothing: the next address, a little later. */
static void wait_a_little(struct pool *p)
{
	p->counts.sessions_failed++;
	p->next_address++;
	timer_set(p->worker, &p->retry,
		  backoff_next(&p->backoff, worker_now(p->worker), random_number()), on_retry);
}

static void on_goaway(struct session *s)
{
	retire(session_user(s));
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct leg *l = session_user(s);
	struct pool *p = l->pool;
	uint64_t lived = worker_now(p->worker) - l->since;

	if (l->state == UP && !p->ending) {
		complain(p, l->address, *detail ? detail : reason_explanation(why));
		backoff_lost(&p->backoff, worker_now(p->worker), lived);
		wait_a_little(p);
	}
	log_debug("relay %s: session ended after %" PRIu64 " ms: %s (%s)", l->address, lived,
		  reason_word(why), detail);
	leg_over(l);
}

static const struct session_events session_events = {
	.goaway = on_goaway,
	.exhausted = on_goaway,
	.end = on_end,
};

static void on_connected(void *user)
{
}

static void on_carrier(void *user, struct conduit *c, enum reason why, bool reached,
		       const char *detail)
{
	struct leg *l = user;
	struct pool *p = l->pool;
	const struct bridge_config *config = l->config;
	const struct session_limits limits = {
		.streams = (uint32_t)config->relay.streams,
		.streams_total = STREAMS_TOTAL,
		.stream_window = (uint32_t)config->relay.stream_window,
		.session_window = (uint32_t)config->relay.session_window,
		.ping_ms = config->timeouts.common.ping,
		.dead_ms = config->timeouts.common.dead,
		.peer = SESSION_PEER_RELAY,
	};

	l->carrier = NULL;
	if (c)
		l->session = session_new(c, SESSION_CLIENT, &limits, &session_events, l);
	if (!l->session) {
		complain(p, l->address, c ? "out of memory" : detail);
		wait_a_little(p);
		leg_over(l);
		return;
	}
	l->state = UP;
	l->since = worker_now(p->worker);
	p->counts.sessions_made++;
	snprintf(p->via, sizeof(p->via), "%s", l->address);
	p->detail[0] = '\0';
	timer_set(p->worker, &l->idle, POOL_IDLE_MS, on_idle);
	log_info("relay %s: connected", l->address);
	serve(p);
}

static const struct carrier_events carrier_events = {
	.connected = on_connected,
	.done = on_carrier,
};

static void connect_leg(struct pool *p)
{
	struct leg *l = calloc(1, sizeof(*l));
	const struct leg_config *config = &p->config->relay;
	const struct timeouts_config *times = &p->config->timeouts.common;
	const struct address *address;
	const char *name;

	if (!l)
		return; /* the wishes' timers are set */
	address = &config->addresses.at[p->next_address % config->addresses.n];
	name = config->server_name ? config->server_name : address->name;
	l->pool = p;
	l->config = bridge_config_ref(p->config);
	l->shared = (struct carrier_shared){
		.worker = p->worker,
		.alpn = "h2",
		.dial_ms = times->dial,
		.handshake_ms = times->handshake,
		.dead_ms = times->dead,
	};
	l->shared.tls[CARRIER_DIRECT] = tls_context_ref(p->tls);
	l->reapable.free = on_leg_free;
	address_format(address, l->address, sizeof(l->address));
	l->next = p->legs;
	l->prevp = &p->legs;
	if (l->next)
		l->next->prevp = &l->next;
	p->legs = l;
	l->carrier = carrier_open(&l->shared, CARRIER_DIRECT, address, name, &carrier_events, l);
	if (!l->carrier) {
		wait_a_little(p);
		leg_over(l);
	}
}

/* ---- serving ---- */

struct census {
	unsigned usable; /* UP or CONNECTING */
	bool connecting;
	struct leg *best; /* UP, with room, the fewest streams */
	unsigned fewest;
};

static struct census census(const struct pool *p)
{
	struct census c = { .fewest = UINT32_MAX };

	for (struct leg *l = p->legs; l; l = l->next) {
		unsigned n = l->session ? session_streams(l->session) : 0;

		c.usable += l->state != RETIRING;
		c.connecting |= l->state == CONNECTING;
		if (l->state == UP && n < c.fewest && n < l->config->relay.streams) {
			c.best = l;
			c.fewest = n;
		}
	}
	return c;
}

/* True: the wish was fulfilled, or another leg may be asked. */
static bool serve_one(struct pool *p, struct leg *l)
{
	struct pool_wish *w = p->first;
	enum reason why = REASON_NONE;
	struct conduit *c = session_open(l->session, w->service, w->id, &why);

	if (c) {
		fulfil(w, c, REASON_NONE, "");
		return true;
	}
	if (why == REASON_GOING_AWAY) {
		retire(l);
		return true;
	}
	return false; /* the relay's limit, or memory: until something ends */
}

static void serve(struct pool *p)
{
	struct census c = census(p);
	bool full = false;

	while (p->first && c.best && !full) {
		full = !serve_one(p, c.best);
		c = census(p);
	}
	if (full) /* the relay's limit of streams is told at its own pace */
		timer_set(p->worker, &p->retry, BACKOFF_FIRST_MS, on_retry);
	if (p->ending || c.connecting || c.usable >= p->config->relay.connections)
		return;
	if (p->first && !c.best && timer_is_set(&p->retry))
		return; /* after a failure, not at once */
	if ((p->first && !full) || (c.best && c.fewest >= POOL_SPREAD && !timer_is_set(&p->retry)))
		connect_leg(p);
}

static void on_serve(struct deferred *d)
{
	serve((struct pool *)((char *)d - offsetof(struct pool, serve)));
}

/* ---- life ---- */

static struct tls_context *make_tls(const struct bridge_config *config, char **why)
{
	static const char *const alpn[] = { "h2", NULL };
	const struct leg_config *relay = &config->relay;
	struct tls_context *t = tls_client_context_new(relay->ca_file, alpn, why);

	if (t && relay->certificate &&
	    tls_client_context_identify(t, relay->certificate, relay->key, why) < 0)
		return tls_context_unref(t);
	return t;
}

struct pool *pool_new(struct worker *w, struct bridge_config *config, char **why)
{
	struct pool *p = calloc(1, sizeof(*p));

	*why = NULL;
	if (!p)
		return NULL;
	p->tls = make_tls(config, why);
	if (!p->tls) {
		free(p);
		return NULL;
	}
	p->worker = w;
	p->config = bridge_config_ref(config);
	p->last = &p->first;
	p->serve.run = on_serve;
	return p;
}

int pool_reload(struct pool *p, struct bridge_config *config, char **why)
{
	struct tls_context *tls = make_tls(config, why);

	if (!tls)
		return -EINVAL;
	/* the files behind the same names may have changed, so all legs are replaced */
	for (struct leg *l = p->legs; l; l = l->next)
		retire(l);
	tls_context_unref(p->tls);
	p->tls = tls;
	bridge_config_unref(p->config);
	p->config = bridge_config_ref(config);
	p->next_address = 0;
	backoff_reset(&p->backoff);
	timer_cancel(p->worker, &p->retry);
	serve(p);
	return 0;
}

void pool_end(struct pool *p)
{
	struct leg *l, *next;

	p->ending = true;
	timer_cancel(p->worker, &p->retry);
	while (p->first)
		fulfil(p->first, NULL, REASON_SHUTDOWN, "");
	for (l = p->legs; l; l = next) {
		next = l->next;
		if (l->session) {
			session_close(l->session, REASON_SHUTDOWN, "the node's bridge ends");
		} else {
			carrier_cancel(l->carrier);
			l->carrier = NULL;
			leg_over(l);
		}
	}
}

struct pool *pool_free(struct pool *p)
{
	if (!p)
		return NULL;
	timer_cancel(p->worker, &p->retry);
	worker_undefer(&p->serve);
	tls_context_unref(p->tls);
	bridge_config_unref(p->config);
	free(p);
	return NULL;
}

const char *pool_via(const struct pool *p)
{
	return p->via;
}

struct pool_counts pool_counts(const struct pool *p)
{
	struct pool_counts c = p->counts;

	c.waiting = p->waiting;
	for (const struct leg *l = p->legs; l; l = l->next) {
		c.sessions += l->session != NULL;
		c.streams += l->session ? session_streams(l->session) : 0;
	}
	return c;
}
