/*
 * acceptor: accepts connections on a listening socket, for one worker.
 *
 * Theory of operation: one watch on the socket, which other workers may watch as well. A wake-up
 * takes as many connections as are likely to be there, at most ACCEPTOR_BURST; if there are more,
 * the next one takes twice as many. When the owner admits no more, or accept says that descriptors
 * or memory ran out, the watch is taken away and a timer brings it back: the kernel's queue holds
 * the others meanwhile.
 */
#include "relay/acceptor.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/bind.h"
#include "relay/log.h"
#include "relay/peer.h"
#include "relay/worker.h"

static void on_accept(struct edge *e, uint32_t events);

static void on_resume(struct timer *t)
{
	struct acceptor *a = (struct acceptor *)((char *)t - offsetof(struct acceptor, resume));

	if (edge_watch_listening(a->worker, &a->watch, a->fd, on_accept) < 0)
		timer_set(a->worker, t, ACCEPTOR_PAUSE_MS, on_resume);
}

static void pause_accept(struct acceptor *a, const char *cause)
{
	log_limited(LOG_LEVEL_WARNING, NULL, 0, "listener %s: accept pauses: %s", a->name, cause);
	counter_add(&a->worker->counters.value[COUNTER_ACCEPT_PAUSED], 1);
	edge_forget(&a->watch);
	timer_set(a->worker, &a->resume, ACCEPTOR_PAUSE_MS, on_resume);
}

/* False: no more for now. */
static bool accept_one(struct acceptor *a)
{
	struct sockaddr_storage from = { 0 };
	socklen_t len = sizeof(from);
	const char *short_of = a->events->admit(a);
	struct peer peer;
	int fd;

	if (short_of) {
		pause_accept(a, short_of);
		return false;
	}
	fd = accept4(a->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		int error = errno;

		a->events->none(a);
		if (error == ECONNABORTED || error == EINTR)
			return true;
		if (error != EAGAIN)
			pause_accept(a, strerror(error));
		return false;
	}
	counter_add(&a->worker->counters.value[COUNTER_ACCEPTED], 1);
	peer_of(&peer, fd, &from);
	a->events->accepted(a, fd, &peer);
	return a->fd >= 0;
}

static unsigned accept_some(struct acceptor *a, unsigned max)
{
	unsigned n = 0;

	while (n < max && accept_one(a))
		n++;
	return n;
}

static void on_accept(struct edge *e, uint32_t events)
{
	struct acceptor *a = (struct acceptor *)((char *)e - offsetof(struct acceptor, watch));
	unsigned n = accept_some(a, a->burst);

	if (n < a->burst)
		a->burst = n ? n : 1;
	else
		a->burst = 2 * n < ACCEPTOR_BURST ? 2 * n : ACCEPTOR_BURST;
}

int acceptor_start(struct acceptor *a, struct worker *w, int fd, const char *name,
		   const struct acceptor_events *events)
{
	int r;

	a->events = events;
	a->worker = w;
	a->name = name;
	a->fd = fd;
	a->burst = 1;
	r = edge_watch_listening(w, &a->watch, fd, on_accept);
	if (r < 0)
		a->fd = -1;
	return r;
}

void acceptor_insist(struct acceptor *a, struct worker *w, int fd, const char *name,
		     const struct acceptor_events *events)
{
	if (acceptor_start(a, w, fd, name, events) == 0)
		return;
	a->fd = fd;
	timer_set(w, &a->resume, ACCEPTOR_PAUSE_MS, on_resume);
}

void acceptor_stop(struct acceptor *a)
{
	/* whoever is in the kernel's queue came in time; closing it would reset them */
	if (a->fd >= 0)
		accept_some(a, BIND_BACKLOG);
	acceptor_abandon(a);
}

void acceptor_abandon(struct acceptor *a)
{
	timer_cancel(a->worker, &a->resume);
	edge_forget(&a->watch);
	a->fd = -1;
}
