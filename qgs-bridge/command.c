/*
 * command: runs a program.
 *
 * Theory of operation: posix_spawn, which makes no copy of our memory and lets us go on when the
 * program has taken over. That is a moment before the kernel closes what is close-on-exec: the
 * child would still have copies of our sockets when we close them, and their watches would live on
 * (see edge.h). So it closes all of them itself, before.
 *
 * A pidfd tells when the program has ended; then it is waited for: this child alone, so SIGCHLD is
 * not needed. Where there is no pidfd to be had, a slow timer looks.
 */
#include "qgs-bridge/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/edge.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define LOOK_MS 1000 /* without a pidfd: is it over? */

extern char **environ;

struct command {
	struct worker *worker;
	void (*over)(void *user);
	void *user;
	pid_t pid; /* 0: none runs */
	int pidfd; /* -1: none */
	struct edge edge;
	struct timer look;
	uint64_t began; /* 0: never */
	char *argv[];	/* NULL at its end */
};

static void log_end(const struct command *c, int status)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		log_info("%s has ended in order", c->argv[0]);
	else if (WIFEXITED(status))
		log_warning("%s has failed: exit status %d", c->argv[0], WEXITSTATUS(status));
	else
		log_warning("%s was ended by signal %d", c->argv[0], WTERMSIG(status));
}

static void on_look(struct timer *t);

/* Is it over? */
static void look(struct command *c)
{
	int status = 0;
	pid_t pid = waitpid(c->pid, &status, WNOHANG);

	if (pid == 0 || (pid < 0 && errno == EINTR)) {
		if (c->pidfd < 0)
			timer_set(c->worker, &c->look, LOOK_MS, on_look);
		return;
	}
	if (pid > 0)
		log_end(c, status);
	c->pid = 0;
	edge_forget(&c->edge);
	if (c->pidfd >= 0)
		close(c->pidfd);
	c->pidfd = -1;
	c->over(c->user);
}

static void on_pidfd(struct edge *e, uint32_t events)
{
	look((struct command *)((char *)e - offsetof(struct command, edge)));
}

static void on_look(struct timer *t)
{
	look((struct command *)((char *)t - offsetof(struct command, look)));
}

static int spawn(struct command *c)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, usual;
	int r = posix_spawn_file_actions_init(&files);

	if (r)
		return r;
	r = posix_spawnattr_init(&attr);
	if (r) {
		posix_spawn_file_actions_destroy(&files);
		return r;
	}
	sigemptyset(&none);
	sigemptyset(&usual);
	sigaddset(&usual, SIGPIPE); /* which this program ignores, as it may the others */
	sigaddset(&usual, SIGUSR1);
	sigaddset(&usual, SIGUSR2);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &usual);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	r = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	if (!r)
		r = posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(&files, 3);
	if (!r)
		r = posix_spawn(&c->pid, c->argv[0], &files, &attr, c->argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	return r;
}

bool command_run(struct command *c)
{
	uint64_t now = worker_now(c->worker);
	int r;

	if (c->pid || (c->began && now - c->began < COMMAND_PAUSE_MS))
		return false;
	c->began = now;
	r = spawn(c);
	if (r) {
		c->pid = 0;
		log_warning("%s could not be run: %s", c->argv[0], strerror(r));
		return false;
	}
	log_info("%s runs as process %d", c->argv[0], (int)c->pid);
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd >= 0 && edge_watch(c->worker, &c->edge, c->pidfd, EPOLLIN, on_pidfd) < 0) {
		close(c->pidfd);
		c->pidfd = -1;
	}
	if (c->pidfd < 0)
		timer_set(c->worker, &c->look, LOOK_MS, on_look);
	return true;
}

struct command *command_new(struct worker *w, const struct strings *texts,
			    void (*over)(void *user), void *user)
{
	struct command *c = calloc(1, sizeof(*c) + (texts->n + 1) * sizeof(char *));

	if (!c)
		return NULL;
	c->worker = w;
	c->over = over;
	c->user = user;
	c->pidfd = -1;
	memcpy(c->argv, texts->at, texts->n * sizeof(char *));
	return c;
}

struct command *command_free(struct command *c)
{
	if (!c)
		return NULL;
	timer_cancel(c->worker, &c->look);
	edge_forget(&c->edge);
	if (c->pidfd >= 0)
		close(c->pidfd);
	free(c);
	return NULL;
}
