/*
 * metrics_names: what is counted by listener, service and owner, for Prometheus; and when the files
 * in use end.
 *
 * Theory of operation: as metrics.c. Names are those of figures.h, bounded there; of reasons of a
 * listener only those that there have been. A file is told once, however many listeners use it, and
 * as it was when it was read: what lies there now may be newer.
 */
#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

#include "relay/authority.h"
#include "relay/exposition.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/metrics_private.h"
#include "relay/registry.h"
#include "relay/tls.h"
#include "relay/trust.h"

/* ---- names ---- */

/* One count of all names of a kind: label is what the kind is called. */
static void column(struct exposition *e, const struct figures_rows *rows, const char *label,
		   enum figure_count which)
{
	for (size_t i = 0; i < rows->n; i++)
		exposition_sample(e, rows->at[i].value[which], label, rows->at[i].name,
				  EXPOSITION_END);
}

static void bytes(struct exposition *e, const struct figures_rows *rows, const char *label)
{
	for (size_t i = 0; i < rows->n; i++) {
		const struct figures_row *r = &rows->at[i];

		exposition_sample(e, r->value[FIGURE_UP], label, r->name, "direction", "up",
				  EXPOSITION_END);
		exposition_sample(e, r->value[FIGURE_DOWN], label, r->name, "direction", "down",
				  EXPOSITION_END);
	}
}

static void classes(struct exposition *e, const struct figures_rows *rows, const char *label)
{
	for (size_t i = 0; i < rows->n; i++)
		for (unsigned c = 0; c < FIGURE_CLASSES; c++)
			exposition_sample(e, rows->at[i].value[FIGURE_COUNTS + c], label,
					  rows->at[i].name, "class", figure_class_word(c),
					  EXPOSITION_END);
}

static void listeners(struct exposition *e, const struct figures_rows *rows)
{
	exposition_head(e, "listener_accepted_total", "counter",
			"Connections accepted, by listener.");
	column(e, rows, "listener", FIGURE_ACCEPTED);
	exposition_head(e, "listener_refused_total", "counter",
			"Clients and agents turned away, by listener; reasons that there were.");
	for (size_t i = 0; i < rows->n; i++)
		for (unsigned why = REASON_NONE + 1; why < REASONS; why++)
			if (rows->at[i].value[FIGURE_COUNTS + why])
				exposition_sample(e, rows->at[i].value[FIGURE_COUNTS + why],
						  "listener", rows->at[i].name, "reason",
						  reason_word(why), EXPOSITION_END);
}

static void services(struct exposition *e, const struct figures_rows *rows,
		     struct registry *registry)
{
	exposition_head(e, "service_tunnels", "gauge",
			"Tunnels that offer a service now; of services that have or had any.");
	for (size_t i = 0; i < rows->n; i++)
		if (rows->at[i].offered)
			exposition_sample(e, registry_count(registry, rows->at[i].name), "service",
					  rows->at[i].name, EXPOSITION_END);
	exposition_head(e, "service_streams_total", "counter",
			"Streams that reached their target, by service.");
	column(e, rows, "service", FIGURE_STREAMS);
	exposition_head(e, "service_streams", "gauge", "Streams joined now, by service.");
	column(e, rows, "service", FIGURE_LIVE);
	exposition_head(e, "service_parked", "gauge",
			"Streams that wait for a tunnel now, by service.");
	column(e, rows, "service", FIGURE_PARKED);
	exposition_head(e, "service_bytes_total", "counter",
			"Bytes passed on, by service; up: client to service.");
	bytes(e, rows, "service");
	exposition_head(e, "service_ended_total", "counter",
			"Streams that ended, joined or not, by service and whose doing it was.");
	classes(e, rows, "service");
}

static void owners(struct exposition *e, const struct figures_rows *rows)
{
	exposition_head(e, "owner_tunnels_total", "counter", "Tunnels accepted, by owner.");
	column(e, rows, "owner", FIGURE_ACCEPTED);
	exposition_head(e, "owner_streams_total", "counter",
			"Streams that reached their target, by owner.");
	column(e, rows, "owner", FIGURE_STREAMS);
	exposition_head(e, "owner_streams", "gauge", "Streams joined now, by owner.");
	column(e, rows, "owner", FIGURE_LIVE);
	exposition_head(e, "owner_bytes_total", "counter",
			"Bytes passed on, by owner; up: client to service.");
	bytes(e, rows, "owner");
}

void metrics_names(struct exposition *e, const struct gateway *g)
{
	struct figures_rows rows[FIGURES_KINDS];
	bool good = true;

	for (enum figures_kind k = 0; k < FIGURES_KINDS; k++)
		good = figures_read(g->figures, k, &rows[k]) && good;
	if (good) {
		listeners(e, &rows[FIGURES_LISTENERS]);
		services(e, &rows[FIGURES_SERVICES], g->registry);
		owners(e, &rows[FIGURES_OWNERS]);
	}
	for (enum figures_kind k = 0; k < FIGURES_KINDS; k++)
		figures_rows_deinit(&rows[k]);
}

/* ---- files ---- */

/* What is in use, each file once, with its first end. */
struct ends {
	struct {
		const char *file;
		uint64_t at;
	} * of;
	size_t n;
};

static void note_end(struct ends *ends, const char *file, uint64_t at)
{
	size_t i = 0;

	if (!file || at == UINT64_MAX)
		return;
	while (i < ends->n && strcmp(ends->of[i].file, file) != 0)
		i++;
	if (i == ends->n) {
		ends->of[ends->n++].file = file;
		ends->of[i].at = at;
	} else if (at < ends->of[i].at) {
		ends->of[i].at = at;
	}
}

/* what: of what they are, or NULL. */
static void put_ends(struct exposition *e, struct ends *ends, const char *what)
{
	for (size_t i = 0; i < ends->n; i++)
		exposition_sample(e, ends->of[i].at, "file", ends->of[i].file,
				  what ? "what" : EXPOSITION_END, what, EXPOSITION_END);
	ends->n = 0;
}

void metrics_files(struct exposition *e, const struct gateway *g)
{
	const struct settings *s = g->settings;
	const struct relay_config *c = s->config;
	char *crl = s->revokes ? authority_crl_path(c) : NULL;
	/* two for a listener, one for owners */
	struct ends ends = { calloc(2 * c->n_listeners + 1, sizeof(*ends.of)), 0 };

	exposition_head(e, "certificate_expires_timestamp_seconds", "gauge",
			"When the first certificate in a file in use ends.");
	for (size_t i = 0; ends.of && i < c->n_listeners; i++)
		if (s->tls[i])
			note_end(&ends, c->tls.certificate, tls_context_expires(s->tls[i]));
	put_ends(e, &ends, "certificate");
	for (size_t i = 0; ends.of && i < c->n_listeners; i++)
		if (s->trusts[i])
			note_end(&ends, c->listeners[i].client_ca, trust_expires(s->trusts[i]));
	if (ends.of && s->owners)
		note_end(&ends, c->enrolment.ca, trust_expires(s->owners));
	put_ends(e, &ends, "ca");
	exposition_head(e, "crl_next_update_timestamp_seconds", "gauge",
			"When the first revocation list in a file in use should be replaced.");
	for (size_t i = 0; ends.of && i < c->n_listeners; i++)
		if (s->trusts[i])
			note_end(&ends, c->listeners[i].client_crl,
				 trust_next_update(s->trusts[i]));
	if (ends.of && s->owners)
		note_end(&ends, crl, trust_next_update(s->owners));
	put_ends(e, &ends, NULL);
	free(ends.of);
	free(crl);
}
