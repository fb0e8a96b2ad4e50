/*
 * link: one relay, one session up, whatever happens.
 *
 * Theory of operation. A line (link_line.h) is the link's pending one until it is up, then its
 * active one; retiring lines belong to nobody and end by themselves. The link has one rule: it
 * needs a session when there is no active line, or when the relay asked for a fresh one (moving);
 * then a line is pending, or the timer is set (waiting). So a successor beside a live session and a
 * reconnection after a loss are the same thing.
 *
 * After a reload that changes what is offered, or as whom, the active line is of an older wave: the
 * same again, but that the relay has not asked for it. link_greeted says in which order that loses
 * nobody.
 *
 * Transport auto: a line that reached something but never heard a hello is followed at once by one
 * over the other carrier; only when both have failed is there a wait. What came up is tried first
 * the next time.
 *
 * What is said: a failure for all to see the first time, then at debug until it changes or
 * LINK_REMIND_MS have passed, so an unattended agent does not fill a disk.
 */
#include "tunnel/link.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/log.h"
#include "tunnel/agent.h"
#include "tunnel/egress.h"
#include "tunnel/serve.h"
#include "tunnel/session.h"
#include "tunnel/setup.h"

#define LINK_REMIND_MS (10 * 60 * 1000)
#define LINK_RETIRING_MAX 8 /* lines at a time: 16 tunnels may an owner have, if nothing is set */

static uint64_t now_of(const struct link *l)
{
	return worker_now(l->agent->worker);
}

static bool is_ending(const struct link *l)
{
	return l->agent->stopping || l->left;
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

/* ---- retiring ---- */

static unsigned retiring_lines(const struct link *l, struct link_line **oldest)
{
	unsigned n = 0;

	for (struct link_line *line = l->agent->lines; line; line = line->next)
		if (line->link == l && line->state == LINE_RETIRING) {
			*oldest = line;
			n++;
		}
	return n;
}

/* A successor must not wait for streams of long ago: one line too many ends the oldest. */
static void retire(struct link_line *line)
{
	struct link_line *oldest = NULL;
	const unsigned before = retiring_lines(line->link, &oldest);

	link_line_retiring(line);
	if (before < LINK_RETIRING_MAX)
		return;
	log_warning("%s: %u sessions of before still had streams: the oldest is ended with its own",
		    line->link->text, before);
	session_close(oldest->session, REASON_LIMIT, "too many sessions of this agent retire");
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

static enum carrier_kind other(enum carrier_kind kind)
{
	return kind == CARRIER_DIRECT ? CARRIER_WEBSOCKET : CARRIER_DIRECT;
}

static void connect_by(struct link *l, enum carrier_kind kind, const char *first_failure)
{
	l->pending = link_line_open(l, kind, first_failure);
	if (!l->pending)
		wait_for(l, BACKOFF_CAP_MS); /* out of memory: later */
}

static void attempt_refused(struct link *l, const struct link_line *line)
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
static void describe(const struct link_line *line, bool reached, const char *detail,
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

static void attempt_failed(struct link *l, const struct link_line *line, bool reached,
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
static void lost(struct link *l, const struct link_line *line, enum reason why, const char *detail)
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

/* The session before it is over, or the relay knows that it retires. */
static void release_held(struct link *l)
{
	if (l->pending && l->pending->held && (!l->active || l->active->heard))
		link_line_answer(l->pending);
}

static void active_over(struct link *l, const struct link_line *line, bool retiring,
			enum reason why, const char *detail)
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

static void pending_over(struct link *l, const struct link_line *line, bool reached,
			 const char *detail)
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

void link_ended(struct link_line *line, bool retiring, enum reason why, bool reached,
		const char *detail)
{
	struct link *l = line->link;

	if (line == l->active)
		active_over(l, line, retiring, why, detail);
	else if (line == l->pending)
		pending_over(l, line, reached, detail);
	else
		log_debug("%s: retired session ended: %s (%s)", l->text, detail, reason_word(why));
}

/* ---- hello ---- */

/*
 * The relay would close the session that there is at once, with its streams, for one of the same
 * instance: unless it has asked for that itself, or that one retires. So first it is asked whether
 * it would have the new one, on a connection of its own; then the old one is retired; and when the
 * relay knows, it hears the hello. Clients that come in between wait there.
 */
void link_greeted(struct link_line *line)
{
	struct link *l = line->link;
	struct link_line *active = l->active;

	if (!active || (l->moving && active->state == LINE_UP)) {
		link_line_answer(line);
	} else if (active->state == LINE_UP && l->agreed != line->wave) {
		line->asking = true;
		link_line_answer(line);
	} else {
		line->held = true;
		if (active->state == LINE_UP) {
			retire(active);
			session_retire(active->session);
		}
		release_held(l);
	}
}

/* This line takes over: what was active until now is the relay's to retire. */
static void promote(struct link_line *line)
{
	struct link *l = line->link;

	if (l->active && l->active->state == LINE_UP)
		retire(l->active);
	l->active = line;
	l->pending = NULL;
	l->moving = false;
	l->refused = false;
	l->kind = line->kind;
	l->said[0] = '\0';
	l->sessions++;
	link_line_up(line);
	changed(l);
	if (!is_current(l)) /* there was a reload meanwhile */
		wait_for(l, 0);
}

void link_accepted(struct link_line *line, const struct hello_accepted *a)
{
	struct link *l = line->link;
	char list[256] = "";
	size_t used = 0;

	for (unsigned i = 0; i < a->n_services && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "",
					 a->services[i]);
	promote(line);
	log_info("connected to %s over %s%s%s as %s: %s", l->text, carrier_kind_text(line->kind),
		 l->proxy ? " through the proxy " : "", l->proxy ? l->proxy->text : "", a->owner,
		 list);
	if (a->n_services < l->agent->serve.n_offers)
		log_warning("%s accepted %u of the %u services offered; its operator decides which",
			    l->text, a->n_services, l->agent->serve.n_offers);
}

void link_agreed(struct link_line *line)
{
	line->link->agreed = line->wave;
	line->agreed = true;
}

/* ---- moving ---- */

/* However many retire: a relay asks once, and new clients must not be left to one that ends. */
void link_move(struct link_line *line, enum hello_move why)
{
	struct link *l = line->link;

	if (line != l->active || is_ending(l))
		return; /* a successor is there already, or none is wanted */
	if (l->agent->spec->once && why == HELLO_MOVE_DRAIN)
		return; /* to be connected elsewhere would be twice: it ends with this relay */
	if (!l->moving)
		log_info("%s asks for a fresh session (%s)", l->text, hello_move_word(why));
	l->moving = true;
	if (!timer_is_set(&l->timer))
		link_connect(l);
}

void link_goaway(struct link_line *line)
{
	struct link *l = line->link;

	if (line == l->active && line->state == LINE_RETIRING) {
		line->heard = true;
		release_held(l);
	}
	if (line != l->active || line->state != LINE_UP)
		return;
	l->active = NULL;
	retire(line);
	lost(l, line, REASON_GOING_AWAY, "the relay takes no new streams");
	changed(l);
}

void link_heard(struct link_line *line)
{
	line->heard = true;
	if (line == line->link->active)
		release_held(line->link);
}

/* ---- connecting ---- */

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
	for (struct link_line *line = l->agent->lines; line; line = line->next)
		if (line->link == l && line->state >= LINE_UP)
			session_retire(line->session);
	if (l->pending)
		link_line_close(l->pending);
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
