/*
 * doctor_session: a session with a relay in which nothing is offered and no stream opened.
 *
 * Theory of operation: the daemon's own carrier, so its certificate and its way out, and the
 * daemon's own session, turned here until there is an outcome.
 *
 *   connecting -> pinging -> asked -> over
 *
 * The pings come first, while the relay waits for its hello's answer: once that is there, it has
 * nothing more to say and closes. Their number counts what was answered; over a path of seconds
 * there are fewer. At the connect door, where we are the client, it is over with the relay's first
 * SETTINGS, after the pings.
 *
 * The token is read, said and wiped as tunnel/link does it.
 */
#include "tunnel/doctor_session.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config/config.h"
#include "relay/conduit.h"
#include "relay/doctor.h"
#include "relay/doctor_dial.h"
#include "relay/timer.h"
#include "relay/token.h"
#include "relay/worker.h"
#include "tunnel/session.h"

#define PING_MS 50
#define PINGS_MS 2000      /* so long they may take, all together */
#define WINDOW (64 * 1024) /* nothing of weight is received */

struct asking {
	struct worker *worker;
	const struct tunnel_config *config; /* NULL: at the connect door */
	const char *instance;
	struct doctor_session *out;
	struct session *session;
	int32_t hello; /* its stream, once it has come; 0: not yet */
	bool settled, decided, over;
	uint64_t pinging_until, last_us;
	struct timer timer;
};

static void decide(struct asking *a, const char *why)
{
	if (a->decided)
		return;
	a->decided = true;
	snprintf(a->out->why, sizeof(a->out->why), "%s", why ? why : "");
}

/* ---- hello ---- */

static int fill_hello(const struct asking *a, const char *token, struct fields *f)
{
	struct hello h = { .token = token, .question = true };
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	h.generation = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
	snprintf(h.instance, sizeof(h.instance), "%s", a->instance);
	for (; h.n_offers < a->config->n_services && h.n_offers < HELLO_SERVICES_MAX; h.n_offers++)
		snprintf(h.offers[h.n_offers].name, HELLO_LABEL_MAX, "%s",
			 a->config->services[h.n_offers].name);
	return hello_encode(&h, f);
}

static void answer_hello(struct asking *a)
{
	const char *path = a->config->token_file;
	char token[TOKEN_TEXT_MAX] = "", *why = NULL;
	struct fields fields;
	bool exposed;

	if (path && token_read_file(path, token, &exposed, &why) < 0) {
		decide(a, why ? why : "out of memory");
		free(why);
		session_close(a->session, REASON_BAD_CREDENTIAL, "");
		return;
	}
	fields_init(&fields);
	if (fill_hello(a, path ? token : NULL, &fields) == 0)
		session_reply(a->session, a->hello, 200, &fields);
	token_wipe(token);
	explicit_bzero(&fields, sizeof(fields));
}

static void on_accepted(struct asking *a, const struct fields *f)
{
	char why[HELLO_WHY_MAX];

	if (hello_decode_accepted(&a->out->accepted, f, why) < 0) {
		decide(a, why);
		return;
	}
	a->out->outcome = DOCTOR_ACCEPTED;
	decide(a, NULL);
}

static void on_request(struct session *s, int32_t id, const char *path, const struct fields *f)
{
	struct asking *a = session_user(s);

	if (strcmp(path, HELLO_PATH) == 0 && !a->hello) {
		a->hello = id; /* answered after the pings */
		return;
	}
	session_reply(s, id, 204, NULL);
	if (strcmp(path, HELLO_PATH_ACCEPTED) == 0) {
		on_accepted(a, f);
	} else if (strcmp(path, HELLO_PATH_REFUSED) == 0) {
		hello_decode_refused(&a->out->refused, f);
		a->out->outcome = DOCTOR_REFUSED;
		decide(a, NULL);
	}
}

/* ---- pings ---- */

/* Enough, or it takes too long: what comes after them. */
static void pinged(struct asking *a)
{
	if (a->config && a->hello) {
		answer_hello(a);
	} else if (!a->config && a->settled) {
		a->out->outcome = DOCTOR_ACCEPTED;
		decide(a, NULL);
	} else {
		timer_set(a->worker, &a->timer, PING_MS, a->timer.fire);
	}
}

static void on_look(struct timer *t)
{
	struct asking *a = (struct asking *)((char *)t - offsetof(struct asking, timer));
	uint64_t us;

	if (!a->session || a->decided)
		return;
	us = session_rtt_us(a->session);
	if (us && us != a->last_us && a->out->pings < DOCTOR_PINGS) {
		a->last_us = us;
		a->out->sum_us += us;
		if (!a->out->pings++ || us < a->out->least_us)
			a->out->least_us = us;
	}
	if (a->out->pings < DOCTOR_PINGS && worker_now(a->worker) < a->pinging_until)
		timer_set(a->worker, t, PING_MS, on_look);
	else
		pinged(a);
}

/* ---- the session ---- */

static enum reason on_stream(struct session *s, struct conduit *stream, const char *service,
			     const struct client_words *words)
{
	return REASON_GOING_AWAY; /* nothing was offered */
}

static void on_settled(struct session *s)
{
	((struct asking *)session_user(s))->settled = true;
}

static void on_goaway(struct session *s)
{
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct asking *a = session_user(s);

	a->session = NULL;
	a->over = true;
	decide(a, *detail ? detail : "the relay ended the session");
}

static const struct session_events events = {
	.accept = on_stream,
	.request = on_request,
	.settled = on_settled,
	.goaway = on_goaway,
	.end = on_end,
};

static void on_connected(void *user)
{
}

static void on_carrier(void *user, struct conduit *c, enum reason why, bool reached,
		       const char *detail)
{
	const struct session_limits limits = {
		.peer = SESSION_PEER_RELAY,
		.streams = 1,
		.stream_window = WINDOW,
		.session_window = WINDOW,
		.ping_ms = PING_MS,
		.dead_ms = DOCTOR_CHECK_MS,
	};
	struct asking *a = user;

	if (!c) {
		a->over = true;
		decide(a, detail);
		return;
	}
	a->session =
		session_new(c, a->config ? SESSION_SERVER : SESSION_CLIENT, &limits, &events, a);
	if (!a->session) {
		a->over = true;
		decide(a, "out of memory");
		return;
	}
	a->pinging_until = worker_now(a->worker) + PINGS_MS;
	timer_set(a->worker, &a->timer, PING_MS, on_look);
}

static const struct carrier_events carrier_events = {
	.connected = on_connected,
	.done = on_carrier,
};

static void speak(struct doctor *d, const struct doctor_peer *peer, struct asking *a)
{
	const uint64_t ms = doctor_ms(d, 0) + PINGS_MS;
	struct carrier *carrier = carrier_open(peer->shared, peer->kind, peer->address, peer->name,
					       &carrier_events, a);

	if (!carrier) {
		decide(a, "out of memory");
		return;
	}
	if (!doctor_wait(a->worker, &a->decided, ms)) {
		if (!a->session)
			carrier_cancel(carrier);
		decide(a, a->hello ? "the relay does not answer the question in time"
				   : "no hello came in time: is this a relay's tunnel door?");
	}
	timer_cancel(a->worker, &a->timer);
	if (a->session) {
		session_close(a->session, REASON_EOF, "");
		doctor_wait(a->worker, &a->over, DOCTOR_CHECK_MS);
	}
}

void doctor_ask(struct doctor *d, const struct doctor_peer *peer,
		const struct tunnel_config *config, const char *instance, struct doctor_session *s)
{
	struct asking a = {
		.worker = peer->shared->worker, .config = config, .instance = instance, .out = s
	};

	*s = (struct doctor_session){ .outcome = DOCTOR_FAILED };
	a.timer.fire = on_look;
	speak(d, peer, &a);
}

void doctor_greet(struct doctor *d, const struct doctor_peer *peer, struct doctor_session *s)
{
	struct asking a = { .worker = peer->shared->worker, .out = s };

	*s = (struct doctor_session){ .outcome = DOCTOR_FAILED };
	a.timer.fire = on_look;
	speak(d, peer, &a);
}
