/* metrics: counters and gauges in Prometheus' text format, over HTTP, on the main thread. */
#ifndef RELAY_METRICS_H
#define RELAY_METRICS_H

struct event_base;
struct gateway;
struct metrics;

/* Serves GET /metrics and /healthz at config->metrics. NULL with *why an allocated line. */
struct metrics *metrics_start(struct event_base *base, struct gateway *g, char **why);
struct metrics *metrics_stop(struct metrics *m); /* NULL is fine */

#endif
