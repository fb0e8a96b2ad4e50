/*
 * chardev: a connection to a Unix socket at which a VMM listens, held for its guest.
 *
 * Theory of operation: PAUSED (a timer) -> DIALLING -> WAITING (for the guest's first byte) ->
 * AWAY (it is a caller's) -> PAUSED. A dial that fails and a VMM that closes lead to PAUSED as
 * well. Connects are CHARDEV_RETRY_MS apart, whatever happens in between: a VMM that closes at
 * once, or a guest that is turned away at once, costs no more than that.
 *
 * A VMM serves one connection at a time, and lets others connect and wait in its backlog; so does
 * this one then. If that is full, too, dial tries until its time is over.
 *
 * Owns: the dial, or the conduit while WAITING. One that is freed while AWAY stays until it is told
 * that the stream is over, for whoever has that holds a pointer.
 */
#include "qgs-bridge/chardev.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "qgs-bridge/bridge.h"
#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/fd.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

struct chardev {
	struct worker *worker;
	struct address address;
	uint64_t dial_ms, dialled; /* dialled: when, by worker_now */
	void (*ready)(void *user, struct conduit *c);
	void *user;
	struct timer timer;
	struct dial *dial;
	struct conduit *conduit; /* WAITING */
	bool away, abandoned;
	enum reason told; /* the last failure that was logged */
};

static void on_timer(struct timer *t);

static void connect_later(struct chardev *c)
{
	uint64_t since = worker_now(c->worker) - c->dialled;

	timer_set(c->worker, &c->timer, since < CHARDEV_RETRY_MS ? CHARDEV_RETRY_MS - since : 0,
		  on_timer);
}

/* The first byte has come, or the VMM has closed, which looks alike to want. */
static void on_ready(struct conduit *conduit, unsigned events)
{
	struct chardev *c = conduit->user;
	char byte;

	c->conduit = NULL;
	if (!(events & READY_READ) ||
	    recv(fd_conduit_socket(conduit), &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) {
		conduit_close(conduit, REASON_EOF);
		connect_later(c);
		return;
	}
	c->away = true;
	conduit_want(conduit, 0);
	conduit->ready = NULL;
	conduit->user = NULL;
	c->ready(c->user, conduit); /* consumed */
}

static void on_dialled(void *user, struct conduit *conduit, enum reason why, const char *detail)
{
	struct chardev *c = user;

	c->dial = NULL;
	if (!conduit) {
		if (why != c->told)
			log_debug("chardev: %s", detail);
		c->told = why;
		connect_later(c);
		return;
	}
	c->told = REASON_NONE;
	c->conduit = conduit;
	conduit->ready = on_ready;
	conduit->user = c;
	conduit_want(conduit, READY_READ | READY_GONE | READY_ABORT);
}

static void on_timer(struct timer *t)
{
	struct chardev *c = (struct chardev *)((char *)t - offsetof(struct chardev, timer));

	c->dialled = worker_now(c->worker);
	c->dial = dial_start(c->worker, &c->address, c->dial_ms, on_dialled, c);
	if (!c->dial)
		connect_later(c);
}

struct chardev *chardev_new(struct bridge *b, const struct address *address, uint64_t dial_ms,
			    void (*ready)(void *user, struct conduit *c), void *user)
{
	struct chardev *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	if (address_copy(&c->address, address) < 0) {
		free(c);
		return NULL;
	}
	c->worker = b->worker;
	c->dial_ms = dial_ms;
	c->ready = ready;
	c->user = user;
	timer_set(c->worker, &c->timer, 0, on_timer);
	return c;
}

static void destroy(struct chardev *c)
{
	address_deinit(&c->address);
	free(c);
}

void chardev_again(struct chardev *c)
{
	if (!c->away)
		return;
	c->away = false;
	if (c->abandoned)
		destroy(c);
	else
		connect_later(c);
}

struct chardev *chardev_free(struct chardev *c)
{
	if (!c)
		return NULL;
	timer_cancel(c->worker, &c->timer);
	dial_cancel(c->dial); /* which reads the address no more */
	conduit_close(c->conduit, REASON_EOF);
	if (c->away)
		c->abandoned = true;
	else
		destroy(c);
	return NULL;
}
