/*
 * ending: what a signal to end means to a program that may be ending already. Pure: no clock, no
 * signal is touched here.
 *
 * The first one begins a drain. Some senders send two (systemd's KillMode=mixed, a container's
 * init beside its runtime, a wrapper that passes on what its whole group got): what comes within
 * ENDING_SAME_MS of the first is taken for the same one. A later one means it: at once. A drain
 * that was asked for in another way is joined by the first signal, and cut short by a second.
 */
#ifndef RELAY_ENDING_H
#define RELAY_ENDING_H

#include <stdbool.h>
#include <stdint.h>

#define ENDING_SAME_MS 1000
#define ENDING_SAME_TEXT \
	"ending already; another signal, a second or more after the first, cuts it short"

/* Zeroed at first. */
struct ending {
	bool draining;  /* begun, by a signal or otherwise */
	bool signalled; /* by a signal, or one has come since */
	uint64_t at;    /* when the first one came, ms */
};

enum ending_step {
	ENDING_BEGIN, /* a drain */
	ENDING_SAME,  /* nothing: it drains already */
	ENDING_NOW,   /* cut what is left */
};

enum ending_step ending_signalled(struct ending *e, uint64_t now);
/* By words, not by a signal. False: it drains already. */
bool ending_asked(struct ending *e);

#endif
