/*
 * worker: one thread, one libevent base, and what its conduits share: time, timers, scratch
 * memory, pipes for splice(2), a mailbox, deferred work, the reaper, counters.
 *
 * Thread: everything here is for the worker's own thread, except worker_post, worker_rouse and the
 * reading of counters. A program with a single loop (attest-tunnel) runs its one worker on the main
 * thread.
 *
 * A loop turn: events, then timers, then deferred work (tunnel sessions send here, all that this
 * turn produced in one go), then the reaper.
 */
#ifndef RELAY_WORKER_H
#define RELAY_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/counter.h"
#include "relay/edge.h"
#include "relay/timer.h"
#include "relay/wake.h"

struct event_base;
struct evdns_base;
struct worker;

#define WORKER_SCRATCH ((size_t)128 * 1024) /* one read from a socket */
#define WORKER_BUFFER ((size_t)64 * 1024)   /* what a slow side did not take: a half's bound */
#define WORKER_LITTLE ((size_t)4096)        /* no more than this waits in malloc's, of its size */
#define WORKER_BUFFERS_KEPT 32              /* free buffers a worker holds on to */
#define WORKER_PIPES_KEPT 16                /* free pipes a worker holds on to */
#define WORKER_PIPES_MAX 256                /* in use and free, unless pipes_max says less */

/* Work to do at the end of this loop turn. Embedded in its owner; queued at most once. */
struct deferred {
	void (*run)(struct deferred *d);
	struct deferred *next, *prev; /* a ring; prev != NULL: queued */
};

/* Something to free when the turn is over. Embedded; never queued twice. */
struct reapable {
	void (*free)(struct reapable *r);
	struct reapable *next;
};

struct worker_pipe {
	int fd[2]; /* read end, write end; non-blocking */
	size_t size;
	struct worker_pipe *next;
};

struct worker {
	struct event_base *base; /* for what libevent is better at: the DNS, a program's signals */
	unsigned index;
	/*
	 * Scratch memory. scratch: a splice's copy from one side to the other; no op of a conduit
	 * touches it. input: what a tunnel session reads its carrier into. output: where frames
	 * are gathered before one write to the carrier. All hold nothing across loop turns.
	 */
	uint8_t *scratch, *input, *output; /* WORKER_SCRATCH bytes each */
	struct timer_wheel timers;
	int edge_fd;             /* the epoll instance of edge.h, in which it sleeps */
	struct edge_batch batch; /* edge.c's */
	unsigned pipes_max;      /* pipes at a time, two descriptors each; set before it runs */
	struct wakes wakes;
	struct counters counters;
	unsigned conduits; /* not yet closed for good, those that still linger included */
	struct worker_private *private;
	void *user; /* the program's own per-worker state (the gateway's, the agent's) */
};

/* NULL: errno says why. index is for logs and counters. */
struct worker *worker_new(unsigned index);
struct worker *worker_free(struct worker *w); /* NULL is fine; the thread must have ended */

/* One turn of the loop; wait: sleeps if there is nothing to do. For worker_run, and for tests. */
void worker_turn(struct worker *w, bool wait);
/* Runs the loop on the calling thread until worker_stop. */
void worker_run(struct worker *w);
int worker_start(struct worker *w); /* ... on a thread of its own. 0 or -errno */
void worker_join(struct worker *w);
/* False: its loop has not ended within ms, and it is as it was. */
bool worker_join_within(struct worker *w, uint64_t ms);
void worker_stop(struct worker *w); /* any thread */

/*
 * Runs fn(w, arg) on the worker's thread, in the order posted. Any thread. 0 or -ENOMEM.
 * The mailbox is bounded by its senders: each post carries one client, tunnel or command that is
 * itself counted against a limit.
 */
int worker_post(struct worker *w, void (*fn)(struct worker *w, void *arg), void *arg);

void worker_rouse(struct worker *w); /* makes it take a turn; any thread; for wake.h */

/* Monotonic milliseconds, coarse (CLOCK_MONOTONIC_COARSE: some ms behind, never ahead). */
uint64_t worker_now(const struct worker *w);

void worker_defer(struct worker *w, struct deferred *d); /* already queued: nothing */
void worker_undefer(struct deferred *d);                 /* not queued: nothing */
void worker_reap(struct worker *w, struct reapable *r);

/* WORKER_BUFFER bytes, pooled; malloc's, so any worker may put them back. NULL: out of memory. */
void *worker_buffer_get(struct worker *w);
void worker_buffer_put(struct worker *w, void *buf); /* NULL is fine */
/*
 * For what is to wait in a buffer, for who knows how long: if the len bytes at start are no more
 * than WORKER_LITTLE, a copy of them that free() takes, and the buffer is put back. NULL: it stays.
 */
void *worker_buffer_shrink(struct worker *w, void *buf, size_t start, size_t len);

/* A pipe for splice(2), pooled and empty. NULL: none to be had now; fall back to copying. */
struct worker_pipe *worker_pipe_get(struct worker *w);
/* empty: it holds no bytes and may be used again; otherwise it is closed. */
void worker_pipe_put(struct worker *w, struct worker_pipe *p, bool empty);

/* For one question; see relay/resolver.h. NULL: none. */
struct evdns_base *worker_dns(struct worker *w);

#endif
