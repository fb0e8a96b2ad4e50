/*
 * trust: CAs and their revocation lists.
 *
 * Theory of operation: an X509_STORE verifies at the handshake. For what was verified before, two
 * sorted lists of digests are kept beside it: of the CAs' certificates, and of all that is revoked.
 * So a reload can look at thousands of live identities without verifying a chain again.
 *
 * Limits: a file is read whole at load; lists as long as it.
 */
#include "relay/trust.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "relay/why.h"

#define AUTH_LEVEL 2 /* OpenSSL's: keys and signatures of 112 bits of security at least */

struct digests {
	uint8_t (*at)[IDENTITY_DIGEST];
	size_t n, size;
};

struct trust {
	atomic_uint refs;
	enum identity_kind kind;
	X509_STORE *store;
	STACK_OF(X509_NAME) * names;
	struct digests anchors, revoked;
	uint64_t expires, next_update; /* the first of its CAs, the first of its lists */
};

/* ---- digests ---- */

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, IDENTITY_DIGEST);
}

/* Room for one more; NULL: out of memory. */
static uint8_t *digest_add(struct digests *d)
{
	if (d->n == d->size) {
		size_t size = d->size ? d->size * 2 : 16;
		void *at = reallocarray(d->at, size, IDENTITY_DIGEST);

		if (!at)
			return NULL;
		d->at = at;
		d->size = size;
	}
	return d->at[d->n++];
}

static bool has(const struct digests *d, const uint8_t *digest)
{
	return d->n && bsearch(digest, d->at, d->n, IDENTITY_DIGEST, compare);
}

/* ---- reading ---- */

/* Lowers *first to this time, in seconds since 1970. */
static void note_time(uint64_t *first, const ASN1_TIME *t)
{
	struct tm tm;
	time_t at;

	if (ASN1_TIME_to_tm(t, &tm) != 1)
		return;
	at = timegm(&tm) > 0 ? timegm(&tm) : 0;
	if ((uint64_t)at < *first)
		*first = (uint64_t)at;
}

static bool add_ca(struct trust *t, X509 *ca)
{
	uint8_t *digest = digest_add(&t->anchors);
	X509_NAME *name = digest && X509_digest(ca, EVP_sha256(), digest, NULL)
				  ? X509_NAME_dup(X509_get_subject_name(ca))
				  : NULL;

	if (!name || !sk_X509_NAME_push(t->names, name)) {
		X509_NAME_free(name);
		return false;
	}
	note_time(&t->expires, X509_get0_notAfter(ca));
	/* its extensions are read here, once, and not by the first workers to meet it */
	return X509_check_purpose(ca, -1, 0) == 1 && X509_STORE_add_cert(t->store, ca) == 1;
}

static bool add_crl(struct trust *t, X509_CRL *crl)
{
	STACK_OF(X509_REVOKED) *all = X509_CRL_get_REVOKED(crl);

	for (int i = 0; i < sk_X509_REVOKED_num(all); i++) {
		uint8_t *digest = digest_add(&t->revoked);

		if (!digest ||
		    !identity_digest_serial(
			    X509_CRL_get_issuer(crl),
			    X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(all, i)), digest))
			return false;
	}
	return X509_STORE_add_crl(t->store, crl) == 1;
}

/* Every entry of a PEM file; what is neither is passed over. NULL and *why. */
static STACK_OF(X509_INFO) * read_pem(const char *what, const char *path, char **why)
{
	STACK_OF(X509_INFO) *all = NULL;
	FILE *f = fopen(path, "re");

	ERR_clear_error();
	if (!f) {
		why_say(why, "cannot read %s %s: %s", what, path, strerror(errno));
		return NULL;
	}
	all = PEM_X509_INFO_read(f, NULL, NULL, NULL);
	if (!all)
		why_say(why, "%s %s cannot be used: %s; it must be PEM", what, path,
			why_openssl("it holds none"));
	fclose(f);
	return all;
}

static bool read_cas(struct trust *t, const char *path, char **why)
{
	STACK_OF(X509_INFO) *all = read_pem("the client CA file", path, why);
	bool good = all, root = false; /* what a chain can end in, for OpenSSL */

	for (int i = 0; good && i < sk_X509_INFO_num(all); i++) {
		X509 *ca = sk_X509_INFO_value(all, i)->x509;

		if (!ca)
			continue;
		good = add_ca(t, ca);
		root |= X509_get_extension_flags(ca) & EXFLAG_SS;
	}
	if (good && t->anchors.n && !root) {
		why_say(why,
			"the client CA file %s cannot be used: there is no CA that signs itself in "
			"it, only such as are below another; add the one above them all",
			path);
		good = false;
	} else if (all && (!good || !t->anchors.n)) {
		why_say(why,
			"the client CA file %s cannot be used: %s; it must hold the certificate of "
			"a CA in PEM",
			path, good ? "there is none in it" : why_openssl("it holds none"));
		good = false;
	}
	sk_X509_INFO_pop_free(all, X509_INFO_free);
	return good;
}

/* A CA whose name is in no list: OpenSSL will say that of each of its certificates. */
static void warn_of_missing(const struct trust *t, const STACK_OF(X509_INFO) * lists,
			    const char *path, char **warning)
{
	for (int n = 0; !*warning && n < sk_X509_NAME_num(t->names); n++) {
		const X509_NAME *ca = sk_X509_NAME_value(t->names, n);
		char text[256] = "";
		bool found = false;

		for (int i = 0; !found && i < sk_X509_INFO_num(lists); i++) {
			const X509_CRL *crl = sk_X509_INFO_value(lists, i)->crl;

			found = crl && X509_NAME_cmp(X509_CRL_get_issuer(crl), ca) == 0;
		}
		X509_NAME_oneline(ca, text, sizeof(text));
		if (!found)
			why_say(warning,
				"the revocation list %s has none of the CA %s: no certificate of "
				"it is good until it has",
				path, text);
	}
}

static bool read_crls(struct trust *t, const char *path, char **warning, char **why)
{
	STACK_OF(X509_INFO) *all = read_pem("the revocation list", path, why);
	bool good = all;
	unsigned n = 0;

	for (int i = 0; good && i < sk_X509_INFO_num(all); i++) {
		X509_CRL *crl = sk_X509_INFO_value(all, i)->crl;
		const ASN1_TIME *next = crl ? X509_CRL_get0_nextUpdate(crl) : NULL;

		if (!crl)
			continue;
		n++;
		if (next)
			note_time(&t->next_update, next);
		good = add_crl(t, crl);
		if (next && X509_cmp_current_time(next) < 0 && !*warning)
			why_say(warning,
				"the revocation list %s is past its next update: no certificate of "
				"its CA is good until there is a newer one",
				path);
	}
	if (good && n)
		warn_of_missing(t, all, path, warning);
	if (all && (!good || !n)) {
		why_say(why,
			"the revocation list %s cannot be used: %s; it must hold a list (CRL) of "
			"each CA in PEM",
			path, good ? "there is none in it" : why_openssl("it holds none"));
		good = false;
	}
	sk_X509_INFO_pop_free(all, X509_INFO_free);
	return good;
}

static void sort(struct digests *d)
{
	if (d->n)
		qsort(d->at, d->n, IDENTITY_DIGEST, compare);
}

struct trust *trust_new(enum identity_kind kind, const char *ca, const char *crl, char **warning,
			char **why)
{
	struct trust *t = calloc(1, sizeof(*t));

	*warning = *why = NULL;
	if (!t)
		return NULL;
	atomic_init(&t->refs, 1);
	t->kind = kind;
	t->expires = t->next_update = UINT64_MAX;
	t->store = X509_STORE_new();
	t->names = sk_X509_NAME_new_null();
	if (!t->store || !t->names || !read_cas(t, ca, why) ||
	    (crl && !read_crls(t, crl, warning, why))) {
		free(*warning);
		*warning = NULL;
		ERR_clear_error();
		return trust_unref(t);
	}
	X509_STORE_set_flags(t->store, crl ? X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL : 0);
	X509_STORE_set_depth(t->store, IDENTITY_CHAIN_MAX - 2); /* between the two ends */
	X509_STORE_set_purpose(t->store, X509_PURPOSE_SSL_CLIENT);
	X509_VERIFY_PARAM_set_auth_level(X509_STORE_get0_param(t->store), AUTH_LEVEL);
	sort(&t->anchors);
	sort(&t->revoked);
	ERR_clear_error();
	return t;
}

struct trust *trust_ref(struct trust *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

struct trust *trust_unref(struct trust *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	X509_STORE_free(t->store);
	sk_X509_NAME_pop_free(t->names, X509_NAME_free);
	free(t->anchors.at);
	free(t->revoked.at);
	free(t);
	return NULL;
}

/* ---- asking ---- */

uint64_t trust_expires(const struct trust *t)
{
	return t->expires;
}

uint64_t trust_next_update(const struct trust *t)
{
	return t->next_update;
}

struct identity *trust_verify(const struct trust *t, X509 *leaf, STACK_OF(X509) * others,
			      int *error)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	struct identity *i = NULL;

	*error = X509_V_ERR_OUT_OF_MEM;
	if (ctx && X509_STORE_CTX_init(ctx, t->store, leaf, others) == 1) {
		if (X509_verify_cert(ctx) == 1)
			i = identity_new(t->kind, X509_STORE_CTX_get0_chain(ctx));
		else
			*error = X509_STORE_CTX_get_error(ctx);
		/* a failure that is none to OpenSSL must be one to us */
		if (!i && *error == X509_V_OK)
			*error = X509_V_ERR_UNSPECIFIED;
	}
	X509_STORE_CTX_free(ctx);
	return i;
}

bool trust_revokes(const struct trust *t, const struct identity *i)
{
	for (unsigned k = 0; k < identity_chain(i); k++)
		if (has(&t->revoked, identity_link(i, k)->serial))
			return true;
	return false;
}

bool trust_holds(const struct trust *t, const struct identity *i)
{
	unsigned n = identity_chain(i);

	return identity_kind(i) == t->kind && has(&t->anchors, identity_link(i, n - 1)->whole) &&
	       !trust_revokes(t, i);
}

STACK_OF(X509_NAME) * trust_names(const struct trust *t)
{
	return sk_X509_NAME_deep_copy(t->names, (X509_NAME * (*)(const X509_NAME *)) X509_NAME_dup,
				      X509_NAME_free);
}
