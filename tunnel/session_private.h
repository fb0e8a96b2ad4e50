/*
 * session_private: what session.c, stream.c and message.c share. Nobody else includes it.
 *
 *   session.c       life: the carrier's end, time, endings
 *   session_input.c receiving
 *   session_send.c  sending
 *   session_h2.c    nghttp2's callbacks and options
 *   stream.c        a CONNECT stream as a conduit (received.c: its unread bytes)
 *   message.c       header blocks: requests, answers, control exchanges
 */
#ifndef TUNNEL_SESSION_PRIVATE_H
#define TUNNEL_SESSION_PRIVATE_H

#include <nghttp2/nghttp2.h>

#include "relay/conduit.h"
#include "relay/timer.h"
#include "relay/worker.h"
#include "tunnel/budget.h"
#include "tunnel/frame_scan.h"
#include "tunnel/message.h"
#include "tunnel/session.h"
#include "tunnel/stream.h"

#define FRAME_HEAD 9             /* bytes of an HTTP/2 frame header */
/*
 * DATA frames, header included: what we send at most, and (a header more) what we take. Four TLS
 * records; at 16 KiB a third of the time went into reading and writing so little at a time.
 */
#define SESSION_FRAME_MAX 65536
#define PEER_STREAMS_UNKNOWN 100 /* at a time, until the peer's SETTINGS are known */

/* In this order only. What may happen in each: see session.c. */
enum session_phase {
	PHASE_OPEN,    /* everything */
	PHASE_CLOSING, /* streams are dead, input is dropped; what was queued is being sent */
	PHASE_GOODBYE, /* ... and after it the last GOAWAY */
	PHASE_LINGER,  /* all is sent, our direction has ended: the peer's end is waited for */
	PHASE_ENDED,   /* events->end was called; freed at the end of the turn */
};

struct session {
	struct conduit *carrier;
	struct worker *worker;
	nghttp2_session *h2;
	const struct session_events *events;
	void *user;
	struct session_limits limits;
	enum session_role role;
	enum session_phase phase;
	struct deferred flush;
	struct timer timer;
	struct reapable reapable;

	/* Sending. */
	size_t out;    /* bytes gathered in worker->output, inside a flush */
	uint8_t *rest; /* what the carrier did not take, or NULL */
	size_t rest_start, rest_end;
	bool blocked; /* the carrier takes nothing until READY_WRITE */
	bool little;  /* inside a flush: there is no room for what the carrier may not take */

	/* Receiving. */
	struct frame_scan scan;
	uint8_t *unfed; /* of a read, what waits for the next turn, or NULL */
	size_t unfed_start, unfed_end;
	size_t turn_read; /* bytes, in this turn */
	struct deferred resume;

	/* Streams. */
	struct stream *streams; /* all that point here */
	unsigned n_streams;     /* live for HTTP/2 */
	uint64_t opened;        /* ever */
	bool told_exhausted;

	/* What a callback has in its hands: one chunk received, or room to be filled. */
	struct stream *chunk_of;
	const uint8_t *chunk;
	size_t chunk_len;
	struct stream *room_of;
	uint8_t *room;
	size_t room_len, room_used;

	/* Memory: see session_settle. */
	uint32_t inputs; /* times the carrier was read */
	size_t held; /* bytes unread, in all streams */
	struct budget *budget; /* whose memory held is; NULL: nobody counts */
	size_t spare;	       /* inside input: taken of it for what comes, not used yet */
	bool starving;	       /* it has no room: the carrier is not read */
	struct timer hunger;   /* then: asks again */
	size_t owed; /* bytes received, not yet given back to the connection's window */

	struct message message; /* the header block being received */
	struct exchange exchanges[EXCHANGES_MAX];

	/* Time. */
	uint64_t last_rx, last_ping; /* worker_now */
	uint64_t ping_us;            /* of the PING under way, or 0 */
	uint64_t retire_us;          /* of the PING after the shutdown notice, or 0 */
	uint64_t retire_at;          /* worker_now: the last GOAWAY goes out then in any case */
	uint64_t rtt_us, least_rtt_us; /* of the last PING; of late, the least; 0: not known yet */

	bool settings_seen;
	bool peer_closed;    /* the carrier's EOF was read */
	bool retiring;       /* by us */
	uint64_t flushed;    /* how many of those opened; the HEADERS of others may wait */
	bool goaway_seen;    /* by the peer */
	uint32_t peer_error; /* of its GOAWAY */
	enum reason why;
	char detail[192];
};

uint64_t session_now_us(void); /* of CLOCK_MONOTONIC */

/* Starts to end. From anywhere; the first reason given is the one that counts. */
void session_begin_close(struct session *s, enum reason why, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* session_h2.c: makes s->h2 and submits SETTINGS. 0 or an error of nghttp2's. */
int session_h2_new(struct session *s);

/* Reads what the carrier has, as much as a turn may. False: the session has ended. */
bool session_input(struct session *s);
void session_drop_input(struct session *s); /* nothing of it is wanted any more */
/* The carrier is over: 0, its EOF, or -errno. Ends the session. */
void session_lost(struct session *s, ssize_t error);

/* session_send.c. 1: all is sent; 0: more to do, later (blocked, or scheduled again); or -errno. */
int session_send(struct session *s);
ssize_t session_payload_max(nghttp2_session *h2, uint8_t type, int32_t id, int32_t session_window,
			    int32_t stream_window, uint32_t frame_max, void *session);
int session_data_out(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *header, size_t len,
		     nghttp2_data_source *source, void *session);

/*
 * The peer takes nothing of what it is told, and much of that waits: nothing more is read from it,
 * since nearly all that it says has an answer. Lifted when the carrier takes something.
 */
bool session_is_stuffed(const struct session *s);

/* Sends at the end of this turn. From anywhere. */
void session_schedule(struct session *s);

/* Of the bytes that come in, so many are held unread. */
void session_keep(struct session *s, size_t bytes);

/* After held or owed changed: gives back to the connection's window what may be given. */
void session_settle(struct session *s);
uint32_t session_connection_window(const struct session *s); /* the most that may come unasked */

/* After a stream or an exchange is over. */
void session_check_idle(struct session *s);

#endif
