/* opening_log: what is said, counted and recorded of streams: each refusal and each end, once. */
#ifndef RELAY_OPENING_LOG_H
#define RELAY_OPENING_LOG_H

#include <stdint.h>

#include "config/config.h"
#include "relay/reason.h"

struct client;
struct conduit;
struct gateway_worker;
struct opening;
struct worker;

const char *opening_log_door(enum door door);

/* An attempt that ended before it was an opening. wanted: what it asked for, or "". */
void opening_log_refused(struct worker *w, const char *listener, const struct client *who,
			 const char *wanted, enum reason why, const char *detail);
/* The same of one that left before it said anything worth a line, as health checks do. */
void opening_log_vanished(struct worker *w, const char *listener, const struct client *who,
			  enum reason why);

/* For opening.c. An opening that was refused, or whose splice is over. */
void opening_log_end(const struct opening *o, enum reason why, uint64_t up, uint64_t down);
/* It is joined: in a minute, or what the config says, a record tells that it goes on. */
void opening_log_joined(struct opening *o, const struct conduit *target);

/* Streams may be recorded to last sooner or later than before, or at all. */
void opening_log_reloaded(struct gateway_worker *gw);

#endif
