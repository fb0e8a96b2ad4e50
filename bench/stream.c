/*
 * stream: one client stream.
 *
 * Theory of operation:
 *
 *	CLOSED -> [ASKING -> ANSWER ->] REQUEST -> OPEN <-> QUIET -> CLOSED
 *
 * A TCP connection on loopback is often there when connect returns EINPROGRESS: so the first send
 * is tried at once, and only if it says EAGAIN is epoll asked. A hello and the request behind it
 * leave in one send. What is to be sent is made again for each try: a stream keeps positions, no
 * bytes.
 */
#include "bench/stream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "bench/data.h"
#include "bench/prologue.h"

#define STATUS_LEN 12 /* "HTTP/1.1 200" */
#define HEAD_MAX 8192 /* of a proxy's answer */

static uint8_t buffer[DATA_CHUNK];

void stream_close(struct stream *s)
{
	loop_close(&s->watch);
	s->state = STREAM_CLOSED;
	s->load->live--;
}

void stream_fail(struct stream *s, enum load_error kind, const char *what)
{
	load_failed(s->load, kind, s->request.id, what);
	stream_close(s);
}

/* Nothing has been sent yet. */
static bool is_connecting(const struct stream *s)
{
	if (s->load->options.prologue == PROLOGUE_CONNECT)
		return s->state == STREAM_ASKING && !s->at;
	return s->state == STREAM_REQUEST && !s->greeted && !s->at;
}

/* After a system call that failed. */
static void fail_errno(struct stream *s, int error, const char *step)
{
	enum load_error kind = LOAD_RESET;
	char what[128];

	if (error == ECONNREFUSED)
		kind = LOAD_REFUSED;
	else if (is_connecting(s) && error != ECONNRESET && error != EPIPE)
		kind = LOAD_CONNECT;
	snprintf(what, sizeof(what), "%s: %s", step, strerror(error));
	stream_fail(s, kind, what);
}

bool stream_waits(const struct stream *s)
{
	return s->state != STREAM_CLOSED && s->state != STREAM_QUIET;
}

/* ---- bytes ---- */

ssize_t stream_read_to_end(struct stream *s, const uint8_t **data, size_t max)
{
	ssize_t n = recv(s->watch.fd, buffer, max < sizeof(buffer) ? max : sizeof(buffer),
			 MSG_DONTWAIT);

	if (n == 0)
		return -2;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0) {
		fail_errno(s, errno, "recv");
		return -1;
	}
	*data = buffer;
	return n;
}

ssize_t stream_read(struct stream *s, const uint8_t **data, size_t max)
{
	ssize_t n = stream_read_to_end(s, data, max);

	if (n != -2)
		return n;
	stream_fail(s, LOAD_SHORT, "ended before all had come");
	return -1;
}

ssize_t stream_write(struct stream *s, const void *data, size_t len)
{
	ssize_t n = send(s->watch.fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	fail_errno(s, errno, "send");
	return -1;
}

void stream_unexpected(struct stream *s)
{
	const uint8_t *data;

	if (stream_read(s, &data, 1) > 0)
		stream_fail(s, LOAD_MISMATCH, "data came that nobody asked for");
}

void stream_end(struct stream *s)
{
	s->ended = true;
	if (shutdown(s->watch.fd, SHUT_WR) < 0)
		fail_errno(s, errno, "shutdown");
}

/* ---- requests ---- */

static size_t next_message(const struct stream *s, uint8_t buf[PROLOGUE_MAX + WIRE_REQUEST])
{
	const struct load_options *o = &s->load->options;
	size_t len = 0;

	if (s->state == STREAM_ASKING)
		return prologue_connect(buf, o->name);
	if (!s->greeted && o->prologue == PROLOGUE_SNI)
		len = prologue_hello(buf, o->name);
	wire_put_request(buf + len, &s->request);
	return len + WIRE_REQUEST;
}

static void push(struct stream *s)
{
	uint8_t message[PROLOGUE_MAX + WIRE_REQUEST];
	size_t len = next_message(s, message);
	ssize_t n = stream_write(s, message + s->at, len - s->at);

	if (n < 0)
		return;
	s->at += (uint32_t)n;
	if (s->at < len) {
		loop_want(&s->load->loop, &s->watch, EPOLLOUT);
		return;
	}
	s->at = 0;
	loop_want(&s->load->loop, &s->watch, EPOLLIN);
	if (s->state == STREAM_ASKING) {
		s->state = STREAM_ANSWER;
		return;
	}
	s->greeted = true;
	s->state = STREAM_OPEN;
	s->load->mode->sent(s);
}

void stream_request(struct stream *s)
{
	s->state = STREAM_REQUEST;
	s->request.id = ++s->load->next_id; /* a reply that comes twice is seen */
	s->at = 0;
	s->began = s->moved = loop_now();
	push(s);
}

void stream_start(struct stream *s, enum wire_op op, uint64_t amount)
{
	const struct load_options *o = &s->load->options;
	uint64_t id = ++s->load->next_id, began = loop_now();
	int fd = place_connect(&o->place, o->spread ? id : 0, o->timeout);

	s->load->live++;
	s->watch.fd = fd;
	s->watch.armed = 0;
	s->state = o->prologue == PROLOGUE_CONNECT ? STREAM_ASKING : STREAM_REQUEST;
	s->request = (struct wire_request){ .op = op,
					    .verify = o->verify,
					    .no_half_close = o->no_half_close,
					    .amount = amount,
					    .seed = id * 0x2545f4914f6cdd1dULL,
					    .id = id };
	s->at = s->tail_len = 0;
	s->greeted = s->ended = false;
	s->sent = s->received = s->queued = 0;
	s->began = s->moved = began;
	if (fd < 0)
		fail_errno(s, -fd, "connect");
	else
		push(s);
}

/* ---- the proxy's answer ---- */

static bool is_head_end(const struct stream *s, uint8_t last)
{
	return last == '\n' && s->tail_len == STATUS_LEN + 3 &&
	       memcmp(s->tail + STATUS_LEN, "\r\n\r", 3) == 0;
}

/* The tail keeps the status, and behind it the three bytes before this one. */
static void remember(struct stream *s, uint8_t c)
{
	if (s->tail_len == STATUS_LEN + 3) {
		memmove(s->tail + STATUS_LEN, s->tail + STATUS_LEN + 1, 2);
		s->tail_len--;
	}
	s->tail[s->tail_len++] = c;
}

static void take_answer(struct stream *s)
{
	const uint8_t *data;
	ssize_t n = stream_read(s, &data, sizeof(buffer));

	for (ssize_t i = 0; i < n; i++) {
		if (!is_head_end(s, data[i])) {
			remember(s, data[i]);
			continue;
		}
		if (memcmp(s->tail, "HTTP/1.", 7) != 0 || s->tail[9] != '2') {
			char what[64];

			snprintf(what, sizeof(what), "the proxy said %.*s", STATUS_LEN, s->tail);
			stream_fail(s, LOAD_REFUSED, what);
		} else if (i + 1 < n) {
			stream_fail(s, LOAD_MISMATCH, "data before the request");
		} else {
			s->tail_len = 0;
			s->state = STREAM_REQUEST;
			s->moved = loop_now();
			push(s);
		}
		return;
	}
	s->at += n > 0 ? (uint32_t)n : 0;
	if (n > 0 && s->at > HEAD_MAX)
		stream_fail(s, LOAD_MISMATCH, "the proxy's answer has no end");
}

static void on_io(struct watch *w, uint32_t events)
{
	struct stream *s = (struct stream *)w;

	switch (s->state) {
	case STREAM_ASKING:
	case STREAM_REQUEST:
		push(s);
		break;
	case STREAM_ANSWER:
		take_answer(s);
		break;
	case STREAM_OPEN:
	case STREAM_QUIET:
		s->load->mode->io(s, events);
		break;
	case STREAM_CLOSED:
		break;
	}
}

void stream_init(struct stream *s, struct load *l)
{
	s->load = l;
	s->watch.fd = -1;
	s->watch.on = on_io;
}
