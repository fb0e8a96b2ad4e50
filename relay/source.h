/*
 * source: where connections come from, each with a quota of its own, and with what it has done to
 * be kept out for a while.
 *
 * A source is an IPv4 address, an IPv6 network of 64 bits (which one customer gets), a vsock CID or
 * a Unix user. There are at most so many at a time; when all of them are in use, those that come
 * then share one, "other". So an attacker with many addresses costs no more than that.
 *
 * Thread: any, for everything. now: worker_now.
 */
#ifndef RELAY_SOURCE_H
#define RELAY_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/network.h"
#include "relay/quota.h"
#include "relay/table.h"

struct peer;
struct source_shard;
struct sources;

#define SOURCES_MAX 65536 /* some 16 MB; more than limits.connections by default */
#define SOURCE_KEY 9      /* bytes: a family, and what of the address counts */

/* Keeping out who fails to authenticate again and again. */
struct source_penalties {
	uint64_t failures;  /* so many lead to a block; 0: none ever does */
	uint64_t half_life; /* ms: then a failure counts half */
	uint64_t block;     /* ms: the first; each further one is twice as long, ... */
	uint64_t block_max; /* ... up to this */
	const struct network *exempt;
	size_t n_exempt;
};

struct source {
	struct quota quota; /* first */
	struct sources *in;
	struct source_shard *shard; /* NULL: shared by many, and for ever */
	struct table_node node;
	atomic_uint_fast64_t refs;
	/* under the shard's lock */
	struct source *older, *newer; /* while nobody has it: the shard's idle ones */
	bool idle;
	uint8_t key[SOURCE_KEY];
	uint8_t blocks;             /* in a row */
	uint32_t score;             /* failures, in parts of SOURCE_POINT, as of scored */
	uint64_t scored;            /* ms; the end of a block, for as long as it lasts */
	atomic_uint_fast64_t until; /* ms: blocked; written under the lock */
};

#define SOURCE_POINT 1024

/*
 * limits and above (of all sources) outlive it. user: for sources_user. No source is ever blocked
 * before sources_set_penalties. NULL: out of memory, or no randomness.
 */
struct sources *sources_new(const struct quota_limits *limits, struct quota *above, size_t max,
			    void *user);
/*
 * From now on: exempt has to live until they are others. What is blocked stays so for its time,
 * unless it is exempt now, or nobody is to be blocked.
 */
void sources_set_penalties(struct sources *t, const struct source_penalties *penalties);
struct sources *sources_free(struct sources *t); /* NULL is fine; none may be held */
void *sources_user(const struct source *s);

/* Who is there: never NULL. The caller's until source_put. */
struct source *sources_get(struct sources *t, const struct peer *peer, uint64_t now);
/* For connections of proxies that have not told yet whose they are: one without any limits. */
struct source *sources_unknown(struct sources *t);
struct source *source_hold(struct source *s); /* once more */
void source_put(struct source *s);            /* NULL is fine */

/* May peer, of this source, not come now? */
bool source_is_blocked(const struct source *s, const struct peer *peer, uint64_t now);
/* It has failed to authenticate. True: that is why it is blocked from now on. */
bool source_failed(struct source *s, const struct peer *peer, uint64_t now);

/* For metrics; looks at all of them. */
struct sources_census {
	size_t known, blocked;      /* blocked: now */
	uint64_t most[QUOTA_KINDS]; /* what the one with the most has */
	uint64_t memory;            /* the same */
	uint64_t other;             /* connections of those that share one */
};
void sources_census(struct sources *t, uint64_t now, struct sources_census *out);

/* Those with the most connections and streams, the most first. */
#define SOURCES_TOP 20
struct sources_top {
	size_t n;
	struct {
		char name[64]; /* "192.0.2.7", "2001:db8::/64", "vsock:42", "uid:1000", "other" */
		uint64_t used[QUOTA_KINDS], refused;
		bool blocked; /* now */
	} at[SOURCES_TOP];
};
void sources_top(struct sources *t, uint64_t now, struct sources_top *out);

#endif
