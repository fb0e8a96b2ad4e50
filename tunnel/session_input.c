/*
 * session_input: what a session's carrier has, read and given to nghttp2.
 *
 * Theory of operation: a read goes into the worker's input buffer and from there to nghttp2, whose
 * callbacks tell the streams; what they do not take they copy. A turn reads INPUT_TURN bytes at
 * most, and gives nghttp2 INPUT_COSTLY frames that cost much at most (frame_scan): 128 KiB may hold
 * five thousand streams that are opened and reset, and whoever else lives in this worker would wait
 * for all of them. What is left of a read is kept as unfed and goes first in the next turns, each
 * of which lets others have theirs; nothing more is read before that.
 *
 * Memory: for each read, WORKER_SCRATCH is taken of the session's budget first, and given back
 * after it but for what streams keep of it, and unfed.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tunnel/session_private.h"

#define INPUT_TURN ((size_t)256 * 1024)
#define INPUT_SMALL 8192 /* a read this short has emptied the carrier, for now */
#define INPUT_COSTLY 64  /* some hundred microseconds of work, with what follows from it */
#define HUNGER_MS 20
#define RESERVE WORKER_SCRATCH /* and one read more */

static void want_input(struct session *s)
{
	conduit_want(s->carrier, READY_READ | (s->blocked ? READY_WRITE : 0));
}

/* ---- memory ---- */

static void on_hunger(struct timer *t)
{
	struct session *s = (struct session *)((char *)t - offsetof(struct session, hunger));

	if (s->phase != PHASE_ENDED)
		want_input(s);
}

static bool take_memory(struct session *s)
{
	if (budget_take(s->budget, WORKER_SCRATCH))
		return true;
	if (s->limits.peer != SESSION_PEER_AGENT || s->held >= RESERVE)
		return false;
	budget_charge(s->budget, WORKER_SCRATCH);
	return true;
}

/* For one read. False: there is no room, the session is starving. */
static bool take_room(struct session *s)
{
	s->starving = s->phase == PHASE_OPEN && !take_memory(s);
	if (!s->starving) {
		s->spare = s->phase == PHASE_OPEN ? WORKER_SCRATCH : 0;
		return true;
	}
	conduit_want(s->carrier, s->blocked ? READY_WRITE : READY_ABORT);
	timer_set(s->worker, &s->hunger, HUNGER_MS, on_hunger);
	return false;
}

static void give_spare(struct session *s)
{
	budget_give(s->budget, s->spare);
	s->spare = 0;
}

void session_keep(struct session *s, size_t bytes)
{
	assert(!s->budget || s->spare >= bytes);
	s->spare -= s->budget ? bytes : 0;
}

bool session_count_memory(struct session *s, struct quota *memory,
			  void (*put)(struct quota *memory))
{
	s->budget = budget_new(memory, put);
	s->spare = 0; /* inside input, this was nobody's */
	budget_charge(s->budget, s->unfed_end - s->unfed_start);
	return s->budget;
}

/* ---- what waits for the next turn ---- */

void session_drop_input(struct session *s)
{
	worker_undefer(&s->resume);
	budget_give(s->budget, s->unfed_end - s->unfed_start);
	free(s->unfed);
	s->unfed = NULL;
	s->unfed_start = s->unfed_end = 0;
}

static void on_resume(struct deferred *d)
{
	session_input((struct session *)((char *)d - offsetof(struct session, resume)));
}

static void resume_later(struct session *s)
{
	s->resume.run = on_resume;
	worker_defer(s->worker, &s->resume);
}

/* The rest of a read; its memory was taken with the read's. */
static void keep_rest(struct session *s, const uint8_t *data, size_t len)
{
	s->unfed = malloc(len);
	if (!s->unfed) {
		session_begin_close(s, REASON_NO_MEMORY, "out of memory");
		return;
	}
	memcpy(s->unfed, data, len);
	s->unfed_end = len;
	if (s->spare >= len)
		s->spare -= len;
	else /* the budget came in the middle of this read */
		budget_charge(s->budget, len);
	resume_later(s);
}

/* ---- nghttp2 ---- */

static void feed(struct session *s, const uint8_t *data, size_t len)
{
	ssize_t r = nghttp2_session_mem_recv(s->h2, data, len);

	if (r < 0)
		session_begin_close(s, REASON_PROTOCOL, "%s", nghttp2_strerror((int)r));
}

static void feed_read(struct session *s, const uint8_t *data, size_t len, unsigned *left)
{
	size_t n = frame_scan(&s->scan, data, len, left);

	feed(s, data, n);
	if (n < len && s->phase == PHASE_OPEN)
		keep_rest(s, data + n, len - n);
}

/* False: there is still some left. */
static bool feed_rest(struct session *s, unsigned *left)
{
	size_t n;

	if (s->phase != PHASE_OPEN) {
		session_drop_input(s);
		return true;
	}
	n = frame_scan(&s->scan, s->unfed + s->unfed_start, s->unfed_end - s->unfed_start, left);
	s->unfed_start += n;
	s->spare = s->budget ? n : 0; /* it was the rest's, and may be the streams' now */
	feed(s, s->unfed + s->unfed_start - n, n);
	give_spare(s);
	if (s->unfed_start < s->unfed_end) {
		resume_later(s);
		return false;
	}
	session_drop_input(s);
	return true;
}

/* ---- a turn ---- */

/* Nothing more is read from who takes nothing. */
static bool is_held_up(struct session *s)
{
	if (!session_is_stuffed(s))
		return false;
	conduit_want(s->carrier, READY_WRITE);
	return true;
}

/* One read. False: there is nothing more to read now, or s is over. */
static bool read_some(struct session *s, unsigned *left)
{
	ssize_t n = conduit_read(s->carrier, s->worker->input, WORKER_SCRATCH);

	if (n <= 0)
		give_spare(s);
	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		session_lost(s, n);
		return false;
	}
	s->last_rx = worker_now(s->worker);
	s->turn_read += (size_t)n;
	if (s->phase == PHASE_OPEN)
		feed_read(s, s->worker->input, (size_t)n, left);
	give_spare(s);
	return !is_held_up(s) && n >= INPUT_SMALL && !s->unfed;
}

bool session_input(struct session *s)
{
	unsigned left = INPUT_COSTLY;

	s->inputs++;
	/* a GOAWAY in here would undo these openings, though the peer still takes them */
	if (s->flushed != s->opened && !s->blocked)
		s->flush.run(&s->flush);
	if (s->phase == PHASE_ENDED)
		return false;
	s->turn_read = 0;
	if (!s->unfed || (feed_rest(s, &left) && !is_held_up(s)))
		while (s->turn_read < INPUT_TURN && left > 0 && take_room(s))
			if (!read_some(s, &left))
				break;
	if (s->phase == PHASE_OPEN)
		session_schedule(s);
	return s->phase != PHASE_ENDED;
}
