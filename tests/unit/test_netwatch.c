/* netwatch: a link that comes up is noticed, once for a burst; a quiet network is not. */
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/timer.h"
#include "relay/worker.h"
#include "tests/unit/check.h"
#include "tunnel/netwatch.h"

#define SKIPPED 77

static struct worker *worker;
static struct timer quiet, deadline;
static unsigned calls;
static uint64_t began;

static void set_loopback(bool up)
{
	struct ifreq request = { .ifr_flags = up ? IFF_UP : 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	strcpy(request.ifr_name, "lo");
	CHECK_INT(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
}

static void on_quiet(struct timer *t)
{
	CHECK_INT(calls, 0);
	began = worker_now(worker);
	for (unsigned i = 0; i < 10; i++) /* a burst */
		set_loopback(i % 2 == 0);
	set_loopback(true);
}

static void on_changed(void *user)
{
	uint64_t took = worker_now(worker) - began + 2 * TIMER_TICK_MS;

	CHECK(user == &calls);
	calls++;
	began = worker_now(worker);
	if (calls == 1) {
		CHECK(took >= NETWATCH_SETTLE_MS);
		set_loopback(false); /* told just now: the next call keeps its distance */
	} else {
		CHECK(took >= NETWATCH_PAUSE_MS);
		worker_stop(worker);
	}
}

static void on_deadline(struct timer *t)
{
	CHECK(!"told of both changes in time");
}

int main(void)
{
	const char *ci = getenv("CI");
	struct netwatch *n;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0 && unshare(CLONE_NEWNET) < 0) {
		printf("no network namespace of our own to be had: %s\n", strerror(errno));
		return ci && strcmp(ci, "true") == 0 ? 1 : SKIPPED; /* where all should be there */
	}
	worker = worker_new(0);
	CHECK(worker);
	n = netwatch_new(worker, on_changed, &calls);
	CHECK(n);
	timer_set(worker, &quiet, 2 * NETWATCH_SETTLE_MS, on_quiet);
	timer_set(worker, &deadline, 30000, on_deadline);
	worker_run(worker);
	CHECK_INT(calls, 2);
	timer_cancel(worker, &deadline);
	netwatch_free(n);
	worker_free(worker);
	return 0;
}
