/*
 * html: what goes into a page.
 *
 * Theory of operation: three ways in, told apart by name: html_text escapes whatever it is given,
 * html_raw and html_format are for markup and numbers of the program's own. Out of memory a piece
 * is missing: whoever sends the page looks at that no more than at a client that reads half of it.
 */
#include "relay/html.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "relay/line.h"

static const char *escape_of(unsigned char c)
{
	switch (c) {
	case '&':
		return "&amp;";
	case '<':
		return "&lt;";
	case '>':
		return "&gt;";
	case '"':
		return "&quot;";
	case '\'':
		return "&#39;";
	default:
		return c < 0x20 || c == 0x7f ? "?" : NULL;
	}
}

void html_text(struct evbuffer *out, const char *text)
{
	const char *from = text; /* up to text: as it is, not yet put */

	while (*text) {
		size_t len = line_character(text);
		/* U+0080 to U+009F are control characters as well */
		bool control =
			len == 2 && (unsigned char)text[0] == 0xc2 && (unsigned char)text[1] < 0xa0;
		const char *instead = len == 0 || control ? "?" : escape_of((unsigned char)*text);

		if (instead) {
			evbuffer_add(out, from, (size_t)(text - from));
			html_raw(out, instead);
			from = text + (len ? len : 1);
		}
		text += len ? len : 1;
	}
	evbuffer_add(out, from, (size_t)(text - from));
}

void html_raw(struct evbuffer *out, const char *markup)
{
	evbuffer_add(out, markup, strlen(markup));
}

void html_format(struct evbuffer *out, const char *markup, ...)
{
	va_list ap;

	va_start(ap, markup);
	evbuffer_add_vprintf(out, markup, ap);
	va_end(ap);
}

/* ---- numbers ---- */

/* Groups of three, by a thin space that does not break. */
char *html_count(char buf[HTML_NUMBER_MAX], uint64_t n)
{
	if (n >= 1000000000000)
		snprintf(buf, HTML_NUMBER_MAX, "%.3g\u00d710\u00b9\u00b2", (double)n / 1e12);
	else if (n >= 1000000000)
		snprintf(buf, HTML_NUMBER_MAX,
			 "%" PRIu64 "\u202f%03" PRIu64 "\u202f%03" PRIu64 "\u202f%03" PRIu64,
			 n / 1000000000, n / 1000000 % 1000, n / 1000 % 1000, n % 1000);
	else if (n >= 1000000)
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64 "\u202f%03" PRIu64 "\u202f%03" PRIu64,
			 n / 1000000, n / 1000 % 1000, n % 1000);
	else if (n >= 1000)
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64 "\u202f%03" PRIu64, n / 1000, n % 1000);
	else
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64, n);
	return buf;
}

char *html_rate(char buf[HTML_NUMBER_MAX], double per_second)
{
	if (per_second <= 0)
		return strcpy(buf, "0");
	if (per_second < 0.01)
		return strcpy(buf, "0.01"); /* some, however little */
	if (per_second < 10) {
		snprintf(buf, HTML_NUMBER_MAX, per_second < 1 ? "%.2f" : "%.1f", per_second);
		return buf;
	}
	return html_count(buf, (uint64_t)(per_second + 0.5));
}

/* Three digits at most. */
static char *with_unit(char buf[HTML_NUMBER_MAX], double n, double step, const char *const unit[])
{
	unsigned i = 0;

	for (; n >= step - 0.5 && unit[i + 1]; i++)
		n /= step;
	snprintf(buf, HTML_NUMBER_MAX, "%.*f\u00a0%s", n > 0 && n < 9.95 && i ? 1 : 0, n, unit[i]);
	return buf;
}

char *html_bytes(char buf[HTML_NUMBER_MAX], double bytes)
{
	static const char *const unit[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB", NULL };

	return with_unit(buf, bytes, 1000, unit);
}

char *html_memory(char buf[HTML_NUMBER_MAX], uint64_t bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", NULL };

	return with_unit(buf, (double)bytes, 1024, unit);
}

char *html_duration(char buf[HTML_NUMBER_MAX], uint64_t ms)
{
	uint64_t s = ms / 1000, minutes = s / 60, hours = minutes / 60, days = hours / 24;

	if (s < 90)
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64 "\u00a0s", s);
	else if (minutes < 90)
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64 "\u00a0min", minutes);
	else if (hours < 48)
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64 "\u00a0h %" PRIu64 "\u00a0min", hours,
			 minutes % 60);
	else
		snprintf(buf, HTML_NUMBER_MAX, "%" PRIu64 "\u00a0d %" PRIu64 "\u00a0h", days,
			 hours % 24);
	return buf;
}

/* ---- times ---- */

/* What no calendar has is its beginning. */
static struct tm parts(uint64_t at)
{
	time_t t = (time_t)at;
	struct tm tm = { .tm_year = 70, .tm_mday = 1 };

	gmtime_r(&t, &tm);
	return tm;
}

char *html_utc(char buf[HTML_TIME_MAX], uint64_t at)
{
	const struct tm tm = parts(at);

	if (!strftime(buf, HTML_TIME_MAX, "%Y-%m-%d %H:%M:%S UTC", &tm))
		buf[0] = '\0';
	return buf;
}

void html_time(struct evbuffer *out, uint64_t at, const char *words)
{
	const struct tm tm = parts(at);
	char machine[HTML_TIME_MAX] = "", day[HTML_TIME_MAX] = "", title[HTML_TIME_MAX];

	strftime(machine, sizeof(machine), "%Y-%m-%dT%H:%M:%SZ", &tm);
	strftime(day, sizeof(day), "%H:%M:%S", &tm);
	html_format(out, "<time datetime=\"%s\" title=\"%s\">%s</time>", machine,
		    html_utc(title, at), words ? words : day);
}
