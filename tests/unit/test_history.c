/* history: counters in, the last hour out. */
#include "relay/history.h"

#include "tests/unit/check.h"

#define STEP HISTORY_STEP_MS
#define BEGIN ((uint64_t)5000 * STEP)

static void feed(struct history *h, uint64_t now, uint64_t streams)
{
	struct history_totals t = { .streams = streams,
				    .bytes_up = streams * 100,
				    .bytes_down = streams * 1000,
				    .live_streams = streams % 7 };

	t.ends[REASON_EOF] = streams;
	t.refusals[REASON_UNKNOWN_SERVICE] = streams * 2;
	history_feed(h, now, &t);
}

static void the_first_is_only_compared_to(void)
{
	struct history *h = history_new();
	const struct history_sample *s;

	CHECK_INT(history_newest(h), 0);
	feed(h, BEGIN, 1000);
	CHECK_INT(history_newest(h), 0);
	CHECK(!history_at(h, BEGIN / STEP));
	feed(h, BEGIN + STEP, 1005);
	CHECK_INT(history_newest(h), BEGIN / STEP + 1);
	s = history_at(h, BEGIN / STEP + 1);
	CHECK(s);
	CHECK_INT(s->ms, STEP);
	CHECK_INT(s->streams, 5);
	CHECK_INT(s->bytes_up, 500);
	CHECK_INT(s->bytes_down, 5000);
	CHECK_INT(s->ends[REASON_EOF], 5);
	CHECK_INT(s->refusals[REASON_UNKNOWN_SERVICE], 10);
	CHECK_INT(s->refusals[REASON_EOF], 0);
	CHECK_INT(s->live_streams, 1005 % 7);
	CHECK(!history_at(h, 0));
	history_free(h);
}

static void a_step_is_kept_once(void)
{
	struct history *h = history_new();
	const struct history_sample *s;

	feed(h, BEGIN + 300, 0);
	feed(h, BEGIN + STEP + 300, 3);
	feed(h, BEGIN + STEP + 1300, 4); /* the same step: what came belongs to the next */
	feed(h, BEGIN + STEP + 9300, 5);
	s = history_at(h, BEGIN / STEP + 1);
	CHECK_INT(s->streams, 3);
	feed(h, BEGIN + 2 * STEP, 6);
	s = history_at(h, BEGIN / STEP + 2);
	CHECK_INT(s->streams, 3);
	CHECK_INT(s->ms, STEP - 300);
	history_free(h);
}

static void a_gap_stays_one(void)
{
	struct history *h = history_new();
	struct history_sum sum;

	feed(h, BEGIN, 0);
	feed(h, BEGIN + STEP, 1);
	feed(h, BEGIN + 5 * STEP, 9); /* asleep in between */
	CHECK(!history_at(h, BEGIN / STEP + 3));
	CHECK_INT(history_at(h, BEGIN / STEP + 5)->streams, 8);
	CHECK_INT(history_at(h, BEGIN / STEP + 5)->ms, 4 * STEP);
	history_sum(h, BEGIN / STEP, BEGIN / STEP + 5, &sum);
	CHECK_INT(sum.samples, 2);
	CHECK_INT(sum.ms, 5 * STEP);
	CHECK_INT(sum.streams, 9);
	history_sum(h, BEGIN / STEP + 2, BEGIN / STEP + 4, &sum);
	CHECK_INT(sum.samples, 0);
	CHECK_INT(sum.ms, 0);
	history_free(h);
}

static void longer_away_than_an_hour(void)
{
	struct history *h = history_new();
	uint64_t far = BEGIN + (uint64_t)1000 * STEP;
	struct history_sum sum;

	feed(h, BEGIN, 0);
	feed(h, BEGIN + STEP, 1);
	feed(h, far, 2);
	history_sum(h, far / STEP - HISTORY_SAMPLES + 1, far / STEP, &sum);
	CHECK_INT(sum.samples, 1);
	CHECK_INT(sum.streams, 1);
	CHECK_INT(sum.ms, 999 * STEP);
	history_free(h);
}

static void a_counter_begins_anew(void)
{
	struct history *h = history_new();

	feed(h, BEGIN, 100);
	feed(h, BEGIN + STEP, 4);
	CHECK_INT(history_at(h, BEGIN / STEP + 1)->streams, 4);
	CHECK_INT(history_at(h, BEGIN / STEP + 1)->bytes_up, 400);
	history_free(h);
}

static void the_clock_goes_back(void)
{
	struct history *h = history_new();

	feed(h, BEGIN, 0);
	feed(h, BEGIN + STEP, 1);
	feed(h, BEGIN - 100 * (uint64_t)STEP, 2);
	CHECK_INT(history_newest(h), BEGIN / STEP + 1);
	feed(h, BEGIN + 2 * STEP, 3);
	CHECK_INT(history_at(h, BEGIN / STEP + 2)->streams, 2);
	history_free(h);
}

static void the_ring_wraps(void)
{
	struct history *h = history_new();
	const unsigned n = HISTORY_SAMPLES * 2 + 17;
	const uint64_t last = BEGIN / STEP + n;
	struct history_sum sum;

	for (unsigned i = 0; i <= n; i++)
		feed(h, BEGIN + (uint64_t)i * STEP, i);
	CHECK_INT(history_newest(h), last);
	for (unsigned i = 0; i < HISTORY_SAMPLES; i++)
		CHECK_INT(history_at(h, last - i)->streams, 1);
	CHECK(!history_at(h, last - HISTORY_SAMPLES));
	CHECK(!history_at(h, last + 1));
	history_sum(h, last - 10 * HISTORY_SAMPLES, last, &sum);
	CHECK_INT(sum.samples, HISTORY_SAMPLES);
	CHECK_INT(sum.streams, HISTORY_SAMPLES);
	CHECK_INT(sum.most_streams, 6);
	history_sum(h, 0, last, &sum);
	CHECK_INT(sum.samples, HISTORY_SAMPLES);
	history_free(h);
}

/* Its clock has just begun, as in a container or a fresh machine. */
static void from_the_first_second(void)
{
	struct history *h = history_new();

	feed(h, 1, 0);
	feed(h, STEP + 1, 2);
	CHECK_INT(history_newest(h), 1);
	CHECK_INT(history_at(h, 1)->streams, 2);
	history_free(h);
}

int main(void)
{
	the_first_is_only_compared_to();
	a_step_is_kept_once();
	a_gap_stays_one();
	longer_away_than_an_hour();
	a_counter_begins_anew();
	the_clock_goes_back();
	the_ring_wraps();
	from_the_first_second();
	CHECK(history_now() > 0);
	history_free(NULL);
	return 0;
}
