/* So many a second and no more, whoever takes them; debts are waited for. */
#include <pthread.h>

#include "relay/bucket.h"
#include "tests/unit/check.h"

static void test_rate(void)
{
	struct bucket b = { 0 };
	uint64_t now = 1000000;

	for (unsigned i = 0; i < 100; i++)
		CHECK(bucket_take(&b, 100, now)); /* full at first: a second's worth */
	CHECK(!bucket_take(&b, 100, now));
	CHECK(!bucket_take(&b, 100, now + 9));
	CHECK(bucket_take(&b, 100, now + 10));
	CHECK(!bucket_take(&b, 100, now + 10));
	CHECK(!bucket_is_full(&b, now + 1000));
	CHECK(bucket_is_full(&b, now + 1010));
	now += 3600000; /* an hour brings no more than a second does */
	for (unsigned i = 0; i < 100; i++)
		CHECK(bucket_take(&b, 100, now));
	CHECK(!bucket_take(&b, 100, now));
}

static void test_one_a_second(void)
{
	struct bucket b = { 0 };

	CHECK(bucket_take(&b, 1, 5000));
	CHECK(!bucket_take(&b, 1, 5999));
	CHECK(bucket_take(&b, 1, 6000));
}

static void test_none(void)
{
	struct bucket b = { 0 };
	uint64_t now = 5000;

	for (unsigned i = 0; i < 1000; i++)
		CHECK(bucket_take(&b, 0, now));
	bucket_spend(&b, 0, UINT64_MAX, now);
	CHECK(bucket_has(&b, 0, now) == UINT64_MAX);
	CHECK(bucket_wait(&b, 0, 1, now) == 0);
	CHECK(bucket_is_full(&b, now));
}

static void test_debt(void)
{
	struct bucket b = { 0 };
	uint64_t now = 1000000, rate = 1000000;

	CHECK_INT(bucket_has(&b, rate, now), 1000000);
	bucket_spend(&b, rate, 400000, now);
	CHECK_INT(bucket_has(&b, rate, now), 600000);
	CHECK_INT(bucket_wait(&b, rate, 600000, now), 0);
	CHECK_INT(bucket_wait(&b, rate, 600001, now), 1);
	bucket_spend(&b, rate, 1600000, now); /* a second more than there is */
	CHECK_INT(bucket_has(&b, rate, now), 0);
	CHECK_INT(bucket_wait(&b, rate, 1000, now), 1001);
	CHECK_INT(bucket_has(&b, rate, now + 999), 0);
	CHECK_INT(bucket_has(&b, rate, now + 1001), 1000);
	CHECK_INT(bucket_wait(&b, rate, 10 * rate, now), 2000); /* no more than a full one */
	CHECK(!bucket_take(&b, rate, now + 1000));
	CHECK(bucket_take(&b, rate, now + 1001));
}

static void test_extremes(void)
{
	struct bucket b = { 0 };

	bucket_spend(&b, 1, UINT64_MAX, 1000);
	CHECK(bucket_wait(&b, 1, 1, 1000) <= 3600 * 1000 + 1000); /* no debt for ever */
	CHECK_INT(bucket_has(&b, 1, 1000 + 3600 * 1000), 1);
	b = (struct bucket){ 0 };
	for (unsigned i = 0; i < 1000; i++) /* more than one a nanosecond: rounded up to that */
		CHECK(bucket_take(&b, UINT64_MAX, 1000));
	CHECK(bucket_has(&b, UINT64_MAX / 2, 1000) > UINT64_MAX / 4);
}

/* ---- several threads: together they get what one would ---- */

enum { THREADS = 4, RATE = 10000, TRIES = 20000 };

static struct bucket shared;

static void *take(void *arg)
{
	uintptr_t got = 0;

	for (unsigned i = 0; i < TRIES; i++)
		got += bucket_take(&shared, RATE, 1000);
	return (void *)got;
}

static void test_threads(void)
{
	pthread_t threads[THREADS];
	uintptr_t got = 0;

	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, take, NULL), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		void *part;

		CHECK_INT(pthread_join(threads[i], &part), 0);
		got += (uintptr_t)part;
	}
	CHECK_INT(got, RATE);
}

int main(void)
{
	test_rate();
	test_one_a_second();
	test_none();
	test_debt();
	test_extremes();
	test_threads();
	return 0;
}
