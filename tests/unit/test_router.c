/* From the names clients say to services: by service, by host name, by authority. */
#include "relay/router.h"
#include "tests/unit/check.h"

#define HASH "sha256:000000000000000000000000000000000000000000000000000000000000000"

static const char text[] =
	"domain: attest.example.net\n"
	"listeners:\n"
	"  - { name: front, address: \"tcp:127.0.0.1:7000\", doors: [connect] }\n"
	"owners:\n"
	"  - { name: acme, tokens: [ \"" HASH "1\" ], services: [ kbs, tang ] }\n"
	"  - { name: any, tokens: [ \"" HASH "2\" ] }\n"
	"services:\n"
	"  - name: kbs.acme\n"
	"    hostnames: [ kbs.acme.example ]\n"
	"    targets: [ tunnel, \"tcp:10.0.0.7:8080\" ]\n"
	"  - { name: inside.cloud, targets: [ \"tcp:10.0.0.9:1\" ] }\n";

static struct relay_config *config(const char *yaml)
{
	struct config_errors e = { 0 };
	struct relay_config *c = relay_config_parse("test", yaml, strlen(yaml), &e);

	if (!c)
		config_errors_print(&e, stderr);
	CHECK(c);
	return c;
}

static void found(int (*router)(struct route *r, const struct relay_config *c, const char *name),
		  const struct relay_config *c, const char *name, const char *service)
{
	struct route r;

	memset(&r, 'x', sizeof(r));
	if (router(&r, c, name) != 0)
		fprintf(stderr, "name: %s\n", name);
	CHECK_INT(router(&r, c, name), 0);
	CHECK_STR(r.service, service);
	CHECK(r.config == relay_config_service(c, service));
}

static void unknown(int (*router)(struct route *r, const struct relay_config *c, const char *name),
		    const struct relay_config *c, const char *name)
{
	struct route r, before;

	memset(&r, 'x', sizeof(r));
	before = r;
	if (router(&r, c, name) == 0)
		fprintf(stderr, "name: %s\n", name);
	CHECK_INT(router(&r, c, name), -ENOENT);
	CHECK(memcmp(&r, &before, sizeof(r)) == 0); /* untouched */
}

static void test_service(const struct relay_config *c)
{
	char longest[200];

	found(router_by_service, c, "kbs.acme", "kbs.acme");
	found(router_by_service, c, "KBS.Acme", "kbs.acme"); /* without case, kept in lower case */
	found(router_by_service, c, "tang.acme", "tang.acme");
	found(router_by_service, c, "TANG.acme", "tang.acme");
	found(router_by_service, c, "whatever.any", "whatever.any"); /* may offer anything */
	found(router_by_service, c, "inside.cloud", "inside.cloud"); /* listed, without an owner */
	unknown(router_by_service, c, "other.acme");                 /* acme may not offer it */
	unknown(router_by_service, c, "kb.acme");                    /* a prefix is no match */
	unknown(router_by_service, c, "kbss.acme");
	unknown(router_by_service, c, "kbs.nobody");
	unknown(router_by_service, c, "other.cloud");
	unknown(router_by_service, c, "kbs");
	unknown(router_by_service, c, "kbs.acme.");
	unknown(router_by_service, c, ".acme");
	unknown(router_by_service, c, "a.b.any");
	unknown(router_by_service, c, "a/b.any");
	unknown(router_by_service, c, "-a.any");
	unknown(router_by_service, c, "");

	memset(longest, 'a', sizeof(longest));
	memcpy(longest + 63, ".any", 5);
	found(router_by_service, c, longest, longest);
	memset(longest, 'a', sizeof(longest));
	memcpy(longest + 64, ".any", 5);
	unknown(router_by_service, c, longest);
	memset(longest, 'a', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	unknown(router_by_service, c, longest);
}

static void test_host(const struct relay_config *c)
{
	char far[300];

	found(router_by_host, c, "kbs.acme.example", "kbs.acme");
	found(router_by_host, c, "KBS.ACME.Example", "kbs.acme");
	found(router_by_host, c, "kbs.acme.attest.example.net", "kbs.acme");
	found(router_by_host, c, "Tang.Acme.Attest.Example.NET", "tang.acme");
	found(router_by_host, c, "x.any.attest.example.net", "x.any");
	found(router_by_host, c, "inside.cloud.attest.example.net", "inside.cloud");
	unknown(router_by_host, c, "other.acme.attest.example.net");
	unknown(router_by_host, c, "attest.example.net"); /* the relay itself */
	unknown(router_by_host, c, ".attest.example.net");
	unknown(router_by_host, c, "acme.attest.example.net");
	unknown(router_by_host, c, "a.x.any.attest.example.net");
	unknown(router_by_host, c, "x.anyattest.example.net"); /* the dot is part of it */
	unknown(router_by_host, c, "kbs.acme");                /* no host name */
	unknown(router_by_host, c, "www.example.org");
	unknown(router_by_host, c, "");
	memset(far, 'a', sizeof(far));
	strcpy(far + 200, ".any.attest.example.net");
	unknown(router_by_host, c, far);
}

static void test_authority(const struct relay_config *c)
{
	found(router_by_authority, c, "kbs.acme", "kbs.acme");
	found(router_by_authority, c, "kbs.acme.example", "kbs.acme");
	found(router_by_authority, c, "tang.acme.attest.example.net", "tang.acme");
	unknown(router_by_authority, c, "10.0.0.7");
	unknown(router_by_authority, c, "other.acme");
}

static void test_targets(const struct relay_config *c)
{
	const struct addresses *t;
	struct route r;

	CHECK_INT(router_by_service(&r, c, "kbs.acme"), 0);
	t = router_targets(&r);
	CHECK_INT(t->n, 2);
	CHECK_INT(t->at[0].kind, ADDRESS_TUNNEL);
	CHECK_INT(t->at[1].kind, ADDRESS_TCP);
	CHECK_STR(t->at[1].name, "10.0.0.7");

	CHECK_INT(router_by_service(&r, c, "tang.acme"), 0); /* not listed: the default */
	t = router_targets(&r);
	CHECK_INT(t->n, 1);
	CHECK_INT(t->at[0].kind, ADDRESS_TUNNEL);
}

/* Without a domain no host name is made of a service's name. */
static void test_no_domain(void)
{
	struct relay_config *c = config(strchr(text, '\n') + 1);

	CHECK(!c->domain);
	found(router_by_host, c, "kbs.acme.example", "kbs.acme");
	unknown(router_by_host, c, "tang.acme.attest.example.net");
	unknown(router_by_host, c, "tang.acme.");
	unknown(router_by_host, c, "tang.acme");
	relay_config_unref(c);
}

int main(void)
{
	struct relay_config *c = config(text);

	test_service(c);
	test_host(c);
	test_authority(c);
	test_targets(c);
	relay_config_unref(c);
	test_no_domain();
	return 0;
}
