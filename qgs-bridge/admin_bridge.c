/*
 * admin_bridge: what qgs-bridge's HTTP listeners serve.
 *
 * Theory of operation: one table of routes; user is the bridge.
 */
#include "qgs-bridge/admin_bridge.h"

#include <event2/buffer.h>

#include "config/bridge.h"
#include "qgs-bridge/bridge.h"
#include "qgs-bridge/metrics.h"
#include "relay/admin.h"

static void get_metrics(struct admin_request *r, void *bridge)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	metrics_write(bridge, out);
	admin_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_live(struct admin_request *r, void *bridge)
{
	admin_reply(r, 200, NULL, NULL);
}

static void get_ready(struct admin_request *r, void *bridge)
{
	const struct bridge *b = bridge;

	admin_reply(r, b->draining ? 503 : 200, NULL, NULL);
}

static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/livez", ADMIN_HEALTH, get_live },
	{ "GET", "/readyz", ADMIN_HEALTH, get_ready },
	{ "GET", "/healthz", ADMIN_HEALTH, get_ready },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

struct admin *admin_bridge_start(struct event_base *base, struct bridge *b, char **why)
{
	struct admin *a = admin_new(base, routes, ROUTES, b);

	*why = NULL;
	if (!a)
		return NULL;
	if (admin_listen_at(a, "metrics", &b->config->metrics, ADMIN_METRICS | ADMIN_HEALTH, why) &&
	    admin_listen_admin(a, &b->config->admin, why))
		return a;
	return admin_free(a);
}
