/* bridge_metrics: what the bridge counted, in Prometheus' text format. */
#ifndef QGS_BRIDGE_BRIDGE_METRICS_H
#define QGS_BRIDGE_BRIDGE_METRICS_H

struct evbuffer;

/* bridge is a struct bridge. */
void bridge_metrics_write(void *bridge, struct evbuffer *out);

#endif
