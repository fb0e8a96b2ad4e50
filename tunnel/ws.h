/*
 * ws: a WebSocket as a conduit (libwebsockets; the one file that knows it is ws.c).
 *
 * Binary messages carry a byte stream, their borders mean nothing. EOF is close code 1000, an
 * abort 1011 (and any close without 1000 reads as an abort). A text message is a protocol error:
 * close 1003, read says -EPROTO. WebSocket has no half-close: shutdown sends 1000 when all is
 * written, and the peer ends its direction in answer to that (a tunnel session ends both together).
 * It cannot move to another worker.
 *
 * libwebsockets never owns the network: it speaks over one end of a socketpair; the other end is
 * an fd conduit that the caller splices to the TLS connection.
 */
#ifndef TUNNEL_WS_H
#define TUNNEL_WS_H

#include <stddef.h>
#include <stdint.h>

#include "relay/reason.h"

#define WS_SUBPROTOCOL "attest-relay.v1"
#define WS_PATH "/tunnel"
#define WS_RX_MAX ((size_t)256 * 1024) /* unread bytes held, then the peer is paused */
#define WS_MESSAGE_MAX (65536 - 64)    /* bytes of one message we send; 64 KiB with its head */

struct conduit;
struct worker;
struct ws_context; /* one per worker */

struct ws_context *ws_context_new(struct worker *w); /* NULL: the cause has been logged */
/*
 * Not from a callback of anything here. Openings still there are cancelled, conduits stay their
 * owners' and are dead, what still lingers is dropped. Before worker_free.
 */
struct ws_context *ws_context_free(struct ws_context *x);

/*
 * done: once, from the loop: a conduit the callee owns, or NULL with the reason and a line for
 * people (for instance "HTTP 403 instead of 101"; valid during the call).
 */
typedef void ws_done(void *user, struct conduit *c, enum reason why, const char *detail);
struct ws_opening;

/*
 * Server: the peer's upgrade request (not yet read) comes in on *network, a plain conduit that the
 * caller must splice to the network. Anything but GET WS_PATH with WS_SUBPROTOCOL is answered
 * with an HTTP error. NULL: out of memory, *network untouched. When the WebSocket has ended,
 * *network reads EOF after the last byte (ECONNRESET, when something was left unread); what the
 * network still sends then can no longer be written.
 */
struct ws_opening *ws_accept(struct ws_context *x, struct conduit **network, uint64_t timeout_ms,
			     ws_done *done, void *user);
/* Client: sends the upgrade request for https://host/tunnel. */
struct ws_opening *ws_connect(struct ws_context *x, const char *host, struct conduit **network,
			      uint64_t timeout_ms, ws_done *done, void *user);
void ws_opening_cancel(struct ws_opening *o); /* NULL is fine */

#endif
