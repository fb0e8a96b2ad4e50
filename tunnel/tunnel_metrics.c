/*
 * tunnel_metrics: attest-tunnel's counters and gauges in Prometheus' text format.
 *
 * Theory of operation: written on demand, on the thread that counts. Label values are the config's
 * (relays, services), reasons and their classes: as many as there are. A relay may stand in the
 * config twice, so its place there is a label, too.
 */
#include "tunnel/tunnel_metrics.h"

#include <stdio.h>

#include "config/config.h"
#include "relay/exposition.h"
#include "relay/process.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/agent.h"
#include "tunnel/link.h"
#include "tunnel/local.h"
#include "tunnel/pool.h"
#include "tunnel/session.h"

/* ---- relays ---- */

static void of_link(struct exposition *e, const struct link *l, unsigned at, uint64_t value)
{
	char place[16];

	snprintf(place, sizeof(place), "%u", at);
	exposition_sample(e, value, "relay", l->text, "link", place, EXPOSITION_END);
}

static void write_counts(struct exposition *e, const struct agent *a, const char *name,
			 const char *help, size_t offset)
{
	exposition_head(e, name, "counter", help);
	for (unsigned i = 0; i < a->n_links; i++)
		of_link(e, a->links[i], i + 1,
			*(const uint64_t *)((const char *)a->links[i] + offset));
}

static void write_relays(struct exposition *e, const struct agent *a)
{
	char place[16];

	exposition_head(e, "relay_up", "gauge", "1: this relay has accepted us and we are there.");
	for (unsigned i = 0; i < a->n_links; i++)
		of_link(e, a->links[i], i + 1, a->links[i]->active != NULL);
	exposition_head(e, "relay_refused", "gauge",
			"1: this relay has refused us for good; it is asked again now and then.");
	for (unsigned i = 0; i < a->n_links; i++)
		of_link(e, a->links[i], i + 1, a->links[i]->refused);
	exposition_head(e, "relay_rtt_seconds", "gauge",
			"The last round trip of a PING to this relay; 0: none yet.");
	for (unsigned i = 0; i < a->n_links; i++) {
		const struct link_line *active = a->links[i]->active;

		snprintf(place, sizeof(place), "%u", i + 1);
		exposition_seconds(e, active ? session_rtt_us(active->session) : 0, "relay",
				   a->links[i]->text, "link", place, EXPOSITION_END);
	}
	write_counts(e, a, "relay_sessions_total", "Times this relay has accepted us.",
		     offsetof(struct link, sessions));
	write_counts(e, a, "relay_failures_total",
		     "Attempts that failed or were refused, after both carriers were tried.",
		     offsetof(struct link, failures));
	write_counts(e, a, "relay_losses_total",
		     "Times an accepted connection ended without a successor.",
		     offsetof(struct link, losses));
}

/* ---- services ---- */

static void write_services(struct exposition *e, const struct serve *v)
{
	exposition_head(e, "service_streams_total", "counter",
			"Streams that reached their service.");
	for (unsigned i = 0; i < v->n_offers; i++)
		exposition_sample(e, v->offers[i]->counts->streams, "service",
				  v->offers[i]->config->name, EXPOSITION_END);
	exposition_head(e, "service_streams", "gauge",
			"Streams now, those that have not reached their service included.");
	for (unsigned i = 0; i < v->n_offers; i++)
		exposition_sample(e, v->offers[i]->counts->live, "service",
				  v->offers[i]->config->name, EXPOSITION_END);
	exposition_head(e, "service_bytes_total", "counter",
			"Bytes passed on; up: client to service.");
	for (unsigned i = 0; i < v->n_offers; i++) {
		const struct serve_offer *o = v->offers[i];

		exposition_sample(e, o->counts->bytes[INI], "service", o->config->name, "direction",
				  "up", EXPOSITION_END);
		exposition_sample(e, o->counts->bytes[TGT], "service", o->config->name, "direction",
				  "down", EXPOSITION_END);
	}
	exposition_head(e, "service_ended_total", "counter",
			"Streams that ended, by whose doing it was.");
	for (unsigned i = 0; i < v->n_offers; i++)
		for (unsigned c = 0; c < FIGURE_CLASSES; c++)
			exposition_sample(e, v->offers[i]->counts->ended[c], "service",
					  v->offers[i]->config->name, "class", figure_class_word(c),
					  EXPOSITION_END);
	exposition_head(e, "refused_total", "counter",
			"Streams that a relay opened and that were not taken.");
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		exposition_sample(e, v->turned_away[i], "reason", reason_word(i), EXPOSITION_END);
}

/* ---- all streams ---- */

static void write_streams(struct exposition *e, const struct counters *c)
{
	exposition_one(e, "streams_total", "counter",
		       "Streams joined: of services and of local listeners.",
		       counter_get(&c->value[COUNTER_STREAMS]));
	exposition_one(e, "live_splices", "gauge", "Streams joined now.",
		       counter_get(&c->value[COUNTER_LIVE_SPLICES]));
	exposition_head(e, "bytes_total", "counter", "Bytes passed on; up: client to service.");
	exposition_sample(e, counter_get(&c->value[COUNTER_BYTES_UP]), "direction", "up",
			  EXPOSITION_END);
	exposition_sample(e, counter_get(&c->value[COUNTER_BYTES_DOWN]), "direction", "down",
			  EXPOSITION_END);
	exposition_head(e, "stream_ended_total", "counter", "Joined streams by how they ended.");
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		exposition_sample(e, counter_get(&c->ended[i]), "reason", reason_word(i),
				  EXPOSITION_END);
}

static void write_local(struct exposition *e, const struct local *l, const struct counters *c)
{
	const struct pool_counts counts = pool_counts(l->pool);

	exposition_one(e, "local_accepted_total", "counter",
		       "Connections accepted by local listeners.",
		       counter_get(&c->value[COUNTER_ACCEPTED]));
	exposition_one(e, "local_accept_paused_total", "counter",
		       "Times accept paused: limits.streams, or no descriptors.",
		       counter_get(&c->value[COUNTER_ACCEPT_PAUSED]));
	exposition_one(e, "local_streams", "gauge", "Connections to local listeners now.", l->live);
	exposition_one(e, "local_waiting", "gauge",
		       "Of these, those that wait for a session to a relay.", counts.waiting);
	exposition_one(e, "local_sessions", "gauge",
		       "Sessions to relays' connect doors, for local listeners.", counts.sessions);
	exposition_one(e, "local_session_failures_total", "counter",
		       "Attempts at such a session that failed, and sessions lost.",
		       counts.sessions_failed);
}

static void write_limits(struct exposition *e, const struct tunnel_metrics *m)
{
	exposition_head(e, "limit_used", "gauge", "What is used of a limit.");
	if (m->agent)
		exposition_sample(e, m->agent->serve.live, "what", "streams", EXPOSITION_END);
	if (m->local)
		exposition_sample(e, m->local->live, "what", "local-streams", EXPOSITION_END);
	exposition_head(e, "limit", "gauge", "How much there may be.");
	if (m->agent)
		exposition_sample(e, m->config->limits.streams, "what", "streams", EXPOSITION_END);
	if (m->local)
		exposition_sample(e, m->config->limits.streams, "what", "local-streams",
				  EXPOSITION_END);
}

static void write_times(struct exposition *e, const struct counters *c)
{
	static const struct {
		enum durations_kind kind;
		const char *name, *help;
	} times[] = {
		{ DURATIONS_DIAL, "dial_seconds",
		  "How long dialling a service took that was reached." },
		{ DURATIONS_STREAM, "stream_duration_seconds",
		  "How long streams that reached their service lasted, from their beginning." },
		{ DURATIONS_RTT, "rtt_seconds", "Round trips of PINGs to relays." },
		{ DURATIONS_TURN, "turn_seconds",
		  "How long turns of the event loop took, without sleep." },
	};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		struct durations_sum sum = { 0 };

		durations_read(&sum, &c->durations[times[i].kind]);
		exposition_head(e, times[i].name, "histogram", times[i].help);
		exposition_durations(e, times[i].kind, &sum, EXPOSITION_END);
	}
}

static void write_end(struct exposition *e, const char *what, const char *file, uint64_t at)
{
	if (file && at != UINT64_MAX)
		exposition_sample(e, at, "file", file, "what", what, EXPOSITION_END);
}

void tunnel_metrics_certificates(struct exposition *e, const struct tls_context *t,
				 const char *certificate, const char *ca_file)
{
	exposition_head(e, "certificate_expires_timestamp_seconds", "gauge",
			"When the first certificate in a file in use ends.");
	write_end(e, "certificate", certificate, tls_context_expires(t));
	write_end(e, "ca", ca_file, tls_context_ca_expires(t));
}

static void write_certificates(struct exposition *e, const struct tunnel_metrics *m)
{
	if (m->tls || m->local)
		tunnel_metrics_certificates(e, m->tls ? *m->tls : pool_tls(m->local->pool),
					    m->config->certificate, m->config->ca_file);
}

void tunnel_metrics_write(const struct tunnel_metrics *m, struct evbuffer *out)
{
	struct exposition e = exposition_begin(out, "attest_tunnel_");
	const struct counters *c = &m->worker->counters;

	process_write_build(&e);
	exposition_one(&e, "draining", "gauge", "1: it is ending and takes nobody new.",
		       *m->stopping);
	exposition_one(&e, "reloads_total", "counter", "Times the config was read again.",
		       m->reloads);
	exposition_one(&e, "reload_failures_total", "counter",
		       "Times that was in vain: the config is as it was before.",
		       m->reload_failures);
	if (m->agent) {
		write_relays(&e, m->agent);
		write_services(&e, &m->agent->serve);
	}
	if (m->local)
		write_local(&e, m->local, c);
	write_streams(&e, c);
	write_limits(&e, m);
	write_times(&e, c);
	write_certificates(&e, m);
	process_write(&e);
}
