/* Accepting: bursts, pauses at a limit and without descriptors, stopping, being stopped inside. */
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "relay/acceptor.h"
#include "relay/peer.h"
#include "tests/unit/loop.h"

#define MANY 100

static struct sockaddr_in at;
static int listening;

/* What the owner counts, says and was given. */
static unsigned admitted, limit, accepted, stop_at;
static bool drains;
static struct peer last;

static const char *on_admit(struct acceptor *a)
{
	if (admitted == limit)
		return "too many for this test";
	admitted++;
	return NULL;
}

static void on_none(struct acceptor *a)
{
	CHECK(admitted > 0);
	admitted--;
}

static void on_accepted(struct acceptor *a, int fd, const struct peer *peer)
{
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	last = *peer;
	close(fd);
	if (++accepted == stop_at) {
		if (drains)
			acceptor_stop(a);
		else
			acceptor_abandon(a);
	}
}

static const struct acceptor_events events = { on_admit, on_none, on_accepted };

static void begin(struct acceptor *a)
{
	admitted = accepted = stop_at = 0;
	limit = 2 * MANY;
	listening = listen_tcp4(&at, MANY);
	CHECK_INT(acceptor_start(a, w, listening, "test", &events), 0);
}

static void end(struct acceptor *a)
{
	acceptor_abandon(a);
	acceptor_abandon(a);
	CHECK_INT(a->fd, -1);
	CHECK(fcntl(listening, F_GETFD) >= 0); /* stays the owner's */
	CHECK_INT(w->timers.live, 0);
	close(listening);
}

static int come(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK_INT(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

/* So many connect; their sockets stay open until leave. */
static int came[MANY];
static unsigned n_came;

static void come_many(unsigned n)
{
	for (n_came = 0; n_came < n; n_came++)
		came[n_came] = come();
}

static void leave(void)
{
	while (n_came)
		close(came[--n_came]);
}

static void test_bursts(void)
{
	struct acceptor a = { 0 };
	unsigned most = 0;

	begin(&a);
	come_many(MANY);
	while (accepted < MANY) {
		unsigned before = accepted;

		turn(true);
		CHECK(accepted - before <= ACCEPTOR_BURST);
		if (accepted - before > most)
			most = accepted - before;
	}
	CHECK_INT(most, ACCEPTOR_BURST);
	settle();
	CHECK_INT(admitted, MANY); /* what admit counted in vain was given back */
	CHECK_INT(last.family, AF_INET);
	CHECK_INT(counter_get(&w->counters.value[COUNTER_ACCEPTED]), MANY);
	leave();
	end(&a);
}

/* At a limit it pauses, does not spin, and goes on by itself when there is room. */
static void test_limit(void)
{
	struct acceptor a = { 0 };
	uint64_t pauses = counter_get(&w->counters.value[COUNTER_ACCEPT_PAUSED]), before;

	begin(&a);
	limit = 3;
	come_many(5);
	UNTIL(accepted == 3 && timer_is_set(&a.resume));
	before = counter_get(&w->counters.value[COUNTER_ACCEPT_PAUSED]);
	CHECK_INT(before, pauses + 1);
	settle();
	CHECK_INT(counter_get(&w->counters.value[COUNTER_ACCEPT_PAUSED]), before);
	CHECK_INT(accepted, 3);
	limit = 10;
	UNTIL(accepted == 5);
	settle();
	CHECK_INT(admitted, 5);
	leave();
	end(&a);
}

static void test_no_descriptors(void)
{
	struct acceptor a = { 0 };
	struct rlimit all, none;

	begin(&a);
	come_many(2);
	CHECK_INT(getrlimit(RLIMIT_NOFILE, &all), 0);
	none = all;
	none.rlim_cur = 1;
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
	UNTIL(timer_is_set(&a.resume));
	CHECK_INT(accepted, 0);
	CHECK_INT(admitted, 0);
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &all), 0);
	UNTIL(accepted == 2);
	leave();
	end(&a);
}

/* Who is in the kernel's queue came in time. */
static void test_stop(void)
{
	struct acceptor a = { 0 };
	int late;

	begin(&a);
	come_many(MANY / 2);
	acceptor_stop(&a);
	CHECK_INT(accepted, MANY / 2);
	CHECK_INT(admitted, MANY / 2);
	late = come();
	settle();
	CHECK_INT(accepted, MANY / 2);
	acceptor_stop(&a); /* twice is fine */
	CHECK_INT(accepted, MANY / 2);
	close(late);
	leave();
	end(&a);

	/* while it pauses, and nobody is admitted */
	begin(&a);
	limit = 0;
	come_many(1);
	UNTIL(timer_is_set(&a.resume));
	acceptor_stop(&a);
	CHECK_INT(accepted, 0);
	leave();
	end(&a);
}

/* By its owner, from inside the event: with those who wait, or without. */
static void test_stopped_inside(bool with)
{
	struct acceptor a = { 0 };

	begin(&a);
	drains = with;
	stop_at = 5;
	come_many(MANY / 2);
	UNTIL(a.fd < 0);
	settle();
	CHECK_INT(accepted, with ? MANY / 2 : 5);
	CHECK_INT(admitted, accepted);
	leave();
	end(&a);
}

int main(void)
{
	loop_begin();
	test_bursts();
	test_limit();
	test_no_descriptors();
	test_stop();
	test_stopped_inside(false);
	test_stopped_inside(true);
	loop_end();
	return 0;
}
