/* opening: a client's stream from its route to its end: targets in order, parking, the splice. */
#ifndef RELAY_OPENING_H
#define RELAY_OPENING_H

#include "relay/gateway.h"
#include "relay/opening_log.h"
#include "relay/router.h"

/*
 * route: by the worker's settings. The client's conduit is consumed; nothing has been sent to it
 * yet. upgrade: DOOR_WEBSOCKET: what
 * to say when the target is there, and messages follow; others: NULL.
 */
void opening_new(struct listener *l, struct worker *w, struct conduit *client, enum door door,
		 const char *upgrade, const struct client *who, const struct route *route);

/*
 * A tunnel offering this service is there: whoever is parked for it tries again; NULL: whoever is
 * parked. All workers.
 */
void opening_wake_all(struct gateway *g, const char *service);

/* splice_spec.may_pass and passed, where bytes per second are limited. */
size_t opening_may_pass(struct splice *s, uint64_t *wait);
void opening_passed(struct splice *s, size_t bytes);

/* splice_spec.room and kept: by the memory of all whose limits it is under. */
size_t opening_room(const struct splice *s);
void opening_kept(struct splice *s, int64_t change);

/* splice_spec.end of the gateway's splices: their user is an opening. */
void opening_on_splice_end(struct splice *s, enum reason why);

/*
 * Ends this worker's streams whose client's time is over, and, with the settings before those of
 * now: those that may not be there any more (opening.c).
 */
void opening_recheck(struct gateway_worker *gw, const struct settings *before);

/* Ends this one, joined or not. */
void opening_end(struct opening *o, enum reason why);

/* Shutting down: ends all of this worker with this reason. */
void opening_end_all(struct gateway_worker *gw, enum reason why);

#endif
