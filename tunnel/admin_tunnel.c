/*
 * admin_tunnel: what attest-tunnel's HTTP listeners serve.
 *
 * Theory of operation: one table of routes; user is what the metrics are of. Ready is an agent that
 * one relay at least has accepted, or, without services, one that listens.
 */
#include "tunnel/admin_tunnel.h"

#include <event2/buffer.h>
#include <stdlib.h>

#include "config/config.h"
#include "relay/admin.h"
#include "relay/health_answer.h"
#include "relay/log.h"
#include "relay/process.h"
#include "tunnel/agent.h"
#include "tunnel/tunnel_metrics.h"

static void get_metrics(struct admin_request *r, void *metrics)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	tunnel_metrics_write(metrics, out);
	admin_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_live(struct admin_request *r, void *metrics)
{
	static const struct health_check loop = { "loop", true, NULL };

	health_answer(r, "livez", &loop, 1);
}

static void get_ready(struct admin_request *r, void *metrics)
{
	const struct tunnel_metrics *m = metrics;
	const struct health_check checks[] = {
		{ "running", !*m->stopping, "ending: no new streams" },
		{ "relays", !m->agent || agent_up(m->agent) > 0, "none has accepted this agent" },
	};

	health_answer(r, "readyz", checks, sizeof(checks) / sizeof(checks[0]));
}

static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/livez", ADMIN_HEALTH, get_live },
	{ "GET", "/readyz", ADMIN_HEALTH, get_ready },
	{ "GET", "/healthz", ADMIN_HEALTH, get_ready },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

bool admin_tunnel_start(struct admin **to, struct event_base *base, const struct tunnel_metrics *m)
{
	const struct tunnel_config *c = m->config;
	char *why = NULL;
	struct admin *a;
	bool good;

	*to = NULL;
	if (c->metrics.kind == ADDRESS_NONE && c->admin.address.kind == ADDRESS_NONE)
		return true; /* so that the loop need not sleep in libevent's (relay/worker.h) */
	process_open();
	a = admin_new(base, routes, ROUTES, (void *)m);
	good = a &&
	       admin_listen_at(a, "metrics", &c->metrics, ADMIN_METRICS | ADMIN_HEALTH, &why) &&
	       admin_listen_admin(a, &c->admin, &why);
	if (good)
		*to = a;
	else
		log_error("%s", why ? why : "cannot start: out of memory");
	if (!good)
		admin_tunnel_stop(a);
	free(why);
	return good;
}

void admin_tunnel_stop(struct admin *a)
{
	admin_free(a);
	process_close();
}
