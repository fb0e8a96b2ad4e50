/*
 * tenants: everybody who has limits, and what a client's stream takes of theirs.
 *
 * All together, each source address, each owner and each entry of clients. Limits are those of the
 * config that was applied last; what is taken stays taken when they change.
 *
 * Thread: those before struct claim are for one thread; the rest for any.
 */
#ifndef RELAY_TENANTS_H
#define RELAY_TENANTS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/quota.h"
#include "relay/reason.h"
#include "relay/source.h"

struct tenants {
	struct quota_limits all_limits, source_limits, owner_limits, client_limits;
	struct quota all; /* handshakes, parked streams, memory */
	struct sources *sources;
	struct quotas *owners, *clients; /* by name */
	struct quota_entry **held;       /* those of the config, each once, so that they stay */
	size_t n_held;
	uint64_t prepared;           /* configs, so far */
	struct relay_config *config; /* a reference: penalties.exempt is in it */
};

/* What another config is to hold; zeroed before. */
struct tenants_next {
	struct quota_entry **held;
	size_t n_held;
};

/* user: for sources_user. False: out of memory, or no randomness. */
bool tenants_init(struct tenants *t, struct relay_config *config, void *user);
/* All that may fail of applying it. False: out of memory; cancel is due. Nothing changes yet. */
bool tenants_prepare(struct tenants *t, const struct relay_config *config,
		     struct tenants_next *next);
void tenants_cancel(struct tenants_next *next); /* zeroed, or applied, is fine */
/* From now on the limits are those of this config, of which next was prepared. */
void tenants_apply(struct tenants *t, struct relay_config *config, struct tenants_next *next);
void tenants_deinit(struct tenants *t); /* zeroed is fine */

/* What one stream has of its owner, source and client, beside its place in a connection. */
struct claim {
	struct tenants *tenants;
	struct source *source; /* its connection's, which holds it for longer */
	struct quota_entry *owner, *client;
	bool streams, parked; /* these have been taken */
};

/*
 * One more stream to service (SERVICE.OWNER). client: the entry of clients it is let in by, or
 * NULL. REASON_NONE, or why not, with the setting that says so in *setting: nothing is held then.
 */
enum reason claim_stream(struct claim *c, struct tenants *t, struct source *source,
			 const char *service, const char *client, uint64_t now,
			 const char **setting);
void claim_end(struct claim *c); /* twice is fine */
/*
 * One that is refused before it could be claimed counts among those its source opens in a second:
 * why, as it was given, or RATE_LIMIT, with the setting. So nobody guesses names faster than that.
 */
enum reason claim_in_vain(struct source *source, uint64_t now, enum reason why,
			  const char **setting);

/* The same of waiting for a tunnel, between the two. */
enum reason claim_park(struct claim *c, const char **setting);
void claim_unpark(struct claim *c); /* not parked: nothing */

/* Is there a limit to its bytes in a second? Without, neither of these needs to be asked. */
bool claim_has_rate(const struct claim *c);
/* Bytes that may pass now; 0: it is worth asking again in *wait ms. */
uint64_t claim_may_pass(const struct claim *c, uint64_t now, uint64_t *wait);
void claim_pass(struct claim *c, uint64_t bytes, uint64_t now);

/*
 * Memory for its bytes on their way: how much more it may keep now, by a look that binds nobody (so
 * each thread may take it once); and so much more, or less, is kept.
 */
uint64_t claim_room(const struct claim *c);
void claim_keep(const struct claim *c, int64_t change);
/*
 * For memory that may stay when the stream is over: a claim on the same tenants that holds neither
 * stream nor place, allocated. NULL: out of memory. unshare returns the source, which was the
 * caller's all the time.
 */
struct claim *claim_share(const struct claim *c);
struct source *claim_unshare(struct claim *c);

/* The quota of an owner, by name. NULL: out of memory. The caller's until quotas_put. */
struct quota_entry *tenants_owner(struct tenants *t, const char *name);

#endif
