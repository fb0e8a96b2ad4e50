/*
 * registry: services and the tunnels that offer them.
 *
 * Theory of operation: a sorted array of entries (service, tunnel), found by bisection; entries of
 * one service stand in the order in which their tunnels came, so the first is the primary and the
 * next its backup. Tunnels themselves hang in a list, for take-over and limits. One mutex; held for
 * one look-up or one change, never while anything else is called.
 *
 * Limits: tunnels by config; services per tunnel by the hello's own bound.
 */
#include "relay/registry.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct entry {
	char *service;
	const struct registration *tunnel;
	bool eager;
};

struct registry {
	pthread_mutex_t lock;
	struct entry *entries;
	size_t n, room;
	struct registration *tunnels;
	size_t n_tunnels;
};

struct registry *registry_new(void)
{
	struct registry *r = calloc(1, sizeof(*r));

	if (r)
		pthread_mutex_init(&r->lock, NULL);
	return r;
}

struct registry *registry_free(struct registry *r)
{
	if (!r)
		return NULL;
	for (size_t i = 0; i < r->n; i++)
		free(r->entries[i].service);
	free(r->entries);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return NULL;
}

/* The first entry that is not before service. */
static size_t lower_bound(const struct registry *r, const char *service)
{
	size_t from = 0, to = r->n;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (strcmp(r->entries[middle].service, service) < 0)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

static void drop_entries(struct registry *r, const struct registration *t)
{
	size_t kept = 0;

	for (size_t i = 0; i < r->n; i++) {
		if (r->entries[i].tunnel == t)
			free(r->entries[i].service);
		else
			r->entries[kept++] = r->entries[i];
	}
	r->n = kept;
}

static bool make_room(struct registry *r, size_t more)
{
	size_t room = r->room ? r->room : 64;
	struct entry *entries;

	while (room < r->n + more)
		room *= 2;
	if (room == r->room)
		return true;
	entries = realloc(r->entries, room * sizeof(*entries));
	if (!entries)
		return false;
	r->entries = entries;
	r->room = room;
	return true;
}

static bool insert(struct registry *r, const struct registration *t, const struct offered *offered)
{
	char *service = strdup(offered->service);
	size_t at;

	if (!service)
		return false;
	at = lower_bound(r, service);
	while (at < r->n && strcmp(r->entries[at].service, service) == 0)
		at++; /* behind those that came before */
	memmove(&r->entries[at + 1], &r->entries[at], (r->n - at) * sizeof(struct entry));
	r->entries[at] = (struct entry){ service, t, offered->eager };
	r->n++;
	return true;
}

/* A successor stands where its predecessor stood: a primary that reconnects stays the primary. */
static bool inherit(struct registry *r, const struct registration *t,
		    const struct registration *old, const struct offered *offered)
{
	for (size_t at = lower_bound(r, offered->service);
	     at < r->n && strcmp(r->entries[at].service, offered->service) == 0; at++) {
		if (r->entries[at].tunnel != old)
			continue;
		r->entries[at].tunnel = t;
		r->entries[at].eager = offered->eager;
		return true;
	}
	return false;
}

/* old may be NULL. Out of memory: old has lost what t had inherited; the caller lets t go. */
static bool add_entries(struct registry *r, const struct registration *t,
			const struct registration *old, const struct offered *services, size_t n)
{
	if (!make_room(r, n))
		return false;
	for (size_t i = 0; i < n; i++) {
		if ((old && inherit(r, t, old, &services[i])) || insert(r, t, &services[i]))
			continue;
		drop_entries(r, t);
		return false;
	}
	return true;
}

/*
 * The instance's own earlier session, if it is to be replaced or stands in the way; and how many
 * tunnels count against the owner's limit. A retiring one counts, since it takes a place until it
 * has finished; but one of the same instance does not, or a restart in order would have to wait.
 */
static struct registration *predecessor(const struct registry *r, const struct registration *t,
					uint64_t *owned)
{
	struct registration *found = NULL;
	bool excused = false;

	*owned = 0;
	for (struct registration *i = r->tunnels; i; i = i->next) {
		bool same = strcmp(i->instance, t->instance) == 0;

		if (strcmp(i->owner, t->owner) != 0)
			continue;
		if (i->retiring && same && !excused)
			excused = true;
		else
			++*owned;
		if (!i->retiring && same)
			found = i;
	}
	return found;
}

static void unlink_tunnel(struct registry *r, struct registration *t)
{
	for (struct registration **p = &r->tunnels; *p; p = &(*p)->next) {
		if (*p != t)
			continue;
		*p = t->next;
		r->n_tunnels--;
		return;
	}
}

static enum reason add(struct registry *r, struct registration *t, const struct offered *services,
		       size_t n, uint64_t max_per_owner, uint64_t max, struct offer *stale)
{
	uint64_t owned;
	struct registration *old = predecessor(r, t, &owned);

	if (old && old->generation >= t->generation)
		return REASON_STALE;
	if (!old && (owned >= max_per_owner || r->n_tunnels >= max))
		return REASON_LIMIT;
	if (!add_entries(r, t, old, services, n))
		return REASON_NO_MEMORY;
	if (old) {
		*stale = (struct offer){ .worker = old->worker, .tunnel = old->tunnel };
		drop_entries(r, old);
		unlink_tunnel(r, old);
	}
	t->next = r->tunnels;
	r->tunnels = t;
	r->n_tunnels++;
	return REASON_NONE;
}

enum reason registry_add(struct registry *r, struct registration *t, const struct offered *services,
			 size_t n, uint64_t max_per_owner, uint64_t max, struct offer *stale)
{
	enum reason why;

	memset(stale, 0, sizeof(*stale));
	pthread_mutex_lock(&r->lock);
	why = add(r, t, services, n, max_per_owner, max, stale);
	pthread_mutex_unlock(&r->lock);
	return why;
}

void registry_retire(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	t->retiring = true;
	drop_entries(r, t);
	pthread_mutex_unlock(&r->lock);
}

void registry_remove(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	drop_entries(r, t);
	unlink_tunnel(r, t);
	pthread_mutex_unlock(&r->lock);
}

bool registry_pick(struct registry *r, const char *service, uint64_t not, struct offer *offer)
{
	bool found = false;
	size_t at;

	pthread_mutex_lock(&r->lock);
	for (at = lower_bound(r, service);
	     !found && at < r->n && strcmp(r->entries[at].service, service) == 0; at++) {
		const struct entry *e = &r->entries[at];

		found = e->tunnel->tunnel != not;
		if (found)
			*offer = (struct offer){ e->tunnel->worker, e->tunnel->tunnel, e->eager };
	}
	pthread_mutex_unlock(&r->lock);
	return found;
}

size_t registry_tunnels(struct registry *r)
{
	size_t n;

	pthread_mutex_lock(&r->lock);
	n = r->n_tunnels;
	pthread_mutex_unlock(&r->lock);
	return n;
}

size_t registry_services(struct registry *r)
{
	size_t n;

	pthread_mutex_lock(&r->lock);
	n = r->n;
	pthread_mutex_unlock(&r->lock);
	return n;
}
