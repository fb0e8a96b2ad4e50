/* Edge-triggered watches: one that moves to another worker while its event waits in the batch. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "tests/unit/loop.h"

static struct worker *there;
static struct conduit *pair[2];
static pthread_t here;
static atomic_bool settled;
static atomic_uint told_there;
static bool closes, moved;
static unsigned stays; /* which of the pair */

/* Where it has moved to. */
static void on_ready_there(struct conduit *c, unsigned events)
{
	char byte;

	CHECK(!pthread_equal(pthread_self(), here));
	CHECK_INT(conduit_read(c, &byte, 1), 1);
	conduit_close(c, REASON_EOF);
	atomic_fetch_add(&told_there, 1);
}

static void on_next_turn(struct worker *w_, void *arg)
{
	atomic_store(&settled, true);
}

static void on_letter(struct worker *w_, void *conduit)
{
	struct conduit *c = conduit;

	CHECK_INT(conduit_attach(c, w_), 0);
	if (closes) {
		conduit_close(c, REASON_RESET); /* freed when this turn is over */
	} else {
		c->ready = on_ready_there;
		conduit_want(c, READY_READ);
	}
	CHECK_INT(worker_post(w_, on_next_turn, NULL), 0);
}

/* The first of two told in one batch moves the other, and waits until it has arrived. */
static void on_ready_here(struct conduit *c, unsigned events)
{
	char byte;

	CHECK(pthread_equal(pthread_self(), here));
	CHECK(c->worker == w);
	CHECK_INT(conduit_read(c, &byte, 1), 1);
	if (moved)
		return;
	moved = true;
	stays = c == pair[0] ? 0 : 1;
	conduit_detach(pair[!stays]);
	CHECK_INT(worker_post(there, on_letter, pair[!stays]), 0);
	while (!atomic_load(&settled))
		sched_yield();
}

static void test_move(bool close_it)
{
	int fd[2][2];

	closes = close_it;
	moved = false;
	atomic_store(&settled, false);
	atomic_store(&told_there, 0);
	for (int i = 0; i < 2; i++) {
		unix_pair(fd[i]);
		pair[i] = fd_conduit_new(w, fd[i][0]);
		CHECK(pair[i]);
		pair[i]->ready = on_ready_here;
		conduit_want(pair[i], READY_READ);
	}
	settle();
	for (int i = 0; i < 2; i++)
		CHECK_INT(write(fd[i][1], "x", 1), 1);
	UNTIL(moved);
	UNTIL(close_it || atomic_load(&told_there) == 1);
	conduit_close(pair[stays], REASON_EOF);
	close(fd[0][1]);
	close(fd[1][1]);
}

int main(void)
{
	loop_begin();
	here = pthread_self();
	there = worker_new(1);
	CHECK(there);
	CHECK_INT(worker_start(there), 0);
	test_move(false);
	test_move(true);
	worker_stop(there);
	worker_join(there);
	worker_free(there);
	loop_end();
	return 0;
}
