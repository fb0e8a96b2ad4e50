/*
 * reach: a service's ways to its targets.
 *
 * Theory of operation: the router says whether the name leads anywhere and to which targets, the
 * registry which tunnels are there, health which addresses answered. The two have their own locks,
 * so what is told may be over when it is read, as with any such answer.
 */
#include "relay/reach.h"

#include "relay/destination.h"
#include "relay/gateway.h"
#include "relay/health.h"
#include "relay/registry.h"
#include "relay/router.h"
#include "relay/settings.h"
#include "relay/worker.h"

bool reach_of(const struct gateway *g, const char *service, struct reach *out)
{
	const struct destination *d;
	const struct addresses *targets;
	const uint64_t now = worker_now(g->workers[0]);
	struct route route;

	if (router_by_service(&route, g->settings->config, service) < 0)
		return false;
	*out = (struct reach){ 0 };
	targets = router_targets(&route);
	d = settings_destination(g->settings, route.config);
	for (size_t i = 0; i < targets->n; i++) {
		if (targets->at[i].kind == ADDRESS_TUNNEL) {
			out->by_tunnel = true;
			continue;
		}
		out->targets++;
		out->live += health_may_answer(d->health, i, now);
	}
	if (out->by_tunnel)
		out->tunnels = registry_count(g->registry, route.service);
	return true;
}
