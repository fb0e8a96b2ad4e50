/*
 * doctor_tls: a TLS handshake that goes on whatever is wrong.
 *
 * Theory of operation: the daemon's own client context, so that CAs, versions and ALPN are what the
 * daemon has; but each fault that OpenSSL finds in the chain is noted and passed over, so that all
 * of them are known, and what answers behind. The socket does not block; between two steps the
 * worker's loop is turned, for there may be a proxy's TLS under the socket.
 *
 * Only the words of a WebSocket's opening are ever said, and what is answered is cut to lines.
 */
#include "tunnel/doctor_tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "relay/doctor.h"
#include "relay/doctor_file.h"
#include "relay/httphead.h"
#include "relay/tls.h"
#include "relay/tls_context.h"
#include "relay/why.h"
#include "relay/worker.h"
#include "tunnel/hello.h"
#include "tunnel/ws_handshake.h"

#define STEP_MS 10
#define NAMES_TEXT 300

/* ---- the handshake ---- */

static int on_certificate(int good, X509_STORE_CTX *ctx)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct doctor_tls *t = SSL_get_app_data(ssl);
	X509 *at = X509_STORE_CTX_get_current_cert(ctx);
	int error = X509_STORE_CTX_get_error(ctx);

	if (good)
		return 1;
	for (unsigned i = 0; i < t->n_faults; i++)
		if (t->fault[i].error == error)
			return 1;
	/* a chain without its end cannot be verified at the leaf either: that is one fault */
	if (error == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE && t->n_faults)
		return 1;
	if (t->n_faults == DOCTOR_TLS_FAULTS)
		return 1;
	if (at)
		X509_up_ref(at);
	t->fault[t->n_faults].error = error;
	t->fault[t->n_faults].depth = X509_STORE_CTX_get_error_depth(ctx);
	t->fault[t->n_faults++].at = at;
	return 1;
}

/* The server asks for a certificate, and its own has been judged: a stranger gets none. */
static int on_asked(SSL *ssl, void *probe)
{
	if (((const struct doctor_tls *)probe)->n_faults)
		SSL_certs_clear(ssl);
	return 1;
}

/* Until the socket is ready for what OpenSSL wants. False: it is too late. */
static bool await(struct worker *w, SSL *ssl, int error, uint64_t end)
{
	struct pollfd p = { .fd = SSL_get_fd(ssl),
			    .events = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN };

	while (doctor_now() < end) {
		worker_turn(w, false);
		if (poll(&p, 1, STEP_MS) != 0)
			return true;
	}
	return false;
}

/* Did OpenSSL only want to wait, and has it waited in time? Else why not is in t. */
static bool go_on(struct worker *w, SSL *ssl, int r, uint64_t end, struct doctor_tls *t)
{
	int error = SSL_get_error(ssl, r);
	unsigned long reason = ERR_peek_error();

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
		if (await(w, ssl, error, end))
			return true;
		snprintf(t->why, sizeof(t->why), "no answer in time");
	} else if (error == SSL_ERROR_SYSCALL ||
		   (ERR_GET_LIB(reason) == ERR_LIB_SSL &&
		    ERR_GET_REASON(reason) == SSL_R_UNEXPECTED_EOF_WHILE_READING)) {
		snprintf(t->why, sizeof(t->why), "the peer closed the connection");
	} else if (error == SSL_ERROR_ZERO_RETURN) {
		snprintf(t->why, sizeof(t->why), "the peer ended the connection in order");
	} else {
		t->unknown = ERR_GET_REASON(reason) == SSL_R_TLSV1_UNRECOGNIZED_NAME;
		snprintf(t->why, sizeof(t->why), "%s", why_openssl("unknown reason"));
	}
	return false;
}

static bool shake(struct worker *w, SSL *ssl, uint64_t end, struct doctor_tls *t)
{
	const unsigned char *alpn;
	unsigned len;
	int r;

	do {
		ERR_clear_error();
		r = SSL_connect(ssl);
	} while (r != 1 && go_on(w, ssl, r, end, t));
	if (r != 1)
		return false;
	t->shaken = true;
	t->version = SSL_get_version(ssl);
	t->sent = X509_chain_up_ref(SSL_get_peer_cert_chain(ssl));
	SSL_get0_alpn_selected(ssl, &alpn, &len);
	if (len < sizeof(t->alpn))
		memcpy(t->alpn, alpn ? alpn : (const unsigned char *)"", len);
	return true;
}

/* ---- the upgrade ---- */

static void copy(char *to, size_t size, struct httphead_slice from)
{
	snprintf(to, size, "%.*s", (int)from.len, from.at ? from.at : "");
}

static void read_answer(struct doctor_tls *t, const char *head, size_t len,
			const struct ws_handshake_terms *terms, const char *key)
{
	struct ws_handshake_heard heard = { 0 };
	struct httphead h;
	char date[64];
	struct tm tm = { 0 };

	t->upgraded = ws_handshake_judge_answer(head, len, terms, key, &heard) == WS_HANDSHAKE_GOOD;
	snprintf(t->status, sizeof(t->status), "%.*s", (int)strcspn(head, "\r\n"), head);
	if (httphead_parse_answer(head, len, &h) != HTTPHEAD_OK)
		return;
	copy(t->server, sizeof(t->server), httphead_get(&h, "Server"));
	copy(date, sizeof(date), httphead_get(&h, "Date"));
	if (strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &tm))
		t->date = timegm(&tm);
}

static void ask_for_upgrade(struct worker *w, SSL *ssl, const char *name, uint64_t end,
			    struct doctor_tls *t)
{
	static const struct ws_handshake_terms terms = {
		.path = HELLO_WEBSOCKET_PATH,
		.subprotocol = HELLO_WEBSOCKET_SUBPROTOCOL,
	};
	char key[WS_HANDSHAKE_KEY], say[WS_HANDSHAKE_SAY], head[HTTPHEAD_MAX + 1];
	size_t len, heard = 0;
	struct httphead h;
	int r;

	if (!ws_handshake_key(key))
		return;
	len = ws_handshake_request(say, name, &terms, key);
	if (!len)
		return;
	do {
		ERR_clear_error();
		r = SSL_write(ssl, say, (int)len);
	} while (r <= 0 && go_on(w, ssl, r, end, t));
	while (r > 0 && heard < HTTPHEAD_MAX) {
		do {
			ERR_clear_error();
			r = SSL_read(ssl, head + heard, (int)(HTTPHEAD_MAX - heard));
		} while (r <= 0 && go_on(w, ssl, r, end, t));
		heard += r > 0 ? (size_t)r : 0;
		if (httphead_parse_answer(head, heard, &h) != HTTPHEAD_MORE)
			break;
	}
	head[heard] = '\0';
	if (heard)
		read_answer(t, head, heard, &terms, key);
}

void doctor_tls_probe(struct doctor *d, struct worker *w, int fd, struct tls_context *context,
		      const char *name, bool upgrade, struct doctor_tls *t)
{
	uint64_t end = doctor_now() + doctor_ms(d, 0);
	SSL *ssl = SSL_new(context->ssl);

	*t = (struct doctor_tls){ .date = -1 };
	if (!ssl || !tls_expect(ssl, name) || SSL_set_fd(ssl, fd) != 1) {
		snprintf(t->why, sizeof(t->why), "out of memory");
	} else {
		SSL_set_app_data(ssl, t);
		SSL_set_verify(ssl, SSL_VERIFY_PEER, on_certificate);
		SSL_set_cert_cb(ssl, on_asked, t);
		if (shake(w, ssl, end, t) && upgrade)
			ask_for_upgrade(w, ssl, name, end, t);
		ERR_clear_error();
		SSL_shutdown(ssl); /* as far as it goes at once */
	}
	SSL_free(ssl);
	ERR_clear_error();
	close(fd);
}

void doctor_tls_deinit(struct doctor_tls *t)
{
	for (unsigned i = 0; i < t->n_faults; i++)
		X509_free(t->fault[i].at);
	sk_X509_pop_free(t->sent, X509_free);
	t->sent = NULL;
	t->n_faults = 0;
}

/* ---- what is said of it ---- */

static void list_names(X509 *x, char names[NAMES_TEXT])
{
	GENERAL_NAMES *all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	size_t used = 0;

	*names = '\0';
	for (int i = 0; i < sk_GENERAL_NAME_num(all) && used < NAMES_TEXT; i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(all, i);

		if (n->type == GEN_DNS)
			used += (size_t)snprintf(names + used, NAMES_TEXT - used, "%s%.*s",
						 used ? ", " : "", ASN1_STRING_length(n->d.dNSName),
						 (const char *)ASN1_STRING_get0_data(n->d.dNSName));
	}
	GENERAL_NAMES_free(all);
}

static void say_no_issuer(struct doctor *d, X509 *at, int depth, const char *ca_file)
{
	char name[DOCTOR_NAME_MAX] = "?", issuer[DOCTOR_NAME_MAX] = "?";

	if (at) {
		doctor_subject(at, name);
		doctor_name(X509_get_issuer_name(at), issuer);
	}
	doctor_wrong(d,
		     "name the CA that has issued it (--ca-file, ca_file); if that is not the "
		     "relay's CA, something in between breaks TLS open, and its operator has to "
		     "let this host pass",
		     "certificate %d of the chain (of %s, issued by %s) leads to no CA of %s",
		     depth, name, issuer, ca_file ? ca_file : "the system's");
}

static void say_fault(struct doctor *d, const struct doctor_tls *t, unsigned i, const char *name,
		      const char *ca_file)
{
	X509 *at = t->fault[i].at;
	char names[NAMES_TEXT];

	switch (t->fault[i].error) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		list_names(sk_X509_value(t->sent, 0), names);
		doctor_wrong(d,
			     "say a name that is in it (--server-name, server_name), or correct "
			     "the address",
			     "the certificate is not for %s, but for %s", name,
			     *names ? names : "no DNS name");
		break;
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
		say_no_issuer(d, at, t->fault[i].depth, ca_file);
		break;
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		if (at && doctor_validity(d, at) == DOCTOR_WRONG)
			break;
		/* fall through */
	default:
		doctor_wrong(d, "the relay's operator has to look at its certificates",
			     "certificate %d of the chain is not good: %s", t->fault[i].depth,
			     X509_verify_cert_error_string(t->fault[i].error));
	}
}

bool doctor_tls_say(struct doctor *d, const struct doctor_tls *t, const char *name,
		    const char *ca_file)
{
	char subject[DOCTOR_NAME_MAX], until[32];
	X509 *own;

	if (t->unknown) {
		doctor_wrong(d, "say the relay's own name (--server-name, server_name)",
			     "what answers knows no host %s", name);
		return false;
	}
	if (!t->shaken) {
		doctor_wrong(d,
			     "see that host and port are the relay's, and nothing in between "
			     "answers for it",
			     "the TLS handshake fails: %s", t->why);
		return false;
	}
	for (unsigned i = 0; i < t->n_faults; i++)
		say_fault(d, t, i, name, ca_file);
	if (t->n_faults)
		return false;
	own = sk_X509_value(t->sent, 0);
	if (doctor_validity(d, own) == DOCTOR_OK)
		doctor_ok(d, "%s; the certificate of %s is good, until %s", t->version,
			  doctor_subject(own, subject),
			  doctor_date(X509_get0_notAfter(own), until));
	return true;
}
