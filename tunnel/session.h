/*
 * session: one HTTP/2 session with the roles reversed (PROTOCOL.md), on libnghttp2.
 *
 * The relay is the HTTP/2 client: it opens a CONNECT stream per client. The agent is the server.
 * A session owns its carrier (any conduit: TLS, or a WebSocket) and makes its streams appear as
 * conduits. Shared by the relay's hub and by the agent; knows nothing of owners and services.
 *
 * Thread: the worker of the carrier, for everything.
 * Life: session_new .. events->end, called exactly once, after which the session is freed at the
 * end of the turn. When it ends, every stream conduit turns dead (-ECONNRESET; READY_ABORT is told
 * to its owner, with READ and WRITE where wanted); stream conduits outlive their session safely.
 *
 * A dead stream's bytes that were received before can still be read; then comes the error.
 */
#ifndef TUNNEL_SESSION_H
#define TUNNEL_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/conduit.h"
#include "tunnel/fields.h"

struct session;

enum session_role { SESSION_RELAY, SESSION_AGENT };

struct session_limits {
	uint32_t streams;        /* at a time */
	uint32_t streams_total;  /* relay: after so many, events->exhausted is called once */
	uint32_t stream_window;  /* bytes unread of one stream; up to 4 times that many of one whose
				  * reader keeps up */
	uint32_t session_window; /* bytes unread of all streams, those on their way counted */
	uint64_t ping_ms, dead_ms;
};

struct session_events {
	/*
	 * Agent: the relay opened a stream to service. The callee owns it on REASON_NONE;
	 * otherwise it is reset at once. id: the relay's number for it, for logs, may be "".
	 * Nothing is sent back until session_stream_answer.
	 */
	enum reason (*accept)(struct session *s, struct conduit *stream, const char *service,
			      const char *id);
	/* Agent: a control request; answer it now or later with session_reply. */
	void (*request)(struct session *s, int32_t id, const char *path, const struct fields *f);
	/* Relay: the answer to a control request; status 0: the agent reset it. */
	void (*reply)(struct session *s, int32_t id, int status, const struct fields *f);
	/* The peer takes no new streams from now on (GOAWAY). */
	void (*goaway)(struct session *s);
	/* Relay: stream ids near their end; the session goes on meanwhile. */
	void (*exhausted)(struct session *s);
	/* Over. detail: for people, never NULL. */
	void (*end)(struct session *s, enum reason why, const char *detail);
};

/*
 * The carrier is consumed in every case. NULL: out of memory. Starts at once: preface and SETTINGS
 * are sent at the end of this turn.
 */
struct session *session_new(struct conduit *carrier, enum session_role role,
			    const struct session_limits *limits,
			    const struct session_events *events, void *user);
void *session_user(const struct session *s);
struct worker *session_worker(const struct session *s);

/*
 * Relay: opens a stream. Bytes may follow at once: nothing is waited for. NULL and *why: LIMIT
 * (the agent's or ours), GOING_AWAY, NO_MEMORY.
 */
struct conduit *session_open(struct session *s, const char *service, const char *id,
			     enum reason *why);
/*
 * Agent: takes a stream on (":status 200"); needed once, before anything is written to it. Or
 * close the conduit instead: it is reset (DIAL_* and AGENT_REFUSED as CONNECT_ERROR;
 * UNKNOWN_SERVICE, FORBIDDEN, LIMIT, GOING_AWAY and SHUTDOWN as REFUSED_STREAM; others as CANCEL).
 */
void session_stream_answer(struct conduit *stream);
/*
 * Why a stream is dead, as far as the peer's error code tells. Relay: CONNECT_ERROR, or a final
 * answer other than 200: DIAL_FAILED; REFUSED_STREAM: AGENT_REFUSED; others: TARGET_RESET. Agent:
 * RESET. Both: TUNNEL_LOST when the session ended first; NONE: it is not dead. (The why op, too.)
 */
enum reason session_stream_reason(const struct conduit *stream);
bool conduit_is_stream(const struct conduit *c);

/* Relay: a control request (POST path). The id for its reply, or -1. */
int32_t session_request(struct session *s, const char *path, const struct fields *f);
/* Agent: its answer. */
void session_reply(struct session *s, int32_t id, int status, const struct fields *f);

/* Says GOAWAY after a shutdown notice: no new streams, live ones go on; ends when none is left. */
void session_retire(struct session *s);
/*
 * Ends with why, after what was queued before and a GOAWAY: a second for sending them and for the
 * peer to close, at most. No event but end comes from now on; it never comes from inside this call.
 * Streams die at the end of this turn. Later calls change nothing.
 */
void session_close(struct session *s, enum reason why, const char *detail);

unsigned session_streams(const struct session *s); /* live CONNECT streams */
uint64_t session_opened(const struct session *s);  /* ever */
size_t session_memory(const struct session *s);    /* bytes held unread, all streams */
uint64_t session_rtt_us(const struct session *s);  /* of the last ping; 0: none yet */

#endif
