/*
 * token: the bearer secret of an owner. The agent holds the text, the relay only its SHA-256.
 *
 * The hash is of the exact text, so a token made elsewhere works too. A token is random, so one
 * round of SHA-256 is enough: there is nothing to guess.
 */
#ifndef RELAY_TOKEN_H
#define RELAY_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKEN_TEXT_MAX 256 /* longest token in bytes, with a NUL */
#define TOKEN_HASH_BYTES 32
#define TOKEN_HASH_TEXT (7 + 2 * TOKEN_HASH_BYTES + 1) /* "sha256:<hex>" and a NUL */

/* "art_" and 32 random bytes as base64url. 0 or -EIO: no randomness to be had. */
int token_new(char out[TOKEN_TEXT_MAX]) __attribute__((warn_unused_result));

/* 0 or -EIO: libcrypto could not hash; then out must not be compared with anything. */
int token_hash(const char *token, size_t len, uint8_t out[TOKEN_HASH_BYTES])
	__attribute__((warn_unused_result));
/* In constant time. */
bool token_equal(const uint8_t a[TOKEN_HASH_BYTES], const uint8_t b[TOKEN_HASH_BYTES]);
void token_format_hash(const uint8_t hash[TOKEN_HASH_BYTES], char out[TOKEN_HASH_TEXT]);

/*
 * Takes a token out of the text of its file: spaces and line ends around it are not part of it.
 * Printable ASCII without spaces, or it is refused. NULL; or what is wrong, a static line for
 * people, and out is untouched.
 */
const char *token_parse(const char *text, size_t len, char out[TOKEN_TEXT_MAX]);

/*
 * Reads a token from a file, as token_parse does. 0, with *exposed saying whether users other than
 * owner and group may read the file; or -errno with *why an allocated line for people (NULL: no
 * memory), to be freed by the caller, and out untouched. Wipe out with token_wipe when done.
 */
int token_read_file(const char *path, char out[TOKEN_TEXT_MAX], bool *exposed, char **why)
	__attribute__((warn_unused_result));
void token_wipe(char token[TOKEN_TEXT_MAX]);

#endif
