/*
 * enroll_request: one POST /enroll to a relay.
 *
 * Theory of operation: a carrier gives a TLS connection; over it
 *
 *   writing    the request, all of which is in memory
 *   reading    the answer, up to its Content-Length or its end, in a buffer of fixed size
 *
 * Both at a time: a relay that refuses answers before it has read all. One timer for both, the
 * handshake's time-out anew. Freed by the reaper after done or cancel; what held the code is wiped.
 */
#include "tunnel/enroll_request.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/address.h"
#include "relay/conduit.h"
#include "relay/enrolment.h"
#include "relay/httphead.h"
#include "relay/timer.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/carrier.h"

struct enroll_request {
	const struct carrier_shared *shared;
	struct carrier *carrier;
	struct conduit *conduit;
	struct timer timer;
	struct reapable reapable;
	enroll_request_done *done;
	void *user;
	char *say;
	size_t say_len, say_at;
	size_t len;
	char heard[ENROLL_ANSWER_MAX + 1];
};

static void on_free(struct reapable *r)
{
	struct enroll_request *e =
		(struct enroll_request *)((char *)r - offsetof(struct enroll_request, reapable));

	OPENSSL_cleanse(e->say, e->say_len);
	free(e->say);
	free(e);
}

static void tell(struct enroll_request *e, const struct enroll_answer *answer)
{
	timer_cancel(e->shared->worker, &e->timer);
	conduit_close(e->conduit, answer->status ? REASON_EOF : answer->why);
	e->conduit = NULL;
	e->done(e->user, answer);
	worker_reap(e->shared->worker, &e->reapable);
}

static void fail(struct enroll_request *e, enum reason why, const char *detail)
{
	tell(e, &(struct enroll_answer){ .why = why, .detail = detail });
}

/* ---- the answer ---- */

/* SIZE_MAX: it says none, so the end of the connection is its end. */
static size_t body_length(const struct httphead *head)
{
	struct httphead_slice value = httphead_get(head, "content-length");
	size_t n = 0;

	if (!value.at || !value.len)
		return SIZE_MAX;
	for (size_t i = 0; i < value.len; i++) {
		if (value.at[i] < '0' || value.at[i] > '9' || n > ENROLL_ANSWER_MAX)
			return SIZE_MAX;
		n = n * 10 + (size_t)(value.at[i] - '0');
	}
	return n;
}

/* True: it has been told. */
static bool judge(struct enroll_request *e, bool ended)
{
	struct enroll_answer answer = { 0 };
	struct httphead head;
	size_t len;

	switch (httphead_parse_answer(e->heard, e->len, &head)) {
	case HTTPHEAD_OK:
		break;
	case HTTPHEAD_MORE:
		if (!ended)
			return false;
		fail(e, REASON_PROTOCOL, "it closed the connection without an answer");
		return true;
	default:
		fail(e, REASON_PROTOCOL, "it does not answer as a relay does");
		return true;
	}
	len = body_length(&head);
	if (e->len - head.len < len && !ended)
		return false;
	if (len != SIZE_MAX && e->len - head.len < len) {
		fail(e, REASON_PROTOCOL, "its answer was cut short");
		return true;
	}
	e->heard[e->len] = '\0';
	answer.status = head.status;
	answer.body = e->heard + head.len;
	answer.len = len == SIZE_MAX ? e->len - head.len : len;
	tell(e, &answer);
	return true;
}

static void fail_broken(struct enroll_request *e)
{
	const char *alert = tls_conduit_refusal(e->conduit);
	char text[256];

	snprintf(text, sizeof(text), "it refused the certificate that is to be renewed: %s", alert);
	fail(e, *alert ? REASON_FORBIDDEN : REASON_TARGET_RESET,
	     *alert ? text : "the connection broke before there was an answer");
}

/* True: it is over. */
static bool hear(struct enroll_request *e)
{
	ssize_t n = conduit_read(e->conduit, e->heard + e->len, ENROLL_ANSWER_MAX - e->len);

	if (n == -EAGAIN)
		return false;
	if (n < 0) {
		fail_broken(e);
		return true;
	}
	e->len += (size_t)n;
	if (judge(e, n == 0))
		return true;
	if (e->len == ENROLL_ANSWER_MAX) {
		fail(e, REASON_TOO_LARGE, "its answer is too long for one");
		return true;
	}
	return false;
}

/* What cannot be written any more is no failure yet: the answer may lie there. */
static void speak(struct enroll_request *e)
{
	while (e->say_at < e->say_len) {
		ssize_t n = conduit_write(e->conduit, e->say + e->say_at, e->say_len - e->say_at);

		if (n == -EAGAIN || n == 0)
			return;
		e->say_at = n > 0 ? e->say_at + (size_t)n : e->say_len;
	}
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct enroll_request *e = c->user;

	speak(e);
	if (events & READY_READ && hear(e))
		return;
	conduit_want(c, READY_READ | (e->say_at < e->say_len ? READY_WRITE : 0));
}

static void on_timeout(struct timer *t)
{
	fail((struct enroll_request *)((char *)t - offsetof(struct enroll_request, timer)),
	     REASON_HANDSHAKE_TIMEOUT, "it did not answer in time");
}

/* ---- the way there ---- */

static void on_connected(void *user)
{
}

static void on_carrier(void *user, struct conduit *c, enum reason why, bool reached,
		       const char *detail)
{
	struct enroll_request *e = user;

	e->carrier = NULL;
	if (!c) {
		fail(e, why,
		     why == REASON_NO_DOOR
			     ? "TLS works, but what answers is no relay (it did not choose ALPN "
			       "\"" CARRIER_ALPN_WEBSOCKET "\"); check address and port"
			     : detail);
		return;
	}
	e->conduit = c;
	c->ready = on_ready;
	c->user = e;
	timer_set(e->shared->worker, &e->timer, e->shared->handshake_ms, on_timeout);
	conduit_want(c, READY_READ | READY_WRITE);
}

static bool compose(struct enroll_request *e, const char *name, const char *code, const char *csr)
{
	bool v6 = strchr(name, ':');
	int n = asprintf(&e->say,
			 "POST " ENROLMENT_PATH " HTTP/1.1\r\n"
			 "Host: %s%s%s\r\n"
			 "%s%s%s"
			 "Content-Type: " ENROLMENT_TYPE "\r\n"
			 "Content-Length: %zu\r\n"
			 "Connection: close\r\n\r\n%s",
			 v6 ? "[" : "", name, v6 ? "]" : "", code ? "Authorization: Bearer " : "",
			 code ? code : "", code ? "\r\n" : "", strlen(csr), csr);

	e->say_len = n > 0 ? (size_t)n : 0;
	return n > 0;
}

struct enroll_request *enroll_request_start(const struct carrier_shared *shared,
					    const struct address *address, const char *name,
					    const char *code, const char *csr,
					    enroll_request_done *done, void *user)
{
	static const struct carrier_events events = { on_connected, on_carrier };
	struct enroll_request *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->shared = shared;
	e->done = done;
	e->user = user;
	e->reapable.free = on_free;
	if (compose(e, name, code, csr))
		e->carrier = carrier_open(shared, CARRIER_DIRECT, address, name, &events, e);
	if (e->carrier)
		return e;
	on_free(&e->reapable);
	return NULL;
}

void enroll_request_cancel(struct enroll_request *e)
{
	if (!e)
		return;
	carrier_cancel(e->carrier);
	timer_cancel(e->shared->worker, &e->timer);
	conduit_close(e->conduit, REASON_SHUTDOWN);
	worker_reap(e->shared->worker, &e->reapable);
}
