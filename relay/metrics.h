/* metrics: the gateway's counters and gauges in Prometheus' text format, on the main thread. */
#ifndef RELAY_METRICS_H
#define RELAY_METRICS_H

struct evbuffer;

/* All of them. gateway is a struct gateway that is prepared. docs/metrics.md says what they are. */
void metrics_write(void *gateway, struct evbuffer *out);

#endif
