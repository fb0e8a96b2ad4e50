/*
 * quote: one request to QGS and its reply, each passed on only when whole.
 *
 *   READING    the client's bytes are collected: timeouts.request from accept
 *   WAITING    whole, in its VM's line (fair.h): timeouts.queue
 *   DIALLING   its turn: connecting to QGS
 *   ASKING     written to QGS in one write, its reply collected: stuck_after
 *   REPLYING   a whole reply is written to the client: timeouts.reply
 *   RAW        the reply to a raw request has no length: passed on as it comes
 *
 * A client that goes while QGS works on its request does not free the slot: QGS still works.
 */
#ifndef QGS_BRIDGE_QUOTE_H
#define QGS_BRIDGE_QUOTE_H

#include "relay/reason.h"

struct bridge;
struct caller;
struct conduit;

/* Both consumed: bridge_caller_over is called when it is over. */
void quote_new(struct bridge *b, struct caller *caller, struct conduit *client);
/* QGS came, went, or got wedged: lines are served, or everybody in them fails at once. */
void quote_qgs_changed(struct bridge *b);
/* Ends all that are there. */
void quote_end_all(struct bridge *b, enum reason why);
/* Whoever may run does. After limits changed. */
void quote_schedule(struct bridge *b);

#endif
