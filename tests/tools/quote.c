/*
 * quote: QGS's messages, and quotes that show to which request they belong.
 *
 * Theory of operation: pure functions. Noise is splitmix64, for quotes seeded by a hash (FNV-1a) of
 * the whole report. Numbers are put together byte by byte, so that no host's order matters.
 */
#include "tests/tools/quote.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Of the report: its first byte says TDX, its report data begins here. */
#define REPORT_TYPE 0x81
#define REPORT_DATA 128
#define REPORT_TD_INFO 512 /* what lies before is checked by QGS, reserved bytes are zero */

uint64_t noise_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static void noise_fill(uint64_t seed, uint8_t *to, size_t len)
{
	uint64_t word = 0;

	for (size_t i = 0; i < len; i++) {
		if (i % 8 == 0)
			word = noise_next(&seed);
		to[i] = (uint8_t)(word >> (i % 8 * 8));
	}
}

static uint64_t hash(const uint8_t *data, size_t len)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < len; i++)
		h = (h ^ data[i]) * 0x100000001b3ULL;
	return h;
}

uint32_t get_le32(const uint8_t *from)
{
	return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

void put_le32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

void qgs_put(uint8_t *to, enum qgs_type type, uint32_t size, uint32_t error)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(size >> (24 - 8 * i));
	put_le32(to + 4, 1 | 1 << 16); /* version 1.1 */
	put_le32(to + 8, type);
	put_le32(to + 12, size);
	put_le32(to + 16, error);
}

void qgs_get(struct qgs_header *h, const uint8_t *from)
{
	uint32_t version = get_le32(from + 4);

	*h = (struct qgs_header){
		.length = (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 |
			  (uint32_t)from[2] << 8 | from[3],
		.major = version & 0xffff,
		.minor = version >> 16,
		.type = get_le32(from + 8),
		.size = get_le32(from + 12),
		.error = get_le32(from + 16),
	};
}

void quote_mark(uint8_t *mark, const char *vm, uint64_t number)
{
	struct timespec now;
	size_t len = strlen(vm);

	clock_gettime(CLOCK_MONOTONIC, &now);
	noise_fill((uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 30 ^ (uint64_t)getpid() << 44 ^
			   number << 20,
		   mark, QUOTE_MARK);
	memset(mark, 0, 32);
	memcpy(mark, vm, len < 31 ? len : 31);
	put_le32(mark + 32, (uint32_t)number);
	put_le32(mark + 36, (uint32_t)(number >> 32));
}

void quote_report(uint8_t *report, size_t len, const uint8_t *mark)
{
	memset(report, 0, len);
	report[0] = REPORT_TYPE;
	memcpy(report + REPORT_DATA, mark, QUOTE_MARK);
	noise_fill(hash(mark, QUOTE_MARK), report + REPORT_TD_INFO, len - REPORT_TD_INFO);
}

size_t quote_request(uint8_t *to, const uint8_t *report, size_t len)
{
	qgs_put(to, QGS_QUOTE_REQUEST, (uint32_t)(QGS_QUOTE - QGS_PREFIX + len), 0);
	put_le32(to + QGS_MIN, (uint32_t)len);
	put_le32(to + QGS_MIN + 4, 0); /* no list of ids */
	memcpy(to + QGS_QUOTE, report, len);
	return QGS_QUOTE + len;
}

void quote_make(uint8_t *quote, size_t len, const uint8_t *report, size_t report_len)
{
	memset(quote, 0, QUOTE_MARK);
	if (report_len >= REPORT_DATA + QUOTE_MARK)
		memcpy(quote, report + REPORT_DATA, QUOTE_MARK);
	put_le32(quote + QUOTE_MARK, (uint32_t)len);
	noise_fill(hash(report, report_len), quote + QUOTE_MIN, len - QUOTE_MIN);
}

size_t quote_length(const uint8_t *quote, size_t have)
{
	return have < QUOTE_MIN ? 0 : get_le32(quote + QUOTE_MARK);
}

const char *quote_wrong(const uint8_t *quote, size_t len, const uint8_t *report, size_t report_len)
{
	uint64_t seed = hash(report, report_len), word = 0;

	if (len < QUOTE_MIN)
		return "too short for a quote";
	if (memcmp(quote, report + REPORT_DATA, QUOTE_MARK) != 0)
		return "the quote of another request";
	if (quote_length(quote, len) != len)
		return "a quote of another length than it says";
	for (size_t i = 0; i < len - QUOTE_MIN; i++) {
		if (i % 8 == 0)
			word = noise_next(&seed);
		if (quote[QUOTE_MIN + i] != (uint8_t)(word >> (i % 8 * 8)))
			return "other bytes than this report's quote has";
	}
	return NULL;
}
