/*
 * admin_live: the admin API's answers that the workers have to be asked for: streams and tunnels.
 *
 * Theory of operation: the request waits for a census. A worker that does not answer in time makes
 * it a 504: half a list would look like a whole one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "relay/admin_json.h"
#include "relay/admin_page.h"
#include "relay/admin_relay_private.h"
#include "relay/census.h"
#include "relay/census_live.h"
#include "relay/daemon.h"
#include "relay/gateway.h"

/* Not everything was said: 504, answered. */
static bool is_missing(struct admin_request *r, const struct census_result *result)
{
	if (!result->missing)
		return false;
	admin_fail(r, 504, "stuck", "%u worker%s did not answer in %d s", result->missing,
		   result->missing == 1 ? "" : "s", CENSUS_WAIT_MS / 1000);
	return true;
}

static void reply_page(struct census_result *result, struct admin_request *r, const char *key)
{
	const size_t told = result->list ? json_object_array_length(result->list) : 0;
	struct json_object *o;

	if (is_missing(r, result))
		return;
	o = json_object_new_object();
	if (o && result->list && json_object_object_add(o, key, result->list) == 0)
		result->list = NULL;
	/* with those of earlier pages they are not all of them: the client has counted those */
	admin_json_number(o, "remaining", result->matching - told);
	if (result->next)
		admin_json_number(o, "next", result->next);
	admin_reply_json(r, 200, o);
}

static void reply_streams(struct census_result *result, void *user)
{
	reply_page(result, user, "streams");
}

static void reply_tunnels(struct census_result *result, void *user)
{
	reply_page(result, user, "tunnels");
}

static void ask(struct admin_request *r, const struct gateway *g, const struct census_question *q,
		census_answer *answer, census_done *done)
{
	if (!census_ask(g->admin->censuses, q, answer, done, r))
		admin_fail(r, 503, "busy", "too many questions at a time, or out of memory");
}

void admin_live_streams(struct admin_request *r, void *daemon)
{
	struct census_question q;

	if (admin_page_take(r, &q))
		ask(r, daemon_gateway(daemon), &q, census_streams, reply_streams);
}

void admin_live_tunnels(struct admin_request *r, void *daemon)
{
	struct census_question q;

	if (admin_page_take(r, &q))
		ask(r, daemon_gateway(daemon), &q, census_tunnels, reply_tunnels);
}

/* ---- closing ---- */

static void reply_closed(struct census_result *result, void *user)
{
	struct json_object *o;

	if (!result->matching) {
		if (!is_missing(user, result))
			admin_fail(user, 404, "not-found", "there is none of this number");
		return;
	}
	o = json_object_new_object();
	admin_json_number(o, "closed", result->matching);
	admin_reply_json(user, 200, o);
}

static void close_one(struct admin_request *r, const struct gateway *g, census_answer *answer)
{
	struct census_question q = { .limit = 1 };
	const char *text = admin_rest(r);
	int used = 0;

	if (text[0] < '0' || text[0] > '9' || sscanf(text, "%20" SCNu64 "%n", &q.one, &used) != 1 ||
	    strcmp(text + used, "/close") != 0 || !q.one)
		admin_fail(r, 404, "not-found", "expected a number and /close");
	else
		ask(r, g, &q, answer, reply_closed);
}

void admin_live_close_stream(struct admin_request *r, void *daemon)
{
	close_one(r, daemon_gateway(daemon), census_close_stream);
}

void admin_live_close_tunnel(struct admin_request *r, void *daemon)
{
	close_one(r, daemon_gateway(daemon), census_close_tunnel);
}
