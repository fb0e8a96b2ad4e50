/*
 * revoke: takes owners' certificates back: by serial, or all of an owner, in the folder's crl.pem.
 *
 * Plain blocking calls on local files. Any number of threads and processes at a time.
 */
#ifndef RELAY_REVOKE_H
#define RELAY_REVOKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/authority.h"

struct relay_config;

struct revoke_wish {
	const char *owner;    /* all that this one has, pending codes too; NULL: ... */
	char *const *serials; /* ... these, as people write them */
	size_t n_serials;
	int64_t now; /* seconds since 1970 */
	bool wait;   /* for another who revokes or renews just now */
	/* A record that cannot be read, and may be one of the owner's: its name. May be NULL. */
	void (*bad)(const char *name, void *arg);
	void *arg;
};

struct revoke_done {
	char (*serials)[AUTHORITY_SERIAL_TEXT]; /* all are in the list now; to be freed */
	size_t n;
	size_t codes; /* pending ones that were removed */
	size_t bad;   /* records that cannot be read */
};

/*
 * c has an enrolment, a is its CA. 0; or, with *why an allocated line (NULL: out of memory) and
 * *out untouched: -EINVAL: one is no serial; -EWOULDBLOCK: not waited for; or another -errno.
 */
int revoke_certificates(const struct relay_config *c, const struct authority *a,
			const struct revoke_wish *wish, struct revoke_done *out, char **why)
	__attribute__((warn_unused_result));

/* The list as it is, to be freed; NULL: there was never one. 0, or -errno with *why as above. */
int revoke_load_list(const struct relay_config *c, char **text, size_t *len, char **why)
	__attribute__((warn_unused_result));

#endif
