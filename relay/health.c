/*
 * health: what is known of each target that is an address.
 *
 * Theory of operation: two facts for each target, both atomic, so that nobody waits to read them.
 *
 *   until   0, or a dial failed: tried last until this time. Set by the first failure only: those
 *           of the same moment do not add up. The first to come after it takes the trial by
 *           setting it anew, twice as far ahead; success clears it.
 *   down    the last probe failed. Only a probe clears it: a service that lets one connect, but not
 *           speak, is not up.
 *
 * What changes is logged by whoever changed it. Nothing is known at the start: all are up.
 */
#include "relay/health.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "relay/log.h"

struct condition {
	atomic_uint_fast64_t until;
	atomic_uint_fast32_t wait; /* ms: the length of the time that ends then */
	atomic_bool down;
};

struct health {
	const struct relay_config *config;
	struct condition *of;
	size_t first[]; /* of each service, its targets' place in that */
};

struct health *health_new(const struct relay_config *c)
{
	struct health *h = calloc(1, sizeof(*h) + c->n_services * sizeof(h->first[0]));
	size_t n = 0;

	if (!h)
		return NULL;
	h->config = c;
	for (size_t i = 0; i < c->n_services; i++) {
		h->first[i] = n;
		n += c->services[i].targets.n;
	}
	h->of = calloc(n + 1, sizeof(*h->of));
	if (!h->of) {
		free(h);
		return NULL;
	}
	return h;
}

void health_free(struct health *h)
{
	if (!h)
		return;
	free(h->of);
	free(h);
}

static struct condition *condition_of(const struct health *h, const struct service_config *s,
				      size_t target)
{
	return &h->of[h->first[s - h->config->services] + target];
}

static void log_change(const struct service_config *s, size_t target, const char *what,
		       const char *detail)
{
	char text[ADDRESS_TEXT_MAX];
	const struct log_field fields[] = {
		{ "service", s->name, 0 },
		{ "target", address_format(&s->targets.at[target], text, sizeof(text)), 0 },
	};

	log_fields(detail ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, fields, 2,
		   "target %s of %s %s%s%s", text, s->name, what, detail ? ": " : "",
		   detail ? detail : "");
}

bool health_admits(struct health *h, const struct service_config *s, size_t target, uint64_t now)
{
	struct condition *c = condition_of(h, s, target);
	uint_fast64_t until = atomic_load(&c->until);
	uint_fast32_t wait;

	if (atomic_load(&c->down))
		return false;
	if (!until || now < until)
		return !until;
	wait = atomic_load(&c->wait) * 2;
	if (wait > HEALTH_WAIT_MAX_MS)
		wait = HEALTH_WAIT_MAX_MS;
	if (!atomic_compare_exchange_strong(&c->until, &until, now + wait))
		return false;
	atomic_store(&c->wait, wait);
	return true;
}

void health_tried(struct health *h, const struct service_config *s, size_t target, bool good,
		  const char *detail, uint64_t now)
{
	struct condition *c = condition_of(h, s, target);
	uint_fast64_t never = 0;

	if (good) {
		/* read first: mostly there is nothing to change, in memory that all share */
		if (atomic_load(&c->until) && atomic_exchange(&c->until, 0))
			log_change(s, target, "answers again", NULL);
	} else if (atomic_compare_exchange_strong(&c->until, &never, now + HEALTH_WAIT_MS)) {
		atomic_store(&c->wait, HEALTH_WAIT_MS);
		log_change(s, target, "is tried last for a while", detail);
	}
}

void health_probed(struct health *h, const struct service_config *s, size_t target, bool good,
		   const char *detail)
{
	struct condition *c = condition_of(h, s, target);
	bool was_down = atomic_exchange(&c->down, !good);

	if (was_down == good)
		log_change(s, target, good ? "passes its check" : "does not pass its check",
			   good ? NULL : detail);
	if (good && atomic_exchange(&c->until, 0) && !was_down)
		log_change(s, target, "answers again", NULL);
}

bool health_is_up(const struct health *h, const struct service_config *s, size_t target)
{
	const struct condition *c = condition_of(h, s, target);

	return !atomic_load(&c->until) && !atomic_load(&c->down);
}
