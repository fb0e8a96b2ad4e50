/*
 * Splices over every pair of conduit kinds: TCP, Unix, one whose received bytes lie in memory
 * (peek), one that pulls (room). Half-close both ways, aborts, backpressure, time-outs, splice(2).
 */
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "relay/bucket.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/splice.h"
#include "tests/unit/loop.h"

#define BULK ((size_t)10 * 1024 * 1024)
#define PIPE_ROOM ((size_t)256 * 1024) /* what a fake holds each way */
#define FRAME ((size_t)16 * 1024)

enum kind { TCP, UNIX, PEEK, PULL, KINDS };

static const char *const kind_names[] = { "tcp", "unix", "peek", "pull" };

/* --- fakes: a conduit and the far end of it, in memory --- */

struct queue {
	uint8_t *at;
	size_t start, end;
};

struct fake {
	struct conduit base; /* first: cast both ways */
	struct deferred tell;
	struct queue in, out; /* from the far end; to it */
	bool in_eof, out_eof, aborted /* by the far end */, closed, reset /* by the splice */;
	bool pulling;         /* inside ready(READY_WRITE): one frame */
	uint8_t frame[FRAME]; /* the room */
	size_t frame_used;
	unsigned wanted;
};

static struct fake *fake_of(struct conduit *c)
{
	return (struct fake *)c;
}

static size_t filled(const struct queue *q)
{
	return q->end - q->start;
}

static size_t queue_put(struct queue *q, const void *buf, size_t len)
{
	if (q->start) {
		memmove(q->at, q->at + q->start, filled(q));
		q->end -= q->start;
		q->start = 0;
	}
	if (len > PIPE_ROOM - q->end)
		len = PIPE_ROOM - q->end;
	memcpy(q->at + q->end, buf, len);
	q->end += len;
	return len;
}

static size_t queue_get(struct queue *q, void *buf, size_t max)
{
	size_t n = filled(q) < max ? filled(q) : max;

	memcpy(buf, q->at + q->start, n);
	q->start += n;
	return n;
}

static unsigned fake_events(const struct fake *f)
{
	unsigned events = 0;

	if (f->closed)
		return 0;
	if (filled(&f->in) || f->in_eof || f->base.dead)
		events |= READY_READ;
	if (filled(&f->out) < PIPE_ROOM || f->base.dead)
		events |= READY_WRITE;
	if (f->aborted && f->wanted == READY_ABORT)
		events |= READY_ABORT;
	return events & f->wanted;
}

static void fake_kick(struct fake *f)
{
	if (fake_events(f))
		worker_defer(w, &f->tell);
}

/* Reading and writing are told one after the other, as a tunnel session does. */
static void fake_tell(struct deferred *d)
{
	struct fake *f = (struct fake *)((char *)d - offsetof(struct fake, tell));
	unsigned events = fake_events(f) & ~(unsigned)READY_WRITE;

	if (events)
		conduit_ready(&f->base, events);
	if (fake_events(f) & READY_WRITE) {
		f->pulling = true;
		f->frame_used = 0;
		conduit_ready(&f->base, READY_WRITE);
		f->pulling = false;
	}
	fake_kick(f);
}

static ssize_t fake_peek(struct conduit *c, const uint8_t **data)
{
	struct fake *f = fake_of(c);

	CHECK(!f->closed);
	if (filled(&f->in)) {
		*data = f->in.at + f->in.start;
		return (ssize_t)(filled(&f->in) < FRAME ? filled(&f->in) : FRAME);
	}
	if (c->dead)
		return c->dead;
	return f->in_eof ? 0 : -EAGAIN;
}

static void fake_consume(struct conduit *c, size_t len)
{
	CHECK(len <= filled(&fake_of(c)->in));
	fake_of(c)->in.start += len;
}

static ssize_t fake_read(struct conduit *c, void *buf, size_t max)
{
	const uint8_t *data;
	ssize_t n = fake_peek(c, &data);

	return n > 0 ? (ssize_t)queue_get(&fake_of(c)->in, buf, max) : n;
}

static ssize_t fake_write(struct conduit *c, const void *buf, size_t len)
{
	struct fake *f = fake_of(c);
	size_t n;

	CHECK(!f->closed);
	CHECK(!f->out_eof); /* nothing after the EOF */
	if (c->dead)
		return c->dead;
	n = queue_put(&f->out, buf, len);
	return n || !len ? (ssize_t)n : -EAGAIN;
}

static void *pull_room(struct conduit *c, size_t *len)
{
	struct fake *f = fake_of(c);
	size_t left = PIPE_ROOM - filled(&f->out);

	if (!f->pulling || f->frame_used == FRAME || !left || f->out_eof || c->dead)
		return NULL;
	*len = FRAME - f->frame_used < left ? FRAME - f->frame_used : left;
	return f->frame + f->frame_used;
}

static ssize_t pull_write(struct conduit *c, const void *buf, size_t len)
{
	struct fake *f = fake_of(c);
	size_t room;

	if (c->dead)
		return c->dead;
	if (!pull_room(c, &room))
		return -EAGAIN;
	if (len > room)
		len = room;
	f->frame_used += len;
	return fake_write(c, buf, len);
}

static int fake_shutdown(struct conduit *c)
{
	if (c->dead)
		return c->dead;
	fake_of(c)->out_eof = true;
	return 0;
}

static int pull_shutdown(struct conduit *c)
{
	return fake_of(c)->pulling || c->dead ? fake_shutdown(c) : -EAGAIN;
}

static void fake_want(struct conduit *c, unsigned events)
{
	CHECK(!fake_of(c)->closed);
	fake_of(c)->wanted = events;
	fake_kick(fake_of(c));
}

static void fake_close(struct conduit *c, enum reason why)
{
	struct fake *f = fake_of(c);

	CHECK(!f->closed);
	f->closed = true;
	if (reason_is_clean(why))
		f->out_eof = true;
	else
		f->reset = true;
	worker_undefer(&f->tell);
	conduit_deinit(c);
}

static const struct conduit_ops peek_ops = { .name = "peek",
					     .read = fake_read,
					     .write = fake_write,
					     .peek = fake_peek,
					     .consume = fake_consume,
					     .shutdown = fake_shutdown,
					     .want = fake_want,
					     .close = fake_close };
static const struct conduit_ops pull_ops = { .name = "pull",
					     .read = fake_read,
					     .write = pull_write,
					     .room = pull_room,
					     .shutdown = pull_shutdown,
					     .want = fake_want,
					     .close = fake_close };

/* --- far ends: what the client and the service see --- */

struct far {
	enum kind kind;
	int fd;
	struct fake *fake;
	struct conduit *near; /* goes into the splice */
	uint64_t sent, received;
	bool eof, aborted; /* seen by this far end */
	bool gone;
};

static struct far far_new(enum kind kind)
{
	struct far f = { .kind = kind, .fd = -1 };
	int fd[2];

	if (kind == TCP || kind == UNIX) {
		(kind == TCP ? tcp_pair : unix_pair)(fd);
		f.fd = fd[1];
		f.near = fd_conduit_new(w, fd[0]);
		CHECK(f.near);
		return f;
	}
	f.fake = calloc(1, sizeof(*f.fake));
	CHECK(f.fake);
	f.fake->in.at = malloc(PIPE_ROOM);
	f.fake->out.at = malloc(PIPE_ROOM);
	CHECK(f.fake->in.at && f.fake->out.at);
	f.fake->tell.run = fake_tell;
	f.near = &f.fake->base;
	conduit_init(f.near, kind == PEEK ? &peek_ops : &pull_ops, w);
	return f;
}

static void far_free(struct far *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	if (!f->fake)
		return;
	CHECK(f->fake->closed);
	free(f->fake->in.at);
	free(f->fake->out.at);
	free(f->fake);
	f->fake = NULL;
}

/* What every far end sends: a pattern of a length that is no power of two. */
#define PERIOD ((size_t)65521)
static uint8_t pattern[PERIOD + PIPE_ROOM];

static void make_pattern(void)
{
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)((i % PERIOD) * 31 + ((i % PERIOD) >> 8) * 7);
}

/* Sends on up to total; true when all is out. */
static bool far_send(struct far *f, uint64_t total)
{
	while (f->sent < total && !f->aborted) {
		size_t len = total - f->sent < PIPE_ROOM ? (size_t)(total - f->sent) : PIPE_ROOM;
		const uint8_t *buf = pattern + f->sent % PERIOD;
		ssize_t n;

		if (f->fake) {
			n = (ssize_t)queue_put(&f->fake->in, buf, len);
			fake_kick(f->fake);
		} else {
			n = send(f->fd, buf, len, MSG_NOSIGNAL);
			f->aborted |= n < 0 && errno != EAGAIN; /* told once only */
		}
		if (n <= 0)
			return false;
		f->sent += (uint64_t)n;
	}
	return !f->aborted;
}

/* Takes what is there, max at most; checks each byte. */
static void far_receive(struct far *f, size_t max)
{
	static uint8_t buf[PIPE_ROOM];
	ssize_t n;

	if (f->eof || f->aborted || f->gone || max == 0)
		return;
	if (max > sizeof(buf))
		max = sizeof(buf);
	if (f->fake) {
		n = (ssize_t)queue_get(&f->fake->out, buf, max);
		fake_kick(f->fake);
		if (n == 0) {
			f->aborted = f->fake->reset;
			f->eof = f->fake->out_eof && !f->aborted;
		}
	} else {
		n = recv(f->fd, buf, max, 0);
		f->eof = n == 0;
		f->aborted = n < 0 && errno != EAGAIN;
	}
	if (n <= 0)
		return;
	CHECK(memcmp(buf, pattern + f->received % PERIOD, (size_t)n) == 0);
	f->received += (uint64_t)n;
}

static void far_eof(struct far *f)
{
	if (f->fake) {
		f->fake->in_eof = true;
		fake_kick(f->fake);
	} else {
		CHECK_INT(shutdown(f->fd, SHUT_WR), 0);
	}
}

/* A Unix socket aborts by being closed with bytes unread: there must be some. */
static void far_abort(struct far *f)
{
	f->gone = true;
	if (f->fake) {
		f->fake->aborted = true;
		f->fake->base.dead = -ECONNRESET;
		f->fake->in.start = f->fake->in.end = 0;
		fake_kick(f->fake);
		return;
	}
	if (f->kind == TCP)
		reset(f->fd);
	else
		close(f->fd);
	f->fd = -1;
}

/* --- a splice between two far ends --- */

struct joined {
	struct far far[SIDES];
	struct splice *s;
	unsigned ended;
	enum reason why;
	uint64_t bytes[SIDES];
};

static void on_end(struct splice *s, enum reason why)
{
	struct joined *j = s->user;

	j->ended++;
	j->why = why;
	for (unsigned i = 0; i < SIDES; i++) {
		j->bytes[i] = s->half[i].bytes;
		CHECK(!s->half[i].buffer && !s->half[i].pipe); /* given back */
	}
	j->s = NULL;
}

static const struct splice_spec patient = { .idle_ms = 60000,
					    .half_closed_ms = 60000,
					    .end = on_end };
static const struct splice_spec hasty = { .idle_ms = 100, .half_closed_ms = 60000, .end = on_end };
static const struct splice_spec half_hasty = { .idle_ms = 60000,
					       .half_closed_ms = 100,
					       .end = on_end };

static const char *at_pair = "";

static void join_for(struct joined *j, enum kind ini, enum kind tgt, const struct splice_spec *spec,
		     const char *test)
{
	static char text[64];

	snprintf(text, sizeof(text), "%s, %s to %s", test, kind_names[ini], kind_names[tgt]);
	at_pair = text;
	*j = (struct joined){ .far = { far_new(ini), far_new(tgt) } };
	j->s = splice_new(w, j->far[INI].near, j->far[TGT].near, spec, j);
	CHECK(j->s);
}

#define join(j, ini, tgt, spec) join_for(j, ini, tgt, spec, __func__)

static void part(struct joined *j)
{
	UNTIL(j->ended);
	settle();
	CHECK_INT(j->ended, 1);
	CHECK_INT(w->conduits, 0);
	CHECK_INT(w->timers.live, 0);
	CHECK_INT(counter_get(&w->counters.value[COUNTER_LIVE_SPLICES]), 0);
	far_free(&j->far[INI]);
	far_free(&j->far[TGT]);
}

/* first ends at once after a word; the other then answers with 10 MB, and ends. */
static void late_reply(enum kind ini, enum kind tgt, unsigned first)
{
	struct joined j;
	struct far *asks, *answers;

	join(&j, ini, tgt, &patient);
	asks = &j.far[first];
	answers = &j.far[!first];
	CHECK(far_send(asks, 5));
	far_eof(asks);
	UNTIL((far_receive(answers, SIZE_MAX), answers->eof));
	CHECK_INT(answers->received, 5);
	CHECK_INT(j.ended, 0);
	UNTIL((far_receive(asks, SIZE_MAX), far_send(answers, BULK)));
	CHECK(!asks->eof);
	UNTIL((far_receive(asks, SIZE_MAX), asks->received == BULK));
	settle();
	far_receive(asks, SIZE_MAX);
	CHECK(!asks->eof && !asks->aborted); /* all of it is no EOF */
	far_eof(answers);
	UNTIL((far_receive(asks, SIZE_MAX), asks->eof));
	CHECK(!asks->aborted && !answers->aborted);
	part(&j);
	CHECK_INT(j.why, REASON_EOF);
	CHECK_INT(j.bytes[first], 5);
	CHECK_INT(j.bytes[!first], BULK);
}

/* Both directions full at once. */
static void both_ways(enum kind ini, enum kind tgt)
{
	struct joined j;
	bool ended[SIDES] = { false, false };

	join(&j, ini, tgt, &patient);
	for (uint64_t overdue = now_ms() + WAIT_MS; !j.far[INI].eof || !j.far[TGT].eof;) {
		for (unsigned i = 0; i < SIDES; i++) {
			if (!ended[i] && far_send(&j.far[i], BULK / 4)) {
				ended[i] = true;
				far_eof(&j.far[i]);
			}
			far_receive(&j.far[i], 100000);
			CHECK(!j.far[i].aborted);
		}
		turn(false);
		CHECK(now_ms() < overdue);
	}
	part(&j);
	CHECK_INT(j.why, REASON_EOF);
	for (unsigned i = 0; i < SIDES; i++) {
		CHECK_INT(j.far[i].received, BULK / 4);
		CHECK_INT(j.bytes[i], BULK / 4);
	}
}

/* What the surviving end has to see: an abort, where its kind can say it. Never EOF there. */
static void sees_abort(struct joined *j, unsigned side)
{
	struct far *f = &j->far[side];

	UNTIL((far_receive(f, SIZE_MAX), f->eof || f->aborted));
	if (f->kind != UNIX)
		CHECK(f->aborted);
}

/* aborter lets a word of the other's lie unread and aborts; idle, or after its own EOF. */
static void abort_idle(enum kind ini, enum kind tgt, unsigned aborter, bool half_closed)
{
	struct joined j;

	join(&j, ini, tgt, &patient);
	CHECK(far_send(&j.far[!aborter], 3));
	UNTIL(j.s->half[!aborter].bytes == 3);
	if (half_closed) {
		far_eof(&j.far[aborter]);
		UNTIL((far_receive(&j.far[!aborter], 1), j.far[!aborter].eof));
	}
	far_abort(&j.far[aborter]);
	UNTIL(j.ended);
	CHECK_INT(j.why, half_closed	  ? REASON_CLOSED_EARLY :
			 aborter == INI ? REASON_RESET :
					  REASON_TARGET_RESET);
	if (!half_closed)
		sees_abort(&j, !aborter);
	part(&j);
}

/* In the midst of bulk. What got through is right, and no EOF follows it. */
static void abort_midstream(enum kind ini, enum kind tgt, unsigned aborter)
{
	struct joined j;
	struct far *from, *to;

	join(&j, ini, tgt, &patient);
	from = &j.far[aborter];
	to = &j.far[!aborter];
	CHECK(far_send(to, 3)); /* lies unread */
	UNTIL(j.s->half[!aborter].bytes == 3);
	UNTIL((far_send(from, BULK), far_receive(to, SIZE_MAX), to->received >= BULK / 4));
	far_abort(from);
	UNTIL((far_receive(to, SIZE_MAX), j.ended));
	CHECK_INT(j.why, aborter == INI ? REASON_RESET : REASON_TARGET_RESET);
	sees_abort(&j, !aborter);
	CHECK(to->received < BULK);
	part(&j);
}

static size_t socket_room(const struct far *f)
{
	int sent = 0, received = 0;
	socklen_t len = sizeof(int);

	if (f->fake)
		return PIPE_ROOM;
	getsockopt(f->fd, SOL_SOCKET, SO_SNDBUF, &sent, &len);
	getsockopt(f->fd, SOL_SOCKET, SO_RCVBUF, &received, &len);
	return (size_t)sent + (size_t)received;
}

/* TCP sockets grow by themselves, up to tens of MB, unless they are told a size. */
static void pin_room(int fd)
{
	int room = 128 * 1024;

	if (fd < 0) /* a fake */
		return;
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)), 0);
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)), 0);
}

static void on_alarm(struct timer *t)
{
}

/* The sink takes nothing: the splice holds one buffer or pipe, then the source has to wait. */
static void slow_reader(enum kind ini, enum kind tgt)
{
	struct joined j;
	struct far *from, *to;
	const struct splice_half *h;
	struct timer alarm = { 0 };
	uint64_t last = 0, bound;
	unsigned still = 0;

	join(&j, ini, tgt, &patient);
	from = &j.far[INI];
	to = &j.far[TGT];
	h = &j.s->half[INI];
	for (unsigned i = 0; i < SIDES; i++) {
		pin_room(j.far[i].fake ? -1 : j.far[i].fd);
		pin_room(conduit_fd(j.s->side[i]));
	}
	while (still < 200) {
		far_send(from, 4 * BULK);
		turn(false);
		CHECK_INT(j.ended, 0);
		CHECK(!h->buffer || !h->pipe);
		CHECK(!h->buffer || h->end - h->start <= WORKER_BUFFER);
		CHECK(!h->pipe || h->end <= h->pipe->size);
		still = from->sent == last ? still + 1 : 0;
		last = from->sent;
	}
	/* both ends of both, and as much again for what the kernel adds of its own */
	bound = h->bytes + WORKER_BUFFER + PIPE_SIZE + 4 * socket_room(from);
	CHECK(from->sent <= bound);
	CHECK(from->sent < 4 * BULK);
	/* and no time is wasted on it, once the kernel has settled: quiet turns in a row */
	for (unsigned quiet = 0, turns = 0; quiet < 3; turns++) {
		uint64_t start = now_ms();

		CHECK(turns < 300);
		CHECK_INT(splice_want(j.s, INI) & READY_READ, 0);
		timer_set(w, &alarm, 30, on_alarm); /* moved, if it had not fired */
		turn(true);
		quiet = now_ms() - start >= 10 ? quiet + 1 : 0;
	}
	timer_cancel(w, &alarm);
	/* slowly, then fast: all of it comes */
	for (unsigned i = 0; i < 50; i++) {
		far_receive(to, 777);
		turn(false);
	}
	UNTIL((far_send(from, 2 * BULK), far_receive(to, SIZE_MAX), to->received >= 2 * BULK));
	far_eof(from);
	far_eof(to);
	UNTIL((far_receive(from, SIZE_MAX), far_receive(to, SIZE_MAX), j.ended));
	CHECK_INT(j.why, REASON_EOF);
	CHECK_INT(to->received, from->sent);
	part(&j);
}

/* The sink fails while what it said before still lies unread: that is passed on, then the abort. */
static void failed_sink(enum kind ini, enum kind tgt, bool bulk)
{
	struct joined j;
	struct far *client, *server;

	join(&j, ini, tgt, &patient);
	client = &j.far[INI];
	server = &j.far[TGT];
	if (bulk) /* so that splice(2) is at work on the way up, and the sink is full */
		for (unsigned i = 0; i < 300; i++) {
			far_send(client, BULK);
			turn(false);
		}
	else
		CHECK(far_send(client, 3));
	UNTIL(j.s->half[INI].bytes >= 3);
	CHECK(far_send(server, 1000));
	if (!bulk) /* its words and its abort come in one turn, and the client's next word first */
		far_send(client, 6);
	far_abort(server);
	UNTIL(j.ended); /* the client sends nothing now: its send would take the error */
	CHECK_INT(j.why, REASON_TARGET_RESET);
	sees_abort(&j, INI);
	CHECK(client->received == 0 || client->received == 1000);
	part(&j);
}

/* --- over every pair --- */

/* --- bytes per second --- */

#define RATE (BULK * 4 / 5)

static struct bucket bucket;
static uint64_t passed;

static size_t may_pass(struct splice *s, uint64_t *wait)
{
	uint64_t now = worker_now(w);

	*wait = bucket_wait(&bucket, RATE, RATE / 64, now);
	return *wait ? 0 : bucket_has(&bucket, RATE, now);
}

static void on_passed(struct splice *s, size_t bytes)
{
	CHECK(bytes <= bucket_has(&bucket, RATE, worker_now(w))); /* never more than it was told */
	bucket_spend(&bucket, RATE, bytes, worker_now(w));
	passed += bytes;
}

static const struct splice_spec slowed = { .idle_ms = 60000,
					   .half_closed_ms = 60000,
					   .may_pass = may_pass,
					   .passed = on_passed,
					   .end = on_end };

/* More than a second's worth, both ways: late, but whole. */
static void slow_down(enum kind ini, enum kind tgt)
{
	struct joined j;
	uint64_t began = worker_now(w);

	bucket = (struct bucket){ 0 };
	passed = 0;
	join(&j, ini, tgt, &slowed);
	UNTIL((far_receive(&j.far[TGT], SIZE_MAX), far_send(&j.far[INI], BULK / 2)));
	far_eof(&j.far[INI]);
	UNTIL((far_receive(&j.far[TGT], SIZE_MAX), j.far[TGT].eof));
	CHECK_INT(j.far[TGT].received, BULK / 2);
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), far_send(&j.far[TGT], BULK / 2)));
	far_eof(&j.far[TGT]);
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), j.far[INI].eof));
	CHECK_INT(j.far[INI].received, BULK / 2);
	CHECK_INT(passed, BULK);
	CHECK(worker_now(w) - began >= 200);
	part(&j);
	CHECK_INT(j.why, REASON_EOF);
}

static size_t never(struct splice *s, uint64_t *wait)
{
	*wait = 500; /* longer than the time-out */
	return 0;
}

/* Who waits for leave is not idle: the other end is still there, and has sent. */
static void test_held(void)
{
	static const struct splice_spec held = { .idle_ms = 100,
						 .half_closed_ms = 100,
						 .may_pass = never,
						 .passed = on_passed,
						 .end = on_end };
	struct joined j;
	uint64_t began;

	join(&j, TCP, TCP, &held);
	CHECK(far_send(&j.far[INI], 100));
	began = now_ms();
	UNTIL((now_ms() - began >= 800 || j.ended));
	CHECK(!j.ended);
	splice_end(j.s, REASON_SHUTDOWN);
	part(&j);
}

static size_t allowance;

static size_t allowed(struct splice *s, uint64_t *wait)
{
	*wait = allowance ? 0 : 50;
	return allowance;
}

static void on_any(struct splice *s, size_t bytes)
{
}

/* One direction ends when there is leave, but the timer has not said so: it still does. */
static void test_end_beside_held(void)
{
	static const struct splice_spec spec = { .idle_ms = 60000,
						 .half_closed_ms = 60000,
						 .may_pass = allowed,
						 .passed = on_any,
						 .end = on_end };
	struct joined j;
	uint64_t began;

	allowance = 0;
	join(&j, TCP, TCP, &spec);
	CHECK(far_send(&j.far[TGT], 100));
	UNTIL(j.s->half[TGT].paused);
	allowance = BULK;
	far_eof(&j.far[INI]);
	UNTIL(j.s->half[INI].eof_seen);
	began = now_ms();
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), j.far[INI].received == 100));
	CHECK(now_ms() - began < 5000);
	far_eof(&j.far[TGT]);
	UNTIL(j.ended);
	CHECK_INT(j.why, REASON_EOF);
	part(&j);
}

#define SHARERS 4

static size_t may_share(struct splice *s, uint64_t *wait)
{
	uint64_t now = worker_now(w);

	*wait = bucket_wait(&bucket, RATE, RATE / 64, now);
	return *wait ? 0 : bucket_has(&bucket, RATE, now);
}

static void on_shared(struct splice *s, size_t bytes)
{
	bucket_spend(&bucket, RATE, bytes, worker_now(w));
}

/* Of those that share a rate, each of which could use it up, none goes without. */
static void test_shared(void)
{
	static const struct splice_spec spec = { .idle_ms = 60000,
						 .half_closed_ms = 60000,
						 .may_pass = may_share,
						 .passed = on_shared,
						 .end = on_end };
	struct joined j[SHARERS];
	uint64_t began, before[SHARERS];

	bucket = (struct bucket){ 0 };
	for (unsigned i = 0; i < SHARERS; i++)
		join(&j[i], TCP, TCP, &spec);
	bucket_spend(&bucket, RATE, RATE, worker_now(w)); /* what a second brings is gone */
	for (unsigned i = 0; i < SHARERS; i++)
		before[i] = j[i].far[TGT].received;
	began = now_ms();
	while (now_ms() - began < 3000) {
		for (unsigned i = 0; i < SHARERS; i++) {
			far_send(&j[i].far[INI], SIZE_MAX);
			far_receive(&j[i].far[TGT], SIZE_MAX);
		}
		turn(false);
	}
	for (unsigned i = 0; i < SHARERS; i++)
		CHECK(j[i].far[TGT].received - before[i] > RATE * 3 / SHARERS / 4);
	for (unsigned i = 0; i < SHARERS; i++)
		splice_end(j[i].s, REASON_SHUTDOWN);
	for (unsigned i = 0; i < SHARERS; i++)
		part(&j[i]);
}

/* --- memory --- */

static struct {
	size_t most; /* that there may be */
	size_t has, peak;
} memory;

static size_t memory_room(const struct splice *s)
{
	return memory.has < memory.most ? memory.most - memory.has : 0;
}

static void memory_kept(struct splice *s, int64_t change)
{
	CHECK(change != 0 && (change > 0 || memory.has >= (size_t)-change));
	memory.has += (size_t)change;
	if (memory.has > memory.peak)
		memory.peak = memory.has;
}

static const struct splice_spec counted = { .idle_ms = 60000,
					    .half_closed_ms = 60000,
					    .room = memory_room,
					    .kept = memory_kept,
					    .end = on_end };

/* What a half has is told, or it is a little. */
static void check_half(const struct joined *j, const struct splice_half *h)
{
	CHECK(!h->pipe || h->charged >= h->end);
	CHECK(!h->buffer || (h->little ? h->end <= SPLICE_LITTLE && !h->charged :
					 h->charged >= WORKER_BUFFER));
	CHECK(h->buffer || h->pipe || !h->charged);
	if (memory.most < WORKER_BUFFER)
		CHECK(!h->pipe && (!h->buffer || h->little));
}

/* Both ways, until nothing moves: the sinks take nothing. */
static void stall(struct joined *j)
{
	uint64_t last = 0, sent;

	for (unsigned still = 0; still < 100; still = sent == last ? still + 1 : 0, last = sent) {
		sent = 0;
		for (unsigned i = 0; i < SIDES; i++) {
			far_send(&j->far[i], 4 * BULK);
			sent += j->far[i].sent;
		}
		turn(false);
		CHECK_INT(j->ended, 0);
		for (unsigned i = 0; i < SIDES; i++)
			check_half(j, &j->s->half[i]);
		CHECK_INT(memory.has, j->s->half[INI].charged + j->s->half[TGT].charged);
		CHECK(memory.has <= memory.most);
	}
}

static void join_within(struct joined *j, enum kind ini, enum kind tgt, size_t most)
{
	memory.most = most;
	memory.has = memory.peak = 0;
	join(j, ini, tgt, &counted);
	for (unsigned i = 0; i < SIDES; i++) {
		pin_room(j->far[i].fake ? -1 : j->far[i].fd);
		pin_room(conduit_fd(j->s->side[i]));
	}
	stall(j);
}

/* However much room there is: no more than that is kept, all arrives, and nothing stays. */
static void stay_within(enum kind ini, enum kind tgt, size_t most)
{
	struct joined j;

	join_within(&j, ini, tgt, most);
	for (unsigned i = 0; i < SIDES; i++)
		UNTIL((far_receive(&j.far[!i], SIZE_MAX), check_half(&j, &j.s->half[i]),
		       j.far[!i].received == j.far[i].sent));
	settle();
	CHECK_INT(memory.has, 0);
	far_eof(&j.far[INI]);
	far_eof(&j.far[TGT]);
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), far_receive(&j.far[TGT], SIZE_MAX), j.ended));
	CHECK_INT(j.why, REASON_EOF);
	part(&j);
}

/* Ended while it keeps something: by hand, by an abort, by EOFs behind what is kept. */
static void give_back(enum kind ini, enum kind tgt, size_t most)
{
	struct joined j;

	join_within(&j, ini, tgt, most);
	splice_end(j.s, REASON_SHUTDOWN);
	CHECK_INT(memory.has, 0);
	part(&j);

	join_within(&j, ini, tgt, most);
	far_abort(&j.far[TGT]);
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), j.ended));
	CHECK_INT(memory.has, 0);
	part(&j);

	join_within(&j, ini, tgt, most);
	far_eof(&j.far[INI]);
	far_eof(&j.far[TGT]);
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), far_receive(&j.far[TGT], SIZE_MAX), j.ended));
	CHECK_INT(j.why, REASON_EOF);
	CHECK_INT(memory.has, 0);
	part(&j);
}

/* Room goes and comes in the midst of bulk. */
static void test_room_changes(void)
{
	static const size_t rooms[] = { SIZE_MAX / 2, 0, WORKER_BUFFER, 3 * WORKER_BUFFER, 1 };
	struct joined j;

	memory.has = memory.peak = 0;
	join(&j, TCP, TCP, &counted);
	for (unsigned i = 0; j.far[TGT].received < 4 * BULK; i++) {
		memory.most = rooms[i / 50 % (sizeof(rooms) / sizeof(rooms[0]))];
		far_send(&j.far[INI], 4 * BULK);
		turn(false);
		far_receive(&j.far[TGT], i % 3 * 30000);
	}
	settle();
	CHECK_INT(memory.has, 0);
	CHECK(memory.peak >= WORKER_BUFFER);
	splice_end(j.s, REASON_SHUTDOWN);
	part(&j);
}

static void every_room(void)
{
	static const size_t rooms[] = { 0, WORKER_BUFFER - 1, WORKER_BUFFER, SIZE_MAX / 2 };

	for (enum kind ini = 0; ini < KINDS; ini++)
		for (enum kind tgt = 0; tgt < KINDS; tgt++)
			for (unsigned i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++) {
				stay_within(ini, tgt, rooms[i]);
				give_back(ini, tgt, rooms[i]);
			}
}

static void every_pair(void)
{
	for (enum kind ini = 0; ini < KINDS; ini++)
		for (enum kind tgt = 0; tgt < KINDS; tgt++) {
			late_reply(ini, tgt, INI);
			late_reply(ini, tgt, TGT);
			both_ways(ini, tgt);
			abort_idle(ini, tgt, INI, false);
			abort_idle(ini, tgt, TGT, false);
			abort_idle(ini, tgt, INI, true);
			abort_idle(ini, tgt, TGT, true);
			abort_midstream(ini, tgt, INI);
			abort_midstream(ini, tgt, TGT);
			slow_reader(ini, tgt);
			slow_down(ini, tgt);
			if (tgt == TCP || tgt == UNIX) {
				failed_sink(ini, tgt, false);
				failed_sink(ini, tgt, true);
			}
		}
}

/* --- time-outs --- */

/* A byte in either direction starts it again. */
static void test_idle(enum kind ini, enum kind tgt)
{
	struct joined j;
	uint64_t last = 0;

	join(&j, ini, tgt, &hasty);
	for (unsigned i = 0; i < 6 && !j.ended; i++) {
		struct far *from = &j.far[i % 2], *to = &j.far[!(i % 2)];

		last = now_ms();
		CHECK(far_send(from, i / 2 + 1));
		UNTIL((far_receive(to, 1), to->received == i / 2 + 1 || j.ended));
		while (now_ms() - last < 50)
			turn(false);
	}
	UNTIL(j.ended);
	CHECK(now_ms() - last >= 80); /* the clock is coarse */
	CHECK_INT(j.why, REASON_IDLE);
	sees_abort(&j, INI);
	sees_abort(&j, TGT);
	part(&j);
}

static void test_half_closed_idle(unsigned side)
{
	struct joined j;
	uint64_t start;

	join(&j, TCP, TCP, &half_hasty);
	start = now_ms();
	while (now_ms() - start < 150)
		turn(false);
	CHECK_INT(j.ended, 0); /* not half-closed: patient */
	far_eof(&j.far[side]);
	UNTIL((far_receive(&j.far[!side], 1), j.far[!side].eof));
	start = now_ms();
	UNTIL(j.ended);
	CHECK(now_ms() - start >= 80);
	CHECK_INT(j.why, REASON_HALF_CLOSED_IDLE);
	sees_abort(&j, side);
	part(&j);
}

/* --- splice(2) --- */

static void test_kernel_path(enum kind ini, enum kind tgt)
{
	bool used = false;
	struct joined j;
	unsigned free_before;

	while (w->private->n_pipes) { /* none pooled, to see the one that is made */
		struct worker_pipe *p = worker_pipe_get(w);

		worker_pipe_put(w, p, false);
	}
	join(&j, ini, tgt, &patient);
	CHECK(far_send(&j.far[INI], 1000));
	UNTIL((far_receive(&j.far[TGT], SIZE_MAX), j.far[TGT].received == 1000));
	CHECK_INT(w->private->n_pipes, 0); /* not for a little */
	UNTIL((far_send(&j.far[INI], BULK), far_receive(&j.far[TGT], 100000),
	       used |= j.s->half[INI].pipe || w->private->n_pipes, j.far[TGT].received == BULK));
	CHECK(used);
	CHECK(!j.s->half[INI].no_kernel);
	settle();
	/* idle: neither buffer nor pipe; the pipe is back in the pool, and empty */
	for (unsigned i = 0; i < SIDES; i++)
		CHECK(!j.s->half[i].buffer && !j.s->half[i].pipe);
	CHECK_INT(w->private->n_pipes, 1);
	free_before = w->private->n_pipes;

	/* used again by the same pair, and full when it ends: never pooled */
	for (unsigned i = 0; i < 2000 && !(j.s->half[INI].pipe && j.s->half[INI].end); i++) {
		far_send(&j.far[INI], 4 * BULK);
		turn(false);
	}
	CHECK(j.s->half[INI].pipe && j.s->half[INI].end);
	CHECK_INT(w->private->n_pipes, free_before - 1);
	splice_end(j.s, REASON_SHUTDOWN);
	CHECK_INT(w->private->n_pipes, free_before - 1);
	part(&j);
}

static unsigned no_page; /* so often splice(2) finds no page for a socket's bytes */
static bool is_pipe(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

/* In place of libc's. */
ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned flags)
{
	if (no_page && is_pipe(out)) {
		no_page--;
		errno = EAGAIN;
		return -1;
	}
	return syscall(SYS_splice, in, in_at, out, out_at, len, flags);
}

/* EAGAIN with bytes there, for which no edge comes again: they are read all the same. */
static void test_no_page(void)
{
	struct joined j;

	join(&j, TCP, TCP, &patient);
	settle();
	j.s->half[INI].big_reads = 2;
	no_page = 1;
	CHECK(far_send(&j.far[INI], 100000));
	UNTIL((far_receive(&j.far[TGT], SIZE_MAX), j.far[TGT].received == 100000));
	CHECK_INT(no_page, 0);
	splice_end(j.s, REASON_SHUTDOWN);
	part(&j);
}

/* The sink dies under splice(2), which takes its error: the EOF that shows then is none. */
static void test_kernel_sink_died(enum kind ini, enum kind tgt)
{
	struct joined j;

	join(&j, ini, tgt, &patient);
	CHECK(far_send(&j.far[INI], 3));
	UNTIL(j.s->half[INI].bytes == 3);
	settle();
	j.s->half[INI].big_reads = 2;
	/* in one turn, the client's word first */
	CHECK(far_send(&j.far[INI], 6));
	CHECK(far_send(&j.far[TGT], 1000));
	far_abort(&j.far[TGT]);
	UNTIL(j.ended);
	CHECK_INT(j.why, REASON_TARGET_RESET);
	sees_abort(&j, INI);
	part(&j);
}

/* TCP's urgent data in the midst: splice(2) stops there for good, so the rest is copied. */
static void test_urgent(void)
{
	struct joined j;
	struct far *from, *to;

	join(&j, TCP, TCP, &patient);
	from = &j.far[INI];
	to = &j.far[TGT];
	UNTIL((far_send(from, BULK), far_receive(to, SIZE_MAX), from->sent == BULK));
	UNTIL((far_receive(to, SIZE_MAX), send(from->fd, "!", 1, MSG_OOB) == 1));
	UNTIL((far_send(from, 3 * BULK), far_receive(to, SIZE_MAX), from->sent == 3 * BULK));
	far_eof(from); /* without the urgent byte, which no plain read takes */
	far_eof(to);
	UNTIL((far_receive(from, SIZE_MAX), far_receive(to, SIZE_MAX), j.ended));
	UNTIL((far_receive(to, SIZE_MAX), to->eof)); /* what the kernel still holds */
	CHECK_INT(j.why, REASON_EOF);
	CHECK_INT(to->received, 3 * BULK);
	part(&j);
}

/* Bytes given back stand in the way of splice(2): they go first, all in order. */
static void test_pushback(void)
{
	struct joined j = { .far = { far_new(TCP), far_new(TCP) } };
	uint8_t head[100];

	CHECK(far_send(&j.far[INI], sizeof(head)));
	UNTIL(conduit_read(j.far[INI].near, head, sizeof(head)) == sizeof(head));
	CHECK_INT(conduit_unread(j.far[INI].near, head, sizeof(head)), 0);
	j.s = splice_new(w, j.far[INI].near, j.far[TGT].near, &patient, &j);
	CHECK(j.s);
	UNTIL((far_receive(&j.far[TGT], SIZE_MAX), j.far[TGT].received == sizeof(head)));
	UNTIL((far_send(&j.far[INI], BULK), far_receive(&j.far[TGT], SIZE_MAX),
	       j.far[TGT].received == BULK));
	splice_end(j.s, REASON_SHUTDOWN);
	part(&j);
}

/* --- interest, from state alone --- */

static void test_want(void)
{
	static uint8_t some;
	/* the half out of this side, the half into it, what is wanted of this side */
	static const struct {
		struct splice_half out, in;
		unsigned want;
	} table[] = {
		{ {}, {}, READY_READ },
		{ { .buffer = &some }, {}, READY_ABORT }, /* backpressure */
		{ { .pipe = (void *)&some }, {}, READY_ABORT },
		{ { .source_ready = 1 }, {}, READY_ABORT }, /* more there, sink full */
		{ { .eof_seen = 1 }, {}, READY_ABORT },     /* late reply outstanding */
		{ { .eof_seen = 1, .eof_sent = 1 }, {}, READY_ABORT },
		{ { .failed = 1 }, {}, READY_ABORT },
		{ {}, { .buffer = &some }, READY_READ | READY_WRITE },
		{ {}, { .pipe = (void *)&some }, READY_READ | READY_WRITE },
		{ {}, { .source_ready = 1 }, READY_READ | READY_WRITE },
		{ {}, { .eof_seen = 1 }, READY_READ | READY_WRITE }, /* EOF to pass on */
		{ {}, { .eof_seen = 1, .eof_sent = 1 }, READY_READ },
		{ {}, { .failed = 1, .eof_seen = 1 }, READY_READ },
		{ { .eof_seen = 1 }, { .buffer = &some }, READY_WRITE },
		{ { .eof_seen = 1, .eof_sent = 1 }, { .eof_seen = 1 }, READY_WRITE },
		{ { .buffer = &some }, { .buffer = &some }, READY_WRITE },
		{ { .buffer = &some }, { .eof_seen = 1, .eof_sent = 1 }, READY_ABORT },
		{ { .failed = 1 }, { .source_ready = 1 }, READY_WRITE },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct splice s = { .half = { table[i].out, table[i].in } };
		struct splice mirror = { .half = { table[i].in, table[i].out } };

		if (splice_want(&s, INI) != table[i].want)
			fprintf(stderr, "row %zu\n", i);
		CHECK_INT(splice_want(&s, INI), table[i].want);
		CHECK_INT(splice_want(&mirror, TGT), table[i].want);
	}
}

static void test_counters(void)
{
	uint64_t up = counter_get(&w->counters.value[COUNTER_BYTES_UP]);
	uint64_t down = counter_get(&w->counters.value[COUNTER_BYTES_DOWN]);
	uint64_t eofs = counter_get(&w->counters.ended[REASON_EOF]);
	struct joined j;

	join(&j, TCP, UNIX, &patient);
	CHECK_INT(counter_get(&w->counters.value[COUNTER_LIVE_SPLICES]), 1);
	CHECK(far_send(&j.far[INI], 10) && far_send(&j.far[TGT], 20));
	far_eof(&j.far[INI]);
	far_eof(&j.far[TGT]);
	UNTIL((far_receive(&j.far[INI], SIZE_MAX), far_receive(&j.far[TGT], SIZE_MAX), j.ended));
	part(&j);
	CHECK_INT(counter_get(&w->counters.value[COUNTER_BYTES_UP]) - up, 10);
	CHECK_INT(counter_get(&w->counters.value[COUNTER_BYTES_DOWN]) - down, 20);
	CHECK_INT(counter_get(&w->counters.ended[REASON_EOF]) - eofs, 1);
}

/* Ended by hand, twice, in the midst of things. */
static void test_end(void)
{
	struct joined j;
	struct splice *s;

	join(&j, TCP, TCP, &patient);
	s = j.s;
	far_send(&j.far[INI], BULK);
	turn(false);
	splice_end(s, REASON_SHUTDOWN);
	splice_end(s, REASON_EOF); /* its memory is there to the end of the turn */
	CHECK_INT(j.ended, 1);
	CHECK_INT(j.why, REASON_SHUTDOWN);
	sees_abort(&j, INI);
	sees_abort(&j, TGT);
	part(&j);
}

static void on_abort(int signal)
{
	ssize_t n = write(2, at_pair, strlen(at_pair));

	n = write(2, "\n", 1);
	(void)n;
}

int main(void)
{
	signal(SIGABRT, on_abort); /* which pair it was */
	make_pattern();
	loop_begin();
	test_want();
	every_pair();
	every_room();
	test_room_changes();
	test_held();
	test_end_beside_held();
	test_shared();
	test_idle(TCP, TCP);
	test_idle(PEEK, PULL);
	test_half_closed_idle(INI);
	test_half_closed_idle(TGT);
	test_kernel_path(TCP, TCP);
	test_kernel_path(UNIX, TCP);
	test_kernel_path(TCP, UNIX);
	test_no_page();
	test_kernel_sink_died(TCP, TCP);
	test_kernel_sink_died(UNIX, TCP);
	test_kernel_sink_died(TCP, UNIX);
	test_urgent();
	test_pushback();
	test_counters();
	test_end();
	loop_end();
	return 0;
}
