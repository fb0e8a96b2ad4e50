/*
 * tls_conduit: what the parts of the TLS conduit share; see relay/tls.h for the contract.
 *
 * tls.c has the conduit, tls_bio.c the out buffer and OpenSSL's way to the socket, tls_handshake.c
 * the way to an open conduit. The theory of operation is in tls.c.
 */
#ifndef RELAY_TLS_CONDUIT_H
#define RELAY_TLS_CONDUIT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/conduit.h"
#include "relay/edge.h"
#include "relay/timer.h"
#include "relay/worker.h"

struct tls_handshake;

#define TLS_ALPN_MAX 32 /* our own names, with their NUL */

struct tls_conduit {
	struct conduit base; /* first: cast both ways */
	struct edge edge;     /* the socket's watch */
	struct deferred tell; /* what the owner has not used up; the handshake's first step */
	struct timer timer;   /* of the handshake, or of closing */
	struct reapable reapable;
	SSL *ssl;
	struct tls_context *context; /* while the handshake is under way */
	char alpn[TLS_ALPN_MAX];     /* what it agreed on; "": nothing */
	struct tls_handshake *h; /* while the handshake is under way */
	uint8_t *out;
	uint32_t out_start, out_end;
	int fd;
	int error;             /* -errno of a failed recv, or of an allocation in the BIO */
	int broken;            /* -errno of a failed send */
	uint32_t key_updates;  /* of the peer's, in the second that began at ... */
	uint64_t key_updates_at; /* ... worker_now */
	uint8_t alert;	       /* by which the peer ended it, 0: by none */
	uint8_t wanted; /* events the owner wants */
	uint8_t hungry : 1, drained : 1, eof : 1 /* TCP's */;
	uint8_t wary : 1;       /* a short read may not be the last: as in fd.c */
	uint8_t aborted : 1;    /* by the peer, and nobody has been told */
	uint8_t blocked : 1;    /* reading waits until the out buffer is empty */
	uint8_t full : 1;       /* the socket takes nothing until its edge says so */
	uint8_t little : 1;     /* out is malloc's, and has room for no more */
	uint8_t close_sent : 1; /* close_notify is in the out buffer or gone */
	uint8_t fin_sent : 1, closing : 1;
};

extern const struct conduit_ops tls_ops;

static inline size_t tls_out_len(const struct tls_conduit *t)
{
	return t->out_end - t->out_start;
}

/* Hands the out buffer to the socket, as far as it takes it. */
void tls_flush(struct tls_conduit *t);
void tls_out_drop(struct tls_conduit *t);
/*
 * Of OpenSSL's: counts the peer's key updates. Each costs new keys and perhaps an answer, and one
 * read may meet any number of them; a peer in its senses has one for each so many gigabytes.
 */
#define TLS_KEY_UPDATES 32 /* a second: more break the connection, as a protocol error */
void tls_on_message(int sent, int version, int type, const void *data, size_t len, SSL *ssl,
		    void *conduit);
/* OpenSSL's way to the conduit's socket. NULL: no memory. */
BIO *tls_bio_new(struct tls_conduit *t);

/* Watches the socket, for as long as the worker stays the same. 0 or -errno. */
int tls_watch(struct tls_conduit *t);
/* Throws away what has come in; true when the peer has ended or is gone. */
bool tls_discard(struct tls_conduit *t);
/* Closes the socket now; the memory goes at the end of the turn. */
void tls_end(struct tls_conduit *t, bool reset);
/* Deferred: the next step, or what is due to the owner. */
void tls_tell(struct deferred *d);
/* For the reaper. */
void tls_free(struct reapable *r);

/* An alert of the peer's: what it says; whether it refuses our certificate. */
const char *tls_alert_text(unsigned alert);
bool tls_alert_is_about_certificate(unsigned alert);

/* Goes on with t->h; t may be over, or have an owner, afterwards. */
void tls_handshake_step(struct tls_conduit *t);

#endif
