/*
 * history: what the relay did in the last hour, in a ring of fixed size.
 *
 * Fed with counters that only grow; keeps what came to them in each step of time. A step in which
 * nobody fed it is a gap. Thread: the main one.
 */
#ifndef RELAY_HISTORY_H
#define RELAY_HISTORY_H

#include <stdint.h>

#include "relay/reason.h"

#define HISTORY_STEP_MS 10000
#define HISTORY_SAMPLES 360 /* an hour, in some 160 KB */

struct event_base;
struct gateway;
struct history;

/* Of the whole relay, now. */
struct history_totals {
	/* since its start */
	uint64_t bytes_up, bytes_down, streams, tunnels, audit_lost;
	uint64_t ends[REASONS], refusals[REASONS]; /* streams, by how they ended; refused */
	/* at this moment */
	uint64_t live_streams, live_parked, live_tunnels;
};

struct history_sample {
	uint64_t slot; /* the step's number: its time in HISTORY_STEP_MS */
	uint32_t ms;   /* how long the following took to come; more than a step behind a gap */
	uint64_t bytes_up, bytes_down;
	uint32_t streams, tunnels, audit_lost;
	uint32_t ends[REASONS], refusals[REASONS];        /* streams, by how they ended; refused */
	uint32_t live_streams, live_parked, live_tunnels; /* as they were at its end */
};

/* What came in some steps together. */
struct history_sum {
	unsigned samples; /* 0: all of it is a gap */
	uint64_t ms;
	uint64_t bytes_up, bytes_down, streams, tunnels, audit_lost;
	uint64_t ends[REASONS], refusals[REASONS];        /* streams, by how they ended; refused */
	uint64_t most_streams, most_parked, most_tunnels; /* live at a time */
};

/* NULL: out of memory. */
struct history *history_new(void);
struct history *history_free(struct history *h); /* NULL is fine; returns NULL */
/* Feeds itself from the gateway's workers while the loop of base turns. -1: out of memory. */
int history_begin(struct history *h, struct event_base *base, const struct gateway *g);

/*
 * now: ms of a clock that is never set, and goes on while the machine sleeps. The first time is
 * only what the next is compared to. A counter that is less than before has begun anew. Time that
 * went back, or no further than the step of the last time: nothing is kept until it has.
 */
void history_feed(struct history *h, uint64_t now, const struct history_totals *t);
uint64_t history_now(void); /* of such a clock */
/* When history_begin was called, by it. */
uint64_t history_began(const struct history *h);

/* The slot of the newest sample; 0: there is none yet. */
uint64_t history_newest(const struct history *h);
/* NULL: a gap, or too old. Good until it is fed again. */
const struct history_sample *history_at(const struct history *h, uint64_t slot);
/* From the slot from to the slot to, both included. */
void history_sum(const struct history *h, uint64_t from, uint64_t to, struct history_sum *out);

#endif
