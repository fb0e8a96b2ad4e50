/*
 * Who sets the machine's clock while threads are waited for does not end the wait: a worker that
 * still closes its streams would be left behind, and so would audit records.
 *
 * The clock cannot be set in a test, so it is wrong when it is asked: by an hour.
 */
#include <sys/syscall.h>
#include <time.h>

#include "relay/audit_sink.h"
#include "tests/unit/loop.h"

#define HOUR_S 3600

/* In the place of the C library's. */
int clock_gettime(clockid_t id, struct timespec *to)
{
	int r = (int)syscall(SYS_clock_gettime, id, to);

	if (id == CLOCK_REALTIME)
		to->tv_sec -= HOUR_S;
	return r;
}

static void stop(struct worker *on, void *arg)
{
	poll(NULL, 0, 100); /* it has something to do first */
	worker_stop(on);
}

static void test_worker(void)
{
	struct worker *one = worker_new(0);

	CHECK(one && worker_start(one) == 0);
	CHECK_INT(worker_post(one, stop, NULL), 0);
	CHECK(worker_join_within(one, 60000));
	worker_free(one);
}

static size_t say_lost(uint64_t lost, char text[AUDIT_RECORD_MAX])
{
	text[0] = '\n';
	return 1;
}

static void test_audit(void)
{
	char path[] = "/tmp/clock-set-XXXXXX", read_back[16];
	int fd = mkstemp(path);
	struct audit_sink *s;
	char *why;

	CHECK(fd >= 0);
	s = audit_sink_new(path, false, say_lost, &why);
	CHECK(s);
	audit_sink_put(s, "a record\n", 9);
	audit_sink_free(s); /* were it left behind, its memory would be lost */
	CHECK_INT(read(fd, read_back, sizeof(read_back)), 9);
	unlink(path);
	close(fd);
}

int main(void)
{
#ifdef __SANITIZE_THREAD__
	return 77; /* skipped: these builds do go by the clock that is set (relay/thread.h) */
#endif
	test_worker();
	test_audit();
	return 0;
}
