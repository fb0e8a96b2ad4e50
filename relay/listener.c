/*
 * listener: accepts.
 *
 * Theory of operation: one watch per worker on the shared listening socket. A wake-up takes as many
 * connections as are likely to be there, at most LISTENER_BURST; if there are more, the next one
 * takes twice as many. When the connection limit is reached, or accept says that descriptors or
 * memory ran out, the watch is taken away and a timer brings it back: the kernel's queue holds the
 * others meanwhile. A static listener's client has said all it has to say by coming; it goes
 * straight to its opening, the others to an intake.
 */
#include "relay/listener.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/bind.h"
#include "relay/gateway.h"
#include "relay/intake.h"
#include "relay/log.h"

static void on_accept(struct edge *e, uint32_t events);

static void on_resume(struct timer *t)
{
	struct listener *l = (struct listener *)((char *)t - offsetof(struct listener, resume));

	if (edge_watch_listening(l->worker, &l->watch, l->fd, on_accept) < 0)
		timer_set(l->worker, t, LISTENER_PAUSE_MS, on_resume);
}

static void pause_accept(struct listener *l, const char *cause)
{
	log_limited(LOG_LEVEL_WARNING, NULL, 0, "listener %s: accept pauses: %s", l->config->name,
		    cause);
	counter_add(&l->worker->counters.value[COUNTER_ACCEPT_PAUSED], 1);
	edge_forget(&l->watch);
	timer_set(l->worker, &l->resume, LISTENER_PAUSE_MS, on_resume);
}

/* False: no more for now. */
static bool accept_one(struct listener *l)
{
	struct gateway *g = l->gateway;
	struct sockaddr_storage from = { 0 };
	socklen_t len = sizeof(from);
	const char *short_of = gateway_connection_begin(g);
	struct peer peer;
	int fd;

	if (short_of) {
		pause_accept(l, short_of);
		return false;
	}
	fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		gateway_connection_over(g);
		if (errno == ECONNABORTED || errno == EINTR)
			return true;
		if (errno != EAGAIN)
			pause_accept(l, strerror(errno));
		return false;
	}
	counter_add(&l->worker->counters.value[COUNTER_ACCEPTED], 1);
	peer_of(&peer, fd, &from);
	intake_new(l, fd, &peer);
	return true;
}

static unsigned accept_some(struct listener *l, unsigned max)
{
	unsigned n = 0;

	while (n < max && accept_one(l))
		n++;
	return n;
}

static void on_accept(struct edge *e, uint32_t events)
{
	struct listener *l = (struct listener *)((char *)e - offsetof(struct listener, watch));
	unsigned n = accept_some(l, l->burst);

	if (n < l->burst)
		l->burst = n ? n : 1;
	else
		l->burst = 2 * n < LISTENER_BURST ? 2 * n : LISTENER_BURST;
}

struct listener *listener_new(struct gateway *g, struct worker *w,
			      const struct listener_config *config, int fd)
{
	struct listener *l = calloc(1, sizeof(*l));
	int one = 1;

	if (!l)
		return NULL;
	l->config = config;
	l->gateway = g;
	l->worker = w;
	l->fd = fd;
	l->burst = 1;
	/* what it accepts inherits this; others than TCP refuse: fine */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (edge_watch_listening(w, &l->watch, fd, on_accept) < 0)
		return listener_free(l);
	return l;
}

void listener_stop(struct listener *l)
{
	/* whoever is in the kernel's queue came in time; closing it would reset them */
	accept_some(l, BIND_BACKLOG);
	timer_cancel(l->worker, &l->resume);
	edge_forget(&l->watch);
}

struct listener *listener_free(struct listener *l)
{
	if (!l)
		return NULL;
	timer_cancel(l->worker, &l->resume);
	edge_forget(&l->watch);
	free(l);
	return NULL;
}
