/*
 * gather: bytes of a message, kept until it is whole.
 *
 * Memory grows with what has really arrived, never with what a peer has announced.
 */
#ifndef QGS_BRIDGE_GATHER_H
#define QGS_BRIDGE_GATHER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct conduit;

struct gather { /* zero at first */
	uint8_t *bytes;
	size_t len, room;
};

/*
 * One read behind what is there already, into room for first bytes that doubles when it is full, up
 * to max. As conduit_read; or -EMSGSIZE: max are there; or -ENOMEM.
 */
ssize_t gather_read(struct gather *g, struct conduit *c, size_t first, size_t max);
void gather_free(struct gather *g); /* zeroes it; twice is fine */

#endif
