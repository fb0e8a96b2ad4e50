/*
 * doctor_certificate: checks of certificates with their keys, and of CAs.
 *
 * Theory of operation: the daemon's own TLS contexts say whether a pair can be used; what it does
 * not look at, since it shows only to those who connect, is looked at here: the order of the chain,
 * the names, how soon it ends.
 */
#include "relay/doctor_certificate.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/doctor.h"
#include "relay/doctor_file.h"
#include "relay/tls.h"

#define NAMES_TEXT 400

/* ---- pairs ---- */

static bool usable(const char *certificate, const char *key, bool server, char **why)
{
	struct tls_context *t;
	bool good;

	if (server) {
		t = tls_server_context_new(certificate, key, NULL, why);
		good = t;
	} else {
		t = tls_client_context_new(NULL, NULL, why);
		good = t && tls_client_context_identify(t, certificate, key, why) == 0;
	}
	tls_context_unref(t);
	return good;
}

static bool check_pair(struct doctor *d, const char *certificate, const char *key, bool server)
{
	char *why = NULL, until[32], name[DOCTOR_NAME_MAX];
	enum doctor_status now;
	STACK_OF(X509) * chain;
	X509 *own;

	doctor_check(d, "certificate");
	doctor_about(d, "%s", certificate);
	if (!doctor_readable(d, certificate) || !doctor_readable(d, key))
		return false;
	doctor_secret(d, key);
	if (!usable(certificate, key, server, &why)) {
		doctor_wrong(d, "put both halves of one pair there, in PEM", "%s",
			     why ? why : "out of memory");
		free(why);
		return false;
	}
	chain = doctor_certificates(certificate);
	if (!chain)
		return false; /* it was there a moment ago */
	own = sk_X509_value(chain, 0);
	now = doctor_validity(d, own);
	if (now == DOCTOR_OK)
		doctor_ok(d, "%s, with its key, until %s", doctor_subject(own, name),
			  doctor_date(X509_get0_notAfter(own), until));
	sk_X509_pop_free(chain, X509_free);
	return now != DOCTOR_WRONG;
}

bool doctor_certificate_client(struct doctor *d, const char *certificate, const char *key)
{
	return !certificate || check_pair(d, certificate, key, false);
}

/* Each is issued by the next; what the last is issued by has to be known to who connects. */
static bool check_chain(struct doctor *d, const char *certificate)
{
	STACK_OF(X509) *chain = doctor_certificates(certificate);
	char name[DOCTOR_NAME_MAX], other[DOCTOR_NAME_MAX];
	int n = sk_X509_num(chain);
	X509 *last;

	doctor_check(d, "chain");
	doctor_about(d, "%s", certificate);
	for (int i = 0; i + 1 < n; i++) {
		X509 *below = sk_X509_value(chain, i), *above = sk_X509_value(chain, i + 1);

		if (X509_check_issued(above, below) == X509_V_OK)
			continue;
		doctor_wrong(d,
			     "the relay's own first, then each one's issuer; the root may be left "
			     "out",
			     "the chain is broken: certificate %d (of %s) is not issued by the "
			     "next one (of %s)",
			     i, doctor_subject(below, name), doctor_subject(above, other));
		sk_X509_pop_free(chain, X509_free);
		return false;
	}
	if (n > 0) {
		last = sk_X509_value(chain, n - 1);
		doctor_name(X509_get_issuer_name(last), name);
		if (X509_check_issued(last, last) == X509_V_OK && n == 1)
			doctor_warn(d, "fine for a trial; else get one from a CA",
				    "the certificate has signed itself: who connects needs this "
				    "very file as its CA");
		else
			doctor_ok(d,
				  "%d certificate%s, up to the issuer %s: that is the CA who "
				  "connects has to know",
				  n, n == 1 ? "" : "s", name);
	}
	sk_X509_pop_free(chain, X509_free);
	return true;
}

bool doctor_certificate_server(struct doctor *d, const char *certificate, const char *key)
{
	return !certificate ||
	       (check_pair(d, certificate, key, true) & check_chain(d, certificate));
}

/* ---- names ---- */

/* Its DNS names as a list; *exact: one at least has no wildcard. */
static void list_names(X509 *x, char names[NAMES_TEXT], bool *exact)
{
	GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	size_t used = 0;

	*names = '\0';
	*exact = false;
	for (int i = 0; i < sk_GENERAL_NAME_num(all) && used < NAMES_TEXT; i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(all, i);
		const char *text;
		int len;

		if (n->type != GEN_DNS)
			continue;
		text = (const char *)ASN1_STRING_get0_data(n->d.dNSName);
		len = ASN1_STRING_length(n->d.dNSName);
		*exact = *exact || !memchr(text, '*', (size_t)len);
		used += (size_t)snprintf(names + used, NAMES_TEXT - used, "%s%.*s",
					 used ? ", " : "", len, text);
	}
	GENERAL_NAMES_free(all);
}

static void say_names(struct doctor *d, X509 *own, const char *domain, bool sni)
{
	char names[NAMES_TEXT];
	bool exact;

	list_names(own, names, &exact);
	if (!*names)
		doctor_wrong(d, "get one with a DNS name as its subject alternative name",
			     "the certificate has no DNS name: nobody can verify it by one");
	else if (domain && X509_check_host(own, domain, 0, 0, NULL) != 1)
		doctor_warn(d,
			    "have the domain among the certificate's names; or who connects says "
			    "one that is in it (server_name)",
			    "the certificate is not for the domain %s, but for %s", domain, names);
	else if (sni && !domain && !exact)
		doctor_warn(d, "have the relay's own name, in full, in the certificate",
			    "the certificate has only wildcards (%s): at a listener with door sni "
			    "a name counts as the relay's own only if it stands there in full",
			    names);
	else if (sni)
		doctor_ok(d,
			  "%s. Services' names, SERVICE.OWNER.%s, need not be there: services show "
			  "certificates of their own, for which a wildcard has to be "
			  "*.OWNER.%s, since it stands for one label only",
			  names, domain ? domain : "DOMAIN", domain ? domain : "DOMAIN");
	else
		doctor_ok(d, "%s", names);
}

void doctor_certificate_names(struct doctor *d, const char *certificate, const char *domain,
			      bool sni)
{
	STACK_OF(X509) *chain = certificate ? doctor_certificates(certificate) : NULL;

	if (!chain)
		return;
	doctor_check(d, "names");
	doctor_about(d, "%s", certificate);
	say_names(d, sk_X509_value(chain, 0), domain, sni);
	sk_X509_pop_free(chain, X509_free);
}

/* ---- CAs ---- */

bool doctor_certificate_authorities(struct doctor *d, const char *ca_file)
{
	enum doctor_status now;

	if (!ca_file)
		return true;
	doctor_check(d, "ca");
	doctor_about(d, "%s", ca_file);
	now = doctor_authorities(d, ca_file);
	if (now == DOCTOR_OK)
		doctor_ok(d, "its CAs are good now");
	return now != DOCTOR_WRONG;
}
