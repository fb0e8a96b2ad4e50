/*
 * quota: how much of the relay one tenant has now, and how much it may have.
 *
 * Theory of operation: counters that are raised first and lowered again if that went over the
 * limit: so threads together never go over it, and at worst one is refused while another one's
 * vain attempt is being taken back. Limits are read anew each time. Relaxed atomics all over: a
 * count guards nothing but itself.
 *
 * Quotas by name live in a table under one lock, counted by reference. One is found, and the last
 * reference put, under the lock, so that none is found that is about to go; all other references
 * come and go without it.
 */
#include "relay/quota.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "relay/hash.h"

static uint64_t get(const atomic_uint_fast64_t *a)
{
	return atomic_load_explicit(a, memory_order_relaxed);
}

static void add(atomic_uint_fast64_t *a, uint64_t n)
{
	atomic_fetch_add_explicit(a, n, memory_order_relaxed);
}

static void sub(atomic_uint_fast64_t *a, uint64_t n)
{
	atomic_fetch_sub_explicit(a, n, memory_order_relaxed);
}

void quota_limits_init(struct quota_limits *l)
{
	for (unsigned i = 0; i < QUOTA_KINDS; i++)
		atomic_init(&l->most[i], QUOTA_NO_LIMIT);
	atomic_init(&l->memory, QUOTA_NO_LIMIT);
	atomic_init(&l->opens_per_second, 0);
	atomic_init(&l->bytes_per_second, 0);
}

void quota_limits_copy(struct quota_limits *to, const struct quota_limits *from)
{
	for (unsigned i = 0; i < QUOTA_KINDS; i++)
		atomic_init(&to->most[i], get(&from->most[i]));
	atomic_init(&to->memory, get(&from->memory));
	atomic_init(&to->opens_per_second, get(&from->opens_per_second));
	atomic_init(&to->bytes_per_second, get(&from->bytes_per_second));
}

void quota_init(struct quota *q, const struct quota_limits *limits, struct quota *above)
{
	q->limits = limits;
	q->above = above;
}

/* True: n more are taken. */
static bool claim(atomic_uint_fast64_t *used, uint64_t n, uint64_t most)
{
	uint64_t before = atomic_fetch_add_explicit(used, n, memory_order_relaxed);

	if (n <= most && before <= most - n)
		return true;
	sub(used, n);
	return false;
}

bool quota_take(struct quota *q, enum quota_kind kind)
{
	if (!q || claim(&q->used[kind], 1, quota_most(q, kind)))
		return true;
	add(&q->refused, 1);
	return false;
}

void quota_count(struct quota *q, enum quota_kind kind)
{
	if (q)
		add(&q->used[kind], 1);
}

void quota_give(struct quota *q, enum quota_kind kind)
{
	if (q)
		sub(&q->used[kind], 1);
}

bool quota_open(struct quota *q, uint64_t now)
{
	if (!q || bucket_take(&q->opens, get(&q->limits->opens_per_second), now))
		return true;
	add(&q->refused, 1);
	return false;
}

uint64_t quota_may_pass(const struct quota *q, uint64_t now, uint64_t *wait)
{
	uint64_t rate = q ? get(&q->limits->bytes_per_second) : 0;
	uint64_t portion = rate / QUOTA_TURNS + 1, has;

	*wait = 0;
	if (!rate)
		return UINT64_MAX;
	has = bucket_has(&q->bytes, rate, now);
	if (has >= portion)
		return has;
	*wait = bucket_wait(&q->bytes, rate, portion, now);
	if (*wait == 0)
		*wait = 1;
	return 0;
}

void quota_pass(struct quota *q, uint64_t bytes, uint64_t now)
{
	if (q)
		bucket_spend(&q->bytes, get(&q->limits->bytes_per_second), bytes, now);
}

bool quota_reserve(struct quota *q, uint64_t bytes)
{
	if (!q)
		return true;
	if (!claim(&q->memory, bytes, get(&q->limits->memory))) {
		add(&q->refused, 1);
		return false;
	}
	if (quota_reserve(q->above, bytes))
		return true;
	sub(&q->memory, bytes);
	return false;
}

void quota_charge(struct quota *q, uint64_t bytes)
{
	for (; q; q = q->above)
		add(&q->memory, bytes);
}

void quota_release(struct quota *q, uint64_t bytes)
{
	for (; q; q = q->above)
		sub(&q->memory, bytes);
}

void quota_keep(struct quota *q, int64_t change)
{
	if (q)
		add(&q->memory, (uint64_t)change);
}

bool quota_is_idle(const struct quota *q, uint64_t now)
{
	for (unsigned i = 0; i < QUOTA_KINDS; i++)
		if (quota_used(q, i))
			return false;
	return !get(&q->memory) && bucket_is_full(&q->opens, now) && bucket_is_full(&q->bytes, now);
}

/* ---- by name ---- */

struct quotas {
	pthread_mutex_t lock;
	struct table table;
	struct hash_key key;
	struct quota *above;
	const struct quota_limits *initial;
	size_t max;
};

struct quotas *quotas_new(struct quota *above, size_t max, const struct quota_limits *initial)
{
	struct quotas *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->above = above;
	t->initial = initial;
	t->max = max;
	if (hash_key_new(&t->key) < 0 || table_init(&t->table) < 0) {
		free(t);
		return NULL;
	}
	pthread_mutex_init(&t->lock, NULL);
	return t;
}

struct quotas *quotas_free(struct quotas *t)
{
	if (!t)
		return NULL;
	table_deinit(&t->table);
	pthread_mutex_destroy(&t->lock);
	free(t);
	return NULL;
}

static struct quota_entry *of_node(struct table_node *n)
{
	return (struct quota_entry *)((char *)n - offsetof(struct quota_entry, node));
}

static struct quota_entry *find(struct quotas *t, const char *name, uint64_t hash)
{
	struct table_node *n;

	for (n = table_first(&t->table, hash); n; n = table_next(n))
		if (strcmp(of_node(n)->name, name) == 0)
			return of_node(n);
	return NULL;
}

static struct quota_entry *make(struct quotas *t, const char *name, uint64_t hash)
{
	size_t size = strlen(name) + 1;
	struct quota_entry *q = t->table.n < t->max ? calloc(1, sizeof(*q) + size) : NULL;

	if (!q)
		return NULL;
	quota_limits_copy(&q->limits, t->initial);
	quota_init(&q->quota, &q->limits, t->above);
	q->in = t;
	memcpy(q->name, name, size);
	table_insert(&t->table, &q->node, hash);
	return q;
}

struct quota_entry *quotas_get(struct quotas *t, const char *name)
{
	uint64_t hash = hash_string(&t->key, name);
	struct quota_entry *q;

	pthread_mutex_lock(&t->lock);
	q = find(t, name, hash);
	if (!q)
		q = make(t, name, hash);
	if (q)
		add(&q->refs, 1);
	pthread_mutex_unlock(&t->lock);
	return q;
}

struct quota_entry *quotas_hold(struct quota_entry *q)
{
	if (q) /* whoever asks has it, so it is not about to go */
		add(&q->refs, 1);
	return q;
}

struct quota_entry *quotas_put(struct quota_entry *q)
{
	uint64_t refs = q ? get(&q->refs) : 0;
	struct quotas *t = q ? q->in : NULL;
	bool last;

	while (refs > 1)
		if (atomic_compare_exchange_weak_explicit(&q->refs, &refs, refs - 1,
							  memory_order_release,
							  memory_order_relaxed))
			return NULL;
	if (!q)
		return NULL;
	pthread_mutex_lock(&t->lock);
	last = atomic_fetch_sub_explicit(&q->refs, 1, memory_order_acq_rel) == 1;
	if (last)
		table_remove(&t->table, &q->node);
	pthread_mutex_unlock(&t->lock);
	if (last)
		free(q);
	return NULL;
}
