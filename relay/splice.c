/*
 * splice: moves bytes between two conduits until both directions have ended.
 *
 * Theory of operation: each half is pumped when its source can be read or its sink can be written,
 * at most SPLICE_TURN bytes at a time. One pump step does the first of these that applies:
 *
 *   flush     write what the sink did not take before (buffer or pipe)
 *   pass EOF  the source ended and everything was written: shut the sink down
 *   fetch     get more, by the cheapest way the two conduits allow:
 *               kernel   both are plain sockets and reads were full: splice(2) through a pooled
 *                        pipe
 *               peek     the source's bytes lie in memory: write them from there
 *               pull     the sink has room of its own: read straight into it
 *               copy     read into the worker's scratch and write at once
 *
 * Only what a slow sink left over is kept: in one pooled buffer, in the pipe, or unread in the
 * source. So an idle pair holds neither. Interest follows from state alone (splice_want); nothing
 * else calls conduit_want. A half whose sink died is "failed": the other half is drained first (a
 * server that replies and resets is heard), then the splice ends as the abort it is.
 *
 * A half that may fetch nothing for now (the spec's may_pass) is "paused": its source is not asked
 * for bytes until the timer ends that. What was fetched before goes on to the sink. Those that
 * share a rate ask again in no order: who asks first may take all there is.
 *
 * Memory: what stays when a pump is over is told to the spec (kept), and what is gone: nothing, for
 * as long as sinks take all. A stream in full flow leaves something over each time; so less is told
 * only when it is less than half. What sinks keep counts, too (held): then READY_WRITE is awaited,
 * to see that it is gone. Before, the spec is asked for room; without, a half fetches SPLICE_LITTLE
 * at a time, which needs none.
 *
 * Limits: WORKER_BUFFER or one pipe per half that is blocked; both time-outs of the spec are lazy:
 * one timer, set again when it fires early.
 *
 * Longer than other files: each way to fetch, and each end, acts on the same few flags.
 */
#include "relay/splice.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define KERNEL_AFTER 2			       /* full reads in a row before splice(2) */
#define KERNEL_TURN ((size_t)1024 * 1024)      /* bytes per half and wake-up inside the kernel */
#define KERNEL_WORTH ((ssize_t)16 * 1024)      /* a smaller move: go back to copying */
#define STAGGER_BITS 6			       /* of ms: up to three ticks of the timers */

/* What a pump step came to. */
enum step { STEP_MORE, STEP_WAIT, STEP_OVER };

static bool pending(const struct splice_half *h)
{
	return h->buffer || h->pipe;
}

unsigned splice_want(const struct splice *s, unsigned side)
{
	const struct splice_half *out = &s->half[side], *in = &s->half[!side];
	unsigned want = 0;

	if (!out->eof_seen && !out->failed && !pending(out) && !out->source_ready && !out->paused)
		want |= READY_READ;
	if (!in->failed && (pending(in) || in->charged || (in->source_ready && !in->paused) ||
			    (in->eof_seen && !in->eof_sent)))
		want |= READY_WRITE;
	return want ? want : READY_ABORT;
}

static void update(struct splice *s)
{
	if (s->ended)
		return;
	conduit_want(s->side[INI], splice_want(s, INI));
	conduit_want(s->side[TGT], splice_want(s, TGT));
}

static uint64_t limit(const struct splice *s)
{
	return s->half[INI].eof_seen || s->half[TGT].eof_seen ? s->spec->half_closed_ms
							       : s->spec->idle_ms;
}

static void on_timer(struct timer *t)
{
	struct splice *s = (struct splice *)((char *)t - offsetof(struct splice, timer));
	uint64_t now = worker_now(s->worker), due;

	if (s->half[INI].paused || s->half[TGT].paused) {
		s->half[INI].paused = s->half[TGT].paused = 0;
		s->active = now; /* to wait for leave is not to be idle */
		update(s);
	}
	due = s->active + limit(s);
	if (now < due)
		timer_set(s->worker, t, due - now, on_timer);
	else if (s->half[INI].eof_seen || s->half[TGT].eof_seen)
		splice_end(s, REASON_HALF_CLOSED_IDLE);
	else
		splice_end(s, REASON_IDLE);
}

/* The reason for an error on one side. */
static enum reason died(const struct splice *s, unsigned side, ssize_t error)
{
	const struct conduit *c = s->side[side];
	enum reason why = c->ops->why ? c->ops->why(c) : REASON_NONE;

	if (why == REASON_NONE && error == -ECONNABORTED)
		why = REASON_TRUNCATED;
	if (why == REASON_NONE)
		why = side == INI ? REASON_RESET : REASON_TARGET_RESET;
	/* whoever has ended in order before has not aborted in the midst of what it said */
	if ((why == REASON_RESET || why == REASON_TARGET_RESET) && s->half[side].eof_seen)
		why = REASON_CLOSED_EARLY;
	return why;
}

static void drop_pending(struct splice *s, struct splice_half *h)
{
	if (h->little)
		free(h->buffer);
	else
		worker_buffer_put(s->worker, h->buffer);
	h->buffer = NULL;
	h->little = 0;
	if (h->pipe)
		worker_pipe_put(s->worker, h->pipe, h->end == 0);
	h->pipe = NULL;
	h->start = h->end = 0;
}

static bool sink_holds(const struct splice *s, unsigned i)
{
	return s->side[!i]->ops->held;
}

/* What a half keeps for its sink, and the sink itself. */
static uint32_t kept(const struct splice *s, unsigned i)
{
	const struct splice_half *h = &s->half[i];
	size_t has = h->pipe ? h->end : h->buffer && !h->little ? WORKER_BUFFER : 0;

	if (sink_holds(s, i) && !h->failed)
		has += s->side[!i]->ops->held(s->side[!i]);
	return (uint32_t)has;
}

static void charge(struct splice *s, struct splice_half *h, uint32_t has)
{
	if (has != h->charged)
		s->spec->kept(s, (int64_t)has - h->charged);
	h->charged = has;
}

/* Tells how much memory a half has, when that has changed enough. */
static void account(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	uint32_t has;

	if (!s->spec->kept || s->ended)
		return;
	has = kept(s, i);
	if (has > h->charged || has < h->charged / 2 || !has)
		charge(s, h, has);
}

static enum step source_died(struct splice *s, unsigned i, ssize_t error)
{
	splice_end(s, died(s, i, error));
	return STEP_OVER;
}

static enum step sink_died(struct splice *s, unsigned i, ssize_t error)
{
	struct splice_half *h = &s->half[i];

	if (s->half[!i].eof_seen || s->half[!i].failed) {
		splice_end(s, died(s, !i, error));
		return STEP_OVER;
	}
	h->failed = 1;
	h->source_ready = 0;
	drop_pending(s, h);
	return STEP_WAIT;
}

static enum step moved(struct splice *s, struct splice_half *h, size_t n)
{
	enum counter which = h == &s->half[INI] ? COUNTER_BYTES_UP : COUNTER_BYTES_DOWN;

	h->bytes += n;
	if (!s->spec->uncounted)
		counter_add(&s->worker->counters.value[which], n);
	s->active = worker_now(s->worker);
	return STEP_MORE;
}

static enum step saw_eof(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];

	/* a peer that takes nothing any more has not ended in order, whatever the socket says */
	if (s->half[!i].failed)
		return source_died(s, i, -ECONNRESET);
	h->eof_seen = 1;
	h->source_ready = 0;
	s->active = worker_now(s->worker);
	if (!s->half[!i].paused) /* or the timer is to end that, and goes by the new limit then */
		timer_set(s->worker, &s->timer, limit(s), on_timer);
	return STEP_MORE;
}

static enum step flush(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	ssize_t n = conduit_write(s->side[!i], h->buffer + h->start, h->end - h->start);

	if (n == -EAGAIN)
		return STEP_WAIT;
	if (n < 0)
		return sink_died(s, i, n);
	h->start += (uint32_t)n;
	if (h->start == h->end)
		drop_pending(s, h);
	return moved(s, h, (size_t)n);
}

static enum step pass_eof(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	int r;

	/* the last EOF: closing a socket says it, too */
	if (s->half[!i].eof_sent && conduit_fd(s->side[!i]) >= 0) {
		h->eof_sent = 1;
		splice_end(s, REASON_EOF);
		return STEP_OVER;
	}
	r = conduit_shutdown(s->side[!i]);

	if (r == -EAGAIN)
		return STEP_WAIT;
	/* a sink that has itself ended in order and gone away needs no EOF any more */
	if (r < 0 && !s->half[!i].eof_sent)
		return sink_died(s, i, r);
	h->eof_sent = 1;
	if (!s->half[!i].eof_sent)
		return STEP_WAIT;
	splice_end(s, REASON_EOF);
	return STEP_OVER;
}

/* Pipe to socket. */
static enum step drain_pipe(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	ssize_t n = splice(h->pipe->fd[0], NULL, conduit_fd(s->side[!i]), NULL, h->end,
			   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (n < 0 && errno == EAGAIN)
		s->side[!i]->vain |= READY_WRITE;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return STEP_WAIT;
	if (n <= 0)
		return sink_died(s, i, n < 0 ? -errno : -EPIPE);
	h->end -= (uint32_t)n;
	if (h->end == 0)
		drop_pending(s, h);
	return moved(s, h, (size_t)n);
}

/* For more than a little, in this pump. */
static bool has_room(struct splice *s)
{
	if (!s->asked)
		s->room = s->spec->room ? s->spec->room(s) : SIZE_MAX;
	s->asked = true;
	return s->room >= WORKER_BUFFER;
}

static bool kernel_can(struct splice *s, unsigned i)
{
	const struct splice_half *h = &s->half[i];

	return h->big_reads >= KERNEL_AFTER && !h->no_kernel && !s->side[i]->urgent &&
	       conduit_fd(s->side[INI]) >= 0 && conduit_fd(s->side[TGT]) >= 0 && has_room(s);
}

/*
 * splice(2) said EAGAIN: also where bytes are there and no page was to be had for them, and then no
 * edge comes. -EAGAIN if recv says so too, another -errno, or not negative: read.
 */
static ssize_t ask_again(const struct conduit *source)
{
	char byte;

	return recv(conduit_fd(source), &byte, 1, MSG_PEEK) < 0 ? -errno : 0;
}

/* So much is in our hands now. */
static void fetched(struct splice *s, size_t n)
{
	if (s->spec->passed)
		s->spec->passed(s, n);
}

/* ms, as good as random: another for each splice, and each time (the end of splitmix64). */
static uint64_t stagger(const struct splice *s, uint64_t now)
{
	uint64_t x = (uint64_t)(uintptr_t)s ^ now * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x >> (64 - STAGGER_BITS);
}

/* False: not now; the timer will ask again. A half that waits for this has something to move. */
static bool may_fetch(struct splice *s, unsigned i)
{
	uint64_t now, wait;

	s->most = s->spec->may_pass ? s->spec->may_pass(s, &wait) : SIZE_MAX;
	s->half[i].paused = s->most == 0;
	if (s->most)
		return true;
	now = worker_now(s->worker);
	s->active = now;
	wait += stagger(s, now);
	if (s->timer.at > now + wait)
		timer_set(s->worker, &s->timer, wait, on_timer);
	return false;
}

static size_t at_most(const struct splice *s, size_t n)
{
	return n < s->most ? n : s->most;
}

/* Of n bytes that the sink may leave over, as many as there is room for. */
static size_t at_most_kept(struct splice *s, size_t n)
{
	size_t may = has_room(s) ? s->room : SPLICE_LITTLE;

	return at_most(s, n < may ? n : may);
}

/* Socket to pipe; the next step drains it. */
static enum step fetch_kernel(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	ssize_t n;

	h->pipe = worker_pipe_get(s->worker);
	if (!h->pipe) { /* no descriptors to spare: copy */
		h->big_reads = 0;
		return STEP_MORE;
	}
	n = splice(conduit_fd(s->side[i]), NULL, h->pipe->fd[1], NULL,
		   at_most_kept(s, h->pipe->size), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (n > 0) {
		fetched(s, (size_t)n);
		h->end = (uint32_t)n;
		if (n < KERNEL_WORTH)
			h->big_reads = 0;
		return STEP_MORE;
	}
	n = n < 0 ? -errno : 0;
	drop_pending(s, h);
	if (n == -EAGAIN)
		n = ask_again(s->side[i]);
	if (n == -EAGAIN)
		s->side[i]->vain |= READY_READ;
	if (n == -EAGAIN || n == -EINTR)
		return STEP_WAIT;
	if (n < 0 && n != -EINVAL) /* told once: a read would now say EOF */
		return source_died(s, i, n);
	if (n == -EINVAL)
		h->no_kernel = 1;
	/* no error, but perhaps one of a failed send: the conduit's own read knows */
	h->big_reads = 0;
	return STEP_MORE;
}

static enum step fetch_peek(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	const uint8_t *data;
	ssize_t n = conduit_peek(s->side[i], &data);

	if (n == 0)
		return saw_eof(s, i);
	if (n == -EAGAIN) {
		h->source_ready = 0;
		return STEP_WAIT;
	}
	if (n < 0)
		return source_died(s, i, n);
	n = conduit_write(s->side[!i], data,
			  sink_holds(s, i) ? at_most_kept(s, (size_t)n) : at_most(s, (size_t)n));
	h->source_ready = n == -EAGAIN;
	if (n == -EAGAIN)
		return STEP_WAIT;
	if (n < 0)
		return sink_died(s, i, n);
	fetched(s, (size_t)n);
	conduit_consume(s->side[i], (size_t)n);
	return moved(s, h, (size_t)n);
}

static enum step fetch_pull(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	struct conduit *sink = s->side[!i];
	size_t len;
	void *room = sink->ops->room(sink, &len);
	bool drained;
	ssize_t n;

	h->source_ready = !room;
	if (!room)
		return STEP_WAIT;
	n = conduit_read(s->side[i], room, at_most(s, len));
	if (n == 0)
		return saw_eof(s, i);
	if (n == -EAGAIN)
		return STEP_WAIT;
	if (n < 0)
		return source_died(s, i, n);
	fetched(s, (size_t)n);
	drained = s->side[i]->vain & READY_READ;
	n = conduit_write(sink, room, (size_t)n);
	if (n < 0)
		return sink_died(s, i, n);
	moved(s, h, (size_t)n);
	return drained ? STEP_WAIT : STEP_MORE;
}

static enum step keep(struct splice *s, unsigned i, const uint8_t *left, size_t len)
{
	struct splice_half *h = &s->half[i];

	h->little = len <= SPLICE_LITTLE;
	h->buffer = h->little ? malloc(len) : worker_buffer_get(s->worker);
	if (!h->buffer) {
		splice_end(s, REASON_NO_MEMORY);
		return STEP_OVER;
	}
	memcpy(h->buffer, left, len);
	h->start = 0;
	h->end = (uint32_t)len;
	return STEP_WAIT;
}

static enum step fetch_copy(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	uint8_t *scratch = s->worker->scratch;
	ssize_t n = conduit_read(s->side[i], scratch, at_most_kept(s, WORKER_BUFFER)), taken;

	if (n == 0)
		return saw_eof(s, i);
	if (n == -EAGAIN)
		return STEP_WAIT;
	if (n < 0)
		return source_died(s, i, n);
	fetched(s, (size_t)n);
	if (n < (ssize_t)WORKER_BUFFER)
		h->big_reads = 0;
	else if (h->big_reads < KERNEL_AFTER)
		h->big_reads++;
	taken = conduit_write(s->side[!i], scratch, (size_t)n);
	if (taken < 0 && taken != -EAGAIN)
		return sink_died(s, i, taken);
	if (taken > 0)
		moved(s, h, (size_t)taken);
	else
		taken = 0;
	if (taken < n)
		return keep(s, i, scratch + taken, (size_t)(n - taken));
	return STEP_MORE;
}

static enum step step(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];

	if (h->failed || h->eof_sent)
		return STEP_WAIT;
	if (h->pipe)
		return drain_pipe(s, i);
	if (h->buffer)
		return flush(s, i);
	if (h->eof_seen)
		return pass_eof(s, i);
	if (!may_fetch(s, i))
		return STEP_WAIT;
	if (kernel_can(s, i))
		return fetch_kernel(s, i);
	if (conduit_has_peek(s->side[i]))
		return fetch_peek(s, i);
	if (s->side[!i]->ops->room)
		return fetch_pull(s, i);
	return fetch_copy(s, i);
}

static void pump(struct splice *s, unsigned i)
{
	struct splice_half *h = &s->half[i];
	uint64_t start = h->bytes;
	enum step came;

	s->asked = false;
	do
		came = step(s, i);
	while (came == STEP_MORE && h->bytes - start < (h->pipe ? KERNEL_TURN : SPLICE_TURN));
	account(s, i);
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct splice *s = c->user;
	unsigned i = c == s->side[INI] ? INI : TGT;

	/* an abort that no read will find: nothing more is read from this side */
	if (events & READY_ABORT && (!(events & READY_READ) || s->half[i].eof_seen)) {
		splice_end(s, died(s, i, 0));
		return;
	}
	if (events & READY_READ)
		pump(s, i);
	if (!s->ended && events & READY_WRITE)
		pump(s, !i);
	update(s);
}

static void count_begin(const struct splice *s)
{
	struct counters *count = &s->worker->counters;

	if (s->spec->uncounted)
		return;
	counter_add(&count->value[COUNTER_STREAMS], 1);
	counter_add(&count->value[COUNTER_LIVE_SPLICES], 1);
}

static void count_end(const struct splice *s, enum reason why)
{
	struct counters *count = &s->worker->counters;

	if (s->spec->uncounted)
		return;
	counter_add(&count->value[COUNTER_LIVE_SPLICES], (uint64_t)-1);
	counter_add(&count->ended[why], 1);
}

static void splice_free(struct reapable *r)
{
	free((char *)r - offsetof(struct splice, reapable));
}

struct splice *splice_new(struct worker *w, struct conduit *ini, struct conduit *tgt,
			  const struct splice_spec *spec, void *user)
{
	struct splice *s = calloc(1, sizeof(*s));

	if (!s) {
		conduit_close(ini, REASON_NO_MEMORY);
		conduit_close(tgt, REASON_NO_MEMORY);
		return NULL;
	}
	s->side[INI] = ini;
	s->side[TGT] = tgt;
	s->worker = w;
	s->spec = spec;
	s->user = user;
	s->active = worker_now(w);
	s->reapable.free = splice_free;
	for (unsigned i = 0; i < SIDES; i++) {
		s->side[i]->ready = on_ready;
		s->side[i]->user = s;
	}
	timer_set(w, &s->timer, limit(s), on_timer);
	count_begin(s);
	update(s);
	return s;
}

void splice_end(struct splice *s, enum reason why)
{
	if (s->ended)
		return;
	s->ended = true;
	timer_cancel(s->worker, &s->timer);
	drop_pending(s, &s->half[INI]);
	drop_pending(s, &s->half[TGT]);
	charge(s, &s->half[INI], 0);
	charge(s, &s->half[TGT], 0);
	if (s->spec->end)
		s->spec->end(s, why);
	for (unsigned i = 0; i < SIDES; i++) {
		conduit_close(s->side[i], why);
		s->side[i] = NULL;
	}
	count_end(s, why);
	worker_reap(s->worker, &s->reapable);
}
