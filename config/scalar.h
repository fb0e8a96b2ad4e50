/*
 * scalar: numbers with units, as configs write them.
 */
#ifndef CONFIG_SCALAR_H
#define CONFIG_SCALAR_H

#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

/* NULL, or what is wrong with text in words that follow it ("has no unit"); value untouched then.
 */
const char *scalar_number(const char *text, uint64_t *value);
const char *scalar_duration(const char *text, uint64_t *ms);        /* "10s"; "0" needs no unit */
const char *scalar_size(const char *text, uint64_t *bytes);         /* "256KiB", "1000" */
/* "2030-01-31" or "2030-01-31T12:00:00Z" as seconds since 1970 */
const char *scalar_time(const char *text, uint64_t *seconds);
const char *scalar_hash(const char *text, struct token_hash *hash); /* "sha256:<64 hex>" */

/* What the above read back, in the largest unit that fits. Return buf. */
#define SCALAR_TEXT_MAX 32
const char *scalar_format_duration(uint64_t ms, char *buf, size_t size);
const char *scalar_format_size(uint64_t bytes, char *buf, size_t size);
const char *scalar_format_time(uint64_t seconds, char *buf, size_t size);

/* "42" or "40-49", up to 4294967295: 0, or -EINVAL. */
int scalar_range(const char *text, uint64_t *from, uint64_t *to);

/* text in quotes, cut and cleaned for a message. Returns buf. */
#define SCALAR_QUOTED_MAX 80
const char *scalar_quote(const char *text, char *buf, size_t size);

#endif
