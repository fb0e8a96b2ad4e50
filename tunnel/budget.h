/*
 * budget: whose memory the bytes are that a session and its streams hold unread.
 *
 * One for a session, shared with those of its streams that outlive it with bytes unread. Thread:
 * the session's worker; the quota behind it is for any. NULL, for sessions of those who count
 * nothing, has no bound: the session's own window is bound enough.
 */
#ifndef TUNNEL_BUDGET_H
#define TUNNEL_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

struct budget;
struct quota;

/* put(memory) is called when nothing of it is held any more. NULL: out of memory; it is not. */
struct budget *budget_new(struct quota *memory, void (*put)(struct quota *memory));
struct budget *budget_hold(struct budget *b);
void budget_drop(struct budget *b);

bool budget_take(struct budget *b, size_t bytes) __attribute__((warn_unused_result));
void budget_charge(struct budget *b, size_t bytes); /* even if there is none left */
void budget_give(struct budget *b, size_t bytes);

/*
 * What the session keeps for a peer that takes nothing: so much now. It counts as what streams keep
 * on their way does (quota_room), and is 0 before the session drops the budget.
 */
void budget_keep(struct budget *b, size_t bytes);
bool budget_has_room(const struct budget *b, size_t bytes);

#endif
