/*
 * backoff: exponential with full jitter.
 *
 * Theory of operation: the bound doubles with each failure in a row up to a cap, and the wait is
 * anywhere between 0 and the bound: of all known schemes this one spreads a crowd of agents that
 * lost the same relay best, and most of them are back at once. The count starts again only after a
 * minute of stability, so a relay that takes and drops its agents is not hammered.
 *
 * A link that was up and is lost is most often a relay being restarted, and is back in seconds. So
 * for half a minute after the loss a low cap holds; otherwise a few short waits in a row would be
 * followed by a long one just when the relay returns. A relay that takes and drops its agents, and
 * two agents that take a name from each other again and again, use it up.
 *
 * The modulo's bias over 64 random bits is far below anything that matters here.
 */
#include "tunnel/backoff.h"

_Static_assert((uint64_t)BACKOFF_FIRST_MS << BACKOFF_DOUBLINGS >= BACKOFF_CAP_MS,
	       "the bound reaches the cap");

uint64_t backoff_next(struct backoff *b, uint64_t now, uint64_t random)
{
	uint64_t bound = BACKOFF_CAP_MS;

	if (b->attempts < BACKOFF_DOUBLINGS)
		bound = (uint64_t)BACKOFF_FIRST_MS << b->attempts;
	if (now < b->soon_until && b->attempts < BACKOFF_SOON_ATTEMPTS &&
	    bound > BACKOFF_SOON_CAP_MS)
		bound = BACKOFF_SOON_CAP_MS;
	if (b->attempts < BACKOFF_SOON_ATTEMPTS)
		b->attempts++;
	return random % (bound + 1);
}

void backoff_lost(struct backoff *b, uint64_t now, uint64_t up_ms)
{
	if (up_ms >= BACKOFF_STABLE_MS)
		b->attempts = 0;
	b->soon_until = now + BACKOFF_SOON_MS;
}

void backoff_hope(struct backoff *b, uint64_t now)
{
	b->soon_until = now + BACKOFF_SOON_MS;
}

void backoff_reset(struct backoff *b)
{
	b->attempts = 0;
	b->soon_until = 0;
}

uint64_t backoff_refused(uint64_t random)
{
	return BACKOFF_REFUSED_MS * 3 / 4 + random % (BACKOFF_REFUSED_MS / 2 + 1);
}
