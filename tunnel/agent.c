/*
 * agent: all links of a program, their common end, and what they share.
 *
 * Theory of operation: links run by themselves (link.c); here they are begun, shaken (agent_retry)
 * and stopped. Stopping retires every session: the relay hears GOAWAY, sends nothing new, and each
 * session ends with its last stream; the drain timer closes what is left. over is called once, when
 * no line and no stream is left (a service may still be taking the last bytes of a stream that has
 * ended for the relay) and no link will make one.
 *
 * A reload keeps the links whose relay stays, under the instance names that they have, and makes
 * and leaves others. What is left ends as if it were stopped, by itself.
 *
 * The worst outcome is kept for a run with --once, whose exit status is made of it.
 */
#include "tunnel/agent.h"

#include <stddef.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/log.h"
#include "relay/worker.h"
#include "tunnel/link.h"
#include "tunnel/setup.h"

uint64_t agent_random(void)
{
	struct timespec ts;
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) == sizeof(random))
		return random;
	clock_gettime(CLOCK_MONOTONIC, &ts); /* jitter needs no secret */
	return (uint64_t)ts.tv_nsec * 0x9e3779b97f4a7c15ULL;
}

uint64_t agent_next_generation(struct agent *a)
{
	struct timespec ts;
	uint64_t now;

	clock_gettime(CLOCK_REALTIME, &ts);
	now = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
	a->generation = now > a->generation ? now : a->generation + 1;
	return a->generation;
}

void agent_failed(struct agent *a, enum agent_outcome outcome)
{
	if (outcome > a->outcome)
		a->outcome = outcome;
}

unsigned agent_up(const struct agent *a)
{
	unsigned n = 0;

	for (unsigned i = 0; i < a->n_links; i++)
		n += a->links[i]->active != NULL;
	return n;
}

void agent_check_over(struct agent *a)
{
	bool over = !a->lines && (a->killed || a->serve.live == 0);

	if (!a->stopping && !a->spec->once) /* a reload may bring something to do */
		return;
	for (unsigned i = 0; i < a->n_links && !a->stopping; i++)
		over = over && a->links[i]->finished;
	if (!over || a->told_over)
		return;
	a->told_over = true;
	timer_cancel(a->worker, &a->drain);
	a->spec->over(a, a->stopping ? AGENT_ORDERLY : a->outcome);
}

void agent_retry(struct agent *a, bool refused_too)
{
	for (unsigned i = 0; i < a->n_links; i++)
		link_retry(a->links[i], refused_too);
}

void agent_kill(struct agent *a)
{
	struct link_line *next;

	a->stopping = a->killed = true;
	for (unsigned i = 0; i < a->n_links; i++)
		timer_cancel(a->worker, &a->links[i]->timer);
	for (struct link_line *line = a->lines; line; line = next) {
		next = line->next;
		link_line_close(line);
	}
	agent_check_over(a);
}

static void on_drain_timer(struct timer *t)
{
	struct agent *a = (struct agent *)((char *)t - offsetof(struct agent, drain));

	log_warning("%llu streams are still open after timeouts.drain: closing them",
		    (unsigned long long)a->serve.live);
	agent_kill(a);
}

void agent_stop(struct agent *a)
{
	if (a->stopping)
		return;
	a->stopping = true;
	for (unsigned i = 0; i < a->n_links; i++)
		link_stop(a->links[i]);
	timer_set(a->worker, &a->drain, a->setup->config->timeouts.drain, on_drain_timer);
	agent_check_over(a);
}

static void on_idle(struct serve *v)
{
	agent_check_over((struct agent *)((char *)v - offsetof(struct agent, serve)));
}

/* ---- the relays of a config ---- */

/* A link to this address that the config before had, too, and that is not taken yet. */
static struct link *take_link(struct link **links, unsigned n, const struct address *address)
{
	for (unsigned i = 0; i < n; i++) {
		struct link *l = links[i];

		if (!l || !address_equal(l->address, address))
			continue;
		links[i] = NULL;
		return l;
	}
	return NULL;
}

static bool is_place_taken(const struct agent *a, struct link *const *before, unsigned n,
			   unsigned place)
{
	for (unsigned i = 0; i < n; i++)
		if (before[i] && before[i]->place == place)
			return true;
	for (unsigned i = 0; i < a->n_links; i++)
		if (a->links[i] && a->links[i]->place == place)
			return true;
	for (const struct link_line *line = a->lines; line; line = line->next)
		if (line->link->place == place)
			return true;
	return false;
}

/* Links that stay, then those that are new, with instance names that nobody has. */
static void exchange_links(struct agent *a)
{
	const struct tunnel_config *config = a->setup->config;
	struct link **before = a->links;
	unsigned n = a->n_links, place = 0;

	a->n_links = config->n_services ? (unsigned)config->relays.n : 0;
	a->links = xcalloc(a->n_links + 1, sizeof(struct link *));
	for (unsigned i = 0; i < a->n_links; i++) {
		a->links[i] = take_link(before, n, &config->relays.at[i]);
		if (a->links[i])
			link_follow(a->links[i], i);
	}
	for (unsigned i = 0; i < a->n_links; i++) {
		if (a->links[i])
			continue;
		while (is_place_taken(a, before, n, place))
			place++;
		a->links[i] = link_new(a, i, place);
	}
	for (unsigned i = 0; i < n; i++)
		if (before[i])
			link_leave(before[i]);
	free(before);
}

void agent_reload(struct agent *a, struct setup *setup)
{
	a->wave += setup_needs_sessions(a->setup, setup);
	setup_ref(setup);
	setup_unref(a->setup);
	a->setup = setup;
	serve_reload(&a->serve, setup);
	exchange_links(a);
	agent_retry(a, true);
}

void agent_init(struct agent *a, struct worker *w, const struct agent_spec *spec)
{
	*a = (struct agent){ .spec = spec, .worker = w, .setup = setup_ref(spec->setup) };
	a->wave = 1;
	serve_init(&a->serve, w, a->setup);
	a->serve.idle = on_idle;
	exchange_links(a);
}

void agent_deinit(struct agent *a)
{
	timer_cancel(a->worker, &a->drain);
	serve_deinit(&a->serve);
	for (unsigned i = 0; i < a->n_links; i++) {
		timer_cancel(a->worker, &a->links[i]->timer);
		link_unref(a->links[i]);
	}
	free(a->links);
	a->links = NULL;
	a->n_links = 0;
	a->setup = setup_unref(a->setup);
}
