/*
 * admin_bridge: what qgs-bridge's HTTP listeners serve.
 *
 * Theory of operation: one table of routes; user is the bridge. Ready is one whose QGS is there,
 * if guests are led to one at all. /healthz says what it said before there was /readyz: well, until
 * it drains, whatever becomes of QGS.
 */
#include "qgs-bridge/admin_bridge.h"

#include <event2/buffer.h>

#include "config/bridge.h"
#include "qgs-bridge/bridge.h"
#include "qgs-bridge/metrics.h"
#include "qgs-bridge/qgs.h"
#include "relay/admin.h"
#include "relay/health_answer.h"

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
	static const struct health_check loop = { "loop", true, NULL };

	health_answer(r, "livez", &loop, 1);
}

static struct health_check accepting(const struct bridge *b)
{
	return (struct health_check){ "accepting", !b->draining, "draining: no new connections" };
}

static void get_ready(struct admin_request *r, void *bridge)
{
	const struct bridge *b = bridge;
	const struct health_check checks[] = {
		accepting(b),
		{ "qgs", !b->qgs || qgs_state(b->qgs) == QGS_UP, b->qgs ? qgs_detail(b->qgs) : "" },
	};

	health_answer(r, "readyz", checks, sizeof(checks) / sizeof(checks[0]));
}

static void get_well(struct admin_request *r, void *bridge)
{
	const struct health_check check = accepting(bridge);

	health_answer(r, "healthz", &check, 1);
}

static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/livez", ADMIN_HEALTH, get_live },
	{ "GET", "/readyz", ADMIN_HEALTH, get_ready },
	{ "GET", "/healthz", ADMIN_HEALTH, get_well },
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
