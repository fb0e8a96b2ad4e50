/*
 * registry: services and the tunnels that offer them.
 *
 * Theory of operation: everything is found by a keyed hash, so that no function walks all tunnels,
 * however many are back at once after a restart.
 *
 *   services   name -> its entries by the rank of their instances: the first is the primary, the
 *              next its backup. Each tunnel has its entries in one array.
 *   owners     name -> how many tunnels count against its limit
 *   live       owner and instance -> the tunnel there is; at most one
 *   retiring   the same for those that only finish their streams; any number
 *
 * A name is made by its first holder and goes with the last; an owner's stays for the ranks of its
 * instances that are away. A rank is a number from one counter, given to an instance at its first
 * appearance.
 *
 * A tunnel's load counts its streams: each holds a reference, and so does the registration. It is
 * taken with the pick, under the lock, so that of many clients at once each sees those before it.
 *
 * One mutex; held for one look-up or one change, never while anything else is called; hashes are
 * computed before. What may fail comes first in a change: it is made as a whole or not at all.
 *
 * Limits: tunnels by config; services per tunnel by the hello's own bound; what is remembered of an
 * owner by REGISTRY_FORMER.
 *
 * Longer than other files: all that is under the one lock stands together.
 */
#include "relay/registry.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "config/config.h"
#include "relay/balance.h"
#include "relay/hash.h"

struct registry_load {
	atomic_uint_fast32_t holders; /* its streams, and the registration */
};

/* An instance that is away. */
struct former {
	uint64_t instance; /* hash */
	uint64_t rank;
};

/* A name in use. Of a service, entries has one for each holder; of an owner, none. */
struct registry_name {
	struct table_node node;
	size_t holders;
	struct former *former; /* an owner's; the last that went is the last; NULL: none yet */
	unsigned n_former;
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
	uint64_t ranks; /* given so far */
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
	if (!name || --name->holders > 0 || name->n_former > 0)
		return;
	table_remove(t, &name->node);
	free(name->former);
	free(name);
}

/* ---- ranks of those that are away ---- */

/* Without memory for it, it will come back as a new one. */
static void former_add(struct registry_name *owner, const struct registration *t)
{
	if (!owner->former)
		owner->former = calloc(REGISTRY_FORMER, sizeof(*owner->former));
	if (!owner->former)
		return;
	if (owner->n_former == REGISTRY_FORMER)
		memmove(owner->former, owner->former + 1,
			--owner->n_former * sizeof(*owner->former));
	owner->former[owner->n_former++] = (struct former){ t->node.hash, t->rank };
}

/* 0: it is new. */
static uint64_t former_take(struct registry_name *owner, uint64_t instance)
{
	for (unsigned i = 0; i < owner->n_former; i++) {
		uint64_t rank = owner->former[i].rank;

		if (owner->former[i].instance != instance)
			continue;
		memmove(&owner->former[i], &owner->former[i + 1],
			(--owner->n_former - i) * sizeof(*owner->former));
		return rank;
	}
	return 0;
}

/* ---- loads ---- */

static struct registry_load *load_new(void)
{
	struct registry_load *load = calloc(1, sizeof(*load));

	if (load)
		atomic_init(&load->holders, 1);
	return load;
}

void registry_unload(struct registry_load *load)
{
	if (load && atomic_fetch_sub_explicit(&load->holders, 1, memory_order_acq_rel) == 1)
		free(load);
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
	registry_unload(t->load);
	t->load = NULL;
}

static void unlist_all(struct registry *r, struct table *table)
{
	for (size_t i = 0; i < table->buckets; i++)
		while (table->bucket[i])
			unlist(r, registration_of(table->bucket[i]));
}

/* Nobody is left; only the ranks of those that were. */
static void forget_all(struct table *owners)
{
	for (size_t i = 0; i < owners->buckets; i++) {
		while (owners->bucket[i]) {
			struct registry_name *owner = name_of(owners->bucket[i]);

			table_remove(owners, &owner->node);
			free(owner->former);
			free(owner);
		}
	}
}

struct registry *registry_free(struct registry *r)
{
	if (!r)
		return NULL;
	unlist_all(r, &r->live);
	unlist_all(r, &r->retiring);
	forget_all(&r->owners);
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
 * May it come in, and in whose place? A retiring tunnel counts, since it takes a place until it has
 * finished, and so does one that was asked to move and retires for this one; but of the same
 * instance one of them does not, or a restart in order, or a move, would have to wait.
 */
static enum reason judge(const struct registry *r, const struct arrival *a, uint64_t max_per_owner,
			 uint64_t max, struct registration **predecessor)
{
	struct registration *old = find_same(&r->live, a->t, a->instance);
	const struct registry_name *owner = name_find(&r->owners, a->t->owner, a->owner);
	const bool moves = old && old->moving, one_more = !old || moves;
	uint64_t owned = owner ? owner->holders : 0;

	if (old && old->generation >= a->t->generation)
		return REASON_STALE;
	if (moves || find_same(&r->retiring, a->t, a->instance))
		owned--;
	if (one_more && owned >= max_per_owner)
		return REASON_OWNER_LIMIT;
	if (one_more && r->live.n + r->retiring.n - moves >= max)
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

/* Mostly the last: ranks of the new are higher than all before. */
static void insert_by_rank(struct registry_entry *e)
{
	struct registry_order *order = &e->service->entries;
	struct registry_entry *before = TAILQ_LAST(order, registry_order);

	while (before && before->tunnel->rank > e->tunnel->rank)
		before = TAILQ_PREV(before, registry_order, order);
	if (before)
		TAILQ_INSERT_AFTER(order, before, e, order);
	else
		TAILQ_INSERT_HEAD(order, e, order);
}

/* A successor stands where its predecessor stood, and who comes back where it stood before. */
static void list(struct registry *r, const struct arrival *a, const struct registration *old)
{
	a->t->rank = old ? old->rank : former_take(a->t->counted, a->instance);
	if (!a->t->rank)
		a->t->rank = ++r->ranks;
	for (size_t i = 0; i < a->n; i++) {
		struct registry_entry *e = &a->entries[i];
		struct registry_entry *place = old ? entry_of(old, e->service, i) : NULL;

		if (place)
			TAILQ_INSERT_BEFORE(place, e, order);
		else
			insert_by_rank(e);
	}
	r->n_entries += a->n;
	a->t->entries = a->entries;
	a->t->n_entries = a->n;
	a->t->retiring = false;
	table_insert(&r->live, &a->t->node, a->instance);
}

/* Its rank is its successor's, or has been written down. */
static void retire(struct registry *r, struct registration *t)
{
	uint64_t hash = t->node.hash;

	drop_entries(r, t);
	table_remove(&r->live, &t->node);
	table_insert(&r->retiring, &t->node, hash);
	t->retiring = true;
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
		if (old->moving)
			retire(r, old);
		else
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
	t->load = load_new();
	if (!a.entries || !t->load) {
		free(a.entries);
		registry_unload(t->load);
		t->load = NULL;
		return REASON_NO_MEMORY;
	}
	t->identity = balance_instance(t->owner, t->instance);
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
	if (why != REASON_NONE) {
		free(a.entries);
		registry_unload(t->load);
		t->load = NULL;
	}
	return why;
}

enum reason registry_ask(struct registry *r, struct registration *t, uint64_t max_per_owner,
			 uint64_t max)
{
	struct arrival a = { .t = t, .owner = hash_string(&r->key, t->owner) };
	struct registration *old;
	enum reason why;

	a.instance = hash_instance(r, a.owner, t->instance);
	pthread_mutex_lock(&r->lock);
	why = judge(r, &a, max_per_owner, max, &old);
	pthread_mutex_unlock(&r->lock);
	return why;
}

/* ---- there, and going ---- */

void registry_move(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	t->moving = true;
	pthread_mutex_unlock(&r->lock);
}

void registry_retire(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	if (t->counted && !t->retiring) {
		former_add(t->counted, t);
		retire(r, t);
	}
	t->retiring = true;
	pthread_mutex_unlock(&r->lock);
}

bool registry_is_succeeded(struct registry *r, const struct registration *t)
{
	const struct registration *now = NULL;
	bool succeeded;

	pthread_mutex_lock(&r->lock);
	if (t->counted)
		now = find_same(&r->live, t, t->node.hash);
	succeeded = now && now->generation > t->generation;
	pthread_mutex_unlock(&r->lock);
	return succeeded;
}

void registry_remove(struct registry *r, struct registration *t)
{
	pthread_mutex_lock(&r->lock);
	if (t->counted && !t->retiring)
		former_add(t->counted, t);
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

/* Whose the stream should be. */
static bool is_better(const struct wanted *w, const struct registration *a,
		      const struct registration *b)
{
	if (w->balance == BALANCE_STICKY)
		return balance_score(w->client, a->identity) >
		       balance_score(w->client, b->identity);
	return atomic_load_explicit(&a->load->holders, memory_order_relaxed) <
	       atomic_load_explicit(&b->load->holders, memory_order_relaxed);
}

/* Under the lock. NULL: none is left. */
static const struct registry_entry *find_entry(const struct registry *r, const struct wanted *w,
					       uint64_t hash)
{
	const struct registry_name *name = name_find(&r->services, w->service, hash);
	const struct registry_entry *e, *best = NULL;

	if (!name)
		return NULL;
	for (e = TAILQ_FIRST(&name->entries); e; e = TAILQ_NEXT(e, order)) {
		if (is_among(e->tunnel->tunnel, w->asked, w->n))
			continue;
		if (!best || is_better(w, e->tunnel, best->tunnel))
			best = e;
		if (w->balance == BALANCE_PRIMARY)
			break;
	}
	return best;
}

bool registry_pick(struct registry *r, const struct wanted *wanted, struct offer *offer)
{
	uint64_t hash = hash_string(&r->key, wanted->service);
	const struct registry_entry *e;

	pthread_mutex_lock(&r->lock);
	e = find_entry(r, wanted, hash);
	if (e) {
		const struct registration *t = e->tunnel;

		atomic_fetch_add_explicit(&t->load->holders, 1, memory_order_relaxed);
		*offer = (struct offer){ t->worker, t->tunnel, e->eager, t->load };
	}
	pthread_mutex_unlock(&r->lock);
	return e;
}

bool registry_has(struct registry *r, const struct wanted *wanted)
{
	uint64_t hash = hash_string(&r->key, wanted->service);
	bool has;

	pthread_mutex_lock(&r->lock);
	has = find_entry(r, wanted, hash);
	pthread_mutex_unlock(&r->lock);
	return has;
}

size_t registry_count(struct registry *r, const char *service)
{
	uint64_t hash = hash_string(&r->key, service);
	struct registry_name *name;
	size_t n;

	pthread_mutex_lock(&r->lock);
	name = name_find(&r->services, service, hash);
	n = name ? name->holders : 0;
	pthread_mutex_unlock(&r->lock);
	return n;
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
