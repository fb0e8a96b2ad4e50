/* ws_loop: a libuv loop inside a worker's libevent loop (for libwebsockets, which wants one). */
#ifndef TUNNEL_WS_LOOP_H
#define TUNNEL_WS_LOOP_H

#include <uv.h>

#include "relay/worker.h"

struct event;

struct ws_loop {
	uv_loop_t uv;
	struct worker *worker;
	struct event *io, *timer;
	struct deferred kick;
};

int ws_loop_init(struct ws_loop *l, struct worker *w); /* 0 or -errno */
/* The handles on it should be closed already; others are closed here. Not from its callbacks. */
void ws_loop_deinit(struct ws_loop *l);

/* Something on the loop was changed from outside: run it at the end of this turn. */
void ws_loop_kick(struct ws_loop *l);

#endif
