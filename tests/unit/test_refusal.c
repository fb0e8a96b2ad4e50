/* Refusals: each door's words arrive, although the client has sent bytes that nobody reads. */
#include <sys/ioctl.h>
#include <unistd.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/linger.h"
#include "relay/refusal.h"
#include "tests/unit/loop.h"

/* A client over TCP that has sent this much already; the conduit is the relay's end. */
static struct conduit *client(int *fd, size_t sent)
{
	static const char bytes[4096] = "unread";
	struct conduit *c;
	int pair[2], there = 0;

	tcp_pair(pair);
	*fd = pair[1];
	c = fd_conduit_new(w, pair[0]);
	CHECK(c);
	for (size_t n = 0; n < sent; n += sizeof(bytes))
		CHECK(send(*fd, bytes, sizeof(bytes), 0) == sizeof(bytes));
	UNTIL((ioctl(pair[0], FIONREAD, &there), (size_t)there >= sent));
	return c;
}

/* Reads up to the end; true: it was an orderly one. */
static bool receive(int fd, char *buf, size_t size, size_t *len)
{
	ssize_t n = 0;

	*len = 0;
	UNTIL((n = recv(fd, buf + *len, size - 1 - *len, 0), *len += n > 0 ? (size_t)n : 0,
	       n == 0 || (n < 0 && errno != EAGAIN)));
	buf[*len] = '\0';
	return n == 0;
}

static unsigned overs; /* connections gone for good */

static void on_over(void *arg)
{
	overs++;
}

static void test_alert(enum reason why, uint8_t description)
{
	const uint8_t expected[] = { 21, 3, 3, 0, 2, 2, description };
	struct conduit *c;
	char buf[64];
	size_t len;
	int fd;

	c = client(&fd, 8192);
	overs = 0;
	refusal_send(c, DOOR_SNI, why, "no matter", on_over, NULL);
	CHECK(receive(fd, buf, sizeof(buf), &len));
	CHECK_INT(len, sizeof(expected));
	CHECK(memcmp(buf, expected, sizeof(expected)) == 0);
	CHECK_INT(w->conduits, 1); /* it lingers until the client has ended too, */
	CHECK_INT(overs, 0);	   /* and counts for so long */
	close(fd);
	UNTIL(w->conduits == 0);
	CHECK_INT(overs, 1);
}

static void test_http(enum reason why, int status, const char *error, const char *about)
{
	char buf[2048], line[64], length[64], proxy_status[128], *body;
	struct conduit *c;
	size_t len;
	int fd;

	c = client(&fd, 8192);
	refusal_send(c, DOOR_CONNECT, why, about, on_over, NULL);
	CHECK(receive(fd, buf, sizeof(buf), &len));
	snprintf(line, sizeof(line), "HTTP/1.1 %d ", status);
	CHECK(strncmp(buf, line, strlen(line)) == 0);
	CHECK_INT(refusal_status(why), status);
	body = strstr(buf, "\r\n\r\n");
	CHECK(body);
	body += 4;
	snprintf(length, sizeof(length), "\r\nContent-Length: %zu\r\n", strlen(body));
	CHECK(strstr(buf, length));
	CHECK(strstr(buf, "\r\nConnection: close\r\n"));
	snprintf(proxy_status, sizeof(proxy_status),
		 "\r\nProxy-Status: attest-relay; error=%s; details=\"%s\"\r\n", error,
		 reason_word(why));
	CHECK(strstr(buf, proxy_status));
	CHECK(strncmp(body, "attest-relay: ", 14) == 0);
	CHECK(strncmp(body + 14, about, strlen(about) < 100 ? strlen(about) : 100) == 0);
	if (strlen(about) < 100)
		CHECK(strstr(body, reason_word(why)));
	/* more from the client is read and forgotten, and nobody is reset for it */
	CHECK_INT(send(fd, "more", 4, MSG_NOSIGNAL), 4);
	settle();
	CHECK_INT(w->conduits, 1);
	CHECK_INT(shutdown(fd, SHUT_WR), 0);
	UNTIL(w->conduits == 0);
	CHECK_INT(recv(fd, buf, sizeof(buf), 0), 0);
	close(fd);
}

/* Other protocols have no words in common: an abort. */
static void test_static(void)
{
	struct conduit *c;
	char buf[64];
	size_t len;
	int fd;

	c = client(&fd, 0);
	refusal_send(c, DOOR_STATIC, REASON_PICKUP_TIMEOUT, "no matter", on_over, NULL);
	CHECK(!receive(fd, buf, sizeof(buf), &len));
	CHECK_INT(len, 0);
	close(fd);
	CHECK_INT(w->conduits, 0);
}

/* Written only: the conduit stays the caller's. */
static void test_write(void)
{
	struct conduit *c;
	char buf[64];
	int fd;

	c = client(&fd, 0);
	refusal_write(c, DOOR_SNI, REASON_UNKNOWN_SERVICE, "no matter");
	UNTIL(recv(fd, buf, sizeof(buf), MSG_PEEK) == 7);
	CHECK_INT(recv(fd, buf, sizeof(buf), 0), 7);
	CHECK(recv(fd, buf, sizeof(buf), 0) < 0 && errno == EAGAIN);
	conduit_close(c, REASON_UNKNOWN_SERVICE);
	close(fd);
}

/* A client that goes on sending is heard no longer than LINGER_BYTES. */
static void test_flood(void)
{
	static const char flood[65536];
	struct conduit *c;
	size_t sent = 0;
	int fd;

	c = client(&fd, 0);
	refusal_send(c, DOOR_CONNECT, REASON_LIMIT, "too many", on_over, NULL);
	for (uint64_t overdue = now_ms() + LINGER_MS / 2; w->conduits;) {
		ssize_t n = send(fd, flood, sizeof(flood), MSG_NOSIGNAL);

		sent += n > 0 ? (size_t)n : 0;
		turn(false);
		CHECK(now_ms() < overdue); /* the bytes end it, not the time */
	}
	CHECK(sent >= LINGER_BYTES);
	close(fd);
}

/* One that neither reads nor ends is waited for LINGER_MS. */
static void test_silence(void)
{
	uint64_t began = now_ms();
	struct conduit *c;
	int fd;

	c = client(&fd, 0);
	refusal_send(c, DOOR_SNI, REASON_UNKNOWN_SERVICE, "no matter", on_over, NULL);
	UNTIL(w->conduits == 0);
	CHECK(now_ms() - began >= LINGER_MS - 20);
	close(fd);
}

/* A stream has words of its own, said before it is closed, and nothing lingers. */
static enum reason answered;
static unsigned closed;

static void stub_answer(struct conduit *c, enum reason why)
{
	CHECK_INT(closed, 0);
	answered = why;
}

static void stub_close(struct conduit *c, enum reason why)
{
	closed++;
	conduit_deinit(c);
}

static void test_stream(void)
{
	static const struct conduit_ops ops = {
		.name = "stub", .answer = stub_answer, .close = stub_close
	};
	struct conduit c;

	overs = closed = 0;
	conduit_init(&c, &ops, w);
	refusal_send(&c, DOOR_CONNECT, REASON_LIMIT, "no matter", on_over, NULL);
	CHECK_INT(answered, REASON_LIMIT);
	CHECK_INT(closed, 1);
	CHECK_INT(overs, 1);
	CHECK_INT(w->conduits, 0);
}

/* Each reason has a status of an error and a value that RFC 8941 can parse, and that fits. */
static void test_proxy_status(void)
{
	char text[REFUSAL_PROXY_STATUS_MAX], error[64], details[64];
	int end;

	for (enum reason why = 0; why < REASONS; why++) {
		CHECK_INT(refusal_proxy_status(why, text), strlen(text));
		end = 0;
		CHECK_INT(sscanf(text,
				 "attest-relay; error=%63[a-z_]; details=\"%63[a-z0-9-]\"%n",
				 error, details, &end),
			  2);
		CHECK_INT(end, strlen(text));
		CHECK(strcmp(details, reason_word(why)) == 0);
		CHECK(refusal_status(why) >= 400);
	}
}

int main(void)
{
	char longest[2000];

	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	loop_begin();
	test_alert(REASON_UNKNOWN_SERVICE, 112);
	test_alert(REASON_NO_SNI, 112);
	test_alert(REASON_PICKUP_TIMEOUT, 80);
	test_alert(REASON_DIAL_REFUSED, 80);
	test_alert(REASON_TOO_LARGE, 50);
	test_alert(REASON_FORBIDDEN, 49);
	test_alert(REASON_REVOKED, 49);
	test_http(REASON_PROTOCOL, 400, "http_request_error", "not a CONNECT");
	test_http(REASON_FORBIDDEN, 403, "http_request_denied", "not yours");
	test_http(REASON_UNKNOWN_SERVICE, 404, "destination_not_found", "no service kbs.nobody");
	test_http(REASON_HANDSHAKE_TIMEOUT, 408, "http_request_error", "too slow");
	test_http(REASON_TOO_LARGE, 431, "http_request_error", "too much");
	test_http(REASON_DIAL_REFUSED, 502, "connection_refused", "tcp:10.0.0.7:8080: refused");
	test_http(REASON_AGENT_REFUSED, 503, "destination_unavailable", "the agent took it not");
	test_http(REASON_LIMIT, 503, "connection_limit_reached", "too many");
	test_http(REASON_PICKUP_TIMEOUT, 504, "destination_unavailable", "no tunnel");
	test_http(REASON_DIAL_TIMEOUT, 504, "connection_timeout", longest);
	test_proxy_status();
	test_static();
	test_write();
	test_flood();
	test_silence();
	test_stream();
	loop_end();
	return 0;
}
