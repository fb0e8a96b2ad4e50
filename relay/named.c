/*
 * named: the services that a config names, and since when it does.
 *
 * Theory of operation: a sorted array, made with each config. What was in the one before is known
 * for as long as it was there; a clock that is set back makes nothing new.
 */
#include "relay/named.h"

#include <stdlib.h>
#include <strings.h>

#include "config/config.h"

static int by_name(const void *a, const void *b)
{
	const struct named_service *first = a, *second = b;

	return strcasecmp(first->name, second->name);
}

struct named *named_new(const struct relay_config *c, const struct named *before, uint64_t now)
{
	const size_t most = c->n_services + c->n_listeners;
	struct named *n = calloc(1, sizeof(*n) + most * sizeof(n->at[0]));
	size_t all = 0;

	if (!n)
		return NULL;
	for (size_t i = 0; i < c->n_services; i++)
		n->at[all++].name = c->services[i].name;
	for (size_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].service)
			n->at[all++].name = c->listeners[i].service;
	qsort(n->at, all, sizeof(n->at[0]), by_name);
	for (size_t i = 0; i < all; i++) {
		const struct named_service *old;

		if (n->n && by_name(&n->at[i], &n->at[n->n - 1]) == 0)
			continue;
		old = before ? bsearch(&n->at[i], before->at, before->n, sizeof(before->at[0]),
				       by_name)
			     : NULL;
		n->at[n->n++] = (struct named_service){
			.name = n->at[i].name,
			.since = old ? old->since : now,
			.met = old && old->met,
		};
	}
	return n;
}

void named_free(struct named *n)
{
	free(n);
}

bool named_is_awaited(const struct named_service *s, uint64_t now)
{
	return !s->met && now >= s->since && now - s->since < NAMED_AWAITED_S;
}
