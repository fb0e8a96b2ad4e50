/*
 * flows: connections that are passed on, with toxics in each direction.
 */
#ifndef TESTS_TOOLS_FLOWS_H
#define TESTS_TOOLS_FLOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/queue.h>

#include "tests/tools/place.h"

enum direction { UP, DOWN, DIRECTIONS }; /* up: from who connects to where it is passed on */

/* What is done to the bytes of one direction; all zero: nothing. */
struct toxics {
	uint64_t delay;    /* ms */
	uint64_t jitter;   /* ms at most, on top; bytes stay in order */
	uint64_t rate;     /* bytes a second */
	uint64_t split;    /* bytes to a send(), with a moment between two */
	uint64_t coalesce; /* ms in which all that comes is gathered for one send() */
	uint64_t hole;     /* swallows all: bytes, ends, resets; where it has, a reset follows it */
	uint64_t stall;    /* reads nothing, closes nothing; goes on afterwards */
	uint64_t reset;    /* both sides, once so many bytes of a connection have gone through */
};

struct flow_counts {
	uint64_t accepted, live, ended, aborted, injected, unreachable;
	uint64_t bytes[DIRECTIONS], swallowed[DIRECTIONS];
};

/* What epoll's data points at. */
struct flow_end {
	struct flow *flow; /* NULL: a listener, or not ours */
	int fd;
	uint32_t watched; /* events asked for */
	bool in_epoll, hung_up;
};

TAILQ_HEAD(flow_list, flow);

struct flows {
	int epoll;
	struct toxics toxics[DIRECTIONS];
	uint64_t reorder; /* connections that are gathered, then connected in another order */
	uint64_t random;  /* for jitter and order */
	struct flow_counts counts;
	struct flow_list live, gathered, dead;
	unsigned n_gathered;
	int64_t gathered_until;
};

int64_t now_us(void);
/* splitmix64 */
uint64_t draw(uint64_t *state);

void flows_init(struct flows *fs, int epoll);
void flows_deinit(struct flows *fs);

/* All that waits at a listener; each goes to `to`. */
void flows_accept(struct flows *fs, int listening, const struct place *to);
void flows_event(struct flows *fs, struct flow_end *end, uint32_t events);
/* Does what is due; returns how long the loop may sleep, in us, or -1. */
int64_t flows_turn(struct flows *fs);
/* The hole in this direction is over: what it swallowed will never come. */
void flows_hole_over(struct flows *fs, enum direction d);
/* RST to all, now. */
void flows_reset(struct flows *fs);

#endif
