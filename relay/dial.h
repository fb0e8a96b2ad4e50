/*
 * dial: from an address to a connected conduit, without blocking the loop.
 *
 * Names are resolved by evdns, anew for each dial, by what /etc/hosts and resolv.conf say by then
 * (relay/resolver.h): no answer is kept. All addresses are tried in the order of
 * RFC 8305 (families alternate, IPv6 first, DIAL_STAGGER_MS apart); the first to connect wins.
 */
#ifndef RELAY_DIAL_H
#define RELAY_DIAL_H

#include <stdint.h>

#include "config/address.h"
#include "relay/reason.h"

#define DIAL_STAGGER_MS 250   /* RFC 8305 section 5 */
#define DIAL_ADDRESSES_MAX 16 /* of one name; more are left out */

struct conduit;
struct worker;
struct dial;

/*
 * done is called exactly once, later, from the loop: with a plain conduit the callee owns from
 * then on, or NULL, the reason, and a line for people that names the address (valid during the
 * call). REASON_NO_MEMORY: what ran out is this machine's, descriptors among it; the target has not
 * been asked. address must stay valid until then.
 */
typedef void dial_done(void *user, struct conduit *c, enum reason why, const char *detail);

/* NULL: out of memory, done will not be called. */
struct dial *dial_start(struct worker *w, const struct address *address, uint64_t timeout_ms,
			dial_done *done, void *user);
void dial_cancel(struct dial *d); /* done will not be called; NULL is fine */

#endif
