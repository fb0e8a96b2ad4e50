/*
 * probe: asks the targets of services with a check, again and again, whether they answer.
 */
#ifndef RELAY_PROBE_H
#define RELAY_PROBE_H

#include <stdint.h>

#include "config/config.h"

/*
 * Probes that go on at a time, the rest wait for their turn: well within the descriptors that are
 * kept from clients (gateway.c), since each takes one, but for names with many addresses.
 */
#define PROBES_AT_ONCE 64

struct health;
struct probes;
struct worker;

/*
 * For a worker that does not run yet; its thread starts them by probes_begin and ends them by
 * probes_end (again is fine). Freed when it has been joined. *out is NULL if there is nothing to
 * probe. 0 or -ENOMEM.
 */
int probes_new(struct probes **out, struct worker *w, const struct relay_config *c,
	       struct health *health);
void probes_begin(struct worker *w, void *probes); /* for worker_post */
void probes_end(struct probes *p);		   /* NULL is fine */
void probes_free(struct probes *p);		   /* NULL is fine */

#endif
