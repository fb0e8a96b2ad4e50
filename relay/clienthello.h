/*
 * clienthello: what a TLS client says first, read from peeked bytes without consuming any.
 *
 * Pure: no state, no allocation, no I/O. Feed it everything peeked so far, from the first byte of
 * the connection; on MORE call it again with more bytes (it starts over). The bytes are a
 * stranger's; the hello is not authenticated: the result routes, it proves nothing.
 */
#ifndef RELAY_CLIENTHELLO_H
#define RELAY_CLIENTHELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENTHELLO_MAX 16384     /* the whole hello with its record headers */
#define CLIENTHELLO_HOST_SIZE 256 /* the longest DNS name, and a NUL */
#define CLIENTHELLO_ALPN "attest-relay/1"

enum clienthello_result {
	CLIENTHELLO_MORE,    /* good so far, not complete */
	CLIENTHELLO_OK,      /* complete */
	CLIENTHELLO_NOT_TLS, /* the first bytes are no TLS record of a ClientHello: other doors may
				try */
	CLIENTHELLO_BAD,     /* TLS, but broken or not for us; why says how */
};

struct clienthello {
	/*
	 * The server_name's host, lower-cased; "" if the client sent none. A host is letters,
	 * digits, '-', '_' and single dots inside, 255 at most. Everything else is BAD: an IP
	 * literal (RFC 6066 forbids it), a trailing dot, NUL, an empty name, two host names.
	 */
	char host[CLIENTHELLO_HOST_SIZE];
	bool alpn;        /* the client offers ALPN at all */
	bool alpn_tunnel; /* ... and CLIENTHELLO_ALPN is among it */
	size_t need;      /* on MORE: no sense in calling with fewer bytes than this */
	const char *why;  /* on BAD: a static line for logs; "" otherwise */
};

/* out is filled in every case; host and alpn* hold on OK only (empty and false otherwise). */
enum clienthello_result clienthello_parse(const uint8_t *data, size_t len, struct clienthello *out);

#endif
