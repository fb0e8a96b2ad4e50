/* metrics: the gateway's counters and gauges in Prometheus' text format, on the main thread. */
#ifndef RELAY_METRICS_H
#define RELAY_METRICS_H

struct event_base;
struct gateway;
struct metrics_http;

/*
 * Serves them at config->metrics, until metrics_http_stop. NULL with *why an allocated line, or
 * NULL: out of memory.
 */
struct metrics_http *metrics_start(struct event_base *base, struct gateway *g, char **why);

#endif
