/*
 * audit: one record for each stream, tunnel and refusal: who, what, when, how much, and why it
 * ended.
 *
 * Never payload, never secrets, nor their hashes. Unlike log lines, records are complete: a storm
 * of refusals is a storm of records, bounded by the sink's queue. Thread-safe; never waits.
 */
#ifndef RELAY_AUDIT_H
#define RELAY_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "relay/audit_sink.h"
#include "relay/counter.h"
#include "relay/reason.h"

enum audit_kind {
#define AUDIT(symbol, word, counted, priority, id, explanation) AUDIT_##symbol,
#include "relay/audit.def"
#undef AUDIT
	AUDIT_KINDS
};

/*
 * What is known; a text that is NULL or "" is left out, and so are numbers that say nothing of this
 * kind. Texts may come from strangers, and are read during the call only.
 */
struct audit_record {
	enum audit_kind kind;
	enum reason why; /* NONE: it is not over */
	uint64_t id;     /* of the stream, or of the tunnel's session; 0: it got none */
	uint64_t bytes_up, bytes_down, streams, duration_ms;
	const char *listener, *door, *carrier;
	const char *client;          /* the address of who came: a client, or an agent */
	const char *via_proxy;       /* the address of the proxy that said so */
	const char *client_rule;     /* which rule of the config allowed it */
	const char *client_identity; /* the name in the certificate that it proved */
	const char *credential;      /* what the config calls the credential that it proved */
	const char *service, *services, *owner; /* services: what a tunnel offers */
	const char *target, *target_address;    /* as the config has it; where that was found */
	const char *tunnel;                     /* OWNER/INSTANCE */
	const char *serial; /* of a certificate that was issued */
	const char *detail;
};

struct audit;

/* The word of a kind: static. */
const char *audit_event(enum audit_kind kind);

/*
 * 0 and *to, NULL if the config wants none; or -1 and *why (allocated; NULL: out of memory).
 * auto asks the log where it goes, so that is set up before.
 */
int audit_start(struct audit **to, const struct audit_config *config, char **why);
/* Queued and written up to now is written, for a few seconds at most. NULL is fine. */
void audit_stop(struct audit *a);

/*
 * Counts and records in one: nobody is refused, and no session ends, with one and not the other.
 * a may be NULL: then it is only counted. count: the calling worker's; NULL: the kind has none.
 */
void audit_write(struct audit *a, struct counters *count, const struct audit_record *r);

void audit_reopen(struct audit *a); /* the file has been renamed; NULL is fine */
struct audit_counts audit_counts(const struct audit *a); /* NULL: all 0 */

/* A record as it leaves, with its newline: JSON, or the journal's native protocol. For tests. */
size_t audit_format(const struct audit_record *r, bool journal, uint64_t lost,
		    char text[AUDIT_RECORD_MAX]);

#endif
