/*
 * load: one run of the load generator.
 *
 * Theory of operation: a mode starts its streams and turns the loop until none is live. The first
 * error sets `stopping`: streams in progress are finished, so that all errors of one cause are
 * seen, and nothing new begins, so that a refusing system is not hammered. A stream that waits for
 * something and has not moved for the time-out fails too, or one that is not finished a time-out
 * after the measured time; so a run by time ends whatever happens.
 */
#include "bench/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/stream.h"

#define TICK 200000000ULL /* ns between two looks at who stands still */

static const char *const error_names[LOAD_ERRORS] = {
	[LOAD_CONNECT] = "connect",   [LOAD_RESET] = "reset",     [LOAD_SHORT] = "short",
	[LOAD_MISMATCH] = "mismatch", [LOAD_TIMEOUT] = "timeout", [LOAD_REFUSED] = "refused",
};

void load_init(struct load *l)
{
	loop_init(&l->loop);
	l->streams = calloc(l->options.streams, sizeof(*l->streams));
	if (!l->streams)
		fatal("out of memory");
	for (unsigned i = 0; i < l->options.streams; i++)
		stream_init(&l->streams[i], l);
	l->next_tick = loop_now() + TICK;
}

void load_deinit(struct load *l)
{
	for (unsigned i = 0; i < l->options.streams; i++)
		if (l->streams[i].state != STREAM_CLOSED)
			stream_close(&l->streams[i]);
	free(l->streams);
	loop_deinit(&l->loop);
}

static void look_for_standstill(struct load *l, uint64_t now)
{
	for (unsigned i = 0; i < l->options.streams; i++) {
		struct stream *s = &l->streams[i];

		if (stream_waits(s) && now - s->moved > l->options.timeout)
			stream_fail(s, LOAD_TIMEOUT, "nothing moved for the time-out");
		else if (stream_waits(s) && l->until && now > l->until + l->options.timeout)
			stream_fail(s, LOAD_TIMEOUT, "not finished within the time-out");
	}
}

void load_turn(struct load *l, uint64_t until)
{
	uint64_t now;

	loop_turn(&l->loop, until < l->next_tick ? until : l->next_tick);
	now = loop_now();
	if (now < l->next_tick)
		return;
	l->next_tick = now + TICK;
	look_for_standstill(l, now);
}

void load_failed(struct load *l, enum load_error kind, uint64_t id, const char *what)
{
	if (!l->first[0])
		snprintf(l->first, sizeof(l->first), "stream %" PRIu64 ": %s (%s)", id, what,
			 error_names[kind]);
	l->errors[kind]++;
	l->stopping = true;
}

/* ---- the result ---- */

/* A figure holds only if nothing failed. */
static void figure(bool ok, const char *name, double value)
{
	if (ok)
		printf(",\"%s\":%.10g", name, value);
	else
		printf(",\"%s\":null", name);
}

static void print_latency(const struct load *l, bool ok, double seconds)
{
	static const struct {
		const char *name;
		double share;
	} points[] = {
		{ "p50_us", 0.5 },
		{ "p90_us", 0.9 },
		{ "p99_us", 0.99 },
		{ "p999_us", 0.999 },
	};

	figure(ok, "per_second", seconds > 0 ? (double)l->done / seconds : 0);
	figure(ok, "done", (double)l->done);
	figure(ok, "timed", (double)l->latency.n);
	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		figure(ok, points[i].name,
		       (double)histogram_at(&l->latency, points[i].share) / 1e3);
	figure(ok, "max_us", (double)l->longest / 1e3);
	figure(ok, "all_done", (double)l->all_done);
}

static void print_bulk(const struct load *l, bool ok, double seconds)
{
	figure(ok, "bytes", (double)l->bytes);
	figure(ok, "MB_per_second", seconds > 0 ? (double)l->bytes / 1e6 / seconds : 0);
	figure(ok, "all_bytes", (double)l->all_bytes);
}

static void print_held(const struct load *l, bool ok)
{
	figure(ok, "done", (double)l->done);
	figure(ok, "bytes", (double)l->bytes);
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Why there are no figures; NULL: there are. A run that measured nothing has shown nothing. */
static const char *what_is_wrong(const struct load *l)
{
	if (l->first[0])
		return l->first;
	if (l->mode->figures == FIGURES_LATENCY && !l->latency.n)
		return "nothing began in the measured time";
	if (l->mode->figures == FIGURES_LATENCY && !l->done)
		return "nothing was finished in the measured time";
	if (l->mode->figures == FIGURES_BULK && !l->bytes)
		return "no data was moved in the measured time";
	return NULL;
}

int load_report(const struct load *l)
{
	double seconds = l->until > l->from ? (double)(l->until - l->from) / 1e9 : 0;
	const char *wrong = what_is_wrong(l);
	bool ok = !wrong;

	printf("{\"mode\":\"%s\",\"streams\":%u", l->mode->name, l->options.streams);
	figure(ok, "seconds", seconds);
	printf(",\"ok\":%s,\"errors\":{", ok ? "true" : "false");
	for (unsigned i = 0; i < LOAD_ERRORS; i++)
		printf("%s\"%s\":%" PRIu64, i ? "," : "", error_names[i], l->errors[i]);
	printf("}");
	if (l->mode->figures == FIGURES_LATENCY)
		print_latency(l, ok, seconds);
	else if (l->mode->figures == FIGURES_BULK)
		print_bulk(l, ok, seconds);
	else if (l->mode->figures == FIGURES_HELD)
		print_held(l, ok);
	else
		printf(",\"far_end\":%s", ok ? l->far_end : "null");
	figure(ok, "cpu_seconds", cpu_seconds());
	printf("}\n");
	if (wrong)
		fprintf(stderr, "bench-load: %s: %s\n", l->mode->name, wrong);
	return fflush(stdout) == 0 && ok ? 0 : 1;
}
