/*
 * daemon: attest-relay as a running program: its stages, its signals, its end.
 *
 * Thread: the main one, which has an event base of its own; the gateway's workers have theirs.
 */
#ifndef RELAY_DAEMON_H
#define RELAY_DAEMON_H

#include <stdbool.h>

struct gateway;
struct relay_config;

struct daemon_options {
	struct relay_config *config; /* the caller keeps its reference for as long */
	const char *path;            /* the config's, read again by a reload */
	bool sandbox;
	/* Sets what tunnel/ gives the gateway: relay/ does not know it. */
	void (*install)(struct gateway *g);
};

/* Runs until it is told to end. Its exit status; what was wrong has been logged. */
int daemon_run(const struct daemon_options *o);

#endif
