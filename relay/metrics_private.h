/*
 * metrics_private: what metrics.c and its parts share. Nobody else includes it.
 *
 *   metrics.c         the whole, in order; what is counted without names
 *   metrics_limits.c  limits and what is used of them
 *   metrics_names.c   what is counted by listener, service and owner; files that end
 */
#ifndef RELAY_METRICS_PRIVATE_H
#define RELAY_METRICS_PRIVATE_H

#include <stdint.h>

#include "relay/counter.h"

struct exposition;
struct gateway;

/* Over all workers. */
uint64_t metrics_sum(const struct gateway *g, enum counter which);

void metrics_limits(struct exposition *e, const struct gateway *g);
void metrics_names(struct exposition *e, const struct gateway *g);
/* Certificates and revocation lists in effect, by their files. */
void metrics_files(struct exposition *e, const struct gateway *g);

#endif
