/*
 * tls_handshake: from a socket to an open TLS conduit, or to a line that says why not.
 *
 * Theory of operation: tls_accept and tls_connect make the conduit at once, without an owner; its
 * first step is deferred work, the next ones run when the socket fires, until done() is called,
 * once. On failure OpenSSL's alert is sent if the socket takes it, and the socket is closed. A
 * client checks the result of the verification once more by itself: without a verified certificate
 * there is no conduit. Bounded by one timer.
 */
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "relay/tls.h"
#include "relay/tls_conduit.h"
#include "relay/tls_context.h"

struct tls_handshake {
	struct tls_conduit *t;
	tls_done *done;
	void *user;
	uint64_t ms;
	bool client;
	char name[]; /* a client's: whom it expects */
};

static void handshake_fail(struct tls_conduit *t, enum reason why, const char *detail)
{
	struct tls_handshake *h = t->h;

	tls_flush(t);   /* our alert */
	tls_discard(t); /* unread bytes would make the kernel send RST over it */
	tls_end(t, false);
	h->done(h->user, NULL, why, detail);
}

static void on_handshake_timer(struct timer *timer)
{
	struct tls_conduit *t =
		(struct tls_conduit *)((char *)timer - offsetof(struct tls_conduit, timer));
	char text[128];

	snprintf(text, sizeof(text), "no TLS handshake within %llu ms: the peer %s",
		 (unsigned long long)t->h->ms,
		 t->h->client ? "does not speak TLS here, or is overloaded" : "stays silent");
	handshake_fail(t, REASON_HANDSHAKE_TIMEOUT, text);
}

const char *tls_alert_text(unsigned alert)
{
	const char *text =
		ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, SSL_AD_REASON_OFFSET + alert));

	return text ? text : "unknown alert";
}

bool tls_alert_is_about_certificate(unsigned alert)
{
	switch (alert) {
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_CERTIFICATE_EXPIRED:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_ACCESS_DENIED:
	case SSL_AD_CERTIFICATE_REQUIRED:
		return true;
	default:
		return false;
	}
}

/* Why a client's certificate was not accepted, and what its owner can do about it. */
static void explain_client(long result, char *text, size_t size)
{
	const char *hint = "";

	switch (result) {
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
		hint = "; it must come from a CA that clients may have here";
		break;
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		hint = "; it has to be renewed, or this machine's clock set";
		break;
	case X509_V_ERR_INVALID_PURPOSE:
		hint = "; it is not for clients (extendedKeyUsage clientAuth)";
		break;
	default:
		break;
	}
	snprintf(text, size, "the client's certificate is not accepted: %s%s",
		 X509_verify_cert_error_string(result), hint);
}

/* Why the server's certificate was not accepted, and what to do about it. */
static void explain_verify(const struct tls_handshake *h, long result, char *text, size_t size)
{
	const char *hint = "";

	switch (result) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		snprintf(text, size,
			 "the peer's certificate is not for %s; connect by a name that is in it",
			 h->name);
		return;
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
		hint = "; name the relay's CA (--ca-file, ca_file)";
		break;
	case X509_V_ERR_CERT_HAS_EXPIRED:
		hint = "; renew it, or set this machine's clock";
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		hint = "; is this machine's clock right?";
		break;
	default:
		break;
	}
	snprintf(text, size, "certificate verify failed: %s%s",
		 X509_verify_cert_error_string(result), hint);
}

static void explain(const struct tls_conduit *t, int ssl_error, char *text, size_t size)
{
	unsigned long e = ERR_peek_error();
	const char *reason = ERR_reason_error_string(e);
	int number = ERR_GET_LIB(e) == ERR_LIB_SSL ? ERR_GET_REASON(e) : 0;
	unsigned alert =
		number > SSL_AD_REASON_OFFSET ? (unsigned)number - SSL_AD_REASON_OFFSET : 0;

	if (t->error == -ENOMEM)
		snprintf(text, size, "out of memory");
	else if (t->error || t->broken)
		snprintf(text, size, "the connection broke during the TLS handshake: %s",
			 strerror(t->error ? -t->error : -t->broken));
	else if (number == SSL_R_CERTIFICATE_VERIFY_FAILED && t->h->client)
		explain_verify(t->h, SSL_get_verify_result(t->ssl), text, size);
	else if (number == SSL_R_CERTIFICATE_VERIFY_FAILED)
		explain_client(SSL_get_verify_result(t->ssl), text, size);
	else if (t->eof)
		snprintf(text, size, "the peer closed the connection during the TLS handshake");
	else if (number == SSL_R_WRONG_VERSION_NUMBER || number == SSL_R_HTTP_REQUEST ||
		 number == SSL_R_HTTPS_PROXY_REQUEST || number == SSL_R_PACKET_LENGTH_TOO_LONG ||
		 number == SSL_R_BAD_RECORD_TYPE || number == SSL_R_UNKNOWN_PROTOCOL)
		snprintf(text, size, "the peer does not speak TLS here");
	else if (alert)
		snprintf(text, size, "the peer refused %s: %s",
			 tls_alert_is_about_certificate(alert) ? "this side's certificate"
							       : "the TLS handshake",
			 tls_alert_text(alert));
	else
		snprintf(text, size, "the TLS handshake failed: %s", reason ? reason : "error");
}

static void handshake_done(struct tls_conduit *t)
{
	struct tls_handshake *h = t->h;
	char text[256];

	if (h->client &&
	    (SSL_get_verify_result(t->ssl) != X509_V_OK || !SSL_get0_peer_certificate(t->ssl))) {
		explain_verify(h, SSL_get_verify_result(t->ssl), text, sizeof(text));
		handshake_fail(t, REASON_HANDSHAKE_FAILED, text);
		return;
	}
	timer_cancel(t->base.worker, &t->timer);
	t->h = NULL;
	/*
	 * CAs and lists of revoked ones are large, and connections outlast many reloads. What the
	 * context is called for is over: there is no second handshake, and no certificate later.
	 */
	snprintf(t->alpn, sizeof(t->alpn), "%s", tls_context_alpn(t->context, t->ssl));
	t->context = tls_context_unref(t->context);
	h->done(h->user, &t->base, REASON_NONE, "");
	free(h);
}

void tls_handshake_step(struct tls_conduit *t)
{
	char text[256];
	int r, error;

	ERR_clear_error();
	t->blocked = 0;
	r = SSL_do_handshake(t->ssl);
	error = SSL_get_error(t->ssl, r);
	tls_flush(t);
	if (r == 1 && !t->broken) {
		handshake_done(t);
		return;
	}
	if (t->broken || (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)) {
		explain(t, error, text, sizeof(text));
		handshake_fail(t, REASON_HANDSHAKE_FAILED, text);
		return;
	}
	if (error == SSL_ERROR_WANT_WRITE && !t->out) { /* the socket has taken it meanwhile */
		worker_defer(t->base.worker, &t->tell);
		return;
	}
}

/* SNI for names, verification for names and addresses. */
bool tls_expect(SSL *ssl, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	uint8_t ip[16];

	if (inet_pton(AF_INET, name, ip) == 1 || inet_pton(AF_INET6, name, ip) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1;
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return name[0] && X509_VERIFY_PARAM_set1_host(param, name, 0) == 1 &&
	       SSL_set_tlsext_host_name(ssl, name) == 1;
}

static struct tls_handshake *start(struct worker *w, int fd, struct tls_context *context,
				   const char *name, uint64_t ms, tls_done *done, void *user)
{
	size_t len = name ? strlen(name) : 0;
	struct tls_conduit *t = calloc(1, sizeof(*t));
	struct tls_handshake *h = malloc(sizeof(*h) + len + 1);
	BIO *bio = NULL;

	if (!t || !h)
		goto fail;
	*h = (struct tls_handshake){
		.t = t, .done = done, .user = user, .ms = ms, .client = name != NULL
	};
	memcpy(h->name, name ? name : "", len + 1);
	conduit_init(&t->base, &tls_ops, w);
	t->fd = fd;
	t->h = h;
	t->tell.run = tls_tell;
	t->reapable.free = tls_free;
	ERR_clear_error();
	t->ssl = SSL_new(context->ssl);
	bio = tls_bio_new(t);
	if (!t->ssl || !bio || (name && !tls_expect(t->ssl, name)) || tls_watch(t) < 0)
		goto fail;
	SSL_set_bio(t->ssl, bio, bio);
	SSL_set_msg_callback(t->ssl, tls_on_message);
	SSL_set_msg_callback_arg(t->ssl, t);
	if (name)
		SSL_set_connect_state(t->ssl);
	else
		SSL_set_accept_state(t->ssl);
	t->context = tls_context_ref(context);
	timer_set(w, &t->timer, ms, on_handshake_timer);
	worker_defer(w, &t->tell);
	return h;
fail:
	if (t) {
		SSL_free(t->ssl);
		if (t->base.worker)
			conduit_deinit(&t->base);
	}
	BIO_free(bio);
	free(t);
	free(h);
	close(fd);
	return NULL;
}

struct tls_handshake *tls_accept(struct worker *w, int fd, struct tls_context *t, uint64_t ms,
				 tls_done *done, void *user)
{
	return start(w, fd, t, NULL, ms, done, user);
}

struct tls_handshake *tls_connect(struct worker *w, int fd, struct tls_context *t, const char *name,
				  uint64_t ms, tls_done *done, void *user)
{
	return start(w, fd, t, name, ms, done, user);
}

void tls_handshake_cancel(struct tls_handshake *h)
{
	if (h)
		tls_end(h->t, false);
}
