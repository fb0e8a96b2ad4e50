/*
 * crossing: a conduit that cannot move, made to be used in another worker.
 *
 * Theory of operation: the near end is joined to the inner conduit by a splice in inner's worker;
 * the far end is what the caller gets. Each end writes into a ring that the other reads (peek: the
 * reader gets the ring's own memory). A ring has one writer and one reader, so bytes are copied
 * outside the lock: only the writer touches free room, only the reader what is filled.
 *
 * All else that both ends see is under the lock. Events follow from it (due). An end that wants
 * what is not so yet leaves word (awaits); whoever makes it so rouses it (wake.h). A writer that
 * had to wait is told when half of its ring is free, so that two threads do not take turns byte by
 * byte. A detached far end awaits nothing: what happened meanwhile is found when it wants again.
 *
 * Ends: closed in order, an end's bytes can still be read, then EOF; aborted, they can be read as
 * well, then comes the error, and READY_ABORT is told at once. That is what a stream does, too. The
 * near splice has no time-outs: those of the splice on the far side are the real ones. When the far
 * end has closed in order, the near splice ends as soon as inner has its EOF, or when inner has
 * taken nothing for FLUSH_MS.
 *
 * An answer waits under the lock, too; the near end carries it out before it shows the splice
 * anything that the far end has written.
 *
 * Memory: both ends lie in one allocation, which goes with the last; each ring is a worker's buffer
 * from its first byte until it is drained. The workers' pools take one another's buffers. Where the
 * maker has no room for that, it is a little ring; the next one may be larger again.
 *
 * Limits: CROSSING_RING bytes each way. What the near splice holds of a conduit without peek comes
 * on top: one more buffer each way, as in any splice.
 *
 * Longer than other files: both ends are the same code on one state, which nobody else sees.
 */
#include "relay/crossing.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/splice.h"
#include "relay/timer.h"
#include "relay/wake.h"
#include "relay/worker.h"

#define FLUSH_MS 30000
#define NEVER_MS (UINT64_MAX / 4)

/* NOLINTNEXTLINE(misc-redundant-expression): the two are set apart, and equal today */
static_assert(CROSSING_RING <= WORKER_BUFFER, "a ring is a worker's buffer");

enum { NEAR, FAR, ENDS };

/* What one end has said to the other; under the lock. */
struct said {
	uint8_t *ring; /* NULL: nothing is in it */
	size_t size, start, len;
	bool filling; /* the writer is at it: it stays, even if it is drained */
	bool eof;
	bool starved; /* there was no memory for the ring: as good as an abort by the other */
	bool closed;
	enum reason why; /* closed: the reason */
	unsigned awaits; /* events of this end which the other is to rouse it for */
};

/* Of its own thread, but that the other rouses it. */
struct end {
	struct conduit base; /* first: cast both ways */
	struct crossing *crossing;
	struct wake wake;
	struct deferred tell;
	struct reapable reapable;
	unsigned wanted;
	unsigned told; /* READY_ABORT, READY_GONE: told once for each want */
};

struct crossing {
	struct end end[ENDS];
	pthread_mutex_t lock;
	struct said said[ENDS];
	enum reason answer;
	bool answer_waits; /* to be carried out on inner */
	bool refused;	   /* it was a no: only close follows, whatever its reason */
	unsigned ends;	   /* not freed yet */
	const struct crossing_spec *maker;
	void *arg; /* the maker's */
	/* the near end's thread only */
	struct conduit *inner; /* the splice's; no longer than that */
	struct splice *splice;
	struct timer flush; /* set: the far end has closed in order */
};

static const struct splice_spec near_spec = {
	.idle_ms = NEVER_MS,
	.half_closed_ms = NEVER_MS,
	.uncounted = true,
};

static struct end *of(struct conduit *c)
{
	return (struct end *)c;
}

static bool is_near(const struct end *e)
{
	return e == &e->crossing->end[NEAR];
}

static unsigned index_of(const struct end *e)
{
	return is_near(e) ? NEAR : FAR;
}

static struct said *said_by(const struct end *e)
{
	return &e->crossing->said[index_of(e)];
}

static struct said *said_to(const struct end *e)
{
	return &e->crossing->said[!index_of(e)];
}

static void lock(const struct end *e)
{
	pthread_mutex_lock(&e->crossing->lock);
}

static void unlock(const struct end *e)
{
	pthread_mutex_unlock(&e->crossing->lock);
}

/* ---- events; the lock is held ---- */

static bool aborted(const struct end *e)
{
	const struct said *in = said_to(e);

	return said_by(e)->starved ||
	       (in->closed && (e->crossing->refused || !reason_is_clean(in->why)));
}

/* Of these events, those that are so. Of nobody who has closed in order is room awaited. */
static unsigned so(const struct end *e, unsigned events)
{
	const struct said *in = said_to(e), *out = said_by(e);
	unsigned now = aborted(e) ? READY_READ | READY_WRITE | READY_ABORT : 0;

	if (in->len > 0 || in->eof)
		now |= READY_READ;
	if (in->len == 0 && in->closed)
		now |= READY_GONE;
	if (out->len <= out->size / 2 && !in->closed)
		now |= READY_WRITE;
	return now & events;
}

/* What its owner has to be told. An abort goes to whoever wants anything. */
static unsigned due(const struct end *e)
{
	unsigned events = e->wanted ? e->wanted | READY_ABORT : 0;

	return so(e, events & ~e->told);
}

/* The far end has closed in order, and inner has been told or is gone. */
static bool is_over(const struct crossing *x)
{
	const struct splice_half *out;

	if (!timer_is_set(&x->flush))
		return false;
	out = &x->splice->half[TGT];
	return out->eof_sent || out->failed;
}

/* After any change of what is wanted, or of what is so, in e's own thread. */
static void settle(struct end *e)
{
	unsigned now = due(e);

	said_by(e)->awaits = e->wanted ? (e->wanted | READY_ABORT) & ~now & ~e->told : 0;
	if (now || (is_near(e) && is_over(e->crossing)))
		worker_defer(e->base.worker, &e->tell);
	else
		worker_undefer(&e->tell);
}

/* The other end has something new to see. */
static void notify_peer(struct end *e)
{
	struct end *peer = &e->crossing->end[!index_of(e)];
	struct said *s = said_by(peer);

	if (!so(peer, s->awaits))
		return;
	s->awaits = 0; /* until it has looked */
	wake_rouse(&peer->wake);
}

/* The near end has something to do, whatever it awaits. */
static void rouse_near(struct crossing *x)
{
	if (!x->said[NEAR].closed)
		wake_rouse(&x->end[NEAR].wake);
}

/* ---- the near end's own ---- */

/* Before inner sees anything that was written after it. */
static void carry_answer(struct crossing *x)
{
	enum reason answer;
	bool waits;

	pthread_mutex_lock(&x->lock);
	waits = x->answer_waits;
	answer = x->answer;
	x->answer_waits = false;
	pthread_mutex_unlock(&x->lock);
	if (waits && x->inner->ops->answer)
		x->inner->ops->answer(x->inner, answer);
}

static void on_flush(struct timer *t)
{
	struct crossing *x = (struct crossing *)((char *)t - offsetof(struct crossing, flush));
	uint64_t quiet = worker_now(x->splice->worker) - x->splice->active;

	if (quiet < FLUSH_MS)
		timer_set(x->splice->worker, t, FLUSH_MS - quiet, on_flush);
	else
		splice_end(x->splice, REASON_HALF_CLOSED_IDLE);
}

/* What the far end may have asked for. False: the near end is closed now. */
static bool attend(struct crossing *x)
{
	const struct said *far = &x->said[FAR];
	bool in_order;

	carry_answer(x);
	pthread_mutex_lock(&x->lock);
	in_order = far->closed && !aborted(&x->end[NEAR]);
	pthread_mutex_unlock(&x->lock);
	if (in_order && !timer_is_set(&x->flush))
		timer_set(x->splice->worker, &x->flush, FLUSH_MS, on_flush);
	if (!is_over(x))
		return true;
	splice_end(x->splice, REASON_EOF);
	return false;
}

/* ---- events, from the loop ---- */

static void on_wake(struct wake *k)
{
	struct end *e = (struct end *)((char *)k - offsetof(struct end, wake));

	if (is_near(e) && !attend(e->crossing))
		return;
	lock(e);
	settle(e);
	unlock(e);
}

static void on_tell(struct deferred *d)
{
	struct end *e = (struct end *)((char *)d - offsetof(struct end, tell));
	unsigned events;

	if (is_near(e) && !attend(e->crossing))
		return;
	lock(e);
	events = due(e);
	e->told |= events & (READY_ABORT | READY_GONE);
	settle(e); /* again in the next turn, unless it is used up by then */
	unlock(e);
	if (events)
		conduit_ready(&e->base, events); /* e may be another worker's now */
}

static void on_orphaned(struct wake *k)
{
	struct end *e = (struct end *)((char *)k - offsetof(struct end, wake));

	if (is_near(e))
		splice_end(e->crossing->splice, REASON_SHUTDOWN);
	else
		conduit_detach(&e->base); /* its owner may still close it */
}

static void end_want(struct conduit *c, unsigned events)
{
	struct end *e = of(c);

	lock(e);
	e->wanted = events & (READY_READ | READY_WRITE | READY_ABORT | READY_GONE);
	e->told = 0;
	settle(e);
	unlock(e);
}

/* ---- bytes ---- */

static void tell_kept(const struct end *e, int64_t change)
{
	const struct crossing *x = e->crossing;

	if (x->maker->kept)
		x->maker->kept(x->arg, change);
}

/* What s has said is read, or nobody will read it. The lock is held; e is of this thread. */
static void drop_ring(const struct end *e, struct said *s)
{
	s->len = 0;
	if (s->filling)
		return;
	if (s->size == CROSSING_RING)
		tell_kept(e, -(int64_t)CROSSING_RING);
	if (s->size == CROSSING_RING && e->base.worker)
		worker_buffer_put(e->base.worker, s->ring);
	else
		free(s->ring);
	s->ring = NULL;
	s->size = s->start = 0;
}

/* The lock is held. There may be no memory for it. */
static void make_ring(const struct end *e, struct said *out)
{
	const struct crossing *x = e->crossing;
	bool little = x->maker->room && x->maker->room(x->arg) < CROSSING_RING;

	out->ring = little ? malloc(CROSSING_LITTLE) : worker_buffer_get(e->base.worker);
	if (!out->ring)
		return;
	out->size = little ? CROSSING_LITTLE : CROSSING_RING;
	if (!little)
		tell_kept(e, CROSSING_RING);
}

/* The lock is held. Free room, or -errno. */
static ssize_t make_room(struct end *e)
{
	struct said *out = said_by(e);

	if (aborted(e))
		return out->starved ? -ENOMEM : -ECONNRESET;
	if (out->eof)
		return -EPIPE;
	if ((out->ring && out->len == out->size) || said_to(e)->closed)
		return -EAGAIN;
	if (!out->ring)
		make_ring(e, out);
	if (out->ring)
		return (ssize_t)(out->size - out->len);
	out->starved = true;
	return -ENOMEM;
}

static void fill(struct said *out, size_t at, const uint8_t *from, size_t len)
{
	size_t first = len < out->size - at ? len : out->size - at;

	memcpy(out->ring + at, from, first);
	memcpy(out->ring, from + first, len - first);
}

static ssize_t end_write(struct conduit *c, const void *buf, size_t len)
{
	struct end *e = of(c);
	struct said *out = said_by(e);
	ssize_t room;
	size_t at;

	if (len == 0)
		return 0;
	lock(e);
	room = make_room(e);
	if (room > 0) {
		at = (out->start + out->len) % out->size;
		len = len < (size_t)room ? len : (size_t)room;
		out->filling = true;
		unlock(e);
		fill(out, at, buf, len);
		lock(e);
		out->filling = false;
		out->len += len;
		if (said_to(e)->closed) /* meanwhile: nobody reads it */
			drop_ring(e, out);
		notify_peer(e);
	}
	settle(e);
	unlock(e);
	return room > 0 ? (ssize_t)len : room;
}

static ssize_t end_peek(struct conduit *c, const uint8_t **data)
{
	struct end *e = of(c);
	struct crossing *x = e->crossing;
	const struct said *in = said_to(e);
	ssize_t n;

	if (is_near(e))
		carry_answer(x);
	lock(e);
	if (in->len > 0) {
		*data = in->ring + in->start;
		n = (ssize_t)(in->len < in->size - in->start ? in->len : in->size - in->start);
	} else if (in->eof && !x->refused) {
		n = 0; /* in order, even if an abort came later */
	} else if (aborted(e)) {
		n = said_by(e)->starved ? -ENOMEM : -ECONNRESET;
	} else {
		n = -EAGAIN;
	}
	unlock(e);
	return n;
}

static void end_consume(struct conduit *c, size_t len)
{
	struct end *e = of(c);
	struct said *in = said_to(e);

	lock(e);
	in->start = (in->start + len) % in->size;
	in->len -= len;
	if (in->len == 0)
		drop_ring(e, in);
	notify_peer(e);
	settle(e);
	unlock(e);
}

static ssize_t end_read(struct conduit *c, void *buf, size_t max)
{
	const uint8_t *data;
	ssize_t n = end_peek(c, &data);

	if (n <= 0)
		return n;
	if ((size_t)n > max)
		n = (ssize_t)max;
	memcpy(buf, data, (size_t)n);
	end_consume(c, (size_t)n);
	return n;
}

static int end_shutdown(struct conduit *c)
{
	struct end *e = of(c);
	int r = 0;

	lock(e);
	if (aborted(e))
		r = -ECONNRESET;
	else
		said_by(e)->eof = true;
	notify_peer(e);
	unlock(e);
	return r;
}

/* ---- the end ---- */

static void end_free(struct reapable *r)
{
	struct end *e = (struct end *)((char *)r - offsetof(struct end, reapable));
	struct crossing *x = e->crossing;
	unsigned left;

	lock(e);
	left = --x->ends;
	unlock(e);
	if (left > 0)
		return;
	if (x->maker->over)
		x->maker->over(x->arg);
	pthread_mutex_destroy(&x->lock);
	free(x);
}

static void end_close(struct conduit *c, enum reason why)
{
	struct end *e = of(c);
	struct crossing *x = e->crossing;
	struct said *out = said_by(e);

	lock(e);
	out->closed = true;
	out->why = why;
	out->eof |= reason_is_clean(why);
	out->awaits = 0;
	drop_ring(e, said_to(e));
	notify_peer(e);
	if (!is_near(e))
		rouse_near(x);
	unlock(e);
	wake_leave(&e->wake);
	worker_undefer(&e->tell);
	if (is_near(e))
		timer_cancel(c->worker, &x->flush);
	if (c->worker) {
		conduit_deinit(c);
		worker_reap(c->worker, &e->reapable);
	} else { /* detached: nobody else knows it */
		end_free(&e->reapable);
	}
}

static enum reason end_why(const struct conduit *c)
{
	const struct end *e = (const struct end *)c;
	enum reason why;

	lock(e);
	why = said_by(e)->starved ? REASON_NO_MEMORY :
	      said_to(e)->closed  ? said_to(e)->why :
				    REASON_NONE;
	unlock(e);
	return why;
}

/* ---- the far end's own ---- */

static void far_answer(struct conduit *c, enum reason why)
{
	struct end *e = of(c);
	struct crossing *x = e->crossing;

	lock(e);
	x->answer = why;
	x->answer_waits = true;
	x->refused = why != REASON_NONE;
	rouse_near(x);
	unlock(e);
}

static void far_detach(struct conduit *c)
{
	struct end *e = of(c);

	lock(e);
	e->wanted = 0;
	said_by(e)->awaits = 0;
	unlock(e);
	wake_leave(&e->wake);
	worker_undefer(&e->tell);
}

static int far_attach(struct conduit *c, struct worker *w)
{
	wake_enter(&of(c)->wake, w);
	return 0;
}

#define END_OPS                                                                                    \
	.name = "crossing", .read = end_read, .write = end_write, .peek = end_peek,                \
	.consume = end_consume, .shutdown = end_shutdown, .want = end_want, .close = end_close,    \
	.why = end_why

static const struct conduit_ops near_ops = { END_OPS };
static const struct conduit_ops far_ops = {
	END_OPS,
	.answer = far_answer,
	.detach = far_detach,
	.attach = far_attach,
};

static void init_end(struct crossing *x, unsigned i, const struct conduit_ops *ops,
		     struct worker *w)
{
	struct end *e = &x->end[i];

	conduit_init(&e->base, ops, w);
	e->crossing = x;
	e->wake.run = on_wake;
	e->wake.orphaned = on_orphaned;
	e->tell.run = on_tell;
	e->reapable.free = end_free;
	x->ends++;
}

struct conduit *crossing_new(struct conduit *inner, const struct crossing_spec *spec, void *arg)
{
	struct crossing *x = calloc(1, sizeof(*x));
	struct conduit *near, *far;

	if (!x)
		return NULL;
	near = &x->end[NEAR].base;
	far = &x->end[FAR].base;
	pthread_mutex_init(&x->lock, NULL);
	init_end(x, NEAR, &near_ops, inner->worker);
	init_end(x, FAR, &far_ops, inner->worker);
	conduit_detach(far);
	wake_enter(&x->end[NEAR].wake, inner->worker);
	x->inner = inner;
	x->maker = spec;
	x->arg = arg;
	/* NULL: both were aborted; the far end tells it */
	x->splice = splice_new(inner->worker, inner, near, &near_spec, NULL);
	return far;
}
