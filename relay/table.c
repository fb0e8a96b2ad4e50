/*
 * table: a hash table of embedded nodes.
 *
 * Theory of operation: an array of buckets, each a doubly linked chain. When there are as many
 * nodes as buckets, the array doubles and all nodes move: each pays for a few moves over its time
 * here. It never shrinks. Out of memory it stays as it is, and its chains get longer: inserting
 * does not fail.
 */
#include "relay/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 64

int table_init(struct table *t)
{
	struct table_node **bucket = calloc(BUCKETS_MIN, sizeof(struct table_node *));

	if (!bucket)
		return -ENOMEM;
	*t = (struct table){ .bucket = bucket, .buckets = BUCKETS_MIN };
	return 0;
}

void table_deinit(struct table *t)
{
	free(t->bucket);
	memset(t, 0, sizeof(*t));
}

static void push(struct table *t, struct table_node *node)
{
	struct table_node **head = &t->bucket[node->hash & (t->buckets - 1)];

	node->next = *head;
	node->prevp = head;
	if (node->next)
		node->next->prevp = &node->next;
	*head = node;
}

static void grow(struct table *t)
{
	struct table_node **old = t->bucket, *node, *next;
	size_t n = t->buckets;
	struct table_node **bucket = calloc(2 * n, sizeof(struct table_node *));

	if (!bucket)
		return;
	t->bucket = bucket;
	t->buckets = 2 * n;
	for (size_t i = 0; i < n; i++) {
		for (node = old[i]; node; node = next) {
			next = node->next;
			push(t, node);
		}
	}
	free(old);
}

void table_insert(struct table *t, struct table_node *node, uint64_t hash)
{
	if (t->n >= t->buckets)
		grow(t);
	node->hash = hash;
	push(t, node);
	t->n++;
}

void table_remove(struct table *t, struct table_node *node)
{
	*node->prevp = node->next;
	if (node->next)
		node->next->prevp = node->prevp;
	node->next = NULL;
	node->prevp = NULL;
	t->n--;
}

static struct table_node *with_hash(struct table_node *node, uint64_t hash)
{
	while (node && node->hash != hash)
		node = node->next;
	return node;
}

struct table_node *table_first(const struct table *t, uint64_t hash)
{
	return with_hash(t->bucket[hash & (t->buckets - 1)], hash);
}

struct table_node *table_next(const struct table_node *node)
{
	return with_hash(node->next, node->hash);
}
