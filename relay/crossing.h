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

struct conduit;

#define CROSSING_RING ((size_t)64 * 1024) /* bytes on their way, each direction; made when needed */

/*
 * Takes inner over, in the thread of inner->worker. The far end (ops->name "crossing", with detach
 * and attach), or NULL: out of memory, and inner is still the caller's. The far end may be closed
 * while it is detached, and after its worker has been freed.
 * over(arg), if not NULL, is called once when both ends are gone, and inner has or never will have
 * what was sent to it: in either worker's thread.
 */
struct conduit *crossing_new(struct conduit *inner, void (*over)(void *arg), void *arg);

#endif
