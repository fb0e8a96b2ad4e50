/*
 * quote: one request to QGS and its reply, each passed on only when whole.
 *
 *   READING    the client's bytes are collected: timeouts.request from accept
 *   WAITING    whole, in its VM's line, then connecting to QGS (ticket.h): timeouts.queue
 *   ASKING     written to QGS, its reply collected: stuck_after from the first byte written
 *              QGS ended early since it was restarted, or made its socket anew: WAITING, once more
 *   REPLYING   the whole reply is written to the client; the slot in QGS is free: timeouts.reply
 *   LINGERING  all is written; the client is let go in order (linger.h), and still counts
 *
 * A framed reply is whole by its length; the reply to a raw report has none and is whole when QGS
 * ends it. A client that goes while QGS works on its request does not free the slot: QGS still
 * works. What is counted of a VM is for caller_over to count.
 */
#ifndef QGS_BRIDGE_QUOTE_H
#define QGS_BRIDGE_QUOTE_H

#include "qgs-bridge/live.h"
#include "relay/reason.h"

struct bridge;
struct caller;
struct conduit;

#define QUOTE_RAW_MS 20 /* a raw report has no length: for what may come behind its 1024 bytes */

/* Both consumed: caller_over is called when it is over, perhaps before this returns. */
void quote_new(struct bridge *b, struct caller *caller, struct conduit *client);
/* Ends all that are there; those that linger are over within LINGER_MS. */
void quote_end_all(struct bridge *b, enum reason why);
void quote_each(const struct bridge *b, live_each *each, void *arg);

#endif
