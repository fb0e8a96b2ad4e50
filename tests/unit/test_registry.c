/* Who offers what: primaries and backups, take-over by generation, limits, retirement, threads. */
#include <pthread.h>

#include "relay/registry.h"
#include "tests/unit/check.h"

#define NO_LIMIT 1000

static struct registry *r;
static uint64_t last_id;

/* What makes a worker here is its address. */
static char a_worker;
#define worker_a ((struct worker *)(void *)&a_worker)

static struct registration tunnel(const char *owner, const char *instance, uint64_t generation)
{
	return (struct registration){ .worker = worker_a,
				      .tunnel = ++last_id,
				      .owner = owner,
				      .instance = instance,
				      .generation = generation };
}

static enum reason add(struct registration *t, const char *service, struct offer *stale)
{
	const struct offered s = { .service = service };

	return registry_add(r, t, &s, 1, NO_LIMIT, NO_LIMIT, stale);
}

static uint64_t picked(const char *service)
{
	struct offer o;

	if (!registry_pick(r, service, 0, &o))
		return 0;
	CHECK(o.worker == worker_a);
	return o.tunnel;
}

static void begin(void)
{
	r = registry_new();
	CHECK(r);
}

static void end(void)
{
	CHECK_INT(registry_tunnels(r), 0);
	CHECK_INT(registry_services(r), 0);
	r = registry_free(r);
	CHECK(!r);
}

static void test_pick(void)
{
	struct registration a = tunnel("acme", "i1", 1), b = tunnel("beta", "i1", 1);
	const struct offered some[] = { { "kbs.acme", false },
					{ "tang.acme", true },
					{ "a.acme", false } };
	struct offer o, stale;

	begin();
	memset(&o, 'x', sizeof(o));
	CHECK(!registry_pick(r, "kbs.acme", 0, &o));
	CHECK_INT(registry_add(r, &a, some, 3, NO_LIMIT, NO_LIMIT, &stale), REASON_NONE);
	CHECK(!stale.worker);
	CHECK_INT(add(&b, "kbs.beta", &stale), REASON_NONE);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(registry_services(r), 4);
	CHECK(registry_pick(r, "kbs.acme", 0, &o));
	CHECK(o.worker == worker_a);
	CHECK_INT(o.tunnel, a.tunnel);
	CHECK(!o.eager);
	CHECK(registry_pick(r, "tang.acme", 0, &o) && o.eager);
	CHECK_INT(picked("a.acme"), a.tunnel);
	CHECK_INT(picked("kbs.beta"), b.tunnel);
	CHECK(!registry_pick(r, "kbs.acm", 0, &o));
	CHECK(!registry_pick(r, "kbs.acmee", 0, &o));
	registry_remove(r, &a);
	CHECK_INT(picked("kbs.acme"), 0);
	CHECK_INT(picked("kbs.beta"), b.tunnel);
	registry_remove(r, &a); /* not listed: nothing */
	CHECK_INT(registry_tunnels(r), 1);
	registry_remove(r, &b);
	end();
	CHECK(!registry_free(NULL));
}

/* The first that came is the primary; the next takes its place when it goes. */
static void test_backups(void)
{
	struct registration t[3] = { tunnel("acme", "i1", 1), tunnel("acme", "i2", 9),
				     tunnel("acme", "i3", 5) };
	struct offer o, stale;

	begin();
	for (int i = 0; i < 3; i++) {
		CHECK_INT(add(&t[i], "kbs.acme", &stale), REASON_NONE);
		CHECK_INT(picked("kbs.acme"), t[0].tunnel);
	}
	/* other than the primary: the first backup */
	CHECK(registry_pick(r, "kbs.acme", t[0].tunnel, &o));
	CHECK_INT(o.tunnel, t[1].tunnel);
	CHECK(registry_pick(r, "kbs.acme", t[2].tunnel, &o));
	CHECK_INT(o.tunnel, t[0].tunnel);
	registry_remove(r, &t[1]);
	CHECK_INT(picked("kbs.acme"), t[0].tunnel);
	registry_remove(r, &t[0]);
	CHECK_INT(picked("kbs.acme"), t[2].tunnel);
	CHECK(!registry_pick(r, "kbs.acme", t[2].tunnel, &o));  /* there is no other */
	CHECK_INT(add(&t[0], "kbs.acme", &stale), REASON_NONE); /* back: behind */
	CHECK_INT(picked("kbs.acme"), t[2].tunnel);
	registry_remove(r, &t[2]);
	registry_remove(r, &t[0]);
	end();
}

static void test_take_over(void)
{
	struct registration old = tunnel("acme", "i1", 5), young = tunnel("acme", "i1", 6),
			    same = tunnel("acme", "i1", 6), older = tunnel("acme", "i1", 2),
			    other = tunnel("beta", "i1", 1);
	struct offer stale;

	begin();
	CHECK_INT(add(&old, "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(add(&other, "kbs.beta", &stale), REASON_NONE); /* another owner's i1 */
	CHECK(!stale.worker);

	CHECK_INT(add(&older, "kbs.acme", &stale), REASON_STALE);
	CHECK(!stale.worker);
	CHECK_INT(picked("kbs.acme"), old.tunnel);

	/* it may offer other services than before: the old ones are gone with the old session */
	CHECK_INT(add(&young, "tang.acme", &stale), REASON_NONE);
	CHECK(stale.worker == worker_a);
	CHECK_INT(stale.tunnel, old.tunnel);
	CHECK_INT(picked("kbs.acme"), 0);
	CHECK_INT(picked("tang.acme"), young.tunnel);
	CHECK_INT(registry_tunnels(r), 2);

	CHECK_INT(add(&same, "tang.acme", &stale), REASON_STALE); /* as new is not newer */
	CHECK_INT(registry_tunnels(r), 2);

	registry_remove(r, &old); /* closed later: takes nothing of its successor's */
	CHECK_INT(picked("tang.acme"), young.tunnel);
	CHECK_INT(registry_tunnels(r), 2);
	registry_remove(r, &young);
	registry_remove(r, &other);
	end();
}

static void test_limits(void)
{
	struct registration t[3] = { tunnel("acme", "i1", 1), tunnel("acme", "i2", 1),
				     tunnel("acme", "i3", 1) };
	struct registration next = tunnel("acme", "i2", 2),
			    beta[2] = { tunnel("beta", "i1", 1), tunnel("beta", "i2", 1) };
	const struct offered s = { .service = "kbs.acme" }, b = { .service = "kbs.beta" };
	struct offer stale;

	begin();
	CHECK_INT(registry_add(r, &t[0], &s, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(registry_add(r, &t[1], &s, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(registry_add(r, &t[2], &s, 1, 2, 3, &stale), REASON_LIMIT); /* the owner's */
	CHECK_INT(registry_services(r), 2);
	/* a successor adds none, so it is let in at the limit */
	CHECK_INT(registry_add(r, &next, &s, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(stale.tunnel, t[1].tunnel);
	CHECK_INT(registry_add(r, &beta[0], &b, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(registry_add(r, &beta[1], &b, 1, 2, 3, &stale), REASON_LIMIT); /* all */
	CHECK_INT(registry_tunnels(r), 3);
	registry_remove(r, &t[0]);
	CHECK_INT(registry_add(r, &beta[1], &b, 1, 2, 3, &stale), REASON_NONE);
	registry_remove(r, &next);
	registry_remove(r, &beta[0]);
	registry_remove(r, &beta[1]);
	end();
}

/* Retiring: no new streams, no longer in the way of its successor, still counted. */
static void test_retire(void)
{
	struct registration t = tunnel("acme", "i1", 3), backup = tunnel("acme", "i2", 1),
			    next = tunnel("acme", "i1", 3);
	struct offer stale;

	begin();
	CHECK_INT(add(&t, "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(add(&backup, "kbs.acme", &stale), REASON_NONE);
	registry_retire(r, &t);
	CHECK(t.retiring);
	CHECK_INT(picked("kbs.acme"), backup.tunnel);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(registry_services(r), 1);

	/* the fresh session of the same instance: it finishes its streams, nobody closes it */
	CHECK_INT(add(&next, "kbs.acme", &stale), REASON_NONE);
	CHECK(!stale.worker);
	CHECK_INT(registry_tunnels(r), 3);
	registry_remove(r, &t);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(picked("kbs.acme"), backup.tunnel);
	registry_remove(r, &backup);
	CHECK_INT(picked("kbs.acme"), next.tunnel);
	registry_remove(r, &next);
	end();
}

/* Thousands of services come and go; each is found while it is there. */
static void test_many(void)
{
	enum { TUNNELS = 50, SERVICES = 40 };
	static struct registration t[TUNNELS];
	static char owner[TUNNELS][16], name[TUNNELS][SERVICES][32];
	struct offered s[SERVICES];
	struct offer stale;

	begin();
	for (unsigned i = 0; i < TUNNELS; i++) {
		snprintf(owner[i], sizeof(owner[i]), "o%u", i);
		for (unsigned k = 0; k < SERVICES; k++) {
			snprintf(name[i][k], sizeof(name[i][k]), "s%u.o%u", (k * 7919) % 1000, i);
			s[k] = (struct offered){ .service = name[i][k] };
		}
		t[i] = tunnel(owner[i], "i", 1);
		CHECK_INT(registry_add(r, &t[i], s, SERVICES, 1, TUNNELS, &stale), REASON_NONE);
	}
	CHECK_INT(registry_services(r), TUNNELS * SERVICES);
	for (unsigned i = 0; i < TUNNELS; i += 2)
		registry_remove(r, &t[i]);
	for (unsigned i = 0; i < TUNNELS; i++)
		for (unsigned k = 0; k < SERVICES; k++)
			CHECK_INT(picked(name[i][k]), i % 2 ? t[i].tunnel : 0);
	for (unsigned i = 1; i < TUNNELS; i += 2)
		registry_remove(r, &t[i]);
	end();
}

/* From several threads at once: each finds its own, and nothing is left. */
static void *come_and_go(void *arg)
{
	const char *owner = arg;
	char service[32];
	struct registration t = { .worker = worker_a, .owner = owner, .instance = "i" };
	struct offered s = { .service = service };
	struct offer stale, o;

	snprintf(service, sizeof(service), "kbs.%s", owner);
	for (unsigned i = 1; i <= 2000; i++) {
		t.tunnel = i;
		t.generation = i;
		CHECK_INT(registry_add(r, &t, &s, 1, 1, NO_LIMIT, &stale), REASON_NONE);
		CHECK(registry_pick(r, service, 0, &o));
		CHECK_INT(o.tunnel, i);
		registry_remove(r, &t);
		CHECK(!registry_pick(r, service, 0, &o));
	}
	return NULL;
}

static void test_threads(void)
{
	static char owners[4][8] = { "a", "b", "c", "d" };
	pthread_t threads[4];

	begin();
	for (int i = 0; i < 4; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, come_and_go, owners[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	end();
}

int main(void)
{
	test_pick();
	test_backups();
	test_take_over();
	test_limits();
	test_retire();
	test_many();
	test_threads();
	return 0;
}
