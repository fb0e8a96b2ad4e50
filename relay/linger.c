/*
 * linger: an orderly end in the background.
 *
 * Theory of operation: shutdown (retried when the conduit says so), then reads are thrown away
 * until EOF, an error, LINGER_BYTES or LINGER_MS; then the conduit is closed for good.
 */
#include "relay/linger.h"

#include <errno.h>
#include <stdlib.h>

#include "relay/conduit.h"
#include "relay/timer.h"
#include "relay/worker.h"

struct linger {
	struct conduit *conduit;
	struct worker *worker;
	struct timer timer;
	struct reapable reapable;
	size_t bytes;
	bool shut;
	void (*told)(void *arg);
	void *arg;
};

static void on_free(struct reapable *r)
{
	free((char *)r - offsetof(struct linger, reapable));
}

static void over(struct linger *l, enum reason why)
{
	if (!l->conduit)
		return;
	timer_cancel(l->worker, &l->timer);
	conduit_close(l->conduit, why);
	l->conduit = NULL;
	if (l->told)
		l->told(l->arg);
	worker_reap(l->worker, &l->reapable);
}

static void on_timer(struct timer *t)
{
	over((struct linger *)((char *)t - offsetof(struct linger, timer)), REASON_EOF);
}

/* True when it is over. */
static bool discard(struct linger *l)
{
	ssize_t n = conduit_read(l->conduit, l->worker->scratch, WORKER_SCRATCH);

	if (n == -EAGAIN)
		return false;
	if (n > 0)
		l->bytes += (size_t)n;
	if (n > 0 && l->bytes < LINGER_BYTES)
		return false;
	over(l, n == 0 ? REASON_EOF : REASON_RESET);
	return true;
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct linger *l = c->user;

	if (!l->shut) {
		int r = conduit_shutdown(c);

		if (r < 0 && r != -EAGAIN) {
			over(l, REASON_RESET);
			return;
		}
		l->shut = r == 0;
	}
	if (events & READY_READ && discard(l))
		return;
	conduit_want(c, READY_READ | (l->shut ? 0 : READY_WRITE));
}

void linger_close(struct conduit *c, void (*told)(void *arg), void *arg)
{
	struct linger *l = calloc(1, sizeof(*l));

	if (!l) {
		conduit_close(c, REASON_NO_MEMORY);
		if (told)
			told(arg);
		return;
	}
	l->told = told;
	l->arg = arg;
	l->conduit = c;
	l->worker = c->worker;
	l->reapable.free = on_free;
	l->shut = conduit_shutdown(c) == 0;
	c->ready = on_ready;
	c->user = l;
	timer_set(l->worker, &l->timer, LINGER_MS, on_timer);
	conduit_want(c, READY_READ | (l->shut ? 0 : READY_WRITE));
}
