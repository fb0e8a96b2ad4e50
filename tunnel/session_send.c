/*
 * session_send: what a session has to send, gathered and written to its carrier.
 *
 * Theory of operation: frames are gathered in the worker's output buffer. For DATA, nghttp2 asks
 * the stream (pull, in stream.c), which has its owner write the payload at its place in that
 * buffer; then data_out puts the header before it: nothing is copied. A full DATA frame has
 * FRAME_MAX bytes with its header if the peer takes such frames, else FRAME_MIN: one read from the
 * source, a whole number of TLS records.
 *
 * What the carrier does not take becomes rest: when it is much, the buffer itself, and the worker
 * gets a new one. nghttp2 is not asked for more until rest is gone: so rest is bounded by
 * WORKER_SCRATCH and one frame, and everything else waits at its source; but for frames without
 * DATA, which nghttp2 keeps. They are answers to what the peer sends: when there are ANSWERS_MAX of
 * them and the carrier takes nothing, the peer is not read (session_is_stuffed).
 *
 * Memory: rest, and what the carrier keeps itself, is of the session's budget, but for a little.
 * Where that has no room, no more than that little of a client's frames goes out at a time: so
 * clients that read nothing get no more, and all go on. Answers go out as fast as questions come in
 * (session_input.c) even then, or they would be what fills the memory. Agents are exempt: they are
 * few, and behind each are many.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tunnel/session_private.h"

#define OUTPUT_TURN ((size_t)512 * 1024)
#define FRAME_MAX ((size_t)SESSION_FRAME_MAX)
#define FRAME_MIN ((size_t)16384) /* what every peer takes: one TLS record with the header */
#define REST_SMALL ((size_t)32 * 1024)
#define ANSWERS_MAX 16384 /* frames waiting, some 160 bytes each */
#define LITTLE (WORKER_LITTLE - 64) /* a TLS record's head comes on top */

bool session_is_stuffed(const struct session *s)
{
	return s->blocked && nghttp2_session_get_outbound_queue_size(s->h2) >= ANSWERS_MAX;
}

ssize_t session_payload_max(nghttp2_session *h2, uint8_t type, int32_t id, int32_t session_window,
			    int32_t stream_window, uint32_t frame_max, void *session)
{
	const struct session *s = session;

	if (s->little)
		return (ssize_t)(LITTLE - FRAME_HEAD - s->out);
	return (frame_max + FRAME_HEAD >= FRAME_MAX ? FRAME_MAX : FRAME_MIN) - FRAME_HEAD;
}

/* The payload lies where it belongs already: pull() had it written there. */
int session_data_out(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *header, size_t len,
		     nghttp2_data_source *source, void *session)
{
	struct session *s = session;

	memcpy(s->worker->output + s->out, header, FRAME_HEAD);
	s->out += FRAME_HEAD + len;
	return s->little || s->out + FRAME_MAX > WORKER_SCRATCH ? NGHTTP2_ERR_PAUSE : 0;
}

/* 0, or -errno when the carrier is dead. What it does not take goes to rest. */
static int write_out(struct session *s, const uint8_t *data, size_t len)
{
	ssize_t n = s->rest ? -EAGAIN : conduit_write(s->carrier, data, len);

	if (n < 0 && n != -EAGAIN)
		return (int)n;
	if (n < 0)
		n = 0;
	if ((size_t)n == len)
		return 0;
	data += n;
	len -= (size_t)n;
	if (s->rest) { /* one frame more, behind the gathered ones */
		uint8_t *more = realloc(s->rest, s->rest_end + len);

		if (!more)
			return -ENOMEM;
		memcpy(more + s->rest_end, data, len);
		s->rest = more;
		s->rest_end += len;
		return 0;
	}
	if (len > REST_SMALL && data + len == s->worker->output + s->out) {
		/* much is left: take the buffer as it is, and give the worker another */
		uint8_t *other = malloc(WORKER_SCRATCH);

		if (!other)
			return -ENOMEM;
		s->rest = s->worker->output;
		s->rest_start = (size_t)(data - s->worker->output);
		s->rest_end = s->rest_start + len;
		s->worker->output = other;
		return 0;
	}
	s->rest = malloc(len);
	if (!s->rest)
		return -ENOMEM;
	memcpy(s->rest, data, len);
	s->rest_start = 0;
	s->rest_end = len;
	return 0;
}

/* 0: rest is gone. -EAGAIN, or dead. */
static int write_rest(struct session *s)
{
	while (s->rest) {
		ssize_t n = conduit_write(s->carrier, s->rest + s->rest_start,
					  s->rest_end - s->rest_start);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EAGAIN;
		s->rest_start += (size_t)n;
		if (s->rest_start == s->rest_end) {
			free(s->rest);
			s->rest = NULL;
		}
	}
	return 0;
}

/* Is there room for another frame in worker->output? Of a little, half is left for the last one. */
static bool has_place(const struct session *s)
{
	return s->little ? s->out <= LITTLE / 2 : s->out + FRAME_MAX <= WORKER_SCRATCH;
}

/* Gathers frames into worker->output and writes them. 1: nothing more to send; 0; or -errno. */
static int gather(struct session *s)
{
	bool all = false;
	int r = 0;

	s->out = 0;
	while (has_place(s)) {
		size_t before = s->out;
		const uint8_t *frame;
		ssize_t n = nghttp2_session_mem_send(s->h2, &frame);

		if (n < 0)
			return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
		if (n == 0 && s->out == before) {
			all = true;
			break;
		}
		if (n == 0)
			continue;
		if (s->out + (size_t)n <= WORKER_SCRATCH) {
			memcpy(s->worker->output + s->out, frame, (size_t)n);
			s->out += (size_t)n;
			continue;
		}
		/* DATA filled the buffer in the same call, or a long header block */
		r = write_out(s, s->worker->output, s->out);
		s->out = 0;
		return r < 0 ? r : write_out(s, frame, (size_t)n);
	}
	if (s->out > 0)
		r = write_out(s, s->worker->output, s->out);
	s->out = 0;
	return r < 0 ? r : all;
}

static bool is_client(const struct session *s)
{
	return s->role == SESSION_SERVER && s->limits.peer <= SESSION_PEER_CLIENT;
}

/* Bytes that the carrier keeps. Counted of clients, who are many, and wait until they are gone. */
static size_t carrier_held(const struct session *s)
{
	const struct conduit *c = s->carrier;

	return s->budget && is_client(s) && c->ops->held ? c->ops->held(c) : 0;
}

static void account(struct session *s)
{
	size_t rest = s->rest ? s->rest_end : 0;

	if (rest > REST_SMALL) /* it may be the buffer itself */
		rest = rest > WORKER_SCRATCH ? rest : WORKER_SCRATCH;
	budget_keep(s->budget, (rest > WORKER_LITTLE ? rest : 0) + carrier_held(s));
}

static int send_all(struct session *s)
{
	size_t turn = 0;

	for (;;) {
		int r = write_rest(s);

		if (r == -EAGAIN || (r == 0 && carrier_held(s))) {
			s->blocked = true;
			conduit_want(s->carrier,
				     READY_WRITE | (session_is_stuffed(s) ? 0 : READY_READ));
			return 0;
		}
		if (r < 0)
			return r;
		if (turn >= OUTPUT_TURN) {
			session_schedule(s);
			return 0;
		}
		r = gather(s);
		if (r < 0)
			return r;
		if (r > 0 && !s->rest && !carrier_held(s))
			return 1;
		turn += s->little ? FRAME_MIN : WORKER_SCRATCH;
	}
}

int session_send(struct session *s)
{
	int r;

	s->little = is_client(s) && !budget_has_room(s->budget, WORKER_SCRATCH + WORKER_BUFFER);
	r = send_all(s);
	account(s);
	return r;
}
