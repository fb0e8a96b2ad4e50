/*
 * trust: whose certificates are taken: the CAs of one PEM file, less what their revocation lists
 * take back. Read once; immutable, counted, for any thread. A reload makes a new one.
 */
#ifndef RELAY_TRUST_H
#define RELAY_TRUST_H

#include <openssl/x509.h>
#include <stdbool.h>

#include "relay/identity.h"

struct trust;

/*
 * crl: a PEM file with a list of each CA in ca, or NULL: none is asked for. With it, a CA without a
 * list, or whose list is past its next update, has no good certificates (*warning then says so,
 * allocated, to be freed by the caller; else it is NULL).
 * NULL and *why: which file, why, and what to do; allocated.
 */
struct trust *trust_new(enum identity_kind kind, const char *ca, const char *crl, char **warning,
			char **why);
struct trust *trust_ref(struct trust *t);
struct trust *trust_unref(struct trust *t); /* NULL is fine; returns NULL */

/*
 * A peer's certificate, with what else it sent. NULL and *error (X509_V_ERR_...): not good for a
 * TLS client. The identity is the caller's.
 */
struct identity *trust_verify(const struct trust *t, X509 *leaf, STACK_OF(X509) *others,
			      int *error);

/*
 * Is an identity, verified by an older trust for the same purpose, still good by this one: its CA
 * is there, and nothing of its chain revoked? (Whether its time is over is identity_expires.)
 */
bool trust_holds(const struct trust *t, const struct identity *i);
/* Does its list revoke the identity, or a CA of its chain, whoever has verified it? */
bool trust_revokes(const struct trust *t, const struct identity *i);

/*
 * When the first of its CAs ends, and when the first of its revocation lists is to be replaced, in
 * seconds since 1970. UINT64_MAX: none does.
 */
uint64_t trust_expires(const struct trust *t);
uint64_t trust_next_update(const struct trust *t);

/* The names of the CAs, for a server to tell its clients; the caller's. NULL: out of memory. */
STACK_OF(X509_NAME) *trust_names(const struct trust *t);

#endif
