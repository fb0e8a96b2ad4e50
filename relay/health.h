/*
 * health: which of a service's targets that are addresses answer, so that those that do are tried
 * first.
 *
 * Told by everybody who dials one, and by probes (relay/probe.h). Any thread.
 */
#ifndef RELAY_HEALTH_H
#define RELAY_HEALTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

#define HEALTH_WAIT_MS 10000     /* a target that failed is tried last for so long, ... */
#define HEALTH_WAIT_MAX_MS 60000 /* ... doubled while it goes on failing, up to this */
/*
 * A dial whose client left after so long has failed, too, or one with less patience than the dial
 * time-out could never be served by the next target. Time for a second SYN, and its answer.
 */
#define HEALTH_PATIENCE_MS 1500

struct health;

/*
 * s outlives it. before: of the service as it was, or NULL: what is known of targets that are in
 * both is one and the same from now on, if they are checked as before. NULL: out of memory.
 */
struct health *health_new(const struct service_config *s, const struct health *before);
void health_free(struct health *h); /* NULL is fine */

/* Of each: target is the index of one of the service's targets; now: worker_now. */

/*
 * False: others first. When its time is over, one caller is told true and has to try it; the rest
 * wait for what comes of that.
 */
bool health_admits(struct health *h, size_t target, uint64_t now);
/* A client's dial is over. detail: why it failed; names the address. */
void health_tried(struct health *h, size_t target, bool good, const char *detail, uint64_t now);
/* A probe is over. One that passes also forgives failed dials. */
void health_probed(struct health *h, size_t target, bool good, const char *detail);
/* Neither the last dial nor the last probe failed. */
bool health_is_up(const struct health *h, size_t target);
/*
 * Would the next client be led there? As health_is_up, but a failed dial counts as long as it keeps
 * clients away: where none comes, nobody would ever find out that it answers again.
 */
bool health_may_answer(const struct health *h, size_t target, uint64_t now);

#endif
