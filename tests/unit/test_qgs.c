/*
 * test_qgs: QGS comes, goes, is replaced, dies, gets stuck and recovers; the test plays it, or has
 * a process do so.
 */
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "config/bridge.h"
#include "qgs-bridge/command.h"
#include "qgs-bridge/qgs.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/log.h"
#include "tests/unit/loop.h"

static char folder[] = "/tmp/test-qgs-XXXXXX", path[64], mark[64];
static int listener = -1;
static struct bridge_config *config;
static struct qgs *q;
static unsigned told;

static void on_change(struct qgs *of)
{
	CHECK(of == q);
	CHECK(qgs_user(of) == &told);
	told++;
}

static int listen_at(int backlog)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, path);
	CHECK(l >= 0);
	CHECK_INT(bind(l, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(listen(l, backlog), 0);
	return l;
}

static void qgs_begins(void)
{
	listener = listen_at(16);
}

/* As it ends: what it has not accepted is reset. clean: its socket goes, too. */
static void qgs_ends(bool clean)
{
	close(listener);
	listener = -1;
	if (clean)
		CHECK_INT(unlink(path), 0);
}

/* Accepts probes and lets them close; the last that stays open, or -1. */
static int take_probe(void)
{
	char byte;
	int fd, left = -1;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		settle();
		if (recv(fd, &byte, 1, MSG_PEEK) == 0) {
			close(fd);
			continue;
		}
		CHECK_INT(left, -1);
		left = fd;
	}
	return left;
}

static void expect(enum qgs_state state, bool away)
{
	CHECK_INT(qgs_state(q), state);
	CHECK_INT(qgs_is_away(q), away);
	CHECK_INT(*qgs_detail(q) == '\0', state == QGS_UP && !away);
}

/* From the loop, once. */
static void expect_change(unsigned n, enum qgs_state state)
{
	UNTIL(told >= n);
	CHECK_INT(told, n);
	expect(state, false);
}

static void begin(const char *address)
{
	char *why = NULL;

	loop_begin();
	config = bridge_config_new();
	CHECK_INT(bridge_config_set_qgs(config, address, &why), 0);
	config->qgs.stuck_count = 2;
	config->qgs.stuck_after = 100;
	told = 0;
}

static void watch(void)
{
	q = qgs_new(w, &config->qgs, 500, on_change, &told);
	CHECK(q);
	CHECK_INT(qgs_state(q), QGS_DOWN);
	CHECK(qgs_is_away(q)); /* it is not known yet */
	CHECK_INT(told, 0);
}

static void begin_up(void)
{
	char address[80];

	snprintf(address, sizeof(address), "unix:%s", path);
	begin(address);
	qgs_begins();
	watch();
	expect_change(1, QGS_UP);
	CHECK_INT(take_probe(), -1);
}

static void done(void)
{
	CHECK(!qgs_free(q));
	if (listener >= 0)
		qgs_ends(true);
	bridge_config_unref(config);
	loop_end();
}

/* Neither socket nor folder at first. */
static void test_comes(void)
{
	char address[96];

	begin("unix:/nowhere");
	snprintf(address, sizeof(address), "unix:%s", path);
	CHECK_INT(rmdir(folder), 0);
	CHECK_INT(bridge_config_set_qgs(config, address, &(char *){ NULL }), 0);
	watch();
	expect_change(1, QGS_DOWN);
	CHECK(strstr(qgs_detail(q), path));
	CHECK_INT(mkdir(folder, 0700), 0);
	qgs_begins();
	expect_change(2, QGS_UP);
	CHECK_INT(qgs_counts(q).downs, 0);
	done();
}

/* SIGHUP: another socket in its place. */
static void test_replaced(void)
{
	begin_up();
	qgs_ends(true);
	UNTIL(qgs_is_away(q));
	expect(QGS_UP, true);
	qgs_begins();
	expect_change(2, QGS_UP);
	CHECK_INT(qgs_counts(q).downs, 0);
	done();
}

static void test_goes(void)
{
	begin_up();
	qgs_ends(true);
	UNTIL(qgs_is_away(q));
	CHECK_INT(told, 1);
	expect_change(2, QGS_DOWN);
	CHECK_INT(qgs_counts(q).downs, 1);
	qgs_met_refusal(q, REASON_DIAL_REFUSED, "again");
	settle();
	expect_change(2, QGS_DOWN);
	qgs_begins();
	expect_change(3, QGS_UP);
	done();
}

/* Not under valgrind. Then the next probe tells, and a timer that a command is over. */
static bool has_pidfd(void)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* A process that listens and dies; its socket stays, so only its pidfd tells. */
static void test_dies(void)
{
	char address[80];
	uint64_t began;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		listen_at(16);
		pause();
		_exit(0);
	}
	while (access(path, F_OK) < 0)
		usleep(1000);
	snprintf(address, sizeof(address), "unix:%s", path);
	begin(address);
	watch();
	UNTIL(qgs_state(q) == QGS_UP && told > 0);
	told = 1;
	began = now_ms();
	CHECK_INT(kill(pid, SIGKILL), 0);
	UNTIL(qgs_is_away(q));
	if (has_pidfd()) {
		CHECK(now_ms() - began < QGS_PROBE_MS - QGS_GRACE_MS); /* no probe was due */
		UNTIL(told == 2); /* who is not here yet is to stay away, at once */
		CHECK(!qgs_takes_new(q));
		expect(QGS_UP, true);
	}
	CHECK_INT(waitpid(pid, NULL, 0), pid);
	expect_change(has_pidfd() ? 3 : 2, QGS_DOWN);
	CHECK_INT(unlink(path), 0);
	done();
}

/* A probe through a VMM, which says that the guest has taken it. */
static int take_hybrid(void)
{
	static const char ask[] = "CONNECT 7\n", ok[] = "OK 1073741824\n";
	char got[sizeof(ask)];
	int fd;

	UNTIL((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
	UNTIL(recv(fd, got, sizeof(got), MSG_PEEK) == sizeof(ask) - 1);
	CHECK_INT(recv(fd, got, sizeof(got), 0), sizeof(ask) - 1);
	CHECK(memcmp(got, ask, sizeof(ask) - 1) == 0);
	CHECK_INT(send(fd, ok, sizeof(ok) - 1, 0), sizeof(ok) - 1);
	return fd;
}

/* No process is to be seen: a probe's connection is left standing, and its end is a sign. */
static void test_stands(void)
{
	char address[96], byte;
	uint64_t began;
	int fd;

	snprintf(address, sizeof(address), "hybrid:%s:7", path);
	begin(address);
	qgs_begins();
	watch();
	fd = take_hybrid();
	expect_change(1, QGS_UP);
	settle();
	CHECK_INT(recv(fd, &byte, 1, 0), -1); /* it is open, and nothing is said */
	CHECK_INT(errno, EAGAIN);

	/* who lets nobody stand there is not asked all the time */
	began = now_ms();
	close(fd);
	fd = take_hybrid();
	CHECK(now_ms() - began >= QGS_PROBE_DOWN_MS - 50);

	/* else it is looked at once: no probe is due for another 4 s */
	began = now_ms();
	UNTIL(now_ms() - began > QGS_PROBE_DOWN_MS + 50);
	CHECK_INT(qgs_counts(q).probes, 2);
	began = now_ms();
	close(fd);
	fd = take_hybrid();
	CHECK(now_ms() - began < 3000);
	CHECK_INT(told, 1);

	/* QGS has ended: who would come now stays away at once, as after a crash */
	UNTIL(qgs_counts(q).probes == 3);
	qgs_ends(true);
	close(fd);
	UNTIL(qgs_is_away(q));
	CHECK(!qgs_takes_new(q));
	UNTIL(told == 2);
	expect(QGS_UP, true);
	expect_change(3, QGS_DOWN);
	done();
}

/* A request was refused, but QGS is there. */
static void test_refusal(void)
{
	begin_up();
	qgs_met_refusal(q, REASON_DIAL_REFUSED, "unix:x: refused");
	expect(QGS_UP, true);
	CHECK(qgs_takes_new(q)); /* it has not crashed: it may be there in a moment */
	CHECK_STR(qgs_detail(q), "unix:x: refused");
	qgs_met_refusal(q, REASON_DIAL_REFUSED, "unix:x: refused");
	expect_change(2, QGS_UP);
	CHECK_INT(qgs_counts(q).downs, 0);
	done();
}

/* Two requests are not answered, nor is its own. */
static void wedge(unsigned n)
{
	int fd;

	qgs_met_silence(q);
	qgs_met_silence(q);
	expect(QGS_UP, false);
	expect_change(n, QGS_WEDGED);
	while ((fd = accept(listener, NULL, NULL)) >= 0)
		close(fd);
}

static void test_wedged(void)
{
	begin_up();
	qgs_met_silence(q);
	qgs_met_answer(q);
	qgs_met_silence(q);
	expect(QGS_UP, false); /* not in a row */
	qgs_met_answer(q);
	wedge(2);
	qgs_met_silence(q);
	qgs_met_answer(q); /* an old request's */
	expect_change(3, QGS_UP);
	qgs_met_silence(q);
	settle();
	expect(QGS_UP, false); /* they count anew */
	qgs_met_answer(q);
	wedge(4);
	CHECK_INT(qgs_counts(q).wedges, 2);
	CHECK_INT(qgs_counts(q).silences, 8);
	qgs_ends(true);
	expect_change(5, QGS_DOWN);
	qgs_begins();
	expect_change(6, QGS_UP);
	done();
}

static int take_question(void)
{
	static const uint8_t asked[20] = { 0, 0, 0, 16, 1, 0, 1, 0, 4, 0, 0, 0, 16 };
	uint8_t got[64];
	int fd;

	UNTIL((fd = take_probe()) >= 0);
	CHECK_INT(recv(fd, got, sizeof(got), 0), 20);
	CHECK(memcmp(got, asked, 20) == 0);
	return fd;
}

/* Requests hang, but it answers its own, or closes, or another request is answered: it is up. */
static void test_suspect(void)
{
	int fd;

	begin_up();
	config->qgs.stuck_after = 60000;
	for (unsigned i = 0; i < 3; i++) {
		qgs_met_silence(q);
		qgs_met_silence(q);
		fd = take_question();
		qgs_met_silence(q);
		CHECK_INT(chmod(path, i % 2 ? 0600 : 0666), 0); /* a sign, in between */
		settle();
		expect(QGS_UP, false);
		if (i == 0)
			CHECK_INT(send(fd, "\0", 1, 0), 1);
		if (i == 2)
			qgs_met_answer(q);
		close(fd);
		settle();
		qgs_met_silence(q); /* which is the first again */
		settle();
		CHECK_INT(take_probe(), -1);
		qgs_met_answer(q);
	}
	CHECK_INT(told, 1);
	CHECK_INT(qgs_counts(q).wedges, 0);
	qgs_met_silence(q);
	qgs_met_silence(q);
	fd = take_question();
	done(); /* while it is asked */
	close(fd);
}

/* What a probe asks while it is wedged, and its answers. */
static void test_wedged_probe(void)
{
	int fd;

	begin_up();
	for (unsigned i = 0; i < 2; i++) {
		wedge(2 + 2 * i);
		CHECK_INT(chmod(path, i ? 0600 : 0666), 0); /* a sign of change */
		fd = take_question();
		expect(QGS_WEDGED, false);
		if (i == 0)
			CHECK_INT(send(fd, "\0", 1, 0), 1);
		close(fd);
		expect_change(3 + 2 * i, QGS_UP);
	}
	wedge(6);
	CHECK_INT(chmod(path, 0644), 0);
	UNTIL((fd = take_probe()) >= 0);
	done(); /* while it is asked */
	close(fd);
}

static void test_no_accept(void)
{
	char address[80];
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int filler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	begin_up();
	strcpy(un.sun_path, path);
	CHECK_INT(listen(listener, 0), 0);
	CHECK_INT(connect(filler, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_INT(chmod(path, 0666), 0); /* probes, which find its queue full */
	UNTIL(qgs_counts(q).silences > 0);
	expect(QGS_UP, false);
	qgs_met_refusal(q, REASON_DIAL_TIMEOUT, "as a request does"); /* its own is no better */
	expect_change(2, QGS_WEDGED);
	done();
	close(filler);

	/* without framing it is as if nobody listened */
	snprintf(address, sizeof(address), "unix:%s", path);
	begin(address);
	config->qgs.framing = FRAMING_NONE;
	qgs_begins();
	watch();
	expect_change(1, QGS_UP);
	qgs_met_silence(q);
	qgs_met_silence(q);
	qgs_met_silence(q);
	expect(QGS_UP, false);
	qgs_met_refusal(q, REASON_DIAL_TIMEOUT, "no answer");
	expect(QGS_UP, true);
	expect_change(2, QGS_UP);
	done();
}

/* ---- the command ---- */

static void command_is(unsigned n, ...)
{
	va_list list;

	config->qgs.stuck_command.at = calloc(n, sizeof(char *));
	config->qgs.stuck_command.n = n;
	va_start(list, n);
	for (unsigned i = 0; i < n; i++)
		config->qgs.stuck_command.at[i] = strdup(va_arg(list, const char *));
	va_end(list);
}

static void test_command(void)
{
	char address[80];
	int fd;

	snprintf(address, sizeof(address), "unix:%s", path);
	begin(address);
	command_is(4, "/bin/sh", "-c", "! read x && : > \"$0\"; exit 3", mark);
	qgs_begins();
	watch();
	expect_change(1, QGS_UP);
	CHECK_INT(take_probe(), -1);
	wedge(2);
	UNTIL(access(mark, F_OK) == 0); /* it ran, and its input was empty */
	UNTIL((fd = take_probe()) >= 0); /* its end is a reason to look */
	CHECK_INT(unlink(mark), 0);
	CHECK_INT(send(fd, "\0", 1, 0), 1);
	expect_change(3, QGS_UP);
	close(fd);
	CHECK_INT(waitpid(-1, NULL, WNOHANG), -1); /* it was waited for */
	CHECK_INT(errno, ECHILD);
	wedge(4);
	settle();
	CHECK_INT(waitpid(-1, NULL, WNOHANG), -1); /* not again so soon */
	done();
}

static void on_over(void *user)
{
	++*(unsigned *)user;
}

/*
 * Whoever forks has copies of all sockets. One that lives on when we close ours keeps the watch of
 * a conduit that is no more.
 */
static void test_command_copies_nothing(void)
{
	char *texts[] = { strdup("/bin/true") };
	const struct strings program = { texts, 1 };
	unsigned over = 0;

	loop_begin();
	for (unsigned i = 0; i < 200; i++) {
		struct command *c = command_new(w, &program, on_over, &over);
		struct conduit *conduit;
		int fd[2];

		unix_pair(fd);
		conduit = fd_conduit_new(w, fd[1]);
		conduit_want(conduit, READY_READ);
		CHECK(command_run(c));
		conduit_close(conduit, REASON_EOF);
		CHECK_INT(send(fd[0], "x", 1, MSG_NOSIGNAL), -1);
		CHECK_INT(errno, EPIPE);
		UNTIL(over == i + 1);
		command_free(c);
		close(fd[0]);
	}
	free(texts[0]);
	loop_end();
}

static pid_t only_child(void)
{
	char name[64], text[64] = "";
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/task/%d/children", getpid());
	f = fopen(name, "re");
	CHECK(f && fgets(text, sizeof(text), f));
	fclose(f);
	return atoi(text);
}

static void test_command_fails(void)
{
	char *none[] = { mark }, *sleeps[] = { strdup("/bin/sleep"), strdup("60") };
	const struct strings missing = { none, 1 }, slow = { sleeps, 2 };
	unsigned over = 0;
	struct command *c;
	pid_t pid;

	loop_begin();
	if (has_pidfd()) { /* valgrind makes a fork of the vfork, which cannot tell */
		c = command_new(w, &missing, on_over, &over);
		CHECK(!command_run(c)); /* there is no such program */
		CHECK(!command_run(c));
		command_free(c);
	}
	c = command_new(w, &slow, on_over, &over);
	CHECK(command_run(c));
	CHECK(!command_run(c)); /* one at a time */
	CHECK(!command_free(c)); /* it goes on */
	CHECK_INT(over, 0);
	pid = only_child();
	CHECK_INT(waitpid(pid, NULL, WNOHANG), 0);
	CHECK_INT(kill(pid, SIGKILL), 0);
	CHECK_INT(waitpid(pid, NULL, 0), pid);
	free(sleeps[0]);
	free(sleeps[1]);
	loop_end();
}

static void test_words(void)
{
	CHECK_STR(qgs_state_word(QGS_DOWN), "down");
	CHECK_STR(qgs_state_word(QGS_UP), "up");
	CHECK_STR(qgs_state_word(QGS_WEDGED), "wedged");
}

int main(void)
{
	CHECK(mkdtemp(folder));
	log_set_level(LOG_LEVEL_ERROR);
	snprintf(path, sizeof(path), "%s/qgs.socket", folder);
	snprintf(mark, sizeof(mark), "%s/mark", folder);
	test_words();
	test_comes();
	test_replaced();
	test_goes();
	test_dies();
	test_stands();
	test_refusal();
	test_wedged();
	test_suspect();
	test_wedged_probe();
	test_no_accept();
	test_command();
	if (has_pidfd())
		test_command_copies_nothing();
	test_command_fails();
	CHECK_INT(rmdir(folder), 0);
	return 0;
}
