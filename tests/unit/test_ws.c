/*
 * test_ws: WebSockets against each other, and against bytes by hand.
 *
 * Theory of operation: one worker on a thread of its own; the test calls into it (call) and polls
 * for what it expects (wait_for), so the loop really sleeps and a lost wake-up shows. By hand
 * means: the network end of one WebSocket is taken out of its conduit and used as a blocking
 * socket.
 */
#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/splice.h"
#include "relay/worker.h"
#include "tests/unit/check.h"
#include "tunnel/ws.h"

#define MB ((uint64_t)1024 * 1024)

struct peer {
	struct ws_opening *opening;
	struct conduit *network, *c;
	bool done;
	enum reason why;
	char detail[200];
	uint64_t to_send, sent, received;
	bool shut_when_sent, close_when_sent, paused;
	int eof, read_error, write_error;
};

static struct worker *w;
static struct ws_context *x;

/* --- the worker's thread --- */

struct call {
	void (*fn)(void *arg);
	void *arg;
	sem_t over;
};

static void on_call(struct worker *worker, void *arg)
{
	struct call *c = arg;

	c->fn(c->arg);
	sem_post(&c->over);
}

static void call(void (*fn)(void *arg), void *arg)
{
	struct call c = { .fn = fn, .arg = arg };

	sem_init(&c.over, 0, 0);
	CHECK_INT(worker_post(w, on_call, &c), 0);
	while (sem_wait(&c.over) < 0)
		;
	sem_destroy(&c.over);
}

struct question {
	bool (*ask)(void *arg);
	void *arg;
	bool yes;
};

static void on_question(void *arg)
{
	struct question *q = arg;

	q->yes = q->ask(q->arg);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool comes_true(bool (*ask)(void *arg), void *arg, double seconds)
{
	struct question q = { .ask = ask, .arg = arg };
	double until = now() + seconds;

	for (;;) {
		call(on_question, &q);
		if (q.yes || now() > until)
			return q.yes;
		usleep(1000); /* between two looks */
	}
}

#define WAIT_FOR(ask, arg) CHECK(comes_true(ask, arg, 60))

/* --- a peer: sends a pattern, checks a pattern --- */

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i ^ i >> 8 ^ i >> 16);
}

static void update(struct peer *p)
{
	unsigned want = 0;

	if (!p->paused && !p->eof && !p->read_error)
		want |= READY_READ;
	if (p->sent < p->to_send && !p->write_error)
		want |= READY_WRITE;
	if (p->c)
		conduit_want(p->c, want ? want : READY_ABORT);
}

static void peer_read(struct peer *p)
{
	const uint8_t *data;
	uint8_t buf[1000];
	ssize_t n, i;

	if (p->received % 2) { /* both ways of reading */
		n = conduit_read(p->c, buf, sizeof(buf));
		data = buf;
	} else {
		n = conduit_peek(p->c, &data);
	}
	for (i = 0; i < n; i++)
		CHECK_INT(data[i], pattern(p->received + (uint64_t)i));
	if (n > 0 && data != buf)
		conduit_consume(p->c, n > 1 && n % 2 == 0 ? (size_t)(--n) : (size_t)n);
	if (n > 0)
		p->received += (uint64_t)n;
	else if (n == 0)
		p->eof = 1;
	else if (n != -EAGAIN)
		p->read_error = (int)n;
}

static void peer_write(struct peer *p)
{
	uint8_t buf[16384];
	size_t i, len = p->to_send - p->sent < sizeof(buf) ? p->to_send - p->sent : sizeof(buf);
	ssize_t n;

	for (i = 0; i < len; i++)
		buf[i] = pattern(p->sent + i);
	n = conduit_write(p->c, buf, len);
	if (n > 0)
		p->sent += (uint64_t)n;
	else if (n != -EAGAIN)
		p->write_error = (int)n;
	if (p->sent < p->to_send)
		return;
	if (p->shut_when_sent)
		CHECK_INT(conduit_shutdown(p->c), 0);
	if (p->close_when_sent) {
		conduit_close(p->c, REASON_EOF);
		p->c = NULL;
	}
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct peer *p = c->user;

	CHECK(p->c == c);
	if (events & READY_READ)
		peer_read(p);
	if (events & READY_WRITE && p->sent < p->to_send)
		peer_write(p);
	update(p);
}

static void on_done(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct peer *p = user;

	CHECK(!p->done);
	p->done = true;
	p->opening = NULL;
	p->why = why;
	snprintf(p->detail, sizeof(p->detail), "%s", detail);
	p->c = c;
	if (!c)
		return;
	CHECK_STR(c->ops->name, "websocket");
	c->user = p;
	c->ready = on_ready;
	update(p);
}

static bool is_done(void *arg)
{
	return ((struct peer *)arg)->done;
}

static bool is_all_sent(void *arg)
{
	struct peer *p = arg;

	return p->sent == p->to_send;
}

static bool is_over(void *arg)
{
	struct peer *p = arg;

	return p->eof || p->read_error;
}

static void do_update(void *arg)
{
	update(arg);
}

static void do_close(void *arg)
{
	struct peer *p = arg;

	conduit_close(p->c, REASON_EOF);
	p->c = NULL;
}

static void do_abort(void *arg)
{
	struct peer *p = arg;

	conduit_close(p->c, REASON_RESET);
	p->c = NULL;
}

static void do_shutdown(void *arg)
{
	CHECK_INT(conduit_shutdown(((struct peer *)arg)->c), 0);
}

static void do_context_new(void *arg)
{
	x = ws_context_new(w);
	CHECK(x);
}

static void do_context_free(void *arg)
{
	x = ws_context_free(x);
}

/* --- two WebSockets, their network ends spliced --- */

struct pair {
	struct peer client, server;
	struct splice *splice;
};

static void on_splice_end(struct splice *s, enum reason why)
{
	((struct pair *)s->user)->splice = NULL;
}

static const struct splice_spec spec = { .idle_ms = 60000,
					 .half_closed_ms = 60000,
					 .end = on_splice_end };

static void do_pair(void *arg)
{
	struct pair *p = arg;

	p->server.opening = ws_accept(x, &p->server.network, 10000, on_done, &p->server);
	p->client.opening =
		ws_connect(x, "gw.example.net", &p->client.network, 10000, on_done, &p->client);
	CHECK(p->server.opening && p->client.opening);
	CHECK(p->server.network && p->client.network);
	p->splice = splice_new(w, p->client.network, p->server.network, &spec, p);
	CHECK(p->splice);
}

static void do_break(void *arg)
{
	splice_end(((struct pair *)arg)->splice, REASON_RESET);
}

static bool is_unspliced(void *arg)
{
	return !((struct pair *)arg)->splice;
}

static void open_pair(struct pair *p)
{
	call(do_pair, p);
	WAIT_FOR(is_done, &p->client);
	WAIT_FOR(is_done, &p->server);
	CHECK_STR(p->client.detail, "");
	CHECK(p->client.c && p->server.c);
}

static void close_pair(struct pair *p)
{
	if (p->client.c)
		call(do_close, &p->client);
	if (p->server.c)
		call(do_close, &p->server);
	WAIT_FOR(is_unspliced, p);
}

static unsigned count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned fds_before;

static bool are_fds_back(void *arg)
{
	return count_fds() <= fds_before;
}

static bool is_stalled(void *arg)
{
	static uint64_t last_sent;
	static unsigned same;
	struct peer *p = arg;

	same = p->sent == last_sent ? same + 1 : 0;
	last_sent = p->sent;
	return same > 50;
}

static void test_transfer(void)
{
	struct pair p = { 0 };
	double t;

	p.client.to_send = p.server.to_send = 20 * MB;
	p.client.paused = p.server.paused = true;
	open_pair(&p);
	WAIT_FOR(is_stalled, &p.client);
	WAIT_FOR(is_stalled, &p.server);
	/* 320 KiB received, 128 KiB to send, two sockets and the splice between: no more is held */
	CHECK(p.client.sent > WS_RX_MAX && p.client.sent < 3 * MB);
	CHECK(p.server.sent > WS_RX_MAX && p.server.sent < 3 * MB);
	t = now();
	p.client.paused = p.server.paused = false;
	call(do_update, &p.client);
	call(do_update, &p.server);
	WAIT_FOR(is_all_sent, &p.client);
	WAIT_FOR(is_all_sent, &p.server);
	p.client.close_when_sent = false;
	call(do_shutdown, &p.client);
	WAIT_FOR(is_over, &p.server);
	CHECK_INT(p.server.eof, 1);
	CHECK_INT(p.server.received, 20 * MB);
	fprintf(stderr, "20 MB each way in %.3f s\n", now() - t);
	close_pair(&p);
}

static bool has_received_all(void *arg)
{
	struct pair *p = arg;

	return p->client.received == p->server.sent && p->server.received == p->client.sent;
}

static void test_one_slow_direction(void)
{
	struct pair p = { 0 };

	/* nobody reads at the client; the other direction must not care */
	p.client.to_send = 20 * MB;
	p.server.to_send = 20 * MB;
	p.client.paused = true;
	open_pair(&p);
	WAIT_FOR(is_all_sent, &p.client);
	CHECK(p.server.sent < 3 * MB);
	p.client.paused = false;
	call(do_update, &p.client);
	WAIT_FOR(is_all_sent, &p.server);
	WAIT_FOR(has_received_all, &p);
	close_pair(&p);
}

static void test_ends(void)
{
	struct pair p = { 0 }, q = { 0 }, r = { 0 }, s = { 0 };

	/* what is inside goes out before a clean close */
	p.client.to_send = 3 * MB;
	p.client.close_when_sent = true;
	open_pair(&p);
	WAIT_FOR(is_over, &p.server);
	CHECK_INT(p.server.eof, 1);
	CHECK_INT(p.server.received, 3 * MB);
	close_pair(&p);

	open_pair(&q);
	call(do_abort, &q.client);
	WAIT_FOR(is_over, &q.server);
	CHECK_INT(q.server.read_error, -ECONNRESET);
	close_pair(&q);

	open_pair(&r);
	call(do_abort, &r.server);
	WAIT_FOR(is_over, &r.client);
	CHECK_INT(r.client.read_error, -ECONNRESET);
	close_pair(&r);

	/* shutdown ends both directions in order */
	open_pair(&s);
	call(do_shutdown, &s.server);
	WAIT_FOR(is_over, &s.client);
	CHECK_INT(s.client.eof, 1);
	WAIT_FOR(is_over, &s.server);
	CHECK_INT(s.server.eof, 1);
	close_pair(&s);
}

static bool has_moved(void *arg)
{
	return ((struct peer *)arg)->received > MB;
}

static void test_network_lost(void)
{
	struct pair p = { 0 };

	p.client.to_send = p.server.to_send = 1000 * MB;
	open_pair(&p);
	WAIT_FOR(has_moved, &p.client);
	call(do_break, &p);
	WAIT_FOR(is_over, &p.client);
	WAIT_FOR(is_over, &p.server);
	CHECK_INT(p.client.read_error, -ECONNRESET);
	CHECK_INT(p.server.read_error, -ECONNRESET);
	close_pair(&p);
}

static void test_cycles(unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		struct pair p = { 0 };

		p.client.to_send = i * 100;
		open_pair(&p);
		WAIT_FOR(is_all_sent, &p.client);
		call(i % 3 ? do_close : do_abort, i % 2 ? &p.client : &p.server);
		close_pair(&p);
	}
	WAIT_FOR(are_fds_back, NULL);
}

/* --- by hand --- */

struct hand {
	struct peer peer;
	int fd;
	uint64_t timeout;
};

static void do_hand_server(void *arg)
{
	struct hand *h = arg;

	h->peer.opening = ws_accept(x, &h->peer.network, h->timeout, on_done, &h->peer);
	CHECK(h->peer.opening);
	h->fd = fd_conduit_release(h->peer.network);
}

static void do_hand_client(void *arg)
{
	struct hand *h = arg;

	h->peer.opening =
		ws_connect(x, "gw.example.net", &h->peer.network, h->timeout, on_done, &h->peer);
	CHECK(h->peer.opening);
	h->fd = fd_conduit_release(h->peer.network);
}

static void hand_open(struct hand *h, void (*open)(void *arg))
{
	struct timeval tv = { .tv_sec = 30 };

	if (!h->timeout)
		h->timeout = 10000;
	call(open, h);
	CHECK(fcntl(h->fd, F_SETFL, 0) == 0);
	CHECK(setsockopt(h->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) == 0);
	CHECK(setsockopt(h->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) == 0);
}

static void hand_close(struct hand *h)
{
	if (h->peer.c)
		call(do_close, &h->peer);
	if (h->fd >= 0)
		close(h->fd);
}

static void say(struct hand *h, const void *data, size_t len)
{
	const uint8_t *d = data;

	while (len) {
		ssize_t n = send(h->fd, d, len, MSG_NOSIGNAL);

		CHECK(n > 0);
		d += n;
		len -= (size_t)n;
	}
}

static void hear(struct hand *h, void *data, size_t len)
{
	CHECK_INT(recv(h->fd, data, len, MSG_WAITALL), len);
}

/* An HTTP head, byte by byte, so that nothing behind it is taken. */
static void hear_head(struct hand *h, char *buf, size_t size)
{
	size_t n = 0;

	memset(buf, 0, size);
	while (n + 1 < size && !strstr(buf, "\r\n\r\n"))
		hear(h, buf + n++, 1);
}

static const char upgrade[] = "GET /tunnel HTTP/1.1\r\nHost: gw.example.net\r\n"
			      "Upgrade: websocket\r\nConnection: Upgrade\r\n"
			      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
			      "Sec-WebSocket-Version: 13\r\n"
			      "Sec-WebSocket-Protocol: attest-relay.v1\r\n\r\n";

static void upgrade_by_hand(struct hand *h)
{
	char head[2000];

	hand_open(h, do_hand_server);
	say(h, upgrade, sizeof(upgrade) - 1);
	hear_head(h, head, sizeof(head));
	CHECK(strstr(head, "HTTP/1.1 101 ") == head);
	CHECK(strcasestr(head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
	CHECK(strcasestr(head, "sec-websocket-protocol: attest-relay.v1\r\n"));
	WAIT_FOR(is_done, &h->peer);
	CHECK(h->peer.c);
}

/* One masked frame of the pattern from offset; the key is not zero. Returns its length. */
static size_t frame(uint8_t *f, unsigned first, uint64_t offset, size_t len)
{
	static const uint8_t key[4] = { 0x11, 0xfe, 0x80, 0x7f };
	size_t n = 0, i;

	f[n++] = (uint8_t)first;
	if (len < 126) {
		f[n++] = (uint8_t)(0x80 | len);
	} else if (len < 65536) {
		f[n++] = 0x80 | 126;
		f[n++] = (uint8_t)(len >> 8);
		f[n++] = (uint8_t)len;
	} else {
		f[n++] = 0x80 | 127;
		for (i = 0; i < 8; i++)
			f[n++] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
	}
	memcpy(f + n, key, 4);
	n += 4;
	for (i = 0; i < len; i++)
		f[n++] = pattern(offset + i) ^ key[i % 4];
	return n;
}

static bool has_300(void *arg)
{
	return ((struct peer *)arg)->received >= 300;
}

static void test_frames(void)
{
	struct hand h = { 0 };
	uint8_t f[4000], back[16];
	size_t n = 0, i;

	/* byte by byte, the handshake too */
	hand_open(&h, do_hand_server);
	for (i = 0; i < sizeof(upgrade) - 1; i++)
		say(&h, upgrade + i, 1);
	hear_head(&h, (char *)f, sizeof(f));
	n += frame(f + n, 0x82, 0, 5);
	n += frame(f + n, 0x02, 5, 100); /* fragments, */
	n += frame(f + n, 0x89, 0, 4);   /* a ping between them, */
	n += frame(f + n, 0x00, 105, 0); /* an empty one */
	n += frame(f + n, 0x80, 105, 195);
	n += frame(f + n, 0x82, 300, 0);
	for (i = 0; i < n; i++)
		say(&h, f + i, 1);
	WAIT_FOR(has_300, &h.peer);
	hear(&h, back, 6); /* the pong */
	CHECK_INT(back[0], 0x8a);
	CHECK_INT(back[1], 4);
	CHECK_INT(back[2], pattern(0));
	/* every boundary once */
	for (i = 1; i < 240; i++) {
		struct hand k = { 0 };

		upgrade_by_hand(&k);
		n = frame(f, 0x82, 0, 130);
		n += frame(f + n, 0x82, 130, 170);
		say(&k, f, i);
		call(do_update, &k.peer); /* a turn of the loop between */
		say(&k, f + i, n - i);
		WAIT_FOR(has_300, &k.peer);
		hand_close(&k);
	}
	hand_close(&h);
}

static bool has_10mb(void *arg)
{
	return ((struct peer *)arg)->received == 10 * MB;
}

static void test_huge_frame(void)
{
	struct hand h = { 0 };
	uint8_t *f = malloc(10 * MB + 20);
	size_t n = frame(f, 0x82, 0, 10 * MB);

	upgrade_by_hand(&h);
	say(&h, f, n);
	WAIT_FOR(has_10mb, &h.peer);
	hand_close(&h);
	free(f);
}

static void expect_close(struct hand *h, unsigned code)
{
	uint8_t f[4];

	hear(h, f, 4);
	CHECK_INT(f[0], 0x88);
	CHECK(f[1] >= 2); /* lws may add words */
	CHECK_INT(f[2] << 8 | f[3], code);
}

static bool has_5(void *arg)
{
	return ((struct peer *)arg)->received == 5;
}

static bool is_over_or_has_5(void *arg)
{
	return is_over(arg) || has_5(arg);
}

static void test_bad_frames(void)
{
	struct hand text = { 0 }, empty = { 0 }, plain = { 0 }, rsv = { 0 }, code = { 0 };
	uint8_t f[100];

	upgrade_by_hand(&text);
	say(&text, f, frame(f, 0x81, 0, 5));
	expect_close(&text, 1003);
	WAIT_FOR(is_over, &text.peer);
	CHECK_INT(text.peer.read_error, -EPROTO);
	CHECK_INT(text.peer.received, 0);
	hand_close(&text);

	upgrade_by_hand(&empty); /* an empty text message */
	say(&empty, f, frame(f, 0x81, 0, 0));
	WAIT_FOR(is_over, &empty.peer);
	CHECK_INT(empty.peer.read_error, -EPROTO);
	hand_close(&empty);

	upgrade_by_hand(&plain); /* a client must mask; libwebsockets 4.1 does not insist */
	say(&plain, "\x82\x05\x00\x01\x02\x03\x04", 7);
	WAIT_FOR(is_over_or_has_5, &plain.peer);
	hand_close(&plain);

	upgrade_by_hand(&rsv); /* "compressed" */
	say(&rsv, f, frame(f, 0xc2, 0, 5));
	expect_close(&rsv, 1002);
	close(rsv.fd); /* or wait 5 s: so long libwebsockets waits for an answer */
	rsv.fd = -1;
	WAIT_FOR(is_over, &rsv.peer);
	CHECK(rsv.peer.read_error < 0);
	hand_close(&rsv);

	upgrade_by_hand(&code); /* going away is not EOF */
	say(&code, "\x88\x82\0\0\0\0\x03\xe9", 8);
	WAIT_FOR(is_over, &code.peer);
	CHECK_INT(code.peer.read_error, -ECONNRESET);
	hand_close(&code);
}

/* Our closes on the wire. */
static void test_close_codes(void)
{
	struct hand eof = { 0 }, failed = { 0 }, theirs = { 0 };

	upgrade_by_hand(&theirs); /* answered in kind */
	say(&theirs, "\x88\x82\0\0\0\0\x03\xe8", 8);
	expect_close(&theirs, 1000);
	WAIT_FOR(is_over, &theirs.peer);
	CHECK_INT(theirs.peer.eof, 1);
	hand_close(&theirs);

	upgrade_by_hand(&eof);
	call(do_close, &eof.peer);
	expect_close(&eof, 1000);
	hand_close(&eof);
	upgrade_by_hand(&failed);
	call(do_abort, &failed.peer);
	expect_close(&failed, 1011);
	/* the peer does not answer: it is dropped all the same */
	fds_before = count_fds() - 1;
	WAIT_FOR(are_fds_back, NULL);
	hand_close(&failed);
}

static void refused_with(const char *request, size_t len, const char *status)
{
	struct hand h = { 0 };
	char head[2000];

	hand_open(&h, do_hand_server);
	say(&h, request, len);
	if (status) {
		hear_head(&h, head, sizeof(head));
		if (strncmp(head + 9, status, 3) != 0)
			fprintf(stderr, "%s", head);
		CHECK(strncmp(head, "HTTP/1.", 7) == 0 && strncmp(head + 9, status, 3) == 0);
	}
	WAIT_FOR(is_done, &h.peer);
	fprintf(stderr, "refused: %s (%s)\n", h.peer.detail, reason_word(h.peer.why));
	CHECK(!h.peer.c);
	CHECK(h.peer.detail[0] && h.peer.why != REASON_NONE);
	if (status)
		CHECK_INT(h.peer.why, REASON_PROTOCOL);
	hand_close(&h);
}

static void variant(const char *from, const char *to, const char *status)
{
	char buf[1000];
	const char *at = strstr(upgrade, from);

	CHECK(at);
	snprintf(buf, sizeof(buf), "%.*s%s%s", (int)(at - upgrade), upgrade, to, at + strlen(from));
	refused_with(buf, strlen(buf), status);
}

static void test_refusals(void)
{
	static const char
		get[] = "GET /tunnel HTTP/1.1\r\nHost: gw\r\n\r\n",
		other[] = "GET / HTTP/1.1\r\nHost: gw\r\n\r\n",
		post[] = "POST /tunnel HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\n\r\nhello",
		h2[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		garbage[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\n\n\n\n";

	variant("/tunnel", "/elsewhere", "404");
	variant("/tunnel", "/tunnel/../tunnelx", "404");
	variant("attest-relay.v1", "chat", "400");
	variant("attest-relay.v1", "attest-relay.v10", "400");
	variant("Sec-WebSocket-Protocol: attest-relay.v1\r\n", "", "400");
	variant("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", "400");
	variant("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "400");
	variant("Upgrade: websocket", "Upgrade: h2c", "426");
	variant("GET", "POST", "404");
	variant("Upgrade: websocket", "Upgrade: something", NULL);
	refused_with(get, sizeof(get) - 1, "426");
	refused_with(other, sizeof(other) - 1, "404");
	refused_with(post, sizeof(post) - 1, "404");
	refused_with(h2, sizeof(h2) - 1, NULL);
	refused_with(garbage, sizeof(garbage) - 1, NULL);
}

/* Sec-WebSocket-Accept for what the client sent. */
static void accept_key(const char *head, char *out)
{
	const char *key = strcasestr(head, "sec-websocket-key: ");
	uint8_t sha[20];
	char text[100];

	CHECK(key);
	snprintf(text, sizeof(text), "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
	CHECK(EVP_Digest(text, strlen(text), sha, NULL, EVP_sha1(), NULL));
	EVP_EncodeBlock((unsigned char *)out, sha, sizeof(sha));
}

/* answer may hold one %s: the accept key */
static void answered_with(const char *answer, const char *detail)
{
	struct hand h = { 0 };
	char head[2000], key[40], text[1000];
	const char *at = strstr(answer, "%s");
	size_t n;

	hand_open(&h, do_hand_client);
	hear_head(&h, head, sizeof(head));
	CHECK(strstr(head, "GET /tunnel HTTP/1.1\r\n") == head);
	CHECK(strcasestr(head, "\r\nhost: gw.example.net\r\n"));
	CHECK(strcasestr(head, "\r\nsec-websocket-protocol: attest-relay.v1\r\n"));
	CHECK(!strcasestr(head, "\r\norigin:"));
	CHECK(!strcasestr(head, "extensions"));
	accept_key(head, key);
	if (at)
		snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - answer), answer, key, at + 2);
	else
		snprintf(text, sizeof(text), "%s", answer);
	n = strlen(text);
	if (detail && !*detail) { /* the first frame in one go with the answer */
		memcpy(text + n, "\x82\x05\x00\x01\x02\x03\x04", 7);
		n += 7;
	}
	say(&h, text, n);
	if (!detail)
		shutdown(h.fd, SHUT_WR);
	WAIT_FOR(is_done, &h.peer);
	fprintf(stderr, "answered: %s (%s)\n", h.peer.detail, reason_word(h.peer.why));
	if (detail && !*detail) {
		CHECK(h.peer.c);
		WAIT_FOR(has_5, &h.peer);
	} else {
		CHECK(!h.peer.c);
		CHECK(h.peer.why != REASON_NONE);
		CHECK(!detail || strstr(h.peer.detail, detail));
	}
	hand_close(&h);
}

#define SWITCH "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"

static void test_answers(void)
{
	answered_with(SWITCH "Sec-WebSocket-Accept: %s\r\n"
			     "Sec-WebSocket-Protocol: attest-relay.v1\r\n\r\n",
		      "");
	answered_with("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		      "HTTP 403 instead of 101 Switching Protocols");
	answered_with("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n", "HTTP 502");
	answered_with("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/tunnel\r\n"
		      "Content-Length: 0\r\n\r\n",
		      "HTTP 302");
	answered_with("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n"
		      "Content-Length: 0\r\n\r\n",
		      "HTTP 401");
	answered_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP 200");
	answered_with(SWITCH "Sec-WebSocket-Accept: %s\r\n\r\n", "subprotocol");
	answered_with(SWITCH "Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
		      "PROTOCOL");
	answered_with(SWITCH "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
			     "Sec-WebSocket-Protocol: attest-relay.v1\r\n\r\n",
		      "handshake");
	answered_with("SSH-2.0-OpenSSH_9.2\r\n\r\n", NULL);
	answered_with("", NULL);
}

static void do_cancel(void *arg)
{
	struct peer *p = arg;

	ws_opening_cancel(p->opening);
	p->opening = NULL;
}

static void test_silence(void)
{
	struct hand server = { .timeout = 100 }, client = { .timeout = 100 },
		    half = { .timeout = 100 }, a = { 0 }, b = { 0 }, gone = { 0 };

	hand_open(&server, do_hand_server);
	hand_open(&client, do_hand_client);
	hand_open(&half, do_hand_server);
	say(&half, upgrade, 50);
	WAIT_FOR(is_done, &server.peer);
	WAIT_FOR(is_done, &client.peer);
	WAIT_FOR(is_done, &half.peer);
	CHECK_INT(server.peer.why, REASON_HANDSHAKE_TIMEOUT);
	CHECK_INT(client.peer.why, REASON_HANDSHAKE_TIMEOUT);
	CHECK_INT(half.peer.why, REASON_HANDSHAKE_TIMEOUT);
	hand_close(&server);
	hand_close(&client);
	hand_close(&half);

	hand_open(&gone, do_hand_server);
	close(gone.fd);
	gone.fd = -1;
	WAIT_FOR(is_done, &gone.peer);
	CHECK_INT(gone.peer.why, REASON_RESET);

	hand_open(&a, do_hand_server);
	hand_open(&b, do_hand_client);
	call(do_cancel, &a.peer);
	call(do_cancel, &b.peer);
	WAIT_FOR(is_done, &gone.peer);
	CHECK(!a.peer.done && !b.peer.done);
	hand_close(&a);
	hand_close(&b);
}

/* The context goes while there are conduits, openings, and some that linger. */
static void test_context_free(void)
{
	struct pair p = { 0 }, q = { 0 };
	struct hand h = { 0 };

	p.client.to_send = 20 * MB;
	p.server.paused = true;
	open_pair(&p);
	WAIT_FOR(is_stalled, &p.client);
	open_pair(&q);
	hand_open(&h, do_hand_client);
	call(do_close, &q.client);
	call(do_close, &p.client);
	call(do_context_free, NULL);
	p.server.paused = false;
	call(do_update, &p.server);
	WAIT_FOR(is_over, &p.server);
	CHECK_INT(p.server.read_error, -ECONNRESET);
	close_pair(&p);
	close_pair(&q);
	hand_close(&h);
	CHECK(!h.peer.done);
}

#define RUN(test)                                                   \
	do {                                                        \
		double t_ = now();                                  \
		test;                                               \
		fprintf(stderr, "%s: %.2f s\n", #test, now() - t_); \
	} while (0)

int main(int argc, char **argv)
{
	bool quick = argc > 1; /* under valgrind */

	alarm(600);
	/* lws would use it */
	setenv("http_proxy", "http://127.0.0.1:9", 1);
	w = worker_new(0);
	CHECK(w);
	CHECK_INT(worker_start(w), 0);
	call(do_context_new, NULL);
	{
		struct pair p = { 0 };

		open_pair(&p);
		close_pair(&p);
	}
	fds_before = count_fds();
	RUN(test_frames());
	RUN(test_huge_frame());
	RUN(test_bad_frames());
	RUN(test_refusals());
	RUN(test_answers());
	RUN(test_silence());
	RUN(test_ends());
	RUN(test_network_lost());
	if (!quick) {
		RUN(test_transfer());
		RUN(test_one_slow_direction());
	}
	RUN(test_close_codes());
	fds_before = count_fds();
	RUN(test_cycles(quick ? 20 : 200));
	RUN(test_context_free());
	call(do_context_new, NULL);
	RUN(test_cycles(3));
	call(do_context_free, NULL);
	worker_stop(w);
	worker_join(w);
	worker_free(w);
	return 0;
}
