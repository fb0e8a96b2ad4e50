/*
 * timer: a hashed wheel of time-outs.
 *
 * Theory of operation: a timer hangs in the slot of the tick at which it is due, modulo the wheel;
 * a timer further away than one turn stays in its slot until its own tick comes. An idle worker
 * sleeps until the next slot that holds anything. Looking at a slot takes
 * out what is due onto a list of its own first: a callback may set and cancel whatever it likes.
 * No allocation, no limit of its own: each timer lies in an object that is counted elsewhere.
 */
#include "relay/timer.h"

#include <limits.h>
#include <stddef.h>

#include "relay/worker.h"

#define CLOCK_LAG_MS 4 /* of worker_now, where the kernel has 250 ticks a second */

static uint64_t tick_of(uint64_t ms)
{
	return (ms + TIMER_TICK_MS - 1) / TIMER_TICK_MS;
}

static void link_timer(struct timer **head, struct timer *t)
{
	t->next = *head;
	t->prevp = head;
	if (t->next)
		t->next->prevp = &t->next;
	*head = t;
}

static void unlink_timer(struct timer *t)
{
	*t->prevp = t->next;
	if (t->next)
		t->next->prevp = t->prevp;
	t->prevp = NULL;
	t->next = NULL;
}

/* The next slot from tick on that holds anything: there is one, since live > 0. */
static uint64_t next_tick(const struct timer_wheel *wheel, uint64_t tick)
{
	for (unsigned i = 0; i < TIMER_SLOTS; i++)
		if (wheel->slot[(tick + i) % TIMER_SLOTS])
			return tick + i;
	return tick + TIMER_SLOTS;
}

void timer_set(struct worker *w, struct timer *t, uint64_t ms, void (*fire)(struct timer *t))
{
	struct timer_wheel *wheel = &w->timers;
	uint64_t tick;

	timer_cancel(w, t);
	if (wheel->live == 0) /* an empty wheel has not been turned */
		wheel->tick = worker_now(w) / TIMER_TICK_MS;
	t->at = worker_now(w) + ms;
	t->fire = fire;
	tick = tick_of(t->at);
	if (tick <= wheel->tick)
		tick = wheel->tick + 1;
	link_timer(&wheel->slot[tick % TIMER_SLOTS], t);
	wheel->live++;
	if (!wheel->armed || tick * TIMER_TICK_MS < wheel->armed)
		wheel->armed = tick * TIMER_TICK_MS;
}

void timer_cancel(struct worker *w, struct timer *t)
{
	if (!t->prevp)
		return;
	unlink_timer(t);
	if (--w->timers.live == 0)
		w->timers.armed = 0;
}

/* Moves what is due in one slot to due. */
static void take_due(struct timer_wheel *wheel, uint64_t tick, struct timer **due)
{
	struct timer *t = wheel->slot[tick % TIMER_SLOTS], *next;

	for (; t; t = next) {
		next = t->next;
		if (tick_of(t->at) > tick)
			continue;
		unlink_timer(t);
		link_timer(due, t);
	}
}

int timer_wait(const struct worker *w)
{
	uint64_t at = w->timers.armed, now = worker_now(w);

	if (!at)
		return -1;
	if (at <= now)
		return 0;
	at += CLOCK_LAG_MS; /* or the worker would wake, find that it is not time yet, and doze */
	return at - now < INT_MAX ? (int)(at - now) : INT_MAX;
}

void timer_turn(struct worker *w)
{
	struct timer_wheel *wheel = &w->timers;
	uint64_t now = worker_now(w) / TIMER_TICK_MS;
	uint64_t from = wheel->tick + 1;
	struct timer *due = NULL, *t;

	if (!wheel->armed || now * TIMER_TICK_MS < wheel->armed)
		return;
	wheel->armed = 0;
	if (now >= from + TIMER_SLOTS) /* slept for more than a turn: each slot once */
		from = now - TIMER_SLOTS + 1;
	for (uint64_t tick = from; tick <= now; tick++)
		take_due(wheel, tick, &due);
	if (now > wheel->tick)
		wheel->tick = now;
	while ((t = due)) {
		unlink_timer(t);
		wheel->live--;
		t->fire(t);
	}
	if (wheel->live)
		wheel->armed = next_tick(wheel, wheel->tick + 1) * TIMER_TICK_MS;
}
