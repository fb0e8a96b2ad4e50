/*
 * admin_relay: what attest-relay's HTTP listeners serve.
 *
 * Theory of operation: one table of routes for all three listeners; each has its scope. user is the
 * daemon. Who changes something is written down: a line in the log and an audit record.
 */
#include "relay/admin_relay.h"

#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "relay/admin_json.h"
#include "relay/admin_relay_private.h"
#include "relay/audit.h"
#include "relay/census.h"
#include "relay/daemon.h"
#include "relay/gateway.h"
#include "relay/health_http.h"
#include "relay/metrics.h"
#include "relay/status_page.h"
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

/* ---- control ---- */

/* One word more to say: {"done": word}. */
static void reply_done(struct admin_request *r, int status, const char *word)
{
	struct json_object *o = json_object_new_object();

	admin_json_text(o, "done", word);
	admin_reply_json(r, status, o);
}

static void post_drain(struct admin_request *r, void *daemon)
{
	daemon_drain(daemon);
	reply_done(r, 202, "drain");
}

struct reload_request {
	struct admin_request *request;
	struct daemon *daemon;
};

static void on_reloaded(void *arg, bool good, const char *why)
{
	const struct reload_request wait = *(struct reload_request *)arg;
	struct json_object *o;

	free(arg);
	if (!good) {
		admin_fail(wait.request, daemon_is_draining(wait.daemon) ? 409 : 422, "reload",
			   "%s", why ? why : "out of memory");
		return;
	}
	o = json_object_new_object();
	admin_json_text(o, "done", "reload");
	admin_json_number(o, "generation", daemon_gateway(wait.daemon)->settings->generation);
	admin_reply_json(wait.request, 200, o);
}

static void post_reload(struct admin_request *r, void *daemon)
{
	struct reload_request *wait = malloc(sizeof(*wait));

	if (!wait) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	*wait = (struct reload_request){ r, daemon };
	daemon_reload(daemon, on_reloaded, wait);
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

static void record_control(const struct admin_request *r, const char *what, void *daemon)
{
	const struct gateway *g = daemon_gateway(daemon);
	char client[64], whole[256], whose[160];
	struct audit_record record = { .kind = AUDIT_ADMIN, .client = client, .detail = what };
	uid_t uid;
	pid_t pid;

	if (!admin_peer(r, &uid, &pid))
		return;
	if (strcmp(what, "POST /v1/revoke") == 0) {
		snprintf(whole, sizeof(whole), "%s %s", what,
			 admin_revoke_whose(r, whose, sizeof(whose)));
		record.detail = whole;
	}
	snprintf(client, sizeof(client), "unix:pid=%d,uid=%u", (int)pid, (unsigned)uid);
	audit_write(g->audit, NULL, &record);
}

/* docs/admin-api.md describes each; a lint test compares the two. */
static const struct admin_route routes[] = {
	{ "GET", "/", ADMIN_READ, status_page_html },
	{ "GET", "/status.css", ADMIN_READ, status_page_css },
	{ "GET", "/status.js", ADMIN_READ, status_page_js },
	{ "GET", "/metrics", ADMIN_METRICS, get_metrics },
	{ "GET", "/livez", ADMIN_HEALTH, health_http_live },
	{ "GET", "/readyz", ADMIN_HEALTH, health_http_ready },
	{ "GET", "/readyz/", ADMIN_HEALTH, health_http_ready },
	{ "GET", "/healthz", ADMIN_HEALTH, health_http_ready },
	{ "GET", "/v1/status", ADMIN_READ, admin_state_status },
	{ "GET", "/v1/history", ADMIN_READ, status_page_history },
	{ "GET", "/v1/listeners", ADMIN_READ, admin_state_listeners },
	{ "GET", "/v1/owners", ADMIN_READ, admin_state_owners },
	{ "GET", "/v1/services", ADMIN_READ, admin_state_services },
	{ "GET", "/v1/services/", ADMIN_READ, admin_state_ready },
	{ "GET", "/v1/tunnels", ADMIN_READ, admin_live_tunnels },
	{ "GET", "/v1/streams", ADMIN_READ, admin_live_streams },
	{ "GET", "/v1/limits", ADMIN_READ, admin_state_limits },
	{ "GET", "/v1/failures", ADMIN_READ, admin_state_failures },
	{ "GET", "/v1/config", ADMIN_CONFIG, admin_state_config },
	{ "POST", "/v1/streams/", ADMIN_CONTROL, admin_live_close_stream },
	{ "POST", "/v1/tunnels/", ADMIN_CONTROL, admin_live_close_tunnel },
	{ "POST", "/v1/drain", ADMIN_CONTROL, post_drain },
	{ "POST", "/v1/reload", ADMIN_CONTROL, post_reload },
	{ "POST", "/v1/revoke", ADMIN_CONTROL, admin_revoke },
	{ "POST", "/v1/takeover", ADMIN_CONTROL, post_takeover },
	{ "POST", "/v1/log", ADMIN_CONTROL, admin_log_level },
};

#define ROUTES (sizeof(routes) / sizeof(routes[0]))

/* ---- its life ---- */

struct admin *admin_relay_start(struct event_base *base, struct daemon *d, char **why)
{
	struct gateway *g = daemon_gateway(d);
	const struct relay_config *config = g->config;
	struct admin_relay *a = calloc(1, sizeof(*a));
	struct timespec now;

	*why = NULL;
	if (!a)
		return NULL;
	clock_gettime(CLOCK_MONOTONIC, &now);
	a->started = (uint64_t)now.tv_sec;
	a->admin = admin_new(base, routes, ROUTES, d);
	a->censuses = censuses_new(base, g);
	g->admin = a;
	if (a->admin && a->censuses) {
		admin_on_control(a->admin, record_control);
		if (admin_listen_at(a->admin, "metrics", &config->metrics,
				    ADMIN_METRICS | ADMIN_HEALTH, why) &&
		    admin_listen_at(a->admin, "status", &config->status,
				    ADMIN_READ | ADMIN_METRICS | ADMIN_HEALTH, why) &&
		    admin_listen_admin(a->admin, &config->admin, why))
			return a->admin;
	}
	admin_relay_stop(g);
	return NULL;
}

const char *admin_relay_reload_error(const struct gateway *g)
{
	return g->admin ? g->admin->reload_error : NULL;
}

void admin_relay_reloaded(struct gateway *g, const char *why)
{
	struct admin_relay *a = g->admin;

	if (!a)
		return;
	free(a->reload_error);
	a->reload_error = why ? strdup(why) : NULL;
	a->reloaded_at = settings_now();
}

void admin_relay_stop(struct gateway *g)
{
	struct admin_relay *a = g->admin;

	if (!a)
		return;
	g->admin = NULL;
	censuses_free(a->censuses);
	admin_free(a->admin);
	free(a->reload_error);
	free(a);
}
