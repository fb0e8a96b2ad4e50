/*
 * stream: one client stream, from connect to close.
 *
 * Connects, says the prologue, sends requests; what follows on a request is its mode's. Streams are
 * slots: one that is closed may be started again, as another stream with another id.
 */
#ifndef BENCH_STREAM_H
#define BENCH_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bench/load.h"
#include "bench/wire.h"

enum stream_state {
	STREAM_CLOSED,
	STREAM_ASKING,  /* connecting, or sending CONNECT */
	STREAM_ANSWER,  /* waiting for the proxy's answer */
	STREAM_REQUEST, /* connecting, or sending the request and what precedes it */
	STREAM_OPEN,    /* the request has left */
	STREAM_QUIET,   /* and nothing is expected now */
};

struct stream {
	struct watch watch; /* first: cast both ways */
	struct load *load;
	enum stream_state state;
	struct wire_request request;
	uint32_t at;  /* bytes of what is sent or read now, unless that is data */
	bool greeted; /* the prologue is behind us */
	bool ended;   /* our direction is, or nothing more is sent in it */
	uint8_t tail_len;
	uint8_t tail[WIRE_VERDICT]; /* the end of what came; of a proxy: the start */
	uint64_t began, moved;      /* when: this exchange or stream; the last byte */
	uint64_t sent, received;    /* data */
	uint32_t queued;            /* of a stalled one: what lies unread in its socket */
	struct stream *next;        /* of those that think */
};

void stream_init(struct stream *s, struct load *l);

/* Starts a closed one. */
void stream_start(struct stream *s, enum wire_op op, uint64_t amount);
/* Another request on an open one. */
void stream_request(struct stream *s);
void stream_close(struct stream *s);
void stream_fail(struct stream *s, enum load_error kind, const char *what);

/* Is it something else's turn, so that the time-out counts? */
bool stream_waits(const struct stream *s);

/* Reads into one buffer for all. > 0: bytes; 0: none now; -1: failed and closed. */
ssize_t stream_read(struct stream *s, const uint8_t **data, size_t max);
/* The same; -2: the end, which is for the caller to judge. */
ssize_t stream_read_to_end(struct stream *s, const uint8_t **data, size_t max);
/* How much was sent, 0: nothing now; -1: failed and closed. */
ssize_t stream_write(struct stream *s, const void *data, size_t len);
/* An event where none is expected: fails, unless it was a false alarm. */
void stream_unexpected(struct stream *s);
/* Ends our direction; the other stays. */
void stream_end(struct stream *s);

#endif
