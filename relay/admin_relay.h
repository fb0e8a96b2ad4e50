/* admin_relay: what attest-relay's HTTP listeners serve: see docs/admin-api.md. */
#ifndef RELAY_ADMIN_RELAY_H
#define RELAY_ADMIN_RELAY_H

struct admin;
struct daemon;
struct event_base;

/*
 * Listens at what the config says: metrics, status, admin. Until admin_free, on base's thread. NULL
 * with *why an allocated line, or NULL: out of memory.
 */
struct admin *admin_relay_start(struct event_base *base, struct daemon *d, char **why);

#endif
