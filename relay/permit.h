/*
 * permit: may this client open a stream to this service? By the clients of a config, which it keeps
 * a reference to; then only read, by any thread.
 */
#ifndef RELAY_PERMIT_H
#define RELAY_PERMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/peer.h"

struct permits;
struct identity;

/* Who asks, and how it came. */
struct permit_ask {
	const struct peer *peer; /* as its listener knows it, or a trusted proxy; NULL: neither */
	const struct identity *identity; /* NULL: none */
	const char *listener, *service;	 /* service: lower case */
	uint64_t now;			 /* seconds since 1970 */
};

struct permits *permits_new(struct relay_config *c); /* NULL: out of memory */
struct permits *permits_free(struct permits *p);     /* NULL is fine */

/*
 * *by: the entry that allows it; NULL where the config has no clients: then anybody may do
 * anything. Lives as long as the config. The identity's time must not be over.
 */
bool permits_open(const struct permits *p, const struct permit_ask *ask,
		  const struct client_config **by);

/* "kbs.acme" by SERVICE.OWNER, *.OWNER, SERVICE.* or *. */
bool permit_matches(const char *pattern, const char *service);

#endif
