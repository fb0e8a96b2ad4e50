/* Who a certificate says its holder is, by which CA, until when; and what that allows. */
#include <ctype.h>
#include <sys/socket.h>

#include "relay/credentials.h"
#include "relay/identity.h"
#include "relay/permit.h"
#include "relay/settings.h"
#include "relay/trust.h"
#include "tests/unit/certificates.h"
#include "tests/unit/check.h"

#define HOUR 3600L
#define NOW ((uint64_t)time(NULL))
#define HASH "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH2 "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static struct issued ca, other;

static struct identity *verify(const struct trust *t, struct issued who, int *error)
{
	return trust_verify(t, who.certificate, NULL, error);
}

static struct trust *trust_by(enum identity_kind kind, const char *file, const char *crl)
{
	char *warning, *why;
	struct trust *t = trust_new(kind, path_of(file), crl ? path_of(crl) : NULL, &warning, &why);

	CHECK(t);
	free(warning);
	return t;
}

static struct issued node(const char *san)
{
	return issue("node", san, "clientAuth", &ca, -HOUR, HOUR);
}

/* A list of by's in FILE of what it has taken back; next: seconds until the next. */
static void write_crl_as(const char *file, const X509_NAME *name, const struct issued *by,
			 const struct issued *revoked, long next)
{
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *t = ASN1_TIME_new();
	FILE *f = fopen(path_of(file), "w");

	CHECK(crl && t && f);
	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, name);
	X509_gmtime_adj(t, -2 * HOUR);
	X509_CRL_set1_lastUpdate(crl, t);
	X509_gmtime_adj(t, next);
	X509_CRL_set1_nextUpdate(crl, t);
	if (revoked) {
		X509_REVOKED *r = X509_REVOKED_new();

		X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(revoked->certificate));
		X509_gmtime_adj(t, -HOUR);
		X509_REVOKED_set_revocationDate(r, t);
		CHECK(X509_CRL_add0_revoked(crl, r));
	}
	CHECK(X509_CRL_sign(crl, by->key, EVP_sha256()));
	CHECK(PEM_write_X509_CRL(f, crl));
	fclose(f);
	ASN1_TIME_free(t);
	X509_CRL_free(crl);
}

static void write_crl(const char *file, const struct issued *by, const struct issued *revoked,
		      long next)
{
	write_crl_as(file, X509_get_subject_name(by->certificate), by, revoked, next);
}

/* ---- names ---- */

static void test_names(void)
{
	struct trust *t = trust_by(IDENTITY_CLIENT, "ca.pem", NULL);
	struct issued it =
		node("DNS:Node-A.cloud.example,URI:spiffe://Cloud/node,email:A@b.example,"
		     "IP:10.0.0.1,DNS:*.cloud.example");
	int error;
	struct identity *i = verify(t, it, &error);

	CHECK(i);
	CHECK_INT(identity_names(i), 4);
	CHECK_STR(identity_text(i), "dns:node-a.cloud.example,uri:spiffe://Cloud/node,"
				    "email:A@b.example,dns:*.cloud.example");
	CHECK(identity_is(i, "dns:NODE-A.cloud.example"));
	CHECK(identity_is(i, "uri:spiffe://Cloud/node"));
	CHECK(!identity_is(i, "uri:spiffe://cloud/node"));
	CHECK(!identity_is(i, "dns:other.cloud.example"));   /* a wildcard is nobody else's name */
	CHECK(!identity_is(i, "dns:node-a.cloud.example.")); /* exactly */
	CHECK(!identity_is(i, "dns:node-a.cloud.exampl"));
	CHECK(!identity_is(i, "dns:node")); /* the common name is none */
	CHECK(!identity_is(NULL, "dns:node"));
	CHECK(identity_expires(i) > NOW && identity_expires(i) <= NOW + HOUR + 5);
	CHECK_INT(identity_kind(i), IDENTITY_CLIENT);
	CHECK_INT(identity_chain(i), 2);
	identity_unref(i);
	issued_free(it);
	trust_unref(t);
}

/* What could be read in two ways gives no right. */
static void test_odd_names(void)
{
	struct trust *t = trust_by(IDENTITY_CLIENT, "ca.pem", NULL);
	struct issued it = { .certificate = X509_new(), .key = EVP_EC_gen("P-256") };
	static const char nul[] = "a.example\0.evil.example";
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	static const struct {
		const char *text;
		int len;
	} odd[] = { { nul, sizeof(nul) - 1 },
		    { "a.example,dns:b.example", -1 },
		    { "a b", -1 },
		    { "a\xc3\xa4.example", -1 },
		    { "", 0 },
		    { "good.example", -1 } };
	struct identity *i;
	int error;

	for (size_t k = 0; k < sizeof(odd) / sizeof(odd[0]); k++) {
		GENERAL_NAME *name = GENERAL_NAME_new();
		ASN1_IA5STRING *text = ASN1_IA5STRING_new();

		ASN1_STRING_set(text, odd[k].text, odd[k].len);
		GENERAL_NAME_set0_value(name, GEN_DNS, text);
		sk_GENERAL_NAME_push(names, name);
	}
	X509_set_version(it.certificate, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(it.certificate), 7777);
	X509_gmtime_adj(X509_getm_notBefore(it.certificate), -HOUR);
	X509_gmtime_adj(X509_getm_notAfter(it.certificate), HOUR);
	X509_set_pubkey(it.certificate, it.key);
	X509_set_issuer_name(it.certificate, X509_get_subject_name(ca.certificate));
	CHECK(X509_add1_ext_i2d(it.certificate, NID_subject_alt_name, names, 0, 0));
	CHECK(X509_sign(it.certificate, ca.key, EVP_sha256()));
	i = verify(t, it, &error);
	CHECK(i);
	CHECK_STR(identity_text(i), "dns:good.example");
	identity_unref(i);
	GENERAL_NAMES_free(names);
	issued_free(it);
	trust_unref(t);
}

static void test_many_names(void)
{
	struct trust *t = trust_by(IDENTITY_CLIENT, "ca.pem", NULL);
	char san[8192] = "";
	struct identity *i;
	struct issued it;
	size_t n = 0;
	int error;

	for (unsigned k = 0; k < 40; k++)
		n += (size_t)snprintf(
			san + n, sizeof(san) - n, "%sDNS:%.*s%u.example", k ? "," : "",
			k % 2 ? 60 : 3,
			"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", k);
	it = node(san);
	i = verify(t, it, &error);
	CHECK(i);
	CHECK_INT(identity_names(i), IDENTITY_NAMES_MAX);
	CHECK(strlen(identity_text(i)) < IDENTITY_TEXT_MAX);
	CHECK(identity_is(i, "dns:xxx0.example") && !identity_is(i, "dns:xxx38.example"));
	identity_unref(i);
	issued_free(it);
	trust_unref(t);
}

/* ---- trust ---- */

static void not_good(struct trust *t, struct issued it, int expected)
{
	int error;

	CHECK(!verify(t, it, &error));
	CHECK_INT(error, expected);
	issued_free(it);
}

static void test_trust(void)
{
	struct trust *t = trust_by(IDENTITY_CLIENT, "ca.pem", NULL);
	struct trust *elsewhere = trust_by(IDENTITY_CLIENT, "other.pem", NULL);
	struct trust *owners = trust_by(IDENTITY_OWNER, "ca.pem", NULL);
	struct issued it = node("DNS:a.example");
	struct identity *i;
	int error;

	not_good(t, issue("x", "DNS:a.example", "clientAuth", &other, -HOUR, HOUR),
		 X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
	not_good(t, issue("x", "DNS:a.example", "clientAuth", &ca, -2 * HOUR, -HOUR),
		 X509_V_ERR_CERT_HAS_EXPIRED);
	not_good(t, issue("x", "DNS:a.example", "clientAuth", &ca, HOUR, 2 * HOUR),
		 X509_V_ERR_CERT_NOT_YET_VALID);
	not_good(t, issue("x", "DNS:a.example", "serverAuth", &ca, -HOUR, HOUR),
		 X509_V_ERR_INVALID_PURPOSE);
	i = verify(t, it, &error);
	CHECK(i && trust_holds(t, i));
	CHECK(!trust_holds(elsewhere, i)); /* its CA is not there */
	CHECK(!trust_holds(owners, i));    /* the same CA for another purpose */
	identity_unref(i);
	issued_free(it);
	trust_unref(t);
	trust_unref(elsewhere);
	trust_unref(owners);
}

static void test_revoked(void)
{
	struct issued good = node("DNS:good.example"), bad = node("DNS:bad.example");
	struct trust *before = trust_by(IDENTITY_CLIENT, "ca.pem", NULL), *t;
	struct identity *i = NULL, *j = NULL;
	char *warning, *why;
	int error;

	i = verify(before, good, &error);
	j = verify(before, bad, &error);
	CHECK(i && j);
	write_crl("crl.pem", &ca, &bad, HOUR);
	t = trust_by(IDENTITY_CLIENT, "ca.pem", "crl.pem");
	CHECK(!verify(t, bad, &error));
	CHECK_INT(error, X509_V_ERR_CERT_REVOKED);
	identity_unref(verify(t, good, &error));
	CHECK(trust_holds(t, i) && !trust_holds(t, j));
	trust_unref(t);

	/* a list of another CA says nothing of this one: all its certificates are void */
	write_crl("crl.pem", &other, NULL, HOUR);
	t = trust_new(IDENTITY_CLIENT, path_of("ca.pem"), path_of("crl.pem"), &warning, &why);
	CHECK(t && warning && strstr(warning, "has none of the CA"));
	free(warning);
	CHECK(!verify(t, good, &error));
	CHECK_INT(error, X509_V_ERR_UNABLE_TO_GET_CRL);
	trust_unref(t);

	/* nor does one whose time is over */
	write_crl("crl.pem", &ca, NULL, -HOUR);
	t = trust_new(IDENTITY_CLIENT, path_of("ca.pem"), path_of("crl.pem"), &warning, &why);
	CHECK(t && warning && strstr(warning, "past its next update"));
	free(warning);
	CHECK(!verify(t, good, &error));
	CHECK_INT(error, X509_V_ERR_CRL_HAS_EXPIRED);
	trust_unref(t);

	identity_unref(i);
	identity_unref(j);
	trust_unref(before);
	issued_free(good);
	issued_free(bad);
}

/* The same name by other bytes (another kind of string, in capitals) is the same issuer. */
static void test_revoked_by_another_spelling(void)
{
	struct trust *before = trust_by(IDENTITY_CLIENT, "ca.pem", NULL), *t;
	struct issued bad = node("DNS:bad.example");
	X509_NAME *name = X509_NAME_new();
	char common[64];
	int error;
	struct identity *i = verify(before, bad, &error);

	CHECK(i && name);
	X509_NAME_get_text_by_NID(X509_get_subject_name(ca.certificate), NID_commonName, common,
				  sizeof(common));
	for (char *c = common; *c; c++)
		*c = (char)toupper((unsigned char)*c);
	X509_NAME_add_entry_by_NID(name, NID_commonName, V_ASN1_PRINTABLESTRING,
				   (const unsigned char *)common, -1, -1, 0);
	write_crl_as("crl.pem", name, &ca, &bad, HOUR);
	t = trust_by(IDENTITY_CLIENT, "ca.pem", "crl.pem");
	CHECK(!verify(t, bad, &error));
	CHECK_INT(error, X509_V_ERR_CERT_REVOKED);
	CHECK(!trust_holds(t, i));
	identity_unref(i);
	X509_NAME_free(name);
	trust_unref(before);
	trust_unref(t);
	issued_free(bad);
}

static void no_trust(const char *file, const char *crl, const char *says)
{
	char *warning, *why;

	CHECK(!trust_new(IDENTITY_CLIENT, path_of(file), crl ? path_of(crl) : NULL, &warning,
			 &why));
	if (!why || !strstr(why, says))
		fprintf(stderr, "said: %s\n", why ? why : "nothing");
	CHECK(!warning && why && strstr(why, says));
	free(why);
}

static void test_files(void)
{
	FILE *f = fopen(path_of("empty.pem"), "w");

	fclose(f);
	no_trust("none.pem", NULL, "none.pem: No such file");
	no_trust("ca.key", NULL, "client CA file");
	no_trust("empty.pem", NULL, "client CA file");
	no_trust("ca.pem", "none.crl", "revocation list");
	no_trust("node.pem", NULL, "no CA that signs itself");
	no_trust("ca.pem", "ca.pem", "it must hold a list (CRL)");
	no_trust("ca.pem", "empty.pem", "it must hold a list (CRL)");
}

/* ---- credentials ---- */

static struct relay_config *config(const char *more)
{
	static const char front[] =
		"tls: {certificate: c, key: k}\n"
		"listeners:\n"
		"- {name: front, address: 'tcp:127.0.0.1:1', doors: [tunnel, connect], "
		"client_ca: ca}\n"
		"- {name: local, address: 'unix:/x', doors: [connect]}\n"
		"- {name: vms, address: 'vsock:any:1', doors: [connect]}\n"
		"owners:\n"
		"- {name: acme, services: [kbs], tokens: [{hash: '" HASH "', label: laptop, "
		"expires: 2030-01-31}], certificates: ['dns:Agent.acme.example', "
		"{name: 'uri:spiffe://acme', label: mesh}]}\n"
		"- {name: beta, tokens: ['" HASH2 "'], certificates: ['dns:agent.beta.example']}\n";
	struct config_errors e = { 0 };
	char text[4096];
	struct relay_config *c;

	snprintf(text, sizeof(text), "%s%s", front, more);
	c = relay_config_parse("r.yaml", text, strlen(text), &e);
	config_errors_print(&e, stderr);
	CHECK(c);
	config_errors_deinit(&e);
	return c;
}

static void test_credentials(void)
{
	struct relay_config *c = config("");
	struct credentials *all = credentials_new(c);
	struct trust *t = trust_by(IDENTITY_CLIENT, "ca.pem", NULL);
	struct trust *owners = trust_by(IDENTITY_OWNER, "other.pem", NULL);
	uint8_t hash[TOKEN_HASH_BYTES];
	struct credential found;
	struct identity *i;
	struct issued it;
	int error;

	relay_config_unref(c);
	CHECK(all);
	memset(hash, 0xaa, sizeof(hash));
	CHECK(credentials_by_token(all, hash, &found));
	CHECK_STR(found.owner->name, "acme");
	CHECK_STR(found.label, "laptop");
	CHECK_INT(found.expires, 1896048000);
	CHECK(credentials_may_offer(found.owner, "KBS"));
	CHECK(!credentials_may_offer(found.owner, "kb"));
	memset(hash, 0xbb, sizeof(hash));
	CHECK(credentials_by_token(all, hash, &found));
	CHECK_STR(found.owner->name, "beta");
	CHECK(found.expires == UINT64_MAX && !*found.label);
	CHECK(credentials_may_offer(found.owner, "anything"));
	hash[31] = 0;
	CHECK(!credentials_by_token(all, hash, &found));

	it = node("DNS:other.example,DNS:AGENT.acme.example");
	i = verify(t, it, &error);
	CHECK(credentials_by_identity(all, i, &found));
	CHECK_STR(found.owner->name, "acme");
	CHECK(found.expires == identity_expires(i)); /* the certificate's own end comes first */
	identity_unref(i);
	issued_free(it);
	it = node("URI:spiffe://acme/more,DNS:agent.acme.example.evil.example");
	i = verify(t, it, &error);
	CHECK(!credentials_by_identity(all, i, &found));
	identity_unref(i);
	issued_free(it);

	/* an owner's name as the relay's own CA writes it counts from that CA alone */
	it = node("URI:urn:attest-relay:owner:acme");
	i = verify(t, it, &error);
	CHECK(i && !credentials_by_identity(all, i, &found));
	identity_unref(i);
	issued_free(it);
	it = issue("own", "URI:urn:attest-relay:owner:acme", "clientAuth", &other, -HOUR, HOUR);
	i = verify(owners, it, &error);
	CHECK(i && credentials_by_identity(all, i, &found));
	CHECK_STR(found.owner->name, "acme");
	identity_unref(i);
	issued_free(it);
	it = issue("own", "URI:urn:attest-relay:owner:nobody,DNS:agent.acme.example", "clientAuth",
		   &other, -HOUR, HOUR);
	i = verify(owners, it, &error);
	CHECK(i && !credentials_by_identity(all, i, &found)); /* other names are not its to give */
	identity_unref(i);
	issued_free(it);
	trust_unref(t);
	trust_unref(owners);
	credentials_free(all);
}

/* ---- permits ---- */

static struct peer ip(uint8_t a, uint8_t d)
{
	return (struct peer){ .family = AF_INET, .ip = { a, 0, 0, d }, .port = 1 };
}

static const char *rule(const struct permits *p, struct peer peer, const struct identity *i,
			const char *listener, const char *service)
{
	const struct permit_ask ask = { &peer, i, listener, service, 1000 };
	const struct client_config *by;
	bool may = permits_open(p, &ask, &by);

	CHECK(may == (by != NULL));
	return by ? by->name : "";
}

static void test_permits(void)
{
	struct relay_config *c = config(
		"clients:\n"
		"- {name: old, networks: ['10.0.0.0/8'], services: ['*'], "
		"expires: 1970-01-01T00:10:00Z}\n"
		"- {name: node, certificates: ['dns:Node.example', 'uri:x:y'], "
		"services: ['kbs.acme', 'tang.*']}\n"
		"- {name: near, certificates: ['dns:node.example'], networks: ['10.0.0.0/8'], "
		"services: ['*.beta']}\n"
		"- {name: local, uids: ['107', '200-299'], services: ['*']}\n"
		"- {name: vm, cids: ['42'], listeners: [vms], services: ['kbs.acme']}\n"
		"- {name: lan, networks: ['192.168.0.0/16', '2001:db8::/32'], "
		"listeners: [front], services: ['pub.acme']}\n");
	struct permits *p = permits_new(c);
	struct trust *t = trust_by(IDENTITY_CLIENT, "ca.pem", NULL);
	struct trust *owners = trust_by(IDENTITY_OWNER, "ca.pem", NULL);
	struct issued it = node("DNS:else.example,DNS:NODE.example");
	struct peer uid = { .family = AF_UNIX, .a = 1, .b = 250 };
	struct peer vm = { .family = AF_VSOCK, .a = 42, .b = 1 }, v6 = { .family = AF_INET6 };
	struct permit_ask ask = { .listener = "front", .service = "kbs.acme", .now = 1000 };
	const struct client_config *by;
	int error;
	struct identity *i = verify(t, it, &error), *o = verify(owners, it, &error);

	relay_config_unref(c);
	CHECK(p && i && o);
	CHECK_STR(rule(p, ip(192, 9), i, "front", "kbs.acme"), "node");
	CHECK_STR(rule(p, ip(192, 9), i, "front", "tang.beta"), "node");
	CHECK_STR(rule(p, ip(192, 9), i, "front", "kbs.beta"), "");
	CHECK_STR(rule(p, ip(10, 9), i, "front", "kbs.beta"), "near"); /* all lists of a rule */
	CHECK_STR(rule(p, ip(10, 9), NULL, "front", "kbs.beta"), "");
	CHECK_STR(rule(p, ip(10, 9), NULL, "front", "kbs.acme"), ""); /* old is over */
	CHECK_STR(rule(p, ip(192, 9), o, "front", "kbs.acme"), ""); /* an owner's is no client's */
	CHECK_STR(rule(p, uid, NULL, "local", "x.y"), "local");
	uid.b = 300;
	CHECK_STR(rule(p, uid, NULL, "local", "x.y"), "");
	uid.b = UINT32_MAX; /* somebody behind a proxy */
	CHECK_STR(rule(p, uid, NULL, "local", "x.y"), "");
	CHECK_STR(rule(p, vm, NULL, "vms", "kbs.acme"), "vm");
	CHECK_STR(rule(p, vm, NULL, "local", "kbs.acme"), "");
	vm.a = 43;
	CHECK_STR(rule(p, vm, NULL, "vms", "kbs.acme"), "");
	CHECK_STR(rule(p, (struct peer){ .family = AF_INET, .ip = { 192, 168, 1, 1 } }, NULL,
		       "front", "pub.acme"),
		  "lan");
	memcpy(v6.ip, "\x20\x01\x0d\xb8", 4);
	CHECK_STR(rule(p, v6, NULL, "front", "pub.acme"), "lan");
	CHECK_STR(rule(p, (struct peer){ 0 }, NULL, "front", "pub.acme"), "");
	ask.peer = NULL; /* a proxy that does not say whose the stream is */
	CHECK(!permits_open(p, &ask, &by));
	ask.identity = i;
	CHECK(permits_open(p, &ask, &by));
	CHECK_STR(by->name, "node");
	identity_unref(i);
	identity_unref(o);
	issued_free(it);
	trust_unref(t);
	trust_unref(owners);
	permits_free(p);
}

static void test_no_clients(void)
{
	struct relay_config *c = config("");
	struct permits *p = permits_new(c);
	const struct peer peer = { 0 };
	const struct permit_ask ask = { &peer, NULL, "front", "kbs.acme", 0 };
	const struct client_config *by;

	CHECK(permits_open(p, &ask, &by) && !by);
	relay_config_unref(c);
	permits_free(p);
}

static void test_patterns(void)
{
	CHECK(permit_matches("*", "kbs.acme"));
	CHECK(permit_matches("kbs.acme", "kbs.acme"));
	CHECK(permit_matches("*.acme", "kbs.acme"));
	CHECK(permit_matches("kbs.*", "kbs.acme"));
	CHECK(permit_matches("*.*", "kbs.acme"));
	CHECK(!permit_matches("kbs.acm", "kbs.acme"));
	CHECK(!permit_matches("kb.acme", "kbs.acme"));
	CHECK(!permit_matches("kbs.acme", "kbs.acmes"));
	CHECK(!permit_matches("*.acme", "kbs.acmes"));
	CHECK(!permit_matches("*.acme", "kbs.xacme"));
	CHECK(!permit_matches("kbs.*", "xkbs.acme"));
	CHECK(!permit_matches("kbs.*", "kbsx.acme"));
}

int main(void)
{
	certificates_begin();
	ca = issue("ca", NULL, NULL, NULL, -HOUR, 24 * HOUR);
	other = issue("other", NULL, NULL, NULL, -HOUR, 24 * HOUR);
	test_names();
	test_odd_names();
	test_many_names();
	test_trust();
	test_revoked();
	test_revoked_by_another_spelling();
	test_files();
	test_credentials();
	test_permits();
	test_no_clients();
	test_patterns();
	issued_free(ca);
	issued_free(other);
	certificates_end();
	return 0;
}
