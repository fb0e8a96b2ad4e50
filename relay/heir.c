/*
 * heir: one attest-relay takes another one's place: the side of the old one.
 *
 * Theory of operation: HANDED (all sockets are with it, it has TAKEOVER_HEIR_S) -> READY (it has
 * said so, and was told that we go) -> over. The heir's end before READY is nothing but a line in
 * the log. Writing blocks, for HAND_S at most: it is a few lines into an empty socket's buffer.
 */
#include "relay/heir.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/inherit.h"
#include "relay/log.h"
#include "relay/takeover.h"

#define HAND_S 2
#define LINE_SIZE 256

struct heir {
	int fd;
	pid_t pid;
	struct event *event;
	const struct heir_events *events;
	void *user;
	char text[LINE_SIZE];
	size_t n;
};

bool heir_may(int fd, pid_t *pid)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || len != sizeof(peer))
		return false;
	*pid = peer.pid;
	return peer.uid == 0 || peer.uid == geteuid();
}

void heir_refuse(int fd, const char *status, const char *why)
{
	char text[512];
	int n = snprintf(text, sizeof(text),
			 "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
			 "Connection: close\r\n\r\n%s\n",
			 status, strlen(why) + 1, why);

	if (n > 0 && (size_t)n < sizeof(text) && send(fd, text, (size_t)n, MSG_NOSIGNAL) < 0)
		log_debug("takeover: %s", strerror(errno));
	close(fd);
}

/* ---- handing on ---- */

static bool say(int fd, const char *text, const int *given)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec what = { (void *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &what, .msg_iovlen = 1 };

	if (given) {
		struct cmsghdr *c;

		m.msg_control = control.buf;
		m.msg_controllen = sizeof(control.buf);
		c = CMSG_FIRSTHDR(&m);
		*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
				       .cmsg_level = SOL_SOCKET,
				       .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(c), given, sizeof(int));
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)what.iov_len;
}

static bool hand_on(int fd, const struct legacy *legacy)
{
	const struct timeval wait = { .tv_sec = HAND_S };
	char name[INHERIT_NAME_MAX], line[LINE_SIZE];
	size_t n = 0;

	for (size_t i = 0; i < legacy->n; i++)
		n += inherit_name(legacy->at[i].address, legacy->at[i].file, name) != NULL;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	snprintf(line, sizeof(line),
		 "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
		 "Upgrade: " TAKEOVER_PROTOCOL "\r\n\r\nsockets %zu " VERSION "\n",
		 n);
	if (!say(fd, line, NULL))
		return false;
	for (size_t i = 0; i < legacy->n; i++) {
		if (!inherit_name(legacy->at[i].address, legacy->at[i].file, name))
			continue;
		snprintf(line, sizeof(line), "socket %s\n", name);
		if (!say(fd, line, &legacy->at[i].fd))
			return false;
	}
	return true;
}

/* ---- what it says ---- */

static void ready(struct heir *h, const char *unit)
{
	const char *ours = getenv("INVOCATION_ID");

	h->events->ready(h->user, h->pid, ours && strcmp(ours, unit) == 0);
	if (!say(h->fd, "going\n", NULL))
		log_warning("takeover: process %d has ended just when it was ready; this one "
			    "ends all the same",
			    (int)h->pid);
}

/* It may have died, or given up, since it said its word: then nobody would serve. */
static bool is_there(const struct heir *h)
{
	char more;
	ssize_t n = recv(h->fd, &more, 1, MSG_PEEK | MSG_DONTWAIT);

	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void on_word(evutil_socket_t fd, short what, void *arg)
{
	struct heir *h = arg;
	char *end;
	ssize_t n = what & EV_TIMEOUT
			    ? 0
			    : recv(fd, h->text + h->n, sizeof(h->text) - h->n - 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		h->n += (size_t)n;
		h->text[h->n] = '\0';
		end = strchr(h->text, '\n');
		if (!end && h->n < sizeof(h->text) - 1)
			return;
		if (end && strncmp(h->text, "ready ", 6) == 0 && is_there(h)) {
			*end = '\0';
			ready(h, h->text + 6);
			h->events->over(h->user);
			return;
		}
	}
	log_warning("takeover: process %d %s; nothing has changed here", (int)h->pid,
		    what & EV_TIMEOUT ? "was not ready in time" : "is gone, or says nonsense");
	if (what & EV_TIMEOUT)
		say(h->fd, "no you were not ready in time\n", NULL);
	h->events->over(h->user);
}

struct heir *heir_new(struct event_base *base, int fd, const struct legacy *legacy,
		      const struct heir_events *events, void *user)
{
	const struct timeval patience = { .tv_sec = TAKEOVER_HEIR_S };
	struct heir *h = calloc(1, sizeof(*h));

	if (!h) {
		close(fd);
		return NULL;
	}
	*h = (struct heir){ .fd = fd, .events = events, .user = user };
	evutil_make_socket_closeonexec(fd);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); /* many sockets outgrow its buffer */
	if (!heir_may(fd, &h->pid) || !hand_on(fd, legacy)) {
		log_warning("takeover: cannot hand over to process %d: %s", (int)h->pid,
			    strerror(errno));
		return heir_free(h);
	}
	log_info("takeover: handed %zu sockets to process %d", legacy->n, (int)h->pid);
	h->event = event_new(base, fd, EV_READ | EV_PERSIST, on_word, h);
	if (!h->event || event_add(h->event, &patience) < 0)
		return heir_free(h);
	return h;
}

struct heir *heir_free(struct heir *h)
{
	if (!h)
		return NULL;
	if (h->event)
		event_free(h->event);
	close(h->fd);
	free(h);
	return NULL;
}
