/*
 * prologue: what comes before the request, for a relay's door.
 */
#ifndef BENCH_PROLOGUE_H
#define BENCH_PROLOGUE_H

#include <stddef.h>
#include <stdint.h>

#define PROLOGUE_MAX 1024
#define PROLOGUE_NAME_MAX 253

/* Each returns its length. name: PROLOGUE_NAME_MAX at most. */
size_t prologue_hello(uint8_t buf[PROLOGUE_MAX], const char *name);
size_t prologue_connect(uint8_t buf[PROLOGUE_MAX], const char *name);

#endif
