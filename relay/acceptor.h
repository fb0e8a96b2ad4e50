/*
 * acceptor: accepts connections on a listening socket, for one worker.
 *
 * A wake-up takes a few, then others have a turn; accept pauses when the owner says so and when
 * descriptors run out. What becomes of a connection is its owner's business. Thread: the worker's.
 */
#ifndef RELAY_ACCEPTOR_H
#define RELAY_ACCEPTOR_H

#include "relay/edge.h"
#include "relay/timer.h"

struct acceptor;
struct peer;
struct worker;

#define ACCEPTOR_BURST 16     /* accepted per wake-up, then others have a turn */
#define ACCEPTOR_PAUSE_MS 100 /* until the next try after EMFILE or at a limit */

struct acceptor_events {
	/* One more is about to be accepted: NULL, and it is counted; or what there is too little of
	 * (for a log line), and accept pauses. */
	const char *(*admit)(struct acceptor *a);
	/* What admit counted was not there after all. */
	void (*none)(struct acceptor *a);
	/* fd is the callee's: non-blocking, close-on-exec. May stop the acceptor, not free it. */
	void (*accepted)(struct acceptor *a, int fd, const struct peer *peer);
};

/* Embedded in its owner. */
struct acceptor {
	const struct acceptor_events *events;
	struct worker *worker;
	const char *name; /* the listener's, for log lines; the owner's */
	int fd;           /* stays the owner's; -1: stopped */
	unsigned burst;   /* how many to accept at the next wake-up */
	struct edge watch;
	struct timer resume;
};

/* Zeroed before, or stopped; may be shared with other workers' acceptors. 0 or -errno. */
int acceptor_start(struct acceptor *a, struct worker *w, int fd, const char *name,
		   const struct acceptor_events *events);
/* The same; if it cannot be watched now, that is tried again until it can. */
void acceptor_insist(struct acceptor *a, struct worker *w, int fd, const char *name,
		     const struct acceptor_events *events);
/* Takes in whoever is in the kernel's queue already, then accepts no more; fd stays open. */
void acceptor_stop(struct acceptor *a);
void acceptor_abandon(struct acceptor *a); /* the same without the first part; twice is fine */

#endif
