/*
 * reach: could a client reach a service now? By what is known already: nobody is asked.
 *
 * Thread: the main one.
 */
#ifndef RELAY_REACH_H
#define RELAY_REACH_H

#include <stdbool.h>
#include <stddef.h>

struct gateway;

struct reach {
	bool by_tunnel;       /* tunnels are one of its targets */
	size_t tunnels;       /* that offer it; 0 if they are no target */
	size_t targets, live; /* those that are addresses; of which none is known to fail */
};

/* False: no service of this name may be reached, whoever offers it. */
bool reach_of(const struct gateway *g, const char *service, struct reach *out);

static inline bool reach_is_good(const struct reach *r)
{
	return r->tunnels || r->live;
}

#endif
