/*
 * health_http: is attest-relay alive, and may clients come?
 *
 * Theory of operation: that there is an answer says that the main thread's loop turns. It listens
 * to probes before the workers run, but does not answer any until they do, so there is no answer
 * for "starting": a probe that has come too early is answered then, or gives up at its time-out.
 */
#include "relay/health_http.h"

#include <stdio.h>

#include "relay/admin.h"
#include "relay/daemon.h"
#include "relay/gateway.h"
#include "relay/health_answer.h"
#include "relay/reach.h"

#define WHY_MAX 128

static struct health_check workers(const struct daemon *d, char why[WHY_MAX])
{
	unsigned stuck = daemon_stuck_workers(d);

	snprintf(why, WHY_MAX, "%u do not turn: see the log", stuck);
	return (struct health_check){ "workers", stuck == 0, why };
}

void health_http_live(struct admin_request *r, void *daemon)
{
	char why[WHY_MAX];
	const struct health_check checks[] = { { "loop", true, NULL }, workers(daemon, why) };

	health_answer(r, "livez", checks, sizeof(checks) / sizeof(checks[0]));
}

static const char *unreached(const struct reach *r)
{
	if (!r->by_tunnel)
		return "no target answers";
	return r->targets ? "no tunnel offers it, and no other target answers"
			  : "no tunnel offers it";
}

void health_http_ready(struct admin_request *r, void *daemon)
{
	const char *service = *admin_rest(r) ? admin_rest(r) : admin_query(r, "service");
	struct reach reach = { 0 };
	char why[WHY_MAX];

	if (service && !reach_of(daemon_gateway(daemon), service, &reach)) {
		health_answer_line(r, 404, "service: there is none of this name");
		return;
	}
	const struct health_check checks[] = {
		workers(daemon, why),
		{ "accepting", !daemon_is_draining(daemon), "draining: no new connections" },
		{ "service", reach_is_good(&reach), unreached(&reach) },
	};

	health_answer(r, "readyz", checks, service ? 3 : 2);
}
