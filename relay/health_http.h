/*
 * health_http: is the relay alive, and may clients come? For probes and load balancers.
 *
 * Plain text, 200 or 503. Routes for the table of admin.h, scope ADMIN_HEALTH; user is the struct
 * gateway.
 */
#ifndef RELAY_HEALTH_HTTP_H
#define RELAY_HEALTH_HTTP_H

struct admin_request;

void health_http_live(struct admin_request *r, void *gateway);	/* GET /livez */
/* GET /readyz, /healthz; /readyz/ and ?service= with a service's name */
void health_http_ready(struct admin_request *r, void *gateway);

#endif
