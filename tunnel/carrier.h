/*
 * carrier: from a relay's address to a conduit that a session can be laid over: a TLS connection
 * (direct), or a WebSocket inside one; either of them through a proxy where there is one.
 */
#ifndef TUNNEL_CARRIER_H
#define TUNNEL_CARRIER_H

#include <stdbool.h>
#include <stdint.h>

#include "relay/reason.h"

struct address;
struct carrier;
struct conduit;
struct egress;
struct tls_context;
struct worker;

#define CARRIER_ALPN_WEBSOCKET "http/1.1"

enum carrier_kind { CARRIER_DIRECT, CARRIER_WEBSOCKET, CARRIER_KINDS };

/* What all carriers of a program share. Must outlive them. */
struct carrier_shared {
	struct worker *worker;
	struct tls_context *tls[CARRIER_KINDS]; /* clients'; they differ in the ALPN they offer */
	const char *alpn; /* what a direct one must agree on; NULL: the tunnel's */
	const struct egress *egress; /* NULL: no proxies */
	uint64_t dial_ms, handshake_ms, dead_ms;
};

struct carrier_events {
	void (*connected)(void *user); /* the network is there; the proxy, or TLS, begins */
	/*
	 * Once, from the loop: a conduit the callee owns, or NULL, the reason and a line for people
	 * (valid during the call). reached: something answered at the address, and no proxy was
	 * in the way, so the other kind of carrier may get through; else the line names the relay.
	 */
	void (*done)(void *user, struct conduit *c, enum reason why, bool reached,
		     const char *detail);
};

/* address must stay valid until done. name: for SNI and verification. NULL: out of memory. */
struct carrier *carrier_open(const struct carrier_shared *shared, enum carrier_kind kind,
			     const struct address *address, const char *name,
			     const struct carrier_events *events, void *user);
void carrier_cancel(struct carrier *c); /* done will not be called; NULL is fine */

const char *carrier_kind_text(enum carrier_kind kind); /* "direct TLS", "WebSocket" */

#endif
