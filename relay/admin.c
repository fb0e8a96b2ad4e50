/*
 * admin: a program's own HTTP listeners: metrics, health, the status page, the admin API.
 *
 * Theory of operation: a listener has a scope, a route has one; who asks for a route outside of the
 * listener's is told that there is none. admin_http.c reads requests and writes replies. What
 * anybody could ask a browser for (ADMIN_READ by TCP) is answered only if the Host is this machine,
 * so that no page of elsewhere can have its own name lead here. ADMIN_CONTROL is for Unix sockets:
 * the path's mode says who may connect; a socket without path has none, so there root and our own
 * user are let in alone. Without descriptors accept pauses for a second; a listener with as many
 * connections as may be, until one is gone: who fills one keeps nobody from another. A request is
 * in a list until it is answered, so that the end can find those that are not.
 */
#include "relay/admin.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <json-c/json_object.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "relay/admin_private.h"
#include "relay/log.h"
#include "relay/why.h"

#define PATH_LOGGED 200

/* ---- listeners ---- */

static bool is_full(const struct admin_listener *l)
{
	return l->connections >= ADMIN_CONNECTIONS_MAX;
}

static void accept_if_not_full(struct admin_listener *l)
{
	if (l->accept && !is_full(l))
		evconnlistener_enable(l->accept);
}

void admin_connection_gone(struct admin_listener *l)
{
	l->connections--;
	if (!evtimer_pending(l->admin->resume, NULL))
		accept_if_not_full(l);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	const struct admin *a = arg;

	for (struct admin_listener *l = a->listeners; l; l = l->next)
		accept_if_not_full(l);
}

/* No descriptors: libevent would try again at once, for ever. */
static void on_accept_error(struct evconnlistener *accept, void *arg)
{
	const struct timeval second = { .tv_sec = 1 };
	const struct admin *a = ((const struct admin_listener *)arg)->admin;

	for (struct admin_listener *l = a->listeners; l; l = l->next)
		if (l->accept)
			evconnlistener_disable(l->accept);
	evtimer_add(a->resume, &second);
}

static void on_accept(struct evconnlistener *accept, evutil_socket_t fd, struct sockaddr *from,
		      int len, void *arg)
{
	struct admin_listener *l = arg;

	l->connections++;
	if (is_full(l))
		evconnlistener_disable(l->accept);
	admin_connection_start(l, fd);
}

struct admin *admin_new(struct event_base *base, const struct admin_route *routes, size_t n,
			void *user)
{
	struct admin *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->base = base;
	a->routes = routes;
	a->n_routes = n;
	a->user = user;
	a->resume = evtimer_new(base, on_resume, a);
	return a->resume ? a : admin_free(a);
}

void admin_on_control(struct admin *a,
		      void (*control)(const struct admin_request *r, const char *what, void *user))
{
	a->control = control;
}

/* Its socket is closed afterwards: the path goes first, while nobody else's can have its number. */
static void listener_free(struct admin_listener *l)
{
	bind_withdraw(&l->address, &l->file);
	if (l->accept)
		evconnlistener_free(l->accept);
	address_deinit(&l->address);
	free(l);
}

int admin_listen(struct admin *a, const struct address *address, unsigned scopes,
		 const struct bind_access *access, char **why)
{
	const struct bind_access none = { 0 };
	struct admin_listener *l = calloc(1, sizeof(*l));
	int fd = -1;

	*why = NULL;
	if (!l)
		return -1;
	l->admin = a;
	l->scopes = scopes;
	if (address_copy(&l->address, address) == 0)
		fd = bind_listen_with(&l->address, access ? access : &none, &l->file, NULL, why);
	if (fd >= 0)
		l->accept =
			evconnlistener_new(a->base, on_accept, l,
					   LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	if (!l->accept) {
		listener_free(l);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	evconnlistener_set_error_cb(l->accept, on_accept_error);
	l->next = a->listeners;
	a->listeners = l;
	return 0;
}

static bool listen_at(struct admin *a, const char *key, const struct address *address,
		      unsigned scopes, const struct bind_access *access, char **why)
{
	char *text;

	*why = NULL;
	if (address->kind == ADDRESS_NONE || admin_listen(a, address, scopes, access, &text) == 0)
		return true;
	why_say(why, "%s: %s", key, text ? text : "out of memory");
	free(text);
	return false;
}

bool admin_listen_at(struct admin *a, const char *key, const struct address *address,
		     unsigned scopes, char **why)
{
	return listen_at(a, key, address, scopes, NULL, why);
}

bool admin_listen_admin(struct admin *a, const struct admin_config *config, char **why)
{
	const bool path = config->address.kind == ADDRESS_UNIX && config->address.name[0] == '/';
	const struct bind_access access = {
		.owner = config->owner,
		.group = config->group,
		.mode = path ? (mode_t)strtoul(config->mode, NULL, 8) : 0,
	};

	return listen_at(a, "admin", &config->address, ADMIN_ALL, path ? &access : NULL, why);
}

void admin_each_socket(const struct admin *a,
		       void (*each)(void *arg, const struct address *address,
				    const struct bind_file *file, int fd),
		       void *arg)
{
	for (const struct admin_listener *l = a->listeners; l; l = l->next)
		if (l->accept)
			each(arg, &l->address, &l->file, evconnlistener_get_fd(l->accept));
}

void admin_give_away(struct admin *a)
{
	for (struct admin_listener *l = a->listeners; l; l = l->next) {
		if (l->accept)
			evconnlistener_free(l->accept);
		l->accept = NULL; /* connections still point to their listener */
		l->file = (struct bind_file){ 0 };
	}
}

struct admin *admin_free(struct admin *a)
{
	struct admin_request *r, *next;
	struct admin_listener *l;

	if (!a)
		return NULL;
	while (a->connections)
		admin_connection_free(a->connections);
	while ((l = a->listeners)) {
		a->listeners = l->next;
		listener_free(l);
	}
	for (r = a->requests; r; r = next) {
		next = r->next;
		admin_request_free(r);
	}
	if (a->resume)
		event_free(a->resume);
	free(a);
	return NULL;
}

/* ---- what a request is ---- */

const char *admin_rest(const struct admin_request *r)
{
	return r->rest;
}

const char *admin_query(const struct admin_request *r, const char *name)
{
	return evhttp_find_header(&r->query, name);
}

bool admin_query_number(struct admin_request *r, const char *name, uint64_t max, uint64_t *value)
{
	const char *text = admin_query(r, name);
	unsigned long long n;
	char *end;

	if (!text)
		return true;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || n > max) {
		admin_fail(r, 400, "bad-parameter", "%s: expected a number up to %llu", name,
			   (unsigned long long)max);
		return false;
	}
	*value = n;
	return true;
}

const char *admin_header(const struct admin_request *r, const char *name)
{
	return evhttp_find_header(&r->headers, name);
}

struct json_object *admin_body(const struct admin_request *r)
{
	return r->body;
}

bool admin_peer(const struct admin_request *r, uid_t *uid, pid_t *pid)
{
	if (!r->peer_known)
		return false;
	*uid = r->uid;
	*pid = r->pid;
	return true;
}

int admin_detach(struct admin_request *r)
{
	struct admin_connection *c = r->connection;
	int fd = c && c->state == ADMIN_RUNNING ? admin_connection_detach(c) : -1;

	if (fd >= 0)
		admin_request_free(r);
	return fd;
}

void admin_request_free(struct admin_request *r)
{
	*r->at = r->next;
	if (r->next)
		r->next->at = r->at;
	if (r->connection)
		r->connection->request = NULL;
	evhttp_clear_headers(&r->query);
	evhttp_clear_headers(&r->headers);
	evhttp_clear_headers(&r->reply_headers);
	json_object_put(r->body);
	free(r->method);
	free(r->path);
	free(r);
}

/* ---- answers ---- */

void admin_reply_header(struct admin_request *r, const char *name, const char *value)
{
	evhttp_add_header(&r->reply_headers, name, value); /* none without memory */
}

void admin_reply(struct admin_request *r, int status, const char *type, struct evbuffer *body)
{
	admin_connection_reply(r, status, type, body);
}

void admin_reply_json(struct admin_request *r, int status, struct json_object *o)
{
	struct evbuffer *body = o ? evbuffer_new() : NULL;
	const char *text =
		body ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
								 JSON_C_TO_STRING_NOSLASHESCAPE)
		     : NULL;

	if (text && evbuffer_add(body, text, strlen(text)) == 0 && evbuffer_add(body, "\n", 1) == 0)
		admin_reply(r, status, "application/json", body);
	else
		admin_reply(r, 500, NULL, NULL);
	json_object_put(o);
	if (body)
		evbuffer_free(body);
}

void admin_fail(struct admin_request *r, int status, const char *code, const char *fmt, ...)
{
	struct json_object *o = json_object_new_object(), *error = json_object_new_object();
	char *message = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&message, fmt, args) < 0)
		message = NULL;
	va_end(args);
	if (!o || !error || !message) {
		json_object_put(o);
		json_object_put(error);
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	json_object_object_add(error, "code", json_object_new_string(code));
	json_object_object_add(error, "message", json_object_new_string(message));
	json_object_object_add(o, "error", error);
	free(message);
	admin_reply_json(r, status, o);
}

/* ---- which route ---- */

/* Host: without its port. */
static bool host_is_ours(const char *host)
{
	char plain[HOST_SIZE];
	size_t len;

	if (!host)
		return false;
	if (host[0] == '[') {
		len = strcspn(++host, "]");
	} else {
		len = strcspn(host, ":");
	}
	if (len >= sizeof(plain))
		return false;
	memcpy(plain, host, len);
	plain[len] = '\0';
	return host_is_loopback(plain);
}

/* Sets r->rest, which is "" unless the route has one. */
static bool matches(const struct admin_route *route, struct admin_request *r)
{
	size_t len = strlen(route->path);

	if (len > 1 && route->path[len - 1] == '/') {
		if (strncmp(r->path, route->path, len) != 0 || !r->path[len])
			return false;
		r->rest = r->path + len;
		return true;
	}
	r->rest = r->path + strlen(r->path);
	return strcmp(r->path, route->path) == 0;
}

/* A change that is asked for, for the log and the audit. */
static void record_control(const struct admin_request *r, bool may)
{
	char what[PATH_LOGGED + 32];
	int n = snprintf(what, sizeof(what), "%s%s ", may ? "" : "refused: ", r->method);

	for (const char *p = r->path; *p && n < PATH_LOGGED; p++)
		what[n++] = (char)(*p > ' ' && *p < 0x7f ? *p : '?');
	what[n] = '\0';
	if (may)
		log_info("admin: uid %u, pid %d: %s", (unsigned)r->uid, (int)r->pid, what);
	else
		log_warning("admin: uid %u, pid %d: %s", (unsigned)r->uid, (int)r->pid, what);
	if (r->admin->control)
		r->admin->control(r, what, r->admin->user);
}

/* Whether this request may change anything; if not it is answered. */
static bool may_control(struct admin_request *r)
{
	const bool may =
		r->local && r->peer_known && (!r->unnamed || r->uid == 0 || r->uid == geteuid());

	if (r->peer_known)
		record_control(r, may);
	if (!may)
		admin_fail(r, 403, "forbidden", "this is for whoever may open the admin socket");
	return may;
}

void admin_dispatch(struct admin_request *r)
{
	const struct admin *a = r->admin;
	const char *allowed = NULL;

	if (!r->local && (r->scopes & (ADMIN_READ | ADMIN_CONTROL | ADMIN_CONFIG)) &&
	    !host_is_ours(admin_header(r, "Host"))) {
		admin_fail(r, 421, "wrong-host",
			   "expected localhost or a loopback address as the host");
		return;
	}
	for (size_t i = 0; i < a->n_routes; i++) {
		const struct admin_route *route = &a->routes[i];

		if (!(route->scope & r->scopes) || !matches(route, r))
			continue;
		if (strcmp(route->method, r->get ? "GET" : r->method) != 0) {
			allowed = route->method;
			continue;
		}
		if ((route->scope & ADMIN_CONTROL) && !may_control(r))
			return;
		route->run(r, a->user);
		return;
	}
	r->rest = r->path;
	if (allowed) {
		admin_reply_header(r, "Allow", allowed);
		admin_fail(r, 405, "method", "expected %s", allowed);
	} else {
		admin_fail(r, 404, "not-found", "there is nothing by this name");
	}
}
