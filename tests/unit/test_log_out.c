/* A log that nobody reads: who has a line goes on, what is lost is counted, and told later. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay/log.h"
#include "tests/unit/check.h"

#define LINES 20000 /* of a thread: more than pipe and queue together hold */
#define THREADS 2
#define STUCK_SECONDS 120

static int real_stderr, from_log;

static void use(const int fd[2])
{
	from_log = fd[0];
	real_stderr = dup(2);
	CHECK(real_stderr >= 0);
	CHECK_INT(dup2(fd[1], 2), 2);
	close(fd[1]);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
}

static void end(void)
{
	CHECK_INT(dup2(real_stderr, 2), 2);
	close(real_stderr);
	close(from_log);
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
}

/* CHECK speaks on stderr. */
#define HOLDS(cond)                           \
	do {                                  \
		if (!(cond)) {                \
			dup2(real_stderr, 2); \
			CHECK(cond);          \
		}                             \
	} while (0)

static void *chatter(void *arg)
{
	for (int i = 0; i < LINES; i++)
		log_info("thread %d line %d %080d", *(int *)arg, i, 0);
	return NULL;
}

static void chat(void)
{
	static int name[THREADS];
	pthread_t t[THREADS];

	for (int i = 0; i < THREADS; i++) {
		name[i] = i;
		CHECK_INT(pthread_create(&t[i], NULL, chatter, &name[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

/* All is there up to the line that says what is not; each thread's in its order. */
static void check_rest(uint64_t lost)
{
	FILE *in = fdopen(dup(from_log), "r");
	int last[THREADS] = { -1, -1 }, thread, number;
	unsigned long long said = 0, told = 0, seen = 0;
	char line[4096];

	HOLDS(in);
	while (told < lost) {
		const char *message;

		HOLDS(fgets(line, sizeof(line), in));
		message = strstr(line, "Z ");
		HOLDS(message);
		if (sscanf(message, "Z info: thread %d line %d ", &thread, &number) == 2) {
			HOLDS(thread >= 0 && thread < THREADS && number > last[thread]);
			last[thread] = number;
			seen++;
		} else {
			HOLDS(sscanf(message, "Z error: %llu lines of the log were lost", &said) ==
			      1);
			told += said;
		}
	}
	HOLDS(told == lost);
	HOLDS(seen + lost == (unsigned long long)LINES * THREADS);
	fclose(in);
}

static void test_stuck(const int fd[2])
{
	uint64_t before = log_lost(), lost;

	use(fd);
	HOLDS(!(fcntl(2, F_GETFL) & O_NONBLOCK)); /* it is others', too */
	chat();
	lost = log_lost() - before;
	HOLDS(lost > 0 && lost < (uint64_t)LINES * THREADS);
	check_rest(lost);
	log_info("again");
	HOLDS(log_lost() - before == lost);
	end();
}

static void test_stuck_pipe(void)
{
	int fd[2];

	CHECK_INT(pipe2(fd, O_CLOEXEC), 0);
	test_stuck(fd);
}

/* As systemd makes stderr. */
static void test_stuck_socket(void)
{
	int fd[2];

	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	test_stuck(fd);
}

static void test_nobody(void)
{
	uint64_t before = log_lost();
	int fd[2];

	CHECK_INT(pipe2(fd, O_CLOEXEC), 0);
	use(fd);
	close(from_log);
	from_log = -1;
	log_info("lost");
	HOLDS(log_lost() == before + 1);
	end();
}

/* The process of another user: it may neither open stderr anew nor have a thread. */
static void speak_and_exit(const int fd[2])
{
	const struct rlimit none = { 0, 0 };
	char rest[65536];
	ssize_t n;

	/* leaves of root nothing that gets round either */
	if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
		errno = 0; /* we were no root */
	HOLDS(setrlimit(RLIMIT_NPROC, &none) == 0);
	use(fd);
	for (int i = 0; i < 800; i++)
		log_info("line %d %080d", i, 0);
	n = read(from_log, rest, sizeof(rest)); /* now there is room */
	HOLDS(n > 0);
	log_info("last words");
	exit(0);
}

static void test_last_words(void)
{
	int fd[2], status;
	char rest[131072];
	size_t used = 0;
	ssize_t n;
	pid_t pid;

	CHECK_INT(pipe2(fd, O_CLOEXEC), 0);
	CHECK_INT(fchmod(fd[1], 0), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		speak_and_exit(fd);
	CHECK_INT(waitpid(pid, &status, 0), pid);
#ifndef __SANITIZE_ADDRESS__ /* its leak checker wants a process of its own */
	CHECK_INT(status, 0);
#endif
	close(fd[1]);
	while ((n = read(fd[0], rest + used, sizeof(rest) - 1 - used)) > 0)
		used += (size_t)n;
	close(fd[0]);
	rest[used] = '\0';
	CHECK(strstr(rest, " line 799 "));
	CHECK(strstr(rest, "last words"));
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	alarm(STUCK_SECONDS);
	test_stuck_pipe();
	test_stuck_socket();
	test_nobody();
	test_last_words();
	return 0;
}
