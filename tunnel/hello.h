/*
 * hello: the control exchange of PROTOCOL.md sections 3, 4 and 6 as structs: who an agent is, what
 * it offers, what the relay made of it. Pure; both ends use it.
 *
 * Decoding trusts nothing: every value is checked and bounded, out is untouched on failure, and why
 * gets a line that the person at the other end can act on.
 */
#ifndef TUNNEL_HELLO_H
#define TUNNEL_HELLO_H

#include <stdbool.h>
#include <stdint.h>

#include "tunnel/session.h"

#define HELLO_ALPN "attest-relay/1"
#define HELLO_WEBSOCKET_PATH "/tunnel"
#define HELLO_WEBSOCKET_SUBPROTOCOL "attest-relay.v1"

#define HELLO_PATH "/attest-relay/1/hello"
#define HELLO_PATH_ACCEPTED "/attest-relay/1/accepted"
#define HELLO_PATH_REFUSED "/attest-relay/1/refused"
#define HELLO_PATH_MOVE "/attest-relay/1/move"

#define HELLO_ANSWER_MS 10000 /* the agent answers hello within; the relay decides within */
#define HELLO_SERVICES_MAX 64
#define HELLO_LABEL_MAX 64    /* one label, with its NUL */
#define HELLO_SERVICE_MAX 128 /* SERVICE.OWNER, with its NUL */
#define HELLO_INSTANCE_MAX 65 /* with its NUL */
#define HELLO_GENERATION_MAX (((uint64_t)1 << 63) - 1)
#define HELLO_MESSAGE_MAX 512 /* a refusal's message, with its NUL; longer ones are cut */
#define HELLO_WHY_MAX 160     /* why a decoder refused, with its NUL */

struct hello_offer {
	char name[HELLO_LABEL_MAX]; /* lower case */
	bool eager;
};

struct hello {
	const char *token; /* NULL: none sent. Secret. Decoded, it lies in the fields: not owned */
	char instance[HELLO_INSTANCE_MAX];
	uint64_t generation;
	bool question; /* only: would these be accepted? Nothing is offered */
	unsigned n_offers; /* at least one, each name once */
	struct hello_offer offers[HELLO_SERVICES_MAX];
};

bool hello_is_instance(const char *text); /* 1 to 64 of A-Z a-z 0-9 . _ - */

/* Appends to f (initialised by the caller). 0 or a negative errno of fields_add. */
int hello_encode(const struct hello *h, struct fields *f);
/* 0 or -EPROTO and why. The token is only looked at for its presence. */
int hello_decode(struct hello *h, const struct fields *f, char why[HELLO_WHY_MAX]);

struct hello_accepted {
	char owner[HELLO_LABEL_MAX];
	unsigned n_services;
	char services[HELLO_SERVICES_MAX][HELLO_SERVICE_MAX];
};

int hello_encode_accepted(const struct hello_accepted *a, struct fields *f);
int hello_decode_accepted(struct hello_accepted *a, const struct fields *f,
			  char why[HELLO_WHY_MAX]);

enum hello_refusal {
	HELLO_BAD_CREDENTIAL,
	HELLO_FORBIDDEN,
	HELLO_STALE,
	HELLO_LIMIT,
	HELLO_PROTOCOL,
	HELLO_OTHER, /* a word of a later version: taken as temporary */
	HELLO_REFUSALS
};

struct hello_refused {
	enum hello_refusal reason;
	char message[HELLO_MESSAGE_MAX]; /* printable ASCII or UTF-8, without control characters */
};

const char *hello_refusal_word(enum hello_refusal r);
/* bad-credential, forbidden, stale: nothing changes by itself, an agent is to wait a minute. */
bool hello_refusal_is_lasting(enum hello_refusal r);

int hello_encode_refused(const struct hello_refused *r, struct fields *f);
/* Never fails: a refusal without reason or message is one all the same. */
void hello_decode_refused(struct hello_refused *r, const struct fields *f);

enum hello_move { HELLO_MOVE_STREAM_IDS, HELLO_MOVE_DRAIN, HELLO_MOVE_OTHER, HELLO_MOVES };

const char *hello_move_word(enum hello_move m);
int hello_encode_move(enum hello_move m, struct fields *f);
enum hello_move hello_decode_move(const struct fields *f);

#endif
