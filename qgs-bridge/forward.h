/*
 * forward: a guest's stream to a service behind the boundary relay.
 *
 * Accepted at once, read when there is a stream to read it into; the relay parks it if the service
 * is not there yet. Then a splice: what half-close, aborts and time-outs mean is written there.
 */
#ifndef QGS_BRIDGE_FORWARD_H
#define QGS_BRIDGE_FORWARD_H

#include "qgs-bridge/live.h"
#include "relay/reason.h"

struct bridge;
struct caller;
struct conduit;

/* Both consumed, as quote_new does. service is copied. */
void forward_new(struct bridge *b, struct caller *caller, struct conduit *client,
		 const char *service);
void forward_end_all(struct bridge *b, enum reason why);
void forward_each(const struct bridge *b, live_each *each, void *arg);

#endif
