/*
 * Who offers what: primaries and backups, which of several by load and by client, take-over by
 * generation, limits, retirement, threads; and thousands of tunnels at random against a model that
 * walks them all.
 */
#include <pthread.h>
#include <sys/socket.h>

#include "config/config.h"
#include "relay/balance.h"
#include "relay/client.h"
#include "relay/registry.h"
#include "tests/unit/check.h"

#define NO_LIMIT 1000

static struct registry *r;
static uint64_t last_id;

/* What makes a worker here is its address. */
static char a_worker;
#define worker_a ((struct worker *)(void *)&a_worker)

static struct registration tunnel(const char *owner, const char *instance, uint64_t generation)
{
	return (struct registration){ .worker = worker_a,
				      .tunnel = ++last_id,
				      .owner = owner,
				      .instance = instance,
				      .generation = generation };
}

static enum reason add(struct registration *t, const char *service, struct offer *stale)
{
	const struct offered s = { .service = service };

	return registry_add(r, t, &s, 1, NO_LIMIT, NO_LIMIT, stale);
}

/* The primary. */
static bool pick(const char *service, const uint64_t *asked, size_t n, struct offer *offer)
{
	const struct wanted wanted = { .service = service, .asked = asked, .n = n };
	bool has = registry_has(r, &wanted), found = registry_pick(r, &wanted, offer);

	CHECK_INT(has, found);
	CHECK(!has || registry_count(r, service) > 0);
	CHECK(n > 0 || has == (registry_count(r, service) > 0));
	if (found)
		registry_unload(offer->load);
	return found;
}

static uint64_t picked(const char *service)
{
	struct offer o;

	if (!pick(service, NULL, 0, &o))
		return 0;
	CHECK(o.worker == worker_a);
	return o.tunnel;
}

static void begin(void)
{
	r = registry_new();
	CHECK(r);
}

static void end(void)
{
	CHECK_INT(registry_tunnels(r), 0);
	CHECK_INT(registry_services(r), 0);
	r = registry_free(r);
	CHECK(!r);
}

static void test_pick(void)
{
	struct registration a = tunnel("acme", "i1", 1), b = tunnel("beta", "i1", 1);
	const struct offered some[] = { { "kbs.acme", false },
					{ "tang.acme", true },
					{ "a.acme", false } };
	struct offer o, stale;

	begin();
	memset(&o, 'x', sizeof(o));
	CHECK(!pick("kbs.acme", NULL, 0, &o));
	CHECK_INT(registry_add(r, &a, some, 3, NO_LIMIT, NO_LIMIT, &stale), REASON_NONE);
	CHECK(!stale.worker);
	CHECK_INT(add(&b, "kbs.beta", &stale), REASON_NONE);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(registry_services(r), 4);
	CHECK(pick("kbs.acme", NULL, 0, &o));
	CHECK(o.worker == worker_a);
	CHECK_INT(o.tunnel, a.tunnel);
	CHECK(!o.eager);
	CHECK(pick("tang.acme", NULL, 0, &o) && o.eager);
	CHECK_INT(picked("a.acme"), a.tunnel);
	CHECK_INT(picked("kbs.beta"), b.tunnel);
	CHECK(!pick("kbs.acm", NULL, 0, &o));
	CHECK(!pick("kbs.acmee", NULL, 0, &o));
	registry_remove(r, &a);
	CHECK_INT(picked("kbs.acme"), 0);
	CHECK_INT(picked("kbs.beta"), b.tunnel);
	registry_remove(r, &a); /* not listed: nothing */
	CHECK_INT(registry_tunnels(r), 1);
	registry_remove(r, &b);
	end();
	CHECK(!registry_free(NULL));
}

/* The first that came is the primary; the next takes its place when it goes. */
static void test_backups(void)
{
	struct registration t[3] = { tunnel("acme", "i1", 1), tunnel("acme", "i2", 9),
				     tunnel("acme", "i3", 5) };
	uint64_t asked[3];
	struct offer o, stale;

	begin();
	for (int i = 0; i < 3; i++) {
		CHECK_INT(add(&t[i], "kbs.acme", &stale), REASON_NONE);
		CHECK_INT(picked("kbs.acme"), t[0].tunnel);
	}
	/* whoever asks one after the other reaches them all, in their order, and each once */
	for (size_t i = 0; i < 3; i++) {
		CHECK(pick("kbs.acme", asked, i, &o));
		CHECK_INT(o.tunnel, t[i].tunnel);
		asked[i] = o.tunnel;
	}
	CHECK(!pick("kbs.acme", asked, 3, &o));
	CHECK(pick("kbs.acme", &asked[1], 2, &o));
	CHECK_INT(o.tunnel, t[0].tunnel);
	registry_remove(r, &t[1]);
	CHECK_INT(picked("kbs.acme"), t[0].tunnel);
	registry_remove(r, &t[0]);
	CHECK_INT(picked("kbs.acme"), t[2].tunnel);
	CHECK(!pick("kbs.acme", &asked[2], 1, &o)); /* there is no other */
	CHECK_INT(add(&t[1], "kbs.acme", &stale), REASON_NONE); /* back: where it was */
	CHECK_INT(picked("kbs.acme"), t[1].tunnel);
	CHECK_INT(add(&t[0], "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(picked("kbs.acme"), t[0].tunnel);
	registry_remove(r, &t[1]);
	registry_remove(r, &t[2]);
	registry_remove(r, &t[0]);
	end();
}

/* Each keeps its place while it is away, though all have gone at a time; but not for ever. */
static void test_ranks(void)
{
	static struct registration t[REGISTRY_FORMER + 2];
	static char name[REGISTRY_FORMER + 2][16];
	enum { N = REGISTRY_FORMER + 2 };
	struct offer stale;

	begin();
	for (int i = 0; i < N; i++) {
		snprintf(name[i], sizeof(name[i]), "i%d", i);
		t[i] = tunnel("acme", name[i], 1);
		CHECK_INT(add(&t[i], "kbs.acme", &stale), REASON_NONE);
	}
	for (int i = 0; i < N; i++)
		registry_remove(r, &t[i]);
	CHECK_INT(picked("kbs.acme"), 0);
	for (int i = N - 1; i >= 0; i--) { /* 0 and 1 went first, and are new ones */
		CHECK_INT(add(&t[i], "kbs.acme", &stale), REASON_NONE);
		CHECK_INT(picked("kbs.acme"), t[i > 1 ? i : 2].tunnel);
	}
	/* one that is retired and then gone is remembered once, its next session has its place */
	registry_retire(r, &t[2]);
	CHECK_INT(picked("kbs.acme"), t[3].tunnel);
	registry_remove(r, &t[2]);
	CHECK_INT(add(&t[2], "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(picked("kbs.acme"), t[2].tunnel);
	for (int i = 0; i < N; i++)
		registry_remove(r, &t[i]);
	end();
}

/* ---- of several ---- */

/* The offer is kept: it counts as a stream. */
static struct offer choose(int balance, uint64_t client)
{
	const struct wanted wanted = { .service = "kbs.acme", .balance = balance,
				       .client = client };
	struct offer o;

	CHECK(registry_pick(r, &wanted, &o));
	return o;
}

static void test_least_streams(void)
{
	struct registration t[3] = { tunnel("acme", "i1", 1), tunnel("acme", "i2", 1),
				     tunnel("acme", "i3", 1) };
	struct offer o[9], stale, other, next;

	begin();
	for (int i = 0; i < 3; i++)
		CHECK_INT(add(&t[i], "kbs.acme", &stale), REASON_NONE);
	for (int i = 0; i < 9; i++) { /* evenly, the oldest first */
		o[i] = choose(BALANCE_LEAST_STREAMS, 0);
		CHECK_INT(o[i].tunnel, t[i % 3].tunnel);
	}
	registry_unload(o[1].load); /* of i2 */
	o[1] = choose(BALANCE_LEAST_STREAMS, 0);
	CHECK_INT(o[1].tunnel, t[1].tunnel);
	registry_remove(r, &t[0]); /* its streams may outlive it */
	for (int i = 0; i < 9; i += 3)
		registry_unload(o[i].load);
	CHECK_INT(add(&t[0], "kbs.acme", &stale), REASON_NONE); /* back, without any */
	for (int i = 0; i < 9; i += 3) {
		o[i] = choose(BALANCE_LEAST_STREAMS, 0);
		CHECK_INT(o[i].tunnel, t[0].tunnel);
	}
	other = choose(BALANCE_PRIMARY, 0); /* counts all the same */
	next = choose(BALANCE_LEAST_STREAMS, 0);
	CHECK_INT(next.tunnel, t[1].tunnel);
	registry_unload(next.load);
	registry_unload(other.load);
	for (int i = 0; i < 9; i++)
		registry_unload(o[i].load);
	for (int i = 0; i < 3; i++)
		registry_remove(r, &t[i]);
	end();
}

/* Of many clients: who is whose is even, and when one goes only its own move, and move back. */
static void test_sticky(void)
{
	enum { TUNNELS = 5, CLIENTS = 5000 };
	static uint64_t before[CLIENTS];
	struct registration t[TUNNELS];
	static char name[TUNNELS][8];
	unsigned each[TUNNELS] = { 0 };
	struct offer stale;

	begin();
	for (unsigned i = 0; i < TUNNELS; i++) {
		snprintf(name[i], sizeof(name[i]), "i%u", i);
		t[i] = tunnel("acme", name[i], 1);
		CHECK_INT(add(&t[i], "kbs.acme", &stale), REASON_NONE);
	}
	for (unsigned phase = 0; phase < 3; phase++) {
		if (phase == 1)
			registry_remove(r, &t[2]);
		if (phase == 2)
			CHECK_INT(add(&t[2], "kbs.acme", &stale), REASON_NONE);
		for (uint32_t i = 0; i < CLIENTS; i++) {
			struct client k = { .peer.family = AF_INET, .peer.port = (uint16_t)phase };
			struct offer o;

			memcpy(k.peer.ip, &i, sizeof(i));
			o = choose(BALANCE_STICKY, balance_client(&k));
			registry_unload(o.load);
			for (unsigned j = 0; phase == 0 && j < TUNNELS; j++)
				each[j] += o.tunnel == t[j].tunnel;
			if (phase == 0)
				before[i] = o.tunnel;
			if (phase != 1 || before[i] != t[2].tunnel)
				CHECK_INT(o.tunnel, before[i]);
			else
				CHECK(o.tunnel != t[2].tunnel);
		}
	}
	for (unsigned i = 0; i < TUNNELS; i++) {
		CHECK(each[i] > CLIENTS / TUNNELS * 4 / 5);
		CHECK(each[i] < CLIENTS / TUNNELS * 6 / 5);
		registry_remove(r, &t[i]);
	}
	end();
}

static uint64_t who(struct client k)
{
	return balance_client(&k);
}

/* What makes a client the same one, and what another. */
static void test_identity(void)
{
	const struct client six = { .peer = { .family = AF_INET6, .port = 1,
					      .ip = { 0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 1 } } };
	const struct client guest = { .peer = { .family = AF_VSOCK, .a = 42, .b = 1025 } };
	const struct client local = { .peer = { .family = AF_UNIX, .a = 4711, .b = 107 } };
	const struct client shown = { .peer = six.peer, .verified = true, .subject = "vm-1" };
	struct client k = six;

	k.peer.port = 2;
	k.peer.ip[15] = 9;
	CHECK(who(k) == who(six));
	k.peer.ip[7] = 8;
	CHECK(who(k) != who(six));
	k = guest;
	k.peer.b = 1026;
	CHECK(who(k) == who(guest));
	k.peer.a = 43;
	CHECK(who(k) != who(guest));
	k = local;
	k.peer.a = 4712;
	CHECK(who(k) == who(local));
	k.peer.b = 0;
	CHECK(who(k) != who(local));
	k = shown;
	k.peer = guest.peer;
	CHECK(who(k) == who(shown));
	k.verified = false; /* whatever it says of itself */
	CHECK(who(k) == who(guest));
	/* the same in every relay: a change would part clients from their agents */
	CHECK_INT(balance_instance("acme", "i1"), balance_instance("acme", "i1"));
	CHECK(balance_instance("acme", "i1") != balance_instance("beta", "i1"));
}

static void test_take_over(void)
{
	struct registration old = tunnel("acme", "i1", 5), young = tunnel("acme", "i1", 6),
			    same = tunnel("acme", "i1", 6), older = tunnel("acme", "i1", 2),
			    other = tunnel("beta", "i1", 1);
	struct offer stale;

	begin();
	CHECK_INT(add(&old, "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(add(&other, "kbs.beta", &stale), REASON_NONE); /* another owner's i1 */
	CHECK(!stale.worker);

	CHECK_INT(add(&older, "kbs.acme", &stale), REASON_STALE);
	CHECK(!stale.worker);
	CHECK_INT(picked("kbs.acme"), old.tunnel);

	/* it may offer other services than before: the old ones are gone with the old session */
	CHECK_INT(add(&young, "tang.acme", &stale), REASON_NONE);
	CHECK(stale.worker == worker_a);
	CHECK_INT(stale.tunnel, old.tunnel);
	CHECK_INT(picked("kbs.acme"), 0);
	CHECK_INT(picked("tang.acme"), young.tunnel);
	CHECK_INT(registry_tunnels(r), 2);

	CHECK_INT(add(&same, "tang.acme", &stale), REASON_STALE); /* as new is not newer */
	CHECK_INT(registry_tunnels(r), 2);

	registry_remove(r, &old); /* closed later: takes nothing of its successor's */
	CHECK_INT(picked("tang.acme"), young.tunnel);
	CHECK_INT(registry_tunnels(r), 2);
	registry_remove(r, &young);
	registry_remove(r, &other);
	end();
}

static void test_limits(void)
{
	struct registration t[3] = { tunnel("acme", "i1", 1), tunnel("acme", "i2", 1),
				     tunnel("acme", "i3", 1) };
	struct registration next = tunnel("acme", "i2", 2),
			    beta[2] = { tunnel("beta", "i1", 1), tunnel("beta", "i2", 1) };
	const struct offered s = { .service = "kbs.acme" }, b = { .service = "kbs.beta" };
	struct offer stale;

	begin();
	CHECK_INT(registry_add(r, &t[0], &s, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(registry_add(r, &t[1], &s, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(registry_add(r, &t[2], &s, 1, 2, 3, &stale), REASON_OWNER_LIMIT);
	/* who only asks is told the same, and is not listed for it */
	CHECK_INT(registry_ask(r, &t[2], 2, 3), REASON_OWNER_LIMIT);
	CHECK_INT(registry_ask(r, &next, 2, 3), REASON_NONE);
	CHECK_INT(registry_ask(r, &t[1], 2, 3), REASON_STALE);
	CHECK_INT(registry_ask(r, &beta[0], 2, 2), REASON_LIMIT);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(registry_services(r), 2);
	/* a successor adds none, so it is let in at the limit */
	CHECK_INT(registry_add(r, &next, &s, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(stale.tunnel, t[1].tunnel);
	CHECK_INT(registry_add(r, &beta[0], &b, 1, 2, 3, &stale), REASON_NONE);
	CHECK_INT(registry_add(r, &beta[1], &b, 1, 2, 3, &stale), REASON_LIMIT); /* all */
	CHECK_INT(registry_tunnels(r), 3);
	registry_remove(r, &t[0]);
	CHECK_INT(registry_add(r, &beta[1], &b, 1, 2, 3, &stale), REASON_NONE);
	registry_remove(r, &next);
	registry_remove(r, &beta[0]);
	registry_remove(r, &beta[1]);
	end();
}

/* Retiring: no new streams, no longer in the way of its successor, still counted. */
static void test_retire(void)
{
	struct registration t = tunnel("acme", "i1", 3), backup = tunnel("acme", "i2", 1),
			    next = tunnel("acme", "i1", 3);
	struct offer stale;

	begin();
	CHECK_INT(add(&t, "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(add(&backup, "kbs.acme", &stale), REASON_NONE);
	registry_retire(r, &t);
	CHECK(t.retiring);
	CHECK_INT(picked("kbs.acme"), backup.tunnel);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(registry_services(r), 1);

	/* the fresh session of the same instance: it finishes its streams, nobody closes it */
	CHECK_INT(add(&next, "kbs.acme", &stale), REASON_NONE);
	CHECK(!stale.worker);
	CHECK_INT(registry_tunnels(r), 3);
	registry_remove(r, &t);
	CHECK_INT(registry_tunnels(r), 2);
	CHECK_INT(picked("kbs.acme"), next.tunnel); /* in its old place */
	registry_remove(r, &backup);
	CHECK_INT(picked("kbs.acme"), next.tunnel);
	registry_remove(r, &next);
	end();
}

/* Sessions that were asked to move go on beside their successors, and count as they do. */
static void test_move(void)
{
	const struct offered s = { .service = "kbs.acme" };
	struct registration t[4];
	struct offer stale;

	begin();
	for (unsigned i = 0; i < 4; i++)
		t[i] = tunnel("acme", "i1", i + 1);
	CHECK_INT(registry_add(r, &t[0], &s, 1, 2, 3, &stale), REASON_NONE);
	for (unsigned i = 1; i < 3; i++) {
		registry_move(r, &t[i - 1]);
		CHECK_INT(picked("kbs.acme"), t[i - 1].tunnel); /* until the next one is there */
		CHECK_INT(registry_add(r, &t[i], &s, 1, 2, 3, &stale), REASON_NONE);
		CHECK_INT(stale.tunnel, t[i - 1].tunnel);
		CHECK(t[i - 1].retiring && !t[i].retiring);
		CHECK_INT(picked("kbs.acme"), t[i].tunnel);
		CHECK_INT(registry_tunnels(r), i + 1);
	}
	registry_move(r, &t[2]);
	CHECK_INT(registry_add(r, &t[3], &s, 1, 2, 9, &stale), REASON_OWNER_LIMIT);
	CHECK_INT(registry_add(r, &t[3], &s, 1, 9, 2, &stale), REASON_LIMIT);
	CHECK_INT(picked("kbs.acme"), t[2].tunnel);
	registry_remove(r, &t[0]);
	CHECK_INT(registry_add(r, &t[3], &s, 1, 2, 3, &stale), REASON_NONE);
	for (unsigned i = 1; i < 4; i++)
		registry_remove(r, &t[i]);
	end();
}

/* Thousands of services come and go; each is found while it is there. */
static void test_many(void)
{
	enum { TUNNELS = 50, SERVICES = 40 };
	static struct registration t[TUNNELS];
	static char owner[TUNNELS][16], name[TUNNELS][SERVICES][32];
	struct offered s[SERVICES];
	struct offer stale;

	begin();
	for (unsigned i = 0; i < TUNNELS; i++) {
		snprintf(owner[i], sizeof(owner[i]), "o%u", i);
		for (unsigned k = 0; k < SERVICES; k++) {
			snprintf(name[i][k], sizeof(name[i][k]), "s%u.o%u", (k * 7919) % 1000, i);
			s[k] = (struct offered){ .service = name[i][k] };
		}
		t[i] = tunnel(owner[i], "i", 1);
		CHECK_INT(registry_add(r, &t[i], s, SERVICES, 1, TUNNELS, &stale), REASON_NONE);
	}
	CHECK_INT(registry_services(r), TUNNELS * SERVICES);
	for (unsigned i = 0; i < TUNNELS; i += 2)
		registry_remove(r, &t[i]);
	for (unsigned i = 0; i < TUNNELS; i++)
		for (unsigned k = 0; k < SERVICES; k++)
			CHECK_INT(picked(name[i][k]), i % 2 ? t[i].tunnel : 0);
	for (unsigned i = 1; i < TUNNELS; i += 2)
		registry_remove(r, &t[i]);
	end();
}

/* ---- at random, against a model ---- */

enum {
	CROWD = 5000,     /* tunnels that come and go */
	OWNERS = 50,      /* half of all comes from the first */
	INSTANCES = 2000, /* of the first owner; ... */
	FEW = 40,         /* ... of each other */
	LABELS = 6,       /* of each owner's services */
	OFFERED_MAX = 4,  /* of them by one tunnel */
	ASKED_MAX = 8,    /* of one service's tunnels, one after the other */
	OWNED_MAX = 900,  /* limits that are met */
	CROWD_MAX = 1800,
	STEPS = 40000,
};

/* What the model knows of a tunnel; the registry is told by names. */
struct member {
	struct registration t;
	enum { AWAY, LIVE, RETIRING } state;
	unsigned owner, instance;
	uint64_t rank;
};

/* One place in the one long queue of the model. */
struct place {
	unsigned service; /* owner * LABELS + label */
	const struct member *member;
	bool eager;
};

static struct member crowd[CROWD];
static struct place queue[CROWD * OFFERED_MAX];
static size_t queued;
static char owner_name[OWNERS][16], instance_name[INSTANCES][16];
static char service_name[OWNERS * LABELS][32];

/* Of each owner: who went, in that order, and with which rank. */
static struct gone {
	unsigned instance;
	uint64_t rank;
} gone[OWNERS][REGISTRY_FORMER];
static unsigned n_gone[OWNERS];
static uint64_t ranks;

/* Numbers that are the same each time. */
static unsigned below(unsigned bound)
{
	static uint64_t state = 1;

	state = state * 6364136223846793005 + 1442695040888963407;
	return (unsigned)(state >> 33) % bound;
}

static void model_drop(const struct member *m)
{
	size_t kept = 0;

	for (size_t i = 0; i < queued; i++)
		if (queue[i].member != m)
			queue[kept++] = queue[i];
	queued = kept;
}

static void model_offer(const struct member *m, const struct member *old, struct place place)
{
	size_t at = 0;

	for (size_t i = 0; old && i < queued; i++) {
		if (queue[i].member == old && queue[i].service == place.service) {
			queue[i] = place;
			return;
		}
	}
	while (at < queued &&
	       (queue[at].service != place.service || queue[at].member->rank < m->rank))
		at++;
	memmove(&queue[at + 1], &queue[at], (queued++ - at) * sizeof(queue[0]));
	queue[at] = place;
}

static void model_remember(const struct member *m)
{
	struct gone *of = gone[m->owner];

	if (n_gone[m->owner] == REGISTRY_FORMER)
		memmove(of, of + 1, --n_gone[m->owner] * sizeof(*of));
	of[n_gone[m->owner]++] = (struct gone){ m->instance, m->rank };
}

static uint64_t model_rank(const struct member *m)
{
	struct gone *of = gone[m->owner];
	uint64_t rank;

	for (unsigned i = 0; i < n_gone[m->owner]; i++) {
		if (of[i].instance != m->instance)
			continue;
		rank = of[i].rank;
		memmove(of + i, of + i + 1, (--n_gone[m->owner] - i) * sizeof(*of));
		return rank;
	}
	return ++ranks;
}

static struct member *model_judge(const struct member *m, enum reason *why)
{
	unsigned all = 0, owned = 0;
	struct member *old = NULL;
	bool excused = false;

	for (struct member *i = crowd; i < crowd + CROWD; i++) {
		bool same = i->owner == m->owner && i->instance == m->instance;

		if (i->state == AWAY)
			continue;
		all++;
		owned += i->owner == m->owner;
		excused |= same && i->state == RETIRING;
		if (same && i->state == LIVE)
			old = i;
	}
	*why = REASON_NONE;
	if (old && old->t.generation >= m->t.generation)
		*why = REASON_STALE;
	else if (!old && owned - excused >= OWNED_MAX)
		*why = REASON_OWNER_LIMIT;
	else if (!old && all >= CROWD_MAX)
		*why = REASON_LIMIT;
	return old;
}

static enum reason come(struct member *m)
{
	struct offered services[OFFERED_MAX];
	struct place places[OFFERED_MAX];
	unsigned n = 1 + below(OFFERED_MAX), label = below(LABELS);
	struct offer stale;
	struct member *old;
	enum reason why;

	m->owner = below(2) ? 0 : below(OWNERS);
	m->instance = below(m->owner ? FEW : INSTANCES);
	m->t = tunnel(owner_name[m->owner], instance_name[m->instance], below(1000));
	for (unsigned i = 0; i < n; i++) {
		places[i] = (struct place){ m->owner * LABELS + (label + i) % LABELS, m, below(2) };
		services[i] = (struct offered){ service_name[places[i].service], places[i].eager };
	}
	old = model_judge(m, &why);
	CHECK_INT(registry_add(r, &m->t, services, n, OWNED_MAX, CROWD_MAX, &stale), why);
	CHECK_INT(stale.tunnel, why == REASON_NONE && old ? old->t.tunnel : 0);
	if (why != REASON_NONE)
		return why;
	m->rank = old ? old->rank : model_rank(m);
	for (unsigned i = 0; i < n; i++)
		model_offer(m, old, places[i]);
	if (old) {
		model_drop(old);
		old->state = AWAY;
	}
	m->state = LIVE;
	return why;
}

/* Of those that are away too: nothing happens then. */
static void leave(struct member *m, bool for_good)
{
	if (for_good)
		registry_remove(r, &m->t);
	else
		registry_retire(r, &m->t);
	model_drop(m);
	if (m->state == LIVE)
		model_remember(m);
	if (for_good || m->state == AWAY)
		m->state = AWAY;
	else
		m->state = RETIRING;
}

/* Picks until none is left: all of the queue, in its order. */
static void compare_picks(unsigned service)
{
	uint64_t asked[ASKED_MAX];
	size_t n = 0;
	struct offer o;

	for (size_t i = 0; i < queued && n < ASKED_MAX; i++) {
		if (queue[i].service != service)
			continue;
		CHECK(pick(service_name[service], asked, n, &o));
		CHECK_INT(o.tunnel, queue[i].member->t.tunnel);
		CHECK(o.worker == worker_a);
		CHECK_INT(o.eager, queue[i].eager);
		asked[n++] = o.tunnel;
	}
	if (n < ASKED_MAX)
		CHECK(!pick(service_name[service], asked, n, &o));
}

static void compare(unsigned service)
{
	size_t there = 0;

	for (unsigned i = 0; i < CROWD; i++)
		there += crowd[i].state != AWAY;
	CHECK_INT(registry_tunnels(r), there);
	CHECK_INT(registry_services(r), queued);
	compare_picks(service);
}

static void test_model(void)
{
	unsigned ends[3] = { 0 }; /* in, stale, limit */

	begin();
	for (unsigned i = 0; i < OWNERS; i++)
		snprintf(owner_name[i], sizeof(owner_name[i]), "o%u", i);
	for (unsigned i = 0; i < INSTANCES; i++)
		snprintf(instance_name[i], sizeof(instance_name[i]), "i%u", i);
	for (unsigned i = 0; i < OWNERS * LABELS; i++)
		snprintf(service_name[i], sizeof(service_name[i]), "s%u.o%u", i % LABELS,
			 i / LABELS);
	for (unsigned i = 0; i < STEPS; i++) {
		struct member *m = &crowd[below(CROWD)];
		/* tides: mostly coming, then mostly going */
		bool ebb = i / (STEPS / 8) % 2;

		if (m->state == AWAY && below(16) < (ebb ? 2 : 15)) {
			enum reason why = come(m);

			ends[why == REASON_NONE ? 0 : why == REASON_STALE ? 1 : 2]++;
		} else if (m->state == AWAY || ebb || below(4) == 0) {
			leave(m, m->state == RETIRING || below(3) == 0);
		}
		compare(below(2) ? below(LABELS) : below(OWNERS * LABELS));
	}
	for (unsigned i = 0; i < 3; i++)
		CHECK(ends[i] > 100); /* else the dice are loaded */
	for (unsigned i = 0; i < CROWD; i++)
		leave(&crowd[i], true);
	end();
}

/* What is listed still when the registry goes is let go. */
static void test_free(void)
{
	struct registration live = tunnel("acme", "i1", 1), retiring = tunnel("acme", "i2", 1);
	struct offer stale;

	begin();
	CHECK_INT(add(&live, "kbs.acme", &stale), REASON_NONE);
	CHECK_INT(add(&retiring, "kbs.acme", &stale), REASON_NONE);
	registry_retire(r, &retiring);
	CHECK(!registry_free(r));
	CHECK(!live.entries && !live.counted && !retiring.counted);
}

/* From several threads at once: each finds its own, and nothing is left. */
static void *come_and_go(void *arg)
{
	const char *owner = arg;
	char service[32];
	struct registration t = { .worker = worker_a, .owner = owner, .instance = "i" };
	struct offered s = { .service = service };
	struct offer stale, o;

	snprintf(service, sizeof(service), "kbs.%s", owner);
	for (unsigned i = 1; i <= 2000; i++) {
		t.tunnel = i;
		t.generation = i;
		CHECK_INT(registry_add(r, &t, &s, 1, 1, NO_LIMIT, &stale), REASON_NONE);
		CHECK(pick(service, NULL, 0, &o));
		CHECK_INT(o.tunnel, i);
		registry_remove(r, &t);
		CHECK(!pick(service, NULL, 0, &o));
	}
	return NULL;
}

static void test_threads(void)
{
	static char owners[4][8] = { "a", "b", "c", "d" };
	pthread_t threads[4];

	begin();
	for (int i = 0; i < 4; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, come_and_go, owners[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	end();
}

int main(void)
{
	test_pick();
	test_backups();
	test_ranks();
	test_least_streams();
	test_sticky();
	test_identity();
	test_take_over();
	test_limits();
	test_retire();
	test_move();
	test_many();
	test_model();
	test_free();
	test_threads();
	return 0;
}
