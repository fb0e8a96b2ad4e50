/*
 * hub_place: which worker an agent's tunnel lives in.
 *
 * Theory of operation: the kernel wakes the worker that has waited longest in its list for a new
 * connection, and on a quiet relay that is always the same one. A client's stream is over soon; a
 * tunnel stays for months, so that all owners would share one processor, and what one of them does
 * would be missing to the others, while the rest have nothing to do. So once the handshake is
 * done, an agent's conduit goes to the worker with the fewest tunnels. It stays where it is if none
 * has fewer: a relay with one tunnel is as if there were no placing.
 *
 * Counted from the decision to the tunnel's end, so that agents that come all at once spread, too.
 * It travels as a client does (relay/search.c): detached, carried by the mailbox, attached; what
 * the handshake has read ahead stays in it. On its way it is among the gateway's "moving", which
 * the end waits for; it is in no list meanwhile, and finds on arrival that the end has come.
 */
#include "tunnel/hub_place.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "relay/conduit.h"
#include "relay/gateway.h"
#include "relay/identity.h"
#include "relay/listener.h"
#include "relay/worker.h"
#include "tunnel/hub_state.h"

struct arrival {
	struct listener *listener; /* a reference */
	struct conduit *conduit;
	struct client client; /* with a reference to its identity */
	hub_settle *settle;
};

static struct worker *emptiest(const struct gateway *g, struct worker *here)
{
	struct worker *best = here;
	unsigned fewest = atomic_load(&hub_of(here)->placed), n;

	for (unsigned i = 0; i < g->n_workers; i++) {
		n = atomic_load(&hub_of(g->workers[i])->placed);
		if (n < fewest) {
			fewest = n;
			best = g->workers[i];
		}
	}
	return best;
}

void hub_unplace(struct worker *w)
{
	atomic_fetch_sub(&hub_of(w)->placed, 1);
}

void hub_turn_away(struct listener *l, struct worker *w, struct conduit *c,
		   const struct client *client, enum reason why, const char *detail)
{
	const struct tunnel none = { .gateway = l->gateway,
				     .worker = w,
				     .listener = l,
				     .client = *client,
				     .began = worker_now(w) };

	tunnel_log_ended(&none, why, detail);
	tunnel_record(&none, AUDIT_SESSION_REFUSED, why, detail, NULL);
	if (c)
		conduit_close(c, why);
	hub_unplace(w);
	gateway_connection_over(client->source);
}

static void free_arrival(struct arrival *a)
{
	identity_unref(a->client.identity);
	listener_unref(a->listener);
	free(a);
}

/* The mailbox of the worker that it was placed in. */
static void on_arrival(struct worker *w, void *arg)
{
	struct arrival *a = arg;
	struct gateway *g = a->listener->gateway;

	if (conduit_attach(a->conduit, w) < 0) {
		conduit_close(a->conduit, REASON_NO_MEMORY); /* it could not say more */
		hub_turn_away(a->listener, w, NULL, &a->client, REASON_NO_MEMORY, "out of memory");
	} else if (gateway_worker(w)->end_at) {
		hub_turn_away(a->listener, w, a->conduit, &a->client, REASON_SHUTDOWN,
			      "the relay is shutting down");
	} else {
		a->settle(a->listener, w, a->conduit, &a->client);
	}
	atomic_fetch_sub(&g->moving, 1);
	free_arrival(a);
}

/* Out of this worker. False: it could not be, and the conduit is here as before, or closed: NULL.
 */
static bool send_to(struct worker *to, struct arrival *a, struct conduit **c)
{
	struct gateway *g = a->listener->gateway;
	struct worker *here = (*c)->worker;

	a->conduit = *c;
	atomic_fetch_add(&g->moving, 1);
	conduit_detach(*c);
	if (worker_post(to, on_arrival, a) == 0)
		return true;
	atomic_fetch_sub(&g->moving, 1);
	if (conduit_attach(*c, here) < 0) {
		conduit_close(*c, REASON_NO_MEMORY);
		*c = NULL;
	}
	return false;
}

void hub_place(struct listener *l, struct worker *w, struct conduit *c, const struct client *client,
	       hub_settle *settle)
{
	struct worker *to = emptiest(l->gateway, w);
	/* once the relay ends, nothing moves any more */
	bool moves = to != w && !atomic_load(&l->gateway->ending);
	struct arrival *a = moves ? malloc(sizeof(*a)) : NULL;

	if (a) {
		*a = (struct arrival){ listener_ref(l), c, *client, settle };
		identity_ref(a->client.identity);
		atomic_fetch_add(&hub_of(to)->placed, 1);
		if (send_to(to, a, &c))
			return;
		hub_unplace(to);
		free_arrival(a);
	}
	atomic_fetch_add(&hub_of(w)->placed, 1);
	if (c)
		settle(l, w, c, client);
	else
		hub_turn_away(l, w, NULL, client, REASON_NO_MEMORY, "out of memory");
}
