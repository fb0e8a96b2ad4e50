/* authority: a CA of its own, what it signs and what it does not, and what it takes back. */
#include "relay/authority.h"

#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/unit/certificates.h"

#define DAY_MS UINT64_C(86400000)

static int64_t now;

static void write_text(const char *name, const char *text)
{
	FILE *f = fopen(path_of(name), "w");

	CHECK(f && fputs(text, f) >= 0);
	fclose(f);
}

static void make_ca(const char *name)
{
	struct authority_made made;
	char file[64];

	CHECK_INT(authority_make("owners of relay.test", now, &made), 0);
	snprintf(file, sizeof(file), "%s.pem", name);
	write_text(file, made.certificate);
	snprintf(file, sizeof(file), "%s.key", name);
	write_text(file, made.key);
	CHECK_INT(chmod(path_of(file), 0600), 0);
	free(made.certificate);
	free(made.key);
}

static struct authority *load(const char *certificate, const char *key)
{
	bool exposed = true;
	char *why = NULL;
	struct authority *a = authority_load(path_of(certificate), path_of(key), &exposed, &why);

	if (why)
		fprintf(stderr, "%s\n", why);
	CHECK(a && !why && !exposed);
	return a;
}

static void test_load(void)
{
	static const struct {
		const char *certificate, *key, *expected;
	} wrong[] = {
		{ "absent.pem", "ca.key", "No such file" },
		{ "ca.pem", "absent.key", "No such file" },
		{ "ca.key", "ca.key", "certificate in PEM" },
		{ "ca.pem", "ca.pem", "key without a password" },
		{ "ca.pem", "other.key", "does not belong" },
		{ "leaf.pem", "leaf.key", "no CA" },
		{ "late.pem", "late.key", "expired" },
		{ "early.pem", "early.key", "not valid yet" },
	};
	struct issued ca = issue("plain", NULL, NULL, NULL, -100, 1000);
	struct authority *a;
	bool exposed;
	char *why;

	make_ca("ca");
	make_ca("other");
	issued_free(issue("leaf", "DNS:x", NULL, &ca, -100, 1000));
	issued_free(issue("late", NULL, NULL, NULL, -100, -1));
	issued_free(issue("early", NULL, NULL, NULL, 100, 1000));
	issued_free(ca);
	authority_free(load("ca.pem", "ca.key"));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		CHECK(!authority_load(path_of(wrong[i].certificate), path_of(wrong[i].key),
				      &exposed, &why));
		CHECK(why && strstr(why, wrong[i].expected));
		free(why);
	}
	CHECK_INT(chmod(path_of("ca.key"), 0644), 0);
	a = authority_load(path_of("ca.pem"), path_of("ca.key"), &exposed, &why);
	CHECK(a && exposed);
	authority_free(a);
	CHECK_INT(chmod(path_of("ca.key"), 0600), 0);
}

/* ---- requests ---- */

/* One that asks for far too much. To be freed. */
static char *request_of(EVP_PKEY *key, EVP_PKEY *signer, size_t *len)
{
	X509_REQ *r = X509_REQ_new();
	X509_EXTENSION *san = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name,
						  "DNS:relay.test,URI:" AUTHORITY_OWNER_URI
						  "mallory,email:a@b.test");
	X509_EXTENSION *ca =
		X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
	X509_EXTENSION *usage =
		X509V3_EXT_conf_nid(NULL, NULL, NID_ext_key_usage, "serverAuth,clientAuth");
	STACK_OF(X509_EXTENSION) *wishes = sk_X509_EXTENSION_new_null();
	BIO *pem = BIO_new(BIO_s_mem());
	char *data, *text;
	const EVP_MD *digest = EVP_PKEY_is_a(signer, "ED25519") ? NULL : EVP_sha256();

	CHECK(r && san && ca && usage && wishes && pem);
	sk_X509_EXTENSION_push(wishes, san);
	sk_X509_EXTENSION_push(wishes, ca);
	sk_X509_EXTENSION_push(wishes, usage);
	CHECK(X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(r), "CN", MBSTRING_ASC,
					 (const unsigned char *)"mallory", -1, -1, 0));
	CHECK(X509_REQ_add_extensions(r, wishes) && X509_REQ_set_pubkey(r, key));
	CHECK(X509_REQ_sign(r, signer, digest));
	CHECK(PEM_write_bio_X509_REQ(pem, r));
	*len = (size_t)BIO_get_mem_data(pem, &data);
	text = malloc(*len + 1);
	CHECK(text);
	memcpy(text, data, *len);
	text[*len] = '\0';
	BIO_free(pem);
	sk_X509_EXTENSION_pop_free(wishes, X509_EXTENSION_free);
	X509_REQ_free(r);
	return text;
}

/* Signs a key's own request. */
static int sign(const struct authority *a, EVP_PKEY *key, struct authority_certificate *out)
{
	const char *why = NULL;
	size_t len;
	char *request = request_of(key, key, &len);
	int r = authority_sign(a, "acme", request, len, 90 * DAY_MS, now, out, &why);

	CHECK(r == 0 || why);
	free(request);
	EVP_PKEY_free(key);
	return r;
}

static X509 *first_of(const char *pem, size_t len, X509 **second)
{
	BIO *in = BIO_new_mem_buf(pem, (int)len);
	X509 *x = PEM_read_bio_X509(in, NULL, NULL, NULL);

	CHECK(x);
	*second = PEM_read_bio_X509(in, NULL, NULL, NULL);
	BIO_free(in);
	return x;
}

static void check_names(X509 *x)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	const GENERAL_NAME *name;
	char cn[64];

	CHECK(names);
	CHECK_INT(sk_GENERAL_NAME_num(names), 1);
	name = sk_GENERAL_NAME_value(names, 0);
	CHECK_INT(name->type, GEN_URI);
	CHECK_STR((const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier),
		  AUTHORITY_OWNER_URI "acme");
	GENERAL_NAMES_free(names);
	CHECK_INT(X509_NAME_entry_count(X509_get_subject_name(x)), 1);
	X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, cn, sizeof(cn));
	CHECK_STR(cn, "acme");
}

/* Whatever was asked for, this is what comes. */
static void test_sign(void)
{
	struct authority *a = load("ca.pem", "ca.key");
	struct authority_certificate got, again;
	char serial[AUTHORITY_SERIAL_TEXT];
	X509 *x, *second;
	BIGNUM *n;
	char *hex;

	CHECK_INT(sign(a, EVP_EC_gen("P-256"), &got), 0);
	CHECK_INT(sign(a, EVP_EC_gen("P-256"), &again), 0);
	CHECK(strcmp(got.serial, again.serial) != 0);
	free(again.pem);
	CHECK_INT(got.from, now - 300);
	CHECK_INT(got.to, now + 90 * 86400);
	x = first_of(got.pem, got.len, &second);
	CHECK(!second); /* who signed it himself needs not be shown */
	check_names(x);
	CHECK_INT(X509_check_ca(x), 0);
	CHECK_INT(X509_get_key_usage(x), KU_DIGITAL_SIGNATURE);
	CHECK_INT(X509_get_extended_key_usage(x), XKU_SSL_CLIENT);
	CHECK(X509_check_purpose(x, X509_PURPOSE_SSL_CLIENT, 0) == 1);
	CHECK(X509_check_purpose(x, X509_PURPOSE_SSL_SERVER, 0) == 0);
	CHECK_INT(X509_get_ext_count(x), 6);
	n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
	hex = BN_bn2hex(n);
	CHECK(authority_serial(hex, serial));
	CHECK_STR(serial, got.serial);
	CHECK(!BN_is_negative(n));
	OPENSSL_free(hex);
	BN_free(n);
	X509_free(x);
	free(got.pem);
	authority_free(a);
}

/* Not longer than the CA; and the CA's own certificate comes along if another has signed it. */
static void test_sub_ca(void)
{
	struct issued root = issue("root", NULL, NULL, NULL, -100, 100000);
	struct issued sub = issue("sub", "DNS:sub", NULL, &root, -100, 50000);
	struct authority_certificate got;
	struct authority *a;
	X509V3_CTX v3;
	X509 *x, *second;
	FILE *f;

	X509V3_set_ctx(&v3, root.certificate, sub.certificate, NULL, NULL, 0);
	extend(&sub, &v3, NID_basic_constraints, "critical,CA:TRUE");
	CHECK(X509_sign(sub.certificate, root.key, EVP_sha256()));
	CHECK((f = fopen(path_of("sub.pem"), "w")) && PEM_write_X509(f, sub.certificate));
	fclose(f);
	CHECK_INT(chmod(path_of("sub.key"), 0600), 0);
	a = load("sub.pem", "sub.key");
	CHECK_INT(sign(a, EVP_EC_gen("P-256"), &got), 0);
	CHECK(got.to <= now + 50100 && got.to >= now + 49000); /* under valgrind it takes seconds */
	x = first_of(got.pem, got.len, &second);
	CHECK(second && X509_cmp(second, sub.certificate) == 0);
	CHECK(X509_verify(x, sub.key) == 1);
	X509_free(x);
	X509_free(second);
	free(got.pem);
	authority_free(a);
	issued_free(root);
	issued_free(sub);
}

static EVP_PKEY *explicit_curve(void)
{
	EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
	EVP_PKEY *key = NULL;

	CHECK(c && EVP_PKEY_keygen_init(c) == 1);
	CHECK(EVP_PKEY_CTX_set_ec_paramgen_curve_nid(c, NID_X9_62_prime256v1) == 1);
	CHECK(EVP_PKEY_CTX_set_ec_param_enc(c, OPENSSL_EC_EXPLICIT_CURVE) == 1);
	CHECK(EVP_PKEY_keygen(c, &key) == 1);
	EVP_PKEY_CTX_free(c);
	return key;
}

static void test_keys(void)
{
	struct authority *a = load("ca.pem", "ca.key");
	EVP_PKEY *good[] = { EVP_EC_gen("P-256"), EVP_EC_gen("P-384"), EVP_RSA_gen(2048),
			     EVP_PKEY_Q_keygen(NULL, NULL, "ED25519") };
	EVP_PKEY *bad[] = { EVP_EC_gen("P-521"), EVP_EC_gen("P-224"), EVP_EC_gen("secp256k1"),
			    EVP_RSA_gen(1024),   EVP_RSA_gen(2047),   EVP_RSA_gen(4104),
			    explicit_curve() };
	struct authority_certificate got;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		CHECK_INT(sign(a, good[i], &got), 0);
		free(got.pem);
	}
	got.pem = NULL;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CHECK_INT(sign(a, bad[i], &got), -EINVAL);
	CHECK(!got.pem);
	authority_free(a);
}

static void refuses(const struct authority *a, const char *request, size_t len)
{
	struct authority_certificate got = { .serial = "before" };
	const char *why = NULL;

	CHECK_INT(authority_sign(a, "acme", request, len, DAY_MS, now, &got, &why), -EINVAL);
	CHECK(why);
	CHECK_STR(got.serial, "before");
}

/* A whole one up to every length, with every byte spoilt, and ASN.1 within ASN.1 within ... */
static void test_bad_requests(void)
{
	struct authority *a = load("ca.pem", "ca.key");
	EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
	unsigned char nested[12000];
	char text[AUTHORITY_REQUEST_MAX + 1];
	size_t len;
	char *request = request_of(key, other, &len);
	BIO *pem;

	refuses(a, request, len); /* another's key */
	free(request);
	request = request_of(key, key, &len);
	for (size_t i = 0; i < len - 40; i += 3)
		refuses(a, request, i);
	for (size_t i = 40; i < len - 40; i += 3) {
		struct authority_certificate got = { .pem = NULL };
		const char *why;
		char was = request[i];

		request[i] ^= 1; /* in base64; a line end may be harmless */
		if (authority_sign(a, "acme", request, len, DAY_MS, now, &got, &why) == 0)
			CHECK(was == '\n' || was == '\v');
		free(got.pem);
		request[i] = was;
	}
	for (size_t i = 0; i < sizeof(nested); i += 4) {
		size_t inside = sizeof(nested) - i - 4;

		nested[i] = 0x30;
		nested[i + 1] = 0x82;
		nested[i + 2] = (unsigned char)(inside >> 8);
		nested[i + 3] = (unsigned char)inside;
	}
	pem = BIO_new(BIO_s_mem());
	CHECK(PEM_write_bio(pem, "CERTIFICATE REQUEST", "", nested, sizeof(nested)));
	len = (size_t)BIO_read(pem, text, AUTHORITY_REQUEST_MAX);
	CHECK(len > 16000);
	refuses(a, text, len);
	BIO_free(pem);
	memset(nested, 0x30, sizeof(nested)); /* indefinite lengths do not help either */
	for (size_t i = 1; i < sizeof(nested); i += 2)
		nested[i] = 0x80;
	pem = BIO_new(BIO_s_mem());
	CHECK(PEM_write_bio(pem, "CERTIFICATE REQUEST", "", nested, 11000));
	len = (size_t)BIO_read(pem, text, AUTHORITY_REQUEST_MAX);
	refuses(a, text, len);
	BIO_free(pem);
	memset(text, 'A', sizeof(text));
	refuses(a, text, AUTHORITY_REQUEST_MAX);
	refuses(a, text, AUTHORITY_REQUEST_MAX + 1);
	refuses(a, "", 0);
	free(request);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
	authority_free(a);
}

/* ---- the list ---- */

/* Good at once for relays whose clocks are behind, and long after this CA has been renewed. */
static void check_times(const char *text)
{
	BIO *in = BIO_new_mem_buf(text, -1);
	X509_CRL *list = PEM_read_bio_X509_CRL(in, NULL, NULL, NULL);
	time_t before = (time_t)(now - 250), late = (time_t)(now + 40LL * 365 * 86400);

	CHECK(list);
	CHECK_INT(X509_cmp_time(X509_CRL_get0_lastUpdate(list), &before), -1);
	CHECK_INT(X509_cmp_time(X509_CRL_get0_nextUpdate(list), &late), 1);
	X509_CRL_free(list);
	BIO_free(in);
}

static void test_list(void)
{
	static const char one[][AUTHORITY_SERIAL_TEXT] = { "00000000000000000000000000000002",
							   "ffffffffffffffffffffffffffffffff",
							   "00000000000000000000000000000002" };
	static const char two[][AUTHORITY_SERIAL_TEXT] = { "00000000000000000000000000000001",
							   "ffffffffffffffffffffffffffffffff" };
	struct authority *a = load("ca.pem", "ca.key"), *other = load("other.pem", "other.key");
	struct authority_revoked r;
	char *first, *second, *why;

	CHECK_INT(authority_revoked(a, NULL, 0, &r, &why), 0);
	CHECK(r.n == 0 && !authority_is_revoked(&r, one[0]));
	first = authority_revoke(a, NULL, 0, one, 3, now, &why);
	CHECK(first && !why);
	check_times(first);
	CHECK_INT(authority_revoked(a, first, strlen(first), &r, &why), 0);
	CHECK_INT(r.n, 2);
	CHECK(authority_is_revoked(&r, one[0]) && authority_is_revoked(&r, one[1]));
	CHECK(!authority_is_revoked(&r, two[0]));
	free(r.serials);
	second = authority_revoke(a, first, strlen(first), two, 2, now, &why);
	CHECK(second);
	CHECK_INT(authority_revoked(a, second, strlen(second), &r, &why), 0);
	CHECK_INT(r.n, 3);
	CHECK(authority_is_revoked(&r, one[0]) && authority_is_revoked(&r, two[0]));
	free(r.serials);
	write_text("crl.pem", second);

	CHECK_INT(authority_revoked(other, first, strlen(first), &r, &why), -EINVAL);
	CHECK(strstr(why, "not by this CA"));
	free(why);
	CHECK(!authority_revoke(other, first, strlen(first), two, 2, now, &why));
	CHECK(strstr(why, "not by this CA"));
	free(why);
	CHECK(!authority_revoke(a, "rubbish", 7, two, 2, now, &why));
	free(why);
	free(first);
	free(second);
	authority_free(a);
	authority_free(other);
}

static void test_serials(void)
{
	char serial[AUTHORITY_SERIAL_TEXT] = "before";

	CHECK(authority_serial("AB:cd:01", serial));
	CHECK_STR(serial, "00000000000000000000000000abcd01");
	CHECK(authority_serial("ffffffffffffffffffffffffffffffff", serial));
	strcpy(serial, "before");
	CHECK(!authority_serial("0ffffffffffffffffffffffffffffffff", serial));
	CHECK(!authority_serial("", serial) && !authority_serial(":", serial) &&
	      !authority_serial("0x1", serial) && !authority_serial("-1", serial));
	CHECK_STR(serial, "before");
}

int main(void)
{
	now = time(NULL);
	certificates_begin();
	test_load();
	test_sign();
	test_sub_ca();
	test_keys();
	test_bad_requests();
	test_list();
	test_serials();
	certificates_end();
	return 0;
}
