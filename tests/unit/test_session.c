/* session: two of them back to back over a socketpair, in one worker, and hostile bytes into one.
 */
#include "tunnel/session.h"

#include <arpa/inet.h>
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "relay/fd.h"
#include "relay/quota.h"
#include "relay/splice.h"
#include "relay/worker.c" /* to turn the loop by hand */
#include "tests/unit/check.h"
#include "tunnel/session_private.h"
#include "tunnel/stream.h"

#define WAIT_S 60
#define MIB ((size_t)1024 * 1024)

static struct worker *w;

static void turn(void)
{
	worker_turn(w, true);
}

/* So that a condition that never comes true is a failure and not a hang. */
static void tick(struct timer *t)
{
	timer_set(w, t, 50, tick);
}

#define TEST(name, ...)                                                   \
	do {                                                              \
		if (getenv("VERBOSE"))                                    \
			fprintf(stderr, "%s(%s)\n", #name, #__VA_ARGS__); \
		name(__VA_ARGS__);                                        \
	} while (0)

#define UNTIL(cond)                                                                               \
	do {                                                                                      \
		struct timer timer_ = { 0 };                                                      \
		time_t end_ = time(NULL) + WAIT_S;                                                \
		tick(&timer_);                                                                    \
		while (!(cond)) {                                                                 \
			turn();                                                                   \
			if (time(NULL) > end_) {                                                  \
				fprintf(stderr, "%s:%d: never: %s\n", __FILE__, __LINE__, #cond); \
				abort();                                                          \
			}                                                                         \
		}                                                                                 \
		timer_cancel(w, &timer_);                                                         \
	} while (0)

/* The owner of one end of a stream: sends a pattern, checks what it gets. */
struct owner {
	struct conduit *c;
	size_t to_send, sent, got;
	unsigned tx, rx; /* pattern seeds */
	bool eof_after, paused, greedy;
	bool eof_sent, eof_seen, opened, aborted;
	ssize_t error;
	size_t read_max;   /* bytes taken per event, 0: all */
	unsigned close_on; /* events in which to close */
	enum reason close_why;
	struct owner *victim; /* closed in the same events instead */
	enum reason why;      /* session_stream_reason at death */
	bool later;	      /* reads at the end of the turn */
	struct deferred read_later;
};

static uint8_t pattern(unsigned seed, size_t i)
{
	return (uint8_t)(i * 31 + (i >> 8) * 7 + seed);
}

static void owner_want(struct owner *o)
{
	unsigned want = READY_OPEN;

	if (!o->c)
		return;
	if (!o->paused && !o->eof_seen && !o->error)
		want |= READY_READ;
	if (!o->error && (o->sent < o->to_send || (o->eof_after && !o->eof_sent)))
		want |= READY_WRITE;
	if (o->opened)
		want &= (unsigned)~READY_OPEN;
	if (!want && !o->aborted)
		want = READY_ABORT;
	conduit_want(o->c, o->error ? 0 : want);
}

static void owner_close(struct owner *o, enum reason why)
{
	struct conduit *c = o->c;

	o->c = NULL;
	conduit_close(c, why);
}

static void owner_read(struct owner *o)
{
	size_t max = o->read_max ? o->read_max : SIZE_MAX;
	uint8_t buf[3000];

	while (max > 0) {
		const uint8_t *data = buf;
		bool peek = o->tx % 2; /* half of them read, the others peek */
		ssize_t n = peek ? conduit_peek(o->c, &data)
				 : conduit_read(o->c, buf, max < sizeof(buf) ? max : sizeof(buf));

		if (n == -EAGAIN)
			return;
		if (n == 0)
			o->eof_seen = true;
		if (n < 0) {
			o->error = n;
			o->why = session_stream_reason(o->c);
		}
		if (n <= 0)
			return;
		if ((size_t)n > max)
			n = (ssize_t)max;
		for (ssize_t i = 0; i < n; i++)
			CHECK(data[i] == pattern(o->rx, o->got + (size_t)i));
		if (peek)
			conduit_consume(o->c, (size_t)n);
		o->got += (size_t)n;
		max -= (size_t)n;
	}
}

static void owner_write(struct owner *o)
{
	size_t room = 0;
	uint8_t *to = o->c->ops->room(o->c, &room);

	while (to && o->sent < o->to_send) {
		size_t n = o->to_send - o->sent < room ? o->to_send - o->sent : room;
		ssize_t r;

		for (size_t i = 0; i < n; i++)
			to[i] = pattern(o->tx, o->sent + i);
		r = conduit_write(o->c, to, n);
		CHECK(r > 0);
		o->sent += (size_t)r;
		to = o->c->ops->room(o->c, &room);
	}
	if (o->sent == o->to_send && o->eof_after && !o->eof_sent) {
		CHECK_INT(conduit_shutdown(o->c), 0);
		o->eof_sent = true;
	}
}

static void on_read_later(struct deferred *d)
{
	struct owner *o = (struct owner *)((char *)d - offsetof(struct owner, read_later));

	owner_read(o);
	owner_want(o);
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct owner *o = c->user;

	CHECK(o->c == c);
	if (events & READY_READ && o->later) {
		o->read_later.run = on_read_later;
		worker_defer(c->worker, &o->read_later);
		events &= ~(unsigned)READY_READ;
	}
	if (events & o->close_on) {
		struct owner *v = o->victim ? o->victim : o;

		if (v->c)
			owner_close(v, o->close_why);
		if (v == o)
			return;
	}
	if (events & READY_OPEN)
		o->opened = true;
	if (events & READY_ABORT)
		o->aborted = true;
	if (events & READY_READ)
		owner_read(o);
	if (events & READY_WRITE && !o->error)
		owner_write(o);
	owner_want(o);
}

static void own(struct owner *o, struct conduit *c)
{
	o->c = c;
	c->user = o;
	c->ready = on_ready;
	owner_want(o);
}

/* Two sessions. */
struct side {
	struct session *s;
	unsigned ended, goaways, exhausted, replies, requests, settled;
	enum reason why;
	char detail[200];
	int status;
	char service[SESSION_AUTHORITY_MAX + 1], id[70], client[80], asked[300], path[130];
	struct fields fields;
	int32_t request_id;
	bool hold_reply, big_reply, close_on_reply;
};

#define OWNERS 1100
static struct side relay, agent;
static struct owner front[OWNERS], back[OWNERS]; /* relay's ends, agent's ends */
static unsigned n_back;
static enum reason accept_why; /* what accept answers */
static bool accept_closes;     /* it owns the stream, and closes it at once */
static enum reason accept_no;  /* the answer in words, then closed as EOF or as this */
static bool accept_no_in_order;
static bool accept_answers = true;
static struct owner back_template;
static int carrier_fd[2];
static struct conduit *carrier[2];

static enum reason on_accept(struct session *s, struct conduit *c, const char *service,
			     const struct client_words *words)
{
	struct owner *o;

	CHECK(conduit_is_stream(c));
	snprintf(agent.service, sizeof(agent.service), "%s", service);
	snprintf(agent.id, sizeof(agent.id), "%s", words->id);
	snprintf(agent.client, sizeof(agent.client), "%s", words->address);
	snprintf(agent.asked, sizeof(agent.asked), "%s", words->asked);
	if (accept_why != REASON_NONE)
		return accept_why;
	if (accept_no != REASON_NONE) {
		c->ops->answer(c, accept_no);
		c->ops->answer(c, REASON_NONE); /* the second changes nothing */
		conduit_close(c, accept_no_in_order ? REASON_EOF : accept_no);
		return REASON_NONE;
	}
	if (accept_closes) {
		conduit_close(c, REASON_DIAL_REFUSED);
		return REASON_NONE;
	}
	o = &back[n_back];
	*o = back_template;
	o->tx = n_back + 100;
	o->rx = n_back;
	n_back++;
	if (accept_answers)
		session_stream_answer(c);
	own(o, c);
	return REASON_NONE;
}

static void on_request(struct session *s, int32_t id, const char *path, const struct fields *f)
{
	static struct fields answer;

	agent.requests++;
	agent.request_id = id;
	snprintf(agent.path, sizeof(agent.path), "%s", path);
	memcpy(&agent.fields, f, sizeof(*f)); /* its pointers still point into f: not used */
	CHECK_STR(fields_get(f, "attest-x"), "y");
	if (agent.hold_reply)
		return;
	fields_init(&answer);
	CHECK_INT(fields_add(&answer, "attest-token", "secret", true), 0);
	CHECK_INT(fields_add(&answer, "attest-instance", "one", false), 0);
	for (int i = 0; agent.big_reply && i < 4; i++) {
		char value[4000];

		memset(value, 'a', sizeof(value));
		value[3999] = '\0';
		CHECK_INT(fields_add(&answer, "attest-big", value, false), 0);
	}
	session_reply(s, id, 200, &answer);
}

static void on_reply(struct session *s, int32_t id, int status, const struct fields *f)
{
	relay.replies++;
	relay.status = status;
	relay.request_id = id;
	if (status == 200 && !agent.big_reply)
		CHECK_STR(fields_get(f, "attest-instance"), "one");
	if (relay.close_on_reply) {
		static struct fields why;

		fields_init(&why);
		fields_add(&why, "attest-x", "y", false);
		CHECK(session_request(s, "/refused", &why) > 0);
		session_close(s, REASON_BAD_CREDENTIAL, "the token is not known");
	}
}

static void on_goaway(struct session *s)
{
	struct side *x = session_user(s);

	x->goaways++;
}

static void on_settled(struct session *s)
{
	relay.settled++;
}

static void on_exhausted(struct session *s)
{
	relay.exhausted++;
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct side *x = session_user(s);

	CHECK(detail);
	x->ended++;
	x->why = why;
	snprintf(x->detail, sizeof(x->detail), "%s", detail);
	x->s = NULL;
}

static const struct session_events relay_events = {
	.reply = on_reply,
	.settled = on_settled,
	.goaway = on_goaway,
	.exhausted = on_exhausted,
	.end = on_end,
};
static const struct session_events agent_events = {
	.accept = on_accept, .request = on_request, .goaway = on_goaway, .end = on_end
};
static const struct session_limits defaults = { .streams = 2000,
						.streams_total = 1u << 30,
						.stream_window = 262144,
						.session_window = 16 * 1024 * 1024,
						.ping_ms = 5000,
						.dead_ms = 10000 };

/* What each side's peer is. */
static enum session_peer client_sees = SESSION_PEER_AGENT, server_sees = SESSION_PEER_RELAY;

static void start_with(const struct session_limits *r, const struct session_limits *a)
{
	struct session_limits limits;

	memset(&relay, 0, sizeof(relay));
	memset(&agent, 0, sizeof(agent));
	memset(front, 0, sizeof(front));
	memset(back, 0, sizeof(back));
	memset(&back_template, 0, sizeof(back_template));
	n_back = 0;
	accept_why = accept_no = REASON_NONE;
	accept_closes = accept_no_in_order = false;
	accept_answers = true;
	w = worker_new(0);
	CHECK(w);
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, carrier_fd),
		  0);
	for (int i = 0; i < 2; i++) {
		carrier[i] = fd_conduit_new(w, carrier_fd[i]);
		CHECK(carrier[i]);
	}
	if (r) {
		limits = *r;
		limits.peer = client_sees;
		relay.s = session_new(carrier[0], SESSION_CLIENT, &limits, &relay_events, &relay);
	}
	if (a) {
		limits = *a;
		limits.peer = server_sees;
		agent.s = session_new(carrier[1], SESSION_SERVER, &limits, &agent_events, &agent);
	}
	CHECK(!r || relay.s);
	CHECK(!a || agent.s);
}

static void start(void)
{
	start_with(&defaults, &defaults);
}

static void stop(void)
{
	if (relay.s)
		session_close(relay.s, REASON_SHUTDOWN, "end of test");
	if (agent.s)
		session_close(agent.s, REASON_SHUTDOWN, "end of test");
	UNTIL(!relay.s && !agent.s);
	CHECK(relay.ended <= 1 && agent.ended <= 1);
	for (unsigned i = 0; i < OWNERS; i++) {
		if (front[i].c)
			owner_close(&front[i], REASON_SHUTDOWN);
		if (back[i].c)
			owner_close(&back[i], REASON_SHUTDOWN);
	}
	reap(w);
	w = worker_free(w);
}

static struct owner *open_stream(unsigned i)
{
	const struct client_words words = { .id = "17",
					    .address = "tcp:192.0.2.9:40112",
					    .asked = "kbs.acme.example" };
	enum reason why = REASON_NONE;
	struct conduit *c = session_open(relay.s, "kbs.acme", &words, &why);

	CHECK(c);
	front[i].tx = i;
	front[i].rx = i + 100;
	own(&front[i], c);
	return &front[i];
}

static void test_fields(void)
{
	static struct fields f;
	char big[FIELDS_BYTES_MAX];

	fields_init(&f);
	CHECK_INT(fields_add(&f, "A-Name", "value", false), 0);
	CHECK_STR(fields_get(&f, "a-name"), "value");
	CHECK_STR(f.at[0].name, "a-name");
	CHECK(!fields_get(&f, "b"));
	CHECK_INT(fields_add(&f, "a", "b\nc", false), -EINVAL);
	CHECK_INT(fields_add(&f, "", "b", false), -EINVAL);
	CHECK_INT(fields_add(&f, ":path", "b", false), -EINVAL);
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	CHECK_INT(fields_add(&f, "big", big, false), -E2BIG);
	for (int i = 1; i < FIELDS_MAX; i++)
		CHECK_INT(fields_add(&f, "n", "v", false), 0);
	CHECK_INT(fields_add(&f, "n", "v", false), -E2BIG);
	CHECK_INT(f.n, FIELDS_MAX);
}

static int32_t request(const char *path)
{
	static struct fields f;

	fields_init(&f);
	CHECK_INT(fields_add(&f, "attest-x", "y", false), 0);
	return session_request(relay.s, path, &f);
}

/* Once settled, a client knows how many streams the peer takes; before, it can only guess. */
static void test_settled(void)
{
	struct session_limits few = defaults;
	enum reason why = REASON_NONE;

	few.streams = 3;
	start_with(&defaults, &few);
	CHECK_INT(relay.settled, 0);
	UNTIL(relay.settled);
	for (unsigned i = 0; i < 3; i++) {
		struct conduit *c = session_open(relay.s, "kbs.acme", NULL, &why);

		CHECK(c);
		own(&front[i], c);
	}
	CHECK(!session_open(relay.s, "kbs.acme", NULL, &why));
	CHECK_INT(why, REASON_LIMIT);
	UNTIL(n_back == 3);
	CHECK_INT(relay.settled, 1);
	stop();
}

static void test_control(void)
{
	int32_t id;

	start();
	id = request("/attest-relay/1/hello");
	CHECK(id > 0);
	UNTIL(relay.replies == 1);
	CHECK_INT(relay.status, 200);
	CHECK_INT(relay.request_id, id);
	CHECK_STR(agent.path, "/attest-relay/1/hello");

	agent.hold_reply = true; /* answered later; no more than 8 under way */
	for (int i = 0; i < 8; i++)
		CHECK((id = request("/move")) > 0);
	CHECK_INT(request("/move"), -1);
	UNTIL(agent.requests == 9);
	session_reply(agent.s, agent.request_id, 204, NULL);
	session_reply(agent.s, agent.request_id, 204, NULL); /* the second changes nothing */
	session_reply(agent.s, 9999, 204, NULL);
	UNTIL(relay.replies == 2);
	CHECK_INT(relay.status, 204);
	CHECK_INT(relay.request_id, id);
	CHECK(request("/move") > 0);
	stop();
	CHECK_INT(relay.replies, 2); /* the session's end is no answer */
}

static void test_oversized_reply(void)
{
	start();
	agent.big_reply = true; /* 4 * 4000 bytes and the rest: fits */
	request("/hello");
	UNTIL(relay.replies == 1);
	CHECK_INT(relay.status, 200);
	stop();
}

/* The refusal reaches the agent before the relay is gone. */
static void test_refusal(void)
{
	start();
	relay.close_on_reply = true;
	open_stream(0);
	request("/hello");
	UNTIL(agent.ended && relay.ended);
	CHECK_INT(agent.requests, 2);
	CHECK_STR(agent.path, "/refused");
	CHECK_INT(relay.why, REASON_BAD_CREDENTIAL);
	CHECK_STR(relay.detail, "the token is not known");
	CHECK_INT(agent.why, REASON_EOF);
	CHECK_INT(front[0].why, REASON_TUNNEL_LOST);
	stop();
}

/* The words of a refusal arrive, whether its client has ended, still sends, or has said nothing. */
static void test_refused_in_words(enum reason why, enum reason agent_why, bool in_order)
{
	client_sees = SESSION_PEER_RELAY;
	server_sees = SESSION_PEER_CLIENT;
	start();
	accept_no = why;
	accept_no_in_order = in_order;
	for (unsigned i = 0; i < 3; i++) {
		front[i].to_send = i ? 100000 : 0;
		front[i].eof_after = i != 1;
		open_stream(i);
	}
	for (unsigned i = 0; i < 3; i++) {
		UNTIL(front[i].error);
		CHECK_INT(front[i].why, why);
		CHECK(front[i].aborted && !front[i].opened && !front[i].eof_seen);
	}
	UNTIL(session_streams(relay.s) == 0 && session_streams(agent.s) == 0);
	for (unsigned i = 0; i < 3; i++)
		owner_close(&front[i], REASON_RESET);
	CHECK_INT(session_memory(agent.s), 0);
	accept_no = REASON_NONE;
	n_back = 3;
	front[3].to_send = back_template.to_send = 100000; /* the session is as good as before */
	front[3].eof_after = back_template.eof_after = true;
	open_stream(3);
	UNTIL(front[3].eof_seen);
	CHECK_INT(front[3].got, 100000);
	stop();

	client_sees = SESSION_PEER_AGENT; /* such a one has no words */
	start();
	accept_no = why;
	open_stream(0);
	UNTIL(front[0].error);
	CHECK_INT(front[0].why, agent_why);
	stop();
	server_sees = SESSION_PEER_RELAY;
}

/* A session that serves a client ends: its streams say why if that was decided on this side. */
static void test_end_of_a_client(enum reason why, enum reason expected)
{
	client_sees = SESSION_PEER_RELAY;
	server_sees = SESSION_PEER_CLIENT;
	start();
	front[0].to_send = 1000;
	open_stream(0);
	UNTIL(n_back == 1 && back[0].got == 1000);
	session_close(agent.s, why, "the end");
	UNTIL(back[0].error);
	CHECK_INT(back[0].why, expected);
	stop();
	client_sees = SESSION_PEER_AGENT;
	server_sees = SESSION_PEER_RELAY;
}

static bool both_done(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!front[i].eof_seen || !back[i].eof_seen || !front[i].eof_sent ||
		    !back[i].eof_sent)
			return false;
	return true;
}

static void check_sums(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		CHECK_INT(back[i].got, front[i].to_send);
		CHECK_INT(front[i].got, back[i].to_send);
		CHECK_INT(front[i].error, 0);
		CHECK_INT(back[i].error, 0);
		owner_close(&front[i], REASON_EOF);
		owner_close(&back[i], REASON_EOF);
	}
	UNTIL(session_streams(relay.s) == 0 && session_streams(agent.s) == 0);
	CHECK_INT(session_memory(relay.s), 0);
	CHECK_INT(session_memory(agent.s), 0);
}

static void test_data(unsigned n, size_t up, size_t down)
{
	start();
	back_template = (struct owner){ .to_send = down, .eof_after = true };
	for (unsigned i = 0; i < n; i++) {
		front[i].to_send = up;
		front[i].eof_after = true;
		front[i].read_max = i % 3 == 2 ? 1000 : 0;
		open_stream(i);
		if (i % 90 == 89) /* the agent's limit is known after its SETTINGS */
			UNTIL(n_back == i + 1);
	}
	UNTIL(n_back == n);
	CHECK_STR(agent.service, "kbs.acme");
	CHECK_STR(agent.id, "17");
	CHECK_STR(agent.client, "tcp:192.0.2.9:40112");
	CHECK_STR(agent.asked, "kbs.acme.example");
	UNTIL(both_done(n));
	CHECK_INT(session_opened(relay.s), n);
	for (unsigned i = 0; i < n; i++)
		CHECK(front[i].opened);
	check_sums(n);
	stop();
}

/* One side says EOF first and is answered with 10 MB after that. */
static void test_half_close(bool relay_first)
{
	struct owner *late = relay_first ? &back[0] : &front[0];
	struct owner *early = relay_first ? &front[0] : &back[0];

	start();
	if (relay_first) {
		front[0].to_send = 5;
		front[0].eof_after = true;
	} else {
		back_template = (struct owner){ .to_send = 5, .eof_after = true };
	}
	open_stream(0);
	UNTIL(late->eof_seen && early->eof_sent);
	CHECK_INT(late->got, 5);
	CHECK(!early->eof_seen);
	late->to_send = 10 * MIB;
	late->eof_after = true;
	owner_want(late);
	UNTIL(early->eof_seen);
	CHECK_INT(early->got, 10 * MIB);
	check_sums(1);
	stop();
}

static void test_abort(bool by_relay)
{
	struct owner *from = by_relay ? &front[0] : &back[0];
	struct owner *to = by_relay ? &back[0] : &front[0];

	start();
	back_template.to_send = front[0].to_send = 100000;
	open_stream(0);
	UNTIL(front[0].got == 100000 && back[0].got == 100000);
	owner_close(from, by_relay ? REASON_RESET : REASON_DIAL_REFUSED);
	UNTIL(to->error);
	CHECK_INT(to->error, -ECONNRESET);
	CHECK(!to->eof_seen && to->aborted);
	CHECK_INT(to->why, by_relay ? REASON_RESET : REASON_DIAL_FAILED);
	CHECK_INT(conduit_write(to->c, "x", 1), -ECONNRESET);
	CHECK_INT(conduit_shutdown(to->c), -ECONNRESET);
	owner_close(to, REASON_RESET);
	UNTIL(session_streams(relay.s) == 0 && session_streams(agent.s) == 0);
	stop();
}

/* Refusals: by accept's answer, by closing in it; and a stream closed before its head was sent. */
static void test_refused(void)
{
	start();
	accept_why = REASON_LIMIT;
	open_stream(0);
	UNTIL(front[0].error);
	CHECK_INT(front[0].why, REASON_AGENT_REFUSED);
	accept_why = REASON_DIAL_TIMEOUT;
	open_stream(1);
	UNTIL(front[1].error);
	CHECK_INT(front[1].why, REASON_DIAL_FAILED);
	accept_why = REASON_NONE;
	accept_closes = true;
	open_stream(2);
	UNTIL(front[2].error);
	CHECK_INT(front[2].why, REASON_DIAL_FAILED);
	accept_closes = false;
	open_stream(3);
	owner_close(&front[3], REASON_RESET);
	open_stream(4);
	owner_close(&front[4], REASON_EOF);
	UNTIL(back[0].eof_seen); /* the one closed in order was opened and ended */
	CHECK_INT(n_back, 1);
	owner_close(&back[0], REASON_EOF);
	UNTIL(session_streams(relay.s) == 0 && session_streams(agent.s) == 0);
	/* dead before the owner asks: told all the same */
	front[0].error = 0;
	front[0].aborted = false;
	owner_want(&front[0]);
	UNTIL(front[0].error && front[0].aborted);
	stop();
}

/* Received bytes can be read after the abort, then comes the abort. */
static void test_abort_after_bytes(void)
{
	start();
	front[0].to_send = 50000;
	back_template.paused = true;
	open_stream(0);
	UNTIL(session_memory(agent.s) == 50000);
	owner_close(&front[0], REASON_RESET);
	UNTIL(back[0].aborted || session_streams(agent.s) == 0);
	back[0].paused = false;
	back[0].error = 0;
	owner_want(&back[0]);
	UNTIL(back[0].error);
	CHECK_INT(back[0].got, 50000);
	CHECK(!back[0].eof_seen);
	CHECK_INT(session_memory(agent.s), 0);
	stop();
}

static void test_stalled(void)
{
	start();
	back_template.paused = true;
	front[0].to_send = 64 * MIB;
	open_stream(0);
	UNTIL(n_back == 1);
	back_template.paused = false;
	front[1].to_send = 64 * MIB;
	front[1].eof_after = true;
	open_stream(1);
	UNTIL(back[1].eof_seen);
	CHECK_INT(back[1].got, 64 * MIB);
	CHECK_INT(session_memory(agent.s), defaults.stream_window);
	CHECK(front[0].sent <= defaults.stream_window);
	/* and on it goes when it is read again */
	front[0].to_send = 8 * MIB;
	back[0].paused = false;
	owner_want(&back[0]);
	UNTIL(back[0].got == 8 * MIB);
	CHECK_INT(session_memory(agent.s), 0);
	stop();
}

/* A window grows on a path whose round trip takes long beside the time it is filled in. */
static void test_growth(uint64_t rtt_us, bool later, uint8_t growth)
{
	struct session_limits l = defaults;

	l.ping_ms = 0; /* which would measure one */
	back_template.later = later;
	start_with(&l, &l);
	agent.s->least_rtt_us = rtt_us;
	front[0].to_send = 32 * MIB;
	front[0].eof_after = true;
	open_stream(0);
	UNTIL(back[0].eof_seen);
	CHECK_INT(back[0].got, 32 * MIB);
	CHECK_INT(((struct stream *)back[0].c)->growth, growth);
	stop();
}

/* The path has become longer: the round trip that was once is forgotten by and by. */
static void test_longer_path(void)
{
	struct session_limits l = defaults;

	l.ping_ms = 20;
	start_with(&l, &l);
	UNTIL(relay.s->least_rtt_us > 0);
	relay.s->least_rtt_us = 1;
	UNTIL(relay.s->least_rtt_us >= 5);
	CHECK(relay.s->least_rtt_us <= relay.s->rtt_us);
	stop();
}

/* Little and late overtakes much and early. */
static void test_fair(void)
{
	start();
	front[0].to_send = 64 * MIB;
	open_stream(0);
	UNTIL(n_back == 1 && back[0].got > MIB);
	for (unsigned i = 1; i <= 10; i++) {
		front[i].to_send = 10000;
		front[i].eof_after = true;
		open_stream(i);
	}
	for (unsigned i = 1; i <= 10; i++)
		UNTIL(i < n_back && back[i].eof_seen);
	CHECK(back[0].got < 8 * MIB);
	stop();
}

/* All streams stall: the session holds session_window at most; nothing is lost after. */
static void test_session_bound(void)
{
	struct session_limits l = defaults;
	unsigned n = 40;
	uint64_t quiet;
	size_t before;

	l.session_window = 1 * MIB;
	start_with(&defaults, &l);
	back_template.paused = true;
	for (unsigned i = 0; i < n; i++) {
		front[i].to_send = 100000;
		front[i].eof_after = true;
		open_stream(i);
	}
	UNTIL(session_memory(agent.s) >= l.session_window / 2);
	quiet = worker_now(w) + 100;
	UNTIL(worker_now(w) >= quiet);
	before = session_memory(agent.s);
	CHECK(before <= l.session_window);
	for (unsigned i = 0; i < n_back; i++) {
		back[i].paused = false;
		owner_want(&back[i]);
	}
	back_template.paused = false;
	for (unsigned i = 0; i < n; i++)
		UNTIL(back[i].eof_seen && back[i].got == 100000);
	stop();
}

static unsigned memory_put;

static void on_memory_put(struct quota *memory)
{
	memory_put++;
}

/* Less memory than the windows would allow: no more is held, nothing is lost, all is given back. */
static void test_memory(bool killed)
{
	struct quota_limits limits;
	struct quota memory = { 0 };
	unsigned n = 40;
	uint64_t quiet;

	quota_limits_init(&limits);
	atomic_store(&limits.memory, 1 * MIB);
	quota_init(&memory, &limits, NULL);
	memory_put = 0;
	start_with(&defaults, &defaults);
	CHECK(session_count_memory(agent.s, &memory, on_memory_put));
	back_template.paused = true;
	for (unsigned i = 0; i < n; i++) {
		front[i].to_send = 100000;
		front[i].eof_after = true;
		open_stream(i);
	}
	UNTIL(memory.memory + WORKER_SCRATCH > 1 * MIB);
	quiet = worker_now(w) + 100;
	UNTIL(worker_now(w) >= quiet);
	CHECK_INT(memory.memory, session_memory(agent.s));
	CHECK(memory.memory <= 1 * MIB && memory.refused > 0);
	back_template.paused = false;
	for (unsigned i = 0; i < n_back && !killed; i++) {
		back[i].paused = false;
		owner_want(&back[i]);
	}
	for (unsigned i = 0; i < n && !killed; i++)
		UNTIL(back[i].eof_seen && back[i].got == 100000);
	CHECK(killed || memory.memory == 0);
	stop();
	CHECK_INT(memory.memory, 0);
	CHECK_INT(memory_put, 1);
}

/* All memory is others': what is read in time goes on, and neither end takes the other for dead. */
static void test_memory_of_others(void)
{
	struct session_limits l = defaults;
	struct quota_limits limits;
	struct quota memory = { 0 };
	uint64_t quiet;

	quota_limits_init(&limits);
	atomic_store(&limits.memory, 1 * MIB);
	quota_init(&memory, &limits, NULL);
	CHECK(quota_reserve(&memory, 1 * MIB));
	l.ping_ms = 50;
	l.dead_ms = 500;
	start_with(&l, &l);
	CHECK(session_count_memory(relay.s, &memory, on_memory_put));
	back_template.to_send = 4 * MIB;
	open_stream(0);
	UNTIL(front[0].got == 4 * MIB);
	front[1].paused = true;
	open_stream(1);
	UNTIL(session_memory(relay.s) >= WORKER_SCRATCH);
	quiet = worker_now(w) + 2000;
	UNTIL(worker_now(w) >= quiet);
	CHECK(!relay.ended && !agent.ended);
	CHECK(session_memory(relay.s) < 2 * WORKER_SCRATCH);
	CHECK_INT(memory.memory, 1 * MIB + session_memory(relay.s));
	front[1].paused = false;
	owner_want(&front[1]);
	UNTIL(front[1].got == 4 * MIB);
	stop();
	CHECK_INT(memory.memory, 1 * MIB);
}

static void test_limits(void)
{
	struct session_limits l = defaults, few = defaults;
	enum reason why = REASON_NONE;

	few.streams = 4;
	start_with(&defaults, &few);
	request("/hello");
	UNTIL(relay.replies == 1); /* the agent's SETTINGS are known */
	for (unsigned i = 0; i < 4; i++)
		open_stream(i);
	CHECK(!session_open(relay.s, "kbs.acme", NULL, &why));
	CHECK_INT(why, REASON_LIMIT);
	UNTIL(n_back == 4);
	request("/move"); /* gets through all the same */
	UNTIL(relay.replies == 2);
	owner_close(&front[0], REASON_RESET);
	UNTIL(session_streams(relay.s) == 3);
	open_stream(0);
	UNTIL(n_back == 5);
	stop();

	l.streams = 3;
	l.streams_total = 5;
	start_with(&l, &defaults);
	for (unsigned i = 0; i < 3; i++)
		open_stream(i);
	CHECK(!session_open(relay.s, "kbs.acme", NULL, &why));
	CHECK_INT(why, REASON_LIMIT);
	for (unsigned i = 0; i < 5 + 1024 - 3; i++) {
		owner_close(&front[i % 3], REASON_RESET);
		UNTIL(session_streams(relay.s) == 2);
		open_stream(i % 3);
		UNTIL(front[i % 3].error || session_streams(agent.s) > 0);
		CHECK(relay.exhausted <= (i >= 1));
	}
	CHECK_INT(relay.exhausted, 1);
	owner_close(&front[0], REASON_RESET);
	UNTIL(session_streams(relay.s) == 2);
	CHECK(!session_open(relay.s, "kbs.acme", NULL, &why));
	CHECK_INT(why, REASON_GOING_AWAY);
	stop();
}

/* Both sides close, in each event, themselves or a neighbour, in order or not. */
static void test_close_in_events(void)
{
	static const enum reason whys[] = { REASON_RESET, REASON_EOF };
	static const unsigned events[] = { READY_READ, READY_WRITE, READY_OPEN, READY_ABORT };

	start();
	for (unsigned k = 0; k < 32; k++) {
		struct owner spec = { .to_send = 200000,
				      .eof_after = true,
				      .close_on = events[k % 4],
				      .close_why = whys[k / 4 % 2] };

		n_back = 0;
		memset(back, 0, sizeof(back[0]) * 2);
		memset(front, 0, sizeof(front[0]) * 2);
		back_template = (struct owner){ .to_send = 200000, .eof_after = true };
		front[1] = back_template;
		if (k & 8) {
			back_template = spec;
			back_template.victim = k & 16 ? &back[1] : NULL;
			front[0] = front[1];
		} else {
			front[0] = spec;
			front[0].victim = k & 16 ? &front[1] : NULL;
		}
		open_stream(0);
		open_stream(1);
		UNTIL(n_back == 2 || session_streams(relay.s) == 0);
		UNTIL((front[1].eof_seen && front[1].eof_sent) || !front[1].c || front[1].error);
		for (unsigned i = 0; i < 2; i++) {
			if (front[i].c)
				owner_close(&front[i], REASON_RESET);
			if (back[i].c)
				owner_close(&back[i], REASON_RESET);
		}
		UNTIL(session_streams(relay.s) == 0 && session_streams(agent.s) == 0);
		CHECK_INT(session_memory(relay.s) + session_memory(agent.s), 0);
	}
	CHECK(!relay.ended && !agent.ended);
	stop();
}

/* Thousands of aborted clients do not cost the session of a peer that is known. */
static void test_many_resets(enum session_peer seen, bool lives)
{
	server_sees = seen;
	start();
	for (unsigned i = 0; i < 3000; i++) {
		n_back = 0;
		back[0] = (struct owner){ 0 };
		front[0] = (struct owner){ .to_send = 10 };
		open_stream(0);
		UNTIL(n_back == 1 || relay.goaways);
		owner_close(&front[0], REASON_RESET);
		if (relay.goaways)
			break;
		UNTIL(back[0].error);
		owner_close(&back[0], REASON_RESET);
		if (relay.goaways || relay.ended)
			break;
	}
	if (!lives)
		UNTIL(agent.ended && relay.ended);
	CHECK_INT(agent.ended, !lives);
	CHECK_INT(agent.why, lives ? REASON_NONE : REASON_PROTOCOL);
	stop();
	server_sees = SESSION_PEER_RELAY;
}

static void test_retire(bool by_agent)
{
	enum reason why = REASON_NONE;

	start();
	open_stream(0);
	UNTIL(n_back == 1);
	session_retire(by_agent ? agent.s : relay.s);
	if (by_agent)
		UNTIL(relay.goaways > 0);
	CHECK(!session_open(relay.s, "kbs.acme", NULL, &why));
	CHECK_INT(why, REASON_GOING_AWAY);
	front[0].to_send = back[0].to_send = MIB; /* it lives on */
	front[0].eof_after = back[0].eof_after = true;
	owner_want(&front[0]);
	owner_want(&back[0]);
	UNTIL(both_done(1));
	CHECK_INT(front[0].got, MIB);
	CHECK_INT(back[0].got, MIB);
	UNTIL(relay.ended && agent.ended);
	CHECK_INT(by_agent ? agent.why : relay.why, REASON_GOING_AWAY);
	CHECK_INT(by_agent ? relay.why : agent.why, REASON_EOF);
	CHECK_INT(relay.goaways, by_agent);
	CHECK_INT(front[0].error, 0); /* both directions had ended: nothing was lost */
	stop();

	start(); /* nothing open: over at once */
	session_retire(by_agent ? agent.s : relay.s);
	UNTIL(relay.ended && agent.ended);
	stop();
}

static void test_dead(void)
{
	struct session_limits l = defaults;
	struct timespec a, b;
	long ms;

	l.ping_ms = 50;
	l.dead_ms = 300;
	start_with(&l, &defaults);
	open_stream(0);
	UNTIL(session_rtt_us(relay.s) > 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	b = a;
	while (b.tv_sec * 1000 + b.tv_nsec / 1000000 <
	       a.tv_sec * 1000 + a.tv_nsec / 1000000 + 600) {
		turn(); /* silence but for PINGs: alive */
		clock_gettime(CLOCK_MONOTONIC, &b);
	}
	CHECK(!relay.ended);
	conduit_want(carrier[1], 0); /* the peer reads no more, and so answers no more */
	clock_gettime(CLOCK_MONOTONIC, &a);
	UNTIL(relay.ended);
	clock_gettime(CLOCK_MONOTONIC, &b);
	ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
	CHECK_INT(relay.why, REASON_TUNNEL_DEAD);
	CHECK(ms <= 400 && ms >= 150); /* 300, but for a busy machine */
	UNTIL(front[0].error);
	CHECK_INT(front[0].why, REASON_TUNNEL_LOST);
	conduit_want(carrier[1], READY_READ);
	UNTIL(agent.ended);
	stop();
}

static void test_carrier_killed(void)
{
	start();
	back_template.to_send = front[0].to_send = 500 * MIB;
	front[1].paused = true;
	open_stream(0);
	open_stream(1);
	UNTIL(front[0].got > MIB && back[0].got > MIB && session_memory(relay.s) > 100000);
	shutdown(carrier_fd[0], SHUT_RDWR);
	UNTIL(relay.ended && agent.ended);
	CHECK_INT(relay.why, REASON_TUNNEL_LOST);
	CHECK_INT(agent.why, REASON_TUNNEL_LOST);
	UNTIL(front[0].error && back[0].error && front[1].aborted);
	CHECK_INT(front[0].why, REASON_TUNNEL_LOST);
	CHECK_INT(back[0].why, REASON_TUNNEL_LOST);
	CHECK(!front[0].eof_seen && !back[0].eof_seen);
	/* the stalled one has its bytes still, after its session; then the error */
	front[1].paused = false;
	front[1].error = 0;
	owner_want(&front[1]);
	UNTIL(front[1].error);
	CHECK(front[1].got > 100000);
	stop();
}

/* The peer takes nothing any more: closing does not wait for it longer than a second. */
static void test_close_blocked(void)
{
	struct session_limits l = defaults;
	uint64_t before;

	l.ping_ms = 0; /* which would not get through */
	start_with(&defaults, &l);
	conduit_want(carrier[1], 0);
	for (unsigned i = 0; i < 10; i++) {
		front[i].to_send = 10 * MIB;
		open_stream(i);
	}
	UNTIL(front[3].sent > 0); /* as much as the windows before SETTINGS allow */
	before = worker_now(w);
	session_close(relay.s, REASON_REPLACED, NULL);
	UNTIL(relay.ended);
	CHECK_INT(relay.why, REASON_REPLACED);
	CHECK(worker_now(w) - before <= 1500);
	conduit_want(carrier[1], READY_READ);
	stop();
}

/* A stream that its owner has ended, and closed, ends so for the peer as well. */
static void test_close_after_end(bool closed)
{
	start();
	back_template.eof_after = true;
	front[0].to_send = 1000;
	open_stream(0);
	open_stream(1);
	UNTIL(n_back == 2 && back[0].got == 1000 && front[0].eof_seen);
	CHECK_INT(conduit_shutdown(front[0].c), 0);
	if (closed)
		owner_close(&front[0], REASON_EOF);
	session_close(relay.s, REASON_SHUTDOWN, NULL);
	UNTIL(agent.ended);
	CHECK(back[0].eof_seen && !back[0].error);
	CHECK(!back[1].eof_seen && back[1].error); /* nobody has ended this one */
	stop();
}

static void type(int fd, const void *bytes, size_t len)
{
	CHECK_INT(write(fd, bytes, len), len);
}

/* A relay that speaks by hand to an agent. */
static void raw_frame(int fd, uint8_t kind, uint8_t flags, uint32_t id, const void *body,
		      size_t len)
{
	uint8_t head[9] = { (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, kind, flags };

	id = htonl(id);
	memcpy(head + 5, &id, 4);
	type(fd, head, 9);
	type(fd, body, len);
}

/* An agent that speaks by hand to a relay: to streams 1, 3, 5, and request 7. */
static void test_answers_by_hand(void)
{
	uint8_t block[8000], goaway[8] = { 0, 0, 0, 3, 0, 0, 0, 0 };
	int fd;

	start_with(&defaults, NULL);
	fd = carrier_fd[1];
	for (unsigned i = 0; i < 3; i++)
		open_stream(i);
	CHECK_INT(request("/hello"), 7);
	UNTIL(recv(fd, block, sizeof(block), MSG_PEEK) > 150);
	raw_frame(fd, NGHTTP2_SETTINGS, 0, 0, "", 0);
	/* :status 500, with the end of the stream: an error, not EOF */
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1,
		  "\x8e", 1);
	UNTIL(front[0].error);
	CHECK(!front[0].eof_seen && front[0].aborted);
	CHECK_INT(front[0].why, REASON_DIAL_FAILED);
	/* 200, and too many fields: the exchange failed, the session lives */
	block[0] = 0x88;
	for (size_t i = 1; i + 5 <= sizeof(block); i += 5)
		memcpy(block + i, "\x00\x01x\x01y", 5);
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 7, block, 1 + 5 * 200);
	UNTIL(relay.replies);
	CHECK_INT(relay.status, 0);
	CHECK_INT(relay.request_id, 7);
	/* GOAWAY: 3 may go on, 5 was never looked at */
	raw_frame(fd, NGHTTP2_GOAWAY, 0, 0, goaway, sizeof(goaway));
	UNTIL(front[2].error);
	CHECK_INT(front[2].why, REASON_AGENT_REFUSED);
	CHECK_INT(relay.goaways, 1);
	CHECK_INT(request("/hello"), -1);
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 3, "\x88", 1);
	UNTIL(front[1].opened);
	CHECK(!relay.ended && !front[1].error);
	conduit_close(carrier[1], REASON_EOF);
	UNTIL(relay.ended);
	CHECK_INT(front[1].why, REASON_TUNNEL_LOST);
	stop();
}

/* The same by a relay: what its status means, where the word says nothing; and what after a yes. */
static void test_relay_by_hand(void)
{
	static const struct {
		uint8_t block[30];
		size_t len;
		enum reason why;
	} answers[] = {
		{ "\x8d", 1, REASON_UNKNOWN_SERVICE },
		{ "\x08\x03" "403", 5, REASON_FORBIDDEN },
		{ "\x08\x03" "503", 5, REASON_AGENT_REFUSED },
		{ "\x08\x03" "504", 5, REASON_PICKUP_TIMEOUT },
		{ "\x8c", 1, REASON_PROTOCOL },
		{ "\x8e", 1, REASON_DIAL_FAILED },
		{ "\x08\x03" "302", 5, REASON_DIAL_FAILED },
		{ "\x8d\x00\x0d" "attest-reason\x05" "limit", 22, REASON_LIMIT },
		{ "\x8d\x00\x0d" "attest-reason\x03" "eof", 20, REASON_UNKNOWN_SERVICE },
		{ "\x8d\x00\x0d" "attest-reason\x04" "none", 21, REASON_UNKNOWN_SERVICE },
		{ "\x8d\x00\x0d" "attest-reason\x05" "magic", 22, REASON_UNKNOWN_SERVICE },
	};
	const unsigned n = sizeof(answers) / sizeof(answers[0]);
	const uint8_t no_error[4] = { 0 }, refused[4] = { 0, 0, 0, 7 },
		      connect_error[4] = { 0, 0, 0, 10 };
	uint8_t block[400];
	int fd;

	client_sees = SESSION_PEER_RELAY;
	start_with(&defaults, NULL);
	fd = carrier_fd[1];
	for (unsigned i = 0; i < n + 4; i++)
		open_stream(i);
	UNTIL(recv(fd, block, sizeof(block), MSG_PEEK) > 150);
	raw_frame(fd, NGHTTP2_SETTINGS, 0, 0, "", 0);
	for (unsigned i = 0; i < n; i++) {
		raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM,
			  2 * i + 1, answers[i].block, answers[i].len);
		UNTIL(front[i].error);
		CHECK_INT(front[i].why, answers[i].why);
	}
	raw_frame(fd, NGHTTP2_RST_STREAM, 0, 2 * n + 1, refused, 4);
	UNTIL(front[n].error);
	CHECK_INT(front[n].why, REASON_GOING_AWAY);
	raw_frame(fd, NGHTTP2_RST_STREAM, 0, 2 * n + 3, connect_error, 4);
	UNTIL(front[n + 1].error);
	CHECK_INT(front[n + 1].why, REASON_DIAL_FAILED);
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * n + 5, "\x88", 1);
	raw_frame(fd, NGHTTP2_RST_STREAM, 0, 2 * n + 5, connect_error, 4);
	UNTIL(front[n + 2].error);
	CHECK_INT(front[n + 2].why, REASON_TARGET_RESET);
	/* a no that does not end the stream: it is reset, and what comes then is nothing */
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * n + 7, "\x8d", 1);
	raw_frame(fd, NGHTTP2_DATA, 0, 2 * n + 7, "not found", 9);
	UNTIL(front[n + 3].error);
	CHECK_INT(front[n + 3].why, REASON_UNKNOWN_SERVICE);
	UNTIL(session_streams(relay.s) == 0); /* ended from here; a reset that crosses is nothing */
	for (unsigned i = 0; i < n; i++)
		raw_frame(fd, NGHTTP2_RST_STREAM, 0, 2 * i + 1, no_error, 4);
	CHECK(request("/hello") > 0);
	turn(); /* out it goes */
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM,
		  2 * (n + 4) + 1, "\x89", 1);
	UNTIL(relay.replies == 1);
	CHECK_INT(relay.status, 204);
	conduit_close(carrier[1], REASON_EOF);
	stop();
	client_sees = SESSION_PEER_AGENT;
}

/* What a server sends in kind, in order: "H1" HEADERS with END_STREAM, "R3/0" a reset, ... */
static void trace(int fd, char *to, size_t size)
{
	static uint8_t in[65536];
	static size_t have;
	size_t used = strlen(to), at = 0;
	ssize_t n = recv(fd, in + have, sizeof(in) - have, 0);

	have += n > 0 ? (size_t)n : 0;
	while (have - at >= 9) {
		uint8_t *f = in + at;
		size_t len = (size_t)f[0] << 16 | (size_t)f[1] << 8 | f[2];

		if (have - at < 9 + len)
			break;
		if (f[3] == NGHTTP2_HEADERS)
			used += (size_t)snprintf(to + used, size - used, "%s%u ",
						 f[4] & NGHTTP2_FLAG_END_STREAM ? "H" : "h", f[8]);
		if (f[3] == NGHTTP2_RST_STREAM)
			used += (size_t)snprintf(to + used, size - used, "R%u/%u ", f[8], f[12]);
		at += 9 + len;
	}
	memmove(in, in + at, have - at);
	have -= at;
}

/* CONNECT to authority. */
static size_t connect_block(uint8_t *to, const char *authority)
{
	size_t n = 0;

	memcpy(to, "\x02\x07" "CONNECT\x01", 10);
	n = 10;
	if (strlen(authority) >= 127) { /* HPACK's long form */
		to[n++] = 127;
		to[n++] = (uint8_t)((strlen(authority) - 127) % 128 | 128);
		to[n++] = (uint8_t)((strlen(authority) - 127) / 128);
	} else {
		to[n++] = (uint8_t)strlen(authority);
	}
	memcpy(to + n, authority, strlen(authority));
	return n + strlen(authority);
}

static void raw_connect(int fd, uint32_t id, uint8_t flags, const char *authority)
{
	uint8_t block[600];

	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | flags, id, block,
		  connect_block(block, authority));
}

/* A client at the connect door, by hand. */
static void test_client_by_hand(void)
{
	const uint8_t cancel[4] = { 0, 0, 0, 8 };
	struct session_events events = agent_events;
	char seen[200] = "", name[400];
	uint8_t block[100];
	size_t len;
	int fd;

	server_sees = SESSION_PEER_ANY;
	start_with(NULL, NULL);
	events.request = NULL;
	agent.s = session_new(carrier[1], SESSION_SERVER, &defaults, &events, &agent);
	fd = carrier_fd[0];
	type(fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	raw_frame(fd, NGHTTP2_SETTINGS, 0, 0, "", 0);
	/* refused: the answer first, then the reset that spares the client the rest; none if it
	 * has said all */
	accept_no = REASON_FORBIDDEN;
	raw_connect(fd, 1, 0, "KBS.Acme:443");
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "R1")));
	CHECK_STR(agent.service, "kbs.acme:443");
	raw_connect(fd, 3, NGHTTP2_FLAG_END_STREAM, "kbs.acme");
	raw_frame(fd, NGHTTP2_DATA, 0, 1, "late", 4); /* on its way before the reset came */
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 5,
		  "\x83\x87\x84\x01\x05relay", 10); /* POST https / relay */
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "R5")));
	CHECK_STR(seen, "H1 R1/0 H3 H5 R5/0 ");
	/* nothing that is no plain name, and nothing too long, gets through; extended CONNECT is
	 * an error of its stream */
	*seen = '\0';
	snprintf(agent.service, sizeof(agent.service), "?");
	memset(name, 'a', sizeof(name));
	name[SESSION_AUTHORITY_MAX + 1] = '\0';
	raw_connect(fd, 7, NGHTTP2_FLAG_END_STREAM, name);
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "H7")));
	CHECK_STR(agent.service, "");
	name[SESSION_AUTHORITY_MAX] = '\0';
	raw_connect(fd, 9, NGHTTP2_FLAG_END_STREAM, name);
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "H9")));
	CHECK_STR(agent.service, name);
	len = connect_block(block, "kbs.acme");
	memcpy(block + len, "\x87\x84\x00\x09:protocol\x09websocket", 23);
	raw_frame(fd, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 11, block, len + 23);
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "R11/1")));
	/* reset before the answer is out: no answer */
	accept_no = REASON_NONE;
	accept_answers = false;
	raw_connect(fd, 13, 0, "kbs.acme");
	UNTIL(n_back == 1);
	raw_frame(fd, NGHTTP2_RST_STREAM, 0, 13, cancel, 4);
	UNTIL(back[0].error);
	CHECK_INT(back[0].why, REASON_RESET);
	back[0].c->ops->answer(back[0].c, REASON_LIMIT);
	/* aborted after the yes: as a proxy says it */
	accept_answers = true;
	raw_connect(fd, 15, 0, "kbs.acme");
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "h15")));
	owner_close(&back[1], REASON_TARGET_RESET);
	UNTIL((trace(fd, seen, sizeof(seen)), strstr(seen, "R15")));
	CHECK_STR(seen, "H7 H9 R11/1 h15 R15/10 ");
	/* the client's end is no tunnel's */
	raw_connect(fd, 17, 0, "kbs.acme");
	UNTIL(n_back == 3);
	CHECK(!agent.ended);
	conduit_close(carrier[0], REASON_EOF);
	UNTIL(agent.ended);
	CHECK_INT(back[2].why, REASON_RESET);
	CHECK_INT(agent.why, REASON_RESET);
	stop();
	server_sees = SESSION_PEER_RELAY;
}

/* ---- much in one read ---- */

#define FLOOD 2000
#define COSTLY_A_TURN 128 /* session_input.c: of what was just read, and of the rest at its end */

static unsigned flood_opened;

static enum reason on_flood(struct session *s, struct conduit *stream, const char *authority,
			    const struct client_words *words)
{
	flood_opened++;
	return REASON_FORBIDDEN;
}

static size_t add_frame(uint8_t *to, uint8_t kind, uint32_t id, const void *body, size_t len)
{
	const uint8_t head[5] = { 0, 0, (uint8_t)len, kind, NGHTTP2_FLAG_END_HEADERS };

	id = htonl(id);
	memcpy(to, head, 5);
	memcpy(to + 5, &id, 4);
	memcpy(to + 9, body, len);
	return 9 + len;
}

/* In one write, so that a read gets as much as it takes. reset: nobody waits for the answers. */
static void type_flood(int fd, bool reset)
{
	const uint8_t cancel[4] = { 0, 0, 0, 8 };
	uint8_t block[100], *all = malloc(MIB);
	size_t block_len = connect_block(block, "kbs.acme"), len = 24;
	int size = MIB;

	CHECK(all);
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	memcpy(all, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	len += add_frame(all + len, NGHTTP2_SETTINGS, 0, "", 0);
	all[len - 5] = 0; /* the flag is another one's there */
	for (uint32_t id = 1; id < 2 * FLOOD; id += 2) {
		size_t at = len;

		len += add_frame(all + len, NGHTTP2_HEADERS, id, block, block_len);
		if (reset)
			len += add_frame(all + len, NGHTTP2_RST_STREAM, id, cancel, 4);
		else
			all[at + 4] |= NGHTTP2_FLAG_END_STREAM;
	}
	CHECK(len < WORKER_SCRATCH);
	type(fd, all, len);
	free(all);
}

/*
 * Thousands of streams, opened and reset, lie in one read: each turn takes a few, so others have
 * theirs in between; all are heard in the end, or none is kept when the session ends before.
 */
static void test_flood(bool ends_before)
{
	struct session_events events = agent_events;
	struct session_limits known = defaults;
	struct quota_limits limits;
	struct quota memory = { 0 };
	unsigned turns = 0;

	quota_limits_init(&limits);
	atomic_store(&limits.memory, 1 * MIB);
	quota_init(&memory, &limits, NULL);
	memory_put = 0;
	flood_opened = 0;
	start_with(NULL, NULL);
	events.request = NULL;
	events.accept = on_flood;
	known.peer = SESSION_PEER_CLIENT;
	agent.s = session_new(carrier[1], SESSION_SERVER, &known, &events, &agent);
	CHECK(session_count_memory(agent.s, &memory, on_memory_put));
	type_flood(carrier_fd[0], true);
	while (flood_opened < (ends_before ? FLOOD / 4 : FLOOD)) {
		unsigned before = flood_opened;

		turn();
		CHECK(flood_opened - before <= COSTLY_A_TURN / 2); /* opened, and reset */
		CHECK(++turns < 2 * FLOOD); /* each of them gets further */
	}
	if (ends_before) {
		unsigned before_end = flood_opened;

		CHECK(memory.memory > 0); /* the rest's */
		session_close(agent.s, REASON_SHUTDOWN, NULL);
		turn();
		CHECK_INT(flood_opened, before_end);
	}
	CHECK(ends_before || !agent.ended);
	conduit_close(carrier[0], REASON_EOF);
	stop();
	CHECK_INT(memory.memory, 0);
	CHECK_INT(memory_put, 1);
}

/*
 * A read that takes long to be looked at: meanwhile the carrier is not read, and its peer not dead.
 */
static void test_flood_takes_long(void)
{
	struct session_events events = agent_events;
	struct session_limits known = defaults;

	flood_opened = 0;
	start_with(NULL, NULL);
	events.request = NULL;
	events.accept = on_flood;
	known.peer = SESSION_PEER_CLIENT;
	known.dead_ms = 200;
	agent.s = session_new(carrier[1], SESSION_SERVER, &known, &events, &agent);
	type_flood(carrier_fd[0], true);
	UNTIL(flood_opened > 0);
	while (worker_now(w) < agent.s->last_rx + known.dead_ms)
		;
	UNTIL(flood_opened == FLOOD || agent.ended);
	CHECK_INT(flood_opened, FLOOD);
	conduit_close(carrier[0], REASON_EOF);
	stop();
}

/* No room for more than a little at a time: answers go out no slower than requests come in. */
static void test_flood_with_little_room(void)
{
	struct session_events events = agent_events;
	struct session_limits known = defaults;
	struct quota_limits limits;
	struct quota memory = { 0 };
	size_t most = 0, waits;
	uint8_t answers[4096];

	quota_limits_init(&limits);
	atomic_store(&limits.memory, 1 * MIB);
	quota_init(&memory, &limits, NULL);
	quota_charge(&memory, MIB / 2);
	flood_opened = 0;
	start_with(NULL, NULL);
	events.request = NULL;
	events.accept = on_flood;
	known.peer = SESSION_PEER_CLIENT;
	agent.s = session_new(carrier[1], SESSION_SERVER, &known, &events, &agent);
	CHECK(session_count_memory(agent.s, &memory, on_memory_put));
	type_flood(carrier_fd[0], false);
	while (flood_opened < FLOOD) {
		turn();
		waits = nghttp2_session_get_outbound_queue_size(agent.s->h2);
		most = waits > most ? waits : most;
		CHECK(agent.s->little);
		while (recv(carrier_fd[0], answers, sizeof(answers), 0) > 0)
			;
	}
	CHECK(most <= 2 * COSTLY_A_TURN);
	conduit_close(carrier[0], REASON_EOF);
	stop();
	CHECK_INT(memory.memory, MIB / 2);
}

/* Through real splices: socket, splice, stream, stream, splice, socket. */
static struct splice *joined[2];
static enum reason joined_end[2];
static int far_fd;

static void on_splice_end(struct splice *s, enum reason why)
{
	unsigned i = s == joined[1];

	joined_end[i] = why;
	joined[i] = NULL;
}

static const struct splice_spec spec = { .idle_ms = 60000,
					 .half_closed_ms = 60000,
					 .end = on_splice_end };

static enum reason accept_spliced(struct session *s, struct conduit *c, const char *service,
				  const struct client_words *words)
{
	int fd[2];

	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	far_fd = fd[0];
	session_stream_answer(c);
	joined[1] = splice_new(w, c, fd_conduit_new(w, fd[1]), &spec, NULL);
	return REASON_NONE;
}

static int spliced_client(void)
{
	enum reason why;
	int fd[2];

	far_fd = -1;
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	joined[0] = splice_new(w, fd_conduit_new(w, fd[1]),
			       session_open(relay.s, "kbs.acme", NULL, &why), &spec, NULL);
	CHECK(joined[0]);
	UNTIL(far_fd >= 0);
	return fd[0];
}

/* Moves total bytes of a pattern from one socket to the other, and its EOF. */
static void pour(int from, int to, size_t total)
{
	static uint8_t out[100000], in[100000];
	size_t sent = 0, got = 0;
	bool eof = false;

	while (!eof) {
		size_t n = total - sent < sizeof(out) ? total - sent : sizeof(out);
		ssize_t r;

		for (size_t i = 0; i < n; i++)
			out[i] = pattern(3, sent + i);
		r = n ? send(from, out, n, MSG_NOSIGNAL) : 0;
		if (r > 0)
			sent += (size_t)r;
		if (r >= 0 && sent == total)
			shutdown(from, SHUT_WR);
		r = recv(to, in, sizeof(in), 0);
		for (ssize_t i = 0; i < r; i++)
			CHECK(in[i] == pattern(3, got + (size_t)i));
		if (r > 0)
			got += (size_t)r;
		eof = r == 0;
		if (r < 0) {
			CHECK_INT(errno, EAGAIN);
			turn();
		}
	}
	CHECK_INT(got, total);
}

static bool flood(int fd)
{
	static const char out[1000];

	while (send(fd, out, sizeof(out), MSG_NOSIGNAL) > 0)
		;
	return true;
}

static void test_spliced(void)
{
	struct session_events spliced = agent_events;
	int client;
	char c;

	spliced.accept = accept_spliced;
	start_with(&defaults, NULL);
	agent.s = session_new(carrier[1], SESSION_SERVER, &defaults, &spliced, &agent);
	CHECK(agent.s);
	client = spliced_client();
	pour(client, far_fd, 20 * MIB);
	CHECK(joined[0] && joined[1]);
	pour(far_fd, client, 20 * MIB); /* after the other's EOF */
	UNTIL(!joined[0] && !joined[1]);
	CHECK_INT(joined_end[0], REASON_EOF);
	CHECK_INT(joined_end[1], REASON_EOF);
	close(client);
	close(far_fd);

	client = spliced_client(); /* the service takes nothing: it waits at its source */
	UNTIL(flood(client) && session_memory(agent.s) > defaults.stream_window / 2);
	CHECK(session_memory(agent.s) + session_memory(relay.s) <= defaults.stream_window);
	splice_end(joined[0], REASON_RESET);
	UNTIL(!joined[1]);
	CHECK_INT(joined_end[1], REASON_RESET);
	UNTIL(session_streams(relay.s) == 0 && session_streams(agent.s) == 0);
	CHECK_INT(session_memory(agent.s), 0);
	close(client);
	close(far_fd);

	client = spliced_client(); /* the tunnel is lost under them */
	pour(client, far_fd, 1000);
	session_close(agent.s, REASON_SHUTDOWN, NULL);
	UNTIL(!joined[0] && !joined[1]);
	CHECK_INT(joined_end[0], REASON_TUNNEL_LOST);
	UNTIL(recv(client, &c, 1, 0) >= 0 || errno != EAGAIN);
	close(client);
	close(far_fd);
	stop();
}

static void test_hostile(void)
{
	static const char magic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	uint8_t junk[512], big[16384];

	/* not HTTP/2 at all */
	start_with(NULL, &defaults);
	type(carrier_fd[0], "GET / HTTP/1.1\r\n\r\n-----------------", 35);
	UNTIL(agent.ended);
	CHECK_INT(agent.why, REASON_PROTOCOL);
	conduit_close(carrier[0], REASON_EOF);
	stop();

	/* a frame where none may be */
	start_with(NULL, &defaults);
	type(carrier_fd[0], magic, 24);
	raw_frame(carrier_fd[0], NGHTTP2_SETTINGS, 0, 0, "", 0);
	raw_frame(carrier_fd[0], NGHTTP2_DATA, 0, 1, "xx", 2);
	UNTIL(agent.ended);
	CHECK_INT(agent.why, REASON_PROTOCOL);
	conduit_close(carrier[0], REASON_EOF);
	stop();

	/* a header list without end: the stream is reset, the session lives */
	start_with(NULL, &defaults);
	type(carrier_fd[0], magic, 24);
	raw_frame(carrier_fd[0], NGHTTP2_SETTINGS, 0, 0, "", 0);
	memset(big, 0x82, sizeof(big)); /* :method GET, again and again */
	raw_frame(carrier_fd[0], NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, big, 10000);
	raw_frame(carrier_fd[0], NGHTTP2_PING, 0, 0, "12345678", 8);
	/* literal without indexing "x: y", 3000 times */
	for (size_t i = 0; i + 5 <= sizeof(big); i += 5)
		memcpy(big + i, "\x00\x01x\x01y", 5);
	memcpy(big, "\x83\x87\x84\x01\x05relay", 10); /* POST https / relay */
	raw_frame(carrier_fd[0], NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 3, big, 10000);
	UNTIL(recv(carrier_fd[0], junk, sizeof(junk), MSG_PEEK) > 60);
	CHECK(!agent.ended);
	CHECK_INT(agent.requests, 0);
	conduit_close(carrier[0], REASON_EOF);
	UNTIL(agent.ended);
	stop();

	/* noise, to both roles */
	srand(1);
	for (unsigned i = 0; i < 400; i++) {
		bool to_agent = i % 2;

		start_with(to_agent ? NULL : &defaults, to_agent ? &defaults : NULL);
		if (to_agent)
			type(carrier_fd[0], magic, 24);
		raw_frame(carrier_fd[!to_agent], NGHTTP2_SETTINGS, 0, 0, "", 0);
		if (relay.s)
			open_stream(0);
		for (unsigned k = 0; k < 20; k++) {
			size_t len = (size_t)rand() % 64;

			for (size_t j = 0; j < len; j++)
				junk[j] = (uint8_t)rand();
			raw_frame(carrier_fd[!to_agent], (uint8_t)(rand() % 10),
				  (uint8_t)(rand() & 0x2d), (uint32_t)rand() % 4, junk, len);
		}
		shutdown(carrier_fd[!to_agent], SHUT_WR);
		UNTIL(relay.ended || agent.ended);
		conduit_close(carrier[!to_agent], REASON_EOF);
		stop();
	}
}

int main(void)
{
	TEST(test_fields);
	TEST(test_settled);
	TEST(test_control);
	TEST(test_oversized_reply);
	TEST(test_refusal);
	TEST(test_refused_in_words, REASON_FORBIDDEN, REASON_DIAL_FAILED, false);
	TEST(test_refused_in_words, REASON_PICKUP_TIMEOUT, REASON_DIAL_FAILED, true);
	TEST(test_refused_in_words, REASON_TUNNEL_LOST, REASON_DIAL_FAILED, false);
	TEST(test_end_of_a_client, REASON_REVOKED, REASON_REVOKED);
	TEST(test_end_of_a_client, REASON_EXPIRED, REASON_EXPIRED);
	TEST(test_end_of_a_client, REASON_SHUTDOWN, REASON_SHUTDOWN);
	TEST(test_end_of_a_client, REASON_TUNNEL_DEAD, REASON_RESET);
	TEST(test_data, 1, 0, 0);
	TEST(test_data, 1, 32 * MIB, 32 * MIB);
	TEST(test_data, 7, 3 * MIB, 100001);
	TEST(test_data, 1000, 20000, 5000);
	TEST(test_half_close, true);
	TEST(test_half_close, false);
	TEST(test_abort, true);
	TEST(test_abort, false);
	TEST(test_refused);
	TEST(test_abort_after_bytes);
	TEST(test_stalled);
	TEST(test_growth, 0, false, 0);
	TEST(test_growth, 1, false, 0);
	TEST(test_growth, UINT32_MAX, false, 2);
	TEST(test_growth, UINT32_MAX, true, 2);
	TEST(test_longer_path);
	TEST(test_fair);
	TEST(test_session_bound);
	TEST(test_memory, false);
	TEST(test_memory, true);
	TEST(test_memory_of_others);
	TEST(test_limits);
	TEST(test_close_in_events);
	TEST(test_many_resets, SESSION_PEER_RELAY, true);
	TEST(test_many_resets, SESSION_PEER_CLIENT, true);
	TEST(test_many_resets, SESSION_PEER_ANY, false);
	TEST(test_retire, true);
	TEST(test_retire, false);
	TEST(test_dead);
	TEST(test_carrier_killed);
	TEST(test_close_blocked);
	TEST(test_close_after_end, true);
	TEST(test_close_after_end, false);
	TEST(test_answers_by_hand);
	TEST(test_relay_by_hand);
	TEST(test_client_by_hand);
	TEST(test_flood, false);
	TEST(test_flood, true);
	TEST(test_flood_takes_long);
	TEST(test_flood_with_little_room);
	TEST(test_spliced);
	TEST(test_hostile);
	return 0;
}
