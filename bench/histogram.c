/*
 * histogram: buckets that grow with their values.
 *
 * Theory of operation: values below 128 have a bucket each; above, every power of two is cut into
 * 128 buckets of the same width. A bucket stands for its middle, so that the error is half its
 * width: 1/256 at most. The largest value is kept as it is.
 */
#include "bench/histogram.h"

#define EACH (1U << HISTOGRAM_BITS)

static unsigned index_of(uint64_t value)
{
	unsigned shift;

	if (value < EACH)
		return (unsigned)value;
	shift = 63 - (unsigned)__builtin_clzll(value) - HISTOGRAM_BITS;
	return (shift << HISTOGRAM_BITS) + (unsigned)(value >> shift);
}

static uint64_t middle_of(unsigned index)
{
	unsigned shift;

	if (index < 2 * EACH)
		return index;
	shift = (index >> HISTOGRAM_BITS) - 1;
	return ((uint64_t)(index - (shift << HISTOGRAM_BITS)) << shift) + (1ULL << (shift - 1));
}

void histogram_add(struct histogram *h, uint64_t value)
{
	unsigned index = index_of(value);

	if (index >= HISTOGRAM_BUCKETS)
		index = HISTOGRAM_BUCKETS - 1;
	h->bucket[index]++;
	h->n++;
	if (value > h->max)
		h->max = value;
}

uint64_t histogram_at(const struct histogram *h, double share)
{
	double exact = share * (double)h->n;
	uint64_t wanted = (uint64_t)exact, seen = 0, value;

	if ((double)wanted < exact)
		wanted++;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->bucket[i];
		if (h->bucket[i] && seen >= wanted) {
			value = middle_of(i);
			return value < h->max ? value : h->max;
		}
	}
	return h->max;
}
