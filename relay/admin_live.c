/*
 * admin_live: the admin API's answers that the workers have to be asked for: streams and tunnels.
 *
 * Theory of operation: the request waits for a census. A worker that does not answer in time makes
 * it a 504: half a list would look like a whole one. Pages go by number: what comes or goes between
 * two of them makes no other thing be missed or told twice.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "relay/admin_json.h"
#include "relay/admin_relay_private.h"
#include "relay/census.h"
#include "relay/census_live.h"
#include "relay/daemon.h"
#include "relay/gateway.h"

#define PAGE_DEFAULT 100

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
	struct json_object *o;

	if (is_missing(r, result))
		return;
	o = json_object_new_object();
	if (o && result->list && json_object_object_add(o, key, result->list) == 0)
		result->list = NULL;
	/* with those of earlier pages they are not all of them: the client has counted those */
	admin_json_number(o, "remaining",
			  result->matching -
				  json_object_array_length(json_object_object_get(o, key)));
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

/* False: answered with 400. */
static bool take_text(struct admin_request *r, const char *name, char to[CENSUS_TEXT])
{
	const char *text = admin_query(r, name);

	if (!text)
		return true;
	if (strlen(text) < CENSUS_TEXT) {
		memcpy(to, text, strlen(text) + 1);
		return true;
	}
	admin_fail(r, 400, "bad-parameter", "%s: too long", name);
	return false;
}

static bool take_question(struct admin_request *r, struct census_question *q)
{
	uint64_t limit = PAGE_DEFAULT;

	*q = (struct census_question){ 0 };
	if (!admin_query_number(r, "after", UINT64_MAX, &q->after) ||
	    !admin_query_number(r, "limit", CENSUS_PAGE_MAX, &limit) ||
	    !admin_query_number(r, "tunnel", UINT64_MAX, &q->tunnel) ||
	    !take_text(r, "service", q->service) || !take_text(r, "owner", q->owner) ||
	    !take_text(r, "client", q->client))
		return false;
	q->limit = limit ? limit : 1;
	return true;
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

	if (take_question(r, &q))
		ask(r, daemon_gateway(daemon), &q, census_streams, reply_streams);
}

void admin_live_tunnels(struct admin_request *r, void *daemon)
{
	struct census_question q;

	if (take_question(r, &q))
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
