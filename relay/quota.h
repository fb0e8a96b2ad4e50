/*
 * quota: how much of the relay one tenant has now, and how much it may have.
 *
 * A tenant is whoever limits are for: all together, an owner, a client, a source address. All of
 * this may be used by any thread and takes no lock, but for finding a quota by its name. What is
 * taken is given back by whoever took it; nothing has changed when something was not to be had.
 */
#ifndef RELAY_QUOTA_H
#define RELAY_QUOTA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/bucket.h"
#include "relay/table.h"

/* What there is a number of at a time. */
enum quota_kind {
	QUOTA_CONNECTIONS,
	QUOTA_HANDSHAKES, /* connections that have not said yet what they want */
	QUOTA_TUNNELS,
	QUOTA_STREAMS, /* parked ones, too */
	QUOTA_PARKED,  /* waiting for a tunnel */
	QUOTA_KINDS
};

#define QUOTA_NO_LIMIT UINT64_MAX

/* May change at any time, and hold for many quotas: all source addresses have the same. */
struct quota_limits {
	atomic_uint_fast64_t most[QUOTA_KINDS]; /* QUOTA_NO_LIMIT: none */
	atomic_uint_fast64_t memory;		/* bytes; QUOTA_NO_LIMIT: none */
	atomic_uint_fast64_t opens_per_second;	/* 0: no limit; so, too: */
	atomic_uint_fast64_t bytes_per_second;
};

struct quota {
	const struct quota_limits *limits;
	struct quota *above; /* whose memory this one's is part of; or NULL */
	atomic_uint_fast64_t used[QUOTA_KINDS], memory;
	atomic_uint_fast64_t refused; /* how often something was not to be had */
	struct bucket opens, bytes;
};

/* No limit for anything. */
void quota_limits_init(struct quota_limits *l);
void quota_limits_copy(struct quota_limits *to, const struct quota_limits *from);
/* Zeroed before. What limits and above point to outlives it. */
void quota_init(struct quota *q, const struct quota_limits *limits, struct quota *above);

static inline uint64_t quota_used(const struct quota *q, enum quota_kind kind)
{
	return atomic_load_explicit(&q->used[kind], memory_order_relaxed);
}

static inline uint64_t quota_most(const struct quota *q, enum quota_kind kind)
{
	return atomic_load_explicit(&q->limits->most[kind], memory_order_relaxed);
}

/* One more. False: it has as many as it may. NULL has no limits, here and below. */
bool quota_take(struct quota *q, enum quota_kind kind) __attribute__((warn_unused_result));
void quota_count(struct quota *q, enum quota_kind kind); /* whatever the limit: others see to it */
void quota_give(struct quota *q, enum quota_kind kind);

/* One more stream is opened now. False: too many in this second. */
bool quota_open(struct quota *q, uint64_t now) __attribute__((warn_unused_result));

/* Is there a limit to its bytes in a second? */
static inline bool quota_has_rate(const struct quota *q)
{
	return q && atomic_load_explicit(&q->limits->bytes_per_second, memory_order_relaxed);
}

/*
 * Bytes that may pass now; none: in *wait ms it is worth asking again (at least 1). All that
 * passed is told by quota_pass.
 */
#define QUOTA_TURNS 64 /* at its rate, a second's bytes go in at most as many portions */
uint64_t quota_may_pass(const struct quota *q, uint64_t now, uint64_t *wait);
void quota_pass(struct quota *q, uint64_t bytes, uint64_t now);

/* Memory, of all above it as well. */
bool quota_reserve(struct quota *q, uint64_t bytes) __attribute__((warn_unused_result));
void quota_charge(struct quota *q, uint64_t bytes); /* whatever the limits: others see to it */
void quota_release(struct quota *q, uint64_t bytes);

/*
 * The same for what streams keep on their way outside of sessions (relay/splice.h), of this quota
 * alone: whoever does it goes over all it has to do with. They get one part in QUOTA_WAY_PARTS of
 * what there may be, and fetch in small portions when that is in use; a session is read until
 * everything is. So streams that stall never stop a tunnel from being read.
 */
#define QUOTA_WAY_PARTS 2
static inline uint64_t quota_room(const struct quota *q)
{
	uint64_t may, has;

	if (!q)
		return UINT64_MAX;
	may = atomic_load_explicit(&q->limits->memory, memory_order_relaxed) / QUOTA_WAY_PARTS;
	has = atomic_load_explicit(&q->memory, memory_order_relaxed);
	return has < may ? may - has : 0;
}
void quota_keep(struct quota *q, int64_t change);

/* Nothing is taken, and its rates are as if nobody had ever used them. */
bool quota_is_idle(const struct quota *q, uint64_t now);

/* ---- by name: owners and clients ---- */

struct quotas;

struct quota_entry {
	struct quota quota; /* first: a quota of quotas_get is one of these */
	struct quota_limits limits; /* its own; who got it may store others at any time */
	struct quotas *in;
	struct table_node node;
	atomic_uint_fast64_t refs;
	uint64_t mark; /* for whoever applies configs: seen in this one */
	struct bucket renewals; /* an owner's, of certificates; see relay/renewal.h */
	char name[];
};

/*
 * above: of all quotas in it. max: names at a time. initial: the limits that each new one begins
 * with. Both outlive it. NULL: out of memory.
 */
struct quotas *quotas_new(struct quota *above, size_t max, const struct quota_limits *initial);
/* None that was got may be left. NULL is fine. */
struct quotas *quotas_free(struct quotas *t);

/*
 * The one of this name, made if there is none: it is there as long as somebody has
 * it, so who reads a new config gets its quotas before those of the old one are put. NULL: out of
 * memory, or there are max.
 */
struct quota_entry *quotas_get(struct quotas *t, const char *name);
struct quota_entry *quotas_hold(struct quota_entry *q); /* once more */
struct quota_entry *quotas_put(struct quota_entry *q); /* NULL, which is fine, too */

#endif
