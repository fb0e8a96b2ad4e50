/*
 * doctor_tls: a TLS handshake that goes on whatever is wrong with the server's certificate, to see
 * all that is; and what answers behind it.
 *
 * For a doctor only: nothing that is secret is ever said in it, and no certificate of ours shown.
 */
#ifndef TUNNEL_DOCTOR_TLS_H
#define TUNNEL_DOCTOR_TLS_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <time.h>

struct doctor;
struct tls_context;
struct worker;

#define DOCTOR_TLS_FAULTS 4 /* further ones are not kept */

struct doctor_tls {
	bool shaken;
	char why[256]; /* not shaken: what happened */
	bool unknown;  /* ... the server has refused the name it was asked for */
	struct {
		int error; /* X509_V_ERR_... */
		int depth; /* 0: the server's own */
		X509 *at;
	} fault[DOCTOR_TLS_FAULTS];
	unsigned n_faults;
	STACK_OF(X509) * sent; /* by the server, its own first */
	const char *version;   /* static */
	char alpn[64];         /* "": none */
	/* Only if an upgrade was asked for: */
	bool upgraded;    /* to a tunnel's WebSocket */
	char status[128]; /* line of another answer; "": none */
	char server[128]; /* who says that it answers; "": nobody */
	time_t date;      /* by its clock; -1: it does not say */
};

/* fd, consumed: where TLS begins. t is to be deinited. */
void doctor_tls_probe(struct doctor *d, struct worker *w, int fd, struct tls_context *context,
		      const char *name, bool upgrade, struct doctor_tls *t);
void doctor_tls_deinit(struct doctor_tls *t);

/* Lines on the handshake and the chain. True: the daemon would take it. */
bool doctor_tls_say(struct doctor *d, const struct doctor_tls *t, const char *name,
		    const char *ca_file);

#endif
