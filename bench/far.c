/*
 * far: one stream as the far end sees it.
 *
 * Theory of operation:
 *
 *	START --> SKIP -----> REQUEST <---> REPLY          (X, I)
 *	  |  a TLS record        |
 *	  +--------------------->+--> BULK --> LAST --> CLOSING
 *
 * A hello of an SNI door, whole in one TLS record, is skipped. The request collects in `head` as
 * far as it is header; its padding is compared as it comes. BULK moves data in one direction or
 * both, until the client has ended its own (or, for D with an amount, until that is sent; or, of a
 * client that does not end its own, until the amount has come). LAST sends the verdict or the
 * statistics. CLOSING has ended this direction and waits for the client's end.
 *
 * What epoll is asked for follows from the state alone (interest). All reading goes to one buffer
 * for all streams; what is to be sent is made again for each try, so that a stream keeps positions
 * and no data. Whatever is not as agreed is counted by kind, and the stream is closed: the client
 * will see that it is shorter than promised.
 */
#include "bench/far.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "bench/data.h"
#include "bench/wire.h"

#define RECORD_HEADER 5
#define RECORD_HANDSHAKE 0x16
/* Chunks in one wake-up, before the others have their turn. */
#define BURST 4

enum state { START, SKIP, REQUEST, REPLY, BULK, LAST, CLOSING };

struct far_stream {
	struct watch watch; /* first: cast both ways */
	struct far *far;
	struct far_stream *next, **prevp;
	enum state state;
	bool eof, wrong, sends, receives;
	uint16_t at;   /* bytes of the record header, request, reply or last words so far */
	uint16_t skip; /* what is left of the record */
	uint8_t head[WIRE_HEADER];
	struct wire_request request;
	uint64_t received, sent;
};

static uint8_t buffer[DATA_CHUNK];

static void drop(struct far_stream *s)
{
	*s->prevp = s->next;
	if (s->next)
		s->next->prevp = s->prevp;
	loop_close(&s->watch);
	free(s);
}

static void close_stream(struct far_stream *s)
{
	if (s->state != LAST || s->request.op != WIRE_STATISTICS)
		s->far->live--;
	drop(s);
}

void far_close_all(struct far *f)
{
	while (f->streams)
		drop(f->streams);
}

/* Counts and closes; false for the caller to hand on: the stream is no more. */
static bool fail(struct far_stream *s, uint64_t *counter)
{
	++*counter;
	close_stream(s);
	return false;
}

static uint32_t interest(const struct far_stream *s)
{
	switch (s->state) {
	case REPLY:
	case LAST:
		return EPOLLOUT;
	case BULK:
		return (s->eof ? 0 : EPOLLIN) | (s->sends ? EPOLLOUT : 0);
	default:
		return EPOLLIN;
	}
}

/* What was sent: > 0; 0: not now; -1: the stream is no more. */
static ssize_t push(struct far_stream *s, const void *buf, size_t len)
{
	ssize_t n = send(s->watch.fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0) {
		s->far->sent += (uint64_t)n;
		return n;
	}
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	fail(s, &s->far->reset);
	return -1;
}

/* ---- sending ---- */

static bool send_reply(struct far_stream *s)
{
	uint8_t reply[WIRE_REPLY];
	ssize_t n;

	wire_put_reply(reply, s->request.id);
	n = push(s, reply + s->at, WIRE_REPLY - s->at);
	if (n < 0)
		return false;
	s->at = (uint16_t)(s->at + n);
	if (s->at == WIRE_REPLY) {
		s->far->exchanges++;
		s->state = REQUEST;
		s->at = 0;
	}
	return true;
}

static size_t last_words(const struct far_stream *s, uint8_t buf[512])
{
	struct wire_verdict v = { .op = s->request.op,
				  .good = !s->wrong,
				  .id = s->request.id,
				  .received = s->received,
				  .sent = s->sent };

	if (s->request.op == WIRE_STATISTICS)
		return (size_t)far_statistics(s->far, (char *)buf, 512);
	wire_put_verdict(buf, &v);
	return WIRE_VERDICT;
}

static bool send_last(struct far_stream *s)
{
	uint8_t last[512];
	size_t len = last_words(s, last);
	ssize_t n = push(s, last + s->at, len - s->at);

	if (n < 0)
		return false;
	s->at = (uint16_t)(s->at + n);
	if (s->at < len)
		return true;
	if (s->eof || s->request.op == WIRE_STATISTICS) {
		close_stream(s);
		return false;
	}
	shutdown(s->watch.fd, SHUT_WR);
	s->state = CLOSING;
	return true;
}

/* Both directions have brought what they should. */
static bool bulk_is_over(const struct far_stream *s)
{
	return !s->sends && (s->eof || !s->receives);
}

static bool end_bulk(struct far_stream *s)
{
	if (s->request.op == WIRE_UP || s->request.op == WIRE_BOTH)
		s->wrong |= s->request.amount && s->received != s->request.amount;
	if (s->wrong)
		s->far->mismatch++;
	s->far->bulk++;
	s->state = LAST;
	s->at = 0;
	return send_last(s);
}

static size_t next_chunk(const struct far_stream *s, const uint8_t **data)
{
	uint64_t left = s->request.amount ? s->request.amount - s->sent : UINT64_MAX;
	size_t len = left < DATA_CHUNK ? (size_t)left : DATA_CHUNK;

	*data = data_chunk();
	if (s->request.verify) {
		size_t random = data_size(s->request.seed ^ DATA_DOWN, s->sent);

		len = len < random ? len : random;
		data_fill(s->request.seed ^ DATA_DOWN, s->sent, buffer, len);
		*data = buffer;
	}
	return len;
}

static bool send_bulk(struct far_stream *s)
{
	const uint8_t *data;
	size_t len;
	ssize_t n;

	for (int i = 0; i < BURST && s->sends; i++) {
		len = next_chunk(s, &data);
		n = push(s, data, len);
		if (n < 0)
			return false;
		s->sent += (uint64_t)n;
		if (s->request.amount && s->sent == s->request.amount)
			s->sends = false;
		if ((size_t)n < len)
			break;
	}
	return !bulk_is_over(s) || end_bulk(s);
}

/* ---- receiving ---- */

static bool take_bulk(struct far_stream *s, size_t len)
{
	if (!s->receives)
		return fail(s, &s->far->early);
	if (s->request.verify && !data_check(s->request.seed, s->received, buffer, len))
		s->wrong = true;
	s->received += len;
	if (s->request.no_half_close && s->received >= s->request.amount)
		s->receives = false;
	return !bulk_is_over(s) || end_bulk(s);
}

static bool start_bulk(struct far_stream *s)
{
	enum wire_op op = s->request.op;

	s->state = BULK;
	s->receives = op == WIRE_UP || op == WIRE_BOTH;
	s->sends = op == WIRE_DOWN || (op == WIRE_BOTH && s->request.amount);
	return true;
}

static bool request_is_complete(struct far_stream *s)
{
	s->at = 0;
	switch (s->request.op) {
	case WIRE_EXCHANGE:
	case WIRE_IDLE:
		s->state = REPLY;
		return send_reply(s);
	case WIRE_STATISTICS:
		s->far->live--;
		s->far->accepted--; /* who asks is none of them */
		s->far->received -= WIRE_REQUEST;
		s->state = LAST;
		return send_last(s);
	default:
		return start_bulk(s);
	}
}

/* Takes at most what the request lacks; how much, or -1: the stream is no more. */
static ssize_t take_request(struct far_stream *s, const uint8_t *data, size_t len)
{
	size_t n = 0;

	if (s->at < WIRE_HEADER) {
		n = len < WIRE_HEADER - (size_t)s->at ? len : WIRE_HEADER - (size_t)s->at;
		memcpy(s->head + s->at, data, n);
		s->at = (uint16_t)(s->at + n);
		if (s->at == WIRE_HEADER && !wire_get_request(s->head, &s->request)) {
			fail(s, &s->far->magic);
			return -1;
		}
	}
	len = len - n < WIRE_REQUEST - (size_t)s->at ? len - n : WIRE_REQUEST - (size_t)s->at;
	if (!wire_is_padding(data + n, s->at, len)) {
		fail(s, &s->far->mismatch);
		return -1;
	}
	s->at = (uint16_t)(s->at + len);
	return (ssize_t)(n + len);
}

/* The TLS record in front of the first request; how many bytes were its. */
static size_t take_record(struct far_stream *s, const uint8_t *data, size_t len)
{
	size_t n = 0, skipped;

	if (s->state == START) {
		if (s->at == 0 && data[0] != RECORD_HANDSHAKE) {
			s->state = REQUEST;
			return 0;
		}
		while (n < len && s->at < RECORD_HEADER)
			s->head[s->at++] = data[n++];
		if (s->at < RECORD_HEADER)
			return n;
		s->skip = (uint16_t)(s->head[3] << 8 | s->head[4]);
		s->state = SKIP;
	}
	skipped = len - n < s->skip ? len - n : s->skip;
	s->skip = (uint16_t)(s->skip - skipped);
	if (s->skip == 0) {
		s->state = REQUEST;
		s->at = 0;
	}
	return n + skipped;
}

static bool take(struct far_stream *s, size_t len)
{
	const uint8_t *data = buffer;
	ssize_t n;

	if (len && s->state < REQUEST) {
		n = (ssize_t)take_record(s, data, len);
		data += n;
		len -= (size_t)n;
	}
	if (len && s->state == REQUEST) {
		n = take_request(s, data, len);
		if (n < 0)
			return false;
		data += n;
		len -= (size_t)n;
		if (s->at == WIRE_REQUEST && !request_is_complete(s))
			return false;
	}
	if (!len)
		return true;
	if (s->state != BULK) /* the next request before the reply, or data after the end */
		return fail(s, &s->far->early);
	memmove(buffer, data, len);
	return take_bulk(s, len);
}

static bool take_eof(struct far_stream *s)
{
	s->eof = true;
	if (s->state == START && s->at == 0)
		return fail(s, &s->far->unused);
	if (s->state == CLOSING || (s->state == REQUEST && s->at == 0 && s->request.op)) {
		close_stream(s);
		return false;
	}
	if (s->state != BULK)
		return fail(s, &s->far->shorter);
	if (s->request.op == WIRE_DOWN && !s->request.amount)
		s->sends = false;
	return !bulk_is_over(s) || end_bulk(s);
}

static bool receive(struct far_stream *s)
{
	ssize_t n;

	for (int i = 0; i < BURST; i++) {
		n = recv(s->watch.fd, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (n == 0)
			return take_eof(s);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR || fail(s, &s->far->reset);
		s->far->received += (uint64_t)n;
		if (!take(s, (size_t)n))
			return false;
		if ((size_t)n < sizeof(buffer))
			break;
	}
	return true;
}

static void on_io(struct watch *w, uint32_t events)
{
	struct far_stream *s = (struct far_stream *)w;
	bool was_bulk = s->state == BULK;

	if (events & EPOLLERR) {
		fail(s, &s->far->reset);
		return;
	}
	if (interest(s) & EPOLLIN && events & (EPOLLIN | EPOLLHUP) && !receive(s))
		return;
	if (s->state == REPLY && events & EPOLLOUT && !send_reply(s))
		return;
	if (s->state == BULK && s->sends && (!was_bulk || events & EPOLLOUT) && !send_bulk(s))
		return;
	if (s->state == LAST && events & EPOLLOUT && !send_last(s))
		return;
	loop_want(&s->far->loop, w, interest(s));
}

void far_open(struct far *f, int fd)
{
	struct far_stream *s = calloc(1, sizeof(*s));

	if (!s)
		fatal("out of memory");
	s->watch.fd = fd;
	s->watch.on = on_io;
	s->far = f;
	s->next = f->streams;
	s->prevp = &f->streams;
	if (s->next)
		s->next->prevp = &s->next;
	f->streams = s;
	f->accepted++;
	f->live++;
	loop_want(&f->loop, &s->watch, interest(s));
}

int far_statistics(const struct far *f, char *buf, int size)
{
	return snprintf(buf, (size_t)size,
			"{\"accepted\":%" PRIu64 ",\"live\":%" PRIu64 ",\"exchanges\":%" PRIu64
			",\"bulk\":%" PRIu64 ",\"bytes_received\":%" PRIu64
			",\"bytes_sent\":%" PRIu64 ",\"unused\":%" PRIu64
			",\"errors\":{\"magic\":%" PRIu64 ",\"early\":%" PRIu64
			",\"short\":%" PRIu64 ",\"mismatch\":%" PRIu64 ",\"reset\":%" PRIu64 "}}\n",
			f->accepted, f->live, f->exchanges, f->bulk, f->received, f->sent,
			f->unused, f->magic, f->early, f->shorter, f->mismatch, f->reset);
}
