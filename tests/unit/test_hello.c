/* hello: what is written is read back; what is wrong is refused with a line that says so. */
#include "tests/unit/check.h"
#include "tunnel/hello.h"

static struct fields fields;

/* "name=value" pairs, NULL at the end. */
static const struct fields *of(const char *const *pairs)
{
	fields_init(&fields);
	for (; *pairs; pairs++) {
		const char *equals = strchr(*pairs, '=');
		char name[64];

		snprintf(name, sizeof(name), "%.*s", (int)(equals - *pairs), *pairs);
		CHECK_INT(fields_add(&fields, name, equals + 1, false), 0);
	}
	return &fields;
}
#define OF(...) of((const char *const[]){ __VA_ARGS__, NULL })

static void test_round_trip(void)
{
	static struct hello in, out;
	char why[HELLO_WHY_MAX] = "";
	unsigned secrets = 0;

	in.token = "art_secret";
	strcpy(in.instance, "Host_1.a-b");
	in.generation = 1764000000123456;
	in.n_offers = HELLO_SERVICES_MAX;
	for (unsigned i = 0; i < in.n_offers; i++) {
		snprintf(in.offers[i].name, sizeof(in.offers[i].name), "service-%u", i);
		in.offers[i].eager = i % 2;
	}
	fields_init(&fields);
	CHECK_INT(hello_encode(&in, &fields), 0);
	for (unsigned i = 0; i < fields.n; i++) {
		secrets += fields.at[i].secret;
		CHECK(fields.at[i].secret == (strcmp(fields.at[i].name, "attest-token") == 0));
	}
	CHECK_INT(secrets, 1);
	CHECK_INT(hello_decode(&out, &fields, why), 0);
	CHECK_STR(out.token, in.token);
	CHECK_STR(out.instance, in.instance);
	CHECK_INT(out.generation, in.generation);
	CHECK_INT(out.n_offers, in.n_offers);
	for (unsigned i = 0; i < in.n_offers; i++) {
		CHECK_STR(out.offers[i].name, in.offers[i].name);
		CHECK_INT(out.offers[i].eager, in.offers[i].eager);
	}
}

static void test_tolerant(void)
{
	static struct hello h;
	char why[HELLO_WHY_MAX];

	CHECK_INT(hello_decode(&h,
			       OF("attest-instance=a", "x-later=1", "attest-generation=0",
				  "attest-service=KBS; weight=3 ;dial=eager",
				  "attest-service=tang;x",
				  "attest-service=nfs;dial=eagerly"),
			       why),
		  0);
	CHECK(!h.token);
	CHECK_INT(h.n_offers, 3);
	CHECK_STR(h.offers[0].name, "kbs");
	CHECK(h.offers[0].eager);
	CHECK(!h.offers[1].eager);
	CHECK(!h.offers[2].eager);
	CHECK_INT(hello_decode(&h,
			       OF("attest-instance=a", "attest-generation=9223372036854775807",
				  "attest-service=a"),
			       why),
		  0);
	CHECK_INT(h.generation, INT64_MAX);
}

static void refused(const struct fields *f, const char *word)
{
	static struct hello h, before;
	char why[HELLO_WHY_MAX] = "";

	memset(&h, 0x5a, sizeof(h));
	memset(&before, 0x5a, sizeof(before));
	CHECK_INT(hello_decode(&h, f, why), -EPROTO);
	CHECK(memcmp(&h, &before, sizeof(h)) == 0);
	if (!strstr(why, word))
		fprintf(stderr, "\"%s\" in \"%s\"?\n", word, why);
	CHECK(strstr(why, word));
}

static void test_refused_hellos(void)
{
	static const char *const bad_generations[] = {
		"", "-1", "+1", " 1", "1 ", "0x10", "1e3", "9223372036854775808",
		"18446744073709551616", "99999999999999999999999",
	};
	static const char *const bad_services[] = {
		"", "-a", "a-", "a.b", "a_b", ";dial=eager", "k\xc3\xa4se",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	};
	char pair[256];

	refused(OF("attest-generation=1", "attest-service=a"), "attest-instance is missing");
	refused(OF("attest-instance=", "attest-generation=1", "attest-service=a"), "malformed");
	refused(OF("attest-instance=a b", "attest-generation=1", "attest-service=a"), "malformed");
	snprintf(pair, sizeof(pair), "attest-instance=%065d", 0);
	refused(OF(pair, "attest-generation=1", "attest-service=a"), "attest-instance");
	refused(OF("attest-instance=a", "attest-service=a"), "attest-generation is missing");
	for (unsigned i = 0; i < sizeof(bad_generations) / sizeof(*bad_generations); i++) {
		snprintf(pair, sizeof(pair), "attest-generation=%s", bad_generations[i]);
		refused(OF("attest-instance=a", pair, "attest-service=a"), "attest-generation");
	}
	refused(OF("attest-instance=a", "attest-generation=1"), "offers nothing");
	for (unsigned i = 0; i < sizeof(bad_services) / sizeof(*bad_services); i++) {
		snprintf(pair, sizeof(pair), "attest-service=%s", bad_services[i]);
		refused(OF("attest-instance=a", "attest-generation=1", pair), "service name");
	}
	refused(OF("attest-instance=a", "attest-generation=1", "attest-service=kbs",
		   "attest-service=Kbs"),
		"twice");

	OF("attest-instance=a", "attest-generation=1");
	for (unsigned i = 0; i <= HELLO_SERVICES_MAX; i++) {
		snprintf(pair, sizeof(pair), "s%u", i);
		CHECK_INT(fields_add(&fields, "attest-service", pair, false), 0);
	}
	refused(&fields, "more than 64");
}

/* A question is none to a relay that does not know it: without an attest-service it is refused. */
static void test_question(void)
{
	static struct hello in = { .instance = "a", .generation = 7, .question = true };
	static struct hello out;
	char why[HELLO_WHY_MAX];

	in.n_offers = 1;
	strcpy(in.offers[0].name, "kbs");
	fields_init(&fields);
	CHECK_INT(hello_encode(&in, &fields), 0);
	CHECK(!fields_get(&fields, "attest-service"));
	CHECK_INT(hello_decode(&out, &fields, why), 0);
	CHECK(out.question);
	CHECK_INT(out.n_offers, 1);
	CHECK_STR(out.offers[0].name, "kbs");
	CHECK_INT(fields_add(&fields, "attest-service", "kbs", false), 0);
	refused(&fields, "attest-would-offer beside attest-service");
}

static void test_accepted(void)
{
	static struct hello_accepted in, out;
	char why[HELLO_WHY_MAX];

	strcpy(in.owner, "acme");
	in.n_services = 2;
	strcpy(in.services[0], "kbs.acme");
	strcpy(in.services[1], "tang.acme");
	fields_init(&fields);
	CHECK_INT(hello_encode_accepted(&in, &fields), 0);
	CHECK_INT(hello_decode_accepted(&out, &fields, why), 0);
	CHECK_STR(out.owner, "acme");
	CHECK_INT(out.n_services, 2);
	CHECK_STR(out.services[1], "tang.acme");
	CHECK_INT(hello_decode_accepted(&out, OF("attest-service=kbs.acme"), why), -EPROTO);
	CHECK_STR(out.owner, "acme");
	CHECK_INT(hello_decode_accepted(&out, OF("attest-owner=a", "attest-service=kbs"), why),
		  -EPROTO);
	CHECK_INT(hello_decode_accepted(&out, OF("attest-owner=a.b"), why), -EPROTO);
}

static void test_refused(void)
{
	static struct hello_refused in, out;
	char value[1200] = "";

	for (unsigned i = 0; i < HELLO_REFUSALS; i++) {
		in.reason = i;
		strcpy(in.message, "token expired\non 1 May");
		fields_init(&fields);
		CHECK_INT(hello_encode_refused(&in, &fields), 0);
		hello_decode_refused(&out, &fields);
		CHECK_INT(out.reason, i);
		CHECK_STR(out.message, "token expired?on 1 May");
	}
	CHECK(hello_refusal_is_lasting(HELLO_STALE));
	CHECK(!hello_refusal_is_lasting(HELLO_LIMIT));
	hello_decode_refused(&out, OF("x=y"));
	CHECK_INT(out.reason, HELLO_OTHER);
	CHECK_STR(out.message, "");

	/* cut to its bound, between characters */
	strcpy(value, "attest-message=");
	for (unsigned i = 0; i < 400; i++)
		strcat(value, "\xc3\xa4");
	hello_decode_refused(&out, OF(value));
	CHECK_INT(strlen(out.message), 510);
}

static void test_move(void)
{
	for (unsigned i = 0; i < HELLO_MOVES; i++) {
		fields_init(&fields);
		CHECK_INT(hello_encode_move(i, &fields), 0);
		CHECK_INT(hello_decode_move(&fields), i);
	}
	fields_init(&fields);
	CHECK_INT(hello_decode_move(&fields), HELLO_MOVE_OTHER);
}

int main(void)
{
	test_round_trip();
	test_tolerant();
	test_refused_hellos();
	test_question();
	test_accepted();
	test_refused();
	test_move();
	return 0;
}
