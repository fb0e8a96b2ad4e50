/*
 * bucket: so many a second, and what a second brings may come all at once.
 *
 * Theory of operation: GCRA, the virtual scheduling algorithm of ATM. What is taken is paid for at
 * the rate; one number, the time at which all is paid, is the whole state. One may be taken as long
 * as that stays at most SPAN ahead of now: so a bucket that was left alone for a SPAN is full, and
 * holds what the rate brings in that time. Nothing ever has to be refilled.
 */
#include "relay/bucket.h"

#define NS_PER_MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define SPAN SECOND
#define DEBT_MAX (3600 * SECOND) /* an hour: beyond any pause that makes sense */

/* What n cost, in time. Rounded down, so that what a second brings does fit into SPAN. */
static uint64_t cost(uint64_t n, uint64_t rate)
{
	unsigned __int128 ns = (unsigned __int128)n * SECOND / rate;

	return ns > DEBT_MAX ? DEBT_MAX : ns || !n ? (uint64_t)ns : 1;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

bool bucket_take(struct bucket *b, uint64_t rate, uint64_t now)
{
	uint64_t paid = atomic_load_explicit(&b->paid, memory_order_relaxed), ns = now * NS_PER_MS;
	uint64_t price = rate ? cost(1, rate) : 0, next;

	if (!rate)
		return true;
	do {
		next = later(paid, ns) + price;
		if (next > ns + SPAN)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&b->paid, &paid, next, memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

void bucket_spend(struct bucket *b, uint64_t rate, uint64_t n, uint64_t now)
{
	uint64_t paid = atomic_load_explicit(&b->paid, memory_order_relaxed), ns = now * NS_PER_MS;
	uint64_t price = rate ? cost(n, rate) : 0, next;

	if (!price)
		return;
	do {
		next = later(paid, ns) + price;
		if (next > ns + DEBT_MAX)
			next = ns + DEBT_MAX;
	} while (!atomic_compare_exchange_weak_explicit(&b->paid, &paid, next, memory_order_relaxed,
							memory_order_relaxed));
}

uint64_t bucket_has(const struct bucket *b, uint64_t rate, uint64_t now)
{
	uint64_t ns = now * NS_PER_MS;
	uint64_t paid = later(atomic_load_explicit(&b->paid, memory_order_relaxed), ns);

	if (!rate)
		return UINT64_MAX;
	if (paid >= ns + SPAN)
		return 0;
	return (uint64_t)((unsigned __int128)(ns + SPAN - paid) * rate / SECOND);
}

uint64_t bucket_wait(const struct bucket *b, uint64_t rate, uint64_t n, uint64_t now)
{
	uint64_t ns = now * NS_PER_MS;
	uint64_t paid = later(atomic_load_explicit(&b->paid, memory_order_relaxed), ns);
	uint64_t due = paid + (rate ? cost(n < rate ? n : rate, rate) : 0);

	return rate && due > ns + SPAN ? (due - ns - SPAN + NS_PER_MS - 1) / NS_PER_MS : 0;
}
