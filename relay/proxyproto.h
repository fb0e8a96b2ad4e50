/*
 * proxyproto: the header by which a proxy tells whose connection it is (the PROXY protocol).
 *
 * Versions 1 (a line of text) and 2 (binary), as in sections 2.1 and 2.2 of haproxy's
 * doc/proxy-protocol.txt. Pure: reads and writes memory only. What a header says is for logs and
 * for passing on, never for deciding who may do what.
 */
#ifndef RELAY_PROXYPROTO_H
#define RELAY_PROXYPROTO_H

#include <stddef.h>
#include <stdint.h>

#include "relay/peer.h"

#define PROXYPROTO_V1_MAX 107 /* the specification's, CR LF included */
/*
 * What is taken of version 2. The format allows 16 + 65535 bytes, which nobody sends: the largest
 * known has a client's certificate in it, some 2 KiB. As much as nginx takes.
 */
#define PROXYPROTO_MAX 4096
#define PROXYPROTO_SENT_MAX 1024 /* the longest that proxyproto_encode writes */

enum proxyproto_result {
	PROXYPROTO_OK,
	PROXYPROTO_MORE,      /* so far it may become one: come again with more */
	PROXYPROTO_NONE,      /* something else: no header begins like this */
	PROXYPROTO_BAD,       /* a header, and a broken one; why says how */
	PROXYPROTO_TOO_LARGE, /* one of more than PROXYPROTO_MAX bytes */
};

struct proxyproto {
	unsigned version; /* 1 or 2 as soon as it is certain, else 0 */
	size_t len;       /* OK: bytes of the header; what is behind it is not ours */
	/*
	 * OK: who connected, and to what. Both of family 0 if the header tells nothing of a stream:
	 * LOCAL (a health check of the proxy's own), UNKNOWN, UNSPEC, datagrams. A Unix socket's
	 * have no path.
	 */
	struct peer from, to;
	const char *why; /* BAD: for people; else "" */
};

/*
 * data: all that has come so far, from its first byte. Decides as early as it can: what it said of
 * a beginning, unless MORE, it says of every longer one.
 */
enum proxyproto_result proxyproto_parse(const uint8_t *data, size_t len, struct proxyproto *out);

/* What to tell. Texts may be NULL, and those too long for their place are left out. */
struct proxyproto_about {
	const struct peer *from;
	const struct peer *to;   /* family 0, or not from's: all zeros are sent for it */
	const char *authority;   /* the name the client asked for */
	const char *id;          /* of the stream, unique here */
	const char *tls_version; /* of the client's TLS that has ended here; NULL: none */
	const char *tls_subject; /* CN of its certificate, which was verified; NULL: none was */
};

/*
 * version 1 or 2. A client without an IP address is UNKNOWN or LOCAL. Version 1 has the addresses
 * only. Returns the bytes written.
 */
size_t proxyproto_encode(uint8_t to[PROXYPROTO_SENT_MAX], unsigned version,
			 const struct proxyproto_about *about);

#endif
