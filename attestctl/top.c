/*
 * top: what passes, again and again.
 *
 * Theory of operation: each round asks for the status and the first page of streams. A stream's
 * rate is what its bytes have grown by since the round before, over the time between; the first
 * round has none. The screen is the terminal's second one, given back at the end, whatever ends us:
 * signals only set a flag. No terminal, or one that obeys nothing (TERM): one round, without rates.
 */
#include "attestctl/top.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json_object.h>
#include <json-c/linkhash.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "attestctl/commands.h"
#include "attestctl/listing.h"
#include "attestctl/table.h"

#define HEAD_LINES 4

struct seen {
	uint64_t id, up, down;
};

struct row {
	struct json_object *stream;
	uint64_t rate_up, rate_down; /* bytes a second */
};

struct top {
	struct ctl *ctl;
	struct seen *seen; /* of the round before, by id */
	size_t n_seen;
	uint64_t at_ms; /* its; 0: there was none */
};

static volatile sig_atomic_t ended;

static void on_signal(int number)
{
	ended = 1;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int by_id(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static uint64_t total(const struct row *r)
{
	return commands_number(r->stream, "bytes_up") + commands_number(r->stream, "bytes_down");
}

/* The busiest first; where nothing passes, those that had the most. */
static int by_rate(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	const uint64_t i = x->rate_up + x->rate_down, j = y->rate_up + y->rate_down;

	if (i != j)
		return i > j ? -1 : 1;
	return total(x) > total(y) ? -1 : total(x) < total(y);
}

static uint64_t rate(uint64_t now, uint64_t before, uint64_t ms)
{
	return ms && now > before ? (now - before) * 1000 / ms : 0;
}

/* Each stream's rates, and what is to be remembered of it. NULL: none, or out of memory. */
static struct row *weigh(struct top *t, struct json_object *list, uint64_t ms)
{
	const size_t n = json_object_array_length(list);
	struct row *rows = calloc(n + 1, sizeof(*rows));
	struct seen *now = calloc(n + 1, sizeof(*now));

	for (size_t i = 0; rows && now && i < n; i++) {
		struct json_object *stream = json_object_array_get_idx(list, i);
		const struct seen *before;

		now[i] = (struct seen){ commands_number(stream, "id"),
					commands_number(stream, "bytes_up"),
					commands_number(stream, "bytes_down") };
		before = t->n_seen ? bsearch(&now[i], t->seen, t->n_seen, sizeof(*now), by_id)
				   : NULL;
		rows[i].stream = stream;
		if (before) {
			rows[i].rate_up = rate(now[i].up, before->up, ms);
			rows[i].rate_down = rate(now[i].down, before->down, ms);
		}
	}
	free(t->seen);
	t->seen = now;
	t->n_seen = now ? n : 0;
	if (rows)
		qsort(rows, n, sizeof(*rows), by_rate);
	return rows;
}

static void show_rows(const struct row *rows, size_t n, size_t width, size_t most)
{
	static const char *const titles[] = { "ID",   "SERVICE", "CLIENT", "TUNNEL",
					      "UP/S", "DOWN/S",  "UP",     "DOWN" };
	struct table *t = table_new();

	if (!t)
		return;
	for (size_t i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
		table_column(t, titles[i], i == 0 || i > 3);
	for (size_t i = 0; i < n; i++) {
		struct json_object *s = rows[i].stream;
		const uint64_t numbers[] = { rows[i].rate_up, rows[i].rate_down,
					     commands_number(s, "bytes_up"),
					     commands_number(s, "bytes_down") };
		char text[32];

		table_cell(t, commands_text(s, "id"));
		table_cell(t, commands_text(s, "service"));
		table_cell(t, commands_text(s, "client"));
		table_cell(t, commands_text(s, "tunnel"));
		for (size_t j = 0; j < sizeof(numbers) / sizeof(numbers[0]); j++)
			table_cell(t, listing_bytes(numbers[j], text, sizeof(text)));
	}
	table_print(t, width, most, stdout);
	table_free(t);
}

static void put_clean(const char *text)
{
	char *clean = table_clean(text);

	fputs(clean ? clean : "", stdout);
	free(clean);
}

static void show_head(struct json_object *status)
{
	struct json_object *counts = commands_object(status, "counts");
	struct json_object *problems = commands_list(status, "problems");

	put_clean(commands_text(status, "program"));
	putchar(' ');
	put_clean(commands_text(status, "version"));
	printf(", pid %" PRIu64 ", up %" PRIu64 " s%s\n", commands_number(status, "pid"),
	       commands_number(status, "uptime_s"),
	       strcmp(commands_text(status, "draining"), "true") == 0 ? ", draining" : "");
	if (counts) {
		const char *between = "";

		json_object_object_foreach(counts, key, value)
		{
			if (strstr(key, "_total"))
				continue;
			printf("%s%" PRIu64 " ", between, json_object_get_uint64(value));
			put_clean(key);
			between = ", ";
		}
		putchar('\n');
	}
	if (problems)
		printf("%zu problems%s\n", json_object_array_length(problems),
		       json_object_array_length(problems) ? ": see attestctl status" : "");
	putchar('\n');
}

static int round_of(struct top *t, bool screen)
{
	struct json_object *status, *page, *list;
	size_t rows = 0, width = table_terminal(STDOUT_FILENO, &rows);
	const uint64_t now = now_ms();
	struct row *all;
	int code;

	status = commands_ask(t->ctl, "/v1/status", NULL, &code);
	page = status ? commands_ask(t->ctl, "/v1/streams?limit=1000", NULL, &code) : NULL;
	if (page) {
		list = commands_list(page, "streams");
		all = list ? weigh(t, list, t->at_ms ? now - t->at_ms : 0) : NULL;
		t->at_ms = now;
		if (screen)
			fputs("\033[H\033[2J", stdout);
		show_head(status);
		if (all)
			show_rows(all, json_object_array_length(list), width,
				  rows > HEAD_LINES + 2 ? rows - HEAD_LINES - 2 : 0);
		fflush(stdout);
		free(all);
	}
	json_object_put(page);
	json_object_put(status);
	return code;
}

/* False: it is to end. */
static bool wait_a_while(void)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	const uint64_t end = now_ms() + TOP_EVERY_MS;
	char c;

	for (uint64_t now = now_ms(); now < end && !ended; now = now_ms()) {
		if (poll(&in, 1, (int)(end - now)) <= 0)
			continue;
		if (read(STDIN_FILENO, &c, 1) != 1 || c == 'q' || c == 3)
			return false;
	}
	return !ended;
}

void top_give_back(struct ctl *c)
{
	if (!c->screen)
		return;
	c->screen = false;
	fputs("\033[?1049l", stdout);
	fflush(stdout);
}

static int watch(struct top *t)
{
	const struct sigaction action = { .sa_handler = on_signal };
	struct termios before, raw;
	const bool keys = tcgetattr(STDIN_FILENO, &before) == 0;
	int code;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (keys) {
		raw = before;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	fputs("\033[?1049h", stdout);
	t->ctl->screen = true;
	do {
		code = round_of(t, true);
	} while (code == CTL_DONE && wait_a_while());
	top_give_back(t->ctl);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &before);
	return code;
}

static bool has_screen(void)
{
	const char *kind = getenv("TERM");

	return isatty(STDOUT_FILENO) && kind && *kind && strcmp(kind, "dumb") != 0;
}

int top_run(struct ctl *c)
{
	struct top t = { .ctl = c };
	int code = has_screen() ? watch(&t) : round_of(&t, false);

	free(t.seen);
	return code;
}
