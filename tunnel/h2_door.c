/*
 * h2_door: clients that speak HTTP/2 at the relay's connect door.
 *
 * Theory of operation: the intake has found out what a client speaks and hands its conduit over; a
 * session is made of it, in this worker for life. Each CONNECT in it is routed by its authority,
 * HOST:PORT as with HTTP/1.1 or the host alone, and becomes an opening with the stream as its
 * client: counted, logged and refused on its own, by a status and attest-reason. All other requests
 * are answered 405 by the session.
 *
 *   open       streams come and go
 *   quiet      none is live: retired after timeouts.idle
 *   retiring   GOAWAY was said, for that or because the relay drains; over with the last stream
 *
 * Streams outlive the session as conduits, and their openings see it end as an abort. A client
 * whose certificate the listener's client_ca has verified may reset streams at any rate: it passes
 * on what its own clients do. For others nghttp2's limit holds, and is the end of their session.
 *
 * Limits: limits.streams_per_tunnel in a session; limits.connections for sessions and streams
 * together; the windows as in a tunnel for clients with a certificate. A stranger's stream begins
 * with a quarter of limits.stream_window: while it waits for its target, or the target reads
 * nothing, that is what it can make the relay hold. One that is read in time grows to the whole.
 */
#include "tunnel/h2_door.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/audit.h"
#include "relay/conduit.h"
#include "relay/gateway.h"
#include "relay/httphead.h"
#include "relay/identity.h"
#include "relay/listener.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/refusal.h"
#include "relay/router.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/hub.h"
#include "tunnel/session.h"

#define STRANGERS_PART 4 /* as many times may a stream's window grow, see session_limits */
#define WINDOW_MIN 16384u

struct h2_client {
	struct listener *listener;
	struct worker *worker;
	struct session *session;
	enum reason verdict; /* on all its streams */
	uint64_t began;
	struct timer idle;
	struct h2_client *next, **prevp; /* in gateway_worker */
	struct reapable reapable;
	struct client client;
};

static void on_free(struct reapable *r)
{
	struct h2_client *k =
		(struct h2_client *)((char *)r - offsetof(struct h2_client, reapable));

	identity_unref(k->client.identity);
	listener_unref(k->listener);
	free(k);
}

static const char *identity_of(const struct h2_client *k)
{
	return k->client.identity ? identity_text(k->client.identity) : NULL;
}

/* For the log and the audit: who has asked for nothing was as good as turned away. */
static void note_ended(const struct h2_client *k, enum reason why, const char *detail)
{
	char from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX], both[CLIENT_TEXT_MAX];
	uint64_t ms = worker_now(k->worker) - k->began, streams = session_opened(k->session);
	const struct log_field fields[] = {
		{ "client", peer_format(&k->client.peer, from, sizeof(from)), 0 },
		{ "listener", k->listener->name, 0 },
		{ "streams", NULL, streams },
		{ "duration_ms", NULL, ms },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", client_proxy(&k->client, proxy, sizeof(proxy)), 0 }, /* the last */
	};

	log_limited(LOG_LEVEL_INFO, fields, sizeof(fields) / sizeof(fields[0]) - !*proxy,
		    "client %s (%s, HTTP/2) ended: %s (%s), %" PRIu64 " streams, %" PRIu64 " s",
		    client_format(&k->client, both, sizeof(both)), k->listener->name,
		    reason_word(why), detail, streams, ms / 1000);
	if (streams)
		audit_write(gateway_audit(k->worker), &k->worker->counters,
			    &(struct audit_record){ .kind = AUDIT_CONNECTION_END,
						    .why = why,
						    .streams = streams,
						    .duration_ms = ms,
						    .listener = k->listener->name,
						    .door = "connect",
						    .client = from,
						    .via_proxy = proxy,
						    .client_identity = identity_of(k),
						    .detail = detail });
	else
		opening_log_vanished(k->worker, k->listener->name, &k->client, why);
}

/* Its connection is over; what there was of a session says its end itself. */
static void client_over(struct h2_client *k)
{
	timer_cancel(k->worker, &k->idle);
	*k->prevp = k->next;
	if (k->next)
		k->next->prevp = k->prevp;
	gateway_target_restored(k->listener->gateway);
	gateway_connection_over(k->client.source);
	counter_add(&k->worker->counters.value[COUNTER_LIVE_H2_CLIENTS], (uint64_t)-1);
	worker_reap(k->worker, &k->reapable);
}

/* ---- streams ---- */

/* host is what it asks for, as far as that can be told. */
static enum reason find_route(const struct h2_client *k, const char *authority,
			      char host[HTTPHEAD_HOST_SIZE], struct route *route)
{
	char text[SESSION_AUTHORITY_MAX + sizeof(":443")];
	struct httphead_slice slice = { .at = text };
	uint16_t port;
	bool plain;

	/* the port is not looked at, so one that is not there is no ambiguity */
	slice.len = (size_t)snprintf(text, sizeof(text), "%s%s", authority,
				     strchr(authority, ':') ? "" : ":443");
	*host = '\0';
	plain = httphead_authority(slice, host, &port) == 0;
	if (k->verdict != REASON_NONE)
		return k->verdict;
	if (!plain)
		return REASON_PROTOCOL;
	if (router_by_authority(route, gateway_settings(k->worker)->config, host) < 0)
		return REASON_UNKNOWN_SERVICE;
	return REASON_NONE;
}

static enum reason on_accept(struct session *s, struct conduit *stream, const char *authority,
			     const struct client_words *words)
{
	struct h2_client *k = session_user(s);
	char host[HTTPHEAD_HOST_SIZE];
	const char *detail = "";
	struct route route;
	enum reason why = find_route(k, authority, host, &route);

	if (why == REASON_PROTOCOL)
		detail = "CONNECT needs HOST:PORT";
	else if (why == REASON_FORBIDDEN)
		detail = "a client certificate of this listener's CA is needed";
	else if (why == REASON_NONE)
		why = gateway_stream_begin(k->client.source, &detail);
	if (why == REASON_NONE) {
		timer_cancel(k->worker, &k->idle);
		opening_new(k->listener, k->worker, stream, DOOR_CONNECT, NULL, &k->client, &route);
	} else {
		why = claim_in_vain(k->client.source, worker_now(k->worker), why, &detail);
		opening_log_refused(k->worker, k->listener->name, &k->client, host, why, detail);
		refusal_send(stream, DOOR_CONNECT, why, "", NULL, NULL);
	}
	return REASON_NONE; /* it is the opening's, or refused in words */
}

static void on_idle(struct timer *t)
{
	struct h2_client *k = (struct h2_client *)((char *)t - offsetof(struct h2_client, idle));

	session_retire(k->session);
}

static void on_quiet(struct session *s)
{
	struct h2_client *k = session_user(s);

	timer_set(k->worker, &k->idle, gateway_settings(k->worker)->config->timeouts.idle, on_idle);
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct h2_client *k = session_user(s);

	note_ended(k, why, detail);
	client_over(k);
}

static const struct session_events events = {
	.accept = on_accept,
	.quiet = on_quiet,
	.end = on_end,
};

/* ---- for the gateway ---- */

static struct h2_client *client_new(struct listener *l, struct worker *w,
				    const struct client *client, enum reason verdict)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct h2_client *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->listener = listener_ref(l);
	k->worker = w;
	k->client = *client;
	identity_ref(k->client.identity);
	k->verdict = verdict;
	k->began = worker_now(w);
	k->reapable.free = on_free;
	k->next = gw->h2_clients;
	k->prevp = &gw->h2_clients;
	if (k->next)
		k->next->prevp = &k->next;
	gw->h2_clients = k;
	gateway_target_unneeded(l->gateway);
	counter_add(&w->counters.value[COUNTER_LIVE_H2_CLIENTS], 1);
	return k;
}

static void put_source(struct quota *memory)
{
	source_put((struct source *)memory); /* its first member */
}

/* The session's memory is its source's. */
static bool count_memory(struct h2_client *k)
{
	struct source *s = source_hold(k->client.source);

	if (session_count_memory(k->session, &s->quota, put_source))
		return true;
	source_put(s);
	return false;
}

static uint32_t stream_window(const struct relay_config *config, bool known)
{
	uint32_t all = (uint32_t)config->limits.stream_window, part = all / STRANGERS_PART;

	return known ? all : part < WINDOW_MIN ? WINDOW_MIN : part;
}

static void door_accept(struct listener *l, struct worker *w, struct conduit *c,
			const struct client *client, enum reason verdict)
{
	const struct relay_config *config = gateway_settings(w)->config;
	bool known = client->verified;
	const struct session_limits limits = {
		.peer = known ? SESSION_PEER_CLIENT : SESSION_PEER_ANY,
		.streams = (uint32_t)config->limits.streams_per_tunnel,
		.stream_window = stream_window(config, known),
		.session_window = (uint32_t)config->limits.session_window,
		.ping_ms = config->timeouts.ping,
		.dead_ms = config->timeouts.dead,
	};
	struct h2_client *k = client_new(l, w, client, verdict);

	if (!k) {
		opening_log_refused(w, l->name, client, "", REASON_NO_MEMORY, "");
		conduit_close(c, REASON_NO_MEMORY);
		gateway_connection_over(client->source);
		return;
	}
	/* not conduit_fd, which knows of none while the preface is unread */
	hub_tune_socket(w, c->ops->fd ? c->ops->fd(c) : tls_conduit_socket(c));
	k->session = session_new(c, SESSION_SERVER, &limits, &events, k);
	if (!k->session) {
		opening_log_refused(w, l->name, client, "", REASON_NO_MEMORY, "");
		client_over(k);
		return;
	}
	on_quiet(k->session);
	if (!count_memory(k))
		session_close(k->session, REASON_NO_MEMORY, "out of memory");
	if (atomic_load(&l->gateway->draining))
		session_retire(k->session);
}

/* The door is gone, or takes only such as this one is not: what is live goes on, no more comes. */
static void look_at_door(struct h2_client *k)
{
	const struct listener_config *l = k->listener->config;
	bool open = k->listener->socket && l->doors & DOOR_CONNECT;

	if (open && l->client_ca && l->client_certificates == CERTIFICATES_REQUIRED &&
	    !k->client.verified)
		k->verdict = REASON_FORBIDDEN;
	if (!open || k->verdict == REASON_FORBIDDEN)
		session_retire(k->session);
}

/* Its streams are looked at on their own (opening_recheck), by the same certificate and more. */
static void door_recheck(struct worker *w, bool all)
{
	uint64_t now = settings_now();

	for (struct h2_client *k = gateway_worker(w)->h2_clients; k; k = k->next) {
		const struct identity *i = k->client.identity;
		enum reason why = REASON_NONE;

		if (i && all)
			why = settings_judge_identity(gateway_settings(w), k->listener->name, i,
						      now);
		else if (i && now >= identity_expires(i))
			why = REASON_EXPIRED;
		if (why != REASON_NONE)
			session_close(k->session, why, reason_explanation(why));
		else if (all)
			look_at_door(k);
	}
}

static void door_drain(struct worker *w)
{
	for (struct h2_client *k = gateway_worker(w)->h2_clients; k; k = k->next)
		session_retire(k->session);
}

static void door_shutdown(struct worker *w)
{
	for (struct h2_client *k = gateway_worker(w)->h2_clients; k; k = k->next)
		session_close(k->session, REASON_SHUTDOWN, "the relay is shutting down");
}

void h2_door_install(struct gateway *g)
{
	g->h2 = (struct h2_side){
		.accept = door_accept,
		.recheck = door_recheck,
		.drain = door_drain,
		.shutdown = door_shutdown,
	};
}
