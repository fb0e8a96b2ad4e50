/* metrics: the gateway's counters and gauges in Prometheus' text format, on the main thread. */
#ifndef RELAY_METRICS_H
#define RELAY_METRICS_H

struct evbuffer;
struct event_base;
struct gateway;
struct metrics_http;

/* All of them. gateway is a struct gateway that is prepared. docs/metrics.md says what they are. */
void metrics_write(void *gateway, struct evbuffer *out);

/*
 * Serves them at config->metrics, until metrics_http_stop. NULL with *why an allocated line, or
 * NULL: out of memory.
 */
struct metrics_http *metrics_start(struct event_base *base, struct gateway *g, char **why);

#endif
