/*
 * test_ws_frame: frames by hand, cut at every byte, and everything RFC 6455 forbids.
 */
#include <stdint.h>

#include "tests/unit/check.h"
#include "tunnel/ws_frame.h"

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 ^ i >> 8);
}

/* Against the definition: all phases, lengths around the block size, all overlaps from below. */
static void test_mask(void)
{
	static const uint8_t key[4] = { 0x12, 0xfe, 0x80, 0x7f };
	uint8_t memory[600];

	for (unsigned phase = 0; phase < 9; phase++)
		for (size_t len = 0; len < 260; len++)
			for (size_t below = 0; below <= 70; below += len % 3 + 1) {
				uint8_t *from = memory + 100 + phase, *to = from - below;

				for (size_t i = 0; i < sizeof(memory); i++)
					memory[i] = pattern(i);
				ws_frame_mask(to, from, len, key, phase);
				for (size_t i = 0; i < len; i++)
					if (to[i] != (pattern(100 + phase + i) ^
						      key[(phase + i) % 4]))
						CHECK(!"masked as it should be");
				CHECK_INT(to[-1], pattern((size_t)(to - memory) - 1));
				CHECK_INT(from[len], pattern(100 + phase + len));
			}
}

static void test_head(void)
{
	static const struct {
		uint64_t len;
		size_t size;
		const char *bytes;
	} heads[] = {
		{ 0, 2, "\x82\x00" },
		{ 125, 2, "\x82\x7d" },
		{ 126, 4, "\x82\x7e\x00\x7e" },
		{ 65535, 4, "\x82\x7e\xff\xff" },
		{ 65536, 10, "\x82\x7f\0\0\0\0\0\1\0\0" },
		{ (uint64_t)1 << 62, 10, "\x82\x7f\x40\0\0\0\0\0\0\0" },
	};
	static const uint8_t key[4] = { 1, 2, 3, 4 };
	uint8_t head[WS_FRAME_HEAD_MAX];

	for (size_t i = 0; i < sizeof(heads) / sizeof(*heads); i++) {
		size_t n = ws_frame_head(head, WS_FRAME_BINARY, heads[i].len, NULL);

		CHECK_INT(n, heads[i].size);
		CHECK(memcmp(head, heads[i].bytes, n) == 0);
		CHECK_INT(ws_frame_head(head, WS_FRAME_BINARY, heads[i].len, key), n + 4);
		CHECK_INT(head[1], (uint8_t)heads[i].bytes[1] | 0x80);
		CHECK(memcmp(head + n, key, 4) == 0);
	}
}

/* A stream of frames with the pattern as payload. */
struct stream {
	uint8_t bytes[80000];
	size_t len, payload;
};

static void add(struct stream *s, enum ws_frame_role to, unsigned first, const void *data,
		size_t len)
{
	const uint8_t key[4] = { (uint8_t)len, 0xa5, (uint8_t)first, 0x0f };
	size_t n = ws_frame_head(s->bytes + s->len, WS_FRAME_BINARY, len,
				 to == WS_FRAME_SERVER ? key : NULL);
	uint8_t *p = s->bytes + s->len + n;

	s->bytes[s->len] = (uint8_t)first;
	if (data)
		memcpy(p, data, len);
	for (size_t i = 0; !data && i < len; i++)
		p[i] = pattern(s->payload + i);
	if (!data)
		s->payload += len;
	if (to == WS_FRAME_SERVER)
		ws_frame_mask(p, p, len, key, 0);
	s->len += n + len;
}

/* Takes s in pieces that end where it says; the payload is checked. */
static void take(struct ws_frame_in *in, const struct stream *s, const size_t *ends, unsigned n)
{
	static uint8_t buf[sizeof(s->bytes)];
	size_t at = 0, payload = 0;

	for (unsigned i = 0; i < n; i++) {
		size_t got;

		memcpy(buf, s->bytes + at, ends[i] - at);
		got = ws_frame_take(in, buf, ends[i] - at);
		for (size_t j = 0; j < got; j++)
			if (buf[j] != pattern(payload + j))
				CHECK(!"the payload is the pattern");
		payload += got;
		at = ends[i];
	}
	CHECK_INT(payload, s->payload);
}

/* What one stream with everything in it comes to, whatever the pieces. */
static void check_all(const struct ws_frame_in *in)
{
	CHECK(in->over && in->pinged);
	CHECK_INT(in->fault, 0);
	CHECK_INT(in->closed, 1000);
	CHECK_INT(in->ping_len, 6);
	CHECK(memcmp(in->ping, "second", 6) == 0);
}

static void test_splits(enum ws_frame_role role)
{
	static struct stream s;
	struct ws_frame_in in;
	size_t ends[sizeof(s.bytes)];

	s.len = s.payload = 0;
	add(&s, role, 0x82, NULL, 5);
	add(&s, role, 0x02, NULL, 100);
	add(&s, role, 0x89, "first", 5); /* between the fragments */
	add(&s, role, 0x00, NULL, 0);
	add(&s, role, 0x89, "second", 6);
	add(&s, role, 0x80, NULL, 300);
	add(&s, role, 0x8a, "a pong", 6);
	add(&s, role, 0x82, NULL, 0);
	add(&s, role, 0x82, NULL, 1);
	add(&s, role, 0x88, "\x03\xe8over", 6);
	memcpy(s.bytes + s.len, "\xff\xff\xff", 3); /* is not looked at */
	s.len += 3;
	for (size_t i = 0; i <= s.len; i++)
		for (size_t j = i; j <= s.len; j += i % 5 + 1) {
			ws_frame_in_init(&in, role);
			take(&in, &s, (size_t[]){ i, j, s.len }, 3);
			check_all(&in);
		}
	for (size_t i = 0; i < s.len; i++)
		ends[i] = i + 1;
	ws_frame_in_init(&in, role);
	take(&in, &s, ends, (unsigned)s.len);
	check_all(&in);

	s.len = s.payload = 0; /* eight bytes of length */
	add(&s, role, 0x82, NULL, 70000);
	for (size_t i = 0; i <= 100; i++) {
		ws_frame_in_init(&in, role);
		take(&in, &s, (size_t[]){ i, 3 * i, s.len }, 3);
		CHECK(!in.over);
	}
}

static const struct {
	const char *bytes;
	size_t len;
	uint16_t code;
} forbidden[] = {
	/* what a client may not send */
	{ "\x81\x85\1\2\3\4hello", 11, 1003 },
	{ "\x01\x80\1\2\3\4", 6, 1003 },
	{ "\x82\x05hello", 7, 1002 },
	{ "\x88\x00", 2, 1002 },
	{ "\xc2\x80\1\2\3\4", 6, 1002 },
	{ "\xa2\x80\1\2\3\4", 6, 1002 },
	{ "\x92\x80\1\2\3\4", 6, 1002 },
	{ "\x83\x80\1\2\3\4", 6, 1002 },
	{ "\x87\x80\1\2\3\4", 6, 1002 },
	{ "\x8b\x80\1\2\3\4", 6, 1002 },
	{ "\x8f\x80\1\2\3\4", 6, 1002 },
	{ "\x80\x80\1\2\3\4", 6, 1002 },
	{ "\x00\x80\1\2\3\4", 6, 1002 },
	{ "\x02\x80\1\2\3\4\x82\x80\1\2\3\4", 12, 1002 },
	{ "\x02\x80\1\2\3\4\x80\x80\1\2\3\4\x80\x80\1\2\3\4", 18, 1002 },
	{ "\x08\x80\1\2\3\4", 6, 1002 },
	{ "\x09\x80\1\2\3\4", 6, 1002 },
	{ "\x0a\x80\1\2\3\4", 6, 1002 },
	{ "\x89\xfe\0\x7e\1\2\3\4", 8, 1002 },
	{ "\x8a\xff\0\0\0\0\0\1\0\0\1\2\3\4", 14, 1002 },
	{ "\x82\xfe\0\x7d\1\2\3\4", 8, 1002 },
	{ "\x82\xff\0\0\0\0\0\0\xff\xff\1\2\3\4", 14, 1002 },
	{ "\x82\xff\x80\0\0\0\0\0\0\0\1\2\3\4", 14, 1002 },
	{ "\x88\x81\0\0\0\0\x03", 7, 1002 },
	{ "\x88\x82\0\0\0\0\x03\xe7", 8, 1002 }, /* 999 */
	{ "\x88\x82\0\0\0\0\x03\xec", 8, 1002 }, /* 1004 */
	{ "\x88\x82\0\0\0\0\x03\xed", 8, 1002 }, /* 1005 */
	{ "\x88\x82\0\0\0\0\x03\xee", 8, 1002 }, /* 1006 */
	{ "\x88\x82\0\0\0\0\x03\xf7", 8, 1002 }, /* 1015 */
	{ "\x88\x82\0\0\0\0\x0b\xb7", 8, 1002 }, /* 2999 */
	{ "\x88\x82\0\0\0\0\x13\x88", 8, 1002 }, /* 5000 */
};

static void test_forbidden(void)
{
	uint8_t buf[64];

	for (size_t i = 0; i < sizeof(forbidden) / sizeof(*forbidden); i++)
		for (size_t cut = 0; cut <= forbidden[i].len; cut++) {
			size_t got;
			struct ws_frame_in in;

			ws_frame_in_init(&in, WS_FRAME_SERVER);
			memcpy(buf, "\x82\x82\0\0\0\0ok", 8); /* a good one before */
			memcpy(buf + 8, forbidden[i].bytes, cut);
			got = ws_frame_take(&in, buf, 8 + cut);
			CHECK(got == 2 && memcmp(buf, "ok", 2) == 0);
			memcpy(buf, forbidden[i].bytes + cut, forbidden[i].len - cut);
			memcpy(buf + forbidden[i].len - cut, "\x82\x82\0\0\0\0no", 8);
			got = ws_frame_take(&in, buf, forbidden[i].len - cut + 8);
			if (got || in.fault != forbidden[i].code || !in.over || !*in.why)
				fprintf(stderr, "frame %zu cut at %zu: %u\n", i, cut, in.fault);
			CHECK_INT(got, 0);
			CHECK_INT(in.fault, forbidden[i].code);
			CHECK(in.over && *in.why);
			CHECK_INT(in.closed, 0);
		}
}

static void test_client(void)
{
	uint8_t masked[] = "\x82\x85\1\2\3\4hello", plain[] = "\x82\x05hello";
	struct ws_frame_in in;

	ws_frame_in_init(&in, WS_FRAME_CLIENT);
	CHECK_INT(ws_frame_take(&in, masked, sizeof(masked) - 1), 0);
	CHECK_INT(in.fault, 1002);
	ws_frame_in_init(&in, WS_FRAME_CLIENT);
	CHECK_INT(ws_frame_take(&in, plain, sizeof(plain) - 1), 5);
	CHECK(memcmp(plain, "hello", 5) == 0 && !in.over);
}

static void test_closes(void)
{
	static const unsigned codes[] = { 1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999 };

	for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++) {
		uint8_t f[] = { 0x88, 2, (uint8_t)(codes[i] >> 8), (uint8_t)codes[i] };
		struct ws_frame_in in;

		ws_frame_in_init(&in, WS_FRAME_CLIENT);
		CHECK_INT(ws_frame_take(&in, f, sizeof(f)), 0);
		CHECK_INT(in.closed, codes[i]);
		CHECK(in.over && !in.fault);
	}
	{
		uint8_t f[] = { 0x88, 0 };
		struct ws_frame_in in;

		ws_frame_in_init(&in, WS_FRAME_CLIENT);
		CHECK_INT(ws_frame_take(&in, f, sizeof(f)), 0);
		CHECK_INT(in.closed, WS_FRAME_CODE_NONE);
	}
}

int main(void)
{
	test_mask();
	test_head();
	test_splits(WS_FRAME_SERVER);
	test_splits(WS_FRAME_CLIENT);
	test_forbidden();
	test_client();
	test_closes();
	return 0;
}
