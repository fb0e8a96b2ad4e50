/* Time-outs of a wheel: never early, set and cancelled from inside each other. */
#include "relay/timer.h"
#include "tests/unit/loop.h"

struct probe {
	struct timer timer;
	uint64_t set_at, due, fired_at;
	unsigned fired;
	void (*then)(struct probe *p);
	struct probe *other;
};

static void on_fire(struct timer *t)
{
	struct probe *p = (struct probe *)t; /* first member */

	p->fired++;
	p->fired_at = worker_now(w);
	if (p->then)
		p->then(p);
}

static void set(struct probe *p, uint64_t ms)
{
	p->set_at = worker_now(w);
	p->due = p->set_at + ms;
	timer_set(w, &p->timer, ms, on_fire);
	CHECK(timer_is_set(&p->timer));
}

static void test_never_early(void)
{
	static const uint64_t ms[] = { 0, 1, 19, 20, 21, 40, 55, 100, 101, 160 };
	struct probe p[10] = { 0 };

	for (unsigned i = 0; i < 10; i++)
		set(&p[i], ms[i]);
	for (unsigned i = 0; i < 10; i++) {
		UNTIL(p[i].fired);
		CHECK_INT(p[i].fired, 1);
		CHECK(!timer_is_set(&p[i].timer));
		CHECK(p[i].fired_at >= p[i].due);
		/* a tick, and what a busy machine may add: not a second round of the wheel */
		CHECK(p[i].fired_at < p[i].due + 5000);
	}
	settle();
	for (unsigned i = 0; i < 10; i++)
		CHECK_INT(p[i].fired, 1);
}

/* An idle worker sleeps: until the next slot that holds anything, and for ever without timers. */
static void test_sleeps(void)
{
	struct probe p = { 0 }, far = { 0 };
	unsigned turns = 0;

	CHECK_INT(timer_wait(w), -1);
	set(&far, 60000);
	set(&p, 200);
	while (!p.fired) {
		turn(true);
		turns++;
	}
	CHECK(turns < 20); /* not one a millisecond */
	CHECK(timer_wait(w) > 0 && timer_wait(w) <= 60000);
	timer_cancel(w, &far.timer);
	CHECK(!timer_is_set(&far.timer));
	CHECK_INT(timer_wait(w), -1);
	timer_cancel(w, &far.timer); /* not set: nothing */
	CHECK_INT(w->timers.live, 0);
}

static void test_set_moves(void)
{
	struct probe p = { 0 };

	set(&p, 20);
	set(&p, 120); /* later */
	UNTIL(p.fired);
	CHECK(p.fired_at >= p.due);

	set(&p, 60000);
	set(&p, 20); /* sooner */
	UNTIL(p.fired == 2);
	CHECK(!timer_is_set(&p.timer));
	CHECK_INT(w->timers.live, 0);
}

static void cancel_other(struct probe *p)
{
	timer_cancel(w, &p->other->timer);
}

/* Two due in the same tick, each of which cancels the other: exactly one fires. */
static void test_cancel_inside(void)
{
	struct probe a = { .then = cancel_other }, b = { .then = cancel_other };

	a.other = &b;
	b.other = &a;
	set(&a, 40);
	b.set_at = a.set_at;
	timer_set(w, &b.timer, 0, on_fire);
	b.timer.at = a.timer.at; /* the same tick for sure */
	timer_cancel(w, &b.timer);
	timer_set(w, &b.timer, a.timer.at - worker_now(w), on_fire);
	UNTIL(a.fired + b.fired);
	settle();
	CHECK_INT(a.fired + b.fired, 1);
	CHECK(!timer_is_set(&a.timer) && !timer_is_set(&b.timer));
	CHECK_INT(w->timers.live, 0);
}

static void again(struct probe *p)
{
	if (p->fired < 3)
		set(p, 20);
}

static void test_set_inside(void)
{
	struct probe p = { .then = again };

	set(&p, 20);
	UNTIL(p.fired == 3);
	CHECK(!timer_is_set(&p.timer));
	CHECK_INT(w->timers.live, 0);
}

/* Further away than the wheel is long: stays in its slot while others of that slot fire. */
static void test_beyond_one_turn(void)
{
	struct probe near = { 0 }, far = { 0 };

	set(&near, 60);
	timer_set(w, &far.timer, 60 + TIMER_TICK_MS * TIMER_SLOTS, on_fire);
	UNTIL(near.fired);
	settle();
	CHECK_INT(far.fired, 0);
	CHECK(timer_is_set(&far.timer));

	/* the clock jumps: as after a sleep that was longer than a whole turn */
	w->timers.tick -= 3 * TIMER_SLOTS;
	far.timer.at -= TIMER_TICK_MS * TIMER_SLOTS; /* the same slot, one turn ago */
	w->timers.armed -= TIMER_TICK_MS * TIMER_SLOTS;
	while (worker_now(w) < far.timer.at + TIMER_TICK_MS)
		;
	timer_turn(w);
	CHECK_INT(far.fired, 1);
	CHECK_INT(w->timers.live, 0);
}

static void test_many(void)
{
	enum { MANY = 20000 };
	struct probe *p = calloc(MANY, sizeof(*p));
	unsigned fired = 0;

	CHECK(p);
	for (unsigned i = 0; i < MANY; i++)
		set(&p[i], i % 300);
	for (unsigned i = 0; i < MANY; i += 2)
		timer_cancel(w, &p[i].timer);
	CHECK_INT(w->timers.live, MANY / 2);
	UNTIL(w->timers.live == 0);
	for (unsigned i = 0; i < MANY; i++) {
		CHECK_INT(p[i].fired, i % 2);
		CHECK(!p[i].fired || p[i].fired_at >= p[i].due);
		fired += p[i].fired;
	}
	CHECK_INT(fired, MANY / 2);
	free(p);
}

int main(void)
{
	loop_begin();
	test_never_early();
	test_sleeps();
	test_set_moves();
	test_cancel_inside();
	test_set_inside();
	test_beyond_one_turn();
	test_many();
	loop_end();
	return 0;
}
