/* message: header blocks of a session: stream requests and answers, control exchanges. Private. */
#ifndef TUNNEL_MESSAGE_H
#define TUNNEL_MESSAGE_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/identity.h"
#include "tunnel/session.h"

struct fields;

#define EXCHANGES_MAX 8         /* control requests under way in a session */
#define EXCHANGE_BODY_MAX 16384 /* bytes of a body, all dropped; more ends the session */
#define MESSAGE_PATH_MAX 128
#define MESSAGE_ID_MAX 64
#define MESSAGE_RULE_MAX 64 /* a name in a config */
#define MESSAGE_WORD_MAX 31

/* A control request under way; id 0: free. */
struct exchange {
	int32_t id;
	uint32_t body;
	bool answered;
};

enum message_method { MESSAGE_METHOD_NONE, MESSAGE_CONNECT, MESSAGE_POST, MESSAGE_OTHER };

/* HTTP/2 never interleaves header blocks, so one of these is enough for a session. */
struct message {
	enum message_method method;
	int status;
	unsigned n;
	size_t bytes;
	struct fields *fields; /* of a control message; made at its first field */
	char authority[SESSION_AUTHORITY_MAX + 1]; /* "": none, or too long */
	char path[MESSAGE_PATH_MAX];
	/* of a stream's request: struct client_words */
	char id[MESSAGE_ID_MAX + 1];
	char client[PEER_TEXT_MAX];
	char asked[SESSION_AUTHORITY_MAX + 1];
	char names[IDENTITY_TEXT_MAX];
	char rule[MESSAGE_RULE_MAX + 1];
	char word[MESSAGE_WORD_MAX + 1]; /* attest-reason, of an answer to a stream */
};

/* nghttp2's callbacks. */
int message_begin(nghttp2_session *h2, const nghttp2_frame *frame, void *session);
int message_field(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name,
		  size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
		  void *session);

/* A request for a stream. Fills nv and returns how many there are. */
#define MESSAGE_CONNECT_FIELDS 7
size_t message_connect(nghttp2_nv nv[MESSAGE_CONNECT_FIELDS], const char *authority,
		       const struct client_words *words);

void message_end(struct session *s, const nghttp2_frame *frame); /* the block is complete */
void message_deinit(struct message *m);

/* A chunk of a body that is no stream's: counted and dropped. */
void exchange_body(struct session *s, int32_t id, size_t len);
void exchange_closed(struct session *s, int32_t id);
unsigned exchange_count(const struct session *s);

/* Server: an answer without a body has gone out. */
void message_answered(struct session *s, int32_t id);

#endif
