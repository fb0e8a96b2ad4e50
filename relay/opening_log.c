/*
 * opening_log: what is said, counted and recorded of streams: each refusal and each end, once.
 *
 * Theory of operation: one function for each thing that can be told, called where it happens. A
 * refusal's counter goes up in audit_write, with its record, so that there is never one without the
 * other; a stream's end is counted by its splice, whose end this is. A log line may be left out
 * (strangers can cause many), a record may not.
 *
 * Streams that last: a worker has the joined ones in the order in which they came, and one timer
 * for the first of them. It moves those that are old enough to another list, in batches a second
 * apart, so no stream needs a timer of its own and none is looked at twice.
 */
#include "relay/opening_log.h"

#include <inttypes.h>
#include <string.h>

#include "relay/audit.h"
#include "relay/figures.h"
#include "relay/identity.h"
#include "relay/line.h"
#include "relay/log.h"
#include "relay/opening_state.h"
#include "relay/search.h"

#define START_BATCH 256
#define START_PAUSE_MS 1000
#define ENDED_MAX 1280 /* two peers, a service, a target, a listener, numbers */

static const char *text_of(const char *text)
{
	return text ? text : "";
}

const char *opening_log_door(enum door door)
{
	return door == DOOR_SNI         ? "sni"
	       : door == DOOR_CONNECT   ? "connect"
	       : door == DOOR_WEBSOCKET ? "websocket"
					: "static";
}

/* What is known of it, whatever has become of it. from, to: texts that the caller has made. */
static struct audit_record known(const struct opening *o, const char *from, const char *to)
{
	const char *dot = strchr(o->service, '.');

	return (struct audit_record){
		.id = o->id,
		.listener = o->listener->name,
		.door = opening_log_door(o->door),
		.client = from,
		.via_proxy = o->proxy,
		.client_rule = o->rule,
		.client_identity = o->identity ? identity_text(o->identity) : NULL,
		.service = o->service,
		.owner = dot ? dot + 1 : NULL,
		.target = o->dialled  ? to
			  : o->tunnel ? "tunnel"
				      : NULL,
		.tunnel = o->dialled ? NULL : o->tunnel,
		.carrier = o->dialled ? NULL : o->carrier,
		.target_address = o->splice ? o->target_address : NULL,
		.duration_ms = worker_now(o->worker) - o->began,
	};
}

static void log_refused(const struct opening *o, enum reason why, const struct log_field *fields,
			unsigned n, struct audit_record *r)
{
	const char *by = o->proxy ? " by " : "", *proxy = text_of(o->proxy);
	enum log_level level = why == REASON_EOF ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING;

	log_limited(level, fields, n,
		    "#%" PRIu64 " %s%s%s -> %s (%s, %s): refused after %" PRIu64 ".%03u s: %s%s%s",
		    o->id, r->client, by, proxy, o->service, r->listener, r->door,
		    r->duration_ms / 1000, (unsigned)(r->duration_ms % 1000), reason_word(why),
		    o->search->detail ? ": " : "", text_of(o->search->detail));
	r->kind = AUDIT_STREAM_REFUSED;
	r->detail = o->search->detail;
}

/* "0.123 s", for a line. */
static void put_seconds(struct line *l, uint64_t ms)
{
	line_number(l, ms / 1000);
	line_put(l, '.');
	line_digits(l, ms, 3);
	line_text(l, " s");
}

/* The one line that each stream has: put together by hand, which costs a fifth of printf(3). */
static void write_ended(const struct opening *o, enum reason why, const char *via,
			const struct audit_record *r, struct line *l)
{
	line_put(l, '#');
	line_number(l, o->id);
	line_put(l, ' ');
	line_text(l, r->client);
	if (o->proxy) {
		line_text(l, " by ");
		line_text(l, o->proxy);
	}
	line_text(l, " -> ");
	line_text(l, o->service);
	line_text(l, " via ");
	line_text(l, via);
	line_text(l, " (");
	line_text(l, r->listener);
	line_text(l, ", ");
	line_text(l, r->door);
	line_text(l, "): ");
	line_number(l, r->bytes_up);
	line_text(l, " up, ");
	line_number(l, r->bytes_down);
	line_text(l, " down, ");
	put_seconds(l, r->duration_ms);
	line_text(l, ", ");
	line_text(l, reason_word(why));
}

static void log_ended(const struct opening *o, enum reason why, const struct log_field *fields,
		      unsigned n, const char *via, struct audit_record *r)
{
	char text[ENDED_MAX];
	struct line l = { text, 0, sizeof(text) - 1 };

	r->kind = AUDIT_STREAM_END;
	if (!log_enabled(LOG_LEVEL_INFO))
		return;
	write_ended(o, why, via, r, &l);
	text[l.used] = '\0';
	log_fields(LOG_LEVEL_INFO, fields, n, "%s", text);
}

void opening_log_end(const struct opening *o, enum reason why, uint64_t up, uint64_t down)
{
	char from[PEER_TEXT_MAX], to[ADDRESS_TEXT_MAX];
	const char *via = opening_via(o, to);
	struct audit_record r = known(o, peer_format(&o->peer, from, sizeof(from)), to);
	const struct log_field fields[] = {
		{ "stream", NULL, o->id },
		{ "client", r.client, 0 },
		{ "listener", r.listener, 0 },
		{ "door", r.door, 0 },
		{ "service", o->service, 0 },
		{ "via", via, 0 },
		{ "bytes_up", NULL, up },
		{ "bytes_down", NULL, down },
		{ "duration_ms", NULL, r.duration_ms },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", o->proxy, 0 }, /* the last: left out if there was none */
	};
	const unsigned n = sizeof(fields) / sizeof(fields[0]) - !o->proxy;

	figure_ended(o->figure, o->worker->index, why);
	if (o->splice)
		opening_note_time(o, DURATIONS_STREAM, o->began);
	else
		figure_ended(o->listener->figure, o->worker->index, why);
	r.why = why;
	r.bytes_up = up;
	r.bytes_down = down;
	if (o->splice)
		log_ended(o, why, fields, n, via, &r);
	else
		log_refused(o, why, fields, n, &r);
	audit_write(gateway_audit(o->worker), &o->worker->counters, &r);
}

/* ---- before there was an opening ---- */

static void record_refused(struct worker *w, const char *listener, const struct client *who,
			   const char *wanted, enum reason why, const char *detail)
{
	char from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX];
	const struct audit_record r = {
		.kind = *wanted ? AUDIT_STREAM_REFUSED : AUDIT_CONNECTION_REFUSED,
		.why = why,
		.listener = listener,
		.client = peer_format(&who->peer, from, sizeof(from)),
		.via_proxy = client_proxy(who, proxy, sizeof(proxy)),
		.client_identity = who->identity ? identity_text(who->identity) : NULL,
		.service = wanted,
		.detail = detail,
	};
	struct gateway *g = gateway_worker(w)->gateway;
	struct figure *figure = figures_of(g->figures, FIGURES_LISTENERS, listener);

	figure_ended(figure, w->index, why);
	figure_put(figure);
	audit_write(gateway_audit(w), &w->counters, &r);
}

void opening_log_refused(struct worker *w, const char *listener, const struct client *who,
			 const char *wanted, enum reason why, const char *detail)
{
	char from[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX], both[CLIENT_TEXT_MAX];
	const struct log_field fields[] = {
		{ "client", peer_format(&who->peer, from, sizeof(from)), 0 },
		{ "listener", listener, 0 },
		{ "service", wanted, 0 },
		{ "reason", reason_word(why), 0 },
		{ "via_proxy", client_proxy(who, proxy, sizeof(proxy)), 0 }, /* the last, too */
	};

	log_limited(LOG_LEVEL_WARNING, fields, sizeof(fields) / sizeof(fields[0]) - !*proxy,
		    "%s -> %s (%s): refused: %s%s%s", client_format(who, both, sizeof(both)),
		    *wanted ? wanted : "?", listener, reason_word(why), *detail ? ": " : "",
		    detail);
	record_refused(w, listener, who, wanted, why, detail);
}

void opening_log_vanished(struct worker *w, const char *listener, const struct client *who,
			  enum reason why)
{
	record_refused(w, listener, who, "", why, "");
}

/* ---- streams that last ---- */

static void record_start(const struct opening *o)
{
	char from[PEER_TEXT_MAX], to[ADDRESS_TEXT_MAX];
	struct audit_record r;

	opening_via(o, to);
	r = known(o, peer_format(&o->peer, from, sizeof(from)), to);
	r.kind = AUDIT_STREAM_START;
	audit_write(gateway_audit(o->worker), &o->worker->counters, &r);
}

static void on_lasts(struct timer *t)
{
	struct gateway_worker *gw =
		(struct gateway_worker *)((char *)t - offsetof(struct gateway_worker, lasts));
	uint64_t after = gw->settings->config->audit.start_after, now = worker_now(gw->worker);

	if (!gw->audit)
		return;
	for (unsigned i = 0; gw->joined && i < START_BATCH; i++) {
		struct opening *o = gw->joined;
		uint64_t age = now - o->began;

		if (age < after) {
			timer_set(gw->worker, t,
				  after - age < START_PAUSE_MS ? START_PAUSE_MS : after - age,
				  on_lasts);
			return;
		}
		record_start(o);
		opening_delist(o);
		opening_enlist(o, &gw->lasting);
	}
	if (gw->joined)
		timer_set(gw->worker, t, TIMER_TICK_MS, on_lasts);
}

void opening_log_joined(struct opening *o, const struct conduit *target)
{
	struct gateway_worker *gw = gateway_worker(o->worker);
	char text[PEER_TEXT_MAX];
	struct peer peer;

	opening_delist(o);
	opening_enlist(o, gw->joined_last);
	gw->joined_last = &o->link;
	if (!gw->audit)
		return;
	if (!timer_is_set(&gw->lasts))
		timer_set(o->worker, &gw->lasts, gw->settings->config->audit.start_after, on_lasts);
	if (!o->dialled)
		return;
	peer_of_remote(&peer, target->ops->fd(target));
	opening_set_text(&o->target_address, peer_format(&peer, text, sizeof(text)));
}

void opening_log_reloaded(struct gateway_worker *gw)
{
	timer_set(gw->worker, &gw->lasts, TIMER_TICK_MS, on_lasts);
}
