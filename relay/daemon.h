/*
 * daemon: attest-relay as a running program: its stages, its signals, its end.
 *
 * Thread: the main one, which has an event base of its own; the gateway's workers have theirs.
 */
#ifndef RELAY_DAEMON_H
#define RELAY_DAEMON_H

#include <stdbool.h>

struct daemon;
struct gateway;
struct relay_config;

struct daemon_options {
	struct relay_config *config; /* the caller keeps its reference for as long */
	const char *path;            /* the config's, read again by a reload */
	bool sandbox;
	bool takeover; /* from a running one, if there is any: relay/takeover.h */
	/* Sets what tunnel/ gives the gateway: relay/ does not know it. */
	void (*install)(struct gateway *g);
};

/* Runs until it is told to end. Its exit status; what was wrong has been logged. */
int daemon_run(const struct daemon_options *o);

/* ---- for its admin interface, on the main thread ---- */

struct gateway *daemon_gateway(struct daemon *d);
const char *daemon_path(const struct daemon *d); /* the config's */
/* As SIGHUP; told, now or later, what has come of it: see relay/reload.h. */
void daemon_reload(struct daemon *d, void (*told)(void *user, bool good, const char *why),
		   void *user);
/* As SIGTERM, but never ends what drains already. */
void daemon_drain(struct daemon *d);
bool daemon_is_draining(const struct daemon *d);
/* How many workers' loops do not turn any more. */
unsigned daemon_stuck_workers(const struct daemon *d);
/*
 * Another attest-relay, which is to take this one's place, is at fd (of admin_detach): a Unix
 * socket, consumed. It is answered. See relay/heir.h.
 */
void daemon_hand_over(struct daemon *d, int fd);

#endif
