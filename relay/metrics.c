/*
 * metrics: what the workers counted, for Prometheus.
 *
 * Theory of operation: a scrape, on the main thread, sums the workers' counters, which it may read
 * at any time (counter.h). Label values come from reason.def alone, so their number is fixed. The
 * rest is metrics_http's.
 */
#include "relay/metrics.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/audit.h"
#include "relay/gateway.h"
#include "relay/health.h"
#include "relay/log.h"
#include "relay/metrics_http.h"
#include "relay/registry.h"

static uint64_t sum(const struct gateway *g, size_t offset)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < g->n_workers; i++) {
		const void *at = (const char *)&g->workers[i]->counters + offset;

		total += counter_get(at);
	}
	return total;
}

static const struct {
	enum counter which;
	const char *name, *type, *help;
} plain[] = {
	{ COUNTER_ACCEPTED, "accepted_total", "counter", "Connections accepted." },
	{ COUNTER_STREAMS, "streams_total", "counter", "Streams that reached their target." },
	{ COUNTER_TUNNELS, "tunnels_total", "counter", "Tunnels accepted." },
	{ COUNTER_ACCEPT_PAUSED, "accept_paused_total", "counter",
	  "Times accept paused: connection limit, or no descriptors." },
	{ COUNTER_ENROLMENTS, "enrolments_total", "counter", "Certificates given to owners." },
	{ COUNTER_ENROLMENTS_REFUSED, "enrolments_refused_total", "counter",
	  "Requests for a certificate that were refused." },
	{ COUNTER_LIVE_INTAKES, "live_intakes", "gauge",
	  "Clients that have not said yet what they want." },
	{ COUNTER_LIVE_SOCKETS, "live_sockets", "gauge",
	  "Sockets of clients, tunnels and targets; those that are still closing, too." },
	{ COUNTER_LIVE_OPENINGS, "live_openings", "gauge", "Streams routed, not joined yet." },
	{ COUNTER_LIVE_PARKED, "live_parked", "gauge", "Streams that wait for a tunnel." },
	{ COUNTER_LIVE_SPLICES, "live_splices", "gauge", "Streams joined." },
	{ COUNTER_LIVE_TUNNELS, "live_tunnels", "gauge", "Tunnels." },
	{ COUNTER_LIVE_H2_CLIENTS, "live_h2_clients", "gauge",
	  "Clients' HTTP/2 connections, with and without streams." },
};

static void put_header(struct evbuffer *out, const char *name, const char *type, const char *help)
{
	evbuffer_add_printf(out, "# HELP attest_relay_%s %s\n# TYPE attest_relay_%s %s\n", name,
			    help, name, type);
}

static void put_reasons(struct evbuffer *out, const struct gateway *g, const char *name,
			const char *help, size_t offset)
{
	put_header(out, name, "counter", help);
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		evbuffer_add_printf(out, "attest_relay_%s{reason=\"%s\"} %" PRIu64 "\n", name,
				    reason_word(i),
				    sum(g, offset + i * sizeof(atomic_uint_fast64_t)));
}

/* A label's value: a path may have anything in it. */
static void put_escaped(struct evbuffer *out, const char *text)
{
	for (; *text; text++)
		if (*text == '\n')
			evbuffer_add(out, "\\n", 2);
		else
			evbuffer_add_printf(out, "%s%c", strchr("\\\"", *text) ? "\\" : "", *text);
}

static void put_target(struct evbuffer *out, const struct gateway *g,
		       const struct service_config *s, size_t target)
{
	char text[ADDRESS_TEXT_MAX];

	evbuffer_add_printf(out, "attest_relay_target_up{service=\"%s\",target=\"", s->name);
	put_escaped(out, address_format(&s->targets.at[target], text, sizeof(text)));
	evbuffer_add_printf(out, "\"} %d\n", health_is_up(g->health, s, target));
}

/* As many as the config names. */
static void put_targets(struct evbuffer *out, const struct gateway *g)
{
	const struct relay_config *c = g->config;

	put_header(out, "target_up", "gauge", "1: the last dial and check were good.");
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *s = &c->services[i];

		for (size_t j = 0; j < s->targets.n; j++)
			if (s->targets.at[j].kind != ADDRESS_TUNNEL)
				put_target(out, g, s, j);
	}
}

#define COUNTER_AT(which)                                                                          \
	(offsetof(struct counters, value) + (which) * sizeof(atomic_uint_fast64_t))

static void put_audit(struct evbuffer *out, const struct gateway *g)
{
	const struct audit_counts c = audit_counts(g->audit);

	put_header(out, "audit_written_total", "counter", "Audit records written.");
	evbuffer_add_printf(out, "attest_relay_audit_written_total %" PRIu64 "\n", c.written);
	put_header(out, "audit_lost_total", "counter",
		   "Audit records lost: their target took none for too long.");
	evbuffer_add_printf(out, "attest_relay_audit_lost_total %" PRIu64 "\n", c.lost);
	put_header(out, "audit_queued", "gauge", "Audit records that wait to be written.");
	evbuffer_add_printf(out, "attest_relay_audit_queued %" PRIu64 "\n", c.queued);
	put_header(out, "log_lost_total", "counter", "Lines of the log that nobody took in time.");
	evbuffer_add_printf(out, "attest_relay_log_lost_total %" PRIu64 "\n", log_lost());
}

/* ---- limits: what is used, and what there may be ---- */

/* Two metrics, each in one piece. */
struct pairs {
	struct evbuffer *used, *most;
};

static void put_pair(const struct pairs *out, const char *labels, uint64_t used, uint64_t most)
{
	evbuffer_add_printf(out->used, "attest_relay_limit_used{%s} %" PRIu64 "\n", labels,
			    used);
	if (most != QUOTA_NO_LIMIT)
		evbuffer_add_printf(out->most, "attest_relay_limit{%s} %" PRIu64 "\n", labels,
				    most);
}

static const char *const kind_word[QUOTA_KINDS] = { "connections", "handshakes", "tunnels",
						    "streams", "parked" };

static void put_quota(const struct pairs *out, const char *scope, const char *name,
		      const struct quota *q, const enum quota_kind *kinds, unsigned n)
{
	char labels[256];

	for (unsigned i = 0; i < n; i++) {
		snprintf(labels, sizeof(labels), "scope=\"%s\",tenant=\"%s\",what=\"%s\"", scope,
			 name, kind_word[kinds[i]]);
		put_pair(out, labels, quota_used(q, kinds[i]), quota_most(q, kinds[i]));
	}
}

static void put_memory(const struct pairs *out, const char *scope, const char *name,
		       const struct quota *q)
{
	char labels[256];

	snprintf(labels, sizeof(labels), "scope=\"%s\",tenant=\"%s\",what=\"memory\"", scope, name);
	put_pair(out, labels, counter_get(&q->memory), counter_get(&q->limits->memory));
}

/* As many as the config names. */
static void put_named(const struct pairs *out, const struct gateway *g)
{
	static const enum quota_kind owners[] = { QUOTA_TUNNELS, QUOTA_STREAMS, QUOTA_PARKED };
	const struct tenants *t = &g->tenants;

	for (size_t i = 0; i < t->n_held; i++) {
		const struct quota_entry *q = t->held[i];
		bool owner = q->in == t->owners;

		put_quota(out, owner ? "owner" : "client", q->name, &q->quota,
			  owner ? owners : owners + 1, owner ? 3 : 2);
		if (owner)
			put_memory(out, "owner", q->name, &q->quota);
	}
}

/* Sources have no names here: there may be as many as there are addresses. */
static void put_sources(const struct pairs *out, const struct gateway *g,
			const struct sources_census *c)
{
	const struct quota_limits *limits = &g->tenants.source_limits;
	char labels[128];

	for (unsigned i = 0; i < QUOTA_KINDS; i++) {
		if (i == QUOTA_TUNNELS)
			continue;
		snprintf(labels, sizeof(labels), "scope=\"source\",tenant=\"\",what=\"%s\"",
			 kind_word[i]);
		put_pair(out, labels, c->most[i], counter_get(&limits->most[i]));
	}
	put_pair(out, "scope=\"source\",tenant=\"\",what=\"memory\"", c->memory,
		 counter_get(&limits->memory));
}

static void put_limits(struct evbuffer *out, const struct gateway *g)
{
	const struct relay_limits *l = &g->config->limits;
	const struct pairs to = { out, evbuffer_new() };
	const struct quota *all = &g->tenants.all;
	struct sources_census c;

	if (!to.most)
		return;
	sources_census(g->tenants.sources, worker_now(g->workers[0]), &c);
	put_header(out, "limit_used", "gauge",
		   "What is used of a limit; of sources, by the one that uses most.");
	put_header(to.most, "limit", "gauge", "How much there may be.");
	put_pair(&to, "scope=\"all\",tenant=\"\",what=\"connections\"",
		 counter_get(&g->connections), g->connections_max);
	put_pair(&to, "scope=\"all\",tenant=\"\",what=\"handshakes\"",
		 quota_used(all, QUOTA_HANDSHAKES), l->handshakes);
	put_pair(&to, "scope=\"all\",tenant=\"\",what=\"parked\"", quota_used(all, QUOTA_PARKED),
		 l->parked);
	put_pair(&to, "scope=\"all\",tenant=\"\",what=\"tunnels\"",
		 sum(g, COUNTER_AT(COUNTER_LIVE_TUNNELS)), l->tunnels);
	put_memory(&to, "all", "", all);
	put_named(&to, g);
	put_sources(&to, g, &c);
	evbuffer_add_buffer(out, to.most);
	evbuffer_free(to.most);
	put_header(out, "sources", "gauge", "Source addresses known now.");
	evbuffer_add_printf(out, "attest_relay_sources %zu\n", c.known);
	put_header(out, "sources_blocked", "gauge", "Source addresses blocked now, see penalties.");
	evbuffer_add_printf(out, "attest_relay_sources_blocked %zu\n", c.blocked);
}

static void put_all(void *gateway, struct evbuffer *out)
{
	const struct gateway *g = gateway;

	put_header(out, "build_info", "gauge", "Version of the program.");
	evbuffer_add_printf(out, "attest_relay_build_info{version=\"%s\"} 1\n", VERSION);
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		put_header(out, plain[i].name, plain[i].type, plain[i].help);
		evbuffer_add_printf(out, "attest_relay_%s %" PRIu64 "\n", plain[i].name,
				    sum(g, COUNTER_AT(plain[i].which)));
	}
	put_header(out, "connections", "gauge", "Connections held: clients and agents.");
	evbuffer_add_printf(out, "attest_relay_connections %" PRIu64 "\n",
			    (uint64_t)atomic_load(&g->connections));
	put_header(out, "services", "gauge", "Services offered by tunnels, each tunnel counted.");
	evbuffer_add_printf(out, "attest_relay_services %zu\n", registry_services(g->registry));
	put_header(out, "bytes_total", "counter", "Bytes of ended streams.");
	evbuffer_add_printf(out,
			    "attest_relay_bytes_total{direction=\"up\"} %" PRIu64 "\n"
			    "attest_relay_bytes_total{direction=\"down\"} %" PRIu64 "\n",
			    sum(g, COUNTER_AT(COUNTER_BYTES_UP)),
			    sum(g, COUNTER_AT(COUNTER_BYTES_DOWN)));
	put_targets(out, g);
	put_limits(out, g);
	put_reasons(out, g, "stream_ended_total", "Streams by how they ended.",
		    offsetof(struct counters, ended));
	put_reasons(out, g, "refused_total", "Clients turned away before they had a target.",
		    offsetof(struct counters, refused));
	put_reasons(out, g, "session_ended_total", "Tunnels by how they ended or were refused.",
		    offsetof(struct counters, sessions));
	put_reasons(out, g, "h2_client_ended_total",
		    "HTTP/2 clients' connections with streams by how they ended.",
		    offsetof(struct counters, h2_clients));
	put_audit(out, g);
}

static bool draining(void *gateway)
{
	const struct gateway *g = gateway;

	return atomic_load(&g->draining);
}

struct metrics_http *metrics_start(struct event_base *base, struct gateway *g, char **why)
{
	struct metrics_http *m = metrics_http_start(base, &g->config->metrics, put_all, g, why);

	if (m)
		metrics_http_health(m, draining);
	return m;
}
