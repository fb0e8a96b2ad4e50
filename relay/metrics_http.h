/* metrics_http: serves a program's metrics to Prometheus, over HTTP, by libevent. */
#ifndef RELAY_METRICS_HTTP_H
#define RELAY_METRICS_HTTP_H

struct address;
struct evbuffer;
struct event_base;
struct metrics_http;

/*
 * Serves GET /metrics (what render writes, in Prometheus' text format) and /healthz at address, on
 * the thread of base. One in a process. NULL with *why an allocated line.
 */
struct metrics_http *metrics_http_start(struct event_base *base, const struct address *address,
					void (*render)(void *user, struct evbuffer *out),
					void *user, char **why);
struct metrics_http *metrics_http_stop(struct metrics_http *m); /* NULL is fine */

#endif
