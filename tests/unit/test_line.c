/* Lines of text, and the addresses that stand in them, against the C library's own. */
#include "relay/line.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/peer.h"
#include "tests/unit/check.h"

#define SIZE 64

static struct line line_of(char text[SIZE], size_t size)
{
	memset(text, 0, SIZE);
	return (struct line){ text, 0, size };
}

static void test_numbers(void)
{
	static const uint64_t values[] = { 0, 9, 10, 1234567, UINT32_MAX, UINT64_MAX };
	char text[SIZE], want[SIZE];

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct line l = line_of(text, SIZE - 1);

		line_number(&l, values[i]);
		snprintf(want, sizeof(want), "%" PRIu64, values[i]);
		CHECK_STR(text, want);
		l = line_of(text, SIZE - 1);
		line_digits(&l, values[i], 3);
		snprintf(want, sizeof(want), "%03u", (unsigned)(values[i] % 1000));
		CHECK_STR(text, want);
		l = line_of(text, SIZE - 1);
		line_digits(&l, values[i], 20);
		snprintf(want, sizeof(want), "%020" PRIu64, values[i]);
		CHECK_STR(text, want);
	}
}

/* Some ten thousand moments, a prime number of seconds apart: all months, leap days, the ends. */
static void test_time(void)
{
	char text[SIZE], want[SIZE], fraction[SIZE];

	for (time_t at = 0; at < INT64_C(253402300800); at += 25340227) {
		struct timespec ts = { at, at % 1000000000 };
		struct line l = line_of(text, SIZE - 1);
		struct tm tm;

		gmtime_r(&at, &tm);
		strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%S", &tm);
		snprintf(fraction, sizeof(fraction), ".%03dZ", (int)(ts.tv_nsec / 1000000));
		strcat(want, fraction);
		line_time(&l, &ts);
		CHECK_STR(text, want);
	}
}

/* What is full takes no more; what is not plain shows as such. */
static void test_plain(void)
{
	char text[SIZE];
	struct line l = line_of(text, 5);

	line_plain(&l, "a\nb\x7f");
	CHECK_STR(text, "a?b?");
	line_plain(&l, "cdef");
	CHECK_STR(text, "a?b?c");
	line_plain(&l, "g");
	line_text(&l, "g");
	line_number(&l, 7);
	CHECK_STR(text, "a?b?c");
	CHECK(l.used == 5);
}

static void check_peer(const struct peer *p, const char *want)
{
	char text[PEER_TEXT_MAX];

	CHECK_STR(peer_format(p, text, sizeof(text)), want);
}

static void test_peers(void)
{
	static const char *const told[] = {
		"tcp:0.0.0.0:0",           "tcp:192.0.2.1:443", "tcp:255.255.255.255:65535",
		"tcp:[2001:db8::1]:65535", "vsock:3:1024",      "vsock:4294967295:4294967295",
	};
	struct peer p;

	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
		CHECK(peer_parse(&p, told[i]));
		check_peer(&p, told[i]);
	}
	peer_set_unix(&p);
	check_peer(&p, "unix");
	p.a = UINT32_MAX;
	p.b = 0;
	check_peer(&p, "unix:pid=4294967295,uid=0");
	p.family = AF_UNSPEC;
	check_peer(&p, "unknown");
}

/* Whoever has less room gets as much as fits. */
static void test_little_room(void)
{
	struct peer p;
	char text[8];

	CHECK(peer_parse(&p, "tcp:192.0.2.1:443"));
	CHECK_STR(peer_format(&p, text, sizeof(text)), "tcp:192");
}

int main(void)
{
	test_numbers();
	test_time();
	test_plain();
	test_peers();
	test_little_room();
	return 0;
}
