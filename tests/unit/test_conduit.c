/* What is common to conduits: bytes given back, and moving from one worker to another. */
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "tests/unit/loop.h"

static unsigned told, told_events;

static void on_ready(struct conduit *c, unsigned events)
{
	told++;
	told_events |= events;
}

static struct conduit *conduit_of(int fd)
{
	struct conduit *c = fd_conduit_new(w, fd);

	CHECK(c);
	c->ready = on_ready;
	told = told_events = 0;
	return c;
}

static void test_pushback_is_read_first(void)
{
	struct conduit *c;
	const uint8_t *data;
	char buf[32];
	int fd[2];

	unix_pair(fd);
	c = conduit_of(fd[0]);
	CHECK(!conduit_has_peek(c));
	CHECK_INT(conduit_fd(c), fd[0]);
	CHECK_INT(write(fd[1], "world", 5), 5);
	CHECK_INT(conduit_unread(c, "hello ", 6), 0);
	CHECK_INT(conduit_fd(c), -1); /* splice(2) would overtake the bytes */
	CHECK(conduit_has_peek(c));
	CHECK_INT(conduit_unread(c, "again", 5), -ENOMEM); /* once */
	CHECK_INT(conduit_peek(c, &data), 6);
	CHECK(memcmp(data, "hello ", 6) == 0);
	conduit_consume(c, 2);
	CHECK_INT(conduit_peek(c, &data), 4);
	CHECK(memcmp(data, "llo ", 4) == 0);
	CHECK_INT(conduit_read(c, buf, 3), 3);
	CHECK(memcmp(buf, "llo", 3) == 0);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 1); /* not mixed with the kernel's */
	CHECK_INT(buf[0], ' ');
	CHECK(!conduit_has_peek(c));
	CHECK_INT(conduit_fd(c), fd[0]);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 5);
	CHECK(memcmp(buf, "world", 5) == 0);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -EAGAIN);
	CHECK_INT(conduit_unread(c, "", 0), 0); /* nothing to give back */
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), -EAGAIN);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

static void test_pushback_bound(void)
{
	static uint8_t big[CONDUIT_PUSHBACK_MAX + 1], back[sizeof(big)];
	struct conduit *c;
	int fd[2];

	unix_pair(fd);
	c = conduit_of(fd[0]);
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7 + (i >> 8));
	CHECK_INT(conduit_unread(c, big, sizeof(big)), -ENOMEM);
	CHECK_INT(conduit_unread(c, big, CONDUIT_PUSHBACK_MAX), 0);
	CHECK_INT(conduit_read(c, back, sizeof(back)), CONDUIT_PUSHBACK_MAX);
	CHECK(memcmp(big, back, CONDUIT_PUSHBACK_MAX) == 0);
	conduit_close(c, REASON_EOF);
	close(fd[1]);
}

/* Bytes given back make a conduit ready although its socket is silent; never inside want(). */
static void test_pushback_is_told(void)
{
	struct conduit *c;
	char buf[8];
	int fd[2];

	unix_pair(fd);
	c = conduit_of(fd[0]);
	CHECK_INT(conduit_unread(c, "abc", 3), 0);
	settle();
	CHECK_INT(told, 0); /* nobody asked */
	conduit_want(c, READY_READ);
	CHECK_INT(told, 0);
	turn(true);
	CHECK_INT(told, 1);
	CHECK_INT(told_events, READY_READ);
	turn(true);
	CHECK_INT(told, 2); /* as long as it is true: once a turn */

	/* taken back before the loop came round */
	conduit_want(c, 0);
	settle();
	CHECK_INT(told, 2);

	/* what is left still counts */
	CHECK_INT(conduit_read(c, buf, 2), 2);
	conduit_want(c, READY_READ);
	turn(true);
	CHECK_INT(told, 3);
	CHECK_INT(conduit_read(c, buf, 2), 1);
	settle();
	CHECK_INT(told, 3); /* now there is nothing */
	CHECK_INT(write(fd[1], "d", 1), 1);
	UNTIL(told == 4);

	/* closed while the news is under way (AddressSanitizer looks) */
	CHECK_INT(conduit_read(c, buf, 2), 1);
	CHECK_INT(conduit_unread(c, "e", 1), 0);
	conduit_want(c, READY_READ);
	conduit_close(c, REASON_EOF);
	settle();
	CHECK_INT(told, 4);
	conduit_close(NULL, REASON_EOF);
	close(fd[1]);
}

/* EOF and errors come behind what was given back. */
static void test_pushback_before_eof(void)
{
	struct conduit *c;
	const uint8_t *data;
	char buf[8];
	int fd[2];

	unix_pair(fd);
	c = conduit_of(fd[0]);
	close(fd[1]);
	CHECK_INT(conduit_unread(c, "xy", 2), 0);
	CHECK_INT(conduit_peek(c, &data), 2);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 2);
	CHECK_INT(conduit_read(c, buf, sizeof(buf)), 0);
	conduit_close(c, REASON_EOF);
}

/* --- moving --- */

static struct worker *there;
static pthread_t there_thread;
static char got[64];
static size_t got_len;
static bool got_eof, wrong_thread, wrong_owner;

static void on_ready_there(struct conduit *c, unsigned events)
{
	ssize_t n;

	wrong_thread |= !pthread_equal(pthread_self(), there_thread);
	wrong_owner |= c->worker != there;
	n = conduit_read(c, got + got_len, sizeof(got) - got_len);
	if (n > 0) {
		got_len += (size_t)n;
		conduit_want(c, READY_READ);
		return;
	}
	if (n == -EAGAIN)
		return;
	got_eof = n == 0;
	CHECK_INT(conduit_write(c, "answer", 6), 6);
	conduit_close(c, REASON_EOF);
	worker_stop(there);
}

static void arrive(struct worker *to, void *arg)
{
	struct conduit *c = arg;

	there_thread = pthread_self();
	CHECK_INT(conduit_attach(c, to), 0);
	CHECK_INT(to->conduits, 1);
	c->ready = on_ready_there;
	conduit_want(c, READY_READ);
}

/* With bytes in the kernel, bytes given back and an armed event: nothing is lost or told here. */
static void test_move(void)
{
	unsigned here = w->conduits;
	struct conduit *c;
	char buf[8];
	int fd[2];

	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_READ | READY_WRITE);
	UNTIL(told_events & READY_WRITE);
	CHECK_INT(send(fd[1], "firstrest", 9, 0), 9);
	UNTIL(told_events & READY_READ);
	CHECK_INT(conduit_read(c, buf, 5), 5); /* "rest" stays in the kernel */
	CHECK_INT(conduit_unread(c, "first", 5), 0);
	conduit_want(c, READY_READ); /* the news is queued in this worker */
	conduit_detach(c);
	CHECK(!c->worker && !c->ready);
	CHECK_INT(w->conduits, here);
	told = 0;
	settle();
	CHECK_INT(told, 0);

	there = worker_new(1);
	CHECK(there);
	CHECK_INT(worker_start(there), 0);
	CHECK_INT(worker_post(there, arrive, c), 0);
	CHECK_INT(send(fd[1], "later", 5, 0), 5);
	CHECK_INT(shutdown(fd[1], SHUT_WR), 0);
	worker_join(there);
	settle();
	CHECK_INT(told, 0);
	CHECK(!wrong_thread && !wrong_owner && got_eof);
	CHECK_INT(got_len, 14);
	CHECK(memcmp(got, "firstrestlater", 14) == 0);
	CHECK_INT(recv(fd[1], buf, sizeof(buf), 0), 6);
	CHECK(memcmp(buf, "answer", 6) == 0);
	CHECK_INT(recv(fd[1], buf, sizeof(buf), 0), 0);
	CHECK_INT(there->conduits, 0);
	close(fd[1]);
	there = worker_free(there);
}

/* There and back again, in one thread: the watch for aborts moves too. */
static void test_move_watch(void)
{
	struct worker *other = worker_new(2);
	struct conduit *c;
	int fd[2];

	CHECK(other);
	tcp_pair(fd);
	c = conduit_of(fd[0]);
	conduit_want(c, READY_ABORT);
	settle();
	conduit_detach(c);
	CHECK_INT(conduit_attach(c, other), 0);
	conduit_detach(c);
	CHECK_INT(other->conduits, 0);
	CHECK_INT(conduit_attach(c, w), 0);
	c->ready = on_ready;
	conduit_want(c, READY_ABORT);
	settle();
	CHECK_INT(told, 0);
	reset(fd[1]);
	UNTIL(told);
	CHECK_INT(told_events, READY_ABORT);
	conduit_close(c, REASON_RESET);
	worker_free(other);
}

static enum reason closed_as;

static int fail_to_attach(struct conduit *c, struct worker *to)
{
	return -ENOSPC;
}

static void nothing_to_detach(struct conduit *c)
{
}

static void note_close(struct conduit *c, enum reason why)
{
	closed_as = why;
	conduit_deinit(c);
}

/* Who cannot settle in the new worker is that worker's all the same, to be closed there. */
static void test_move_fails(void)
{
	static const struct conduit_ops ops = { .name = "unmovable",
						.detach = nothing_to_detach,
						.attach = fail_to_attach,
						.close = note_close };
	struct worker *other = worker_new(2);
	unsigned here = w->conduits;
	struct conduit c;

	CHECK(other);
	conduit_init(&c, &ops, w);
	conduit_detach(&c);
	CHECK_INT(w->conduits, here);
	CHECK_INT(conduit_attach(&c, other), -ENOSPC);
	CHECK(c.worker == other);
	CHECK_INT(other->conduits, 1);
	conduit_close(&c, REASON_NO_MEMORY);
	CHECK_INT(closed_as, REASON_NO_MEMORY);
	CHECK_INT(other->conduits, 0);
	worker_free(other);
}

int main(void)
{
	loop_begin();
	test_pushback_is_read_first();
	test_pushback_bound();
	test_pushback_is_told();
	test_pushback_before_eof();
	test_move();
	test_move_watch();
	test_move_fails();
	loop_end();
	return 0;
}
