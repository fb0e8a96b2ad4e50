/*
 * health_http: is the relay alive, and may clients come? For probes and load balancers.
 *
 * Routes for the table of admin.h, scope ADMIN_HEALTH; user is the struct daemon.
 */
#ifndef RELAY_HEALTH_HTTP_H
#define RELAY_HEALTH_HTTP_H

struct admin_request;

/* GET /livez: 503 if a worker's loop does not turn; restarting is what helps then. */
void health_http_live(struct admin_request *r, void *daemon);
/*
 * GET /readyz and /healthz: 503 while it drains, too. /readyz/SERVICE.OWNER, or ?service=: 503 also
 * while no client could reach that; 404: there is no such service.
 */
void health_http_ready(struct admin_request *r, void *daemon);

#endif
