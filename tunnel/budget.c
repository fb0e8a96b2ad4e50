/*
 * budget: whose memory the bytes are that a session and its streams hold unread.
 *
 * Theory of operation: before a session reads its carrier, it takes as much as one read may bring;
 * what streams did not use up at once is kept, the rest given back. So all that is unread anywhere
 * is within the quotas, and an idle session has nothing of them. What cannot be taken is not read:
 * TCP tells the peer to wait.
 */
#include "tunnel/budget.h"

#include <stdlib.h>

#include "relay/quota.h"

struct budget {
	struct quota *memory;
	void (*put)(struct quota *memory);
	unsigned refs;
	size_t kept;
};

struct budget *budget_new(struct quota *memory, void (*put)(struct quota *memory))
{
	struct budget *b = malloc(sizeof(*b));

	if (b)
		*b = (struct budget){ .memory = memory, .put = put, .refs = 1 };
	return b;
}

struct budget *budget_hold(struct budget *b)
{
	if (b)
		b->refs++;
	return b;
}

void budget_drop(struct budget *b)
{
	if (!b || --b->refs)
		return;
	b->put(b->memory);
	free(b);
}

bool budget_take(struct budget *b, size_t bytes)
{
	return !b || quota_reserve(b->memory, bytes);
}

void budget_charge(struct budget *b, size_t bytes)
{
	if (b)
		quota_charge(b->memory, bytes);
}

void budget_give(struct budget *b, size_t bytes)
{
	if (b && bytes)
		quota_release(b->memory, bytes);
}

void budget_keep(struct budget *b, size_t bytes)
{
	int64_t change = b ? (int64_t)bytes - (int64_t)b->kept : 0;

	if (!change)
		return;
	for (struct quota *q = b->memory; q; q = q->above)
		quota_keep(q, change);
	b->kept = bytes;
}

bool budget_has_room(const struct budget *b, size_t bytes)
{
	for (const struct quota *q = b ? b->memory : NULL; q; q = q->above)
		if (quota_room(q) < bytes)
			return false;
	return true;
}
