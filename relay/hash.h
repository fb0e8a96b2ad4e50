/*
 * hash: SipHash-1-3, a keyed hash for tables whose keys come from strangers. Who does not know the
 * key cannot choose names that meet in one bucket. Not for anything that is sent or stored.
 */
#ifndef RELAY_HASH_H
#define RELAY_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash_key {
	uint64_t half[2];
};

/* A random one. 0 or -EIO: no randomness to be had. */
int hash_key_new(struct hash_key *key) __attribute__((warn_unused_result));

uint64_t hash_bytes(const struct hash_key *key, const void *data, size_t len);
uint64_t hash_string(const struct hash_key *key, const char *text);

#endif
