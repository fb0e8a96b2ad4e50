/*
 * conduit: what is common to every kind of byte stream.
 *
 * Theory of operation: kinds implement conduit_ops; callers go through the functions here, which
 * add one thing: pushback, bytes an owner has read and given back (a door reads a head and whatever
 * came behind it). They live in one allocation, are served by read and peek before the kind is
 * asked, and are gone when served. While there are some, the conduit is always ready to be read:
 * want() then defers a READY_READ of its own, since the kind knows nothing of them.
 */
#include "relay/conduit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "relay/worker.h"

struct conduit_pushback {
	struct deferred tell;
	struct conduit *conduit;
	size_t start, end;
	uint8_t bytes[];
};

static void pushback_free(struct conduit *c)
{
	if (!c->pushback)
		return;
	worker_undefer(&c->pushback->tell);
	free(c->pushback);
	c->pushback = NULL;
}

static void pushback_tell(struct deferred *d)
{
	struct conduit_pushback *p = (struct conduit_pushback *)d; /* first member */

	worker_defer(p->conduit->worker, d); /* until all is read, or not wanted */
	conduit_ready(p->conduit, READY_READ);
}

/* One more conduit in this worker, or one less (-1). */
static void count(const struct conduit *c, struct worker *w, int change)
{
	w->conduits += (unsigned)change;
	if (c->ops->socket)
		counter_add(&w->counters.value[COUNTER_LIVE_SOCKETS], (uint64_t)(int64_t)change);
}

void conduit_init(struct conduit *c, const struct conduit_ops *ops, struct worker *w)
{
	memset(c, 0, sizeof(*c));
	c->ops = ops;
	c->worker = w;
	count(c, w, 1);
}

void conduit_deinit(struct conduit *c)
{
	pushback_free(c);
	count(c, c->worker, -1);
}

int conduit_unread(struct conduit *c, const void *buf, size_t len)
{
	struct conduit_pushback *p;

	if (len == 0)
		return 0;
	if (len > CONDUIT_PUSHBACK_MAX || c->pushback)
		return -ENOMEM;
	p = malloc(sizeof(*p) + len);
	if (!p)
		return -ENOMEM;
	*p = (struct conduit_pushback){ .tell.run = pushback_tell, .conduit = c, .end = len };
	memcpy(p->bytes, buf, len);
	c->pushback = p;
	return 0;
}

ssize_t conduit_read(struct conduit *c, void *buf, size_t max)
{
	struct conduit_pushback *p = c->pushback;
	size_t n;

	if (!p)
		return c->ops->read(c, buf, max);
	n = p->end - p->start < max ? p->end - p->start : max;
	memcpy(buf, p->bytes + p->start, n);
	conduit_consume(c, n);
	return (ssize_t)n;
}

int conduit_has_peek(const struct conduit *c)
{
	return c->pushback || c->ops->peek;
}

ssize_t conduit_peek(struct conduit *c, const uint8_t **data)
{
	struct conduit_pushback *p = c->pushback;

	if (!p)
		return c->ops->peek(c, data);
	*data = p->bytes + p->start;
	return (ssize_t)(p->end - p->start);
}

void conduit_consume(struct conduit *c, size_t len)
{
	struct conduit_pushback *p = c->pushback;

	if (!p) {
		c->ops->consume(c, len);
		return;
	}
	p->start += len;
	if (p->start == p->end)
		pushback_free(c);
}

ssize_t conduit_write(struct conduit *c, const void *buf, size_t len)
{
	return c->ops->write(c, buf, len);
}

int conduit_shutdown(struct conduit *c)
{
	return c->ops->shutdown(c);
}

void conduit_want(struct conduit *c, unsigned events)
{
	if (c->pushback) {
		if (events & READY_READ)
			worker_defer(c->worker, &c->pushback->tell);
		else
			worker_undefer(&c->pushback->tell);
	}
	c->ops->want(c, events);
}

void conduit_close(struct conduit *c, enum reason why)
{
	if (!c)
		return;
	pushback_free(c);
	c->ready = NULL;
	c->user = NULL;
	c->ops->close(c, why);
}

int conduit_fd(const struct conduit *c)
{
	if (c->pushback || !c->ops->fd)
		return -1;
	return c->ops->fd(c);
}

void conduit_detach(struct conduit *c)
{
	if (c->pushback)
		worker_undefer(&c->pushback->tell);
	c->ready = NULL;
	c->user = NULL;
	c->ops->detach(c);
	count(c, c->worker, -1);
	c->worker = NULL;
}

int conduit_attach(struct conduit *c, struct worker *w)
{
	c->worker = w;
	count(c, w, 1);
	return c->ops->attach(c, w);
}
