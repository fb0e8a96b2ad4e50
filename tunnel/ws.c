/*
 * ws: a WebSocket as a conduit, over another conduit.
 *
 * Theory of operation:
 *
 *   open     the owner's. Its interest is passed on to the inner conduit, which also holds all that
 *            is unread: a read takes bytes from there into the caller's buffer and unframes them in
 *            place, so nothing received is ever kept here but part of a frame's head or of a ping.
 *   ending   closed by its owner: what is left and the close go out, the peer's close is looked
 *            for, then the inner conduit is closed in order (relay/linger; a server does so at
 *            once, a client lets the server be first: RFC 6455 section 7.1.1). Bounded by
 *            WS_FLUSH_MS, then WS_ANSWER_MS; what was not said by then ends with an abort of the
 *            inner conduit.
 *
 * Out. A message is built in tx, a worker's buffer held only while it is not empty, and given to
 * the inner conduit as one write. What that does not take goes out as it can, whatever the owner
 * wants; until then nothing more is taken. Behind it, in this order: the pong that is owed, and the
 * close. One pong at most: of pings that come faster than they can be answered, the last counts.
 *
 * Ends. The peer's close is answered with the same code, and behind that a server's connection is
 * ended, for which the client waits. 1000 is EOF, and when that has been read, writing says EPIPE:
 * so an owner in both directions has passed on all it got when it learns that nothing more can be
 * said. To a client that has left (lenient), writing goes nowhere for WS_DEAF_MS before it says so:
 * the owner then resets the far end, and throws away what that has yet to take of the client's last
 * words. Other codes, and an end without one, are ECONNRESET; a breach of the protocol is EPROTO.
 * What came before is read first. A failed write is kept in broken: reading goes on until the inner
 * conduit says what has happened. What stays true without an event (the end, an error) is told by
 * deferred work while it is wanted.
 *
 * Keys of masks are random, many drawn at a time. Memory: this struct, tx while inner is slow: a
 * little that has to wait lies in malloc's.
 *
 * Longer than other files: both directions, and the end, act on the same few flags.
 */
#include "tunnel/ws.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/linger.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define READS 16 /* of the inner conduit in one read of ours, while only heads and pings come */
#define KEYS 64  /* drawn at once */
#define MESSAGE_MAX (WS_WIRE - 8) /* with a head of two bytes, two of length, and a key */

_Static_assert(WS_WIRE <= WORKER_BUFFER, "a message and its head in one buffer");
_Static_assert(WS_WIRE <= UINT16_MAX, "the length takes two bytes");

struct ws {
	struct conduit base; /* first: cast both ways */
	struct conduit *inner;
	struct deferred tell;
	struct timer timer;
	struct reapable reapable;
	uint8_t *tx; /* what the inner conduit is yet to take, from start to end; NULL: nothing */
	uint32_t tx_start, tx_end;
	uint64_t deaf_until; /* what is written to a client that has left goes nowhere */
	int broken;          /* -errno of a failed write */
	uint16_t close_code; /* to be sent, or sent; 0: no close yet */
	uint8_t wanted;      /* by the owner */
	bool little;	     /* tx is malloc's, */
	bool under_way;	     /* ... of a message whose beginning is gone */
	bool close_built;    /* the close is in tx, or gone */
	bool ending, answer_awaited;
	bool lenient;  /* see ws_conduit_new_lenient */
	bool eof_told; /* to the owner, which has taken all that came before it */
	bool inner_shut; /* by us, or it cannot be */
	struct ws_frame_in rx;
};

static struct ws *of(struct conduit *c)
{
	return (struct ws *)c;
}

/* --- out --- */

static bool draw_key(uint8_t key[WS_FRAME_KEY])
{
	static _Thread_local struct {
		uint8_t bytes[KEYS * WS_FRAME_KEY];
		size_t left;
	} keys;

	if (keys.left == 0) {
		if (RAND_bytes(keys.bytes, sizeof(keys.bytes)) != 1)
			return false;
		keys.left = sizeof(keys.bytes);
	}
	keys.left -= WS_FRAME_KEY;
	memcpy(key, keys.bytes + keys.left, WS_FRAME_KEY);
	return true;
}

static void tx_drop(struct ws *s)
{
	if (s->little)
		free(s->tx);
	else
		worker_buffer_put(s->base.worker, s->tx);
	s->tx = NULL;
	s->tx_start = s->tx_end = 0;
	s->little = s->under_way = false;
}

/* What the inner conduit does not take may have to wait for long. */
static void tx_shrink(struct ws *s)
{
	size_t len = s->tx_end - s->tx_start;
	uint8_t *little = s->little ? NULL : worker_buffer_shrink(s->base.worker, s->tx,
								  s->tx_start, len);

	if (!little)
		return;
	s->tx = little;
	s->under_way = s->tx_start > 0;
	s->tx_start = 0;
	s->tx_end = (uint32_t)len;
	s->little = true;
}

static void break_off(struct ws *s, int error)
{
	s->broken = error;
	tx_drop(s);
}

/* Makes a frame in the empty tx. False: no memory, or no key; then it is broken. */
static bool build(struct ws *s, enum ws_frame_opcode opcode, const uint8_t *data, size_t len)
{
	bool masked = s->rx.role == WS_FRAME_CLIENT;
	uint8_t key[WS_FRAME_KEY];
	size_t head;

	if (masked && !draw_key(key)) {
		break_off(s, -EIO);
		return false;
	}
	s->tx = worker_buffer_get(s->base.worker);
	if (!s->tx) {
		break_off(s, -ENOMEM);
		return false;
	}
	head = ws_frame_head(s->tx, opcode, len, masked ? key : NULL);
	if (masked)
		ws_frame_mask(s->tx + head, data, len, key, 0);
	else
		memcpy(s->tx + head, data, len);
	s->tx_end = (uint32_t)(head + len);
	return true;
}

static bool build_close(struct ws *s)
{
	uint8_t code[2] = { (uint8_t)(s->close_code >> 8), (uint8_t)s->close_code };

	s->close_built = true;
	return build(s, WS_FRAME_CLOSE, code, s->close_code == WS_FRAME_CODE_NONE ? 0 : 2);
}

/* The next frame that is due, but for messages. False: none, or it is broken. */
static bool build_due(struct ws *s)
{
	if (s->broken || s->close_built)
		return false;
	if (s->rx.pinged) {
		s->rx.pinged = false;
		return build(s, WS_FRAME_PONG, s->rx.ping, s->rx.ping_len);
	}
	return s->close_code && build_close(s);
}

/* Both closes are said: the peer waits for the server to end what is below (section 7.1.1). */
static bool is_to_be_shut(const struct ws *s)
{
	return s->rx.role == WS_FRAME_SERVER && s->rx.over && s->close_built && !s->tx &&
	       !s->broken && !s->inner_shut;
}

/* Hands over what is to be sent, as far as the inner conduit takes it. */
static void push(struct ws *s)
{
	while (s->tx || build_due(s)) {
		ssize_t n = conduit_write(s->inner, s->tx + s->tx_start, s->tx_end - s->tx_start);

		if (n == -EAGAIN || n == 0) {
			tx_shrink(s);
			return;
		}
		if (n < 0) {
			break_off(s, (int)n);
			return;
		}
		s->tx_start += (uint32_t)n;
		if (s->tx_start == s->tx_end)
			tx_drop(s);
	}
	if (is_to_be_shut(s))
		s->inner_shut = conduit_shutdown(s->inner) != -EAGAIN;
}

/* --- events --- */

/* Does the peer's close end its direction in order? */
static bool is_eof(const struct ws *s)
{
	unsigned code = s->rx.closed;
	bool left = s->lenient && (code == WS_FRAME_CODE_NONE || code == WS_FRAME_CODE_GOING);

	return left || code == WS_FRAME_CODE_EOF;
}

static bool has_left(const struct ws *s)
{
	return s->lenient && is_eof(s);
}

/* What stays true whatever the inner conduit does. */
static unsigned ready_now(const struct ws *s)
{
	unsigned events = 0;

	if (s->base.dead || s->rx.over)
		events |= READY_READ;
	if (s->base.dead || s->eof_told || s->broken)
		events |= READY_WRITE;
	return events & s->wanted;
}

static unsigned needed(const struct ws *s)
{
	unsigned events = s->ending ? READY_READ : s->wanted;

	if (!s->ending && (s->base.dead || s->rx.over))
		events = 0;
	if (s->broken)
		events &= (unsigned)~READY_WRITE;
	if (s->tx || is_to_be_shut(s))
		events |= READY_WRITE;
	return events;
}

/* After every change of state. */
static void rearm(struct ws *s)
{
	conduit_want(s->inner, needed(s));
	if (ready_now(s))
		worker_defer(s->base.worker, &s->tell);
	else
		worker_undefer(&s->tell);
}

static void on_tell(struct deferred *d)
{
	struct ws *s = (struct ws *)((char *)d - offsetof(struct ws, tell));
	unsigned events = ready_now(s);

	rearm(s); /* level-triggered */
	if (events)
		conduit_ready(&s->base, events);
}

static void end_step(struct ws *s, bool readable);

static void on_inner(struct conduit *inner, unsigned events)
{
	struct ws *s = inner->user;
	bool was_broken = s->broken;

	if (events & READY_WRITE)
		push(s);
	if (s->ending) {
		end_step(s, events & READY_READ);
		return;
	}
	if (s->tx)
		events &= (unsigned)~READY_WRITE;
	if (s->broken && !was_broken && !has_left(s))
		events |= READY_ABORT;
	events = (events & s->wanted) | ready_now(s);
	rearm(s);
	if (events)
		conduit_ready(&s->base, events);
}

/* --- in --- */

static void say_close(struct ws *s, unsigned code)
{
	if (!s->close_code)
		s->close_code = (uint16_t)code;
}

/* Unframes what was read, and sees to control frames. Returns the payload's length. */
static size_t receive(struct ws *s, uint8_t *data, size_t len)
{
	size_t payload = ws_frame_take(&s->rx, data, len);

	if (s->rx.fault) {
		log_debug("websocket: the peer broke the protocol: %s", s->rx.why);
		s->base.dead = -EPROTO;
		say_close(s, s->rx.fault);
	} else if (s->rx.over) {
		log_debug("websocket: the peer closed with code %u", s->rx.closed);
		if (!is_eof(s))
			s->base.dead = -ECONNRESET;
		say_close(s, s->rx.closed);
	}
	if (s->rx.pinged || s->rx.over)
		push(s);
	return payload;
}

/* Nothing more to read. */
static ssize_t read_end(struct ws *s)
{
	if (s->base.dead)
		return s->base.dead;
	if (has_left(s) && !s->eof_told)
		s->deaf_until = worker_now(s->base.worker) + WS_DEAF_MS;
	s->eof_told = s->rx.over;
	return s->rx.over ? 0 : -EAGAIN;
}

static ssize_t ws_read(struct conduit *c, void *buf, size_t max)
{
	struct ws *s = of(c);
	ssize_t n = 0;

	for (int i = 0; i < READS && n == 0 && !c->dead && !s->rx.over; i++) {
		n = conduit_read(s->inner, buf, max);
		if (n == 0)
			c->dead = -ECONNRESET; /* no close came before */
		else if (n > 0)
			n = (ssize_t)receive(s, buf, (size_t)n);
		else if (n != -EAGAIN)
			c->dead = (int)n;
	}
	n = n > 0 ? n : read_end(s);
	rearm(s);
	return n;
}

static ssize_t ws_write(struct conduit *c, const void *buf, size_t len)
{
	struct ws *s = of(c);
	size_t done = 0;

	if (c->dead)
		return c->dead;
	if (s->rx.over && !s->eof_told)
		return -EAGAIN;
	if (has_left(s) && worker_now(c->worker) < s->deaf_until)
		return (ssize_t)len;
	if (s->close_code)
		return -EPIPE;
	push(s);
	while (done < len && !s->tx && !s->broken) {
		size_t part = len - done < MESSAGE_MAX ? len - done : MESSAGE_MAX;

		if (!build(s, WS_FRAME_BINARY, (const uint8_t *)buf + done, part))
			break;
		done += part;
		push(s);
	}
	rearm(s);
	if (s->broken)
		return s->broken;
	return done || len == 0 ? (ssize_t)done : -EAGAIN;
}

static int ws_shutdown(struct conduit *c)
{
	struct ws *s = of(c);

	if (c->dead)
		return c->dead;
	say_close(s, WS_FRAME_CODE_EOF);
	push(s);
	rearm(s);
	return s->broken;
}

/* When writing is over for good, READY_WRITE says that, and nothing of what is kept. */
static size_t ws_held(const struct conduit *c)
{
	const struct ws *s = (const struct ws *)c;
	const struct conduit *inner = s->inner;

	if (c->dead || s->broken || s->eof_told)
		return 0;
	return (s->tx && !s->little ? WORKER_BUFFER : 0) +
	       (inner->ops->held ? inner->ops->held(inner) : 0);
}

static void ws_want(struct conduit *c, unsigned events)
{
	struct ws *s = of(c);

	s->wanted = (uint8_t)(events & (READY_READ | READY_WRITE | READY_ABORT));
	rearm(s);
}

/* --- the end --- */

static void ws_reap(struct reapable *r)
{
	free((char *)r - offsetof(struct ws, reapable));
}

static void over(struct ws *s, enum reason why)
{
	worker_undefer(&s->tell);
	timer_cancel(s->base.worker, &s->timer);
	tx_drop(s);
	if (why == REASON_EOF) /* whatever still lies unread in it */
		linger_close(s->inner, NULL, NULL);
	else
		conduit_close(s->inner, why);
	conduit_deinit(&s->base);
	worker_reap(s->base.worker, &s->reapable);
}

/* All has been said that can be. */
static bool is_said(const struct ws *s)
{
	return s->close_built && !s->tx && !s->broken;
}

static void on_end_timer(struct timer *t)
{
	struct ws *s = (struct ws *)((char *)t - offsetof(struct ws, timer));

	over(s, is_said(s) ? REASON_EOF : REASON_RESET);
}

/* Throws away what comes before the peer's close, and after. True: the peer is gone. */
static bool discard(struct ws *s)
{
	uint8_t *scratch = s->base.worker->scratch;
	ssize_t n = conduit_read(s->inner, scratch, WORKER_SCRATCH);

	if (n > 0)
		receive(s, scratch, (size_t)n);
	return n <= 0 && n != -EAGAIN;
}

static void end_step(struct ws *s, bool readable)
{
	bool gone = readable && discard(s);
	/* after a breach nothing is waited for; after both closes the server goes first */
	bool enough = s->rx.fault || (s->rx.over && s->rx.role == WS_FRAME_SERVER);

	if (s->broken || gone || (is_said(s) && enough)) {
		over(s, is_said(s) ? REASON_EOF : REASON_RESET);
		return;
	}
	if (is_said(s) && !s->answer_awaited) {
		s->answer_awaited = true;
		timer_set(s->base.worker, &s->timer, WS_ANSWER_MS, on_end_timer);
	}
	rearm(s);
}

static void ws_close(struct conduit *c, enum reason why)
{
	struct ws *s = of(c);
	bool clean = reason_is_clean(why);

	s->ending = true;
	s->wanted = 0;
	if (!s->rx.over && (c->dead || (!clean && s->close_built))) {
		over(s, REASON_RESET); /* the peer is gone, or was told EOF before: no other word */
		return;
	}
	if (!clean && !s->close_built) {
		/* one that is under way has to be finished */
		if (s->tx && s->tx_start == 0 && !s->under_way)
			tx_drop(s);
		if (!s->rx.over)
			s->close_code = WS_FRAME_CODE_FAILED;
	}
	say_close(s, WS_FRAME_CODE_EOF);
	push(s);
	timer_set(c->worker, &s->timer, clean ? WS_FLUSH_MS : WS_ANSWER_MS, on_end_timer);
	end_step(s, false);
}

static enum reason ws_why(const struct conduit *c)
{
	const struct conduit *inner = ((const struct ws *)c)->inner;

	if (c->dead == -EPROTO && ((const struct ws *)c)->rx.fault)
		return REASON_PROTOCOL;
	return inner->ops->why ? inner->ops->why(inner) : REASON_NONE;
}

static const struct conduit_ops ws_ops = {
	.name = "websocket",
	.read = ws_read,
	.write = ws_write,
	.shutdown = ws_shutdown,
	.want = ws_want,
	.close = ws_close,
	.held = ws_held,
	.why = ws_why,
};

struct conduit *ws_conduit_new(struct conduit *inner, enum ws_frame_role role)
{
	struct ws *s = calloc(1, sizeof(*s));

	if (!s) {
		conduit_close(inner, REASON_NO_MEMORY);
		return NULL;
	}
	conduit_init(&s->base, &ws_ops, inner->worker);
	s->inner = inner;
	s->tell.run = on_tell;
	s->reapable.free = ws_reap;
	ws_frame_in_init(&s->rx, role);
	inner->ready = on_inner;
	inner->user = s;
	conduit_want(inner, 0);
	return &s->base;
}

struct conduit *ws_conduit_new_lenient(struct conduit *inner)
{
	struct conduit *c = ws_conduit_new(inner, WS_FRAME_SERVER);

	if (c)
		of(c)->lenient = true;
	return c;
}
