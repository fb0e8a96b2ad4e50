/* admin_bridge: what qgs-bridge's HTTP listeners serve: see docs/admin-api.md. */
#ifndef QGS_BRIDGE_ADMIN_BRIDGE_H
#define QGS_BRIDGE_ADMIN_BRIDGE_H

struct admin;
struct bridge;
struct event_base;

/*
 * Listens at what the config says: metrics, admin. Until admin_free, on base's thread. NULL with
 * *why an allocated line, or NULL: out of memory.
 */
struct admin *admin_bridge_start(struct event_base *base, struct bridge *b, char **why);

#endif
