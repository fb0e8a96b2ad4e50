/* A plain socket as a conduit: ends and aborts told apart, interest without wasted wake-ups. */
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
	unsigned turns = 0;
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

	/* wake-ups: those that the limit on the loop causes, and no more */
	for (uint64_t end = now_ms() + 100; now_ms() < end; turns++) {
		struct timeval tv = { .tv_usec = 20000 };

		event_base_loopexit(w->base, &tv); /* the loop sleeps for 20 ms at most */
		turn(true);
	}
	CHECK(turns <= 20);
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

/* Interest that is dropped costs one wake-up and one change; interest that stays costs none. */
static void test_lazy_disarm(void)
{
	struct conduit *c;
	struct timeval tv;
	unsigned turns = 0;
	char buf[8];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_READ);
	settle();
	conduit_want(c, READY_ABORT);
	settle();
	CHECK_INT(event_base_get_num_events(w->base, EVENT_BASE_COUNT_ADDED), 3); /* still armed */
	CHECK_INT(send(fd[1], "ab", 2, 0), 2);
	while (event_base_get_num_events(w->base, EVENT_BASE_COUNT_ADDED) == 3) {
		turn(true);
		CHECK(++turns < 4);
	}
	CHECK_INT(told, 0); /* disarmed by the event nobody wanted, which nobody heard of */
	tv = (struct timeval){ .tv_usec = 30000 };
	event_base_loopexit(w->base, &tv);
	turn(true);
	CHECK_INT(told, 0);

	/* wanted again: told of what was there all the time */
	await(c, READY_READ);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 2);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
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
	test_lazy_disarm();
	test_close_inside();
	loop_end();
	return 0;
}
