/*
 * caller: a connection from a guest, or from its VMM for it: judged, sent on, and written down.
 *
 * Whoever it is sent to (quote, plain, forward) owns it from then on and gives it back with how it
 * ended. Thread: the worker's.
 */
#ifndef QGS_BRIDGE_CALLER_H
#define QGS_BRIDGE_CALLER_H

#include <stdbool.h>
#include <stdint.h>

#include "qgs-bridge/who.h"
#include "relay/reason.h"

struct bridge;
struct conduit;
struct entrance_config;
struct vm;

/* How a socket that a caller came by is to be described. */
struct caller_place {
	const struct entrance_config *config; /* valid during the call */
	struct who_place who;
	const char *path; /* Unix, hybrid: as in the config, '*' replaced; else NULL */
	uint32_t port;	  /* TCP, vsock, hybrid */
};

/* A connection from a guest, or from its VMM for it. */
struct caller {
	struct bridge *bridge;
	struct vm *vm;
	uint64_t id, began; /* began: worker_now */
	char listener[65];  /* its name */
	struct who who;
	bool forwarded; /* not to QGS */
	/* A chardev's: told when the caller is over, so that it connects again. May be NULL. */
	void (*over)(void *arg);
	void *over_arg;
};

/*
 * Somebody has connected. fd is consumed. over: as in struct caller, or NULL. True: there is a
 * caller, over will be called; false: turned away.
 */
bool caller_accept(struct bridge *b, const struct caller_place *place, int fd,
		   const struct peer *peer);
/* The same for a conduit that is there already (a chardev): consumed. */
bool caller_accept_conduit(struct bridge *b, const struct caller_place *place, struct conduit *c,
			   int fd, void (*over)(void *arg), void *arg);
/* One more may come: NULL, or what there is too little of. */
const char *caller_admit(const struct bridge *b);

/* How it ended, for the log line (which is the audit record) and for the counters. */
struct caller_end {
	const char *to;	   /* "qgs", or the service */
	const char *via;   /* address or relay; "" */
	enum reason why;
	const char *detail; /* "" or words */
	bool answered;	   /* a whole reply was given; or a stream was joined */
	uint64_t up, down; /* bytes */
	uint64_t waited_ms; /* in the queue */
};
/* Logs and counts it and frees the caller, whose conduit is closed or lingers elsewhere. */
void caller_over(struct caller *c, const struct caller_end *end);

#endif
