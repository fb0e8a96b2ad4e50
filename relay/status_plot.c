/*
 * status_plot: curves as SVG.
 *
 * Theory of operation: the drawing is stretched to whatever width the page has, and its lines are
 * not (vector-effect), so it holds lines only; what is written beside it is HTML, which stays
 * readable on a narrow screen. Paths are relative and in whole units, and points on a flat stretch
 * are left out: an hour of 360 samples takes 2 KB at most, and a quiet one some bytes. Positions
 * are rounded, not steps, so nothing drifts.
 */
#include "relay/status_plot.h"

#include <event2/buffer.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "relay/html.h"

#define HEIGHT 200 /* units of the drawing; a sample is STEP_X wide */
#define STEP_X 2
#define SPARK_HEIGHT 40
#define TIMES 4 /* parts of the hour */

double plot_top(double most)
{
	double top = most > 0 ? 0.1 : 1;

	while (top < most && top < 1e18) {
		if (top * 2 >= most)
			return top * 2;
		if (top * 5 >= most)
			return top * 5;
		top *= 10;
	}
	return top;
}

static double most_of(const double *at, size_t n)
{
	double most = 0;

	for (size_t i = 0; i < n; i++)
		if (at[i] > most) /* not for NAN */
			most = at[i];
	return most;
}

static bool is_nothing(const double *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isnan(at[i]))
			return false;
	return true;
}

static int height_of(double value, double top, int height)
{
	double up = value / top * height;

	return height - (up > height ? height : up < 0 ? 0 : (int)(up + 0.5));
}

/* d="..." of a path: a piece for each stretch without a gap. */
static void put_path(struct evbuffer *out, const double *at, size_t n, double top, int height)
{
	size_t flat = 0; /* steps to the right that are still to be drawn */
	int y = 0;
	bool drawing = false;

	html_raw(out, "d=\"");
	for (size_t i = 0; i < n; i++) {
		int next = isnan(at[i]) ? 0 : height_of(at[i], top, height);
		bool gap = isnan(at[i]);

		if (drawing && flat && (gap || next != y)) {
			html_format(out, "h%zu", flat * STEP_X);
			flat = 0;
		}
		if (gap) {
			drawing = false;
		} else if (!drawing) {
			/* of no length: round line ends make a point of it */
			html_format(out, "M%zu %dh0", i * STEP_X, next);
			drawing = true;
		} else if (next == y) {
			flat++;
		} else {
			html_format(out, "l%d%s%d", STEP_X, next < y ? "" : " ", next - y);
		}
		y = next;
	}
	if (flat)
		html_format(out, "h%zu", flat * STEP_X);
	html_raw(out, "\"");
}

static void put_title(struct evbuffer *out, const struct plot *p, double most)
{
	char now[HTML_NUMBER_MAX], top[HTML_NUMBER_MAX];

	html_format(out, "<title id=\"%s-title\">", p->id);
	html_text(out, p->title);
	html_format(out, "</title><desc id=\"%s-desc\">", p->id);
	if (most <= 0)
		html_raw(out, "Nothing in the last hour.");
	for (unsigned i = 0; most > 0 && i < p->n_curves; i++) {
		const struct plot_curve *c = &p->curves[i];

		html_text(out, c->name);
		html_raw(out, ": now ");
		html_text(out,
			  isnan(c->at[p->n - 1]) ? "not known" : p->format(now, c->at[p->n - 1]));
		html_raw(out, ", at most ");
		html_text(out, p->format(top, most_of(c->at, p->n)));
		html_raw(out, ". ");
	}
	html_raw(out, "</desc>");
}

/* The names of curves, each with a piece of its line. */
static void put_legend(struct evbuffer *out, const struct plot *p)
{
	char number[HTML_NUMBER_MAX];

	html_raw(out, "<ul class=\"legend\">");
	for (unsigned i = 0; i < p->n_curves; i++) {
		const struct plot_curve *c = &p->curves[i];
		double now = c->at[p->n - 1];

		html_format(out,
			    "<li><svg class=\"key\" viewBox=\"0 0 32 8\" aria-hidden=\"true\">"
			    "<path class=\"curve curve-%u\" d=\"M1 4h30\"/></svg> ",
			    i);
		html_text(out, c->name);
		html_raw(out, " <b>");
		html_text(out, isnan(now) ? "\u2013" : p->format(number, now));
		html_raw(out, "</b> <span>most ");
		html_text(out, p->format(number, most_of(c->at, p->n)));
		html_raw(out, "</span></li>");
	}
	html_raw(out, "</ul>");
}

static void put_scale(struct evbuffer *out, const struct plot *p, double top)
{
	char number[HTML_NUMBER_MAX];

	html_raw(out, "<div class=\"scale\" aria-hidden=\"true\"><span>");
	html_text(out, p->format(number, top));
	html_raw(out, "</span><span>");
	html_text(out, p->format(number, top / 2));
	html_raw(out, "</span><span>0</span></div>");
}

/* Some of the times have no room on a narrow screen: the style sheet leaves out every other one. */
static void put_times(struct evbuffer *out, const struct plot *p)
{
	char ago[HTML_NUMBER_MAX], words[2 * HTML_NUMBER_MAX];

	html_raw(out, "<div class=\"times\" aria-hidden=\"true\">");
	for (unsigned i = 0; i <= TIMES; i++) {
		uint64_t before = p->seconds * (TIMES - i) / TIMES;

		html_duration(ago, before * 1000);
		snprintf(words, sizeof(words), "%s%s", before ? ago : "now", before ? " ago" : "");
		html_time(out, p->end - before, words);
	}
	html_raw(out, "</div>");
}

void plot_write(struct evbuffer *out, const struct plot *p)
{
	const size_t width = (p->n - 1) * STEP_X;
	double most = 0, top;
	bool nothing = true;

	for (unsigned i = 0; i < p->n_curves; i++) {
		double m = most_of(p->curves[i].at, p->n);

		most = m > most ? m : most;
		nothing = nothing && is_nothing(p->curves[i].at, p->n);
	}
	top = plot_top(most > p->least ? most : p->least);
	html_raw(out, "<figure><figcaption>");
	html_text(out, p->title);
	html_raw(out, "</figcaption>");
	put_legend(out, p);
	html_raw(out, "<div class=\"plot\">");
	put_scale(out, p, top);
	html_format(out,
		    "<svg viewBox=\"0 0 %zu %d\" preserveAspectRatio=\"none\" role=\"img\" "
		    "aria-labelledby=\"%s-title %s-desc\">",
		    width, HEIGHT, p->id, p->id);
	put_title(out, p, most);
	html_format(out, "<path class=\"grid\" d=\"M0 0h%zuM0 %dh%zuM0 %dh%zu", width, HEIGHT / 2,
		    width, HEIGHT, width);
	for (unsigned i = 0; i <= TIMES; i++)
		html_format(out, "M%zu 0v%d", width * i / TIMES, HEIGHT);
	html_raw(out, "\"/>");
	for (unsigned i = 0; i < p->n_curves; i++) {
		html_format(out, "<path class=\"curve curve-%u\" ", i);
		put_path(out, p->curves[i].at, p->n, top, HEIGHT);
		html_raw(out, "/>");
	}
	html_raw(out, "</svg>");
	put_times(out, p);
	html_format(out, "</div>%s</figure>",
		    nothing ? "<p class=\"none\">Nothing is known yet.</p>" : "");
}

void plot_spark(struct evbuffer *out, const char *title, const double *at, size_t n)
{
	const double most = most_of(at, n);

	html_format(out,
		    "<svg class=\"spark\" viewBox=\"0 0 %zu %d\" preserveAspectRatio=\"none\" "
		    "role=\"img\"><title>",
		    (n - 1) * STEP_X, SPARK_HEIGHT);
	html_text(out, title);
	html_raw(out, "</title><path class=\"curve curve-0\" ");
	put_path(out, at, n, most > 0 ? most : 1, SPARK_HEIGHT);
	html_raw(out, "/></svg>");
}
