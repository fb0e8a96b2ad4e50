/*
 * quote: QGS's messages, and quotes that show to which request they belong.
 *
 * A request's report carries a mark as its report data. Its quote is a function of the whole
 * report: the mark, its own length, then noise, so that a client sees a reply that is not its own,
 * a truncated one, and a request that was changed on its way.
 */
#ifndef TESTS_TOOLS_QUOTE_H
#define TESTS_TOOLS_QUOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	QUOTE_MARK = 64,
	QUOTE_REPORT = 1024, /* a TDREPORT, and a raw request */
	QUOTE_MIN = QUOTE_MARK + 4,
	QGS_PREFIX = 4,  /* the length of what follows, big-endian */
	QGS_HEADER = 16, /* u16 major, u16 minor, u32 type, size, error code; little-endian */
	QGS_MIN = QGS_PREFIX + QGS_HEADER,
	QGS_QUOTE = QGS_MIN + 8,     /* before the report, or before the id and the quote */
	QGS_PLATFORM = QGS_MIN + 48, /* a whole platform-info reply */
};

enum qgs_type {
	QGS_QUOTE_REQUEST,
	QGS_QUOTE_REPLY,
	QGS_COLLATERAL_REQUEST,
	QGS_COLLATERAL_REPLY,
	QGS_PLATFORM_REQUEST,
	QGS_PLATFORM_REPLY,
	QGS_TYPES,
};

#define QGS_ERROR_UNEXPECTED 0x12001U

struct qgs_header {
	uint32_t length; /* as the prefix says */
	unsigned major, minor;
	uint32_t type, size, error;
};

/* splitmix64: random numbers from a seed. */
uint64_t noise_next(uint64_t *state);
uint32_t get_le32(const uint8_t *from);
void put_le32(uint8_t *to, uint32_t value);

/* Prefix and header: QGS_MIN bytes. */
void qgs_put(uint8_t *to, enum qgs_type type, uint32_t size, uint32_t error);
void qgs_get(struct qgs_header *h, const uint8_t *from);

/* 64 bytes no other request has: whose, its number, and noise. */
void quote_mark(uint8_t *mark, const char *vm, uint64_t number);
/* At least QUOTE_REPORT bytes, as a TD's report looks to QGS. */
void quote_report(uint8_t *report, size_t len, const uint8_t *mark);
/* The framed request for a report; QGS_QUOTE + len bytes, which it returns. */
size_t quote_request(uint8_t *to, const uint8_t *report, size_t len);
/* A report's quote, of len >= QUOTE_MIN bytes. */
void quote_make(uint8_t *quote, size_t len, const uint8_t *report, size_t report_len);
/* What of a bare quote has come: its whole length, or 0 while that is unknown. */
size_t quote_length(const uint8_t *quote, size_t have);
/* NULL: it is this report's, and whole. Else what is wrong. */
const char *quote_wrong(const uint8_t *quote, size_t len, const uint8_t *report, size_t report_len);

#endif
