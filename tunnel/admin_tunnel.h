/* admin_tunnel: what attest-tunnel's HTTP listeners serve: see docs/admin-api.md. */
#ifndef TUNNEL_ADMIN_TUNNEL_H
#define TUNNEL_ADMIN_TUNNEL_H

#include <stdbool.h>
#include <stdint.h>

struct admin;
struct event_base;
struct tunnel_metrics;

/* Zeroed, then filled but for admin; what it points to outlives it. */
struct admin_tunnel {
	struct admin *admin; /* NULL: nobody wants to be told anything */
	const struct tunnel_metrics *metrics;
	const char *instance;       /* NULL: no services are offered */
	void (*drain)(void);        /* as SIGTERM, but once */
	bool (*reload)(char **why); /* as SIGHUP; false: *why, to be freed */
	uint64_t began;             /* its own: worker_now */
};

/*
 * Listens at what the config says: metrics, admin; none of them is fine. Until admin_tunnel_stop,
 * on base's thread. False: it has been logged why.
 */
bool admin_tunnel_start(struct admin_tunnel *t, struct event_base *base);
void admin_tunnel_stop(struct admin_tunnel *t); /* not started: nothing */

#endif
