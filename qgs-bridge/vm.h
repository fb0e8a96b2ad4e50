/*
 * vm: what the bridge keeps of each VM: its connections, its line of waiting requests, its counts.
 *
 * A bounded table: those without a connection are forgotten when room is needed, least recently
 * used first; their counts go on in "other".
 */
#ifndef QGS_BRIDGE_VM_H
#define QGS_BRIDGE_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "qgs-bridge/fair.h"
#include "qgs-bridge/who.h"
#include "relay/hash.h"
#include "relay/log.h"
#include "relay/table.h"

struct vm_counts {
	uint64_t connections; /* ever */
	uint64_t answered;    /* requests with a whole reply */
	uint64_t failed;      /* requests without, and streams refused */
	uint64_t streams;     /* forwarded */
	uint64_t waited_ms;   /* of all requests, in the queue */
	uint64_t waited_max_ms;
};

struct vm {
	struct table_node node;
	char key[WHO_KEY_MAX];
	unsigned connections; /* live */
	struct fair_line line;
	struct vm_counts counts;
	struct log_rate failures; /* lines about them */
	bool labelled;		  /* has metrics of its own */
	struct vm *older, *newer; /* of all, by last use */
};

struct vm_table {
	struct table table;
	struct hash_key hash;
	struct vm *oldest, *newest;
	unsigned n, n_max;
	unsigned labelled, labelled_max;
	struct vm_counts other; /* of those forgotten; more is counted in vm_table_other */
};

/* 0, -ENOMEM, or -EIO: no randomness. */
int vm_table_init(struct vm_table *t, unsigned max, unsigned labels)
	__attribute__((warn_unused_result));
void vm_table_deinit(struct vm_table *t);
void vm_table_limit(struct vm_table *t, unsigned max, unsigned labels); /* after a reload */

/* What is counted under no VM's own label: of those forgotten and those without. Never less. */
struct vm_counts vm_table_other(const struct vm_table *t);

/* One more connection of it. NULL: the table is full of live ones, or no memory. */
struct vm *vm_begin(struct vm_table *t, const char *key);
void vm_over(struct vm_table *t, struct vm *vm); /* one connection is gone */

#endif
