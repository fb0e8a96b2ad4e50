/*
 * entrance: one listener of the config as sockets.
 *
 * Theory of operation: closed or open. While it is open it has a gate for each socket that there is
 * to be: one, or one for each folder that matches (folders.h), gone with its folder. A gate that is
 * new, or that could not be opened ENTRANCE_RETRY_MS ago, is due, and tried at the end of the turn,
 * ENTRANCE_TRIES in one turn. One timer brings back those that failed and looks whether the others
 * are still there.
 *
 * A socket of systemd's cannot be taken away. While the entrance is closed its gate stays open, and
 * whoever comes is closed at once. (Not accepting would have them wait for nothing.)
 *
 * Limits: limits.vms gates, by folders.h.
 */
#include "qgs-bridge/entrance.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/folders.h"
#include "qgs-bridge/gate.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define ENTRANCE_TRIES 32 /* bind(2) and what belongs to it: some 100 us each */

struct entrance {
	struct bridge *bridge;
	const struct entrance_config *config;
	struct folders *folders; /* NULL: no pattern, or not open */
	struct gate *gates;
	struct deferred work; /* some gates are due */
	struct timer timer;
	uint64_t looked; /* when it was last seen that all are there */
	bool open;
};

static bool is_pattern(const struct entrance_config *c)
{
	return (c->address.kind == ADDRESS_UNIX || c->address.kind == ADDRESS_HYBRID) &&
	       folders_is_pattern(c->address.name);
}

static bool is_handed_over(const struct entrance *e)
{
	return e->config->address.kind == ADDRESS_FD;
}

/* --- keeping them open --- */

static void on_timer(struct timer *t);

/* Soon if some failed, else when they are to be looked at. */
static void plan(struct entrance *e)
{
	bool all = e->folders || !is_pattern(e->config);

	uint64_t ms;

	for (const struct gate *g = e->gates; g; g = g->next)
		all &= gate_is_open(g);
	ms = all ? ENTRANCE_LOOK_MS : ENTRANCE_RETRY_MS;
	/* never later: others that come all the time would put it off for ever */
	if (!timer_is_set(&e->timer) || e->timer.at > worker_now(e->bridge->worker) + ms)
		timer_set(e->bridge->worker, &e->timer, ms, on_timer);
}

static void on_work(struct deferred *d)
{
	struct entrance *e = (struct entrance *)((char *)d - offsetof(struct entrance, work));
	unsigned tries = 0;

	for (struct gate *g = e->gates; g; g = g->next) {
		if (!g->due)
			continue;
		if (tries++ == ENTRANCE_TRIES) {
			worker_defer(e->bridge->worker, d);
			return;
		}
		g->due = false;
		gate_open(g);
	}
	plan(e);
}

static void make_due(struct entrance *e, struct gate *g)
{
	g->due = true;
	worker_defer(e->bridge->worker, &e->work);
}

static void start_folders(struct entrance *e);

static void on_timer(struct timer *t)
{
	struct entrance *e = (struct entrance *)((char *)t - offsetof(struct entrance, timer));
	uint64_t now = worker_now(e->bridge->worker);
	bool look = now - e->looked >= ENTRANCE_LOOK_MS;

	if (look)
		e->looked = now;
	if (is_pattern(e->config) && !e->folders)
		start_folders(e);
	for (struct gate *g = e->gates; g; g = g->next)
		if (!gate_is_open(g) || (look && gate_has_vanished(g)))
			make_due(e, g);
	plan(e);
}

/* --- which there are --- */

static struct gate *add_gate(struct entrance *e, const char *name, const char *path)
{
	struct gate *g = gate_new(e->bridge, e->config, name, path);

	if (!g) {
		log_limited(LOG_LEVEL_ERROR, NULL, 0, "listener %s: out of memory",
			    e->config->name);
		return NULL;
	}
	g->next = e->gates;
	g->prevp = &e->gates;
	if (g->next)
		g->next->prevp = &g->next;
	e->gates = g;
	make_due(e, g);
	return g;
}

static void remove_gate(struct gate *g)
{
	*g->prevp = g->next;
	if (g->next)
		g->next->prevp = g->prevp;
	gate_free(g);
}

static void on_came(void *user, const char *name, const char *path)
{
	add_gate(user, name, path);
}

static void on_went(void *user, const char *name)
{
	struct entrance *e = user;

	for (struct gate *g = e->gates; g; g = g->next)
		if (strcmp(g->name, name) == 0) {
			remove_gate(g);
			return;
		}
}

static void start_folders(struct entrance *e)
{
	static const struct folders_events events = { .came = on_came, .went = on_went };

	e->folders = folders_new(e->bridge->worker, e->config->address.name,
				 (unsigned)e->bridge->config->limits.vms, &events, e);
	if (!e->folders)
		log_limited(LOG_LEVEL_ERROR, NULL, 0, "listener %s: %s cannot be watched: %s",
			    e->config->name, e->config->address.name, strerror(errno));
}

/* --- open and close --- */

void entrance_open(struct entrance *e)
{
	if (e->open)
		return;
	e->open = true;
	e->looked = worker_now(e->bridge->worker);
	if (is_pattern(e->config))
		start_folders(e);
	else if (!e->gates)
		add_gate(e, NULL, NULL);
	if (is_handed_over(e) && e->gates)
		e->gates->shut = false;
	plan(e);
	on_work(&e->work); /* at once, if it is one */
}

static void drop_gates(struct entrance *e)
{
	e->folders = folders_free(e->folders);
	while (e->gates)
		remove_gate(e->gates);
	worker_undefer(&e->work);
	timer_cancel(e->bridge->worker, &e->timer);
}

void entrance_close(struct entrance *e)
{
	e->open = false;
	if (!is_handed_over(e)) {
		drop_gates(e);
		return;
	}
	if (!e->gates && !add_gate(e, NULL, NULL))
		return;
	e->gates->shut = true;
	on_work(&e->work);
}

void entrance_drain(struct entrance *e)
{
	for (struct gate *g = e->gates; g; g = g->next)
		gate_drain(g);
}

bool entrance_is_open(const struct entrance *e)
{
	return e->open;
}

unsigned entrance_sockets(const struct entrance *e)
{
	unsigned n = 0;

	for (const struct gate *g = e->gates; g; g = g->next)
		n += gate_is_open(g) && !g->shut;
	return n;
}

int entrance_try(struct entrance *e, char **why)
{
	struct gate *g;
	int r;

	if (e->gates || is_pattern(e->config))
		return 0;
	*why = NULL;
	g = gate_new(e->bridge, e->config, NULL, NULL);
	if (!g)
		return -ENOMEM;
	r = gate_try(g, why);
	gate_free(g);
	return r;
}

/* --- configs --- */

const struct entrance_config *entrance_config(const struct entrance *e)
{
	return e->config;
}

void entrance_adopt(struct entrance *e, const struct entrance_config *config)
{
	e->config = config;
	if (e->folders)
		folders_limit(e->folders, (unsigned)e->bridge->config->limits.vms);
	for (struct gate *g = e->gates; g; g = g->next)
		gate_adopt(g, config);
}

static bool same(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

bool entrance_equal(const struct entrance_config *a, const struct entrance_config *b)
{
	return same(a->name, b->name) && address_equal(&a->address, &b->address) &&
	       a->socket == b->socket && same(a->forward, b->forward) && same(a->owner, b->owner) &&
	       same(a->group, b->group) && same(a->mode, b->mode) &&
	       same(a->directory_mode, b->directory_mode) && same(a->selinux, b->selinux) &&
	       same(a->netns, b->netns);
}

struct entrance *entrance_new(struct bridge *b, const struct entrance_config *config)
{
	struct entrance *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->bridge = b;
	e->config = config;
	e->work.run = on_work;
	return e;
}

struct entrance *entrance_free(struct entrance *e)
{
	if (!e)
		return NULL;
	drop_gates(e);
	free(e);
	return NULL;
}
