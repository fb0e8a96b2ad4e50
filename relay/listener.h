/*
 * listener: accepts connections at one address, for one worker.
 *
 * One listening socket; each worker watches it and takes a few connections at a time; whoever comes
 * wakes one of those that sleep. Accept pauses at the connection limit and when descriptors run
 * out.
 *
 * A listener is known by its name. A reload changes what is behind that, the socket included; those
 * whose name is gone stop. Whoever came by a listener holds it, and finds its config as it is now,
 * or as it was last.
 *
 * Thread: the worker's. Others may hold it, and read its name and its gateway.
 */
#ifndef RELAY_LISTENER_H
#define RELAY_LISTENER_H

#include <stdatomic.h>

#include "config/config.h"
#include "relay/acceptor.h"
#include "relay/reason.h"

struct client;
struct figure;
struct gateway;
struct listening;
struct settings;
struct tls_context;
struct worker;

struct listener {
	atomic_uint refs;
	char *name;
	struct gateway *gateway;
	struct worker *worker;
	struct figure *figure;          /* its thread's; NULL: it has not started yet */
	struct listener_config *config; /* its own: what came by it may outlast any config */
	struct tls_context *tls;        /* the relay's own TLS there; a reference, or NULL */
	struct acceptor acceptor;
	struct listening *socket; /* shared by the workers; NULL: it has stopped */
	struct listener *next;
};

/* Main thread: one that listens as soon as it is started. NULL: out of memory. */
struct listener *listener_new(struct gateway *g, struct worker *w, struct settings *s,
			      const struct listener_config *config, struct listening *socket);
/* Its thread, or before that runs. */
void listener_start(struct listener *l);
/* No more accepts; streams that came by it go on. */
void listener_stop(struct listener *l);
/*
 * After a reload this one takes the place of now, which has its name but does not listen yet: it
 * has now's config, and its socket if that is another one.
 */
void listener_become(struct listener *l, struct listener *now);
/* Turns away who may not come in: reset, counted and logged. fd is consumed; counts are not. */
void listener_refuse(const struct listener *l, int fd, const struct client *client, enum reason why,
		     const char *detail);
/*
 * Main thread: if the config in effect has no clients, warns of each listener that others than
 * those of this machine may come by.
 */
void listener_warn_of_strangers(const struct gateway *g);
struct listener *listener_ref(struct listener *l);
struct listener *listener_unref(struct listener *l); /* NULL is fine; returns NULL */

#endif
