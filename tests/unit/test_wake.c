/* Wakes: run in their worker's thread, once however often roused; leaving at any time. */
#include "tests/unit/loop.h"

enum { ROUSERS = 3, ROUNDS = 20000 };

struct sleeper {
	struct wake wake; /* first: cast both ways */
	struct wake *leaves; /* with it, when it runs */
	bool again;	     /* rouses itself, once */
	unsigned runs, orphaned;
};

static void on_run(struct wake *k)
{
	struct sleeper *s = (struct sleeper *)k;

	s->runs++;
	if (s->leaves)
		wake_leave(s->leaves);
	if (s->again)
		wake_rouse(k);
	s->again = false;
}

static void on_orphaned(struct wake *k)
{
	((struct sleeper *)k)->orphaned++;
	wake_leave(k);
}

static void enter(struct sleeper *s, struct worker *in)
{
	s->wake.run = on_run;
	s->wake.orphaned = on_orphaned;
	wake_enter(&s->wake, in);
}

static void test_once(void)
{
	struct sleeper s[2] = { 0 };

	enter(&s[0], w);
	enter(&s[1], w);
	settle();
	CHECK_INT(s[0].runs, 0);
	for (int i = 0; i < 3; i++)
		wake_rouse(&s[0].wake);
	turn(true); /* must not sleep */
	CHECK_INT(s[0].runs, 1);
	settle();
	CHECK_INT(s[0].runs, 1);
	CHECK_INT(s[1].runs, 0);
	s[0].again = true; /* roused while it runs: next time */
	wake_rouse(&s[0].wake);
	turn(true);
	CHECK_INT(s[0].runs, 2);
	turn(true);
	CHECK_INT(s[0].runs, 3);
	wake_leave(&s[0].wake);
	wake_leave(&s[0].wake); /* in none: nothing */
	wake_leave(&s[1].wake);
}

/* One that leaves is not run any more: roused, or even about to run. */
static void test_leave(void)
{
	struct sleeper s[3] = { 0 };

	for (int i = 0; i < 3; i++)
		enter(&s[i], w);
	wake_rouse(&s[0].wake);
	wake_leave(&s[0].wake);
	settle();
	CHECK_INT(s[0].runs, 0);
	enter(&s[0], w); /* it may come back, and was not roused then */
	settle();
	CHECK_INT(s[0].runs, 0);
	s[0].leaves = &s[1].wake;
	s[2].leaves = &s[2].wake;
	for (int i = 0; i < 3; i++)
		wake_rouse(&s[i].wake);
	settle();
	CHECK_INT(s[0].runs, 1);
	CHECK_INT(s[1].runs, 0);
	CHECK_INT(s[2].runs, 1);
	wake_leave(&s[0].wake);
}

/* Whoever is there when the worker is freed learns it: roused or not. */
static void test_orphans(void)
{
	struct worker *other = worker_new(1);
	struct sleeper s[3] = { 0 };

	CHECK(other);
	for (int i = 0; i < 3; i++)
		enter(&s[i], other);
	wake_rouse(&s[1].wake);
	wake_leave(&s[2].wake);
	worker_free(other);
	CHECK_INT(s[0].orphaned, 1);
	CHECK_INT(s[1].orphaned, 1);
	CHECK_INT(s[2].orphaned, 0);
	CHECK_INT(s[0].runs + s[1].runs, 0);
}

/* --- from other threads --- */

struct counted {
	struct wake wake; /* first: cast both ways */
	atomic_uint wished, seen;
};

static struct counted shared[2];

static void on_counted(struct wake *k)
{
	struct counted *c = (struct counted *)k;

	atomic_store(&c->seen, atomic_load(&c->wished));
}

static void *rouse_all(void *arg)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct counted *c = &shared[i % 2];

		atomic_fetch_add(&c->wished, 1);
		wake_rouse(&c->wake);
	}
	return NULL;
}

/* After the last rousing there is always a run. */
static void test_threads(void)
{
	struct worker *other = worker_new(1);
	pthread_t thread[ROUSERS];

	CHECK(other);
	for (int i = 0; i < 2; i++) {
		shared[i].wake.run = on_counted;
		wake_enter(&shared[i].wake, other);
	}
	CHECK_INT(worker_start(other), 0);
	for (int i = 0; i < ROUSERS; i++)
		CHECK_INT(pthread_create(&thread[i], NULL, rouse_all, NULL), 0);
	for (int i = 0; i < ROUSERS; i++)
		pthread_join(thread[i], NULL);
	UNTIL(atomic_load(&shared[0].seen) == ROUSERS * ROUNDS / 2 &&
	      atomic_load(&shared[1].seen) == ROUSERS * ROUNDS / 2);
	worker_stop(other);
	worker_join(other);
	wake_leave(&shared[0].wake);
	wake_leave(&shared[1].wake);
	worker_free(other);
}

int main(void)
{
	loop_begin();
	test_once();
	test_leave();
	test_orphans();
	test_threads();
	loop_end();
	return 0;
}
