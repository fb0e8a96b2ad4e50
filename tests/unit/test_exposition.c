/* exposition, durations: what a scrape gets, byte by byte. */
#include "relay/exposition.h"

#include <event2/buffer.h>

#include "tests/unit/check.h"

static const char *text_of(struct evbuffer *b)
{
	CHECK(evbuffer_add(b, "", 1) == 0);
	return (const char *)evbuffer_pullup(b, -1);
}

static void test_samples(void)
{
	struct evbuffer *b = evbuffer_new();
	struct exposition e = exposition_begin(b, "x_");

	exposition_one(&e, "a_total", "counter", "All of it.", UINT64_MAX);
	exposition_head(&e, "b", "gauge", "More.");
	exposition_sample(&e, 1, "path", "/a\"b\\c\nd", "empty", "", NULL);
	exposition_seconds(&e, 1500000, "n", "\\", NULL);
	exposition_seconds(&e, 0, NULL);
	exposition_common(&e, "process_x", "gauge", "Of all programs.");
	exposition_sample(&e, 7, NULL);
	CHECK_STR(text_of(b), "# HELP x_a_total All of it.\n"
			      "# TYPE x_a_total counter\n"
			      "x_a_total 18446744073709551615\n"
			      "# HELP x_b More.\n"
			      "# TYPE x_b gauge\n"
			      "x_b{path=\"/a\\\"b\\\\c\\nd\",empty=\"\"} 1\n"
			      "x_b{n=\"\\\\\"} 1.5\n"
			      "x_b 0\n"
			      "# HELP process_x Of all programs.\n"
			      "# TYPE process_x gauge\n"
			      "process_x 7\n");
	evbuffer_free(b);
}

/* A scrape with bytes that are no UTF-8 would be refused as a whole. */
static void test_only_utf8(void)
{
	struct evbuffer *b = evbuffer_new();
	struct exposition e = exposition_begin(b, "");

	exposition_head(&e, "a", "gauge", "A.");
	evbuffer_drain(b, evbuffer_get_length(b));
	exposition_sample(&e, 1, "l", "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80", NULL);
	exposition_sample(&e, 1, "l", "\xff|\xc3|\xe2\x82|\xc0\x80|\xed\xa0\x80|\xf5\x80\x80\x80",
			  NULL);
	CHECK_STR(text_of(b), "a{l=\"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80\"} 1\n"
			      "a{l=\"?|?|\?\?|\?\?|\?\?\?|\?\?\?\?\"} 1\n");
	evbuffer_free(b);
}

static void test_durations(void)
{
	static struct durations all[DURATIONS_KINDS];
	struct durations_sum sum = { 0 };
	struct evbuffer *b = evbuffer_new();
	struct exposition e = exposition_begin(b, "x_");

	durations_add(all, DURATIONS_TURN, 0);
	durations_add(all, DURATIONS_TURN, 5000);
	durations_add(all, DURATIONS_TURN, 5001);
	durations_add(all, DURATIONS_TURN, UINT64_C(3600000000));
	durations_read(&sum, &all[DURATIONS_TURN]);
	exposition_head(&e, "t_seconds", "histogram", "Turns.");
	exposition_durations(&e, DURATIONS_TURN, &sum, "worker", "0", NULL);
	CHECK_STR(text_of(b), "# HELP x_t_seconds Turns.\n"
			      "# TYPE x_t_seconds histogram\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"0.005\"} 2\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"0.01\"} 3\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"0.05\"} 3\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"0.1\"} 3\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"0.5\"} 3\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"1\"} 3\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"5\"} 3\n"
			      "x_t_seconds_bucket{worker=\"0\",le=\"+Inf\"} 4\n"
			      "x_t_seconds_sum{worker=\"0\"} 3600.010001\n"
			      "x_t_seconds_count{worker=\"0\"} 4\n");
	durations_read(&sum, &all[DURATIONS_TURN]); /* of a second worker */
	CHECK_INT(sum.in[0], 4);
	evbuffer_free(b);
}

static void test_bounds(void)
{
	for (enum durations_kind k = 0; k < DURATIONS_KINDS; k++) {
		unsigned n;
		const uint64_t *bounds = durations_bounds(k, &n);

		CHECK(n > 0 && n <= DURATIONS_BOUNDS_MAX);
		for (unsigned i = 1; i < n; i++)
			CHECK(bounds[i - 1] < bounds[i]);
		for (unsigned i = 0; i < n; i++) {
			struct durations all[DURATIONS_KINDS] = { 0 };

			durations_add(all, k, bounds[i]);
			durations_add(all, k, bounds[i] + 1);
			CHECK_INT(all[k].in[i], 1);
			CHECK_INT(all[k].in[i + 1], 1);
		}
	}
}

int main(void)
{
	test_samples();
	test_only_utf8();
	test_durations();
	test_bounds();
	return 0;
}
