/* Where frames end, and which are counted: in one piece, byte by byte, and in pieces of any size.
 */
#include "tunnel/frame_scan.h"

#include <stdbool.h>

#include "tests/unit/check.h"

#define PREFACE 24
#define FRAMES 64

static uint8_t bytes[65536];
static size_t len, end[FRAMES]; /* of each frame */
static bool costly[FRAMES];

static void put(unsigned i, size_t payload, uint8_t type, uint8_t flags, bool counts)
{
	const uint8_t head[FRAME_SCAN_HEAD] = { (uint8_t)(payload >> 16), (uint8_t)(payload >> 8),
						(uint8_t)payload, type, flags };

	memcpy(bytes + len, head, sizeof(head));
	memset(bytes + len + sizeof(head), 0xff, payload); /* a header, if it were read as one */
	len += sizeof(head) + payload;
	end[i] = len;
	costly[i] = counts;
}

/* All kinds of frames, empty, short and long. */
static void fill(void)
{
	static const struct {
		uint8_t type, flags;
		bool counts;
	} kinds[] = {
		{ 0, 0, false }, { 0, 1, true },  { 1, 4, true }, { 1, 5, true },
		{ 2, 0, false }, { 3, 0, true },  { 4, 0, true }, { 6, 0, false },
		{ 8, 0, false }, { 9, 4, false }, { 0, 9, true },
	};
	static const size_t payloads[] = { 0, 1, 4, 13, 300, 4096 };

	memset(bytes, 'P', PREFACE);
	len = PREFACE;
	for (unsigned i = 0; i < FRAMES; i++) {
		unsigned k = i % (sizeof(kinds) / sizeof(kinds[0]));

		put(i, payloads[i * 7 % 6], kinds[k].type, kinds[k].flags, kinds[k].counts);
	}
}

/* Where the n-th that is counted ends after at; all, if there are fewer. */
static size_t expected(size_t at, unsigned n, unsigned *counted)
{
	*counted = 0;
	for (unsigned i = 0; i < FRAMES; i++) {
		if (end[i] <= at || !costly[i])
			continue;
		if (++*counted == n)
			return end[i];
	}
	return len;
}

static void test_cuts(unsigned n, size_t piece)
{
	struct frame_scan f = { .skip = PREFACE };
	size_t at = 0;

	while (at < len) {
		unsigned left = n, counted;
		size_t until = expected(at, n, &counted);

		while (at < until) {
			size_t more = until - at < piece ? len - at : piece;
			size_t took;

			if (more > len - at)
				more = len - at;
			took = frame_scan(&f, bytes + at, more, &left);
			CHECK(took > 0 && took <= more);
			at += took;
			CHECK(at <= until);
		}
		CHECK_INT(n - left, counted);
	}
	CHECK(f.skip == 0 && f.n == 0);
}

/* Nothing may be counted any more: the frame at hand is looked at to its end, and no other. */
static void test_none_left(void)
{
	struct frame_scan f = { .skip = PREFACE };
	unsigned left = 0;

	CHECK_INT(frame_scan(&f, bytes, len, &left), PREFACE);
	CHECK_INT(frame_scan(&f, bytes + PREFACE, len - PREFACE, &left), end[0] - PREFACE);
	CHECK_INT(left, 0);
}

int main(void)
{
	fill();
	for (unsigned n = 1; n < FRAMES; n++) {
		static const size_t pieces[] = { 1, 2, 8, 9, 10, 100, sizeof(bytes) };

		for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
			test_cuts(n, pieces[i]);
	}
	test_none_left();
	return 0;
}
