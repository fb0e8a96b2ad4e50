/* admin_bridge: what qgs-bridge's HTTP listeners serve: see docs/admin-api.md. */
#ifndef QGS_BRIDGE_ADMIN_BRIDGE_H
#define QGS_BRIDGE_ADMIN_BRIDGE_H

#include <stdbool.h>
#include <stdint.h>

struct admin;
struct bridge;
struct event_base;

/* Zeroed, then filled but for the rest; what it points to outlives it. */
struct admin_bridge {
	struct bridge *bridge;
	void (*drain)(void); /* as SIGTERM, but once */
	/* As SIGHUP. False: *why is an allocated line, or NULL: out of memory. */
	bool (*reload)(char **why);
	/* its own */
	struct admin *admin;
	uint64_t began; /* worker_now */
};

/*
 * Listens at what the config says: metrics, admin; none of them is fine. Until admin_bridge_stop,
 * on base's thread. False: it has been logged why.
 */
bool admin_bridge_start(struct admin_bridge *a, struct event_base *base);
void admin_bridge_stop(struct admin_bridge *a); /* not started: nothing */

#endif
