/*
 * client: who came to a listener, as far as is known; a client for a service, or an agent.
 *
 * What a PROXY header says is only as true as the proxy, which the listener's proxy_networks have
 * named as trusted for that.
 */
#ifndef RELAY_CLIENT_H
#define RELAY_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/peer.h"
#include "relay/proxyproto.h"

struct conduit;
struct identity;
struct source;

#define CLIENT_SUBJECT_MAX 257 /* 64 characters (X.520), each of at most 4 bytes, and a NUL */

struct client {
	struct peer peer;  /* who it is: as the kernel says, or its proxy */
	struct peer proxy; /* family 0: the kernel; else the real other end, which said so */
	bool untold;	   /* its proxy has not said who it is: peer is the proxy's own */
	struct source *source; /* its connection counts there, and holds it: relay/gateway.h */
	struct peer to;    /* the address it connected to; family 0: nobody asked */
	/* The relay's own TLS with it. */
	const char *tls_version;          /* static; NULL: none */
	bool verified;                    /* it showed a certificate of the listener's client_ca */
	/*
	 * By any certificate that was verified; NULL: none. Its TLS conduit's: who keeps it longer
	 * takes a reference.
	 */
	struct identity *identity;
	char subject[CLIENT_SUBJECT_MAX]; /* CN of that, or "" */
};

/* A connection as it was accepted. */
void client_init(struct client *k, const struct peer *peer);
/* Its proxy has said who it is. */
void client_told(struct client *k, const struct peer *from, const struct peer *to);
/* Its proxy has said that it does not know, or that it is itself. */
void client_not_told(struct client *k);
/* The relay's TLS with it is up. */
void client_secured(struct client *k, const struct conduit *tls);

/* Of its socket: the proxy's, if there is one. */
static inline int client_family(const struct client *k)
{
	return k->proxy.family ? k->proxy.family : k->peer.family;
}

/* "tcp:192.0.2.7:4711", or "tcp:192.0.2.7:4711 by tcp:10.0.0.3:5123". Returns buf. */
#define CLIENT_TEXT_MAX (2 * PEER_TEXT_MAX + 4)
const char *client_format(const struct client *k, char *buf, size_t size);
/* The proxy alone; "": there is none. */
const char *client_proxy(const struct client *k, char *buf, size_t size);

/*
 * What somebody further on is told of a client's stream. Each may be NULL, or "", which is the
 * same. Who is told them by a peer owns none of them, and trusts none unless it says so.
 */
struct client_words {
	const char *id;	     /* the relay's number for the stream, for logs */
	const char *address; /* the client's, by client_address */
	const char *asked;   /* the name it asked for */
	/* Of a client that the relay has verified; an agent may go by them (PROTOCOL.md). */
	const char *names; /* of its certificate, by identity_text */
	const char *rule;  /* the relay's name for it */
};

/* peer as a text for struct client_words; "": not for others (a pid means nothing elsewhere). */
const char *client_address(const struct peer *peer, char *buf, size_t size);

/* A PROXY header that says all this. asked: the name it asked for, or NULL. Returns its length. */
size_t client_header(const struct client *k, unsigned version, const char *asked, const char *id,
		     uint8_t to[PROXYPROTO_SENT_MAX]);

#endif
