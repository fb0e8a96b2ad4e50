/*
 * client: one request for a quote, as QEMU, libtdx_attest or an old QEMU make it.
 */
#ifndef TESTS_TOOLS_CLIENT_H
#define TESTS_TOOLS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/tools/place.h"

enum client_kind {
	CLIENT_QEMU, /* framed, strict about what comes back */
	CLIENT_TDX,  /* framed, as naive as libtdx_attest */
	CLIENT_RAW,  /* a bare report, a bare quote */
};

/* How a request ended; client_outcomes[] has their names. */
enum outcome {
	OUTCOME_OK,
	OUTCOME_CONNECT_FAILED,
	OUTCOME_CLOSED_EARLY, /* or reset */
	OUTCOME_ERROR,        /* a whole reply that has an error code */
	OUTCOME_BAD_REPLY,
	OUTCOME_WOULD_SPIN, /* libtdx_attest would loop for ever: EOF within a reply's body */
	OUTCOME_TIMEOUT,
	OUTCOMES,
};

extern const char *const client_outcomes[OUTCOMES];

enum { CLIENT_PARTS = 16, CLIENT_REPORT_MAX = 4 << 20 };

struct client_how {
	enum client_kind kind;
	const struct place *to;
	int64_t timeout_ms; /* for all of it */
	size_t reply_max;   /* 0: the kind's own: 128 KiB, 16 KiB */
	/* To be odd: */
	size_t report_bytes; /* 1024 */
	bool platform;       /* asks for platform information */
	bool twice;          /* the request two times in one write */
	size_t extra;        /* so many bytes behind it */
	bool has_only;       /* only so many bytes of it */
	size_t only;
	size_t garbage; /* so many bytes of 0xff for a request, or 0 */
	size_t parts[CLIENT_PARTS];
	size_t n_parts;        /* writes of so many bytes; what is left is the last one */
	int64_t pause_ms;      /* between parts, once the other side has read one */
	bool shut_wr;          /* after the request */
	bool second;           /* after the reply, the request again on the same connection */
	int64_t read_after_ms; /* waits before it reads */
};

struct client_result {
	enum outcome outcome;
	int error;          /* errno of what failed, or 0 */
	const char *why;    /* of a bad reply; static */
	uint32_t code;      /* of an error reply */
	size_t bytes;       /* of the reply, as far as it came */
	size_t quote_bytes; /* of a good one */
	int64_t connect_us, us;
	int second_error; /* of the second request: errno, or 0 if it could be written */
};

/* A buffer for replies, of client_room() bytes, serves any number of requests. */
size_t client_room(const struct client_how *how);
void client_run(const struct client_how *how, const char *vm, uint64_t number, uint8_t *room,
		struct client_result *r);

#endif
