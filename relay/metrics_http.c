/*
 * metrics_http: serves a program's metrics over HTTP.
 *
 * Theory of operation: libevent's evhttp. Requests are small and time out; nothing but GET and HEAD
 * is answered. Without descriptors accept pauses for a second. The socket is ours until evhttp has
 * taken it; the path of a Unix one always is.
 */
#include "relay/metrics_http.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <stdlib.h>

#include "relay/bind.h"

#define REQUEST_MAX 4096 /* bytes of a request's head */
#define TIMEOUT_S 5

struct metrics_http {
	struct address address;
	void (*render)(void *user, struct evbuffer *out);
	bool (*draining)(void *user);
	void *user;
	struct evhttp *http;
	int fd;
	bool listening; /* fd is evhttp's */
	struct evconnlistener *listener; /* evhttp's */
	struct event *resume;
};

/* evhttp keeps the listener's argument for itself, so the error callback finds us here. */
static struct metrics_http *the_metrics;

static void on_metrics(struct evhttp_request *req, void *arg)
{
	struct metrics_http *m = arg;
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		evhttp_send_error(req, HTTP_INTERNAL, NULL);
		return;
	}
	m->render(m->user, out);
	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type",
			  "text/plain; version=0.0.4; charset=utf-8");
	evhttp_send_reply(req, HTTP_OK, "OK", out);
	evbuffer_free(out);
}

static void on_health(struct evhttp_request *req, void *arg)
{
	struct metrics_http *m = arg;

	if (m->draining && m->draining(m->user))
		evhttp_send_reply(req, HTTP_SERVUNAVAIL, "Draining", NULL);
	else
		evhttp_send_reply(req, HTTP_OK, "OK", NULL);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct metrics_http *m = arg;

	evconnlistener_enable(m->listener);
}

/* No descriptors: libevent would try again at once, for ever. */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
	const struct timeval second = { .tv_sec = 1 };
	struct metrics_http *m = the_metrics;

	evconnlistener_disable(listener);
	evtimer_add(m->resume, &second);
}

struct metrics_http *metrics_http_start(struct event_base *base, const struct address *address,
					void (*render)(void *user, struct evbuffer *out),
					void *user, char **why)
{
	struct metrics_http *m = calloc(1, sizeof(*m));

	*why = NULL;
	if (!m)
		return NULL;
	m->render = render;
	m->user = user;
	the_metrics = m;
	m->fd = address_copy(&m->address, address) < 0 ? -1 : bind_listen(&m->address, why);
	m->http = m->fd < 0 ? NULL : evhttp_new(base);
	if (!m->http)
		return metrics_http_stop(m);
	evhttp_set_max_headers_size(m->http, REQUEST_MAX);
	evhttp_set_max_body_size(m->http, 0);
	evhttp_set_timeout(m->http, TIMEOUT_S);
	evhttp_set_allowed_methods(m->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
	evhttp_set_cb(m->http, "/metrics", on_metrics, m);
	evhttp_set_cb(m->http, "/healthz", on_health, m);
	m->resume = evtimer_new(base, on_resume, m);
	m->listener = evconnlistener_new(base, NULL, NULL,
					 LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, m->fd);
	if (!m->resume || !m->listener)
		return metrics_http_stop(m);
	m->listening = true;
	evhttp_bind_listener(m->http, m->listener);
	evconnlistener_set_error_cb(m->listener, on_accept_error);
	return m;
}

void metrics_http_health(struct metrics_http *m, bool (*draining)(void *user))
{
	m->draining = draining;
}

struct metrics_http *metrics_http_stop(struct metrics_http *m)
{
	if (!m)
		return NULL;
	if (m->listening)
		bind_forget(&m->address); /* evhttp_free closes the socket */
	else
		bind_close(&m->address, m->fd);
	if (m->http)
		evhttp_free(m->http);
	if (m->resume)
		event_free(m->resume);
	address_deinit(&m->address);
	the_metrics = NULL;
	free(m);
	return NULL;
}
