/*
 * doctor: the frame of `PROGRAM doctor`: runs checks, prints what they found.
 *
 * Theory of operation: a line goes out as soon as it is known, since the next check may take
 * seconds; JSON is one document whose lines come the same way. Nothing is kept but counts: the
 * verdict is the worst of all. What others have sent (a web server's name, a certificate's) may
 * stand in a line, so control characters are taken out of all.
 */
#include "relay/doctor.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/line.h"

#define TEXT_MAX 1536       /* of a detail or an advice */
#define LINE_MAX_BYTES 8192 /* each text at its longest, escaped */

static const struct {
	const char *text, *json, *colour;
} statuses[] = {
	[DOCTOR_OK] = { "OK", "ok", "\033[32m" },
	[DOCTOR_WARNING] = { "WARNING", "warning", "\033[33m" },
	[DOCTOR_WRONG] = { "WRONG", "wrong", "\033[31m" },
	[DOCTOR_SKIPPED] = { "SKIPPED", "skipped", "\033[2m" },
};
_Static_assert(sizeof(statuses) / sizeof(*statuses) == DOCTOR_STATUSES, "words for each status");

bool doctor_arguments(int *argc, char **argv)
{
	bool json = false;
	int n = 1;

	for (int i = 1; i < *argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			json = true;
		else
			argv[n++] = argv[i];
	}
	argv[n] = NULL;
	*argc = n;
	return json;
}

uint64_t doctor_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t doctor_ms(const struct doctor *d, uint64_t wanted)
{
	uint64_t now = doctor_now(), left = now < d->end ? d->end - now : 0;
	uint64_t most = left < DOCTOR_CHECK_MS ? left : DOCTOR_CHECK_MS;

	if (most < DOCTOR_LEAST_MS)
		most = DOCTOR_LEAST_MS;
	return wanted && wanted < most ? wanted : most;
}

/* ---- lines ---- */

static void put_json(struct line *l, const char *key, const char *text)
{
	line_text(l, key);
	line_json(l, text, TEXT_MAX);
}

static void print_json(const struct doctor *d, enum doctor_status status, const char *detail,
		       const char *advice)
{
	char text[LINE_MAX_BYTES];
	struct line l = { .text = text, .size = sizeof(text) };
	bool first = true;

	for (unsigned i = 0; i < DOCTOR_STATUSES; i++)
		first = first && !d->count[i];
	put_json(&l, first ? "\n {\"id\": " : ",\n {\"id\": ", d->id);
	put_json(&l, ", \"what\": ", d->what);
	put_json(&l, ", \"status\": ", statuses[status].json);
	put_json(&l, ", \"detail\": ", detail);
	put_json(&l, ", \"advice\": ", advice);
	line_put(&l, '}');
	fwrite(l.text, 1, l.used, d->to);
}

static void print_text(const struct doctor *d, enum doctor_status status, const char *detail,
		       const char *advice)
{
	char text[LINE_MAX_BYTES];
	struct line l = { .text = text, .size = sizeof(text) };

	line_plain(&l, d->id);
	if (*d->what) {
		line_put(&l, ' ');
		line_plain(&l, d->what);
	}
	line_text(&l, ": ");
	line_plain(&l, detail);
	if (*advice) {
		line_text(&l, " / ");
		line_plain(&l, advice);
	}
	fprintf(d->to, "%s%-7s%s %.*s\n", d->colour ? statuses[status].colour : "",
		statuses[status].text, d->colour ? "\033[0m" : "", (int)l.used, l.text);
}

static void say(struct doctor *d, enum doctor_status status, const char *advice, const char *detail)
{
	if (d->json)
		print_json(d, status, detail, advice);
	else
		print_text(d, status, detail, advice);
	fflush(d->to);
	d->count[status]++;
}

void doctor_ok(struct doctor *d, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	say(d, DOCTOR_OK, "", text);
}

void doctor_warn(struct doctor *d, const char *advice, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	say(d, DOCTOR_WARNING, advice, text);
}

void doctor_wrong(struct doctor *d, const char *advice, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	say(d, DOCTOR_WRONG, advice, text);
}

void doctor_skip(struct doctor *d, const char *because)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "skipped: because of %s", because);
	say(d, DOCTOR_SKIPPED, "", text);
}

/* ---- checks ---- */

void doctor_check(struct doctor *d, const char *id)
{
	d->id = id;
	*d->what = '\0';
}

void doctor_about(struct doctor *d, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(d->what, sizeof(d->what), fmt, args);
	va_end(args);
}

void doctor_run(struct doctor *d, const struct doctor_check *checks, void *user)
{
	for (const struct doctor_check *c = checks; c->id; c++) {
		doctor_check(d, c->id);
		if (doctor_now() < d->end)
			c->run(d, user);
		else
			doctor_skip(d, "the time that the checks before it have taken");
	}
}

void doctor_config(struct doctor *d, const char *path, const struct config_errors *errors)
{
	doctor_check(d, "config");
	doctor_about(d, "%s", path ? path : "");
	for (size_t i = 0; i < errors->n; i++)
		doctor_wrong(d, "correct it; --check-config looks at the config alone", "%s",
			     errors->at[i]);
	if (errors->more)
		doctor_wrong(d, "correct the others first", "and %zu more errors", errors->more);
	if (!errors->n)
		doctor_ok(d, "it is good");
}

void doctor_begin(struct doctor *d, const char *program, bool json, FILE *to)
{
	const char *none = getenv("NO_COLOR");

	*d = (struct doctor){
		.program = program,
		.to = to,
		.json = json,
		.colour = !json && isatty(fileno(to)) && !(none && *none),
		.end = doctor_now() + DOCTOR_MS,
		.id = "",
	};
	if (json)
		fprintf(to, "{\"program\": \"%s\", \"version\": \"" VERSION "\", \"checks\": [",
			program);
}

int doctor_end(struct doctor *d)
{
	const unsigned *n = d->count;

	if (d->json)
		fprintf(d->to, "\n], \"verdict\": \"%s\"}\n",
			n[DOCTOR_WRONG]     ? "wrong"
			: n[DOCTOR_WARNING] ? "warnings"
					    : "good");
	else
		fprintf(d->to, "%s: wrong: %u, warnings: %u, good: %u, skipped: %u\n", d->program,
			n[DOCTOR_WRONG], n[DOCTOR_WARNING], n[DOCTOR_OK], n[DOCTOR_SKIPPED]);
	fflush(d->to);
	return n[DOCTOR_WRONG] ? DOCTOR_BAD : DOCTOR_GOOD;
}
