/*
 * durations: how long things of one kind took, counted in a few fixed buckets, for metrics. (What
 * the benchmarks measure with is finer, and another thing.)
 *
 * Written by one thread, read by any (relaxed), as counters are: a reader gets each number right
 * and the set only roughly. Times are in microseconds.
 */
#ifndef RELAY_DURATIONS_H
#define RELAY_DURATIONS_H

#include <stdatomic.h>
#include <stdint.h>

enum durations_kind {
#define DURATIONS(symbol, scale, whose) DURATIONS_##symbol,
#include "relay/durations.def"
#undef DURATIONS
	DURATIONS_KINDS
};

#define DURATIONS_BOUNDS_MAX 13

/* Zeroed is empty. */
struct durations {
	/* Each of the times up to one bound and over the one below; the last: over all. */
	atomic_uint_fast64_t in[DURATIONS_BOUNDS_MAX + 1];
	atomic_uint_fast64_t sum;
};

/* The upper bounds of a kind, ascending; *n of them. */
const uint64_t *durations_bounds(enum durations_kind kind, unsigned *n);

/* all: one for each kind. */
void durations_add(struct durations all[DURATIONS_KINDS], enum durations_kind kind, uint64_t us);

/* What a reader adds up: plain numbers. */
struct durations_sum {
	uint64_t in[DURATIONS_BOUNDS_MAX + 1], sum;
};

void durations_read(struct durations_sum *to, const struct durations *from); /* adds to it */

#endif
