/*
 * plain: a connection to a QGS with framing: none: bytes as they come, both ways.
 *
 * QGS is dialled when the first byte is there (timeouts.request) and the VM's turn has come: a
 * connection is one request for fair.h, from then to its end.
 */
#ifndef QGS_BRIDGE_PLAIN_H
#define QGS_BRIDGE_PLAIN_H

#include "qgs-bridge/live.h"
#include "relay/reason.h"

struct bridge;
struct caller;
struct conduit;

/* Both consumed: caller_over is called when it is over, perhaps before this returns. */
void plain_new(struct bridge *b, struct caller *caller, struct conduit *client);
void plain_end_all(struct bridge *b, enum reason why);
void plain_each(const struct bridge *b, live_each *each, void *arg);

#endif
