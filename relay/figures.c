/*
 * figures: what is counted of each listener, service and owner, by its name.
 *
 * Theory of operation: one lock for the names, none for the counts. Each name has a row of counters
 * for each worker, which that worker alone writes; a reader adds them up. Whoever counts holds the
 * figure, and gets it by one look-up for each connection or stream.
 *
 * A name that nobody holds stays, with what was counted, for as long as there is room. When there
 * is none, the one not looked for longest gives up its place, and what was counted under it is
 * added to those "other": a plain number, under the lock, so it does not matter whose thread that
 * is. Only its holders write a figure, so one that nobody holds stands still.
 *
 * An owner has a figure of its own for its services that have no name here, so that what it uses is
 * known even then; a reader adds all of these up.
 */
#include "relay/figures.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/hash.h"

#define LINE 8 /* counters in a cache line: no two workers write to one */

struct family {
	struct table names;
	struct figure *all;
	unsigned n;
	struct figure *other;
};

struct figures {
	pthread_mutex_t lock;
	struct hash_key key;
	unsigned workers;
	uint64_t lookups;
	struct family family[FIGURES_KINDS];
	struct figure **declared; /* those of the config, held */
	size_t n_declared;
};

void figure_ended(const struct figure *f, unsigned worker, enum reason why)
{
	if (f->kind == FIGURES_LISTENERS)
		figure_add_at(f, worker, FIGURE_COUNTS + (size_t)why, 1);
	else
		figure_add(f, worker, FIGURE_COUNTS + figure_class_of(why), 1);
}

/* ---- one figure ---- */

static size_t values_of(enum figures_kind kind)
{
	return FIGURE_COUNTS + (kind == FIGURES_LISTENERS ? (size_t)REASONS : FIGURE_CLASSES);
}

static void release(struct figure *f)
{
	if (!f)
		return;
	release(f->rest);
	free(f->reclaimed);
	free(f->at);
	free(f);
}

/* In no list. NULL: out of memory. */
static struct figure *make(struct figures *in, enum figures_kind kind, const char *name, bool other)
{
	size_t size = strlen(name) + 1;
	struct figure *f = calloc(1, sizeof(*f) + size);

	if (!f)
		return NULL;
	memcpy(f->name, name, size);
	f->in = in;
	f->kind = kind;
	f->stride = (values_of(kind) + LINE - 1) / LINE * LINE;
	f->at = aligned_alloc(LINE * sizeof(*f->at), in->workers * f->stride * sizeof(*f->at));
	if (f->at)
		for (size_t i = 0; i < in->workers * f->stride; i++)
			atomic_init(&f->at[i], 0);
	if (other)
		f->reclaimed = calloc(f->stride, sizeof(*f->reclaimed));
	if (kind == FIGURES_OWNERS) {
		f->rest = make(in, FIGURES_SERVICES, FIGURES_OTHER, true);
		if (f->rest)
			f->rest->owner = f;
	}
	if (f->at && (!other || f->reclaimed) && (kind != FIGURES_OWNERS || f->rest))
		return f;
	release(f);
	return NULL;
}

static uint64_t value(const struct figure *f, size_t i)
{
	uint64_t sum = f->reclaimed ? f->reclaimed[i] : 0;

	for (unsigned w = 0; w < f->in->workers; w++)
		sum += atomic_load_explicit(&f->at[w * f->stride + i], memory_order_relaxed);
	return sum;
}

static void enlist(struct family *of, struct figure *f, uint64_t hash)
{
	table_insert(&of->names, &f->node, hash);
	f->next = of->all;
	f->prevp = &of->all;
	if (f->next)
		f->next->prevp = &f->next;
	of->all = f;
	of->n++;
}

static void delist(struct family *of, struct figure *f)
{
	table_remove(&of->names, &f->node);
	*f->prevp = f->next;
	if (f->next)
		f->next->prevp = f->prevp;
	of->n--;
}

/* ---- making room; all under the lock ---- */

static bool is_held(const struct figure *f)
{
	/* pairs with figure_put: who does not hold it any more writes no more */
	return atomic_load_explicit(&f->refs, memory_order_acquire) > 0;
}

/* Its counts go on in to. */
static void reclaim(struct figure *f, struct figure *to)
{
	for (size_t i = 0; i < values_of(f->kind); i++)
		to->reclaimed[i] += value(f, i);
	delist(&f->in->family[f->kind], f);
	if (f->kind == FIGURES_SERVICES)
		f->owner->services--;
	release(f);
}

/* The service not looked for longest; of: of this owner only. NULL: all are held. */
static struct figure *idle_service(const struct figures *in, const struct figure *of)
{
	struct figure *oldest = NULL;

	for (struct figure *f = in->family[FIGURES_SERVICES].all; f; f = f->next)
		if ((!of || f->owner == of) && !is_held(f) && (!oldest || f->used < oldest->used))
			oldest = f;
	return oldest;
}

/* The same of listeners and owners; who holds a service holds its owner. */
static struct figure *idle_name(const struct figures *in, enum figures_kind kind)
{
	struct figure *oldest = NULL;

	for (struct figure *f = in->family[kind].all; f; f = f->next)
		if (!is_held(f) && (!oldest || f->used < oldest->used))
			oldest = f;
	return oldest;
}

static void reclaim_name(struct figures *in, struct figure *f)
{
	struct figure *service, *other = in->family[f->kind].other;

	while (f->rest && (service = idle_service(in, f)))
		reclaim(service, f->rest);
	for (size_t i = 0; f->rest && i < values_of(FIGURES_SERVICES); i++)
		other->rest->reclaimed[i] += value(f->rest, i);
	reclaim(f, other);
}

static bool make_room(struct figures *in, enum figures_kind kind)
{
	struct figure *f;

	if (in->family[kind].n < FIGURES_MAX)
		return true;
	f = kind == FIGURES_SERVICES ? idle_service(in, NULL) : idle_name(in, kind);
	if (!f)
		return false;
	if (kind == FIGURES_SERVICES)
		reclaim(f, f->owner->rest);
	else
		reclaim_name(in, f);
	return true;
}

static bool make_room_of(struct figures *in, struct figure *owner)
{
	struct figure *f;

	if (owner->services < FIGURES_OFFERED_MAX)
		return make_room(in, FIGURES_SERVICES);
	f = idle_service(in, owner);
	if (f)
		reclaim(f, owner->rest);
	return f;
}

/* ---- finding; all under the lock ---- */

enum want { FIND, DECLARE, DECLARE_TUNNEL, OFFER };

static struct figure *find(struct figures *in, enum figures_kind kind, const char *name,
			   uint64_t hash)
{
	struct table_node *n = table_first(&in->family[kind].names, hash);

	for (; n; n = table_next(n)) {
		struct figure *f = (struct figure *)((char *)n - offsetof(struct figure, node));

		if (strcmp(f->name, name) == 0)
			return f;
	}
	return NULL;
}

static struct figure *look(struct figures *in, enum figures_kind kind, const char *name,
			   enum want want)
{
	uint64_t hash = hash_string(&in->key, name);
	struct figure *f = find(in, kind, name, hash), *owner = NULL;
	const char *dot;

	in->lookups++;
	if (!f && kind == FIGURES_SERVICES) {
		dot = strchr(name, '.');
		owner = look(in, FIGURES_OWNERS, dot ? dot + 1 : "", want);
	}
	if (!f && want != FIND &&
	    (want == OFFER && owner ? make_room_of(in, owner) : make_room(in, kind)))
		f = make(in, kind, name, false);
	if (f && !f->prevp) {
		enlist(&in->family[kind], f, hash);
		f->owner = owner;
		if (owner)
			owner->services++;
	}
	if (!f)
		f = owner ? owner->rest : in->family[kind].other;
	f->used = in->lookups;
	return f;
}

static void hold(struct figure *f)
{
	atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
}

static struct figure *get(struct figures *in, enum figures_kind kind, const char *name,
			  enum want want)
{
	struct figure *f;

	pthread_mutex_lock(&in->lock);
	f = look(in, kind, name, want);
	f->offered |= want == OFFER || want == DECLARE_TUNNEL;
	hold(f);
	if (f->owner)
		hold(f->owner);
	pthread_mutex_unlock(&in->lock);
	return f;
}

struct figure *figures_of(struct figures *f, enum figures_kind kind, const char *name)
{
	return get(f, kind, name, FIND);
}

struct figure *figures_offered(struct figures *f, const char *service)
{
	return get(f, FIGURES_SERVICES, service, OFFER);
}

void figure_put(struct figure *f)
{
	struct figure *owner = f ? f->owner : NULL;

	if (f)
		atomic_fetch_sub_explicit(&f->refs, 1, memory_order_release);
	if (owner)
		atomic_fetch_sub_explicit(&owner->refs, 1, memory_order_release);
}

/* ---- a config's ---- */

static bool leads_to_tunnels(const struct service_config *s)
{
	for (size_t i = 0; i < s->targets.n; i++)
		if (s->targets.at[i].kind == ADDRESS_TUNNEL)
			return true;
	return s->targets.n == 0;
}

static void declare_offers(struct figures *f, const struct owner_config *o, struct figure **to)
{
	char *name;

	for (size_t i = 0; i < o->services.n; i++) {
		size_t size = strlen(o->services.at[i]) + strlen(o->name) + 2;

		name = malloc(size);
		if (!name) {
			to[i] = get(f, FIGURES_SERVICES, FIGURES_OTHER, FIND);
			continue;
		}
		stpcpy(stpcpy(stpcpy(name, o->services.at[i]), "."), o->name);
		to[i] = get(f, FIGURES_SERVICES, name, DECLARE_TUNNEL);
		free(name);
	}
}

bool figures_declare(struct figures *f, const struct relay_config *c)
{
	size_t n = c->n_listeners + c->n_services + c->n_owners, at = 0;
	struct figure **held;

	for (size_t i = 0; i < c->n_owners; i++)
		n += c->owners[i].services.n;
	held = calloc(n + 1, sizeof(struct figure *));
	if (!held)
		return false;
	for (size_t i = 0; i < c->n_listeners; i++)
		held[at++] = get(f, FIGURES_LISTENERS, c->listeners[i].name, DECLARE);
	for (size_t i = 0; i < c->n_owners; i++)
		held[at++] = get(f, FIGURES_OWNERS, c->owners[i].name, DECLARE);
	for (size_t i = 0; i < c->n_services; i++)
		held[at++] = get(f, FIGURES_SERVICES, c->services[i].name,
				 leads_to_tunnels(&c->services[i]) ? DECLARE_TUNNEL : DECLARE);
	for (size_t i = 0; i < c->n_owners; at += c->owners[i++].services.n)
		declare_offers(f, &c->owners[i], held + at);
	while (f->n_declared)
		figure_put(f->declared[--f->n_declared]);
	free(f->declared);
	f->declared = held;
	f->n_declared = n;
	return true;
}

/* ---- life ---- */

struct figures *figures_new(unsigned workers)
{
	struct figures *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->workers = workers;
	pthread_mutex_init(&f->lock, NULL);
	if (hash_key_new(&f->key) < 0)
		return figures_free(f);
	for (enum figures_kind k = 0; k < FIGURES_KINDS; k++) {
		f->family[k].other = make(f, k, FIGURES_OTHER, true);
		if (!f->family[k].other || table_init(&f->family[k].names) < 0)
			return figures_free(f);
	}
	return f;
}

struct figures *figures_free(struct figures *f)
{
	struct figure *next;

	if (!f)
		return NULL;
	for (enum figures_kind k = 0; k < FIGURES_KINDS; k++) {
		for (struct figure *at = f->family[k].all; at; at = next) {
			next = at->next;
			release(at);
		}
		release(f->family[k].other);
		table_deinit(&f->family[k].names);
	}
	free(f->declared);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return NULL;
}

/* ---- reading ---- */

static int by_name(const void *a, const void *b)
{
	const struct figures_row *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static void read_one(const struct figure *f, struct figures_row *to)
{
	for (size_t i = 0; i < values_of(f->kind); i++)
		to->value[i] += value(f, i);
}

/* What is counted under no name of its own. */
static void read_other(const struct figures *f, enum figures_kind kind, struct figures_row *to)
{
	if (kind != FIGURES_SERVICES) {
		read_one(f->family[kind].other, to);
		return;
	}
	read_one(f->family[FIGURES_OWNERS].other->rest, to);
	for (const struct figure *o = f->family[FIGURES_OWNERS].all; o; o = o->next)
		read_one(o->rest, to);
}

/* Under the lock: workers wait for it. False: out of memory. */
static bool read_all(const struct figures *in, enum figures_kind kind, struct figures_rows *out)
{
	const struct figure *f = in->family[kind].all;
	size_t values = values_of(kind);
	struct figures_row *r;

	for (;; f = f->next) {
		r = &out->at[out->n];
		r->value = out->values + out->n++ * values;
		r->name = strdup(f ? f->name : FIGURES_OTHER);
		if (!r->name)
			return false;
		if (!f)
			break;
		r->offered = f->offered;
		read_one(f, r);
	}
	read_other(in, kind, r);
	return true;
}

bool figures_read(struct figures *in, enum figures_kind kind, struct figures_rows *out)
{
	bool good;

	*out = (struct figures_rows){
		.at = calloc(FIGURES_MAX + 1, sizeof(*out->at)),
		.values = calloc(FIGURES_MAX + 1, values_of(kind) * sizeof(*out->values)),
	};
	good = out->at && out->values;
	if (good) {
		pthread_mutex_lock(&in->lock);
		good = read_all(in, kind, out);
		pthread_mutex_unlock(&in->lock);
	}
	if (good)
		qsort(out->at, out->n - 1, sizeof(*out->at), by_name); /* the last stays there */
	else
		figures_rows_deinit(out);
	return good;
}

void figures_rows_deinit(struct figures_rows *rows)
{
	for (size_t i = 0; rows->at && i < rows->n; i++)
		free(rows->at[i].name);
	free(rows->at);
	free(rows->values);
	*rows = (struct figures_rows){ 0 };
}
