/*
 * edge: edge-triggered watches.
 *
 * Theory of operation: a thin layer on epoll. A turn tells at most one batch, then timers and
 * deferred work have theirs; what is left over keeps the instance readable.
 *
 * A watch that is forgotten while its event waits in the batch at hand is blanked there: its
 * conduit may move to another worker, which watches it anew, or closes and frees it, before this
 * turn is over.
 */
#include "relay/edge.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>

#include "relay/worker.h"

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
	struct worker *w = e->worker;

	if (!w)
		return;
	e->worker = NULL;
	for (int i = w->batch.next; i < w->batch.n; i++)
		if (w->batch.at[i].data.ptr == e)
			w->batch.at[i].data.ptr = NULL;
}

void edge_forget(struct edge *e)
{
	if (e->worker)
		epoll_ctl(e->worker->edge_fd, EPOLL_CTL_DEL, e->fd, NULL);
	edge_forget_closing(e);
}

void edge_turn(struct worker *w, int ms)
{
	struct edge_batch *b = &w->batch;

	b->n = epoll_wait(w->edge_fd, b->at, EDGE_BATCH, ms);
	counter_set(&w->counters.turn_since, worker_now(w));
	for (b->next = 0; b->next < b->n;) {
		const struct epoll_event *event = &b->at[b->next++];
		struct edge *e = event->data.ptr;

		if (e)
			e->fired(e, event->events);
	}
	b->n = 0;
}
