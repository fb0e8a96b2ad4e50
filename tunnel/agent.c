/*
 * agent: all links of a program, their common end, and what they share.
 *
 * Theory of operation: links run by themselves (link.c); here they are begun, shaken (agent_retry)
 * and stopped. Stopping retires every session: the relay hears GOAWAY, sends nothing new, and each
 * session ends with its last stream; the drain timer closes what is left. over is called once, when
 * no line and no stream is left (a service may still be taking the last bytes of a stream that has
 * ended for the relay) and no link will make one.
 *
 * The worst outcome is kept for a run with --once, whose exit status is made of it.
 */
#include "tunnel/agent.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "config/config.h"
#include "relay/log.h"
#include "relay/worker.h"
#include "tunnel/link.h"

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
		n += a->links[i].active != NULL;
	return n;
}

void agent_check_over(struct agent *a)
{
	bool over = !a->lines && (a->killed || a->serve.live == 0);

	for (unsigned i = 0; i < a->n_links && !a->stopping; i++)
		over = over && a->links[i].finished;
	if (!over || a->told_over)
		return;
	a->told_over = true;
	timer_cancel(a->worker, &a->drain);
	a->spec->over(a, a->stopping ? AGENT_ORDERLY : a->outcome);
}

void agent_retry(struct agent *a, bool refused_too)
{
	for (unsigned i = 0; i < a->n_links; i++)
		link_retry(&a->links[i], refused_too);
}

void agent_kill(struct agent *a)
{
	struct line *next;

	a->stopping = a->killed = true;
	for (unsigned i = 0; i < a->n_links; i++)
		timer_cancel(a->worker, &a->links[i].timer);
	for (struct line *line = a->lines; line; line = next) {
		next = line->next;
		line_close(line);
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
		link_stop(&a->links[i]);
	timer_set(a->worker, &a->drain, a->spec->config->timeouts.drain, on_drain_timer);
	agent_check_over(a);
}

static void on_idle(struct serve *v)
{
	agent_check_over((struct agent *)((char *)v - offsetof(struct agent, serve)));
}

int agent_init(struct agent *a, const struct agent_spec *spec)
{
	const struct tunnel_config *config = spec->config;
	int r;

	*a = (struct agent){ .spec = spec, .worker = spec->carrier.worker };
	a->links = calloc(config->relays.n ? config->relays.n : 1, sizeof(*a->links));
	if (!a->links)
		return -ENOMEM;
	r = serve_init(&a->serve, a->worker, config);
	if (r < 0) {
		free(a->links);
		a->links = NULL;
		return r;
	}
	a->serve.idle = on_idle;
	for (; a->n_links < config->relays.n; a->n_links++)
		link_init(&a->links[a->n_links], a, a->n_links);
	return 0;
}

void agent_deinit(struct agent *a)
{
	for (unsigned i = 0; i < a->n_links; i++)
		timer_cancel(a->worker, &a->links[i].timer);
	timer_cancel(a->worker, &a->drain);
	serve_deinit(&a->serve);
	free(a->links);
	a->links = NULL;
	a->n_links = 0;
}
