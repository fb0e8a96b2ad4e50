/* metrics: what the bridge counted, in Prometheus' text format. */
#ifndef QGS_BRIDGE_METRICS_H
#define QGS_BRIDGE_METRICS_H

struct evbuffer;

/* bridge is a struct bridge. */
void metrics_write(void *bridge, struct evbuffer *out);

#endif
