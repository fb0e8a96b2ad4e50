/* tls_context: what tls.c and tls_context.c share; see relay/tls.h for the contract. */
#ifndef RELAY_TLS_CONTEXT_H
#define RELAY_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stdatomic.h>

struct tls_context {
	atomic_uint refs;
	SSL_CTX *ssl;
	char **alpn;    /* NULL-terminated, best first; "" is never in it */
	char **names;   /* exact DNS names of the certificate, NULL-terminated; NULL: a client's */
	uint8_t *offer; /* alpn as the wire has it */
	unsigned n_offer;
};

/* The context's own copy of the ALPN name that was agreed on, or "". */
const char *tls_context_alpn(const struct tls_context *t, const SSL *ssl);

#endif
