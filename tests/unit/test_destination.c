/*
 * What streams hold for as long as they last: their service's destination and the listener that
 * they came by. A destination is had again if nothing of it has changed. Both outlive their config,
 * and keep none: many that came and went one at a time would keep as many whole configs.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "relay/destination.h"
#include "relay/listener.h"
#include "relay/settings.h"
#include "relay/sockets.h"
#include "tests/unit/check.h"

#define MANY 4000
#define LINE_MAX_ 160
#define SMALL (64 * 1024)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
size_t __sanitizer_get_current_allocated_bytes(void);

static size_t allocated(void)
{
	return __sanitizer_get_current_allocated_bytes();
}
#else
static size_t allocated(void)
{
	return mallinfo2().uordblks;
}
#endif

static const char first[] =
	"listeners: [{name: a, address: \"tcp:127.0.0.1:1\", doors: [sni]}]\nservices:\n"
	"- {name: kbs.acme, hostnames: [kbs.example], idle: 7s, balance: sticky,\n"
	"   targets: [\"tcp:10.0.0.1:1\", \"unix:/run/x\"], check: {kind: tls, server_name: "
	"x.example}}\n";

static struct relay_config *parse(const char *more)
{
	struct config_errors errors = { 0 };
	char *text = malloc(sizeof(first) + strlen(more));
	struct relay_config *c;

	strcat(strcpy(text, first), more);
	c = relay_config_parse("test", text, strlen(text), &errors);
	for (size_t i = 0; i < errors.n; i++)
		fprintf(stderr, "%s\n", errors.at[i]);
	CHECK(c);
	config_errors_deinit(&errors);
	free(text);
	return c;
}

static char *many_services(void)
{
	char *text = malloc((size_t)MANY * LINE_MAX_), *end = text;

	for (unsigned i = 0; i < MANY; i++)
		end += sprintf(end,
			       "- {name: s%u.acme, hostnames: [s%u.example], "
			       "targets: [\"tcp:10.0.0.1:%u\"]}\n",
			       i, i, i + 1);
	return text;
}

static void test_outlives_its_config(void)
{
	struct relay_config *c = parse(""), *same = parse("");
	struct destination *d = destination_of(c, &c->services[0], NULL), *again;

	CHECK(d && relay_config_same_service(d->config, &c->services[0]));
	CHECK(d->config->targets.at != c->services[0].targets.at);
	relay_config_unref(c);
	CHECK(relay_config_same_service(d->config, &same->services[0]));
	CHECK(d->splice.idle_ms == 7000 && d->config->targets.n == 2 && d->health && d->probes);
	again = destination_of(same, &same->services[0], d);
	CHECK(again == d);
	destination_unref(again);
	relay_config_unref(same);
	destination_unref(d);
}

static void test_listener_keeps_no_config(void)
{
	struct listening socket = { .refs = 1, .fd = -1 };
	char *text = many_services(), *why;
	size_t before = allocated();
	struct relay_config *c = parse(text);
	struct settings *s = settings_new(c, NULL, &why);
	struct listener *l;

	CHECK(s);
	relay_config_unref(c);
	l = listener_new(NULL, NULL, s, &s->config->listeners[0], &socket);
	CHECK(l && allocated() - before > 4 * SMALL);
	settings_unref(s);
	CHECK(allocated() - before < SMALL);
	CHECK_STR(l->config->name, "a");
	CHECK(l->config->doors == DOOR_SNI && l->config->address.port == 1 && !l->tls);
	listener_unref(l);
	free(text);
}

static void test_keeps_no_config(void)
{
	char *text = many_services();
	size_t before = allocated(), most;
	struct relay_config *c = parse(text);
	struct destination *one = destination_of(c, &c->services[MANY / 2], NULL);
	struct destination *others = destination_of(c, NULL, NULL);

	most = allocated() - before;
	CHECK(one && others && most > 4 * SMALL);
	relay_config_unref(c);
	CHECK(allocated() - before < SMALL);
	destination_unref(one);
	destination_unref(others);
	free(text);
}

int main(void)
{
	test_outlives_its_config();
	test_keeps_no_config();
	test_listener_keeps_no_config();
	return 0;
}
