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
#include <stdlib.h>
#include <string.h>

#include "relay/audit.h"
#include "relay/gateway.h"
#include "relay/health.h"
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
	put_reasons(out, g, "stream_ended_total", "Streams by how they ended.",
		    offsetof(struct counters, ended));
	put_reasons(out, g, "refused_total", "Clients turned away before they had a target.",
		    offsetof(struct counters, refused));
	put_reasons(out, g, "session_ended_total", "Tunnels by how they ended or were refused.",
		    offsetof(struct counters, sessions));
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
