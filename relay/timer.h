/*
 * timer: many coarse time-outs at 40 bytes each, O(1) to set and to cancel.
 *
 * A hashed wheel, looked at in each of the worker's turns. Resolution TIMER_TICK_MS: a timer
 * never fires early, and at most one tick (plus the loop's own lateness) late.
 * Thread: the worker's own.
 */
#ifndef RELAY_TIMER_H
#define RELAY_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TIMER_TICK_MS 20
#define TIMER_SLOTS 1024 /* one turn of the wheel: 20 s */

struct worker;

struct timer {
	struct timer *next, **prevp; /* prevp != NULL: set */
	uint64_t at;		     /* monotonic ms */
	void (*fire)(struct timer *t);
};

struct timer_wheel {
	struct timer *slot[TIMER_SLOTS];
	uint64_t tick; /* the last tick that has been looked at */
	unsigned live;
	uint64_t armed; /* when to look at a slot next, 0: nothing is there */
};

/* Fires once, ms from now; setting a set timer moves it. The callback may set it again. */
void timer_set(struct worker *w, struct timer *t, uint64_t ms, void (*fire)(struct timer *t));
void timer_cancel(struct worker *w, struct timer *t); /* not set: nothing */

/* For the worker: how long it may sleep (ms; -1: for ever), and fires what is due. */
int timer_wait(const struct worker *w);
void timer_turn(struct worker *w);

static inline bool timer_is_set(const struct timer *t)
{
	return t->prevp != NULL;
}

#endif
