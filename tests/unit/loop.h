/*
 * loop: one worker whose loop a test turns by hand, and socket pairs to put into it.
 *
 * Includes worker.c itself, to see what only the worker sees. UNTIL waits for a condition; what
 * does not come in WAIT_MS ends the test.
 */
#ifndef TESTS_UNIT_LOOP_H
#define TESTS_UNIT_LOOP_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "relay/worker.c"
#include "tests/unit/check.h"

#define MAYBE_UNUSED __attribute__((unused))
#define WAIT_MS 30000

static struct worker *w;

/* One turn of worker_run; wait: until something happens. */
static MAYBE_UNUSED void turn(bool wait)
{
	worker_turn(w, wait);
}

/* What can be done without waiting, and a little more. */
static MAYBE_UNUSED void settle(void)
{
	for (int i = 0; i < 50; i++)
		turn(false);
}

static MAYBE_UNUSED uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Turns the loop until cond; the other ends are polled, so the loop itself never sleeps. */
#define UNTIL(cond)                                                                              \
	do {                                                                                     \
		uint64_t overdue_ = now_ms() + WAIT_MS;                                          \
		while (!(cond)) {                                                                \
			turn(false);                                                             \
			if (now_ms() > overdue_) {                                               \
				fprintf(stderr, "%s:%d: did not come: %s\n", __FILE__, __LINE__, \
					#cond);                                                  \
				abort();                                                         \
			}                                                                        \
		}                                                                                \
	} while (0)

static MAYBE_UNUSED void loop_begin(void)
{
	signal(SIGPIPE, SIG_IGN); /* as the programs do */
	w = worker_new(0);
	CHECK(w);
}

/* Nothing may be left: neither conduits nor timers. */
static MAYBE_UNUSED void loop_end(void)
{
	settle();
	CHECK_INT(w->conduits, 0);
	CHECK_INT(w->timers.live, 0);
	w = worker_free(w);
}

static MAYBE_UNUSED int listen_tcp4(struct sockaddr_in *at, int backlog)
{
	socklen_t len = sizeof(*at);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	*at = (struct sockaddr_in){ .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CHECK(l >= 0);
	CHECK_INT(bind(l, (struct sockaddr *)at, sizeof(*at)), 0);
	CHECK_INT(listen(l, backlog), 0);
	CHECK_INT(getsockname(l, (struct sockaddr *)at, &len), 0);
	return l;
}

/* Two connected sockets, both non-blocking. */
static MAYBE_UNUSED void tcp_pair(int fd[2])
{
	struct sockaddr_in at;
	int l = listen_tcp4(&at, 1);

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd[0] >= 0);
	CHECK_INT(connect(fd[0], (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(evutil_make_socket_nonblocking(fd[0]), 0);
	do
		fd[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	while (fd[1] < 0 && errno == EAGAIN);
	CHECK(fd[1] >= 0);
	close(l);
}

static MAYBE_UNUSED void unix_pair(int fd[2])
{
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

/* Closes a TCP socket so that its peer sees RST. */
static MAYBE_UNUSED void reset(int fd)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	close(fd);
}

#endif
