/* refusal: says no to a client in the words of the door it came by. */
#ifndef RELAY_REFUSAL_H
#define RELAY_REFUSAL_H

#include "config/config.h"
#include "relay/reason.h"

struct conduit;

/*
 * Consumes the client's conduit; nothing may have been sent to it yet. DOOR_SNI: a TLS alert;
 * DOORS_HTTP: an HTTP answer; others: an abort. A conduit with the op answer says it by that.
 * about: a line for people, without secrets.
 * over(arg) is called once when the connection is gone for good (see linger.h).
 */
void refusal_send(struct conduit *client, enum door door, enum reason why, const char *about,
		  void (*over)(void *arg), void *arg);
/* The same words, written only: the conduit stays the caller's. */
void refusal_write(struct conduit *client, enum door door, enum reason why, const char *about);

/* The HTTP status of a reason at the connect door. */
int refusal_status(enum reason why);
/*
 * The value of its header Proxy-Status (RFC 9209): the error type that comes nearest, and in
 * details the reason's word. Returns its length.
 */
#define REFUSAL_PROXY_STATUS_MAX 128
int refusal_proxy_status(enum reason why, char text[REFUSAL_PROXY_STATUS_MAX]);

#endif
