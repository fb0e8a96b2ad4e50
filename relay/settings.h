/*
 * settings: a config in effect, with all that is made from it: who has which credential, who may
 * open what, the TLS contexts. Immutable and counted: a reload makes new ones, and whoever began
 * under the old ones may finish with them.
 *
 * Each worker has its own reference (gateway_settings), exchanged in its own thread.
 */
#ifndef RELAY_SETTINGS_H
#define RELAY_SETTINGS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/credentials.h"
#include "relay/permit.h"
#include "relay/reason.h"

struct client;
struct destination;
struct identity;
struct named;
struct named;
struct tls_context;
struct trust;

struct settings {
	atomic_uint refs;
	struct relay_config *config;
	uint64_t generation; /* 1: the first ones */
	uint64_t files;	     /* settings_files, before they were read */
	struct credentials *credentials;
	struct permits *permits;
	struct trust *owners; /* the relay's own CA for owners; NULL: there is none */
	struct named *named;  /* its services, for the main thread */
	bool revokes;         /* with a revocation list of its own */
	bool tells_clients;   /* some service's targets are sent PROXY headers */
	/* By index of config->listeners, as many; NULL in it: none there. */
	struct trust **trusts;
	struct tls_context **tls;
	/* By index of config->services; behind them, of all others. */
	struct destination **destinations;
};

/*
 * Takes a reference to c. before: those in effect, which it is to replace; NULL: the first ones.
 * NULL, and *why is what is wrong, allocated; or NULL: out of memory.
 */
struct settings *settings_new(struct relay_config *c, const struct settings *before, char **why);
struct settings *settings_ref(struct settings *s);
struct settings *settings_unref(struct settings *s); /* NULL is fine; returns NULL */

/* Of a service that s->config has, or NULL. */
static inline struct destination *settings_destination(const struct settings *s,
						       const struct service_config *service)
{
	return s->destinations[service ? (size_t)(service - s->config->services)
				       : s->config->n_services];
}

/* The relay's own TLS at a listener of this index; NULL: none there. */
static inline struct tls_context *settings_tls(const struct settings *s, size_t listener)
{
	return s->tls ? s->tls[listener] : NULL;
}

/*
 * The certificates, keys, CAs and revocation lists that c names, by the look of their files:
 * another number when one of them has been written, replaced, removed or linked elsewhere.
 */
uint64_t settings_files(const struct relay_config *c);

/* Seconds since 1970. */
uint64_t settings_now(void);

/*
 * Is a certificate that was verified at the listener of this name still good: REASON_NONE, EXPIRED
 * or REVOKED? By the CA and the list that the listener has now; if there is no such listener any
 * more, it goes on as it was found when there was, unless the list of any other revokes it. NULL:
 * nothing to lose, REASON_NONE.
 */
enum reason settings_judge_identity(const struct settings *s, const char *listener,
				    const struct identity *i, uint64_t now);

/*
 * May it open a stream to service: REASON_NONE, FORBIDDEN, EXPIRED or REVOKED? peer: NULL if
 * it is not known. *by: the entry of clients that allows it, or NULL; lives as long as s.
 */
enum reason settings_judge_stream(const struct settings *s, const char *listener,
				  const struct peer *peer, const struct identity *i,
				  const char *service, uint64_t now,
				  const struct client_config **by);

#endif
