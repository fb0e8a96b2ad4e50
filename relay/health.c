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
 * What changes is logged by whoever changed it. Nothing is known at the start: all are up. After a
 * reload a service's old and new objects share, by counting, what is known of a target that stayed:
 * streams that began before may find something out. Not where the check is another one: nobody
 * would ever clear down if there is none any more.
 */
#include "relay/health.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "relay/log.h"

struct condition {
	atomic_uint refs;
	atomic_uint_fast64_t until;
	atomic_uint_fast32_t wait; /* ms: the length of the time that ends then */
	atomic_bool down;
};

struct health {
	const struct service_config *service;
	struct condition *of[]; /* of each target */
};

static bool same_check(const struct check_config *a, const struct check_config *b)
{
	return a->kind == b->kind && !a->server_name == !b->server_name &&
	       (!a->server_name || strcmp(a->server_name, b->server_name) == 0);
}

/* What is known already, or NULL. */
static struct condition *known(const struct health *before, const struct service_config *s,
			       const struct address *target)
{
	if (!before || !same_check(&before->service->check, &s->check))
		return NULL;
	for (size_t i = 0; i < before->service->targets.n; i++)
		if (address_equal(&before->service->targets.at[i], target)) {
			atomic_fetch_add(&before->of[i]->refs, 1);
			return before->of[i];
		}
	return NULL;
}

static struct condition *condition_new(void)
{
	struct condition *c = calloc(1, sizeof(*c));

	if (c)
		atomic_init(&c->refs, 1);
	return c;
}

struct health *health_new(const struct service_config *s, const struct health *before)
{
	struct health *h = calloc(1, sizeof(*h) + s->targets.n * sizeof(struct condition *));

	if (!h)
		return NULL;
	h->service = s;
	for (size_t i = 0; i < s->targets.n; i++) {
		h->of[i] = known(before, s, &s->targets.at[i]);
		if (!h->of[i])
			h->of[i] = condition_new();
		if (!h->of[i]) {
			health_free(h);
			return NULL;
		}
	}
	return h;
}

void health_free(struct health *h)
{
	for (size_t i = 0; h && i < h->service->targets.n; i++)
		if (h->of[i] && atomic_fetch_sub(&h->of[i]->refs, 1) == 1)
			free(h->of[i]);
	free(h);
}

static void tell_change(const struct health *h, size_t target, const char *what, const char *detail)
{
	const struct service_config *s = h->service;
	char text[ADDRESS_TEXT_MAX];
	const struct log_field fields[] = {
		{ "service", s->name, 0 },
		{ "target", address_format(&s->targets.at[target], text, sizeof(text)), 0 },
	};

	log_fields(detail ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, fields, 2, "target %s of %s %s%s%s",
		   text, s->name, what, detail ? ": " : "", detail ? detail : "");
}

bool health_admits(struct health *h, size_t target, uint64_t now)
{
	struct condition *c = h->of[target];
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

void health_tried(struct health *h, size_t target, bool good, const char *detail, uint64_t now)
{
	struct condition *c = h->of[target];
	uint_fast64_t never = 0;

	if (good) {
		/* read first: mostly there is nothing to change, in memory that all share */
		if (atomic_load(&c->until) && atomic_exchange(&c->until, 0))
			tell_change(h, target, "answers again", NULL);
	} else if (atomic_compare_exchange_strong(&c->until, &never, now + HEALTH_WAIT_MS)) {
		atomic_store(&c->wait, HEALTH_WAIT_MS);
		tell_change(h, target, "is tried last for a while", detail);
	}
}

void health_probed(struct health *h, size_t target, bool good, const char *detail)
{
	struct condition *c = h->of[target];
	bool was_down = atomic_exchange(&c->down, !good);

	if (was_down == good)
		tell_change(h, target, good ? "passes its check" : "does not pass its check",
			    good ? NULL : detail);
	if (good && atomic_exchange(&c->until, 0) && !was_down)
		tell_change(h, target, "answers again", NULL);
}

bool health_is_up(const struct health *h, size_t target)
{
	const struct condition *c = h->of[target];

	return !atomic_load(&c->until) && !atomic_load(&c->down);
}

bool health_may_answer(const struct health *h, size_t target, uint64_t now)
{
	const struct condition *c = h->of[target];

	return now >= atomic_load(&c->until) && !atomic_load(&c->down);
}
