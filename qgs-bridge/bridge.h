/*
 * bridge: what the parts of qgs-bridge share: the config in effect, QGS, the lines, the callers.
 *
 * One worker on the main thread has everything; nothing here is touched by another thread.
 */
#ifndef QGS_BRIDGE_BRIDGE_H
#define QGS_BRIDGE_BRIDGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/bridge.h"
#include "qgs-bridge/fair.h"
#include "qgs-bridge/vm.h"
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
	uint64_t files; /* its certificate's and so on, as they were before they were read */
	struct splice_spec splice; /* time-outs; forward and plain set end in copies of their own */
	struct entrance **entrances;
	size_t n_entrances;
	struct quote *quotes;	  /* lists, of those that are there */
	struct plain *plains;
	struct forward *forwards;
	unsigned connections;	  /* from guests, now: callers */
	unsigned gates;		  /* sockets that listen, now */
	uint64_t descriptors;	  /* for guests, those gates, and connections for guests; 0: any */
	uint64_t next_id;
	/* By how they ended: requests, streams forwarded, those turned away when they came. */
	uint64_t requests[REASONS], streams[REASONS], refused[REASONS];
	uint64_t reloads, reload_failures;
	uint64_t reloaded_at; /* seconds since 1970: when the config in effect was read */
	ino_t netns; /* our own; 0: not known */
	bool draining, ending;
};

/*
 * Starts with this config, a reference of which is kept. False: what is wrong has been logged;
 * bridge_deinit is due all the same.
 */
bool bridge_start(struct bridge *b, struct worker *w, struct bridge_config *config);
/*
 * Another config. False: what is wrong has been logged, and nothing has changed. *why is a line, to
 * be freed; NULL: out of memory.
 */
bool bridge_reload(struct bridge *b, struct bridge_config *config, char **why);
/* Now and then: reads the node's certificate, its key and the CAs again if their files changed. */
void bridge_look(struct bridge *b);
void bridge_drain(struct bridge *b); /* no new connections */
/* Ends what is left; the loop has to go on until its conduits are closed. */
void bridge_end(struct bridge *b);
void bridge_deinit(struct bridge *b);
/* One line on how things are, for systemd and SIGUSR1. Returns buf. */
const char *bridge_status(const struct bridge *b, char *buf, size_t size);

#endif
