/*
 * exposition: Prometheus' text format (version 0.0.4), written into a buffer.
 *
 * Theory of operation: straight into the buffer, a line at a time; nothing is kept. Out of memory
 * the buffer lacks something, and whoever scrapes sees a metric less or a scrape that fails.
 */
#include "relay/exposition.h"

#include <event2/buffer.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "relay/line.h"

#define US 1000000

static void text(struct exposition *e, const char *s)
{
	evbuffer_add(e->out, s, strlen(s));
}

static void head(struct exposition *e, const char *type, const char *help)
{
	evbuffer_add_printf(e->out, "# HELP %s%s %s\n# TYPE %s%s %s\n", e->bare, e->name, help,
			    e->bare, e->name, type);
}

void exposition_head(struct exposition *e, const char *name, const char *type, const char *help)
{
	e->bare = e->prefix;
	e->name = name;
	head(e, type, help);
}

void exposition_common(struct exposition *e, const char *name, const char *type, const char *help)
{
	e->bare = "";
	e->name = name;
	head(e, type, help);
}

/* A label's value: a path may have anything in it, and all of a scrape has to be UTF-8. */
static void escaped(struct exposition *e, const char *s)
{
	while (*s) {
		size_t plain = strcspn(s, "\\\"\n"), n = 1;

		for (size_t i = 0; i < plain && n; i += n)
			if (!(n = line_character(s + i)))
				plain = i;
		evbuffer_add(e->out, s, plain);
		s += plain;
		if (*s)
			text(e, *s == '\n'   ? "\\n"
				: *s == '"'  ? "\\\""
				: *s == '\\' ? "\\\\"
					     : "?");
		s += *s != '\0';
	}
}

static void label(struct exposition *e, char *before, const char *name, const char *value)
{
	evbuffer_add_printf(e->out, "%c%s=\"", *before, name);
	escaped(e, value);
	text(e, "\"");
	*before = ',';
}

/* le: the bound of a bucket; NULL: none. */
static void series(struct exposition *e, const char *suffix, va_list labels, const char *le)
{
	char before = '{';
	const char *name;

	text(e, e->bare);
	text(e, e->name);
	text(e, suffix);
	while ((name = va_arg(labels, const char *)))
		label(e, &before, name, va_arg(labels, const char *));
	if (le)
		label(e, &before, "le", le);
	text(e, before == ',' ? "} " : " ");
}

void exposition_sample(struct exposition *e, uint64_t value, ...)
{
	va_list labels;

	va_start(labels, value);
	series(e, "", labels, EXPOSITION_END);
	va_end(labels);
	evbuffer_add_printf(e->out, "%" PRIu64 "\n", value);
}

static const char *seconds_of(uint64_t us, char out[32])
{
	size_t n = (size_t)snprintf(out, 32, "%" PRIu64 ".%06" PRIu64, us / US, us % US);

	while (out[n - 1] == '0')
		n--;
	out[out[n - 1] == '.' ? n - 1 : n] = '\0';
	return out;
}

void exposition_seconds(struct exposition *e, uint64_t us, ...)
{
	char value[32];
	va_list labels;

	va_start(labels, us);
	series(e, "", labels, EXPOSITION_END);
	va_end(labels);
	evbuffer_add_printf(e->out, "%s\n", seconds_of(us, value));
}

void exposition_durations(struct exposition *e, enum durations_kind kind,
			  const struct durations_sum *sum, ...)
{
	uint64_t so_far = 0;
	char number[32];
	unsigned n;
	const uint64_t *bounds = durations_bounds(kind, &n);
	va_list labels, again;

	va_start(labels, sum);
	for (unsigned i = 0; i <= n; i++) {
		so_far += sum->in[i];
		va_copy(again, labels);
		series(e, "_bucket", again, i < n ? seconds_of(bounds[i], number) : "+Inf");
		va_end(again);
		evbuffer_add_printf(e->out, "%" PRIu64 "\n", so_far);
	}
	va_copy(again, labels);
	series(e, "_sum", again, EXPOSITION_END);
	va_end(again);
	evbuffer_add_printf(e->out, "%s\n", seconds_of(sum->sum, number));
	series(e, "_count", labels, EXPOSITION_END);
	va_end(labels);
	evbuffer_add_printf(e->out, "%" PRIu64 "\n", so_far);
}

void exposition_one(struct exposition *e, const char *name, const char *type, const char *help,
		    uint64_t value)
{
	exposition_head(e, name, type, help);
	exposition_sample(e, value, EXPOSITION_END);
}
