/*
 * opening: finds a target for a routed client and stays with the stream until it ends.
 *
 * Theory of operation: a search (search.c) tries the route's targets in order, and has the stream
 * parked while it waits for a tunnel. What it comes to is a target, which is joined, or a reason,
 * with which the client is refused in its door's own words.
 *
 * Fail-over stops at the first byte: once joined, a lost target ends the stream. Then a splice
 * moves the bytes, and its end is ours: one log line, counters, and the door's own words if nothing
 * had been sent to the client yet. What only the way there needed (struct search) is given back
 * when joined.
 *
 * Limits: those of its source, its client and the service's owner (tenants.h), from its beginning
 * to its end; all of them by limits.connections, in which a stream behind a crossing counts until
 * both of its ends are gone: its bytes may wait for its client.
 */
#include "relay/opening.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/balance.h"
#include "relay/figures.h"
#include "relay/identity.h"
#include "relay/line.h"
#include "relay/opening_state.h"
#include "relay/refusal.h"
#include "relay/registry.h"
#include "relay/search.h"

static const char established[] = "HTTP/1.1 200 Connection established\r\n\r\n";

/* ---- the record: list, words ---- */

void opening_enlist(struct opening *o, struct opening **list)
{
	o->link = *list;
	o->prevp = list;
	if (o->link)
		o->link->prevp = &o->link;
	*list = o;
}

void opening_delist(struct opening *o)
{
	*o->prevp = o->link;
	if (o->link)
		o->link->prevp = o->prevp;
	else if (gateway_worker(o->worker)->joined_last == &o->link)
		gateway_worker(o->worker)->joined_last = o->prevp;
}

void opening_set_text(char **to, const char *text)
{
	free(*to);
	*to = strdup(text); /* NULL: a log line says less */
}

static const char *text_of(const char *text)
{
	return text ? text : "";
}

const char *opening_via(const struct opening *o, char text[ADDRESS_TEXT_MAX])
{
	text[0] = '\0';
	if (o->dialled)
		return address_format(o->dialled, text, ADDRESS_TEXT_MAX);
	if (o->tunnel) {
		struct line l = { text, 0, ADDRESS_TEXT_MAX - 1 };

		line_text(&l, "tunnel ");
		line_text(&l, o->tunnel);
		text[l.used] = '\0';
	}
	return text;
}

void opening_count(const struct opening *o, enum counter which, int change)
{
	counter_add(&o->worker->counters.value[which], (uint64_t)(int64_t)change);
	if (which == COUNTER_LIVE_PARKED)
		figure_add(o->figure, o->worker->index, FIGURE_PARKED, (uint64_t)(int64_t)change);
}

void opening_note_time(const struct opening *o, enum durations_kind kind, uint64_t since)
{
	durations_add(o->worker->counters.durations, kind, (worker_now(o->worker) - since) * 1000);
}

static void count_bytes(struct opening *o, const struct splice *s)
{
	static const enum figure_count of[SIDES] = { [INI] = FIGURE_UP, [TGT] = FIGURE_DOWN };

	for (unsigned i = 0; i < SIDES; i++) {
		uint64_t more = s->half[i].bytes - o->counted[i];

		if (more)
			figure_add(o->figure, o->worker->index, of[i], more);
		o->counted[i] += more;
	}
}

/* ---- the end ---- */

static void on_free(struct reapable *r)
{
	struct opening *o = (struct opening *)((char *)r - offsetof(struct opening, reapable));

	free(o->tunnel);
	free(o->proxy);
	free(o->rule);
	identity_unref(o->identity);
	free(o->target_address);
	destination_unref(o->to);
	listener_unref(o->listener);
	free(o);
}

/* Tells that the client's connection is gone for good. NULL: somebody else tells it. */
static void (*counter_of(const struct opening *o))(void *source)
{
	if (o->crossed)
		return NULL;
	return o->in_session ? gateway_on_stream_over : gateway_on_connection_over;
}

static void release(struct opening *o)
{
	void (*over)(void *source) = counter_of(o);

	search_end(o);
	claim_end(&o->claim);
	figure_put(o->figure);
	registry_unload(o->load);
	if (!o->splice)
		opening_count(o, COUNTER_LIVE_OPENINGS, -1);
	opening_delist(o);
	if (over && !o->lingers)
		over(o->source);
	worker_reap(o->worker, &o->reapable);
}

/* The client gets no target. */
void opening_refuse(struct opening *o, enum reason why)
{
	void (*over)(void *source) = counter_of(o);
	struct conduit *client = o->client;
	char about[256];

	opening_log_end(o, why, 0, 0);
	o->client = NULL; /* consumed */
	o->lingers = client && why != REASON_RESET && !o->answered;
	release(o);
	snprintf(about, sizeof(about), "%s: %s", o->service, reason_explanation(why));
	if (o->lingers)
		refusal_send(client, o->door, why, about, over, o->source);
	else
		conduit_close(client, why);
}

size_t opening_may_pass(struct splice *s, uint64_t *wait)
{
	const struct opening *o = s->user;

	if (claim_has_rate(&o->claim)) /* asking for the time costs more than this */
		return claim_may_pass(&o->claim, worker_now(s->worker), wait);
	*wait = 0;
	return SIZE_MAX;
}

void opening_passed(struct splice *s, size_t bytes)
{
	struct opening *o = s->user;

	if (claim_has_rate(&o->claim))
		claim_pass(&o->claim, bytes, worker_now(s->worker));
	count_bytes(o, s);
}

void opening_on_splice_end(struct splice *s, enum reason why)
{
	struct opening *o = s->user;

	count_bytes(o, s);
	figure_add(o->figure, o->worker->index, FIGURE_LIVE, (uint64_t)-1);
	if (o->in_tunnel)
		gateway_target_restored(opening_gateway(o));
	if (why != REASON_EOF && why != REASON_RESET && why != REASON_CLOSED_EARLY &&
	    s->half[TGT].bytes == 0 && o->door == DOOR_SNI) {
		/* the client waits for a ServerHello: an alert says more than a reset */
		refusal_send(s->side[INI], DOOR_SNI, why, "", gateway_on_connection_over,
			     o->source);
		s->side[INI] = NULL; /* consumed */
		o->lingers = true;
	}
	opening_log_end(o, why, s->half[INI].bytes, s->half[TGT].bytes);
	release(o);
}

/* ---- joined ---- */

/* The first tunnel with its service may have come since it began. */
static void count_joined(struct opening *o)
{
	struct figure *before = o->figure;

	if (figure_is_other(before)) {
		o->figure = figures_of(opening_gateway(o)->figures, FIGURES_SERVICES, o->service);
		figure_put(before);
	}
	figure_add(o->figure, o->worker->index, FIGURE_STREAMS, 1);
	figure_add(o->figure, o->worker->index, FIGURE_LIVE, 1);
	if (!o->in_tunnel)
		opening_note_time(o, DURATIONS_DIAL, o->search->dialled_at);
	else if (o->search->parked_at)
		opening_note_time(o, DURATIONS_PICKUP, o->search->parked_at);
}

/* The door's yes: REASON_NONE, or why the client, if there still is one, did not get it. */
static enum reason establish(struct opening *o)
{
	const char *yes = o->door == DOOR_CONNECT ? established : text_of(o->search->upgrade);
	size_t len = strlen(yes);

	if (o->client->ops->answer) {
		o->client->ops->answer(o->client, REASON_NONE);
		return REASON_NONE;
	}
	if (len && conduit_write(o->client, yes, len) != (ssize_t)len)
		return REASON_RESET;
	o->answered = true;
	if (o->door == DOOR_WEBSOCKET)
		o->client = opening_gateway(o)->websocket.open(o->client);
	return o->client ? REASON_NONE : REASON_NO_MEMORY;
}

void opening_join(struct opening *o, struct conduit *target)
{
	bool in_tunnel = !target->ops->fd;
	enum reason why = establish(o);
	struct conduit *client = o->client;

	if (why != REASON_NONE) {
		o->search->target = target;
		opening_refuse(o, why);
		return;
	}
	o->answered = true;
	o->client = o->search->target = NULL; /* consumed */
	opening_count(o, COUNTER_LIVE_OPENINGS, -1);
	o->splice = splice_new(o->worker, client, target, &o->to->splice, o);
	if (o->splice) {
		o->in_tunnel = in_tunnel;
		count_joined(o);
		if (in_tunnel)
			gateway_target_unneeded(opening_gateway(o));
		search_end(o);
		opening_log_joined(o, target);
	} else {
		opening_count(o, COUNTER_LIVE_OPENINGS, 1);
		opening_refuse(o, REASON_NO_MEMORY);
	}
}

static void wake(struct worker *w, void *arg)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct opening *o, *next;
	char *service = arg;

	for (o = gw->parked; o; o = next) {
		next = o->link;
		if (!service || strcmp(o->service, service) == 0)
			search_again(o);
	}
	free(service);
}

void opening_wake_all(struct gateway *g, const char *service)
{
	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct counters *count = &g->workers[i]->counters;
		char *copy;

		/* who parks raises this before it looks for a tunnel for the last time */
		if (counter_get(&count->value[COUNTER_LIVE_PARKED]) == 0)
			continue;
		copy = service ? strdup(service) : NULL;
		if (!copy != !service || worker_post(g->workers[i], wake, copy) < 0)
			free(copy); /* whoever is parked there waits for the time-out */
	}
}

/* False: out of memory. */
static bool know_client(struct opening *o, const struct client *who, const struct route *route)
{
	int version = route->config ? route->config->proxy_protocol : PROXY_SENT_NONE;
	uint8_t header[PROXYPROTO_SENT_MAX];
	char text[CLIENT_TEXT_MAX];

	o->peer = who->peer;
	o->untold = who->untold;
	o->identity = identity_ref(who->identity);
	if (route->config && route->config->balance == BALANCE_STICKY)
		o->search->identity = balance_client(who);
	if (who->proxy.family)
		opening_set_text(&o->proxy, client_proxy(who, text, sizeof(text)));
	if (!version)
		return true;
	snprintf(text, sizeof(text), "%" PRIu64, o->id);
	o->search->header_len = client_header(who, (unsigned)version, route->asked, text, header);
	o->search->header = malloc(o->search->header_len);
	if (o->search->header)
		memcpy(o->search->header, header, o->search->header_len);
	return o->search->header;
}

enum reason opening_judge(struct opening *o)
{
	const struct settings *s = gateway_settings(o->worker);
	const struct client_config *by;
	enum reason why = settings_judge_stream(s, o->listener->name, o->untold ? NULL : &o->peer,
						o->identity, o->service, settings_now(), &by);

	if (why != REASON_NONE)
		return why;
	o->judged = s->generation;
	o->until = o->identity ? identity_expires(o->identity) : UINT64_MAX;
	if (by && by->expires && by->expires < o->until)
		o->until = by->expires;
	if (!by != !o->rule || (by && strcmp(by->name, o->rule) != 0)) {
		free(o->rule);
		o->rule = by ? strdup(by->name) : NULL;
		if (by && !o->rule)
			return REASON_NO_MEMORY;
	}
	return REASON_NONE;
}

static void begin(struct opening *o)
{
	const char *detail = "no entry of clients allows it (attest-relay.yaml(5))";
	enum reason why = opening_judge(o);

	if (why == REASON_NONE) {
		why = claim_stream(&o->claim, &opening_gateway(o)->tenants, o->source, o->service,
				   o->rule, o->began, &detail);
	} else {
		detail = why == REASON_FORBIDDEN ? detail : "";
		why = claim_in_vain(o->source, o->began, why, &detail);
	}
	if (why == REASON_NONE) {
		search_begin(o);
		return;
	}
	if (*detail)
		opening_set_text(&o->search->detail, detail);
	opening_refuse(o, why);
}

void opening_new(struct listener *l, struct worker *w, struct conduit *client, enum door door,
		 const char *upgrade, const struct client *who, const struct route *route)
{
	size_t name = strlen(route->service) + 1;
	struct opening *o = calloc(1, sizeof(*o) + name);
	struct search *f = search_new(o, route->asked);

	if (!o || !f) {
		free(o);
		search_free(f);
		opening_log_refused(w, l->name, who, route->service, REASON_NO_MEMORY, "");
		if (client->ops->answer)
			gateway_stream_over(who->source);
		else
			gateway_connection_over(who->source);
		conduit_close(client, REASON_NO_MEMORY);
		return;
	}
	o->worker = w;
	o->listener = listener_ref(l);
	o->door = door;
	o->id = gateway_next_id(l->gateway);
	o->began = worker_now(w);
	o->to = destination_ref(settings_destination(gateway_settings(w), route->config));
	o->client = client;
	o->in_session = client->ops->answer;
	o->reapable.free = on_free;
	o->search = f;
	o->source = who->source;
	memcpy(o->service, route->service, name);
	o->figure = figures_of(l->gateway->figures, FIGURES_SERVICES, o->service);
	opening_enlist(o, &gateway_worker(o->worker)->openings);
	opening_count(o, COUNTER_LIVE_OPENINGS, 1);
	if (upgrade)
		opening_set_text(&f->upgrade, upgrade);
	if (!know_client(o, who, route) || (upgrade && !f->upgrade))
		opening_refuse(o, REASON_NO_MEMORY);
	else
		begin(o);
}

void opening_end(struct opening *o, enum reason why)
{
	if (o->splice)
		splice_end(o->splice, why);
	else
		opening_refuse(o, why);
}

/*
 * Does its name still lead somewhere? Its owner, or the owner's right to offer it, may be gone. One
 * that is at an address needs no such right: it goes on without its entry of services, but not
 * without an owner that there was.
 */
static bool is_routable(const struct opening *o, const struct settings *before)
{
	const struct relay_config *now = gateway_settings(o->worker)->config;
	const char *owner = strchr(o->service, '.') + 1;
	struct route route;

	if (router_by_service(&route, now, o->service) == 0)
		return true;
	return o->splice && o->dialled &&
	       (relay_config_owner(now, owner) || !relay_config_owner(before->config, owner));
}

/* Another entry of clients may allow it when the time of one is over. */
static enum reason judge_again(struct opening *o, const struct settings *before)
{
	enum reason why = !before || is_routable(o, before) ? opening_judge(o) : REASON_FORBIDDEN;

	return why != REASON_FORBIDDEN ? why : before ? REASON_REVOKED : REASON_EXPIRED;
}

static void recheck_list(struct opening *o, const struct settings *before, uint64_t now)
{
	struct opening *next;

	for (; o; o = next) {
		enum reason why = before || now >= o->until ? judge_again(o, before) : REASON_NONE;

		next = o->link;
		if (why != REASON_NONE)
			opening_end(o, why);
	}
}

void opening_recheck(struct gateway_worker *gw, const struct settings *before)
{
	uint64_t now = settings_now();

	recheck_list(gw->parked, before, now);
	recheck_list(gw->openings, before, now);
	recheck_list(gw->joined, before, now);
	recheck_list(gw->lasting, before, now);
}

void opening_end_all(struct gateway_worker *gw, enum reason why)
{
	while (gw->parked)
		opening_refuse(gw->parked, why);
	while (gw->openings)
		opening_refuse(gw->openings, why);
	while (gw->joined)
		splice_end(gw->joined->splice, why);
	while (gw->lasting)
		splice_end(gw->lasting->splice, why);
}
