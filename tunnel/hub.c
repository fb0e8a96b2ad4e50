/*
 * hub: the relay's side of tunnels.
 *
 * Theory of operation: a tunnel is one session from an agent, in one worker for life.
 *
 *   UPGRADING  WebSocket only: its handshake, inside TLS
 *   ASKED      hello sent; the answer has timeouts.handshake
 *   UP         accepted, in the registry; streams are opened
 *   MOVING     asked to come back on a fresh session (stream ids run out); still as UP
 *   RETIRING   replaced by that session, or its agent is leaving: live streams finish, no new ones
 *   OVER       counted and forgotten; its session says its last words
 *
 * The credential is compared with every token of every owner, each in constant time, so that the
 * time taken tells nothing. The owner part of each service's name comes from the owner found, never
 * from the agent. A take-over is decided by the registry and carried out in the stale tunnel's own
 * worker.
 *
 * Tunnels are found by id through a table of slots per worker. Limits: limits.tunnels,
 * limits.per_owner.tunnels; half-done ones by limits.connections and the time-out.
 *
 * Longer than other files: a tunnel's life, from credential to end, is judged in one place.
 */
#include "tunnel/hub.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "relay/conduit.h"
#include "relay/gateway.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/registry.h"
#include "relay/tls.h"
#include "relay/token.h"
#include "relay/worker.h"
#include "tunnel/hello.h"
#include "tunnel/session.h"
#include "tunnel/ws.h"

#define NOTSENT_LOWAT (128 * 1024) /* bytes in the kernel not yet sent: keeps small streams quick */

enum tunnel_state { UPGRADING, ASKED, UP, MOVING, RETIRING, OVER };

struct tunnel {
	struct gateway *gateway;
	struct worker *worker;
	struct session *session;
	struct ws_opening *upgrade;
	enum tunnel_state state;
	uint64_t id, began;
	uint32_t slot;
	int32_t hello; /* the hello's stream */
	bool websocket, listed;
	bool moved; /* by our wish: its streams stay for as long as they live */
	struct client client;
	struct timer timer;
	struct registration registration;
	const struct owner_config *owner;
	char instance[HELLO_INSTANCE_MAX];
	struct reapable reapable;
};

struct hub_worker {
	struct tunnel **slot;
	uint32_t slots;
};

static struct hub_worker *hub_of(const struct worker *w)
{
	return gateway_worker(w)->tunnels;
}

/* ---- slots ---- */

static bool slot_take(struct hub_worker *h, struct tunnel *t)
{
	uint32_t i = 0, slots = h->slots ? h->slots * 2 : 64;
	struct tunnel **table;

	while (i < h->slots && h->slot[i])
		i++;
	if (i == h->slots) {
		table = realloc(h->slot, slots * sizeof(struct tunnel *));
		if (!table)
			return false;
		memset(table + h->slots, 0, (slots - h->slots) * sizeof(struct tunnel *));
		h->slot = table;
		h->slots = slots;
	}
	h->slot[i] = t;
	t->slot = i;
	t->id = gateway_next_id(t->gateway) << 24 | i; /* 16 million tunnels a worker */
	return true;
}

static struct tunnel *slot_find(const struct hub_worker *h, uint64_t id)
{
	uint32_t i = id & 0xffffff;

	return h && i < h->slots && h->slot[i] && h->slot[i]->id == id ? h->slot[i] : NULL;
}

/* ---- words ---- */

static void label(const struct tunnel *t, char *buf, size_t size)
{
	snprintf(buf, size, "%s/%s", t->owner ? t->owner->name : "?",
		 *t->instance ? t->instance : "?");
}

static const char *carrier_word(const struct tunnel *t)
{
	return t->websocket ? "websocket" : "direct";
}

static void log_ended(const struct tunnel *t, enum reason why, const char *detail)
{
	char name[136], from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX], both[CLIENT_TEXT_MAX];
	uint64_t ms = worker_now(t->worker) - t->began;
	uint64_t streams = t->session ? session_opened(t->session) : 0;
	const struct log_field fields[] = {
		{ "tunnel", name, 0 },
		{ "agent", peer_format(&t->client.peer, from, sizeof(from)), 0 },
		{ "carrier", carrier_word(t), 0 },
		{ "streams", NULL, streams },
		{ "duration_ms", NULL, ms },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", client_proxy(&t->client, proxy, sizeof(proxy)), 0 }, /* the last */
	};
	const unsigned n = sizeof(fields) / sizeof(fields[0]) - !*proxy;

	label(t, name, sizeof(name));
	client_format(&t->client, both, sizeof(both));
	if (t->listed)
		log_fields(LOG_LEVEL_INFO, fields, n,
			   "tunnel %s from %s (%s) ended: %s (%s), %" PRIu64 " streams, %" PRIu64
			   " s",
			   name, both, carrier_word(t), reason_word(why), detail, streams,
			   ms / 1000);
	else
		log_limited(LOG_LEVEL_WARNING, fields, n, "tunnel %s from %s (%s) refused: %s: %s",
			    name, both, carrier_word(t), reason_word(why), detail);
}

/* ---- the end ---- */

static void on_free(struct reapable *r)
{
	free((char *)r - offsetof(struct tunnel, reapable));
}

/*
 * The tunnel is out of service: said, counted, its names free. Its session may take a moment more
 * to hand over its last words, and its connection counts until then.
 */
static void out_of_service(struct tunnel *t, enum reason why, const char *detail)
{
	if (t->state == OVER)
		return;
	log_ended(t, why, detail);
	t->state = OVER;
	timer_cancel(t->worker, &t->timer);
	registry_remove(t->gateway->registry, &t->registration);
	if (t->listed)
		counter_add(&t->worker->counters.value[COUNTER_LIVE_TUNNELS], (uint64_t)-1);
	counter_add(&t->worker->counters.sessions[why], 1);
}

/* There is no session (any more). */
static void tunnel_free(struct tunnel *t, enum reason why, const char *detail)
{
	out_of_service(t, why, detail);
	ws_opening_cancel(t->upgrade);
	hub_of(t->worker)->slot[t->slot] = NULL;
	gateway_target_restored(t->gateway);
	gateway_connection_over(t->gateway);
	worker_reap(t->worker, &t->reapable);
}

static void tunnel_close(struct tunnel *t, enum reason why, const char *detail)
{
	out_of_service(t, why, detail);
	if (t->session)
		session_close(t->session, why, detail); /* its end frees */
	else
		tunnel_free(t, why, detail);
}

static void on_session_end(struct session *s, enum reason why, const char *detail)
{
	tunnel_free(session_user(s), why, detail);
}

static void on_timeout(struct timer *timer)
{
	struct tunnel *t = (struct tunnel *)((char *)timer - offsetof(struct tunnel, timer));

	tunnel_close(t, REASON_HANDSHAKE_TIMEOUT,
		     t->session ? "no answer to the hello" : "no WebSocket upgrade in time");
}

/* ---- hello ---- */

static void refuse(struct tunnel *t, enum hello_refusal word, enum reason why, const char *message)
{
	struct hello_refused refused = { .reason = word };
	struct fields fields;

	snprintf(refused.message, sizeof(refused.message), "%s", message);
	fields_init(&fields);
	if (hello_encode_refused(&refused, &fields) == 0)
		session_request(t->session, HELLO_PATH_REFUSED, &fields);
	tunnel_close(t, why, message);
}

/* All tokens are looked at, whatever matches. */
static const struct owner_config *owner_of(const struct relay_config *c, const char *token)
{
	const struct owner_config *found = NULL;
	uint8_t hash[TOKEN_HASH_BYTES];

	if (!token || !*token || token_hash(token, strlen(token), hash) < 0)
		return NULL;
	for (size_t i = 0; i < c->n_owners; i++)
		for (size_t j = 0; j < c->owners[i].tokens.n; j++)
			if (token_equal(hash, c->owners[i].tokens.at[j].hash.bytes))
				found = &c->owners[i];
	OPENSSL_cleanse(hash, sizeof(hash));
	return found;
}

static bool may_offer(const struct owner_config *o, const char *name)
{
	bool found = o->services.n == 0;

	for (size_t i = 0; i < o->services.n; i++)
		found |= strcasecmp(o->services.at[i], name) == 0;
	return found;
}

/* Everything accepted: says so, and wakes who waits. */
static void accepted(struct tunnel *t, const struct hello_accepted *words)
{
	char name[136], from[CLIENT_TEXT_MAX], list[256] = "";
	struct fields fields;
	size_t used = 0;

	t->state = UP;
	t->listed = true;
	timer_cancel(t->worker, &t->timer);
	counter_add(&t->worker->counters.value[COUNTER_TUNNELS], 1);
	counter_add(&t->worker->counters.value[COUNTER_LIVE_TUNNELS], 1);
	fields_init(&fields);
	if (hello_encode_accepted(words, &fields) < 0 ||
	    session_request(t->session, HELLO_PATH_ACCEPTED, &fields) < 0) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	for (unsigned i = 0; i < words->n_services; i++) {
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
						 i ? ", " : "", words->services[i]);
		opening_wake_all(t->gateway, words->services[i]);
	}
	label(t, name, sizeof(name));
	log_info("tunnel %s from %s (%s) up: %s", name,
		 client_format(&t->client, from, sizeof(from)), carrier_word(t), list);
}

static void on_retired_late(struct timer *timer)
{
	struct tunnel *t = (struct tunnel *)((char *)timer - offsetof(struct tunnel, timer));

	tunnel_close(t, REASON_GOING_AWAY, "retired: streams did not end in timeouts.drain");
}

/* No new streams; those there are have timeouts.drain if their agent is leaving. */
static void retire(struct tunnel *t)
{
	t->state = RETIRING;
	if (!t->moved)
		timer_set(t->worker, &t->timer, t->gateway->config->timeouts.drain,
			  on_retired_late);
	session_retire(t->session);
}

static void replaced(struct worker *w, void *arg)
{
	uint64_t *id = arg;
	struct tunnel *t = slot_find(hub_of(w), *id);

	free(id);
	if (!t || !t->session || t->state == OVER)
		return;
	if (t->state == MOVING || t->state == RETIRING) {
		retire(t);
	} else {
		tunnel_close(t, REASON_REPLACED,
			     "the same instance is back with a higher generation");
	}
}

static void replace(const struct offer *stale)
{
	uint64_t *id = malloc(sizeof(*id));

	if (id)
		*id = stale->tunnel;
	if (!id || worker_post(stale->worker, replaced, id) < 0) {
		/* it has lost its services already; its own dead time-out ends it */
		free(id);
	}
}

static void enroll(struct tunnel *t, const struct hello *hello)
{
	const struct relay_limits *limits = &t->gateway->config->limits;
	struct offered services[HELLO_SERVICES_MAX];
	struct hello_accepted words = { .n_services = hello->n_offers };
	struct offer stale;
	enum reason why;

	snprintf(words.owner, sizeof(words.owner), "%s", t->owner->name);
	for (unsigned i = 0; i < hello->n_offers; i++) {
		snprintf(words.services[i], sizeof(words.services[i]), "%s.%s",
			 hello->offers[i].name, t->owner->name);
		services[i] = (struct offered){ words.services[i], hello->offers[i].eager };
	}
	t->registration = (struct registration){ .worker = t->worker,
						 .tunnel = t->id,
						 .owner = t->owner->name,
						 .instance = t->instance,
						 .generation = hello->generation };
	why = registry_add(t->gateway->registry, &t->registration, services, hello->n_offers,
			   limits->per_owner.tunnels, limits->tunnels, &stale);
	if (why == REASON_STALE) {
		refuse(t, HELLO_STALE, why,
		       "another agent with this instance name is connected and newer; if both are "
		       "yours, give each its own --instance");
	} else if (why != REASON_NONE) {
		refuse(t, HELLO_LIMIT, why, "the relay's limit of tunnels is reached");
	} else {
		if (stale.tunnel)
			replace(&stale);
		accepted(t, &words);
	}
}

static void on_hello(struct tunnel *t, const struct fields *fields)
{
	char why[HELLO_WHY_MAX], message[HELLO_MESSAGE_MAX];
	struct hello hello;

	if (hello_decode(&hello, fields, why) < 0) {
		refuse(t, HELLO_PROTOCOL, REASON_PROTOCOL, why);
		return;
	}
	t->owner = owner_of(t->gateway->config, hello.token);
	if (!t->owner) {
		refuse(t, HELLO_BAD_CREDENTIAL, REASON_BAD_CREDENTIAL,
		       "the token is not known to this relay; ask its operator for a new one");
		return;
	}
	snprintf(t->instance, sizeof(t->instance), "%s", hello.instance);
	for (unsigned i = 0; i < hello.n_offers; i++) {
		if (may_offer(t->owner, hello.offers[i].name))
			continue;
		snprintf(message, sizeof(message),
			 "owner %s may not offer the service %s; the relay's operator decides "
			 "which",
			 t->owner->name, hello.offers[i].name);
		refuse(t, HELLO_FORBIDDEN, REASON_FORBIDDEN, message);
		return;
	}
	enroll(t, &hello);
}

static void on_reply(struct session *s, int32_t id, int status, const struct fields *fields)
{
	struct tunnel *t = session_user(s);

	if (id != t->hello || t->state != ASKED)
		return; /* to accepted, refused or move: nothing depends on it */
	if (status == 200)
		on_hello(t, fields);
	else
		tunnel_close(t, REASON_PROTOCOL, "the agent did not answer the hello with 200");
}

static void on_goaway(struct session *s)
{
	struct tunnel *t = session_user(s);

	if (t->state != UP && t->state != MOVING)
		return;
	registry_retire(t->gateway->registry, &t->registration);
	retire(t);
}

static void on_exhausted(struct session *s)
{
	struct tunnel *t = session_user(s);
	struct fields fields;

	if (t->state != UP)
		return;
	t->state = MOVING;
	t->moved = true;
	fields_init(&fields);
	if (hello_encode_move(HELLO_MOVE_STREAM_IDS, &fields) == 0)
		session_request(s, HELLO_PATH_MOVE, &fields);
}

static const struct session_events events = {
	.reply = on_reply,
	.goaway = on_goaway,
	.exhausted = on_exhausted,
	.end = on_session_end,
};

/* ---- coming in ---- */

static struct tunnel *tunnel_new(struct gateway *g, struct worker *w,
				 const struct client *client)
{
	struct tunnel *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->gateway = g;
	t->worker = w;
	t->client = *client;
	t->began = worker_now(w);
	t->reapable.free = on_free;
	if (!slot_take(hub_of(w), t)) {
		free(t);
		return NULL;
	}
	timer_set(w, &t->timer, g->config->timeouts.handshake, on_timeout);
	gateway_target_unneeded(g);
	return t;
}

static void start_session(struct tunnel *t, struct conduit *carrier)
{
	const struct relay_config *c = t->gateway->config;
	const struct session_limits limits = {
		.peer = SESSION_PEER_AGENT,
		.streams = (uint32_t)c->limits.streams_per_tunnel,
		.streams_total = (uint32_t)c->limits.streams_per_session,
		.stream_window = (uint32_t)c->limits.stream_window,
		.session_window = (uint32_t)c->limits.session_window,
		.ping_ms = c->timeouts.ping,
		.dead_ms = c->timeouts.dead,
	};

	t->state = ASKED;
	t->session = session_new(carrier, SESSION_CLIENT, &limits, &events, t);
	if (!t->session) {
		tunnel_free(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	t->hello = session_request(t->session, HELLO_PATH, NULL);
	if (t->hello < 0)
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
}

void hub_tune_socket(const struct gateway *g, int fd)
{
	int one = 1, lowat = NOTSENT_LOWAT;
	unsigned dead = (unsigned)g->config->timeouts.dead;

	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

static void turn_away(struct gateway *g, struct conduit *c)
{
	conduit_close(c, REASON_NO_MEMORY);
	gateway_connection_over(g);
}

static void hub_accept(struct gateway *g, struct worker *w, struct conduit *c,
		       const struct client *client)
{
	struct tunnel *t = tunnel_new(g, w, client);

	if (!t) {
		turn_away(g, c);
		return;
	}
	hub_tune_socket(g, tls_conduit_socket(c));
	start_session(t, c);
}

static void on_upgraded(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct tunnel *t = user;

	t->upgrade = NULL;
	if (c)
		start_session(t, c);
	else
		tunnel_free(t, why, detail);
}

static void hub_upgrade(struct gateway *g, struct worker *w, struct conduit *c,
			const struct client *client)
{
	static const struct ws_handshake_terms terms = {
		.path = HELLO_WEBSOCKET_PATH,
		.subprotocol = HELLO_WEBSOCKET_SUBPROTOCOL,
	};
	struct tunnel *t = tunnel_new(g, w, client);

	if (!t) {
		turn_away(g, c);
		return;
	}
	t->websocket = true;
	hub_tune_socket(g, tls_conduit_socket(c));
	t->upgrade = ws_accept(c, &terms, g->config->timeouts.handshake, on_upgraded, t);
	if (!t->upgrade)
		tunnel_free(t, REASON_NO_MEMORY, "out of memory");
}

/* ---- for the gateway ---- */

static bool hub_open(struct worker *w, uint64_t tunnel, const char *service,
		     const struct client_words *words, struct tunnel_stream *out, enum reason *why)
{
	struct tunnel *t = slot_find(hub_of(w), tunnel);
	struct conduit *c;

	*why = REASON_GOING_AWAY;
	if (!t || (t->state != UP && t->state != MOVING))
		return false;
	c = session_open(t->session, service, words, why);
	if (!c && *why == REASON_GOING_AWAY) { /* for good: others are to be asked from now on */
		registry_retire(t->gateway->registry, &t->registration);
		retire(t);
	}
	if (!c)
		return false;
	out->conduit = c;
	label(t, out->label, sizeof(out->label));
	return true;
}

static void hub_shutdown(struct worker *w)
{
	struct hub_worker *h = hub_of(w);

	for (uint32_t i = 0; i < h->slots; i++) {
		struct tunnel *t = h->slot[i];

		if (t)
			tunnel_close(t, REASON_SHUTDOWN, "the relay is shutting down");
	}
}

static bool hub_start(struct worker *w)
{
	struct hub_worker *h = calloc(1, sizeof(*h));

	gateway_worker(w)->tunnels = h;
	return h;
}

static void hub_stop(struct worker *w)
{
	struct hub_worker *h = hub_of(w);

	if (!h)
		return;
	free(h->slot);
	free(h);
	gateway_worker(w)->tunnels = NULL;
}

void hub_install(struct gateway *g)
{
	g->tunnel = (struct tunnel_side){
		.start = hub_start,
		.stop = hub_stop,
		.accept = hub_accept,
		.upgrade = hub_upgrade,
		.open = hub_open,
		.shutdown = hub_shutdown,
	};
}
