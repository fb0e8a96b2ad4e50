/* PROXY headers: what is one, what is none, what is broken, split at every byte; and written. */
#include <arpa/inet.h>
#include <sys/socket.h>

#include "relay/proxyproto.h"
#include "tests/unit/check.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

/* Text and its length, which may have NULs inside. */
#define BYTES(text) (const uint8_t *)(text), sizeof(text) - 1

static struct proxyproto parsed;

static const char *text_of(const struct peer *p)
{
	static char text[PEER_TEXT_MAX];

	return p->family ? peer_format(p, text, sizeof(text)) : "";
}

/* A good header, as far as it goes at each byte; and what follows it is not looked at. */
static void good(const uint8_t *data, size_t len, unsigned version, const char *from,
		 const char *to)
{
	uint8_t copy[PROXYPROTO_MAX + 16];

	for (size_t n = 0; n < len; n++) {
		/* in memory of its own, so that a sanitizer sees who looks further */
		uint8_t *part = malloc(n ? n : 1);

		memcpy(part, data, n);
		CHECK_INT(proxyproto_parse(part, n, &parsed), PROXYPROTO_MORE);
		CHECK_INT(parsed.len, 0);
		CHECK(parsed.version == 0 || parsed.version == version);
		CHECK_STR(text_of(&parsed.from), "");
		free(part);
	}
	memcpy(copy, data, len);
	memset(copy + len, 'x', 16);
	for (size_t more = 0; more <= 16; more++) {
		CHECK_INT(proxyproto_parse(copy, len + more, &parsed), PROXYPROTO_OK);
		CHECK_INT(parsed.len, len);
		CHECK_INT(parsed.version, version);
		CHECK_STR(text_of(&parsed.from), from);
		CHECK_STR(text_of(&parsed.to), to);
		CHECK_STR(parsed.why, "");
	}
}

/* Broken, and known to be from its first `at` bytes on. */
static void broken(const uint8_t *data, size_t len, size_t at, const char *why)
{
	for (size_t n = 0; n <= len; n++) {
		enum proxyproto_result r = proxyproto_parse(data, n, &parsed);

		if (r != (n < at ? PROXYPROTO_MORE : PROXYPROTO_BAD))
			fprintf(stderr, "%zu of %zu bytes of %s\n", n, len, (const char *)data);
		CHECK_INT(r, n < at ? PROXYPROTO_MORE : PROXYPROTO_BAD);
		if (n >= at && !strstr(parsed.why, why))
			fprintf(stderr, "%s: expected %s\n", parsed.why, why);
		CHECK(n < at || strstr(parsed.why, why));
	}
}

static void broken_line(const char *line, const char *why)
{
	broken((const uint8_t *)line, strlen(line), strlen(line), why);
}

static void test_lines(void)
{
	char longest[PROXYPROTO_V1_MAX + 1];

	good(BYTES("PROXY TCP4 192.0.2.9 198.51.100.1 40112 443\r\n"), 1, "tcp:192.0.2.9:40112",
	     "tcp:198.51.100.1:443");
	good(BYTES("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n"), 1, "tcp:0.0.0.0:0",
	     "tcp:255.255.255.255:65535");
	good(BYTES("PROXY TCP6 2001:db8::9 2001:DB8:0:0:0:0:0:1 40112 443\r\n"), 1,
	     "tcp:[2001:db8::9]:40112", "tcp:[2001:db8::1]:443");
	good(BYTES("PROXY TCP6 ::ffff:192.0.2.9 ::1 1 2\r\n"), 1, "tcp:192.0.2.9:1", "tcp:[::1]:2");
	good(BYTES("PROXY UNKNOWN\r\n"), 1, "", "");
	good(BYTES("PROXY UNKNOWN ffff::ffff what ever\r\n"), 1, "", "");
	memset(longest, 'f', sizeof(longest));
	memcpy(longest, "PROXY UNKNOWN ", 14);
	memcpy(longest + PROXYPROTO_V1_MAX - 2, "\r\n", 3);
	good((uint8_t *)longest, PROXYPROTO_V1_MAX, 1, "", "");
}

static void test_broken_lines(void)
{
	char longer[PROXYPROTO_V1_MAX + 20];

	memset(longer, 'f', sizeof(longer));
	memcpy(longer, "PROXY UNKNOWN ", 14);
	memcpy(longer + PROXYPROTO_V1_MAX - 1, "\r\n", 2);
	broken((uint8_t *)longer, sizeof(longer), PROXYPROTO_V1_MAX, "longer than 107");
	broken(BYTES("PROXY TCP4 192.0.2.9\n192"), 21, "cannot stand");
	broken(BYTES("PROXY TCP4 192.0.2.9\r192"), 22, "cannot stand");
	broken(BYTES("PROXY TCP4\0"), 11, "cannot stand");
	broken(BYTES("PROXY \xff"), 7, "cannot stand");
	broken_line("PROXY \r\n", "without a family");
	broken_line("PROXY  TCP4 192.0.2.9 192.0.2.1 1 2\r\n", "another family");
	broken_line("PROXY TCP5 192.0.2.9 192.0.2.1 1 2\r\n", "another family");
	broken_line("PROXY tcp4 192.0.2.9 192.0.2.1 1 2\r\n", "another family");
	broken_line("PROXY UNKNOWNS\r\n", "another family");
	broken_line("PROXY TCP4\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 1\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 1 2 \r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 1 2 3\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9  192.0.2.1 1 2\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 1 65536\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 01 2\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 +1 2\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.9 192.0.2.1 1 -2\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2.09 192.0.2.1 1 2\r\n", "two addresses");
	broken_line("PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n", "two addresses");
	broken_line("PROXY TCP4 ::1 ::1 1 2\r\n", "two addresses");
	broken_line("PROXY TCP6 192.0.2.9 192.0.2.1 1 2\r\n", "two addresses");
	broken_line("PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "two addresses");
	broken_line("PROXY TCP6 2001:db8:::1 ::1 1 2\r\n", "two addresses");
}

#define INET "\x0c\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb" /* 192.0.2.9:40112, 198.51.100.1:443 \
							     */
#define FROM "tcp:192.0.2.9:40112"
#define TO "tcp:198.51.100.1:443"

static void test_binary(void)
{
	uint8_t six[16 + 36], unix_[16 + 216];

	good(BYTES(SIGNATURE "\x21\x11\0" INET), 2, FROM, TO);
	good(BYTES(SIGNATURE "\x21\x12\0" INET), 2, "", ""); /* UDP cannot be a connection */
	good(BYTES(SIGNATURE "\x21\x10\0" INET), 2, "", "");
	good(BYTES(SIGNATURE "\x21\x00\0\0"), 2, "", "");
	good(BYTES(SIGNATURE "\x21\x00\0\5hello"), 2, "", "");
	good(BYTES(SIGNATURE "\x20\x00\0\0"), 2, "", "");
	good(BYTES(SIGNATURE "\x20\xff\0\3any"), 2, "", "");
	good(BYTES(SIGNATURE "\x20\x11\0" INET), 2, "", "");
	/* with TLVs: an authority, an empty one, one of the sender's own */
	good(BYTES(SIGNATURE "\x21\x11\0\x1c\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb"
			     "\2\0\3abc\4\0\0\xe0\0\4zzzz"),
	     2, FROM, TO);
	memcpy(six, SIGNATURE "\x21\x21\0\x24", 16);
	CHECK_INT(inet_pton(AF_INET6, "2001:db8::9", six + 16), 1);
	CHECK_INT(inet_pton(AF_INET6, "2001:db8::1", six + 32), 1);
	memcpy(six + 48, "\x9c\xb0\1\xbb", 4);
	good(six, sizeof(six), 2, "tcp:[2001:db8::9]:40112", "tcp:[2001:db8::1]:443");
	memset(unix_, 'p', sizeof(unix_));
	memcpy(unix_, SIGNATURE "\x21\x31\0\xd8", 16);
	good(unix_, sizeof(unix_), 2, "unix", "unix");
}

static void test_broken_binary(void)
{
	broken(BYTES(SIGNATURE "\x11\x11\0" INET), 13, "unknown version");
	broken(BYTES(SIGNATURE "\x31\x11\0" INET), 13, "unknown version");
	broken(BYTES(SIGNATURE "\x22\x11\0" INET), 13, "unknown command");
	broken(BYTES(SIGNATURE "\x21\x41\0" INET), 14, "unknown family");
	broken(BYTES(SIGNATURE "\x21\x13\0" INET), 14, "unknown family");
	broken(BYTES(SIGNATURE "\x21\x21\0" INET), 28, "too short");
	broken(BYTES(SIGNATURE "\x21\x11\0\0"), 16, "too short");
	broken(BYTES(SIGNATURE "\x21\x11\0\x0b\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1"), 27,
	       "too short");
	broken(BYTES(SIGNATURE "\x21\x11\0\x0e\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb\4\0"), 30,
	       "cut short");
	broken(BYTES(SIGNATURE "\x21\x11\0\x10\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb"
			       "\4\0\2x"),
	       32, "longer than the header");
	/* what is no datagram's business is looked at all the same */
	broken(BYTES(SIGNATURE "\x21\x12\0\0"), 16, "too short");
}

static void test_checksum(void)
{
	/* CRC32C of this header, by another implementation */
	uint8_t header[] = SIGNATURE "\x21\x11\0\x17\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb"
				     "\3\0\4\xf3\x6b\x1a\x95\4\0\1x";
	const size_t len = sizeof(header) - 1;

	good(header, len, 2, FROM, TO);
	for (size_t i = 16; i < len; i++) {
		if (i == 28) /* another type: no checksum then */
			continue;
		header[i] ^= 1;
		CHECK_INT(proxyproto_parse(header, len, &parsed), PROXYPROTO_BAD);
		CHECK_INT(parsed.from.family, 0);
		header[i] ^= 1;
	}
	broken(BYTES(SIGNATURE "\x21\x11\0\x12\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb"
			       "\3\0\3abc"),
	       34, "checksum");
}

static void test_sizes(void)
{
	static uint8_t large[PROXYPROTO_MAX + 1];

	memcpy(large, SIGNATURE "\x21\x11\x0f\xf0\xc0\0\2\x09\xc6\x33\x64\1\x9c\xb0\1\xbb", 28);
	memcpy(large + 28, "\4\x0f\xe1", 3);
	good(large, PROXYPROTO_MAX, 2, FROM, TO);
	large[15] = 0xf1;
	CHECK_INT(proxyproto_parse(large, 15, &parsed), PROXYPROTO_MORE);
	CHECK_INT(proxyproto_parse(large, 16, &parsed), PROXYPROTO_TOO_LARGE);
	large[14] = large[15] = 0xff;
	CHECK_INT(proxyproto_parse(large, 16, &parsed), PROXYPROTO_TOO_LARGE);
	CHECK_INT(proxyproto_parse(large, sizeof(large), &parsed), PROXYPROTO_TOO_LARGE);
}

static void none(const char *text, size_t len, size_t at)
{
	for (size_t n = 0; n <= len; n++) {
		CHECK_INT(proxyproto_parse((const uint8_t *)text, n, &parsed),
			  n < at ? PROXYPROTO_MORE : PROXYPROTO_NONE);
		CHECK_INT(parsed.version, 0);
	}
}

static void test_none(void)
{
	none("\x16\3\1\0\xa5\1", 6, 1); /* TLS */
	none("CONNECT kbs.acme:443 HTTP/1.1\r\n", 31, 1);
	none("GET / HTTP/1.1\r\n", 16, 1);
	none("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, 3);
	none("PUT / HTTP/1.1\r\n", 16, 2);
	none("PROXYS / HTTP/1.1\r\n", 19, 6);
	none("proxy TCP4", 10, 1);
	none("\r\n\r\nGET / HTTP/1.1", 18, 5);
	none("\r\n\r\n\0\r\nQUIT\r", 12, 12);
}

/* ---- writing ---- */

static struct peer at(const char *text)
{
	struct peer p;

	CHECK(peer_parse(&p, text));
	return p;
}

static void test_encode_1(void)
{
	const struct peer from = at("tcp:192.0.2.9:40112"), to = at("tcp:198.51.100.1:443");
	const struct peer six = at("tcp:[2001:db8::9]:40112"), vsock = at("vsock:42:1025");
	const struct peer none_ = { 0 };
	struct proxyproto_about about = { .from = &from, .to = &to, .authority = "no", .id = "7" };
	uint8_t out[PROXYPROTO_SENT_MAX];
	size_t len = proxyproto_encode(out, 1, &about);

	CHECK_INT(len, 45);
	CHECK(memcmp(out, "PROXY TCP4 192.0.2.9 198.51.100.1 40112 443\r\n", len) == 0);
	good(out, len, 1, FROM, TO);
	about.from = &six;
	len = proxyproto_encode(out, 1, &about);
	good(out, len, 1, "tcp:[2001:db8::9]:40112", "tcp:[::]:0");
	about.to = &none_;
	about.from = &from;
	len = proxyproto_encode(out, 1, &about);
	good(out, len, 1, FROM, "tcp:0.0.0.0:0");
	about.from = &vsock;
	len = proxyproto_encode(out, 1, &about);
	CHECK_INT(len, 15);
	good(out, len, 1, "", "");
}

static bool has(const uint8_t *data, size_t len, const char *what, size_t what_len)
{
	return memmem(data, len, what, what_len) != NULL;
}
#define HAS(data, len, what) has(data, len, what, sizeof(what) - 1)

static void test_encode_2(void)
{
	const struct peer from = at("tcp:192.0.2.9:40112"), to = at("tcp:198.51.100.1:443");
	const struct peer six = at("tcp:[2001:db8::9]:40112"), vsock = at("vsock:42:1025");
	struct proxyproto_about about = { .from = &from, .to = &to };
	uint8_t out[PROXYPROTO_SENT_MAX];
	size_t len = proxyproto_encode(out, 2, &about);

	CHECK_INT(len, 28);
	CHECK(memcmp(out, SIGNATURE "\x21\x11\0" INET, len) == 0);
	about.authority = "kbs.acme";
	about.id = "17";
	len = proxyproto_encode(out, 2, &about);
	good(out, len, 2, FROM, TO);
	CHECK(memcmp(out + 28, "\2\0\10kbs.acme\5\0\00217", len - 28) == 0);
	about.tls_version = "TLSv1.3";
	len = proxyproto_encode(out, 2, &about);
	good(out, len, 2, FROM, TO);
	CHECK(HAS(out, len, "\x20\0\x0f\1\0\0\0\1\x21\0\7TLSv1.3"));
	about.tls_subject = "node-7";
	len = proxyproto_encode(out, 2, &about);
	good(out, len, 2, FROM, TO);
	CHECK(HAS(out, len, "\x20\0\x18\7\0\0\0\0\x21\0\7TLSv1.3\x22\0\6node-7"));
	about.tls_subject = ""; /* a certificate without a name is one, too */
	len = proxyproto_encode(out, 2, &about);
	CHECK(HAS(out, len, "\x20\0\x0f\7\0\0\0\0\x21\0\7TLSv1.3"));
	about.from = &six;
	len = proxyproto_encode(out, 2, &about);
	good(out, len, 2, "tcp:[2001:db8::9]:40112", "tcp:[::]:0");
	about.from = &vsock;
	len = proxyproto_encode(out, 2, &about);
	good(out, len, 2, "", "");
	CHECK(HAS(out, len, "\2\0\10kbs.acme"));
}

static void test_longest(void)
{
	const struct peer six = at("tcp:[2001:db8::9]:40112");
	char longest[300];
	struct proxyproto_about about = { .from = &six,
					  .to = &six,
					  .authority = longest,
					  .id = longest,
					  .tls_version = "TLSv1.3",
					  .tls_subject = longest };
	uint8_t out[PROXYPROTO_SENT_MAX];

	for (size_t n = 0; n < sizeof(longest); n++) {
		size_t len, fits = n <= 255 ? n : 0, id = n <= 128 ? n : 0, cn = n <= 256 ? n : 0;

		memset(longest, 'x', n);
		longest[n] = '\0';
		len = proxyproto_encode(out, 2, &about);
		CHECK_INT(len, 52 + fits + 3 * !!fits + id + 3 * !!id + 3 + 5 + 10 + cn + 3 * !!cn);
		CHECK_INT(proxyproto_parse(out, len, &parsed), PROXYPROTO_OK);
	}
}

/* ---- peers as text ---- */

static void test_peer_text(void)
{
	static const char *const bad[] = {
		"",
		"tcp:",
		"tcp:192.0.2.9",
		"tcp:192.0.2.9:",
		"tcp:192.0.2.9:65536",
		"tcp:192.0.2.9:1x",
		"tcp:192.0.2.9:-1",
		"tcp:192.0.2:1",
		"tcp:host:1",
		"tcp:[::1]1",
		"tcp:[::1]",
		"tcp:[::1",
		"tcp:::1:1",
		"tcp:[192.0.2.9]:1",
		"udp:192.0.2.9:1",
		"unix:pid=1,uid=2",
		"vsock:",
		"vsock:1",
		"vsock:1:",
		"vsock:4294967296:1",
		"vsock:1:2:3",
		"vsock:x:1",
		"unknown",
	};
	struct peer p = { 0 };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!peer_parse(&p, bad[i]));
	CHECK_INT(p.family, 0);
	p = at("tcp:[::ffff:192.0.2.9]:1");
	CHECK_STR(text_of(&p), "tcp:192.0.2.9:1");
	p = at("tcp:[2001:db8::9]:65535");
	CHECK_STR(text_of(&p), "tcp:[2001:db8::9]:65535");
	p = at("vsock:4294967295:1");
	CHECK_STR(text_of(&p), "vsock:4294967295:1");
}

int main(void)
{
	test_lines();
	test_broken_lines();
	test_binary();
	test_broken_binary();
	test_checksum();
	test_sizes();
	test_none();
	test_encode_1();
	test_encode_2();
	test_longest();
	test_peer_text();
	return 0;
}
