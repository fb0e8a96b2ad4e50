/*
 * A conduit in memory, for fuzzers of what lives on top of one: it delivers an input, in pieces or
 * as a whole, then EOF; what is written to it is gone. Its owner is the test's, whoever closes it.
 *
 * Include relay/worker.c before it, to turn the loop by hand.
 */
#ifndef TESTS_FUZZ_CARRIER_H
#define TESTS_FUZZ_CARRIER_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "relay/conduit.h"

enum { /* a byte of the input: how it is; the whole of it sets off the lengths of pieces */
	CARRIER_LONGER = 1 << 5, /* pieces of up to 1000 bytes, instead of 7 */
	CARRIER_AGAIN = 1 << 6,	 /* the second half of what it delivers comes 16 times */
	CARRIER_DEAF = 1 << 7,	 /* it takes nothing */
};

#define CARRIER_TIMES 16

struct carrier {
	struct conduit base;
	const uint8_t *data;
	size_t size, at, delivered;
	unsigned wants, turn, again, mix;
	bool pieces, longer, deaf, closed;
};

static size_t carrier_piece(struct carrier *k)
{
	k->mix = k->mix * 1103515245 + 12345;
	return 1 + (k->mix >> 16) % (k->longer ? 1000 : 7);
}

static ssize_t carrier_read(struct conduit *c, void *buf, size_t max)
{
	struct carrier *k = (struct carrier *)c;
	size_t n;

	if (k->at == k->size && k->again > 0) {
		k->again--;
		k->at = k->size / 2;
	}
	n = k->size - k->at;
	if (n == 0)
		return 0;
	if (k->pieces && max > 0) {
		size_t some = carrier_piece(k);

		max = max < some ? max : some;
	}
	if (n > max)
		n = max;
	memcpy(buf, k->data + k->at, n);
	k->at += n;
	k->delivered += n;
	return (ssize_t)n;
}

static ssize_t carrier_write(struct conduit *c, const void *buf, size_t len)
{
	struct carrier *k = (struct carrier *)c;
	size_t some;

	if (k->deaf || (k->pieces && k->turn % 2))
		return -EAGAIN;
	if (!k->pieces)
		return (ssize_t)len;
	some = 100 + carrier_piece(k);
	return (ssize_t)(len > some ? some : len);
}

static int carrier_shutdown(struct conduit *c)
{
	return 0;
}

static void carrier_want(struct conduit *c, unsigned events)
{
	((struct carrier *)c)->wants = events;
}

static void carrier_close(struct conduit *c, enum reason why)
{
	((struct carrier *)c)->closed = true;
}

static const struct conduit_ops carrier_ops = {
	.name = "memory",
	.read = carrier_read,
	.write = carrier_write,
	.shutdown = carrier_shutdown,
	.want = carrier_want,
	.close = carrier_close,
};

static void carrier_init(struct carrier *k, struct worker *w, uint8_t how, bool pieces,
			 const uint8_t *data, size_t size)
{
	*k = (struct carrier){ .data = data,
			       .size = size,
			       .pieces = pieces,
			       .mix = how,
			       .longer = how & CARRIER_LONGER,
			       .again = how & CARRIER_AGAIN ? CARRIER_TIMES - 1 : 0,
			       .deaf = how & CARRIER_DEAF };
	conduit_init(&k->base, &carrier_ops, w);
}

/* The input is over, and nothing holds back any longer. */
static void carrier_finish(struct carrier *k)
{
	k->at = k->size;
	k->again = 0;
	k->deaf = k->pieces = false;
}

static void carrier_turn(struct carrier *k)
{
	unsigned can = READY_READ | (k->deaf || k->turn % 2 ? 0 : READY_WRITE);
	unsigned events = k->wants & can;

	k->turn++;
	if (events && !k->closed)
		conduit_ready(&k->base, events);
	run_deferred(k->base.worker);
	reap(k->base.worker);
}

#endif
