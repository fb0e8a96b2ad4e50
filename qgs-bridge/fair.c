/*
 * fair: lines in a ring, and tokens.
 *
 * Theory of operation: a line is in the ring while somebody waits in it, and joins it at the end:
 * in front of the one that is next. Serving a line makes the one behind it the next. A line
 * without a token is passed over where it stands; its chance comes with the next round.
 *
 * Tokens are counted in thousandths, so that a rate a second is what comes each millisecond. A
 * bucket is filled when it is looked at.
 *
 * Owns nothing: lines and items are embedded in those who know what they are. Each call costs a
 * round at most: as many steps as there are lines with somebody waiting.
 */
#include "qgs-bridge/fair.h"

#include <stddef.h>

#define TOKEN 1000

static unsigned at_least_one(unsigned n)
{
	return n ? n : 1;
}

void fair_init(struct fair *f, const struct fair_limits *limits)
{
	*f = (struct fair){ 0 };
	fair_limit(f, limits);
}

void fair_limit(struct fair *f, const struct fair_limits *limits)
{
	f->limits = (struct fair_limits){
		.running = at_least_one(limits->running),
		.running_per_line = at_least_one(limits->running_per_line),
		.per_line = at_least_one(limits->per_line),
		.rate = at_least_one(limits->rate),
		.burst = at_least_one(limits->burst),
	};
}

/* ---- the ring ---- */

static void ring_join(struct fair *f, struct fair_line *line)
{
	struct fair_line *head = f->ring;

	if (!head) {
		line->next = line->prev = line;
		f->ring = line;
		return;
	}
	line->next = head;
	line->prev = head->prev;
	head->prev->next = line;
	head->prev = line;
}

static void ring_leave(struct fair *f, struct fair_line *line)
{
	if (f->ring == line)
		f->ring = line->next == line ? NULL : line->next;
	line->prev->next = line->next;
	line->next->prev = line->prev;
	line->next = line->prev = NULL;
}

/* ---- a line ---- */

static void insert(struct fair *f, struct fair_item **at, struct fair_item *item)
{
	struct fair_line *line = item->line;

	item->next = *at;
	item->prevp = at;
	*at = item;
	if (item->next)
		item->next->prevp = &item->next;
	else
		line->last = &item->next;
	f->waiting++;
	if (line->waiting++ == 0)
		ring_join(f, line);
}

static void take_out(struct fair *f, struct fair_item *item)
{
	struct fair_line *line = item->line;

	*item->prevp = item->next;
	if (item->next)
		item->next->prevp = item->prevp;
	else
		line->last = item->prevp;
	item->next = NULL;
	item->prevp = NULL;
	f->waiting--;
	if (--line->waiting == 0)
		ring_leave(f, line);
}

static void stop_running(struct fair *f, struct fair_item *item)
{
	item->running = false;
	item->line->running--;
	f->running--;
}

/* What a line has at now. */
static uint64_t tokens_at(const struct fair *f, const struct fair_line *line, uint64_t now_ms)
{
	uint64_t full = (uint64_t)f->limits.burst * TOKEN, rate = f->limits.rate, passed;

	if (!line->filled_ms || line->tokens >= full)
		return full;
	passed = now_ms > line->filled_ms ? now_ms - line->filled_ms : 0;
	return passed >= (full - line->tokens) / rate + 1 ? full : line->tokens + passed * rate;
}

static void fill(const struct fair *f, struct fair_line *line, uint64_t now_ms)
{
	line->tokens = tokens_at(f, line, now_ms);
	if (line->filled_ms < now_ms)
		line->filled_ms = now_ms;
}

/* It has as many slots as it may. */
static bool is_held(const struct fair *f, const struct fair_line *line, uint64_t now_ms)
{
	return line->running >= (now_ms < line->held_ms ? 1 : f->limits.running_per_line);
}

static bool may_run(const struct fair *f, const struct fair_line *line, uint64_t now_ms)
{
	return line->tokens >= TOKEN && !is_held(f, line, now_ms);
}

void fair_hold(struct fair_line *line, uint64_t until_ms)
{
	line->held_ms = until_ms;
}

/* ---- requests ---- */

enum reason fair_enter(struct fair *f, struct fair_line *line, struct fair_item *item)
{
	if (line->waiting >= f->limits.per_line)
		return REASON_LIMIT;
	item->line = line;
	item->number = ++f->numbers;
	insert(f, line->waiting ? line->last : &line->first, item);
	return REASON_NONE;
}

void fair_return(struct fair *f, struct fair_item *item)
{
	struct fair_line *line = item->line;
	struct fair_item **at = &line->first;

	stop_running(f, item);
	line->tokens += TOKEN;
	while (*at && (*at)->number < item->number) /* others that have come back */
		at = &(*at)->next;
	insert(f, at, item);
	ring_leave(f, line);
	ring_join(f, line);
	f->ring = line;
}

struct fair_item *fair_next(struct fair *f, uint64_t now_ms)
{
	struct fair_line *line = f->ring;
	struct fair_item *item;

	if (!line || f->running >= f->limits.running)
		return NULL;
	do {
		fill(f, line, now_ms);
		if (may_run(f, line, now_ms))
			break;
		line = line->next;
	} while (line != f->ring);
	if (!may_run(f, line, now_ms))
		return NULL;
	line->tokens -= TOKEN;
	f->ring = line->next;
	item = line->first;
	take_out(f, item);
	item->running = true;
	line->running++;
	f->running++;
	return item;
}

void fair_leave(struct fair *f, struct fair_item *item)
{
	if (!item->line)
		return;
	if (item->running)
		stop_running(f, item);
	else
		take_out(f, item);
	item->line = NULL;
}

uint64_t fair_wait(const struct fair *f, uint64_t now_ms)
{
	const struct fair_line *line = f->ring;
	uint64_t least = UINT64_MAX;

	if (!line || f->running >= f->limits.running)
		return UINT64_MAX;
	do {
		uint64_t tokens = tokens_at(f, line, now_ms), rate = f->limits.rate;
		uint64_t ms = tokens >= TOKEN ? 0 : (TOKEN - tokens + rate - 1) / rate;

		if (line->running >= f->limits.running_per_line)
			ms = UINT64_MAX; /* until one of them leaves */
		else if (is_held(f, line, now_ms) && ms < line->held_ms - now_ms)
			ms = line->held_ms - now_ms;
		if (ms < least)
			least = ms;
		line = line->next;
	} while (line != f->ring);
	return least;
}

struct fair_item *fair_waiting(const struct fair *f)
{
	return f->ring ? f->ring->first : NULL;
}
