/* router: from a name a client said to a service. Pure. */
#ifndef RELAY_ROUTER_H
#define RELAY_ROUTER_H

#include "config/config.h"

#define SERVICE_NAME_MAX 128 /* two labels, a dot, NUL */

struct route {
	char service[SERVICE_NAME_MAX];	     /* lower case */
	const struct service_config *config; /* NULL: by default, whichever tunnel offers it */
	const char *asked; /* the host it was found by: the caller's; NULL: by service */
};

/* Each: 0, or -ENOENT: no service by this name may be reached; r is untouched then. */

/* SERVICE.OWNER: a listed service, or any that a configured owner may offer. */
int router_by_service(struct route *r, const struct relay_config *c, const char *name);
/* A TLS client's host name: a service's hostnames, or SERVICE.OWNER.<domain>. */
int router_by_host(struct route *r, const struct relay_config *c, const char *host);
/* The host of a CONNECT: a service's name, or what router_by_host takes. */
int router_by_authority(struct route *r, const struct relay_config *c, const char *host);

/* The targets of a route, in order. */
const struct addresses *router_targets(const struct route *r);

#endif
