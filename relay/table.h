/*
 * table: a hash table of what its users embed a table_node in. It allocates only its buckets,
 * grows by itself, and knows hashes alone: who looks up compares the keys.
 *
 *	for (n = table_first(t, hash); n; n = table_next(n))
 *		if (is_what_is_wanted(n)) ...
 *
 * Hash by hash.h whatever strangers may choose.
 */
#ifndef RELAY_TABLE_H
#define RELAY_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table_node {
	struct table_node *next, **prevp; /* of its bucket */
	uint64_t hash;
};

struct table {
	struct table_node **bucket;
	size_t buckets; /* a power of two */
	size_t n;
};

/* 0 or -ENOMEM. */
int table_init(struct table *t) __attribute__((warn_unused_result));
void table_deinit(struct table *t); /* what is still in it is not touched */

void table_insert(struct table *t, struct table_node *node, uint64_t hash);
void table_remove(struct table *t, struct table_node *node);

/* Those with this hash, in no order. NULL: no more. */
struct table_node *table_first(const struct table *t, uint64_t hash);
struct table_node *table_next(const struct table_node *node);

#endif
