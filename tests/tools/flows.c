/*
 * flows: connections that are passed on, with toxics in each direction.
 *
 * Theory of operation: a flow is two sockets and, for each direction, a queue of pieces with the
 * time from which each may go on. The toxics are looked at anew in each turn, so that a change is
 * felt at once, also by what is under way. A queue has QUEUE_MAX bytes; beyond that nothing is
 * read, so that the fault is on the path and not a memory. An end travels in the queue like a byte;
 * a reset overtakes it and ends both sides. A socket in which nothing is of interest is not in
 * epoll, or its hanging up would wake us for ever. Flows die in a turn and are freed at its end.
 */
#include "tests/tools/flows.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUEUE_MAX (256 * 1024)
#define PIECE_MAX (64 * 1024)
#define SPLIT_US 20     /* for the receiver to wake up between two pieces */
#define GATHER_US 50000 /* fewer connections than asked for go on after this */

struct piece {
	TAILQ_ENTRY(piece) link;
	int64_t due;
	size_t at, len, room;
	bool is_end;
	char bytes[];
};

struct half {
	TAILQ_HEAD(piece_list, piece) queue;
	size_t queued;
	uint64_t passed;
	int64_t last_due, gather_until, next_write;
	bool ended_in, ended_out, blocked, swallowed;
};

struct flow {
	TAILQ_ENTRY(flow) link;
	struct flow_end ends[DIRECTIONS]; /* [UP]: who connected, where the way up begins */
	struct half halves[DIRECTIONS];
	const struct place *to;
	bool connected, over;
};

int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

uint64_t draw(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* ---- their life ---- */

void flows_init(struct flows *fs, int epoll)
{
	*fs = (struct flows){ .epoll = epoll, .random = 1 };
	TAILQ_INIT(&fs->live);
	TAILQ_INIT(&fs->gathered);
	TAILQ_INIT(&fs->dead);
}

static void over(struct flows *fs, struct flow *f)
{
	f->over = true;
	for (int i = 0; i < DIRECTIONS; i++) {
		if (f->ends[i].fd >= 0)
			close(f->ends[i].fd);
		f->ends[i].fd = -1;
	}
	TAILQ_REMOVE(&fs->live, f, link);
	TAILQ_INSERT_TAIL(&fs->dead, f, link);
	fs->counts.live--;
}

/* RST to both; Unix sockets and vsock can say no more than that both directions are closed. */
static void abort_flow(struct flows *fs, struct flow *f, uint64_t *count)
{
	const struct linger hard = { .l_onoff = 1, .l_linger = 0 };

	for (int i = 0; i < DIRECTIONS; i++) {
		if (f->ends[i].fd >= 0)
			setsockopt(f->ends[i].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	}
	(*count)++;
	over(fs, f);
}

static void bury(struct flows *fs)
{
	struct flow *f;

	while ((f = TAILQ_FIRST(&fs->dead))) {
		TAILQ_REMOVE(&fs->dead, f, link);
		for (int d = 0; d < DIRECTIONS; d++) {
			struct piece *p;

			while ((p = TAILQ_FIRST(&f->halves[d].queue))) {
				TAILQ_REMOVE(&f->halves[d].queue, p, link);
				free(p);
			}
		}
		free(f);
	}
}

static void start(struct flows *fs, struct flow *f)
{
	const struct place *to = f->to;
	int one = 1,
	    fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	TAILQ_INSERT_TAIL(&fs->live, f, link);
	f->ends[DOWN].fd = fd;
	if (fd < 0) {
		abort_flow(fs, f, &fs->counts.unreachable);
		return;
	}
	if (to->address.ss_family == AF_INET)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!connect(fd, (const struct sockaddr *)&to->address, to->len))
		f->connected = true;
	else if (errno != EINPROGRESS)
		abort_flow(fs, f, &fs->counts.unreachable);
}

static void start_gathered(struct flows *fs)
{
	while (fs->n_gathered) {
		struct flow *f = TAILQ_FIRST(&fs->gathered);

		for (uint64_t i = draw(&fs->random) % fs->n_gathered; i; i--)
			f = TAILQ_NEXT(f, link);
		TAILQ_REMOVE(&fs->gathered, f, link);
		fs->n_gathered--;
		start(fs, f);
	}
}

static void take(struct flows *fs, int fd, const struct place *to)
{
	struct flow *f = calloc(1, sizeof(*f));
	int one = 1;

	if (!f)
		abort();
	f->to = to;
	/* fails where it is no TCP */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (int i = 0; i < DIRECTIONS; i++) {
		f->ends[i] = (struct flow_end){ .flow = f, .fd = -1 };
		TAILQ_INIT(&f->halves[i].queue);
	}
	f->ends[UP].fd = fd;
	fs->counts.accepted++;
	fs->counts.live++;
	if (fs->reorder < 2) {
		start(fs, f);
		return;
	}
	if (!fs->n_gathered++)
		fs->gathered_until = now_us() + GATHER_US;
	TAILQ_INSERT_TAIL(&fs->gathered, f, link);
	if (fs->n_gathered >= fs->reorder)
		start_gathered(fs);
}

void flows_accept(struct flows *fs, int listening, const struct place *to)
{
	int fd;

	while ((fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		take(fs, fd, to);
}

/* ---- in ---- */

static struct piece *add_piece(struct half *h, size_t room)
{
	struct piece *p = calloc(1, sizeof(*p) + room);

	if (!p)
		abort();
	p->room = room;
	TAILQ_INSERT_TAIL(&h->queue, p, link);
	return p;
}

static void set_due(struct flows *fs, struct half *h, const struct toxics *t, struct piece *p)
{
	int64_t now = now_us();

	p->due = now + (int64_t)t->delay * 1000;
	if (t->jitter)
		p->due += (int64_t)(draw(&fs->random) % (t->jitter * 1000));
	if (t->coalesce) {
		if (!h->queued)
			h->gather_until = now + (int64_t)t->coalesce * 1000;
		if (p->due < h->gather_until)
			p->due = h->gather_until;
	}
	if (p->due < h->last_due)
		p->due = h->last_due;
	h->last_due = p->due;
}

static void enqueue(struct flows *fs, struct half *h, const struct toxics *t, const char *bytes,
		    size_t len)
{
	struct piece *p = TAILQ_LAST(&h->queue, piece_list);

	if (!p || !t->coalesce || p->at || p->len + len > p->room) {
		p = add_piece(h, t->coalesce ? PIECE_MAX : len);
		set_due(fs, h, t, p);
	}
	memcpy(p->bytes + p->len, bytes, len);
	p->len += len;
	h->queued += len;
}

static void read_end(struct flows *fs, struct flow *f, enum direction d)
{
	static char bytes[PIECE_MAX];
	struct half *h = &f->halves[d];
	const struct toxics *t = &fs->toxics[d];
	ssize_t n = recv(f->ends[d].fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (t->hole) {
		h->swallowed = true;
		h->ended_in = n <= 0;
		fs->counts.swallowed[d] += n > 0 ? (uint64_t)n : 0;
	} else if (n < 0) {
		abort_flow(fs, f, &fs->counts.aborted);
	} else if (n == 0) {
		struct piece *p = add_piece(h, 0);

		p->is_end = h->ended_in = true;
		set_due(fs, h, t, p);
	} else {
		enqueue(fs, h, t, bytes, (size_t)n);
	}
}

static void finish_connect(struct flows *fs, struct flow *f)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(f->ends[DOWN].fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (error)
		abort_flow(fs, f, &fs->counts.unreachable);
	else
		f->connected = true;
}

void flows_event(struct flows *fs, struct flow_end *end, uint32_t events)
{
	struct flow *f = end->flow;
	enum direction d = end == &f->ends[UP] ? UP : DOWN;

	if (f->over)
		return;
	if (!f->connected && d == DOWN) {
		finish_connect(fs, f);
		return;
	}
	if (events & EPOLLOUT)
		f->halves[!d].blocked = false;
	if (!f->halves[d].ended_in) {
		if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
			read_end(fs, f, d);
	} else if (events & EPOLLERR && !fs->toxics[d].hole) {
		abort_flow(fs, f, &fs->counts.aborted);
	} else if (events & (EPOLLERR | EPOLLHUP)) {
		end->hung_up = true;
	}
}

/* ---- out ---- */

/* How much of this piece may go in one send() now. */
static size_t allowance(const struct half *h, const struct toxics *t, const struct piece *p)
{
	size_t n = p->len - p->at;

	if (t->split && n > t->split)
		n = t->split;
	if (t->rate && n > t->rate / 50 + 1) /* what 20 ms are worth */
		n = t->rate / 50 + 1;
	if (t->reset && n > t->reset - h->passed)
		n = t->reset - h->passed;
	return n;
}

static void drop_head(struct half *h)
{
	struct piece *p = TAILQ_FIRST(&h->queue);

	TAILQ_REMOVE(&h->queue, p, link);
	free(p);
}

/* True if it moved something and may again at once. */
static bool write_piece(struct flows *fs, struct flow *f, enum direction d, int64_t now)
{
	struct half *h = &f->halves[d];
	const struct toxics *t = &fs->toxics[d];
	struct piece *p = TAILQ_FIRST(&h->queue);
	ssize_t n;

	if (t->reset && h->passed >= t->reset) {
		abort_flow(fs, f, &fs->counts.injected);
		return false;
	}
	if (!p || h->blocked || p->due > now || h->next_write > now)
		return false;
	if (p->is_end) {
		shutdown(f->ends[!d].fd, SHUT_WR);
		h->ended_out = true;
		drop_head(h);
		return false;
	}
	n = send(f->ends[!d].fd, p->bytes + p->at, allowance(h, t, p), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		abort_flow(fs, f, &fs->counts.aborted);
		return false;
	}
	h->blocked = n < 0;
	if (n < 0)
		return false;
	p->at += (size_t)n;
	h->queued -= (size_t)n;
	h->passed += (uint64_t)n;
	fs->counts.bytes[d] += (uint64_t)n;
	if (t->split)
		h->next_write = now + SPLIT_US;
	if (t->rate)
		h->next_write = now + (int64_t)((uint64_t)n * 1000000 / t->rate);
	if (p->at == p->len)
		drop_head(h);
	return !t->split && !t->rate;
}

static void swallow_queue(struct flows *fs, struct half *h, enum direction d)
{
	h->swallowed |= !TAILQ_EMPTY(&h->queue);
	fs->counts.swallowed[d] += h->queued;
	while (!TAILQ_EMPTY(&h->queue))
		drop_head(h);
	h->queued = 0;
}

/* ---- the turn ---- */

static uint32_t wanted(const struct flows *fs, const struct flow *f, enum direction d)
{
	const struct half *in = &f->halves[d], *out = &f->halves[!d];
	uint32_t events = 0;

	if (!in->ended_in && !fs->toxics[d].stall && in->queued < QUEUE_MAX)
		events |= EPOLLIN;
	if (out->blocked && !fs->toxics[!d].stall && !fs->toxics[!d].hole)
		events |= EPOLLOUT;
	return events;
}

static void watch(struct flows *fs, struct flow *f, enum direction d)
{
	struct flow_end *e = &f->ends[d];
	bool connecting = d == DOWN && !f->connected;
	uint32_t events = connecting ? EPOLLOUT : wanted(fs, f, d);
	/* an end that has said its last may still be reset */
	bool in = events || (f->halves[d].ended_in && !e->hung_up && !fs->toxics[d].stall);
	struct epoll_event ev = { .events = events, .data.ptr = e };

	if (in == e->in_epoll && (!in || events == e->watched))
		return;
	if (epoll_ctl(fs->epoll,
		      !in           ? EPOLL_CTL_DEL
		      : e->in_epoll ? EPOLL_CTL_MOD
				    : EPOLL_CTL_ADD,
		      e->fd, &ev))
		abort();
	e->in_epoll = in;
	e->watched = events;
}

static void sooner(int64_t *next, int64_t when)
{
	if (*next < 0 || when < *next)
		*next = when;
}

static void when_due(const struct flows *fs, const struct half *h, enum direction d, int64_t *next)
{
	const struct piece *p = TAILQ_FIRST(&h->queue);

	if (!p || h->blocked || fs->toxics[d].stall || fs->toxics[d].hole)
		return;
	sooner(next, p->due > h->next_write ? p->due : h->next_write);
}

static void move(struct flows *fs, struct flow *f, int64_t *next)
{
	int64_t now = now_us();

	for (int d = 0; d < DIRECTIONS && f->connected; d++) {
		if (fs->toxics[d].hole)
			swallow_queue(fs, &f->halves[d], d);
		else if (!fs->toxics[d].stall)
			while (write_piece(fs, f, d, now) && !f->over)
				;
		if (f->over)
			return;
	}
	if (f->halves[UP].ended_out && f->halves[DOWN].ended_out) {
		fs->counts.ended++;
		over(fs, f);
		return;
	}
	for (int d = 0; d < DIRECTIONS; d++) {
		watch(fs, f, d);
		if (f->connected)
			when_due(fs, &f->halves[d], d, next);
	}
}

int64_t flows_turn(struct flows *fs)
{
	struct flow *f, *after;
	int64_t next = -1, now;

	if (fs->n_gathered) {
		if (fs->reorder < 2 || now_us() >= fs->gathered_until)
			start_gathered(fs);
		else
			sooner(&next, fs->gathered_until);
	}
	for (f = TAILQ_FIRST(&fs->live); f; f = after) {
		after = TAILQ_NEXT(f, link);
		move(fs, f, &next);
	}
	bury(fs);
	if (next < 0)
		return -1;
	now = now_us();
	return next <= now ? 0 : next - now;
}

void flows_hole_over(struct flows *fs, enum direction d)
{
	struct flow *f, *after;

	for (f = TAILQ_FIRST(&fs->live); f; f = after) {
		after = TAILQ_NEXT(f, link);
		if (f->halves[d].swallowed)
			abort_flow(fs, f, &fs->counts.injected);
	}
}

void flows_reset(struct flows *fs)
{
	struct flow *f;

	while ((f = TAILQ_FIRST(&fs->live)))
		abort_flow(fs, f, &fs->counts.injected);
}

void flows_deinit(struct flows *fs)
{
	start_gathered(fs);
	flows_reset(fs);
	bury(fs);
}
