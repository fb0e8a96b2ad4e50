/*
 * metrics: what the workers counted, for Prometheus.
 *
 * Theory of operation: libevent's evhttp on the main thread; a scrape sums the workers' counters,
 * which it may read at any time (counter.h). Label values come from reason.def alone, so their
 * number is fixed. Requests are small and time out; nothing but GET and HEAD is answered.
 */
#include "relay/metrics.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <inttypes.h>
#include <stdlib.h>

#include "relay/bind.h"
#include "relay/gateway.h"
#include "relay/registry.h"

#define REQUEST_MAX 4096 /* bytes of a request's head */
#define TIMEOUT_S 5

struct metrics {
	struct gateway *gateway;
	struct evhttp *http;
	int fd;
	bool listening; /* fd is evhttp's */
	struct evconnlistener *listener; /* evhttp's */
	struct event *resume;
};

/* evhttp keeps the listener's argument for itself, so the error callback finds us here. */
static struct metrics *the_metrics;

static uint64_t sum(const struct gateway *g, size_t offset)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < g->n_workers; i++) {
		const void *at = (const char *)&g->workers[i]->counters + offset;

		total += counter_get(at);
	}
	return total;
}

static const struct {
	enum counter which;
	const char *name, *type, *help;
} plain[] = {
	{ COUNTER_ACCEPTED, "accepted_total", "counter", "Connections accepted." },
	{ COUNTER_STREAMS, "streams_total", "counter", "Streams that reached their target." },
	{ COUNTER_TUNNELS, "tunnels_total", "counter", "Tunnels accepted." },
	{ COUNTER_ACCEPT_PAUSED, "accept_paused_total", "counter",
	  "Times accept paused: connection limit, or no descriptors." },
	{ COUNTER_LIVE_INTAKES, "live_intakes", "gauge",
	  "Clients that have not said yet what they want." },
	{ COUNTER_LIVE_SOCKETS, "live_sockets", "gauge",
	  "Sockets of clients, tunnels and targets; those that are still closing, too." },
	{ COUNTER_LIVE_OPENINGS, "live_openings", "gauge", "Streams routed, not joined yet." },
	{ COUNTER_LIVE_PARKED, "live_parked", "gauge", "Streams that wait for a tunnel." },
	{ COUNTER_LIVE_SPLICES, "live_splices", "gauge", "Streams joined." },
	{ COUNTER_LIVE_TUNNELS, "live_tunnels", "gauge", "Tunnels." },
};

static void put_header(struct evbuffer *out, const char *name, const char *type, const char *help)
{
	evbuffer_add_printf(out, "# HELP attest_relay_%s %s\n# TYPE attest_relay_%s %s\n", name,
			    help, name, type);
}

static void put_reasons(struct evbuffer *out, const struct gateway *g, const char *name,
			const char *help, size_t offset)
{
	put_header(out, name, "counter", help);
	for (unsigned i = REASON_NONE + 1; i < REASONS; i++)
		evbuffer_add_printf(out, "attest_relay_%s{reason=\"%s\"} %" PRIu64 "\n", name,
				    reason_word(i),
				    sum(g, offset + i * sizeof(atomic_uint_fast64_t)));
}

#define COUNTER_AT(which)                                                                          \
	(offsetof(struct counters, value) + (which) * sizeof(atomic_uint_fast64_t))

static void put_all(struct evbuffer *out, const struct gateway *g)
{
	put_header(out, "build_info", "gauge", "Version of the program.");
	evbuffer_add_printf(out, "attest_relay_build_info{version=\"%s\"} 1\n", VERSION);
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		put_header(out, plain[i].name, plain[i].type, plain[i].help);
		evbuffer_add_printf(out, "attest_relay_%s %" PRIu64 "\n", plain[i].name,
				    sum(g, COUNTER_AT(plain[i].which)));
	}
	put_header(out, "connections", "gauge", "Connections held: clients and agents.");
	evbuffer_add_printf(out, "attest_relay_connections %" PRIu64 "\n",
			    (uint64_t)atomic_load(&g->connections));
	put_header(out, "services", "gauge", "Services offered by tunnels, each tunnel counted.");
	evbuffer_add_printf(out, "attest_relay_services %zu\n", registry_services(g->registry));
	put_header(out, "bytes_total", "counter", "Bytes of ended streams.");
	evbuffer_add_printf(out,
			    "attest_relay_bytes_total{direction=\"up\"} %" PRIu64 "\n"
			    "attest_relay_bytes_total{direction=\"down\"} %" PRIu64 "\n",
			    sum(g, COUNTER_AT(COUNTER_BYTES_UP)),
			    sum(g, COUNTER_AT(COUNTER_BYTES_DOWN)));
	put_reasons(out, g, "stream_ended_total", "Streams by how they ended.",
		    offsetof(struct counters, ended));
	put_reasons(out, g, "refused_total", "Clients turned away before they had a target.",
		    offsetof(struct counters, refused));
	put_reasons(out, g, "session_ended_total", "Tunnels by how they ended or were refused.",
		    offsetof(struct counters, sessions));
}

static void on_metrics(struct evhttp_request *req, void *arg)
{
	struct metrics *m = arg;
	struct evbuffer *out = evbuffer_new();

	if (!out) {
		evhttp_send_error(req, HTTP_INTERNAL, NULL);
		return;
	}
	put_all(out, m->gateway);
	evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type",
			  "text/plain; version=0.0.4; charset=utf-8");
	evhttp_send_reply(req, HTTP_OK, "OK", out);
	evbuffer_free(out);
}

static void on_health(struct evhttp_request *req, void *arg)
{
	struct metrics *m = arg;

	if (atomic_load(&m->gateway->draining))
		evhttp_send_reply(req, HTTP_SERVUNAVAIL, "Draining", NULL);
	else
		evhttp_send_reply(req, HTTP_OK, "OK", NULL);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct metrics *m = arg;

	evconnlistener_enable(m->listener);
}

/* No descriptors: libevent would try again at once, for ever. */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
	const struct timeval second = { .tv_sec = 1 };
	struct metrics *m = the_metrics;

	evconnlistener_disable(listener);
	evtimer_add(m->resume, &second);
}

struct metrics *metrics_start(struct event_base *base, struct gateway *g, char **why)
{
	struct metrics *m = calloc(1, sizeof(*m));

	*why = NULL;
	if (!m)
		return NULL;
	m->gateway = g;
	the_metrics = m;
	m->fd = bind_listen(&g->config->metrics, why);
	m->http = m->fd < 0 ? NULL : evhttp_new(base);
	if (!m->http)
		return metrics_stop(m);
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
		return metrics_stop(m);
	m->listening = true;
	evhttp_bind_listener(m->http, m->listener);
	evconnlistener_set_error_cb(m->listener, on_accept_error);
	return m;
}

struct metrics *metrics_stop(struct metrics *m)
{
	if (!m)
		return NULL;
	if (m->listening)
		bind_forget(&m->gateway->config->metrics); /* evhttp_free closes the socket */
	else
		bind_close(&m->gateway->config->metrics, m->fd);
	if (m->http)
		evhttp_free(m->http);
	if (m->resume)
		event_free(m->resume);
	the_metrics = NULL;
	free(m);
	return NULL;
}
