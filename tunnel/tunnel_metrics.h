/* tunnel_metrics: attest-tunnel's counters and gauges in Prometheus' text format. */
#ifndef TUNNEL_TUNNEL_METRICS_H
#define TUNNEL_TUNNEL_METRICS_H

#include <stdbool.h>
#include <stdint.h>

struct agent;
struct evbuffer;
struct exposition;
struct local;
struct tls_context;
struct tunnel_config;
struct worker;

/* What they are of; all outlives it, or is exchanged by a reload, and is the one worker's. */
struct tunnel_metrics {
	const struct worker *worker;
	const struct tunnel_config *config;
	const struct agent *agent;      /* NULL: no services are offered */
	const struct local *local;      /* NULL: there are no local listeners */
	struct tls_context *const *tls; /* of connections to relays; may be exchanged. NULL: none */
	const bool *stopping;
	uint64_t reloads, reload_failures;
};

/* All of them; docs/metrics.md says what they are. */
void tunnel_metrics_write(const struct tunnel_metrics *m, struct evbuffer *out);

/* When what is shown to relays ends, and what they are verified by; either file may be NULL. */
void tunnel_metrics_certificates(struct exposition *e, const struct tls_context *t,
				 const char *certificate, const char *ca_file);

#endif
