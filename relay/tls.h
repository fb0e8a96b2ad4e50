/*
 * tls: TLS 1.2 and up over a plain socket, as a conduit (OpenSSL).
 *
 * EOF is close_notify; a FIN without one is -ECONNABORTED (an abort, never EOF). Renegotiation is
 * off. Ciphertext not yet taken by the socket is held in one pooled buffer: its bound.
 */
#ifndef RELAY_TLS_H
#define RELAY_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/reason.h"

struct conduit;
struct identity;
struct trust;
struct worker;

/* Certificates and rules for many connections. Shared between threads, reference-counted. */
struct tls_context;

/*
 * A server's context: PEM files of the chain and its key, and the ALPN names it answers to, best
 * first, NULL-terminated; a client that offers ALPN but none of these goes on without one.
 * NULL: *why is an allocated line for people (file, cause, what to do), to be freed by the caller.
 */
struct tls_context *tls_server_context_new(const char *certificate, const char *key,
					   const char *const *alpn, char **why);
/* A client's: always verifies chain and name. ca_file NULL: the system's CAs. */
struct tls_context *tls_client_context_new(const char *ca_file, const char *const *alpn,
					   char **why);
/* Client, before its first use: shows this to servers that ask. 0 or -EINVAL and *why. */
int tls_client_context_identify(struct tls_context *t, const char *certificate, const char *key,
				char **why);
/*
 * Server, before its first use: asks clients for a certificate that one of these trusts takes; it
 * keeps references. One that is shown and is not good fails the handshake; none is fine here: see
 * tls_conduit_identity. No session is ever resumed, so none skips this. 0 or -ENOMEM; then it can
 * only be freed.
 */
#define TLS_TRUSTS_MAX 2
int tls_server_context_ask(struct tls_context *t, struct trust *const trusts[], unsigned n);
struct tls_context *tls_context_ref(struct tls_context *t);
struct tls_context *tls_context_unref(struct tls_context *t); /* NULL is fine */

/* True if name is one of the exact DNS names in a server context's certificate. No wildcards. */
int tls_context_has_name(const struct tls_context *t, const char *name);
/* When the first of its certificates ends, in seconds since 1970. UINT64_MAX: it has none. */
uint64_t tls_context_expires(const struct tls_context *t);
/*
 * Client: when the first of the CAs that it trusts ends, of those that have not; if all have, when
 * the last did. A bundle may keep CAs that are over. UINT64_MAX: it has none, or no memory.
 */
uint64_t tls_context_ca_expires(const struct tls_context *t);

/* A handshake under way. */
struct tls_handshake;

/*
 * done is called once, from the loop: with a conduit the callee owns from then on, or with NULL,
 * the reason, and a line for people (valid during the call; never NULL then). fd is consumed in
 * every case. Client: name is sent as SNI (if it is no IP address) and verified.
 * NULL: out of memory; fd is closed and done is not called.
 */
typedef void tls_done(void *user, struct conduit *c, enum reason why, const char *detail);
struct tls_handshake *tls_accept(struct worker *w, int fd, struct tls_context *t, uint64_t ms,
				 tls_done *done, void *user);
struct tls_handshake *tls_connect(struct worker *w, int fd, struct tls_context *t,
				  const char *name, uint64_t ms, tls_done *done, void *user);
void tls_handshake_cancel(struct tls_handshake *h); /* closes fd, done is not called; NULL fine */

/* The ALPN name both sides agreed on, or "". Valid while the conduit lives. */
const char *tls_conduit_alpn(const struct conduit *c);
/* "TLSv1.3". Static. */
const char *tls_conduit_version(const struct conduit *c);
/*
 * A server's conduit: the CN of the certificate that the client has shown, in UTF-8; "" if it has
 * none, or one that is too long or has a NUL inside. Returns buf.
 */
const char *tls_conduit_subject(const struct conduit *c, char *buf, size_t size);
/*
 * A server's conduit: who the client is, by a certificate that it has shown and that was verified;
 * the conduit's. NULL: it has shown none, or was not asked.
 */
struct identity *tls_conduit_identity(const struct conduit *c);
/*
 * A failed conduit: the alert by which its peer ended it, in OpenSSL's words, or "". A TLS 1.3
 * server refuses a client's certificate this way, for it comes when the client's handshake is over
 * (the conduit's why is REASON_HANDSHAKE_FAILED then). Throws away what is unread.
 */
const char *tls_conduit_alert(struct conduit *c);
/* The same of any conduit, if its peer has so refused our certificate; else "". */
const char *tls_conduit_refusal(struct conduit *c);
/* The socket under the conduit (for getpeername, TCP options); stays the conduit's. */
int tls_conduit_socket(const struct conduit *c);

#endif
