/* clienthello: hellos of OpenSSL's and hand-made ones, cut, split over records and damaged. */
#include "relay/clienthello.h"

#include <openssl/ssl.h>

#include "tests/unit/check.h"

struct hello {
	uint8_t bytes[CLIENTHELLO_MAX + 4096];
	size_t len;
};

/* --- making hellos --- */

static void put(struct hello *h, const void *bytes, size_t len)
{
	CHECK(h->len + len <= sizeof(h->bytes));
	memcpy(h->bytes + h->len, bytes, len);
	h->len += len;
}

static void put_number(struct hello *h, size_t value, unsigned size)
{
	while (size-- > 0)
		put(h, &(uint8_t){ (uint8_t)(value >> 8 * size) }, 1);
}

/* Sets the length field of that size at `at` to what came behind it. */
static void close_length(struct hello *h, size_t at, unsigned size)
{
	size_t value = h->len - at - size;

	for (unsigned i = 0; i < size; i++)
		h->bytes[at + i] = (uint8_t)(value >> 8 * (size - 1 - i));
}

static void put_extension(struct hello *h, unsigned type, const void *bytes, size_t len)
{
	put_number(h, type, 2);
	put_number(h, len, 2);
	put(h, bytes, len);
}

/* A hello with the given extensions (NULL: not even their length), as one record. */
static struct hello hello_with(const struct hello *extensions)
{
	struct hello h = { .len = 0 };
	uint8_t zero[33] = { 0 };

	put(&h, "\x16\x03\x01\0\0\x01\0\0\0\x03\x03", 11);
	put(&h, zero, 33);                                   /* random, no session */
	put(&h, "\0\x06\x5a\x5a\x13\x01\x13\x02\x01\0", 10); /* suites, one GREASE; compression */
	if (extensions) {
		put_number(&h, extensions->len, 2);
		put(&h, extensions->bytes, extensions->len);
	}
	close_length(&h, 6, 3);
	close_length(&h, 3, 2);
	return h;
}

static struct hello hello_named(const char *names, size_t len)
{
	struct hello e = { .len = 0 };

	put_extension(&e, 0, names, len);
	return hello_with(&e);
}

#define NAMED(bytes) hello_named(bytes, sizeof(bytes) - 1)

static struct hello real_hello(const char *name, const char *alpn, size_t alpn_len)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	struct hello h = { .len = 0 };

	SSL_set_bio(ssl, in, out);
	SSL_set_connect_state(ssl);
	if (name)
		SSL_set_tlsext_host_name(ssl, name);
	if (alpn)
		CHECK_INT(SSL_set_alpn_protos(ssl, (const uint8_t *)alpn, (unsigned)alpn_len), 0);
	SSL_do_handshake(ssl);
	h.len = (size_t)BIO_read(out, h.bytes, sizeof(h.bytes));
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return h;
}

/* The same message in records of at most size bytes each. */
static struct hello in_records(const struct hello *from, size_t size)
{
	struct hello h = { .len = 0 };

	for (size_t at = 5; at < from->len; at += size) {
		size_t n = from->len - at < size ? from->len - at : size;

		put(&h, "\x16\x03\x01", 3);
		put_number(&h, n, 2);
		put(&h, from->bytes + at, n);
	}
	return h;
}

/* --- asking --- */

/* Parses len bytes that lie at the end of their own allocation: ASan sees a read behind them. */
static enum clienthello_result parse(const uint8_t *bytes, size_t len, struct clienthello *out)
{
	uint8_t *copy = malloc(len ? len : 1);
	enum clienthello_result r;

	CHECK(copy);
	memcpy(copy, bytes, len);
	r = clienthello_parse(copy, len, out);
	CHECK(out->why && (r == CLIENTHELLO_BAD) == (out->why[0] != '\0'));
	CHECK(r == CLIENTHELLO_MORE ? out->need > len : out->need == 0);
	CHECK(r == CLIENTHELLO_OK || (!out->host[0] && !out->alpn && !out->alpn_tunnel));
	free(copy);
	return r;
}

static void expect_ok(const struct hello *h, const char *host, bool alpn, bool tunnel)
{
	struct clienthello out;

	for (size_t n = 0; n < h->len; n++)
		CHECK_INT(parse(h->bytes, n, &out), CLIENTHELLO_MORE);
	CHECK_INT(parse(h->bytes, h->len, &out), CLIENTHELLO_OK);
	CHECK_STR(out.host, host);
	CHECK_INT(out.alpn, alpn);
	CHECK_INT(out.alpn_tunnel, tunnel);
}

static void expect_bad(struct hello h, const char *why)
{
	struct clienthello out;

	CHECK_INT(parse(h.bytes, h.len, &out), CLIENTHELLO_BAD);
	if (!strstr(out.why, why))
		fprintf(stderr, "said: %s\n", out.why);
	CHECK(strstr(out.why, why));
}

/* --- tests --- */

static void test_real(void)
{
	static const char ours[] = "\x02h2\x0e" CLIENTHELLO_ALPN, other[] = "\x02h2\x08http/1.1",
			  near[] = "\x0f" CLIENTHELLO_ALPN "0\x0d"
				   "attest-relay/";
	struct hello h = real_hello("KBS.acme.Example.net", ours, sizeof(ours) - 1), split;

	expect_ok(&h, "kbs.acme.example.net", true, true);
	for (size_t size = 60; size < h.len; size += 37) {
		split = in_records(&h, size);
		expect_ok(&split, "kbs.acme.example.net", true, true);
	}
	split = in_records(&h, 1);
	expect_ok(&split, "kbs.acme.example.net", true, true);
	h = real_hello("a", other, sizeof(other) - 1);
	expect_ok(&h, "a", true, false);
	h = real_hello("a", near, sizeof(near) - 1);
	expect_ok(&h, "a", true, false);
	h = real_hello(NULL, NULL, 0);
	expect_ok(&h, "", false, false);
}

/* As a browser's: GREASE everywhere, and a key share that makes it longer than a packet. */
static void test_modern(void)
{
	static const uint8_t share[1800] = { 0x04, 0xbc };
	struct hello e = { .len = 0 }, h;

	put_extension(&e, 0x4a4a, "", 0);
	put_extension(&e, 51, share, sizeof(share));
	put_extension(&e, 0,
		      "\0\x0c\x07\0\x01x\0\0\x05"
		      "a.b-c",
		      14); /* another type first */
	put_extension(&e, 16, "\0\x12\x02\x3a\x3a\x0e" CLIENTHELLO_ALPN, 20);
	put_extension(&e, 0xfafa, "\0", 1);
	h = hello_with(&e);
	CHECK(h.len > 1500);
	expect_ok(&h, "a.b-c", true, true);
	h = hello_with(NULL);
	expect_ok(&h, "", false, false);
	h = hello_with(&(struct hello){ .len = 0 });
	expect_ok(&h, "", false, false);
}

static void test_names(void)
{
	char longest[5 + 300] = { 0 };
	struct hello h;

	h = NAMED("\0\x09\0\0\x06"
		  "X_y.z0");
	expect_ok(&h, "x_y.z0", false, false);
	expect_bad(NAMED(""), "past its end");
	expect_bad(NAMED("\0\0"), "malformed");
	expect_bad(NAMED("\0\x04\0\0\x01"
			 "ab"),
		   "malformed");
	expect_bad(NAMED("\0\x03\0\0\0"), "empty");
	expect_bad(NAMED("\0\x04\0\0\x02"
			 "a"),
		   "past its end");
	expect_bad(NAMED("\0\x05\0\0\x02"
			 "a."),
		   "trailing dot");
	expect_bad(NAMED("\0\x04\0\0\x01"
			 "."),
		   "empty label");
	expect_bad(NAMED("\0\x07\0\0\x04"
			 "a..b"),
		   "empty label");
	expect_bad(NAMED("\0\x06\0\0\x03"
			 "a\0b"),
		   "character");
	expect_bad(NAMED("\0\x06\0\0\x03"
			 "a b"),
		   "character");
	expect_bad(NAMED("\0\x06\0\0\x03"
			 "a/b"),
		   "character");
	expect_bad(NAMED("\0\x05\0\0\x02\xc3\xa4"), "character");
	expect_bad(NAMED("\0\x0a\0\0\x07"
			 "1.2.3.4"),
		   "IP address");
	expect_bad(NAMED("\0\x06\0\0\x03"
			 "::1"),
		   "character");
	expect_bad(NAMED("\0\x08\0\0\x01"
			 "a\0\0\x01"
			 "b"),
		   "two host names");
	for (size_t n = 250; n < 300; n++) {
		longest[0] = (char)((n + 3) >> 8);
		longest[1] = (char)(n + 3);
		longest[3] = (char)(n >> 8);
		longest[4] = (char)n;
		for (size_t i = 0; i < n; i++)
			longest[5 + i] = i % 50 == 49 && i + 1 < n ? '.' : 'a';
		h = hello_named(longest, 5 + n);
		if (n < CLIENTHELLO_HOST_SIZE)
			expect_ok(&h, longest + 5, false, false);
		else
			expect_bad(h, "too long");
	}
}

static void test_twice(void)
{
	struct hello e = { .len = 0 };

	put_extension(&e, 0,
		      "\0\x04\0\0\x01"
		      "a",
		      6);
	put_extension(&e, 0,
		      "\0\x04\0\0\x01"
		      "b",
		      6);
	expect_bad(hello_with(&e), "two server_name");
	e.len = 0;
	put_extension(&e, 16,
		      "\0\x02\x01"
		      "a",
		      4);
	put_extension(&e, 16,
		      "\0\x02\x01"
		      "b",
		      4);
	expect_bad(hello_with(&e), "two ALPN");
	e.len = 0;
	put_extension(&e, 16, "\0\x01\0", 3);
	expect_bad(hello_with(&e), "malformed");
	e.len = 0;
	put_number(&e, 77, 2);
	put_number(&e, 10, 2); /* and nothing behind it */
	expect_bad(hello_with(&e), "past its end");
}

static void test_records(void)
{
	struct hello h = NAMED("\0\x04\0\0\x01"
			       "a"),
		     bad;
	struct clienthello out;

	bad = in_records(&h, 20);
	bad.bytes[25] = 23; /* the second record's type */
	expect_bad(bad, "another record");
	bad = h;
	bad.bytes[5] = 2;
	expect_bad(bad, "no ClientHello");
	bad = h;
	bad.bytes[9] = 2;
	expect_bad(bad, "version");
	bad = h;
	bad.bytes[3] = bad.bytes[4] = 0;
	expect_bad(bad, "empty handshake record");
	bad = h;
	bad.bytes[4]++;
	expect_bad(bad, "behind the ClientHello");
	bad = h;
	bad.bytes[8]++; /* one byte more in the message than its lists account for */
	CHECK_INT(parse(bad.bytes, bad.len, &out), CLIENTHELLO_BAD);

	/* known from the length fields alone */
	CHECK_INT(parse((const uint8_t *)"\x16\x03\x01\x40\x00", 5, &out), CLIENTHELLO_BAD);
	CHECK_INT(parse((const uint8_t *)"\x16\x03\x01\x3f\xfb", 5, &out), CLIENTHELLO_MORE);
	CHECK_INT(parse((const uint8_t *)"\x16\x03\x01\x00\xc8\x01\x00\x3f\xf8", 9, &out),
		  CLIENTHELLO_BAD);
	CHECK_STR(out.why, "the ClientHello is too large");
	CHECK_INT(parse((const uint8_t *)"\x16\x03\x01\x00\xc8\x01\x00\x3f\x00", 9, &out),
		  CLIENTHELLO_MORE);
}

/* The limit holds to the byte, record headers included. */
static void test_limit(void)
{
	for (size_t size = CLIENTHELLO_MAX - 3; size < CLIENTHELLO_MAX + 3; size++) {
		struct hello e = { .len = 0 }, h;
		size_t fixed = 5 + 4 + 2 + 33 + 10 + 2 + 4;
		struct clienthello out;

		put_number(&e, 21, 2);
		put_number(&e, size - fixed, 2);
		memset(e.bytes + e.len, 0, size - fixed);
		e.len += size - fixed;
		h = hello_with(&e);
		CHECK_INT(h.len, size);
		CHECK_INT(parse(h.bytes, h.len, &out),
			  size <= CLIENTHELLO_MAX ? CLIENTHELLO_OK : CLIENTHELLO_BAD);
		h = in_records(&h, 1000); /* 16 or 17 headers: 80 bytes more */
		CHECK_INT(parse(h.bytes, h.len, &out), CLIENTHELLO_BAD);
	}
}

static void test_not_tls(void)
{
	static const char *const other[] = { "CONNECT a:1 HTTP/1.1\r\n",
					     "SSH-2.0-x",
					     "\x80\x2e\x01\x03\x01",
					     "\x15\x03\x03",
					     "\x16\x02\x00",
					     "\x16\x03\x07",
					     "\xff" };
	struct clienthello out;

	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		CHECK_INT(parse((const uint8_t *)other[i], strlen(other[i]), &out),
			  CLIENTHELLO_NOT_TLS);
	CHECK_INT(parse((const uint8_t *)"G", 1, &out), CLIENTHELLO_NOT_TLS);
	CHECK_INT(parse((const uint8_t *)"\0", 1, &out), CLIENTHELLO_NOT_TLS);
	CHECK_INT(parse((const uint8_t *)"", 0, &out), CLIENTHELLO_MORE);
	CHECK_INT(clienthello_parse(NULL, 0, &out), CLIENTHELLO_MORE);
}

/* Any byte changed: any answer will do, but no read outside and no lie about what is there. */
static void test_damage(void)
{
	static const char ours[] = "\x02h2\x0e" CLIENTHELLO_ALPN;
	static const uint8_t change[] = { 0x01, 0x80, 0xff, 0x40, 0x07 };
	struct hello h = real_hello("kbs.acme.example.net", ours, sizeof(ours) - 1);
	struct clienthello out;

	for (size_t i = 0; i < h.len; i++)
		for (size_t k = 0; k < sizeof(change); k++) {
			h.bytes[i] ^= change[k];
			parse(h.bytes, h.len, &out);
			parse(h.bytes, h.len / 2, &out);
			h.bytes[i] ^= change[k];
		}
}

int main(void)
{
	test_real();
	test_modern();
	test_names();
	test_twice();
	test_records();
	test_limit();
	test_not_tls();
	test_damage();
	return 0;
}
