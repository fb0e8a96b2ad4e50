/*
 * ws: a WebSocket as a conduit, over another conduit (TLS).
 *
 * Binary messages carry a byte stream, their borders mean nothing. EOF is close code 1000, an
 * abort 1011 (and any end without 1000 reads as an abort). A text message is a protocol error:
 * close 1003, any other breach of RFC 6455 close 1002, and read says -EPROTO. WebSocket has no
 * half-close: shutdown sends 1000 when all is written, and the peer ends its direction in answer to
 * that. The peer's close is answered at once, so nothing can be written any more (-EPIPE, once the
 * EOF has been read), and a server ends the connection under it, whatever its owner still waits
 * for. It cannot move to another worker.
 *
 * Pings are answered as they are read; pongs are ignored; none are sent.
 */
#ifndef TUNNEL_WS_H
#define TUNNEL_WS_H

#include <stddef.h>
#include <stdint.h>

#include "relay/reason.h"
#include "tunnel/ws_frame.h"
#include "tunnel/ws_handshake.h"

#define WS_WIRE ((size_t)48 * 1024) /* one message with its head: whole TLS records, one send */
#define WS_FLUSH_MS 10000 /* after close: for the peer to take what is left and the close */
#define WS_ANSWER_MS 2000 /* after that: for its own close */
#define WS_DEAF_MS 10000 /* see ws_conduit_new_lenient */

struct conduit;

/* The handshake is done. The inner conduit is consumed. NULL: out of memory. */
struct conduit *ws_conduit_new(struct conduit *inner, enum ws_frame_role role);
/*
 * The same as server, for clients that mean to end in order and do not say 1000: a close with no
 * code (a browser's close()) or with 1001 (its page is left) is EOF, too. Behind each of these what
 * is written goes nowhere for WS_DEAF_MS, then -EPIPE: so who writes it has time to read the rest.
 */
struct conduit *ws_conduit_new_lenient(struct conduit *inner);

/*
 * done: once, from the loop: a conduit the callee owns, or NULL with the reason and a line for
 * people (for instance "HTTP 403 instead of 101"; valid during the call).
 */
typedef void ws_done(void *user, struct conduit *c, enum reason why, const char *detail);
struct ws_opening;

/*
 * Server: the peer's request is unread in network, which is consumed; the terms' strings must stay
 * valid until done. What does not meet the terms is answered with an HTTP error. NULL: out of
 * memory (or, of a client: a request that cannot be said).
 */
struct ws_opening *ws_accept(struct conduit *network, const struct ws_handshake_terms *terms,
			     uint64_t timeout_ms, ws_done *done, void *user);
/* Client: asks host (a name or an address, for the Host line). The same otherwise. */
struct ws_opening *ws_connect(struct conduit *network, const char *host,
			      const struct ws_handshake_terms *terms, uint64_t timeout_ms,
			      ws_done *done, void *user);
void ws_opening_cancel(struct ws_opening *o); /* done will not be called; NULL is fine */

#endif
