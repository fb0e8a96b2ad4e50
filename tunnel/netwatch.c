/*
 * netwatch: rtnetlink notifications, debounced.
 *
 * Theory of operation: a netlink socket in the groups for links, addresses and routes is read dry
 * at each wake-up; only the types of the messages matter, the content does not. Anything of
 * interest, and an overrun (ENOBUFS: messages were lost, so something happened), arms a timer that
 * makes the call: NETWATCH_SETTLE_MS later, but not before NETWATCH_PAUSE_MS since the last call.
 * Messages that do not come from the kernel are ignored (any local process may send to a netlink
 * socket's port).
 *
 * Owned: the socket, its watch, the timer. Bounded work: NETWATCH_READS messages a wake-up.
 */
#include "tunnel/netwatch.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/edge.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define NETWATCH_READS 64
#define NETWATCH_GROUPS                                                                            \
	(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |               \
	 RTMGRP_IPV6_ROUTE)

struct netwatch {
	struct worker *worker;
	void (*changed)(void *user);
	void *user;
	int fd;
	struct edge watch;
	struct timer timer;
	uint64_t earliest; /* the next call, in monotonic ms */
};

static void on_timer(struct timer *t)
{
	struct netwatch *n = (struct netwatch *)((char *)t - offsetof(struct netwatch, timer));

	n->earliest = worker_now(n->worker) + NETWATCH_PAUSE_MS;
	n->changed(n->user);
}

static void arm(struct netwatch *n)
{
	uint64_t now = worker_now(n->worker), at = now + NETWATCH_SETTLE_MS;

	if (timer_is_set(&n->timer))
		return;
	if (at < n->earliest)
		at = n->earliest;
	timer_set(n->worker, &n->timer, at - now, on_timer);
}

static bool interesting(const struct nlmsghdr *m, size_t len)
{
	for (; NLMSG_OK(m, len); m = NLMSG_NEXT(m, len)) {
		switch (m->nlmsg_type) {
		case RTM_NEWLINK:
		case RTM_NEWADDR:
		case RTM_DELADDR:
		case RTM_NEWROUTE:
		case RTM_DELROUTE:
			return true;
		default:
			break;
		}
	}
	return false;
}

static void on_readable(struct edge *e, uint32_t events)
{
	struct netwatch *n = (struct netwatch *)((char *)e - offsetof(struct netwatch, watch));

	for (unsigned i = 0; i < NETWATCH_READS; i++) {
		struct sockaddr_nl from = { 0 };
		socklen_t from_len = sizeof(from);
		ssize_t len = recvfrom(n->fd, n->worker->scratch, WORKER_SCRATCH, MSG_DONTWAIT,
				       (struct sockaddr *)&from, &from_len);

		if (len < 0 && errno == ENOBUFS) {
			arm(n);
			continue;
		}
		if (len < 0)
			return;
		if (from.nl_pid == 0 &&
		    interesting((const struct nlmsghdr *)(const void *)n->worker->scratch,
				(size_t)len))
			arm(n);
	}
	edge_change(e, EPOLLIN); /* there may be more: in the next turn */
}

struct netwatch *netwatch_new(struct worker *w, void (*changed)(void *user), void *user)
{
	struct sockaddr_nl self = { .nl_family = AF_NETLINK, .nl_groups = NETWATCH_GROUPS };
	struct netwatch *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->worker = w;
	n->changed = changed;
	n->user = user;
	n->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (n->fd < 0 || bind(n->fd, (struct sockaddr *)&self, sizeof(self)) < 0) {
		log_debug("network changes are not watched: netlink: %s", strerror(errno));
		return netwatch_free(n);
	}
	if (edge_watch(w, &n->watch, n->fd, EPOLLIN, on_readable) < 0)
		return netwatch_free(n);
	return n;
}

struct netwatch *netwatch_free(struct netwatch *n)
{
	if (!n)
		return NULL;
	timer_cancel(n->worker, &n->timer);
	edge_forget(&n->watch);
	if (n->fd >= 0)
		close(n->fd);
	free(n);
	return NULL;
}
