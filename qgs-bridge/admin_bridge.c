/*
 * admin_bridge: what qgs-bridge's HTTP listeners serve.
 *
 * Theory of operation: one table of routes; user is the struct admin_bridge. Ready is one whose QGS
 * is there, if guests are led to one at all. /healthz says what it said before there was /readyz:
 * well, until it drains, whatever becomes of QGS.
 */
#include "qgs-bridge/admin_bridge.h"

#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/bridge.h"
#include "qgs-bridge/bridge.h"
#include "qgs-bridge/bridge_metrics.h"
#include "qgs-bridge/caller.h"
#include "qgs-bridge/entrance.h"
#include "qgs-bridge/forward.h"
#include "qgs-bridge/plain.h"
#include "qgs-bridge/qgs.h"
#include "qgs-bridge/quote.h"
#include "relay/admin.h"
#include "relay/admin_json.h"
#include "relay/admin_page.h"
#include "relay/census_page.h"
#include "relay/health_answer.h"
#include "relay/log.h"
#include "relay/worker.h"

static struct bridge *bridge_of(void *user)
{
	return ((const struct admin_bridge *)user)->bridge;
}

static void get_metrics(struct admin_request *r, void *user)
{
	struct bridge *bridge = bridge_of(user);
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	bridge_metrics_write(bridge, out);
	admin_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_live(struct admin_request *r, void *user)
{
	static const struct health_check loop = { "loop", true, NULL };

	health_answer(r, "livez", &loop, 1);
}

static struct health_check accepting(const struct bridge *b)
{
	return (struct health_check){ "accepting", !b->draining, "draining: no new connections" };
}

static void get_ready(struct admin_request *r, void *user)
{
	const struct bridge *b = bridge_of(user);
	const struct health_check checks[] = {
		accepting(b),
		{ "qgs", !b->qgs || qgs_state(b->qgs) == QGS_UP, b->qgs ? qgs_detail(b->qgs) : "" },
	};

	health_answer(r, "readyz", checks, sizeof(checks) / sizeof(checks[0]));
}

static void get_well(struct admin_request *r, void *user)
{
	const struct health_check check = accepting(bridge_of(user));

	health_answer(r, "healthz", &check, 1);
}

/* ---- /v1/ ---- */

static void put_qgs(struct json_object *o, const struct bridge *b)
{
	struct json_object *qgs = admin_json_object(o, "qgs");
	struct qgs_counts counts;

	if (!b->qgs)
		return;
	counts = qgs_counts(b->qgs);
	admin_json_address(qgs, "address", &b->qgs_config->qgs.address);
	admin_json_text(qgs, "state", qgs_state_word(qgs_state(b->qgs)));
	admin_json_text(qgs, "detail", qgs_detail(b->qgs));
	admin_json_number(qgs, "in_flight", b->fair.running);
	admin_json_number(qgs, "waiting", b->fair.waiting);
	admin_json_number(qgs, "downs_total", counts.downs);
	admin_json_number(qgs, "wedges_total", counts.wedges);
	admin_json_number(qgs, "silences_total", counts.silences);
	admin_json_number(qgs, "probes_total", counts.probes);
}

static void put_problem(struct json_object *list, const char *severity, const char *code,
			const char *what, const char *advice)
{
	struct json_object *one = admin_json_entry(list);

	admin_json_text(one, "severity", severity);
	admin_json_text(one, "code", code);
	admin_json_text(one, "what", what);
	admin_json_text(one, "advice", advice);
}

static void put_problems(struct json_object *o, const struct bridge *b)
{
	struct json_object *list = admin_json_list(o, "problems");
	char what[512];

	if (b->qgs && qgs_state(b->qgs) != QGS_UP) {
		snprintf(what, sizeof(what), "QGS is %s: %s", qgs_state_word(qgs_state(b->qgs)),
			 qgs_detail(b->qgs));
		put_problem(list, "critical", "qgs", what,
			    "Look at QGS: its service, its log, its socket.");
	}
	for (size_t i = 0; i < b->n_entrances; i++) {
		const struct entrance *e = b->entrances[i];

		if (entrance_is_open(e) || b->draining)
			continue;
		snprintf(what, sizeof(what), "listener %s is not open", entrance_config(e)->name);
		put_problem(list, "warning", "listener-closed", what,
			    "It is so while QGS is not there; otherwise the log has why.");
	}
}

static void get_status(struct admin_request *r, void *user)
{
	const struct admin_bridge *a = user;
	const struct bridge *b = a->bridge;
	struct json_object *o = json_object_new_object(), *counts;

	admin_json_text(o, "program", "qgs-bridge");
	admin_json_text(o, "version", VERSION);
	admin_json_number(o, "pid", (uint64_t)getpid());
	admin_json_number(o, "uptime_s", (worker_now(b->worker) - a->began) / 1000);
	admin_json_flag(o, "draining", b->draining);
	counts = admin_json_object(o, "counts");
	admin_json_number(counts, "connections", b->connections);
	admin_json_number(counts, "vms", b->vms_known.n);
	admin_json_number(counts, "reloads_total", b->reloads);
	admin_json_number(counts, "reload_failures_total", b->reload_failures);
	put_qgs(o, b);
	put_problems(o, b);
	admin_reply_json(r, 200, o);
}

static void get_listeners(struct admin_request *r, void *user)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "listeners");
	const struct bridge *b = bridge_of(user);

	for (size_t i = 0; i < b->n_entrances; i++) {
		const struct entrance_config *c = entrance_config(b->entrances[i]);
		struct json_object *one = admin_json_entry(list);

		admin_json_text(one, "name", c->name);
		admin_json_address(one, "address", &c->address);
		admin_json_text(one, "forward", c->forward ? c->forward : "qgs");
		admin_json_flag(one, "open", entrance_is_open(b->entrances[i]));
		admin_json_number(one, "sockets", entrance_sockets(b->entrances[i]));
	}
	admin_reply_json(r, 200, o);
}

static void get_vms(struct admin_request *r, void *user)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "vms");
	const struct bridge *b = bridge_of(user);

	for (const struct vm *vm = b->vms_known.newest; vm; vm = vm->older) {
		struct json_object *one = admin_json_entry(list);

		admin_json_text(one, "vm", vm->key);
		admin_json_number(one, "connections", vm->connections);
		admin_json_number(one, "requests", vm->line.running);
		admin_json_number(one, "waiting", vm->line.waiting);
		admin_json_number(one, "connections_total", vm->counts.connections);
		admin_json_number(one, "answered_total", vm->counts.answered);
		admin_json_number(one, "failed_total", vm->counts.failed);
		admin_json_number(one, "streams_total", vm->counts.streams);
		admin_json_number(one, "waited_ms_total", vm->counts.waited_ms);
		admin_json_number(one, "waited_ms_max", vm->counts.waited_max_ms);
	}
	admin_reply_json(r, 200, o);
}

/* ---- streams ---- */

/* The address, with or without what follows it. */
static bool is_client(const struct caller *c, const char *wanted)
{
	char text[PEER_TEXT_MAX];

	peer_format(&c->who.peer, text, sizeof(text));
	return strncmp(text, wanted, strlen(wanted)) == 0 && strchr(":,", text[strlen(wanted)]);
}

static void note_live(const struct live *l, void *arg)
{
	struct census_page *page = arg;
	const struct census_question *q = page->question;

	if ((!*q->service || strcmp(q->service, l->service) == 0) && !*q->owner && !q->tunnel &&
	    (!*q->client || strcmp(q->client, l->caller->who.vm) == 0 ||
	     is_client(l->caller, q->client)))
		census_note(page, l->caller->id, NULL);
}

static void describe_live(const struct live *l, void *arg)
{
	const struct caller *c = l->caller;
	struct census_entry *entry = census_find(arg, c->id);
	const uint64_t age = worker_now(c->bridge->worker) - c->began;
	struct json_object *one;
	char text[PEER_TEXT_MAX];

	if (!entry || entry->facts)
		return;
	entry->facts = one = json_object_new_object();
	admin_json_number(one, "id", c->id);
	admin_json_text(one, "vm", c->who.vm);
	admin_json_text(one, "client", peer_format(&c->who.peer, text, sizeof(text)));
	admin_json_text(one, "listener", c->listener);
	admin_json_text(one, "kind", l->kind);
	admin_json_text(one, "service", l->service);
	admin_json_text(one, "relay", l->relay);
	admin_json_text(one, "state", l->state);
	admin_json_since(one, "since", age);
	admin_json_number(one, "age_ms", age);
	admin_json_number(one, "bytes_up", l->up);
	admin_json_number(one, "bytes_down", l->down);
}

static void each_live(const struct bridge *b, live_each *each, void *arg)
{
	quote_each(b, each, arg);
	plain_each(b, each, arg);
	forward_each(b, each, arg);
}

static void note_streams(struct census_page *page, void *user)
{
	each_live(bridge_of(user), note_live, page);
}

static void describe_streams(struct census_page *page, void *user)
{
	each_live(bridge_of(user), describe_live, page);
}

static void get_streams(struct admin_request *r, void *user)
{
	static const struct admin_page_source source = { note_streams, describe_streams };

	admin_page_answer(r, "streams", &source, user);
}

static void get_config(struct admin_request *r, void *user)
{
	struct json_object *o = json_object_new_object();
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);

	if (to) {
		bridge_config_dump(bridge_of(user)->config, to);
		fclose(to);
	}
	if (text)
		json_object_object_add(o, "yaml", json_object_new_string(text));
	free(text);
	admin_reply_json(r, 200, o);
}

static void reply_done(struct admin_request *r, int status, const char *word)
{
	struct json_object *o = json_object_new_object();

	admin_json_text(o, "done", word);
	admin_reply_json(r, status, o);
}

static void post_drain(struct admin_request *r, void *user)
{
	((const struct admin_bridge *)user)->drain();
	reply_done(r, 202, "drain");
}

static void post_reload(struct admin_request *r, void *user)
{
	const struct admin_bridge *a = user;
	const uint64_t before = a->bridge->reload_failures;
	char *why;

	if (a->reload(&why))
		reply_done(r, 200, "reload");
	else
		admin_fail(r, a->bridge->reload_failures != before ? 422 : 409, "reload", "%s",
			   why ? why : "out of memory");
	free(why);
}

/* docs/admin-api.md describes each; a lint test compares the two. */
static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/livez", ADMIN_HEALTH, get_live },
	{ "GET", "/readyz", ADMIN_HEALTH, get_ready },
	{ "GET", "/healthz", ADMIN_HEALTH, get_well },
	{ "GET", "/v1/status", ADMIN_READ, get_status },
	{ "GET", "/v1/listeners", ADMIN_READ, get_listeners },
	{ "GET", "/v1/vms", ADMIN_READ, get_vms },
	{ "GET", "/v1/streams", ADMIN_READ, get_streams },
	{ "GET", "/v1/config", ADMIN_CONFIG, get_config },
	{ "POST", "/v1/drain", ADMIN_CONTROL, post_drain },
	{ "POST", "/v1/reload", ADMIN_CONTROL, post_reload },
	{ "POST", "/v1/log", ADMIN_CONTROL, admin_log_level },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

bool admin_bridge_start(struct admin_bridge *a, struct event_base *base)
{
	const struct bridge_config *c = a->bridge->config;
	char *why = NULL;
	bool good;

	a->began = worker_now(a->bridge->worker);
	a->admin = admin_new(base, routes, ROUTES, a);
	good = a->admin &&
	       admin_listen_at(a->admin, "metrics", &c->metrics, ADMIN_METRICS | ADMIN_HEALTH,
			       &why) &&
	       admin_listen_admin(a->admin, &c->admin, &why);
	if (!good) {
		log_error("%s", why ? why : "cannot start: out of memory");
		admin_bridge_stop(a);
	}
	free(why);
	return good;
}

void admin_bridge_stop(struct admin_bridge *a)
{
	a->admin = admin_free(a->admin);
}
