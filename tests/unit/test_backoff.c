/* backoff: bounds, doubling, cap, jitter, and what a lost link does to them. */
#include "tests/unit/check.h"
#include "tunnel/backoff.h"

/* The largest wait that a random number can give now. */
static uint64_t bound_of(const struct backoff *b, uint64_t now)
{
	uint64_t bound = 0;

	for (uint64_t random = 0; random <= BACKOFF_CAP_MS + 1; random++) {
		struct backoff copy = *b;
		uint64_t wait = backoff_next(&copy, now, random);

		if (wait > bound)
			bound = wait;
	}
	return bound;
}

static void test_doubling(void)
{
	static const uint64_t bounds[] = { 500,	  1000,	 2000,	4000, 8000,
					   16000, 30000, 30000, 30000 };
	struct backoff b = { 0 };

	for (unsigned i = 0; i < sizeof(bounds) / sizeof(*bounds); i++) {
		CHECK_INT(bound_of(&b, 5), bounds[i]);
		CHECK_INT(backoff_next(&b, 5, 0), 0); /* full jitter: at once is possible */
	}
	backoff_reset(&b);
	CHECK_INT(bound_of(&b, 5), 500);
}

static void test_spread(void)
{
	struct backoff b = { .attempts = 3 };
	unsigned low = 0, n = 0;
	uint64_t random = 88172645463325252ULL;

	for (; n < 10000; n++) {
		struct backoff copy = b;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		low += backoff_next(&copy, 0, random) < 2000;
	}
	CHECK(low > 4800 && low < 5200);
}

static void test_lost(void)
{
	struct backoff b = { .attempts = 5 };

	CHECK_INT(bound_of(&b, 1000), 16000);
	backoff_lost(&b, 1000, 10);
	CHECK_INT(bound_of(&b, 1000), BACKOFF_SOON_CAP_MS);
	CHECK_INT(bound_of(&b, 1000 + BACKOFF_SOON_MS - 1), BACKOFF_SOON_CAP_MS);
	CHECK_INT(bound_of(&b, 1000 + BACKOFF_SOON_MS), 16000);
	backoff_hope(&b, 90000);
	CHECK_INT(bound_of(&b, 90000), BACKOFF_SOON_CAP_MS);
	b.attempts = BACKOFF_SOON_ATTEMPTS; /* it comes and goes: no mercy any more */
	CHECK_INT(bound_of(&b, 90000), BACKOFF_CAP_MS);
	backoff_lost(&b, 1000, BACKOFF_STABLE_MS);
	CHECK_INT(b.attempts, 0);
	CHECK_INT(bound_of(&b, 1000), 500);
}

/* A relay killed and back at any time within 9 s: the wait that is running then is below 3 s. */
static void test_restart(void)
{
	for (uint64_t seed = 1; seed < 500; seed++) {
		struct backoff b = { .attempts = seed % 7 };
		uint64_t now = 1000, random = seed * 0x9e3779b97f4a7c15ULL;

		backoff_lost(&b, now, seed);
		while (now < 10000) {
			uint64_t wait;

			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			wait = backoff_next(&b, now, random);
			CHECK(wait < 3000);
			now += wait + 1;
		}
	}
}

static void test_refused(void)
{
	uint64_t low = UINT64_MAX, high = 0;

	for (uint64_t random = 0; random < 100000; random++) {
		uint64_t wait = backoff_refused(random);

		low = wait < low ? wait : low;
		high = wait > high ? wait : high;
	}
	CHECK_INT(low, 45000);
	CHECK_INT(high, 75000);
}

int main(void)
{
	test_doubling();
	test_spread();
	test_lost();
	test_restart();
	test_refused();
	return 0;
}
