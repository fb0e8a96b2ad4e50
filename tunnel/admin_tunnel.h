/* admin_tunnel: what attest-tunnel's HTTP listeners serve: see docs/admin-api.md. */
#ifndef TUNNEL_ADMIN_TUNNEL_H
#define TUNNEL_ADMIN_TUNNEL_H

#include <stdbool.h>

struct admin;
struct event_base;
struct tunnel_metrics;

/*
 * Listens at what the config says: metrics, admin; none of them: *a is NULL, which is fine. Until
 * admin_tunnel_stop, on base's thread; m outlives it. False: it has been logged why.
 */
bool admin_tunnel_start(struct admin **a, struct event_base *base, const struct tunnel_metrics *m);
void admin_tunnel_stop(struct admin *a);

#endif
