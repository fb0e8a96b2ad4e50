/*
 * test_fair: order, bounds and tokens by hand; then properties, with a simulated clock and chance.
 */
#include "qgs-bridge/fair.h"
#include "tests/unit/check.h"

#define LINES 50
#define ITEMS 64

static const struct fair_limits plenty = {
	.running = 4, .running_per_line = 4, .per_line = ITEMS, .rate = 1000000, .burst = 1000000
};

static struct fair f;
static struct fair_line line[LINES];
static struct fair_item item[LINES][ITEMS];

static void begin(struct fair_limits limits)
{
	memset(line, 0, sizeof(line));
	memset(item, 0, sizeof(item));
	fair_init(&f, &limits);
}

static void enter(unsigned of, unsigned i)
{
	CHECK_INT(fair_enter(&f, &line[of], &item[of][i]), REASON_NONE);
}

static void expect_next(unsigned of, unsigned i)
{
	CHECK(fair_next(&f, 1) == &item[of][i]);
	CHECK(item[of][i].running);
}

static void expect_idle(void)
{
	CHECK_INT(f.waiting, 0);
	CHECK_INT(f.running, 0);
	CHECK(!f.ring);
	for (unsigned i = 0; i < LINES; i++) {
		CHECK_INT(line[i].waiting, 0);
		CHECK_INT(line[i].running, 0);
		CHECK(!line[i].first && !line[i].next && !line[i].prev);
	}
}

static void test_round_robin(void)
{
	begin(plenty);
	CHECK(!fair_next(&f, 1));
	for (unsigned i = 0; i < 3; i++)
		enter(0, i);
	enter(1, 0);
	enter(2, 0);
	enter(1, 1);
	expect_next(0, 0);
	expect_next(1, 0);
	expect_next(2, 0);
	expect_next(0, 1);
	CHECK(!fair_next(&f, 1)); /* four run */
	CHECK_INT(fair_wait(&f, 1), -1);
	fair_leave(&f, &item[1][0]);
	fair_leave(&f, &item[1][0]); /* neither waiting nor running: nothing */
	expect_next(1, 1);
	fair_leave(&f, &item[0][0]);
	expect_next(0, 2);
	fair_leave(&f, &item[2][0]);
	CHECK(!fair_next(&f, 1));
	CHECK(!fair_waiting(&f));
	for (unsigned i = 1; i < 3; i++)
		fair_leave(&f, &item[0][i]);
	fair_leave(&f, &item[1][1]);
	expect_idle();
}

/* Somebody leaves the line from its head, its middle and its end; the line can still be used. */
static void test_leaving(void)
{
	begin(plenty);
	for (unsigned i = 0; i < 4; i++)
		enter(0, i);
	fair_leave(&f, &item[0][3]);
	fair_leave(&f, &item[0][1]);
	enter(0, 4);
	fair_leave(&f, &item[0][0]);
	enter(0, 1);
	CHECK(fair_waiting(&f) == &item[0][2]);
	expect_next(0, 2);
	expect_next(0, 4);
	expect_next(0, 1);
	fair_leave(&f, &item[0][2]);
	fair_leave(&f, &item[0][4]);
	fair_leave(&f, &item[0][1]);
	enter(0, 0);
	fair_leave(&f, &item[0][0]);
	expect_idle();
}

static void test_full_line(void)
{
	begin((struct fair_limits){ .running = 1, .running_per_line = 1,
			.per_line = 2, .rate = 1000, .burst = 1000 });
	enter(0, 0);
	enter(0, 1);
	CHECK_INT(fair_enter(&f, &line[0], &item[0][2]), REASON_LIMIT);
	CHECK(!item[0][2].line);
	fair_leave(&f, &item[0][2]);
	enter(1, 0); /* each has its own bound */
	expect_next(0, 0);
	enter(0, 2); /* who runs does not wait */
	CHECK_INT(fair_enter(&f, &line[0], &item[0][3]), REASON_LIMIT);
	for (unsigned i = 0; i < 3; i++)
		fair_leave(&f, &item[0][i]);
	fair_leave(&f, &item[1][0]);
	expect_idle();
}

static void test_return(void)
{
	begin(plenty);
	for (unsigned i = 0; i < 4; i++)
		enter(0, i);
	expect_next(0, 0);
	expect_next(0, 1);
	expect_next(0, 2);
	enter(1, 0);
	fair_return(&f, &item[0][0]); /* in any order */
	fair_return(&f, &item[0][2]);
	fair_return(&f, &item[0][1]);
	CHECK_INT(f.running, 0);
	CHECK_INT(line[0].waiting, 4);
	expect_next(0, 0); /* before line 1, which has come later */
	expect_next(1, 0);
	expect_next(0, 1);
	expect_next(0, 2);
	fair_leave(&f, &item[1][0]);
	expect_next(0, 3);
	for (unsigned i = 0; i < 4; i++)
		fair_leave(&f, &item[0][i]);
	expect_idle();
}

/* Its token comes back with it. */
static void test_return_token(void)
{
	begin((struct fair_limits){ .running = 4, .running_per_line = 4,
			.per_line = ITEMS, .rate = 1, .burst = 1 });
	enter(0, 0);
	expect_next(0, 0);
	fair_return(&f, &item[0][0]);
	expect_next(0, 0);
	enter(0, 1);
	CHECK(!fair_next(&f, 1));
	CHECK_INT(fair_wait(&f, 1), 1000);
	fair_leave(&f, &item[0][0]);
	fair_leave(&f, &item[0][1]);
	expect_idle();
}

static void test_tokens(void)
{
	begin((struct fair_limits){ .running = 100, .running_per_line = 100,
			.per_line = ITEMS, .rate = 300, .burst = 2 });
	for (unsigned i = 0; i < 5; i++)
		enter(0, i);
	enter(1, 0);
	CHECK_INT(fair_wait(&f, 1), 0);
	expect_next(0, 0);
	expect_next(1, 0); /* no other's tokens */
	expect_next(0, 1);
	CHECK(!fair_next(&f, 1));
	CHECK_INT(fair_wait(&f, 1), 4); /* 3.3 ms */
	CHECK(!fair_next(&f, 4));
	CHECK_INT(fair_wait(&f, 4), 1);
	CHECK(fair_next(&f, 5) == &item[0][2]);
	CHECK(!fair_next(&f, 5));
	CHECK(fair_next(&f, 100000) == &item[0][3]); /* two at most have gathered */
	CHECK(fair_next(&f, 100000) == &item[0][4]);
	enter(0, 0 + 5);
	CHECK(!fair_next(&f, 100000));
	CHECK(!fair_next(&f, 99999)); /* a clock that goes back does no harm */
	fair_limit(&f, &(struct fair_limits){
			       .running = 100, .running_per_line = 100,
					.per_line = 1, .rate = 1000, .burst = 1 });
	CHECK_INT(fair_wait(&f, 100000), 1);
	CHECK(fair_next(&f, 100001) == &item[0][5]);
}

static void test_hold(void)
{
	begin(plenty);
	fair_hold(&line[0], 100);
	for (unsigned i = 0; i < 3; i++)
		enter(0, i);
	enter(1, 0);
	expect_next(0, 0);
	expect_next(1, 0);
	CHECK(!fair_next(&f, 1)); /* there is room, but not for another of line 0 */
	CHECK_INT(fair_wait(&f, 1), 99);
	fair_leave(&f, &item[0][0]);
	CHECK_INT(fair_wait(&f, 1), 0);
	expect_next(0, 1);
	CHECK(!fair_next(&f, 99));
	CHECK(fair_next(&f, 100) == &item[0][2]);
	for (unsigned i = 1; i < 3; i++)
		fair_leave(&f, &item[0][i]);
	fair_leave(&f, &item[1][0]);
	expect_idle();
}

/* ---- a flood ---- */

static uint64_t seed = 1;

static unsigned chance(unsigned n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(seed >> 33) % n;
}

static unsigned of_item(const struct fair_item *i)
{
	return (unsigned)((size_t)(i - &item[0][0]) / ITEMS);
}

struct crowd {
	uint64_t served;		  /* all together */
	uint64_t bound[LINES];		  /* served at which this line's must have been */
	struct fair_item *running[LINES * ITEMS];
	unsigned n_running;
	unsigned of[LINES];		  /* how often each was served */
};

static void serve(struct crowd *c, uint64_t now)
{
	struct fair_item *i;

	while ((i = fair_next(&f, now))) {
		unsigned of = of_item(i);

		if (of)
			CHECK(c->served <= c->bound[of]);
		c->served++;
		c->of[of]++;
		c->running[c->n_running++] = i;
	}
}

static unsigned ring_size(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < LINES; i++)
		n += line[i].waiting > 0;
	return n;
}

/* Line 0 keeps its line full for ever; the others ask now and then, one at a time. */
static void flood_and_ask(struct crowd *c, uint64_t now)
{
	for (unsigned i = 0; i < ITEMS && line[0].waiting < f.limits.per_line; i++)
		if (!item[0][i].line)
			enter(0, i);
	for (unsigned i = 1; i < LINES; i++) {
		if (item[i][0].line || chance(20))
			continue;
		enter(i, 0);
		c->bound[i] = c->served + ring_size();
	}
	serve(c, now);
}

/* Whoever asks is served within a round, and a returned one loses nothing by it. */
static void test_flood(void)
{
	static struct crowd c;

	begin((struct fair_limits){
		.running = 4, .running_per_line = 4,
				.per_line = 48, .rate = 1000000, .burst = 1000000 });
	for (uint64_t now = 1; now < 20000; now++) {
		flood_and_ask(&c, now);
		while (c.n_running > 0 && chance(3)) { /* some are done */
			unsigned at = chance(c.n_running);

			fair_leave(&f, c.running[at]);
			c.running[at] = c.running[--c.n_running];
		}
	}
	for (unsigned i = 0; i < LINES; i++)
		CHECK(c.of[i] > 300);
	for (unsigned i = 0; i < c.n_running; i++)
		fair_leave(&f, c.running[i]);
	for (struct fair_item *i; (i = fair_waiting(&f));)
		fair_leave(&f, i);
	expect_idle();
}

/* A flood gets its rate and not more; the others, slower than theirs, do not notice. */
static void test_flood_rate(void)
{
	static struct crowd c;
	const uint64_t end = 10001; /* ten seconds */

	begin((struct fair_limits){ .running = 40, .running_per_line = 40,
			.per_line = 48, .rate = 100, .burst = 200 });
	for (uint64_t now = 1; now < end; now++) {
		for (unsigned i = 0; i < ITEMS && line[0].waiting < f.limits.per_line; i++)
			if (!item[0][i].line)
				enter(0, i);
		if (now % 20 == 0) {
			enter(1, 0);
			c.bound[1] = c.served + 2;
		}
		serve(&c, now);
		CHECK(!item[1][0].line || item[1][0].running);
		while (c.n_running > 0)
			fair_leave(&f, c.running[--c.n_running]);
	}
	CHECK(c.of[0] >= 1199 && c.of[0] <= 1200); /* 200 and 100 a second */
	CHECK_INT(c.of[1], 500);
}

/* Anything in any order: the counts stay right, and each line its order. */
static void test_chance(void)
{
	static uint64_t last[LINES];

	begin((struct fair_limits){ .running = 7, .running_per_line = 7,
			.per_line = 20, .rate = 50, .burst = 3 });
	for (uint64_t now = 1; now < 200000; now++) {
		unsigned of = chance(LINES), i = chance(ITEMS);
		struct fair_item *it = &item[of][i];

		if (!it->line) {
			unsigned waiting = line[of].waiting;

			CHECK_INT(fair_enter(&f, &line[of], it),
				  waiting < 20 ? REASON_NONE : REASON_LIMIT);
		} else if (it->running && chance(2)) {
			fair_return(&f, it);
			last[of] = 0;
		} else {
			fair_leave(&f, it);
		}
		it = chance(2) ? fair_next(&f, now) : NULL;
		if (it) {
			of = of_item(it);
			CHECK(it->number > last[of]);
			last[of] = it->number;
		}
		CHECK(f.running <= 7);
	}
	for (unsigned i = 0; i < LINES * ITEMS; i++)
		fair_leave(&f, &item[0][0] + i);
	expect_idle();
}

/* Whatever one line does, a place is left for another. */
static void test_running_per_line(void)
{
	begin((struct fair_limits){ .running = 4, .running_per_line = 3, .per_line = ITEMS,
				    .rate = 1000000, .burst = 1000000 });
	for (unsigned i = 0; i < 8; i++)
		enter(0, i);
	for (unsigned i = 0; i < 3; i++)
		expect_next(0, i);
	CHECK(!fair_next(&f, 1));
	CHECK(fair_wait(&f, 1) == UINT64_MAX); /* time alone changes nothing */
	enter(1, 0);
	expect_next(1, 0);
	CHECK(!fair_next(&f, 1));
	fair_leave(&f, &item[0][1]);
	expect_next(0, 3);
	CHECK(!fair_next(&f, 1));
}

int main(void)
{
	test_round_robin();
	test_leaving();
	test_full_line();
	test_return();
	test_return_token();
	test_tokens();
	test_hold();
	test_running_per_line();
	test_flood();
	test_flood_rate();
	test_chance();
	return 0;
}
