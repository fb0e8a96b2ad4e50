/*
 * handshake: connections that have not said yet what they want, counted, and bounded at the cost of
 * those that take longest.
 *
 * From accept until a client's service or protocol is known, TLS and PROXY header included; of an
 * agent, until its hello has been answered. A client of good will takes a few round trips; whoever
 * holds one for long is the first to go when there are too many. Thread: a worker's.
 */
#ifndef RELAY_HANDSHAKE_H
#define RELAY_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/tenants.h"

/* Embedded; zeroed before. */
struct handshake {
	struct handshake *older, *newer;
	struct handshakes *in; /* NULL: it is none any more */
	struct source *source;
	/* It is dropped, with REASON_HANDSHAKE_LIMIT: ends it before it returns. */
	void (*drop)(struct handshake *h);
};

/* A worker's. */
struct handshakes {
	struct tenants *tenants;
	struct handshake *oldest, *newest;
	uint64_t n, max;
};

/*
 * One more, from source. Over max the oldest one is dropped. False: its source has as many as it
 * may (limits.per_source.handshakes), and nothing has changed.
 */
bool handshake_begin(struct handshakes *in, struct handshake *h, struct source *source,
		     void (*drop)(struct handshake *h)) __attribute__((warn_unused_result));
void handshake_end(struct handshake *h); /* twice is fine */

#endif
