/* Addresses and the sources they are; as many as there may be; who fails too often is kept out. */
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "relay/peer.h"
#include "relay/source.h"
#include "tests/unit/check.h"

#define SECOND 1000

static struct quota_limits limits, no_limits;
static struct quota all;
static struct network exempt;
static struct source_penalties penalties = {
	.failures = 3,
	.half_life = 60 * SECOND,
	.block = 10 * SECOND,
	.block_max = 60 * SECOND,
};

static struct sources *fresh(size_t max)
{
	struct sources *t = sources_new(&limits, &all, max, &limits);

	CHECK(t);
	sources_set_penalties(t, &penalties);
	return t;
}

static struct peer ip(const char *text)
{
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	uint8_t bytes[16] = { 0 };
	struct peer p;

	CHECK_INT(inet_pton(family, text, bytes), 1);
	peer_set_ip(&p, family, bytes, 4711);
	return p;
}

static struct source *at(struct sources *t, struct peer p)
{
	return sources_get(t, &p, 0);
}

static void test_identity(void)
{
	struct sources *t = fresh(SOURCES_MAX);
	const struct peer who[] = {
		ip("192.0.2.1"),
		ip("192.0.2.2"),
		ip("2001:db8::1"),
		ip("2001:db8:0:1::1"),
		{ .family = AF_VSOCK, .a = 3, .b = 9 },
		{ .family = AF_VSOCK, .a = 4, .b = 9 },
		{ .family = AF_UNIX, .a = 9, .b = 0 },
		{ .family = AF_UNIX, .a = 9, .b = 107 },
		{ .family = AF_UNIX, .b = UINT32_MAX },
	};
	const unsigned n = sizeof(who) / sizeof(who[0]);
	struct source *s[16];

	for (unsigned i = 0; i < n; i++) {
		s[i] = at(t, who[i]);
		for (unsigned j = 0; j < i; j++)
			CHECK(s[i] != s[j]);
		CHECK(sources_user(s[i]) == &limits);
	}
	CHECK(at(t, ip("2001:db8::ffff:1:2:3")) == s[2]); /* the same 64 bits */
	CHECK(at(t, ip("::ffff:192.0.2.1")) == s[0]);
	CHECK(at(t, (struct peer){ .family = AF_VSOCK, .a = 3, .b = 10 }) == s[4]);
	CHECK(at(t, (struct peer){ .family = AF_UNIX, .a = 10, .b = 107 }) == s[7]);
	source_put(s[2]);
	source_put(s[0]);
	source_put(s[4]);
	source_put(s[7]);
	for (unsigned i = 0; i < n; i++)
		source_put(s[i]);
	source_put(NULL);
	sources_free(t);
}

static struct peer numbered(uint32_t i)
{
	return (struct peer){ .family = AF_VSOCK, .a = i };
}

/* All are live: those that come then share one. One that goes makes room. */
static void test_bound(void)
{
	enum { MAX = 640, MORE = 10000 };
	static struct source *s[MORE];
	struct sources *t = fresh(MAX);
	struct sources_census census;
	struct source *other = NULL;

	atomic_store(&limits.most[QUOTA_CONNECTIONS], 5);
	for (uint32_t i = 0; i < MORE; i++) {
		s[i] = sources_get(t, &(struct peer){ .family = AF_VSOCK, .a = i }, 0);
		if (!s[i]->shard)
			other = s[i];
	}
	CHECK(other);
	for (unsigned i = 0; i < 5; i++)
		CHECK(quota_take(&other->quota, QUOTA_CONNECTIONS));
	CHECK(!quota_take(&other->quota, QUOTA_CONNECTIONS));
	sources_census(t, 0, &census);
	CHECK_INT(census.known, MAX);
	CHECK_INT(census.other, 5);
	CHECK(!source_failed(other, &(struct peer){ .family = AF_VSOCK, .a = 1 }, 0));
	for (unsigned i = 0; i < MORE; i++)
		source_put(s[i]);
	for (uint32_t i = 0; i < MAX; i++) { /* all idle: each finds a place of its own */
		s[i] = at(t, numbered(MORE + i / 8 * 8));
		CHECK(s[i]->shard);
		source_put(s[i]);
	}
	sources_census(t, 0, &census);
	CHECK(census.known <= MAX);
	CHECK(!source_is_blocked(sources_unknown(t), &(struct peer){ 0 }, 0));
	CHECK(source_hold(sources_unknown(t)) == sources_unknown(t));
	source_put(sources_unknown(t));
	sources_free(t);
}

/* Idle ones without a past are forgotten as others come. */
static void test_forgotten(void)
{
	struct sources *t = fresh(SOURCES_MAX);
	struct sources_census census;
	const uint64_t now = 1000 * SECOND;

	for (uint32_t i = 0; i < 20000; i++) {
		struct peer p = numbered(i);
		struct source *s = sources_get(t, &p, now);

		CHECK_INT(quota_used(&s->quota, QUOTA_CONNECTIONS), 0);
		source_put(s);
	}
	sources_census(t, now, &census);
	CHECK(census.known <= 128);
	sources_free(t);
}

static bool fail(struct source *s, struct peer p, uint64_t now, unsigned times)
{
	bool blocked = false;

	while (times--)
		blocked |= source_failed(s, &p, now);
	return blocked;
}

static void test_penalties(void)
{
	struct sources *t = fresh(SOURCES_MAX);
	struct peer p = ip("192.0.2.1"), neighbour = ip("192.0.2.2");
	struct source *s = at(t, p), *n = at(t, neighbour);
	uint64_t now = 1000 * SECOND;

	CHECK(!fail(s, p, now, 2));
	CHECK(!source_is_blocked(s, &p, now));
	CHECK(fail(s, p, now, 1));
	CHECK(source_is_blocked(s, &p, now) && !source_is_blocked(n, &neighbour, now));
	CHECK(!fail(s, p, now, 100)); /* they were under way */
	CHECK(source_is_blocked(s, &p, now + 10 * SECOND - 1));
	now += 10 * SECOND;
	CHECK(!source_is_blocked(s, &p, now));
	CHECK(fail(s, p, now, 1)); /* again, and twice as long */
	CHECK(source_is_blocked(s, &p, now + 20 * SECOND - 1));
	now += 20 * SECOND;
	CHECK(!source_is_blocked(s, &p, now));
	for (unsigned i = 0; i < 10; i++) { /* up to the longest */
		CHECK(fail(s, p, now, 1));
		now += 60 * SECOND;
		CHECK(!source_is_blocked(s, &p, now));
	}
	/* it is remembered while nobody is there, and decays */
	source_put(s);
	s = sources_get(t, &p, now);
	now += 60 * SECOND; /* half of three points are left */
	CHECK(!fail(s, p, now, 1));
	CHECK(fail(s, p, now, 1));
	CHECK(source_is_blocked(s, &p, now + 60 * SECOND - 1)); /* none was forgiven */
	now += 60 * SECOND + 120 * SECOND; /* less than one is left: all is forgiven */
	CHECK(!fail(s, p, now, 2));
	CHECK(fail(s, p, now, 1));
	CHECK(!source_is_blocked(s, &p, now + 10 * SECOND));
	source_put(s);
	source_put(n);
	sources_free(t);
}

static void test_exempt(void)
{
	struct source_penalties some = penalties;
	struct peer inside = ip("2001:db8::7"), beside = ip("2001:db8::8");
	struct sources *t;
	struct source *s;

	CHECK(!network_parse(&exempt, "2001:db8::7"));
	some.exempt = &exempt;
	some.n_exempt = 1;
	t = sources_new(&limits, &all, 64, NULL);
	sources_set_penalties(t, &some);
	s = at(t, inside);
	CHECK(!fail(s, inside, 1, 1000));
	CHECK(fail(s, beside, 1, 3)); /* the same source */
	CHECK(source_is_blocked(s, &beside, 1) && !source_is_blocked(s, &inside, 1));
	source_put(s);
	sources_free(t);
	/* changed while one is blocked */
	t = fresh(64);
	s = at(t, inside);
	CHECK(fail(s, inside, 1, 3));
	sources_set_penalties(t, &some);
	CHECK(!source_is_blocked(s, &inside, 1) && source_is_blocked(s, &beside, 1));
	some.failures = 0;
	some.n_exempt = 0;
	sources_set_penalties(t, &some);
	CHECK(!source_is_blocked(s, &beside, 1));
	source_put(s);
	sources_free(t);
	t = sources_new(&limits, &all, 64, NULL);
	sources_set_penalties(t, &some);
	s = at(t, beside);
	CHECK(!fail(s, beside, 1, 1000));
	source_put(s);
	sources_free(t);
}

/* ---- several threads ---- */

enum { THREADS = 4, ROUNDS = 20000, NUMBERS = 200, MOST = 2 };

static struct sources *shared;

static void *come_and_go(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		struct peer p = numbered((seed = seed * 1103515245 + 12345) >> 16 & (NUMBERS - 1));
		struct source *s = sources_get(shared, &p, i);

		if (quota_take(&s->quota, QUOTA_CONNECTIONS)) {
			source_put(source_hold(s));
			quota_give(&s->quota, QUOTA_CONNECTIONS);
		}
		if (i % 100 == 0)
			source_failed(s, &p, i);
		source_is_blocked(s, &p, i);
		source_put(s);
	}
	return NULL;
}

static void test_threads(void)
{
	struct sources_census census;
	pthread_t threads[THREADS];

	atomic_store(&limits.most[QUOTA_CONNECTIONS], MOST);
	shared = fresh(64); /* one a shard: most of the time it is full */
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, come_and_go, (void *)(uintptr_t)i), 0);
	for (unsigned i = 0; i < 100; i++)
		sources_census(shared, 1, &census);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
	sources_census(shared, ROUNDS, &census);
	CHECK(census.known <= 64);
	CHECK_INT(census.most[QUOTA_CONNECTIONS], 0);
	CHECK_INT(census.other, 0);
	sources_free(shared);
}

int main(void)
{
	quota_limits_init(&limits);
	quota_limits_init(&no_limits);
	quota_init(&all, &no_limits, NULL);
	test_identity();
	test_bound();
	test_forgotten();
	test_penalties();
	test_exempt();
	test_threads();
	return 0;
}
