/*
 * handshake: connections that have not said yet what they want.
 *
 * Theory of operation: a list by age in each worker, which has an equal part of limits.handshakes:
 * so there is no lock, and no worker ends what is another's. A newcomer is always taken in; who
 * floods the relay with connections that say nothing drops its own older ones.
 */
#include "relay/handshake.h"

bool handshake_begin(struct handshakes *in, struct handshake *h, struct source *source,
		     void (*drop)(struct handshake *h))
{
	if (!quota_take(&source->quota, QUOTA_HANDSHAKES))
		return false;
	quota_count(&in->tenants->all, QUOTA_HANDSHAKES);
	h->in = in;
	h->source = source;
	h->drop = drop;
	h->older = in->newest;
	h->newer = NULL;
	if (h->older)
		h->older->newer = h;
	else
		in->oldest = h;
	in->newest = h;
	in->n++;
	if (in->n > in->max && in->oldest != h)
		in->oldest->drop(in->oldest);
	return true;
}

void handshake_end(struct handshake *h)
{
	struct handshakes *in = h->in;

	if (!in)
		return;
	if (h->older)
		h->older->newer = h->newer;
	else
		in->oldest = h->newer;
	if (h->newer)
		h->newer->older = h->older;
	else
		in->newest = h->older;
	in->n--;
	quota_give(&h->source->quota, QUOTA_HANDSHAKES);
	quota_give(&in->tenants->all, QUOTA_HANDSHAKES);
	h->in = NULL;
}
