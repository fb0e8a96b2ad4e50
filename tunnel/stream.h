/*
 * stream: one CONNECT stream of a session as a conduit. Private to the session; its users see
 * struct conduit and tunnel/session.h.
 *
 * Lives until its owner has closed it and HTTP/2 has closed it; outlives its session safely.
 */
#ifndef TUNNEL_STREAM_H
#define TUNNEL_STREAM_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stdint.h>

#include "relay/conduit.h"
#include "relay/worker.h"
#include "tunnel/received.h"

struct session;

struct stream {
	struct conduit base;
	struct session *session; /* NULL: ended */
	struct stream *next, **prevp;
	struct deferred tell;
	struct reapable reapable;
	struct received received;
	struct budget *budget; /* of received, when the session is gone; else the session's */
	uint32_t prompt; /* bytes read in the turn they came in since ... */
	uint64_t window_us; /* ... the last whole window of them (session_now_us) */
	uint32_t held_since; /* session.inputs when what is held, if anything, began to come */
	int32_t id;
	uint32_t error; /* HTTP/2 code of the reset that killed it */
	uint8_t wants;
	uint8_t growth;    /* the window is the limit's << growth */
	uint8_t why;       /* enum reason; client: of the refusal that killed it, or NONE */
	uint8_t peer;      /* enum session_peer */
	bool server : 1;   /* the session's role */
	bool answered : 1; /* server: 200 was submitted */
	bool refused : 1;  /* by an answer that says it all: no reset is needed */
	bool open : 1;     /* client: 200 was received */
	bool open_told : 1;
	bool eof_in : 1;   /* END_STREAM received */
	bool eof_out : 1;  /* no more will be written */
	bool eof_sent : 1; /* END_STREAM submitted */
	bool deferred : 1; /* nghttp2 does not ask for bytes until resumed */
	bool reset : 1;    /* RST_STREAM submitted */
	bool closed : 1;   /* by its owner */
	bool gone : 1;     /* for HTTP/2 */
	bool lost : 1;     /* the session ended first */
};

/* NULL: out of memory. id may be set later. */
struct stream *stream_new(struct session *s, int32_t id);
void stream_drop(struct stream *st); /* a new one that nobody was told of */

nghttp2_data_provider stream_provider(void);

/* From nghttp2's callbacks. */
void stream_on_open(struct stream *st);
/* The answer is no. word: its attest-reason, or ""; whole: nothing follows. */
void stream_on_refused(struct stream *st, int status, const char *word, bool whole);
void stream_on_data(struct stream *st, const uint8_t *data, size_t len);
void stream_on_eof(struct stream *st);
void stream_on_close(struct stream *st, uint32_t code);

void stream_reset(struct stream *st, uint32_t code); /* RST_STREAM, once */
void stream_die(struct stream *st, uint32_t code, int error);
void stream_lose(struct stream *st); /* the session ends */

#endif
