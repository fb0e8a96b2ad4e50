/* Tests of tunnel/proxy: every stage of the way, how it ends, and that it can be given up. */
#include <event2/dns.h>

#include "relay/conduit.h"
#include "relay/tls.h"
#include "tests/unit/loop.h"
#include "tunnel/egress.h"
#include "tunnel/proxy.h"

struct result {
	bool told;
	int fd;
	enum reason why;
	char detail[1024];
};

static struct proxy proxy;
static struct address target;
static int far; /* the proxy's end */

static void on_done(void *user, int fd, enum reason why, const char *detail)
{
	struct result *r = user;

	CHECK(!r->told);
	CHECK((fd >= 0) == (why == REASON_NONE));
	*r = (struct result){ .told = true, .fd = fd, .why = why };
	snprintf(r->detail, sizeof(r->detail), "%s", detail);
}

static struct proxy_opening *start(struct result *r, const char *url, const char *relay,
				   uint64_t ms)
{
	struct proxy_opening *o;
	char *why;
	int pair[2];

	proxy_url_deinit(&proxy.url);
	address_deinit(&target);
	CHECK_INT(proxy_url_parse(&proxy.url, url, &why), 0);
	CHECK_INT(address_parse(&target, relay, &why), 0);
	proxy_url_format(&proxy.url, proxy.text, sizeof(proxy.text));
	tcp_pair(pair);
	far = pair[1];
	*r = (struct result){ .fd = -1 };
	o = proxy_open(w, pair[0], &proxy, &target, ms, on_done, r);
	CHECK(o && !r->told);
	return o;
}

/* Waits for these bytes at the proxy, and no others. */
static void asked(const char *bytes, size_t len)
{
	char got[512];
	size_t n = 0;

	UNTIL(({
		ssize_t more = recv(far, got + n, sizeof(got) - n, 0);
		n += more > 0 ? (size_t)more : 0;
		n >= len;
	}));
	CHECK_INT(n, len);
	CHECK(memcmp(got, bytes, len) == 0);
}

#define ASKED(text) asked(text, sizeof(text) - 1)
#define ANSWER(text) CHECK_INT(send(far, text, sizeof(text) - 1, 0), sizeof(text) - 1)
#define CONNECT_R                                                             \
	"CONNECT r.example:443 HTTP/1.1\r\nHost: r.example:443\r\nUser-Agent" \
	": attest-tunnel\r\n\r\n"

static void no(struct result *r, enum reason why, const char *what)
{
	UNTIL(r->told);
	CHECK_INT(r->fd, -1);
	CHECK_INT(r->why, why);
	CHECK(strncmp(r->detail, "the proxy ", 10) == 0);
	if (!strstr(r->detail, what) || !strstr(r->detail, proxy.text))
		fprintf(stderr, "%s\n", r->detail);
	CHECK(strstr(r->detail, what) && strstr(r->detail, proxy.text));
	close(far);
	settle();
}

static void ended(void)
{
	char byte;

	UNTIL(recv(far, &byte, 1, 0) == 0 || errno != EAGAIN);
	close(far);
}

static void test_through(void)
{
	struct result r;
	char got[8];

	start(&r, "http://p:1", "tcp:r.example:443", 5000);
	ASKED(CONNECT_R);
	ANSWER("HTTP/1.1 200 ");
	settle();
	CHECK(!r.told);
	ANSWER("OK\r\n\r\n");
	UNTIL(r.told);
	CHECK_INT(r.why, REASON_NONE);
	ANSWER("hello"); /* is the owner's */
	UNTIL(recv(r.fd, got, sizeof(got), 0) == 5);
	close(r.fd);
	ended();
}

static void test_refused(void)
{
	struct result r;

	start(&r, "http://p:1", "tcp:r.example:8443", 5000);
	settle();
	ANSWER("HTTP/1.1 403 Forbidden\r\n\r\n");
	no(&r, REASON_DIAL_REFUSED, "answers \"HTTP/1.1 403 Forbidden\"");
	start(&r, "http://p:1", "tcp:r.example:443", 5000);
	settle();
	ANSWER("HTTP/1.1 200 OK\r\n\r\nglued");
	no(&r, REASON_DIAL_REFUSED, "behind its answer");
	start(&r, "http://p:1", "tcp:r.example:443", 5000);
	settle();
	shutdown(far, SHUT_WR);
	no(&r, REASON_DIAL_FAILED, "closed the connection without an answer");
	start(&r, "socks5h://p:1", "tcp:r.example:443", 5000);
	ASKED("\5\1\0");
	ANSWER("\5");
	settle();
	reset(far);
	far = -1;
	no(&r, REASON_DIAL_FAILED, "Connection reset");
	start(&r, "http://p:1", "tcp:r.example:443", 60);
	no(&r, REASON_DIAL_TIMEOUT, "no answer within 60 ms");
	proxy.credentials_file = "/nonexistent/credentials";
	start(&r, "http://p:1", "tcp:r.example:443", 5000);
	no(&r, REASON_BAD_CREDENTIAL, "/nonexistent/credentials: No such file");
	proxy.credentials_file = NULL;
}

/* By /etc/hosts, which needs no server: the answer is there before proxy_open returns. */
static void test_resolved_here(void)
{
	struct result r;

	start(&r, "socks5://p:1", "tcp:localhost:443", 5000);
	ASKED("\5\1\0");
	ANSWER("\5\0");
	ASKED("\5\1\0\1\177\0\0\1\1\273");
	ANSWER("\5\0\0\1\0\0\0\0\0\0");
	UNTIL(r.told);
	CHECK_INT(r.why, REASON_NONE);
	close(r.fd);
	ended();
	start(&r, "socks5h://p:1", "tcp:localhost:443", 5000);
	ASKED("\5\1\0");
	ANSWER("\5\0");
	ASKED("\5\1\0\3\11localhost\1\273");
	ANSWER("\5\5\0\1\0\0\0\0\0\0");
	no(&r, REASON_DIAL_REFUSED, "error 5");
}

/* From here on, no name is ever answered for. */
static int mute_names(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int mute = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct evdns_base *dns = worker_dns(w);
	char text[64];

	CHECK(dns);
	CHECK_INT(bind(mute, (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(getsockname(mute, (struct sockaddr *)&at, &len), 0);
	evdns_base_clear_nameservers_and_suspend(dns);
	snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(at.sin_port));
	CHECK_INT(evdns_base_nameserver_ip_add(dns, text), 0);
	CHECK_INT(evdns_base_resume(dns), 0);
	return mute;
}

static void given_up(struct result *r, struct proxy_opening *o)
{
	settle();
	proxy_opening_cancel(o);
	settle();
	CHECK(!r->told);
	ended();
}

static void test_cancel(void)
{
	static const char *const alpn[] = { "http/1.1", NULL };
	int mute = mute_names();
	struct result r;
	char *why;

	proxy_opening_cancel(NULL);
	proxy_opening_cancel(start(&r, "http://p:1", "tcp:r.example:443", 5000)); /* not begun */
	settle();
	CHECK(!r.told);
	ended();
	given_up(&r, start(&r, "http://p:1", "tcp:r.example:443", 5000));
	given_up(&r, start(&r, "socks5h://p:1", "tcp:r.example:443", 5000));
	given_up(&r, start(&r, "socks5://p:1", "tcp:r.example:443", 5000)); /* resolving */
	proxy.tls = tls_client_context_new(NULL, alpn, &why);
	CHECK(proxy.tls);
	given_up(&r, start(&r, "https://p:1", "tcp:r.example:443", 5000)); /* in its TLS */
	start(&r, "https://p:1", "tcp:r.example:443", 5000);
	settle();
	ANSWER("HTTP/1.1 400 Bad Request\r\n\r\n");
	no(&r, REASON_HANDSHAKE_FAILED, "cannot be spoken to by TLS");
	proxy.tls = tls_context_unref(proxy.tls);
	start(&r, "socks5://p:1", "tcp:r.example:443", 60);
	no(&r, REASON_DIAL_TIMEOUT, "was not asked yet: the name r.example did not resolve");
	close(mute);
}

int main(void)
{
	loop_begin();
	test_through();
	test_refused();
	test_resolved_here();
	test_cancel();
	proxy_url_deinit(&proxy.url);
	address_deinit(&target);
	loop_end();
	return 0;
}
