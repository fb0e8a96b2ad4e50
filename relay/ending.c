/*
 * ending: what a signal to end means to a program that may be ending already.
 *
 * Theory of operation: RUNNING -> DRAINING -> now. Only a signal leads from the second to the
 * third, and only one that is not the echo of the first.
 */
#include "relay/ending.h"

enum ending_step ending_signalled(struct ending *e, uint64_t now)
{
	const bool first = !e->signalled;

	if (!first && now - e->at >= ENDING_SAME_MS)
		return ENDING_NOW;
	if (first)
		e->at = now;
	e->signalled = true;
	return ending_asked(e) ? ENDING_BEGIN : ENDING_SAME;
}

bool ending_asked(struct ending *e)
{
	const bool begins = !e->draining;

	e->draining = true;
	return begins;
}
