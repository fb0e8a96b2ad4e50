/*
 * verified: bytes that follow from a seed, and how sending and expecting them ends.
 */
#ifndef TESTS_VM_VERIFIED_H
#define TESTS_VM_VERIFIED_H

#include <pthread.h>
#include <stdint.h>

enum outcome { OK, REFUSED, CUT, WRONG, TIMEOUT, OUTCOMES };

extern const char *const outcome_names[OUTCOMES];

struct sending {
	int fd;
	uint32_t seed, len;
	enum outcome how;
};

enum outcome send_bytes(int fd, uint32_t seed, uint32_t len);
/* Reads until end-of-file: exactly these bytes must have come. Without any: refused. */
enum outcome expect_bytes(int fd, uint32_t seed, uint32_t len);
/* Sends all of a struct sending, and an end. For a thread. */
void *sending(void *arg);
/* Does that while it reads these bytes; returns how reading ended. */
enum outcome exchange(struct sending *out, uint32_t seed, uint32_t len);

/* For hundreds of threads. */
void small_stack(pthread_attr_t *attr);

#endif
