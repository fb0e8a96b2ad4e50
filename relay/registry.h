/*
 * registry: which tunnel offers which service, and which instance is connected. The one piece of
 * state that workers share; every function locks for itself, briefly, and calls nothing back.
 */
#ifndef RELAY_REGISTRY_H
#define RELAY_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/reason.h"
#include "relay/table.h"

struct worker;
struct registry;
struct registry_load;
struct registry_entry;
struct registry_name;

struct registry *registry_new(void);
struct registry *registry_free(struct registry *r); /* tunnels still listed are removed */

/*
 * One tunnel as the registry knows it. Embedded in the tunnel; the strings are the tunnel's. It is
 * neither moved nor written to while it is listed.
 */
struct registration {
	struct worker *worker;
	uint64_t tunnel; /* id, unique for ever */
	const char *owner, *instance;
	uint64_t generation;
	bool moving;   /* goes on as it is until its successor is there; then it retires */
	bool retiring; /* finishes its streams; neither picked nor replaced */

	/* the registry's own; zero at first */
	struct table_node node;
	struct registry_name *counted; /* its owner */
	struct registry_entry *entries;
	size_t n_entries;
	uint64_t rank;     /* among its owner's instances: by their first appearance */
	uint64_t identity; /* see relay/balance.h */
	struct registry_load *load;
};

/* A tunnel to open a stream through. The tunnel may be gone when its worker is asked. */
struct offer {
	struct worker *worker;
	uint64_t tunnel;
	bool eager;
	struct registry_load *load; /* the asker's, until registry_unload; NULL: not picked */
};

/* One service offered: SERVICE.OWNER, lower case. */
struct offered {
	const char *service;
	bool eager;
};

/*
 * Lists a tunnel with its services. If the same owner's instance is connected with a lower
 * generation, that one loses its services at once and is returned in *stale (worker and tunnel
 * only) for the caller to close. REASON_NONE; STALE: the one there is as new or newer; OWNER_LIMIT:
 * the owner has max_per_owner tunnels; LIMIT: all have max; NO_MEMORY. Nothing has changed unless
 * REASON_NONE.
 */
enum reason registry_add(struct registry *r, struct registration *t, const struct offered *services,
			 size_t n, uint64_t max_per_owner, uint64_t max, struct offer *stale);
/* What registry_add would say; nothing is listed, and nothing changes. */
enum reason registry_ask(struct registry *r, struct registration *t, uint64_t max_per_owner,
			 uint64_t max);
/* Its agent was asked to come back on a fresh session, in whose favour it retires. */
void registry_move(struct registry *r, struct registration *t);
/* Takes its services out (no new streams); it stays known until registry_remove. */
void registry_retire(struct registry *r, struct registration *t);
/* Of one that retires: its instance is back with a higher generation. */
bool registry_is_succeeded(struct registry *r, const struct registration *t);
void registry_remove(struct registry *r, struct registration *t); /* not listed: nothing */

/* What is wanted of a service. */
struct wanted {
	const char *service;
	int balance;           /* enum balance */
	uint64_t client;       /* BALANCE_STICKY: see relay/balance.h */
	const uint64_t *asked; /* n tunnels that were asked already: not these. Few */
	size_t n;
};

/*
 * A tunnel with this service. BALANCE_PRIMARY: of the instance that appeared first since the relay
 * began; one that was away and is back has its old place (of each owner, the last REGISTRY_FORMER
 * that went are remembered). The others look at each tunnel of the service.
 */
#define REGISTRY_FORMER 64
bool registry_pick(struct registry *r, const struct wanted *wanted, struct offer *offer);
bool registry_has(struct registry *r, const struct wanted *wanted);
/* How many tunnels offer it, to look at only. */
size_t registry_count(struct registry *r, const char *service);

/* The stream on its way to a picked tunnel, or in it, is over. Any thread; NULL is fine. */
void registry_unload(struct registry_load *load);

size_t registry_tunnels(struct registry *r);
size_t registry_services(struct registry *r);

#endif
