/*
 * session: one HTTP/2 session of CONNECT streams, on libnghttp2.
 *
 * In a tunnel (PROTOCOL.md) the relay is the HTTP/2 client, which opens a stream for each of its
 * clients, and the agent the server. At the relay's connect door the roles are the usual way round.
 * A session owns its carrier (any conduit: a socket, TLS, a WebSocket) and makes its streams appear
 * as conduits. It knows nothing of owners and services.
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

#include "relay/client.h"
#include "relay/conduit.h"
#include "tunnel/fields.h"

struct quota;
struct session;

#define SESSION_AUTHORITY_MAX 261 /* "HOST:PORT", the longest DNS name with the longest port */

/* HTTP/2's: the client opens the streams. */
enum session_role { SESSION_CLIENT, SESSION_SERVER };

/* What the other end is: what its answers mean, and how much is put up with. */
enum session_peer {
	SESSION_PEER_ANY,    /* a stranger: nghttp2's own limits on resets (rapid reset) */
	SESSION_PEER_CLIENT, /* a client that is known: it may reset as many streams as it likes */
	SESSION_PEER_AGENT,  /* the same; its answer to a stream is 200, all else is failure */
	SESSION_PEER_RELAY,  /* the same; it says why not: a status, and a word of reason.def */
};

struct session_limits {
	enum session_peer peer;
	uint32_t streams;        /* at a time */
	uint32_t streams_total;  /* client: after so many, events->exhausted is called once */
	uint32_t stream_window;  /* bytes unread of one stream; up to 4 times that many of one whose
				  * reader keeps up */
	uint32_t session_window; /* bytes unread of all streams, those on their way counted */
	uint64_t ping_ms, dead_ms;
};

struct session_events {
	/*
	 * Server: a stream was opened. authority: as the client said it, but in lower case, and ""
	 * if it has over SESSION_AUTHORITY_MAX characters or one that is not plain: who accepts
	 * judges it. The callee owns the stream on REASON_NONE; otherwise it is reset at once.
	 * words: as the client said them, plain text or "", valid during the call. Nothing is sent
	 * back until the stream's op answer, or session_stream_answer. May close the stream; comes
	 * from inside nghttp2, so the session may not be ended here.
	 */
	enum reason (*accept)(struct session *s, struct conduit *stream, const char *authority,
			      const struct client_words *words);
	/*
	 * Server: a control request; answer it now or later with session_reply. NULL: there are
	 * none, and they are answered 405 like all that is no CONNECT.
	 */
	void (*request)(struct session *s, int32_t id, const char *path, const struct fields *f);
	/* Server: the last of the live streams is over. May be NULL. From inside nghttp2. */
	void (*quiet)(struct session *s);
	/* Client: the answer to a control request; status 0: it was reset. */
	void (*reply)(struct session *s, int32_t id, int status, const struct fields *f);
	/*
	 * Client: the peer is there and speaks HTTP/2, and how many streams it takes is known: its
	 * first SETTINGS. May be NULL. From inside nghttp2.
	 */
	void (*settled)(struct session *s);
	/* The peer takes no new streams from now on (GOAWAY). */
	void (*goaway)(struct session *s);
	/*
	 * Server, after session_retire: the peer knows that it may open no more streams, or has had
	 * its time to. May be NULL.
	 */
	void (*retired)(struct session *s);
	/* Client: stream ids near their end; the session goes on meanwhile. */
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
 * From now on the bytes that its streams hold unread are of this memory (relay/quota.h): when there
 * is none left, the carrier is not read until there is. Once, and before there is a stream.
 * put(memory) is called when nothing of it is held any more, maybe after the session's end. False:
 * out of memory; put is not called.
 */
bool session_count_memory(struct session *s, struct quota *memory,
			  void (*put)(struct quota *memory)) __attribute__((warn_unused_result));

/*
 * Client: opens a stream to authority (SERVICE.OWNER). Bytes may follow at once: nothing is waited
 * for. words: for the peer, or NULL. NULL and *why: LIMIT (the peer's or ours), GOING_AWAY,
 * NO_MEMORY.
 */
struct conduit *session_open(struct session *s, const char *authority,
			     const struct client_words *words, enum reason *why);
/*
 * Server: takes a stream on (":status 200"); needed once, before anything is written to it: the op
 * answer with REASON_NONE. With another reason that op says no by a status (refusal_status) and the
 * header attest-reason, as clients at the connect door are told. Or close the conduit instead: it
 * is reset (DIAL_* and AGENT_REFUSED as CONNECT_ERROR; UNKNOWN_SERVICE, FORBIDDEN, LIMIT,
 * GOING_AWAY and SHUTDOWN as REFUSED_STREAM; others as CANCEL), as agents tell the relay. What is
 * aborted after its yes is reset as CONNECT_ERROR for clients (RFC 9113 8.5).
 */
void session_stream_answer(struct conduit *stream);
/*
 * Why a stream is dead, as far as the peer told; NONE: it is not. (The why op, too.)
 *
 * Client: CONNECT_ERROR, or a final answer other than 200: DIAL_FAILED; REFUSED_STREAM:
 * AGENT_REFUSED; others: TARGET_RESET. Of a relay: the word of its attest-reason, or else what its
 * status says: 403 FORBIDDEN, 404 UNKNOWN_SERVICE, 503 AGENT_REFUSED, 504 PICKUP_TIMEOUT, ...;
 * REFUSED_STREAM: GOING_AWAY; TARGET_RESET for all that comes after its yes.
 * Server: RESET. All: TUNNEL_LOST when the session ended first, but RESET if the peer is a client.
 */
enum reason session_stream_reason(const struct conduit *stream);
bool conduit_is_stream(const struct conduit *c);

/* Client: a control request (POST path). The id for its reply, or -1. */
int32_t session_request(struct session *s, const char *path, const struct fields *f);
/* Server: its answer. */
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
