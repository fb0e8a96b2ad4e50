/* Tests of config/proxy_url, config/no_proxy, tunnel/proxy_words and tunnel/egress. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/no_proxy.h"
#include "config/proxy_url.h"
#include "relay/log.h"
#include "tests/unit/check.h"
#include "tunnel/egress.h"
#include "tunnel/proxy_words.h"

/* ---- URLs ---- */

static void reads(const char *text, enum proxy_scheme scheme, const char *shown, const char *user,
		  const char *password)
{
	char buf[EGRESS_TEXT_MAX], *why;
	struct proxy_url u;

	CHECK_INT(proxy_url_parse(&u, text, &why), 0);
	CHECK_INT(u.scheme, scheme);
	CHECK_STR(proxy_url_format(&u, buf, sizeof(buf)), shown);
	CHECK((u.user != NULL) == (user != NULL) && (!user || strcmp(u.user, user) == 0));
	CHECK((u.password != NULL) == (password != NULL) &&
	      (!password || strcmp(u.password, password) == 0));
	proxy_url_deinit(&u);
	proxy_url_deinit(&u);
}

static void refuses(const char *text, const char *what)
{
	struct proxy_url u = { .user = (char *)"untouched" };
	char *why = NULL;

	CHECK_INT(proxy_url_parse(&u, text, &why), -EINVAL);
	CHECK_STR(u.user, "untouched");
	if (!strstr(why, what))
		fprintf(stderr, "%s: %s\n", text, why);
	CHECK(strstr(why, what));
	CHECK(!strstr(why, "s3cret"));
	free(why);
}

static void test_urls(void)
{
	char text[700], longest[256];

	reads("http://proxy.corp:3128", PROXY_HTTP, "http://proxy.corp:3128", NULL, NULL);
	reads("HTTP://Proxy.Corp:3128/", PROXY_HTTP, "http://proxy.corp:3128", NULL, NULL);
	reads("proxy.corp:3128", PROXY_HTTP, "http://proxy.corp:3128", NULL, NULL);
	reads("https://me@p:443", PROXY_HTTPS, "https://p:443", "me", NULL);
	reads("socks5://me:@p:1080", PROXY_SOCKS5, "socks5://p:1080", "me", "");
	reads("socks5h://[::1]:1080", PROXY_SOCKS5H, "socks5h://[::1]:1080", NULL, NULL);
	reads("me:a%3Ab%25%40@p:1", PROXY_HTTP, "http://p:1", "me", "a:b%@");
	reads("http://me:a@b:c/d@p:1", PROXY_HTTP, "http://p:1", "me", "a@b:c/d");
	reads("socks5://a%3ab:c@p:1", PROXY_SOCKS5, "socks5://p:1", "a:b", "c");
	refuses("http://proxy.corp", "port");
	refuses("http://proxy.corp:0", "port");
	refuses("http://proxy.corp:65536", "port");
	refuses("http://me:s3cret@", "port");
	refuses("http://me:s3cret@p", "port");
	refuses("http://me:s3cret@p:1/path", "behind its port");
	refuses("http://p:1?s3cret", "behind its port");
	refuses("ftp://me:s3cret@p:1", "another kind");
	refuses("socks4://p:1", "another kind");
	refuses("://p:1", "another kind");
	refuses("http://:s3cret@p:1", "no user name");
	refuses("http://@p:1", "no user name");
	refuses("http://me:s3cret%@p:1", "%25");
	refuses("http://me:s3cret%4@p:1", "%25");
	refuses("http://me:s3cret%00@p:1", "control");
	refuses("http://me:s3cret%0d%0aX: y@p:1", "control");
	refuses("http://m%3ae:s3cret@p:1", "':'");
	refuses("", "port");
	snprintf(text, sizeof(text), "http://me:%0255d@p:1", 0);
	snprintf(longest, sizeof(longest), "%0255d", 0);
	reads(text, PROXY_HTTP, "http://p:1", "me", longest);
	snprintf(text, sizeof(text), "http://me:%0256d@p:1", 0);
	refuses(text, "longer than 255");
}

/* ---- NO_PROXY ---- */

static void test_no_proxy(void)
{
	static const struct {
		const char *list, *host;
		uint32_t port;
		bool covered;
	} rows[] = {
		{ "", "relay.example", 443, false },
		{ "*", "relay.example", 443, true },
		{ "other,*", "192.0.2.1", 443, true },
		{ "relay.example", "relay.example", 443, true },
		{ "Relay.EXAMPLE", "relay.example", 443, true },
		{ "relay.example", "a.relay.example", 443, true },
		{ "relay.example", "arelay.example", 443, false },
		{ ".relay.example", "a.relay.example", 443, true },
		{ ".relay.example", "relay.example", 443, true },
		{ "*.relay.example", "b.a.relay.example", 443, true },
		{ "relay.example.", "relay.example", 443, true },
		{ "relay.example", "relay.example.", 443, true },
		{ "a.relay.example", "relay.example", 443, false },
		{ "a_b", "a_b", 443, true },
		{ "x, relay.example ,y", "relay.example", 443, true },
		{ "x\trelay.example", "relay.example", 443, true },
		{ "xrelay.example,relay.examplex", "relay.example", 443, false },
		{ "relay.example:443", "relay.example", 443, true },
		{ "relay.example:443", "a.relay.example", 8443, false },
		{ "*:8443", "relay.example", 8443, true },
		{ "*:8443", "relay.example", 443, false },
		{ "192.0.2.7", "192.0.2.7", 443, true },
		{ "192.0.2.7:443", "192.0.2.7", 443, true },
		{ "192.0.2.7:444", "192.0.2.7", 443, false },
		{ "192.0.2.7", "192.0.2.70", 443, false },
		{ "2.7", "192.0.2.7", 443, false }, /* no suffix of an address is one */
		{ "192.0.2.0/24", "192.0.2.255", 443, true },
		{ "192.0.2.0/24", "192.0.3.0", 443, false },
		{ "192.0.2.128/25", "192.0.2.127", 443, false },
		{ "192.0.2.128/25", "192.0.2.128", 443, true },
		{ "0.0.0.0/0", "203.0.113.1", 443, true },
		{ "0.0.0.0/0", "relay.example", 443, false },
		{ "0.0.0.0/0", "2001:db8::1", 443, false },
		{ "192.0.2.0/33", "192.0.2.0", 443, false },
		{ "192.0.2.0/", "192.0.2.0", 443, false },
		{ "192.0.2.1/32", "192.0.2.1", 443, true },
		{ "2001:db8::7", "2001:db8::7", 443, true },
		{ "2001:db8:0::7", "2001:db8::7", 443, true },
		{ "[2001:db8::7]", "2001:db8::7", 443, true },
		{ "[2001:db8::7]:443", "2001:db8::7", 443, true },
		{ "[2001:db8::7]:444", "2001:db8::7", 443, false },
		{ "2001:db8::/33", "2001:db8:7fff::", 443, true },
		{ "2001:db8::/33", "2001:db8:8000::", 443, false },
		{ "::/0", "192.0.2.1", 443, false },
		{ "relay.example/24", "relay.example", 443, false },
		{ "relay.example:", "relay.example", 443, false },
		{ "relay.example:0", "relay.example", 443, false },
		{ "[relay.example", "relay.example", 443, false },
		{ ",,, ,", "relay.example", 443, false },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		if (no_proxy_list_covers(rows[i].list, rows[i].host, rows[i].port) !=
		    rows[i].covered) {
			fprintf(stderr, "NO_PROXY=%s, %s port %u\n", rows[i].list, rows[i].host,
				rows[i].port);
			abort();
		}
	CHECK(no_proxy_is_entry("10.0.0.0/8"));
	CHECK(no_proxy_is_entry("*"));
	CHECK(!no_proxy_is_entry("10.0.0.0/40"));
	CHECK(!no_proxy_is_entry("a b"));
	CHECK(!no_proxy_is_entry(""));
	CHECK(!no_proxy_is_entry("http://relay.example"));
}

/* ---- the talk ---- */

static struct proxy_talk talk;
static struct proxy_credentials us = { true, "Aladdin", "open sesame" };

static void begin(enum proxy_scheme scheme, const char *host, uint16_t port,
		  const struct proxy_credentials *credentials)
{
	CHECK_INT(proxy_talk_begin(&talk, scheme, host, port, credentials), 0);
}

static bool said(const char *bytes, size_t len)
{
	bool same = talk.say_len == len && memcmp(talk.say, bytes, len) == 0;

	talk.say_len = 0;
	return same;
}

/* One byte at a time, as long as more is wanted; then all that is left at once. */
static enum proxy_verdict hear(const char *bytes, size_t len)
{
	enum proxy_verdict v = PROXY_MORE;

	for (size_t i = 0; i < len && v == PROXY_MORE; i++) {
		talk.heard[talk.heard_len++] = (uint8_t)bytes[i];
		v = proxy_talk_judge(&talk);
	}
	return v;
}

static enum proxy_verdict hear_at_once(const char *bytes, size_t len)
{
	memcpy(talk.heard + talk.heard_len, bytes, len);
	talk.heard_len += len;
	return proxy_talk_judge(&talk);
}

#define SAID(text) said(text, sizeof(text) - 1)
#define HEAR(text) hear(text, sizeof(text) - 1)
#define HEAR_AT_ONCE(text) hear_at_once(text, sizeof(text) - 1)

static void answer(const struct proxy_credentials *c, uint16_t port, const char *text,
		   const char *what)
{
	begin(PROXY_HTTP, "r.example", port, c);
	CHECK_INT(hear_at_once(text, strlen(text)), PROXY_NO);
	if (!strstr(talk.detail, what))
		fprintf(stderr, "%s\n", talk.detail);
	CHECK(strstr(talk.detail, what));
	CHECK(!strstr(talk.detail, "sesame"));
}

static void test_connect(void)
{
	char long_host[257];

	begin(PROXY_HTTP, "r.example", 443, NULL);
	CHECK(SAID("CONNECT r.example:443 HTTP/1.1\r\nHost: r.example:443\r\n"
		   "User-Agent: attest-tunnel\r\n\r\n"));
	CHECK_INT(HEAR("HTTP/1.0 200 Connection established\r\n\r\n"), PROXY_OPEN);
	begin(PROXY_HTTPS, "2001:db8::1", 8443, &us);
	CHECK(SAID("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n"
		   "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"
		   "User-Agent: attest-tunnel\r\n\r\n"));
	CHECK_INT(HEAR("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nA: b\r\n\r\n"
		       "HTTP/1.1 200\r\nVia: x\r\n\r\n"),
		  PROXY_OPEN);
	begin(PROXY_HTTP, "r.example", 443, NULL);
	CHECK_INT(HEAR_AT_ONCE("HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03"), PROXY_NO);
	CHECK(strstr(talk.detail, "behind its answer"));
	begin(PROXY_HTTP, "r.example", 443, NULL);
	CHECK_INT(HEAR_AT_ONCE("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx"), PROXY_NO);
	memset(long_host, 'a', 256);
	long_host[256] = '\0';
	CHECK_INT(proxy_talk_begin(&talk, PROXY_HTTP, long_host, 1, NULL), -EINVAL);
	CHECK_INT(proxy_talk_begin(&talk, PROXY_SOCKS5, "", 1, NULL), -EINVAL);
	CHECK_INT(proxy_talk_begin(&talk, PROXY_HTTP, long_host + 1, 65535,
				   &(struct proxy_credentials){ .known = true }),
		  0);
	CHECK(talk.say_len < PROXY_SAY_MAX);
}

static void test_refusals(void)
{
	answer(NULL, 443, "HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=x\r\n\r\nbody",
	       "\"HTTP/1.1 407 Who?\" to CONNECT: it wants a user name");
	answer(NULL, 443, "HTTP/1.1 407 Who?\r\n\r\n", "--proxy-credentials-file");
	answer(&us, 443, "HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
	       "does not take the user name and password");
	answer(&us, 443, "HTTP/1.0 401 Unauthorized\r\n\r\n", "does not take the user name");
	answer(&us, 443,
	       "HTTP/1.1 407 Who?\r\nproxy-authenticate: NTLM\r\n"
	       "Proxy-Authenticate: Negotiate\r\n\r\n",
	       "no password by HTTP's Basic method");
	answer(NULL, 8443, "HTTP/1.1 403 Forbidden\r\n\r\n", "port 443 only");
	answer(NULL, 443, "HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow this host;");
	answer(NULL, 443, "HTTP/1.1 503 Service Unavailable\r\n\r\n", "cannot reach the relay");
	answer(NULL, 443, "HTTP/1.1 302 Found\r\nLocation: http://login\r\n\r\n", "login page");
	answer(NULL, 443, "HTTP/1.1 405 Not Allowed\r\n\r\n", "does it allow CONNECT?");
	answer(NULL, 443, "HTTP/1.1 400 \x1b[31mred\r\n\r\n", "no good HTTP");
	answer(NULL, 443, "\x15\x03\x01\x00\x02\x02\x32", "https://");
	answer(NULL, 443, "\x05\xff", "SOCKS");
	answer(NULL, 443, "SSH-2.0-x\r\n", "is it a proxy?");
	begin(PROXY_HTTP, "r.example", 443, NULL);
	memset(talk.heard, 'x', sizeof(talk.heard));
	memcpy(talk.heard, "HTTP/1.1 200 OK\r\nA: ", 20);
	talk.heard_len = sizeof(talk.heard);
	CHECK_INT(proxy_talk_judge(&talk), PROXY_NO);
}

static void test_socks(void)
{
	begin(PROXY_SOCKS5H, "r.example", 443, NULL);
	CHECK(SAID("\5\1\0"));
	CHECK_INT(HEAR("\5\0"), PROXY_MORE);
	CHECK(SAID("\5\1\0\3\11r.example\1\273"));
	CHECK_INT(HEAR("\5\0\0\1\177\0\0\1\0\120"), PROXY_OPEN);

	begin(PROXY_SOCKS5, "192.0.2.1", 443, &us);
	CHECK(SAID("\5\2\0\2"));
	CHECK_INT(HEAR("\5\2"), PROXY_MORE);
	CHECK(SAID("\1\7Aladdin\13open sesame"));
	CHECK_INT(HEAR("\1\0"), PROXY_MORE);
	CHECK(SAID("\5\1\0\1\300\0\2\1\1\273"));
	CHECK_INT(HEAR("\5\0\0\3\2ab\0\0"), PROXY_OPEN);

	begin(PROXY_SOCKS5, "2001:db8::1", 1, &us);
	CHECK(SAID("\5\2\0\2"));
	CHECK_INT(HEAR("\5\0"), PROXY_MORE); /* it chose none */
	CHECK(SAID("\5\1\0\4\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1\0\1"));
	CHECK_INT(HEAR("\5\0\0\4" "0123456789abcdef" "\0\1"), PROXY_OPEN);
}

static void socks_no(const struct proxy_credentials *c, const char *bytes, size_t len,
		     const char *what)
{
	begin(PROXY_SOCKS5H, "r.example", 443, c);
	talk.say_len = 0;
	CHECK_INT(hear_at_once(bytes, len), PROXY_NO);
	if (!strstr(talk.detail, what))
		fprintf(stderr, "%s\n", talk.detail);
	CHECK(strstr(talk.detail, what));
}

static void test_socks_refusals(void)
{
	socks_no(NULL, "\5\377", 2, "--proxy-credentials-file");
	socks_no(NULL, "\5\2", 2, "--proxy-credentials-file"); /* was not offered */
	socks_no(&us, "\5\377", 2, "another way");
	socks_no(NULL, "\4\0", 2, "does not speak SOCKS5");
	socks_no(NULL, "HTTP/1.1 400", 12, "speaks HTTP");
	socks_no(NULL, "\5\0\5", 3, "behind its answer");
	begin(PROXY_SOCKS5H, "r.example", 443, &us);
	CHECK_INT(HEAR("\5\2"), PROXY_MORE);
	CHECK_INT(HEAR("\1\1"), PROXY_NO);
	CHECK(strstr(talk.detail, "does not take the user name"));
	for (int code = 1; code < 256; code++) {
		char reply[] = { 5, (char)code, 0, 1, 0, 0, 0, 0, 0, 0 };

		begin(PROXY_SOCKS5H, "r.example", 443, NULL);
		CHECK_INT(HEAR("\5\0"), PROXY_MORE);
		CHECK_INT(hear(reply, sizeof(reply)), PROXY_NO);
		CHECK(strstr(talk.detail, "SOCKS5 error"));
	}
	begin(PROXY_SOCKS5H, "r.example", 443, NULL);
	CHECK_INT(HEAR("\5\0"), PROXY_MORE);
	CHECK_INT(HEAR_AT_ONCE("\5\0\0\1\177\0\0\1\0\120x"), PROXY_NO);
	CHECK(strstr(talk.detail, "behind its answer"));
	begin(PROXY_SOCKS5H, "r.example", 443, NULL);
	CHECK_INT(HEAR("\5\0"), PROXY_MORE);
	CHECK_INT(HEAR("\5\0\0\2\0"), PROXY_NO);
}

/* ---- which proxy, and as whom ---- */

static void clear(void)
{
	static const char *const names[] = { "https_proxy", "HTTPS_PROXY", "all_proxy",
					     "ALL_PROXY",   "no_proxy",	   "NO_PROXY" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		unsetenv(names[i]);
}

static struct address relay_at(const char *text)
{
	struct address a;
	char *why;

	CHECK_INT(address_parse(&a, text, &why), 0);
	return a;
}

static const char *way(const struct egress *e, const char *relay)
{
	struct address a = relay_at(relay);
	const struct proxy *p = egress_to(e, &a);

	address_deinit(&a);
	return p ? p->text : "direct";
}

static void test_environment(void)
{
	char variable[] = "HTTPS_PROXY=http://me:s3cret@p:1";
	struct tunnel_config *config = tunnel_config_new();
	struct proxy_credentials c;
	struct egress e;
	bool exposed;
	char *why;

	clear();
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_STR(way(&e, "tcp:r.example:443"), "direct");
	egress_deinit(&e);

	CHECK_INT(putenv(variable), 0);
	setenv("https_proxy", "", 1);
	setenv("ALL_PROXY", "socks5h://q:2", 1);
	setenv("NO_PROXY", "near.example,10.0.0.0/8", 1);
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_STR(e.proxy.source, "HTTPS_PROXY");
	CHECK_STR(way(&e, "tcp:r.example:443"), "http://p:1");
	CHECK_STR(way(&e, "tcp:a.near.example:443"), "direct");
	CHECK_STR(way(&e, "tcp:10.1.2.3:443"), "direct");
	CHECK_STR(way(&e, "tcp:[fe80::1%eth0]:443"), "direct");
	CHECK_STR(way(&e, "unix:/run/relay"), "direct");
	CHECK(!getenv("HTTPS_PROXY") && !getenv("ALL_PROXY"));
	for (size_t i = strlen("HTTPS_PROXY="); i < sizeof(variable); i++)
		CHECK_INT(variable[i], 0); /* where it was */
	CHECK_INT(egress_credentials(&e.proxy, &c, &exposed, &why), 0);
	CHECK_STR(c.user, "me");
	CHECK_STR(c.password, "s3cret");
	egress_deinit(&e);
	egress_deinit(&e);

	setenv("all_proxy", "socks5h://q:2", 1);
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_STR(way(&e, "tcp:r.example:443"), "socks5h://q:2");
	CHECK_STR(way(&e, "tcp:10.1.2.3:443"), "direct");
	egress_deinit(&e);

	/* a list of ours goes before the environment's, whose proxy it is for */
	CHECK_INT(tunnel_config_set_no_proxy(config, "lost.example", &why), 0);
	CHECK_INT(tunnel_config_set_no_proxy(config, ", r.example,192.0.2.0/24 ,", &why), 0);
	setenv("all_proxy", "socks5h://q:2", 1);
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_STR(way(&e, "tcp:r.example:443"), "direct");
	CHECK_STR(way(&e, "tcp:192.0.2.9:443"), "direct");
	CHECK_STR(way(&e, "tcp:10.1.2.3:443"), "socks5h://q:2");
	CHECK_STR(way(&e, "tcp:lost.example:443"), "socks5h://q:2");
	egress_deinit(&e);
	CHECK_INT(tunnel_config_set_no_proxy(config, " ,", &why), -EINVAL);
	free(why);
	CHECK_INT(tunnel_config_set_no_proxy(config, "a,b c/9", &why), -EINVAL);
	CHECK(strstr(why, "c/9"));
	free(why);
	CHECK_INT(config->no_proxy.n, 2);
	setenv("https_proxy", "socks4://me:s3cret@q:2", 1);
	CHECK_INT(egress_init(&e, config, &why), -EINVAL);
	CHECK(strstr(why, "https_proxy: ") && !strstr(why, "s3cret"));
	free(why);
	clear();
	tunnel_config_free(config);
}

static void test_config_first(void)
{
	static const char text[] = "proxy: http://p:1\nno_proxy: [near.example, '*:8443']\n";
	struct config_errors errors = { 0 };
	struct tunnel_config *config =
		tunnel_config_parse("t.yaml", text, sizeof(text) - 1, &errors);
	struct egress e;
	char *why;

	CHECK(config);
	setenv("https_proxy", "http://env:1", 1);
	setenv("no_proxy", "*", 1);
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_STR(way(&e, "tcp:r.example:443"), "http://p:1");
	CHECK_STR(way(&e, "tcp:r.example:8443"), "direct");
	CHECK_STR(way(&e, "tcp:near.example:443"), "direct");
	egress_deinit(&e);
	free(config->proxy);
	config->proxy = strdup("none");
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_STR(way(&e, "tcp:r.example:443"), "direct");
	CHECK_STR(way(NULL, "tcp:r.example:443"), "direct");
	CHECK(!getenv("https_proxy")); /* not used, and not left for others to read either */
	egress_deinit(&e);
	tunnel_config_free(config);
	clear();
}

/* What was refused rests, longer each time; what is new does not. */
static void test_rejected(void)
{
	struct tunnel_config *config = tunnel_config_new();
	struct proxy_credentials c, other = { .known = true, .user = "me" };
	const uint64_t minute = EGRESS_REJECTED_MS;
	struct egress e;
	bool exposed;
	char *why;

	clear();
	setenv("https_proxy", "http://me:s3cret@p:1", 1);
	CHECK_INT(egress_init(&e, config, &why), 0);
	CHECK_INT(egress_credentials(&e.proxy, &c, &exposed, &why), 0);
	CHECK(!egress_rests(&e.proxy, &c, 0));
	egress_rejected(&e.proxy, &c, 1000);
	CHECK(egress_rests(&e.proxy, &c, 1000 + minute - 1));
	CHECK(!egress_rests(&e.proxy, &c, 1000 + minute));
	CHECK(!egress_rests(&e.proxy, &other, 1000));
	for (unsigned i = 0; i < 2 * EGRESS_REJECTED_MAX; i++)
		egress_rejected(&e.proxy, &c, 2000);
	CHECK(egress_rests(&e.proxy, &c, 2000 + EGRESS_REJECTED_MAX * minute - 1));
	CHECK(!egress_rests(&e.proxy, &c, 2000 + EGRESS_REJECTED_MAX * minute));
	egress_hope(&e);
	CHECK(!egress_rests(&e.proxy, &c, 2000));
	egress_rejected(&e.proxy, &other, 3000);
	egress_rejected(&e.proxy, &c, 3000);
	CHECK(egress_rests(&e.proxy, &c, 3000 + minute - 1));
	CHECK(!egress_rests(&e.proxy, &c, 3000 + minute));
	egress_deinit(&e);
	tunnel_config_free(config);
	clear();
}

static void file_says(const char *path, const char *text, const char *url, const char *fault)
{
	struct tunnel_config *config = tunnel_config_new();
	struct proxy_credentials c;
	struct egress e;
	bool exposed;
	char *why;
	FILE *f = fopen(path, "w");

	CHECK(f && fputs(text, f) >= 0);
	CHECK_INT(fclose(f), 0);
	config->proxy = strdup(url);
	config->proxy_credentials_file = strdup(path);
	if (fault) {
		CHECK_INT(egress_init(&e, config, &why), -EINVAL);
		CHECK(strstr(why, path) && strstr(why, fault) && !strstr(why, "s3cret"));
		free(why);
	} else {
		CHECK_INT(egress_init(&e, config, &why), 0);
		CHECK_INT(chmod(path, 0604), 0);
		CHECK_INT(egress_credentials(&e.proxy, &c, &exposed, &why), 0);
		CHECK(exposed);
		CHECK_INT(chmod(path, 0640), 0);
		CHECK_INT(egress_credentials(&e.proxy, &c, &exposed, &why), 0);
		CHECK(!exposed && c.known);
		CHECK_STR(c.user, "me");
		CHECK_STR(c.password, "s3cret: x");
		CHECK_INT(unlink(path), 0);
		CHECK_INT(egress_credentials(&e.proxy, &c, &exposed, &why), -ENOENT);
		CHECK(!c.known && strstr(why, path));
		free(why);
		egress_deinit(&e);
	}
	tunnel_config_free(config);
}

static void test_credentials(void)
{
	char path[] = "/tmp/test_proxy.XXXXXX", longest[1100];
	int fd = mkstemp(path);

	CHECK(fd >= 0);
	close(fd);
	file_says(path, "me:s3cret: x\n", "http://p:1", NULL);
	file_says(path, "me:s3cret: x\r\n", "http://me@p:1", NULL);
	file_says(path, "me:s3cret: x", "socks5://p:1", NULL);
	file_says(path, "me:s3cret\n", "http://you@p:1", "another user");
	file_says(path, "s3cret\n", "http://p:1", "USER:PASSWORD");
	file_says(path, ":s3cret\n", "http://p:1", "USER:PASSWORD");
	file_says(path, "", "http://p:1", "USER:PASSWORD");
	file_says(path, "me:s3cret\nyou:s3cret\n", "http://p:1", "more than one line");
	snprintf(longest, sizeof(longest), "me:%0256d", 0);
	file_says(path, longest, "http://p:1", "longer than 255");
	snprintf(longest, sizeof(longest), "me:%01050d", 0);
	file_says(path, longest, "http://p:1", "too long");
	unlink(path);
}

int main(void)
{
	test_urls();
	test_no_proxy();
	test_connect();
	test_refusals();
	test_socks();
	test_socks_refusals();
	test_environment();
	test_config_first();
	test_rejected();
	test_credentials();
	return 0;
}
