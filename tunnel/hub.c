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
 * The credential is judged again with every reload, and its end waited for: then the tunnel ends,
 * and its streams with it. A take-over is decided by the registry and carried out in the stale
 * tunnel's own worker.
 *
 * Tunnels are found by id through a table of slots per worker. Limits: limits.tunnels,
 * limits.per_owner.tunnels; half-done ones as all handshakes are (relay/handshake.h). What an
 * agent says and how it is judged is hub_hello's, lines and records are hub_log's.
 */
#include "tunnel/hub.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/audit.h"
#include "relay/conduit.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/identity.h"
#include "relay/opening.h"
#include "relay/registry.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/hello.h"
#include "tunnel/hub_place.h"
#include "tunnel/hub_state.h"
#include "tunnel/session.h"
#include "tunnel/ws.h"

#define NOTSENT_LOWAT (128 * 1024) /* bytes not yet sent: small streams stay quick */

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
	t->id = gateway_next_tunnel(t->gateway) << 24 | i; /* 16 million tunnels a worker */
	return true;
}

static struct tunnel *tunnel_find(const struct worker *w, uint64_t id)
{
	const struct hub_worker *h = hub_of(w);
	uint32_t i = id & 0xffffff;

	return h && i < h->slots && h->slot[i] && h->slot[i]->id == id ? h->slot[i] : NULL;
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

/*
 * The tunnel is out of service: said, counted, its names free. Its session may take a moment more
 * to hand over its last words, and its connection counts until then.
 */
static void out_of_service(struct tunnel *t, enum reason why, const char *detail)
{
	if (t->state == OVER)
		return;
	tunnel_log_ended(t, why, detail);
	if (!t->answered)
		tunnel_record(t, t->listed ? AUDIT_SESSION_END : AUDIT_SESSION_REFUSED, why, detail,
			      NULL);
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
	hub_unplace(t->worker);
	gateway_target_restored(t->gateway);
	gateway_connection_over(t->client.source);
	worker_reap(t->worker, &t->reapable);
}

void tunnel_close(struct tunnel *t, enum reason why, const char *detail)
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

/* ---- moving, and leaving ---- */

void tunnel_ask_to_move(struct tunnel *t, enum hello_move why)
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

static void on_retired_late(struct timer *timer)
{
	struct tunnel *t = (struct tunnel *)((char *)timer - offsetof(struct tunnel, timer));

	if (!registry_is_succeeded(t->gateway->registry, &t->registration))
		tunnel_close(t, REASON_GOING_AWAY, "retired: its streams have had their time");
}

/* No new streams; those there are have timeouts.drain if their agent leaves for good. */
static void retire(struct tunnel *t)
{
	t->state = RETIRING;
	if (!t->moved)
		timer_set(t->worker, &t->timer, gateway_settings(t->worker)->config->timeouts.drain,
			  on_retired_late);
	session_retire(t->session);
}

void tunnel_replaced(struct worker *w, void *arg)
{
	uint64_t *id = arg;
	struct tunnel *t = tunnel_find(w, *id);

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

static void on_reply(struct session *s, int32_t id, int status, const struct fields *fields)
{
	struct tunnel *t = session_user(s);

	if (id != t->hello || t->state != ASKED)
		return; /* to accepted, refused or move: nothing depends on it */
	if (status == 200)
		tunnel_on_hello(t, fields);
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
	tunnel_ask_to_move(session_user(s), HELLO_MOVE_STREAM_IDS);
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

static void settle_direct(struct listener *l, struct worker *w, struct conduit *c,
			  const struct client *client)
{
	struct tunnel *t = tunnel_new(l, w, client);

	if (!t) {
		hub_turn_away(l, w, c, client, REASON_NO_MEMORY, "out of memory");
		return;
	}
	if (!begin(t, c))
		return;
	hub_tune_socket(w, tls_conduit_socket(c));
	start_session(t, c);
}

static void hub_accept(struct listener *l, struct worker *w, struct conduit *c,
		       const struct client *client)
{
	hub_place(l, w, c, client, settle_direct);
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

static void settle_websocket(struct listener *l, struct worker *w, struct conduit *c,
			     const struct client *client)
{
	static const struct ws_handshake_terms terms = {
		.path = HELLO_WEBSOCKET_PATH,
		.subprotocol = HELLO_WEBSOCKET_SUBPROTOCOL,
	};
	struct tunnel *t = tunnel_new(l, w, client);

	if (!t) {
		hub_turn_away(l, w, c, client, REASON_NO_MEMORY, "out of memory");
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

static void hub_upgrade(struct listener *l, struct worker *w, struct conduit *c,
			const struct client *client)
{
	hub_place(l, w, c, client, settle_websocket);
}

/* ---- what may be taken back ---- */

static void hub_recheck(struct worker *w, bool all)
{
	const struct settings *s = gateway_settings(w);
	struct hub_worker *h = hub_of(w);
	uint64_t now = settings_now();

	for (uint32_t i = 0; i < h->slots; i++) {
		struct tunnel *t = h->slot[i];
		const char *words = tunnel_credential_words(t, REASON_EXPIRED);
		enum reason why = REASON_NONE;

		if (!t || !*t->owner || t->state == OVER)
			continue;
		if (all)
			why = tunnel_judge_again(t, s, now, &words);
		else if (now >= t->until)
			why = REASON_EXPIRED;
		if (why != REASON_NONE)
			tunnel_refuse(t, HELLO_BAD_CREDENTIAL, why, words);
	}
}

/* ---- for the gateway ---- */

static bool hub_open(struct worker *w, uint64_t tunnel, const char *service,
		     const struct client_words *words, struct tunnel_stream *out, enum reason *why)
{
	struct tunnel *t = tunnel_find(w, tunnel);
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
	out->carrier = tunnel_carrier(t);
	peer_format(&t->client.peer, out->address, sizeof(out->address));
	tunnel_label(t, out->label, sizeof(out->label));
	return true;
}

static void hub_advise(struct worker *w)
{
	struct hub_worker *h = hub_of(w);

	for (uint32_t i = 0; i < h->slots; i++)
		if (h->slot[i])
			tunnel_ask_to_move(h->slot[i], HELLO_MOVE_DRAIN);
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

static void hub_each(struct worker *w, void (*fn)(const struct tunnel_facts *t, void *user),
		     void *user)
{
	const struct hub_worker *h = hub_of(w);

	for (uint32_t i = 0; i < h->slots; i++)
		if (h->slot[i] && h->slot[i]->listed && h->slot[i]->state != OVER)
			tunnel_tell(h->slot[i], fn, user);
}

static bool hub_close(struct worker *w, uint64_t tunnel, enum reason why, const char *detail)
{
	struct tunnel *t = tunnel_find(w, tunnel);

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
