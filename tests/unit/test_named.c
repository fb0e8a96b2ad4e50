/* named: each service once, since when, and for how long it is awaited. */
#include "config/config.h"
#include "relay/named.h"
#include "tests/unit/check.h"

static struct named *named(struct named *before, uint64_t now, char *const *services,
			   size_t n_services, char *const *fixed, size_t n_fixed)
{
	struct service_config table[4] = { 0 };
	struct listener_config listeners[4] = { 0 };
	struct relay_config c = { .services = table,
				  .n_services = n_services,
				  .listeners = listeners,
				  .n_listeners = n_fixed };
	struct named *n;

	for (size_t i = 0; i < n_services; i++)
		table[i].name = services[i];
	for (size_t i = 0; i < n_fixed; i++)
		listeners[i].service = fixed[i]; /* NULL: doors */
	n = named_new(&c, before, now);
	CHECK(n);
	named_free(before);
	return n;
}

#define NAMES(...)                                           \
	(char *const *)(const char *const[]){ __VA_ARGS__ }, \
		sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)

static void test_each_once(void)
{
	struct named *n = named(NULL, 7, NAMES("web.b", "kbs.a"), NAMES(NULL, "KBS.a", "x.c"));

	CHECK_INT(n->n, 3);
	CHECK(n->at[0].name[3] == '.' && n->at[0].name[4] == 'a');
	CHECK_STR(n->at[1].name, "web.b");
	CHECK_STR(n->at[2].name, "x.c");
	CHECK_INT(n->at[2].since, 7);
	named_free(n);
	n = named(NULL, 7, NULL, 0, NAMES(NULL));
	CHECK_INT(n->n, 0);
	named_free(n);
}

static void test_awaited(void)
{
	struct named *n = named(NULL, 100, NAMES("kbs.a"), NAMES(NULL));

	CHECK(named_is_awaited(&n->at[0], 100));
	CHECK(named_is_awaited(&n->at[0], 100 + NAMED_AWAITED_S - 1));
	CHECK(!named_is_awaited(&n->at[0], 100 + NAMED_AWAITED_S));
	CHECK(!named_is_awaited(&n->at[0], 99)); /* the clock was set back */
	n->at[0].met = true;
	CHECK(!named_is_awaited(&n->at[0], 101));
	named_free(n);
}

/* One that comes with a reload is new, one that stays is as old as it was, and as well known. */
static void test_reload(void)
{
	struct named *n = named(NULL, 100, NAMES("kbs.a", "met.a"), NAMES(NULL));

	n->at[1].met = true;
	n = named(n, 200, NAMES("aaa.a", "met.a"), NAMES("kbs.a"));
	CHECK_INT(n->n, 3);
	CHECK(named_is_awaited(&n->at[0], 201));
	CHECK_STR(n->at[1].name, "kbs.a");
	CHECK_INT(n->at[1].since, 100);
	CHECK(!named_is_awaited(&n->at[1], 201));
	CHECK(!named_is_awaited(&n->at[2], 201) && n->at[2].met);
	n = named(n, 300, NAMES("aaa.a"), NAMES(NULL));
	n = named(n, 400, NAMES("met.a"), NAMES(NULL)); /* gone, and here again */
	CHECK(named_is_awaited(&n->at[0], 401));
	named_free(n);
}

int main(void)
{
	test_each_once();
	test_awaited();
	test_reload();
	return 0;
}
