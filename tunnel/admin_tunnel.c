/*
 * admin_tunnel: what attest-tunnel's HTTP listeners serve.
 *
 * Theory of operation: one table of routes; user is the struct admin_tunnel. Ready is an agent that
 * one relay at least has accepted, or, without services, one that listens.
 */
#include "tunnel/admin_tunnel.h"

#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/admin.h"
#include "relay/admin_json.h"
#include "relay/admin_page.h"
#include "relay/census_page.h"
#include "relay/health_answer.h"
#include "relay/log.h"
#include "relay/process.h"
#include "relay/worker.h"
#include "tunnel/agent.h"
#include "tunnel/egress.h"
#include "tunnel/hello.h"
#include "tunnel/link.h"
#include "tunnel/local.h"
#include "tunnel/session.h"
#include "tunnel/tunnel_metrics.h"

static void get_metrics(struct admin_request *r, void *tunnel)
{
	const struct admin_tunnel *t = tunnel;
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	tunnel_metrics_write(t->metrics, out);
	admin_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", out);
	evbuffer_free(out);
}

static void get_live(struct admin_request *r, void *tunnel)
{
	static const struct health_check loop = { "loop", true, NULL };

	health_answer(r, "livez", &loop, 1);
}

static void get_ready(struct admin_request *r, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;
	const struct health_check checks[] = {
		{ "running", !*m->stopping, "ending: no new streams" },
		{ "relays", !m->agent || agent_up(m->agent) > 0, "none has accepted this agent" },
	};

	health_answer(r, "readyz", checks, sizeof(checks) / sizeof(checks[0]));
}

/* ---- /v1/ ---- */

static void put_counts(struct json_object *o, const struct tunnel_metrics *m)
{
	struct json_object *counts = admin_json_object(o, "counts");

	if (m->agent) {
		admin_json_number(counts, "relays", m->agent->n_links);
		admin_json_number(counts, "relays_up", agent_up(m->agent));
		admin_json_number(counts, "streams", m->agent->serve.live);
		admin_json_number(counts, "streams_total", m->agent->serve.counted);
	}
	if (m->local) {
		admin_json_number(counts, "local_streams", m->local->live);
		admin_json_number(counts, "local_streams_total", m->local->counted);
	}
}

/* A relay that has not accepted this agent, and why as far as it is known. */
static void put_problem(struct json_object *list, const struct link *l)
{
	struct json_object *one = admin_json_entry(list);
	char what[ADDRESS_TEXT_MAX + LINK_DETAIL_MAX + 32];

	snprintf(what, sizeof(what), "not connected to %s%s%s", l->text, *l->said ? ": " : "",
		 l->said);
	admin_json_text(one, "severity", "warning");
	admin_json_text(one, "code", "relay-not-connected");
	admin_json_text(one, "what", what);
	admin_json_text(one, "advice",
			l->refused
				? "The relay refused this agent: its credential or services are "
				  "to be changed, then reload."
				: "It is tried again by itself. attest-tunnel doctor looks at the "
				  "way there.");
}

static void get_status(struct admin_request *r, void *tunnel)
{
	const struct admin_tunnel *t = tunnel;
	const struct tunnel_metrics *m = t->metrics;
	struct json_object *o = json_object_new_object(), *problems;

	admin_json_text(o, "program", "attest-tunnel");
	admin_json_text(o, "version", VERSION);
	admin_json_number(o, "pid", (uint64_t)getpid());
	admin_json_number(o, "uptime_s", (worker_now(m->worker) - t->began) / 1000);
	admin_json_flag(o, "draining", *m->stopping);
	admin_json_text(o, "instance", t->instance);
	put_counts(o, m);
	problems = admin_json_list(o, "problems");
	for (unsigned i = 0; m->agent && i < m->agent->n_links; i++)
		if (!m->agent->links[i]->active)
			put_problem(problems, m->agent->links[i]);
	admin_reply_json(r, 200, o);
}

static const char *link_word(const struct link *l)
{
	return l->active     ? l->moving ? "moving" : "up"
	       : l->pending  ? "connecting"
	       : l->refused  ? "refused"
	       : l->finished ? "finished"
			     : "waiting";
}

static void put_link(struct json_object *list, const struct link *l, uint64_t now)
{
	struct json_object *one = admin_json_entry(list);
	const struct link_line *line = l->active;

	admin_json_text(one, "address", l->text);
	admin_json_text(one, "state", link_word(l));
	admin_json_text(one, "carrier", carrier_kind_text(line ? line->kind : l->kind));
	admin_json_text(one, "proxy", l->proxy ? l->proxy->text : NULL);
	if (line) {
		admin_json_text(one, "owner", line->owner);
		admin_json_since(one, "since", now - line->up_since);
		admin_json_number(one, "age_ms", now - line->up_since);
		if (session_rtt_us(line->session)) /* 0: no PING has come back yet */
			admin_json_number(one, "rtt_us", session_rtt_us(line->session));
		admin_json_number(one, "streams", session_streams(line->session));
	} else {
		admin_json_text(one, "error", l->said);
	}
	admin_json_number(one, "sessions_total", l->sessions);
	admin_json_number(one, "failures_total", l->failures);
	admin_json_number(one, "losses_total", l->losses);
}

static void get_relays(struct admin_request *r, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "relays");

	for (unsigned i = 0; m->agent && i < m->agent->n_links; i++)
		put_link(list, m->agent->links[i], worker_now(m->worker));
	admin_reply_json(r, 200, o);
}

static void put_offer(struct json_object *list, const struct serve_offer *offer)
{
	struct json_object *one = admin_json_entry(list), *ended;

	admin_json_text(one, "name", offer->config->name);
	admin_json_text(one, "target", offer->address);
	admin_json_number(one, "streams", offer->counts->live);
	admin_json_number(one, "streams_total", offer->counts->streams);
	admin_json_number(one, "bytes_up_total", offer->counts->bytes[INI]);
	admin_json_number(one, "bytes_down_total", offer->counts->bytes[TGT]);
	ended = admin_json_object(one, "ended_total");
	for (unsigned i = 0; i < FIGURE_CLASSES; i++)
		admin_json_number(ended, figure_class_word(i), offer->counts->ended[i]);
}

static void get_services(struct admin_request *r, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "services");

	for (unsigned i = 0; m->agent && i < m->agent->serve.n_offers; i++)
		put_offer(list, m->agent->serve.offers[i]);
	admin_reply_json(r, 200, o);
}

/* ---- streams ---- */

/* The address, with or without what follows it. */
static bool is_client(const struct peer *peer, const char *wanted)
{
	char text[PEER_TEXT_MAX];

	peer_format(peer, text, sizeof(text));
	return strncmp(text, wanted, strlen(wanted)) == 0 && strchr(":,", text[strlen(wanted)]);
}

/* As clients ask for it. */
static void name_service(const struct serve_live *l, char *buf, size_t size)
{
	snprintf(buf, size, "%s.%s", l->offer->config->name, l->owner);
}

static void note_live(const struct serve_live *l, void *arg)
{
	struct census_page *page = arg;
	const struct census_question *q = page->question;
	char service[2 * HELLO_LABEL_MAX];

	name_service(l, service, sizeof(service));
	if ((!*q->service || strcmp(q->service, service) == 0) &&
	    (!*q->owner || strcmp(q->owner, l->owner) == 0) && !q->tunnel &&
	    (!*q->client || is_client(l->client, q->client)))
		census_note(page, l->number, NULL);
}

static void describe_live(const struct serve_live *l, void *arg)
{
	struct census_entry *entry = census_find(arg, l->number);
	char service[2 * HELLO_LABEL_MAX], text[PEER_TEXT_MAX];
	struct json_object *one;

	if (!entry || entry->facts)
		return;
	name_service(l, service, sizeof(service));
	entry->facts = one = json_object_new_object();
	admin_json_number(one, "id", l->number);
	admin_json_text(one, "relay_id", l->id);
	admin_json_text(one, "state", l->state);
	admin_json_text(one, "service", service);
	admin_json_text(one, "owner", l->owner);
	if (l->client->family)
		admin_json_text(one, "client", peer_format(l->client, text, sizeof(text)));
	admin_json_text(one, "relay", l->relay);
	admin_json_text(one, "target", l->offer->address);
	admin_json_since(one, "since", l->age_ms);
	admin_json_number(one, "age_ms", l->age_ms);
	admin_json_number(one, "bytes_up", l->up);
	admin_json_number(one, "bytes_down", l->down);
}

static void note_streams(struct census_page *page, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;

	if (m->agent)
		serve_each(&m->agent->serve, note_live, page);
}

static void describe_streams(struct census_page *page, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;

	if (m->agent)
		serve_each(&m->agent->serve, describe_live, page);
}

static void get_streams(struct admin_request *r, void *tunnel)
{
	static const struct admin_page_source source = { note_streams, describe_streams };

	admin_page_answer(r, "streams", &source, tunnel);
}

static void get_listeners(struct admin_request *r, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "listeners");

	for (size_t i = 0; i < m->config->n_locals; i++) {
		struct json_object *one = admin_json_entry(list);

		admin_json_address(one, "address", &m->config->locals[i].address);
		admin_json_text(one, "service", m->config->locals[i].service);
		admin_json_flag(one, "open", m->local && !*m->stopping);
	}
	admin_reply_json(r, 200, o);
}

static void get_config(struct admin_request *r, void *tunnel)
{
	const struct tunnel_metrics *m = ((const struct admin_tunnel *)tunnel)->metrics;
	struct json_object *o = json_object_new_object();
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);

	if (to) {
		tunnel_config_dump(m->config, to);
		fclose(to);
	}
	if (text)
		json_object_object_add(o, "yaml", json_object_new_string(text));
	free(text);
	admin_reply_json(r, 200, o);
}

static void post_drain(struct admin_request *r, void *tunnel)
{
	struct json_object *o = json_object_new_object();

	admin_json_text(o, "done", "drain");
	admin_reply_json(r, 202, o);
	((const struct admin_tunnel *)tunnel)->drain();
}

static void post_reload(struct admin_request *r, void *tunnel)
{
	const struct admin_tunnel *t = tunnel;
	struct json_object *o;
	char *why;

	if (!t->reload(&why)) {
		admin_fail(r, *t->metrics->stopping ? 409 : 422, "reload", "%s",
			   why ? why : "out of memory");
		free(why);
		return;
	}
	o = json_object_new_object();
	admin_json_text(o, "done", "reload");
	admin_reply_json(r, 200, o);
}

/* docs/admin-api.md describes each; a lint test compares the two. */
static const struct admin_route routes[] = {
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/livez", ADMIN_HEALTH, get_live },
	{ "GET", "/readyz", ADMIN_HEALTH, get_ready },
	{ "GET", "/healthz", ADMIN_HEALTH, get_ready },
	{ "GET", "/v1/status", ADMIN_READ, get_status },
	{ "GET", "/v1/relays", ADMIN_READ, get_relays },
	{ "GET", "/v1/services", ADMIN_READ, get_services },
	{ "GET", "/v1/streams", ADMIN_READ, get_streams },
	{ "GET", "/v1/listeners", ADMIN_READ, get_listeners },
	{ "GET", "/v1/config", ADMIN_CONFIG, get_config },
	{ "POST", "/v1/drain", ADMIN_CONTROL, post_drain },
	{ "POST", "/v1/reload", ADMIN_CONTROL, post_reload },
	{ "POST", "/v1/log", ADMIN_CONTROL, admin_log_level },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

bool admin_tunnel_start(struct admin_tunnel *t, struct event_base *base)
{
	const struct tunnel_config *c = t->metrics->config;
	char *why = NULL;
	bool good;

	if (c->metrics.kind == ADDRESS_NONE && c->admin.address.kind == ADDRESS_NONE)
		return true; /* so that the loop need not sleep in libevent's (relay/worker.h) */
	process_open();
	t->began = worker_now(t->metrics->worker);
	t->admin = admin_new(base, routes, ROUTES, t);
	good = t->admin &&
	       admin_listen_at(t->admin, "metrics", &c->metrics, ADMIN_METRICS | ADMIN_HEALTH,
			       &why) &&
	       admin_listen_admin(t->admin, &c->admin, &why);
	if (!good) {
		log_error("%s", why ? why : "cannot start: out of memory");
		admin_tunnel_stop(t);
	}
	free(why);
	return good;
}

void admin_tunnel_stop(struct admin_tunnel *t)
{
	t->admin = admin_free(t->admin);
	process_close();
}
