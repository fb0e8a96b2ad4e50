/*
 * gather: a buffer that doubles.
 *
 * Theory of operation: one block, as large as the usual message to begin with, so that this one is
 * read in one go; twice as large whenever it is full. So a peer who sends n bytes costs 2n at most.
 *
 * Owns the block. Limit: the max of each call.
 */
#include "qgs-bridge/gather.h"

#include <errno.h>
#include <stdlib.h>

#include "relay/conduit.h"

static int grow(struct gather *g, size_t first, size_t max)
{
	size_t room = g->room ? 2 * g->room : first;
	uint8_t *bytes;

	if (g->len >= max)
		return -EMSGSIZE;
	if (room > max)
		room = max;
	bytes = realloc(g->bytes, room);
	if (!bytes)
		return -ENOMEM;
	g->bytes = bytes;
	g->room = room;
	return 0;
}

ssize_t gather_read(struct gather *g, struct conduit *c, size_t first, size_t max)
{
	int r = g->len == g->room ? grow(g, first, max) : 0;
	ssize_t n;

	if (r < 0)
		return r;
	n = conduit_read(c, g->bytes + g->len, g->room - g->len);
	if (n > 0)
		g->len += (size_t)n;
	return n;
}

void gather_free(struct gather *g)
{
	free(g->bytes);
	*g = (struct gather){ 0 };
}
