/*
 * Crossings between workers that run on threads of their own: bytes both ways, ends of each kind,
 * answers, moves, and workers that stop in the midst of it all.
 *
 * The test holds the outer ends of sockets: client -> inner (near) ... (far) -> service. What lives
 * in a worker is touched by letters only (in_worker), until the workers have been joined.
 */
#include <semaphore.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/splice.h"
#include "tests/unit/loop.h"

/* Memory that runs out where the test says so; crossing.c is compiled with these. */
static atomic_bool no_buffers, no_splices;

static struct splice *splice_if_memory(struct worker *in, struct conduit *ini, struct conduit *tgt,
				       const struct splice_spec *spec, void *user)
{
	if (!atomic_load(&no_splices))
		return splice_new(in, ini, tgt, spec, user);
	conduit_close(ini, REASON_NO_MEMORY);
	conduit_close(tgt, REASON_NO_MEMORY);
	return NULL;
}

#define worker_buffer_get(in) (atomic_load(&no_buffers) ? NULL : worker_buffer_get(in))
#define splice_new splice_if_memory
#define settle crossing_settle /* loop.h has its own of these */
#define w in
#include "relay/crossing.c"
#undef w
#undef settle
#undef splice_new
#undef worker_buffer_get

enum { A, B, C, WORKERS }; /* inner lives in A */

#define MANY 200 /* rounds of what depends on who comes first */

static struct worker *at[WORKERS];

#define WAIT(cond)                                                                                \
	do {                                                                                      \
		uint64_t overdue_ = now_ms() + WAIT_MS;                                           \
		while (!(cond)) {                                                                 \
			usleep(200);                                                              \
			if (now_ms() > overdue_) {                                                \
				fprintf(stderr, "%s:%d: did not come: %s\n", __FILE__, __LINE__,  \
					#cond);                                                   \
				abort();                                                          \
			}                                                                         \
		}                                                                                 \
	} while (0)

/* --- letters --- */

struct errand {
	void (*fn)(struct worker *in, void *arg);
	void *arg;
	sem_t done;
};

static void on_errand(struct worker *in, void *arg)
{
	struct errand *e = arg;

	e->fn(in, e->arg);
	sem_post(&e->done);
}

/* Runs fn in that worker's thread, and waits for it. */
static void in_worker(int which, void (*fn)(struct worker *in, void *arg), void *arg)
{
	struct errand e = { .fn = fn, .arg = arg };

	sem_init(&e.done, 0, 0);
	CHECK_INT(worker_post(at[which], on_errand, &e), 0);
	while (sem_wait(&e.done) < 0)
		;
	sem_destroy(&e.done);
}

struct census {
	unsigned conduits, timers;
};

static void on_census(struct worker *in, void *arg)
{
	*(struct census *)arg = (struct census){ in->conduits, in->timers.live };
}

static bool nothing_lives(int which)
{
	struct census c;

	in_worker(which, on_census, &c);
	return c.conduits == 0 && c.timers == 0;
}

static void start(void)
{
	atomic_store(&no_buffers, false);
	atomic_store(&no_splices, false);
	for (int i = 0; i < WORKERS; i++) {
		at[i] = worker_new((unsigned)i);
		CHECK(at[i]);
		CHECK_INT(worker_start(at[i]), 0);
	}
}

static void stop_threads(void)
{
	for (int i = 0; i < WORKERS; i++)
		worker_stop(at[i]);
	for (int i = 0; i < WORKERS; i++)
		worker_join(at[i]);
}

static atomic_int alive;	  /* crossings that are not over */
static atomic_int_fast64_t has;	  /* bytes of their rings */

/* Nothing may be left. */
static void stop(void)
{
	for (int i = 0; i < WORKERS; i++)
		WAIT(nothing_lives(i));
	stop_threads();
	for (int i = 0; i < WORKERS; i++)
		at[i] = worker_free(at[i]);
	CHECK_INT(atomic_load(&alive), 0);
	CHECK_INT(atomic_load(&has), 0);
}

/* --- a way: client, crossing, service --- */

struct way {
	bool tcp;
	int client, service; /* the test's ends; -1: closed */
	int inner_fd, outer_fd;
	struct conduit *far;
	struct crossing *crossing; /* for looking into it */
	struct splice *joined;
	size_t said[2], heard[2]; /* bytes up, bytes down */
	atomic_int why;		  /* of the joined splice's end, or of what its owner was told */
	atomic_uint events;	  /* that a waiting owner was told */
	/* by the inner conduit's ops */
	atomic_int inner_closed; /* the reason, or -1 */
	atomic_int inner_shut;
};

static struct way *inner_of[1024]; /* by descriptor */
static struct conduit_ops inner_ops;
static const struct conduit_ops *fd_ops;

/* The words of this protocol go straight to the client: what it sees is the order. */
static void inner_answer(struct conduit *c, enum reason why)
{
	char words[64];
	int len = snprintf(words, sizeof(words), "<%s>", reason_word(why));

	CHECK_INT(send(fd_conduit_socket(c), words, (size_t)len, MSG_NOSIGNAL), len);
}

static void inner_close(struct conduit *c, enum reason why)
{
	atomic_store(&inner_of[fd_conduit_socket(c)]->inner_closed, (int)why);
	fd_ops->close(c, why);
}

static int inner_shutdown(struct conduit *c)
{
	atomic_store(&inner_of[fd_conduit_socket(c)]->inner_shut, 1);
	return fd_ops->shutdown(c);
}

static void on_over(void *count)
{
	CHECK(atomic_fetch_sub((atomic_int *)count, 1) > 0);
}

/* The maker's memory: what may be, and what there is. */
static atomic_size_t may_have = SIZE_MAX / 2;
static atomic_int_fast64_t had_most;

static size_t maker_room(const void *count)
{
	int64_t now = atomic_load(&has);
	size_t may = atomic_load(&may_have);

	return may > (size_t)now ? may - (size_t)now : 0;
}

static void maker_kept(void *count, int64_t change)
{
	int64_t now = atomic_fetch_add(&has, change) + change;

	CHECK(count == &alive && now >= 0);
	if (now > atomic_load(&had_most))
		atomic_store(&had_most, now);
}

static const struct crossing_spec maker = {
	.over = on_over, .room = maker_room, .kept = maker_kept
};

static void on_make(struct worker *in, void *arg)
{
	struct way *y = arg;
	struct conduit *inner = fd_conduit_new(in, y->inner_fd);

	CHECK(inner && y->inner_fd < 1024);
	atomic_fetch_add(&alive, 1);
	inner_of[y->inner_fd] = y;
	fd_ops = inner->ops;
	inner_ops = *fd_ops;
	inner_ops.answer = inner_answer;
	inner_ops.close = inner_close;
	inner_ops.shutdown = inner_shutdown;
	inner_ops.detach = NULL; /* it cannot move */
	inner_ops.attach = NULL;
	inner->ops = &inner_ops;
	y->far = crossing_new(inner, &maker, &alive);
	CHECK(y->far && y->far->ops->detach && y->far->ops->attach && !y->far->worker);
	CHECK_STR(y->far->ops->name, "crossing");
	y->crossing = of(y->far)->crossing;
}

/* A far end in no worker yet. */
static void make(struct way *y, bool tcp)
{
	int up[2], down[2];

	memset(y, 0, sizeof(*y));
	y->tcp = tcp;
	(tcp ? tcp_pair : unix_pair)(up);
	(tcp ? tcp_pair : unix_pair)(down);
	y->client = up[0];
	y->inner_fd = up[1];
	y->outer_fd = down[0];
	y->service = down[1];
	atomic_store(&y->why, -1);
	atomic_store(&y->inner_closed, -1);
	in_worker(A, on_make, y);
}

static void on_joined_end(struct splice *s, enum reason why)
{
	atomic_store(&((struct way *)s->user)->why, (int)why);
}

static const struct splice_spec spec = {
	.idle_ms = 600000, .half_closed_ms = 600000, .end = on_joined_end
};

static void on_join(struct worker *in, void *arg)
{
	struct way *y = arg;
	struct conduit *outer = fd_conduit_new(in, y->outer_fd);

	CHECK(outer);
	CHECK_INT(conduit_attach(y->far, in), 0);
	y->joined = splice_new(in, y->far, outer, &spec, y);
	CHECK(y->joined);
}

static void make_joined(struct way *y, bool tcp)
{
	make(y, tcp);
	in_worker(B, on_join, y);
}

static void leave(struct way *y)
{
	if (y->client >= 0)
		close(y->client);
	if (y->service >= 0)
		close(y->service);
	if (!y->joined)
		close(y->outer_fd);
}

/* --- bytes that can be told apart --- */

static uint8_t pattern(size_t i, unsigned seed)
{
	return (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16) * 13 + seed);
}

/* As much as goes now. False: the socket is dead. */
static bool say(int fd, size_t *said, size_t upto, unsigned seed)
{
	uint8_t bytes[30011];

	while (*said < upto) {
		size_t n = upto - *said < sizeof(bytes) ? upto - *said : sizeof(bytes);
		ssize_t went;

		for (size_t i = 0; i < n; i++)
			bytes[i] = pattern(*said + i, seed);
		went = send(fd, bytes, n, MSG_NOSIGNAL);
		if (went < 0)
			return errno == EAGAIN;
		*said += (size_t)went;
	}
	return true;
}

enum { NOTHING_NOW = 1, AT_EOF = 0 }; /* or -errno */

static int hear(int fd, size_t *heard, size_t upto, unsigned seed)
{
	uint8_t bytes[30011];

	for (;;) {
		size_t n = upto - *heard < sizeof(bytes) ? upto - *heard : sizeof(bytes);
		ssize_t came = n ? recv(fd, bytes, n, 0) : -1;

		if (n == 0 || (came < 0 && errno == EAGAIN))
			return NOTHING_NOW;
		if (came <= 0)
			return came < 0 ? -errno : AT_EOF;
		for (ssize_t i = 0; i < came; i++)
			CHECK_INT(bytes[i], pattern(*heard + (size_t)i, seed));
		*heard += (size_t)came;
	}
}

/* Until so many bytes in all have gone up and come down, both at once. */
static void talk(struct way *y, size_t up, size_t down)
{
	uint64_t overdue = now_ms() + WAIT_MS;

	while (y->heard[0] < up || y->heard[1] < down) {
		struct pollfd p[2] = { { .fd = y->client, .events = POLLIN },
				       { .fd = y->service, .events = POLLIN } };

		if (y->said[0] < up)
			p[0].events |= POLLOUT;
		if (y->said[1] < down)
			p[1].events |= POLLOUT;
		poll(p, 2, 100);
		CHECK(say(y->client, &y->said[0], up, 0));
		CHECK(say(y->service, &y->said[1], down, 99));
		CHECK_INT(hear(y->service, &y->heard[0], up, 0), NOTHING_NOW);
		CHECK_INT(hear(y->client, &y->heard[1], down, 99), NOTHING_NOW);
		CHECK(now_ms() < overdue);
	}
}

/* What a socket comes to, when all that arrives has been taken: EOF or -errno. */
static int outcome(int fd, size_t *heard, unsigned seed)
{
	int r;

	WAIT((r = hear(fd, heard, SIZE_MAX, seed)) != NOTHING_NOW);
	return r;
}

/* Says so much that nothing moves any more. */
static void stuff(int fd, size_t *said, unsigned seed)
{
	size_t before;
	int calm = 0;

	while (calm < 20) {
		before = *said;
		CHECK(say(fd, said, SIZE_MAX, seed));
		calm = *said == before ? calm + 1 : 0;
		usleep(2000);
	}
}

static bool owns_no_ring(struct crossing *x)
{
	bool none;

	pthread_mutex_lock(&x->lock);
	none = !x->said[NEAR].ring && !x->said[FAR].ring;
	pthread_mutex_unlock(&x->lock);
	return none;
}

static uint64_t counted(int which, enum counter what)
{
	return counter_get(&at[which]->counters.value[what]);
}

/* --- bytes and EOF --- */

#define BULK ((size_t)16 * 1024 * 1024)

static void test_bulk(bool tcp)
{
	struct way y;

	start();
	make_joined(&y, tcp);
	talk(&y, BULK, BULK);
	WAIT(owns_no_ring(y.crossing));
	CHECK_INT(counted(A, COUNTER_LIVE_SPLICES), 0);
	CHECK_INT(counted(B, COUNTER_LIVE_SPLICES), 1);
	shutdown(y.client, SHUT_WR);
	shutdown(y.service, SHUT_WR);
	CHECK_INT(outcome(y.client, &y.heard[1], 99), AT_EOF);
	CHECK_INT(outcome(y.service, &y.heard[0], 0), AT_EOF);
	WAIT(atomic_load(&y.why) == REASON_EOF);
	WAIT(atomic_load(&y.inner_closed) == REASON_EOF);
	leave(&y);
	/* one stream, not two */
	CHECK_INT(counted(A, COUNTER_STREAMS) + counted(A, COUNTER_BYTES_UP), 0);
	CHECK_INT(counter_get(&at[A]->counters.ended[REASON_EOF]), 0);
	WAIT(counted(B, COUNTER_BYTES_UP) == BULK);
	CHECK_INT(counted(B, COUNTER_BYTES_DOWN), BULK);
	CHECK_INT(counted(B, COUNTER_STREAMS), 1);
	stop();
}

/* One direction ends; long after that the other says a lot. */
static void test_half_close(bool tcp, bool client_first)
{
	size_t up = client_first ? 100 : 1000000, down = client_first ? 1000000 : 100;
	struct way y;

	start();
	make_joined(&y, tcp);
	talk(&y, 100, 100);
	shutdown(client_first ? y.client : y.service, SHUT_WR);
	if (client_first)
		CHECK_INT(outcome(y.service, &y.heard[0], 0), AT_EOF);
	else
		CHECK_INT(outcome(y.client, &y.heard[1], 99), AT_EOF);
	usleep(50000);
	talk(&y, up, down);
	shutdown(client_first ? y.service : y.client, SHUT_WR);
	if (client_first)
		CHECK_INT(outcome(y.client, &y.heard[1], 99), AT_EOF);
	else
		CHECK_INT(outcome(y.service, &y.heard[0], 0), AT_EOF);
	WAIT(atomic_load(&y.why) == REASON_EOF);
	leave(&y);
	CHECK_INT(y.heard[0], up);
	CHECK_INT(y.heard[1], down);
	stop();
}

/* --- aborts --- */

enum state { IDLE, UP_FULL, DOWN_FULL, STATES };

static void test_abort(bool by_client, enum state state)
{
	struct way y;
	int r;

	start();
	make_joined(&y, true);
	talk(&y, 1000, 1000);
	if (state == UP_FULL)
		stuff(y.client, &y.said[0], 0);
	if (state == DOWN_FULL)
		stuff(y.service, &y.said[1], 99);
	reset(by_client ? y.client : y.service);
	WAIT(atomic_load(&y.why) >= 0);
	CHECK_INT(atomic_load(&y.why), by_client ? REASON_RESET : REASON_TARGET_RESET);
	WAIT(atomic_load(&y.inner_closed) >= 0);
	CHECK_INT(atomic_load(&y.inner_closed), by_client ? REASON_RESET : REASON_TARGET_RESET);
	if (by_client)
		r = outcome(y.service, &y.heard[0], 0);
	else
		r = outcome(y.client, &y.heard[1], 99);
	CHECK_INT(r, -ECONNRESET); /* never EOF */
	if (by_client)
		y.client = -1;
	else
		y.service = -1;
	leave(&y);
	stop();
}

/* As an opening does: it waits, and reads nothing. */
static void on_told(struct conduit *c, unsigned events)
{
	struct way *y = c->user;

	atomic_fetch_or(&y->events, events);
	if (!(events & READY_ABORT))
		return;
	atomic_store(&y->why, (int)c->ops->why(c));
	conduit_close(c, REASON_RESET);
}

static void on_wait(struct worker *in, void *arg)
{
	struct way *y = arg;

	CHECK_INT(conduit_attach(y->far, in), 0);
	y->far->ready = on_told;
	y->far->user = y;
	conduit_want(y->far, READY_ABORT | READY_GONE);
}

/* Before the far end is anywhere; while its owner waits; and with a full ring between. */
static void test_abort_while_waiting(bool attached, bool full)
{
	struct way y;

	start();
	make(&y, true);
	if (attached)
		in_worker(B, on_wait, &y);
	if (full)
		stuff(y.client, &y.said[0], 0);
	CHECK_INT(atomic_load(&y.events), 0);
	reset(y.client);
	y.client = -1;
	if (!attached) {
		WAIT(atomic_load(&y.inner_closed) == REASON_RESET);
		in_worker(B, on_wait, &y);
	}
	WAIT(atomic_load(&y.why) >= 0);
	CHECK_INT(atomic_load(&y.why), REASON_RESET);
	leave(&y);
	stop();
}

/* What was said before an abort is heard, then comes the error. */
static void on_say_and_abort(struct worker *in, void *arg)
{
	struct way *y = arg;

	CHECK_INT(conduit_attach(y->far, in), 0);
	CHECK_INT(conduit_write(y->far, "so long", 7), 7);
	conduit_close(y->far, REASON_TARGET_RESET);
}

static void on_hear_and_see(struct worker *in, void *arg)
{
	struct way *y = arg;
	uint8_t bytes[2000];

	CHECK_INT(conduit_attach(y->far, in), 0);
	CHECK_INT(conduit_write(y->far, "x", 1), -ECONNRESET);
	CHECK_INT(conduit_read(y->far, bytes, 600), 600);
	CHECK_INT(conduit_read(y->far, bytes + 600, sizeof(bytes) - 600), 400);
	for (size_t i = 0; i < 1000; i++)
		CHECK_INT(bytes[i], pattern(i, 0));
	CHECK_INT(conduit_read(y->far, bytes, 1), -ECONNRESET);
	CHECK_INT(conduit_shutdown(y->far), -ECONNRESET);
	CHECK_INT(y->far->ops->why(y->far), REASON_RESET);
	conduit_close(y->far, REASON_RESET);
}

static size_t in_ring(struct crossing *x, unsigned of_end)
{
	size_t len;

	pthread_mutex_lock(&x->lock);
	len = x->said[of_end].len;
	pthread_mutex_unlock(&x->lock);
	return len;
}

static void test_heard_before_abort(void)
{
	struct way y;
	char heard[8] = "";

	start();
	make(&y, false);
	in_worker(B, on_say_and_abort, &y);
	WAIT(atomic_load(&y.inner_closed) == REASON_TARGET_RESET);
	CHECK_INT(recv(y.client, heard, 7, 0), 7);
	CHECK_STR(heard, "so long");
	leave(&y);
	make(&y, true);
	CHECK(say(y.client, &y.said[0], 1000, 0));
	WAIT(in_ring(y.crossing, NEAR) == 1000);
	reset(y.client);
	y.client = -1;
	WAIT(atomic_load(&y.inner_closed) == REASON_RESET);
	in_worker(B, on_hear_and_see, &y);
	leave(&y);
	stop();
}

/* --- memory --- */

static void on_finish(struct worker *in, void *arg)
{
	struct way *y = arg;

	conduit_close(y->far, REASON_EOF);
}

/* A slow reader costs a ring, and a buffer of the near splice: no more. */
static void test_bound(void)
{
	struct way y;
	int unread;

	start();
	make(&y, false);
	in_worker(B, on_wait, &y);
	stuff(y.client, &y.said[0], 0);
	CHECK_INT(ioctl(y.inner_fd, FIONREAD, &unread), 0);
	CHECK(unread > 0);
	CHECK(y.said[0] - (size_t)unread >= CROSSING_RING);
	CHECK(y.said[0] - (size_t)unread <= CROSSING_RING + WORKER_BUFFER);
	in_worker(B, on_finish, &y);
	CHECK(!y.joined);
	leave(&y);
	stop();
}

/* No room: rings are little, and nobody's; all goes through them, both ways. */
static void test_little(bool tcp)
{
	struct way y;
	int unread;

	atomic_store(&may_have, CROSSING_RING - 1);
	atomic_store(&had_most, 0);
	start();
	make(&y, false);
	in_worker(B, on_wait, &y);
	stuff(y.client, &y.said[0], 0);
	CHECK_INT(ioctl(y.inner_fd, FIONREAD, &unread), 0);
	CHECK(y.said[0] - (size_t)unread >= CROSSING_LITTLE);
	CHECK(y.said[0] - (size_t)unread <= CROSSING_LITTLE + WORKER_BUFFER);
	in_worker(B, on_finish, &y);
	WAIT(atomic_load(&y.inner_closed) >= 0);
	leave(&y);
	make_joined(&y, tcp);
	talk(&y, BULK / 8, BULK / 8);
	CHECK_INT(atomic_load(&had_most), 0);
	atomic_store(&may_have, SIZE_MAX / 2); /* the next rings are large again */
	talk(&y, BULK / 4, BULK / 4);
	CHECK(atomic_load(&had_most) >= (int64_t)CROSSING_RING);
	WAIT(owns_no_ring(y.crossing));
	CHECK_INT(atomic_load(&has), 0);
	leave(&y);
	stop();
}

/* No memory: for a ring of either end, for the near splice. */
static void test_no_memory(bool up)
{
	struct way y;

	start();
	make_joined(&y, true);
	talk(&y, 1000, 1000);
	WAIT(owns_no_ring(y.crossing));
	atomic_store(&no_buffers, true);
	CHECK(say(up ? y.client : y.service, &y.said[!up], 2000, up ? 0 : 99));
	WAIT(atomic_load(&y.why) >= 0);
	CHECK_INT(atomic_load(&y.why), REASON_NO_MEMORY);
	WAIT(atomic_load(&y.inner_closed) == REASON_NO_MEMORY);
	CHECK_INT(outcome(y.client, &y.heard[1], 99), -ECONNRESET);
	CHECK_INT(outcome(y.service, &y.heard[0], 0), -ECONNRESET);
	leave(&y);
	stop();
}

static void test_no_splice(void)
{
	struct way y;

	start();
	atomic_store(&no_splices, true);
	make(&y, true);
	CHECK_INT(atomic_load(&y.inner_closed), REASON_NO_MEMORY);
	in_worker(B, on_wait, &y);
	WAIT(atomic_load(&y.why) >= 0);
	CHECK_INT(atomic_load(&y.why), REASON_NO_MEMORY);
	leave(&y);
	stop();
}

/* --- moves --- */

#define HOP ((size_t)50 * 1000) /* bytes in one worker */

struct hopper {
	struct way way;
	struct conduit *far;
	int next; /* worker */
	unsigned hops;
	size_t here; /* bytes echoed since it came here */
	bool eof;
};

static void on_hopped(struct worker *in, void *arg);

/* Echoes what it can, and moves on to the next worker in the midst of it. */
static void on_hopper(struct conduit *c, unsigned events)
{
	struct hopper *h = c->user;
	ssize_t n = -EAGAIN, went = 0;
	const uint8_t *data;

	while (h->here < HOP && !h->eof) {
		n = conduit_peek(c, &data);
		if (n <= 0)
			break;
		went = conduit_write(c, data, (size_t)n < HOP - h->here ? (size_t)n :
									  HOP - h->here);
		if (went < 0)
			break;
		conduit_consume(c, (size_t)went);
		h->here += (size_t)went;
	}
	CHECK(n >= 0 || n == -EAGAIN);
	CHECK(went >= 0 || went == -EAGAIN);
	if (n == 0) {
		CHECK_INT(conduit_shutdown(c), 0);
		conduit_close(c, REASON_EOF);
	} else if (h->here >= HOP) {
		conduit_detach(c);
		h->next = (h->next + 1) % WORKERS; /* the near end's own, too */
		CHECK_INT(worker_post(at[h->next], on_hopped, h), 0);
	} else {
		conduit_want(c, went < 0 ? READY_WRITE : READY_READ);
	}
}

static void on_hopped(struct worker *in, void *arg)
{
	struct hopper *h = arg;

	CHECK_INT(conduit_attach(h->far, in), 0);
	h->hops++;
	h->here = 0;
	h->far->ready = on_hopper;
	h->far->user = h;
	conduit_want(h->far, READY_READ | READY_WRITE);
}

static void test_moves(void)
{
	static struct hopper h;
	size_t all = (size_t)8 * 1024 * 1024;
	struct way *y = &h.way;
	uint64_t overdue = now_ms() + WAIT_MS;

	start();
	memset(&h, 0, sizeof(h));
	make(y, true);
	h.far = y->far;
	h.next = B;
	CHECK_INT(worker_post(at[B], on_hopped, &h), 0);
	while (y->heard[1] < all) {
		struct pollfd p = { .fd = y->client, .events = POLLIN };

		if (y->said[0] < all)
			p.events |= POLLOUT;
		poll(&p, 1, 100);
		CHECK(say(y->client, &y->said[0], all, 0));
		CHECK_INT(hear(y->client, &y->heard[1], all, 0), NOTHING_NOW);
		CHECK(now_ms() < overdue);
	}
	shutdown(y->client, SHUT_WR);
	CHECK_INT(outcome(y->client, &y->heard[1], 0), AT_EOF);
	WAIT(atomic_load(&y->inner_closed) == REASON_EOF);
	leave(y);
	stop();
	CHECK(h.hops >= all / HOP);
}

/* A whole ring, and an EOF, come while nobody has the far end. */
static void test_while_detached(void)
{
	struct way y;

	start();
	make(&y, false);
	CHECK(say(y.client, &y.said[0], CROSSING_RING, 0));
	shutdown(y.client, SHUT_WR);
	usleep(50000);
	in_worker(C, on_join, &y);
	CHECK_INT(outcome(y.service, &y.heard[0], 0), AT_EOF);
	CHECK_INT(y.heard[0], CROSSING_RING);
	talk(&y, CROSSING_RING, 1000);
	shutdown(y.service, SHUT_WR);
	CHECK_INT(outcome(y.client, &y.heard[1], 99), AT_EOF);
	WAIT(atomic_load(&y.why) == REASON_EOF);
	leave(&y);
	stop();
}

/* --- answers --- */

/* All that a socket says until it ends; or until there are so many bytes. */
static void expect(int fd, const char *text, bool then_eof)
{
	size_t len = strlen(text), have = 0;
	char heard[256];
	ssize_t n;

	while (have < len) {
		WAIT((n = recv(fd, heard + have, len - have, 0)) >= 0 || errno != EAGAIN);
		CHECK(n > 0);
		have += (size_t)n;
	}
	heard[have] = '\0';
	CHECK_STR(heard, text);
	if (!then_eof)
		return;
	WAIT((n = recv(fd, heard, 1, 0)) >= 0 || errno != EAGAIN);
	CHECK_INT(n, 0);
}

static void on_yes(struct worker *in, void *arg)
{
	struct way *y = arg;

	CHECK_INT(conduit_attach(y->far, in), 0);
	y->far->ops->answer(y->far, REASON_NONE);
}

static void on_hello(struct worker *in, void *arg)
{
	struct way *y = arg;

	CHECK_INT(conduit_write(y->far, "hello", 5), 5);
}

static void on_yes_hello(struct worker *in, void *arg)
{
	on_yes(in, arg);
	on_hello(in, arg);
}

static void on_yes_hello_finish(struct worker *in, void *arg)
{
	on_yes_hello(in, arg);
	on_finish(in, arg);
}

/* The yes comes first, whatever wakes the near end; also when nothing follows it for long. */
static void test_yes(void)
{
	start();
	for (int i = 0; i < MANY; i++) {
		struct way y;

		make(&y, false);
		CHECK(say(y.client, &y.said[0], (size_t)(i % 5) * 100, 0));
		switch (i % 3) {
		case 0:
			in_worker(B, on_yes, &y);
			expect(y.client, "<none>", false);
			in_worker(B, on_hello, &y);
			expect(y.client, "hello", false);
			in_worker(B, on_finish, &y);
			break;
		case 1:
			CHECK_INT(worker_post(at[B], on_yes_hello, &y), 0);
			CHECK(say(y.client, &y.said[0], 1000, 0)); /* something for it to do */
			expect(y.client, "<none>hello", false);
			in_worker(B, on_finish, &y);
			break;
		default:
			in_worker(B, on_yes_hello_finish, &y);
			expect(y.client, "<none>hello", false);
		}
		expect(y.client, "", true);
		WAIT(atomic_load(&y.inner_closed) == REASON_EOF);
		leave(&y);
	}
	stop();
}

/* While A is busy with this, its wakes do not run: what it reads comes without one. */
static void on_peek_first(struct worker *in, void *arg)
{
	struct way *y = arg;
	struct conduit *near = &y->crossing->end[NEAR].base;
	const uint8_t *data;

	CHECK(in == near->worker);
	in_worker(B, on_yes_hello, y);
	CHECK_INT(conduit_peek(near, &data), 5);
	expect(y->client, "<none>", false);
}

static void test_yes_before_wake(void)
{
	struct way y;

	start();
	make(&y, false);
	in_worker(A, on_peek_first, &y);
	expect(y.client, "hello", false);
	in_worker(B, on_finish, &y);
	WAIT(atomic_load(&y.inner_closed) == REASON_EOF);
	leave(&y);
	stop();
}

static void on_no(struct worker *in, void *arg)
{
	struct way *y = arg;

	CHECK_INT(conduit_attach(y->far, in), 0);
	y->far->ops->answer(y->far, REASON_FORBIDDEN);
	conduit_close(y->far, REASON_FORBIDDEN);
}

static void on_no_in_order(struct worker *in, void *arg)
{
	struct way *y = arg;

	CHECK_INT(conduit_attach(y->far, in), 0);
	y->far->ops->answer(y->far, REASON_LIMIT);
	conduit_close(y->far, REASON_EOF);
}

/* After a no there is but a close, with its reason. */
static void test_no(void)
{
	start();
	for (int i = 0; i < MANY; i++) {
		struct way y;

		make(&y, false);
		CHECK_INT(worker_post(at[B], i % 2 ? on_no : on_no_in_order, &y), 0);
		CHECK(say(y.client, &y.said[0], (size_t)(i % 5) * 100, 0) || errno == EPIPE);
		WAIT(atomic_load(&y.inner_closed) >= 0);
		CHECK_INT(atomic_load(&y.inner_closed), i % 2 ? REASON_FORBIDDEN : REASON_EOF);
		CHECK(!atomic_load(&y.inner_shut));
		expect(y.client, i % 2 ? "<forbidden>" : "<limit>", i % 5 == 0);
		leave(&y);
	}
	stop();
}

/* --- closing --- */

static void test_close_detached(bool in_order)
{
	struct way y;

	start();
	make(&y, false);
	CHECK(say(y.client, &y.said[0], 1000, 0));
	conduit_close(y.far, in_order ? REASON_EOF : REASON_PICKUP_TIMEOUT);
	WAIT(atomic_load(&y.inner_closed) >= 0);
	CHECK_INT(atomic_load(&y.inner_closed), in_order ? REASON_EOF : REASON_PICKUP_TIMEOUT);
	leave(&y);
	stop();
}

static void on_fill_and_finish(struct worker *in, void *arg)
{
	struct way *y = arg;
	uint8_t bytes[4096];
	ssize_t n;

	CHECK_INT(conduit_attach(y->far, in), 0);
	for (;;) {
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = pattern(y->said[1] + i, 99);
		n = conduit_write(y->far, bytes, sizeof(bytes));
		if (n < 0)
			break;
		y->said[1] += (size_t)n;
	}
	CHECK_INT(n, -EAGAIN);
	conduit_close(y->far, REASON_EOF);
}

/* Closed in order, a full ring still arrives; the client need not end itself. */
static void test_close_arrives(void)
{
	struct way y;
	int unread;

	start();
	make(&y, false);
	/* the other way is full as well, but what a Unix socket leaves unread would be a reset */
	CHECK(say(y.client, &y.said[0], CROSSING_RING, 0));
	WAIT(ioctl(y.inner_fd, FIONREAD, &unread) == 0 && unread == 0);
	CHECK(say(y.client, &y.said[0], CROSSING_RING + 30000, 0));
	WAIT(ioctl(y.inner_fd, FIONREAD, &unread) == 0 && unread == 0);
	in_worker(B, on_fill_and_finish, &y);
	usleep(50000);
	CHECK_INT(outcome(y.client, &y.heard[1], 99), AT_EOF);
	CHECK_INT(y.heard[1], y.said[1]);
	CHECK(y.said[1] >= CROSSING_RING);
	WAIT(atomic_load(&y.inner_closed) == REASON_EOF);
	leave(&y);
	stop();
}

static void on_a_little_later(struct worker *in, void *arg)
{
	struct crossing *x = ((struct way *)arg)->crossing;

	CHECK(timer_is_set(&x->flush));
	timer_set(in, &x->flush, 0, on_flush);
}

/* So long ago that the time-out is over. */
static void on_much_later(struct worker *in, void *arg)
{
	struct way *y = arg;
	struct crossing *x = y->crossing;

	CHECK(timer_is_set(&x->flush));
	x->splice->active -= FLUSH_MS + 1000;
	timer_set(in, &x->flush, 0, on_flush);
}

static void on_small_buffer(struct worker *in, void *arg)
{
	int least = 1;
	struct way *y = arg;

	CHECK_INT(setsockopt(y->inner_fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
}

/* ... and the client that takes nothing does not keep it for ever. */
static void test_flush_timeout(void)
{
	struct way y;

	start();
	make(&y, false);
	in_worker(A, on_small_buffer, &y);
	in_worker(B, on_fill_and_finish, &y);
	WAIT(counted(A, COUNTER_LIVE_SOCKETS) == 1);
	usleep(50000);
	in_worker(A, on_a_little_later, &y); /* something has moved since: not yet */
	usleep(100000);
	CHECK_INT(atomic_load(&y.inner_closed), -1);
	in_worker(A, on_much_later, &y);
	WAIT(atomic_load(&y.inner_closed) == REASON_HALF_CLOSED_IDLE);
	leave(&y);
	stop();
}

/* --- workers that end --- */

enum { LIVE = 6 };

/* Crossings in all states are there when the threads end; the workers go in any order. */
static void test_stop(bool near_first)
{
	struct way y[LIVE];

	start();
	for (int i = 0; i < LIVE; i++) {
		make(&y[i], i % 2);
		if (i == 1 || i == 2)
			in_worker(B, on_wait, &y[i]);
		if (i == 3 || i == 4)
			in_worker(B, on_join, &y[i]);
		if (i == 2 || i == 4)
			stuff(y[i].client, &y[i].said[0], 0);
	}
	in_worker(B, on_no, &y[5]); /* the near end may hear of it, or not */
	stop_threads();
	if (near_first)
		at[A] = worker_free(at[A]);
	for (int i = 0; i < LIVE; i++)
		if (y[i].joined)
			splice_end(y[i].joined, REASON_SHUTDOWN);
	if (near_first)
		CHECK_INT(atomic_load(&y[4].inner_closed), REASON_SHUTDOWN);
	conduit_close(y[1].far, REASON_SHUTDOWN); /* before its worker goes, and after */
	for (int i = WORKERS - 1; i >= 0; i--)
		at[i] = worker_free(at[i]);
	conduit_close(y[0].far, REASON_SHUTDOWN);
	conduit_close(y[2].far, REASON_SHUTDOWN);
	for (int i = 0; i < LIVE; i++) {
		CHECK(atomic_load(&y[i].inner_closed) >= 0);
		leave(&y[i]);
	}
	CHECK_INT(atomic_load(&alive), 0);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	for (int tcp = 0; tcp < 2; tcp++) {
		test_bulk(tcp);
		test_half_close(tcp, true);
		test_half_close(tcp, false);
	}
	for (enum state state = IDLE; state < STATES; state++) {
		test_abort(true, state);
		test_abort(false, state);
	}
	for (int i = 0; i < 4; i++)
		test_abort_while_waiting(i & 1, i & 2);
	test_heard_before_abort();
	test_bound();
	test_little(true);
	test_little(false);
	test_no_memory(true);
	test_no_memory(false);
	test_no_splice();
	test_moves();
	test_while_detached();
	test_yes();
	test_yes_before_wake();
	test_no();
	test_close_detached(true);
	test_close_detached(false);
	test_close_arrives();
	test_flush_timeout();
	test_stop(true);
	test_stop(false);
	return 0;
}
