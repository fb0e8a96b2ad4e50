/*
 * bridge_metrics: the bridge's counters as text.
 *
 * Theory of operation: written on demand, on the thread that counts. Label values are reasons (one
 * table), states, and VMs: of those at most limits.vm_labels, each in the characters that a key may
 * have; the others are summed up in vm="other".
 */
#include "qgs-bridge/bridge_metrics.h"

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/entrance.h"
#include "qgs-bridge/qgs.h"
#include "relay/exposition.h"
#include "relay/process.h"
#include "relay/worker.h"
#include "tunnel/pool.h"
#include "tunnel/tunnel_metrics.h"

static void by_reason(struct exposition *e, const char *name, const char *help,
		      const uint64_t counts[REASONS])
{
	exposition_head(e, name, "counter", help);
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		exposition_sample(e, counts[i], "reason", reason_word(i), EXPOSITION_END);
}

static void write_qgs(const struct bridge *b, struct exposition *e)
{
	struct qgs_counts counts;

	if (!b->qgs)
		return;
	counts = qgs_counts(b->qgs);
	exposition_head(e, "qgs_state", "gauge", "1 for the state QGS is in.");
	for (enum qgs_state s = 0; s < QGS_STATES; s++)
		exposition_sample(e, qgs_state(b->qgs) == s, "state", qgs_state_word(s),
				  EXPOSITION_END);
	exposition_one(e, "qgs_downs_total", "counter", "Times QGS went down.", counts.downs);
	exposition_one(e, "qgs_wedges_total", "counter", "Times QGS was found wedged.",
		       counts.wedges);
	exposition_one(e, "qgs_silences_total", "counter",
		       "Requests QGS did not answer in stuck_after.", counts.silences);
	exposition_one(e, "qgs_probes_total", "counter", "Probes of QGS.", counts.probes);
	exposition_one(e, "qgs_in_flight", "gauge", "Requests in QGS.", b->fair.running);
	exposition_one(e, "qgs_waiting", "gauge", "Whole requests waiting for QGS.",
		       b->fair.waiting);
}

static void write_pool(const struct bridge *b, struct exposition *e)
{
	struct pool_counts counts;

	if (!b->pool)
		return;
	counts = pool_counts(b->pool);
	exposition_one(e, "relay_sessions", "gauge", "HTTP/2 sessions to the relay.",
		       counts.sessions);
	exposition_one(e, "relay_streams", "gauge", "Streams in them.", counts.streams);
	exposition_one(e, "relay_waiting", "gauge", "Callers waiting for a session.",
		       counts.waiting);
	exposition_one(e, "relay_sessions_total", "counter", "Sessions made.",
		       counts.sessions_made);
	exposition_one(e, "relay_failures_total", "counter", "Attempts that failed, sessions lost.",
		       counts.sessions_failed);
	tunnel_metrics_certificates(e, pool_tls(b->pool), b->config->relay.certificate,
				    b->config->relay.ca_file);
}

enum unit { COUNT, MILLISECONDS };

static const struct {
	const char *name, *help;
	size_t offset;
	enum unit unit;
} of_vm[] = {
	{ "vm_connections_total", "Connections by VM.", offsetof(struct vm_counts, connections),
	  COUNT },
	{ "vm_answered_total", "Requests with a whole reply, by VM.",
	  offsetof(struct vm_counts, answered), COUNT },
	{ "vm_failed_total", "Requests without a reply and callers turned away, by VM.",
	  offsetof(struct vm_counts, failed), COUNT },
	{ "vm_streams_total", "Streams forwarded, by VM.", offsetof(struct vm_counts, streams),
	  COUNT },
	{ "vm_waited_seconds_total", "Time requests waited for QGS, by VM.",
	  offsetof(struct vm_counts, waited_ms), MILLISECONDS },
};

static void write_vm(struct exposition *e, const char *name, const struct vm_counts *counts,
		     size_t of)
{
	uint64_t value = *(const uint64_t *)((const char *)counts + of_vm[of].offset);

	if (of_vm[of].unit == MILLISECONDS)
		exposition_seconds(e, value * 1000, "vm", name, EXPOSITION_END);
	else
		exposition_sample(e, value, "vm", name, EXPOSITION_END);
}

static void write_vms(const struct bridge *b, struct exposition *e)
{
	const struct vm_table *t = &b->vms_known;
	const struct vm_counts other = vm_table_other(t);

	for (size_t i = 0; i < sizeof(of_vm) / sizeof(of_vm[0]); i++) {
		exposition_head(e, of_vm[i].name, "counter", of_vm[i].help);
		for (const struct vm *vm = t->oldest; vm; vm = vm->newer)
			if (vm->labelled)
				write_vm(e, vm->key, &vm->counts, i);
		write_vm(e, "other", &other, i);
	}
}

/* What is used of a limit, and how much there may be. */
static void write_limits(const struct bridge *b, struct exposition *e)
{
	const struct {
		const char *what;
		uint64_t used, most;
	} all[] = {
		{ "connections", b->connections, b->config->limits.connections },
		{ "vms", b->vms_known.n, b->config->limits.vms },
	};

	exposition_head(e, "limit_used", "gauge", "What is used of a limit.");
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		exposition_sample(e, all[i].used, "what", all[i].what, EXPOSITION_END);
	exposition_head(e, "limit", "gauge", "How much there may be.");
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		exposition_sample(e, all[i].most, "what", all[i].what, EXPOSITION_END);
}

static void write_times(const struct bridge *b, struct exposition *e)
{
	static const struct {
		enum durations_kind kind;
		const char *name, *help;
	} times[] = {
		{ DURATIONS_QUEUE, "qgs_queue_seconds",
		  "How long requests waited for their turn, until QGS was reached or in vain." },
		{ DURATIONS_QGS, "qgs_reply_seconds",
		  "From a connection to QGS to its whole reply; not with framing none." },
		{ DURATIONS_TURN, "turn_seconds",
		  "How long turns of the event loop took, without sleep." },
	};

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		struct durations_sum sum = { 0 };

		durations_read(&sum, &b->worker->counters.durations[times[i].kind]);
		exposition_head(e, times[i].name, "histogram", times[i].help);
		exposition_durations(e, times[i].kind, &sum, EXPOSITION_END);
	}
}

static void write_state(const struct bridge *b, struct exposition *e)
{
	exposition_one(e, "draining", "gauge", "1: it is ending and takes nobody new.",
		       b->draining);
	exposition_one(e, "reloads_total", "counter", "Times the config was read again.",
		       b->reloads);
	exposition_one(e, "reload_failures_total", "counter",
		       "Times that was in vain: the config is as it was before.",
		       b->reload_failures);
	exposition_one(e, "reload_timestamp_seconds", "gauge",
		       "When the config in effect was read.", b->reloaded_at);
}

void bridge_metrics_write(void *bridge, struct evbuffer *out)
{
	const struct bridge *b = bridge;
	struct exposition e = exposition_begin(out, "qgs_bridge_");
	unsigned sockets = 0;

	for (size_t i = 0; i < b->n_entrances; i++)
		sockets += entrance_sockets(b->entrances[i]);
	process_write_build(&e);
	write_state(b, &e);
	exposition_one(&e, "sockets", "gauge", "Sockets of listeners that are open.", sockets);
	exposition_one(&e, "connections", "gauge", "Connections from guests.", b->connections);
	exposition_one(&e, "accepted_total", "counter", "Connections taken in or turned away.",
		       b->next_id);
	exposition_one(&e, "accept_paused_total", "counter",
		       "Times accept paused: connection limit, or no descriptors.",
		       counter_get(&b->worker->counters.value[COUNTER_ACCEPT_PAUSED]));
	exposition_one(&e, "vms", "gauge", "VMs known.", b->vms_known.n);
	write_limits(b, &e);
	by_reason(&e, "requests_total", "Requests to QGS, by how they ended (eof: answered).",
		  b->requests);
	by_reason(&e, "streams_total", "Streams to the relay, by how they ended.", b->streams);
	by_reason(&e, "refused_total", "Callers turned away when they came.", b->refused);
	write_qgs(b, &e);
	write_pool(b, &e);
	write_vms(b, &e);
	write_times(b, &e);
	process_write(&e);
}
