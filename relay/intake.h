/* intake: a client from accept until it is known what it wants. */
#ifndef RELAY_INTAKE_H
#define RELAY_INTAKE_H

#include <stdint.h>

struct client;
struct gateway_worker;
struct listener;

/*
 * Takes over fd, an accepted connection (already counted in gateway.connections), which has ms to
 * say what it wants.
 */
void intake_new(struct listener *l, int fd, const struct client *client, uint64_t ms);

/* Shutting down: ends all of this worker. */
void intake_end_all(struct gateway_worker *gw);

#endif
