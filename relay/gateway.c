/*
 * gateway: puts the parts of attest-relay together and takes them apart again.
 *
 * Theory of operation: prepare opens every socket first (so that all that is wrong is said at
 * once), then makes the workers; start starts their threads. Reloads are gateway_reload.c's.
 * Draining closes the listeners, tells HTTP/2 clients to open no more streams, and waits for
 * streams to end and for those clients to have them whole, at most timeouts.drain; ending cuts what
 * is left, tells the agents, and stops each worker when its last conduit is gone, or after END_MS.
 * One whose loop hangs is left behind.
 */
#include "relay/gateway.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "relay/audit.h"
#include "relay/enrolment.h"
#include "relay/figures.h"
#include "relay/gateway_private.h"
#include "relay/intake.h"
#include "relay/listener.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/outset.h"
#include "relay/probe.h"
#include "relay/process.h"
#include "relay/proxied.h"
#include "relay/registry.h"
#include "relay/sockets.h"
#include "relay/tls.h"

#define FDS_RESERVED 512 /* listeners, loops, pipes, resolver, log; of few, a quarter */
#define PIPES_MIN 4      /* per worker, for splice(2) */
#define END_MS 3000      /* lingering closes take 2 s at most */
#define END_TICK_MS 20
#define HANG_MS 5000  /* and then a worker hangs that has not ended */
#define SWEEP_MS 1000 /* how late an end by time may come */

void gateway_fit_descriptors(struct gateway *g, const struct relay_config *c)
{
	const uint64_t wanted = c->limits.connections;
	uint64_t most = wanted * 2, fit = most, reserved = FDS_RESERVED;

	if (g->files_max) {
		reserved = g->files_max / 4 < reserved ? g->files_max / 4 : reserved;
		fit = g->files_max - reserved;
	}
	if (fit < most) {
		log_warning("limits.connections is %llu but descriptors allow %llu tunnels and "
			    "streams in tunnels, or %llu clients of other targets: raise "
			    "LimitNOFILE= (ulimit -n) to %llu",
			    (unsigned long long)wanted,
			    (unsigned long long)(fit < wanted ? fit : wanted),
			    (unsigned long long)(fit / 2),
			    (unsigned long long)(wanted * 2 + FDS_RESERVED));
		most = fit;
	}
	atomic_store(&g->connections_max, fit < wanted ? fit : wanted);
	atomic_store(&g->descriptors_max, most);
	atomic_store(&g->pipes_max, g->files_max ? (g->files_max - most - reserved / 2) / 2 : 0);
}

/* Sockets there are: also those that nobody counts any more, since they only still close. */
static uint64_t live_sockets(const struct gateway *g)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < g->n_workers; i++)
		n += counter_get(&g->workers[i]->counters.value[COUNTER_LIVE_SOCKETS]);
	return n;
}

/* One more, for which so many descriptors are counted, whatever comes of it. */
static const char *begin(struct gateway *g, unsigned descriptors)
{
	const char *short_of = NULL;

	/* taken first, so that workers together never go over */
	if (atomic_fetch_add(&g->connections, 1) >= counter_get(&g->connections_max))
		short_of = "the connection limit is reached (limits.connections)";
	if (atomic_fetch_add(&g->descriptors, descriptors) + descriptors >
		    counter_get(&g->descriptors_max) &&
	    !short_of)
		short_of = "all descriptors are set aside (LimitNOFILE=)";
	if (!short_of && live_sockets(g) + descriptors > counter_get(&g->descriptors_max))
		short_of = "too many connections are still closing";
	return short_of;
}

static void end(struct gateway *g, unsigned descriptors)
{
	atomic_fetch_sub_explicit(&g->connections, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&g->descriptors, descriptors, memory_order_relaxed);
}

const char *gateway_connection_begin(struct gateway *g)
{
	const char *short_of = begin(g, 2);

	if (short_of)
		end(g, 2);
	return short_of;
}

void gateway_connection_none(struct gateway *g)
{
	end(g, 2);
}

static void leave(struct source *source)
{
	quota_give(&source->quota, QUOTA_CONNECTIONS);
	source_put(source);
}

/* There are nearly as many as there may be, and this source has more than its part of them. */
static bool is_crowding(struct gateway *g, const struct source *s)
{
	const uint64_t most = counter_get(&g->connections_max), part = most / GATEWAY_CROWDED_PART;
	const uint64_t fair = part > GATEWAY_CROWDED_LEAST ? part : GATEWAY_CROWDED_LEAST;

	return counter_get(&g->connections) > most - most / 8 &&
	       quota_used(&s->quota, QUOTA_CONNECTIONS) > fair;
}

static const char crowded[] =
	"limits.connections: nearly all are in use, so that no source may have many";

/* One more of this source, counted by begin already. NULL, or the setting that says no. */
static const char *take(struct gateway *g, struct source *s)
{
	if (!quota_take(&s->quota, QUOTA_CONNECTIONS))
		return "limits.per_source.connections";
	if (!is_crowding(g, s))
		return NULL;
	quota_give(&s->quota, QUOTA_CONNECTIONS);
	return crowded;
}

enum reason gateway_connection_from(struct gateway *g, struct client *client, uint64_t now,
				    const char **setting)
{
	struct source *s = sources_get(g->tenants.sources, &client->peer, now);
	bool blocked = source_is_blocked(s, &client->peer, now);

	if (client->source)
		leave(client->source);
	client->source = NULL;
	*setting = blocked ? "penalties" : take(g, s);
	if (!*setting) {
		client->source = s;
		return REASON_NONE;
	}
	source_put(s);
	end(g, 2);
	return blocked ? REASON_PENALTY : REASON_SOURCE_LIMIT;
}

void gateway_connection_unknown(struct gateway *g, struct client *client)
{
	client->source = sources_unknown(g->tenants.sources);
	quota_count(&client->source->quota, QUOTA_CONNECTIONS);
}

void gateway_connection_over(struct source *source)
{
	end(gateway_of_source(source), 2);
	leave(source);
}

void gateway_failed_to_authenticate(const struct client *client, uint64_t now)
{
	char from[CLIENT_TEXT_MAX];

	if (source_failed(client->source, &client->peer, now))
		log_limited(LOG_LEVEL_WARNING, NULL, 0,
			    "%s has failed to authenticate too often: blocked (penalties)",
			    client_format(client, from, sizeof(from)));
}

enum reason gateway_stream_begin(struct source *source, const char **setting)
{
	struct gateway *g = gateway_of_source(source);

	*setting = "limits.per_source.connections";
	if (!quota_take(&source->quota, QUOTA_CONNECTIONS))
		return REASON_SOURCE_LIMIT;
	source_hold(source);
	*setting = begin(g, 1);
	if (!*setting && !is_crowding(g, source))
		return REASON_NONE;
	gateway_stream_over(source);
	if (*setting)
		return REASON_LIMIT;
	*setting = crowded;
	return REASON_SOURCE_LIMIT;
}

void gateway_stream_over(struct source *source)
{
	end(gateway_of_source(source), 1);
	leave(source);
}

void gateway_recheck(struct gateway_worker *gw, const struct settings *before)
{
	opening_recheck(gw, before);
	gw->gateway->tunnel.recheck(gw->worker, before);
	gw->gateway->h2.recheck(gw->worker, before);
}

static void on_sweep(struct timer *t)
{
	struct gateway_worker *gw =
		(struct gateway_worker *)((char *)t - offsetof(struct gateway_worker, sweep));

	gateway_take_orders(gw->worker, NULL);
	gateway_recheck(gw, NULL);
	timer_set(gw->worker, t, SWEEP_MS, on_sweep);
}

void gateway_set_shares(struct worker *w)
{
	struct gateway_worker *gw = gateway_worker(w);
	const struct gateway *g = gw->gateway;
	const uint64_t n = g->n_workers, pipes = counter_get(&g->pipes_max) / n;

	gw->handshakes.max = (gw->settings->config->limits.handshakes + n - 1) / n;
	w->pipes_max = pipes < PIPES_MIN          ? PIPES_MIN
		       : pipes < WORKER_PIPES_MAX ? (unsigned)pipes
						  : WORKER_PIPES_MAX;
}

static bool open_sockets(struct gateway *g)
{
	char *why;

	g->sockets = sockets_open(NULL, g->config, NULL, &why);
	if (!g->sockets)
		log_error("%s", why ? why : "listeners: out of memory");
	free(why);
	return g->sockets;
}

static bool make_worker(struct gateway *g, unsigned index)
{
	struct gateway_worker *gw = calloc(1, sizeof(*gw));
	struct worker *w = worker_new(index);

	if (!gw || !w) {
		free(gw);
		worker_free(w);
		return false;
	}
	gw->gateway = g;
	gw->worker = w;
	gw->settings = settings_ref(g->settings);
	gw->joined_last = &gw->joined;
	gw->handshakes.tenants = &g->tenants;
	w->user = gw;
	g->workers[g->n_workers++] = w;
	timer_set(w, &gw->sweep, SWEEP_MS, on_sweep);
	for (size_t i = 0; i < g->config->n_listeners; i++) {
		struct listener *l = listener_new(g, w, g->settings, &g->config->listeners[i],
						  g->sockets->at[i]);

		if (!l)
			return false;
		listener_start(l);
		l->next = gw->listeners;
		gw->listeners = l;
	}
	return g->tunnel.start(w);
}

/* Those that this process may run on: a cpuset, or taskset(1), may leave it few of many. */
static unsigned processors(void)
{
	const long all = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t ours;

	if (sched_getaffinity(0, sizeof(ours), &ours) == 0)
		return (unsigned)CPU_COUNT(&ours);
	return all > 0 ? (unsigned)all : 1; /* more than a cpu_set_t has room for */
}

static bool make_workers(struct gateway *g)
{
	unsigned n = g->config->workers ? g->config->workers : processors();

	if (n > WORKERS_MAX)
		n = WORKERS_MAX;
	g->figures = figures_new(n);
	if (!g->figures || !figures_declare(g->figures, g->config))
		return false;
	for (unsigned i = 0; i < n; i++)
		if (!make_worker(g, i))
			return false;
	for (unsigned i = 0; i < n; i++)
		gateway_set_shares(g->workers[i]);
	g->prober = prober_new(g->workers[0]);
	return g->prober;
}

static bool make_settings(struct gateway *g)
{
	char *why;

	g->settings = settings_new((struct relay_config *)g->config, NULL, &why);
	if (!g->settings)
		log_error("%s", why ? why : "settings: out of memory");
	free(why);
	return g->settings;
}

static bool check_enrolment(const struct gateway *g)
{
	char *why;
	bool good = enrolment_check(g->config, &why);

	if (!good)
		log_error("%s", why ? why : "enrolment: out of memory");
	free(why);
	return good;
}

bool gateway_prepare(struct gateway *g)
{
	pthread_mutex_init(&g->lock, NULL);
	gateway_init_exchanged(g);
	g->files_max = outset_descriptors();
	gateway_fit_descriptors(g, g->config);
	process_open();
	g->registry = registry_new();
	if (!check_enrolment(g) || !make_settings(g) || !open_sockets(g))
		return false;
	listener_warn_of_strangers(g);
	if (!g->registry || !tenants_init(&g->tenants, g->settings->config, g) ||
	    !make_workers(g)) {
		log_error("cannot make the workers: %s", strerror(errno));
		return false;
	}
	atomic_store(&g->generation, g->settings->generation);
	atomic_store(&g->reloaded_at, settings_now());
	return true;
}

static void begin_probes(struct worker *w, void *arg)
{
	gateway_exchange_probes(w, NULL);
}

bool gateway_start(struct gateway *g)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		gateway_worker(g->workers[i])->audit = g->audit;
	for (unsigned i = 0; i < g->n_workers; i++) {
		int r = worker_start(g->workers[i]);

		if (r < 0) {
			log_error("cannot start a worker's thread: %s", strerror(-r));
			return false;
		}
	}
	return worker_post(g->workers[0], begin_probes, NULL) == 0;
}

/* ---- the end ---- */

static void stop_listening(struct worker *w, void *arg)
{
	struct gateway_worker *gw = gateway_worker(w);

	if (gw->stopped)
		return;
	gw->stopped = true;
	for (struct listener *l = gw->listeners; l; l = l->next)
		listener_stop(l);
	gw->gateway->h2.drain(w);
	gw->gateway->tunnel.advise(w);
}

void gateway_drain(struct gateway *g)
{
	atomic_store(&g->draining, true);
	for (unsigned i = 0; i < g->n_workers; i++)
		worker_post(g->workers[i], stop_listening, NULL);
	/* the last worker to stop closes them: from then on connecting is refused */
	g->sockets = sockets_close(g->sockets);
}

bool gateway_is_idle(const struct gateway *g)
{
	uint64_t live = atomic_load(&g->moving);

	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct counters *c = &g->workers[i]->counters;

		live += counter_get(&c->value[COUNTER_LIVE_INTAKES]) +
			counter_get(&c->value[COUNTER_LIVE_OPENINGS]) +
			counter_get(&c->value[COUNTER_LIVE_SPLICES]) +
			/* a stream's last bytes may wait for its window when its splice is over */
			counter_get(&c->value[COUNTER_LIVE_H2_CLIENTS]);
	}
	return live == 0;
}

void gateway_on_connection_over(void *source)
{
	gateway_connection_over(source);
}

void gateway_on_stream_over(void *source)
{
	gateway_stream_over(source);
}

static void on_ending(struct timer *t)
{
	struct gateway_worker *gw =
		(struct gateway_worker *)((char *)t - offsetof(struct gateway_worker, ending));
	struct worker *w = gw->worker;

	if ((w->conduits == 0 && atomic_load(&gw->gateway->moving) == 0) ||
	    worker_now(w) >= gw->end_at)
		worker_stop(w);
	else
		timer_set(w, t, END_TICK_MS, on_ending);
}

static void end_worker(struct worker *w, void *arg)
{
	struct gateway_worker *gw = gateway_worker(w);

	stop_listening(w, NULL);
	if (w == gw->gateway->workers[0])
		gateway_end_probes(w);
	proxied_end_all(gw);
	intake_end_all(gw);
	enrolment_end_all(gw);
	opening_end_all(gw, REASON_SHUTDOWN);
	gw->gateway->tunnel.shutdown(w);
	gw->gateway->h2.shutdown(w);
	gw->end_at = worker_now(w) + END_MS;
	timer_set(w, &gw->ending, END_TICK_MS, on_ending);
}

bool gateway_end(struct gateway *g)
{
	bool all = true;

	atomic_store(&g->ending, true); /* from now on nothing moves between workers */
	for (unsigned i = 0; i < g->n_workers; i++)
		if (worker_post(g->workers[i], end_worker, NULL) < 0)
			worker_stop(g->workers[i]);
	g->sockets = sockets_close(g->sockets);
	for (unsigned i = 0; i < g->n_workers; i++)
		if (!worker_join_within(g->workers[i], all ? END_MS + HANG_MS : HANG_MS)) {
			log_error("worker %u hangs; ending without it", i);
			all = false;
		}
	return all;
}

static void free_worker(struct gateway *g, struct worker *w)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct listener *l;

	while ((l = gw->listeners)) {
		gw->listeners = l->next;
		acceptor_abandon(&l->acceptor); /* its thread may never have run */
		listener_unref(l);
	}
	timer_cancel(w, &gw->sweep);
	g->tunnel.stop(w);
	settings_unref(gw->settings);
	gateway_free_orders(atomic_load(&gw->orders));
	worker_free(w);
	free(gw);
}

void gateway_deinit(struct gateway *g)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		free_worker(g, g->workers[i]);
	g->n_workers = 0;
	audit_stop(g->audit_before);
	g->sockets = sockets_close(g->sockets);
	registry_free(g->registry);
	prober_free(g->prober);
	tenants_deinit(&g->tenants);
	settings_unref(g->settings);
	figures_free(g->figures);
	process_close();
}
