/*
 * Two TLS conduits over a socket pair or TCP on the loop of one worker: transfer, half-close both
 * ways, aborts and truncation, what a client refuses, time-outs, ALPN, moving. Certificates are
 * made here.
 */
#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/tls.h"
#include "relay/tls_conduit.h"
#include "relay/tls_context.h"
#include "relay/worker.c" /* to turn the loop by hand */
#include "tests/unit/certificates.h"
#include "tests/unit/check.h"

#define BULK ((size_t)10 * 1024 * 1024)
#define ALPN "attest-relay/1"

static struct worker *w;

/* --- certificates --- */

static void make_certificates(void)
{
	struct issued ca, other;

	certificates_begin();
	ca = issue("ca", NULL, NULL, NULL, -3600, 3600);
	other = issue("other-ca", NULL, NULL, NULL, -3600, 3600);
	issued_free(issue("relay",
			  "DNS:gw.example.net,DNS:GW2.example.net,DNS:*.wild.example.net,"
			  "IP:127.0.0.1,IP:::1",
			  NULL, &ca, -3600, 3600));
	issued_free(issue("expired", "DNS:gw.example.net", NULL, &ca, -7200, -3600));
	issued_free(issue("node", "DNS:node-1", "clientAuth", &ca, -3600, 3600));
	issued_free(issue("serves", "DNS:node-1", "serverAuth", &ca, -3600, 3600));
	issued_free(issue("stranger", "DNS:node-1", "clientAuth", &other, -3600, 3600));
	issued_free(ca);
	issued_free(other);
}

static const char *const our_alpn[] = { ALPN, "http/1.1", NULL };

static struct tls_context *server_context(const char *name)
{
	char *why, pem[64], key[64];
	struct tls_context *t;

	snprintf(pem, sizeof(pem), "%s.pem", name);
	snprintf(key, sizeof(key), "%s.key", name);
	t = tls_server_context_new(path_of(pem), path_of(key), our_alpn, &why);
	if (!t)
		fprintf(stderr, "%s\n", why);
	CHECK(t);
	return t;
}

static struct tls_context *client_context(const char *ca, const char *const *alpn)
{
	char *why;
	struct tls_context *t = tls_client_context_new(path_of(ca), alpn, &why);

	CHECK(t);
	return t;
}

/* --- the loop --- */

static void turn(bool wait)
{
	worker_turn(w, wait);
}

static void on_overdue(struct timer *t)
{
	fprintf(stderr, "what was waited for did not come\n");
	abort();
}

#define UNTIL(cond)                                         \
	do {                                                \
		struct timer overdue_ = { 0 };              \
		timer_set(w, &overdue_, 30000, on_overdue); \
		while (!(cond))                             \
			turn(false);                        \
		timer_cancel(w, &overdue_);                 \
	} while (0)

/* Wakes a loop that has nothing else to wait for. */
static void nap_over(struct timer *t)
{
}

static void nap(unsigned ms)
{
	struct timer t = { 0 };

	timer_set(w, &t, ms, nap_over);
	UNTIL(!timer_is_set(&t));
}

/* --- the two ends --- */

static void pair(int fd[2], int family)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int l;

	if (family == AF_UNIX) {
		CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd),
			  0);
		return;
	}
	l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(bind(l, (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(listen(l, 1), 0);
	CHECK_INT(getsockname(l, (struct sockaddr *)&at, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(fd[0], (struct sockaddr *)&at, sizeof(at)), 0);
	fd[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	CHECK(fd[1] >= 0);
	CHECK_INT(evutil_make_socket_nonblocking(fd[0]), 0);
	close(l);
}

/* One end, and what it is to do and has done. */
struct end {
	struct conduit *c;
	int told; /* done() was called */
	enum reason why;
	char detail[300];
	size_t to_send, sent, received;
	size_t chunk;  /* bytes a read asks for */
	unsigned slow; /* reads only every so many wake-ups */
	unsigned wakeups;
	bool shut, hold_shut; /* EOF sent; EOF not to be sent yet */
	bool eof, aborted;
	ssize_t error;
};

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 31 + (at >> 12) * 7 + (at >> 20));
}

static void interest(struct end *e)
{
	unsigned want = 0;

	if (!e->eof && !e->error)
		want |= READY_READ;
	if (!e->error && (e->sent < e->to_send || (!e->shut && !e->hold_shut)))
		want |= READY_WRITE;
	conduit_want(e->c, want);
}

static void send_some(struct end *e)
{
	static uint8_t buf[200000];

	while (e->sent < e->to_send) {
		size_t n = e->to_send - e->sent < sizeof(buf) ? e->to_send - e->sent : sizeof(buf);
		ssize_t r;

		for (size_t i = 0; i < n; i++)
			buf[i] = pattern(e->sent + i);
		r = conduit_write(e->c, buf, n);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			e->error = r;
			return;
		}
		CHECK(r > 0);
		e->sent += (size_t)r;
		if ((size_t)r < n)
			return;
	}
	if (!e->shut && !e->hold_shut) {
		int r = conduit_shutdown(e->c);

		if (r == 0)
			e->shut = true;
		else if (r != -EAGAIN)
			e->error = r;
	}
}

static void receive_some(struct end *e)
{
	static uint8_t buf[65536];
	ssize_t r = conduit_read(e->c, buf, e->chunk ? e->chunk : sizeof(buf));

	if (r == -EAGAIN)
		return;
	if (r < 0) {
		e->error = r;
		return;
	}
	e->eof = r == 0;
	for (ssize_t i = 0; i < r; i++)
		CHECK_INT(buf[i], pattern(e->received + (size_t)i));
	e->received += (size_t)r;
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct end *e = c->user;

	CHECK(c == e->c);
	e->wakeups++;
	if (events & READY_ABORT)
		e->aborted = true;
	if (events & READY_READ && (!e->slow || e->wakeups % e->slow == 0))
		receive_some(e);
	if (events & READY_WRITE && !e->error)
		send_some(e);
	interest(e);
}

static void on_done(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct end *e = user;

	CHECK(!e->told);
	CHECK(detail);
	e->told = 1;
	e->c = c;
	e->why = why;
	snprintf(e->detail, sizeof(e->detail), "%s", detail);
	if (!c)
		return;
	c->ready = on_ready;
	c->user = e;
}

/* Both ends shake hands; either may fail. */
static void handshake(struct end *client, struct end *server, int family, struct tls_context *cc,
		      struct tls_context *sc, const char *name)
{
	int fd[2];

	pair(fd, family);
	CHECK(tls_connect(w, fd[0], cc, name, 5000, on_done, client));
	CHECK(tls_accept(w, fd[1], sc, 5000, on_done, server));
	UNTIL(client->told && server->told);
}

static struct tls_context *sc, *cc;

static void open_both(struct end *client, struct end *server, int family)
{
	handshake(client, server, family, cc, sc, "gw.example.net");
	if (!client->c)
		fprintf(stderr, "%s\n", client->detail);
	CHECK(client->c && server->c);
}

static void close_both(struct end *a, struct end *b)
{
	conduit_close(a->c, REASON_EOF);
	conduit_close(b->c, REASON_EOF);
	turn(false);
}

/* --- tests --- */

static void test_transfer(int family, unsigned slow, size_t chunk)
{
	struct end a = { .to_send = BULK, .slow = slow, .chunk = chunk };
	struct end b = { .to_send = BULK, .chunk = chunk };

	open_both(&a, &b, family);
	CHECK_STR(tls_conduit_alpn(a.c), ALPN);
	CHECK_STR(tls_conduit_alpn(b.c), ALPN);
	/* ours: what is open keeps none, which may have large lists, through all reloads to come */
	CHECK(sc->refs == 1 && cc->refs == 1);
	interest(&a);
	interest(&b);
	UNTIL(a.eof && b.eof && a.shut && b.shut);
	CHECK_INT(a.received, BULK);
	CHECK_INT(b.received, BULK);
	CHECK(!a.error && !b.error);
	close_both(&a, &b);
}

/* One side ends at once; the other answers late, with much. */
static void test_half_close(bool client_first, int family)
{
	struct end client = { .to_send = 1000 }, server = { .to_send = 1000 };
	struct end *first = client_first ? &client : &server;
	struct end *late = client_first ? &server : &client;

	late->hold_shut = true;
	late->to_send = 0;
	open_both(&client, &server, family);
	interest(first);
	interest(late);
	UNTIL(late->eof && first->shut);
	CHECK_INT(late->received, 1000);
	CHECK(!first->eof);
	nap(50);
	CHECK(!first->eof && !first->error);
	late->to_send = BULK;
	late->hold_shut = false;
	first->slow = 3;
	interest(late);
	UNTIL(first->eof && late->shut);
	CHECK_INT(first->received, BULK);
	CHECK(!first->error && !late->error);
	close_both(&client, &server);
}

/* FIN without close_notify is no EOF. */
static void test_truncation(void)
{
	struct end a = { .to_send = 0, .hold_shut = true },
		   b = { .to_send = 1000, .hold_shut = true };

	open_both(&a, &b, AF_INET);
	interest(&a);
	interest(&b);
	UNTIL(a.received == 1000);
	shutdown(tls_conduit_socket(b.c), SHUT_WR);
	UNTIL(a.error);
	CHECK_INT(a.error, -ECONNABORTED);
	CHECK(!a.eof);
	CHECK_INT(conduit_read(a.c, a.detail, 1), -ECONNABORTED);
	CHECK_INT(conduit_write(a.c, a.detail, 1), -ECONNABORTED);
	CHECK_INT(conduit_shutdown(a.c), -ECONNABORTED);
	conduit_close(a.c, REASON_TRUNCATED);
	conduit_close(b.c, REASON_RESET);
	turn(false);
}

/* Bytes that are no TLS kill the conduit with a reason of its own. */
static void test_garbage(void)
{
	static const char junk[5 + 32] = "\x17\x03\x03\x00\x20 not what a key would make";
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };

	open_both(&a, &b, AF_INET);
	interest(&a);
	CHECK(send(tls_conduit_socket(b.c), junk, sizeof(junk), 0) == sizeof(junk));
	UNTIL(a.error);
	CHECK_INT(a.error, -EPROTO);
	CHECK_INT(a.c->ops->why(a.c), REASON_PROTOCOL);
	conduit_close(a.c, REASON_PROTOCOL);
	conduit_close(b.c, REASON_RESET);
	turn(false);
}

/* close with an abort reason: RST, seen while reading, while only waiting, and while writing. */
static void test_abort(int how)
{
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };

	open_both(&a, &b, AF_INET);
	if (how == 0)
		interest(&a);
	else if (how == 1)
		conduit_want(a.c, READY_ABORT);
	else
		a.to_send = BULK * 4;
	if (how == 2)
		interest(&a);
	for (int i = 0; i < 20 && how == 2; i++)
		turn(false); /* nobody reads: what is written backs up */
	CHECK(how != 2 || (a.sent < a.to_send && !a.error));
	conduit_close(b.c, REASON_IDLE);
	UNTIL(a.error || a.aborted);
	CHECK(!a.eof);
	if (how == 1)
		CHECK(a.aborted);
	else
		CHECK(a.error == -ECONNRESET || (how == 2 && a.error == -EPIPE));
	conduit_close(a.c, REASON_RESET);
	turn(false);
}

/* An orderly end is no abort, and waiting for one does not spin. */
static void test_no_abort(void)
{
	struct end a = { .hold_shut = true }, b = { 0 };

	open_both(&a, &b, AF_INET);
	conduit_want(a.c, READY_ABORT);
	interest(&b);
	UNTIL(b.shut);
	nap(50);
	CHECK(!a.aborted);
	CHECK(a.wakeups <= 1);
	interest(&a);
	UNTIL(a.eof);
	close_both(&a, &b);
}

static void on_ready_once(struct conduit *c, unsigned events)
{
	receive_some(c->user); /* one small read; want() is not called again */
}

/* What OpenSSL holds is told of again, like bytes in a socket, though the socket is silent. */
static void test_told_again(void)
{
	struct end a = { .to_send = 40000, .hold_shut = true };
	struct end b = { .chunk = 700, .hold_shut = true };

	open_both(&a, &b, AF_INET);
	interest(&a);
	UNTIL(a.sent == a.to_send);
	b.c->ready = on_ready_once;
	conduit_want(b.c, READY_READ);
	UNTIL(b.received == a.to_send);
	a.hold_shut = false; /* the end is told of as well */
	interest(&a);
	UNTIL(b.eof);
	CHECK(!b.error);
	b.c->ready = on_ready;
	b.hold_shut = false;
	interest(&b);
	interest(&a);
	UNTIL(a.eof && b.shut);
	close_both(&a, &b);
}

/* close with a clean reason loses nothing: not what the socket did not take, not close_notify. */
static void test_linger(int family, bool unread)
{
	static uint8_t big[WORKER_BUFFER * 2];
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };
	size_t sent = 0;
	ssize_t n;
	int fd, small = 4096;
	uint64_t before;

	open_both(&a, &b, family);
	setsockopt(tls_conduit_socket(a.c), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = pattern(i);
	if (unread) /* bytes that a never reads must not make its close a reset */
		CHECK(conduit_write(b.c, big, 5000) == 5000);
	do {
		n = conduit_write(a.c, big, sizeof(big));
		/* as long as the pattern repeats, each write has to be all of it or the last */
		if (n > 0)
			sent += (size_t)n;
	} while (n == (ssize_t)sizeof(big) && sent == 0);
	CHECK(sent > 0);
	fd = tls_conduit_socket(a.c);
	conduit_close(a.c, REASON_EOF);
	nap(40);
	b.slow = 2;
	interest(&b);
	UNTIL(b.eof || b.error);
	CHECK(b.eof);
	CHECK_INT(b.received, sent);
	/* b has ended: a goes at once, not at its limit */
	before = worker_now(w);
	conduit_close(b.c, REASON_EOF);
	UNTIL(fcntl(fd, F_GETFD) < 0 && w->timers.live == 1 /* UNTIL's own */);
	CHECK(worker_now(w) - before < 1500);
}

/* A peer that neither ends nor reads does not hold a closed conduit for ever. */
static void test_linger_limit(void)
{
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };
	int fd;

	open_both(&a, &b, AF_INET);
	fd = tls_conduit_socket(a.c);
	conduit_close(a.c, REASON_EOF);
	turn(false);
	CHECK(fcntl(fd, F_GETFD) >= 0);
	UNTIL(fcntl(fd, F_GETFD) < 0);
	conduit_close(b.c, REASON_RESET);
	turn(false);
}

static void refuse(struct tls_context *client, struct tls_context *server, const char *name,
		   const char *expected)
{
	struct end a = { 0 }, b = { 0 };

	handshake(&a, &b, AF_INET, client, server, name);
	CHECK(!a.c);
	CHECK_INT(a.why, REASON_HANDSHAKE_FAILED);
	if (!strstr(a.detail, expected))
		fprintf(stderr, "said: %s\n", a.detail);
	CHECK(strstr(a.detail, expected));
	if (b.c) /* TLS 1.3: the server was done before the client refused */
		conduit_close(b.c, REASON_RESET);
	else
		CHECK(b.detail[0]);
	turn(false);
}

static void test_verify(void)
{
	struct tls_context *wrong = client_context("other-ca.pem", our_alpn);
	struct tls_context *expired = server_context("expired");
	struct end a = { 0 }, b = { 0 };

	refuse(wrong, sc, "gw.example.net", "--ca-file");
	refuse(cc, sc, "other.example.net", "other.example.net");
	refuse(cc, sc, "127.0.0.2", "127.0.0.2");
	refuse(cc, expired, "gw.example.net", "expired");
	CHECK(tls_context_expires(expired) < (uint64_t)time(NULL));
	handshake(&a, &b, AF_INET, cc, sc, "127.0.0.1");
	CHECK(a.c && b.c);
	close_both(&a, &b);
	a = b = (struct end){ 0 };
	handshake(&a, &b, AF_INET, cc, sc, "GW.example.NET");
	CHECK(a.c && b.c);
	close_both(&a, &b);
	tls_context_unref(wrong);
	tls_context_unref(expired);
}

/* --- certificates of clients --- */

static struct tls_context *client_shows(const char *name)
{
	struct tls_context *t = client_context("ca.pem", our_alpn);
	char *why, pem[64], key[64];

	snprintf(pem, sizeof(pem), "%s.pem", name);
	snprintf(key, sizeof(key), "%s.key", name);
	CHECK_INT(tls_client_context_identify(t, path_of(pem), path_of(key), &why), 0);
	return t;
}

static struct tls_context *server_asks(int version)
{
	struct tls_context *t = server_context("relay");
	struct trust *trust = trust_of("ca.pem");

	CHECK_INT(tls_server_context_ask(t, &trust, 1), 0);
	trust_unref(trust);
	SSL_CTX_set_max_proto_version(t->ssl, version);
	return t;
}

static void test_client_certificate(int version)
{
	struct tls_context *asks = server_asks(version), *node = client_shows("node");
	struct end a = { .to_send = 1000 }, b = { .to_send = 1000 };

	/* shown, and good */
	handshake(&a, &b, AF_INET, node, asks, "gw.example.net");
	CHECK(a.c && b.c);
	CHECK(tls_conduit_identity(b.c));
	CHECK(!tls_conduit_identity(a.c));
	interest(&a);
	interest(&b);
	UNTIL(a.eof && b.eof && a.shut && b.shut);
	CHECK_STR(tls_conduit_alert(a.c), "");
	close_both(&a, &b);

	/* none */
	a = b = (struct end){ 0 };
	handshake(&a, &b, AF_INET, cc, asks, "gw.example.net");
	CHECK(a.c && b.c);
	CHECK(!tls_conduit_identity(b.c));
	close_both(&a, &b);

	/* shown to a server that did not ask */
	a = b = (struct end){ 0 };
	handshake(&a, &b, AF_INET, node, sc, "gw.example.net");
	CHECK(a.c && b.c);
	CHECK(!tls_conduit_identity(b.c));
	close_both(&a, &b);
	tls_context_unref(node);
	tls_context_unref(asks);
}

/*
 * Shown, and not good. What the client is told: in TLS 1.2 by its handshake, in 1.3 by its first
 * read; there it may have written before, and been answered by a reset.
 */
static void refuse_client(int version, const char *name, const char *ours, const char *theirs,
			  bool writes)
{
	struct tls_context *asks = server_asks(version), *shows = client_shows(name);
	struct end a = { .hold_shut = true }, b = { 0 };
	char byte;

	handshake(&a, &b, AF_INET, shows, asks, "gw.example.net");
	CHECK(!b.c);
	CHECK_INT(b.why, REASON_HANDSHAKE_FAILED);
	if (!strstr(b.detail, ours))
		fprintf(stderr, "said: %s\n", b.detail);
	CHECK(strstr(b.detail, "the client's certificate") && strstr(b.detail, ours));
	if (version == TLS1_2_VERSION) {
		CHECK(!a.c);
		CHECK(strstr(a.detail, "refused this side's certificate"));
		CHECK(strstr(a.detail, theirs));
	} else if (writes) {
		CHECK(a.c);
		while (conduit_write(a.c, "early", 5) > 0)
			nap(5);
		CHECK(strstr(tls_conduit_alert(a.c), theirs));
	} else {
		CHECK(a.c);
		interest(&a);
		UNTIL(a.error);
		CHECK_INT(a.error, -ECONNRESET);
		CHECK_INT(conduit_read(a.c, &byte, 1), -ECONNRESET);
		CHECK(strstr(tls_conduit_alert(a.c), theirs));
	}
	if (a.c)
		CHECK_INT(a.c->ops->why(a.c), REASON_HANDSHAKE_FAILED);
	conduit_close(a.c, REASON_RESET);
	turn(false);
	tls_context_unref(shows);
	tls_context_unref(asks);
}

static void test_client_certificate_refused(void)
{
	static const int version[] = { TLS1_2_VERSION, TLS1_3_VERSION, TLS1_3_VERSION };

	for (int i = 0; i < 3; i++) {
		refuse_client(version[i], "stranger", "a CA that clients may have", "unknown ca",
			      i == 2);
		refuse_client(version[i], "expired", "expired; it has to be renewed",
			      "certificate expired", i == 2);
		refuse_client(version[i], "serves", "not for clients", "unsupported certificate",
			      i == 2);
	}
}

static void test_client_certificate_files(void)
{
	struct tls_context *client = client_context("ca.pem", our_alpn);
	char *why;

	CHECK_INT(tls_client_context_identify(client, path_of("node.pem"), path_of("ca.key"), &why),
		  -EINVAL);
	CHECK(strstr(why, "node.pem") && strstr(why, "ca.key") && strstr(why, "does not belong"));
	free(why);
	tls_context_unref(client);
}

/* A peer that is silent, is gone, or speaks something else; and giving up. */
static void test_handshake_ends(void)
{
	struct end a = { 0 }, b = { 0 };
	struct tls_handshake *h;
	int fd[2];

	pair(fd, AF_INET);
	CHECK(tls_accept(w, fd[1], sc, 100, on_done, &a));
	UNTIL(a.told);
	CHECK(!a.c);
	CHECK_INT(a.why, REASON_HANDSHAKE_TIMEOUT);
	close(fd[0]);

	a = (struct end){ 0 };
	pair(fd, AF_INET);
	CHECK(tls_connect(w, fd[0], cc, "gw.example.net", 5000, on_done, &a));
	CHECK(write(fd[1], "HTTP/1.1 400 Bad Request\r\n\r\n", 28) == 28);
	UNTIL(a.told);
	CHECK_INT(a.why, REASON_HANDSHAKE_FAILED);
	CHECK_STR(a.detail, "the peer does not speak TLS here");
	close(fd[1]);

	a = (struct end){ 0 };
	pair(fd, AF_INET);
	CHECK(tls_connect(w, fd[0], cc, "gw.example.net", 5000, on_done, &a));
	turn(false);
	shutdown(fd[1], SHUT_WR);
	UNTIL(a.told);
	CHECK(strstr(a.detail, "closed the connection"));
	close(fd[1]);

	pair(fd, AF_INET);
	h = tls_accept(w, fd[1], sc, 100, on_done, &b);
	CHECK(h);
	tls_handshake_cancel(h);
	turn(false);
	h = NULL;
	tls_handshake_cancel(h);
	close(fd[0]);
	nap(200);
	CHECK(!b.told);
}

static void test_alpn(void)
{
	static const char *const other[] = { "h3", "http/1.1", NULL }, *const none[] = { NULL },
				 *const foreign[] = { "spdy/3", NULL };
	static const struct {
		const char *const *offer;
		const char *agreed;
	} row[] = { { other, "http/1.1" }, { none, "" }, { foreign, "" } };

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct tls_context *client = client_context("ca.pem", row[i].offer);
		struct end a = { 0 }, b = { 0 };

		handshake(&a, &b, AF_UNIX, client, sc, "gw.example.net");
		CHECK(a.c && b.c);
		CHECK_STR(tls_conduit_alpn(a.c), row[i].agreed);
		CHECK_STR(tls_conduit_alpn(b.c), row[i].agreed);
		close_both(&a, &b);
		tls_context_unref(client);
	}
}

/* A bundle of CAs that end so many seconds from now. */
static uint64_t ca_end(const long *ends, size_t n)
{
	FILE *bundle = fopen(path_of("bundle.pem"), "w");
	struct tls_context *t;
	uint64_t at;

	CHECK(bundle);
	for (size_t i = 0; i < n; i++) {
		char name[32];
		struct issued it;

		snprintf(name, sizeof(name), "ends-%zu", i);
		it = issue(name, NULL, NULL, NULL, -20000, ends[i]);
		CHECK(PEM_write_X509(bundle, it.certificate));
		issued_free(it);
	}
	fclose(bundle);
	t = client_context("bundle.pem", our_alpn);
	at = tls_context_ca_expires(t);
	tls_context_unref(t);
	return at - (uint64_t)time(NULL);
}

static bool is_about(uint64_t seconds, int64_t expected)
{
	int64_t off = (int64_t)seconds - expected;

	return off > -60 && off < 60;
}

static void test_ca_ends(void)
{
	CHECK(is_about(ca_end((long[]){ 9000, 5000, 7000 }, 3), 5000));
	CHECK(is_about(ca_end((long[]){ -9000, 5000, 7000 }, 3), 5000)); /* one is over: let be */
	CHECK(is_about(ca_end((long[]){ -9000, -5000, -7000 }, 3), -5000));
	CHECK(tls_context_ca_expires(sc) == UINT64_MAX);
}

static void test_contexts(void)
{
	char *why;
	FILE *f;

	CHECK(tls_context_has_name(sc, "gw.example.net"));
	CHECK(tls_context_expires(sc) > (uint64_t)time(NULL));
	CHECK(tls_context_expires(cc) == UINT64_MAX);
	CHECK(tls_context_has_name(sc, "GW2.EXAMPLE.net"));
	CHECK(!tls_context_has_name(sc, "relay")); /* its common name */
	CHECK(!tls_context_has_name(sc, "a.wild.example.net"));
	CHECK(!tls_context_has_name(sc, "*.wild.example.net"));
	CHECK(!tls_context_has_name(cc, "gw.example.net"));

	CHECK(!tls_server_context_new(path_of("relay.pem"), path_of("ca.key"), our_alpn, &why));
	CHECK(strstr(why, "relay.pem") && strstr(why, "ca.key") && strstr(why, "does not belong"));
	free(why);
	CHECK(!tls_server_context_new(path_of("none.pem"), path_of("ca.key"), our_alpn, &why));
	CHECK(strstr(why, "none.pem") && strstr(why, "No such file"));
	free(why);
	CHECK((f = fopen(path_of("junk.pem"), "w")));
	fputs("no certificate\n", f);
	fclose(f);
	CHECK(!tls_server_context_new(path_of("junk.pem"), path_of("ca.key"), our_alpn, &why));
	CHECK(strstr(why, "junk.pem"));
	free(why);
	CHECK(!tls_server_context_new(path_of("relay.pem"), path_of("junk.pem"), our_alpn, &why));
	CHECK(strstr(why, "junk.pem") && strstr(why, "private key"));
	free(why);
	CHECK(!tls_client_context_new(path_of("junk.pem"), our_alpn, &why));
	CHECK(strstr(why, "junk.pem"));
	free(why);
}

/* Out of one worker and into it again, with bytes in every buffer. */
static void test_move(void)
{
	struct end a = { .to_send = BULK }, b = { .to_send = BULK, .slow = 2 };

	open_both(&a, &b, AF_INET);
	interest(&a);
	interest(&b);
	for (int i = 0; i < 20; i++) {
		size_t seen = a.received;

		UNTIL(a.eof || a.received > seen);
		conduit_detach(a.c);
		CHECK_INT(conduit_attach(a.c, w), 0);
		a.c->ready = on_ready;
		a.c->user = &a;
		interest(&a);
	}
	UNTIL(a.eof && b.eof && a.shut && b.shut);
	CHECK_INT(a.received, BULK);
	CHECK_INT(b.received, BULK);
	close_both(&a, &b);
}

/* TLS messages that are no data: a read says so, and the answer to a key update goes out. */
static void test_key_update(void)
{
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };
	char byte;

	open_both(&a, &b, AF_INET);
	for (int i = 0; i < 3; i++) {
		CHECK(SSL_key_update(((struct tls_conduit *)b.c)->ssl, SSL_KEY_UPDATE_REQUESTED));
		CHECK_INT(SSL_do_handshake(((struct tls_conduit *)b.c)->ssl), 1);
		a.wakeups = 0;
		b.to_send += 100;
		interest(&a);
		interest(&b);
		UNTIL(a.received == b.to_send);
		a.to_send += 100;
		interest(&a);
		UNTIL(b.received == a.to_send);
	}
	CHECK_INT(conduit_read(a.c, &byte, 1), -EAGAIN);
	close_both(&a, &b);
}

/* What OpenSSL adds to the little that waits for the socket makes no more of it. */
static void test_added_to_a_little(void)
{
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };
	struct tls_conduit *t;

	open_both(&a, &b, AF_INET);
	t = (struct tls_conduit *)a.c;
	while (!t->full) {
		a.to_send += 1000;
		send_some(&a);
	}
	CHECK(t->little);
	CHECK(SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED));
	CHECK_INT(SSL_do_handshake(t->ssl), 1);
	conduit_want(a.c, 0);
	CHECK(t->full && t->little);
	CHECK_INT(a.c->ops->held(a.c), 0);
	interest(&a);
	interest(&b);
	UNTIL(b.received == a.to_send);
	close_both(&a, &b);
}

/* A send in the background takes the error of the peer's reset: no edge tells of it any more. */
static void test_abort_taken_by_send(void)
{
	struct end a = { .hold_shut = true }, b = { .hold_shut = true };
	static const uint8_t big[60000];
	struct tls_conduit *t;

	open_both(&a, &b, AF_INET);
	t = (struct tls_conduit *)a.c;
	while (!t->full)
		CHECK(conduit_write(a.c, big, sizeof(big)) > 0);
	conduit_want(a.c, READY_ABORT);
	nap(20);
	CHECK(!a.aborted);
	conduit_close(b.c, REASON_RESET);
	t->full = 0; /* as an edge does that came just before the reset */
	tls_flush(t);
	CHECK(t->broken);
	UNTIL(a.aborted);
	conduit_close(a.c, REASON_RESET);
}

int main(void)
{
	alarm(100);
	signal(SIGPIPE, SIG_DFL);
	w = worker_new(0);
	CHECK(w);
	make_certificates();
	sc = server_context("relay");
	cc = client_context("ca.pem", our_alpn);
	test_contexts();
	test_ca_ends();
	test_alpn();
	test_verify();
	test_client_certificate(TLS1_2_VERSION);
	test_client_certificate(TLS1_3_VERSION);
	test_client_certificate_refused();
	test_client_certificate_files();
	test_handshake_ends();
	test_transfer(AF_UNIX, 0, 0);
	test_transfer(AF_INET, 3, 0);
	test_transfer(AF_INET, 0, 5000);
	test_half_close(true, AF_INET);
	test_half_close(false, AF_INET);
	test_half_close(true, AF_UNIX);
	test_truncation();
	test_garbage();
	for (int how = 0; how < 3; how++)
		test_abort(how);
	test_no_abort();
	test_told_again();
	test_linger(AF_INET, false);
	test_linger(AF_INET, true);
	test_linger(AF_UNIX, true);
	test_linger_limit();
	test_move();
	test_key_update();
	test_added_to_a_little();
	test_abort_taken_by_send();
	tls_context_unref(cc);
	tls_context_unref(sc);
	w = worker_free(w);
	certificates_end();
	return 0;
}
