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
	uint64_t tunnel;     /* id, unique for ever */
	const char *owner, *instance;
	uint64_t generation;
	bool retiring; /* finishes its streams; neither picked nor replaced */

	/* the registry's own; zero at first */
	struct table_node node;
	struct registry_name *counted; /* its owner */
	struct registry_entry *entries;
	size_t n_entries;
};

/* A tunnel to open a stream through. The tunnel may be gone when its worker is asked. */
struct offer {
	struct worker *worker;
	uint64_t tunnel;
	bool eager;
};

/* One service offered: SERVICE.OWNER, lower case. */
struct offered {
	const char *service;
	bool eager;
};

/*
 * Lists a tunnel with its services. If the same owner's instance is connected with a lower
 * generation, that one loses its services at once and is returned in *stale (worker and tunnel
 * only) for the caller to close. REASON_NONE; STALE: the one there is as new or newer; LIMIT: the
 * owner has max_per_owner tunnels, or all have max; NO_MEMORY. Nothing has changed unless
 * REASON_NONE.
 */
enum reason registry_add(struct registry *r, struct registration *t, const struct offered *services,
			 size_t n, uint64_t max_per_owner, uint64_t max, struct offer *stale);
/* Takes its services out (no new streams); it stays known until registry_remove. */
void registry_retire(struct registry *r, struct registration *t);
void registry_remove(struct registry *r, struct registration *t); /* not listed: nothing */

/*
 * The first tunnel that came with this service and is still there (primary, then backups), other
 * than the n that were asked already. Few, since each is compared with each.
 */
bool registry_pick(struct registry *r, const char *service, const uint64_t *asked, size_t n,
		   struct offer *offer);

size_t registry_tunnels(struct registry *r);
size_t registry_services(struct registry *r);

#endif
