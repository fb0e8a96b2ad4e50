/*
 * test_framing: where requests and replies end, with every number of bytes that can have come.
 */
#include <stdbool.h>

#include "qgs-bridge/framing.h"
#include "tests/unit/check.h"

#define MAX 4096
#define KEPT ((size_t)-1) /* what *len was before */

static uint8_t data[2 * 1024 * 1024];

static void put_length(uint32_t length)
{
	data[0] = (uint8_t)(length >> 24);
	data[1] = (uint8_t)(length >> 16);
	data[2] = (uint8_t)(length >> 8);
	data[3] = (uint8_t)length;
	memset(data + 4, 0xa5, 16); /* the body is its own business */
}

static void expect(size_t n, size_t max, enum framing_verdict verdict, size_t len)
{
	size_t got = KEPT;
	uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read behind it */

	CHECK(exact);
	memcpy(exact, data, n);
	CHECK_INT(framing_request(exact, n, max, &got), verdict);
	CHECK_INT(got, len);
	free(exact);
}

static void test_whole_request(void)
{
	put_length(1048);
	for (size_t n = 0; n < 1052; n++)
		expect(n, MAX, FRAMING_MORE, KEPT);
	for (size_t n = 1052; n < 1100; n++)
		expect(n, MAX, FRAMING_WHOLE, 1052);
	put_length(1);
	expect(4, MAX, FRAMING_MORE, KEPT);
	expect(5, MAX, FRAMING_WHOLE, 5);
}

static void test_bounds(void)
{
	put_length(MAX - 4);
	expect(4, MAX, FRAMING_MORE, KEPT);
	expect(MAX, MAX, FRAMING_WHOLE, MAX);
	put_length(MAX - 3);
	expect(3, MAX, FRAMING_MORE, KEPT);
	expect(4, MAX, FRAMING_TOO_LARGE, KEPT);
	put_length(1024 * 1024);
	expect(4, sizeof(data), FRAMING_MORE, KEPT);
	expect(1024 * 1024 + 4, sizeof(data), FRAMING_WHOLE, 1024 * 1024 + 4);
	put_length(1024 * 1024 + 1);
	expect(4, sizeof(data), FRAMING_GARBAGE, KEPT);
}

/* As soon as it can be known. */
static void test_garbage(void)
{
	put_length(0);
	expect(3, MAX, FRAMING_MORE, KEPT);
	expect(4, MAX, FRAMING_GARBAGE, KEPT);
	for (unsigned first = 1; first < 256; first++) {
		data[0] = (uint8_t)first;
		expect(1, MAX, first == 0x81 ? FRAMING_MORE : FRAMING_GARBAGE, KEPT);
	}
	put_length(0x00110000);
	expect(1, MAX, FRAMING_MORE, KEPT);
	expect(2, MAX, FRAMING_GARBAGE, KEPT);
}

static void test_raw(void)
{
	put_length(0x81000000);
	expect(FRAMING_RAW - 1, MAX, FRAMING_MORE, KEPT);
	for (size_t n = 1; n < FRAMING_RAW; n++)
		expect(n, MAX, FRAMING_MORE, KEPT);
	for (size_t n = FRAMING_RAW; n < FRAMING_RAW_MAX; n++)
		expect(n, sizeof(data), FRAMING_RAW_SO_FAR, n);
	expect(FRAMING_RAW_MAX, sizeof(data), FRAMING_WHOLE, FRAMING_RAW_MAX);
	expect(FRAMING_RAW_MAX + 1, sizeof(data), FRAMING_WHOLE, FRAMING_RAW_MAX);
	expect(1100, 1100, FRAMING_WHOLE, 1100);
	expect(1, FRAMING_RAW - 1, FRAMING_TOO_LARGE, KEPT);
	data[1] = 0xff; /* the bytes behind the type are the report's */
	expect(FRAMING_RAW, MAX, FRAMING_RAW_SO_FAR, FRAMING_RAW);
}

static void test_reply(void)
{
	size_t len = KEPT;

	put_length(0xffffffff); /* 4 + this must not wrap around */
	CHECK_INT(framing_reply(data, 3, MAX, &len), FRAMING_MORE);
	CHECK_INT(framing_reply(data, 4, MAX, &len), FRAMING_TOO_LARGE);
	put_length(MAX - 4);
	CHECK_INT(framing_reply(data, MAX - 1, MAX, &len), FRAMING_MORE);
	CHECK_INT(len, KEPT);
	CHECK_INT(framing_reply(data, MAX + 9, MAX, &len), FRAMING_WHOLE);
	CHECK_INT(len, MAX);
	put_length(0);
	CHECK_INT(framing_reply(data, 4, MAX, &len), FRAMING_WHOLE);
	CHECK_INT(len, 4);
}

int main(void)
{
	test_whole_request();
	test_bounds();
	test_garbage();
	test_raw();
	test_reply();
	return 0;
}
