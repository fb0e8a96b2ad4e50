/*
 * admin_relay: what attest-relay's HTTP listeners serve.
 *
 * Theory of operation: one table of routes for all three listeners; each has its scope. user is the
 * daemon. Where requests are answered stands with what they are about.
 */
#include "relay/admin_relay.h"

#include <event2/buffer.h>
#include <string.h>

#include "relay/admin.h"
#include "relay/daemon.h"
#include "relay/gateway.h"
#include "relay/metrics.h"
#include "relay/takeover.h"

static void get_metrics(struct admin_request *r, void *daemon)
{
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	metrics_write(daemon_gateway(daemon), out);
	admin_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_health(struct admin_request *r, void *daemon)
{
	admin_reply(r, daemon_is_draining(daemon) ? 503 : 200, NULL, NULL);
}

static void post_takeover(struct admin_request *r, void *daemon)
{
	const char *upgrade = admin_header(r, "Upgrade");
	int fd;

	if (!upgrade || strcmp(upgrade, TAKEOVER_PROTOCOL) != 0) {
		admin_fail(r, 426, "other-protocol", "expected Upgrade: " TAKEOVER_PROTOCOL);
		return;
	}
	fd = admin_detach(r);
	if (fd >= 0)
		daemon_hand_over(daemon, fd);
	else
		admin_fail(r, 400, "bad-request", "bytes came before the answer");
}

static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/healthz", ADMIN_HEALTH, get_health },
	{ "POST", "/v1/takeover", ADMIN_CONTROL, post_takeover },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

struct admin *admin_relay_start(struct event_base *base, struct daemon *d, char **why)
{
	const struct relay_config *config = daemon_gateway(d)->config;
	struct admin *a = admin_new(base, routes, ROUTES, d);

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
