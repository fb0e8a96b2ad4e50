/* Who has limits, what a stream takes of each, a reload, and handshakes of which the oldest go. */
#include <sys/socket.h>

#include "relay/handshake.h"
#include "relay/peer.h"
#include "relay/tenants.h"
#include "tests/unit/check.h"

#define HASH(digit) \
	"'sha256:00000000000000000000000000000000000000000000000000000000000000" #digit "'"
#define TOKEN HASH(01)
#define OTHER HASH(02)

static const char first[] =
	"listeners: [{name: l, address: 'tcp:127.0.0.1:1', doors: [connect]}]\n"
	"owners:\n"
	"  - {name: acme, tokens: [" TOKEN "], limits: {streams: 3, parked: 1}}\n"
	"  - {name: beta, tokens: [" OTHER "]}\n"
	"services: [{name: kbs.addr, targets: ['tcp:127.0.0.1:2']},\n"
	"           {name: tang.addr, targets: ['tcp:127.0.0.1:2']}]\n"
	"clients:\n"
	"  - {name: node, networks: [10.0.0.0/8], services: ['*'], limits: {streams: 2}}\n"
	"limits:\n"
	"  parked: 3\n"
	"  per_source: {streams: 5, parked: 2, opens_per_second: 20, memory: 1MiB}\n"
	"  per_owner: {streams: 4, opens_per_second: 1000}\n";

static struct tenants t;
static struct relay_config *config;

static struct relay_config *parse(const char *text)
{
	struct config_errors e = { 0 };
	struct relay_config *c = relay_config_parse("r.yaml", text, strlen(text), &e);

	config_errors_print(&e, stderr);
	CHECK(c);
	config_errors_deinit(&e);
	return c;
}

static struct source *from(uint32_t cid)
{
	const struct peer p = { .family = AF_VSOCK, .a = cid };

	return sources_get(t.sources, &p, 0);
}

static enum reason take(struct claim *c, struct source *s, const char *service, const char *client,
			const char *expected)
{
	const char *setting = NULL;
	enum reason why = claim_stream(c, &t, s, service, client, 1000, &setting);

	CHECK_STR(setting, expected);
	return why;
}

static uint64_t used(const char *owner)
{
	struct quota_entry *q = tenants_owner(&t, owner);
	uint64_t n = quota_used(&q->quota, QUOTA_STREAMS);

	quotas_put(q);
	return n;
}

/* Each limit in turn is the one that is reached; nothing is kept of a refused stream. */
static void test_streams(void)
{
	struct claim c[8], no;
	struct source *a = from(3), *b = from(4);

	CHECK_INT(take(&c[0], a, "kbs.acme", "node", ""), REASON_NONE);
	CHECK_INT(take(&c[1], a, "kbs.beta", "node", ""), REASON_NONE);
	CHECK_INT(take(&no, b, "kbs.beta", "node", "limits.per_client.streams"),
		  REASON_CLIENT_LIMIT);
	CHECK_INT(take(&c[2], a, "kbs.acme", NULL, ""), REASON_NONE);
	CHECK_INT(take(&c[3], b, "kbs.acme", NULL, ""), REASON_NONE);
	CHECK_INT(take(&no, b, "kbs.acme", NULL, "limits.per_owner.streams"), REASON_OWNER_LIMIT);
	CHECK_INT(used("acme"), 3);
	CHECK_INT(quota_used(&b->quota, QUOTA_STREAMS), 1);
	CHECK_INT(take(&c[4], a, "kbs.beta", NULL, ""), REASON_NONE);
	CHECK_INT(take(&c[5], a, "kbs.addr", NULL, ""), REASON_NONE);
	CHECK_INT(take(&no, a, "tang.addr", NULL, "limits.per_source.streams"),
		  REASON_SOURCE_LIMIT);
	claim_end(&no);
	for (unsigned i = 0; i < 6; i++) {
		claim_end(&c[i]);
		claim_end(&c[i]);
	}
	CHECK_INT(used("acme") + used("beta") + used("addr"), 0);
	CHECK_INT(quota_used(&a->quota, QUOTA_STREAMS), 0);
	source_put(a);
	source_put(b);
}

static void test_rate(void)
{
	struct source *s = from(5);
	struct claim c;

	for (unsigned i = 0; i < 20; i++) {
		CHECK_INT(take(&c, s, "kbs.beta", NULL, ""), REASON_NONE);
		claim_end(&c);
	}
	CHECK_INT(take(&c, s, "kbs.beta", NULL, "limits.per_source.opens_per_second"),
		  REASON_RATE_LIMIT);
	source_put(s);
}

/* A source that has all the streams it may have costs its client and owner no opens. */
static void test_rate_of_others(void)
{
	struct source *s = from(10), *other = from(11);
	struct claim c[6], no;

	for (unsigned i = 0; i < 5; i++)
		CHECK_INT(take(&c[i], s, i < 4 ? "kbs.addr" : "kbs.beta", NULL, ""), REASON_NONE);
	atomic_store(&t.source_limits.opens_per_second, 0);
	for (unsigned i = 0; i < 2000; i++)
		CHECK_INT(take(&no, s, "kbs.beta", NULL, "limits.per_source.streams"),
			  REASON_SOURCE_LIMIT);
	CHECK_INT(take(&c[5], other, "kbs.beta", NULL, ""), REASON_NONE);
	for (unsigned i = 0; i < 6; i++)
		claim_end(&c[i]);
	atomic_store(&t.source_limits.opens_per_second, 20);
	source_put(s);
	source_put(other);
}

static enum reason park(struct claim *c, const char *expected)
{
	const char *setting = "";
	enum reason why = claim_park(c, &setting);

	CHECK_STR(setting, expected);
	return why;
}

static void test_parked(void)
{
	struct source *a = from(6), *b = from(7);
	struct claim c[5];

	CHECK_INT(take(&c[0], a, "kbs.acme", NULL, ""), REASON_NONE);
	CHECK_INT(take(&c[1], b, "kbs.acme", NULL, ""), REASON_NONE);
	CHECK_INT(take(&c[2], b, "kbs.beta", NULL, ""), REASON_NONE);
	CHECK_INT(take(&c[3], b, "kbs.beta", NULL, ""), REASON_NONE);
	CHECK_INT(take(&c[4], a, "kbs.beta", NULL, ""), REASON_NONE);
	CHECK_INT(park(&c[0], ""), REASON_NONE);
	CHECK_INT(park(&c[1], "limits.per_owner.parked"), REASON_OWNER_LIMIT);
	CHECK_INT(park(&c[2], ""), REASON_NONE);
	CHECK_INT(park(&c[3], ""), REASON_NONE);
	CHECK_INT(park(&c[4], "limits.parked"), REASON_LIMIT);
	claim_unpark(&c[0]);
	CHECK_INT(park(&c[1], "limits.per_source.parked"), REASON_SOURCE_LIMIT);
	CHECK_INT(park(&c[4], ""), REASON_NONE);
	for (unsigned i = 0; i < 5; i++)
		claim_end(&c[i]);
	CHECK_INT(quota_used(&t.all, QUOTA_PARKED), 0);
	source_put(a);
	source_put(b);
}

static uint64_t kept_by(const char *owner)
{
	struct quota_entry *q = tenants_owner(&t, owner);
	uint64_t n = q->quota.memory;

	quotas_put(q);
	return n;
}

/* All that it is under has it, once; the narrowest decides; a share lasts longer than the claim. */
static void test_way(void)
{
	const uint64_t half_a_source = 1024 * 1024 / QUOTA_WAY_PARTS;
	struct source *a = from(12), *b = from(13);
	struct quota_entry *node = quotas_get(t.clients, "node");
	struct claim c, d, *share;

	CHECK_INT(take(&c, a, "kbs.acme", "node", ""), REASON_NONE);
	CHECK_INT(take(&d, b, "kbs.acme", NULL, ""), REASON_NONE);
	CHECK_INT(claim_room(&c), half_a_source);
	claim_keep(&c, 100000);
	CHECK_INT(a->quota.memory, 100000);
	CHECK_INT(node->quota.memory, 100000);
	CHECK_INT(kept_by("acme"), 100000);
	CHECK_INT(t.all.memory, 100000);
	CHECK_INT(claim_room(&c), half_a_source - 100000);
	CHECK_INT(claim_room(&d), half_a_source); /* another source's */
	claim_keep(&c, (int64_t)half_a_source);
	CHECK_INT(claim_room(&c), 0);
	claim_keep(&c, -(int64_t)half_a_source);
	share = claim_share(&c);
	CHECK(share);
	claim_keep(&c, -100000);
	claim_end(&c);
	claim_keep(share, 5);
	CHECK_INT(kept_by("acme"), 5);
	CHECK_INT(used("acme"), 1); /* it is no stream */
	claim_keep(share, -5);
	CHECK(claim_unshare(share) == a);
	claim_end(&d);
	CHECK_INT(a->quota.memory + node->quota.memory + kept_by("acme") + t.all.memory, 0);
	CHECK_INT(used("acme"), 0);
	quotas_put(node);
	source_put(a);
	source_put(b);
}

static uint64_t most(const char *owner)
{
	struct quota_entry *q = tenants_owner(&t, owner);
	uint64_t n = quota_most(&q->quota, QUOTA_STREAMS);

	quotas_put(q);
	return n;
}

static void apply(struct relay_config *c)
{
	struct tenants_next next = { 0 };

	CHECK(tenants_prepare(&t, c, &next));
	tenants_apply(&t, c, &next);
	tenants_cancel(&next); /* applied: nothing */
}

/* What is taken stays; limits are the new ones; who is gone has the general ones. */
static void test_reload(void)
{
	static const char second[] =
		"listeners: [{name: l, address: 'tcp:127.0.0.1:1', doors: [connect]}]\n"
		"owners: [{name: acme, tokens: [" TOKEN "], limits: {streams: 1}}]\n";
	struct relay_config *next = parse(second);
	const uint64_t before = most("acme");
	struct tenants_next vain = { 0 };
	struct source *a = from(8);
	struct claim c, d;

	CHECK_INT(take(&c, a, "kbs.acme", NULL, ""), REASON_NONE);
	CHECK_INT(take(&d, a, "kbs.beta", NULL, ""), REASON_NONE);
	CHECK(tenants_prepare(&t, next, &vain));
	tenants_cancel(&vain); /* something else was wrong: nothing has changed */
	CHECK_INT(t.n_held, 4);
	CHECK_INT(most("acme"), before);
	apply(next);
	CHECK_INT(most("acme"), 1);
	CHECK_INT(t.n_held, 1);
	CHECK_INT(used("acme"), 1);
	CHECK_INT(used("beta"), 1); /* held by its stream */
	claim_end(&d);
	CHECK_INT(take(&d, a, "kbs.acme", NULL, "limits.per_owner.streams"), REASON_OWNER_LIMIT);
	claim_end(&c);
	CHECK_INT(take(&d, a, "kbs.acme", NULL, ""), REASON_NONE);
	claim_end(&d);
	apply(config);
	CHECK_INT(t.n_held, 4); /* acme, beta, addr once, node */
	relay_config_unref(next);
	source_put(a);
}

/* ---- handshakes ---- */

static unsigned dropped;

static void on_drop(struct handshake *h)
{
	dropped++;
	handshake_end(h);
}

static void test_handshakes(void)
{
	struct handshakes in = { .tenants = &t, .max = 3 };
	struct handshake h[5] = { 0 };
	struct source *s = from(9);

	for (unsigned i = 0; i < 3; i++)
		CHECK(handshake_begin(&in, &h[i], s, on_drop));
	CHECK_INT(dropped, 0);
	CHECK(handshake_begin(&in, &h[3], s, on_drop));
	CHECK_INT(dropped, 1);
	CHECK(!h[0].in && h[1].in); /* the oldest */
	handshake_end(&h[2]);
	handshake_end(&h[2]);
	CHECK(handshake_begin(&in, &h[4], s, on_drop));
	CHECK_INT(dropped, 1);
	CHECK_INT(quota_used(&s->quota, QUOTA_HANDSHAKES), 3);
	CHECK_INT(quota_used(&t.all, QUOTA_HANDSHAKES), 3);
	CHECK(in.oldest == &h[1] && in.newest == &h[4]);
	atomic_store(&t.source_limits.most[QUOTA_HANDSHAKES], 3);
	CHECK(!handshake_begin(&in, &h[0], s, on_drop)); /* its own limit drops nobody */
	CHECK_INT(dropped, 1);
	for (unsigned i = 0; i < 5; i++)
		handshake_end(&h[i]);
	CHECK(!in.oldest && !in.newest && in.n == 0);
	CHECK_INT(quota_used(&t.all, QUOTA_HANDSHAKES), 0);
	source_put(s);
}

int main(void)
{
	config = parse(first);
	CHECK(tenants_init(&t, config, NULL));
	test_streams();
	test_rate();
	test_rate_of_others();
	test_parked();
	test_way();
	test_reload();
	test_handshakes();
	tenants_deinit(&t);
	relay_config_unref(config);
	return 0;
}
