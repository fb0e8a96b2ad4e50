/* httphead: good heads at every length, each rule broken once, and both limits to the byte. */
#include "relay/httphead.h"

#include "tests/unit/check.h"

/* Parses len bytes that lie at the end of their own allocation: ASan sees a read behind them. */
static enum httphead_result parse(const char *text, size_t len, struct httphead *out)
{
	char *copy = malloc(len ? len : 1);
	enum httphead_result r;

	CHECK(copy);
	memcpy(copy, text, len);
	r = httphead_parse(copy, len, out);
	CHECK(out->why && (r == HTTPHEAD_BAD || r == HTTPHEAD_TOO_LARGE) == (out->why[0] != '\0'));
	free(copy);
	return r;
}

/* MORE up to the last byte, then OK; what follows does not matter. */
static void expect_ok(const char *text)
{
	size_t len = strlen(text);
	char more[HTTPHEAD_MAX + 64];
	struct httphead h;

	for (size_t n = 0; n < len; n++)
		CHECK_INT(parse(text, n, &h), HTTPHEAD_MORE);
	CHECK_INT(parse(text, len, &h), HTTPHEAD_OK);
	CHECK_INT(h.len, len);
	memcpy(more, text, len);
	memcpy(more + len, "\x16\0\n\r", 4);
	CHECK_INT(parse(more, len + 4, &h), HTTPHEAD_OK);
	CHECK_INT(h.len, len);
}

static void expect_bad(const char *text, size_t len)
{
	struct httphead h;
	enum httphead_result r = parse(text, len, &h);

	if (r != HTTPHEAD_BAD)
		fprintf(stderr, "took: %s\n", text);
	CHECK_INT(r, HTTPHEAD_BAD);
}

#define BAD(text) expect_bad(text, sizeof(text) - 1)

static void test_good(void)
{
	static const char text[] =
		"CONNECT kbs.acme:443 HTTP/1.1\r\nHost: kbs.acme:443\r\n"
		"X-Empty:\r\nX-Space: \t a  b\t \r\nConnection: keep-alive, Upgrade\r\n"
		"connection:foo ,bar,\r\nX-Old: \xe4\r\n\r\n";
	struct httphead h;

	expect_ok(text);
	CHECK_INT(httphead_parse(text, sizeof(text) - 1, &h), HTTPHEAD_OK);
	CHECK(httphead_is(h.method, "CONNECT") && httphead_is(h.target, "kbs.acme:443"));
	CHECK_INT(h.minor, 1);
	CHECK_INT(h.lines, 6);
	CHECK(httphead_is(httphead_get(&h, "hOST"), "kbs.acme:443"));
	CHECK(httphead_get(&h, "x-empty").at && httphead_get(&h, "x-empty").len == 0);
	CHECK(httphead_is(httphead_get(&h, "X-Space"), "a  b"));
	CHECK(!httphead_get(&h, "Hos").at && !httphead_get(&h, "Hostt").at);
	CHECK(!httphead_is(httphead_get(&h, "none"), ""));
	CHECK_INT(httphead_count(&h, "Connection"), 2);
	CHECK(httphead_has_token(&h, "Connection", "upgrade"));
	CHECK(httphead_has_token(&h, "Connection", "keep-alive"));
	CHECK(httphead_has_token(&h, "Connection", "bar"));
	CHECK(!httphead_has_token(&h, "Connection", "up"));
	CHECK(!httphead_has_token(&h, "Connection", "keep"));
	CHECK(!httphead_has_token(&h, "None", "keep"));
	expect_ok("GET / HTTP/1.0\r\n\r\n");
	expect_ok("GET /tunnel?a=b HTTP/1.1\r\nHost: x\r\n\r\n");
	expect_ok("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n");
	expect_ok("CONNECT a:1 HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
}

static void test_bad(void)
{
	BAD("\r\n");
	BAD(" GET");
	BAD("\x16\x03\x01");
	BAD("SSH-2.0-x\r\n");
	BAD("GET\t");
	BAD("GET  /");
	BAD("GET / \r\n");
	BAD("GET /\r\n");
	BAD("GET / HTTP/1.1 \r\n");
	BAD("GET / a HTTP/1.1");
	BAD("GET / HTTP/2");
	BAD("GET / HTTP/1.2");
	BAD("GET / HTTP/1.10");
	BAD("GET / http/1.1");
	BAD("GET / HTTP/1.\r\n");
	BAD("GET /\xc3\xa4");
	BAD("GET /a\0b");
	BAD("GET / HTTP/1.1\n");
	BAD("GET / HTTP/1.1\rX");
	BAD("GET / HTTP/1.1\r\r\n");
	BAD("THIS-METHOD-IS-LONGER-THAN-ANY-THERE-IS");
	BAD("GET / HTTP/1.1\r\n Host");
	BAD("GET / HTTP/1.1\r\nA: b\r\n\tc");
	BAD("GET / HTTP/1.1\r\nHost :");
	BAD("GET / HTTP/1.1\r\n:");
	BAD("GET / HTTP/1.1\r\nHost\r\n");
	BAD("GET / HTTP/1.1\r\nHo st: a");
	BAD("GET / HTTP/1.1\r\nA: b\n");
	BAD("GET / HTTP/1.1\r\nA: b\0");
	BAD("GET / HTTP/1.1\r\nA: b\x7f");
	BAD("GET / HTTP/1.1\r\nA: b\x1b");
	BAD("GET / HTTP/1.1\r\nA: b\r\n\n");
	BAD("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n");
	BAD("CONNECT a:1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n");
	BAD("CONNECT a:1 HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n");
	BAD("CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
}

static void test_limits(void)
{
	static const char start[] = "GET / HTTP/1.1\r\nA: ";
	static char text[HTTPHEAD_MAX + 100];
	struct httphead h;
	size_t len;

	for (size_t size = HTTPHEAD_MAX - 2; size <= HTTPHEAD_MAX + 2; size++) {
		memset(text, 'x', sizeof(text));
		memcpy(text, start, sizeof(start) - 1);
		memcpy(text + size - 4, "\r\n\r\n", 4);
		CHECK_INT(parse(text, size, &h),
			  size <= HTTPHEAD_MAX ? HTTPHEAD_OK : HTTPHEAD_TOO_LARGE);
		CHECK_INT(parse(text, size - 1, &h),
			  size - 1 < HTTPHEAD_MAX ? HTTPHEAD_MORE : HTTPHEAD_TOO_LARGE);
	}
	memset(text, 'x', sizeof(text));
	memcpy(text, "GET /", 5);
	CHECK_INT(parse(text, sizeof(text), &h), HTTPHEAD_TOO_LARGE);
	for (unsigned lines = 63; lines <= 66; lines++) {
		len = (size_t)sprintf(text, "GET / HTTP/1.1\r\n");
		for (unsigned i = 0; i < lines; i++)
			len += (size_t)sprintf(text + len, "A%u: b\r\n", i);
		len += (size_t)sprintf(text + len, "\r\n");
		CHECK_INT(parse(text, len, &h),
			  lines <= HTTPHEAD_LINES_MAX ? HTTPHEAD_OK : HTTPHEAD_TOO_LARGE);
	}
}

static void authority(const char *text, const char *host, uint16_t port)
{
	char got[HTTPHEAD_HOST_SIZE] = "as before";
	uint16_t number = 7;
	int r = httphead_authority((struct httphead_slice){ text, strlen(text) }, got, &number);

	if (r != (host ? 0 : -EINVAL))
		fprintf(stderr, "authority %s\n", text);
	CHECK_INT(r, host ? 0 : -EINVAL);
	CHECK_STR(got, host ? host : "as before");
	CHECK_INT(number, host ? port : 7);
}

static void test_authority(void)
{
	static const char *const wrong[] = {
		"",
		":",
		"a",
		"a:",
		":1",
		"a:0",
		"a:65536",
		"a:100000",
		"a:01",
		"a:+1",
		"a:1x",
		"a:1 ",
		"a b:1",
		".a:1",
		"a.:1",
		"a..b:1",
		"a:b:1",
		"::1:1",
		"[]:1",
		"[::1]",
		"[::1]:",
		"[::1:1",
		"::1]:1",
		"[::g]:1",
		"[fe80::1%eth0]:1",
		"[1.2.3.4]:1",
		"u@a:1",
		"a/b:1",
		"[a]:1",
		"[:1",
		"a]:1",
	};
	char longest[HTTPHEAD_HOST_SIZE + 8], host[HTTPHEAD_HOST_SIZE];

	authority("KBS.Acme:443", "kbs.acme", 443);
	authority("a:1", "a", 1);
	authority("a_b-c.0:65535", "a_b-c.0", 65535);
	authority("127.0.0.1:80", "127.0.0.1", 80);
	authority("[::1]:80", "::1", 80);
	authority("[2001:DB8::1.2.3.4]:80", "2001:db8::1.2.3.4", 80);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		authority(wrong[i], NULL, 0);
	memset(longest, 'a', sizeof(longest));
	strcpy(longest + 256, ":1");
	authority(longest, NULL, 0);
	memset(host, 'a', sizeof(host));
	host[255] = '\0';
	authority(longest + 1, host, 1);
}

static void expect_bad_answer(const char *text)
{
	struct httphead h;

	CHECK_INT(httphead_parse_answer(text, strlen(text), &h), HTTPHEAD_BAD);
	CHECK(h.why[0]);
}

static void test_answers(void)
{
	static const char text[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
	struct httphead h;

	for (size_t n = 0; n < sizeof(text) - 1; n++)
		CHECK_INT(httphead_parse_answer(text, n, &h), HTTPHEAD_MORE);
	CHECK_INT(httphead_parse_answer(text, sizeof(text) - 1, &h), HTTPHEAD_OK);
	CHECK_INT(h.status, 101);
	CHECK_INT(h.minor, 1);
	CHECK_INT(h.len, sizeof(text) - 1);
	CHECK(httphead_is(httphead_get(&h, "upgrade"), "websocket"));
	CHECK_INT(httphead_parse_answer("HTTP/1.0 404\r\n\r\n", 16, &h), HTTPHEAD_OK);
	CHECK_INT(h.status, 404);
	CHECK_INT(h.minor, 0);
	CHECK_INT(httphead_parse_answer("HTTP/1.1 200 \r\nHost: a\r\nHost: b\r\n\r\n", 35, &h),
		  HTTPHEAD_OK); /* rules for requests */
	expect_bad_answer("S");
	expect_bad_answer("HTTP/1.2");
	expect_bad_answer("HTTP/2 200 \r\n\r\n");
	expect_bad_answer("HTTP/1.1  ");
	expect_bad_answer("HTTP/1.1 20\r\n");
	expect_bad_answer("HTTP/1.1 2000");
	expect_bad_answer("HTTP/1.1 099 x\r\n");
	expect_bad_answer("HTTP/1.1 200 x\n");
	expect_bad_answer("HTTP/1.1 200 x\r\n folded");
	expect_bad_answer("GET / HTTP/1.1\r\n\r\n");
}

int main(void)
{
	test_answers();
	test_good();
	test_bad();
	test_limits();
	test_authority();
	return 0;
}
