/* intake: a client from accept until it is known what it wants. */
#ifndef RELAY_INTAKE_H
#define RELAY_INTAKE_H

struct gateway_worker;
struct listener;
struct peer;

/* Takes over fd, an accepted connection (already counted in gateway.connections). */
void intake_new(struct listener *l, int fd, const struct peer *peer);

/* Shutting down: ends all of this worker. */
void intake_end_all(struct gateway_worker *gw);

#endif
