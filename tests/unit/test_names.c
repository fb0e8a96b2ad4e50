/* Names are resolved aside: what came of each, and what is put in their place. */
#include <arpa/inet.h>
#include <event2/event.h>
#include <netdb.h>

#include "relay/names.h"
#include "tests/unit/check.h"

static struct event_base *base;
static unsigned told;

static void on_done(struct names *n, void *user)
{
	CHECK(user == &told);
	told++;
}

static struct names *ask(const char *const *hosts, size_t n)
{
	struct names *names = names_ask(base, hosts, n, on_done, &told);

	CHECK(names);
	told = 0;
	CHECK_INT(event_base_dispatch(base), 1); /* until no event is left */
	CHECK_INT(told, 1);
	return names;
}

static struct address parse(const char *text)
{
	struct address a;
	char *why = NULL;

	CHECK_INT(address_parse(&a, text, &why), 0);
	return a;
}

static bool has_name(const char *text)
{
	struct address a = parse(text);
	bool yes = names_has_name(&a);

	address_deinit(&a);
	return yes;
}

static void test_has_name(void)
{
	CHECK(has_name("tcp:localhost:1"));
	CHECK(has_name("tcp:relay.example:443"));
	CHECK(!has_name("tcp:127.0.0.1:443"));
	CHECK(!has_name("tcp:[::1]:443"));
	CHECK(!has_name("tcp:0.0.0.0:443"));
	CHECK(!has_name("unix:/run/localhost"));
	CHECK(!has_name("fd:localhost"));
}

/* One with an address, one without: .invalid is nobody's, and text like this is no name at all. */
static void test_answers(void)
{
	static const char *const hosts[] = { "localhost", "no name", "localhost" };
	struct address good = parse("tcp:localhost:443"), path = parse("unix:/localhost"), a;
	struct names *n = ask(hosts, 3);
	struct in6_addr ip;

	CHECK(!names_failure(n, "localhost"));
	CHECK(names_failure(n, "no name"));
	CHECK(!names_failure(n, "was not asked for"));
	a = names_apply(n, &good);
	CHECK_INT(a.port, 443);
	CHECK(inet_pton(AF_INET, a.name, &ip) == 1 || inet_pton(AF_INET6, a.name, &ip) == 1);
	a = names_apply(n, &path);
	CHECK(a.name == path.name);
	a = names_apply(NULL, &good);
	CHECK(a.name == good.name);
	names_free(n);
	address_deinit(&good);
	address_deinit(&path);
}

static void test_same_question(void)
{
	static const char *const asked[] = { "127.0.0.1", "::1", "127.0.0.1" };
	static const char *const same[] = { "::1", "127.0.0.1" }, *const other[] = { "::1", "a" };
	struct names *n = ask(asked, 3);

	CHECK(names_is_about(n, same, 2));
	CHECK(!names_is_about(n, same, 1));
	CHECK(!names_is_about(n, other, 2));
	CHECK(!names_is_about(n, NULL, 0));
	names_free(n);
}

/* Nobody waits any more: the thread has all to itself, and its place is free when it is over. */
static void test_left_alone(void)
{
	static const char *const hosts[] = { "127.0.0.1", "localhost" };

	told = 0;
	for (unsigned i = 0; i < 100 * NAMES_THREADS_MAX; i++) {
		struct names *n = names_ask(base, hosts, 2, on_done, &told);

		CHECK(n || errno == EAGAIN);
		names_free(n);
	}
	CHECK_INT(event_base_dispatch(base), 1);
	CHECK_INT(told, 0);
	CHECK(!names_free(NULL));
}

int main(void)
{
	base = event_base_new();
	CHECK(base);
	test_has_name();
	test_answers();
	test_same_question();
	test_left_alone();
	event_base_free(base);
	return 0;
}
