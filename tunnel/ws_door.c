/*
 * ws_door: clients at the relay's websocket door.
 *
 * Theory of operation: the intake has seen a request for /connect/SERVICE.OWNER and hands it over
 * with its head unread. The head is judged here, the handshake with it, and refused in HTTP; or it
 * becomes an opening, with the connection as its client and the 101 to be said when the target is
 * there. So what keeps a target from being there is told in HTTP, too, and the connection can move
 * to another worker until then. Behind the 101 the opening has a WebSocket put over the connection.
 *
 * A query behind the path is not looked at, and never logged: programs put secrets there. Escapes
 * are not decoded: no service's name needs one.
 *
 * Subprotocols: "binary", as websockify's clients ask for, or none. Origin is not looked at: who
 * may come is client_ca's matter, and a service that goes by where the client stands must not be
 * reached by way of a browser.
 */
#include "tunnel/ws_door.h"

#include <stdio.h>
#include <string.h>

#include "relay/conduit.h"
#include "relay/gateway.h"
#include "relay/httphead.h"
#include "relay/linger.h"
#include "relay/listener.h"
#include "relay/opening.h"
#include "relay/refusal.h"
#include "relay/router.h"
#include "tunnel/ws.h"
#include "tunnel/ws_handshake.h"

/* path: any; the name in it decides */
static const struct ws_handshake_terms terms = { .subprotocol = "binary", .optional = true };

struct request {
	char name[SERVICE_NAME_MAX + 1]; /* as asked for; cut where it can be none any more */
	char say[WS_HANDSHAKE_SAY + 1];  /* the 101, or what is wrong with the handshake */
	struct ws_handshake_heard heard;
};

static void take_name(struct request *r, const struct httphead *head)
{
	const char *name = head->target.at + sizeof(GATEWAY_WEBSOCKET_PATH) - 1;
	size_t len = head->target.len - (sizeof(GATEWAY_WEBSOCKET_PATH) - 1);
	const char *query = memchr(name, '?', len);

	snprintf(r->name, sizeof(r->name), "%.*s", (int)(query ? (size_t)(query - name) : len),
		 name);
}

/* False: the handshake will not do, and say has an answer to it. */
static bool hear(struct conduit *c, struct request *r)
{
	struct httphead head;
	enum ws_handshake_verdict verdict;
	const uint8_t *data;
	size_t len = (size_t)conduit_peek(c, &data), said = 0;

	if (httphead_parse(data, len, &head) == HTTPHEAD_OK) /* or it would not be here */
		take_name(r, &head);
	verdict = ws_handshake_judge_request(data, len, &terms, &r->heard, r->say, &said);
	r->say[said] = '\0';
	return verdict == WS_HANDSHAKE_GOOD;
}

static void refuse(struct listener *l, struct conduit *c, const struct client *client,
		   const struct request *r, enum reason why, const char *detail)
{
	why = claim_in_vain(client->source, worker_now(c->worker), why, &detail);
	opening_log_refused(c->worker, l->name, client, r->name, why, detail);
	if (why == REASON_PROTOCOL) {
		conduit_write(c, r->say, strlen(r->say));
		linger_close(c, gateway_on_connection_over, client->source);
		return;
	}
	refusal_send(c, DOOR_WEBSOCKET, why, *detail ? detail : reason_explanation(why),
		     gateway_on_connection_over, client->source);
}

static void door_accept(struct listener *l, struct worker *w, struct conduit *c,
			const struct client *client, enum reason verdict)
{
	struct request r = { .name = "" };
	bool heard = hear(c, &r);
	struct route route;

	if (verdict != REASON_NONE) {
		refuse(l, c, client, &r, verdict,
		       verdict == REASON_FORBIDDEN
			       ? "a client certificate of this listener's CA is needed"
			       : "");
	} else if (!heard) {
		refuse(l, c, client, &r, REASON_PROTOCOL, r.heard.detail);
	} else if (router_by_service(&route, gateway_settings(w)->config, r.name) < 0) {
		refuse(l, c, client, &r, REASON_UNKNOWN_SERVICE, "");
	} else {
		route.asked = r.name;
		conduit_consume(c, r.heard.head);
		opening_new(l, w, c, DOOR_WEBSOCKET, r.say, client, &route);
	}
}

void ws_door_install(struct gateway *g)
{
	g->websocket = (struct websocket_side){
		.accept = door_accept,
		.open = ws_conduit_new_lenient,
	};
}
