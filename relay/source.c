/*
 * source: where connections come from, with quotas and penalties.
 *
 * Theory of operation: SHARDS tables, each under its own lock; a source's hash, keyed, says which.
 * References are counted. A source that nobody has stays in its shard's list of idle ones, oldest
 * first, as long as it has something to be remembered: what it opened in this second, or failures.
 * Who looks one up forgets FORGET_TURN old ones that have nothing to be remembered any more. In a
 * full shard the oldest idle one goes for a newcomer whatever is known of it; without one, the
 * newcomer gets the common source.
 *
 * Penalties: each failure scores one point, which decays by half in each half-life (straight in
 * between, which is at most 6 % off). At so many points the source is blocked, and the score stands
 * still meanwhile: so the next failure after that blocks again, for twice as long, until it has
 * been quiet for long enough to have less than one point.
 */
#include "relay/source.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/hash.h"
#include "relay/peer.h"

#define SHARDS 64
#define FORGET_TURN 2
#define BLOCKS_MAX 32 /* doublings; the time is bounded far below that */

struct source_shard {
	pthread_mutex_t lock;
	struct table table;
	struct source *oldest, *newest; /* idle */
};

struct sources {
	const struct quota_limits *limits;
	struct quota *above;
	pthread_rwlock_t lock; /* for penalties; taken before a shard's */
	struct source_penalties penalties;
	atomic_uint_fast64_t half_life; /* of them, for who has not taken the lock */
	void *user;
	size_t max; /* of a shard */
	struct hash_key key;
	struct quota_limits none;
	struct source other, unknown;
	struct source_shard shard[SHARDS];
};

static uint64_t get(const atomic_uint_fast64_t *a)
{
	return atomic_load_explicit(a, memory_order_relaxed);
}

struct sources *sources_new(const struct quota_limits *limits, struct quota *above, size_t max,
			    void *user)
{
	struct sources *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->limits = limits;
	t->above = above;
	pthread_rwlock_init(&t->lock, NULL);
	t->max = max / SHARDS ? max / SHARDS : 1;
	t->user = user;
	quota_limits_init(&t->none);
	quota_init(&t->other.quota, limits, above);
	quota_init(&t->unknown.quota, &t->none, above);
	t->other.in = t->unknown.in = t;
	for (unsigned i = 0; i < SHARDS; i++)
		pthread_mutex_init(&t->shard[i].lock, NULL);
	if (hash_key_new(&t->key) < 0)
		return sources_free(t);
	for (unsigned i = 0; i < SHARDS; i++)
		if (table_init(&t->shard[i].table) < 0)
			return sources_free(t);
	return t;
}

void *sources_user(const struct source *s)
{
	return s->in->user;
}

/* ---- of a shard, under its lock ---- */

static void rest(struct source_shard *h, struct source *s)
{
	s->idle = true;
	s->older = h->newest;
	s->newer = NULL;
	if (s->older)
		s->older->newer = s;
	else
		h->oldest = s;
	h->newest = s;
}

static void rouse(struct source_shard *h, struct source *s)
{
	if (!s->idle)
		return;
	s->idle = false;
	if (s->older)
		s->older->newer = s->newer;
	else
		h->oldest = s->newer;
	if (s->newer)
		s->newer->older = s->older;
	else
		h->newest = s->older;
}

static void forget(struct source_shard *h, struct source *s)
{
	rouse(h, s);
	table_remove(&h->table, &s->node);
	free(s);
}

/* Its points now; none is decayed before the time as of which they are. */
static uint32_t score(const struct source *s, uint64_t now)
{
	uint64_t half_life = get(&s->in->half_life), past, halves;
	uint32_t points = s->score;

	if (now <= s->scored || !points || !half_life)
		return points;
	past = now - s->scored;
	halves = past / half_life;
	if (halves >= 32)
		return 0;
	points >>= halves;
	return points - (uint32_t)(points * (past % half_life) / (2 * half_life));
}

static bool is_memorable(const struct source *s, uint64_t now)
{
	return now < get(&s->until) || score(s, now) >= SOURCE_POINT / 2 ||
	       !quota_is_idle(&s->quota, now);
}

static void forget_some(struct source_shard *h, uint64_t now)
{
	for (unsigned i = 0; i < FORGET_TURN && h->oldest && !is_memorable(h->oldest, now); i++)
		forget(h, h->oldest);
}

static struct source *find(struct source_shard *h, const uint8_t *key, uint64_t hash)
{
	struct table_node *n;

	for (n = table_first(&h->table, hash); n; n = table_next(n)) {
		struct source *s = (struct source *)((char *)n - offsetof(struct source, node));

		if (memcmp(s->key, key, SOURCE_KEY) == 0)
			return s;
	}
	return NULL;
}

static struct source *make(struct sources *t, struct source_shard *h, const uint8_t *key,
			   uint64_t hash)
{
	struct source *s;

	if (h->table.n >= t->max && h->oldest)
		forget(h, h->oldest);
	s = h->table.n < t->max ? calloc(1, sizeof(*s)) : NULL;
	if (!s)
		return NULL;
	quota_init(&s->quota, t->limits, t->above);
	s->in = t;
	s->shard = h;
	memcpy(s->key, key, SOURCE_KEY);
	table_insert(&h->table, &s->node, hash);
	return s;
}

/* ---- for all ---- */

struct sources *sources_free(struct sources *t)
{
	if (!t)
		return NULL;
	for (unsigned i = 0; i < SHARDS; i++) {
		while (t->shard[i].oldest)
			forget(&t->shard[i], t->shard[i].oldest);
		table_deinit(&t->shard[i].table);
		pthread_mutex_destroy(&t->shard[i].lock);
	}
	pthread_rwlock_destroy(&t->lock);
	free(t);
	return NULL;
}

static void key_of(const struct peer *p, uint8_t key[SOURCE_KEY])
{
	memset(key, 0, SOURCE_KEY);
	key[0] = (uint8_t)p->family;
	if (p->family == AF_INET)
		memcpy(key + 1, p->ip, 4);
	else if (p->family == AF_INET6)
		memcpy(key + 1, p->ip, 8);
	else if (p->family == AF_VSOCK)
		memcpy(key + 1, &p->a, sizeof(p->a));
	else if (p->family == AF_UNIX)
		memcpy(key + 1, &p->b, sizeof(p->b));
}

struct source *sources_get(struct sources *t, const struct peer *peer, uint64_t now)
{
	uint8_t key[SOURCE_KEY];
	struct source_shard *h;
	struct source *s;
	uint64_t hash;

	key_of(peer, key);
	hash = hash_bytes(&t->key, key, sizeof(key));
	h = &t->shard[hash >> 32 & (SHARDS - 1)]; /* the table goes by the low bits */
	pthread_mutex_lock(&h->lock);
	s = find(h, key, hash);
	if (!s) {
		forget_some(h, now);
		s = make(t, h, key, hash);
	}
	if (s) {
		rouse(h, s);
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	}
	pthread_mutex_unlock(&h->lock);
	return s ? s : &t->other;
}

struct source *sources_unknown(struct sources *t)
{
	return &t->unknown;
}

struct source *source_hold(struct source *s)
{
	if (s->shard) /* whoever asks has it: it is not idle */
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void source_put(struct source *s)
{
	uint64_t refs = s ? get(&s->refs) : 0;
	struct source_shard *h = s ? s->shard : NULL;

	while (refs > 1)
		if (atomic_compare_exchange_weak_explicit(
			    &s->refs, &refs, refs - 1, memory_order_release, memory_order_relaxed))
			return;
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
		rest(h, s);
	pthread_mutex_unlock(&h->lock);
}

/* ---- penalties ---- */

static bool is_exempt(const struct source_penalties *p, const struct peer *peer)
{
	enum network_kind kind = peer->family == AF_INET    ? NETWORK_IPV4
				 : peer->family == AF_INET6 ? NETWORK_IPV6
							    : NETWORK_NONE;

	for (size_t i = 0; i < p->n_exempt; i++) {
		const struct network *n = &p->exempt[i];

		if (n->kind == NETWORK_UNIX ? peer->family == AF_UNIX
					    : network_has_ip(n, kind, peer->ip))
			return true;
	}
	return false;
}

bool source_is_blocked(const struct source *s, const struct peer *peer, uint64_t now)
{
	struct sources *t = s->in;
	bool blocked = now < get(&s->until);

	if (!blocked)
		return false;
	pthread_rwlock_rdlock(&t->lock);
	blocked = t->penalties.failures && !is_exempt(&t->penalties, peer);
	pthread_rwlock_unlock(&t->lock);
	return blocked;
}

/* Under the lock. */
static bool block(struct source *s, uint64_t now)
{
	const struct source_penalties *p = &s->in->penalties;
	uint64_t ms = p->block;

	/* those that came a moment ago have decayed by next to nothing */
	if (s->score + SOURCE_POINT / 8 < p->failures * SOURCE_POINT || now < get(&s->until))
		return false;
	for (unsigned i = 0; i < s->blocks && ms < p->block_max; i++)
		ms *= 2;
	if (ms > p->block_max)
		ms = p->block_max;
	if (s->blocks < BLOCKS_MAX)
		s->blocks++;
	/* those that were under way when it began, and fail now, are none more */
	s->score = (uint32_t)(p->failures * SOURCE_POINT);
	s->scored = now + ms;
	atomic_store_explicit(&s->until, now + ms, memory_order_relaxed);
	return true;
}

/* Under the lock of penalties. */
static bool failed(struct source *s, uint64_t now)
{
	bool blocked;

	pthread_mutex_lock(&s->shard->lock);
	s->score = score(s, now);
	if (s->score < SOURCE_POINT)
		s->blocks = 0;
	if (s->scored < now)
		s->scored = now;
	if (now >= get(&s->until))
		s->score += SOURCE_POINT;
	blocked = block(s, now);
	pthread_mutex_unlock(&s->shard->lock);
	return blocked;
}

bool source_failed(struct source *s, const struct peer *peer, uint64_t now)
{
	struct sources *t = s->in;
	bool blocked = false;

	if (!s->shard)
		return false;
	pthread_rwlock_rdlock(&t->lock);
	if (t->penalties.failures && !is_exempt(&t->penalties, peer))
		blocked = failed(s, now);
	pthread_rwlock_unlock(&t->lock);
	return blocked;
}

void sources_set_penalties(struct sources *t, const struct source_penalties *penalties)
{
	pthread_rwlock_wrlock(&t->lock);
	t->penalties = *penalties;
	atomic_store_explicit(&t->half_life, penalties->half_life, memory_order_relaxed);
	pthread_rwlock_unlock(&t->lock);
}

/* ---- for metrics ---- */

static void regard(const struct source *s, uint64_t now, void *census)
{
	struct sources_census *out = census;
	uint64_t memory = get(&s->quota.memory);

	out->known++;
	out->blocked += now < get(&s->until);
	for (unsigned i = 0; i < QUOTA_KINDS; i++)
		if (quota_used(&s->quota, i) > out->most[i])
			out->most[i] = quota_used(&s->quota, i);
	if (memory > out->memory)
		out->memory = memory;
}

static void each(struct sources *t, void (*fn)(const struct source *s, uint64_t now, void *out),
		 uint64_t now, void *out)
{
	for (unsigned i = 0; i < SHARDS; i++) {
		struct source_shard *h = &t->shard[i];

		pthread_mutex_lock(&h->lock);
		for (size_t b = 0; b < h->table.buckets; b++)
			for (struct table_node *n = h->table.bucket[b]; n; n = n->next)
				fn((struct source *)((char *)n - offsetof(struct source, node)),
				   now, out);
		pthread_mutex_unlock(&h->lock);
	}
}

void sources_census(struct sources *t, uint64_t now, struct sources_census *out)
{
	memset(out, 0, sizeof(*out));
	out->other = quota_used(&t->other.quota, QUOTA_CONNECTIONS);
	each(t, regard, now, out);
}

/* ---- for people ---- */

static void name_of(const uint8_t key[SOURCE_KEY], char *name, size_t size)
{
	uint8_t ip[16] = { 0 };
	uint32_t number;

	memcpy(ip, key + 1, SOURCE_KEY - 1);
	memcpy(&number, key + 1, sizeof(number));
	if (key[0] == AF_INET) {
		inet_ntop(AF_INET, ip, name, (socklen_t)size);
	} else if (key[0] == AF_INET6) {
		inet_ntop(AF_INET6, ip, name, (socklen_t)size);
		snprintf(name + strlen(name), size - strlen(name), "/64");
	} else {
		snprintf(name, size, "%s:%" PRIu32, key[0] == AF_VSOCK ? "vsock" : "uid", number);
	}
}

static uint64_t weight(const uint64_t used[QUOTA_KINDS])
{
	return used[QUOTA_CONNECTIONS] + used[QUOTA_STREAMS];
}

static void rank(const struct source *s, uint64_t now, void *out)
{
	struct sources_top *top = out;
	uint64_t used[QUOTA_KINDS];
	size_t i = top->n;

	for (unsigned k = 0; k < QUOTA_KINDS; k++)
		used[k] = quota_used(&s->quota, k);
	while (i > 0 && weight(used) > weight(top->at[i - 1].used))
		i--;
	if (i == SOURCES_TOP)
		return;
	if (top->n < SOURCES_TOP)
		top->n++;
	memmove(&top->at[i + 1], &top->at[i], (top->n - 1 - i) * sizeof(top->at[0]));
	name_of(s->key, top->at[i].name, sizeof(top->at[i].name));
	memcpy(top->at[i].used, used, sizeof(used));
	top->at[i].refused = get(&s->quota.refused);
	top->at[i].blocked = now < get(&s->until);
}

void sources_top(struct sources *t, uint64_t now, struct sources_top *out)
{
	memset(out, 0, sizeof(*out));
	each(t, rank, now, out);
}
