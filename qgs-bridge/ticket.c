/*
 * ticket: waits for its turn, then dials QGS.
 *
 * Theory of operation: ticket_schedule lets run whom fair.h says, for as long as it names somebody
 * and QGS is there. It is called whenever that may have changed: somebody came, a slot is free, QGS
 * is back, a line has a token again (a timer). It does not run inside itself: who leaves while it
 * runs only makes its loop go on.
 *
 * While QGS is down or wedged nobody waits. While it is away everybody does, for qgs.h's grace.
 */
#include "qgs-bridge/ticket.h"

#include <stddef.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/qgs.h"
#include "relay/dial.h"
#include "relay/worker.h"

/* Who may wait: QGS is up, or may be in a moment. */
static bool is_hopeful(const struct bridge *b)
{
	return b->qgs && (qgs_state(b->qgs) == QGS_UP || qgs_is_away(b->qgs));
}

static bool is_open(const struct bridge *b)
{
	return b->qgs && qgs_state(b->qgs) == QGS_UP && !qgs_is_away(b->qgs);
}

static void leave(struct ticket *t)
{
	timer_cancel(t->bridge->worker, &t->timer);
	dial_cancel(t->dial);
	t->dial = NULL;
	t->config = bridge_config_unref(t->config);
	fair_leave(&t->bridge->fair, &t->item);
}

static void note_wait(struct ticket *t)
{
	t->waited_ms = worker_now(t->bridge->worker) - t->entered;
}

/* Once for each: its turn has led to QGS, or never came. */
static void time_wait(const struct ticket *t)
{
	durations_add(t->bridge->worker->counters.durations, DURATIONS_QUEUE, t->waited_ms * 1000);
}

static void fail(struct ticket *t, enum reason why, const char *detail)
{
	leave(t);
	t->done(t, NULL, why, detail);
}

/* There is no QGS to wait for. */
static void fail_without_qgs(struct ticket *t)
{
	const struct qgs *q = t->bridge->qgs;

	fail(t, q && qgs_state(q) == QGS_WEDGED ? REASON_QGS_STUCK : REASON_QGS_DOWN,
	     q ? qgs_detail(q) : "");
}

/* ---- waiting ---- */

static void on_queue_timeout(struct timer *timer)
{
	struct ticket *t = (struct ticket *)((char *)timer - offsetof(struct ticket, timer));

	note_wait(t);
	time_wait(t);
	fail(t, REASON_QUEUE_TIMEOUT, "");
}

static void wait_until_deadline(struct ticket *t)
{
	uint64_t now = worker_now(t->bridge->worker);

	timer_set(t->bridge->worker, &t->timer, t->deadline > now ? t->deadline - now : 0,
		  on_queue_timeout);
}

void ticket_begin(struct ticket *t, struct bridge *b, struct fair_line *line, ticket_done *done)
{
	t->bridge = b;
	t->done = done;
	t->entered = worker_now(b->worker);
	t->deadline = t->entered + b->config->timeouts.queue;
	if (!is_hopeful(b)) {
		fail_without_qgs(t);
	} else if (fair_enter(&b->fair, line, &t->item) != REASON_NONE) {
		fail(t, REASON_LIMIT, "limits.queue_per_vm is reached");
	} else {
		wait_until_deadline(t);
		ticket_schedule(b);
	}
}

void ticket_over(struct ticket *t)
{
	if (!t->bridge)
		return;
	leave(t);
	ticket_schedule(t->bridge);
}

void ticket_unanswered(struct ticket *t)
{
	if (t->item.line)
		fair_hold(t->item.line, worker_now(t->bridge->worker) + TICKET_HOLD_MS);
}

/* ---- its turn ---- */

static void on_dialled(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct ticket *t = user;
	struct bridge *b = t->bridge;

	t->dial = NULL;
	t->config = bridge_config_unref(t->config);
	if (c) {
		time_wait(t);
		t->done(t, c, REASON_NONE, "");
		return;
	}
	if (b->qgs)
		qgs_met_refusal(b->qgs, why, detail);
	if (b->qgs && qgs_is_away(b->qgs)) {
		fair_return(&b->fair, &t->item);
		wait_until_deadline(t);
	} else {
		fail(t, why, detail);
	}
}

static void dial(struct ticket *t)
{
	struct bridge *b = t->bridge;

	note_wait(t);
	timer_cancel(b->worker, &t->timer);
	t->config = bridge_config_ref(b->config);
	t->dial = dial_start(b->worker, &t->config->qgs.address, t->config->timeouts.common.dial,
			     on_dialled, t);
	if (!t->dial)
		fail(t, REASON_NO_MEMORY, "");
}

static void on_tokens(struct timer *timer)
{
	ticket_schedule((struct bridge *)((char *)timer - offsetof(struct bridge, tokens)));
}

void ticket_schedule(struct bridge *b)
{
	uint64_t wait;

	if (b->scheduling)
		return;
	b->scheduling = true;
	while (is_open(b)) {
		struct fair_item *item = fair_next(&b->fair, worker_now(b->worker));

		if (!item)
			break;
		dial((struct ticket *)((char *)item - offsetof(struct ticket, item)));
	}
	b->scheduling = false;
	wait = is_open(b) ? fair_wait(&b->fair, worker_now(b->worker)) : UINT64_MAX;
	if (wait == UINT64_MAX)
		timer_cancel(b->worker, &b->tokens);
	else
		timer_set(b->worker, &b->tokens, wait, on_tokens);
}

void ticket_qgs_changed(struct bridge *b)
{
	struct fair_item *item;

	while (!is_hopeful(b) && (item = fair_waiting(&b->fair))) {
		struct ticket *t = (struct ticket *)((char *)item - offsetof(struct ticket, item));

		note_wait(t);
		fail_without_qgs(t);
	}
	ticket_schedule(b);
}
