/*
 * scalar: numbers, durations, sizes, times and token hashes to and from text.
 *
 * Theory of operation: a value is decimal digits and at once its unit, from a table that serves
 * both directions. No sign, fraction, or sum of units: there is one way to write a thing, and
 * what is written is exactly what is meant. No state.
 */
#include "config/scalar.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "config/xalloc.h"

struct unit {
	const char *name;
	uint64_t factor;
	bool write; /* used when formatting */
};

/* Largest first. */
static const struct unit durations[] = {
	{ "d", 24 * 3600 * 1000, true },
	{ "h", 3600 * 1000, true },
	{ "min", 60 * 1000, true },
	{ "s", 1000, true },
	{ "ms", 1, true },
	{ NULL, 0, false },
};

static const struct unit sizes[] = {
	{ "GiB", 1 << 30, true }, { "GB", 1000000000, false },
	{ "MiB", 1 << 20, true }, { "MB", 1000 * 1000, false },
	{ "KiB", 1 << 10, true }, { "KB", 1000, false },
	{ "B", 1, false },        { NULL, 0, false },
};

/* The digits at *text, which moves behind them. */
static const char *digits(const char **text, uint64_t *value)
{
	const char *p = *text;
	uint64_t n = 0;

	if (*p == '-')
		return "is negative";
	if (*p < '0' || *p > '9')
		return "does not begin with a digit";
	if (p[0] == '0' && p[1] >= '0' && p[1] <= '9')
		return "has a leading zero";
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return "is too large";
	*text = p;
	*value = n;
	return NULL;
}

const char *scalar_number(const char *text, uint64_t *value)
{
	uint64_t n;
	const char *wrong = digits(&text, &n);

	if (wrong)
		return wrong;
	if (*text)
		return "is not a whole number";
	*value = n;
	return NULL;
}

static const char *with_unit(const char *text, const struct unit *units, uint64_t *value)
{
	uint64_t n;
	const char *wrong = digits(&text, &n);

	if (wrong)
		return wrong;
	if (*text == '.')
		return "has a fraction";
	for (; units->name; units++) {
		if (strcmp(text, units->name) != 0)
			continue;
		if (__builtin_mul_overflow(n, units->factor, &n))
			return "is too large";
		*value = n;
		return NULL;
	}
	return "has an unknown unit";
}

const char *scalar_duration(const char *text, uint64_t *ms)
{
	size_t n = strspn(text, "0123456789");

	if (strcmp(text, "0") == 0) {
		*ms = 0;
		return NULL;
	}
	if (n > 0 && !text[n])
		return "has no unit; add one (10s, not 10)";
	if (n > 0 && strcmp(text + n, "m") == 0)
		return "has the unit m, which could mean two things; write min or ms";
	return with_unit(text, durations, ms);
}

const char *scalar_size(const char *text, uint64_t *bytes)
{
	if (strspn(text, "0123456789") == strlen(text))
		return scalar_number(text, bytes);
	return with_unit(text, sizes, bytes);
}

/* n digits at text as a number; -1: something else is there. */
static int number_at(const char *text, unsigned n)
{
	int value = 0;

	for (unsigned i = 0; i < n; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -1;
		value = value * 10 + (text[i] - '0');
	}
	return value;
}

const char *scalar_time(const char *text, uint64_t *seconds)
{
	static const char form[] = "is no date and no time in UTC";
	size_t len = strlen(text);
	struct tm t = { 0 }, back;
	time_t at;

	if ((len != 10 && len != 20) || text[4] != '-' || text[7] != '-')
		return form;
	t.tm_year = number_at(text, 4) - 1900;
	t.tm_mon = number_at(text + 5, 2) - 1;
	t.tm_mday = number_at(text + 8, 2);
	if (len == 20) {
		if (text[10] != 'T' || text[13] != ':' || text[16] != ':' || text[19] != 'Z')
			return form;
		t.tm_hour = number_at(text + 11, 2);
		t.tm_min = number_at(text + 14, 2);
		t.tm_sec = number_at(text + 17, 2);
	}
	back = t;
	at = timegm(&back); /* puts 30 February right: so it was wrong */
	if (at <= 0 || back.tm_year != t.tm_year || back.tm_mon != t.tm_mon ||
	    back.tm_mday != t.tm_mday || back.tm_hour != t.tm_hour || back.tm_min != t.tm_min ||
	    back.tm_sec != t.tm_sec)
		return "is no day or time that there is after 1970";
	*seconds = (uint64_t)at;
	return NULL;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* What is wrong is told without the text: it may be the token itself, in the wrong place. */
const char *scalar_hash(const char *text, struct token_hash *hash)
{
	static const char prefix[] = "sha256:";
	struct token_hash found;

	if (strncmp(text, prefix, sizeof(prefix) - 1) != 0)
		return "does not begin with sha256:";
	text += sizeof(prefix) - 1;
	if (strlen(text) != 2 * TOKEN_HASH_SIZE)
		return "does not have 64 hex digits after sha256:";
	for (size_t i = 0; i < TOKEN_HASH_SIZE; i++) {
		int high = hex(text[2 * i]), low = hex(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return "has something else than hex digits after sha256:";
		found.bytes[i] = (uint8_t)(high << 4 | low);
	}
	*hash = found;
	return NULL;
}

static const char *format(uint64_t value, const struct unit *units, char *buf, size_t size)
{
	for (; units->name; units++)
		if (units->write && value && value % units->factor == 0) {
			snprintf(buf, size, "%" PRIu64 "%s", value / units->factor, units->name);
			return buf;
		}
	snprintf(buf, size, "%" PRIu64, value);
	return buf;
}

const char *scalar_format_duration(uint64_t ms, char *buf, size_t size)
{
	return format(ms, durations, buf, size);
}

const char *scalar_format_size(uint64_t bytes, char *buf, size_t size)
{
	return format(bytes, sizes, buf, size);
}

const char *scalar_format_time(uint64_t seconds, char *buf, size_t size)
{
	time_t at = (time_t)seconds;
	struct tm t;

	gmtime_r(&at, &t);
	strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &t);
	return buf;
}

int scalar_range(const char *text, uint64_t *from, uint64_t *to)
{
	const char *dash = strchr(text, '-');
	char *first = xstrndup(text, dash ? (size_t)(dash - text) : strlen(text));
	uint64_t a, b;
	bool good = !scalar_number(first, &a) && !scalar_number(dash ? dash + 1 : first, &b);

	free(first);
	if (!good || a > b || b > UINT32_MAX)
		return -EINVAL;
	*from = a;
	*to = b;
	return 0;
}

const char *scalar_quote(const char *text, char *buf, size_t size)
{
	size_t n = 0;

	buf[n++] = '"';
	/* Room for a last character, the dots, the quote and the NUL. */
	for (; *text && n < size - 6; text++) {
		unsigned char c = (unsigned char)*text, next = (unsigned char)text[1];
		bool control = c < ' ' || c == 0x7f;

		/* C1 controls, which terminals obey as well, are C2 80 to C2 9F. */
		if (c == 0xc2 && next >= 0x80 && next < 0xa0)
			control = true;
		buf[n++] = control ? '?' : *text;
		if (control && c == 0xc2)
			text++;
	}
	if (*text) {
		/* not in the middle of a character */
		while (n > 1 && ((unsigned char)*text & 0xc0) == 0x80)
			text--, n--;
		memcpy(buf + n, "...", 3);
		n += 3;
	}
	buf[n++] = '"';
	buf[n] = '\0';
	return buf;
}
