/*
 * splice: two conduits joined; two halves, one per direction, each with its own EOF.
 *
 * The half-close contract: EOF on one side becomes EOF on the other and the other direction lives
 * on; an abort becomes an abort, never EOF. It ends when both EOFs have been passed on, when a
 * side dies, or when a time-out says so: one way out, splice_end, with one reason.
 */
#ifndef RELAY_SPLICE_H
#define RELAY_SPLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/conduit.h"
#include "relay/timer.h"
#include "relay/worker.h"

enum { INI, TGT, SIDES }; /* who opened the stream, whom it was opened to */

#define SPLICE_TURN ((size_t)256 * 1024) /* bytes per half and wake-up, then others have a turn */

/*
 * What a slow sink leaves over, and what the sink keeps itself, is memory that is counted (spec's
 * room and kept), but for a little: that lies in allocations of its size and is nobody's. Where
 * there is no room, no more is fetched at a time, heads of TLS and WebSockets included: so each
 * stream goes on, only slower, and none ever has to wait for another one's reader. All of it is
 * WORKER_LITTLE for each half, and for each layer of its sink; and streams are limited.
 */
#define SPLICE_LITTLE (WORKER_LITTLE - 64)

struct splice_half {		  /* half[i]: side[i] -> side[!i] */
	uint64_t bytes;		  /* taken by the far side */
	uint8_t *buffer;	  /* what it did not take yet, or NULL; little: not a worker's */
	struct worker_pipe *pipe; /* the same inside the kernel, or NULL */
	uint32_t start, end;	  /* valid part of buffer; or bytes in the pipe: end */
	uint32_t charged;	  /* bytes that spec's kept knows of, its sink's included */
	uint8_t eof_seen : 1, eof_sent : 1;
	uint8_t source_ready : 1; /* there is something to fetch, once the sink has room */
	uint8_t paused : 1;	  /* nothing may pass: nothing is fetched before the timer */
	uint8_t failed : 1;	  /* the sink died: nothing more goes this way */
	uint8_t big_reads : 2;	  /* full reads in a row: then splice(2) takes over */
	uint8_t no_kernel : 1;	  /* splice(2) does not work on this pair */
	uint8_t little : 1;	  /* buffer is an allocation of what was left */
};

struct splice;

struct splice_spec {
	uint64_t idle_ms;	 /* no byte either way */
	uint64_t half_closed_ms; /* no byte, and one direction has ended */
	/*
	 * Called once when it ends, before the conduits are closed (so a door may still say its
	 * refusal to side[INI] when nothing was sent there yet). Must not call splice_end. May take
	 * side[INI] back and leave NULL, if no byte went to a side[TGT] that has room of its own.
	 */
	void (*end)(struct splice *s, enum reason why);
	/*
	 * How many bytes may pass now: at least 1, or 0, and in *wait ms it is worth asking again.
	 * NULL: there is no limit. passed is told how many did; or NULL.
	 */
	size_t (*may_pass)(struct splice *s, uint64_t *wait);
	void (*passed)(struct splice *s, size_t bytes);
	/*
	 * Memory, beyond a little: how many bytes more may be kept now; and so much more, or less,
	 * is. Threads that ask at the same time may get the same room, each for what one half may
	 * leave: a pipe, or a buffer, with one more for each layer of its sink. NULL, both: that
	 * for each half is bound enough.
	 */
	size_t (*room)(const struct splice *s);
	void (*kept)(struct splice *s, int64_t change);
	bool uncounted; /* no stream of its own: the way goes on in a splice that is counted */
};

struct splice {
	struct conduit *side[SIDES]; /* owned */
	struct splice_half half[SIDES];
	struct worker *worker;
	const struct splice_spec *spec; /* must outlive the splice; shared by many */
	void *user;			/* the owner's */
	size_t most;			/* inside a step: bytes to fetch */
	size_t room;			/* inside a pump, if asked: for what its sink may leave */
	uint64_t active;		/* worker_now of the last byte */
	struct timer timer;
	struct reapable reapable;
	bool asked;
	bool ended;
};

/*
 * Joins two conduits and starts to move bytes (from the loop, not inside the call). Both are
 * consumed in every case. NULL: out of memory, both were aborted.
 */
struct splice *splice_new(struct worker *w, struct conduit *ini, struct conduit *tgt,
			  const struct splice_spec *spec, void *user);

/* Which events a side has to report, from the state alone. */
unsigned splice_want(const struct splice *s, unsigned side);

/* The one way out. Safe at any time, more than once; memory goes at the end of the turn. */
void splice_end(struct splice *s, enum reason why);

#endif
