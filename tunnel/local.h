/*
 * local: ports of this machine that lead to services behind a relay.
 *
 * Each connection becomes a stream to the connect door of one of the relays, which parks it if the
 * service is not there yet. Nothing is connected to before somebody comes. Thread: one worker.
 */
#ifndef TUNNEL_LOCAL_H
#define TUNNEL_LOCAL_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/splice.h"
#include "relay/timer.h"
#include "tunnel/pool.h"

struct egress;
struct local_listener;
struct local_stream;
struct setup;

#define LOCAL_SESSIONS 4 /* to a relay, shared by all streams (POOL_SPREAD) */

struct local {
	struct worker *worker;
	struct setup *setup; /* in effect: held */
	struct pool *pool;
	struct local_listener **listeners;
	unsigned n_listeners;
	struct local_stream *streams;
	uint64_t live;     /* connections, at most limits.streams: then accept pauses */
	uint64_t share;    /* of these that each listener can always have... */
	uint64_t unshared; /* ... and how many all have left of their shares */
	uint64_t counted;  /* ever */
	struct timer drain;
	struct deferred check_over;
	bool stopping;
	bool told_over;
	void (*over)(struct local *l); /* stopped, and nothing is left; may be NULL */
};

/*
 * Zeroed before. Reads the certificate, listens, accepts from the loop. 0, or -EINVAL with *why an
 * allocated line for people (NULL: out of memory), and then only deinit may follow.
 */
int local_init(struct local *l, struct worker *w, struct setup *setup, char **why);
/* After over, or when the loop has ended; twice, or instead of local_init, is fine. */
void local_deinit(struct local *l);

/*
 * Another config, or the same whose files may be others. Sockets whose address stays are kept; open
 * connections go on by what they began with; new sessions to relays are made. 0, or -EINVAL with
 * *why as above, and nothing has changed. Not when stopping.
 */
int local_reload(struct local *l, struct setup *setup, char **why);

/* Listens no more, lets live streams finish for timeouts.drain, then calls over. */
void local_stop(struct local *l);
void local_kill(struct local *l); /* ... without the wait */

#endif
