/*
 * test_ws: WebSockets against each other, and against bytes by hand.
 *
 * Theory of operation: one worker on a thread of its own; the test calls into it (call) and polls
 * for what it expects (wait_for), so the loop really sleeps and a lost wake-up shows. Under a
 * WebSocket is one end of a socket pair; by hand means: the test has the other end, as a blocking
 * socket.
 */
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/worker.h"
#include "tests/unit/check.h"
#include "tunnel/ws.h"

#define MB ((uint64_t)1024 * 1024)

struct peer {
	struct ws_opening *opening;
	struct conduit *c;
	bool done;
	enum reason why;
	char detail[200];
	uint64_t to_send, sent, received;
	size_t piece; /* written at a time; 0: much */
	bool shut_when_sent, close_when_sent, paused;
	int eof, read_error, write_error;
	bool aborted; /* READY_ABORT was told */
	unsigned reads;
};

static struct worker *w;
static const struct ws_handshake_terms terms = { .path = "/tunnel",
						 .subprotocol = "attest-relay.v1" };

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
	static const size_t sizes[] = { 1000, 1, 131072, 7, 16384 };
	static uint8_t buf[131072];
	size_t max = sizes[p->reads++ % (sizeof(sizes) / sizeof(*sizes))];
	ssize_t n = conduit_read(p->c, buf, max);

	CHECK(n <= (ssize_t)max);
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] != pattern(p->received + (uint64_t)i))
			CHECK_INT(buf[i], pattern(p->received + (uint64_t)i));
	if (n > 0)
		p->received += (uint64_t)n;
	else if (n == 0)
		p->eof = 1;
	else if (n != -EAGAIN)
		p->read_error = (int)n;
}

static void peer_write(struct peer *p)
{
	static uint8_t buf[131072];
	size_t i, len = p->to_send - p->sent < sizeof(buf) ? p->to_send - p->sent : sizeof(buf);
	ssize_t n;

	for (i = 0; i < len; i++)
		buf[i] = pattern(p->sent + i);
	if (p->piece && len > p->piece)
		len = p->piece;
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
	if (events & READY_ABORT)
		p->aborted = true;
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

static void tcp_pair(int fd[2])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(bind(l, (struct sockaddr *)&at, sizeof(at)), 0);
	CHECK_INT(listen(l, 1), 0);
	CHECK_INT(getsockname(l, (struct sockaddr *)&at, &len), 0);
	CHECK_INT(connect(fd[1], (struct sockaddr *)&at, sizeof(at)), 0);
	fd[0] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	CHECK(fd[0] >= 0);
	close(l);
}

/* Two connected sockets: one as a conduit, the other's number in *other. */
static struct conduit *one_end(bool tcp, int *other)
{
	struct conduit *c;
	int fd[2];

	if (tcp)
		tcp_pair(fd);
	else
		CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	CHECK_INT(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
	c = fd_conduit_new(w, fd[0]);
	CHECK(c);
	*other = fd[1];
	return c;
}

/* --- two WebSockets, over one socket pair --- */

struct pair {
	struct peer client, server;
	int fd; /* of the client's end */
};

static void do_pair(void *arg)
{
	struct pair *p = arg;
	struct conduit *server = one_end(false, &p->fd), *client;

	CHECK_INT(fcntl(p->fd, F_SETFL, O_NONBLOCK), 0);
	client = fd_conduit_new(w, p->fd);
	CHECK(client);
	p->server.opening = ws_accept(server, &terms, 10000, on_done, &p->server);
	p->client.opening =
		ws_connect(client, "gw.example.net", &terms, 10000, on_done, &p->client);
	CHECK(p->server.opening && p->client.opening);
}

static void do_break(void *arg)
{
	CHECK_INT(shutdown(((struct pair *)arg)->fd, SHUT_RDWR), 0);
}

static bool is_alone(void *arg)
{
	return w->conduits == 0;
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
	/* a message to send, and what the sockets hold: nothing else is kept */
	CHECK(p.client.sent > WS_WIRE && p.client.sent < MB);
	CHECK(p.server.sent > WS_WIRE && p.server.sent < MB);
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
	CHECK(p.server.sent < MB);
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

static bool has_write_error(void *arg)
{
	return ((struct peer *)arg)->write_error;
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
	/* its own, or what the socket said when it was written to */
	CHECK(p.client.read_error == -ECONNRESET || p.client.read_error == -EPIPE);
	CHECK(p.server.read_error == -ECONNRESET || p.server.read_error == -EPIPE);
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
	bool tcp; /* or a Unix socket pair */
};

static void do_hand_server(void *arg)
{
	struct hand *h = arg;

	h->peer.opening = ws_accept(one_end(h->tcp, &h->fd), &terms, h->timeout, on_done, &h->peer);
	CHECK(h->peer.opening);
}

static void do_hand_client(void *arg)
{
	struct hand *h = arg;

	h->peer.opening = ws_connect(one_end(h->tcp, &h->fd), "gw.example.net", &terms, h->timeout,
				     on_done, &h->peer);
	CHECK(h->peer.opening);
}

static void hand_open(struct hand *h, void (*open)(void *arg))
{
	struct timeval tv = { .tv_sec = 30 };

	if (!h->timeout)
		h->timeout = 10000;
	call(open, h);
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

/* The answer that a client of ours wants. */
static void answer_by_hand(struct hand *h)
{
	char head[2000], key[40], text[1000];

	hear_head(h, head, sizeof(head));
	accept_key(head, key);
	snprintf(text, sizeof(text),
		 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		 "Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: attest-relay.v1\r\n\r\n",
		 key);
	for (size_t i = 0; text[i]; i++)
		say(h, text + i, 1);
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

/* The next frame from the conduit's side. Returns its first byte. */
static unsigned hear_frame(struct hand *h, uint8_t *payload, size_t max, size_t *len)
{
	uint8_t head[8], key[4] = { 0 };
	size_t n;

	hear(h, head, 2);
	n = head[1] & 0x7f;
	CHECK(n < 127); /* we send no longer ones */
	if (n == 126) {
		hear(h, head + 2, 2);
		n = (size_t)(head[2] << 8 | head[3]);
	}
	CHECK(n <= max);
	if (head[1] & 0x80)
		hear(h, key, 4);
	if (n)
		hear(h, payload, n);
	for (size_t i = 0; i < n; i++)
		payload[i] ^= key[i % 4];
	*len = n;
	return head[0];
}

static void expect_close(struct hand *h, unsigned code)
{
	uint8_t f[125];
	size_t len;

	CHECK_INT(hear_frame(h, f, sizeof(f), &len), 0x88);
	CHECK_INT(len, 2);
	CHECK_INT(f[0] << 8 | f[1], code);
}

/* The connection is closed in order, once nothing is left in it. */
static void expect_end(struct hand *h)
{
	uint8_t byte;

	CHECK_INT(recv(h->fd, &byte, 1, 0), 0);
}

static bool has_5(void *arg)
{
	return ((struct peer *)arg)->received == 5;
}

static void bad_frame(const void *data, size_t len, unsigned code)
{
	struct hand h = { 0 };

	upgrade_by_hand(&h);
	say(&h, "\x82\x85\0\0\0\0\x00\x01\x02\x03\x04", 11); /* a good one before */
	say(&h, data, len);
	say(&h, "\x82\x81\0\0\0\0\x05", 7); /* does not count any more */
	expect_close(&h, code);
	WAIT_FOR(is_over, &h.peer);
	CHECK_INT(h.peer.read_error, -EPROTO);
	CHECK_INT(h.peer.received, 5);
	call(do_abort, &h.peer); /* says nothing more: the close was the last word */
	expect_end(&h);
	hand_close(&h);
}

static void test_bad_frames(void)
{
	struct hand plain = { 0 };

	bad_frame("\x81\x85\0\0\0\0hello", 11, 1003);
	bad_frame("\x01\x80\0\0\0\0", 6, 1003);         /* empty, and in fragments */
	bad_frame("\x82\x05hello", 7, 1002);            /* not masked */
	bad_frame("\xc2\x85\0\0\0\0hello", 11, 1002);   /* "compressed" */
	bad_frame("\x85\x80\0\0\0\0", 6, 1002);         /* no such opcode */
	bad_frame("\x80\x80\0\0\0\0", 6, 1002);         /* continues nothing */
	bad_frame("\x09\x80\0\0\0\0", 6, 1002);         /* a ping in fragments */
	bad_frame("\x89\xfe\x00\x7e\0\0\0\0", 8, 1002); /* a long one */
	bad_frame("\x82\xfe\x00\x05\0\0\0\0hello", 13, 1002);
	bad_frame("\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 14, 1002);
	bad_frame("\x88\x81\0\0\0\0\x03", 7, 1002);
	bad_frame("\x88\x82\0\0\0\0\x03\xed", 8, 1002); /* 1005 is never sent */

	hand_open(&plain, do_hand_client); /* a client takes no masked frame */
	answer_by_hand(&plain);
	say(&plain, "\x82\x85\0\0\0\0hello", 11);
	expect_close(&plain, 1002);
	WAIT_FOR(is_over, &plain.peer);
	CHECK_INT(plain.peer.read_error, -EPROTO);
	hand_close(&plain);
}

/* The peer closes first. */
static void their_close(const char *frame, size_t len, int answer, int error)
{
	struct hand h = { 0 };
	uint8_t f[125];
	size_t n;

	upgrade_by_hand(&h);
	say(&h, frame, len);
	if (answer)
		expect_close(&h, (unsigned)answer);
	else
		CHECK(hear_frame(&h, f, sizeof(f), &n) == 0x88 && n == 0);
	WAIT_FOR(is_over, &h.peer);
	CHECK_INT(h.peer.eof, !error);
	CHECK_INT(h.peer.read_error, error);
	h.peer.to_send = 1; /* nothing can be said any more */
	call(do_update, &h.peer);
	WAIT_FOR(has_write_error, &h.peer);
	CHECK_INT(h.peer.write_error, error ? error : -EPIPE);
	call(do_close, &h.peer);
	expect_end(&h); /* the server goes first */
	hand_close(&h);
}

static void test_close_codes(void)
{
	struct hand eof = { 0 }, failed = { 0 }, client = { 0 }, late = { 0 };
	uint8_t byte;

	their_close("\x88\x82\0\0\0\0\x03\xe8", 8, 1000, 0);
	their_close("\x88\x8a\0\0\0\0\x03\xe8goodbye!", 16, 1000, 0);
	their_close("\x88\x82\0\0\0\0\x03\xe9", 8, 1001, -ECONNRESET); /* is not EOF */
	their_close("\x88\x82\0\0\0\0\x03\xf3", 8, 1011, -ECONNRESET);
	their_close("\x88\x80\0\0\0\0", 6, 0, -ECONNRESET);

	upgrade_by_hand(&eof); /* our closes on the wire */
	call(do_close, &eof.peer);
	expect_close(&eof, 1000);
	CHECK_INT(recv(eof.fd, &byte, 1, MSG_DONTWAIT), -1); /* the answer is waited for */
	say(&eof, "\x82\x81\0\0\0\0\x05\x88\x82\0\0\0\0\x03\xe8", 15);
	expect_end(&eof);
	hand_close(&eof);

	upgrade_by_hand(&failed);
	call(do_abort, &failed.peer);
	expect_close(&failed, 1011);
	expect_end(&failed); /* the peer does not answer: it is dropped all the same */
	WAIT_FOR(is_alone, NULL);
	hand_close(&failed);

	hand_open(&client, do_hand_client); /* lets the server be first */
	answer_by_hand(&client);
	call(do_shutdown, &client.peer);
	expect_close(&client, 1000);
	say(&client, "\x82\x05\0\1\2\3\4\x88\x02\x03\xe8", 11);
	WAIT_FOR(is_over, &client.peer);
	CHECK_INT(client.peer.eof, 1);
	CHECK_INT(client.peer.received, 5);
	call(do_close, &client.peer);
	CHECK_INT(recv(client.fd, &byte, 1, MSG_DONTWAIT), -1);
	CHECK_INT(errno, EAGAIN);
	CHECK_INT(shutdown(client.fd, SHUT_WR), 0);
	expect_end(&client);
	hand_close(&client);

	upgrade_by_hand(&late); /* an abort after EOF was said: no frame can say it */
	call(do_shutdown, &late.peer);
	call(do_abort, &late.peer);
	WAIT_FOR(is_alone, NULL);
	expect_close(&late, 1000);
	hand_close(&late);
}

static void do_hand_lenient(void *arg)
{
	struct hand *h = arg;

	on_done(&h->peer, ws_conduit_new_lenient(one_end(h->tcp, &h->fd)), REASON_NONE, "");
	CHECK(h->peer.c);
}

static bool has_1mb_sent(void *arg)
{
	return ((struct peer *)arg)->sent >= MB;
}

/* A client that leaves, and is heard to the end; whatever is said to it then, somebody takes. */
static void lenient_eof(const char *frame, size_t len, unsigned answer, bool late)
{
	struct hand h = { .tcp = true };
	uint8_t f[125];
	double began;
	size_t n;

	hand_open(&h, do_hand_lenient);
	say(&h, "\x82\x85\0\0\0\0\x00\x01\x02\x03\x04", 11);
	say(&h, frame, len);
	CHECK_INT(hear_frame(&h, f, sizeof(f), &n), 0x88);
	CHECK_INT(n ? (unsigned)(f[0] << 8 | f[1]) : 1005, answer);
	expect_end(&h); /* it is not kept waiting */
	WAIT_FOR(is_over, &h.peer);
	CHECK_INT(h.peer.read_error, 0);
	CHECK_INT(h.peer.eof, 1);
	CHECK_INT(h.peer.received, 5);
	close(h.fd);
	h.fd = -1;
	began = now();
	h.peer.to_send = late ? UINT64_MAX : MB;
	h.peer.piece = late ? 1 : 0;
	call(do_update, &h.peer);
	WAIT_FOR(late ? has_write_error : has_1mb_sent, &h.peer);
	CHECK_INT(h.peer.write_error, late ? -EPIPE : 0);
	CHECK(!late || now() - began > WS_DEAF_MS / 2000.0); /* in seconds, the half of it */
	CHECK(!h.peer.aborted);
	hand_close(&h);
	WAIT_FOR(is_alone, NULL);
}

static void lenient_abort(const char *frame, size_t len, int error)
{
	struct hand h = { 0 };

	hand_open(&h, do_hand_lenient);
	say(&h, frame, len);
	CHECK_INT(shutdown(h.fd, SHUT_WR), 0);
	WAIT_FOR(is_over, &h.peer);
	CHECK_INT(h.peer.read_error, error);
	h.peer.to_send = 1;
	call(do_update, &h.peer);
	WAIT_FOR(has_write_error, &h.peer);
	CHECK_INT(h.peer.write_error, error);
	hand_close(&h);
	WAIT_FOR(is_alone, NULL);
}

static void test_lenient(bool quick)
{
	lenient_eof("\x88\x82\0\0\0\0\x03\xe8", 8, 1000, false);
	lenient_eof("\x88\x82\0\0\0\0\x03\xe9", 8, 1001, false);
	lenient_eof("\x88\x80\0\0\0\0", 6, 1005, !quick);
	lenient_abort("\x88\x82\0\0\0\0\x03\xf3", 8, -ECONNRESET); /* 1011 */
	lenient_abort("\x88\x82\0\0\0\0\x0b\xb8", 8, -ECONNRESET); /* 3000 */
	lenient_abort("\x88\x82\0\0\0\0\x03\xed", 8, -EPROTO);	   /* 1005 on the wire */
	lenient_abort("\x82\x85\0\0\0\0\x00", 7, -ECONNRESET);	   /* no close at all */
}

/* The conduit's messages until a close: all in order. Returns the code. */
static unsigned hear_all(struct hand *h, uint64_t *received)
{
	static uint8_t payload[65536];

	for (*received = 0;;) {
		size_t n;
		unsigned first = hear_frame(h, payload, sizeof(payload), &n);
		if (first == 0x88)
			return n == 2 ? (unsigned)(payload[0] << 8 | payload[1]) : 1005;
		CHECK_INT(first, 0x82);
		for (size_t i = 0; i < n; i++)
			CHECK_INT(payload[i], pattern(*received + i));
		*received += n;
	}
}

/* Ends while the peer takes nothing, a message half written. */
static void test_ends_when_blocked(void)
{
	struct hand eof = { 0 }, failed = { 0 }, stuck = { 0 };
	uint64_t n;

	eof.peer.to_send = failed.peer.to_send = stuck.peer.to_send = 100 * MB;
	upgrade_by_hand(&eof);
	WAIT_FOR(is_stalled, &eof.peer);
	call(do_close, &eof.peer);
	CHECK_INT(hear_all(&eof, &n), 1000);
	CHECK_INT(n, eof.peer.sent);
	hand_close(&eof);

	upgrade_by_hand(&failed);
	WAIT_FOR(is_stalled, &failed.peer);
	call(do_abort, &failed.peer);
	CHECK_INT(hear_all(&failed, &n), 1011);
	CHECK(n <= failed.peer.sent);
	hand_close(&failed);

	upgrade_by_hand(&stuck); /* and who never takes it is dropped */
	WAIT_FOR(is_stalled, &stuck.peer);
	call(do_abort, &stuck.peer);
	WAIT_FOR(is_alone, NULL);
	hand_close(&stuck);
}

/* Pings that come faster than pongs go out: one pong is kept, the last, and nothing else. */
static void test_ping_flood(void)
{
	struct hand h = { 0 };
	uint8_t ping[131], pong[125];
	unsigned pongs = 0, last = 0;
	size_t n;

	upgrade_by_hand(&h);
	for (unsigned i = 1; i <= 20000; i++) {
		memset(ping, 0, sizeof(ping));
		memcpy(ping, "\x89\xfd", 2);
		memcpy(ping + 6, &i, sizeof(i));
		say(&h, ping, sizeof(ping));
	}
	say(&h, "\x82\x85\0\0\0\0\x00\x01\x02\x03\x04", 11);
	WAIT_FOR(has_5, &h.peer); /* reading goes on */
	while (last < 20000) {
		unsigned i;

		CHECK_INT(hear_frame(&h, pong, sizeof(pong), &n), 0x8a);
		CHECK_INT(n, 125);
		memcpy(&i, pong, sizeof(i));
		CHECK(i > last);
		last = i;
		pongs++;
	}
	fprintf(stderr, "20000 pings, %u pongs\n", pongs);
	CHECK(pongs < 20000);
	hand_close(&h);
}

/* A client's frames: masked, with a new key each. */
static void test_keys(void)
{
	struct hand h = { 0 };
	uint8_t f[200][8];

	h.peer.to_send = 200;
	h.peer.piece = 1;
	hand_open(&h, do_hand_client);
	answer_by_hand(&h);
	for (unsigned i = 0; i < 200; i++) {
		hear(&h, f[i], 7);
		CHECK_INT(f[i][0], 0x82);
		CHECK_INT(f[i][1], 0x81);
		CHECK_INT(f[i][6] ^ f[i][2], pattern(i));
		for (unsigned j = 0; j < i; j++) /* fails once in 200,000 runs */
			CHECK(memcmp(f[i] + 2, f[j] + 2, 4) != 0);
	}
	hand_close(&h);
}

static bool is_aborted(void *arg)
{
	return ((struct peer *)arg)->aborted;
}

/* An abort is noticed while nothing is read. */
static void test_abort_unread(void)
{
	struct hand h = { .tcp = true };
	struct linger now_ = { .l_onoff = 1 };

	h.peer.paused = true;
	upgrade_by_hand(&h);
	CHECK_INT(setsockopt(h.fd, SOL_SOCKET, SO_LINGER, &now_, sizeof(now_)), 0);
	close(h.fd);
	h.fd = -1;
	WAIT_FOR(is_aborted, &h.peer);
	hand_close(&h);
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
	variant("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", "426");
	variant("Connection: Upgrade", "Connection: close", "426");
	variant("ZQ==", "ZQ=", "400");
	variant("ZQ==", "Z?==", "400");
	variant("HTTP/1.1", "HTTP/1.0", "400");
	variant("Host: gw.example.net\r\n", "", "400");
	variant("Host", "Sec-WebSocket-Version: 13\r\nHost", "426");
	variant("Host", "X: \001\r\nHost", "400");
	variant("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "400");
	variant("Upgrade: websocket", "Upgrade: h2c", "426");
	variant("GET", "POST", "405");
	variant("Upgrade: websocket", "Upgrade: something", "426");
	refused_with(get, sizeof(get) - 1, "426");
	refused_with(other, sizeof(other) - 1, "404");
	refused_with(post, sizeof(post) - 1, "405");
	refused_with(h2, sizeof(h2) - 1, NULL);
	refused_with(garbage, sizeof(garbage) - 1, NULL);
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
		      "subprotocol");
	answered_with(SWITCH "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
			     "Sec-WebSocket-Protocol: attest-relay.v1\r\n\r\n",
		      "handshake");
	answered_with(SWITCH "Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Extensions: x\r\n"
			     "Sec-WebSocket-Protocol: attest-relay.v1\r\n\r\n",
		      "extensions");
	answered_with("HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n"
		      "Sec-WebSocket-Protocol: attest-relay.v1\r\n\r\n",
		      "without an upgrade");
	answered_with("SSH-2.0-OpenSSH_9.2\r\n\r\n", "is not HTTP");
	answered_with("HTTP/1.1 10", NULL);
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
	w = worker_new(0);
	CHECK(w);
	CHECK_INT(worker_start(w), 0);
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
	RUN(test_lenient(quick));
	RUN(test_ends_when_blocked());
	RUN(test_ping_flood());
	RUN(test_keys());
	RUN(test_abort_unread());
	WAIT_FOR(is_alone, NULL);
	fds_before = count_fds();
	RUN(test_cycles(quick ? 20 : 200));
	WAIT_FOR(is_alone, NULL);
	worker_stop(w);
	worker_join(w);
	worker_free(w);
	return 0;
}
