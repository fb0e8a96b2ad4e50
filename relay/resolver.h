/*
 * resolver: a worker's way to the DNS (evdns), in step with this machine's own settings.
 */
#ifndef RELAY_RESOLVER_H
#define RELAY_RESOLVER_H

#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct event_base;
struct evdns_base;

enum { RESOLVER_CONF_FILE, RESOLVER_HOSTS_FILE, RESOLVER_FILES };

struct resolver {
	struct evdns_base *dns; /* NULL: not yet made */
	/* As it was when it was read; all zeros: it was not there. */
	struct resolver_version {
		dev_t device;
		ino_t inode;
		off_t size;
		struct timespec changed;
	} version[RESOLVER_FILES];
};

/*
 * For one question: what resolv.conf and hosts say now. Those asked before are asked of the new
 * servers, if they are others. NULL: there is no resolv.conf yet, or no memory.
 */
struct evdns_base *resolver_dns(struct resolver *r, struct event_base *base);

#endif
