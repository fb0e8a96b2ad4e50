/*
 * hash: SipHash-1-3.
 *
 * Theory of operation: as in "SipHash: a fast short-input PRF" by Aumasson and Bernstein, with one
 * round for each word of eight bytes and three at the end: what languages use for their own tables,
 * where the hash itself is never seen. Words are little-endian everywhere.
 */
#include "relay/hash.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

int hash_key_new(struct hash_key *key)
{
	struct hash_key k;

	if (getrandom(&k, sizeof(k), 0) != (ssize_t)sizeof(k))
		return -EIO;
	*key = k;
	return 0;
}

static uint64_t rotate(uint64_t x, unsigned bits)
{
	return x << bits | x >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

static void take_word(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

uint64_t hash_bytes(const struct hash_key *key, const void *data, size_t len)
{
	/* the letters of "somepseudorandomlygeneratedbytes" */
	uint64_t v[4] = { key->half[0] ^ 0x736f6d6570736575, key->half[1] ^ 0x646f72616e646f6d,
			  key->half[0] ^ 0x6c7967656e657261, key->half[1] ^ 0x7465646279746573 };
	const uint8_t *p = data, *tail = p + len - len % 8;
	uint64_t word = 0;

	for (; p < tail; p += 8) {
		memcpy(&word, p, 8);
		take_word(v, le64toh(word));
	}
	word = (uint64_t)len << 56;
	for (size_t i = 0; i < len % 8; i++)
		word |= (uint64_t)tail[i] << 8 * i;
	take_word(v, word);
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_string(const struct hash_key *key, const char *text)
{
	return hash_bytes(key, text, strlen(text));
}
