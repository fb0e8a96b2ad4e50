/*
 * codes: what an owner types once to be given a certificate; and the folder of those pending.
 *
 * A code is 128 random bits in Crockford's base32, and two symbols by which most mistypings are
 * noticed before anybody is asked: XXXX-XXXX-XXXX-XXXX-XXXX-XXXX-XXXX. Read in any case, with or
 * without its dashes, O as 0, I and L as 1. The folder has only its SHA-256.
 *
 * Plain blocking calls on small local files. Any number of threads and processes at a time.
 */
#ifndef RELAY_CODES_H
#define RELAY_CODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODES_SYMBOLS 28
#define CODES_SIZE (CODES_SYMBOLS + 1)     /* as it is hashed: upper case, no dashes; a NUL */
#define CODES_TEXT (CODES_SYMBOLS + 6 + 1) /* as it is shown */
#define CODES_PENDING_MAX 1000 /* an operator's mistake in a loop; a look at all takes ms */
#define CODES_OWNER_MAX 64
#define CODES_LABEL_MAX 128 /* bytes of a label, with a NUL */

/* What a code is good for. */
struct codes_grant {
	char owner[CODES_OWNER_MAX];
	char label[CODES_LABEL_MAX]; /* whom it was given to, for people; "": not said */
	int64_t expires;             /* seconds since 1970 */
};

/* Wipe what these fill. 0 or -EIO: no random numbers to be had. */
int codes_new(char code[CODES_SIZE]) __attribute__((warn_unused_result));
void codes_show(const char code[CODES_SIZE], char text[CODES_TEXT]);
/* False: it is no code, or was mistyped. */
bool codes_read(const char *text, size_t len, char code[CODES_SIZE]);

/* UTF-8 without control characters, short enough. */
bool codes_is_label(const char *text);

/* Makes what is missing below an existing folder. 0 or -errno. */
int codes_prepare(const char *folder) __attribute__((warn_unused_result));
/* 0; -EDQUOT: CODES_PENDING_MAX are pending; or -errno. It survives a loss of power. */
int codes_add(const char *folder, const char code[CODES_SIZE], const struct codes_grant *grant)
	__attribute__((warn_unused_result));
/* 0; -ENOENT: unknown, used or expired; or -errno. */
int codes_look(const char *folder, const char code[CODES_SIZE], int64_t now,
	       struct codes_grant *grant) __attribute__((warn_unused_result));
/*
 * The same, and the code is used up, whatever becomes of it: of those who claim it at a time one
 * wins, and a crash after that does not bring it back. (A loss of power within seconds may.)
 */
int codes_claim(const char *folder, const char code[CODES_SIZE], int64_t now,
		struct codes_grant *grant) __attribute__((warn_unused_result));
/*
 * Who has claimed it has done what it is good for, or given up; until then a sweep takes it back.
 * 0; -ENOENT: one has, so it is good for nothing; or -errno.
 */
int codes_finish(const char *folder, const char code[CODES_SIZE])
	__attribute__((warn_unused_result));

/* Calls each for each one pending. 0 or -errno. */
int codes_each(const char *folder, int64_t now,
	       void (*each)(const struct codes_grant *grant, void *arg), void *arg);
/*
 * Removes those that have expired; with an owner, all of that owner. How many of that owner it has
 * removed, or -errno.
 */
int codes_sweep(const char *folder, int64_t now, const char *owner);

#endif
