/*
 * gateway_private: what gateway.c, the gateway's life, and gateway_reload.c, its changes, share.
 */
#ifndef RELAY_GATEWAY_PRIVATE_H
#define RELAY_GATEWAY_PRIVATE_H

#include "relay/gateway.h"

/* What descriptors allow of c's limits.connections: a stream takes two. Main thread. */
void gateway_fit_descriptors(struct gateway *g, const struct relay_config *c);
/* This worker's part of limits.handshakes and of pipes. */
void gateway_set_shares(struct worker *w);
/* Ends what is not allowed any more: by its time, and, before: by what has changed since those. */
void gateway_recheck(struct gateway_worker *gw, const struct settings *before);

void gateway_init_exchanged(struct gateway *g);
/* A worker's part in a reload, if there is one. For worker_post. */
void gateway_take_orders(struct worker *w, void *unused);
void gateway_free_orders(struct orders *o); /* not taken; NULL is fine */
/* The first worker: services with checks have probes, those of before that are gone have none. */
void gateway_exchange_probes(struct worker *w, const struct settings *before);
void gateway_end_probes(struct worker *w);

#endif
