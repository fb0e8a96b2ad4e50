/* status_plot: values in, paths out. */
#include "relay/status_plot.h"

#include <event2/buffer.h>
#include <math.h>

#include "relay/html.h"

#include "tests/unit/check.h"

static char *plain(char *buf, double value)
{
	snprintf(buf, HTML_NUMBER_MAX, "%g", value);
	return buf;
}

/* Until the next call. */
static const char *text_of(struct evbuffer *out)
{
	static char text[16384];
	int n = evbuffer_remove(out, text, sizeof(text) - 1);

	CHECK(n >= 0 && evbuffer_get_length(out) == 0);
	text[n] = '\0';
	evbuffer_free(out);
	return text;
}

static void check_spark(const double *at, size_t n, const char *path)
{
	struct evbuffer *out = evbuffer_new();
	char wanted[256];
	const char *text;

	snprintf(wanted, sizeof(wanted), "<path class=\"curve curve-0\" d=\"%s\"/></svg>", path);
	plot_spark(out, "it", at, n);
	text = text_of(out);
	CHECK(strlen(text) > strlen(wanted));
	CHECK_STR(text + strlen(text) - strlen(wanted), wanted);
}

/* A spark is 40 high, and a value 2 wide. */
static void paths(void)
{
	static const double rising[] = { 0, 1, 2, 4 }, flat[] = { 0, 0, 0, 0 },
			    steps[] = { 4, 4, 4, 2, 2 };
	const double gap[] = { 4, 4, NAN, NAN, 2, 2 }, ends[] = { NAN, 1, NAN },
		     none[] = { NAN, NAN };

	check_spark(rising, 4, "M0 40h0l2-10l2-10l2-20");
	check_spark(flat, 4, "M0 40h0h6");
	check_spark(steps, 5, "M0 0h0h4l2 20h2");
	check_spark(gap, 6, "M0 0h0h2M8 20h0h2");
	check_spark(ends, 3, "M2 0h0");
	check_spark(none, 2, "");
}

static void tops(void)
{
	CHECK(plot_top(0) == 1);
	CHECK(plot_top(-1) == 1);
	CHECK(plot_top(0.01) == 0.1);
	CHECK(plot_top(1.0) >= 1 && plot_top(1.0) < 1.001);
	CHECK(plot_top(1.1) >= 1.999 && plot_top(1.1) < 2.001);
	CHECK(plot_top(301) > 499 && plot_top(301) < 501);
	CHECK(plot_top(1e30) >= 1e18); /* and ends */
	CHECK(plot_top(INFINITY) >= 1e18);
}

static void a_whole_one(void)
{
	const double up[] = { NAN, 10, 20 }, down[] = { 1, 0, NAN };
	const struct plot_curve curves[] = { { "Up & away", up }, { "Down", down } };
	const struct plot p = { .id = "it",
				.title = "<Bytes>",
				.format = plain,
				.end = 7200,
				.seconds = 3600,
				.n = 3,
				.curves = curves,
				.n_curves = 2 };
	struct evbuffer *out = evbuffer_new();
	const char *text;

	plot_write(out, &p);
	text = text_of(out);
	CHECK(strstr(text, "<title id=\"it-title\">&lt;Bytes&gt;</title>"));
	CHECK(strstr(text, "Up &amp; away: now 20, at most 20. Down: now not known, at most 1. "));
	CHECK(strstr(text, "<path class=\"curve curve-0\" d=\"M2 100h0l2-100\"/>"));
	CHECK(strstr(text, "<path class=\"curve curve-1\" d=\"M0 190h0l2 10\"/>"));
	CHECK(strstr(text, "title=\"1970-01-01 01:00:00 UTC\">60\u00a0min ago</time>"));
	CHECK(strstr(text, "title=\"1970-01-01 02:00:00 UTC\">now</time>"));
	CHECK(!strstr(text, "Nothing"));
}

static void nothing(void)
{
	const double gap[] = { NAN, NAN }, zero[] = { 0, 0 };
	struct plot_curve curve = { "It", gap };
	const struct plot p = {
		.id = "it", .title = "It", .format = plain, .n = 2, .curves = &curve, .n_curves = 1
	};
	struct evbuffer *out = evbuffer_new();
	const char *text;

	plot_write(out, &p);
	CHECK(strstr(text_of(out), "Nothing is known yet."));
	curve.at = zero;
	out = evbuffer_new();
	plot_write(out, &p);
	text = text_of(out);
	CHECK(!strstr(text, "Nothing is known yet."));
	CHECK(strstr(text, "Nothing in the last hour."));
}

int main(void)
{
	paths();
	tops();
	a_whole_one();
	nothing();
	return 0;
}
