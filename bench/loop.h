/*
 * loop: epoll, level-triggered, with the fewest calls.
 *
 * A watch may be closed and freed in its own callback, but only there or between two turns: a turn
 * has many events in hand.
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include <stdint.h>

#define LOOP_NEVER UINT64_MAX

struct watch {
	int fd;         /* -1: none */
	uint32_t armed; /* what epoll knows; 0: not this watch */
	void (*on)(struct watch *w, uint32_t events);
};

struct loop {
	int epoll;
};

void loop_init(struct loop *l);
void loop_deinit(struct loop *l);

/* From now on these EPOLL* events, one at least. The call is made only if that is news. */
void loop_want(struct loop *l, struct watch *w, uint32_t events);
/* Closes the descriptor too. */
void loop_close(struct watch *w);
/* Waits until something happened or the clock says `until`, and calls back. */
void loop_turn(struct loop *l, uint64_t until);

uint64_t loop_now(void); /* monotonic, ns */

/* Like printf to stderr, and exits 2: for what has nothing to do with the system measured. */
void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
