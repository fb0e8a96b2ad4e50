/*
 * hub: the relay's side of tunnels: who may come in, what they offer, streams to them.
 *
 * Given to the gateway as a table of functions (struct tunnel_side): relay/ does not know tunnel/.
 */
#ifndef TUNNEL_HUB_H
#define TUNNEL_HUB_H

struct gateway;

/* Sets g->tunnel. Call before the workers start. */
void hub_install(struct gateway *g);

#endif
