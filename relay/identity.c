/*
 * identity: the names in a verified certificate, and what is kept of its chain.
 *
 * Theory of operation: made once, when a chain was verified; then only read. Names are kept as one
 * text each, in the form that configs have, so that comparing is comparing texts. Whatever could be
 * read in two ways (a NUL inside, a separator, another alphabet) is no name here: it gives no
 * right. Of a certificate's subject nothing is kept: the common name is no name (RFC 6125).
 */
#include "relay/identity.h"

#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct identity {
	atomic_uint refs;
	enum identity_kind kind;
	uint64_t expires;
	char serial[IDENTITY_SERIAL_TEXT];
	unsigned n_names, n_chain;
	struct identity_link chain[IDENTITY_CHAIN_MAX];
	const char *name[IDENTITY_NAMES_MAX]; /* in names */
	char names[IDENTITY_TEXT_MAX];        /* each with its NUL */
	char text[IDENTITY_TEXT_MAX];
};

bool identity_digest_serial(const X509_NAME *issuer, const ASN1_INTEGER *serial,
			    uint8_t out[IDENTITY_DIGEST])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	int hashed;
	/*
	 * Of the name's canonical form, as X509_NAME_cmp compares: a list may spell it by other
	 * bytes. Only 32 bits, so another issuer's serial may seem to be this one's: one more to
	 * shake hands again, and none that stays.
	 */
	const unsigned long name = X509_NAME_hash_ex(issuer, NULL, NULL, &hashed);
	bool good = md && hashed && EVP_DigestInit_ex(md, EVP_sha256(), NULL) &&
		    EVP_DigestUpdate(md, &name, sizeof(name)) &&
		    EVP_DigestUpdate(md, ASN1_STRING_get0_data(serial),
				     (size_t)ASN1_STRING_length(serial)) &&
		    EVP_DigestFinal_ex(md, out, NULL);

	EVP_MD_CTX_free(md);
	return good;
}

static bool keep_link(struct identity *i, X509 *certificate)
{
	struct identity_link *link = &i->chain[i->n_chain++];
	const ASN1_TIME *end = X509_get0_notAfter(certificate);
	struct tm tm;
	uint64_t at;

	if (!ASN1_TIME_to_tm(end, &tm))
		return false;
	at = timegm(&tm) > 0 ? (uint64_t)timegm(&tm) : 0;
	if (at < i->expires)
		i->expires = at;
	return identity_digest_serial(X509_get_issuer_name(certificate),
				      X509_get0_serialNumber(certificate), link->serial) &&
	       X509_digest(certificate, EVP_sha256(), link->whole, NULL);
}

/* prefix and text as one name, if it is a plain one and there is room. */
static void keep_name(struct identity *i, const char *prefix, const ASN1_STRING *text, size_t *used,
		      size_t *said)
{
	const unsigned char *at = ASN1_STRING_get0_data(text);
	size_t len = (size_t)ASN1_STRING_length(text), prefix_len = strlen(prefix);
	bool dns = strcmp(prefix, "dns:") == 0;
	char *to = i->names + *used;

	if (i->n_names == IDENTITY_NAMES_MAX || !len ||
	    *used + prefix_len + len + 1 > sizeof(i->names) ||
	    *said + 1 + prefix_len + len + 1 > sizeof(i->text))
		return;
	for (size_t n = 0; n < len; n++)
		if (at[n] <= ' ' || at[n] >= 0x7f || at[n] == ',')
			return;
	memcpy(to, prefix, prefix_len);
	for (size_t n = 0; n < len; n++)
		to[prefix_len + n] =
			(char)(dns && at[n] >= 'A' && at[n] <= 'Z' ? at[n] + 32 : at[n]);
	to[prefix_len + len] = '\0';
	i->name[i->n_names++] = to;
	*used += prefix_len + len + 1;
	if (*said)
		i->text[(*said)++] = ',';
	memcpy(i->text + *said, to, prefix_len + len + 1);
	*said += prefix_len + len;
}

static void keep_names(struct identity *i, X509 *leaf)
{
	GENERAL_NAMES *all = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	size_t used = 0, said = 0;

	for (int n = 0; all && n < sk_GENERAL_NAME_num(all); n++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, n);

		if (name->type == GEN_DNS)
			keep_name(i, "dns:", name->d.dNSName, &used, &said);
		else if (name->type == GEN_URI)
			keep_name(i, "uri:", name->d.uniformResourceIdentifier, &used, &said);
		else if (name->type == GEN_EMAIL)
			keep_name(i, "email:", name->d.rfc822Name, &used, &said);
	}
	GENERAL_NAMES_free(all);
}

static void keep_serial(struct identity *i, X509 *leaf)
{
	unsigned char bytes[(sizeof(i->serial) - 1) / 2];
	BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(leaf), NULL);

	if (n && BN_bn2binpad(n, bytes, sizeof(bytes)) == sizeof(bytes))
		for (size_t k = 0; k < sizeof(bytes); k++)
			sprintf(i->serial + 2 * k, "%02x", bytes[k]);
	BN_free(n);
}

struct identity *identity_new(enum identity_kind kind, STACK_OF(X509) * chain)
{
	int n = sk_X509_num(chain);
	struct identity *i;

	if (n < 1 || n > IDENTITY_CHAIN_MAX)
		return NULL;
	i = calloc(1, sizeof(*i));
	if (!i)
		return NULL;
	atomic_init(&i->refs, 1);
	i->kind = kind;
	i->expires = UINT64_MAX;
	for (int k = 0; k < n; k++)
		if (!keep_link(i, sk_X509_value(chain, k)))
			return identity_unref(i);
	keep_serial(i, sk_X509_value(chain, 0));
	keep_names(i, sk_X509_value(chain, 0));
	return i;
}

struct identity *identity_ref(struct identity *i)
{
	if (i)
		atomic_fetch_add_explicit(&i->refs, 1, memory_order_relaxed);
	return i;
}

struct identity *identity_unref(struct identity *i)
{
	if (i && atomic_fetch_sub_explicit(&i->refs, 1, memory_order_acq_rel) == 1)
		free(i);
	return NULL;
}

enum identity_kind identity_kind(const struct identity *i)
{
	return i->kind;
}

uint64_t identity_expires(const struct identity *i)
{
	return i->expires;
}

unsigned identity_names(const struct identity *i)
{
	return i->n_names;
}

const char *identity_name(const struct identity *i, unsigned n)
{
	return i->name[n];
}

const char *identity_text(const struct identity *i)
{
	return i->text;
}

int identity_compare(const char *a, const char *b)
{
	bool dns = strncmp(a, "dns:", 4) == 0 && strncmp(b, "dns:", 4) == 0;

	return dns ? strcasecmp(a, b) : strcmp(a, b);
}

bool identity_is(const struct identity *i, const char *name)
{
	for (unsigned n = 0; i && n < i->n_names; n++)
		if (identity_compare(i->name[n], name) == 0)
			return true;
	return false;
}

const char *identity_serial(const struct identity *i)
{
	return i->serial;
}

unsigned identity_chain(const struct identity *i)
{
	return i->n_chain;
}

const struct identity_link *identity_link(const struct identity *i, unsigned n)
{
	return &i->chain[n];
}
