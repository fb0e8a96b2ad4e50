/*
 * hub_place: which worker an agent's tunnel lives in.
 *
 * Each tunnel, and each that is still on its way to be one, is counted in its worker, from
 * hub_place to hub_unplace. Thread: of the worker named.
 */
#ifndef TUNNEL_HUB_PLACE_H
#define TUNNEL_HUB_PLACE_H

#include "relay/reason.h"

struct client;
struct conduit;
struct listener;
struct worker;

/* In the worker that the tunnel is to live in. The conduit is consumed; client is only lent. */
typedef void hub_settle(struct listener *l, struct worker *w, struct conduit *c,
			const struct client *client);

/*
 * The agent's conduit, which is in w and of which nobody waits for anything, goes to the worker
 * that has the fewest tunnels; settle is called there, now if that is w. Consumed in every case;
 * who cannot be taken there is turned away. The client's identity is held meanwhile.
 */
void hub_place(struct listener *l, struct worker *w, struct conduit *c, const struct client *client,
	       hub_settle *settle);
/* A tunnel of w has ended. */
void hub_unplace(struct worker *w);

/* Who was placed in w and gets no tunnel: said and recorded. c is consumed; NULL: it is gone. */
void hub_turn_away(struct listener *l, struct worker *w, struct conduit *c,
		   const struct client *client, enum reason why, const char *detail);

#endif
