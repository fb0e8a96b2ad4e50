/*
 * listener: accepts connections at one address, on every worker.
 *
 * One listening socket; each worker watches it and takes a few connections at a time, so whoever
 * is awake serves. Accept pauses at the connection limit and when descriptors run out.
 */
#ifndef RELAY_LISTENER_H
#define RELAY_LISTENER_H

#include "config/config.h"

struct gateway;
struct worker;

struct listener {
	const struct listener_config *config;
	struct gateway *gateway;
	struct worker *worker;
	int fd; /* shared by the workers; closed by listener_unbind */
	struct event *event;
	struct listener_pause *pause;
	struct listener *next;
};

#define LISTENER_BACKLOG 4096 /* vsock has no SYN retry; the kernel cuts it to somaxconn */
#define LISTENER_BURST 16     /* accepted per wake-up, then others have a turn */
#define LISTENER_PAUSE_MS 100 /* until the next try after EMFILE or at the limit */

/*
 * Binds (or takes over from systemd) and listens. A Unix path left behind by a dead process is
 * replaced, one that is served is not. The fd, or -1 with *why an allocated line for people.
 */
int listener_bind(const struct listener_config *config, char **why);
void listener_unbind(const struct listener_config *config, int fd); /* removes a Unix path too */

/* Starts accepting in this worker (its thread, or before it runs). NULL: out of memory. */
struct listener *listener_new(struct gateway *g, struct worker *w,
			      const struct listener_config *config, int fd);
struct listener *listener_free(struct listener *l); /* NULL is fine; fd stays */

#endif
