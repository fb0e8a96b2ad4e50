/*
 * census_live: what is alive in a worker, streams and tunnels, as a census tells it.
 *
 * Theory of operation: in the worker's own thread. All streams are looked at, but only those that
 * the page keeps are described. Tunnels are told one at a time, so they are gone through twice.
 */
#include "relay/census_live.h"

#include <string.h>

#include "relay/admin_json.h"
#include "relay/census.h"
#include "relay/client.h"
#include "relay/gateway.h"
#include "relay/identity.h"
#include "relay/opening.h"
#include "relay/opening_log.h"
#include "relay/opening_state.h"
#include "relay/search.h"

#define CLOSED "closed by the relay's operator"

/* ---- streams ---- */

static bool is_of(const struct opening *o, const struct census_question *q)
{
	const char *dot = strchr(o->service, '.');
	char client[PEER_TEXT_MAX];

	if (q->tunnel && (q->tunnel != o->tunnel_id || o->dialled))
		return false;
	if (*q->service && strcmp(q->service, o->service) != 0)
		return false;
	if (*q->owner && (!dot || strcmp(q->owner, dot + 1) != 0))
		return false;
	if (!*q->client)
		return true;
	/* the rule's name, the certificate's, or the address, with or without its port */
	if ((o->rule && strcmp(q->client, o->rule) == 0) ||
	    (o->identity && strcmp(q->client, identity_text(o->identity)) == 0))
		return true;
	peer_format(&o->peer, client, sizeof(client));
	return strncmp(client, q->client, strlen(q->client)) == 0 &&
	       strchr(":,", client[strlen(q->client)]); /* or the end */
}

static void note_list(const struct opening *o, struct census_page *page)
{
	for (; o; o = o->link)
		if (is_of(o, page->question))
			census_note(page, o->id, o);
}

static void note_all(const struct gateway_worker *gw, struct census_page *page)
{
	note_list(gw->parked, page);
	note_list(gw->openings, page);
	note_list(gw->joined, page);
	note_list(gw->lasting, page);
}

static struct json_object *describe(const struct opening *o)
{
	struct json_object *out = json_object_new_object();
	const uint64_t age = worker_now(o->worker) - o->began;
	const char *dot = strchr(o->service, '.');
	char text[ADDRESS_TEXT_MAX];

	admin_json_number(out, "id", o->id);
	admin_json_text(out, "state",
			o->splice           ? "joined"
			: o->search->parked ? "parked"
					    : "opening");
	admin_json_text(out, "service", o->service);
	admin_json_text(out, "owner", dot ? dot + 1 : NULL);
	admin_json_text(out, "client", peer_format(&o->peer, text, sizeof(text)));
	admin_json_text(out, "via_proxy", o->proxy);
	admin_json_text(out, "client_rule", o->rule);
	admin_json_text(out, "client_identity", o->identity ? identity_text(o->identity) : NULL);
	admin_json_text(out, "listener", o->listener->name);
	admin_json_text(out, "door", opening_log_door(o->door));
	if (o->dialled) {
		admin_json_address(out, "target", o->dialled);
	} else if (o->tunnel) {
		admin_json_text(out, "target", "tunnel");
		admin_json_number(out, "tunnel_id", o->tunnel_id);
		admin_json_text(out, "tunnel", o->tunnel);
		admin_json_text(out, "carrier", o->carrier);
	}
	admin_json_text(out, "target_address", o->splice ? o->target_address : NULL);
	admin_json_since(out, "since", age);
	admin_json_number(out, "age_ms", age);
	admin_json_number(out, "bytes_up", o->splice ? o->splice->half[INI].bytes : 0);
	admin_json_number(out, "bytes_down", o->splice ? o->splice->half[TGT].bytes : 0);
	admin_json_number(out, "worker", o->worker->index);
	return out;
}

void census_streams(struct worker *w, struct census_page *page)
{
	note_all(gateway_worker(w), page);
	for (size_t i = 0; i < page->n; i++)
		page->at[i].facts = describe(page->at[i].what);
}

static struct opening *find(struct opening *o, uint64_t id)
{
	while (o && o->id != id)
		o = o->link;
	return o;
}

void census_close_stream(struct worker *w, struct census_page *page)
{
	struct gateway_worker *gw = gateway_worker(w);
	struct opening *const lists[] = { gw->joined, gw->lasting, gw->parked, gw->openings };

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		struct opening *o = find(lists[i], page->question->one);

		if (!o)
			continue;
		census_note(page, o->id, NULL);
		opening_end(o, REASON_CLOSED_BY_ADMIN);
		return;
	}
}

/* ---- tunnels ---- */

static void note_tunnel(const struct tunnel_facts *t, void *user)
{
	struct census_page *page = user;
	const struct census_question *q = page->question;

	if (!*q->owner || strcmp(q->owner, t->owner) == 0)
		census_note(page, t->id, NULL);
}

static void describe_tunnel(const struct tunnel_facts *t, void *user)
{
	struct census_entry *entry = census_find(user, t->id);
	struct json_object *out;
	char text[PEER_TEXT_MAX];

	if (!entry || entry->facts)
		return;
	entry->facts = out = json_object_new_object();
	admin_json_number(out, "id", t->id);
	admin_json_text(out, "owner", t->owner);
	admin_json_text(out, "instance", t->instance);
	admin_json_text(out, "state", t->state);
	admin_json_text(out, "agent", peer_format(&t->client->peer, text, sizeof(text)));
	admin_json_text(out, "via_proxy", client_proxy(t->client, text, sizeof(text)));
	admin_json_text(out, "carrier", t->carrier);
	admin_json_text(out, "listener", t->listener);
	admin_json_text(out, "services", t->services);
	admin_json_text(out, "credential", t->credential);
	admin_json_text(out, "identity",
			t->client->identity ? identity_text(t->client->identity) : NULL);
	admin_json_number(out, "generation", t->generation);
	admin_json_since(out, "since", t->age_ms);
	admin_json_number(out, "age_ms", t->age_ms);
	if (t->rtt_us)
		admin_json_number(out, "rtt_us", t->rtt_us);
	admin_json_number(out, "streams", t->streams);
	admin_json_number(out, "streams_total", t->opened);
	admin_json_number(out, "memory_bytes", t->memory);
}

void census_tunnels(struct worker *w, struct census_page *page)
{
	const struct gateway *g = gateway_worker(w)->gateway;

	g->tunnel.each(w, note_tunnel, page);
	census_sort(page);
	g->tunnel.each(w, describe_tunnel, page);
	for (size_t i = 0; i < page->n; i++)
		if (page->at[i].facts)
			admin_json_number(page->at[i].facts, "worker", w->index);
}

void census_close_tunnel(struct worker *w, struct census_page *page)
{
	const struct gateway *g = gateway_worker(w)->gateway;

	if (g->tunnel.close(w, page->question->one, REASON_CLOSED_BY_ADMIN, CLOSED))
		census_note(page, page->question->one, NULL);
}
