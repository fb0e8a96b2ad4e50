/*
 * hub: the relay's side of tunnels.
 *
 * Theory of operation: a tunnel is one session from an agent, in one worker for life.
 *
 *   UPGRADING  WebSocket only: its handshake, inside TLS
 *   ASKED      hello sent; the answer has timeouts.handshake
 *   UP         accepted, in the registry; streams are opened
 *   MOVING     asked to come back on a fresh session (stream ids run out), or to go elsewhere (the
 *              relay drains); still as UP
 *   RETIRING   replaced by that session, or its agent is leaving: live streams finish, no new ones
 *   OVER       counted and forgotten; its session says its last words
 *
 * The owner part of each service's name comes from the owner that the credential is of, never from
 * the agent. The credential is judged again with every reload, and its end waited for: then the
 * tunnel ends, and its streams with it. A take-over is decided by the registry and carried out in
 * the stale tunnel's own worker.
 *
 * Tunnels are found by id through a table of slots per worker. Limits: limits.tunnels,
 * limits.per_owner.tunnels; half-done ones as all handshakes are (relay/handshake.h).
 *
 * Longer than other files: a tunnel's life, from credential to end, is judged in one place.
 */
#include "tunnel/hub.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "relay/audit.h"
#include "relay/conduit.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/identity.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/registry.h"
#include "relay/tls.h"
#include "relay/token.h"
#include "relay/worker.h"
#include "tunnel/hello.h"
#include "tunnel/session.h"
#include "tunnel/ws.h"

#define NOTSENT_LOWAT (128 * 1024) /* bytes in the kernel not yet sent: keeps small streams quick \
				    */

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
	bool answered; /* it has only asked, and was told; it was never to be listed */
	bool moved; /* by our wish: its streams stay for as long as they live */
	struct client client;
	struct timer timer;
	struct handshake handshake;
	struct registration registration;
	struct listener *listener; /* a reference */
	/* What it has shown, to be judged again: the hash of its token, and client.identity. */
	bool by_token;
	uint8_t token[TOKEN_HASH_BYTES];
	char credential[65];             /* its label; "": none */
	uint64_t until;                  /* seconds since 1970: it is good until then */
	char owner[HELLO_LABEL_MAX];     /* "": not known yet */
	char (*offers)[HELLO_LABEL_MAX]; /* what it offers */
	unsigned n_offers;
	struct figure **figures; /* of those, held while it is listed; NULL: no memory for it */
	struct quota_entry *quota; /* the owner's; NULL: not known yet */
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
	snprintf(buf, size, "%s/%s", *t->owner ? t->owner : "?", *t->instance ? t->instance : "?");
}

static const char *carrier_word(const struct tunnel *t)
{
	return t->websocket ? "websocket" : "direct";
}

static void record(const struct tunnel *t, enum audit_kind kind, enum reason why,
		   const char *detail, const char *services)
{
	char name[136], from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX];
	const struct audit_record r = {
		.kind = kind,
		.why = why,
		.id = t->id,
		.client = peer_format(&t->client.peer, from, sizeof(from)),
		.via_proxy = client_proxy(&t->client, proxy, sizeof(proxy)),
		.client_identity = t->client.identity ? identity_text(t->client.identity) : NULL,
		.listener = t->listener->name,
		.door = "tunnel",
		.credential = t->credential,
		.owner = t->owner,
		.tunnel = *t->owner ? name : NULL,
		.carrier = carrier_word(t),
		.services = services,
		.streams = t->session ? session_opened(t->session) : 0,
		.duration_ms = worker_now(t->worker) - t->began,
		.detail = detail,
	};

	label(t, name, sizeof(name));
	if (kind == AUDIT_SESSION_REFUSED) {
		struct figure *listener = figures_of(t->gateway->figures, FIGURES_LISTENERS,
						     r.listener);

		figure_ended(listener, t->worker->index, why);
		figure_put(listener);
	}
	audit_write(gateway_audit(t->worker), &t->worker->counters, &r);
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
	else if (t->answered)
		log_info("agent %s from %s (%s) has asked what it may offer", name, both,
			 carrier_word(t));
	else
		log_limited(LOG_LEVEL_WARNING, fields, n, "tunnel %s from %s (%s) refused: %s: %s",
			    name, both, carrier_word(t), reason_word(why), detail);
}

/* ---- the end ---- */

static void on_free(struct reapable *r)
{
	struct tunnel *t = (struct tunnel *)((char *)r - offsetof(struct tunnel, reapable));

	identity_unref(t->client.identity);
	listener_unref(t->listener);
	free(t->offers);
	free(t->figures);
	free(t);
}

/* While tunnels offer a service it has figures of its own. */
static void hold_figures(struct tunnel *t, const struct hello_accepted *words)
{
	struct figures *all = t->gateway->figures;
	struct figure *owner;

	t->figures = calloc(words->n_services + 1, sizeof(struct figure *));
	for (unsigned i = 0; t->figures && i < words->n_services; i++)
		t->figures[i] = figures_offered(all, words->services[i]);
	owner = figures_of(all, FIGURES_OWNERS, t->owner);
	figure_add(owner, t->worker->index, FIGURE_ACCEPTED, 1);
	figure_put(owner);
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
	if (!t->answered)
		record(t, t->listed ? AUDIT_SESSION_END : AUDIT_SESSION_REFUSED, why, detail, NULL);
	t->state = OVER;
	timer_cancel(t->worker, &t->timer);
	handshake_end(&t->handshake);
	registry_remove(t->gateway->registry, &t->registration);
	if (t->listed)
		quota_give(&t->quota->quota, QUOTA_TUNNELS);
	t->quota = quotas_put(t->quota);
	if (t->listed)
		counter_add(&t->worker->counters.value[COUNTER_LIVE_TUNNELS], (uint64_t)-1);
	for (unsigned i = 0; t->figures && t->figures[i]; i++)
		figure_put(t->figures[i]);
}

/* There is no session (any more). */
static void tunnel_free(struct tunnel *t, enum reason why, const char *detail)
{
	out_of_service(t, why, detail);
	ws_opening_cancel(t->upgrade);
	hub_of(t->worker)->slot[t->slot] = NULL;
	gateway_target_restored(t->gateway);
	gateway_connection_over(t->client.source);
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

/*
 * Whose it is: by its token, or, if it shows none, by its certificate. Both at once must not name
 * two owners. REASON_NONE; or why it is nobody's.
 */
static enum reason judge_credential(const struct tunnel *t, const struct settings *s, uint64_t now,
				    struct credential *out)
{
	struct client client = t->client;
	struct credential other;
	enum reason why = settings_judge_identity(s, t->listener->name, client.identity, now);

	if (why != REASON_NONE)
		return why;
	if (t->by_token) {
		if (!credentials_by_token(s->credentials, t->token, out))
			return REASON_BAD_CREDENTIAL;
		if (client.identity &&
		    credentials_by_identity(s->credentials, client.identity, &other) &&
		    strcmp(other.owner->name, out->owner->name) != 0)
			return REASON_BAD_CREDENTIAL;
	} else if (!client.identity ||
		   !credentials_by_identity(s->credentials, client.identity, out)) {
		return REASON_BAD_CREDENTIAL;
	}
	return now < out->expires ? REASON_NONE : REASON_EXPIRED;
}

static const char *credential_words(const struct tunnel *t, enum reason why)
{
	if (why == REASON_EXPIRED)
		return "the credential has expired; ask the relay's operator for a new one";
	if (why == REASON_REVOKED)
		return "the certificate was revoked; ask the relay's operator for a new one";
	if (t->by_token)
		return "the token is not known to this relay, or the certificate beside it is "
		       "another owner's; ask its operator for a new one";
	if (t->client.identity)
		return "no owner of this relay has a certificate with these names; ask its "
		       "operator to list one of them, or show a token";
	return "neither a token nor a certificate of a CA that this relay takes was shown";
}

/* In words: "kbs.acme, tang.acme"; cut where it is too long. */
static void list_services(const struct hello_accepted *words, char *list, size_t size)
{
	size_t used = 0;

	*list = '\0';
	for (unsigned i = 0; i < words->n_services && used < size; i++)
		used += (size_t)snprintf(list + used, size - used, "%s%s", i ? ", " : "",
					 words->services[i]);
}

/* Asks for a fresh session, here or elsewhere; this one goes on until then. */
static void ask_to_move(struct tunnel *t, enum hello_move why)
{
	struct fields fields;

	if (t->state != UP)
		return;
	t->state = MOVING;
	t->moved = true;
	registry_move(t->gateway->registry, &t->registration);
	fields_init(&fields);
	if (hello_encode_move(why, &fields) == 0)
		session_request(t->session, HELLO_PATH_MOVE, &fields);
}

/* Everything accepted: says so, and wakes who waits. */
static void accepted(struct tunnel *t, const struct hello_accepted *words)
{
	char name[136], from[CLIENT_TEXT_MAX], list[512];
	struct fields fields;

	list_services(words, list, sizeof(list));
	t->state = UP;
	t->listed = true;
	timer_cancel(t->worker, &t->timer);
	handshake_end(&t->handshake);
	quota_count(&t->quota->quota, QUOTA_TUNNELS);
	counter_add(&t->worker->counters.value[COUNTER_TUNNELS], 1);
	counter_add(&t->worker->counters.value[COUNTER_LIVE_TUNNELS], 1);
	hold_figures(t, words);
	record(t, AUDIT_SESSION_START, REASON_NONE, NULL, list);
	fields_init(&fields);
	if (hello_encode_accepted(words, &fields) < 0 ||
	    session_request(t->session, HELLO_PATH_ACCEPTED, &fields) < 0) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	for (unsigned i = 0; i < words->n_services; i++)
		opening_wake_all(t->gateway, words->services[i]);
	label(t, name, sizeof(name));
	log_info("tunnel %s from %s (%s) up: %s", name,
		 client_format(&t->client, from, sizeof(from)), carrier_word(t), list);
	if (atomic_load(&t->gateway->draining)) /* it was on its way in when that began */
		ask_to_move(t, HELLO_MOVE_DRAIN);
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
		timer_set(t->worker, &t->timer, gateway_settings(t->worker)->config->timeouts.drain,
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

static void put_owner(struct quota *memory)
{
	quotas_put((struct quota_entry *)memory); /* its first member */
}

/* Its session's memory is the owner's. False: out of memory. */
static bool join_owner(struct tunnel *t)
{
	t->quota = tenants_owner(&t->gateway->tenants, t->owner);
	if (!t->quota)
		return false;
	if (session_count_memory(t->session, &quotas_hold(t->quota)->quota, put_owner))
		return true;
	quotas_put(t->quota);
	return false;
}

/* It may not be listed: says why. */
static void refuse_listing(struct tunnel *t, enum reason why)
{
	if (why == REASON_STALE)
		refuse(t, HELLO_STALE, why,
		       "another agent with this instance name is connected and newer; if both are "
		       "yours, give each its own --instance");
	else if (why == REASON_OWNER_LIMIT)
		refuse(t, HELLO_LIMIT, why,
		       "this owner has as many tunnels as it may (limits.per_owner.tunnels)");
	else
		refuse(t, HELLO_LIMIT, why,
		       "the relay has as many tunnels as it may (limits.tunnels)");
}

/* Its services' full names. */
static struct hello_accepted name_services(const struct tunnel *t, const struct hello *hello)
{
	struct hello_accepted words = { .n_services = hello->n_offers };

	snprintf(words.owner, sizeof(words.owner), "%s", t->owner);
	for (unsigned i = 0; i < hello->n_offers; i++)
		snprintf(words.services[i], sizeof(words.services[i]), "%s.%s",
			 hello->offers[i].name, t->owner);
	return words;
}

/* It has only asked: is told what would come of it, and nothing else changes. */
static void answer_question(struct tunnel *t, const struct hello *hello)
{
	const struct hello_accepted words = name_services(t, hello);
	struct registration asked = { .owner = t->owner,
				      .instance = t->instance,
				      .generation = hello->generation };
	struct fields fields;
	enum reason why;

	t->quota = tenants_owner(&t->gateway->tenants, t->owner);
	if (!t->quota) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	why = registry_ask(t->gateway->registry, &asked,
			   quota_most(&t->quota->quota, QUOTA_TUNNELS),
			   gateway_settings(t->worker)->config->limits.tunnels);
	if (why != REASON_NONE) {
		refuse_listing(t, why);
		return;
	}
	fields_init(&fields);
	if (hello_encode_accepted(&words, &fields) == 0)
		session_request(t->session, HELLO_PATH_ACCEPTED, &fields);
	t->answered = true;
	tunnel_close(t, REASON_EOF, "the question is answered");
}

static void enroll(struct tunnel *t, const struct hello *hello)
{
	const struct relay_limits *limits = &gateway_settings(t->worker)->config->limits;
	const struct hello_accepted words = name_services(t, hello);
	struct offered services[HELLO_SERVICES_MAX];
	struct offer stale;
	enum reason why;

	/* NOLINTNEXTLINE(clang-analyzer-optin.portability.UnixAPI): a hello has one at least */
	t->offers = calloc(hello->n_offers, sizeof(*t->offers));
	if (!t->offers || !join_owner(t)) {
		tunnel_close(t, REASON_NO_MEMORY, "out of memory");
		return;
	}
	t->n_offers = hello->n_offers;
	for (unsigned i = 0; i < hello->n_offers; i++) {
		services[i] = (struct offered){ words.services[i], hello->offers[i].eager };
		memcpy(t->offers[i], hello->offers[i].name, sizeof(t->offers[i]));
	}
	t->registration = (struct registration){ .worker = t->worker,
						 .tunnel = t->id,
						 .owner = t->owner,
						 .instance = t->instance,
						 .generation = hello->generation };
	why = registry_add(t->gateway->registry, &t->registration, services, hello->n_offers,
			   quota_most(&t->quota->quota, QUOTA_TUNNELS), limits->tunnels, &stale);
	if (why != REASON_NONE) {
		refuse_listing(t, why);
	} else {
		if (stale.tunnel)
			replace(&stale);
		accepted(t, &words);
	}
}

static void on_hello(struct tunnel *t, const struct fields *fields)
{
	char why[HELLO_WHY_MAX], message[HELLO_MESSAGE_MAX];
	struct credential credential;
	enum reason verdict;
	struct hello hello;

	if (hello_decode(&hello, fields, why) < 0) {
		refuse(t, HELLO_PROTOCOL, REASON_PROTOCOL, why);
		return;
	}
	if (hello.token && token_hash(hello.token, strlen(hello.token), t->token) < 0) {
		refuse(t, HELLO_OTHER, REASON_INTERNAL, "the relay cannot judge tokens now");
		return;
	}
	t->by_token = hello.token;
	verdict = judge_credential(t, gateway_settings(t->worker), settings_now(), &credential);
	if (verdict != REASON_NONE) {
		gateway_failed_to_authenticate(&t->client, worker_now(t->worker));
		refuse(t, HELLO_BAD_CREDENTIAL, verdict, credential_words(t, verdict));
		return;
	}
	snprintf(t->owner, sizeof(t->owner), "%s", credential.owner->name);
	snprintf(t->credential, sizeof(t->credential), "%s", credential.label);
	t->until = credential.expires;
	snprintf(t->instance, sizeof(t->instance), "%s", hello.instance);
	for (unsigned i = 0; i < hello.n_offers; i++) {
		if (credentials_may_offer(credential.owner, hello.offers[i].name))
			continue;
		snprintf(message, sizeof(message),
			 "owner %s may not offer the service %s; the relay's operator decides "
			 "which",
			 t->owner, hello.offers[i].name);
		refuse(t, HELLO_FORBIDDEN, REASON_FORBIDDEN, message);
		return;
	}
	if (hello.question)
		answer_question(t, &hello);
	else
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
	ask_to_move(session_user(s), HELLO_MOVE_STREAM_IDS);
}

static const struct session_events events = {
	.reply = on_reply,
	.goaway = on_goaway,
	.exhausted = on_exhausted,
	.end = on_session_end,
};

/* ---- coming in ---- */

static struct tunnel *tunnel_new(struct listener *l, struct worker *w, const struct client *client)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	struct gateway *g = l->gateway;

	if (!t)
		return NULL;
	t->gateway = g;
	t->listener = listener_ref(l);
	t->worker = w;
	t->client = *client;
	identity_ref(t->client.identity);
	t->until = UINT64_MAX;
	t->began = worker_now(w);
	t->reapable.free = on_free;
	if (!slot_take(hub_of(w), t)) {
		identity_unref(t->client.identity);
		listener_unref(l);
		free(t);
		return NULL;
	}
	timer_set(w, &t->timer, gateway_settings(w)->config->timeouts.handshake, on_timeout);
	gateway_target_unneeded(g);
	return t;
}

static void start_session(struct tunnel *t, struct conduit *carrier)
{
	const struct relay_config *c = gateway_settings(t->worker)->config;
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

void hub_tune_socket(const struct worker *w, int fd)
{
	int one = 1, lowat = NOTSENT_LOWAT;
	unsigned dead = (unsigned)gateway_settings(w)->config->timeouts.dead;

	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

/* Out of memory, before there was a tunnel. */
static void turn_away(struct listener *l, struct worker *w, struct conduit *c,
		      const struct client *client)
{
	const struct tunnel none = { .gateway = l->gateway,
				     .worker = w,
				     .listener = l,
				     .client = *client,
				     .began = worker_now(w) };

	log_ended(&none, REASON_NO_MEMORY, "out of memory");
	record(&none, AUDIT_SESSION_REFUSED, REASON_NO_MEMORY, "out of memory", NULL);
	conduit_close(c, REASON_NO_MEMORY);
	gateway_connection_over(client->source);
}

static void on_dropped(struct handshake *h)
{
	tunnel_close((struct tunnel *)((char *)h - offsetof(struct tunnel, handshake)),
		     REASON_HANDSHAKE_LIMIT, "limits.handshakes");
}

/* Until its hello is answered. False: its source has too many, and the tunnel is over. */
static bool begin(struct tunnel *t, struct conduit *c)
{
	struct handshakes *in = &gateway_worker(t->worker)->handshakes;

	if (handshake_begin(in, &t->handshake, t->client.source, on_dropped))
		return true;
	conduit_close(c, REASON_SOURCE_LIMIT);
	tunnel_free(t, REASON_SOURCE_LIMIT, "limits.per_source.handshakes");
	return false;
}

static void hub_accept(struct listener *l, struct worker *w, struct conduit *c,
		       const struct client *client)
{
	struct tunnel *t = tunnel_new(l, w, client);

	if (!t) {
		turn_away(l, w, c, client);
		return;
	}
	if (!begin(t, c))
		return;
	hub_tune_socket(w, tls_conduit_socket(c));
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

static void hub_upgrade(struct listener *l, struct worker *w, struct conduit *c,
			const struct client *client)
{
	static const struct ws_handshake_terms terms = {
		.path = HELLO_WEBSOCKET_PATH,
		.subprotocol = HELLO_WEBSOCKET_SUBPROTOCOL,
	};
	struct tunnel *t = tunnel_new(l, w, client);

	if (!t) {
		turn_away(l, w, c, client);
		return;
	}
	t->websocket = true;
	if (!begin(t, c))
		return;
	hub_tune_socket(w, tls_conduit_socket(c));
	t->upgrade = ws_accept(c, &terms, gateway_settings(w)->config->timeouts.handshake,
			       on_upgraded, t);
	if (!t->upgrade)
		tunnel_free(t, REASON_NO_MEMORY, "out of memory");
}

/* ---- what may be taken back ---- */

/* By the settings of now: would it be let in again, with all it offers? *words: why not. */
static enum reason judge_again(struct tunnel *t, const struct settings *s, uint64_t now,
			       const char **words)
{
	struct credential credential;
	enum reason why = judge_credential(t, s, now, &credential);

	*words = credential_words(t, why);
	if (why == REASON_BAD_CREDENTIAL)
		return REASON_REVOKED;
	if (why != REASON_NONE)
		return why;
	if (strcmp(credential.owner->name, t->owner) != 0) {
		*words = "the credential is another owner's now";
		return REASON_REVOKED;
	}
	*words = "the owner may offer one of these services no more; the relay's operator decides "
		 "which";
	for (unsigned i = 0; i < t->n_offers; i++)
		if (!credentials_may_offer(credential.owner, t->offers[i]))
			return REASON_REVOKED;
	t->until = credential.expires;
	return REASON_NONE;
}

static void hub_recheck(struct worker *w, bool all)
{
	const struct settings *s = gateway_settings(w);
	struct hub_worker *h = hub_of(w);
	uint64_t now = settings_now();

	for (uint32_t i = 0; i < h->slots; i++) {
		struct tunnel *t = h->slot[i];
		const char *words = credential_words(t, REASON_EXPIRED);
		enum reason why = REASON_NONE;

		if (!t || !*t->owner || t->state == OVER)
			continue;
		if (all)
			why = judge_again(t, s, now, &words);
		else if (now >= t->until)
			why = REASON_EXPIRED;
		if (why != REASON_NONE)
			refuse(t, HELLO_BAD_CREDENTIAL, why, words);
	}
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
	out->carrier = carrier_word(t);
	peer_format(&t->client.peer, out->address, sizeof(out->address));
	label(t, out->label, sizeof(out->label));
	return true;
}

static void hub_advise(struct worker *w)
{
	struct hub_worker *h = hub_of(w);

	for (uint32_t i = 0; i < h->slots; i++)
		if (h->slot[i])
			ask_to_move(h->slot[i], HELLO_MOVE_DRAIN);
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

static const char *state_word(const struct tunnel *t)
{
	return t->state == UP ? "up" : t->state == MOVING ? "moving" : "retiring";
}

static void hub_each(struct worker *w, void (*fn)(const struct tunnel_facts *t, void *user),
		     void *user)
{
	const struct hub_worker *h = hub_of(w);
	char services[1024];

	for (uint32_t i = 0; i < h->slots; i++) {
		const struct tunnel *t = h->slot[i];
		struct tunnel_facts facts;
		size_t used = 0;

		if (!t || !t->listed || t->state == OVER)
			continue;
		services[0] = '\0';
		for (unsigned j = 0; j < t->n_offers && used < sizeof(services); j++)
			used += (size_t)snprintf(services + used, sizeof(services) - used,
						 "%s%s.%s", j ? ", " : "", t->offers[j], t->owner);
		facts = (struct tunnel_facts){
			.id = t->id,
			.generation = t->registration.generation,
			.streams = session_streams(t->session),
			.opened = session_opened(t->session),
			.memory = session_memory(t->session),
			.rtt_us = session_rtt_us(t->session),
			.age_ms = worker_now(w) - t->began,
			.owner = t->owner,
			.instance = t->instance,
			.carrier = carrier_word(t),
			.state = state_word(t),
			.credential = t->credential,
			.listener = t->listener->name,
			.client = &t->client,
			.services = services,
		};
		fn(&facts, user);
	}
}

static bool hub_close(struct worker *w, uint64_t tunnel, enum reason why, const char *detail)
{
	struct tunnel *t = slot_find(hub_of(w), tunnel);

	if (!t || !t->listed || t->state == OVER)
		return false;
	tunnel_close(t, why, detail);
	return true;
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
		.recheck = hub_recheck,
		.advise = hub_advise,
		.shutdown = hub_shutdown,
		.each = hub_each,
		.close = hub_close,
	};
}
