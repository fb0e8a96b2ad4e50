/* A plain socket as a conduit: ends and aborts told apart, interest without wasted wake-ups. */
#include <sys/syscall.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "tests/unit/loop.h"

static unsigned told, told_events;
static void (*then)(struct conduit *c, unsigned events);

static void on_ready(struct conduit *c, unsigned events)
{
	told++;
	told_events |= events;
	if (then)
		then(c, events);
}

static unsigned controls;

/* In place of libc's: counts. */
int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
	controls++;
	return (int)syscall(SYS_epoll_ctl, epoll, what, fd, event);
}

static struct conduit *conduit_of(int fd)
{
	struct conduit *c = fd_conduit_new(w, fd);

	CHECK(c);
	c->ready = on_ready;
	told = told_events = 0;
	then = NULL;
	return c;
}

static void await(struct conduit *c, unsigned events)
{
	told_events = 0;
	conduit_want(c, events);
	UNTIL(told_events & events);
}

/* The loop sleeps for 100 ms in all, in naps of 20: how often was it woken besides? */
static void on_nap_end(struct timer *t)
{
}

static unsigned wakes(void)
{
	unsigned turns = 0;

	for (uint64_t end = now_ms() + 100; now_ms() < end; turns++) {
		struct timer nap = { 0 };

		timer_set(w, &nap, 20, on_nap_end);
		turn(true);
		timer_cancel(w, &nap);
	}
	return turns;
}

static void test_kinds(void)
{
	struct conduit *c;
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_STR(c->ops->name, "tcp");
	CHECK_INT(fd_conduit_socket(c), fd[0]);
	conduit_close(c, REASON_EOF);
	close(fd[1]);

	unix_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_STR(c->ops->name, "unix");
	CHECK_INT(fd_conduit_release(c), fd[0]); /* ours again, and open */
	settle();
	CHECK_INT(send(fd[0], "x", 1, 0), 1);
	close(fd[0]);
	close(fd[1]);
}

/* The socket of one that was watched: nothing more is told of it, and another may watch it. */
static void test_release(void)
{
	struct conduit *c;
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_READ);
	settle();
	CHECK_INT(fd_conduit_release(c), fd[0]);
	settle();
	CHECK_INT(send(fd[1], "x", 1, 0), 1);
	settle();
	CHECK_INT(told, 0);
	c = conduit_of(fd[0]);
	await(c, READY_READ);
	CHECK_INT(c->dead, 0);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

static void test_eof(void (*pair)(int fd[2]))
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -EAGAIN);
	CHECK_INT(send(fd[1], "last", 4, 0), 4);
	CHECK_INT(shutdown(fd[1], SHUT_WR), 0);
	await(c, READY_READ);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4);
	await(c, READY_READ);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 0);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 0); /* and stays so */
	/* the other direction lives on */
	CHECK_INT(conduit_write(c, "reply", 5), 5);
	CHECK_INT(conduit_shutdown(c), 0);
	CHECK_INT(recv(fd[1], buf, sizeof(buf), 0), 5);
	CHECK_INT(recv(fd[1], buf, sizeof(buf), 0), 0);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* TCP: an abort is an error behind the bytes that came before it, never EOF; and stays an error. */
static void test_abort_is_no_eof(void)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(send(fd[1], "last", 4, 0), 4);
	await(c, READY_READ);
	reset(fd[1]);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4);
	await(c, READY_READ);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -ECONNRESET);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -ECONNRESET);
	CHECK_INT(conduit_write(c, buf, 1), -ECONNRESET);
	conduit_close(c, REASON_RESET);
}

/* Unix: a peer that closes with our bytes unread has aborted. */
static void test_unix_abort(void)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	unix_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(conduit_write(c, "unread", 6), 6);
	CHECK_INT(send(fd[1], "last", 4, 0), 4);
	close(fd[1]);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -ECONNRESET);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -ECONNRESET);
	conduit_close(c, REASON_RESET);
}

/* A failed send takes the error out of the socket: what follows looks like EOF and is none. */
static void test_failed_send_then_eof(void (*pair)(int fd[2]), bool tcp)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(send(fd[1], "last", 4, 0), 4);
	await(c, READY_READ);
	if (tcp)
		reset(fd[1]);
	else
		close(fd[1]);
	CHECK(conduit_write(c, "x", 1) < 0);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4); /* what was said before is heard */
	CHECK(conduit_read(c, buf, sizeof(buf)) < 0);
	CHECK(conduit_read(c, buf, sizeof(buf)) < 0);
	conduit_close(c, REASON_RESET);
}

/* How a close looks to the peer. */
static void test_close(void)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(conduit_write(c, "bye", 3), 3);
	conduit_close(c, REASON_EOF);
	CHECK_INT(recv(fd[1], buf, sizeof(buf), 0), 3);
	CHECK_INT(recv(fd[1], buf, sizeof(buf), 0), 0);
	close(fd[1]);

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_close(c, REASON_TARGET_RESET);
	CHECK(recv(fd[1], buf, sizeof(buf), 0) < 0);
	CHECK_INT(errno, ECONNRESET);
	close(fd[1]);
}

/* Only the abort is waited for: data pending is left alone, costs nothing, and hides no abort. */
static void test_abort_behind_unread_data(void (*pair)(int fd[2]), bool tcp)
{
	struct conduit *c;
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_READ);
	CHECK_INT(conduit_write(c, "unread", 6), 6);
	CHECK_INT(send(fd[1], "pending", 7, 0), 7);
	UNTIL(told);
	conduit_want(c, READY_ABORT);
	settle();
	told = told_events = 0;

	CHECK(wakes() <= 20);
	CHECK_INT(told, 0);

	if (tcp)
		reset(fd[1]);
	else
		close(fd[1]);
	UNTIL(told);
	CHECK_INT(told_events, READY_ABORT);
	conduit_close(c, REASON_RESET);
}

/* The abort came while something else was wanted and was not read up to: still told afterwards. */
static void test_abort_before_it_is_waited_for(void)
{
	struct conduit *c;
	char buf[4];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_ABORT); /* the watch is made */
	settle();
	conduit_want(c, READY_READ);
	CHECK_INT(send(fd[1], "pending", 7, 0), 7);
	UNTIL(told_events & READY_READ);
	reset(fd[1]);
	settle();
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4); /* the sink takes no more */
	settle();
	told = told_events = 0;
	conduit_want(c, READY_ABORT);
	UNTIL(told);
	CHECK_INT(told_events, READY_ABORT);
	conduit_close(c, REASON_RESET);
}

/* A Unix peer that closes has gone: told, but not before what it said has been heard. */
static void test_gone(bool watched)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	for (unsigned said = 0; said < 2; said++) {
		unix_pair(fd);
		c = conduit_of(fd[0]);
		if (watched) { /* the edge comes while something else is wanted */
			conduit_want(c, READY_ABORT);
			settle();
		} else {
			conduit_want(c, READY_ABORT | READY_GONE);
		}
		CHECK_INT(send(fd[1], "last", 4, 0), 4);
		settle();
		if (!said)
			CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4);
		close(fd[1]);
		settle();
		conduit_want(c, READY_ABORT | READY_GONE);
		if (said) {
			settle();
			CHECK_INT(told, 0);
			CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4);
			conduit_want(c, READY_ABORT | READY_GONE);
		}
		UNTIL(told);
		CHECK_INT(told_events, READY_GONE);
		CHECK(wakes() <= 20);
		CHECK_INT(told, 1);
		conduit_close(c, REASON_RESET);
	}
}

/* Both directions ended in order, the peer's first or ours: nothing to tell. */
static void test_orderly_end_is_not_gone(void (*pair)(int fd[2]), bool ours_first)
{
	struct conduit *c;
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_ABORT | READY_GONE);
	if (ours_first)
		CHECK_INT(conduit_shutdown(c), 0);
	CHECK_INT(shutdown(fd[1], SHUT_WR), 0);
	settle();
	if (!ours_first)
		CHECK_INT(conduit_shutdown(c), 0);
	conduit_want(c, READY_ABORT | READY_GONE);
	settle();
	CHECK_INT(told, 0);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* Both directions ended in order: nothing to tell. */
static void test_orderly_end_is_no_abort(void)
{
	struct conduit *c;
	char buf[4];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(shutdown(fd[1], SHUT_WR), 0);
	await(c, READY_READ);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 0);
	CHECK_INT(conduit_shutdown(c), 0);
	told = 0;
	conduit_want(c, READY_ABORT);
	settle();
	CHECK_INT(told, 0);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* Interest that is dropped costs nothing more, whatever comes; and nothing that came is lost. */
static void test_dropped_interest(void (*pair)(int fd[2]))
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_READ);
	settle();
	conduit_want(c, READY_ABORT);
	CHECK_INT(send(fd[1], "ab", 2, 0), 2);
	CHECK(wakes() <= 20);
	CHECK_INT(told, 0);

	/* wanted again: told of what was there all the time, once a turn until it is used up */
	conduit_want(c, READY_READ);
	CHECK_INT(told, 0);
	turn(true);
	CHECK_INT(told, 1);
	turn(true);
	CHECK_INT(told, 2);
	CHECK_INT(conduit_read(c, buf, 1), 1);
	turn(true);
	CHECK_INT(told, 3);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 1);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -EAGAIN);
	CHECK(wakes() <= 20);
	CHECK_INT(told, 3);

	/* an edge, and what it leaves, are not told twice in a turn */
	CHECK_INT(send(fd[1], "c", 1, 0), 1);
	UNTIL(told > 3);
	CHECK_INT(told, 4);
	turn(true);
	CHECK_INT(told, 5);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

static void read_some(struct conduit *c, unsigned events)
{
	char buf[100];

	if (events & READY_READ)
		CHECK(conduit_read(c, buf, sizeof(buf)) != 0);
}

static void fill(struct conduit *c, unsigned events)
{
	static const char block[64 * 1024];

	while (conduit_write(c, block, sizeof(block)) != -EAGAIN)
		;
}

/* Wanted once, and written to until it is full, again and again: each time it has room is told. */
static void test_full_again(void (*pair)(int fd[2]))
{
	static char sink[256 * 1024];
	struct conduit *c;
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	then = fill;
	conduit_want(c, READY_WRITE);
	UNTIL(told);
	for (unsigned i = 0; i < 3; i++) {
		settle();
		told = 0;
		CHECK(wakes() <= 20);
		CHECK_INT(told, 0);
		UNTIL((recv(fd[1], sink, sizeof(sink), 0), told));
	}
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* The peer takes all there is, in small steps: how often is the loop woken by that? */
static unsigned wakes_while_read(int fd)
{
	struct pollfd loop = { .fd = w->edge_fd, .events = POLLIN };
	char step[4096];
	unsigned n = 0;

	while (recv(fd, step, sizeof(step), 0) > 0) {
		n += poll(&loop, 1, 0) > 0;
		turn(false);
	}
	return n;
}

/* A sink that is full is told of once it has room, and as often as it fills. */
static void test_backpressure(void (*pair)(int fd[2]), bool tcp)
{
	static char block[64 * 1024], sink[256 * 1024];
	unsigned before = 0;
	struct conduit *c;
	int fd[2];

	pair(fd);
	c = conduit_of(fd[0]);
	for (unsigned i = 0; i < 3; i++) {
		await(c, READY_WRITE);
		while (conduit_write(c, block, sizeof(block)) != -EAGAIN)
			;
		CHECK_INT(conduit_write(c, block, sizeof(block)), -EAGAIN);
		told = 0;
		conduit_want(c, READY_WRITE);
		CHECK(wakes() <= 20);
		CHECK_INT(told, 0);
		UNTIL((recv(fd[1], sink, sizeof(sink), 0), told));
		CHECK_INT(told_events, READY_WRITE);
		CHECK(conduit_write(c, "x", 1) == 1);
	}
	/* nobody writes any more: the peer may read what it likes */
	fill(c, READY_WRITE);
	conduit_want(c, READY_READ);
	settle();
	told = 0;
	before = controls;
	CHECK(wakes_while_read(fd[1]) <= 2);
	CHECK_INT(told, 0);
	/* TCP tells only whom it has turned away; the others tell each time, until told not to */
	CHECK_INT(controls - before, tcp ? 0 : 1);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* Bytes and FIN in one: the EOF behind a short read needs no news to be found. */
static void test_eof_behind_short_read(void)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_READ);
	settle();
	CHECK_INT(send(fd[1], "last", 4, 0), 4);
	CHECK_INT(shutdown(fd[1], SHUT_WR), 0);
	UNTIL(told);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 4);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 0);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* Where reads stop short in the middle: urgent data on TCP, passed descriptors on Unix sockets. */
static void test_short_in_the_middle(bool tcp)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	char more[] = "cd";
	struct iovec iov = { more, 2 };
	struct msghdr passing = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	char buf[16] = "";
	size_t got = 0;
	struct conduit *c;
	int fd[2];

	(tcp ? tcp_pair : unix_pair)(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(send(fd[1], "ab", 2, 0), 2);
	if (tcp) {
		CHECK_INT(send(fd[1], "cd!", 3, MSG_OOB), 3); /* the '!' is out of band: lost */
	} else {
		memcpy(CMSG_DATA(&control.header), &fd[1], sizeof(int));
		CHECK_INT(sendmsg(fd[1], &passing, 0), 2);
	}
	CHECK_INT(send(fd[1], "efgh", 4, 0), 4);
	while (got < 8) { /* each time it is told, one read: none may hang */
		ssize_t n;

		await(c, READY_READ);
		n = conduit_read(c, buf + got, sizeof(buf) - got);
		CHECK(n > 0 || n == -EAGAIN);
		got += n > 0 ? (size_t)n : 0;
	}
	CHECK_STR(buf, "abcdefgh");
	CHECK_INT(c->urgent, tcp);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* Between workers: what came meanwhile, or before, is told by the new one. */
static void test_move(void)
{
	struct worker *old = w, *other = worker_new(1);
	struct conduit *c;
	char buf[8];
	int fd[2];

	CHECK(other);
	tcp_pair(fd);
	c = conduit_of(fd[0]);
	then = read_some;
	CHECK_INT(send(fd[1], "ab", 2, 0), 2);
	conduit_want(c, READY_READ);
	UNTIL(told);
	CHECK_INT(send(fd[1], "cd", 2, 0), 2);
	conduit_detach(c);
	settle();
	CHECK_INT(told, 1);
	CHECK_INT(conduit_attach(c, other), 0);
	w = other;
	c->ready = on_ready;
	then = NULL;
	await(c, READY_READ);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 2);
	conduit_close(c, REASON_EOF);
	settle();
	CHECK_INT(other->conduits, 0);
	w = old;
	worker_free(other);
	close(fd[1]);
}

/* A socket on its way: told once it is connected, or is refused. */
static void test_connecting(void)
{
	struct conduit *c;
	struct sockaddr_in at;
	int l = listen_tcp4(&at, 1), fd;

	for (unsigned i = 0; i < 2; i++) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		CHECK(connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0);
		CHECK_INT(errno, EINPROGRESS);
		c = fd_conduit_connecting(w, fd, AF_INET);
		CHECK(c);
		c->ready = on_ready;
		told = told_events = 0;
		conduit_want(c, READY_WRITE | READY_ABORT);
		CHECK_INT(told, 0);
		UNTIL(told);
		CHECK_INT(told_events & READY_ABORT, i ? READY_ABORT : 0);
		conduit_close(c, REASON_RESET);
		if (i == 0)
			close(l);
	}
}

static void close_it(struct conduit *c, unsigned events)
{
	conduit_close(c, REASON_EOF);
}

/* Closed inside ready, with both events due and the abort watch on: nothing is used after. */
static void test_close_inside(void)
{
	struct conduit *c, *other;
	int fd[2], more[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	then = close_it;
	conduit_want(c, READY_ABORT);
	conduit_want(c, READY_READ | READY_WRITE);
	CHECK_INT(send(fd[1], "x", 1, 0), 1);
	UNTIL(told);
	settle();
	CHECK_INT(told, 1);
	close(fd[1]);

	/* and from the callback of another conduit, both ready in the same round */
	tcp_pair(fd);
	tcp_pair(more);
	c = conduit_of(fd[0]);
	other = fd_conduit_new(w, more[0]);
	CHECK(other);
	other->ready = on_ready;
	conduit_want(c, READY_ABORT);
	conduit_want(other, READY_ABORT);
	settle();
	reset(fd[1]);
	reset(more[1]);
	then = close_it;
	UNTIL(told == 2);
	settle();
	CHECK_INT(told, 2);
}

int main(void)
{
	loop_begin();
	test_kinds();
	test_release();
	test_eof(tcp_pair);
	test_eof(unix_pair);
	test_abort_is_no_eof();
	test_unix_abort();
	test_failed_send_then_eof(tcp_pair, true);
	test_failed_send_then_eof(unix_pair, false);
	test_close();
	test_abort_behind_unread_data(tcp_pair, true);
	test_abort_behind_unread_data(unix_pair, false);
	test_abort_before_it_is_waited_for();
	test_orderly_end_is_no_abort();
	test_gone(false);
	test_gone(true);
	test_orderly_end_is_not_gone(tcp_pair, true);
	test_orderly_end_is_not_gone(tcp_pair, false);
	test_orderly_end_is_not_gone(unix_pair, true);
	test_orderly_end_is_not_gone(unix_pair, false);
	test_dropped_interest(tcp_pair);
	test_dropped_interest(unix_pair);
	test_backpressure(tcp_pair, true);
	test_backpressure(unix_pair, false);
	test_full_again(tcp_pair);
	test_full_again(unix_pair);
	test_eof_behind_short_read();
	test_short_in_the_middle(true);
	test_short_in_the_middle(false);
	test_move();
	test_connecting();
	test_close_inside();
	loop_end();
	return 0;
}
