/*
 * hub: the relay's side of tunnels: who may come in, what they offer, streams to them.
 *
 * Given to the gateway as a table of functions (struct tunnel_side): relay/ does not know tunnel/.
 */
#ifndef TUNNEL_HUB_H
#define TUNNEL_HUB_H

struct gateway;
struct worker;

/* Sets g->tunnel. Call before the workers start. */
void hub_install(struct gateway *g);

/* For the socket under a session: dead ones are noticed, and small streams are not queued behind
 * much of others. What a socket that is not TCP refuses is left. */
void hub_tune_socket(const struct worker *w, int fd);

#endif
