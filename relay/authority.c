/*
 * authority: the relay's own CA for owners.
 *
 * Theory of operation: a CA is read when it is needed and freed right after, so its key is in
 * memory for the milliseconds that a signature takes, and a CA that was renewed is used at once. Of
 * what a stranger wrote only the public key goes on, and only if it is of a kind and a size that
 * are cheap to verify; names and extensions of the request are not even looked at.
 */
#include "relay/authority.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "relay/authority_private.h"
#include "relay/why.h"

#define CA_DAYS 3652 /* ten years */
#define DAY_SECONDS 86400
#define RSA_MIN 2048
#define RSA_MAX 4096 /* verifying takes time */

int authority_no_password(char *buf, int size, int writing, void *arg)
{
	return -1; /* and never a prompt on somebody's terminal */
}

/* ---- the CA itself ---- */

static X509 *read_certificate(const char *path, char **why)
{
	FILE *f = fopen(path, "re");
	X509 *x;

	if (!f) {
		why_say(why, "cannot read the CA %s: %s", path, strerror(errno));
		return NULL;
	}
	x = PEM_read_X509(f, NULL, authority_no_password, NULL);
	fclose(f);
	if (!x)
		why_say(why, "the CA %s cannot be used: %s; it must be a certificate in PEM", path,
			why_openssl("unknown reason"));
	return x;
}

static EVP_PKEY *read_key(const char *path, bool *exposed, char **why)
{
	FILE *f = fopen(path, "re");
	struct stat st;
	EVP_PKEY *key;

	if (!f) {
		why_say(why, "cannot read the CA's key %s: %s", path, strerror(errno));
		return NULL;
	}
	*exposed = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & S_IROTH);
	key = PEM_read_PrivateKey(f, NULL, authority_no_password, NULL);
	fclose(f);
	if (!key)
		why_say(why,
			"the CA's key %s cannot be used: %s; it must be a PEM key without a "
			"password",
			path, why_openssl("unknown reason"));
	return key;
}

/* NULL, or what is wrong with it. */
static const char *fault_of(const struct authority *a)
{
	const uint32_t needed = KU_KEY_CERT_SIGN | KU_CRL_SIGN;

	if (X509_check_private_key(a->certificate, a->key) != 1)
		return "its key does not belong to it; put the two of one CA there";
	if (X509_check_ca(a->certificate) != 1)
		return "it is no CA's certificate (CA:TRUE is missing)";
	if (X509_get_extension_flags(a->certificate) & EXFLAG_KUSAGE &&
	    (X509_get_key_usage(a->certificate) & needed) != needed)
		return "it must not sign certificates and lists of revoked ones (its key usage)";
	if (X509_cmp_current_time(X509_get0_notBefore(a->certificate)) >= 0)
		return "it is not valid yet; is this machine's clock right?";
	if (X509_cmp_current_time(X509_get0_notAfter(a->certificate)) <= 0)
		return "it has expired; make another one";
	return NULL;
}

struct authority *authority_load(const char *certificate, const char *key, bool *exposed,
				 char **why)
{
	struct authority *a = calloc(1, sizeof(*a));
	const char *fault;

	*why = NULL;
	*exposed = false;
	if (!a)
		return NULL;
	ERR_clear_error();
	a->certificate = read_certificate(certificate, why);
	if (a->certificate)
		a->key = read_key(key, exposed, why);
	if (a->key) {
		fault = fault_of(a);
		ERR_clear_error();
		if (!fault)
			return a;
		why_say(why, "the CA %s cannot be used: %s", certificate, fault);
	}
	ERR_clear_error();
	authority_free(a);
	return NULL;
}

void authority_free(struct authority *a)
{
	if (!a)
		return;
	X509_free(a->certificate);
	EVP_PKEY_free(a->key);
	free(a);
}

/* ---- parts of certificates ---- */

char *authority_text(BIO *out, size_t *len)
{
	char *data, *text;
	long n = BIO_get_mem_data(out, &data);

	text = n >= 0 ? malloc((size_t)n + 1) : NULL;
	if (text) {
		memcpy(text, data, (size_t)n);
		text[n] = '\0';
		if (len)
			*len = (size_t)n;
	}
	BIO_free(out);
	return text;
}

const EVP_MD *authority_digest(const EVP_PKEY *key)
{
	return EVP_PKEY_is_a(key, "ED25519") || EVP_PKEY_is_a(key, "ED448") ? NULL : EVP_sha256();
}

/* The whole of a certificate but its key and extensions. */
static bool begin(X509 *x, const char *name, const X509_NAME *issuer, const BIGNUM *serial,
		  int64_t from, int64_t to)
{
	X509_NAME *subject = X509_get_subject_name(x);

	return X509_set_version(x, X509_VERSION_3) &&
	       BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(x)) &&
	       X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name,
					  -1, -1, 0) &&
	       X509_set_issuer_name(x, issuer ? issuer : subject) &&
	       ASN1_TIME_set(X509_getm_notBefore(x), from) &&
	       ASN1_TIME_set(X509_getm_notAfter(x), to);
}

struct extension {
	int nid;
	const char *value;
};

static bool extend(X509 *x, X509 *issuer, const struct extension *list, size_t n)
{
	X509V3_CTX context;

	X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
	for (size_t i = 0; i < n; i++) {
		X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &context, list[i].nid, list[i].value);
		bool good = e && X509_add_ext(x, e, -1);

		X509_EXTENSION_free(e);
		if (!good)
			return false;
	}
	return true;
}

/* 128 random bits. NULL: none to be had. */
static BIGNUM *new_serial(char text[AUTHORITY_SERIAL_TEXT])
{
	unsigned char bytes[16];

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return NULL;
	for (size_t i = 0; i < sizeof(bytes); i++)
		sprintf(text + 2 * i, "%02x", bytes[i]);
	return BN_bin2bn(bytes, sizeof(bytes), NULL);
}

int authority_make(const char *name, int64_t now, struct authority_made *out)
{
	static const struct extension extensions[] = {
		{ NID_basic_constraints, "critical,CA:TRUE,pathlen:0" },
		{ NID_key_usage, "critical,keyCertSign,cRLSign" },
		{ NID_subject_key_identifier, "hash" },
	};
	char serial_text[AUTHORITY_SERIAL_TEXT];
	BIGNUM *serial = new_serial(serial_text);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	BIO *certificate = BIO_new(BIO_s_mem()), *secret = BIO_new(BIO_s_secmem());
	bool good = serial && key && x && certificate && secret &&
		    begin(x, name, NULL, serial, now - AUTHORITY_EARLY,
			  now + (int64_t)CA_DAYS * DAY_SECONDS) &&
		    X509_set_pubkey(x, key) &&
		    extend(x, x, extensions, sizeof(extensions) / sizeof(*extensions)) &&
		    X509_sign(x, key, EVP_sha256()) && PEM_write_bio_X509(certificate, x) &&
		    PEM_write_bio_PrivateKey(secret, key, NULL, NULL, 0, NULL, NULL);

	X509_free(x);
	EVP_PKEY_free(key);
	BN_free(serial);
	out->certificate = certificate ? authority_text(certificate, NULL) : NULL;
	out->key = secret ? authority_text(secret, NULL) : NULL;
	if (good && out->certificate && out->key)
		return 0;
	free(out->certificate);
	if (out->key)
		OPENSSL_cleanse(out->key, strlen(out->key));
	free(out->key);
	*out = (struct authority_made){ 0 };
	ERR_clear_error();
	return -EIO;
}

/* ---- signing ---- */

static bool is_good_curve(EVP_PKEY *key)
{
	char name[32];
	int written_out = 1; /* the curve's numbers instead of its name */

	return EVP_PKEY_get_group_name(key, name, sizeof(name), NULL) == 1 &&
	       (strcmp(name, "prime256v1") == 0 || strcmp(name, "secp384r1") == 0) &&
	       EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS,
				      &written_out) == 1 &&
	       !written_out;
}

static bool is_good_key(EVP_PKEY *key)
{
	int bits = EVP_PKEY_get_bits(key);

	if (EVP_PKEY_is_a(key, "EC"))
		return is_good_curve(key);
	if (EVP_PKEY_is_a(key, "RSA"))
		return bits >= RSA_MIN && bits <= RSA_MAX;
	return EVP_PKEY_is_a(key, "ED25519");
}

/* The key of a request, to be freed; NULL: *why. */
static EVP_PKEY *key_of(const char *request, size_t len, const char **why)
{
	BIO *in = BIO_new_mem_buf(request, (int)len);
	X509_REQ *r = in ? PEM_read_bio_X509_REQ(in, NULL, authority_no_password, NULL) : NULL;
	EVP_PKEY *key = r ? X509_REQ_get0_pubkey(r) : NULL;

	BIO_free(in);
	if (!r)
		*why = "this is no certificate request in PEM";
	else if (!key || !is_good_key(key))
		*why = "its key is of no kind that is taken: EC P-256 or P-384, Ed25519, or RSA "
		       "of 2048 to 4096 bits";
	else if (X509_REQ_verify(r, key) != 1)
		*why = "its signature is wrong: it was not made with its key";
	else
		*why = NULL;
	if (*why || !EVP_PKEY_up_ref(key)) /* which fails for a key without references only */
		key = NULL;
	X509_REQ_free(r);
	ERR_clear_error();
	return key;
}

static int64_t seconds_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) == 1 ? timegm(&tm) : 0;
}

static bool write_chain(const struct authority *a, X509 *x, struct authority_certificate *out)
{
	BIO *pem = BIO_new(BIO_s_mem());
	bool good = pem && PEM_write_bio_X509(pem, x);

	if (good && !(X509_get_extension_flags(a->certificate) & EXFLAG_SS))
		good = PEM_write_bio_X509(pem, a->certificate);
	out->pem = good ? authority_text(pem, &out->len) : NULL;
	if (!good)
		BIO_free(pem);
	return out->pem;
}

static bool issue(const struct authority *a, const char *owner, EVP_PKEY *key,
		  struct authority_certificate *out)
{
	char uri[sizeof("URI:" AUTHORITY_OWNER_URI) + 64];
	const struct extension extensions[] = {
		{ NID_basic_constraints, "critical,CA:FALSE" },
		{ NID_key_usage, "critical,digitalSignature" },
		{ NID_ext_key_usage, "clientAuth" },
		{ NID_subject_alt_name, uri },
		{ NID_subject_key_identifier, "hash" },
		{ NID_authority_key_identifier, "keyid,issuer" },
	};
	BIGNUM *serial = new_serial(out->serial);
	X509 *x = X509_new();
	bool good;

	/* a label has no character that OpenSSL's syntax could take for more */
	snprintf(uri, sizeof(uri), "URI:" AUTHORITY_OWNER_URI "%.63s", owner);
	good = serial && x &&
	       begin(x, owner, X509_get_subject_name(a->certificate), serial, out->from, out->to) &&
	       X509_set_pubkey(x, key) &&
	       extend(x, a->certificate, extensions, sizeof(extensions) / sizeof(*extensions)) &&
	       X509_sign(x, a->key, authority_digest(a->key)) && write_chain(a, x, out);
	X509_free(x);
	BN_free(serial);
	return good;
}

int authority_sign(const struct authority *a, const char *owner, const char *request, size_t len,
		   uint64_t valid_ms, int64_t now, struct authority_certificate *out,
		   const char **why)
{
	int64_t last = seconds_of(X509_get0_notAfter(a->certificate));
	struct authority_certificate made = { .from = now - AUTHORITY_EARLY,
					      .to = now + (int64_t)(valid_ms / 1000) };
	EVP_PKEY *key;
	bool good;

	ERR_clear_error();
	*why = "this is too long for a certificate request";
	key = len <= AUTHORITY_REQUEST_MAX ? key_of(request, len, why) : NULL;
	if (!key)
		return -EINVAL;
	if (made.to > last)
		made.to = last;
	good = issue(a, owner, key, &made);
	EVP_PKEY_free(key);
	if (good) {
		*out = made;
		return 0;
	}
	free(made.pem);
	*why = "libcrypto cannot make the certificate";
	ERR_clear_error();
	return -EIO;
}
