/*
 * session_h2: a session's nghttp2: its callbacks, its options, its SETTINGS.
 *
 * Theory of operation: callbacks find whose a frame is (a stream's, an exchange's, the session's)
 * and tell them. They, and whoever they tell, may submit frames and mark states, but neither send
 * nor receive nor free: nghttp2 is in the middle of its work.
 */
#include <endian.h>
#include <string.h>
#include <time.h>

#include "tunnel/session_private.h"

#define HEADER_LIST_MAX 16384
/* Clients that give up reset streams. A known peer may pass on any number of theirs. */
#define RESETS_BURST 1000000
#define RESETS_A_SECOND 100000

static int on_chunk(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
		    void *session)
{
	struct session *s = session;
	struct stream *st = nghttp2_session_get_stream_user_data(h2, id);

	s->owed += len;
	if (st)
		stream_on_data(st, data, len);
	else
		exchange_body(s, id, len);
	session_settle(s);
	return 0;
}

uint64_t session_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* The least of late: a path may become longer, so what was measured once counts less and less. */
static void note_rtt(struct session *s, uint64_t rtt_us)
{
	uint64_t before = s->least_rtt_us + s->least_rtt_us / 8 + 1;

	if (s->limits.peer == SESSION_PEER_AGENT || s->limits.peer == SESSION_PEER_RELAY)
		durations_add(s->worker->counters.durations, DURATIONS_RTT, rtt_us);
	s->rtt_us = rtt_us;
	s->least_rtt_us = s->least_rtt_us && before < rtt_us ? before : rtt_us ? rtt_us : 1;
}

static void on_ping_ack(struct session *s, const nghttp2_ping *ping)
{
	uint64_t sent;

	memcpy(&sent, ping->opaque_data, sizeof(sent));
	sent = be64toh(sent);
	if (sent && sent == s->ping_us) {
		note_rtt(s, session_now_us() - sent);
		s->ping_us = 0;
	} else if (sent && sent == s->retire_us) {
		s->retire_at = worker_now(s->worker);
		timer_set(s->worker, &s->timer, 0, s->timer.fire);
	}
}

static void on_goaway(struct session *s, const nghttp2_goaway *goaway)
{
	bool first = !s->goaway_seen;

	s->goaway_seen = true;
	s->peer_error = goaway->error_code;
	if (first && s->phase == PHASE_OPEN && s->events->goaway)
		s->events->goaway(s);
}

static void on_settings(struct session *s)
{
	if (s->settings_seen)
		return;
	s->settings_seen = true;
	if (s->events->settled && s->phase == PHASE_OPEN)
		s->events->settled(s);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *session)
{
	struct session *s = session;
	struct stream *st;

	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		message_end(s, frame);
		if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
			break; /* END_STREAM was noted with the request */
			       /* fall through */
	case NGHTTP2_DATA:
		st = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
		if (st && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
			stream_on_eof(st);
		break;
	case NGHTTP2_SETTINGS:
		on_settings(s);
		break;
	case NGHTTP2_PING:
		if (frame->hd.flags & NGHTTP2_FLAG_ACK)
			on_ping_ack(s, &frame->ping);
		break;
	case NGHTTP2_GOAWAY:
		on_goaway(s, &frame->goaway);
		break;
	default:
		break;
	}
	return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *session)
{
	struct session *s = session;
	struct stream *st = nghttp2_session_get_stream_user_data(h2, id);

	if (st)
		stream_on_close(st, code);
	else
		exchange_closed(s, id);
	return 0;
}

/* nghttp2 says GOAWAY by itself when the peer breaks the protocol; its debug data says how. */
static void on_goaway_sent(struct session *s, const nghttp2_goaway *g)
{
	if (g->error_code == NGHTTP2_NO_ERROR || s->phase != PHASE_OPEN)
		return;
	session_begin_close(s, REASON_PROTOCOL, "%s (%.*s)", nghttp2_http2_strerror(g->error_code),
			    g->opaque_data_len > 100 ? 100 : (int)g->opaque_data_len,
			    g->opaque_data ? (const char *)g->opaque_data : "");
}

static int on_sent(nghttp2_session *h2, const nghttp2_frame *frame, void *session)
{
	struct session *s = session;

	if (frame->hd.type == NGHTTP2_GOAWAY)
		on_goaway_sent(s, &frame->goaway);
	else if (frame->hd.type == NGHTTP2_HEADERS && s->role == SESSION_SERVER &&
		 frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		message_answered(s, frame->hd.stream_id);
	return 0;
}

static int submit_settings(struct session *s)
{
	const struct session_limits *l = &s->limits;
	nghttp2_settings_entry entry[] = {
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, l->stream_window },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_LIST_MAX },
		{ NGHTTP2_SETTINGS_MAX_FRAME_SIZE, SESSION_FRAME_MAX },
		/* one more if session_open leaves it to control requests */
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, l->streams + !!s->events->request },
	};
	int r;

	if (s->role == SESSION_CLIENT)
		entry[3] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
	r = nghttp2_submit_settings(s->h2, NGHTTP2_FLAG_NONE, entry, 4);
	if (r != 0)
		return r;
	return nghttp2_session_set_local_window_size(s->h2, NGHTTP2_FLAG_NONE, 0,
						     (int32_t)session_connection_window(s));
}

int session_h2_new(struct session *s)
{
	nghttp2_session_callbacks *cb = NULL;
	nghttp2_option *option = NULL;
	int r = nghttp2_session_callbacks_new(&cb);

	if (r == 0)
		r = nghttp2_option_new(&option);
	if (r != 0)
		goto done;
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, message_begin);
	nghttp2_session_callbacks_set_on_header_callback(cb, message_field);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_chunk);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_send_data_callback(cb, session_data_out);
	nghttp2_session_callbacks_set_data_source_read_length_callback(cb, session_payload_max);
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_option_set_no_closed_streams(option, 1);
	nghttp2_option_set_peer_max_concurrent_streams(option, PEER_STREAMS_UNKNOWN);
	if (s->limits.peer != SESSION_PEER_ANY)
		nghttp2_option_set_stream_reset_rate_limit(option, RESETS_BURST, RESETS_A_SECOND);
	if (s->role == SESSION_CLIENT)
		r = nghttp2_session_client_new2(&s->h2, cb, s, option);
	else
		r = nghttp2_session_server_new2(&s->h2, cb, s, option);
done:
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(cb);
	return r == 0 ? submit_settings(s) : r;
}
