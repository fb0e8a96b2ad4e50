/*
 * credentials: whose a tunnel is, by what its agent has shown. Made from a config, which it keeps a
 * reference to; then only read, by any thread.
 */
#ifndef RELAY_CREDENTIALS_H
#define RELAY_CREDENTIALS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/authority.h"
#include "relay/token.h"

struct credentials;
struct identity;

/*
 * In a certificate of the relay's own CA for owners, this and the owner's name as a URI say whose
 * it is.
 */
#define CREDENTIALS_OWNER_URI "uri:" AUTHORITY_OWNER_URI

/* What was found. */
struct credential {
	const struct owner_config *owner; /* lives as long as the config */
	const char *label;		  /* for logs; "": none */
	uint64_t expires;		  /* seconds since 1970; UINT64_MAX: never */
};

struct credentials *credentials_new(struct relay_config *c); /* NULL: out of memory */
struct credentials *credentials_free(struct credentials *c); /* NULL is fine */

/*
 * False: nobody's. One that is expired is found as well: expires says so. By identity: the first
 * of its names that is an owner's.
 */
bool credentials_by_token(const struct credentials *c, const uint8_t hash[TOKEN_HASH_BYTES],
			  struct credential *out);
bool credentials_by_identity(const struct credentials *c, const struct identity *i,
			     struct credential *out);

/* May the owner's tunnels offer this service (one label, any case)? */
bool credentials_may_offer(const struct owner_config *owner, const char *service);

#endif
