/*
 * watch: do the workers' loops still turn? One that hangs would go unseen by a main thread that
 * lives.
 *
 * At each look every worker is posted a letter, which it answers in its next turn. One that has not
 * by the next look is stuck. Thread: one, not a worker's; watch_stuck is for any.
 */
#ifndef RELAY_WATCH_H
#define RELAY_WATCH_H

#include <stdbool.h>

struct watch;
struct worker;

/* The workers are to run until watch_free or be freed before it. NULL: out of memory. */
struct watch *watch_new(struct worker *const *workers, unsigned n);
/* True: all have answered. Otherwise it has been logged who has not, once for each time. */
bool watch_look(struct watch *w);
/* How many did not answer by the last look. */
unsigned watch_stuck(const struct watch *w);
struct watch *watch_free(struct watch *w); /* NULL is fine; returns NULL */

#endif
