/*
 * takeover: one attest-relay takes another one's place: the heir's side.
 *
 * Theory of operation: a blocking conversation of a few lines, each read bounded in bytes and time.
 * A descriptor comes with the last byte of its line at the latest, and the kernel ends a read where
 * one was attached: so those that have come wait in a queue, and each "socket" line takes the
 * first.
 */
#include "relay/takeover.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/heir.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/why.h"

#define WAIT_S 10      /* for each answer: the other one may be busy with a reload */
#define LINE_SIZE 1024 /* a line of the conversation */
#define FDS_WAITING 16 /* descriptors that came before their line */
#define DIALS_MAX 10   /* to one that may have died */
#define GONE_MS 200    /* one that is ending resets a connection sooner */

struct takeover {
	int fd;
	char text[LINE_SIZE];
	size_t n;
	bool mute; /* it did not answer in time */
	bool over; /* it says no more */
	int fds[FDS_WAITING];
	unsigned n_fds;
};

static const char request[] = "POST /v1/takeover HTTP/1.1\r\n"
			      "Host: attest-relay\r\n"
			      "Connection: Upgrade\r\n"
			      "Upgrade: " TAKEOVER_PROTOCOL "\r\n"
			      "Content-Length: 0\r\n\r\n";

/* ---- reading ---- */

static void keep_fds(struct takeover *t, struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (t->n_fds < FDS_WAITING)
				t->fds[t->n_fds++] = fd;
			else
				close(fd);
		}
	}
}

/* More of what the other one says. False: it says no more, or not in time (errno). */
static bool fill(struct takeover *t)
{
	union {
		char buf[CMSG_SPACE(FDS_WAITING * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec into = { t->text + t->n, sizeof(t->text) - t->n };
	struct msghdr m = { .msg_iov = &into,
			    .msg_iovlen = 1,
			    .msg_control = control.buf,
			    .msg_controllen = sizeof(control.buf) };
	ssize_t n;

	errno = ENOBUFS;
	if (!into.iov_len)
		return false;
	do
		n = recvmsg(t->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	t->mute = n < 0 && errno == EAGAIN;
	t->over = n <= 0 && !t->mute;
	if (n == 0)
		errno = ECONNRESET;
	if (n <= 0)
		return false;
	keep_fds(t, &m);
	t->n += (size_t)n;
	return true;
}

/* The next line, without its end, into line, of LINE_SIZE. */
static bool read_line(struct takeover *t, char *line)
{
	char *end;
	size_t n;

	while (!(end = memchr(t->text, '\n', t->n)))
		if (!fill(t))
			return false;
	n = (size_t)(end - t->text);
	memcpy(line, t->text, n);
	line[n && line[n - 1] == '\r' ? n - 1 : n] = '\0';
	t->n -= n + 1;
	memmove(t->text, end + 1, t->n);
	return true;
}

/* ---- asking ---- */

static bool is_trusted(int fd, pid_t *pid, char **why)
{
	if (heir_may(fd, pid))
		return true;
	why_say(why, "takeover: whoever serves the admin socket is neither root nor this user: "
		     "nothing is taken from him");
	return false;
}

/* The admin socket's, or -1: errno says why. */
static int dial(const struct address *admin)
{
	const struct timeval wait = { .tv_sec = WAIT_S };
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	size_t n = strlen(admin->name);
	int fd, error;

	errno = ENAMETOOLONG;
	if (n >= sizeof(at.sun_path))
		return -1;
	memcpy(at.sun_path, admin->name, n);
	if (at.sun_path[0] == '@')
		at.sun_path[0] = '\0';
	else
		n++;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (connect(fd, (const struct sockaddr *)&at,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/*
 * systemd's store holds the socket while nobody serves it: connecting works, and nobody answers.
 * Who listened last is known by his process; its number may be another's by now.
 */
static bool is_orphan(const struct address *admin, pid_t pid)
{
	return inherit_has(admin) && pid > 0 && kill(pid, 0) < 0 && errno == ESRCH;
}

/* The answer to the request. False, and *why: it is no. */
static bool read_answer(struct takeover *t, char **why)
{
	char status[LINE_SIZE], line[LINE_SIZE];

	if (!read_line(t, status))
		goto gone;
	do
		if (!read_line(t, line))
			goto gone;
	while (*line);
	if (strncmp(status, "HTTP/1.1 101 ", 13) == 0)
		return true;
	if (!read_line(t, line))
		line[0] = '\0';
	why_say(why, "takeover: the running attest-relay refuses: %s%s%s",
		strncmp(status, "HTTP/1.1 ", 9) == 0 ? status + 9 : status, *line ? ": " : "",
		line);
	return false;
gone:
	why_say(why, "takeover: no answer at the admin socket: %s", strerror(errno));
	return false;
}

static bool take_one(struct takeover *t, const char *line)
{
	const int fd = t->n_fds ? t->fds[0] : -1;

	if (fd < 0 || strncmp(line, "socket ", 7) != 0)
		return false;
	memmove(t->fds, t->fds + 1, --t->n_fds * sizeof(int));
	return inherit_add(line + 7, fd);
}

static bool take_sockets(struct takeover *t, pid_t pid, char **why)
{
	char line[LINE_SIZE], version[64];
	unsigned n;

	if (!read_line(t, line) || sscanf(line, "sockets %u %63s", &n, version) != 2 ||
	    n > INHERIT_MAX) {
		why_say(why, "takeover: the running attest-relay did not say what it has");
		return false;
	}
	for (unsigned i = 0; i < n; i++) {
		if (read_line(t, line) && take_one(t, line))
			continue;
		why_say(why, "takeover: the running attest-relay gave %u of %u sockets", i, n);
		return false;
	}
	log_info("taking over from attest-relay %s, process %d: %u sockets", version, (int)pid, n);
	return true;
}

/*
 * Its words have ended: did it die? Then connecting is refused, if not yet now: its descriptors are
 * closed one after the other, and what connects meanwhile is reset.
 */
static bool is_gone(const struct address *admin)
{
	struct pollfd p = { .events = POLLIN };
	int n = 1;

	for (unsigned i = 0; n > 0 && i < DIALS_MAX; i++) {
		p.fd = dial(admin);
		if (p.fd < 0)
			return errno == ENOENT || errno == ECONNREFUSED;
		n = poll(&p, 1, GONE_MS);
		close(p.fd);
	}
	return false;
}

enum takeover_outcome takeover_ask(const struct address *admin, struct takeover **t, char **why)
{
	struct takeover *new = calloc(1, sizeof(*new));
	bool nobody = false, answered;
	pid_t pid;

	*why = NULL;
	if (!new)
		return TAKEOVER_FAILED;
	new->fd = dial(admin);
	if (new->fd < 0) {
		const int error = errno;

		takeover_free(new);
		if (error == ENOENT || error == ECONNREFUSED)
			return TAKEOVER_NOBODY;
		why_say(why, "takeover: cannot connect to the admin socket: %s", strerror(error));
		return TAKEOVER_FAILED;
	}
	if (!is_trusted(new->fd, &pid, why))
		goto failed;
	nobody = is_orphan(admin, pid);
	if (nobody)
		goto failed;
	if (send(new->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request)) {
		why_say(why, "takeover: cannot ask at the admin socket: %s", strerror(errno));
		nobody = is_gone(admin);
		goto failed;
	}
	answered = read_answer(new, why);
	if (!answered || !take_sockets(new, pid, why)) {
		/* not even a no: the socket is in our own hands, and in nobody else's */
		if (new->mute)
			nobody = inherit_has(admin) && !answered;
		else if (new->over)
			nobody = is_gone(admin);
		goto failed;
	}
	*t = new;
	return TAKEOVER_GIVEN;
failed:
	takeover_free(new);
	if (!nobody)
		return TAKEOVER_FAILED;
	free(*why);
	*why = NULL;
	return TAKEOVER_NOBODY;
}

bool takeover_ready(struct takeover *t, char **why)
{
	const char *unit = getenv("INVOCATION_ID");
	char line[LINE_SIZE];
	int n = snprintf(line, sizeof(line), "ready %s\n", unit && *unit ? unit : "-");

	*why = NULL;
	if (n > 0 && (size_t)n < sizeof(line) && send(t->fd, line, (size_t)n, MSG_NOSIGNAL) == n &&
	    read_line(t, line)) {
		if (strcmp(line, "going") == 0)
			return true;
		why_say(why, "takeover: the running attest-relay goes on: %s",
			strncmp(line, "no ", 3) == 0 ? line + 3 : line);
		return false;
	}
	if (!t->mute) {
		log_warning("takeover: the process that was to go has ended by itself");
		return true;
	}
	why_say(why, "takeover: the running attest-relay does not say that it goes");
	return false;
}

struct takeover *takeover_free(struct takeover *t)
{
	if (!t)
		return NULL;
	for (unsigned i = 0; i < t->n_fds; i++)
		close(t->fds[i]);
	if (t->fd >= 0)
		close(t->fd);
	free(t);
	return NULL;
}
