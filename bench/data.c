/*
 * data: pseudo-random bytes by position.
 *
 * Theory of operation: word n of a stream is the n-th output of splitmix64 with that seed, which
 * can be computed without the ones before it. So both ends work on pieces of any size at any
 * position and keep nothing but the position.
 */
#include "bench/data.h"

#include <endian.h>
#include <string.h>

static uint8_t chunk[DATA_CHUNK];

static uint64_t mix(uint64_t seed, uint64_t n)
{
	uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static uint64_t word(uint64_t seed, uint64_t n)
{
	return htole64(mix(seed, n));
}

static uint8_t byte(uint64_t seed, uint64_t at)
{
	return (uint8_t)(mix(seed, at / 8) >> (at % 8 * 8));
}

void data_init(void)
{
	data_fill(3, 0, chunk, sizeof(chunk));
}

const uint8_t *data_chunk(void)
{
	return chunk;
}

void data_fill(uint64_t seed, uint64_t at, uint8_t *buf, size_t len)
{
	const uint8_t *end = buf + len;
	uint64_t w;

	while (buf < end && at % 8)
		*buf++ = byte(seed, at++);
	for (; end - buf >= 8; buf += 8, at += 8) {
		w = word(seed, at / 8);
		memcpy(buf, &w, 8);
	}
	while (buf < end)
		*buf++ = byte(seed, at++);
}

bool data_check(uint64_t seed, uint64_t at, const uint8_t *buf, size_t len)
{
	const uint8_t *end = buf + len;
	uint64_t w, wrong = 0;

	while (buf < end && at % 8)
		wrong |= (uint64_t)(*buf++ ^ byte(seed, at++));
	for (; end - buf >= 8; buf += 8, at += 8) {
		memcpy(&w, buf, 8);
		wrong |= w ^ word(seed, at / 8);
	}
	while (buf < end)
		wrong |= (uint64_t)(*buf++ ^ byte(seed, at++));
	return wrong == 0;
}

size_t data_size(uint64_t seed, uint64_t at)
{
	uint64_t random = mix(~seed, at);

	/* the largest power of two is DATA_CHUNK itself */
	return 1 + (random >> 8) % ((size_t)1 << random % 19);
}

_Static_assert(DATA_CHUNK == 1 << 18, "data_size draws from 19 powers of two");
