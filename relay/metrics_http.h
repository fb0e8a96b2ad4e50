/* metrics_http: serves a program's metrics to Prometheus, over HTTP, by libevent. */
#ifndef RELAY_METRICS_HTTP_H
#define RELAY_METRICS_HTTP_H

#include <stdbool.h>

struct address;
struct evbuffer;
struct event_base;
struct metrics_http;

/*
 * Serves GET /metrics (what render writes, in Prometheus' text format) and /healthz (200) at
 * address, on the thread of base. One in a process. NULL with *why an allocated line, or NULL: out
 * of memory.
 */
struct metrics_http *metrics_http_start(struct event_base *base, const struct address *address,
					void (*render)(void *user, struct evbuffer *out),
					void *user, char **why);
/* While draining(user) says so, /healthz answers 503: this process takes nobody new. */
void metrics_http_health(struct metrics_http *m, bool (*draining)(void *user));
struct metrics_http *metrics_http_stop(struct metrics_http *m); /* NULL is fine */

#endif
