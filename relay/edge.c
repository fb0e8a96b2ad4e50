/*
 * edge: edge-triggered watches.
 *
 * Theory of operation: a thin layer on epoll. A turn tells at most one batch, then timers and
 * deferred work have theirs; what is left over keeps the instance readable. A watch that is
 * forgotten while its event waits in the batch at hand is recognised by its worker being NULL: its
 * memory lives to the end of the turn at least (the reaper's rule).
 */
#include "relay/edge.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>

#include "relay/worker.h"

#define BATCH 64

static int add(struct worker *w, struct edge *e, int fd, uint32_t events,
	       void (*fired)(struct edge *e, uint32_t events))
{
	struct epoll_event ev = { .events = events, .data.ptr = e };

	if (epoll_ctl(w->edge_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	e->worker = w;
	e->fd = fd;
	e->fired = fired;
	return 0;
}

int edge_watch(struct worker *w, struct edge *e, int fd, uint32_t events,
	       void (*fired)(struct edge *e, uint32_t events))
{
	return add(w, e, fd, events | EPOLLET, fired);
}

int edge_watch_listening(struct worker *w, struct edge *e, int fd,
			 void (*fired)(struct edge *e, uint32_t events))
{
	return add(w, e, fd, EPOLLIN | EPOLLEXCLUSIVE, fired);
}

int edge_change(struct edge *e, uint32_t events)
{
	struct epoll_event ev = { .events = events | EPOLLET, .data.ptr = e };

	return epoll_ctl(e->worker->edge_fd, EPOLL_CTL_MOD, e->fd, &ev) < 0 ? -errno : 0;
}

void edge_forget_closing(struct edge *e)
{
	e->worker = NULL;
}

void edge_forget(struct edge *e)
{
	if (!e->worker)
		return;
	epoll_ctl(e->worker->edge_fd, EPOLL_CTL_DEL, e->fd, NULL);
	e->worker = NULL;
}

void edge_turn(struct worker *w, int ms)
{
	struct epoll_event batch[BATCH];
	int n = epoll_wait(w->edge_fd, batch, BATCH, ms);

	for (int i = 0; i < n; i++) {
		struct edge *e = batch[i].data.ptr;

		if (e->worker)
			e->fired(e, batch[i].events);
	}
}
