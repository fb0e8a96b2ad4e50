/*
 * fuzz_session: bytes of a hostile peer into a session of either role.
 *
 * Input: a byte of options, a byte for the carrier, then what the carrier delivers. Every stream's
 * owner reads, writes and closes by the options, so that the session meets users of all manners.
 * All memory that the process holds is counted: whatever the peer says, it is no more than the
 * limits allow, and nothing of it is left at the end.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "relay/worker.c" /* to turn the loop by hand */
#include "tests/fuzz/carrier.h"
#include "tunnel/session.h"

enum {
	OPTION_CLIENT = 1 << 0,  /* the role under test */
	OPTION_MAGIC = 1 << 1,  /* server: a valid preface comes first */
	OPTION_PIECES = 1 << 2, /* the carrier delivers and takes pieces, as its byte says */
	OPTION_STALL = 1 << 3,  /* owners read nothing */
	OPTION_CLOSE = 1 << 4,  /* owners close after some events */
	OPTION_CLEAN = 1 << 5,  /* ... in order */
	OPTION_REFUSE = 1 << 6, /* accept refuses every other stream; at the connect door */
	OPTION_RETIRE = 1 << 7, /* the session is retired half-way */
};

#define TURNS 400
#define OWNED 64

/*
 * What a session may hold, without the peer's doing: its window, in blocks that may be half empty,
 * the streams, one write. And the answers that a deaf peer leaves waiting: some 160 bytes for a
 * frame of 9 at least, and so many of them (session_send.c) that it is this much in the end.
 */
#define MEMORY_FIXED ((size_t)512 * 1024)
#define MEMORY_ANSWERS ((size_t)3 * 1024 * 1024)
#define MEMORY_FOR_A_BYTE 20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct worker *w;
static unsigned option, n_events, n_accepted;
static bool ended;
static struct conduit *owned[OWNED]; /* so that none is leaked */

static void drop(unsigned i, enum reason why)
{
	struct conduit *c = owned[i];

	owned[i] = NULL;
	conduit_close(c, why);
}

static void on_ready(struct conduit *c, unsigned events)
{
	unsigned i = (unsigned)((struct conduit **)c->user - owned), want = 0;
	const uint8_t *bytes;
	ssize_t n = -EAGAIN;
	size_t room = 0;
	void *to;

	n_events++;
	if (option & OPTION_CLOSE && n_events % 5 == 4) {
		/* not always the one that speaks */
		unsigned j = n_events % 2 ? i : n_events % OWNED;

		if (owned[j])
			drop(j, option & OPTION_CLEAN ? REASON_EOF : REASON_RESET);
		if (!owned[i])
			return;
	}
	if (events & READY_READ) {
		n = conduit_peek(c, &bytes);
		if (n > 0) {
			size_t half = (size_t)n - (size_t)n / 2;
			volatile uint8_t sum = 0;

			for (ssize_t k = 0; k < n; k++)
				sum = (uint8_t)(sum + bytes[k]);
			conduit_consume(c, half);
		}
	}
	if (events & READY_WRITE) {
		to = c->ops->room(c, &room);
		if (to && conduit_write(c, "some bytes", room < 10 ? room : 10) > 0 &&
		    n_events % 7 == 0)
			conduit_shutdown(c);
	}
	if (!(option & OPTION_STALL) && (n > 0 || n == -EAGAIN))
		want |= READY_READ;
	if (n_events % 3)
		want |= READY_WRITE;
	conduit_want(c, want);
}

static bool own(struct conduit *c)
{
	for (unsigned i = 0; i < OWNED; i++) {
		if (owned[i])
			continue;
		owned[i] = c;
		c->user = &owned[i];
		c->ready = on_ready;
		conduit_want(c,
			     READY_WRITE | READY_OPEN | (option & OPTION_STALL ? 0 : READY_READ));
		return true;
	}
	return false;
}

static enum reason on_accept(struct session *s, struct conduit *c, const char *service,
			     const struct client_words *words)
{
	if (strlen(service) > SESSION_AUTHORITY_MAX || strlen(words->id) > 64 ||
	    strlen(words->address) >= PEER_TEXT_MAX || strlen(words->asked) > SESSION_AUTHORITY_MAX)
		abort();
	if (option & OPTION_REFUSE && n_accepted++ % 2) {
		if (n_accepted % 4)
			return REASON_UNKNOWN_SERVICE;
		c->ops->answer(c, REASON_UNKNOWN_SERVICE);
		conduit_close(c, option & OPTION_CLEAN ? REASON_EOF : REASON_UNKNOWN_SERVICE);
		return REASON_NONE;
	}
	if (!own(c))
		return REASON_LIMIT;
	session_stream_answer(c);
	return REASON_NONE;
}

static void on_request(struct session *s, int32_t id, const char *path, const struct fields *f)
{
	if (f->n % 2)
		session_reply(s, id, 200, f);
	else if (f->n == 4)
		session_close(s, REASON_SHUTDOWN, path);
}

static void on_reply(struct session *s, int32_t id, int status, const struct fields *f)
{
	if (status)
		session_request(s, "/again", f);
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	if (ended || !detail)
		abort();
	ended = true;
}

/* Bytes that malloc has given away; only a sanitizer's can say, others count what they cache. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated(void)
{
	if (!__sanitizer_get_current_allocated_bytes)
		return 0;
	return __sanitizer_get_current_allocated_bytes();
}

static size_t memory_max(const struct carrier *k)
{
	size_t answers = k->delivered * MEMORY_FOR_A_BYTE;

	return MEMORY_FIXED + (answers < MEMORY_ANSWERS ? answers : MEMORY_ANSWERS);
}

static const struct session_limits limits = { .streams = 50,
					      .streams_total = 100,
					      .stream_window = 4096,
					      .session_window = 65536,
					      .ping_ms = 0,
					      .dead_ms = 0 };
static const struct session_events events = {
	.accept = on_accept, .request = on_request, .reply = on_reply, .end = on_end
};

static void open_some(struct session *s)
{
	static struct fields f;
	enum reason why;

	fields_init(&f);
	if (fields_add(&f, "attest-x", "y", true) < 0)
		abort();
	session_request(s, "/attest-relay/1/hello", &f);
	for (int i = 0; i < 3; i++) {
		struct conduit *c = session_open(s, "kbs.acme", NULL, &why);

		if (c && !own(c))
			conduit_close(c, REASON_LIMIT);
	}
}

static struct session *start(struct carrier *k)
{
	enum session_role role = option & OPTION_CLIENT ? SESSION_CLIENT : SESSION_SERVER;
	struct session_limits l = limits;
	struct session *s;

	l.peer = role == SESSION_CLIENT && !(option & OPTION_REFUSE) ? SESSION_PEER_AGENT
		 : role == SESSION_SERVER && option & OPTION_REFUSE  ? SESSION_PEER_ANY
								     : SESSION_PEER_RELAY;
	s = session_new(&k->base, role, &l, &events, NULL);
	if (!s)
		abort();
	if (role == SESSION_CLIENT)
		open_some(s);
	return s;
}

static void run(uint8_t how, const uint8_t *data, size_t size)
{
	struct carrier k;
	size_t before = allocated();
	struct session *s;

	carrier_init(&k, w, how, option & OPTION_PIECES, data, size);
	ended = false;
	n_events = n_accepted = 0;
	s = start(&k);
	for (int i = 0; i < TURNS && !ended; i++) {
		if (session_memory(s) > limits.session_window ||
		    allocated() > before + memory_max(&k))
			abort();
		if (i == 3 && option & OPTION_RETIRE)
			session_retire(s);
		carrier_turn(&k);
	}
	carrier_finish(&k); /* what is left takes too long */
	for (int i = 0; i < TURNS && !ended; i++)
		carrier_turn(&k);
	if (!ended)
		abort();
	for (unsigned i = 0; i < OWNED; i++)
		if (owned[i])
			drop(i, REASON_SHUTDOWN);
	run_deferred(w);
	reap(w);
	conduit_deinit(&k.base);
}

/* The first run's memory stays: the worker, tables of libraries. */
static void warm_up(void)
{
	w = worker_new(0);
	if (!w)
		abort();
	run(0, NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char magic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	size_t n = 0, before;
	uint8_t *bytes;

	if (size < 2 || size > 65536)
		return 0;
	if (!w)
		warm_up();
	before = allocated();
	option = data[0];
	bytes = malloc(size + sizeof(magic));
	if (!bytes)
		abort();
	if (!(option & OPTION_CLIENT) && option & OPTION_MAGIC) {
		n = sizeof(magic) - 1;
		memcpy(bytes, magic, n);
	}
	memcpy(bytes + n, data + 2, size - 2);
	run(data[1], bytes, n + size - 2);
	free(bytes);
	if (allocated() != before)
		abort();
	return 0;
}
