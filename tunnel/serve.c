/*
 * serve: from a stream of a tunnel to a local service.
 *
 * Theory of operation, per stream:
 *
 *   waiting   lazy only: answered, READY_READ wanted; the offer's idle time bounds it
 *   dialling  the service is being dialled, READY_ABORT wanted; bytes stay unread in the stream
 *   joined    a splice owns both conduits; its end is ours
 *
 * The first byte is only seen, not taken: the splice finds it where it lies. An end without a byte
 * before it is passed on like any other: a client may send nothing, say so, and still be owed an
 * answer. A stream that aborts before it is joined is closed, and its dial is cancelled.
 *
 * What the relay says of the client goes into the log; and to a service that asks for it, in a
 * PROXY header before all else.
 *
 * One line per stream at its end, with all its facts as fields. Ownership: waiting and dialling own
 * the stream conduit; joining hands it to the splice. Limit: limits.streams of the config, over all
 * sessions; what is over it is refused, which the relay sees as REFUSED_STREAM.
 *
 * A reload makes all offers anew; streams keep theirs, and those of one name share their counts.
 *
 * Longer than other files: a reload has to look at streams in each of their states.
 */
#include "tunnel/serve.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/client.h"
#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/log.h"
#include "relay/timer.h"
#include "relay/worker.h"
#include "tunnel/hello.h"
#include "tunnel/session.h"
#include "tunnel/setup.h"

#define RELAY_MAX 128 /* of a relay's address; a longer one is cut */
#define ID_MAX 24     /* of the relay's number for a stream: 20 digits; a longer one is cut */

struct serve_stream {
	struct serve *serve;
	struct serve_offer *offer;
	struct conduit *stream;             /* waiting, dialling; NULL: joined */
	struct dial *dial;                  /* dialling */
	struct splice *splice;              /* joined */
	struct serve_stream *next, **prevp; /* in serve->streams, or joined */
	struct timer timer;
	struct reapable reapable;
	uint64_t since;
	uint8_t *header; /* to the service, before all else; NULL: none, or it has gone */
	size_t header_len;
	uint64_t dialled;        /* when; worker_now, as since */
	uint64_t counted[SIDES]; /* bytes that its offer's counts have */
	struct peer client;      /* as the relay says; family 0: it does not */
	char *rule, *names;      /* what the relay has verified of the client; NULL: nothing */
	uint64_t number;         /* ours */
	char id[ID_MAX];
	char relay[RELAY_MAX], owner[HELLO_LABEL_MAX]; /* who has asked for it, of whom */
};

static void list(struct serve_stream **head, struct serve_stream *st)
{
	st->next = *head;
	st->prevp = head;
	if (st->next)
		st->next->prevp = &st->next;
	*head = st;
}

static void unlist(struct serve_stream *st)
{
	if (!st->prevp)
		return;
	*st->prevp = st->next;
	if (st->next)
		st->next->prevp = st->prevp;
	st->prevp = NULL;
}

static void offer_unref(struct serve_offer *o)
{
	if (--o->holders > 0)
		return;
	if (--o->counts->holders == 0)
		free(o->counts);
	setup_unref(o->setup);
	free(o);
}

static void stream_free(struct reapable *r)
{
	struct serve_stream *st =
		(struct serve_stream *)((char *)r - offsetof(struct serve_stream, reapable));

	offer_unref(st->offer);
	free(st->header);
	free(st->rule);
	free(st->names);
	free(st);
}

/* The stream is over, or never was. Its conduit is closed or handed on already. */
static void stream_over(struct serve_stream *st)
{
	unlist(st);
	timer_cancel(st->serve->worker, &st->timer);
	st->offer->counts->live--;
	worker_reap(st->serve->worker, &st->reapable);
	if (--st->serve->live == 0 && st->serve->idle)
		st->serve->idle(st->serve);
}

static void note_time(const struct serve_stream *st, enum durations_kind kind, uint64_t since)
{
	struct worker *w = st->serve->worker;

	durations_add(w->counters.durations, kind, (worker_now(w) - since) * 1000);
}

static void count_bytes(struct splice *s, size_t bytes)
{
	struct serve_stream *st = s->user;

	for (unsigned i = 0; i < SIDES; i++) {
		st->offer->counts->bytes[i] += s->half[i].bytes - st->counted[i];
		st->counted[i] = s->half[i].bytes;
	}
}

static void log_end(const struct serve_stream *st, enum log_level level, uint64_t up, uint64_t down,
		    enum reason why)
{
	uint64_t ms = worker_now(st->serve->worker) - st->since;
	const char *name = st->offer->config->name;
	char client[PEER_TEXT_MAX];
	struct log_field facts[] = {
		{ .key = "stream", .text = st->id },
		{ .key = "client", .text = peer_format(&st->client, client, sizeof(client)) },
		{ .key = "service", .text = name },
		{ .key = "target", .text = st->offer->address },
		{ .key = "bytes_up", .number = up },
		{ .key = "bytes_down", .number = down },
		{ .key = "duration_ms", .number = ms },
		{ .key = "reason", .text = reason_word(why) },
	};

	st->offer->counts->ended[figure_class_of(why)]++;
	log_fields(level, facts, sizeof(facts) / sizeof(*facts),
		   "#%s %s -> %s (%s): %" PRIu64 " up, %" PRIu64 " down, %" PRIu64 ".%" PRIu64
		   " s, %s",
		   st->id, client, name, st->offer->address, up, down, ms / 1000, ms % 1000 / 100,
		   reason_word(why));
}

/* Ends a stream that is not joined. level: of its line in the log. */
static void stream_end(struct serve_stream *st, enum log_level level, enum reason why)
{
	dial_cancel(st->dial);
	st->dial = NULL;
	conduit_close(st->stream, why);
	st->stream = NULL;
	log_end(st, level, 0, 0, why);
	stream_over(st);
}

static void on_splice_end(struct splice *s, enum reason why)
{
	struct serve_stream *st = s->user;

	count_bytes(s, 0);
	note_time(st, DURATIONS_STREAM, st->since);
	log_end(st, LOG_LEVEL_INFO, s->half[INI].bytes, s->half[TGT].bytes, why);
	stream_over(st);
}

/* The header goes in one piece: a new socket has room for it. */
static bool announce(struct serve_stream *st, struct conduit *target)
{
	bool sent = !st->header ||
		    conduit_write(target, st->header, st->header_len) == (ssize_t)st->header_len;

	free(st->header);
	st->header = NULL;
	return sent;
}

static void log_unreachable(const struct serve_stream *st, enum reason why, const char *detail)
{
	char client[PEER_TEXT_MAX];
	struct log_field facts[] = {
		{ .key = "stream", .text = st->id },
		{ .key = "client", .text = peer_format(&st->client, client, sizeof(client)) },
		{ .key = "service", .text = st->offer->config->name },
		{ .key = "target", .text = st->offer->address },
		{ .key = "reason", .text = reason_word(why) },
	};

	log_limited(LOG_LEVEL_WARNING, facts, sizeof(facts) / sizeof(*facts),
		    "#%s: service %s cannot be reached: %s; is it running?", st->id,
		    st->offer->config->name, detail);
}

static void on_dialled(void *user, struct conduit *target, enum reason why, const char *detail)
{
	struct serve_stream *st = user;
	struct conduit *stream = st->stream;

	st->dial = NULL;
	if (target && !announce(st, target)) {
		conduit_close(target, REASON_RESET);
		target = NULL;
		why = REASON_DIAL_FAILED;
		detail = "it did not take the PROXY header";
	}
	if (!target) {
		log_unreachable(st, why, detail);
		stream_end(st, LOG_LEVEL_DEBUG, why); /* the line above is its line */
		return;
	}
	if (st->offer->config->dial == DIAL_EAGER)
		session_stream_answer(stream);
	st->stream = NULL; /* consumed, as is target */
	unlist(st);
	list(&st->serve->joined, st);
	note_time(st, DURATIONS_DIAL, st->dialled);
	conduit_want(stream, 0);
	st->offer->counts->streams++;
	st->splice = splice_new(st->serve->worker, stream, target, &st->offer->spec, st);
	if (!st->splice) {
		log_end(st, LOG_LEVEL_INFO, 0, 0, REASON_NO_MEMORY);
		stream_over(st);
	}
}

static void start_dial(struct serve_stream *st)
{
	struct serve *v = st->serve;

	timer_cancel(v->worker, &st->timer);
	conduit_want(st->stream, READY_ABORT);
	st->dialled = worker_now(v->worker);
	st->dial = dial_start(v->worker, &st->offer->config->target,
			      st->offer->setup->config->timeouts.dial, on_dialled, st);
	if (!st->dial)
		stream_end(st, LOG_LEVEL_INFO, REASON_NO_MEMORY);
}

/* The stream died before it was joined. */
static enum reason died(const struct conduit *stream)
{
	enum reason why = stream->ops->why ? stream->ops->why(stream) : REASON_NONE;

	return why == REASON_NONE ? REASON_RESET : why;
}

static void on_ready(struct conduit *c, unsigned events)
{
	struct serve_stream *st = c->user;
	const uint8_t *data;

	if (st->dial) {
		if (events & READY_ABORT)
			stream_end(st, LOG_LEVEL_INFO, died(c));
		return;
	}
	if (events & READY_READ) {
		ssize_t n = conduit_has_peek(c) ? conduit_peek(c, &data) : 0;

		if (n >= 0)
			start_dial(st);
		else if (n != -EAGAIN)
			stream_end(st, LOG_LEVEL_INFO, died(c));
	} else if (events & READY_ABORT) {
		stream_end(st, LOG_LEVEL_INFO, died(c));
	}
}

static void on_silence(struct timer *t)
{
	stream_end((struct serve_stream *)((char *)t - offsetof(struct serve_stream, timer)),
		   LOG_LEVEL_INFO, REASON_IDLE);
}

/* "kbs.acme" asks for the offer "kbs" if acme is who we are at that relay. */
static struct serve_offer *find(const struct serve *v, const char *service, const char *owner)
{
	size_t len = strcspn(service, ".");

	if (!name_is_service(service) || strcasecmp(service + len + 1, owner) != 0)
		return NULL;
	for (unsigned i = 0; i < v->n_offers; i++) {
		const char *name = v->offers[i]->config->name;

		if (strlen(name) == len && strncasecmp(name, service, len) == 0)
			return v->offers[i];
	}
	return NULL;
}

/*
 * The relay's number for a stream, or ours. Log lines must not depend on what the relay sends:
 * printable, without spaces, bounded.
 */
static void make_id(const struct serve *v, const char *from, char id[ID_MAX])
{
	size_t n = 0;

	for (; from && *from && n < ID_MAX - 1; from++)
		id[n++] = *from > ' ' && *from < 0x7f ? *from : '?';
	id[n] = '\0';
	if (n == 0)
		snprintf(id, ID_MAX, "%" PRIu64, v->counted);
}

/* Who the client is, as the relay says; also for a service that is to know. False: no memory. */
static bool know_client(struct serve_stream *st, const struct client_words *words)
{
	int version = st->offer->config->proxy_protocol;
	uint8_t header[PROXYPROTO_SENT_MAX];
	struct client client = { 0 };

	if (words->address)
		peer_parse(&client.peer, words->address);
	st->client = client.peer;
	if (!version)
		return true;
	st->header_len = client_header(&client, (unsigned)version, words->asked, st->id, header);
	st->header = malloc(st->header_len);
	if (st->header)
		memcpy(st->header, header, st->header_len);
	return st->header;
}

static bool has_name(const char *names, const char *name)
{
	size_t len = strlen(name);
	bool dns = strncmp(name, "dns:", 4) == 0;

	for (const char *at = names; at && *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == len &&
		    (dns ? strncasecmp(at, name, len) : strncmp(at, name, len)) == 0)
			return true;
	return false;
}

/* May this client use it, by what the relay has verified? One that it says nothing of may not. */
static bool may_use(const struct offer_config *o, const char *rule, const char *names)
{
	for (size_t i = 0; i < o->allow.n; i++) {
		const char *allowed = o->allow.at[i];

		if (strncmp(allowed, "client:", 7) == 0 ? rule && strcmp(rule, allowed + 7) == 0
							: has_name(names, allowed))
			return true;
	}
	return o->allow.n == 0;
}

/* The client for people. What the relay says is plain text, or not kept. */
#define ABOUT_MAX 200
static const char *about(const struct client_words *words, char text[ABOUT_MAX])
{
	const char *const all[] = { words->rule, words->names, words->address };

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i] && *all[i]) {
			snprintf(text, ABOUT_MAX, "%s", all[i]);
			return text;
		}
	return "a client of whom the relay says nothing";
}

/* A copy of what a later config is held against. False: no memory. */
static bool keep(char **to, const char *text)
{
	*to = text && *text ? strdup(text) : NULL;
	return *to || !text || !*text;
}

enum reason serve_accept(struct serve *v, struct conduit *stream, const char *service,
			 const char *owner, const char *relay, const struct client_words *words)
{
	struct serve_offer *offer = find(v, service, owner);
	struct serve_stream *st;
	char id[ID_MAX], text[ABOUT_MAX];

	v->counted++;
	make_id(v, words->id, id);
	if (!offer) {
		log_limited(LOG_LEVEL_WARNING, NULL, 0,
			    "#%s: the relay asks for \"%.130s\", which is not offered here", id,
			    service);
		v->turned_away[REASON_UNKNOWN_SERVICE]++;
		return REASON_LIMIT; /* REFUSED_STREAM: nothing was passed on */
	}
	if (!may_use(offer->config, words->rule, words->names)) {
		log_limited(LOG_LEVEL_WARNING, NULL, 0, "#%s: refused: %s may not use %s (allow)",
			    id, about(words, text), offer->config->name);
		v->turned_away[REASON_FORBIDDEN]++;
		return REASON_FORBIDDEN;
	}
	if (v->live >= v->setup->config->limits.streams) {
		log_limited(LOG_LEVEL_WARNING, NULL, 0,
			    "#%s: refused: %" PRIu64
			    " streams are open, the limit (limits.streams)",
			    id, v->live);
		v->turned_away[REASON_LIMIT]++;
		return REASON_LIMIT;
	}
	st = calloc(1, sizeof(*st));
	if (!st)
		return REASON_NO_MEMORY;
	st->serve = v;
	st->offer = offer;
	st->stream = stream;
	st->since = worker_now(v->worker);
	st->reapable.free = stream_free;
	st->number = v->counted;
	memcpy(st->id, id, sizeof(id));
	snprintf(st->relay, sizeof(st->relay), "%.*s", RELAY_MAX - 1, relay);
	snprintf(st->owner, sizeof(st->owner), "%s", owner);
	offer->holders++;
	if (!know_client(st, words) || !keep(&st->rule, words->rule) ||
	    !keep(&st->names, words->names)) {
		stream_free(&st->reapable);
		return REASON_NO_MEMORY;
	}
	v->live++;
	offer->counts->live++;
	list(&v->streams, st);
	stream->ready = on_ready;
	stream->user = st;
	if (offer->config->dial == DIAL_EAGER) {
		start_dial(st);
		return REASON_NONE;
	}
	session_stream_answer(stream);
	conduit_want(stream, READY_READ);
	timer_set(v->worker, &st->timer, offer->spec.idle_ms, on_silence);
	return REASON_NONE;
}

void serve_each(const struct serve *v, void (*each)(const struct serve_live *l, void *arg),
		void *arg)
{
	const struct serve_stream *const lists[] = { v->streams, v->joined };

	for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct serve_stream *st = lists[i]; st; st = st->next) {
			const struct serve_live l = {
				.number = st->number,
				.id = st->id,
				.state = st->splice ? "joined"
					 : st->dial ? "opening"
						    : "waiting",
				.relay = st->relay,
				.owner = st->owner,
				.offer = st->offer,
				.client = &st->client,
				.age_ms = worker_now(v->worker) - st->since,
				.up = st->splice ? st->splice->half[INI].bytes : 0,
				.down = st->splice ? st->splice->half[TGT].bytes : 0,
			};

			each(&l, arg);
		}
	}
}

/* ---- what is offered ---- */

static struct serve_counts *counts_of(const struct serve *v, const char *name)
{
	struct serve_counts *c;

	for (unsigned i = 0; i < v->n_offers; i++) {
		if (strcasecmp(v->offers[i]->config->name, name) != 0)
			continue;
		v->offers[i]->counts->holders++;
		return v->offers[i]->counts;
	}
	c = xcalloc(1, sizeof(*c));
	c->holders = 1;
	return c;
}

static struct serve_offer *offer_new(const struct serve *v, struct setup *setup,
				     const struct offer_config *config)
{
	struct serve_offer *o = xcalloc(1, sizeof(*o));
	char text[ADDRESS_TEXT_MAX];

	o->holders = 1;
	o->setup = setup_ref(setup);
	o->config = config;
	o->counts = counts_of(v, config->name);
	o->spec.idle_ms = config->idle ? config->idle : setup->config->timeouts.idle;
	o->spec.half_closed_ms = setup->config->timeouts.half_closed;
	o->spec.passed = count_bytes;
	o->spec.end = on_splice_end;
	snprintf(o->address, sizeof(o->address), "%.*s", (int)sizeof(o->address) - 1,
		 address_format(&config->target, text, sizeof(text)));
	return o;
}

static void put_offers(struct serve_offer **offers, unsigned n)
{
	while (n-- > 0)
		offer_unref(offers[n]);
	free(offers);
}

static void exchange_offers(struct serve *v, struct setup *setup)
{
	const struct tunnel_config *config = setup->config;
	struct serve_offer **now = xcalloc(config->n_services + 1, sizeof(struct serve_offer *));

	for (size_t i = 0; i < config->n_services; i++)
		now[i] = offer_new(v, setup, &config->services[i]);
	put_offers(v->offers, v->n_offers);
	v->offers = now;
	v->n_offers = (unsigned)config->n_services;
}

/* By the offers of now. */
static bool is_still_good(const struct serve_stream *st)
{
	const struct serve *v = st->serve;

	for (unsigned i = 0; i < v->n_offers; i++)
		if (strcasecmp(v->offers[i]->config->name, st->offer->config->name) == 0)
			return may_use(v->offers[i]->config, st->rule, st->names);
	return false;
}

void serve_reload(struct serve *v, struct setup *setup)
{
	struct serve_stream *next;

	exchange_offers(v, setup_ref(setup));
	setup_unref(v->setup);
	v->setup = setup;
	for (struct serve_stream *st = v->streams; st; st = next) {
		next = st->next;
		if (!is_still_good(st))
			stream_end(st, LOG_LEVEL_INFO, REASON_REVOKED);
	}
	for (struct serve_stream *st = v->joined; st; st = next) {
		next = st->next;
		if (!is_still_good(st))
			splice_end(st->splice, REASON_REVOKED);
	}
}

void serve_init(struct serve *v, struct worker *w, struct setup *setup)
{
	*v = (struct serve){ .worker = w, .setup = setup_ref(setup) };
	exchange_offers(v, setup);
}

void serve_deinit(struct serve *v)
{
	v->idle = NULL;
	while (v->streams)
		stream_end(v->streams, LOG_LEVEL_INFO, REASON_SHUTDOWN);
	put_offers(v->offers, v->n_offers);
	v->offers = NULL;
	v->n_offers = 0;
	v->setup = setup_unref(v->setup);
}
