/*
 * authority_list: the list of certificates that the CA for owners has taken back (a CRL).
 *
 * Theory of operation: the list is its own record. A new one is the old one, whose signature is
 * verified first, with more in it and a number that is one higher; entries keep their date. It has
 * no end: it is fetched from nowhere, so one would only stop a relay that nobody has touched for
 * long, or whose CA has been renewed since, and nothing is good without a CA that is.
 *
 * Beside it lies a mark that says there was one, made after it: so a list that is lost is told from
 * one that never was, and what was revoked does not become good again by a file that is missing.
 */
#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/config.h"
#include "relay/atomic_file.h"
#include "relay/authority.h"
#include "relay/authority_private.h"
#include "relay/why.h"

#define FOR_EVER "99991231235959Z" /* RFC 5280, 4.1.2.5 */

/* NULL: *why. */
static X509_CRL *read_list(const struct authority *a, const char *crl, size_t len, char **why)
{
	BIO *in = BIO_new_mem_buf(crl, (int)len);
	X509_CRL *list = in ? PEM_read_bio_X509_CRL(in, NULL, authority_no_password, NULL) : NULL;

	BIO_free(in);
	if (!list)
		why_say(why, "it is no list of revoked certificates in PEM: %s",
			why_openssl("unknown reason"));
	else if (X509_CRL_verify(list, a->key) != 1)
		why_say(why, "it is not by this CA; if the CA was replaced, so that what "
			     "the old one signed is worth nothing any more, move it away, and "
			     "its mark, crl.pem.made, as well");
	else
		return list;
	X509_CRL_free(list);
	ERR_clear_error();
	return NULL;
}

static bool serial_text(const ASN1_INTEGER *serial, char out[AUTHORITY_SERIAL_TEXT])
{
	unsigned char bytes[(AUTHORITY_SERIAL_TEXT - 1) / 2];
	BIGNUM *n = ASN1_INTEGER_to_BN(serial, NULL);
	bool good = n && BN_bn2binpad(n, bytes, sizeof(bytes)) == sizeof(bytes);

	BN_free(n);
	for (size_t i = 0; good && i < sizeof(bytes); i++)
		sprintf(out + 2 * i, "%02x", bytes[i]);
	return good;
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

int authority_revoked(const struct authority *a, const char *crl, size_t len,
		      struct authority_revoked *out, char **why)
{
	struct authority_revoked r = { 0 };
	STACK_OF(X509_REVOKED) * all;
	X509_CRL *list;
	int count;

	*why = NULL;
	*out = r;
	if (!crl)
		return 0;
	ERR_clear_error();
	list = read_list(a, crl, len, why);
	if (!list)
		return -EINVAL;
	all = X509_CRL_get_REVOKED(list);
	count = all ? sk_X509_REVOKED_num(all) : 0;
	r.serials = calloc((size_t)count + 1, sizeof(*r.serials));
	for (int i = 0; r.serials && i < count; i++)
		if (serial_text(X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(all, i)),
				r.serials[r.n]))
			r.n++; /* a longer one is none of ours */
	X509_CRL_free(list);
	if (!r.serials)
		return -ENOMEM;
	qsort(r.serials, r.n, sizeof(*r.serials), compare);
	*out = r;
	return 0;
}

bool authority_is_revoked(const struct authority_revoked *r, const char *serial)
{
	return r->n && bsearch(serial, r->serials, r->n, sizeof(*r->serials), compare);
}

/* ---- making one ---- */

/* Takes over what the old one has. */
static bool copy_entries(X509_CRL *to, X509_CRL *from)
{
	STACK_OF(X509_REVOKED) *all = X509_CRL_get_REVOKED(from);

	for (int i = 0; all && i < sk_X509_REVOKED_num(all); i++) {
		X509_REVOKED *entry = X509_REVOKED_dup(sk_X509_REVOKED_value(all, i));

		if (!entry || !X509_CRL_add0_revoked(to, entry)) {
			X509_REVOKED_free(entry);
			return false;
		}
	}
	return true;
}

static bool add_entry(X509_CRL *to, const char *serial, const ASN1_TIME *date)
{
	X509_REVOKED *entry = X509_REVOKED_new();
	ASN1_INTEGER *number = NULL;
	BIGNUM *n = NULL;
	bool good = entry && BN_hex2bn(&n, serial) && (number = BN_to_ASN1_INTEGER(n, NULL)) &&
		    X509_REVOKED_set_serialNumber(entry, number) &&
		    X509_REVOKED_set_revocationDate(entry, (ASN1_TIME *)(uintptr_t)date) &&
		    X509_CRL_add0_revoked(to, entry);

	BN_free(n);
	ASN1_INTEGER_free(number);
	if (!good)
		X509_REVOKED_free(entry);
	return good;
}

static bool set_number(X509_CRL *to, X509_CRL *from)
{
	ASN1_INTEGER *last = from ? X509_CRL_get_ext_d2i(from, NID_crl_number, NULL, NULL) : NULL;
	ASN1_INTEGER *next = ASN1_INTEGER_new();
	bool good = next && ASN1_INTEGER_set(next, last ? ASN1_INTEGER_get(last) + 1 : 1) &&
		    X509_CRL_add1_ext_i2d(to, NID_crl_number, next, 0, 0) == 1;

	ASN1_INTEGER_free(last);
	ASN1_INTEGER_free(next);
	return good;
}

static bool set_issuer(const struct authority *a, X509_CRL *to)
{
	X509_EXTENSION *e;
	X509V3_CTX context;
	bool good;

	X509V3_set_ctx(&context, a->certificate, NULL, NULL, to, 0);
	e = X509V3_EXT_conf_nid(NULL, &context, NID_authority_key_identifier, "keyid,issuer");
	good = e && X509_CRL_add_ext(to, e, -1) &&
	       X509_CRL_set_issuer_name(to, X509_get_subject_name(a->certificate));
	X509_EXTENSION_free(e);
	return good;
}

/* Signed; NULL: libcrypto would not. */
static X509_CRL *make(const struct authority *a, X509_CRL *old,
		      const char (*serials)[AUTHORITY_SERIAL_TEXT], size_t n, int64_t now)
{
	ASN1_TIME *date = ASN1_TIME_set(NULL, now);
	ASN1_TIME *from = ASN1_TIME_set(NULL, now - AUTHORITY_EARLY), *to = ASN1_TIME_new();
	X509_CRL *list = X509_CRL_new();
	bool good = date && from && to && list && ASN1_TIME_set_string(to, FOR_EVER) &&
		    X509_CRL_set_version(list, X509_CRL_VERSION_2) && set_issuer(a, list) &&
		    X509_CRL_set1_lastUpdate(list, from) && X509_CRL_set1_nextUpdate(list, to) &&
		    set_number(list, old) && (!old || copy_entries(list, old));

	for (size_t i = 0; good && i < n; i++)
		good = add_entry(list, serials[i], date);
	good = good && X509_CRL_sort(list) && X509_CRL_sign(list, a->key, authority_digest(a->key));
	ASN1_TIME_free(date);
	ASN1_TIME_free(from);
	ASN1_TIME_free(to);
	if (good)
		return list;
	X509_CRL_free(list);
	return NULL;
}

/* Those of serials that are not in the list yet, each once; moved to the front of to. */
static size_t pick_new(const struct authority_revoked *have,
		       const char (*serials)[AUTHORITY_SERIAL_TEXT], size_t n,
		       char (*to)[AUTHORITY_SERIAL_TEXT])
{
	size_t picked = 0;

	memcpy(to, serials, n * sizeof(*to));
	qsort(to, n, sizeof(*to), compare);
	for (size_t i = 0; i < n; i++) {
		if (authority_is_revoked(have, to[i]) || (picked && !strcmp(to[picked - 1], to[i])))
			continue;
		if (picked < i)
			memcpy(to[picked], to[i], sizeof(*to));
		picked++;
	}
	return picked;
}

/* The text of the list with the new ones; NULL: *why. */
static char *with_new(const struct authority *a, X509_CRL *old,
		      const char (*serials)[AUTHORITY_SERIAL_TEXT], size_t n, int64_t now,
		      char **why)
{
	X509_CRL *list = make(a, old, serials, n, now);
	BIO *pem = BIO_new(BIO_s_mem());
	char *text = NULL;

	if (list && pem && PEM_write_bio_X509_CRL(pem, list))
		text = authority_text(pem, NULL);
	else
		BIO_free(pem);
	if (!text)
		why_say(why, "libcrypto cannot make the list: %s", why_openssl("unknown reason"));
	X509_CRL_free(list);
	return text;
}

char *authority_revoke(const struct authority *a, const char *crl, size_t len,
		       const char (*serials)[AUTHORITY_SERIAL_TEXT], size_t n, int64_t now,
		       char **why)
{
	struct authority_revoked have;
	char(*added)[AUTHORITY_SERIAL_TEXT] = calloc(n + 1, sizeof(*added)), *text = NULL;
	X509_CRL *old = NULL;

	*why = NULL;
	if (!added || authority_revoked(a, crl, len, &have, why) < 0) {
		free(added);
		return NULL;
	}
	n = pick_new(&have, serials, n, added);
	if (have.n + n > AUTHORITY_REVOKED_MAX)
		why_say(why, "it would hold more than %d certificates; replace the CA",
			AUTHORITY_REVOKED_MAX);
	else if (!crl || (old = read_list(a, crl, len, why)))
		text = with_new(a, old, (const char(*)[AUTHORITY_SERIAL_TEXT])added, n, now, why);
	X509_CRL_free(old);
	free(have.serials);
	free(added);
	ERR_clear_error();
	return text;
}

/* ---- names ---- */

bool authority_serial(const char *text, char out[AUTHORITY_SERIAL_TEXT])
{
	char serial[AUTHORITY_SERIAL_TEXT];
	size_t n = 0;

	for (; *text; text++) {
		if (*text == ':')
			continue;
		if (!isxdigit((unsigned char)*text) || n == AUTHORITY_SERIAL_TEXT - 1)
			return false;
		serial[n++] = (char)tolower((unsigned char)*text);
	}
	if (!n)
		return false;
	memset(out, '0', AUTHORITY_SERIAL_TEXT - 1 - n); /* openssl leaves leading zeros out */
	memcpy(out + AUTHORITY_SERIAL_TEXT - 1 - n, serial, n);
	out[AUTHORITY_SERIAL_TEXT - 1] = '\0';
	return true;
}

char *authority_crl_path(const struct relay_config *c)
{
	char *path;

	if (!c->enrolment.ca || asprintf(&path, "%s/crl.pem", c->enrolment.folder) < 0)
		return NULL;
	return path;
}

/* Not access(2), which goes without capabilities. What cannot be told is there: fail closed. */
static bool is_there(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 || errno != ENOENT;
}

static char *mark_path(const char *crl)
{
	char *path;

	return asprintf(&path, "%s.made", crl) < 0 ? NULL : path;
}

int authority_crl_look(const char *crl, char **why)
{
	char *mark = mark_path(crl);
	int r = !mark ? -ENOMEM : is_there(crl) ? 1 : is_there(mark) ? -ENOENT : 0;

	*why = NULL;
	if (r == -ENOENT)
		why_say(why,
			"the revocation list %s is gone, and with it what was revoked: put it "
			"back; or, if the CA was replaced since, so that nothing of the old one "
			"is good, remove %s",
			crl, mark);
	free(mark);
	return r;
}

int authority_crl_mark(const char *crl)
{
	static const char text[] = "There is a list of revoked certificates beside this file, and "
				   "without it nothing goes.\n";
	char *mark = mark_path(crl);
	int r = mark ? 0 : -ENOMEM;

	if (mark && !is_there(mark))
		r = atomic_file_write(mark, text, sizeof(text) - 1, 0600, ATOMIC_FILE_SYNC);
	free(mark);
	return r;
}
