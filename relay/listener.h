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
#include "relay/acceptor.h"
#include "relay/reason.h"

struct client;
struct figure;
struct gateway;
struct listening;
struct worker;

struct listener {
	const struct listener_config *config;
	struct gateway *gateway;
	struct worker *worker;
	struct figure *figure;
	struct acceptor acceptor;
	struct listening *socket; /* shared by the workers; held until this one has stopped */
	struct listener *next;
};

/* Starts accepting in this worker (its thread, or before it runs). NULL: out of memory. */
struct listener *listener_new(struct gateway *g, struct worker *w,
			      const struct listener_config *config, struct listening *socket);
/* No more accepts; streams that came by it go on. */
void listener_stop(struct listener *l);
/* Turns away who may not come in: reset, counted and logged. fd is consumed; counts are not. */
void listener_refuse(const struct listener *l, int fd, const struct client *client, enum reason why,
		     const char *detail);
/*
 * Main thread: if this config, about to be in effect, has no clients, warns of each listener that
 * others than those of this machine may come by.
 */
void listener_warn_of_strangers(const struct gateway *g, const struct relay_config *c);
struct listener *listener_free(struct listener *l); /* NULL is fine */

#endif
