/*
 * framing: where a QGS request or reply ends. Pure; the body is never looked at.
 *
 * A message is a 4-byte big-endian length and so many bytes. A request may instead be a bare
 * TDREPORT: 1024 bytes or a little more, whose first byte is 0x81; read as a length that would be
 * over 2 GiB, so the two cannot be mixed up.
 */
#ifndef QGS_BRIDGE_FRAMING_H
#define QGS_BRIDGE_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAMING_HEAD 4	     /* bytes of the length */
#define FRAMING_RAW 1024     /* bytes of a raw report, at least */
#define FRAMING_RAW_MAX 4096 /* with whatever a newer one has behind it */

enum framing_verdict {
	FRAMING_MORE,	    /* call again with more */
	FRAMING_WHOLE,	    /* *len bytes are one message; what follows is not part of it */
	FRAMING_RAW_SO_FAR, /* a raw report of *len bytes, as far as can be told: more may follow */
	FRAMING_TOO_LARGE,  /* over max */
	FRAMING_GARBAGE,    /* neither a length from 1 to 1 MiB nor a raw report */
};

/* By its first byte. */
bool framing_is_raw(const uint8_t *data);

/* The first n bytes of a request; max counts the head. */
enum framing_verdict framing_request(const uint8_t *data, size_t n, size_t max, size_t *len);
/*
 * Of a reply to a framed request: MORE, WHOLE or TOO_LARGE. A length of zero is passed on: what it
 * means is the client's to say.
 */
enum framing_verdict framing_reply(const uint8_t *data, size_t n, size_t max, size_t *len);

#endif
