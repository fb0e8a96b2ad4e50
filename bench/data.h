/*
 * data: the bytes of bulk streams.
 *
 * Two kinds: a stream by seed, in which each byte follows from its position, to be compared at the
 * other end; and one constant chunk sent over and over, which is only counted and costs nothing to
 * make.
 */
#ifndef BENCH_DATA_H
#define BENCH_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The most that one send or recv moves: what a good copying program uses, not what flatters. */
#define DATA_CHUNK (256 * 1024)
/* The far end's direction of a stream has the seed ^ this, so that an echo is no success. */
#define DATA_DOWN 0x646f776e646f776eULL

void data_init(void);            /* once, before data_chunk */
const uint8_t *data_chunk(void); /* DATA_CHUNK bytes */

void data_fill(uint64_t seed, uint64_t at, uint8_t *buf, size_t len);
bool data_check(uint64_t seed, uint64_t at, const uint8_t *buf, size_t len);

/* A size for a send or recv, 1 to DATA_CHUNK, small ones as likely as large ones. */
size_t data_size(uint64_t seed, uint64_t at);

#endif
