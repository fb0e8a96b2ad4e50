/*
 * link: one relay, one session up, whatever happens.
 *
 * Theory of operation. A line goes through
 *
 *   connecting -> handshaking -> hello -> up -> retiring -> over
 *
 * and may be over from any of them. It is the link's pending line until it is up, then its active
 * one; retiring lines belong to nobody and end by themselves. The link has one rule: it needs a
 * session when there is no active line, or when the relay asked for a fresh one (moving); then a
 * line is pending, or the timer is set (waiting). So a successor beside a live session and a
 * reconnection after a loss are the same thing.
 *
 * After a reload that changes what is offered, or as whom, the active line is of an older wave: the
 * same again, but that the relay has not asked for it. on_hello says in which order that loses
 * nobody. A line keeps the setup that it was begun with.
 *
 * Transport auto: a line that reached something but never heard a hello is followed at once by one
 * over the other carrier; only when both have failed is there a wait. What came up is tried first
 * the next time.
 *
 * What is said: a failure for all to see the first time, then at debug until it changes or
 * LINK_REMIND_MS have passed, so an unattended agent does not fill a disk.
 *
 * Ownership: a line owns its carrier, then its session; it is freed by the reaper after line_over,
 * which is the one way out. The token is read for each hello, and wiped when it is on its way.
 *
 * Longer than other files: its two state machines, link and line, act on each other everywhere.
 */
#include "tunnel/link.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/conduit.h"
#include "relay/log.h"
#include "relay/token.h"
#include "tunnel/agent.h"
#include "tunnel/egress.h"
#include "tunnel/serve.h"
#include "tunnel/session.h"
#include "tunnel/setup.h"

#define LINK_REMIND_MS (10 * 60 * 1000)
#define LINK_RETIRING_MAX 16 /* lines at a time; more moves than that are not followed */

static const char *const state_words[] = {
	[LINE_CONNECTING] = "connecting", [LINE_HANDSHAKING] = "handshaking",
	[LINE_HELLO] = "hello",           [LINE_UP] = "up",
	[LINE_RETIRING] = "retiring",     [LINE_OVER] = "over",
};
_Static_assert(sizeof(state_words) / sizeof(*state_words) == LINE_STATES, "a word for each state");

static const struct session_events session_events;
static const struct carrier_events carrier_events;

static uint64_t now_of(const struct link *l)
{
	return worker_now(l->agent->worker);
}

static bool is_ending(const struct link *l)
{
	return l->agent->stopping || l->left;
}

static void set_state(struct line *line, enum line_state to)
{
	log_debug("%s (%s): %s -> %s", line->link->text, carrier_kind_text(line->kind),
		  state_words[line->state], state_words[to]);
	line->state = to;
}

static void changed(struct link *l)
{
	if (l->agent->spec->changed)
		l->agent->spec->changed(l->agent);
}

/* For all to see, or only at debug if this is what was said last. wait_ms 0: no next try. */
static void complain(struct link *l, enum log_level level, uint64_t wait_ms, const char *text)
{
	bool again = strcmp(l->said, text) == 0 && now_of(l) - l->said_at < LINK_REMIND_MS;

	if (again)
		level = LOG_LEVEL_DEBUG;
	if (wait_ms)
		log_fields(level, NULL, 0, "%s; next try in %" PRIu64 ".%" PRIu64 " s", text,
			   wait_ms / 1000, wait_ms % 1000 / 100);
	else
		log_fields(level, NULL, 0, "%s", text);
	if (again)
		return;
	snprintf(l->said, sizeof(l->said), "%s", text);
	l->said_at = now_of(l);
}

/* ---- waiting ---- */

static void on_retry_timer(struct timer *t)
{
	link_connect((struct link *)((char *)t - offsetof(struct link, timer)));
}

/* There is a session, and it was made for what is offered now, as who we are now. */
static bool is_current(const struct link *l)
{
	return l->active && l->active->state == LINE_UP && l->active->wave == l->agent->wave;
}

static bool needs_session(const struct link *l)
{
	return !is_ending(l) && !l->finished && !l->pending && (!is_current(l) || l->moving);
}

/* With once there is no next try: the link is done as soon as its lines are. */
static bool give_up(struct link *l)
{
	if (l->agent->spec->once && !l->active)
		l->finished = true;
	return is_ending(l) || l->agent->spec->once;
}

static void wait_for(struct link *l, uint64_t ms)
{
	if (ms)
		log_debug("%s: waiting %" PRIu64 " ms", l->text, ms);
	timer_set(l->agent->worker, &l->timer, ms, on_retry_timer);
}

/* ---- a line's end ---- */

static void line_free(struct reapable *r)
{
	struct line *line = (struct line *)((char *)r - offsetof(struct line, reapable));

	link_unref(line->link);
	setup_unref(line->setup);
	free(line);
}

static enum carrier_kind other(enum carrier_kind kind)
{
	return kind == CARRIER_DIRECT ? CARRIER_WEBSOCKET : CARRIER_DIRECT;
}

static void connect_by(struct link *l, enum carrier_kind kind, const char *first_failure);

static void attempt_refused(struct link *l, const struct line *line)
{
	bool lasting = hello_refusal_is_lasting(line->refusal), done;
	char text[LINK_DETAIL_MAX];
	uint64_t wait = lasting ? backoff_refused(agent_random())
				: backoff_next(&l->backoff, now_of(l), agent_random());

	agent_failed(l->agent, lasting ? AGENT_REFUSED : AGENT_FAILED);
	l->refused = lasting;
	l->kind = line->kind; /* it got through */
	l->failures++;
	done = give_up(l);
	if (line->asking && l->active)
		snprintf(text, sizeof(text),
			 "%.600s; until then the session goes on that it has "
			 "accepted, with the services of before",
			 line->detail);
	else
		snprintf(text, sizeof(text), "%s", line->detail);
	complain(l, lasting ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING, done ? 0 : wait, text);
	if (!done)
		wait_for(l, wait);
}

/* What to say about an attempt: where, as whom if that was set by hand, what happened. */
static void describe(const struct line *line, bool reached, const char *detail,
		     char text[LINK_DETAIL_MAX])
{
	const struct link *l = line->link;
	char where[400];

	snprintf(where, sizeof(where), "%.150s%s%.80s%s%.120s", l->text, l->named ? ", as " : "",
		 l->named ? l->name : "", l->proxy ? ", through the proxy " : "",
		 l->proxy ? l->proxy->text : "");
	if (line->second && strcmp(line->detail, detail) != 0)
		snprintf(text, LINK_DETAIL_MAX,
			 "cannot connect to the relay %.380s: %s: %.150s; %s: %.150s", where,
			 carrier_kind_text(other(line->kind)), line->detail,
			 carrier_kind_text(line->kind), detail);
	else if (reached)
		snprintf(text, LINK_DETAIL_MAX, "cannot connect to the relay %.380s: %.240s", where,
			 detail);
	else /* it names the address */
		snprintf(text, LINK_DETAIL_MAX, "cannot connect to the relay: %.700s", detail);
}

static void attempt_failed(struct link *l, const struct line *line, bool reached,
			   const char *detail)
{
	char text[LINK_DETAIL_MAX];
	uint64_t wait;
	bool done;

	if (line->setup->config->transport == TRANSPORT_AUTO && reached && !line->second &&
	    !line->greeted) {
		log_debug("%s (%s): %s", l->text, carrier_kind_text(line->kind), detail);
		connect_by(l, other(line->kind), detail);
		return;
	}
	describe(line, reached, detail, text);
	agent_failed(l->agent, AGENT_FAILED);
	l->failures++;
	wait = backoff_next(&l->backoff, now_of(l), agent_random());
	done = give_up(l);
	complain(l, LOG_LEVEL_WARNING, done ? 0 : wait, text);
	if (!done)
		wait_for(l, wait);
}

static bool is_orderly(enum reason why)
{
	return why == REASON_EOF || why == REASON_GOING_AWAY || why == REASON_REPLACED ||
	       why == REASON_SHUTDOWN;
}

/* The active line ended, or takes no new streams any more, and there is no successor. */
static void lost(struct link *l, const struct line *line, enum reason why, const char *detail)
{
	uint64_t up = now_of(l) - line->up_since, wait;

	l->losses++;
	if (!is_orderly(why))
		agent_failed(l->agent, AGENT_FAILED);
	if (give_up(l)) {
		log_fields(is_ending(l) ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, NULL, 0,
			   "connection to %s ended: %s (%s)", l->text, detail, reason_word(why));
		return;
	}
	backoff_lost(&l->backoff, now_of(l), up);
	if (l->pending || (timer_is_set(&l->timer) && l->refused)) { /* nothing to do sooner */
		log_info("connection to %s lost: %s (%s)", l->text, detail, reason_word(why));
		return;
	}
	/* a wait that began while the relay drained may be too long for one that restarts */
	wait = backoff_next(&l->backoff, now_of(l), agent_random());
	log_warning("connection to %s lost after %" PRIu64 " s: %s (%s); next try in %" PRIu64
		    ".%" PRIu64 " s%s",
		    l->text, up / 1000, detail, reason_word(why), wait / 1000, wait % 1000 / 100,
		    is_orderly(why) && l->backoff.attempts > 4
			    ? "; if this goes on, another agent may be using the same instance "
			      "name: give each its own --instance"
			    : "");
	wait_for(l, wait);
}

static void answer_hello(struct line *line);

/* The session before it is over, or the relay knows that it retires. */
static void release_held(struct link *l)
{
	if (l->pending && l->pending->held && (!l->active || l->active->heard))
		answer_hello(l->pending);
}

static void active_over(struct link *l, const struct line *line, bool retiring, enum reason why,
			const char *detail)
{
	l->active = NULL;
	if (retiring)
		log_debug("%s: retired session ended: %s (%s)", l->text, detail, reason_word(why));
	else
		lost(l, line, why, detail);
	if (!timer_is_set(&l->timer))
		link_connect(l);
	release_held(l);
	changed(l);
}

static void pending_over(struct link *l, const struct line *line, bool reached, const char *detail)
{
	l->pending = NULL;
	if (is_ending(l))
		log_debug("%s: %s", l->text, detail);
	else if (line->agreed)
		link_connect(l);
	else if (line->refused)
		attempt_refused(l, line);
	else
		attempt_failed(l, line, reached, detail);
}

/* The one way out. Carrier and session are over, or are being closed by the caller. */
static void line_over(struct line *line, enum reason why, bool reached, const char *detail)
{
	struct link *l = line->link;
	struct agent *a = l->agent;
	enum line_state before = line->state;

	if (before == LINE_OVER)
		return;
	set_state(line, LINE_OVER);
	timer_cancel(a->worker, &line->timer);
	*line->prevp = line->next;
	if (line->next)
		line->next->prevp = line->prevp;
	if (line == l->active)
		active_over(l, line, before == LINE_RETIRING, why, detail);
	else if (line == l->pending)
		pending_over(l, line, reached, detail);
	else
		log_debug("%s: retired session ended: %s (%s)", l->text, detail, reason_word(why));
	worker_reap(a->worker, &line->reapable);
	agent_check_over(a);
}

void line_close(struct line *line)
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
	struct line *line = (struct line *)((char *)t - offsetof(struct line, timer));

	session_close(line->session, REASON_HANDSHAKE_TIMEOUT,
		      line->greeted ? "the relay did not say in time whether it takes this agent"
				    : "no hello came in time; is this a relay's tunnel door?");
}

static int fill_hello(const struct line *line, const char *token, struct fields *f)
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

static void answer_hello(struct line *line)
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

/*
 * The relay would close the session that there is at once, with its streams, for one of the same
 * instance: unless it has asked for that itself, or that one retires. So first it is asked whether
 * it would have the new one, on a connection of its own; then the old one is retired; and when the
 * relay knows, it hears the hello. Clients that come in between wait there.
 */
static void on_hello(struct line *line, int32_t id)
{
	struct link *l = line->link;
	struct line *active = l->active;

	if (line->hello || line->state != LINE_HELLO) {
		session_close(line->session, REASON_PROTOCOL, "the relay said hello twice");
		return;
	}
	line->hello = id;
	if (!active || (l->moving && active->state == LINE_UP)) {
		answer_hello(line);
	} else if (active->state == LINE_UP && l->agreed != line->wave) {
		line->asking = true;
		answer_hello(line);
	} else {
		line->held = true;
		if (active->state == LINE_UP) {
			set_state(active, LINE_RETIRING);
			session_retire(active->session);
		}
		release_held(l);
	}
}

/* This line takes over: what was active until now is the relay's to retire. */
static void promote(struct line *line)
{
	struct link *l = line->link;

	if (l->active && l->active->state == LINE_UP)
		set_state(l->active, LINE_RETIRING);
	l->active = line;
	l->pending = NULL;
	l->moving = false;
	l->refused = false;
	l->kind = line->kind;
	l->said[0] = '\0';
	l->sessions++;
	line->up_since = now_of(l);
	timer_cancel(l->agent->worker, &line->timer);
	set_state(line, LINE_UP);
	changed(l);
	if (!is_current(l)) /* there was a reload meanwhile */
		wait_for(l, 0);
}

static void on_accepted(struct line *line, const struct fields *fields)
{
	struct link *l = line->link;
	char why[HELLO_WHY_MAX], list[256] = "";
	struct hello_accepted a;
	size_t used = 0;

	if (!line->greeted || line->state != LINE_HELLO) {
		session_close(line->session, REASON_PROTOCOL, "acceptance came out of turn");
		return;
	}
	if (hello_decode_accepted(&a, fields, why) < 0) {
		session_close(line->session, REASON_PROTOCOL, why);
		return;
	}
	if (line->asking) {
		l->agreed = line->wave;
		line->agreed = true; /* the relay ends it now */
		return;
	}
	for (unsigned i = 0; i < a.n_services && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
					 a.services[i]);
	memcpy(line->owner, a.owner, sizeof(line->owner));
	promote(line);
	log_info("connected to %s over %s%s%s as %s: %s", l->text, carrier_kind_text(line->kind),
		 l->proxy ? " through the proxy " : "", l->proxy ? l->proxy->text : "", a.owner,
		 list);
	if (a.n_services < l->agent->serve.n_offers)
		log_warning("%s accepted %u of the %u services offered; its operator decides which",
			    l->text, a.n_services, l->agent->serve.n_offers);
}

static void on_refused(struct line *line, const struct fields *fields)
{
	struct hello_refused r;

	hello_decode_refused(&r, fields);
	if (line->asking && r.reason == HELLO_PROTOCOL) { /* it may not know the question */
		line->link->agreed = line->wave;
		line->agreed = true;
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

/* ---- moving ---- */

static unsigned retiring_lines(const struct link *l)
{
	unsigned n = 0;

	for (const struct line *line = l->agent->lines; line; line = line->next)
		n += line->link == l && line->state == LINE_RETIRING;
	return n;
}

static int on_move(struct line *line, const struct fields *fields)
{
	const enum hello_move why = hello_decode_move(fields);
	struct link *l = line->link;

	if (line != l->active || is_ending(l))
		return 204; /* a successor is there already, or none is wanted */
	if (l->agent->spec->once && why == HELLO_MOVE_DRAIN)
		return 204; /* to be connected elsewhere would be twice: it ends with this relay */
	if (retiring_lines(l) >= LINK_RETIRING_MAX)
		return 503;
	if (!l->moving)
		log_info("%s asks for a fresh session (%s)", l->text, hello_move_word(why));
	l->moving = true;
	if (!timer_is_set(&l->timer))
		link_connect(l);
	return 204;
}

/* ---- session events ---- */

static enum reason on_accept(struct session *s, struct conduit *stream, const char *service,
			     const struct client_words *words)
{
	struct line *line = session_user(s);

	if (line->state != LINE_UP && line->state != LINE_RETIRING)
		return REASON_GOING_AWAY;
	return serve_accept(&line->link->agent->serve, stream, service, line->owner,
			    line->link->text, words);
}

static void on_request(struct session *s, int32_t id, const char *path, const struct fields *f)
{
	struct line *line = session_user(s);

	if (strcmp(path, HELLO_PATH) == 0) {
		on_hello(line, id);
	} else if (strcmp(path, HELLO_PATH_ACCEPTED) == 0) {
		session_reply(s, id, 204, NULL);
		on_accepted(line, f);
	} else if (strcmp(path, HELLO_PATH_REFUSED) == 0) {
		session_reply(s, id, 204, NULL);
		on_refused(line, f);
	} else if (strcmp(path, HELLO_PATH_MOVE) == 0) {
		session_reply(s, id, on_move(line, f), NULL);
	} else {
		session_reply(s, id, 404, NULL);
	}
}

static void on_goaway(struct session *s)
{
	struct line *line = session_user(s);
	struct link *l = line->link;

	if (line == l->active && line->state == LINE_RETIRING) {
		line->heard = true;
		release_held(l);
	}
	if (line != l->active || line->state != LINE_UP)
		return;
	l->active = NULL;
	set_state(line, LINE_RETIRING);
	lost(l, line, REASON_GOING_AWAY, "the relay takes no new streams");
	changed(l);
}

static void on_retired(struct session *s)
{
	struct line *line = session_user(s);

	line->heard = true;
	if (line == line->link->active)
		release_held(line->link);
}

static void on_end(struct session *s, enum reason why, const char *detail)
{
	struct line *line = session_user(s);

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

/* ---- connecting ---- */

static void on_connected(void *user)
{
	set_state(user, LINE_HANDSHAKING);
}

static void on_carrier(void *user, struct conduit *c, enum reason why, bool reached,
		       const char *detail)
{
	struct line *line = user;
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

static void connect_by(struct link *l, enum carrier_kind kind, const char *first_failure)
{
	struct agent *a = l->agent;
	struct line *line = calloc(1, sizeof(*line));

	if (line) {
		line->link = l;
		line->setup = l->setup;
		line->wave = a->wave;
		line->kind = kind;
		line->second = first_failure != NULL;
		snprintf(line->detail, sizeof(line->detail), "%s",
			 first_failure ? first_failure : "");
		line->reapable.free = line_free;
		line->carrier = carrier_open(&l->setup->carrier, kind, l->address, l->name,
					     &carrier_events, line);
	}
	if (!line || !line->carrier) {
		free(line);
		wait_for(l, BACKOFF_CAP_MS); /* out of memory: later */
		return;
	}
	l->holders++;
	setup_ref(line->setup);
	line->next = a->lines;
	line->prevp = &a->lines;
	if (line->next)
		line->next->prevp = &line->next;
	a->lines = line;
	l->pending = line;
	log_debug("%s (%s): connecting", l->text, carrier_kind_text(kind));
}

void link_connect(struct link *l)
{
	timer_cancel(l->agent->worker, &l->timer);
	if (needs_session(l))
		connect_by(l, l->kind, NULL);
}

void link_retry(struct link *l, bool refused_too)
{
	if (!needs_session(l) || (l->refused && !refused_too))
		return;
	backoff_hope(&l->backoff, now_of(l));
	link_connect(l);
}

void link_stop(struct link *l)
{
	timer_cancel(l->agent->worker, &l->timer);
	for (struct line *line = l->agent->lines; line; line = line->next)
		if (line->link == l && line->state >= LINE_UP)
			session_retire(line->session);
	if (l->pending)
		line_close(l->pending);
}

void link_name_instance(char out[HELLO_INSTANCE_MAX], const char *instance, unsigned index)
{
	char suffix[16] = "";

	if (index > 0)
		snprintf(suffix, sizeof(suffix), ".%u", index + 1);
	snprintf(out, HELLO_INSTANCE_MAX, "%.*s%s", (int)(HELLO_INSTANCE_MAX - 1 - strlen(suffix)),
		 instance, suffix);
}

void link_follow(struct link *l, unsigned index)
{
	const struct tunnel_config *config = l->agent->setup->config;

	setup_ref(l->agent->setup);
	setup_unref(l->setup);
	l->setup = l->agent->setup;
	l->address = &config->relays.at[index];
	l->named = config->server_name;
	l->name = config->server_name ? config->server_name : l->address->name;
	if (config->transport != TRANSPORT_AUTO)
		l->kind = config->transport == TRANSPORT_WEBSOCKET ? CARRIER_WEBSOCKET
								   : CARRIER_DIRECT;
	l->proxy = egress_to(l->setup->carrier.egress, l->address);
	address_format(l->address, l->text, sizeof(l->text));
}

struct link *link_new(struct agent *a, unsigned index, unsigned place)
{
	struct link *l = xcalloc(1, sizeof(*l));

	l->holders = 1;
	l->agent = a;
	l->place = place;
	link_follow(l, index);
	link_name_instance(l->instance, a->spec->instance, place);
	wait_for(l, 0);
	return l;
}

void link_leave(struct link *l)
{
	log_info("%s is a relay of this agent no more", l->text);
	l->left = true; /* so that what is given up is not tried again */
	link_stop(l);
	link_unref(l);
}

void link_unref(struct link *l)
{
	if (--l->holders > 0)
		return;
	setup_unref(l->setup);
	free(l);
}
