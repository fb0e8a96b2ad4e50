/* admin_relay: what attest-relay's HTTP listeners serve: see docs/admin-api.md. */
#ifndef RELAY_ADMIN_RELAY_H
#define RELAY_ADMIN_RELAY_H

struct admin;
struct event_base;
struct gateway;

/*
 * Listens at what the config says: metrics, status, admin. Until admin_free, on base's thread. NULL
 * with *why an allocated line, or NULL: out of memory.
 */
struct admin *admin_relay_start(struct event_base *base, struct gateway *g, char **why);

#endif
