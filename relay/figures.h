/*
 * figures: what is counted of each listener, service and owner, by its name.
 *
 * They outlive configs and tunnels. How many names there are is bounded whatever agents offer: of
 * each kind FIGURES_MAX, of one owner's services that only its agents name FIGURES_OFFERED_MAX. All
 * others are counted together, as FIGURES_OTHER, and so is what was counted under a name whose
 * place was needed; no sum over names ever goes down. A client's asking makes no name.
 *
 * Threads: any; adding is for the worker whose index is given, and takes no lock.
 */
#ifndef RELAY_FIGURES_H
#define RELAY_FIGURES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/figure_class.h"
#include "relay/reason.h"
#include "relay/table.h"

struct relay_config;

#define FIGURES_MAX 1024        /* names of a kind: some 20 series each for a service */
#define FIGURES_OFFERED_MAX 256 /* of one owner: nobody takes all places */
#define FIGURES_OTHER "_other"  /* no name of a config or an agent begins with '_' */

enum figures_kind { FIGURES_LISTENERS, FIGURES_SERVICES, FIGURES_OWNERS, FIGURES_KINDS };

/* What there is of each; of a listener only the first. Then come reasons, or their classes. */
enum figure_count {
	FIGURE_ACCEPTED, /* connections; of an owner: tunnels */
	FIGURE_STREAMS,  /* that reached their target */
	FIGURE_UP,       /* bytes, client to service */
	FIGURE_DOWN,
	FIGURE_LIVE,   /* streams now: joined */
	FIGURE_PARKED, /* streams now: waiting for a tunnel */
	FIGURE_COUNTS
};

/* One name's. A service's are its owner's, too. */
struct figure {
	struct table_node node;
	struct figure *next, **prevp; /* all of a kind */
	struct figures *in;
	enum figures_kind kind;
	bool offered;         /* a service: tunnels have, or are expected to */
	struct figure *owner; /* a service's */
	struct figure *rest;  /* an owner's: its services without a name here */
	unsigned services;    /* an owner's, with one */
	atomic_uint_fast64_t refs;
	uint64_t used;       /* when it was last looked for, in look-ups */
	uint64_t *reclaimed; /* of those "other": of names that had to go */
	size_t stride;
	atomic_uint_fast64_t *at; /* stride for each worker */
	char name[];
};

/* workers: their indices are below that. NULL: out of memory, or no randomness. */
struct figures *figures_new(unsigned workers);
struct figures *figures_free(struct figures *f); /* NULL is fine; nothing may be held any more */

/*
 * From now on the names of this config are known; those of the one before go when their place is
 * needed. False: out of memory, nothing has changed. One thread.
 */
bool figures_declare(struct figures *f, const struct relay_config *config);

/*
 * That of a name, or the one that it is counted under; the caller's until figure_put. Never NULL.
 * figures_offered: a tunnel offers this service, so it is known from now on.
 */
struct figure *figures_of(struct figures *f, enum figures_kind kind, const char *name);
struct figure *figures_offered(struct figures *f, const char *service);
void figure_put(struct figure *f); /* NULL is fine */
/* Its own name is not known (yet): a later figures_of may find it. */
static inline bool figure_is_other(const struct figure *f)
{
	return f->reclaimed;
}

static inline void figure_add_at(const struct figure *f, unsigned worker, size_t i, uint64_t n)
{
	atomic_uint_fast64_t *at = &f->at[worker * f->stride + i];

	/* one writer: no locked instruction needed */
	atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

/* A gauge goes down by adding (uint64_t)-1. */
static inline void figure_add(const struct figure *f, unsigned worker, enum figure_count which,
			      uint64_t n)
{
	figure_add_at(f, worker, which, n);
	if (f->owner)
		figure_add_at(f->owner, worker, which, n);
}

/* A listener turned somebody away; a service's stream is over, joined or not. */
void figure_ended(const struct figure *f, unsigned worker, enum reason why);

/* ---- for a scrape ---- */

struct figures_row {
	char *name;
	bool offered;
	uint64_t *value; /* FIGURE_COUNTS, then REASONS of a listener, else FIGURE_CLASSES */
};

/* All of a kind, by name; the last is FIGURES_OTHER. False: out of memory. */
struct figures_rows {
	struct figures_row *at;
	size_t n;
	uint64_t *values;
};
bool figures_read(struct figures *f, enum figures_kind kind, struct figures_rows *out);
void figures_rows_deinit(struct figures_rows *rows);

#endif
