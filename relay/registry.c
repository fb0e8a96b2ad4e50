/*
 * registry: services and the tunnels that offer them.
 *
 * Theory of operation: everything is found by a keyed hash, so that no function walks all tunnels,
 * however many are back at once after a restart.
 *
 *   services   name -> its entries in the order in which their tunnels came: the first is the
 *              primary, the next its backup. Each tunnel has its entries in one array.
 *   owners     name -> how many tunnels count against its limit
 *   live       owner and instance -> the tunnel there is; at most one
 *   retiring   the same for those that only finish their streams; any number
 *
 * A name is made by its first holder and goes with the last. One mutex; held for one look-up or one
 * change, never while anything else is called; hashes are computed before. What may fail comes
 * first in a change: it is made as a whole or not at all.
 *
 * Limits: tunnels by config; services per tunnel by the hello's own bound.
 */
#include "relay/registry.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "relay/hash.h"

/* A name in use. Of a service, entries has one for each holder; of an owner, none. */
struct registry_name {
	struct table_node node;
	size_t holders;
	TAILQ_HEAD(registry_order, registry_entry) entries;
	char text[];
};

/* A tunnel's place in the order of one service. */
struct registry_entry {
	const struct registration *tunnel;
	struct registry_name *service;
	uint64_t hash; /* of the service's name */
	TAILQ_ENTRY(registry_entry) order;
	bool eager;
};

struct registry {
	pthread_mutex_t lock;
	struct hash_key key;
	struct table services, owners; /* of struct registry_name */
	struct table live, retiring;   /* of struct registration */
	size_t n_entries;
};

struct registry *registry_new(void)
{
	struct registry *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	pthread_mutex_init(&r->lock, NULL);
	if (hash_key_new(&r->key) < 0 || table_init(&r->services) < 0 ||
	    table_init(&r->owners) < 0 || table_init(&r->live) < 0 || table_init(&r->retiring) < 0)
		return registry_free(r);
	return r;
}

/* ---- names ---- */

static struct registry_name *name_of(struct table_node *node)
{
	return (struct registry_name *)((char *)node - offsetof(struct registry_name, node));
}

static struct registry_name *name_find(const struct table *t, const char *text, uint64_t hash)
{
	struct table_node *node;

	for (node = table_first(t, hash); node; node = table_next(node)) {
		struct registry_name *name = name_of(node);

		if (strcmp(name->text, text) == 0)
			return name;
	}
	return NULL;
}

/* Made if nobody holds it yet. NULL: out of memory. */
static struct registry_name *name_hold(struct table *t, const char *text, uint64_t hash)
{
	struct registry_name *name = name_find(t, text, hash);
	size_t size = strlen(text) + 1;

	if (!name) {
		name = calloc(1, sizeof(*name) + size);
		if (!name)
			return NULL;
		TAILQ_INIT(&name->entries);
		memcpy(name->text, text, size);
		table_insert(t, &name->node, hash);
	}
	name->holders++;
	return name;
}

static void name_drop(struct table *t, struct registry_name *name)
{
	if (!name || --name->holders > 0)
		return;
	table_remove(t, &name->node);
	free(name);
}

/* ---- tunnels ---- */

/* Of both names: with the owner's hash in the key, no two owners' instances collide by intent. */
static uint64_t hash_instance(const struct registry *r, uint64_t owner, const char *instance)
{
	const struct hash_key key = { { r->key.half[0] ^ owner, r->key.half[1] } };

	return hash_string(&key, instance);
}

static struct registration *registration_of(struct table_node *node)
{
	return (struct registration *)((char *)node - offsetof(struct registration, node));
}

/* One with the same owner and instance. */
static struct registration *find_same(const struct table *table, const struct registration *t,
				      uint64_t hash)
{
	struct table_node *node;

	for (node = table_first(table, hash); node; node = table_next(node)) {
		struct registration *found = registration_of(node);

		if (strcmp(found->instance, t->instance) == 0 &&
		    strcmp(found->owner, t->owner) == 0)
			return found;
	}
	return NULL;
}

static void drop_entries(struct registry *r, struct registration *t)
{
	for (size_t i = 0; i < t->n_entries; i++) {
		struct registry_entry *e = &t->entries[i];

		TAILQ_REMOVE(&e->service->entries, e, order);
		name_drop(&r->services, e->service);
	}
	r->n_entries -= t->n_entries;
	free(t->entries);
	t->entries = NULL;
	t->n_entries = 0;
}

static void unlist(struct registry *r, struct registration *t)
{
	if (!t->counted)
		return;
	drop_entries(r, t);
	table_remove(t->retiring ? &r->retiring : &r->live, &t->node);
	name_drop(&r->owners, t->counted);
	t->counted = NULL;
}

static void unlist_all(struct registry *r, struct table *table)
{
	for (size_t i = 0; i < table->buckets; i++)
		while (table->bucket[i])
			unlist(r, registration_of(table->bucket[i]));
}

struct registry *registry_free(struct registry *r)
{
	if (!r)
		return NULL;
	unlist_all(r, &r->live);
	unlist_all(r, &r->retiring);
	table_deinit(&r->live);
	table_deinit(&r->retiring);
	table_deinit(&r->services);
	table_deinit(&r->owners);
	pthread_mutex_destroy(&r->lock);
	free(r);
	return NULL;
}

/* ---- coming ---- */

/* A tunnel on its way into the registry. */
struct arrival {
	struct registration *t;
	struct registry_entry *entries;
	size_t n;
	uint64_t owner, instance; /* hashes */
};

/*
 * May it come in, and in whose place? A retiring tunnel counts against its owner's limit, since it
 * takes a place until it has finished; but one of the same instance does not, or a restart in order
 * would have to wait.
 */
static enum reason judge(const struct registry *r, const struct arrival *a, uint64_t max_per_owner,
			 uint64_t max, struct registration **predecessor)
{
	struct registration *old = find_same(&r->live, a->t, a->instance);
	const struct registry_name *owner = name_find(&r->owners, a->t->owner, a->owner);
	uint64_t owned = owner ? owner->holders : 0;

	if (old && old->generation >= a->t->generation)
		return REASON_STALE;
	if (find_same(&r->retiring, a->t, a->instance))
		owned--;
	if (!old && (owned >= max_per_owner || r->live.n + r->retiring.n >= max))
		return REASON_LIMIT;
	*predecessor = old;
	return REASON_NONE;
}

/* False: out of memory, and nothing is held. */
static bool hold_names(struct registry *r, const struct arrival *a, const struct offered *services)
{
	struct registry_name *owner = name_hold(&r->owners, a->t->owner, a->owner);
	size_t i;

	for (i = 0; owner && i < a->n; i++) {
		struct registry_entry *e = &a->entries[i];

		e->service = name_hold(&r->services, services[i].service, e->hash);
		if (!e->service)
			break;
	}
	if (owner && i == a->n) {
		a->t->counted = owner;
		return true;
	}
	while (i-- > 0)
		name_drop(&r->services, a->entries[i].service);
	name_drop(&r->owners, owner);
	return false;
}

/* The entry of a service. Who comes back mostly offers the same as before: there it is, at guess.
 */
static struct registry_entry *entry_of(const struct registration *t,
				       const struct registry_name *service, size_t guess)
{
	for (size_t i = 0; i < t->n_entries; i++) {
		struct registry_entry *e = &t->entries[(guess + i) % t->n_entries];

		if (e->service == service)
			return e;
	}
	return NULL;
}

/* A successor stands where its predecessor stood: a primary that reconnects stays the primary. */
static void list(struct registry *r, const struct arrival *a, const struct registration *old)
{
	for (size_t i = 0; i < a->n; i++) {
		struct registry_entry *e = &a->entries[i];
		struct registry_entry *place = old ? entry_of(old, e->service, i) : NULL;

		if (place)
			TAILQ_INSERT_BEFORE(place, e, order);
		else
			TAILQ_INSERT_TAIL(&e->service->entries, e, order);
	}
	r->n_entries += a->n;
	a->t->entries = a->entries;
	a->t->n_entries = a->n;
	a->t->retiring = false;
	table_insert(&r->live, &a->t->node, a->instance);
}

static enum reason add(struct registry *r, const struct arrival *a, const struct offered *services,
		       uint64_t max_per_owner, uint64_t max, struct offer *stale)
{
	struct registration *old;
	enum reason why = judge(r, a, max_per_owner, max, &old);

	if (why != REASON_NONE)
		return why;
	if (!hold_names(r, a, services))
		return REASON_NO_MEMORY;
	list(r, a, old);
	if (old) {
		*stale = (struct offer){ .worker = old->worker, .tunnel = old->tunnel };
		unlist(r, old);
	}
	return REASON_NONE;
}

enum reason registry_add(struct registry *r, struct registration *t, const struct offered *services,
			 size_t n, uint64_t max_per_owner, uint64_t max, struct offer *stale)
{
	struct arrival a = { .t = t, .entries = calloc(n, sizeof(*a.entries)), .n = n };
	enum reason why;

	memset(stale, 0, sizeof(*stale));
	if (!a.entries)
		return REASON_NO_MEMORY;
	a.owner = hash_string(&r->key, t->owner);
	a.instance = hash_instance(r, a.owner, t->instance);
	for (size_t i = 0; i < n; i++)
		a.entries[i] = (struct registry_entry){
			.tunnel = t,
			.hash = hash_string(&r->key, services[i].service),
			.eager = services[i].eager,
		};
	pthread_mutex_lock(&r->lock);
	why = add(r, &a, services, max_per_owner, max, stale);
	pthread_mutex_unlock(&r->lock);
	if (why != REASON_NONE)
		free(a.entries);
	return why;
}

/* ---- there, and going ---- */

void registry_retire(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	drop_entries(r, t);
	if (t->counted && !t->retiring) {
		uint64_t hash = t->node.hash;

		table_remove(&r->live, &t->node);
		table_insert(&r->retiring, &t->node, hash);
	}
	t->retiring = true;
	pthread_mutex_unlock(&r->lock);
}

void registry_remove(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	unlist(r, t);
	pthread_mutex_unlock(&r->lock);
}

static bool is_among(uint64_t tunnel, const uint64_t *asked, size_t n)
{
	while (n > 0)
		if (asked[--n] == tunnel)
			return true;
	return false;
}

bool registry_pick(struct registry *r, const char *service, const uint64_t *asked, size_t n,
		   struct offer *offer)
{
	uint64_t hash = hash_string(&r->key, service);
	const struct registry_entry *e = NULL;
	const struct registry_name *name;

	pthread_mutex_lock(&r->lock);
	name = name_find(&r->services, service, hash);
	if (name)
		e = TAILQ_FIRST(&name->entries);
	while (e && is_among(e->tunnel->tunnel, asked, n))
		e = TAILQ_NEXT(e, order);
	if (e)
		*offer = (struct offer){ e->tunnel->worker, e->tunnel->tunnel, e->eager };
	pthread_mutex_unlock(&r->lock);
	return e;
}

size_t registry_tunnels(struct registry *r)
{
	size_t n;

	pthread_mutex_lock(&r->lock);
	n = r->live.n + r->retiring.n;
	pthread_mutex_unlock(&r->lock);
	return n;
}

size_t registry_services(struct registry *r)
{
	size_t n;

	pthread_mutex_lock(&r->lock);
	n = r->n_entries;
	pthread_mutex_unlock(&r->lock);
	return n;
}
