/*
 * admin_relay: what attest-relay's HTTP listeners serve.
 *
 * Theory of operation: one table of routes for all three listeners; each has its scope. user is the
 * gateway. Where requests are answered stands with what they are about.
 */
#include "relay/admin_relay.h"

#include <event2/buffer.h>

#include "relay/admin.h"
#include "relay/gateway.h"
#include "relay/metrics.h"

static void get_metrics(struct admin_request *r, void *gateway)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	metrics_write(gateway, out);
	admin_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_health(struct admin_request *r, void *gateway)
{
	const struct gateway *g = gateway;

	admin_reply(r, atomic_load(&g->draining) ? 503 : 200, NULL, NULL);
}

static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/healthz", ADMIN_HEALTH, get_health },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

struct admin *admin_relay_start(struct event_base *base, struct gateway *g, char **why)
{
	const struct relay_config *config = g->config;
	struct admin *a = admin_new(base, routes, ROUTES, g);

	*why = NULL;
	if (!a)
		return NULL;
	if (admin_listen_at(a, "metrics", &config->metrics, ADMIN_METRICS | ADMIN_HEALTH, why) &&
	    admin_listen_at(a, "status", &config->status, ADMIN_READ | ADMIN_METRICS | ADMIN_HEALTH,
			    why) &&
	    admin_listen_admin(a, &config->admin, why))
		return a;
	return admin_free(a);
}
