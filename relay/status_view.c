/*
 * status_view: gathers what the status page shows.
 *
 * Theory of operation: everything is looked at once: counters of workers, figures by name, quotas,
 * the registry. Of lists that may be long, those in trouble come first and at most so many are
 * kept, so that a page has a bound whatever a config names or agents offer.
 */
#include "relay/status_view.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "relay/gateway.h"
#include "relay/history.h"
#include "relay/quota.h"
#include "relay/router.h"
#include "relay/settings.h"
#include "relay/source.h"

static uint64_t sum(const struct gateway *g, enum counter which)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < g->n_workers; i++)
		total += counter_get(&g->workers[i]->counters.value[which]);
	return total;
}

static bool is_wanted(const struct status_view *v, const char *name)
{
	return !*v->filter || strcasestr(name, v->filter);
}

/* ---- services ---- */

/* Trouble first; the names are in order already. */
static int by_trouble(const void *one, const void *other)
{
	const struct status_service *a = one, *b = other;
	int down = (int)status_service_is_down(b) - (int)status_service_is_down(a);

	return down ? down : strcmp(a->name, b->name);
}

static int by_row_name(const void *name, const void *row)
{
	return strcmp(name, ((const struct figures_row *)row)->name);
}

/* So many rows are in the order of their names. */
static void expect(const struct figures_rows *rows, bool *expected, const char *name)
{
	const struct figures_row *row;
	char lower[SERVICE_NAME_MAX];
	size_t i;

	for (i = 0; name[i] && i + 1 < sizeof(lower); i++)
		lower[i] = (char)tolower((unsigned char)name[i]);
	lower[i] = '\0';
	row = bsearch(lower, rows->at, rows->n - 1, sizeof(*rows->at), by_row_name);
	if (row)
		expected[row - rows->at] = true;
}

/* Which rows the config names; to be freed. NULL: out of memory. */
static bool *expected_rows(const struct figures_rows *rows, const struct relay_config *c)
{
	bool *expected = calloc(rows->n + 1, sizeof(*expected));

	for (size_t i = 0; expected && i < c->n_services; i++)
		expect(rows, expected, c->services[i].name);
	for (size_t i = 0; expected && i < c->n_listeners; i++)
		if (c->listeners[i].service)
			expect(rows, expected, c->listeners[i].service);
	return expected;
}

static bool is_empty(const struct figures_row *row)
{
	for (unsigned i = 0; i < FIGURE_COUNTS; i++)
		if (row->value[i])
			return false;
	return true;
}

static bool take_services(struct status_view *v, const struct gateway *g)
{
	bool *expected;

	if (!figures_read(g->figures, FIGURES_SERVICES, &v->rows))
		return false;
	v->services = calloc(v->rows.n + 1, sizeof(*v->services));
	expected = expected_rows(&v->rows, g->settings->config);
	if (!v->services || !expected) {
		free(expected);
		return false;
	}
	for (size_t i = 0; i < v->rows.n; i++) {
		const struct figures_row *row = &v->rows.at[i];
		struct status_service *s = &v->services[v->n_services];

		s->name = row->name;
		s->expected = expected[i];
		s->known = reach_of(g, row->name, &s->reach);
		if (!is_wanted(v, row->name) || (!s->known && is_empty(row)))
			continue;
		s->live = row->value[FIGURE_LIVE];
		s->parked = row->value[FIGURE_PARKED];
		s->streams = row->value[FIGURE_STREAMS];
		s->up = row->value[FIGURE_UP];
		s->down = row->value[FIGURE_DOWN];
		v->n_services++;
	}
	free(expected);
	qsort(v->services, v->n_services, sizeof(*v->services), by_trouble);
	if (v->n_services > STATUS_SERVICES_MAX) {
		v->more_services = v->n_services - STATUS_SERVICES_MAX;
		v->n_services = STATUS_SERVICES_MAX;
	}
	return true;
}

/* ---- owners ---- */

static int by_name(const void *one, const void *other)
{
	const struct status_owner *a = one, *b = other;

	return strcmp(a->name, b->name);
}

static bool take_owners(struct status_view *v, const struct gateway *g)
{
	const struct tenants *t = &g->tenants;

	v->owners = calloc(t->n_held + 1, sizeof(*v->owners));
	if (!v->owners)
		return false;
	for (size_t i = 0; i < t->n_held; i++) {
		const struct quota_entry *e = t->held[i];
		const struct quota *q = &e->quota;

		if (e->in != t->owners || !is_wanted(v, e->name))
			continue;
		v->owners[v->n_owners++] = (struct status_owner){
			.name = e->name,
			.tunnels = quota_used(q, QUOTA_TUNNELS),
			.streams = quota_used(q, QUOTA_STREAMS),
			.parked = quota_used(q, QUOTA_PARKED),
			.memory = counter_get(&q->memory),
			.most_tunnels = quota_most(q, QUOTA_TUNNELS),
			.most_streams = quota_most(q, QUOTA_STREAMS),
			.most_parked = quota_most(q, QUOTA_PARKED),
			.most_memory = counter_get(&q->limits->memory),
		};
	}
	qsort(v->owners, v->n_owners, sizeof(*v->owners), by_name);
	if (v->n_owners > STATUS_OWNERS_MAX) {
		v->more_owners = v->n_owners - STATUS_OWNERS_MAX;
		v->n_owners = STATUS_OWNERS_MAX;
	}
	return true;
}

/* ---- limits ---- */

static void take_limits(struct status_view *v, const struct gateway *g)
{
	const struct relay_limits *l = &g->settings->config->limits;
	const struct quota *all = &g->tenants.all;
	const struct quota_limits *each = &g->tenants.source_limits;
	struct sources_census c;

	sources_census(g->tenants.sources, worker_now(g->workers[0]), &c);
	const struct status_limit limits[] = {
		{ "Connections", "limits.connections", v->connections, g->connections_max, false },
		{ "Clients that have not said what they want", "limits.handshakes",
		  quota_used(all, QUOTA_HANDSHAKES), l->handshakes, false },
		{ "Tunnels", "limits.tunnels", v->tunnels, l->tunnels, false },
		{ "Parked streams", "limits.parked", quota_used(all, QUOTA_PARKED), l->parked,
		  false },
		{ "Memory for unread bytes", "limits.memory", counter_get(&all->memory),
		  counter_get(&all->limits->memory), true },
		{ "Connections of the busiest source", "limits.per_source.connections",
		  c.most[QUOTA_CONNECTIONS], counter_get(&each->most[QUOTA_CONNECTIONS]), false },
		{ "Streams of the busiest source", "limits.per_source.streams",
		  c.most[QUOTA_STREAMS], counter_get(&each->most[QUOTA_STREAMS]), false },
		{ "Sources blocked now", "penalties", c.blocked, QUOTA_NO_LIMIT, false },
	};

	_Static_assert(sizeof(limits) / sizeof(limits[0]) <= STATUS_LIMITS_MAX, "all have a place");
	memcpy(v->limits, limits, sizeof(limits));
	v->n_limits = sizeof(limits) / sizeof(limits[0]);
}

/* ---- all of it ---- */

struct status_view *status_view_new(const struct gateway *g, const char *filter)
{
	struct status_view *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->now = settings_now();
	v->history_now = history_now();
	v->history = g->history;
	v->began = g->history ? history_began(g->history) : 0;
	v->draining = atomic_load(&g->draining);
	v->workers = g->n_workers;
	v->reloads = g->settings->generation - 1;
	v->connections = atomic_load(&g->connections);
	v->tunnels = sum(g, COUNTER_LIVE_TUNNELS);
	v->live = sum(g, COUNTER_LIVE_SPLICES);
	v->parked = sum(g, COUNTER_LIVE_PARKED);
	v->filter = filter;
	problems_find(g, &v->problems);
	take_limits(v, g);
	if (!take_services(v, g) || !take_owners(v, g))
		return status_view_free(v);
	return v;
}

struct status_view *status_view_free(struct status_view *v)
{
	if (!v)
		return NULL;
	figures_rows_deinit(&v->rows);
	free(v->services);
	free(v->owners);
	free(v);
	return NULL;
}
