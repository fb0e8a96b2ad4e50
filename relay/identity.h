/*
 * identity: who a peer's certificate says it is, once that was verified.
 *
 * Immutable, counted, for any thread. It remembers enough of the chain to be asked again after a
 * reload whether it still holds (relay/trust.h), without its certificates.
 */
#ifndef RELAY_IDENTITY_H
#define RELAY_IDENTITY_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

#define IDENTITY_NAMES_MAX 16   /* further names in a certificate are not looked at */
#define IDENTITY_CHAIN_MAX 8    /* certificates in a chain, the CA's own included */
#define IDENTITY_DIGEST 32      /* SHA-256 */
#define IDENTITY_SERIAL_TEXT 33 /* 128 bits in lower-case hex, and a NUL */
/* All names with a comma between two. Those that do not fit are left out. */
#define IDENTITY_TEXT_MAX 1024

/* What the certificate is good for: the CAs of the two are never taken for each other. */
enum identity_kind {
	IDENTITY_CLIENT, /* of a listener's client_ca */
	IDENTITY_OWNER,  /* of the relay's own CA for owners */
};

struct identity;

/*
 * chain: as verified, the peer's own certificate first and the CA's last. NULL: out of memory, or
 * the chain is longer than IDENTITY_CHAIN_MAX.
 */
struct identity *identity_new(enum identity_kind kind, STACK_OF(X509) * chain);
struct identity *identity_ref(struct identity *i);   /* NULL is fine */
struct identity *identity_unref(struct identity *i); /* NULL is fine; returns NULL */

enum identity_kind identity_kind(const struct identity *i);
/* Seconds since 1970: the first of the chain to end. */
uint64_t identity_expires(const struct identity *i);

/*
 * Its subject alternative names, as configs write them: "dns:" in lower case, "uri:", "email:".
 * Never one with a space, a comma, a NUL, a control or non-ASCII character: such are left out.
 */
unsigned identity_names(const struct identity *i);
const char *identity_name(const struct identity *i, unsigned n);
/* All of them with a comma between two; "": none. Lives as long as i. */
const char *identity_text(const struct identity *i);
/* The order of names, as strcmp; of DNS names, case does not count. */
int identity_compare(const char *a, const char *b);
/* name as a config has it; its "dns:" may be in any case. NULL for i: false. */
bool identity_is(const struct identity *i, const char *name);

/* Of each certificate in the chain: who issued it under which serial number, digested; and itself.
 */
struct identity_link {
	uint8_t serial[IDENTITY_DIGEST];
	uint8_t whole[IDENTITY_DIGEST];
};
/* The certificate's own, as relay/authority writes it; "": longer than 128 bits. */
const char *identity_serial(const struct identity *i);
unsigned identity_chain(const struct identity *i);
const struct identity_link *identity_link(const struct identity *i, unsigned n);
/* The same digest of an entry in a revocation list. False: libcrypto could not. */
bool identity_digest_serial(const X509_NAME *issuer, const ASN1_INTEGER *serial,
			    uint8_t out[IDENTITY_DIGEST]);

#endif
