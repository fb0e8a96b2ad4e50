/*
 * backoff: how long to wait before the next attempt (exponential, full jitter). Pure: random
 * numbers and time come from the caller.
 */
#ifndef TUNNEL_BACKOFF_H
#define TUNNEL_BACKOFF_H

#include <stdint.h>

#define BACKOFF_FIRST_MS 500	 /* the first wait is at most this */
#define BACKOFF_DOUBLINGS 6	 /* as many, then the cap holds */
#define BACKOFF_CAP_MS 30000	 /* no wait is longer */
#define BACKOFF_STABLE_MS 60000	 /* a link that held for so long starts again at the first */
#define BACKOFF_SOON_MS 30000	 /* for so long after any link's loss, */
#define BACKOFF_SOON_CAP_MS 2000 /* no wait is longer than this */
#define BACKOFF_SOON_ATTEMPTS 32 /* ... unless so many failed since it was last stable */
#define BACKOFF_REFUSED_MS 60000 /* after a lasting refusal, less or more a quarter */

struct backoff {
	unsigned attempts;   /* failed in a row; the next wait's bound is FIRST * 2^attempts */
	uint64_t soon_until; /* the low cap holds until then */
};

/* Counts a failure. The wait in ms, evenly spread over 0 .. its bound. */
uint64_t backoff_next(struct backoff *b, uint64_t now, uint64_t random);

/* The link held for up_ms and is lost now. */
void backoff_lost(struct backoff *b, uint64_t now, uint64_t up_ms);

/* Something changed for the better, perhaps: the low cap holds from now on. */
void backoff_hope(struct backoff *b, uint64_t now);

void backoff_reset(struct backoff *b);

/* The wait after a refusal that does not end by itself. */
uint64_t backoff_refused(uint64_t random);

#endif
