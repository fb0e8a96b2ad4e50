/*
 * link_line: one attempt to reach a relay, and the session that follows.
 *
 * Theory of operation. It goes through
 *
 *   connecting -> handshaking -> hello -> up -> retiring -> over
 *
 * and may be over from any of them. It owns its carrier, then its session; it is freed by the
 * reaper after line_over, which is the one way out, whoever ends it. It keeps the setup that it was
 * begun with, and its link. The token is read for each hello, and wiped when it is on its way.
 */
#include "tunnel/link_line.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "relay/conduit.h"
#include "relay/log.h"
#include "relay/token.h"
#include "tunnel/agent.h"
#include "tunnel/link.h"
#include "tunnel/serve.h"
#include "tunnel/session.h"
#include "tunnel/setup.h"

static const char *const state_words[] = {
	[LINE_CONNECTING] = "connecting", [LINE_HANDSHAKING] = "handshaking",
	[LINE_HELLO] = "hello",           [LINE_UP] = "up",
	[LINE_RETIRING] = "retiring",     [LINE_OVER] = "over",
};
_Static_assert(sizeof(state_words) / sizeof(*state_words) == LINE_STATES, "a word for each state");

static void set_state(struct link_line *line, enum line_state to)
{
	log_debug("%s (%s): %s -> %s", line->link->text, carrier_kind_text(line->kind),
		  state_words[line->state], state_words[to]);
	line->state = to;
}

void link_line_up(struct link_line *line)
{
	line->up_since = worker_now(line->link->agent->worker);
	timer_cancel(line->link->agent->worker, &line->timer);
	set_state(line, LINE_UP);
}

void link_line_retiring(struct link_line *line)
{
	set_state(line, LINE_RETIRING);
}

/* ---- the end ---- */

static void line_free(struct reapable *r)
{
	struct link_line *line =
		(struct link_line *)((char *)r - offsetof(struct link_line, reapable));

	link_unref(line->link);
	setup_unref(line->setup);
	free(line);
}

/* The one way out. Carrier and session are over, or are being closed by the caller. */
static void line_over(struct link_line *line, enum reason why, bool reached, const char *detail)
{
	struct agent *a = line->link->agent;
	enum line_state before = line->state;

	if (before == LINE_OVER)
		return;
	set_state(line, LINE_OVER);
	timer_cancel(a->worker, &line->timer);
	*line->prevp = line->next;
	if (line->next)
		line->next->prevp = line->prevp;
	link_ended(line, before == LINE_RETIRING, why, reached, detail);
	worker_reap(a->worker, &line->reapable);
	agent_check_over(a);
}

void link_line_close(struct link_line *line)
{
	if (line->session) {
		session_close(line->session, REASON_SHUTDOWN, "this agent is shutting down");
		return;
	}
	carrier_cancel(line->carrier);
	line->carrier = NULL;
	line_over(line, REASON_SHUTDOWN, false, "given up: this agent is shutting down");
}

/* ---- hello ---- */

static void on_hello_timer(struct timer *t)
{
	struct link_line *line =
		(struct link_line *)((char *)t - offsetof(struct link_line, timer));

	session_close(line->session, REASON_HANDSHAKE_TIMEOUT,
		      line->greeted ? "the relay did not say in time whether it takes this agent"
				    : "no hello came in time; is this a relay's tunnel door?");
}

static int fill_hello(const struct link_line *line, const char *token, struct fields *f)
{
	const struct link *l = line->link;
	const struct serve *v = &l->agent->serve;
	struct hello h = { .token = token,
			   .generation = agent_next_generation(l->agent),
			   .question = line->asking };

	snprintf(h.instance, sizeof(h.instance), "%s", l->instance);
	for (; h.n_offers < v->n_offers && h.n_offers < HELLO_SERVICES_MAX; h.n_offers++) {
		const struct offer_config *o = v->offers[h.n_offers]->config;

		snprintf(h.offers[h.n_offers].name, HELLO_LABEL_MAX, "%s", o->name);
		h.offers[h.n_offers].eager = o->dial == DIAL_EAGER;
	}
	return hello_encode(&h, f);
}

void link_line_answer(struct link_line *line)
{
	const char *path = line->setup->config->token_file;
	char token[TOKEN_TEXT_MAX], *why = NULL;
	struct fields fields;
	bool exposed;
	int r = 0;

	line->held = false;
	line->greeted = true;
	if (path) /* or the certificate says whose this agent is */
		r = token_read_file(path, token, &exposed, &why);
	if (r < 0) { /* the other carrier would not help */
		session_close(line->session, REASON_BAD_CREDENTIAL, why ? why : "out of memory");
		free(why);
		return;
	}
	fields_init(&fields);
	r = fill_hello(line, path ? token : NULL, &fields);
	if (r == 0)
		session_reply(line->session, line->hello, 200, &fields);
	else
		session_close(line->session, REASON_INTERNAL, strerror(-r));
	if (path)
		token_wipe(token);
	explicit_bzero(&fields, sizeof(fields));
	timer_set(line->link->agent->worker, &line->timer, HELLO_ANSWER_MS, on_hello_timer);
}

static void on_hello(struct link_line *line, int32_t id)
{
	if (line->hello || line->state != LINE_HELLO) {
		session_close(line->session, REASON_PROTOCOL, "the relay said hello twice");
		return;
	}
	line->hello = id;
	link_greeted(line);
}

static void on_accepted(struct link_line *line, const struct fields *fields)
{
	char why[HELLO_WHY_MAX];
	struct hello_accepted a;

	if (!line->greeted || line->state != LINE_HELLO) {
		session_close(line->session, REASON_PROTOCOL, "acceptance came out of turn");
	} else if (hello_decode_accepted(&a, fields, why) < 0) {
		session_close(line->session, REASON_PROTOCOL, why);
	} else if (line->asking) {
		link_agreed(line); /* the relay ends it now */
	} else {
		memcpy(line->owner, a.owner, sizeof(line->owner));
		link_accepted(line, &a);
	}
}

static void on_refused(struct link_line *line, const struct fields *fields)
{
	struct hello_refused r;

	hello_decode_refused(&r, fields);
	if (line->asking && r.reason == HELLO_PROTOCOL) { /* it may not know the question */
		link_agreed(line);
		return;
	}
	line->refused = line->state == LINE_HELLO;
	line->refusal = r.reason;
	snprintf(line->detail, sizeof(line->detail),
		 "the relay %.150s refuses this agent (%s)%s%.300s", line->link->text,
		 hello_refusal_word(r.reason), *r.message ? ": " : "", r.message);
	if (!line->refused) /* what it had accepted is taken back */
		log_warning("%s", line->detail);
	/* it closes the session; if not, the timer does */
}

/* ---- the session ---- */

static enum reason on_accept(struct session *s, struct conduit *stream, const char *service,
			     const struct client_words *words)
{
	struct link_line *line = session_user(s);

	if (line->state != LINE_UP && line->state != LINE_RETIRING)
		return REASON_GOING_AWAY;
	return serve_accept(&line->link->agent->serve, stream, service, line->owner,
			    line->link->text, words);
}

static void on_request(struct session *s, int32_t id, const char *path, const struct fields *f)
{
	struct link_line *line = session_user(s);

	if (strcmp(path, HELLO_PATH) == 0) {
		on_hello(line, id);
	} else if (strcmp(path, HELLO_PATH_ACCEPTED) == 0) {
		session_reply(s, id, 204, NULL);
		on_accepted(line, f);
	} else if (strcmp(path, HELLO_PATH_REFUSED) == 0) {
		session_reply(s, id, 204, NULL);
		on_refused(line, f);
	} else if (strcmp(path, HELLO_PATH_MOVE) == 0) {
		session_reply(s, id, 204, NULL);
		link_move(line, hello_decode_move(f));
	} else {
		session_reply(s, id, 404, NULL);
	}
}

static void on_goaway(struct session *s)
{
	link_goaway(session_user(s));
}

static void on_retired(struct session *s)
{
	link_heard(session_user(s));
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct link_line *line = session_user(s);

	line->session = NULL;
	line_over(line, why, true, detail);
}

static const struct session_events session_events = {
	.accept = on_accept,
	.request = on_request,
	.goaway = on_goaway,
	.retired = on_retired,
	.end = on_end,
};

/* ---- the way there ---- */

static void on_connected(void *user)
{
	set_state(user, LINE_HANDSHAKING);
}

static void on_carrier(void *user, struct conduit *c, enum reason why, bool reached,
		       const char *detail)
{
	struct link_line *line = user;
	const struct tunnel_config *config = line->setup->config;
	const struct session_limits limits = {
		.peer = SESSION_PEER_RELAY,
		.streams = (uint32_t)config->limits.streams,
		.stream_window = (uint32_t)config->limits.stream_window,
		.session_window = (uint32_t)config->limits.session_window,
		.ping_ms = config->timeouts.ping,
		.dead_ms = config->timeouts.dead,
	};

	line->carrier = NULL;
	if (!c) {
		line_over(line, why, reached, detail);
		return;
	}
	line->session = session_new(c, SESSION_SERVER, &limits, &session_events, line);
	if (!line->session) {
		line_over(line, REASON_NO_MEMORY, false, "out of memory");
		return;
	}
	set_state(line, LINE_HELLO);
	timer_set(line->link->agent->worker, &line->timer, HELLO_ANSWER_MS, on_hello_timer);
}

static const struct carrier_events carrier_events = {
	.connected = on_connected,
	.done = on_carrier,
};

struct link_line *link_line_open(struct link *l, enum carrier_kind kind, const char *first_failure)
{
	struct agent *a = l->agent;
	struct link_line *line = calloc(1, sizeof(*line));

	if (!line)
		return NULL;
	line->link = l;
	line->setup = l->setup;
	line->wave = a->wave;
	line->kind = kind;
	line->second = first_failure != NULL;
	snprintf(line->detail, sizeof(line->detail), "%s", first_failure ? first_failure : "");
	line->reapable.free = line_free;
	line->carrier =
		carrier_open(&l->setup->carrier, kind, l->address, l->name, &carrier_events, line);
	if (!line->carrier) {
		free(line);
		return NULL;
	}
	l->holders++;
	setup_ref(line->setup);
	line->next = a->lines;
	line->prevp = &a->lines;
	if (line->next)
		line->next->prevp = &line->next;
	a->lines = line;
	log_debug("%s (%s): connecting", l->text, carrier_kind_text(kind));
	return line;
}
