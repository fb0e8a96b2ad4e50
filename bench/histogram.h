/*
 * histogram: how often which duration, in fixed memory, within 0.4 % of each value.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 7 /* 128 buckets for each power of two */
#define HISTOGRAM_TOP 42 /* ns: over an hour; what is longer counts as the longest */
#define HISTOGRAM_BUCKETS ((HISTOGRAM_TOP - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS)

struct histogram {
	uint64_t n, max;
	uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t value);
/* The value that a share of all (0 to 1) does not exceed; 0 of none. */
uint64_t histogram_at(const struct histogram *h, double share);

#endif
