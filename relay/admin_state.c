/*
 * admin_state: the admin API's answers that the main thread has by itself.
 *
 * Theory of operation: each answer is made of counters, quotas and the config in effect as they are
 * at this moment; nothing is kept. Fields are added in time, and never change their meaning:
 * docs/admin-api.md is the contract.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "relay/admin_json.h"
#include "relay/admin_relay_private.h"
#include "relay/audit.h"
#include "relay/bind.h"
#include "relay/daemon.h"
#include "relay/destination.h"
#include "relay/failures.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/health.h"
#include "relay/problems.h"
#include "relay/reach.h"
#include "relay/registry.h"
#include "relay/sockets.h"

static const char *const kind_word[QUOTA_KINDS] = { "connections", "handshakes", "tunnels",
						    "streams", "parked" };

static uint64_t sum(const struct gateway *g, enum counter which)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < g->n_workers; i++)
		total += counter_get(&g->workers[i]->counters.value[which]);
	return total;
}

/* ---- status ---- */

static void put_counts(struct json_object *o, const struct gateway *g)
{
	struct json_object *counts = admin_json_object(o, "counts");

	admin_json_number(counts, "connections", atomic_load(&g->connections));
	admin_json_number(counts, "tunnels", sum(g, COUNTER_LIVE_TUNNELS));
	admin_json_number(counts, "services", registry_services(g->registry));
	admin_json_number(counts, "streams", sum(g, COUNTER_LIVE_SPLICES));
	admin_json_number(counts, "parked", sum(g, COUNTER_LIVE_PARKED));
	admin_json_number(counts, "accepted_total", sum(g, COUNTER_ACCEPTED));
	admin_json_number(counts, "streams_total", sum(g, COUNTER_STREAMS));
	admin_json_number(counts, "bytes_up_total", sum(g, COUNTER_BYTES_UP));
	admin_json_number(counts, "bytes_down_total", sum(g, COUNTER_BYTES_DOWN));
}

static void put_problems(struct json_object *o, const struct gateway *g)
{
	struct json_object *list = admin_json_list(o, "problems");
	struct problems *found = calloc(1, sizeof(*found));

	if (!found)
		return;
	problems_find(g, found);
	for (size_t i = 0; i < found->n; i++) {
		struct json_object *one = admin_json_entry(list);

		admin_json_text(one, "severity", problem_severity_word(found->at[i].severity));
		admin_json_text(one, "code", found->at[i].code);
		admin_json_text(one, "what", found->at[i].what);
		admin_json_text(one, "advice", found->at[i].advice);
	}
	admin_json_number(o, "problems_more", found->more);
	free(found);
}

static void put_audit(struct json_object *o, const struct gateway *g)
{
	const struct audit_counts c = audit_counts(g->audit);
	struct json_object *audit = admin_json_object(o, "audit");

	admin_json_flag(audit, "on", g->audit);
	admin_json_number(audit, "written_total", c.written);
	admin_json_number(audit, "lost_total", c.lost);
	admin_json_number(audit, "queued", c.queued);
}

void admin_state_status(struct admin_request *r, void *daemon)
{
	struct json_object *o = json_object_new_object(), *reload;
	const struct gateway *g = daemon_gateway(daemon);
	const struct admin_relay *a = g->admin;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	admin_json_text(o, "program", "attest-relay");
	admin_json_text(o, "version", VERSION);
	admin_json_number(o, "pid", (uint64_t)getpid());
	admin_json_number(o, "uptime_s", (uint64_t)now.tv_sec - a->started);
	admin_json_flag(o, "draining", atomic_load(&g->draining));
	admin_json_number(o, "generation", g->settings->generation);
	admin_json_number(o, "workers", g->n_workers);
	admin_json_number(o, "workers_stuck", daemon_stuck_workers(daemon));
	if (a->reloaded_at) {
		reload = admin_json_object(o, "last_reload");
		admin_json_flag(reload, "ok", !a->reload_error);
		admin_json_time(reload, "at", a->reloaded_at);
		admin_json_text(reload, "error", a->reload_error);
	}
	put_counts(o, g);
	put_audit(o, g);
	put_problems(o, g);
	admin_reply_json(r, 200, o);
}

/* ---- by name: listeners, owners, services ---- */

static const struct figures_row *row_of(const struct figures_rows *rows, const char *name)
{
	for (size_t i = 0; i < rows->n; i++)
		if (strcmp(rows->at[i].name, name) == 0)
			return &rows->at[i];
	return NULL;
}

static void put_row(struct json_object *o, const struct figures_row *row)
{
	if (!row)
		return;
	admin_json_number(o, "streams", row->value[FIGURE_LIVE]);
	admin_json_number(o, "parked", row->value[FIGURE_PARKED]);
	admin_json_number(o, "streams_total", row->value[FIGURE_STREAMS]);
	admin_json_number(o, "bytes_up_total", row->value[FIGURE_UP]);
	admin_json_number(o, "bytes_down_total", row->value[FIGURE_DOWN]);
}

static void put_doors(struct json_object *o, const struct listener_config *l)
{
	static const struct {
		enum door door;
		const char *word;
	} words[] = { { DOOR_TUNNEL, "tunnel" },
		      { DOOR_SNI, "sni" },
		      { DOOR_CONNECT, "connect" },
		      { DOOR_WEBSOCKET, "websocket" } };
	struct json_object *list = admin_json_list(o, "doors");

	for (size_t i = 0; list && i < sizeof(words) / sizeof(words[0]); i++)
		if (l->doors & words[i].door)
			json_object_array_add(list, json_object_new_string(words[i].word));
}

void admin_state_listeners(struct admin_request *r, void *daemon)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "listeners");
	const struct gateway *g = daemon_gateway(daemon);
	const struct relay_config *c = g->settings->config;
	struct figures_rows rows = { 0 };
	char text[ADDRESS_TEXT_MAX];

	figures_read(g->figures, FIGURES_LISTENERS, &rows); /* none: told without numbers */
	for (size_t i = 0; i < c->n_listeners; i++) {
		const struct listener_config *l = &c->listeners[i];
		const struct figures_row *row = row_of(&rows, l->name);
		struct json_object *one = admin_json_entry(list);

		admin_json_text(one, "name", l->name);
		admin_json_address(one, "address", &l->address);
		if (g->sockets && i < g->sockets->n && g->sockets->at[i])
			admin_json_text(one, "bound",
					bind_describe(&l->address, g->sockets->at[i]->fd, text,
						      sizeof(text)));
		if (l->service)
			admin_json_text(one, "service", l->service);
		else
			put_doors(one, l);
		admin_json_flag(one, "open", !atomic_load(&g->draining));
		if (row)
			admin_json_number(one, "accepted_total", row->value[FIGURE_ACCEPTED]);
	}
	figures_rows_deinit(&rows);
	admin_reply_json(r, 200, o);
}

static void put_quota(struct json_object *o, const struct quota *q, unsigned kinds)
{
	struct json_object *limits = admin_json_object(o, "limits");

	for (unsigned k = 0; k < QUOTA_KINDS; k++) {
		struct json_object *one;

		if (!(kinds >> k & 1))
			continue;
		one = admin_json_object(limits, kind_word[k]);
		admin_json_number(one, "used", quota_used(q, k));
		if (quota_most(q, k) != QUOTA_NO_LIMIT)
			admin_json_number(one, "most", quota_most(q, k));
	}
	if (kinds & 1 << QUOTA_TUNNELS) {
		struct json_object *memory = admin_json_object(limits, "memory_bytes");
		uint64_t most = atomic_load(&q->limits->memory);

		admin_json_number(memory, "used", atomic_load(&q->memory));
		if (most != QUOTA_NO_LIMIT)
			admin_json_number(memory, "most", most);
	}
	admin_json_number(o, "refused_total", atomic_load(&q->refused));
}

#define OWNERS_KINDS (1u << QUOTA_TUNNELS | 1u << QUOTA_STREAMS | 1u << QUOTA_PARKED)
#define CLIENTS_KINDS (1u << QUOTA_STREAMS | 1u << QUOTA_PARKED)

static void put_credentials(struct json_object *list, const char *kind,
			    const struct credentials_config *c)
{
	for (size_t i = 0; i < c->n; i++) {
		struct json_object *one = admin_json_entry(list);

		admin_json_text(one, "kind", kind);
		admin_json_text(one, "label", c->at[i].label);
		admin_json_text(one, "name", c->at[i].name);
		admin_json_time(one, "expires", c->at[i].expires);
	}
}

void admin_state_owners(struct admin_request *r, void *daemon)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "owners");
	struct gateway *g = daemon_gateway(daemon);
	const struct relay_config *c = g->settings->config;
	struct figures_rows rows = { 0 };

	figures_read(g->figures, FIGURES_OWNERS, &rows);
	for (size_t i = 0; i < c->n_owners; i++) {
		struct quota_entry *q = tenants_owner(&g->tenants, c->owners[i].name);
		struct json_object *one = admin_json_entry(list), *credentials;

		admin_json_text(one, "name", c->owners[i].name);
		put_row(one, row_of(&rows, c->owners[i].name));
		credentials = admin_json_list(one, "credentials");
		put_credentials(credentials, "token", &c->owners[i].tokens);
		put_credentials(credentials, "certificate", &c->owners[i].certificates);
		if (q)
			put_quota(one, &q->quota, OWNERS_KINDS);
		quotas_put(q);
	}
	figures_rows_deinit(&rows);
	admin_reply_json(r, 200, o);
}

static void put_targets(struct json_object *o, const struct gateway *g, const char *service)
{
	const struct service_config *s = relay_config_service(g->settings->config, service);
	const struct destination *d = s ? settings_destination(g->settings, s) : NULL;
	struct json_object *list = s ? admin_json_list(o, "targets") : NULL;

	for (size_t i = 0; s && i < s->targets.n; i++) {
		struct json_object *one = admin_json_entry(list);

		admin_json_address(one, "address", &s->targets.at[i]);
		if (s->targets.at[i].kind != ADDRESS_TUNNEL)
			admin_json_flag(one, "up", health_is_up(d->health, i));
	}
}

static bool put_service(struct json_object *list, const struct gateway *g, const char *name,
			bool configured, const struct figures_row *row)
{
	struct json_object *one;
	struct reach reach = { 0 };
	bool known = reach_of(g, name, &reach);

	if (!known && !configured)
		return false;
	one = admin_json_entry(list);
	admin_json_text(one, "name", name);
	admin_json_flag(one, "configured", configured);
	admin_json_flag(one, "ready", known && reach_is_good(&reach));
	admin_json_number(one, "tunnels", reach.tunnels);
	put_targets(one, g, name);
	put_row(one, row);
	return true;
}

void admin_state_services(struct admin_request *r, void *daemon)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "services");
	const struct gateway *g = daemon_gateway(daemon);
	const struct relay_config *c = g->settings->config;
	struct figures_rows rows = { 0 };

	figures_read(g->figures, FIGURES_SERVICES, &rows);
	for (size_t i = 0; i < c->n_services; i++)
		put_service(list, g, c->services[i].name, true, row_of(&rows, c->services[i].name));
	for (size_t i = 0; i < rows.n; i++)
		if (rows.at[i].name[0] != '_' && !relay_config_service(c, rows.at[i].name))
			put_service(list, g, rows.at[i].name, false, &rows.at[i]);
	figures_rows_deinit(&rows);
	admin_reply_json(r, 200, o);
}

void admin_state_ready(struct admin_request *r, void *daemon)
{
	const struct gateway *g = daemon_gateway(daemon);
	const char *rest = admin_rest(r), *slash = strchr(rest, '/');
	struct json_object *o;
	struct reach reach;
	char name[136];
	bool good;

	if (!slash || strcmp(slash, "/ready") != 0 || (size_t)(slash - rest) >= sizeof(name)) {
		admin_fail(r, 404, "not-found", "expected a service's name and /ready");
		return;
	}
	memcpy(name, rest, (size_t)(slash - rest));
	name[slash - rest] = '\0';
	if (!reach_of(g, name, &reach)) {
		admin_fail(r, 404, "not-found", "no service has this name");
		return;
	}
	good = reach_is_good(&reach) && !atomic_load(&g->draining);
	o = json_object_new_object();
	admin_json_text(o, "name", name);
	admin_json_flag(o, "ready", good);
	admin_json_number(o, "tunnels", reach.tunnels);
	admin_json_number(o, "targets_up", reach.live);
	admin_reply_json(r, good ? 200 : 503, o);
}

/* ---- limits ---- */

static void put_limit(struct json_object *list, const char *scope, const char *name,
		      const char *what, uint64_t used, uint64_t most)
{
	struct json_object *one = admin_json_entry(list);

	admin_json_text(one, "scope", scope);
	admin_json_text(one, "name", name);
	admin_json_text(one, "what", what);
	admin_json_number(one, "used", used);
	if (most != QUOTA_NO_LIMIT)
		admin_json_number(one, "most", most);
}

static void put_kinds(struct json_object *list, const char *scope, const char *name,
		      const struct quota *q, unsigned kinds)
{
	for (unsigned k = 0; k < QUOTA_KINDS; k++)
		if (kinds >> k & 1)
			put_limit(list, scope, name, kind_word[k], quota_used(q, k),
				  quota_most(q, k));
	if (kinds & 1 << QUOTA_TUNNELS)
		put_limit(list, scope, name, "memory_bytes", atomic_load(&q->memory),
			  atomic_load(&q->limits->memory));
}

static void put_all_limits(struct json_object *list, const struct gateway *g)
{
	const struct relay_limits *l = &g->settings->config->limits;
	const struct quota *all = &g->tenants.all;

	put_limit(list, "all", NULL, "connections", atomic_load(&g->connections),
		  g->connections_max);
	put_limit(list, "all", NULL, "handshakes", quota_used(all, QUOTA_HANDSHAKES),
		  l->handshakes);
	put_limit(list, "all", NULL, "tunnels", sum(g, COUNTER_LIVE_TUNNELS), l->tunnels);
	put_limit(list, "all", NULL, "parked", quota_used(all, QUOTA_PARKED), l->parked);
	put_limit(list, "all", NULL, "memory_bytes", atomic_load(&all->memory),
		  atomic_load(&all->limits->memory));
}

static void put_sources(struct json_object *o, const struct gateway *g)
{
	struct json_object *sources = admin_json_object(o, "sources");
	struct json_object *list = admin_json_list(sources, "top");
	const uint64_t now = worker_now(g->workers[0]);
	struct sources_census c;
	struct sources_top top;

	sources_census(g->tenants.sources, now, &c);
	admin_json_number(sources, "known", c.known);
	admin_json_number(sources, "blocked", c.blocked);
	sources_top(g->tenants.sources, now, &top);
	for (size_t i = 0; i < top.n; i++) {
		struct json_object *one = admin_json_entry(list);

		admin_json_text(one, "source", top.at[i].name);
		admin_json_flag(one, "blocked", top.at[i].blocked);
		for (unsigned k = 0; k < QUOTA_KINDS; k++)
			if (k != QUOTA_TUNNELS)
				admin_json_number(one, kind_word[k], top.at[i].used[k]);
		admin_json_number(one, "refused_total", top.at[i].refused);
	}
}

void admin_state_limits(struct admin_request *r, void *daemon)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "limits");
	const struct gateway *g = daemon_gateway(daemon);
	const struct tenants *t = &g->tenants;

	put_all_limits(list, g);
	for (size_t i = 0; i < t->n_held; i++) {
		const struct quota_entry *q = t->held[i];
		const bool owner = q->in == t->owners;

		put_kinds(list, owner ? "owner" : "client", q->name, &q->quota,
			  owner ? OWNERS_KINDS : CLIENTS_KINDS);
	}
	put_sources(o, g);
	admin_reply_json(r, 200, o);
}

/* ---- failures, config ---- */

void admin_state_failures(struct admin_request *r, void *daemon)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, "failures");
	struct failure *last = calloc(FAILURES_MAX, sizeof(*last));
	size_t n = last ? failures_read(last) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *one = admin_json_entry(list);

		admin_json_number(one, "number", last[i].number);
		admin_json_time(one, "at", last[i].at_ms / 1000);
		admin_json_text(one, "event", last[i].event);
		admin_json_text(one, "reason", reason_word(last[i].why));
		if (last[i].id)
			admin_json_number(one, "id", last[i].id);
		admin_json_text(one, "client", last[i].client);
		admin_json_text(one, "listener", last[i].listener);
		admin_json_text(one, "service", last[i].service);
		admin_json_text(one, "tunnel", last[i].tunnel);
		admin_json_text(one, "detail", last[i].detail);
		admin_json_text(one, "explanation", reason_explanation(last[i].why));
	}
	admin_json_number(o, "not_noted_total", failures_unnoted());
	free(last);
	admin_reply_json(r, 200, o);
}

void admin_state_config(struct admin_request *r, void *daemon)
{
	const struct gateway *g = daemon_gateway(daemon);
	struct json_object *o;
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);

	if (to) {
		relay_config_dump(g->settings->config, to);
		fclose(to);
	}
	o = text ? json_object_new_object() : NULL;
	admin_json_text(o, "file", daemon_path(daemon));
	admin_json_number(o, "generation", g->settings->generation);
	if (o)
		json_object_object_add(o, "yaml", json_object_new_string(text));
	free(text);
	admin_reply_json(r, 200, o);
}
