/*
 * test_quote: requests and replies, each state and each way out of it, with a QGS that the test
 * plays itself: its socket, and what qgs.h would say of it.
 */
#include <sys/stat.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/caller.h"
#include "qgs-bridge/plain.h"
#include "qgs-bridge/qgs.h"
#include "qgs-bridge/quote.h"
#include "qgs-bridge/ticket.h"
#include "relay/fd.h"
#include "tests/unit/loop.h"

#define ENDS_MAX 64

/* ---- what bridge.c and qgs.c would do ---- */

struct qgs {
	enum qgs_state state;
	bool away, grace; /* grace: a refusal makes it away */
	unsigned refusals, answers, silences;
	uint64_t changes;
};

struct end {
	enum reason why;
	bool answered;
	uint64_t up, down, waited_ms;
};

static struct bridge b;
static struct qgs qgs;
static struct vm vm[3];
static struct end ends[ENDS_MAX];
static unsigned n_ends;

void caller_over(struct caller *c, const struct caller_end *end)
{
	CHECK(n_ends < ENDS_MAX);
	CHECK_STR(end->to, "qgs");
	ends[n_ends++] = (struct end){ end->why, end->answered, end->up, end->down,
				       end->waited_ms };
	c->vm->connections--;
	free(c);
}

enum qgs_state qgs_state(const struct qgs *q)
{
	return q->state;
}

bool qgs_is_away(const struct qgs *q)
{
	return q->away;
}

uint64_t qgs_changes(const struct qgs *q)
{
	return q->changes;
}

const char *qgs_detail(const struct qgs *q)
{
	return "";
}

void qgs_met_refusal(struct qgs *q, enum reason why, const char *detail)
{
	q->refusals++;
	q->away = q->grace;
}

void qgs_met_answer(struct qgs *q)
{
	q->answers++;
}

void qgs_met_silence(struct qgs *q)
{
	q->silences++;
}

/* ---- the test's QGS ---- */

static char folder[] = "/tmp/test-quote-XXXXXX", path[64];
static int listener = -1;
static uint8_t request[1024 * 1024], reply[1024 * 1024 + 4], got[2 * 1024 * 1024];

static void qgs_listens(int backlog)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	strcpy(un.sun_path, path);
	unlink(path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CHECK(listener >= 0);
	CHECK_INT(bind(listener, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(listen(listener, backlog), 0);
}

static void qgs_stops(void)
{
	close(listener);
	listener = -1;
	unlink(path);
}

static int try_accept(void)
{
	return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static int qgs_accepts(void)
{
	int fd;

	UNTIL((fd = try_accept()) >= 0);
	return fd;
}

static void qgs_is_not_asked(void)
{
	settle();
	CHECK_INT(try_accept(), -1);
	CHECK_INT(errno, EAGAIN);
}

static void put(int fd, const void *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = send(fd, (const uint8_t *)data + at, len - at, MSG_NOSIGNAL);

		CHECK(n > 0 || errno == EAGAIN);
		at += n > 0 ? (size_t)n : 0;
		turn(false);
	}
}

static void expect(int fd, const void *data, size_t len)
{
	size_t at = 0;

	UNTIL(({
		ssize_t n = recv(fd, got + at, len - at, 0);

		CHECK(n > 0 || (n < 0 && errno == EAGAIN));
		at += n > 0 ? (size_t)n : 0;
		at == len;
	}));
	CHECK(memcmp(got, data, len) == 0);
}

static void expect_nothing(int fd)
{
	settle();
	CHECK_INT(recv(fd, got, 1, 0), -1);
	CHECK_INT(errno, EAGAIN);
}

/* Its end, and not a byte before it. A Unix socket closed with unread bytes says ECONNRESET. */
static void expect_end(int fd)
{
	ssize_t n;

	UNTIL((n = recv(fd, got, 1, 0)) >= 0 || errno == ECONNRESET);
	CHECK(n <= 0);
	close(fd);
}

static size_t make(uint8_t *message, uint32_t body)
{
	message[0] = (uint8_t)(body >> 24);
	message[1] = (uint8_t)(body >> 16);
	message[2] = (uint8_t)(body >> 8);
	message[3] = (uint8_t)body;
	for (uint32_t i = 0; i < body; i++)
		message[4 + i] = (uint8_t)(i * 7 + i / 251);
	memset(message + 4, 0, 16);
	message[4] = message[6] = 1; /* version 1.1 */
	for (unsigned i = 0; i < 4; i++)
		message[12 + i] = (uint8_t)(body >> 8 * i);
	return 4 + body;
}

/* ---- the test's clients ---- */

static void arrive(struct vm *of, int fd, bool plain)
{
	struct caller *c = calloc(1, sizeof(*c));
	struct conduit *client = fd_conduit_new(w, fd);

	CHECK(c && client);
	c->bridge = &b;
	c->vm = of;
	c->began = worker_now(w);
	of->connections++;
	(plain ? plain_new : quote_new)(&b, c, client);
}

static int client_of(struct vm *of)
{
	int fd[2];

	unix_pair(fd);
	arrive(of, fd[1], false);
	return fd[0];
}

/* A client that has sent a whole request. */
static int asker(struct vm *of)
{
	int c = client_of(of);

	put(c, request, 1052);
	settle();
	return c;
}

static void expect_over(unsigned n, enum reason why, bool answered)
{
	UNTIL(n_ends >= n);
	CHECK_INT(n_ends, n);
	CHECK_INT(ends[n - 1].why, why);
	CHECK_INT(ends[n - 1].answered, answered);
}

static void begin(void)
{
	struct fair_limits limits = {
		.running = 2, .running_per_line = 2, .per_line = 8, .rate = 100000, .burst = 100000
	};
	struct bridge_config *c = bridge_config_new();
	char text[80], *why = NULL;

	loop_begin();
	snprintf(text, sizeof(text), "unix:%s", path);
	CHECK_INT(bridge_config_set_qgs(c, text, &why), 0);
	c->timeouts.request = c->timeouts.queue = c->timeouts.reply = 10000;
	c->timeouts.common.dial = 10000;
	c->qgs.stuck_after = 10000;
	memset(vm, 0, sizeof(vm));
	qgs = (struct qgs){ .state = QGS_UP };
	b = (struct bridge){ .worker = w, .config = c, .qgs = &qgs };
	b.splice.idle_ms = b.splice.half_closed_ms = 10000;
	fair_init(&b.fair, &limits);
	n_ends = 0;
	qgs_listens(16);
	make(request, 1048);
	make(reply, 5000);
}

static void done(void)
{
	qgs_stops();
	settle();
	CHECK(!b.quotes && !b.plains);
	CHECK_INT(b.fair.waiting, 0);
	CHECK_INT(b.fair.running, 0);
	for (unsigned i = 0; i < 3; i++)
		CHECK_INT(vm[i].connections, 0);
	CHECK_INT(b.config->refs, 1);
	bridge_config_unref(b.config);
	loop_end();
}

/* The usual way, for a client and what it has sent. */
static void serve(int client, size_t len)
{
	int s = qgs_accepts();

	expect(s, request, len);
	expect_nothing(s); /* neither more, nor an end */
	put(s, reply, 5004);
	close(s);
	expect(client, reply, 5004);
	expect_end(client);
}

/* ---- reading ---- */

static void test_usual(void)
{
	begin();
	serve(asker(&vm[0]), 1052);
	expect_over(1, REASON_EOF, true);
	CHECK_INT(ends[0].up, 1052);
	CHECK_INT(ends[0].down, 5004);
	CHECK_INT(qgs.answers, 1);
	done();
}

static void test_byte_by_byte(void)
{
	int c;

	begin();
	c = client_of(&vm[0]);
	for (size_t i = 0; i < 1052; i++) {
		CHECK_INT(try_accept(), -1);
		put(c, request + i, 1);
		turn(false);
		turn(false);
		if (i % 50 == 0)
			qgs_is_not_asked();
	}
	serve(c, 1052);
	expect_over(1, REASON_EOF, true);
	done();
}

/* What comes behind the request is dropped, and its being unread does not destroy the reply. */
static void test_more_than_one(void)
{
	int fd[2];

	begin();
	tcp_pair(fd);
	arrive(&vm[0], fd[1], false);
	for (int i = 0; i < 100; i++)
		put(fd[0], request, 1052);
	serve(fd[0], 1052);
	expect_over(1, REASON_EOF, true);
	qgs_is_not_asked();
	done();
}

static void test_half_closed(void)
{
	int c;

	begin();
	c = asker(&vm[0]);
	shutdown(c, SHUT_WR);
	serve(c, 1052);
	c = client_of(&vm[0]);
	put(c, request, 1052);
	shutdown(c, SHUT_WR); /* before any of it is read */
	serve(c, 1052);
	expect_over(2, REASON_EOF, true);
	done();
}

static void test_no_request(void)
{
	int c;

	begin();
	close(client_of(&vm[0]));
	expect_over(1, REASON_EOF, false);
	c = client_of(&vm[0]);
	put(c, request, 1051);
	shutdown(c, SHUT_WR);
	expect_over(2, REASON_CLOSED_EARLY, false);
	expect_end(c);
	CHECK_INT(ends[1].up, 1051);
	b.config->timeouts.request = 100;
	c = client_of(&vm[0]);
	put(c, request, 700);
	expect_over(3, REASON_REQUEST_TIMEOUT, false);
	expect_end(c);
	c = client_of(&vm[0]);
	put(c, "GET", 3);
	expect_over(4, REASON_PROTOCOL, false);
	expect_end(c);
	c = client_of(&vm[0]);
	put(c, "\0\0\x0f\xfd", 4); /* 4097 bytes in all */
	expect_over(5, REASON_TOO_LARGE, false);
	expect_end(c);
	qgs_is_not_asked();
	done();
}

static void test_reset_while_reading(void)
{
	int fd[2];

	begin();
	tcp_pair(fd);
	arrive(&vm[0], fd[1], false);
	put(fd[0], request, 100);
	settle();
	reset(fd[0]);
	expect_over(1, REASON_RESET, false);
	done();
}

/* Read as it comes, and written in pieces only where the socket cannot do more. */
static void test_long_request(void)
{
	const size_t len = make(request, 1024 * 1024 - 4);
	int c, s;

	begin();
	make(request, 1024 * 1024 - 4);
	b.config->qgs.request_max = 1024 * 1024;
	c = client_of(&vm[0]);
	put(c, request, len);
	s = qgs_accepts();
	settle();
	expect(s, request, len);
	put(s, reply, 5004);
	close(s);
	expect(c, reply, 5004);
	expect_end(c);
	expect_over(1, REASON_EOF, true);
	CHECK_INT(ends[0].up, len);
	done();
}

/* ---- raw reports ---- */

static void test_raw(void)
{
	int c, s;

	begin();
	request[0] = 0x81;
	c = client_of(&vm[0]);
	put(c, request, 1024);
	s = qgs_accepts();
	expect(s, request, 1024);
	expect_nothing(s);
	put(s, reply + 4, 3000);
	expect(c, reply + 4, 3000); /* as it comes */
	put(s, reply + 3004, 2000);
	close(s);
	expect(c, reply + 3004, 2000);
	expect_end(c);
	expect_over(1, REASON_EOF, true);
	CHECK_INT(ends[0].down, 5000);

	c = client_of(&vm[0]); /* longer, in two pieces, one write to QGS */
	put(c, request, 1024);
	put(c, request + 1024, 100);
	s = qgs_accepts();
	expect(s, request, 1124);
	close(s);
	expect_end(c);
	expect_over(2, REASON_NO_REPLY, false);

	c = client_of(&vm[0]);
	put(c, request, 1023);
	qgs_is_not_asked();
	put(c, request + 1023, 1);
	shutdown(c, SHUT_WR);
	s = qgs_accepts();
	expect(s, request, 1024);
	close(s);
	expect_end(c);
	expect_over(3, REASON_NO_REPLY, false);
	done();
}

/* ---- waiting ---- */

static void test_in_flight(void)
{
	int c[4], s[2];

	begin();
	for (unsigned i = 0; i < 4; i++)
		c[i] = asker(&vm[i / 2]);
	s[0] = qgs_accepts();
	s[1] = qgs_accepts();
	qgs_is_not_asked();
	CHECK_INT(b.fair.waiting, 2);
	put(s[0], reply, 5004);
	expect(c[0], reply, 5004);
	expect_end(c[0]);
	close(s[0]);
	s[0] = qgs_accepts();
	qgs_is_not_asked();
	close(c[3]); /* leaves the line */
	expect_over(2, REASON_CLOSED_EARLY, false);
	CHECK_INT(b.fair.waiting, 0);
	close(s[0]);
	close(s[1]);
	expect_end(c[1]);
	expect_end(c[2]);
	expect_over(4, REASON_NO_REPLY, false);
	done();
}

/* Who goes while QGS works on its request does not make room for another. */
static void test_gone_while_asking(void)
{
	int c[3], s[2];

	begin();
	for (unsigned i = 0; i < 3; i++)
		c[i] = asker(&vm[0]);
	s[0] = qgs_accepts();
	s[1] = qgs_accepts();
	close(c[0]);
	qgs_is_not_asked();
	CHECK_INT(n_ends, 0); /* it counts */
	CHECK_INT(vm[0].connections, 3);
	expect(s[0], request, 1052);
	put(s[0], reply, 5004);
	expect_over(1, REASON_CLOSED_EARLY, false);
	CHECK_INT(qgs.answers, 1);
	close(s[0]);
	s[0] = qgs_accepts();
	close(c[1]);
	settle();
	close(s[1]);
	expect_over(2, REASON_CLOSED_EARLY, false);
	close(c[2]);
	settle();
	quote_end_all(&b, REASON_SHUTDOWN);
	expect_over(3, REASON_CLOSED_EARLY, false);
	close(s[0]);
	done();
}

static void test_queue(void)
{
	int c[8], s[2];

	begin();
	b.config->timeouts.queue = 200;
	fair_limit(&b.fair, &(struct fair_limits){ 2, 2, 2, 100000, 100000 });
	for (unsigned i = 0; i < 4; i++)
		c[i] = asker(&vm[0]);
	c[4] = asker(&vm[0]);
	expect_over(1, REASON_LIMIT, false);
	expect_end(c[4]);
	s[0] = qgs_accepts();
	s[1] = qgs_accepts();
	expect_over(3, REASON_QUEUE_TIMEOUT, false);
	CHECK(ends[2].waited_ms >= 190);
	expect_end(c[2]);
	expect_end(c[3]);
	quote_end_all(&b, REASON_SHUTDOWN);
	for (unsigned i = 0; i < 2; i++) {
		expect_end(c[i]);
		close(s[i]);
	}
	expect_over(5, REASON_SHUTDOWN, false);
	done();
}

static void test_rate(void)
{
	uint64_t began;

	begin();
	fair_limit(&b.fair, &(struct fair_limits){ 2, 2, 2, 5, 1 });
	serve(asker(&vm[0]), 1052);
	began = now_ms();
	serve(asker(&vm[0]), 1052); /* by a timer: nothing else happens */
	CHECK(now_ms() - began >= 150);
	expect_over(2, REASON_EOF, true);
	CHECK(ends[1].waited_ms >= 150);
	done();
}

static void test_down(void)
{
	int c, s, in[2];

	begin();
	qgs.state = QGS_DOWN;
	expect_end(asker(&vm[0]));
	expect_over(1, REASON_QGS_DOWN, false);
	qgs.state = QGS_WEDGED;
	expect_end(asker(&vm[0]));
	expect_over(2, REASON_QGS_STUCK, false);
	qgs_is_not_asked();
	qgs.state = QGS_UP;
	qgs.away = true;
	c = asker(&vm[0]);
	qgs_is_not_asked(); /* waits for it */
	qgs.away = false;
	ticket_qgs_changed(&b);
	serve(c, 1052);

	in[0] = asker(&vm[0]);
	in[1] = asker(&vm[0]);
	c = asker(&vm[1]);
	s = qgs_accepts();
	qgs.state = QGS_DOWN;
	ticket_qgs_changed(&b);
	expect_end(c); /* those in QGS are left to it */
	expect_over(4, REASON_QGS_DOWN, false);
	put(s, reply, 5004);
	expect(in[0], reply, 5004);
	expect_end(in[0]);
	close(s);
	close(qgs_accepts());
	expect_end(in[1]);
	expect_over(6, REASON_NO_REPLY, false);
	done();
}

/* ---- dialling ---- */

static void test_refused(void)
{
	int c[2];

	begin();
	qgs_stops();
	expect_end(asker(&vm[0]));
	expect_over(1, REASON_DIAL_REFUSED, false);
	CHECK_INT(qgs.refusals, 1);
	qgs.grace = true;
	c[0] = asker(&vm[0]);
	c[1] = asker(&vm[0]);
	UNTIL(qgs.refusals >= 2 && b.fair.running == 0);
	CHECK_INT(b.fair.waiting, 2);
	qgs_listens(16);
	qgs_is_not_asked();
	qgs.away = false;
	ticket_qgs_changed(&b);
	serve(c[0], 1052); /* in their order */
	serve(c[1], 1052);
	expect_over(3, REASON_EOF, true);

	qgs_stops();
	b.config->timeouts.queue = 100;
	c[0] = asker(&vm[0]);
	expect_over(4, REASON_QUEUE_TIMEOUT, false);
	expect_end(c[0]);
	qgs_listens(16);
	done();
}

/* Its queue is full: it does not accept. */
static void test_no_accept(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int c, filler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	begin();
	qgs_stops();
	qgs_listens(0);
	strcpy(un.sun_path, path);
	CHECK_INT(connect(filler, (struct sockaddr *)&un, sizeof(un)), 0);
	b.config->timeouts.common.dial = 300;
	c = asker(&vm[0]);
	CHECK_INT(b.fair.running, 1);
	expect_over(1, REASON_DIAL_TIMEOUT, false);
	CHECK_INT(qgs.refusals, 1);
	expect_end(c);
	b.config->timeouts.common.dial = 10000;
	c = asker(&vm[0]);
	CHECK_INT(b.fair.running, 1);
	close(c); /* while it dials */
	expect_over(2, REASON_CLOSED_EARLY, false);
	c = asker(&vm[0]);
	CHECK_INT(n_ends, 2);
	close(qgs_accepts()); /* the filler; there is room again */
	serve(c, 1052);
	expect_over(3, REASON_EOF, true);
	close(filler);
	done();
}

/* ---- asking ---- */

static void test_silence(void)
{
	int c, more, s;

	begin();
	b.config->qgs.stuck_after = 150;
	c = asker(&vm[0]);
	s = qgs_accepts();
	expect_over(1, REASON_QGS_STUCK, false);
	CHECK_INT(qgs.silences, 1);
	expect_end(c);
	close(s);
	c = asker(&vm[0]);
	s = qgs_accepts();
	put(s, reply, 5003);
	expect_over(2, REASON_QGS_STUCK, false);
	expect_end(c);
	CHECK_INT(qgs.silences, 2);
	CHECK_INT(qgs.answers, 0);
	close(s);
	b.config->qgs.stuck_after = 10000;
	c = asker(&vm[0]); /* from now on one at a time */
	more = asker(&vm[0]);
	s = qgs_accepts();
	qgs_is_not_asked();
	serve(asker(&vm[1]), 1052);
	close(s);
	expect_end(c);
	serve(more, 1052);
	expect_over(5, REASON_EOF, true);
	done();
}

static void test_cut_short(void)
{
	int c, s;

	begin();
	for (unsigned i = 0; i < 3; i++) {
		c = asker(&vm[0]);
		s = qgs_accepts();
		if (i < 2)
			expect(s, request, 1052);
		put(s, reply, i ? 5003 : 3);
		close(s); /* at last with the request unread: a reset behind the bytes */
		expect_end(c);
		expect_over(i + 1, REASON_CUT_SHORT, false);
		CHECK_INT(ends[i].down, 0);
	}
	c = asker(&vm[0]);
	close(qgs_accepts());
	expect_end(c);
	expect_over(4, REASON_NO_REPLY, false);
	CHECK_INT(qgs.answers, 0);
	CHECK_INT(qgs.silences, 0);
	done();
}

/* QGS ended, and is another one since: its successor is asked, once. */
static void test_asked_again(void)
{
	static const size_t said[] = { 0, 3, 5003 };
	int c, s;

	begin();
	for (unsigned i = 0; i < 3; i++) {
		c = asker(&vm[0]);
		s = qgs_accepts();
		expect(s, request, 1052);
		put(s, reply, said[i]);
		qgs.changes++;
		close(s);
		expect_nothing(c);
		serve(c, 1052);
		expect_over(i + 1, REASON_EOF, true);
	}
	c = asker(&vm[0]);
	for (unsigned i = 0; i < 2; i++) {
		s = qgs_accepts();
		qgs.changes++;
		close(s);
	}
	expect_end(c);
	expect_over(4, REASON_NO_REPLY, false);
	qgs_is_not_asked();
	done();
}

/* It left when QGS had ended, and nobody knew yet whether it was to be asked again. */
static void test_gone_between(void)
{
	int c, s;

	begin();
	c = asker(&vm[0]);
	s = qgs_accepts();
	qgs.changes++;
	close(s);
	UNTIL(b.fair.running == 0);
	close(c);
	expect_over(1, REASON_CLOSED_EARLY, false);
	qgs_is_not_asked();
	c = asker(&vm[0]);
	s = qgs_accepts();
	close(s);
	UNTIL(b.fair.running == 0);
	quote_end_all(&b, REASON_SHUTDOWN);
	expect_over(2, REASON_SHUTDOWN, false);
	close(c);
	done();
}

/* The reply, its end and the close have all happened when it is looked at. */
static void test_reply_and_close(void)
{
	int c, s;

	begin();
	for (unsigned i = 0; i < 20; i++) {
		c = client_of(&vm[0]);
		CHECK_INT(send(c, request, 1052, 0), 1052);
		s = qgs_accepts();
		if (i % 2)
			expect(s, request, 1052);
		CHECK_INT(send(s, reply, 5004, 0), 5004); /* or, with the request unread */
		shutdown(s, SHUT_RDWR);
		close(s);
		expect(c, reply, 5004);
		expect_end(c);
		expect_over(i + 1, REASON_EOF, true);
	}
	done();
}

/* In pieces, and with bytes behind it. */
static void test_reply_in_pieces(void)
{
	int c, s;

	begin();
	c = asker(&vm[0]);
	s = qgs_accepts();
	for (size_t i = 0; i < 5004; i++) {
		if (i % 500 == 0)
			expect_nothing(c);
		put(s, reply + i, 1);
	}
	expect(c, reply, 5004);
	expect_end(c);
	close(s);
	c = asker(&vm[0]);
	s = qgs_accepts();
	put(s, reply, 6000);
	expect(c, reply, 5004);
	expect_end(c);
	close(s);
	b.config->qgs.reply_max = 5003;
	c = asker(&vm[0]);
	s = qgs_accepts();
	put(s, reply, 4);
	expect_end(c);
	expect_over(3, REASON_TOO_LARGE, false);
	close(s);
	done();
}

/* ---- replying ---- */

/* A client that has a whole 1 MiB reply coming, and does not read. */
static int slow_client(void)
{
	const int small = 4096;
	int fd[2], s;

	unix_pair(fd);
	CHECK_INT(setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	arrive(&vm[0], fd[1], false);
	put(fd[0], request, 1052);
	s = qgs_accepts();
	put(s, reply, 1024 * 1024);
	close(s);
	UNTIL(b.fair.running == 0); /* its slot is another's already */
	return fd[0];
}

static void test_slow_client(void)
{
	int c;

	begin();
	make(reply, 1024 * 1024 - 4);
	c = slow_client();
	CHECK_INT(n_ends, 0);
	expect(c, reply, 1024 * 1024);
	expect_end(c);
	expect_over(1, REASON_EOF, true);
	CHECK_INT(ends[0].down, 1024 * 1024);

	c = slow_client();
	CHECK(recv(c, got, 10, 0) == 10);
	close(c); /* with bytes of it unread */
	expect_over(2, REASON_RESET, false);
	b.config->timeouts.reply = 100;
	c = slow_client();
	expect_over(3, REASON_REPLY_TIMEOUT, false);
	CHECK(ends[2].down < 1024 * 1024);
	close(c);
	done();
}

/* A client with a raw request that does not read, and its connection to QGS, which is full. */
static int slow_raw_client(int *s)
{
	const int small = 4096;
	size_t n = 0;
	int fd[2];

	unix_pair(fd);
	CHECK_INT(setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	arrive(&vm[0], fd[1], false);
	put(fd[0], request, 1024);
	*s = qgs_accepts();
	for (ssize_t r = 1; r > 0; settle()) {
		r = send(*s, reply + n, 1024 * 1024 - n, MSG_NOSIGNAL);
		n += r > 0 ? (size_t)r : 0;
	}
	CHECK(n < 1024 * 1024); /* backpressure */
	CHECK_INT(b.fair.running, 1);
	shutdown(*s, SHUT_WR);
	expect(fd[0], reply, 4096);
	return fd[0];
}

static void test_slow_raw_client(void)
{
	int c, s;
	ssize_t n;

	begin();
	memset(request, 0x81, 1024);
	c = slow_raw_client(&s);
	UNTIL((n = recv(c, got, sizeof(got), 0)) == 0);
	expect_over(1, REASON_EOF, true);
	CHECK(ends[0].down > 4096);
	close(c);
	close(s);

	c = slow_raw_client(&s);
	close(c); /* QGS is heard to its end all the same */
	expect_over(2, REASON_RESET, false);
	close(s);

	b.config->timeouts.reply = 100;
	c = slow_raw_client(&s);
	expect_over(3, REASON_REPLY_TIMEOUT, false);
	CHECK_INT(qgs.silences, 0);
	close(c);
	close(s);

	/* nor is a little now and then enough: others wait for the slot */
	c = slow_raw_client(&s);
	while (n_ends == 3) {
		CHECK(recv(c, got, 2048, MSG_DONTWAIT) != 0);
		usleep(10000);
		turn(false);
	}
	expect_over(4, REASON_REPLY_TIMEOUT, false);
	close(c);
	close(s);
	done();
}

static void test_reset_while_replying(void)
{
	const int small = 4096;
	int fd[2], s;

	begin();
	make(reply, 1024 * 1024 - 4);
	tcp_pair(fd);
	CHECK_INT(setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	CHECK_INT(setsockopt(fd[0], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	arrive(&vm[0], fd[1], false);
	put(fd[0], request, 1052);
	s = qgs_accepts();
	put(s, reply, 1024 * 1024);
	UNTIL(b.fair.running == 0);
	settle();
	CHECK_INT(n_ends, 0);
	reset(fd[0]);
	expect_over(1, REASON_RESET, false);
	close(s);
	done();
}

/* It has its reply and does not close: it counts until it is closed for it. */
static void test_linger(void)
{
	int c, s;

	begin();
	c = asker(&vm[0]);
	s = qgs_accepts();
	put(s, reply, 5004);
	close(s);
	expect(c, reply, 5004);
	settle();
	CHECK_INT(vm[0].connections, 1);
	CHECK_INT(b.fair.running, 0);
	quote_end_all(&b, REASON_SHUTDOWN); /* which leaves it alone */
	CHECK_INT(n_ends, 0);
	expect_over(1, REASON_EOF, true);
	expect_end(c);
	done();
}

static void test_end_all(void)
{
	int c[4], s[2];

	begin();
	c[0] = client_of(&vm[0]);
	put(c[0], request, 500);
	for (unsigned i = 1; i < 4; i++)
		c[i] = asker(&vm[i % 2]);
	s[0] = qgs_accepts();
	s[1] = qgs_accepts();
	CHECK_INT(b.fair.waiting, 1);
	quote_end_all(&b, REASON_SHUTDOWN);
	CHECK_INT(n_ends, 4);
	qgs_is_not_asked();
	for (unsigned i = 0; i < 4; i++) {
		CHECK_INT(ends[i].why, REASON_SHUTDOWN);
		expect_end(c[i]);
	}
	close(s[0]);
	close(s[1]);
	done();
}

/* ---- bytes as they come ---- */

static int plain_client(struct vm *of)
{
	int fd[2];

	unix_pair(fd);
	arrive(of, fd[1], true);
	return fd[0];
}

static void test_plain(void)
{
	int c[3], s[2];

	begin();
	for (unsigned i = 0; i < 3; i++)
		c[i] = plain_client(&vm[i]);
	qgs_is_not_asked();
	put(c[0], "a", 1);
	s[0] = qgs_accepts();
	expect(s[0], "a", 1);
	put(s[0], "bc", 2);
	expect(c[0], "bc", 2);
	put(c[0], "def", 3);
	expect(s[0], "def", 3);
	put(c[1], "x", 1);
	s[1] = qgs_accepts();
	put(c[2], "y", 1);
	qgs_is_not_asked(); /* two are in it */
	shutdown(c[0], SHUT_WR);
	expect_end(s[0]);
	expect_end(c[0]);
	expect_over(1, REASON_EOF, true);
	CHECK_INT(ends[0].up, 4);
	CHECK_INT(ends[0].down, 2);
	s[0] = qgs_accepts();
	expect(s[0], "y", 1);
	plain_end_all(&b, REASON_SHUTDOWN);
	expect_over(3, REASON_SHUTDOWN, false);
	for (unsigned i = 0; i < 2; i++) {
		close(s[i]);
		close(c[i + 1]);
	}
	done();
}

static void test_plain_fails(void)
{
	int c;

	begin();
	close(plain_client(&vm[0]));
	expect_over(1, REASON_EOF, false);
	qgs.away = true;
	c = plain_client(&vm[0]);
	put(c, "x", 1);
	settle();
	close(c); /* while it waits */
	expect_over(2, REASON_CLOSED_EARLY, false);
	c = plain_client(&vm[0]);
	put(c, "x", 1);
	settle();
	qgs.away = false;
	qgs.state = QGS_DOWN;
	ticket_qgs_changed(&b);
	expect_over(3, REASON_QGS_DOWN, false);
	expect_end(c);
	b.config->timeouts.request = 100;
	c = plain_client(&vm[0]);
	expect_over(4, REASON_REQUEST_TIMEOUT, false);
	expect_end(c);
	c = plain_client(&vm[0]);
	plain_end_all(&b, REASON_SHUTDOWN);
	expect_over(5, REASON_SHUTDOWN, false);
	expect_end(c);
	done();
}

static void test_reading(void)
{
	test_usual();
	test_byte_by_byte();
	test_more_than_one();
	test_half_closed();
	test_no_request();
	test_reset_while_reading();
	test_long_request();
	test_raw();
}

int main(void)
{
	CHECK(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/qgs.socket", folder);
	test_reading();
	test_in_flight();
	test_gone_while_asking();
	test_queue();
	test_rate();
	test_down();
	test_refused();
	test_no_accept();
	test_silence();
	test_cut_short();
	test_asked_again();
	test_gone_between();
	test_reply_and_close();
	test_reply_in_pieces();
	test_slow_client();
	test_slow_raw_client();
	test_reset_while_replying();
	test_linger();
	test_end_all();
	test_plain();
	test_plain_fails();
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
