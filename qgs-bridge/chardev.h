/*
 * chardev: a connection to a Unix socket at which a VMM listens (QEMU -chardev socket,server=on),
 * held for its guest, who may want to say something some day.
 *
 * Connected when the socket is there; the first byte makes it a caller like one that was accepted.
 * When that stream has ended, or the VMM closed, it connects again. A serial line has no EOF.
 */
#ifndef QGS_BRIDGE_CHARDEV_H
#define QGS_BRIDGE_CHARDEV_H

#include <stdint.h>

#include "config/address.h"

struct bridge;
struct chardev;
struct conduit;

#define CHARDEV_RETRY_MS 1000 /* from one connect to the next */

/*
 * address is copied. ready is told, from the loop, that the guest has spoken; the conduit, unread,
 * is its own then. Its next connection is made when chardev_again says that this one is over, which
 * is due once for each, also after chardev_free. NULL: out of memory.
 */
struct chardev *chardev_new(struct bridge *b, const struct address *address, uint64_t dial_ms,
			    void (*ready)(void *user, struct conduit *c), void *user);
void chardev_again(struct chardev *c); /* the last one's stream is over */
/* Ends what is waiting; a stream that was handed over goes on. NULL is fine. */
struct chardev *chardev_free(struct chardev *c);

#endif
