/*
 * certificates: throw-away CAs and what they sign, as PEM files in a folder of the test's own.
 */
#ifndef TESTS_UNIT_CERTIFICATES_H
#define TESTS_UNIT_CERTIFICATES_H

#include <dirent.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include "relay/trust.h"
#include "tests/unit/check.h"

static char dir[] = "/tmp/certificates.XXXXXX";

struct issued {
	X509 *certificate;
	EVP_PKEY *key;
};

static const char *path_of(const char *name)
{
	static char text[4][512];
	static unsigned turn;

	turn = (turn + 1) % 4;
	snprintf(text[turn], sizeof(text[turn]), "%s/%s", dir, name);
	return text[turn];
}

static void extend(struct issued *it, X509V3_CTX *v3, int nid, const char *text)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, v3, nid, text);

	CHECK(e && X509_add_ext(it->certificate, e, -1));
	X509_EXTENSION_free(e);
}

/*
 * Makes NAME.pem and NAME.key in dir; by == NULL: a CA that signs itself. usage: the extended one,
 * or NULL.
 */
static struct issued issue(const char *name, const char *san, const char *usage,
			   const struct issued *by, long from, long to)
{
	struct issued it = { .certificate = X509_new(), .key = EVP_EC_gen("P-256") };
	static long serial;
	X509V3_CTX v3;
	FILE *f;
	char file[64];

	CHECK(it.certificate && it.key);
	X509_set_version(it.certificate, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(it.certificate), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(it.certificate), from);
	X509_gmtime_adj(X509_getm_notAfter(it.certificate), to);
	X509_set_pubkey(it.certificate, it.key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(it.certificate), "CN", MBSTRING_ASC,
				   (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(it.certificate,
			     X509_get_subject_name(by ? by->certificate : it.certificate));
	X509V3_set_ctx(&v3, by ? by->certificate : it.certificate, it.certificate, NULL, NULL, 0);
	if (by)
		extend(&it, &v3, NID_subject_alt_name, san);
	else
		extend(&it, &v3, NID_basic_constraints, "critical,CA:TRUE");
	if (usage)
		extend(&it, &v3, NID_ext_key_usage, usage);
	CHECK(X509_sign(it.certificate, by ? by->key : it.key, EVP_sha256()));
	snprintf(file, sizeof(file), "%s.pem", name);
	CHECK((f = fopen(path_of(file), "w")) && PEM_write_X509(f, it.certificate));
	fclose(f);
	snprintf(file, sizeof(file), "%s.key", name);
	CHECK((f = fopen(path_of(file), "w")) &&
	      PEM_write_PrivateKey(f, it.key, NULL, NULL, 0, NULL, NULL));
	fclose(f);
	return it;
}

/* The trust in NAME.pem of dir. */
static inline struct trust *trust_of(const char *ca)
{
	char *warning, *why;
	struct trust *t = trust_new(IDENTITY_CLIENT, path_of(ca), NULL, &warning, &why);

	CHECK(t && !warning);
	return t;
}

static void issued_free(struct issued it)
{
	X509_free(it.certificate);
	EVP_PKEY_free(it.key);
}

static void certificates_begin(void)
{
	CHECK(mkdtemp(dir));
}

static void certificates_end(void)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	CHECK(d);
	while ((e = readdir(d)))
		unlink(path_of(e->d_name));
	closedir(d);
	CHECK_INT(rmdir(dir), 0);
}

#endif
