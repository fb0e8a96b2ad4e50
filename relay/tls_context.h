/* tls_context: what tls.c and tls_context.c share; see relay/tls.h for the contract. */
#ifndef RELAY_TLS_CONTEXT_H
#define RELAY_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stdatomic.h>

#include "relay/tls.h"

struct identity;
struct trust;

struct tls_context {
	atomic_uint refs;
	SSL_CTX *ssl;
	char **alpn;    /* NULL-terminated, best first; "" is never in it */
	char **names;   /* exact DNS names of the certificate, NULL-terminated; NULL: a client's */
	uint8_t *offer; /* alpn as the wire has it */
	unsigned n_offer;
	struct trust *trusts[TLS_TRUSTS_MAX]; /* a server that asks; others: none */
	unsigned n_trusts;
};

/* Who the client of a server's connection has shown to be; the connection's. NULL: nobody. */
struct identity *tls_context_identity(const SSL *ssl);

/* The context's own copy of the ALPN name that was agreed on, or "". */
const char *tls_context_alpn(const struct tls_context *t, const SSL *ssl);

/* A client expects a server of that name, or IP address. False: no memory, or no name. */
bool tls_expect(SSL *ssl, const char *name);

#endif
