/*
 * wire: requests, replies and verdicts as bytes.
 *
 * Theory of operation: pure, but for two paddings made once. Both are pseudo-random, so that a
 * piece that got lost, doubled or moved is a mismatch and nothing on the way compresses them.
 */
#include "bench/wire.h"

#include <endian.h>
#include <string.h>

#include "bench/data.h"

#define ID_BYTES 8

/* Flags of a request, and of a verdict. */
#define VERIFY 1U
#define NO_HALF_CLOSE 2U
#define GOOD 1U

static uint8_t request_padding[WIRE_REQUEST], reply_padding[WIRE_REPLY];

void wire_init(void)
{
	data_fill(1, 0, request_padding, sizeof(request_padding));
	data_fill(2, 0, reply_padding, sizeof(reply_padding));
}

static void put64(uint8_t *to, uint64_t value)
{
	value = htole64(value);
	memcpy(to, &value, sizeof(value));
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t value;

	memcpy(&value, from, sizeof(value));
	return le64toh(value);
}

/* Magic, op, flags and two zeros: the first eight bytes of requests and verdicts. */
static void put_start(uint8_t *buf, const char *magic, enum wire_op op, unsigned flags)
{
	memcpy(buf, magic, 4);
	buf[4] = (uint8_t)op;
	buf[5] = (uint8_t)flags;
	buf[6] = buf[7] = 0;
}

static bool is_start(const uint8_t *buf, const char *magic, unsigned flags)
{
	return memcmp(buf, magic, 4) == 0 && !(buf[5] & ~flags) && !buf[6] && !buf[7];
}

void wire_put_request(uint8_t buf[WIRE_REQUEST], const struct wire_request *r)
{
	put_start(buf, "BNCH", r->op,
		  (r->verify ? VERIFY : 0) | (r->no_half_close ? NO_HALF_CLOSE : 0));
	put64(buf + 8, r->amount);
	put64(buf + 16, r->seed);
	put64(buf + 24, r->id);
	memcpy(buf + WIRE_HEADER, request_padding + WIRE_HEADER, WIRE_REQUEST - WIRE_HEADER);
}

bool wire_get_request(const uint8_t buf[WIRE_HEADER], struct wire_request *r)
{
	if (!is_start(buf, "BNCH", VERIFY | NO_HALF_CLOSE) || !strchr("XIUDVS", buf[4]))
		return false;
	r->op = buf[4];
	r->verify = buf[5] & VERIFY;
	r->no_half_close = buf[5] & NO_HALF_CLOSE;
	r->amount = get64(buf + 8);
	r->seed = get64(buf + 16);
	r->id = get64(buf + 24);
	return r->op && (r->amount || !r->no_half_close); /* an end must come */
}

bool wire_is_padding(const uint8_t *buf, size_t at, size_t len)
{
	return memcmp(buf, request_padding + at, len) == 0;
}

void wire_put_reply(uint8_t buf[WIRE_REPLY], uint64_t id)
{
	put64(buf, id);
	memcpy(buf + ID_BYTES, reply_padding + ID_BYTES, WIRE_REPLY - ID_BYTES);
}

bool wire_is_reply(const uint8_t *buf, size_t at, size_t len, uint64_t id)
{
	uint8_t wanted[ID_BYTES];
	size_t n = 0;

	if (at < ID_BYTES) {
		put64(wanted, id);
		n = len < ID_BYTES - at ? len : ID_BYTES - at;
		if (memcmp(buf, wanted + at, n) != 0)
			return false;
	}
	return memcmp(buf + n, reply_padding + at + n, len - n) == 0;
}

void wire_put_verdict(uint8_t buf[WIRE_VERDICT], const struct wire_verdict *v)
{
	put_start(buf, "BNCV", v->op, v->good ? GOOD : 0);
	put64(buf + 8, v->id);
	put64(buf + 16, v->received);
	put64(buf + 24, v->sent);
}

bool wire_get_verdict(const uint8_t buf[WIRE_VERDICT], struct wire_verdict *v)
{
	if (!is_start(buf, "BNCV", GOOD))
		return false;
	v->op = buf[4];
	v->good = buf[5] & GOOD;
	v->id = get64(buf + 8);
	v->received = get64(buf + 16);
	v->sent = get64(buf + 24);
	return true;
}
