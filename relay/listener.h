/*
 * listener: accepts connections at one address, on every worker.
 *
 * One listening socket; each worker watches it and takes a few connections at a time; whoever comes
 * wakes one of those that sleep. Accept pauses at the connection limit and when descriptors run
 * out.
 */
#ifndef RELAY_LISTENER_H
#define RELAY_LISTENER_H

#include "config/config.h"
#include "relay/edge.h"
#include "relay/timer.h"

struct gateway;
struct worker;

struct listener {
	const struct listener_config *config;
	struct gateway *gateway;
	struct worker *worker;
	unsigned burst; /* how many to accept at the next wake-up */
	int fd; /* shared by the workers; closed by bind_close */
	struct edge watch;
	struct timer resume;
	struct listener *next;
};

#define LISTENER_BURST 16     /* accepted per wake-up, then others have a turn */
#define LISTENER_PAUSE_MS 100 /* until the next try after EMFILE or at the limit */

/* Starts accepting in this worker (its thread, or before it runs). NULL: out of memory. */
struct listener *listener_new(struct gateway *g, struct worker *w,
			      const struct listener_config *config, int fd);
/* No more accepts; streams that came by it go on. */
void listener_stop(struct listener *l);
struct listener *listener_free(struct listener *l); /* NULL is fine; fd stays */

#endif
