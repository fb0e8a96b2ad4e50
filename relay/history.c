/*
 * history: the last hour, ten seconds at a time.
 *
 * Theory of operation: a ring of samples, each at the place of its slot's number, so that a gap
 * needs no entry: what is found there is older and has another number. What came between two
 * feeds is the later one's, and so is the time it took: rates are right behind a gap, too.
 *
 * The timer is a little faster than the steps, so that none is left out by a timer that is late;
 * what comes within a step again waits for the next one.
 */
#include "relay/history.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "relay/audit.h"
#include "relay/gateway.h"

#define TICK_MS (HISTORY_STEP_MS / 10)

struct history {
	struct history_sample at[HISTORY_SAMPLES]; /* slot 0: never used */
	struct history_totals last;
	uint64_t last_fed; /* 0: never */
	uint64_t newest;
	uint64_t began;
	const struct gateway *gateway;
	struct event *tick;
};

struct history *history_new(void)
{
	return calloc(1, sizeof(struct history));
}

struct history *history_free(struct history *h)
{
	if (h && h->tick)
		event_free(h->tick);
	free(h);
	return NULL;
}

/* ---- keeping ---- */

static uint64_t came(uint64_t before, uint64_t now)
{
	return now >= before ? now - before : now;
}

/* Counts of ten seconds: what does not fit is as good as this. */
static uint32_t fit(uint64_t n)
{
	return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

void history_feed(struct history *h, uint64_t now, const struct history_totals *t)
{
	uint64_t slot = now / HISTORY_STEP_MS;
	const struct history_totals *l = &h->last;
	struct history_sample *s = &h->at[slot % HISTORY_SAMPLES];

	if (h->last_fed && slot <= h->last_fed / HISTORY_STEP_MS)
		return;
	if (h->last_fed) {
		*s = (struct history_sample){
			.slot = slot,
			.ms = fit(now - h->last_fed),
			.bytes_up = came(l->bytes_up, t->bytes_up),
			.bytes_down = came(l->bytes_down, t->bytes_down),
			.streams = fit(came(l->streams, t->streams)),
			.tunnels = fit(came(l->tunnels, t->tunnels)),
			.audit_lost = fit(came(l->audit_lost, t->audit_lost)),
			.live_streams = fit(t->live_streams),
			.live_parked = fit(t->live_parked),
			.live_tunnels = fit(t->live_tunnels),
		};
		for (unsigned i = 0; i < REASONS; i++) {
			s->ends[i] = fit(came(l->ends[i], t->ends[i]));
			s->refusals[i] = fit(came(l->refusals[i], t->refusals[i]));
		}
		h->newest = slot;
	}
	h->last = *t;
	h->last_fed = now;
}

/* ---- looking ---- */

uint64_t history_newest(const struct history *h)
{
	return h->newest;
}

const struct history_sample *history_at(const struct history *h, uint64_t slot)
{
	const struct history_sample *s = &h->at[slot % HISTORY_SAMPLES];

	return slot && s->slot == slot ? s : NULL;
}

static void raise_to(uint64_t *most, uint64_t n)
{
	if (n > *most)
		*most = n;
}

void history_sum(const struct history *h, uint64_t from, uint64_t to, struct history_sum *out)
{
	*out = (struct history_sum){ 0 };
	if (to - from >= HISTORY_SAMPLES) /* all there is, and no round more */
		from = to - HISTORY_SAMPLES + 1;
	for (uint64_t slot = from; slot <= to; slot++) {
		const struct history_sample *s = history_at(h, slot);

		if (!s)
			continue;
		out->samples++;
		out->ms += s->ms;
		out->bytes_up += s->bytes_up;
		out->bytes_down += s->bytes_down;
		out->streams += s->streams;
		out->tunnels += s->tunnels;
		out->audit_lost += s->audit_lost;
		for (unsigned i = 0; i < REASONS; i++) {
			out->ends[i] += s->ends[i];
			out->refusals[i] += s->refusals[i];
		}
		raise_to(&out->most_streams, s->live_streams);
		raise_to(&out->most_parked, s->live_parked);
		raise_to(&out->most_tunnels, s->live_tunnels);
	}
}

/* ---- of a gateway ---- */

uint64_t history_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	/* on a machine that has just begun there is a time an hour ago, too */
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 +
	       (uint64_t)HISTORY_SAMPLES * HISTORY_STEP_MS;
}

uint64_t history_began(const struct history *h)
{
	return h->began;
}

static void add_reasons(uint64_t to[REASONS], const atomic_uint_fast64_t of[REASONS])
{
	for (unsigned i = 0; i < REASONS; i++)
		to[i] += counter_get(&of[i]);
}

static void add_worker(struct history_totals *t, const struct counters *c)
{
	t->bytes_up += counter_get(&c->value[COUNTER_BYTES_UP]);
	t->bytes_down += counter_get(&c->value[COUNTER_BYTES_DOWN]);
	t->streams += counter_get(&c->value[COUNTER_STREAMS]);
	t->tunnels += counter_get(&c->value[COUNTER_TUNNELS]);
	t->live_streams += counter_get(&c->value[COUNTER_LIVE_SPLICES]);
	t->live_parked += counter_get(&c->value[COUNTER_LIVE_PARKED]);
	t->live_tunnels += counter_get(&c->value[COUNTER_LIVE_TUNNELS]);
	add_reasons(t->ends, c->ended);
	add_reasons(t->refusals, c->refused);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct history *h = arg;
	const struct gateway *g = h->gateway;
	struct history_totals t = { .audit_lost = audit_counts(g->audit).lost };

	for (unsigned i = 0; i < g->n_workers; i++)
		add_worker(&t, &g->workers[i]->counters);
	history_feed(h, history_now(), &t);
}

int history_begin(struct history *h, struct event_base *base, const struct gateway *g)
{
	const struct timeval tick = { .tv_sec = TICK_MS / 1000, .tv_usec = TICK_MS % 1000 * 1000 };

	h->gateway = g;
	h->began = history_now();
	h->tick = event_new(base, -1, EV_PERSIST, on_tick, h);
	if (!h->tick || event_add(h->tick, &tick) < 0)
		return -1;
	on_tick(-1, 0, h);
	return 0;
}
