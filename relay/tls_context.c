/*
 * tls_context: certificates and rules for many TLS connections.
 *
 * Theory of operation: a context is made once from files, is immutable afterwards and is shared by
 * all workers through an atomic reference count; every handshake holds a reference, so a reload
 * just makes a new one. Nothing is resumed: no tickets and no session cache, so nothing is carried
 * from one tenant's connection to another's. The CAs of a server's clients are in a store of
 * their own, or OpenSSL would complete the server's own chain from it. A context that cannot be
 * made says so in one line that names the file, OpenSSL's reason and what to do.
 */
#include "relay/tls_context.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "relay/identity.h"
#include "relay/tls.h"
#include "relay/trust.h"
#include "relay/why.h"

/*
 * One recv fetches two records; more measured slower (the cache). Given back while the connection
 * is idle.
 */
#define READ_AHEAD ((size_t)2 * SSL3_RT_MAX_PACKET_SIZE)

/*
 * As a client's preference: AES-128 is as strong as the key exchange before it and a quarter less
 * work than the AES-256 that OpenSSL would put first.
 */
static const char ciphersuites[] =
	"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

static void strings_free(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

/* Says why a file cannot be opened; 0 if it can. */
static int check_readable(const char *what, const char *path, char **why)
{
	FILE *f = fopen(path, "re");

	if (!f) {
		why_say(why, "cannot read %s %s: %s", what, path, strerror(errno));
		return -1;
	}
	fclose(f);
	return 0;
}

struct tls_context *tls_context_ref(struct tls_context *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

struct tls_context *tls_context_unref(struct tls_context *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	SSL_CTX_free(t->ssl);
	for (unsigned i = 0; i < t->n_trusts; i++)
		trust_unref(t->trusts[i]);
	strings_free(t->alpn);
	strings_free(t->names);
	free(t->offer);
	free(t);
	return NULL;
}

int tls_context_has_name(const struct tls_context *t, const char *name)
{
	for (size_t i = 0; t->names && t->names[i]; i++)
		if (strcasecmp(t->names[i], name) == 0)
			return 1;
	return 0;
}

static uint64_t end_of(const X509 *certificate)
{
	struct tm tm;
	time_t at;

	if (!ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm))
		return UINT64_MAX;
	at = timegm(&tm);
	return at > 0 ? (uint64_t)at : 0;
}

uint64_t tls_context_expires(const struct tls_context *t)
{
	const X509 *own = SSL_CTX_get0_certificate(t->ssl);
	uint64_t first = own ? end_of(own) : UINT64_MAX;
	STACK_OF(X509) *chain = NULL;

	SSL_CTX_get0_chain_certs(t->ssl, &chain);
	for (int i = 0; i < sk_X509_num(chain); i++) {
		uint64_t end = end_of(sk_X509_value(chain, i));

		if (end < first)
			first = end;
	}
	return first;
}

uint64_t tls_context_ca_expires(const struct tls_context *t)
{
	STACK_OF(X509) *all = X509_STORE_get1_all_certs(SSL_CTX_get_cert_store(t->ssl));
	uint64_t now = (uint64_t)time(NULL), first = UINT64_MAX, last = 0;
	int n = sk_X509_num(all); /* -1: NULL */

	for (int i = 0; i < n; i++) {
		uint64_t end = end_of(sk_X509_value(all, i));

		if (end > now && end < first)
			first = end;
		if (end > last)
			last = end;
	}
	sk_X509_pop_free(all, X509_free);
	return first < UINT64_MAX || n < 1 ? first : last;
}

const char *tls_context_alpn(const struct tls_context *t, const SSL *ssl)
{
	const unsigned char *name;
	unsigned len;

	SSL_get0_alpn_selected(ssl, &name, &len);
	for (size_t i = 0; name && t->alpn[i]; i++)
		if (strlen(t->alpn[i]) == len && memcmp(t->alpn[i], name, len) == 0)
			return t->alpn[i];
	return "";
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
		       const unsigned char *in, unsigned in_len, void *arg)
{
	const struct tls_context *t = arg;

	for (unsigned k = 0; k < t->n_offer; k += 1u + t->offer[k])
		for (unsigned i = 0; i < in_len && in_len - i > in[i]; i += 1u + in[i])
			if (in[i] == t->offer[k] && !memcmp(in + i, t->offer + k, 1u + in[i])) {
				*out = t->offer + k + 1;
				*out_len = t->offer[k];
				return SSL_TLSEXT_ERR_OK;
			}
	return SSL_TLSEXT_ERR_NOACK;
}

/* Copies the names and writes them as the wire has them. 0 or -1: no memory. */
static int set_alpn(struct tls_context *t, const char *const *alpn)
{
	size_t n = 0, size = 0;
	uint8_t *p;

	for (; alpn && alpn[n]; n++)
		size += 1 + strlen(alpn[n]);
	t->alpn = calloc(n + 1, sizeof(*t->alpn));
	t->offer = p = malloc(size + 1);
	if (!t->alpn || !p)
		return -1;
	t->n_offer = (unsigned)size;
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(alpn[i]); /* our own constants: far below 256 */

		*p++ = (uint8_t)len;
		memcpy(p, alpn[i], len);
		p += len;
		t->alpn[i] = strdup(alpn[i]);
		if (!t->alpn[i])
			return -1;
	}
	return 0;
}

/* What servers and clients have in common. NULL: no memory. */
static struct tls_context *context_new(const SSL_METHOD *method, const char *const *alpn)
{
	struct tls_context *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	atomic_init(&t->refs, 1);
	t->ssl = SSL_CTX_new(method);
	if (!t->ssl || set_alpn(t, alpn) < 0)
		return tls_context_unref(t);
	SSL_CTX_set_min_proto_version(t->ssl, TLS1_2_VERSION);
	SSL_CTX_set_ciphersuites(t->ssl, ciphersuites);
	SSL_CTX_set_options(t->ssl,
			    SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
	SSL_CTX_set_mode(t->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					 SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(t->ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_read_ahead(t->ssl, 1);
	SSL_CTX_set_default_read_buffer_len(t->ssl, READ_AHEAD);
	return t;
}

static int no_password(char *buf, int size, int writing, void *arg)
{
	return -1; /* and never a prompt on somebody's terminal */
}

/* Adds a name to the list if it is an exact one. 0 or -1. */
static int add_name(struct tls_context *t, size_t *n, const ASN1_STRING *s)
{
	const char *text = (const char *)ASN1_STRING_get0_data(s);
	size_t len = (size_t)ASN1_STRING_length(s);

	if (len == 0 || memchr(text, '*', len) || memchr(text, '\0', len))
		return 0;
	t->names[*n] = strndup(text, len);
	return t->names[*n] ? (++*n, 0) : -1;
}

/* Collects the exact DNS names; the common name speaks only if there is no DNS name at all. */
static int collect_names(struct tls_context *t)
{
	X509 *leaf = SSL_CTX_get0_certificate(t->ssl);
	GENERAL_NAMES *all = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	int count = all ? sk_GENERAL_NAME_num(all) : 0, r = 0;
	size_t n = 0;

	t->names = calloc((size_t)count + 2, sizeof(*t->names));
	if (!t->names)
		r = -1;
	for (int i = 0; r == 0 && i < count; i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);

		if (name->type == GEN_DNS)
			r = add_name(t, &n, name->d.dNSName);
	}
	if (r == 0 && !all) {
		X509_NAME *subject = X509_get_subject_name(leaf);
		int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

		if (at >= 0)
			r = add_name(t, &n,
				     X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	}
	GENERAL_NAMES_free(all);
	return r;
}

static int load_certificate(struct tls_context *t, const char *certificate, const char *key,
			    char **why)
{
	if (check_readable("the certificate", certificate, why) < 0 ||
	    check_readable("the private key", key, why) < 0)
		return -1;
	ERR_clear_error();
	if (SSL_CTX_use_certificate_chain_file(t->ssl, certificate) != 1) {
		why_say(why,
			"the certificate %s cannot be used: %s; it must be PEM: the certificate "
			"itself first, then those of the CAs above it",
			certificate, why_openssl("unknown reason"));
		return -1;
	}
	SSL_CTX_set_default_passwd_cb(t->ssl, no_password);
	if (SSL_CTX_use_PrivateKey_file(t->ssl, key, SSL_FILETYPE_PEM) != 1) {
		unsigned long e = ERR_peek_last_error();

		if (ERR_GET_LIB(e) == ERR_LIB_X509)
			goto mismatch;
		why_say(why,
			"the private key %s cannot be used: %s; it must be a PEM key without a "
			"password (openssl pkey -in KEY -out NEW takes one off)",
			key, why_openssl("unknown reason"));
		return -1;
	}
	if (SSL_CTX_check_private_key(t->ssl) != 1)
		goto mismatch;
	return 0;
mismatch:
	why_say(why,
		"the private key %s does not belong to the certificate %s: %s; if one of them "
		"was renewed, put its other half there too",
		key, certificate, why_openssl("unknown reason"));
	return -1;
}

static int identity_index = -1; /* of SSL's extra data */
static pthread_once_t identity_once = PTHREAD_ONCE_INIT;

static void free_identity(void *parent, void *identity, CRYPTO_EX_DATA *data, int index, long argl,
			  void *argp)
{
	identity_unref(identity);
}

static void make_index(void)
{
	identity_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_identity);
}

struct tls_context *tls_server_context_new(const char *certificate, const char *key,
					   const char *const *alpn, char **why)
{
	struct tls_context *t = context_new(TLS_server_method(), alpn);

	*why = NULL;
	pthread_once(&identity_once, make_index); /* before any thread can look at it */
	if (!t) {
		why_say(why, "cannot set up TLS: %s", why_openssl("unknown reason"));
		return NULL;
	}
	SSL_CTX_set_num_tickets(t->ssl, 0);
	SSL_CTX_set_alpn_select_cb(t->ssl, select_alpn, t);
	if (load_certificate(t, certificate, key, why) < 0)
		return tls_context_unref(t);
	if (collect_names(t) < 0) {
		why_say(why, "cannot read the names in the certificate %s: out of memory",
			certificate);
		return tls_context_unref(t);
	}
	ERR_clear_error();
	return t;
}

struct tls_context *tls_client_context_new(const char *ca_file, const char *const *alpn, char **why)
{
	struct tls_context *t = context_new(TLS_client_method(), alpn);

	*why = NULL;
	if (!t) {
		why_say(why, "cannot set up TLS: %s", why_openssl("unknown reason"));
		return NULL;
	}
	SSL_CTX_set_verify(t->ssl, SSL_VERIFY_PEER, NULL);
	if (t->n_offer && SSL_CTX_set_alpn_protos(t->ssl, t->offer, t->n_offer) != 0) {
		why_say(why, "cannot set up TLS: %s", why_openssl("unknown reason"));
		return tls_context_unref(t);
	}
	if (ca_file && check_readable("the CA file", ca_file, why) < 0)
		return tls_context_unref(t);
	ERR_clear_error();
	if (ca_file && SSL_CTX_load_verify_file(t->ssl, ca_file) != 1) {
		why_say(why,
			"the CA file %s cannot be used: %s; it must hold the certificate of a CA "
			"in PEM",
			ca_file, why_openssl("unknown reason"));
		return tls_context_unref(t);
	}
	if (!ca_file && SSL_CTX_set_default_verify_paths(t->ssl) != 1) {
		why_say(why, "cannot load the system's CA certificates: %s; name a CA file instead",
			why_openssl("unknown reason"));
		return tls_context_unref(t);
	}
	ERR_clear_error();
	return t;
}

int tls_client_context_identify(struct tls_context *t, const char *certificate, const char *key,
				char **why)
{
	*why = NULL;
	if (load_certificate(t, certificate, key, why) < 0)
		return -EINVAL;
	ERR_clear_error();
	return 0;
}

/* ---- clients' certificates ---- */

/* Instead of OpenSSL's own verification: its one store could not keep two trusts apart. */
static int verify_client(X509_STORE_CTX *ctx, void *context)
{
	const struct tls_context *t = context;
	SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
	int error = X509_V_ERR_UNSPECIFIED, other;
	struct identity *identity = NULL;

	for (unsigned i = 0; i < t->n_trusts && !identity; i++) {
		identity = trust_verify(t->trusts[i], X509_STORE_CTX_get0_cert(ctx),
					X509_STORE_CTX_get0_untrusted(ctx), &other);
		/* what the trust says that knows its CA is what people need to hear */
		if (i == 0 || other != X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)
			error = other;
	}
	if (identity && (identity_unref(SSL_get_ex_data(ssl, identity_index)),
			 SSL_set_ex_data(ssl, identity_index, identity) != 1)) {
		error = X509_V_ERR_OUT_OF_MEM;
		identity = identity_unref(identity);
	}
	X509_STORE_CTX_set_error(ctx, identity ? X509_V_OK : error);
	return identity ? 1 : 0;
}

struct identity *tls_context_identity(const SSL *ssl)
{
	if (identity_index < 0 || !SSL_is_server(ssl) || !SSL_get0_peer_certificate(ssl) ||
	    SSL_get_verify_result(ssl) != X509_V_OK)
		return NULL;
	return SSL_get_ex_data(ssl, identity_index);
}

int tls_server_context_ask(struct tls_context *t, struct trust *const trusts[], unsigned n)
{
	static const unsigned char no_session[] = "none is resumed";
	STACK_OF(X509_NAME) *all = sk_X509_NAME_new_null(); /* so that clients know what to show */

	for (unsigned i = 0; all && i < n; i++) {
		STACK_OF(X509_NAME) *names = trust_names(trusts[i]);
		X509_NAME *name;

		while (names && (name = sk_X509_NAME_shift(names)))
			if (!sk_X509_NAME_push(all, name))
				X509_NAME_free(name);
		sk_X509_NAME_free(names);
		t->trusts[t->n_trusts++] = trust_ref(trusts[i]);
	}
	if (!all || identity_index < 0) {
		sk_X509_NAME_pop_free(all, X509_NAME_free);
		return -ENOMEM;
	}
	SSL_CTX_set_client_CA_list(t->ssl, all);
	SSL_CTX_set_session_id_context(t->ssl, no_session, sizeof(no_session) - 1);
	SSL_CTX_set_cert_verify_callback(t->ssl, verify_client, t);
	SSL_CTX_set_verify(t->ssl, SSL_VERIFY_PEER, NULL);
	return 0;
}
