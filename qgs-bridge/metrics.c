/*
 * metrics: the bridge's counters as text.
 *
 * Theory of operation: written on demand, on the thread that counts. Label values are reasons (one
 * table), states, and VMs: of those at most limits.vm_labels, each in the characters that a key may
 * have; the others are summed up in vm="other".
 */
#include "qgs-bridge/metrics.h"

#include <event2/buffer.h>
#include <inttypes.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/entrance.h"
#include "qgs-bridge/qgs.h"
#include "relay/worker.h"
#include "tunnel/pool.h"

static void head(struct evbuffer *out, const char *name, const char *type, const char *help)
{
	evbuffer_add_printf(out, "# HELP qgs_bridge_%s %s\n# TYPE qgs_bridge_%s %s\n", name, help,
			    name, type);
}

static void one(struct evbuffer *out, const char *name, const char *type, const char *help,
		uint64_t value)
{
	head(out, name, type, help);
	evbuffer_add_printf(out, "qgs_bridge_%s %" PRIu64 "\n", name, value);
}

static void by_reason(struct evbuffer *out, const char *name, const char *help,
		      const uint64_t counts[REASONS])
{
	head(out, name, "counter", help);
	for (unsigned i = 0; i < REASONS; i++)
		if (counts[i])
			evbuffer_add_printf(out, "qgs_bridge_%s{reason=\"%s\"} %" PRIu64 "\n", name,
					    reason_word(i), counts[i]);
}

static void write_qgs(const struct bridge *b, struct evbuffer *out)
{
	struct qgs_counts counts;

	if (!b->qgs)
		return;
	counts = qgs_counts(b->qgs);
	head(out, "qgs_state", "gauge", "1 for the state QGS is in.");
	for (enum qgs_state s = 0; s < QGS_STATES; s++)
		evbuffer_add_printf(out, "qgs_bridge_qgs_state{state=\"%s\"} %d\n",
				    qgs_state_word(s), qgs_state(b->qgs) == s);
	one(out, "qgs_downs_total", "counter", "Times QGS went down.", counts.downs);
	one(out, "qgs_wedges_total", "counter", "Times QGS was found wedged.", counts.wedges);
	one(out, "qgs_silences_total", "counter", "Requests QGS did not answer in stuck_after.",
	    counts.silences);
	one(out, "qgs_probes_total", "counter", "Probes of QGS.", counts.probes);
	one(out, "qgs_in_flight", "gauge", "Requests in QGS.", b->fair.running);
	one(out, "qgs_waiting", "gauge", "Whole requests waiting for QGS.", b->fair.waiting);
}

static void write_pool(const struct bridge *b, struct evbuffer *out)
{
	struct pool_counts counts;

	if (!b->pool)
		return;
	counts = pool_counts(b->pool);
	one(out, "relay_sessions", "gauge", "HTTP/2 sessions to the relay.", counts.sessions);
	one(out, "relay_streams", "gauge", "Streams in them.", counts.streams);
	one(out, "relay_waiting", "gauge", "Callers waiting for a session.", counts.waiting);
	one(out, "relay_sessions_total", "counter", "Sessions made.", counts.sessions_made);
	one(out, "relay_failures_total", "counter", "Attempts that failed, sessions lost.",
	    counts.sessions_failed);
}

static const struct {
	const char *name, *help;
	size_t offset;
} of_vm[] = {
	{ "vm_connections_total", "Connections by VM.", offsetof(struct vm_counts, connections) },
	{ "vm_answered_total", "Requests with a whole reply, by VM.",
	  offsetof(struct vm_counts, answered) },
	{ "vm_failed_total", "Requests without a reply and callers turned away, by VM.",
	  offsetof(struct vm_counts, failed) },
	{ "vm_streams_total", "Streams forwarded, by VM.", offsetof(struct vm_counts, streams) },
	{ "vm_waited_milliseconds_total", "Time requests waited for QGS, by VM.",
	  offsetof(struct vm_counts, waited_ms) },
};

static uint64_t value_at(const struct vm_counts *counts, size_t offset)
{
	return *(const uint64_t *)((const char *)counts + offset);
}

static void write_vms(const struct bridge *b, struct evbuffer *out)
{
	const struct vm_table *t = &b->vms_known;
	const struct vm_counts other = vm_table_other(t);

	one(out, "vms", "gauge", "VMs known.", t->n);
	for (size_t i = 0; i < sizeof(of_vm) / sizeof(of_vm[0]); i++) {
		head(out, of_vm[i].name, "counter", of_vm[i].help);
		for (const struct vm *vm = t->oldest; vm; vm = vm->newer)
			if (vm->labelled)
				evbuffer_add_printf(out, "qgs_bridge_%s{vm=\"%s\"} %" PRIu64 "\n",
						    of_vm[i].name, vm->key,
						    value_at(&vm->counts, of_vm[i].offset));
		evbuffer_add_printf(out, "qgs_bridge_%s{vm=\"other\"} %" PRIu64 "\n", of_vm[i].name,
				    value_at(&other, of_vm[i].offset));
	}
}

void metrics_write(void *bridge, struct evbuffer *out)
{
	const struct bridge *b = bridge;
	unsigned sockets = 0;

	for (size_t i = 0; i < b->n_entrances; i++)
		sockets += entrance_sockets(b->entrances[i]);
	head(out, "build_info", "gauge", "Always 1; the version is the label.");
	evbuffer_add_printf(out, "qgs_bridge_build_info{version=\"" VERSION "\"} 1\n");
	one(out, "sockets", "gauge", "Sockets of listeners that are open.", sockets);
	one(out, "connections", "gauge", "Connections from guests.", b->connections);
	one(out, "accepted_total", "counter", "Connections taken in or turned away.", b->next_id);
	one(out, "accept_paused_total", "counter",
	    "Times accept paused: connection limit, or no descriptors.",
	    counter_get(&b->worker->counters.value[COUNTER_ACCEPT_PAUSED]));
	by_reason(out, "requests_total", "Requests to QGS, by how they ended (eof: answered).",
		  b->requests);
	by_reason(out, "streams_total", "Streams to the relay, by how they ended.", b->streams);
	by_reason(out, "refused_total", "Callers turned away when they came.", b->refused);
	write_qgs(b, out);
	write_pool(b, out);
	write_vms(b, out);
}
