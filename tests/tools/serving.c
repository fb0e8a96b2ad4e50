/*
 * serving: QGS's connections and its threads, as measured on the real one, and faults on demand.
 *
 * Theory of operation: one thread plays all of QGS's. A connection is READING until its request is
 * whole; WAITING for one of N threads, which are only counted; AT_WORK for the time that takes; and
 * WRITING its reply, which still occupies the thread. The timer runs from accept to the end and
 * closes the descriptor in any state; as in QGS the request then still has its turn, and its thread
 * works in vain. While WAITING or AT_WORK nobody looks at the socket: QGS does not see clients
 * leave.
 *
 * Reading goes by phases, as QGS's asynchronous reads do. The first one takes what comes into a
 * buffer of 4096 bytes and is over at 20 bytes. If the request is not whole then, the next takes
 * exactly the rest: behind what is there in 1.26, but from the buffer's beginning in legacy, which
 * then takes the last phase's bytes for all of a request, and so never comes to an end. Likewise in
 * legacy, end-of-file ends the reading but not the connection.
 */
#include "tests/tools/serving.h"

#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/tools/quote.h"

#define BUFFER 4096          /* QGS's own */
#define REQUEST_MAX 0x100000 /* 1.26 reads no longer ones */
#define PIECE_PAUSE 2        /* ms between pieces of a reply */
#define NEVER INT64_MAX

enum state { READING, WAITING, AT_WORK, WRITING };

struct connection {
	TAILQ_ENTRY(connection) all, turn;
	enum state state;
	int fd; /* -1: ended before its request did */
	int64_t accepted, deadline;
	int64_t until; /* AT_WORK: done by then; WRITING: no more before */
	/* READING: this phase has got so many bytes at buf + at, and is over at so many */
	uint8_t *buf;
	size_t size, at, got, enough;
	bool first, dead; /* the first phase; nothing more will be read */
	bool raw;
	unsigned reads;
	enum fault fault;
	size_t fault_bytes;
	uint8_t *reply;
	size_t reply_len, sent;
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void *must(void *p)
{
	if (!p) {
		fputs("qgs-stand-in: out of memory\n", stderr);
		abort();
	}
	return p;
}

static void raise_to(uint64_t *max, uint64_t value)
{
	if (value > *max)
		*max = value;
}

/* ---- the end of a connection ---- */

static void hang_up(struct serving *s, struct connection *c)
{
	if (c->fd < 0)
		return;
	shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	c->fd = -1;
	s->open--;
	if (c->state == READING && !c->reads)
		s->count.silent++;
	else if (c->state == READING)
		s->count.incomplete++;
}

static void forget(struct serving *s, struct connection *c)
{
	hang_up(s, c);
	TAILQ_REMOVE(&s->all, c, all);
	s->n--;
	free(c->buf);
	free(c->reply);
	free(c);
}

/* ---- threads ---- */

static void begin_work(struct serving *s, struct connection *c, int64_t now)
{
	struct serving_settings *set = &s->set;

	TAILQ_REMOVE(&s->turn, c, turn);
	s->waiting--;
	raise_to(&s->count.max_at_work, ++s->at_work);
	c->state = AT_WORK;
	c->fault = set->fault;
	c->fault_bytes = set->fault_bytes;
	c->until = c->fault == FAULT_WEDGED ? NEVER : now + set->work_ms;
	if (set->fault_left && --set->fault_left == 0)
		set->fault = FAULT_NONE;
}

static void employ(struct serving *s, int64_t now)
{
	while (s->at_work < s->set.threads && !TAILQ_EMPTY(&s->turn))
		begin_work(s, TAILQ_FIRST(&s->turn), now);
	raise_to(&s->count.max_waiting, s->waiting);
}

static void end_work(struct serving *s, struct connection *c)
{
	if (c->reply && c->sent == c->reply_len)
		s->count.replies++;
	else if (c->fault != FAULT_CLOSE && c->fault != FAULT_CUT && c->reply)
		s->count.wasted++;
	s->at_work--;
	forget(s, c);
}

/* ---- replies ---- */

static void reply_error(struct connection *c, enum qgs_type type, size_t len)
{
	c->reply = must(calloc(1, len));
	c->reply_len = len;
	qgs_put(c->reply, type, (uint32_t)(len - QGS_PREFIX), QGS_ERROR_UNEXPECTED);
}

static void reply_platform(struct connection *c)
{
	c->reply = must(calloc(1, QGS_PLATFORM));
	c->reply_len = QGS_PLATFORM;
	qgs_put(c->reply, QGS_PLATFORM_REPLY, QGS_PLATFORM - QGS_PREFIX, 0);
	put_le32(c->reply + QGS_MIN, 4 | 13 << 16); /* versions of the quoting enclave and PCE */
	put_le32(c->reply + QGS_MIN + 4, 16);       /* of the platform's id */
	put_le32(c->reply + QGS_MIN + 8, 16);       /* of the CPU's version */
}

static void reply_quote(struct serving *s, struct connection *c)
{
	size_t ahead = c->raw ? 0 : QGS_QUOTE;

	c->reply_len = ahead + s->set.quote_bytes;
	c->reply = must(malloc(c->reply_len));
	if (c->raw) {
		quote_make(c->reply, s->set.quote_bytes, c->buf, c->size);
		return;
	}
	qgs_put(c->reply, QGS_QUOTE_REPLY, (uint32_t)(c->reply_len - QGS_PREFIX), 0);
	put_le32(c->reply + QGS_MIN, 0); /* no selected id */
	put_le32(c->reply + QGS_MIN + 4, (uint32_t)s->set.quote_bytes);
	quote_make(c->reply + ahead, s->set.quote_bytes, c->buf + QGS_QUOTE,
		   get_le32(c->buf + QGS_MIN));
}

/* As QGS looks at them: any fault gives an error for a reply, bytes too many among them. */
static bool is_sound(const struct connection *c, size_t least)
{
	struct qgs_header h;

	if (c->size < QGS_PREFIX + least)
		return false;
	qgs_get(&h, c->buf);
	if (h.major != 1 || h.size != c->size - QGS_PREFIX || h.error)
		return false;
	return h.type != QGS_QUOTE_REQUEST ||
	       (get_le32(c->buf + QGS_MIN) && (uint64_t)get_le32(c->buf + QGS_MIN) +
							      get_le32(c->buf + QGS_MIN + 4) +
							      QGS_QUOTE - QGS_PREFIX ==
						      h.size);
}

/* None: QGS could not build one, and closes. */
static void make_reply(struct serving *s, struct connection *c)
{
	bool fails = c->fault == FAULT_ERROR;
	struct qgs_header h;

	if (c->raw) {
		if (!fails)
			reply_quote(s, c);
		return;
	}
	qgs_get(&h, c->buf);
	if (h.type == QGS_QUOTE_REQUEST) {
		if (fails || !is_sound(c, QGS_QUOTE - QGS_PREFIX))
			reply_error(c, QGS_QUOTE_REPLY, QGS_QUOTE);
		else
			reply_quote(s, c);
	} else if (h.type == QGS_PLATFORM_REQUEST) {
		if (fails || !is_sound(c, QGS_HEADER))
			reply_error(c, QGS_PLATFORM_REPLY, QGS_MIN + 12);
		else
			reply_platform(c);
	} else if (h.type == QGS_COLLATERAL_REQUEST) {
		reply_error(c, QGS_COLLATERAL_REPLY, QGS_MIN + 32); /* there is none here */
	}
	if (!c->reply || get_le32(c->reply + 16))
		s->count.refused++;
}

/* A piece must not meet the one before it in the client's buffer. */
static bool is_piece_unread(const struct connection *c)
{
	int unread = 0;

	return c->fault == FAULT_PIECES && c->fd >= 0 && c->sent &&
	       ioctl(c->fd, SIOCOUTQ, &unread) == 0 && unread > 0;
}

static void write_reply(struct serving *s, struct connection *c, int64_t now)
{
	size_t end = c->reply_len, len;
	ssize_t n;

	if (is_piece_unread(c)) {
		c->until = now + PIECE_PAUSE;
		return;
	}
	if (c->fault == FAULT_CUT && c->fault_bytes < end)
		end = c->fault_bytes;
	while (c->fd >= 0 && c->sent < end) {
		len = end - c->sent;
		if (c->fault == FAULT_PIECES && c->fault_bytes < len)
			len = c->fault_bytes;
		n = send(c->fd, c->reply + c->sent, len, MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0)
			break;
		c->sent += (size_t)n;
		if (c->fault == FAULT_PIECES && c->sent < end) {
			c->until = now + PIECE_PAUSE;
			return;
		}
	}
	end_work(s, c);
}

static void finish_work(struct serving *s, struct connection *c, int64_t now)
{
	c->state = WRITING;
	c->until = 0;
	if (c->fault != FAULT_CLOSE)
		make_reply(s, c);
	if (c->reply)
		write_reply(s, c, now);
	else
		end_work(s, c);
}

/* ---- requests ---- */

static void take_request(struct serving *s, struct connection *c, size_t size, bool raw)
{
	struct serving_counts *n = &s->count;
	struct qgs_header h;
	int64_t now = now_ms();

	c->size = size;
	c->raw = raw;
	c->state = WAITING;
	qgs_get(&h, c->buf);
	n->requests++;
	n->raw += raw;
	n->platform += !raw && h.type == QGS_PLATFORM_REQUEST;
	n->trailing += !raw && h.length + QGS_PREFIX < size;
	n->in_pieces += c->reads > 1;
	raise_to(&n->max_reads, c->reads);
	if (now - c->accepted > n->max_request_ms)
		n->max_request_ms = now - c->accepted;
	TAILQ_INSERT_TAIL(&s->turn, c, turn);
	s->waiting++;
	employ(s, now);
}

static void next_phase(struct connection *c, size_t at, size_t enough)
{
	c->first = false;
	c->at = at;
	c->got = 0;
	c->enough = enough;
}

/* Does it begin with a prefix and a header that agree? Numbers wrap as QGS's do. */
static bool is_framed(const struct connection *c, size_t transferred, struct qgs_header *h)
{
	qgs_get(h, c->buf);
	return h->length && h->length == h->size && h->type < QGS_TYPES &&
	       (uint32_t)transferred - QGS_PREFIX >= QGS_HEADER;
}

static void phase_over_legacy(struct serving *s, struct connection *c)
{
	struct qgs_header h;
	size_t transferred = c->got;

	if (!is_framed(c, transferred, &h)) {
		if (transferred == QUOTE_REPORT)
			take_request(s, c, transferred, true);
		else /* may wrap: more than the buffer will ever hold */
			next_phase(c, 0, QUOTE_REPORT - transferred);
	} else if (h.length + QGS_PREFIX > transferred) {
		next_phase(c, 0, h.length + QGS_PREFIX - transferred);
	} else {
		take_request(s, c, transferred, false);
	}
}

static void phase_over_1_26(struct serving *s, struct connection *c)
{
	struct qgs_header h;
	size_t have = c->at + c->got, whole;
	bool framed = is_framed(c, have, &h);

	whole = framed ? (size_t)h.length + QGS_PREFIX : QUOTE_REPORT;
	if ((framed && h.length > REQUEST_MAX) || (!framed && have > whole)) {
		forget(s, c);
	} else if (have < whole) {
		if (whole > c->size) {
			c->buf = must(realloc(c->buf, whole));
			c->size = whole;
		}
		next_phase(c, have, whole - have);
	} else {
		take_request(s, c, have, !framed);
	}
}

/* The end of the stream, or an error. */
static void reading_failed(struct serving *s, struct connection *c)
{
	if (s->set.version == VERSION_LEGACY)
		c->dead = true;
	else
		forget(s, c);
}

static void read_request(struct serving *s, struct connection *c)
{
	size_t room = c->size - c->at, want = c->first || c->enough > room ? room : c->enough;
	ssize_t n = recv(c->fd, c->buf + c->at + c->got, want - c->got, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		reading_failed(s, c);
		return;
	}
	c->reads++;
	c->got += (size_t)n;
	if (c->got < c->enough && c->got < want)
		return;
	if (s->set.version == VERSION_LEGACY)
		phase_over_legacy(s, c);
	else
		phase_over_1_26(s, c);
}

/* ---- the loop's side ---- */

void serving_init(struct serving *s)
{
	*s = (struct serving){ .set = { .threads = 4,
					.timeout_ms = 30000,
					.quote_bytes = 5000,
					.version = VERSION_LEGACY } };
	TAILQ_INIT(&s->all);
	TAILQ_INIT(&s->turn);
}

int serving_accept(struct serving *s, int listening)
{
	struct connection *c;
	int fd;

	while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		c = must(calloc(1, sizeof(*c)));
		c->fd = fd;
		c->buf = must(calloc(1, BUFFER));
		c->size = BUFFER;
		c->enough = QGS_MIN;
		c->first = true;
		c->accepted = now_ms();
		c->deadline = c->accepted + s->set.timeout_ms;
		TAILQ_INSERT_TAIL(&s->all, c, all);
		s->n++;
		s->count.connections++;
		raise_to(&s->count.max_open, ++s->open);
	}
	return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? 0 : -1;
}

int serving_polls(const struct serving *s, struct pollfd *fds)
{
	const struct connection *c;
	int64_t next = NEVER, now = now_ms();

	TAILQ_FOREACH(c, &s->all, all)
	{
		*fds = (struct pollfd){ .fd = -1 };
		if (c->state == READING && !c->dead) {
			fds->fd = c->fd;
			fds->events = POLLIN;
		} else if (c->state == WRITING && c->fd >= 0 && c->until <= now) {
			fds->fd = c->fd;
			fds->events = POLLOUT;
		} else if (c->state == AT_WORK || c->state == WRITING) {
			next = c->until < next ? c->until : next;
		}
		if (c->fd >= 0)
			next = c->deadline < next ? c->deadline : next;
		fds++;
	}
	if (next == NEVER)
		return -1;
	if (next <= now)
		return 0;
	return next - now > INT_MAX ? INT_MAX : (int)(next - now);
}

/* May free it. */
static void turn_of(struct serving *s, struct connection *c, short events, int64_t now)
{
	bool over = now >= c->deadline && c->fd >= 0;

	if (over) {
		s->count.timed_out++;
		hang_up(s, c);
	}
	switch (c->state) {
	case READING:
		if (over)
			forget(s, c);
		else if (events)
			read_request(s, c);
		break;
	case WAITING:
		break;
	case AT_WORK:
		if (now >= c->until)
			finish_work(s, c, now);
		break;
	case WRITING:
		if (c->fd < 0 || events || (c->until && now >= c->until))
			write_reply(s, c, now);
		break;
	}
}

void serving_turn(struct serving *s, const struct pollfd *fds)
{
	struct connection *c, *next;
	int64_t now = now_ms();

	for (c = TAILQ_FIRST(&s->all); c; c = next) {
		next = TAILQ_NEXT(c, all);
		turn_of(s, c, fds++->revents, now);
	}
	employ(s, now);
}

void serving_apply(struct serving *s)
{
	struct connection *c;

	TAILQ_FOREACH(c, &s->all, all)
	{
		if (c->state == AT_WORK && c->fault == FAULT_WEDGED &&
		    s->set.fault != FAULT_WEDGED) {
			c->fault = FAULT_NONE;
			c->until = 0;
		}
	}
	employ(s, now_ms());
}

void serving_close_all(struct serving *s)
{
	struct connection *c, *next;

	for (c = TAILQ_FIRST(&s->all); c; c = next) {
		next = TAILQ_NEXT(c, all);
		hang_up(s, c);
		if (c->state == READING)
			forget(s, c);
	}
}

void serving_deinit(struct serving *s)
{
	while (!TAILQ_EMPTY(&s->all))
		forget(s, TAILQ_FIRST(&s->all));
}

void serving_reset(struct serving *s)
{
	s->count = (struct serving_counts){ .max_open = s->open,
					    .max_at_work = s->at_work,
					    .max_waiting = s->waiting };
}

void serving_print(const struct serving *s, FILE *to)
{
	const struct serving_counts *n = &s->count;
	const struct connection *c;
	uint64_t silent = 0, incomplete = 0;

	TAILQ_FOREACH(c, &s->all, all)
	{
		silent += c->state == READING && !c->reads;
		incomplete += c->state == READING && c->reads;
	}
#define COUNT(name, value) fprintf(to, "\"" name "\": %llu, ", (unsigned long long)(value))
	fputs("{", to);
	COUNT("connections", n->connections);
	COUNT("silent", n->silent + silent);
	COUNT("incomplete", n->incomplete + incomplete);
	COUNT("requests", n->requests);
	COUNT("raw", n->raw);
	COUNT("platform", n->platform);
	COUNT("in_pieces", n->in_pieces);
	COUNT("trailing", n->trailing);
	COUNT("refused", n->refused);
	COUNT("replies", n->replies);
	COUNT("wasted", n->wasted);
	COUNT("timed_out", n->timed_out);
	COUNT("max_reads", n->max_reads);
	COUNT("max_open", n->max_open);
	COUNT("max_at_work", n->max_at_work);
	COUNT("max_waiting", n->max_waiting);
	COUNT("max_request_ms", n->max_request_ms);
	COUNT("open", s->open);
	COUNT("at_work", s->at_work);
#undef COUNT
	fprintf(to, "\"waiting\": %zu}\n", s->waiting);
}
