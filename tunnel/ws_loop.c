/*
 * ws_loop: a libuv loop inside a worker's libevent loop.
 *
 * Theory of operation: libuv's loop is one epoll descriptor and a next time-out. libevent watches
 * the descriptor and keeps a timer for the time-out; both callbacks run libuv for one round without
 * waiting and arm the timer anew. libuv tells epoll of changed interest only when it runs, so
 * whoever changes something from outside kicks the loop: one more round at the end of the turn.
 * Interest changed inside libuv's own callbacks needs a round too: libwebsockets starts an idle
 * handle after each event, the time-out is 0 then, and the timer brings the round about.
 *
 * Thread: the worker's. Nothing here runs libuv from inside libuv.
 */
#include "tunnel/ws_loop.h"

#include <errno.h>
#include <event2/event.h>
#include <stddef.h>
#include <string.h>

#define CLOSE_ROUNDS 100 /* a handle closes in the round after it was told to */

static void loop_run(struct ws_loop *l)
{
	struct timeval tv;
	int ms;

	uv_run(&l->uv, UV_RUN_NOWAIT);
	uv_update_time(&l->uv);
	ms = uv_backend_timeout(&l->uv);
	if (ms == 0) {
		event_active(l->timer, EV_TIMEOUT, 0);
		return;
	}
	if (ms < 0) {
		event_del(l->timer);
		return;
	}
	tv = (struct timeval){ .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
	event_add(l->timer, &tv);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	loop_run(arg);
}

static void on_kick(struct deferred *d)
{
	loop_run((struct ws_loop *)((char *)d - offsetof(struct ws_loop, kick)));
}

void ws_loop_kick(struct ws_loop *l)
{
	worker_defer(l->worker, &l->kick);
}

static void free_events(struct ws_loop *l)
{
	if (l->io)
		event_free(l->io);
	if (l->timer)
		event_free(l->timer);
	l->io = l->timer = NULL;
}

int ws_loop_init(struct ws_loop *l, struct worker *w)
{
	int r;

	memset(l, 0, sizeof(*l));
	r = uv_loop_init(&l->uv);
	if (r < 0)
		return r;
	l->worker = w;
	l->kick.run = on_kick;
	l->io = event_new(w->base, uv_backend_fd(&l->uv), EV_READ | EV_PERSIST, on_event, l);
	l->timer = event_new(w->base, -1, 0, on_event, l);
	if (!l->io || !l->timer || event_add(l->io, NULL) < 0) {
		free_events(l);
		uv_loop_close(&l->uv);
		return -ENOMEM;
	}
	return 0;
}

static void close_handle(uv_handle_t *h, void *arg)
{
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

void ws_loop_deinit(struct ws_loop *l)
{
	unsigned i;

	worker_undefer(&l->kick);
	free_events(l);
	for (i = 0; i < CLOSE_ROUNDS && uv_loop_close(&l->uv) == UV_EBUSY; i++) {
		uv_walk(&l->uv, close_handle, NULL);
		uv_run(&l->uv, UV_RUN_NOWAIT);
	}
}
