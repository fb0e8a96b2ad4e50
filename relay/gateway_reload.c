/*
 * gateway_reload: another config takes effect in a running relay, whole or not at all.
 *
 * Theory of operation: the main thread first makes all that the new config needs and the old one
 * does not have: sockets, settings (with certificates read), tenants, the audit's sink, and for
 * each worker a set of listeners. Any of it can fail; then it is all thrown away. From there on
 * nothing can fail: limits are set, and each worker gets its orders, which it takes in its own
 * thread, between two turns of nothing else:
 *
 *   listeners   those whose name is gone take in who is in their queue already, by the old
 *               settings, and stop; those that stay get their new config, and, if their address is
 *               another one, the new socket in the same way; the new ones start
 *   settings    exchanged
 *   the rest    its part of limits, where its audit records go, which targets are probed
 *   what lives  is judged by the new settings; what these do not allow ends
 *
 * The main thread waits until all have done so: what came of it holds for whoever asked, the next
 * reload finds sockets closed that this one gave up, and the old audit has been told everything.
 *
 * Streams keep what they began with: their destination, their listener's name. So a listener or a
 * service that is gone ends none; what ends them is that they may not be there any more.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "relay/audit.h"
#include "relay/destination.h"
#include "relay/enrolment.h"
#include "relay/figures.h"
#include "relay/gateway_private.h"
#include "relay/listener.h"
#include "relay/log.h"
#include "relay/opening_log.h"
#include "relay/probe.h"
#include "relay/sockets.h"
#include "relay/why.h"

/* What one worker is to do. */
struct orders {
	struct settings *settings;
	struct audit *audit; /* the gateway's */
	size_t n;
	struct listener *listeners[]; /* of settings->config; not started. NULL: taken */
};

/* Two configs side by side, until one of them goes. */
struct change {
	struct gateway *g;
	struct settings *settings;
	struct sockets *sockets;
	struct tenants_next tenants;
	struct audit *audit;
	bool other_audit; /* than before */
	struct orders *orders[WORKERS_MAX];
};

/* ---- a worker's part ---- */

void gateway_free_orders(struct orders *o)
{
	if (!o)
		return;
	for (size_t i = 0; i < o->n; i++)
		listener_unref(o->listeners[i]);
	settings_unref(o->settings);
	free(o);
}

static struct orders *orders_new(struct gateway *g, struct worker *w, struct settings *s,
				 const struct sockets *sockets)
{
	size_t n = s->config->n_listeners;
	struct orders *o = calloc(1, sizeof(*o) + n * sizeof(struct listener *));

	if (!o)
		return NULL;
	o->settings = settings_ref(s);
	o->n = n;
	for (size_t i = 0; i < n; i++) {
		o->listeners[i] = listener_new(g, w, s, &s->config->listeners[i], sockets->at[i]);
		if (!o->listeners[i]) {
			gateway_free_orders(o);
			return NULL;
		}
	}
	return o;
}

/* The new listener of this name; NULL: there is none. */
static struct listener *take(struct orders *o, const char *name)
{
	for (size_t i = 0; i < o->n; i++) {
		struct listener *l = o->listeners[i];

		if (!l || strcmp(l->name, name) != 0)
			continue;
		o->listeners[i] = NULL;
		return l;
	}
	return NULL;
}

static void exchange_listeners(struct gateway_worker *gw, struct orders *o)
{
	struct listener **at = &gw->listeners, *l, *now;

	if (gw->stopped) /* it drains: nobody listens again */
		return;
	while ((l = *at)) {
		now = take(o, l->name);
		if (now) {
			listener_become(l, now);
			listener_unref(now);
			at = &l->next;
		} else {
			*at = l->next;
			listener_stop(l);
			listener_unref(l);
		}
	}
	for (size_t i = 0; i < o->n; i++) {
		if (!o->listeners[i])
			continue;
		*at = o->listeners[i];
		at = &(*at)->next;
		listener_start(o->listeners[i]);
		o->listeners[i] = NULL;
	}
}

void gateway_exchange_probes(struct worker *w, const struct settings *before)
{
	const struct settings *now = gateway_worker(w)->settings;
	struct prober *b = gateway_worker(w)->gateway->prober;
	const size_t n = now->config->n_services;

	prober_set_timeout(b, now->config->timeouts.dial);
	for (size_t i = 0; i < n; i++) {
		now->destinations[i]->probed = now->generation;
		probes_begin(now->destinations[i]->probes, b, i, n);
	}
	for (size_t i = 0; before && i < before->config->n_services; i++)
		if (before->destinations[i]->probed != now->generation)
			probes_end(before->destinations[i]->probes);
	prober_go_on(b);
}

void gateway_end_probes(struct worker *w)
{
	const struct settings *now = gateway_worker(w)->settings;

	for (size_t i = 0; i < now->config->n_services; i++)
		probes_end(now->destinations[i]->probes);
}

void gateway_take_orders(struct worker *w, void *unused)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct orders *o = atomic_exchange(&gw->orders, NULL);
	struct settings *before = gw->settings;
	struct gateway *g = gw->gateway;

	if (!o)
		return;
	exchange_listeners(gw, o);
	gw->settings = settings_ref(o->settings);
	gw->audit = o->audit;
	gateway_free_orders(o);
	gateway_set_shares(w);
	opening_log_reloaded(gw);
	if (w == g->workers[0] && !gw->end_at)
		gateway_exchange_probes(w, before);
	gateway_recheck(gw, before);
	settings_unref(before);
	pthread_mutex_lock(&g->lock);
	atomic_store(&gw->generation, gw->settings->generation);
	pthread_mutex_unlock(&g->lock);
	pthread_cond_signal(&g->exchanged);
}

/* ---- making it ---- */

static bool same_text(const char *a, const char *b)
{
	return !a == !b && (!a || strcmp(a, b) == 0);
}

static bool same_audit(const struct relay_config *a, const struct relay_config *b)
{
	return a->audit.target == b->audit.target && same_text(a->audit.file, b->audit.file) &&
	       a->log.target == b->log.target; /* which "auto" goes by */
}

static bool same_enrolment(const struct relay_config *a, const struct relay_config *b)
{
	return same_text(a->enrolment.ca, b->enrolment.ca) &&
	       same_text(a->enrolment.key, b->enrolment.key) &&
	       same_text(a->enrolment.folder, b->enrolment.folder);
}

static void set_log(const struct relay_config *c)
{
	log_change((enum log_level)c->log.level, (enum log_format)c->log.format,
		   (enum log_target)c->log.target);
}

/* Behind the system's word, which is the same for a sandbox and for other people's files. */
static void blame_sandbox(char **why)
{
	char *said = *why;

	if (said)
		why_say(why,
			"%s; if the sandbox forbids it, which has only the folders that were named "
			"at the start, this needs a restart",
			said);
	free(said);
}

/* What "auto" leads to is known when the log is set up. */
static bool make_audit(struct change *c, const struct relay_config *config, char **why)
{
	const struct relay_config *before = gateway_config(c->g);

	c->audit = c->g->audit;
	c->other_audit = !same_audit(before, config);
	if (!c->other_audit)
		return true;
	set_log(config);
	if (audit_start(&c->audit, &config->audit, why) == 0)
		return true;
	c->audit = NULL;
	set_log(before);
	blame_sandbox(why);
	return false;
}

static bool make_orders(struct change *c)
{
	for (unsigned i = 0; i < c->g->n_workers; i++) {
		c->orders[i] = orders_new(c->g, c->g->workers[i], c->settings, c->sockets);
		if (!c->orders[i])
			return false;
		c->orders[i]->audit = c->audit;
	}
	return true;
}

/* Without effect, but on log and audit, which come last. False and *why. */
static bool make(struct change *c, struct relay_config *config, const struct names *names,
		 char **why)
{
	const struct relay_config *before = gateway_config(c->g);
	const char *fixed = relay_config_differs(before, config);

	if (fixed) {
		why_say(why, "%s has changed, which needs a restart", fixed);
		return false;
	}
	if (!c->g->sockets) {
		why_say(why, "not while draining");
		return false;
	}
	if (c->g->audit_before) {
		why_say(why, "a worker is still busy with what it did before the last reload");
		return false;
	}
	if (!same_enrolment(before, config) && !enrolment_check(config, why)) {
		blame_sandbox(why);
		return false;
	}
	c->settings = settings_new(config, c->g->settings, why);
	if (!c->settings || !tenants_prepare(&c->g->tenants, config, &c->tenants) ||
	    !make_audit(c, config, why))
		return false;
	c->sockets = sockets_open(c->g->sockets, config, names, why);
	return c->sockets && make_orders(c);
}

static void unmake(struct change *c)
{
	for (unsigned i = 0; i < c->g->n_workers; i++)
		gateway_free_orders(c->orders[i]);
	if (c->other_audit && c->audit) {
		audit_stop(c->audit);
		set_log(gateway_config(c->g));
	}
	tenants_cancel(&c->tenants);
	sockets_close(c->sockets);
	settings_unref(c->settings);
}

/* ---- its taking effect ---- */

void gateway_init_exchanged(struct gateway *g)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&g->exchanged, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static bool all_have(const struct gateway *g, uint64_t generation)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		if (atomic_load(&gateway_worker(g->workers[i])->generation) < generation)
			return false;
	return true;
}

static bool wait_for_workers(struct gateway *g, uint64_t generation)
{
	struct timespec until;
	bool all;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += RELOAD_WAIT_MS / 1000;
	pthread_mutex_lock(&g->lock);
	while (!(all = all_have(g, generation)) && r == 0)
		r = pthread_cond_timedwait(&g->exchanged, &g->lock, &until);
	pthread_mutex_unlock(&g->lock);
	return all;
}

static void give_orders(struct change *c)
{
	for (unsigned i = 0; i < c->g->n_workers; i++) {
		struct worker *w = c->g->workers[i];

		gateway_free_orders(atomic_exchange(&gateway_worker(w)->orders, c->orders[i]));
		worker_post(w, gateway_take_orders, NULL); /* or at its next sweep */
	}
}

/* Nobody writes to it any more, or it has to wait for that. */
static void stop_audit_before(struct gateway *g)
{
	if (!all_have(g, g->settings->generation))
		return;
	audit_stop(g->audit_before);
	g->audit_before = NULL;
}

static void take_effect(struct change *c, const struct relay_config *config)
{
	struct gateway *g = c->g;
	struct settings *settings = g->settings;
	struct sockets *sockets = g->sockets;

	set_log(config);
	/* without memory for it new names are counted with others */
	figures_declare(g->figures, config);
	tenants_apply(&g->tenants, c->settings->config, &c->tenants);
	if (config->limits.connections != settings->config->limits.connections)
		gateway_fit_descriptors(g, config);
	if (c->other_audit)
		g->audit_before = g->audit;
	g->settings = c->settings;
	g->sockets = c->sockets;
	g->audit = c->audit;
	sockets_yield(sockets, c->sockets);
	give_orders(c);
	settings_unref(settings);
	sockets_close(sockets);
	if (!wait_for_workers(g, g->settings->generation))
		log_warning("reload: a worker is busy, and goes by the new config when it is not");
	stop_audit_before(g);
}

bool gateway_reload(struct gateway *g, struct relay_config *config, const struct names *names,
		    char **why)
{
	struct change c = { .g = g };

	*why = NULL;
	stop_audit_before(g);
	if (!make(&c, config, names, why)) {
		unmake(&c);
		atomic_fetch_add(&g->reload_failures, 1);
		log_error("reload: %s", *why ? *why : "out of memory");
		log_error("reload: nothing has changed");
		return false;
	}
	take_effect(&c, config);
	listener_warn_of_strangers(g);
	atomic_store(&g->generation, g->settings->generation);
	atomic_store(&g->reloaded_at, settings_now());
	atomic_fetch_add(&g->reloads, 1);
	return true;
}
