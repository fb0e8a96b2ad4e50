/*
 * tenants: everybody who has limits, and what a client's stream takes of theirs.
 *
 * Theory of operation: quotas of owners and clients are found by name for each stream. They begin
 * with the general limits; those the config names are held, with limits of their own, so none is
 * ever made for a name that strangers think of: a stream that gets here has a service that exists.
 *
 * A claim takes the narrowest first: who comes from a source that has too much does not cost the
 * owner anything. What was taken is given back if something further on was not to be had, but for
 * the opens of this second: it did try.
 */
#include "relay/tenants.h"

#include <stdlib.h>
#include <string.h>

/* Owners: of entries, and of services. */
#define NAMES_OF_CONFIG ((size_t)CONFIG_LIST_MAX * 2)
/* In effect, about to be, and still held by streams that began before. */
#define NAMES_MAX (3 * NAMES_OF_CONFIG)

static void set(atomic_uint_fast64_t *to, uint64_t own, uint64_t general)
{
	atomic_store_explicit(to, own ? own : general, memory_order_relaxed);
}

/* Keys that are not this tenant's are 0 in both: no limit. */
static void set_most(struct quota_limits *to, enum quota_kind kind, uint64_t own, uint64_t general)
{
	set(&to->most[kind], own, general ? general : QUOTA_NO_LIMIT);
}

static void set_limits(struct quota_limits *to, const struct tenant_limits *own,
		       const struct tenant_limits *general)
{
	set_most(to, QUOTA_CONNECTIONS, own->connections, general->connections);
	set_most(to, QUOTA_HANDSHAKES, own->handshakes, general->handshakes);
	set_most(to, QUOTA_TUNNELS, own->tunnels, general->tunnels);
	set_most(to, QUOTA_STREAMS, own->streams, general->streams);
	set_most(to, QUOTA_PARKED, own->parked, general->parked);
	set(&to->opens_per_second, own->opens_per_second, general->opens_per_second);
	set(&to->bytes_per_second, own->bytes_per_second, general->bytes_per_second);
	set(&to->memory, own->memory, general->memory ? general->memory : QUOTA_NO_LIMIT);
}

static bool hold(struct tenants *t, struct quotas *of, const char *name, struct tenants_next *next)
{
	struct quota_entry *q = quotas_get(of, name);

	if (!q)
		return false;
	if (q->mark == t->prepared) { /* an owner of several services */
		quotas_put(q);
		return true;
	}
	q->mark = t->prepared;
	next->held[next->n_held++] = q;
	return true;
}

static const char *owner_of(const struct service_config *s)
{
	return strchr(s->name, '.') + 1;
}

bool tenants_prepare(struct tenants *t, const struct relay_config *c, struct tenants_next *next)
{
	t->prepared++;
	next->held = calloc(c->n_services + c->n_owners + c->n_clients + 1, sizeof(*next->held));
	if (!next->held)
		return false;
	/* the owners of services that are addresses need no entry of their own */
	for (size_t i = 0; i < c->n_services; i++)
		if (!hold(t, t->owners, owner_of(&c->services[i]), next))
			return false;
	for (size_t i = 0; i < c->n_owners; i++)
		if (!hold(t, t->owners, c->owners[i].name, next))
			return false;
	for (size_t i = 0; i < c->n_clients; i++)
		if (!hold(t, t->clients, c->clients[i].name, next))
			return false;
	return true;
}

void tenants_cancel(struct tenants_next *next)
{
	while (next->n_held)
		quotas_put(next->held[--next->n_held]);
	free(next->held);
	next->held = NULL;
}

/* It is held, so there is one. */
static void limit(struct quotas *of, const char *name, const struct tenant_limits *own,
		  const struct tenant_limits *general)
{
	struct quota_entry *q = quotas_get(of, name);

	set_limits(&q->limits, own, general);
	quotas_put(q);
}

static void set_own(struct tenants *t, const struct relay_config *c)
{
	static const struct tenant_limits none;

	for (size_t i = 0; i < c->n_services; i++)
		if (!relay_config_owner(c, owner_of(&c->services[i])))
			limit(t->owners, owner_of(&c->services[i]), &none, &c->limits.per_owner);
	for (size_t i = 0; i < c->n_owners; i++)
		limit(t->owners, c->owners[i].name, &c->owners[i].limits, &c->limits.per_owner);
	for (size_t i = 0; i < c->n_clients; i++)
		limit(t->clients, c->clients[i].name, &c->clients[i].limits, &c->limits.per_client);
}

static void set_general(struct tenants *t, const struct relay_limits *limits)
{
	const struct tenant_limits none = { 0 }, all = {
		/* each worker has its part of the handshakes: relay/handshake.h */
		.parked = limits->parked,
		.memory = limits->memory,
	};

	set_limits(&t->all_limits, &all, &all);
	set_limits(&t->source_limits, &none, &limits->per_source);
	set_limits(&t->owner_limits, &none, &limits->per_owner);
	set_limits(&t->client_limits, &none, &limits->per_client);
}

static struct source_penalties penalties_of(const struct relay_config *c)
{
	return (struct source_penalties){
		.failures = c->penalties.failures,
		.half_life = c->penalties.half_life,
		.block = c->penalties.block,
		.block_max = c->penalties.block_max,
		.exempt = c->penalties.exempt.at,
		.n_exempt = c->penalties.exempt.n,
	};
}

void tenants_apply(struct tenants *t, struct relay_config *c, struct tenants_next *next)
{
	const struct tenants_next before = { t->held, t->n_held };
	const struct source_penalties penalties = penalties_of(c);
	struct relay_config *config = t->config;

	set_general(t, &c->limits);
	set_own(t, c);
	t->config = relay_config_ref(c);
	sources_set_penalties(t->sources, &penalties);
	relay_config_unref(config);
	t->held = next->held;
	t->n_held = next->n_held;
	*next = before;
	tenants_cancel(next); /* those of both configs are still held */
}

bool tenants_init(struct tenants *t, struct relay_config *c, void *user)
{
	struct tenants_next next = { 0 };

	quota_init(&t->all, &t->all_limits, NULL);
	t->sources = sources_new(&t->source_limits, &t->all, SOURCES_MAX, user);
	t->owners = quotas_new(&t->all, NAMES_MAX, &t->owner_limits);
	t->clients = quotas_new(&t->all, NAMES_MAX, &t->client_limits);
	if (!t->sources || !t->owners || !t->clients || !tenants_prepare(t, c, &next)) {
		tenants_cancel(&next);
		return false;
	}
	tenants_apply(t, c, &next);
	return true;
}

void tenants_deinit(struct tenants *t)
{
	struct tenants_next held = { t->held, t->n_held };

	tenants_cancel(&held);
	quotas_free(t->clients);
	quotas_free(t->owners);
	sources_free(t->sources);
	relay_config_unref(t->config);
	memset(t, 0, sizeof(*t));
}

struct quota_entry *tenants_owner(struct tenants *t, const char *name)
{
	return quotas_get(t->owners, name);
}

/* ---- what a stream has ---- */

static const char source_opens[] = "limits.per_source.opens_per_second";

static struct quota *quota_of(struct quota_entry *q)
{
	return q ? &q->quota : NULL;
}

static enum reason refused(const char **setting, const char *which, enum reason why)
{
	*setting = which;
	return why;
}

/* A stream at a time, and one more in this second. Too few: the stream is given back. */
static enum reason take(struct quota *q, uint64_t now, enum reason full, const char *streams,
			const char *opens, const char **setting)
{
	if (!quota_take(q, QUOTA_STREAMS))
		return refused(setting, streams, full);
	if (quota_open(q, now))
		return REASON_NONE;
	quota_give(q, QUOTA_STREAMS);
	return refused(setting, opens, REASON_RATE_LIMIT);
}

static enum reason take_all(struct claim *c, uint64_t now, const char **setting)
{
	struct quota *const source = &c->source->quota, *const client = quota_of(c->client);
	enum reason why;

	why = take(source, now, REASON_SOURCE_LIMIT, "limits.per_source.streams", source_opens,
		   setting);
	if (why == REASON_SOURCE_LIMIT)
		return claim_in_vain(c->source, now, why, setting);
	if (why != REASON_NONE)
		return why;
	why = take(client, now, REASON_CLIENT_LIMIT, "limits.per_client.streams",
		   "limits.per_client.opens_per_second", setting);
	if (why == REASON_NONE) {
		why = take(quota_of(c->owner), now, REASON_OWNER_LIMIT, "limits.per_owner.streams",
			   "limits.per_owner.opens_per_second", setting);
		if (why != REASON_NONE)
			quota_give(client, QUOTA_STREAMS);
	}
	if (why != REASON_NONE)
		quota_give(source, QUOTA_STREAMS);
	c->streams = why == REASON_NONE;
	return why;
}

enum reason claim_stream(struct claim *c, struct tenants *t, struct source *source,
			 const char *service, const char *client, uint64_t now,
			 const char **setting)
{
	const char *dot = strchr(service, '.');
	enum reason why = REASON_NO_MEMORY;

	*c = (struct claim){ .tenants = t, .source = source };
	*setting = "";
	c->owner = tenants_owner(t, dot ? dot + 1 : service);
	c->client = client ? quotas_get(t->clients, client) : NULL;
	if (c->owner && (c->client || !client))
		why = take_all(c, now, setting);
	if (why != REASON_NONE)
		claim_end(c);
	return why;
}

enum reason claim_in_vain(struct source *source, uint64_t now, enum reason why,
			  const char **setting)
{
	return quota_open(&source->quota, now) ? why
					       : refused(setting, source_opens, REASON_RATE_LIMIT);
}

void claim_end(struct claim *c)
{
	claim_unpark(c);
	if (c->streams) {
		quota_give(&c->source->quota, QUOTA_STREAMS);
		quota_give(quota_of(c->client), QUOTA_STREAMS);
		quota_give(quota_of(c->owner), QUOTA_STREAMS);
	}
	c->streams = false;
	c->owner = quotas_put(c->owner);
	c->client = quotas_put(c->client);
}

enum reason claim_park(struct claim *c, const char **setting)
{
	const struct {
		struct quota *quota;
		const char *setting;
		enum reason why;
	} of[] = {
		{ &c->source->quota, "limits.per_source.parked", REASON_SOURCE_LIMIT },
		{ quota_of(c->client), "limits.per_client.parked", REASON_CLIENT_LIMIT },
		{ quota_of(c->owner), "limits.per_owner.parked", REASON_OWNER_LIMIT },
		{ &c->tenants->all, "limits.parked", REASON_LIMIT },
	};
	unsigned i = 0, n = sizeof(of) / sizeof(of[0]), short_of;

	while (i < n && quota_take(of[i].quota, QUOTA_PARKED))
		i++;
	c->parked = i == n;
	if (c->parked)
		return REASON_NONE;
	short_of = i;
	while (i-- > 0)
		quota_give(of[i].quota, QUOTA_PARKED);
	return refused(setting, of[short_of].setting, of[short_of].why);
}

void claim_unpark(struct claim *c)
{
	if (!c->parked)
		return;
	c->parked = false;
	quota_give(&c->source->quota, QUOTA_PARKED);
	quota_give(quota_of(c->client), QUOTA_PARKED);
	quota_give(quota_of(c->owner), QUOTA_PARKED);
	quota_give(&c->tenants->all, QUOTA_PARKED);
}

bool claim_has_rate(const struct claim *c)
{
	return quota_has_rate(&c->source->quota) || quota_has_rate(quota_of(c->client)) ||
	       quota_has_rate(quota_of(c->owner));
}

uint64_t claim_may_pass(const struct claim *c, uint64_t now, uint64_t *wait)
{
	const struct quota *of[] = { &c->source->quota, quota_of(c->client), quota_of(c->owner) };
	uint64_t may = UINT64_MAX, part, longer;

	*wait = 0;
	for (unsigned i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		part = quota_may_pass(of[i], now, &longer);
		if (part < may)
			may = part;
		if (longer > *wait)
			*wait = longer;
	}
	return may;
}

void claim_pass(struct claim *c, uint64_t bytes, uint64_t now)
{
	quota_pass(&c->source->quota, bytes, now);
	quota_pass(quota_of(c->client), bytes, now);
	quota_pass(quota_of(c->owner), bytes, now);
}

uint64_t claim_room(const struct claim *c)
{
	const struct quota *of[] = { &c->source->quota, quota_of(c->client), quota_of(c->owner),
				     &c->tenants->all };
	uint64_t room = UINT64_MAX, its;

	for (unsigned i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		its = quota_room(of[i]);
		if (its < room)
			room = its;
	}
	return room;
}

void claim_keep(const struct claim *c, int64_t change)
{
	quota_keep(&c->source->quota, change);
	quota_keep(quota_of(c->client), change);
	quota_keep(quota_of(c->owner), change);
	quota_keep(&c->tenants->all, change);
}

struct claim *claim_share(const struct claim *c)
{
	struct claim *shared = malloc(sizeof(*shared));

	if (shared)
		*shared = (struct claim){ .tenants = c->tenants,
					  .source = c->source,
					  .owner = quotas_hold(c->owner),
					  .client = quotas_hold(c->client) };
	return shared;
}

struct source *claim_unshare(struct claim *c)
{
	struct source *source = c->source;

	claim_end(c);
	free(c);
	return source;
}
