/*
 * metrics: what the workers counted, for Prometheus.
 *
 * Theory of operation: a scrape, on the main thread, sums the workers' counters, which it may read
 * at any time (counter.h). The values of labels come from the config, from reason.def and from
 * figures.h, so their number is bounded.
 */
#include "relay/metrics.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdio.h>

#include "relay/audit.h"
#include "relay/destination.h"
#include "relay/exposition.h"
#include "relay/gateway.h"
#include "relay/health.h"
#include "relay/log.h"
#include "relay/metrics_private.h"
#include "relay/process.h"
#include "relay/registry.h"

/* ---- counters without names ---- */

static uint64_t sum(const struct gateway *g, size_t offset)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < g->n_workers; i++) {
		const void *at = (const char *)&g->workers[i]->counters + offset;

		total += counter_get(at);
	}
	return total;
}

uint64_t metrics_sum(const struct gateway *g, enum counter which)
{
	return sum(g, offsetof(struct counters, value) + which * sizeof(atomic_uint_fast64_t));
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
	{ COUNTER_LIVE_BUFFERS, "live_buffers", "gauge",
	  "Buffers of 64 KiB with bytes that a side has sent and the other not taken." },
	{ COUNTER_LIVE_OPENINGS, "live_openings", "gauge", "Streams routed, not joined yet." },
	{ COUNTER_LIVE_PARKED, "live_parked", "gauge", "Streams that wait for a tunnel." },
	{ COUNTER_LIVE_SPLICES, "live_splices", "gauge", "Streams joined." },
	{ COUNTER_LIVE_TUNNELS, "live_tunnels", "gauge", "Tunnels." },
	{ COUNTER_LIVE_H2_CLIENTS, "live_h2_clients", "gauge",
	  "Clients' HTTP/2 connections, with and without streams." },
};

static void put_plain(struct exposition *e, const struct gateway *g)
{
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		exposition_one(e, plain[i].name, plain[i].type, plain[i].help,
			       metrics_sum(g, plain[i].which));
	exposition_one(e, "connections", "gauge", "Connections held: clients and agents.",
		       atomic_load(&g->connections));
	exposition_one(e, "services", "gauge", "Services offered by tunnels, each tunnel counted.",
		       registry_services(g->registry));
	exposition_head(e, "bytes_total", "counter", "Bytes passed on; up: client to service.");
	exposition_sample(e, metrics_sum(g, COUNTER_BYTES_UP), "direction", "up", EXPOSITION_END);
	exposition_sample(e, metrics_sum(g, COUNTER_BYTES_DOWN), "direction", "down",
			  EXPOSITION_END);
}

static void put_reasons(struct exposition *e, const struct gateway *g, const char *name,
			const char *help, size_t offset)
{
	exposition_head(e, name, "counter", help);
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		exposition_sample(e, sum(g, offset + i * sizeof(atomic_uint_fast64_t)), "reason",
				  reason_word(i), EXPOSITION_END);
}

/* As many as the config names. */
static void put_targets(struct exposition *e, const struct gateway *g)
{
	char text[ADDRESS_TEXT_MAX];

	exposition_head(e, "target_up", "gauge", "1: the last dial and check were good.");
	for (size_t i = 0; i < gateway_config(g)->n_services; i++) {
		const struct destination *d = g->settings->destinations[i];
		const struct service_config *s = d->config;

		for (size_t j = 0; j < s->targets.n; j++)
			if (s->targets.at[j].kind != ADDRESS_TUNNEL)
				exposition_sample(
					e, health_is_up(d->health, j), "service", s->name, "target",
					address_format(&s->targets.at[j], text, sizeof(text)),
					EXPOSITION_END);
	}
}

/* ---- times ---- */

static void put_times(struct exposition *e, const struct gateway *g)
{
	static const struct {
		enum durations_kind kind;
		const char *name, *help;
	} times[] = {
		{ DURATIONS_PICKUP, "pickup_seconds",
		  "How long streams that waited for a tunnel waited until they got one." },
		{ DURATIONS_DIAL, "dial_seconds",
		  "How long dialling a target took that was reached." },
		{ DURATIONS_STREAM, "stream_duration_seconds",
		  "How long streams that reached their target lasted, from their beginning." },
		{ DURATIONS_RTT, "tunnel_rtt_seconds",
		  "Round trips of PINGs in tunnels, agents' slowness included." },
	};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		struct durations_sum all = { 0 };

		for (unsigned w = 0; w < g->n_workers; w++)
			durations_read(&all, &g->workers[w]->counters.durations[times[i].kind]);
		exposition_head(e, times[i].name, "histogram", times[i].help);
		exposition_durations(e, times[i].kind, &all, EXPOSITION_END);
	}
}

/* While one turn goes on, nothing else of its worker does. */
static void put_turns(struct exposition *e, const struct gateway *g)
{
	char worker[16];

	exposition_head(e, "turn_seconds", "histogram",
			"How long turns of the workers' event loops took, without sleep.");
	for (unsigned w = 0; w < g->n_workers; w++) {
		struct durations_sum sum = { 0 };

		durations_read(&sum, &g->workers[w]->counters.durations[DURATIONS_TURN]);
		snprintf(worker, sizeof(worker), "%u", w);
		exposition_durations(e, DURATIONS_TURN, &sum, "worker", worker, EXPOSITION_END);
	}
	exposition_head(e, "turn_current_seconds", "gauge",
			"How long the turn has been going on that a worker is in; 0: it sleeps.");
	for (unsigned w = 0; w < g->n_workers; w++) {
		uint64_t since = counter_get(&g->workers[w]->counters.turn_since),
			 now = worker_now(g->workers[w]);

		snprintf(worker, sizeof(worker), "%u", w);
		exposition_seconds(e, since && since < now ? (now - since) * 1000 : 0, "worker",
				   worker, EXPOSITION_END);
	}
}

/* ---- the process, and all ---- */

static void put_logs(struct exposition *e, const struct gateway *g)
{
	const struct audit_counts c = audit_counts(g->audit);

	exposition_one(e, "audit_written_total", "counter", "Audit records written.", c.written);
	exposition_one(e, "audit_lost_total", "counter",
		       "Audit records lost: their target took none for too long.", c.lost);
	exposition_one(e, "audit_queued", "gauge", "Audit records that wait to be written.",
		       c.queued);
	exposition_one(e, "log_lost_total", "counter", "Lines of the log that nobody took in time.",
		       log_lost());
}

static void put_state(struct exposition *e, const struct gateway *g)
{
	exposition_one(e, "draining", "gauge", "1: it is ending and takes nobody new.",
		       atomic_load(&g->draining));
	exposition_one(e, "reloads_total", "counter", "Times the config was read again.",
		       atomic_load(&g->reloads));
	exposition_one(e, "reload_failures_total", "counter",
		       "Times that was in vain: the config is as it was before.",
		       atomic_load(&g->reload_failures));
	exposition_one(e, "reload_timestamp_seconds", "gauge",
		       "When the config in effect was read.", atomic_load(&g->reloaded_at));
	exposition_one(e, "settings_generation", "gauge",
		       "Which config since the start is in effect; 1: the first.",
		       g->settings->generation);
}

void metrics_write(void *gateway, struct evbuffer *out)
{
	const struct gateway *g = gateway;
	struct exposition e = exposition_begin(out, "attest_relay_");

	process_write_build(&e);
	put_state(&e, g);
	put_plain(&e, g);
	put_targets(&e, g);
	metrics_limits(&e, g);
	put_reasons(&e, g, "stream_ended_total", "Streams by how they ended.",
		    offsetof(struct counters, ended));
	put_reasons(&e, g, "refused_total", "Clients turned away before they had a target.",
		    offsetof(struct counters, refused));
	put_reasons(&e, g, "session_ended_total", "Tunnels by how they ended or were refused.",
		    offsetof(struct counters, sessions));
	put_reasons(&e, g, "h2_client_ended_total",
		    "HTTP/2 clients' connections with streams by how they ended.",
		    offsetof(struct counters, h2_clients));
	metrics_names(&e, g);
	put_times(&e, g);
	put_turns(&e, g);
	metrics_files(&e, g);
	put_logs(&e, g);
	process_write(&e);
}
