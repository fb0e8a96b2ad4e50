/* Nodes in and out of a table that grows: found by hash while they are there, and only then. */
#include <stdbool.h>

#include "relay/table.h"
#include "tests/unit/check.h"

enum { NODES = 5000 };

static struct table_node nodes[NODES];

static bool found(const struct table *t, uint64_t hash, const struct table_node *wanted)
{
	const struct table_node *n;
	bool there = false;

	for (n = table_first(t, hash); n; n = table_next(n)) {
		CHECK(n->hash == hash);
		CHECK(!there || n != wanted); /* once */
		there |= n == wanted;
	}
	return there;
}

/* Three of a hash, and hashes that differ only where few buckets look. */
static uint64_t hash_of(unsigned i)
{
	uint64_t which = i / 3;

	return which % 2 ? which : which << 40;
}

static void test_growth(void)
{
	struct table t;

	CHECK_INT(table_init(&t), 0);
	CHECK(!table_first(&t, 0));
	for (unsigned i = 0; i < NODES; i++) {
		table_insert(&t, &nodes[i], hash_of(i));
		CHECK_INT(t.n, i + 1);
		CHECK(t.buckets >= t.n);
	}
	for (unsigned i = 0; i < NODES; i++)
		CHECK(found(&t, hash_of(i), &nodes[i]));
	CHECK(!table_first(&t, 0xdeadbeefdeadbeef));
	for (unsigned i = 0; i < NODES; i += 2)
		table_remove(&t, &nodes[i]);
	for (unsigned i = 0; i < NODES; i++)
		CHECK_INT(found(&t, hash_of(i), &nodes[i]), i % 2);
	for (unsigned i = 0; i < NODES; i += 2)
		table_insert(&t, &nodes[i], hash_of(i));
	for (unsigned i = NODES; i-- > 0;) {
		CHECK(found(&t, hash_of(i), &nodes[i]));
		table_remove(&t, &nodes[i]);
		CHECK(!nodes[i].prevp && !nodes[i].next);
	}
	CHECK_INT(t.n, 0);
	for (size_t i = 0; i < t.buckets; i++)
		CHECK(!t.bucket[i]);
	table_deinit(&t);
	CHECK(!t.bucket);
}

/* All in one chain: slower, not wrong. */
static void test_same_hash(void)
{
	enum { SOME = 200 };
	struct table t;

	CHECK_INT(table_init(&t), 0);
	for (unsigned i = 0; i < SOME; i++)
		table_insert(&t, &nodes[i], 7);
	for (unsigned i = 0; i < SOME; i++) {
		unsigned which = i * 77 % SOME;

		CHECK(found(&t, 7, &nodes[which]));
		table_remove(&t, &nodes[which]);
		CHECK(!found(&t, 7, &nodes[which]));
	}
	CHECK_INT(t.n, 0);
	table_deinit(&t);
}

int main(void)
{
	test_growth();
	test_same_hash();
	return 0;
}
