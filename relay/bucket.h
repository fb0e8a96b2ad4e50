/*
 * bucket: so many a second, and what a second brings may come all at once.
 *
 * One atomic number for each, so any thread may use it without a lock. The rate is its owner's and
 * may change at any time; 0: no limit. Times are worker_now's, milliseconds.
 */
#ifndef RELAY_BUCKET_H
#define RELAY_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct bucket {
	atomic_uint_fast64_t paid; /* ns: what was taken is paid for by then; 0: it is full */
};

/* Takes one. False: there is none, and nothing has changed. */
bool bucket_take(struct bucket *b, uint64_t rate, uint64_t now);

/*
 * Takes n that have been used already, into debt if need be. Two threads that looked at the same
 * time may both spend what is there: the debt is paid before anybody finds anything again.
 */
void bucket_spend(struct bucket *b, uint64_t rate, uint64_t n, uint64_t now);

/* How many there are now; UINT64_MAX without a rate. */
uint64_t bucket_has(const struct bucket *b, uint64_t rate, uint64_t now);

/* In how many ms there will be n, or a full bucket if n is more. */
uint64_t bucket_wait(const struct bucket *b, uint64_t rate, uint64_t n, uint64_t now);

static inline bool bucket_is_full(const struct bucket *b, uint64_t now)
{
	return atomic_load_explicit(&b->paid, memory_order_relaxed) <= now * 1000000;
}

#endif
