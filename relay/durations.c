/*
 * durations: how long things of one kind took, counted in a few fixed buckets, for metrics.
 *
 * Theory of operation: a scale is an ascending list of bounds, and each kind has one. Adding looks
 * for the bound from below: most of what is timed is quick, and there are few bounds. Nothing is
 * allocated and there is nothing to give back.
 */
#include "relay/durations.h"

#include <assert.h>
#include <stddef.h>

#define MS UINT64_C(1000)
#define S (1000 * MS)

/* Waiting and dialling: from what nobody notices to what time-outs end. */
static const uint64_t WAIT[] = { 1 * MS,   5 * MS, 10 * MS, 25 * MS, 50 * MS, 100 * MS, 250 * MS,
				 500 * MS, 1 * S,  5 * S,   10 * S,  30 * S,  60 * S };
/* Streams: a request, a session, a day. */
static const uint64_t LIFE[] = { 10 * MS, 100 * MS, 1 * S,     10 * S,   60 * S,
				 600 * S, 3600 * S, 21600 * S, 86400 * S };
/* Paths through networks. */
static const uint64_t NETWORK[] = { 500,     1 * MS,   2 * MS,   5 * MS,   10 * MS, 25 * MS,
				    50 * MS, 100 * MS, 250 * MS, 500 * MS, 1 * S,   5 * S };
/* Loops: its clock is coarse (relay/worker.h), and there is one set for each worker. */
static const uint64_t LOOP[] = { 5 * MS, 10 * MS, 50 * MS, 100 * MS, 500 * MS, 1 * S, 5 * S };

static const struct {
	const uint64_t *bounds;
	unsigned n;
} scales[] = {
#define DURATIONS(symbol, scale, whose) { scale, sizeof(scale) / sizeof(scale[0]) },
#include "relay/durations.def"
#undef DURATIONS
};
static_assert(sizeof(WAIT) / sizeof(WAIT[0]) <= DURATIONS_BOUNDS_MAX, "in[] holds it");
static_assert(sizeof(LIFE) / sizeof(LIFE[0]) <= DURATIONS_BOUNDS_MAX, "in[] holds it");
static_assert(sizeof(NETWORK) / sizeof(NETWORK[0]) <= DURATIONS_BOUNDS_MAX, "in[] holds it");
static_assert(sizeof(LOOP) / sizeof(LOOP[0]) <= DURATIONS_BOUNDS_MAX, "in[] holds it");

const uint64_t *durations_bounds(enum durations_kind kind, unsigned *n)
{
	*n = scales[kind].n;
	return scales[kind].bounds;
}

/* one writer: no locked instruction needed */
static void add(atomic_uint_fast64_t *to, uint64_t n)
{
	atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

void durations_add(struct durations all[DURATIONS_KINDS], enum durations_kind kind, uint64_t us)
{
	const uint64_t *bounds = scales[kind].bounds;
	unsigned i = 0;

	while (i < scales[kind].n && us > bounds[i])
		i++;
	add(&all[kind].in[i], 1);
	add(&all[kind].sum, us);
}

void durations_read(struct durations_sum *to, const struct durations *from)
{
	for (unsigned i = 0; i <= DURATIONS_BOUNDS_MAX; i++)
		to->in[i] += atomic_load_explicit(&from->in[i], memory_order_relaxed);
	to->sum += atomic_load_explicit(&from->sum, memory_order_relaxed);
}
