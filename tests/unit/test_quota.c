/* What is taken is counted and given back; threads get no more than there is; names find one. */
#include <pthread.h>

#include "relay/quota.h"
#include "tests/unit/check.h"

static void limit(atomic_uint_fast64_t *which, uint64_t most)
{
	atomic_store(which, most);
}

static void test_numbers(void)
{
	struct quota_limits limits;
	struct quota q = { 0 };

	quota_limits_init(&limits);
	quota_init(&q, &limits, NULL);
	limit(&limits.most[QUOTA_STREAMS], 2);
	CHECK(quota_take(&q, QUOTA_STREAMS));
	CHECK(quota_take(&q, QUOTA_STREAMS));
	CHECK(!quota_take(&q, QUOTA_STREAMS));
	CHECK_INT(quota_used(&q, QUOTA_STREAMS), 2);
	CHECK_INT(q.refused, 1);
	for (unsigned i = 0; i < 100; i++) /* others have nothing to do with it */
		CHECK(quota_take(&q, QUOTA_TUNNELS));
	limit(&limits.most[QUOTA_STREAMS], 1); /* a reload: who is in stays in */
	CHECK(!quota_take(&q, QUOTA_STREAMS));
	quota_give(&q, QUOTA_STREAMS);
	CHECK(!quota_take(&q, QUOTA_STREAMS));
	quota_give(&q, QUOTA_STREAMS);
	CHECK(quota_take(&q, QUOTA_STREAMS));
	limit(&limits.most[QUOTA_PARKED], 0);
	CHECK(!quota_take(&q, QUOTA_PARKED));
	CHECK(quota_take(NULL, QUOTA_PARKED));
	quota_give(NULL, QUOTA_PARKED);
}

static void test_rates(void)
{
	struct quota_limits limits;
	struct quota q = { 0 };
	uint64_t wait;

	quota_limits_init(&limits);
	quota_init(&q, &limits, NULL);
	CHECK(quota_open(&q, 1000) && quota_may_pass(&q, 1000, &wait) == UINT64_MAX && wait == 0);
	limit(&limits.opens_per_second, 3);
	limit(&limits.bytes_per_second, 64000);
	CHECK(quota_open(&q, 1000) && quota_open(&q, 1000) && quota_open(&q, 1000));
	CHECK(!quota_open(&q, 1000));
	CHECK_INT(q.refused, 1);
	CHECK(quota_open(NULL, 1000));
	CHECK_INT(quota_may_pass(&q, 1000, &wait), 64000);
	quota_pass(&q, 64000, 1000);
	CHECK_INT(quota_may_pass(&q, 1000, &wait), 0); /* not before it is worth it */
	CHECK_INT(wait, 16);
	CHECK_INT(quota_may_pass(&q, 1015, &wait), 0);
	CHECK_INT(wait, 1);
	CHECK_INT(quota_may_pass(&q, 1016, &wait), 1024);
	CHECK(!quota_is_idle(&q, 1016));
	CHECK(quota_is_idle(&q, 3000));
	CHECK(quota_may_pass(NULL, 1000, &wait) == UINT64_MAX);
	quota_pass(NULL, 1, 1000);
}

static void test_memory(void)
{
	struct quota_limits all_limits, limits;
	struct quota all = { 0 }, a = { 0 }, b = { 0 };

	quota_limits_init(&all_limits);
	quota_limits_init(&limits);
	quota_init(&all, &all_limits, NULL);
	quota_init(&a, &limits, &all);
	quota_init(&b, &limits, &all);
	limit(&all_limits.memory, 100);
	limit(&limits.memory, 60);
	CHECK(!quota_reserve(&a, 61));
	CHECK(quota_reserve(&a, 60));
	CHECK(!quota_reserve(&a, 1));
	CHECK(!quota_reserve(&b, 41)); /* what all have together */
	CHECK_INT(b.memory, 0);
	CHECK_INT(all.memory, 60);
	CHECK(!quota_reserve(&b, UINT64_MAX));
	CHECK(quota_reserve(&b, 40));
	quota_release(&a, 60);
	CHECK(quota_reserve(&b, 20));
	CHECK(!quota_is_idle(&b, 5000));
	quota_release(&b, 60);
	CHECK_INT(all.memory, 0);
	CHECK(quota_reserve(NULL, 1));
	quota_release(NULL, 1);
}

/* What is kept on the way gets its part only; what sessions have counts in there. */
static void test_way(void)
{
	struct quota_limits limits;
	struct quota all = { 0 }, a = { 0 };

	quota_limits_init(&limits);
	quota_init(&all, &limits, NULL);
	quota_init(&a, &limits, &all);
	CHECK(quota_room(&a) > UINT32_MAX && quota_room(NULL) == UINT64_MAX);
	limit(&limits.memory, 100);
	CHECK_INT(quota_room(&a), 100 / QUOTA_WAY_PARTS);
	quota_keep(&a, 30);
	CHECK_INT(quota_room(&a), 100 / QUOTA_WAY_PARTS - 30);
	CHECK_INT(all.memory, 0); /* of this one alone */
	quota_keep(&a, 30);
	CHECK_INT(quota_room(&a), 0);
	CHECK(quota_reserve(&a, 40)); /* a session's reads go on until all is used */
	CHECK(!quota_reserve(&a, 1));
	quota_keep(&a, -60);
	CHECK_INT(quota_room(&a), 100 / QUOTA_WAY_PARTS - 40);
	quota_release(&a, 40);
	quota_keep(NULL, 1);
	CHECK_INT(a.memory, 0);
	CHECK_INT(all.memory, 0);
}

static void test_names(void)
{
	struct quota all = { 0 };
	struct quota_limits none;
	struct quota_entry *a, *b;
	struct quotas *t;

	quota_limits_init(&none);
	limit(&none.most[QUOTA_PARKED], 0);
	quota_init(&all, &none, NULL);
	t = quotas_new(&all, 2, &none);
	a = quotas_get(t, "acme");
	b = quotas_get(t, "bert");
	CHECK(a && b && a != b);
	CHECK(!quotas_get(t, "carl")); /* bounded */
	CHECK_STR(a->name, "acme");
	CHECK(!quota_take(&a->quota, QUOTA_PARKED)); /* as all begin */
	CHECK(quotas_get(t, "acme") == a);
	limit(&a->limits.most[QUOTA_TUNNELS], 1);
	CHECK(quota_take(&a->quota, QUOTA_TUNNELS));
	CHECK(quotas_hold(a) == a);
	quotas_put(a);
	quotas_put(a);
	CHECK(quotas_get(t, "acme") == a && quota_used(&a->quota, QUOTA_TUNNELS) == 1);
	quotas_put(a);
	quotas_put(a); /* the last */
	CHECK((a = quotas_get(t, "acme")) && quota_used(&a->quota, QUOTA_TUNNELS) == 0);
	CHECK(quota_reserve(&a->quota, 7));
	CHECK_INT(all.memory, 7);
	quota_release(&a->quota, 7);
	quotas_put(a);
	quotas_put(b);
	CHECK(!quotas_put(NULL) && !quotas_hold(NULL));
	quotas_free(t);
}

/* ---- several threads ---- */

enum { THREADS = 4, ROUNDS = 20000, MOST = 3 };

static struct quotas *table;
static atomic_uint inside[3];

static void *come_and_go(void *arg)
{
	static const char *const names[] = { "a", "b", "c" };
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned which = (seed = seed * 1103515245 + 12345) >> 16;
		struct quota_entry *q = quotas_get(table, names[which % 3]), *again;

		CHECK(q);
		again = quotas_hold(q);
		quotas_put(q);
		atomic_store(&again->limits.most[QUOTA_STREAMS], MOST);
		if (quota_take(&again->quota, QUOTA_STREAMS)) {
			CHECK(atomic_fetch_add(&inside[which % 3], 1) < MOST);
			atomic_fetch_sub(&inside[which % 3], 1);
			quota_give(&again->quota, QUOTA_STREAMS);
		}
		if (quota_reserve(&again->quota, 10))
			quota_release(&again->quota, 10);
		quotas_put(again);
	}
	return NULL;
}

static void test_threads(void)
{
	struct quota_limits limits;
	struct quota all = { 0 };
	pthread_t threads[THREADS];

	quota_limits_init(&limits);
	limit(&limits.memory, 25);
	quota_init(&all, &limits, NULL);
	table = quotas_new(&all, 3, &limits);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, come_and_go, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
	CHECK_INT(all.memory, 0);
	quotas_free(table);
}

int main(void)
{
	test_numbers();
	test_rates();
	test_memory();
	test_way();
	test_names();
	test_threads();
	return 0;
}
