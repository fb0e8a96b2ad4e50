/*
 * renewal: another certificate for who shows one that the relay's own CA has signed.
 *
 * Plain blocking calls on small local files, as relay/codes. Any number of threads and processes.
 */
#ifndef RELAY_RENEWAL_H
#define RELAY_RENEWAL_H

#include <stdbool.h>

#include "relay/codes.h"
#include "relay/reason.h"

struct identity;
struct settings;

/* So many of an owner in an hour, and as many saved: its agents, not what somebody may stock. */
#define RENEWALS_PER_HOUR 100

/*
 * Whose it is, with the label that is on record. False: it is no certificate of the relay's own CA
 * of an owner that there still is.
 */
bool renewal_of(const struct settings *s, const struct identity *i, struct codes_grant *out);

/*
 * Is it good by the list of revoked ones as it is on the disk now, and does that stay so? *lock
 * keeps it from being changed until renewal_end, so that what is recorded meanwhile is seen by who
 * revokes next. REASON_NONE; REVOKED; LIMIT: somebody revokes just now; INTERNAL: it was logged.
 */
enum reason renewal_begin(const struct settings *s, const struct identity *i, int *lock);
void renewal_end(int lock); /* -1 is fine */

#endif
