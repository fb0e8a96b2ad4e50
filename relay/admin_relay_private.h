/*
 * admin_relay_private: what the parts of attest-relay's admin API share.
 *
 *   admin_relay.c  the listeners, the table of routes, metrics, control
 *   admin_state.c  what the main thread knows by itself: status, owners, limits ...
 *   admin_live.c   what the workers have to be asked: streams, tunnels
 *   admin_revoke.c owners' certificates taken back
 */
#ifndef RELAY_ADMIN_RELAY_PRIVATE_H
#define RELAY_ADMIN_RELAY_PRIVATE_H

#include <stdint.h>

#include "relay/admin.h"

struct censuses;

struct admin_relay {
	struct admin *admin;
	struct censuses *censuses;
	uint64_t started;     /* s, CLOCK_MONOTONIC */
	uint64_t reloaded_at; /* s since 1970, the last; 0: never */
	char *reload_error;   /* of it; NULL: it was good */
};

/* All of these: routes' run, user is the struct daemon. */
void admin_state_status(struct admin_request *r, void *daemon);
void admin_state_listeners(struct admin_request *r, void *daemon);
void admin_state_owners(struct admin_request *r, void *daemon);
void admin_state_services(struct admin_request *r, void *daemon);
void admin_state_ready(struct admin_request *r, void *daemon); /* of one service */
void admin_state_limits(struct admin_request *r, void *daemon);
void admin_state_failures(struct admin_request *r, void *daemon);
void admin_state_config(struct admin_request *r, void *daemon);

void admin_live_streams(struct admin_request *r, void *daemon);
void admin_live_tunnels(struct admin_request *r, void *daemon);
void admin_live_close_stream(struct admin_request *r, void *daemon);
void admin_live_close_tunnel(struct admin_request *r, void *daemon);

void admin_revoke(struct admin_request *r, void *daemon);
/* What such a request asks for, for the audit. Returns buf. */
const char *admin_revoke_whose(const struct admin_request *r, char *buf, size_t size);

#endif
