/*
 * crossing: a conduit that cannot move (a stream of a session) made to be used in another worker.
 *
 * Two ends with two bounded rings of memory between them. The near end stays with the conduit, in
 * its worker, joined to it by a splice; the far end is a conduit like any other, born detached:
 * conduit_attach puts it into its new worker. EOF, aborts with their reason, backpressure and the
 * answer op (conduit.h) pass through. Costs one copy and a wake-up of the other worker.
 */
#ifndef RELAY_CROSSING_H
#define RELAY_CROSSING_H

#include <stddef.h>
#include <stdint.h>

struct conduit;

#define CROSSING_RING ((size_t)64 * 1024) /* bytes on their way, each direction; made when needed */
#define CROSSING_LITTLE ((size_t)4096)    /* ... where there is no room for that */

/* What its maker wants to know of it. Called in either worker's thread; must not call back. */
struct crossing_spec {
	/* Or NULL. Once, last, when both ends are gone, and inner has or never will have all. */
	void (*over)(void *arg);
	/*
	 * Memory: how many bytes more its rings may have now; and so much more, or less, they
	 * have. Little rings are not told. NULL, both: two rings are bound enough.
	 */
	size_t (*room)(const void *arg);
	void (*kept)(void *arg, int64_t change);
};

/*
 * Takes inner over, in the thread of inner->worker. The far end (ops->name "crossing", with detach
 * and attach), or NULL: out of memory, and inner is still the caller's. The far end may be closed
 * while it is detached, and after its worker has been freed. spec: static, its functions get arg.
 */
struct conduit *crossing_new(struct conduit *inner, const struct crossing_spec *spec, void *arg);

#endif
