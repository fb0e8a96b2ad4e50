/*
 * failures: the last refusals, and ends that were none in order, for people who ask why.
 *
 * Noted with their audit records (audit_write), whether these are written anywhere or not. One for
 * the process. Any thread; nobody waits: where two come at the same moment, one is only counted.
 */
#ifndef RELAY_FAILURES_H
#define RELAY_FAILURES_H

#include <stddef.h>
#include <stdint.h>

#include "relay/reason.h"

struct audit_record;

#define FAILURES_MAX 256

struct failure {
	uint64_t number;   /* 1, 2, ... */
	uint64_t at_ms;    /* since 1970 */
	uint64_t id;       /* of the stream or tunnel; 0: it got none */
	const char *event; /* the audit record's, static */
	enum reason why;
	char listener[65], client[128], service[136], tunnel[136], detail[256]; /* or "" */
};

void failures_note(const struct audit_record *r);
/* The last ones, the newest first. Returns how many. */
size_t failures_read(struct failure to[FAILURES_MAX]);
uint64_t failures_unnoted(void); /* that were only counted */

#endif
