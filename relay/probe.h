/*
 * probe: asks the targets of services with a check, again and again, whether they answer.
 *
 * A service's probes go on through reloads that leave it as it is. Thread: one worker's, but for
 * what makes and frees.
 */
#ifndef RELAY_PROBE_H
#define RELAY_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

/*
 * Probes that go on at a time, the rest wait for their turn: well within the descriptors that are
 * kept from clients (gateway.c), since each takes one, but for names with many addresses.
 */
#define PROBES_AT_ONCE 64

struct health;
struct prober;
struct probes;
struct worker;

/* What all services' probes have in common. NULL: out of memory. */
struct prober *prober_new(struct worker *w);
/* All probes have ended. NULL is fine; returns NULL. */
struct prober *prober_free(struct prober *b);
void prober_set_timeout(struct prober *b, uint64_t ms); /* timeouts.dial */
/* Some probes have ended: others may have their turn. */
void prober_go_on(struct prober *b);

/*
 * One service's; s and health outlive it. *out is NULL if nothing of it is to be asked. 0 or
 * -ENOMEM.
 */
int probes_new(struct probes **out, const struct service_config *s, struct health *health);
struct probes *probes_free(struct probes *p); /* it has ended; NULL is fine; returns NULL */
/* i of n services with one: so first rounds are spread. NULL is fine, and again. */
void probes_begin(struct probes *p, struct prober *b, size_t i, size_t n);
void probes_end(struct probes *p); /* NULL is fine, and again */

#endif
