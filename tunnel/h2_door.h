/*
 * h2_door: clients that speak HTTP/2 at the relay's connect door.
 *
 * Given to the gateway as a table of functions (struct h2_side): relay/ does not know tunnel/.
 */
#ifndef TUNNEL_H2_DOOR_H
#define TUNNEL_H2_DOOR_H

struct gateway;

/* Sets g->h2. Call before the workers start. */
void h2_door_install(struct gateway *g);

#endif
