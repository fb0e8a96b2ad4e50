/*
 * destination: a service as a config has it, with what is made of that: how long its streams may be
 * silent, what is known of its targets, what asks them.
 *
 * Counted and never changed: a stream keeps the one that it began with. A reload that leaves a
 * service as it is leaves its destination, too, so that many reloads cost streams that last no more
 * than one. Whatever becomes of it, it keeps no config: of these there may be many, all large.
 *
 * Thread: any; its probes are the first worker's.
 */
#ifndef RELAY_DESTINATION_H
#define RELAY_DESTINATION_H

#include <stdatomic.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/splice.h"

struct health;
struct probes;

struct destination {
	atomic_uint refs;
	struct service_config *config; /* its own; NULL: of services without an entry */
	struct splice_spec splice;
	struct health *health; /* of its targets; NULL: config is */
	struct probes *probes; /* NULL: it has none */
	uint64_t probed;       /* the first worker's: by settings of this generation */
};

/*
 * Of this service in c, or NULL: of all others. before: as it was, or NULL. That one is had again
 * if nothing of it has changed; if it has, what is known of its targets lives on. NULL: out of
 * memory.
 */
struct destination *destination_of(const struct relay_config *c, const struct service_config *s,
				   struct destination *before);
struct destination *destination_ref(struct destination *d);
struct destination *destination_unref(struct destination *d); /* NULL is fine; returns NULL */

#endif
