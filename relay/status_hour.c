/*
 * status_hour: curves and tables of the last hour.
 *
 * Theory of operation: the hour ends with the newest whole step, so curves move on by a step at a
 * time and the last value is never half of one. Curves have a value for each step, the table one
 * row for five minutes: it is what the curves say for who cannot see them. Reasons have a row each,
 * those that came most often first, and at most REASON_ROWS of them.
 */
#include "relay/status_hour.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "relay/history.h"
#include "relay/html.h"
#include "relay/status_plot.h"
#include "relay/status_view.h"

#define REASON_ROWS 12
#define ROW_STEPS 30  /* of the table: five minutes */
#define SPARK_STEPS 6 /* a minute */
#define SPARK_POINTS (HISTORY_SAMPLES / SPARK_STEPS)

enum curve { UP, DOWN, OPENED, REFUSED, LIVE, PARKED, TUNNELS, CURVES };

/* Values of all curves, the oldest first. */
struct hour {
	const struct status_view *view;
	uint64_t first, newest; /* slots */
	uint64_t end;           /* of the newest: seconds since 1970 */
	double at[CURVES][HISTORY_SAMPLES];
};

static double per_second(uint64_t n, uint64_t ms)
{
	return ms ? (double)n * 1000 / (double)ms : 0;
}

static uint64_t all_reasons(const uint32_t of[REASONS])
{
	uint64_t n = 0;

	for (unsigned i = 0; i < REASONS; i++)
		n += of[i];
	return n;
}

static void take(struct hour *h, unsigned i, const struct history_sample *s)
{
	for (unsigned c = 0; c < CURVES; c++)
		h->at[c][i] = NAN;
	if (!s)
		return;
	h->at[UP][i] = per_second(s->bytes_up, s->ms);
	h->at[DOWN][i] = per_second(s->bytes_down, s->ms);
	h->at[OPENED][i] = per_second(s->streams, s->ms);
	h->at[REFUSED][i] = per_second(all_reasons(s->refusals), s->ms);
	h->at[LIVE][i] = s->live_streams;
	h->at[PARKED][i] = s->live_parked;
	h->at[TUNNELS][i] = s->live_tunnels;
}

/* NULL: out of memory. */
static struct hour *hour_new(const struct status_view *v)
{
	struct hour *h = calloc(1, sizeof(*h));
	uint64_t slot = v->history_now / HISTORY_STEP_MS;

	if (!h)
		return NULL;
	h->view = v;
	h->newest = history_newest(v->history);
	/* a step that is over but not fed yet is no gap; two of them are */
	if (h->newest + 1 < slot)
		h->newest = slot - 1;
	h->first = h->newest >= HISTORY_SAMPLES ? h->newest - HISTORY_SAMPLES + 1 : 0;
	h->end = v->now - (v->history_now - h->newest * HISTORY_STEP_MS) / 1000;
	for (unsigned i = 0; i < HISTORY_SAMPLES; i++)
		take(h, i, history_at(v->history, h->first + i));
	return h;
}

/* ---- curves ---- */

static char *bytes_per_second(char *buf, double value)
{
	html_bytes(buf, value);
	strcat(buf, "/s");
	return buf;
}

static char *per_second_text(char *buf, double value)
{
	html_rate(buf, value);
	strcat(buf, "/s");
	return buf;
}

static char *count_text(char *buf, double value)
{
	uint64_t whole = (uint64_t)value;

	/* half of a scale to five */
	return (double)whole < value && value < 10 ? html_rate(buf, value) : html_count(buf, whole);
}

static void put_plots(struct evbuffer *out, const struct hour *h)
{
	const struct plot_curve bytes[] = { { "To services", h->at[UP] },
					    { "To clients", h->at[DOWN] } };
	const struct plot_curve opened[] = { { "Joined", h->at[OPENED] },
					     { "Refused", h->at[REFUSED] } };
	const struct plot_curve live[] = { { "Streams", h->at[LIVE] },
					   { "Parked", h->at[PARKED] },
					   { "Tunnels", h->at[TUNNELS] } };
	const struct plot plots[] = {
		{ .id = "plot-bytes",
		  .title = "Throughput",
		  .format = bytes_per_second,
		  .least = 1000,
		  .curves = bytes,
		  .n_curves = 2 },
		{ .id = "plot-opened",
		  .title = "New streams",
		  .format = per_second_text,
		  .least = 1,
		  .curves = opened,
		  .n_curves = 2 },
		{ .id = "plot-live",
		  .title = "At a time",
		  .format = count_text,
		  .least = 10,
		  .curves = live,
		  .n_curves = 3 },
	};

	html_raw(out, "<div class=\"plots\">");
	for (size_t i = 0; i < sizeof(plots) / sizeof(plots[0]); i++) {
		struct plot p = plots[i];

		p.n = HISTORY_SAMPLES;
		p.end = h->end;
		p.seconds = HISTORY_SAMPLES * (HISTORY_STEP_MS / 1000);
		plot_write(out, &p);
	}
	html_raw(out, "</div>");
}

static void put_cell(struct evbuffer *out, const char *text)
{
	html_raw(out, "<td>");
	html_text(out, text);
	html_raw(out, "</td>");
}

static void put_row(struct evbuffer *out, const struct hour *h, unsigned row)
{
	const uint64_t from = h->first + (uint64_t)row * ROW_STEPS, to = from + ROW_STEPS - 1;
	const uint64_t age = (h->newest - from + 1) * (HISTORY_STEP_MS / 1000);
	char buf[HTML_NUMBER_MAX];
	struct history_sum s;
	uint64_t refused = 0;

	history_sum(h->view->history, from, to, &s);
	for (unsigned i = 0; i < REASONS; i++)
		refused += s.refusals[i];
	html_raw(out, "<tr><th scope=\"row\">");
	html_time(out, h->end > age ? h->end - age : 0, NULL);
	html_raw(out, "</th>");
	if (!s.samples) {
		html_raw(out, "<td colspan=\"7\">not known</td></tr>");
		return;
	}
	put_cell(out, bytes_per_second(buf, per_second(s.bytes_up, s.ms)));
	put_cell(out, bytes_per_second(buf, per_second(s.bytes_down, s.ms)));
	put_cell(out, html_count(buf, s.streams));
	put_cell(out, html_count(buf, refused));
	put_cell(out, html_count(buf, s.most_streams));
	put_cell(out, html_count(buf, s.most_parked));
	put_cell(out, html_count(buf, s.most_tunnels));
	html_raw(out, "</tr>");
}

static void put_table(struct evbuffer *out, const struct hour *h)
{
	html_raw(out,
		 "<details><summary>The last hour as a table</summary>"
		 "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"The last "
		 "hour as a table\"><table><thead><tr>"
		 "<th scope=\"col\">5 minutes from (UTC)</th><th scope=\"col\">To services</th>"
		 "<th scope=\"col\">To clients</th><th scope=\"col\">Joined</th>"
		 "<th scope=\"col\">Refused</th><th scope=\"col\">Most streams</th>"
		 "<th scope=\"col\">Most parked</th><th scope=\"col\">Most tunnels</th>"
		 "</tr></thead><tbody>");
	for (unsigned i = HISTORY_SAMPLES / ROW_STEPS; i-- > 0;)
		put_row(out, h, i);
	html_raw(out, "</tbody></table></div></details>");
}

/* ---- reasons ---- */

struct reason_row {
	enum reason why;
	bool refused; /* or ended */
	uint64_t lately, hour;
};

static uint32_t count_of(const struct reason_row *r, const struct history_sample *s)
{
	return !s ? 0 : r->refused ? s->refusals[r->why] : s->ends[r->why];
}

static int by_count(const void *one, const void *other)
{
	const struct reason_row *a = one, *b = other;

	if (a->hour != b->hour)
		return a->hour > b->hour ? -1 : 1;
	return a->why != b->why ? (int)a->why - (int)b->why : (int)a->refused - (int)b->refused;
}

static size_t take_reasons(struct reason_row rows[2 * REASONS], const struct hour *h)
{
	struct history_sum hour, lately;
	size_t n = 0;

	history_sum(h->view->history, h->first, h->newest, &hour);
	history_sum(h->view->history, h->newest > ROW_STEPS ? h->newest - ROW_STEPS + 1 : 0,
		    h->newest, &lately);
	for (unsigned i = 0; i < REASONS; i++) {
		if (hour.refusals[i])
			rows[n++] = (struct reason_row){ i, true, lately.refusals[i],
							 hour.refusals[i] };
		if (hour.ends[i])
			rows[n++] = (struct reason_row){ i, false, lately.ends[i], hour.ends[i] };
	}
	qsort(rows, n, sizeof(rows[0]), by_count);
	return n;
}

static void put_trend(struct evbuffer *out, const struct hour *h, const struct reason_row *r)
{
	double minute[SPARK_POINTS];

	for (unsigned i = 0; i < SPARK_POINTS; i++) {
		uint64_t n = 0, ms = 0;

		for (unsigned j = 0; j < SPARK_STEPS; j++) {
			const struct history_sample *s = history_at(
				h->view->history, h->first + (uint64_t)i * SPARK_STEPS + j);

			n += count_of(r, s);
			ms += s ? s->ms : 0;
		}
		minute[i] = ms ? per_second(n, ms) : NAN;
	}
	plot_spark(out, "How often, in each minute of the last hour", minute, SPARK_POINTS);
}

static void put_reason(struct evbuffer *out, const struct hour *h, const struct reason_row *r)
{
	char buf[HTML_NUMBER_MAX];

	html_format(out, "<tr><th scope=\"row\"><code>%s</code></th><td class=\"text\">%s</td>",
		    reason_word(r->why), r->refused ? "refused" : "ended");
	html_raw(out, "<td class=\"text\">");
	html_text(out, reason_explanation(r->why));
	html_raw(out, "</td>");
	put_cell(out, html_count(buf, r->lately));
	put_cell(out, html_count(buf, r->hour));
	html_raw(out, "<td>");
	put_trend(out, h, r);
	html_raw(out, "</td></tr>");
}

static void put_reasons(struct evbuffer *out, const struct hour *h)
{
	struct reason_row rows[2 * REASONS];
	size_t n = take_reasons(rows, h), shown = n < REASON_ROWS ? n : REASON_ROWS;

	html_raw(out, "<section id=\"reasons\" aria-labelledby=\"reasons-title\">"
		      "<h2 id=\"reasons-title\">How streams ended, last hour</h2>");
	if (!n) {
		html_raw(out, "<p>None has ended or was refused.</p></section>");
		return;
	}
	html_raw(out, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
		      "aria-labelledby=\"reasons-title\"><table><thead><tr>"
		      "<th scope=\"col\">Reason</th><th scope=\"col\" class=\"text\">Stream</th>"
		      "<th scope=\"col\" class=\"text\">Meaning</th><th scope=\"col\">5 min</th>"
		      "<th scope=\"col\">Hour</th><th scope=\"col\">Trend</th>"
		      "</tr></thead><tbody>");
	for (size_t i = 0; i < shown; i++)
		put_reason(out, h, &rows[i]);
	html_raw(out, "</tbody></table></div>");
	if (n > shown)
		html_format(out, "<p>%zu further reasons came less often.</p>", n - shown);
	html_raw(out, "</section>");
}

void status_hour_write(struct evbuffer *out, const struct status_view *v)
{
	struct hour *h = v->history ? hour_new(v) : NULL;

	html_raw(out, "<section id=\"hour\" aria-labelledby=\"hour-title\">"
		      "<h2 id=\"hour-title\">Last hour</h2>");
	if (h) {
		put_plots(out, h);
		put_table(out, h);
	} else {
		html_raw(out, "<p>No history is kept.</p>");
	}
	html_raw(out, "</section>");
	if (h)
		put_reasons(out, h);
	free(h);
}
