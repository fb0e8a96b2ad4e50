/*
 * bridge: what the parts of qgs-bridge share: the config in effect, QGS, the lines, the callers.
 *
 * One worker on the main thread has everything; nothing here is touched by another thread.
 */
#ifndef QGS_BRIDGE_BRIDGE_H
#define QGS_BRIDGE_BRIDGE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/bridge.h"
#include "qgs-bridge/fair.h"
#include "qgs-bridge/vm.h"
#include "qgs-bridge/who.h"
#include "relay/reason.h"
#include "relay/splice.h"
#include "relay/timer.h"

struct entrance;
struct forward;
struct plain;
struct pool;
struct qgs;
struct quote;
struct vms;
struct worker;

/* How a socket that a caller came by is to be described. */
struct bridge_place {
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

struct bridge {
	struct worker *worker;
	struct bridge_config *config; /* a reference; another one after a reload */
	struct qgs *qgs;	      /* NULL: no listener has gone there yet */
	struct bridge_config *qgs_config; /* a reference: of the one that qgs was made with */
	struct fair fair;
	struct timer tokens; /* until a line has one; ticket.h's, as scheduling is */
	bool scheduling;
	struct vm_table vms_known;
	struct vms *vms;   /* which service */
	struct pool *pool; /* NULL: nothing is forwarded */
	struct splice_spec splice; /* time-outs; forward and plain set end in copies of their own */
	struct entrance **entrances;
	size_t n_entrances;
	struct quote *quotes;	  /* lists, of those that are there */
	struct plain *plains;
	struct forward *forwards;
	unsigned connections;	  /* from guests, now: callers */
	uint64_t next_id;
	/* By how they ended: requests, streams forwarded, those turned away when they came. */
	uint64_t requests[REASONS], streams[REASONS], refused[REASONS];
	ino_t netns; /* our own; 0: not known */
	bool draining, ending;
};

/*
 * Starts with this config, a reference of which is kept. False: what is wrong has been logged;
 * bridge_deinit is due all the same.
 */
bool bridge_start(struct bridge *b, struct worker *w, struct bridge_config *config);
/* Another config. False: what is wrong has been logged, and nothing has changed. */
bool bridge_reload(struct bridge *b, struct bridge_config *config);
void bridge_drain(struct bridge *b); /* no new connections */
/* Ends what is left; the loop has to go on until its conduits are closed. */
void bridge_end(struct bridge *b);
void bridge_deinit(struct bridge *b);
/* One line on how things are, for systemd and SIGUSR1. Returns buf. */
const char *bridge_status(const struct bridge *b, char *buf, size_t size);

/*
 * Somebody has connected. fd is consumed. over: as in struct caller, or NULL. True: there is a
 * caller, over will be called; false: turned away.
 */
bool bridge_accept(struct bridge *b, const struct bridge_place *place, int fd,
		   const struct peer *peer);
/* The same for a conduit that is there already (a chardev): consumed. */
bool bridge_accept_conduit(struct bridge *b, const struct bridge_place *place, struct conduit *c,
			   int fd, void (*over)(void *arg), void *arg);
/* One more may come: NULL, or what there is too little of. */
const char *bridge_admit(const struct bridge *b);

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
void bridge_caller_over(struct caller *c, const struct caller_end *end);

#endif
