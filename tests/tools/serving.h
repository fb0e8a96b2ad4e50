/*
 * serving: QGS's connections and its threads, as measured on the real one, and faults on demand.
 */
#ifndef TESTS_TOOLS_SERVING_H
#define TESTS_TOOLS_SERVING_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/queue.h>

/* How requests are read. */
enum version {
	VERSION_LEGACY, /* up to 1.25: the rest of a split request is read over its beginning */
	VERSION_1_26,   /* pieces are put together; EOF and nonsense close at once */
};

/* What becomes of a request once a thread has it. */
enum fault {
	FAULT_NONE,
	FAULT_CLOSE,  /* closes without a byte, as QGS does when it cannot build a reply */
	FAULT_ERROR,  /* a reply with an error code: 28 bytes for a quote */
	FAULT_CUT,    /* closes after so many bytes of the reply */
	FAULT_PIECES, /* the reply in pieces of so many bytes, with pauses */
	FAULT_WEDGED, /* its thread never comes back */
};

struct serving_settings {
	unsigned threads;
	int64_t timeout_ms; /* of a connection, from accept on */
	int64_t work_ms;    /* for each request */
	size_t quote_bytes;
	enum version version;
	enum fault fault;
	size_t fault_bytes;
	uint64_t fault_left; /* for so many requests; 0: until told otherwise */
};

struct serving_counts {
	uint64_t connections;
	uint64_t silent;     /* connections that ended without having sent a byte */
	uint64_t incomplete; /* ... having sent some, but no whole request */
	uint64_t requests;   /* whole ones, given to the threads; of them: */
	uint64_t raw, platform, in_pieces, trailing, refused;
	uint64_t replies;       /* written to the last byte */
	uint64_t wasted;        /* worked on, though the connection had ended or ended on writing */
	uint64_t timed_out;     /* connections that the timer closed */
	uint64_t max_reads;     /* of a whole request */
	uint64_t max_open;      /* connections at a time */
	uint64_t max_at_work;   /* requests in threads at a time */
	uint64_t max_waiting;   /* ... waiting for a thread */
	int64_t max_request_ms; /* from accept until a request was whole */
};

TAILQ_HEAD(connections, connection);

struct serving {
	struct serving_settings set;
	struct serving_counts count;
	struct connections all;  /* those with a descriptor, or a request in hand */
	struct connections turn; /* those whose request waits for a thread */
	size_t n, at_work, waiting, open;
};

void serving_init(struct serving *s);
void serving_deinit(struct serving *s);

/* All there is to accept. -1 and errno if that is over. */
int serving_accept(struct serving *s, int listening);
/* Fills s->n entries; returns the ms until something is to be done without an event, or -1. */
int serving_polls(const struct serving *s, struct pollfd *fds);
/* What poll() said of them. Between the two, none may be accepted or closed. */
void serving_turn(struct serving *s, const struct pollfd *fds);
/* Applies what has been set: wedged threads come back when they are no longer to be so. */
void serving_apply(struct serving *s);
void serving_close_all(struct serving *s);
/* The counts from now on. */
void serving_reset(struct serving *s);
/* One line of JSON. */
void serving_print(const struct serving *s, FILE *to);

#endif
