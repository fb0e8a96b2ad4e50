/*
 * fair: whose request goes to QGS next. Pure: no sockets, no clock of its own.
 *
 * Each VM has a line; the lines that have somebody waiting stand in a ring, served one each in
 * turn, so a VM that floods delays another's request by what is in QGS already and one round. A VM
 * has a bucket of tokens: without one its line is passed over until there is one. One whose
 * requests keep QGS busy for nothing may be held to one at a time for a while.
 */
#ifndef QGS_BRIDGE_FAIR_H
#define QGS_BRIDGE_FAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/reason.h"

struct fair_limits { /* a zero counts as 1 */
	unsigned running;  /* at a time, all together */
	unsigned running_per_line; /* ... of one line */
	unsigned per_line; /* waiting in one line */
	unsigned rate;	   /* a second, for one line */
	unsigned burst;
};

struct fair_item;

/* Embedded in a VM; zero at first. */
struct fair_line {
	struct fair_item *first, **last; /* waiting */
	unsigned waiting, running;
	struct fair_line *next, *prev; /* the ring; NULL: nobody waits */
	uint64_t tokens;	       /* thousandths */
	uint64_t filled_ms;	       /* when tokens was right; 0: never */
	uint64_t held_ms;	       /* fair_hold */
};

/* Embedded in a request; zero at first. */
struct fair_item {
	struct fair_line *line; /* NULL: neither waiting nor running */
	struct fair_item *next, **prevp; /* waiting */
	uint64_t number; /* in the order of their entering */
	bool running;
};

struct fair {
	struct fair_limits limits;
	struct fair_line *ring; /* who is next */
	unsigned waiting, running;
	uint64_t numbers;
};

void fair_init(struct fair *f, const struct fair_limits *limits);
void fair_limit(struct fair *f, const struct fair_limits *limits); /* after a reload */

/* To the end of its line. REASON_NONE, or LIMIT: the line is full; nothing has changed then. */
enum reason fair_enter(struct fair *f, struct fair_line *line, struct fair_item *item);
/*
 * Back to the head of its line, with its token: it was running and could not be served yet. Those
 * that come back to one line stand there in their old order; the line is the next to be served.
 */
void fair_return(struct fair *f, struct fair_item *item);
/* Whose turn it is; it runs from now on. NULL: nobody, or no room. now in ms, monotonic. */
struct fair_item *fair_next(struct fair *f, uint64_t now_ms);
/* Out of its line, or no longer running; neither: nothing. */
void fair_leave(struct fair *f, struct fair_item *item);
/* There is room and somebody waits, but has no token: ms until one has. UINT64_MAX: not so. */
uint64_t fair_wait(const struct fair *f, uint64_t now_ms);
/* Until then only one of this line's may run at a time. */
void fair_hold(struct fair_line *line, uint64_t until_ms);
/* Somebody who waits; NULL: nobody does. To tell all of them something: each then leaves. */
struct fair_item *fair_waiting(const struct fair *f);

#endif
