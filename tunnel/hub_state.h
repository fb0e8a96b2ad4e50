/*
 * hub_state: a tunnel as the relay's side knows it, and what the hub's files share.
 *
 * hub.c has a tunnel's life, hub_hello.c what its agent says and how that is judged, hub_log.c what
 * is said and recorded of it. Thread: each tunnel's own worker.
 */
#ifndef TUNNEL_HUB_STATE_H
#define TUNNEL_HUB_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "relay/audit.h"
#include "relay/client.h"
#include "relay/credentials.h"
#include "relay/gateway.h"
#include "relay/handshake.h"
#include "relay/registry.h"
#include "relay/timer.h"
#include "relay/token.h"
#include "tunnel/hello.h"

struct fields;
struct figure;
struct quota_entry;
struct session;
struct settings;
struct ws_opening;

enum tunnel_state { UPGRADING, ASKED, UP, MOVING, RETIRING, OVER };

struct tunnel {
	struct gateway *gateway;
	struct worker *worker;
	struct session *session;
	struct ws_opening *upgrade;
	enum tunnel_state state;
	uint64_t id, began;
	uint32_t slot;
	int32_t hello; /* the hello's stream */
	bool websocket, listed;
	bool answered; /* it has only asked, and was told; it was never to be listed */
	bool moved;    /* by our wish: its streams stay for as long as they live */
	struct client client;
	struct timer timer;
	struct handshake handshake;
	struct registration registration;
	struct listener *listener; /* a reference */
	/* What it has shown, to be judged again: the hash of its token, and client.identity. */
	bool by_token;
	uint8_t token[TOKEN_HASH_BYTES];
	char credential[65];             /* its label; "": none */
	uint64_t until;                  /* seconds since 1970: it is good until then */
	char owner[HELLO_LABEL_MAX];     /* "": not known yet */
	char (*offers)[HELLO_LABEL_MAX]; /* what it offers */
	unsigned n_offers;
	struct figure **figures;   /* of those, held while it is listed; NULL: no memory for it */
	struct quota_entry *quota; /* the owner's; NULL: not known yet */
	char instance[HELLO_INSTANCE_MAX];
	struct reapable reapable;
};

struct hub_worker {
	struct tunnel **slot;
	uint32_t slots;
	atomic_uint placed; /* tunnels, and those that are to be; any thread reads it */
};

static inline struct hub_worker *hub_of(const struct worker *w)
{
	return gateway_worker(w)->tunnels;
}

/* "OWNER/INSTANCE", with a ? for what is not known. */
void tunnel_label(const struct tunnel *t, char *buf, size_t size);
const char *tunnel_carrier(const struct tunnel *t); /* static */
void tunnel_record(const struct tunnel *t, enum audit_kind kind, enum reason why,
		   const char *detail, const char *services);
/* Of one that is listed and not over. */
void tunnel_tell(const struct tunnel *t, void (*fn)(const struct tunnel_facts *t, void *user),
		 void *user);
void tunnel_log_ended(const struct tunnel *t, enum reason why, const char *detail);

/* Tells the agent why, and closes. */
void tunnel_refuse(struct tunnel *t, enum hello_refusal word, enum reason why, const char *message);
/* The answer to the hello: the tunnel is up after it, or over. */
void tunnel_on_hello(struct tunnel *t, const struct fields *fields);
/* By the settings of now: would it be let in again, with all it offers? *words: why not. */
enum reason tunnel_judge_again(struct tunnel *t, const struct settings *s, uint64_t now,
			       const char **words);
const char *tunnel_credential_words(const struct tunnel *t, enum reason why); /* static */

/* Asks for a fresh session, here or elsewhere; this one goes on until then. */
void tunnel_ask_to_move(struct tunnel *t, enum hello_move why);
/* For worker_post: the tunnel of this id has a successor. id: malloc's, freed here. */
void tunnel_replaced(struct worker *w, void *id);
void tunnel_close(struct tunnel *t, enum reason why, const char *detail);

#endif
