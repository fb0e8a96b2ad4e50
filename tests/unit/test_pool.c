/*
 * pool: wishes and sessions, with a relay that the test plays itself: TLS, and a session of the
 * server's role, in the same loop.
 */
#include <openssl/ssl.h>

#include "tunnel/pool.c" /* to have idle legs without waiting for a minute */

#include "config/bridge.h"
#include "relay/fd.h"
#include "relay/tls_context.h"
#include "tests/unit/certificates.h"
#include "tests/unit/loop.h"

#define FARS 64
#define WISHES 256

/* ---- the relay's side ---- */

struct far {
	struct tls_handshake *handshake;
	struct conduit *mute; /* after the handshake it says nothing */
	struct session *session;
	struct relay *relay;
	bool verified, ended;
	unsigned streams; /* ever */
};

struct relay {
	int fd; /* listening; -1: it does not */
	char address[64];
	struct tls_context *tls;
	uint32_t streams; /* in a session */
	bool mute, deaf;  /* deaf: nobody is accepted */
	bool goes;        /* says GOAWAY as soon as somebody has come */
	struct sockaddr_in at;
};

static struct relay relays[2];
static struct far fars[FARS];
static unsigned n_fars;
static struct conduit *taken[WISHES]; /* the relay's ends of streams */
static unsigned n_taken;
static char authority[SESSION_AUTHORITY_MAX + 1], stream_id[64];

static enum reason on_accept(struct session *s, struct conduit *c, const char *to,
			     const struct client_words *words)
{
	struct far *f = session_user(s);

	CHECK(n_taken < WISHES);
	snprintf(authority, sizeof(authority), "%s", to);
	snprintf(stream_id, sizeof(stream_id), "%s", words->id);
	session_stream_answer(c);
	taken[n_taken++] = c;
	f->streams++;
	return REASON_NONE;
}

static void on_far_end(struct session *s, enum reason why, const char *detail)
{
	struct far *f = session_user(s);

	f->session = NULL;
	f->ended = true;
}

static const struct session_events far_events = { .accept = on_accept, .end = on_far_end };

static void on_handshake(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct far *f = user;
	const struct session_limits limits = {
		.peer = SESSION_PEER_CLIENT,
		.streams = f->relay->streams,
		.stream_window = 65536,
		.session_window = 1024 * 1024,
		.ping_ms = 1000,
		.dead_ms = 10000,
	};

	f->handshake = NULL;
	f->ended = !c;
	if (!c)
		return;
	f->verified = tls_conduit_identity(c) != NULL;
	if (f->relay->mute) {
		f->mute = c;
		return;
	}
	f->session = session_new(c, SESSION_SERVER, &limits, &far_events, f);
	CHECK(f->session);
	if (f->relay->goes)
		session_retire(f->session);
}

static void accept_some(struct relay *r)
{
	int fd;

	while (r->fd >= 0 && !r->deaf &&
	       (fd = accept4(r->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct far *f = &fars[n_fars++];

		CHECK(n_fars < FARS);
		*f = (struct far){ .relay = r };
		f->handshake = tls_accept(w, fd, r->tls, 5000, on_handshake, f);
	}
}

static bool step(void)
{
	accept_some(&relays[0]);
	accept_some(&relays[1]);
	return true;
}

#define EVENTUALLY(cond) UNTIL(step() && (cond))

static void pause_for(uint64_t ms)
{
	uint64_t until = now_ms() + ms;

	EVENTUALLY(now_ms() >= until);
}

static void relay_listens(struct relay *r)
{
	r->fd = listen_tcp4(&r->at, 64);
	snprintf(r->address, sizeof(r->address), "tcp:127.0.0.1:%u", ntohs(r->at.sin_port));
}

static void relay_begins(struct relay *r, const char *alpn, const char *client_ca)
{
	const char *const names[] = { alpn, NULL };
	char *why = NULL;

	*r = (struct relay){ .streams = 100 };
	relay_listens(r);
	r->tls = tls_server_context_new(path_of("relay.pem"), path_of("relay.key"), names, &why);
	CHECK(r->tls);
	if (client_ca) {
		struct trust *t = trust_of(client_ca);

		CHECK_INT(tls_server_context_ask(r->tls, &t, 1), 0);
		trust_unref(t);
	}
}

static void far_gone(struct far *f)
{
	tls_handshake_cancel(f->handshake);
	f->handshake = NULL;
	if (f->mute)
		conduit_close(f->mute, REASON_RESET);
	f->mute = NULL;
	if (f->session)
		session_close(f->session, REASON_SHUTDOWN, "the relay ends");
}

static void relay_ends(struct relay *r)
{
	if (r->fd >= 0)
		close(r->fd);
	r->fd = -1;
	for (unsigned i = 0; i < n_fars; i++)
		if (fars[i].relay == r)
			far_gone(&fars[i]);
	tls_context_unref(r->tls);
	r->tls = NULL;
}

/* ---- the bridge's side ---- */

struct wisher {
	struct pool_wish wish;
	struct conduit *c;
	bool told;
	enum reason why, died;
	char detail[POOL_DETAIL_MAX];
};

static struct wisher wishers[WISHES];
static struct pool *p;
static struct bridge_config *config;

static void on_dead(struct conduit *c, unsigned events)
{
	struct wisher *x = c->user;

	if (!(events & READY_ABORT))
		return;
	x->died = session_stream_reason(c);
	conduit_want(c, 0);
}

static void on_done(struct pool_wish *wish, struct conduit *c, enum reason why, const char *detail)
{
	struct wisher *x = (struct wisher *)wish;

	CHECK(!x->told);
	CHECK(!wish->pool);
	x->told = true;
	x->c = c;
	x->why = why;
	snprintf(x->detail, sizeof(x->detail), "%s", detail);
	if (!c)
		return;
	c->user = x;
	c->ready = on_dead;
	conduit_want(c, READY_ABORT);
}

static struct wisher *wish(unsigned i)
{
	struct wisher *x = &wishers[i];

	*x = (struct wisher){ .wish = { .service = "kbs.acme", .done = on_done } };
	snprintf(x->wish.id, sizeof(x->wish.id), "%u", i);
	pool_open(p, &x->wish);
	return x;
}

static void drop(struct wisher *x)
{
	conduit_close(x->c, REASON_RESET);
	x->c = NULL;
}

static bool all_told(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (!wishers[i].told)
			return false;
	return true;
}

/* more: keys of relay; times: timeouts. */
static struct bridge_config *configure(const char *first, const char *second, const char *more,
				       const char *times)
{
	struct config_errors e = { 0 };
	struct bridge_config *c;
	char text[2048];

	snprintf(text, sizeof(text),
		 "relay: { addresses: [ \"%s\"%s%s%s ], server_name: gw.example.net,\n"
		 "  ca_file: %s/ca.pem%s%s }\n"
		 "timeouts: { dead: 5s, ping: 1s%s%s }\n",
		 first, second ? ", \"" : "", second ? second : "", second ? "\"" : "", dir,
		 *more ? ", " : "", more, *times ? ", " : "", times);
	c = bridge_config_parse("test", text, strlen(text), &e);
	for (size_t i = 0; i < e.n; i++)
		fprintf(stderr, "%s\n", e.at[i]);
	CHECK(c);
	config_errors_deinit(&e);
	return c;
}

static void hold_config(void *owner)
{
	bridge_config_ref(owner);
}

static void release_config(void *owner)
{
	bridge_config_unref(owner);
}

static const struct pool_config *pool_config_of(struct bridge_config *c)
{
	static struct pool_config how;
	const struct timeouts_config *times = &c->timeouts.common;

	how = (struct pool_config){
		.addresses = &c->relay.addresses,
		.server_name = c->relay.server_name,
		.ca_file = c->relay.ca_file,
		.certificate = c->relay.certificate,
		.key = c->relay.key,
		.connections = c->relay.connections,
		.streams = c->relay.streams,
		.limits = "relay.connections, relay.streams",
		.stream_window = c->relay.stream_window,
		.session_window = c->relay.session_window,
		.dial_ms = times->dial,
		.handshake_ms = times->handshake,
		.ping_ms = times->ping,
		.dead_ms = times->dead,
		.pickup_ms = times->pickup,
		.hold = hold_config,
		.release = release_config,
		.owner = c,
	};
	return &how;
}

static void begin_with(struct bridge_config *c)
{
	char *why = NULL;

	config = c;
	n_fars = n_taken = 0;
	p = pool_new(w, pool_config_of(c), &why);
	CHECK(p);
}

static void begin(const char *more, const char *times)
{
	relay_begins(&relays[0], "h2", NULL);
	begin_with(configure(relays[0].address, NULL, more, times));
}

static void end(void)
{
	pool_end(p);
	relay_ends(&relays[0]);
	if (relays[1].tls)
		relay_ends(&relays[1]);
	for (unsigned i = 0; i < WISHES; i++)
		drop(&wishers[i]);
	for (unsigned i = 0; i < n_taken; i++)
		conduit_close(taken[i], REASON_RESET);
	n_taken = 0;
	EVENTUALLY(w->conduits == 0 && !p->legs);
	p = pool_free(p);
	config = bridge_config_unref(config);
	settle();
	CHECK_INT(w->timers.live, 0);
}

/* ---- tests ---- */

static void test_lazy_then_served(void)
{
	struct wisher *x;

	begin("", "");
	pause_for(50);
	CHECK_INT(n_fars, 0); /* nothing is made before it is wanted */
	CHECK_STR(pool_via(p), "");
	x = wish(0);
	CHECK(!x->told);
	CHECK_INT(pool_counts(p).waiting, 1);
	EVENTUALLY(x->told);
	CHECK(x->c && x->why == REASON_NONE);
	EVENTUALLY(n_taken == 1);
	CHECK_STR(authority, "kbs.acme");
	CHECK_STR(stream_id, "0");
	CHECK_STR(pool_via(p), relays[0].address);
	/* the next one at once, in the same session */
	x = wish(1);
	CHECK(x->told && x->c);
	EVENTUALLY(n_taken == 2);
	CHECK_INT(n_fars, 1);
	CHECK_INT(pool_counts(p).sessions, 1);
	CHECK_INT(pool_counts(p).streams, 2);
	CHECK_INT(pool_counts(p).waiting, 0);
	end();
}

static void test_several_legs(void)
{
	begin("connections: 2", "");
	for (unsigned i = 0; i < POOL_SPREAD; i++)
		wish(i);
	EVENTUALLY(all_told(POOL_SPREAD) && n_taken == POOL_SPREAD && n_fars == 2);
	/* the fewest first */
	EVENTUALLY(pool_counts(p).sessions == 2 && p->legs->state == UP);
	for (unsigned i = POOL_SPREAD; i < 2 * POOL_SPREAD; i++)
		CHECK(wish(i)->c);
	EVENTUALLY(n_taken == 2 * POOL_SPREAD);
	CHECK_INT(fars[0].streams, POOL_SPREAD);
	CHECK_INT(fars[1].streams, POOL_SPREAD);
	/* and no more than there may be */
	for (unsigned i = 2 * POOL_SPREAD; i < 5 * POOL_SPREAD; i++)
		CHECK(wish(i)->c);
	pause_for(50);
	CHECK_INT(n_fars, 2);
	end();
}

/* One that waits because all is full is served when there is room. */
static void test_full(const char *more, uint32_t relays_limit, unsigned fits, unsigned sessions)
{
	begin(more, "");
	relays[0].streams = relays_limit;
	for (unsigned i = 0; i <= fits; i++)
		wish(i);
	EVENTUALLY(all_told(fits) && n_taken == fits);
	pause_for(120);
	CHECK(!wishers[fits].told);
	CHECK_INT(n_fars, sessions);
	CHECK_INT(pool_counts(p).waiting, 1);
	drop(&wishers[0]);
	EVENTUALLY(wishers[fits].told);
	CHECK(wishers[fits].c);
	end();
}

static void test_full_for_long(void)
{
	begin("connections: 1, streams: 1", "pickup: 150ms");
	wish(0);
	wish(1);
	EVENTUALLY(wishers[1].told);
	CHECK_INT(wishers[1].why, REASON_PICKUP_TIMEOUT);
	CHECK(strstr(wishers[1].detail, "relay.streams"));
	end();
}

static void test_goaway(void)
{
	begin("connections: 1", "");
	wish(0);
	EVENTUALLY(n_taken == 1);
	session_retire(fars[0].session);
	EVENTUALLY(p->legs->state == RETIRING);
	wish(1);
	EVENTUALLY(wishers[1].told && n_taken == 2);
	CHECK_INT(fars[1].streams, 1);
	CHECK(!wishers[0].died && !fars[0].ended); /* who was there goes on */
	drop(&wishers[0]);
	EVENTUALLY(fars[0].ended);
	CHECK(!fars[1].ended);
	end();
}

/* A relay that sends everybody away is asked now and then, not all the time. */
static void test_goaway_always(void)
{
	begin("", "");
	relays[0].goes = true;
	wish(0);
	EVENTUALLY(n_fars == 1);
	pause_for(1500);
	CHECK(n_fars < 25); /* a storm would be thousands */
	relays[0].goes = false;
	EVENTUALLY(wishers[0].told);
	CHECK(wishers[0].c);
	end();
}

static void test_lost(void)
{
	begin("connections: 1", "");
	wish(0);
	EVENTUALLY(n_taken == 1);
	session_close(fars[0].session, REASON_INTERNAL, "killed");
	EVENTUALLY(wishers[0].died == REASON_TUNNEL_LOST);
	wish(1);
	EVENTUALLY(wishers[1].told && n_taken == 2);
	CHECK(wishers[1].c);
	CHECK_INT(pool_counts(p).sessions_made, 2);
	CHECK_INT(pool_counts(p).sessions, 1);
	end();
}

static void test_next_address(void)
{
	char closed[64];

	relay_begins(&relays[1], "h2", NULL);
	snprintf(closed, sizeof(closed), "%s", relays[1].address);
	relay_ends(&relays[1]);
	relay_begins(&relays[0], "h2", NULL);
	begin_with(configure(closed, relays[0].address, "", ""));
	wish(0);
	EVENTUALLY(wishers[0].told);
	CHECK(wishers[0].c);
	CHECK_STR(pool_via(p), relays[0].address);
	CHECK_INT(pool_counts(p).sessions_failed, 1);
	/* legs that are lost together count as one failure of their address */
	for (unsigned i = 1; i < 2 * POOL_SPREAD; i++)
		wish(i);
	EVENTUALLY(n_fars == 2 && fars[1].session && p->legs->state == UP);
	CHECK_INT(p->turn, 1);
	session_close(fars[0].session, REASON_INTERNAL, "killed");
	session_close(fars[1].session, REASON_INTERNAL, "killed");
	EVENTUALLY(fars[0].ended && fars[1].ended && !p->legs);
	CHECK_INT(p->turn, 2);
	end();
}

/* A relay that is stuck: its kernel takes the connection, and no more comes of it. */
static void test_half_open(bool mute)
{
	relay_begins(&relays[0], "h2", NULL);
	relay_begins(&relays[1], "h2", NULL);
	relays[0].deaf = !mute;
	relays[0].mute = mute;
	begin_with(configure(relays[0].address, relays[1].address, "connections: 1", "pickup: 2s"));
	wish(0);
	EVENTUALLY(wishers[0].told);
	CHECK(wishers[0].c);
	CHECK_STR(pool_via(p), relays[1].address);
	CHECK_INT(pool_counts(p).sessions_failed, 0);
	/* the other one has come back to itself: both are good */
	relays[0].deaf = false;
	if (!mute)
		EVENTUALLY(pool_counts(p).sessions_made == 2);
	wish(1);
	EVENTUALLY(wishers[1].told);
	CHECK(wishers[1].c);
	end();
}

/* All of them are: each is tried once, and not again while that goes on. */
static void test_all_half_open(void)
{
	unsigned legs = 0;

	relay_begins(&relays[0], "h2", NULL);
	relay_begins(&relays[1], "h2", NULL);
	relays[0].deaf = relays[1].deaf = true;
	begin_with(configure(relays[0].address, relays[1].address, "", "pickup: 200ms"));
	for (unsigned i = 0; i < 5; i++) {
		wish(i);
		EVENTUALLY(wishers[i].told);
		CHECK_INT(wishers[i].why, REASON_PICKUP_TIMEOUT);
	}
	for (const struct leg *l = p->legs; l; l = l->next)
		legs++;
	CHECK_INT(legs, 2);
	end();
}

static void test_nobody_there(void)
{
	uint64_t began = now_ms();

	begin("", "pickup: 400ms");
	close(relays[0].fd);
	relays[0].fd = -1;
	wish(0);
	EVENTUALLY(wishers[0].told);
	CHECK(now_ms() - began >= 400);
	CHECK_INT(wishers[0].why, REASON_PICKUP_TIMEOUT);
	CHECK(strstr(wishers[0].detail, relays[0].address));
	CHECK(strstr(wishers[0].detail, "refused"));
	CHECK(pool_counts(p).sessions_failed >= POOL_TRIES - 1);
	CHECK_INT(pool_counts(p).waiting, 0);
	end();
}

/* Back after a long time: whoever comes then is not kept waiting for what was before. */
static void test_back_after_long(void)
{
	begin("", "pickup: 2s");
	close(relays[0].fd);
	relays[0].fd = -1;
	p->backoff.attempts = BACKOFF_SOON_ATTEMPTS; /* as after an hour of failing */
	wish(0);
	EVENTUALLY(pool_counts(p).sessions_failed);
	relays[0].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK_INT(setsockopt(relays[0].fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)), 0);
	CHECK_INT(bind(relays[0].fd, (struct sockaddr *)&relays[0].at, sizeof(relays[0].at)), 0);
	CHECK_INT(listen(relays[0].fd, 64), 0);
	EVENTUALLY(wishers[0].told);
	CHECK(wishers[0].c);
	end();
}

static void test_certificate(const char *name, const char *ca, const char *wrong)
{
	char more[256] = "";

	if (name)
		snprintf(more, sizeof(more), "certificate: %s/%s.pem, key: %s/%s.key", dir, name,
			 dir, name);
	relay_begins(&relays[0], "h2", ca);
	begin_with(configure(relays[0].address, NULL, more, "pickup: 600ms"));
	wish(0);
	EVENTUALLY(wishers[0].told);
	if (wrong) {
		CHECK_INT(wishers[0].why, REASON_PICKUP_TIMEOUT);
		if (!strstr(wishers[0].detail, wrong))
			fprintf(stderr, "said: %s\n", wishers[0].detail);
		CHECK(strstr(wishers[0].detail, wrong));
		CHECK(strstr(wishers[0].detail, relays[0].address));
	} else {
		CHECK(wishers[0].c);
		CHECK_INT(fars[0].verified, name != NULL);
	}
	end();
}

static void test_wrong_alpn(void)
{
	relay_begins(&relays[0], "http/1.1", NULL);
	begin_with(configure(relays[0].address, NULL, "", "pickup: 300ms"));
	wish(0);
	EVENTUALLY(wishers[0].told);
	CHECK_INT(wishers[0].why, REASON_PICKUP_TIMEOUT);
	CHECK(strstr(wishers[0].detail, "ALPN \"h2\""));
	end();
}

/* TLS and h2 are agreed on, and then nothing comes. */
static void test_mute(void)
{
	begin("", "pickup: 500ms, handshake: 150ms");
	relays[0].mute = true;
	wish(0);
	EVENTUALLY(wishers[0].told);
	CHECK_INT(wishers[0].why, REASON_PICKUP_TIMEOUT);
	CHECK(strstr(wishers[0].detail, "did not begin with HTTP/2"));
	relays[0].mute = false;
	wish(1);
	EVENTUALLY(wishers[1].told);
	CHECK(wishers[1].c);
	end();
}

static void test_reload(void)
{
	struct bridge_config *other;
	char *why = NULL;

	begin("", "");
	relay_begins(&relays[1], "h2", "ca.pem");
	wish(0);
	EVENTUALLY(n_taken == 1);
	/* what cannot be used changes nothing */
	other = configure(relays[1].address, NULL, "certificate: none.pem, key: none.key", "");
	CHECK_INT(pool_reload(p, pool_config_of(other), &why), -EINVAL);
	CHECK(strstr(why, "none.pem"));
	free(why);
	bridge_config_unref(other);
	CHECK(wish(1)->c);
	EVENTUALLY(n_taken == 2 && fars[0].streams == 2);
	/* another relay, and a certificate for it, which is another file later */
	other = configure(relays[1].address, NULL, "certificate: node.pem, key: node.key", "");
	other->relay.certificate = (free(other->relay.certificate), strdup(path_of("node.pem")));
	other->relay.key = (free(other->relay.key), strdup(path_of("node.key")));
	CHECK_INT(pool_reload(p, pool_config_of(other), &why), 0);
	bridge_config_unref(config);
	config = other;
	wish(2);
	EVENTUALLY(wishers[2].told && n_taken == 3);
	CHECK(fars[1].relay == &relays[1] && fars[1].verified);
	CHECK(!wishers[0].died && !fars[0].ended);
	drop(&wishers[0]);
	drop(&wishers[1]);
	EVENTUALLY(fars[0].ended);
	CHECK(!wishers[2].died);
	end();
}

/* It waits for a relay that does not answer when the config becomes another. */
static void test_reload_while_connecting(bool greeting)
{
	struct bridge_config *other;
	char *why = NULL;

	begin("", "");
	relay_begins(&relays[1], "h2", NULL);
	relays[0].deaf = !greeting;
	relays[0].mute = greeting;
	wish(0);
	EVENTUALLY(p->legs && (greeting ? p->legs->state == GREETING : p->legs->since != 0));
	other = configure(relays[1].address, NULL, "", "");
	CHECK_INT(pool_reload(p, pool_config_of(other), &why), 0);
	bridge_config_unref(config);
	config = other;
	EVENTUALLY(wishers[0].told);
	CHECK(wishers[0].c);
	CHECK_STR(pool_via(p), relays[1].address);
	CHECK_INT(pool_counts(p).sessions_failed, 0);
	end();
}

static void test_end_with_wishes(void)
{
	begin("", "");
	relays[0].deaf = true;
	wish(0);
	wish(1);
	pool_cancel(&wishers[0].wish);
	pool_cancel(&wishers[0].wish);
	pause_for(20);
	pool_end(p);
	CHECK(!wishers[0].told);
	CHECK_INT(wishers[1].why, REASON_SHUTDOWN);
	CHECK_INT(wish(2)->why, REASON_SHUTDOWN);
	end();
}

static void test_end_with_streams(void)
{
	begin("", "");
	wish(0);
	EVENTUALLY(n_taken == 1);
	pool_end(p);
	EVENTUALLY(wishers[0].died);
	EVENTUALLY(fars[0].ended);
	end();
}

static void test_idle(void)
{
	struct leg *l;

	begin("", "");
	wish(0);
	EVENTUALLY(n_taken == 1);
	l = p->legs;
	on_idle(&l->timer); /* there is a stream */
	CHECK_INT(l->state, UP);
	drop(&wishers[0]);
	EVENTUALLY(session_streams(l->session) == 0);
	CHECK(wish(1)->c);
	drop(&wishers[1]);
	EVENTUALLY(session_streams(l->session) == 0);
	on_idle(&l->timer); /* there was one since */
	CHECK_INT(l->state, UP);
	on_idle(&l->timer);
	EVENTUALLY(!p->legs && fars[0].ended);
	CHECK_INT(pool_counts(p).sessions_failed, 0);
	wish(2);
	EVENTUALLY(wishers[2].told);
	CHECK(wishers[2].c);
	end();
}

static void test_too_many(void)
{
	struct wisher *many = calloc(POOL_WAITING_MAX, sizeof(*many));

	CHECK(many);
	begin("", "");
	relays[0].deaf = true;
	for (unsigned i = 0; i < POOL_WAITING_MAX; i++) {
		many[i].wish.service = "kbs.acme";
		many[i].wish.done = on_done;
		pool_open(p, &many[i].wish);
		CHECK(!many[i].told);
	}
	CHECK_INT(wish(0)->why, REASON_LIMIT);
	CHECK(*wishers[0].detail);
	end();
	for (unsigned i = 0; i < POOL_WAITING_MAX; i++)
		CHECK_INT(many[i].why, REASON_SHUTDOWN);
	free(many);
}

static void make_certificates(void)
{
	struct issued ca, other;

	certificates_begin();
	ca = issue("ca", NULL, NULL, NULL, -3600, 3600);
	other = issue("other-ca", NULL, NULL, NULL, -3600, 3600);
	issued_free(issue("relay", "DNS:gw.example.net", NULL, &ca, -3600, 3600));
	issued_free(issue("node", "DNS:node-1", "clientAuth", &ca, -3600, 3600));
	issued_free(issue("stranger", "DNS:node-1", "clientAuth", &other, -3600, 3600));
	issued_free(ca);
	issued_free(other);
}

int main(void)
{
	log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
	make_certificates();
	loop_begin();
	test_lazy_then_served();
	test_several_legs();
	test_full("connections: 1, streams: 2", 100, 2, 1);
	test_full("connections: 1", 3, 3, 1);
	test_full("connections: 2", 3, 6, 2);
	test_full("connections: 2, streams: 2", 100, 4, 2);
	test_full_for_long();
	test_goaway();
	test_goaway_always();
	test_lost();
	test_next_address();
	test_half_open(false);
	test_half_open(true);
	test_all_half_open();
	test_nobody_there();
	test_back_after_long();
	test_certificate(NULL, NULL, NULL);
	test_certificate("node", "ca.pem", NULL);
	test_certificate("stranger", "ca.pem", "certificate was refused");
	test_wrong_alpn();
	test_mute();
	test_reload();
	test_reload_while_connecting(false);
	test_reload_while_connecting(true);
	test_end_with_wishes();
	test_end_with_streams();
	test_idle();
	test_too_many();
	loop_end();
	certificates_end();
	return 0;
}
