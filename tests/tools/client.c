/*
 * client: one request for a quote, as QEMU, libtdx_attest or an old QEMU make it.
 *
 * Theory of operation: blocking calls, as the originals make them: what one recv() gives matters. A
 * deadline for all of it is kept by SO_SNDTIMEO and SO_RCVTIMEO, set anew before each call. Each
 * kind reads by itself and judges what it got; then, for all, the quote must be that of this very
 * report.
 */
#include "tests/tools/client.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/tools/quote.h"

/* Of the originals: a guest's buffer at most, and four pages less two headers. */
#define QEMU_MAX (128U * 1024)
#define TDX_MAX (16U * 1024 - 24)
#define RAW_MAX (16U * 1024 * 1024)

const char *const client_outcomes[OUTCOMES] = {
	[OUTCOME_OK] = "ok",
	[OUTCOME_CONNECT_FAILED] = "connect-failed",
	[OUTCOME_CLOSED_EARLY] = "closed-early",
	[OUTCOME_ERROR] = "error",
	[OUTCOME_BAD_REPLY] = "bad-reply",
	[OUTCOME_WOULD_SPIN] = "would-spin",
	[OUTCOME_TIMEOUT] = "timeout",
};

struct request {
	const struct client_how *how;
	struct client_result *r;
	int fd;
	int64_t deadline; /* us */
	uint8_t *report, *message;
	size_t len; /* of the message */
	uint8_t *room;
	size_t room_len, have;
};

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void pause_ms(int64_t ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

/* False, always: so that callers can leave with it. */
static bool end(struct request *q, enum outcome outcome, int error, const char *why)
{
	q->r->outcome = outcome;
	q->r->error = error;
	q->r->why = why;
	return false;
}

/* A call failed with errno. */
static bool failed(struct request *q)
{
	if (errno == EAGAIN || errno == EINPROGRESS)
		return end(q, OUTCOME_TIMEOUT, 0, NULL);
	return end(q, OUTCOME_CLOSED_EARLY, errno, NULL);
}

/* False: the time is over. */
static bool limit(struct request *q, int option)
{
	int64_t left = q->deadline - now_us();
	struct timeval t = { .tv_sec = left / 1000000, .tv_usec = left % 1000000 };

	if (left <= 0)
		return end(q, OUTCOME_TIMEOUT, 0, NULL);
	setsockopt(q->fd, SOL_SOCKET, option, &t, sizeof(t));
	return true;
}

/* One recv() of at most so many bytes: their number, 0 at EOF, -1 after end(). */
static ssize_t receive(struct request *q, size_t most)
{
	ssize_t n;

	do {
		if (!limit(q, SO_RCVTIMEO))
			return -1;
		n = recv(q->fd, q->room + q->have, most, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		failed(q);
	else
		q->r->bytes = q->have += (size_t)n;
	return n;
}

/* ---- asking ---- */

static void compose(struct request *q, const char *vm, uint64_t number)
{
	const struct client_how *how = q->how;
	uint8_t mark[QUOTE_MARK];
	size_t one;

	quote_mark(mark, vm, number);
	quote_report(q->report, how->report_bytes, mark);
	if (how->garbage) {
		memset(q->message, 0xff, q->len = how->garbage);
	} else if (how->platform) {
		qgs_put(q->message, QGS_PLATFORM_REQUEST, QGS_HEADER, 0);
		q->len = QGS_MIN;
	} else if (how->kind == CLIENT_RAW) {
		memcpy(q->message, q->report, q->len = how->report_bytes);
	} else {
		q->len = quote_request(q->message, q->report, how->report_bytes);
	}
	one = q->len;
	if (how->twice) {
		memcpy(q->message + one, q->message, one);
		q->len += one;
	}
	memset(q->message + q->len, 0x5a, how->extra);
	q->len += how->extra;
	if (how->has_only && how->only < q->len)
		q->len = how->only;
}

static bool dial(struct request *q)
{
	const struct place *to = q->how->to;
	int64_t begun = now_us();

	q->fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (q->fd < 0)
		return end(q, OUTCOME_CONNECT_FAILED, errno, "no socket");
	if (!limit(q, SO_SNDTIMEO))
		return false;
	if (connect(q->fd, (const struct sockaddr *)&to->address, to->len)) {
		if (errno == EAGAIN || errno == EINPROGRESS)
			return end(q, OUTCOME_TIMEOUT, 0, "connecting");
		return end(q, OUTCOME_CONNECT_FAILED, errno, NULL);
	}
	q->r->connect_us = now_us() - begun;
	return true;
}

/* Until the other side has read all, where the kernel says so; then the pause. */
static void settle(struct request *q)
{
	int unread = 0;

	while (now_us() < q->deadline && ioctl(q->fd, SIOCOUTQ, &unread) == 0 && unread > 0)
		pause_ms(1);
	pause_ms(q->how->pause_ms);
}

static bool send_all(struct request *q, const uint8_t *data, size_t len)
{
	ssize_t n;

	while (len) {
		if (!limit(q, SO_SNDTIMEO))
			return false;
		n = send(q->fd, data, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return failed(q);
		/* libtdx_attest takes a short write for a failure */
		if (q->how->kind == CLIENT_TDX && (size_t)n != len)
			return end(q, OUTCOME_TIMEOUT, 0, "a short write");
		data += n;
		len -= (size_t)n;
	}
	return true;
}

static bool ask(struct request *q)
{
	size_t at = 0, len;

	for (size_t i = 0; i < q->how->n_parts && at < q->len; i++) {
		len = q->how->parts[i];
		len = len < q->len - at ? len : q->len - at;
		if (!send_all(q, q->message + at, len))
			return false;
		at += len;
		if (at < q->len)
			settle(q);
	}
	if (at < q->len && !send_all(q, q->message + at, q->len - at))
		return false;
	if (q->how->shut_wr && shutdown(q->fd, SHUT_WR))
		return failed(q);
	if (q->how->read_after_ms)
		pause_ms(q->how->read_after_ms);
	return true;
}

/* ---- what comes back ---- */

/* Until so many bytes are there. EOF before: not whole. */
static bool read_until(struct request *q, size_t wanted, enum outcome not_whole)
{
	ssize_t n;

	while (q->have < wanted) {
		n = receive(q, wanted - q->have);
		if (n < 0)
			return false;
		if (n == 0)
			return end(q, not_whole, 0, NULL);
	}
	return true;
}

/* The header of a whole framed reply of N + 4 bytes. */
static bool judge_header(struct request *q, struct qgs_header *h)
{
	enum qgs_type type = q->how->platform ? QGS_PLATFORM_REPLY : QGS_QUOTE_REPLY;

	if (h->major != 1 || h->minor != 1)
		return end(q, OUTCOME_BAD_REPLY, 0, "another version than 1.1");
	if (h->type != type)
		return end(q, OUTCOME_BAD_REPLY, 0, "another type of message");
	if (h->size != h->length)
		return end(q, OUTCOME_BAD_REPLY, 0, "header and prefix differ in length");
	if (h->error) {
		q->r->code = h->error;
		return end(q, OUTCOME_ERROR, 0, NULL);
	}
	return true;
}

static bool judge_quote(struct request *q, const uint8_t *quote, size_t len)
{
	const char *why = quote_wrong(quote, len, q->report, q->how->report_bytes);

	if (why)
		return end(q, OUTCOME_BAD_REPLY, 0, why);
	q->r->quote_bytes = len;
	return true;
}

static bool judge_framed(struct request *q)
{
	struct qgs_header h;
	size_t quote_len;

	qgs_get(&h, q->room);
	if (!judge_header(q, &h))
		return false;
	if (q->how->platform)
		return q->have == QGS_PLATFORM ||
		       end(q, OUTCOME_BAD_REPLY, 0, "other sizes than the reply has");
	if (q->have < QGS_QUOTE)
		return end(q, OUTCOME_BAD_REPLY, 0, "no room for sizes");
	quote_len = get_le32(q->room + QGS_MIN + 4);
	if (get_le32(q->room + QGS_MIN) != 0)
		return end(q, OUTCOME_BAD_REPLY, 0, "a selected id");
	if (quote_len != q->have - QGS_QUOTE)
		return end(q, OUTCOME_BAD_REPLY, 0, "another length of the quote than is left");
	return judge_quote(q, q->room + QGS_QUOTE, quote_len);
}

static bool read_framed(struct request *q)
{
	struct qgs_header h = { .length = 0 };
	ssize_t n;

	if (q->how->kind == CLIENT_TDX) {
		n = receive(q, QGS_PREFIX);
		if (n < 0)
			return false;
		if (n == 0)
			return end(q, OUTCOME_CLOSED_EARLY, 0, NULL);
		if (n != QGS_PREFIX)
			return end(q, OUTCOME_BAD_REPLY, 0, "less than 4 bytes at first");
	} else if (!read_until(q, QGS_PREFIX, OUTCOME_CLOSED_EARLY)) {
		return false;
	}
	for (int i = 0; i < QGS_PREFIX; i++)
		h.length = h.length << 8 | q->room[i];
	if (h.length < QGS_HEADER || h.length > q->room_len - QGS_PREFIX)
		return end(q, OUTCOME_BAD_REPLY, 0, "a length out of bounds");
	if (!read_until(q, QGS_PREFIX + h.length,
			q->how->kind == CLIENT_TDX ? OUTCOME_WOULD_SPIN : OUTCOME_CLOSED_EARLY))
		return false;
	return judge_framed(q);
}

/* No length: all until EOF, which must not come before the quote's own length. */
static bool read_raw(struct request *q)
{
	size_t whole;
	ssize_t n;

	do {
		if (q->have == q->room_len)
			return end(q, OUTCOME_BAD_REPLY, 0, "a length out of bounds");
		n = receive(q, q->room_len - q->have);
		if (n < 0)
			return false;
	} while (n > 0);
	whole = quote_length(q->room, q->have);
	if (!whole || q->have < whole)
		return end(q, OUTCOME_CLOSED_EARLY, 0, NULL);
	return judge_quote(q, q->room, q->have);
}

/* ---- all of it ---- */

static void run(struct request *q)
{
	bool framed = q->how->kind != CLIENT_RAW || q->how->platform;

	if (!dial(q) || !ask(q) || !(framed ? read_framed(q) : read_raw(q)))
		return;
	q->r->outcome = OUTCOME_OK;
	if (q->how->second) {
		/* QGS closes after its reply: only once that is here, a write tells of it */
		while (limit(q, SO_RCVTIMEO) && recv(q->fd, q->message, q->len, MSG_PEEK) > 0)
			pause_ms(1);
		if (send(q->fd, q->message, q->len, MSG_NOSIGNAL) < 0)
			q->r->second_error = errno;
	}
}

size_t client_room(const struct client_how *how)
{
	if (how->reply_max)
		return how->reply_max;
	return how->kind == CLIENT_QEMU ? QEMU_MAX : how->kind == CLIENT_TDX ? TDX_MAX : RAW_MAX;
}

void client_run(const struct client_how *how, const char *vm, uint64_t number, uint8_t *room,
		struct client_result *r)
{
	size_t message = 2 * (QGS_QUOTE + how->report_bytes) + how->garbage + how->extra;
	int64_t begun = now_us();
	struct request q = { .how = how,
			     .r = r,
			     .fd = -1,
			     .deadline = begun + how->timeout_ms * 1000,
			     .report = malloc(how->report_bytes),
			     .message = malloc(message),
			     .room = room,
			     .room_len = client_room(how) };

	*r = (struct client_result){ .outcome = OUTCOME_TIMEOUT };
	if (!q.report || !q.message)
		abort();
	compose(&q, vm, number);
	run(&q);
	if (q.fd >= 0)
		close(q.fd);
	r->us = now_us() - begun;
	free(q.report);
	free(q.message);
}
