/*
 * framing: where a QGS request or reply ends.
 *
 * Theory of operation: what can be known from few bytes is said at few bytes, so that garbage and
 * what is too large are turned away before more of it is read. A length within 1 MiB begins with a
 * zero byte, a TDREPORT with its type, 0x81: every other first byte is garbage at once.
 *
 * Owns nothing, keeps nothing.
 */
#include "qgs-bridge/framing.h"

#define LENGTH_MAX (1024 * 1024) /* QGS from 1.26 on takes no longer ones; no older one does */
#define TDREPORT 0x81		 /* the type of a TDX report, its first byte */

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static uint32_t read_length(const uint8_t head[FRAMING_HEAD])
{
	return (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
}

bool framing_is_raw(const uint8_t *data)
{
	return data[0] == TDREPORT;
}

static enum framing_verdict raw(size_t n, size_t max, size_t *len)
{
	size_t bound = smaller(max, FRAMING_RAW_MAX);

	if (bound < FRAMING_RAW)
		return FRAMING_TOO_LARGE;
	if (n < FRAMING_RAW)
		return FRAMING_MORE;
	*len = smaller(n, bound);
	return n < bound ? FRAMING_RAW_SO_FAR : FRAMING_WHOLE;
}

static enum framing_verdict framed(const uint8_t *data, size_t n, size_t max, size_t *len)
{
	size_t whole = FRAMING_HEAD + (size_t)read_length(data);

	if (whole > max)
		return FRAMING_TOO_LARGE;
	if (n < whole)
		return FRAMING_MORE;
	*len = whole;
	return FRAMING_WHOLE;
}

enum framing_verdict framing_request(const uint8_t *data, size_t n, size_t max, size_t *len)
{
	uint32_t length;

	if (n == 0)
		return FRAMING_MORE;
	if (framing_is_raw(data))
		return raw(n, max, len);
	if (data[0] != 0 || (n > 1 && data[1] > LENGTH_MAX >> 16))
		return FRAMING_GARBAGE;
	if (n < FRAMING_HEAD)
		return FRAMING_MORE;
	length = read_length(data);
	if (length == 0 || length > LENGTH_MAX)
		return FRAMING_GARBAGE;
	return framed(data, n, max, len);
}

enum framing_verdict framing_reply(const uint8_t *data, size_t n, size_t max, size_t *len)
{
	return n < FRAMING_HEAD ? FRAMING_MORE : framed(data, n, max, len);
}
