/*
 * hub_log: what is said, counted and recorded of tunnels.
 *
 * Theory of operation: a tunnel that was listed has ended, one that was not was refused, and one
 * that only asked is neither. Who it is comes from its credential; an agent's own words are its
 * instance's name only.
 */
#include "tunnel/hub_state.h"

#include <inttypes.h>
#include <stdio.h>

#include "relay/audit.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/identity.h"
#include "relay/line.h"
#include "relay/log.h"
#include "relay/worker.h"
#include "tunnel/session.h"

void tunnel_label(const struct tunnel *t, char *buf, size_t size)
{
	struct line l = { buf, 0, size - 1 };

	line_text(&l, *t->owner ? t->owner : "?");
	line_put(&l, '/');
	line_text(&l, *t->instance ? t->instance : "?");
	buf[l.used] = '\0';
}

const char *tunnel_carrier(const struct tunnel *t)
{
	return t->websocket ? "websocket" : "direct";
}

void tunnel_record(const struct tunnel *t, enum audit_kind kind, enum reason why,
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
		.carrier = tunnel_carrier(t),
		.services = services,
		.streams = t->session ? session_opened(t->session) : 0,
		.duration_ms = worker_now(t->worker) - t->began,
		.detail = detail,
	};

	tunnel_label(t, name, sizeof(name));
	if (kind == AUDIT_SESSION_REFUSED) {
		struct figure *listener =
			figures_of(t->gateway->figures, FIGURES_LISTENERS, r.listener);

		figure_ended(listener, t->worker->index, why);
		figure_put(listener);
	}
	audit_write(gateway_audit(t->worker), &t->worker->counters, &r);
}

void tunnel_log_ended(const struct tunnel *t, enum reason why, const char *detail)
{
	char name[136], from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX], both[CLIENT_TEXT_MAX];
	uint64_t ms = worker_now(t->worker) - t->began;
	uint64_t streams = t->session ? session_opened(t->session) : 0;
	const struct log_field fields[] = {
		{ "tunnel", name, 0 },
		{ "agent", peer_format(&t->client.peer, from, sizeof(from)), 0 },
		{ "carrier", tunnel_carrier(t), 0 },
		{ "streams", NULL, streams },
		{ "duration_ms", NULL, ms },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", client_proxy(&t->client, proxy, sizeof(proxy)), 0 }, /* the last */
	};
	const unsigned n = sizeof(fields) / sizeof(fields[0]) - !*proxy;

	tunnel_label(t, name, sizeof(name));
	client_format(&t->client, both, sizeof(both));
	if (t->listed)
		log_fields(LOG_LEVEL_INFO, fields, n,
			   "tunnel %s from %s (%s) ended: %s (%s), %" PRIu64 " streams, %" PRIu64
			   " s",
			   name, both, tunnel_carrier(t), reason_word(why), detail, streams,
			   ms / 1000);
	else if (t->answered)
		log_info("agent %s from %s (%s) has asked what it may offer", name, both,
			 tunnel_carrier(t));
	else
		log_limited(LOG_LEVEL_WARNING, fields, n, "tunnel %s from %s (%s) refused: %s: %s",
			    name, both, tunnel_carrier(t), reason_word(why), detail);
}

static const char *state_word(const struct tunnel *t)
{
	return t->state == UP ? "up" : t->state == MOVING ? "moving" : "retiring";
}

void tunnel_tell(const struct tunnel *t, void (*fn)(const struct tunnel_facts *t, void *user),
		 void *user)
{
	char services[1024] = "";
	struct tunnel_facts facts;
	size_t used = 0;

	for (unsigned i = 0; i < t->n_offers && used < sizeof(services); i++)
		used += (size_t)snprintf(services + used, sizeof(services) - used, "%s%s.%s",
					 i ? ", " : "", t->offers[i], t->owner);
	facts = (struct tunnel_facts){
		.id = t->id,
		.generation = t->registration.generation,
		.streams = session_streams(t->session),
		.opened = session_opened(t->session),
		.memory = session_memory(t->session),
		.rtt_us = session_rtt_us(t->session),
		.age_ms = worker_now(t->worker) - t->began,
		.owner = t->owner,
		.instance = t->instance,
		.carrier = tunnel_carrier(t),
		.state = state_word(t),
		.credential = t->credential,
		.listener = t->listener->name,
		.client = &t->client,
		.services = services,
	};
	fn(&facts, user);
}
