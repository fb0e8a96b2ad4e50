/*
 * pool: sessions to the relay, made when they are wanted.
 *
 * Theory of operation: a leg is one attempt and the session that follows:
 *
 *   CONNECTING  a carrier: dial, TLS, ALPN h2
 *   GREETING    a session, until the relay's SETTINGS say that it has let us in (with TLS 1.3 our
 *               certificate may be refused only now) and how many streams it takes
 *   UP          streams are opened in it
 *   RETIRING    it takes no new streams (the relay said so, its settings are old, or it was idle);
 *               it ends with those it has
 *
 * A wish is served at once if a leg that is up has room, the one with the fewest streams first. If
 * none has, it waits, and a leg is made: at most one at a time, at most config.connections of
 * them that are not retiring. After a failure the next address is tried, after a wait that grows
 * (backoff.h) but leaves a wish several tries; wishes wait meanwhile, pickup_ms at most. A leg that
 * is not up after a part of that time is slow: beside it the next address is tried, since a relay
 * that is stuck takes connections and then nothing. At most one slow leg for each other address.
 * Nobody tells when a full leg has room again: while somebody waits it is looked for.
 *
 * A leg has the config it was made with, whose owner it holds, and a reference of its TLS context,
 * so a reload can replace both while it lives on. It is freed by the reaper when its session has
 * ended.
 *
 * Longer than other files: what legs and wishes wait for is each other.
 */
#include "tunnel/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "config/config.h"
#include "relay/conduit.h"
#include "relay/log.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/backoff.h"
#include "tunnel/carrier.h"
#include "tunnel/session.h"

#define POOL_DETAIL_MAX 512
#define STREAMS_TOTAL ((1u << 29) - 1) /* then a fresh session takes over */
#define POOL_TRIES 4                   /* at least, within pickup_ms */
#define POOL_LOOK_MS 50                /* between looks whether a full leg has room again */

enum leg_state { CONNECTING, GREETING, UP, RETIRING };

struct leg {
	struct pool *pool;
	struct leg *next, **prevp;
	enum leg_state state;
	struct pool_config config;    /* holds its owner */
	struct carrier_shared shared; /* its tls: a reference */
	struct carrier *carrier;      /* CONNECTING */
	struct session *session;      /* from GREETING on */
	unsigned turn;                /* the pool's, when it was made */
	bool full;                    /* the relay takes no more streams, when last asked */
	bool slow;                    /* not UP yet: it keeps no other from being made */
	uint64_t since;               /* in this state; RETIRING: UP since, 0: never */
	uint64_t opened;              /* streams ever, when it was last looked whether it is idle */
	struct timer timer;           /* GREETING: until it has to be UP; UP: idle */
	struct timer patience;        /* until it is slow */
	struct reapable reapable;
	char address[ADDRESS_TEXT_MAX];
};

struct pool {
	struct worker *worker;
	struct pool_config config; /* holds its owner */
	struct tls_context *tls;
	struct leg *legs;
	struct pool_wish *first, **last;
	unsigned waiting;
	unsigned turn; /* which address is next: counts failures */
	struct backoff backoff;
	struct timer retry; /* set: none is made until then */
	struct timer look;
	struct deferred serve; /* wishes that may have become possible */
	bool ending;
	struct pool_counts counts;
	char via[ADDRESS_TEXT_MAX];
	char detail[POOL_DETAIL_MAX]; /* of the last failure */
};

static void serve(struct pool *p);

static struct pool_config hold(const struct pool_config *config)
{
	if (config->hold)
		config->hold(config->owner);
	return *config;
}

static void release(struct pool_config *config)
{
	if (config->release)
		config->release(config->owner);
	*config = (struct pool_config){ 0 };
}

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

static bool is_any_up(const struct pool *p)
{
	for (const struct leg *l = p->legs; l; l = l->next)
		if (l->state == UP)
			return true;
	return false;
}

static void on_late(struct timer *t)
{
	struct pool_wish *w = (struct pool_wish *)((char *)t - offsetof(struct pool_wish, timer));
	char detail[POOL_DETAIL_MAX];

	if (is_any_up(w->pool))
		snprintf(detail, sizeof(detail),
			 "all sessions with the relay are full (%s, or the relay's own limit)",
			 w->pool->config.limits);
	else
		snprintf(detail, sizeof(detail), "%s",
			 *w->pool->detail ? w->pool->detail : "no connection to the relay in time");
	fulfil(w, NULL, REASON_PICKUP_TIMEOUT, detail);
}

void pool_open(struct pool *p, struct pool_wish *w)
{
	if (p->ending || p->waiting >= POOL_WAITING_MAX) {
		w->done(w, NULL, p->ending ? REASON_SHUTDOWN : REASON_LIMIT,
			p->ending ? "" : "too many streams wait for a session with the relay");
		return;
	}
	w->pool = p;
	w->next = NULL;
	w->prevp = p->last;
	*p->last = w;
	p->last = &w->next;
	p->waiting++;
	timer_set(p->worker, &w->timer, p->config.pickup_ms, on_late);
	serve(p);
}

/* ---- legs ---- */

static void on_leg_free(struct reapable *r)
{
	struct leg *l = (struct leg *)((char *)r - offsetof(struct leg, reapable));

	tls_context_unref(l->shared.tls[CARRIER_DIRECT]);
	release(&l->config);
	free(l);
}

/* No carrier and no session any more. */
static void leg_over(struct leg *l)
{
	struct pool *p = l->pool;

	*l->prevp = l->next;
	if (l->next)
		l->next->prevp = l->prevp;
	timer_cancel(p->worker, &l->timer);
	timer_cancel(p->worker, &l->patience);
	worker_reap(p->worker, &l->reapable);
	if (!p->ending)
		worker_defer(p->worker, &p->serve);
}

static void retire(struct leg *l)
{
	struct pool *p = l->pool;

	if (l->state == RETIRING)
		return;
	if (l->state == CONNECTING) {
		carrier_cancel(l->carrier);
		l->carrier = NULL;
		leg_over(l);
		return;
	}
	if (l->state == GREETING)
		l->since = 0;
	l->state = RETIRING;
	timer_cancel(p->worker, &l->timer);
	timer_cancel(p->worker, &l->patience);
	session_retire(l->session);
	worker_defer(p->worker, &p->serve);
}

static void on_idle(struct timer *t)
{
	struct leg *l = (struct leg *)((char *)t - offsetof(struct leg, timer));
	uint64_t opened = session_opened(l->session);

	if (session_streams(l->session) == 0 && opened == l->opened) {
		retire(l);
		return;
	}
	l->opened = opened;
	timer_set(l->pool->worker, t, POOL_IDLE_MS, on_idle);
}

/* Said once in a while. What dialling says names the address by itself. */
static void complain(struct pool *p, const char *address, const char *detail)
{
	bool named = strstr(detail, address);

	snprintf(p->detail, sizeof(p->detail), "relay %.*s%s%.400s", named ? 0 : 100, address,
		 named ? "" : ": ", detail);
	log_limited(LOG_LEVEL_WARNING, NULL, 0, "%s", p->detail);
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

/* Nothing can be had of this leg any more: the next address, a little later. */
static void wait_a_little(struct pool *p, const struct leg *l)
{
	uint64_t most = p->config.pickup_ms / POOL_TRIES, ms;

	if (l->turn == p->turn) /* not for each of those that were lost together */
		p->turn++;
	if (timer_is_set(&p->retry))
		return;
	ms = backoff_next(&p->backoff, worker_now(p->worker), random_number());
	timer_set(p->worker, &p->retry, ms < most ? ms : most, on_retry);
}

static void failed(struct leg *l, const char *detail)
{
	l->pool->counts.sessions_failed++;
	complain(l->pool, l->address, detail);
	wait_a_little(l->pool, l);
}

static void on_impatience(struct timer *t)
{
	struct leg *l = (struct leg *)((char *)t - offsetof(struct leg, patience));
	struct pool *p = l->pool;
	size_t slow = 0;

	for (const struct leg *other = p->legs; other; other = other->next)
		slow += other->slow;
	if (slow + 1 >= l->config.addresses->n)
		return;
	l->slow = true;
	log_debug("relay %s: slow to answer: trying the next one beside it", l->address);
	if (l->turn == p->turn)
		p->turn++;
	serve(p);
}

/* ---- their sessions ---- */

static void on_settled(struct session *s)
{
	struct leg *l = session_user(s);
	struct pool *p = l->pool;

	if (l->state != GREETING)
		return;
	l->state = UP;
	l->slow = false;
	timer_cancel(p->worker, &l->patience);
	l->since = worker_now(p->worker);
	p->counts.sessions_made++;
	p->detail[0] = '\0';
	timer_set(p->worker, &l->timer, POOL_IDLE_MS, on_idle);
	log_info("relay %s: connected", l->address);
	worker_defer(p->worker, &p->serve);
}

static void on_goaway(struct session *s)
{
	struct leg *l = session_user(s);

	if (l->state != RETIRING) /* it is going down, or has no use for us: no storm */
		wait_a_little(l->pool, l);
	retire(l);
}

static void on_exhausted(struct session *s)
{
	retire(session_user(s));
}

static void on_late_greeting(struct timer *t)
{
	struct leg *l = (struct leg *)((char *)t - offsetof(struct leg, timer));

	l->state = RETIRING; /* its end may take another second */
	timer_cancel(l->pool->worker, &l->patience);
	l->since = 0;
	failed(l, "TLS works, but what answers did not begin with HTTP/2 in time");
	session_close(l->session, REASON_HANDSHAKE_TIMEOUT, "no HTTP/2 in time");
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct leg *l = session_user(s);
	struct pool *p = l->pool;
	uint64_t now = worker_now(p->worker);

	log_debug("relay %s: session ended: %s (%s)", l->address, reason_word(why), detail);
	if (l->state != GREETING && l->since)
		backoff_lost(&p->backoff, now, now - l->since);
	if (l->state != RETIRING && !p->ending)
		failed(l, *detail ? detail : reason_explanation(why));
	leg_over(l);
}

static const struct session_events session_events = {
	.settled = on_settled,
	.goaway = on_goaway,
	.exhausted = on_exhausted,
	.end = on_end,
};

static void on_connected(void *user)
{
	struct leg *l = user;

	l->since = worker_now(l->pool->worker);
}

static void on_carrier(void *user, struct conduit *c, enum reason why, bool reached,
		       const char *detail)
{
	struct leg *l = user;
	const struct pool_config *config = &l->config;
	const struct session_limits limits = {
		.streams = (uint32_t)config->streams,
		.streams_total = STREAMS_TOTAL,
		.stream_window = (uint32_t)config->stream_window,
		.session_window = (uint32_t)config->session_window,
		.ping_ms = config->ping_ms,
		.dead_ms = config->dead_ms,
		.peer = SESSION_PEER_RELAY,
	};
	uint64_t most = config->handshake_ms, took;

	l->carrier = NULL;
	if (c)
		l->session = session_new(c, SESSION_CLIENT, &limits, &session_events, l);
	if (!l->session) {
		failed(l, c ? "out of memory" : detail);
		leg_over(l);
		return;
	}
	l->state = GREETING;
	took = worker_now(l->pool->worker) - l->since;
	timer_set(l->pool->worker, &l->timer, took < most ? most - took : 0, on_late_greeting);
}

static const struct carrier_events carrier_events = {
	.connected = on_connected,
	.done = on_carrier,
};

static struct leg *leg_new(struct pool *p, const struct address *address)
{
	struct leg *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->pool = p;
	l->turn = p->turn;
	l->config = hold(&p->config);
	l->shared = (struct carrier_shared){
		.worker = p->worker,
		.alpn = "h2",
		.egress = l->config.egress,
		.dial_ms = l->config.dial_ms,
		.handshake_ms = l->config.handshake_ms,
		.dead_ms = l->config.dead_ms,
	};
	l->shared.tls[CARRIER_DIRECT] = tls_context_ref(p->tls);
	l->reapable.free = on_leg_free;
	address_format(address, l->address, sizeof(l->address));
	l->next = p->legs;
	l->prevp = &p->legs;
	if (l->next)
		l->next->prevp = &l->next;
	p->legs = l;
	return l;
}

static void connect_leg(struct pool *p)
{
	const struct pool_config *config = &p->config;
	const struct address *address = &config->addresses->at[p->turn % config->addresses->n];
	const char *name = config->server_name ? config->server_name : address->name;
	struct leg *l = leg_new(p, address);

	if (!l) {
		timer_set(p->worker, &p->retry, BACKOFF_FIRST_MS, on_retry);
		return;
	}
	l->carrier = carrier_open(&l->shared, CARRIER_DIRECT, address, name, &carrier_events, l);
	if (!l->carrier) {
		failed(l, "out of memory");
		leg_over(l);
		return;
	}
	if (config->addresses->n > 1)
		timer_set(p->worker, &l->patience, config->pickup_ms / POOL_TRIES, on_impatience);
}

/* ---- serving ---- */

struct census {
	unsigned usable, up; /* not RETIRING, nor slow; of them UP */
	struct leg *best;    /* UP, with room, the fewest streams */
	unsigned fewest;     /* streams in any that is UP */
};

static struct census census(const struct pool *p)
{
	struct census c = { .fewest = UINT32_MAX };
	unsigned least = UINT32_MAX;

	for (struct leg *l = p->legs; l; l = l->next) {
		unsigned n = l->session ? session_streams(l->session) : 0;

		c.usable += l->state != RETIRING && !l->slow;
		if (l->state != UP)
			continue;
		c.up++;
		if (n < c.fewest)
			c.fewest = n;
		if (n < least && !l->full && n < l->config.streams) {
			c.best = l;
			least = n;
		}
	}
	return c;
}

/* Either the wish is fulfilled, or the leg is asked no more. */
static void serve_one(struct pool *p, struct leg *l)
{
	struct pool_wish *w = p->first;
	enum reason why = REASON_NONE;
	const struct client_words words = { .id = w->id };
	struct conduit *c = session_open(l->session, w->service, &words, &why);

	if (c) {
		snprintf(p->via, sizeof(p->via), "%s", l->address);
		fulfil(w, c, REASON_NONE, "");
	} else if (why == REASON_GOING_AWAY) {
		retire(l);
	} else {
		l->full = true; /* the relay's limit, or memory */
	}
}

static void on_look(struct timer *t)
{
	struct pool *p = (struct pool *)((char *)t - offsetof(struct pool, look));

	for (struct leg *l = p->legs; l; l = l->next)
		l->full = false;
	serve(p);
}

static void serve(struct pool *p)
{
	struct census c = census(p);

	while (p->first && c.best) {
		serve_one(p, c.best);
		c = census(p);
	}
	if (p->ending)
		return;
	/* one at a time, and not at once after a failure */
	if (c.usable == c.up && c.usable < p->config.connections &&
	    !timer_is_set(&p->retry) && (p->first || (c.up && c.fewest >= POOL_SPREAD)))
		connect_leg(p);
	if (p->first && c.up && !timer_is_set(&p->look))
		timer_set(p->worker, &p->look, POOL_LOOK_MS, on_look);
}

static void on_serve(struct deferred *d)
{
	serve((struct pool *)((char *)d - offsetof(struct pool, serve)));
}

/* ---- life ---- */

static struct tls_context *make_tls(const struct pool_config *config, char **why)
{
	static const char *const alpn[] = { "h2", NULL };
	struct tls_context *t = tls_client_context_new(config->ca_file, alpn, why);

	if (t && config->certificate &&
	    tls_client_context_identify(t, config->certificate, config->key, why) < 0)
		return tls_context_unref(t);
	return t;
}

struct pool *pool_new(struct worker *w, const struct pool_config *config, char **why)
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
	p->config = hold(config);
	p->last = &p->first;
	p->serve.run = on_serve;
	return p;
}

int pool_reload(struct pool *p, const struct pool_config *config, char **why)
{
	struct tls_context *tls = make_tls(config, why);
	struct pool_config old = p->config;

	if (!tls)
		return -EINVAL;
	/* the files behind the same names may have changed, so all legs are replaced */
	for (struct leg *l = p->legs, *next; l; l = next) {
		next = l->next;
		retire(l);
	}
	tls_context_unref(p->tls);
	p->tls = tls;
	p->config = hold(config);
	release(&old);
	p->turn = 0;
	backoff_reset(&p->backoff);
	timer_cancel(p->worker, &p->retry);
	serve(p);
	return 0;
}

void pool_end(struct pool *p)
{
	p->ending = true;
	timer_cancel(p->worker, &p->retry);
	timer_cancel(p->worker, &p->look);
	while (p->first)
		fulfil(p->first, NULL, REASON_SHUTDOWN, "");
	for (struct leg *l = p->legs, *next; l; l = next) {
		next = l->next;
		if (l->session)
			session_close(l->session, REASON_SHUTDOWN, "the client ends");
		else
			retire(l);
	}
}

struct pool *pool_free(struct pool *p)
{
	if (!p)
		return NULL;
	timer_cancel(p->worker, &p->retry);
	timer_cancel(p->worker, &p->look);
	worker_undefer(&p->serve);
	tls_context_unref(p->tls);
	release(&p->config);
	free(p);
	return NULL;
}

const char *pool_via(const struct pool *p)
{
	return p->via;
}

const struct tls_context *pool_tls(const struct pool *p)
{
	return p->tls;
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
