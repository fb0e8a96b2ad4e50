/*
 * ws_handshake: the words of RFC 6455's opening handshake: what to say, and whether what the other
 * side says will do. Pure, but for the random key.
 *
 * Strict in both directions; no extensions.
 */
#ifndef TUNNEL_WS_HANDSHAKE_H
#define TUNNEL_WS_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>

#include "relay/httphead.h"

/* What a WebSocket is about. The strings are the caller's. */
struct ws_handshake_terms {
	const char *path; /* server: NULL: any, the caller has judged it */
	const char *subprotocol; /* NULL: none */
	bool optional;           /* server: a client that asks for no subprotocol will do too */
};

#define WS_HANDSHAKE_KEY 25 /* 24 characters of base64, and NUL */
#define WS_HANDSHAKE_ACCEPT 29
#define WS_HANDSHAKE_SAY 1024 /* the most that is ever said: request or answer */

enum ws_handshake_verdict {
	WS_HANDSHAKE_MORE, /* call again with everything so far */
	WS_HANDSHAKE_GOOD,
	WS_HANDSHAKE_BAD,
};

struct ws_handshake_heard {
	size_t head;      /* GOOD: bytes of the head; frames follow */
	char detail[160]; /* BAD: a line for people */
};

/* A fresh random key. False: libcrypto has no random bytes. */
bool ws_handshake_key(char key[WS_HANDSHAKE_KEY]);
/* What a server answers to it. False: libcrypto has no SHA-1. */
bool ws_handshake_accept(const char *key, char accept[WS_HANDSHAKE_ACCEPT]);

/*
 * Client: its request, for a name or address without port; returns its length, 0: does not fit, or
 * host has what no Host line may.
 */
size_t ws_handshake_request(char say[WS_HANDSHAKE_SAY], const char *host,
			    const struct ws_handshake_terms *terms, const char *key);
/* Client: judges the server's answer. */
enum ws_handshake_verdict ws_handshake_judge_answer(const void *data, size_t len,
						    const struct ws_handshake_terms *terms,
						    const char *key,
						    struct ws_handshake_heard *heard);

/*
 * Server: judges the request, and writes what to answer: 101 if GOOD, else an HTTP error after
 * which the connection is to be closed. *said is its length.
 */
enum ws_handshake_verdict ws_handshake_judge_request(const void *data, size_t len,
						     const struct ws_handshake_terms *terms,
						     struct ws_handshake_heard *heard,
						     char say[WS_HANDSHAKE_SAY], size_t *said);

#endif
