/* admin_relay: what attest-relay's HTTP listeners serve: see docs/admin-api.md. */
#ifndef RELAY_ADMIN_RELAY_H
#define RELAY_ADMIN_RELAY_H

struct admin;
struct daemon;
struct event_base;
struct gateway;

/*
 * Listens at what the config says: metrics, status, admin; until admin_relay_stop, on base's
 * thread. NULL with *why an allocated line, or NULL: out of memory.
 */
struct admin *admin_relay_start(struct event_base *base, struct daemon *d, char **why);
/* The workers' threads are over, or never began. None: nothing. */
void admin_relay_stop(struct gateway *g);

/* A reload is over; why: NULL: it was good. */
void admin_relay_reloaded(struct gateway *g, const char *why);
/* Why the last one failed, good until the next; NULL: it did not, or there was none. */
const char *admin_relay_reload_error(const struct gateway *g);

#endif
