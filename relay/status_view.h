/*
 * status_view: what the status page shows, gathered from a gateway: plain values that do not change
 * while it is written.
 *
 * Thread: the main one.
 */
#ifndef RELAY_STATUS_VIEW_H
#define RELAY_STATUS_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/figures.h"
#include "relay/problems.h"
#include "relay/reach.h"

/* Rows of a page that people read; further ones are counted, and found with a filter. */
#define STATUS_SERVICES_MAX 500
#define STATUS_OWNERS_MAX 250
#define STATUS_LIMITS_MAX 16

struct gateway;
struct history;

struct status_service {
	const char *name;
	bool known;    /* a client's name may lead to it; or it is what is left of one */
	bool expected; /* the config names it, as a service or a listener's */
	struct reach reach;
	uint64_t live, parked, streams, up, down;
};

struct status_owner {
	const char *name;
	uint64_t tunnels, streams, parked, memory;
	uint64_t most_tunnels, most_streams, most_parked, most_memory; /* QUOTA_NO_LIMIT: none */
};

struct status_limit {
	const char *what, *setting;
	uint64_t used, most; /* QUOTA_NO_LIMIT: none */
	bool bytes;
};

struct status_view {
	uint64_t now;         /* seconds since 1970 */
	uint64_t history_now; /* history_now() of the same moment */
	uint64_t began;       /* the same of the relay's start; 0: not known */
	bool draining;
	unsigned workers;
	uint64_t reloads; /* since the start */
	uint64_t connections, tunnels, live, parked;
	const struct history *history; /* NULL: there is none */
	const char *filter;            /* "": none */
	struct problems problems;
	struct status_service *services; /* those in trouble first */
	size_t n_services, more_services;
	struct status_owner *owners;
	size_t n_owners, more_owners;
	struct status_limit limits[STATUS_LIMITS_MAX];
	size_t n_limits;
	struct figures_rows rows; /* has the services' names */
};

/*
 * filter: only services and owners with this in their names; lives as long as the view. NULL: out
 * of memory. g, too, is to outlive the view, and no config is loaded meanwhile.
 */
struct status_view *status_view_new(const struct gateway *g, const char *filter);
struct status_view *status_view_free(struct status_view *v); /* NULL is fine; returns NULL */

/* It should be reachable, and is not. */
static inline bool status_service_is_down(const struct status_service *s)
{
	return s->expected && s->known && !reach_is_good(&s->reach);
}

#endif
