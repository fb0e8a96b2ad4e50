/*
 * metrics_limits: what is used of each limit, and how much there may be, for Prometheus.
 *
 * Theory of operation: as metrics.c. Tenants are those that the config in effect names; sources are
 * told by the one that uses most, since there may be as many as there are addresses.
 */
#include <event2/buffer.h>

#include "relay/exposition.h"
#include "relay/gateway.h"
#include "relay/metrics_private.h"

/* Two metrics, each in one piece. */
struct pairs {
	struct exposition *used, most;
};

static const char *const kind_word[QUOTA_KINDS] = { "connections", "handshakes", "tunnels",
						    "streams", "parked" };

static void put(struct pairs *out, const char *scope, const char *tenant, const char *what,
		uint64_t used, uint64_t most)
{
	exposition_sample(out->used, used, "scope", scope, "tenant", tenant, "what", what,
			  EXPOSITION_END);
	if (most != QUOTA_NO_LIMIT)
		exposition_sample(&out->most, most, "scope", scope, "tenant", tenant, "what", what,
				  EXPOSITION_END);
}

static void put_memory(struct pairs *out, const char *scope, const char *tenant,
		       const struct quota *q)
{
	put(out, scope, tenant, "memory", counter_get(&q->memory), counter_get(&q->limits->memory));
}

static void put_all(struct pairs *out, const struct gateway *g)
{
	const struct relay_limits *l = &g->settings->config->limits;
	const struct quota *all = &g->tenants.all;

	put(out, "all", "", "connections", counter_get(&g->connections),
	    counter_get(&g->connections_max));
	put(out, "all", "", "handshakes", quota_used(all, QUOTA_HANDSHAKES), l->handshakes);
	put(out, "all", "", "parked", quota_used(all, QUOTA_PARKED), l->parked);
	put(out, "all", "", "tunnels", metrics_sum(g, COUNTER_LIVE_TUNNELS), l->tunnels);
	put_memory(out, "all", "", all);
}

static void put_tenants(struct pairs *out, const struct gateway *g)
{
	static const enum quota_kind kinds[] = { QUOTA_TUNNELS, QUOTA_STREAMS, QUOTA_PARKED };
	const struct tenants *t = &g->tenants;

	for (size_t i = 0; i < t->n_held; i++) {
		const struct quota_entry *q = t->held[i];
		bool owner = q->in == t->owners;

		for (unsigned k = owner ? 0 : 1; k < sizeof(kinds) / sizeof(kinds[0]); k++)
			put(out, owner ? "owner" : "client", q->name, kind_word[kinds[k]],
			    quota_used(&q->quota, kinds[k]), quota_most(&q->quota, kinds[k]));
		if (owner)
			put_memory(out, "owner", q->name, &q->quota);
	}
}

static void put_sources(struct pairs *out, const struct gateway *g, const struct sources_census *c)
{
	const struct quota_limits *limits = &g->tenants.source_limits;

	for (unsigned i = 0; i < QUOTA_KINDS; i++)
		if (i != QUOTA_TUNNELS)
			put(out, "source", "", kind_word[i], c->most[i],
			    counter_get(&limits->most[i]));
	put(out, "source", "", "memory", c->memory, counter_get(&limits->memory));
}

void metrics_limits(struct exposition *e, const struct gateway *g)
{
	struct pairs to = { e, exposition_begin(evbuffer_new(), e->prefix) };
	struct sources_census c;

	if (!to.most.out)
		return;
	sources_census(g->tenants.sources, worker_now(g->workers[0]), &c);
	exposition_head(e, "limit_used", "gauge",
			"What is used of a limit; of sources, by the one that uses most.");
	exposition_head(&to.most, "limit", "gauge", "How much there may be.");
	put_all(&to, g);
	put_tenants(&to, g);
	put_sources(&to, g, &c);
	evbuffer_add_buffer(e->out, to.most.out);
	evbuffer_free(to.most.out);
	exposition_one(e, "sources", "gauge", "Source addresses known now.", c.known);
	exposition_one(e, "sources_blocked", "gauge",
		       "Source addresses blocked now, see penalties.", c.blocked);
}
