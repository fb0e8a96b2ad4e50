/*
 * named: the services that a config names, in its table or for a listener, each once; and since
 * when it does.
 *
 * Agents need a while to come, after the relay's start as after a service was put into the config:
 * until then it is awaited, and nobody need be told that it is down. Thread: the main one.
 */
#ifndef RELAY_NAMED_H
#define RELAY_NAMED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct relay_config;

#define NAMED_AWAITED_S 30 /* no agent waits longer between two attempts */

struct named_service {
	const char *name; /* the config's */
	uint64_t since;   /* settings_now */
	bool met;         /* it could be reached when somebody looked: awaited no more */
};

struct named {
	size_t n;
	struct named_service at[]; /* by name */
};

/* before: of the config that this one replaces, or NULL. NULL: out of memory. */
struct named *named_new(const struct relay_config *c, const struct named *before, uint64_t now);
void named_free(struct named *n); /* NULL is fine */

bool named_is_awaited(const struct named_service *s, uint64_t now);

#endif
