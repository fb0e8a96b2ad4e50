/*
 * opening_memory: whose memory the bytes are that a stream keeps on its way.
 *
 * Theory of operation: what its splice has for a slow reader, and the rings of a crossing, count as
 * its source's, its client's, the service's owner's, and everybody's: by the stream's claim. A
 * crossing may outlast the stream, so it has a share of that claim, which goes with it.
 */
#include "relay/crossing.h"
#include "relay/opening.h"
#include "relay/opening_state.h"

size_t opening_room(const struct splice *s)
{
	const struct opening *o = s->user;

	return claim_room(&o->claim);
}

void opening_kept(struct splice *s, int64_t change)
{
	const struct opening *o = s->user;

	claim_keep(&o->claim, change);
}

static size_t crossing_room(const void *claim)
{
	return claim_room(claim);
}

static void crossing_kept(void *claim, int64_t change)
{
	claim_keep(claim, change);
}

static void on_crossing_over(void *claim)
{
	gateway_stream_over(claim_unshare(claim));
}

struct conduit *opening_cross(struct opening *o)
{
	static const struct crossing_spec spec = {
		.over = on_crossing_over,
		.room = crossing_room,
		.kept = crossing_kept,
	};
	struct claim *claim = claim_share(&o->claim);
	struct conduit *far = claim ? crossing_new(o->client, &spec, claim) : NULL;

	if (!far && claim)
		claim_unshare(claim);
	return far;
}
