/*
 * local: from a connection to a local port, to a stream to the relay, and the splice of both.
 *
 * Theory of operation, per connection:
 *
 *   WISHING  the pool is asked for a stream; the client is watched for its going, nothing is read
 *   JOINED   a splice has both; its end is ours
 *
 * The stream is there as soon as a session is: whether the relay takes it on, parks it or refuses
 * it comes later, as bytes or as its abort. A client that goes while it wishes takes the wish with
 * it. A refusal cannot be told in the client's own protocol, which is not known here: it is an
 * abort there, and its reason is in the log.
 *
 * A relay that goes away refuses streams that were on their way to it, and one that is gone loses
 * them. A stream in which not a byte went either way is as if it had never been: its client's
 * connection is taken back from the splice, and wished for again; LOCAL_TRIES at most, since that
 * may go on for ever.
 *
 * Half of limits.streams is shared out among the listeners: clients of one that leads nowhere, who
 * wait for timeouts.pickup each, do not keep those of another out.
 *
 * Sessions, the order of relays and the waits between attempts are the pool's business.
 *
 * One line per connection at its end, with all its facts as fields; failures at a bounded rate,
 * since a client that tries again and again causes them. over is told from the end of a turn: a
 * splice that ends still has to close its conduits then, and the pool's sessions have to take that.
 *
 * A reload makes all listeners anew. One whose address stays is heir to the socket of the one
 * before it, which its connections keep for what they began with. What can fail comes first.
 *
 * Longer than other files: connections and listeners are each other's limits and lives.
 */
#include "tunnel/local.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/config.h"
#include "config/xalloc.h"
#include "relay/acceptor.h"
#include "relay/bind.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/log.h"
#include "relay/peer.h"
#include "relay/why.h"
#include "relay/worker.h"
#include "tunnel/session.h"
#include "tunnel/setup.h"

#define LOCAL_TRIES 4

struct local_listener {
	unsigned holders; /* local, and connections */
	struct local *local;
	struct setup *setup; /* whose config it is of: held */
	const struct local_config *config;
	struct splice_spec spec;
	struct local_listener *heir; /* reloading: takes over the socket; or NULL */
	struct acceptor acceptor;
	uint64_t live;
	int fd;                         /* -1: none, closed, or its heir's */
	bool left;                      /* what there is of it counts for no share */
	struct bind_file file;          /* what a Unix path was when it was made */
	char address[ADDRESS_TEXT_MAX]; /* with the real port */
};

struct local_stream {
	struct local *local;
	struct local_listener *from;
	struct peer peer;
	struct conduit *client; /* WISHING */
	struct splice *splice;  /* JOINED */
	struct pool_wish wish;
	struct deferred again; /* WISHING: to wish once more */
	unsigned tries;
	struct local_stream *next, **prevp;
	struct reapable reapable;
	uint64_t since;
	char via[ADDRESS_TEXT_MAX]; /* the relay; "" while WISHING */
};

/* ---- the end of one ---- */

struct ending {
	enum reason why;
	const char *refusal; /* there was no connection to the service: what to do; else NULL */
	uint64_t up, down;
};

static void log_end(const struct local_stream *st, const struct ending *e)
{
	uint64_t ms = worker_now(st->local->worker) - st->since;
	const char *service = st->from->config->service;
	char client[PEER_TEXT_MAX];
	const struct log_field facts[] = {
		{ .key = "stream", .text = st->wish.id },
		{ .key = "client", .text = peer_format(&st->peer, client, sizeof(client)) },
		{ .key = "listener", .text = st->from->address },
		{ .key = "service", .text = service },
		{ .key = "via", .text = st->via },
		{ .key = "bytes_up", .number = e->up },
		{ .key = "bytes_down", .number = e->down },
		{ .key = "duration_ms", .number = ms },
		{ .key = "reason", .text = reason_word(e->why) },
	};
	const unsigned n = sizeof(facts) / sizeof(*facts);

	if (e->refusal)
		log_limited(LOG_LEVEL_WARNING, facts, n,
			    "#%s %s -> %s: no connection after %" PRIu64 ".%" PRIu64 " s: %s: %s",
			    st->wish.id, client, service, ms / 1000, ms % 1000 / 100,
			    reason_word(e->why), e->refusal);
	else
		log_fields(LOG_LEVEL_INFO, facts, n,
			   "#%s %s -> %s (%s): %" PRIu64 " up, %" PRIu64 " down, %" PRIu64
			   ".%" PRIu64 " s, %s",
			   st->wish.id, client, service, st->via, e->up, e->down, ms / 1000,
			   ms % 1000 / 100, reason_word(e->why));
}

static void listener_unref(struct local_listener *from)
{
	if (--from->holders > 0)
		return;
	setup_unref(from->setup);
	free(from);
}

static void stream_free(struct reapable *r)
{
	struct local_stream *st =
		(struct local_stream *)((char *)r - offsetof(struct local_stream, reapable));

	listener_unref(st->from);
	free(st);
}

static void count_in(struct local_listener *from)
{
	from->local->unshared -= from->live++ < from->local->share;
	from->local->live++;
}

static void count_out(struct local_listener *from)
{
	from->live--;
	from->local->unshared += !from->left && from->live < from->local->share;
	from->local->live--;
}

static void check_over(struct local *l)
{
	if (l->stopping && l->live == 0 && !l->told_over)
		worker_defer(l->worker, &l->check_over);
}

/* The client is closed, or its splice is at its end. */
static void stream_over(struct local_stream *st, const struct ending *e)
{
	struct local *l = st->local;

	*st->prevp = st->next;
	if (st->next)
		st->next->prevp = st->prevp;
	worker_undefer(&st->again);
	log_end(st, e);
	worker_reap(l->worker, &st->reapable);
	count_out(st->from);
	check_over(l);
}

/* It never had a stream. */
static void fail(struct local_stream *st, enum reason why, const char *detail)
{
	const struct ending e = { .why = why,
				  .refusal = *detail ? detail : reason_explanation(why) };

	pool_cancel(&st->wish);
	conduit_close(st->client, why);
	st->client = NULL;
	stream_over(st, &e);
}

/* What the relay's no means for whoever wants the service. */
static const char *advice(enum reason why, const struct tunnel_config *config)
{
	switch (why) {
	case REASON_FORBIDDEN:
		return config->certificate
			       ? "the relay does not take the certificate shown: it must be signed "
				 "by a CA of the listener's client_ca"
			       : "the relay wants a client certificate: --certificate and --key";
	case REASON_UNKNOWN_SERVICE:
		return "the relay knows no service of this name, or no such owner; expected "
		       "SERVICE.OWNER";
	case REASON_PICKUP_TIMEOUT:
		return "nobody offers this service at the relay now: the owner's agent has not "
		       "come in time";
	case REASON_AGENT_REFUSED:
		return "the owner's agent is connected, but does not take the stream";
	default:
		return reason_explanation(why);
	}
}

/* The relay said no, and that was all. (After its yes a stream dies of two reasons only.) */
static bool is_refused(const struct splice *s, enum reason why)
{
	return why != REASON_NONE && why != REASON_TARGET_RESET && why != REASON_TUNNEL_LOST &&
	       why == session_stream_reason(s->side[TGT]);
}

static void on_client(struct conduit *c, unsigned events)
{
	fail(c->user, REASON_RESET, "it went before there was a connection to the relay");
}

/* WISHING begins: the client's bytes and its end stay where they are. */
static void watch_client(struct local_stream *st, struct conduit *client)
{
	st->client = client;
	client->ready = on_client;
	client->user = st;
	conduit_want(client, READY_ABORT | READY_GONE);
}

static void on_again(struct deferred *d)
{
	struct local_stream *st =
		(struct local_stream *)((char *)d - offsetof(struct local_stream, again));

	pool_open(st->local->pool, &st->wish);
}

/* The stream has ended with its session, or never was in it; and nothing is lost with it. */
static bool try_again(struct local_stream *st, struct splice *s, enum reason why)
{
	struct conduit *client = s->side[INI];

	if ((why != REASON_GOING_AWAY && why != REASON_TUNNEL_LOST) ||
	    session_stream_reason(s->side[TGT]) != why || s->half[INI].bytes ||
	    s->half[TGT].bytes || s->half[INI].failed || st->local->told_over ||
	    ++st->tries == LOCAL_TRIES)
		return false;
	log_debug("#%s: %s has not taken it (%s): once more", st->wish.id, st->via,
		  reason_word(why));
	s->side[INI] = NULL;
	st->splice = NULL;
	watch_client(st, client);
	worker_defer(st->local->worker, &st->again);
	return true;
}

static void on_splice_end(struct splice *s, enum reason why)
{
	struct local_stream *st = s->user;
	const struct ending e = {
		.why = why,
		.refusal = is_refused(s, why) ? advice(why, st->local->setup->config) : NULL,
		.up = s->half[INI].bytes,
		.down = s->half[TGT].bytes,
	};

	if (!try_again(st, s, why))
		stream_over(st, &e);
}

/* ---- the way there ---- */

static void on_stream(struct pool_wish *w, struct conduit *c, enum reason why, const char *detail)
{
	struct local_stream *st =
		(struct local_stream *)((char *)w - offsetof(struct local_stream, wish));
	struct local *l = st->local;
	struct conduit *client = st->client;

	if (!c) {
		fail(st, why, detail);
		return;
	}
	snprintf(st->via, sizeof(st->via), "%s", pool_via(l->pool));
	conduit_want(client, 0);
	st->client = NULL; /* consumed, as is c */
	st->splice = splice_new(l->worker, client, c, &st->from->spec, st);
	if (!st->splice) {
		const struct ending e = { .why = REASON_NO_MEMORY, .refusal = "out of memory" };

		stream_over(st, &e);
	}
}

static struct conduit *conduit_of(struct local *l, int fd)
{
	struct conduit *c = fd_conduit_new(l->worker, fd);

	if (!c)
		close(fd);
	return c;
}

static void on_accepted(struct acceptor *a, int fd, const struct peer *peer)
{
	struct local_listener *from =
		(struct local_listener *)((char *)a - offsetof(struct local_listener, acceptor));
	struct local *l = from->local;
	struct conduit *client = conduit_of(l, fd);
	struct local_stream *st = client ? calloc(1, sizeof(*st)) : NULL;

	if (!st) {
		log_limited(LOG_LEVEL_WARNING, NULL, 0, "%s: a client was turned away: no memory",
			    from->address);
		if (client)
			conduit_close(client, REASON_NO_MEMORY);
		return;
	}
	st->local = l;
	st->from = from;
	from->holders++;
	st->peer = *peer;
	st->since = worker_now(l->worker);
	st->reapable.free = stream_free;
	st->again.run = on_again;
	st->next = l->streams;
	st->prevp = &l->streams;
	if (st->next)
		st->next->prevp = &st->next;
	l->streams = st;
	count_in(from);
	watch_client(st, client);
	st->wish.service = from->config->service;
	st->wish.done = on_stream;
	snprintf(st->wish.id, sizeof(st->wish.id), "%" PRIu64, ++l->counted);
	pool_open(l->pool, &st->wish);
}

static const char *on_admit(struct acceptor *a)
{
	const struct local_listener *from =
		(struct local_listener *)((char *)a - offsetof(struct local_listener, acceptor));
	const struct local *l = from->local;

	if (from->live < l->share || l->live + l->unshared < l->setup->config->limits.streams)
		return NULL;
	return "limits.streams are open, but for other listeners' shares";
}

static void on_none(struct acceptor *a)
{
}

static const struct acceptor_events acceptor_events = {
	.admit = on_admit,
	.none = on_none,
	.accepted = on_accepted,
};

/* ---- life ---- */

static struct local_listener *listener_new(struct local *l, struct setup *setup,
					   const struct local_config *config)
{
	struct local_listener *from = xcalloc(1, sizeof(*from));

	from->holders = 1;
	from->local = l;
	from->setup = setup_ref(setup);
	from->config = config;
	from->fd = -1;
	from->spec = (struct splice_spec){ .idle_ms = setup->config->timeouts.idle,
					   .half_closed_ms = setup->config->timeouts.half_closed,
					   .end = on_splice_end };
	return from;
}

/* As tunnel_local.c has it for addresses; what systemd listens at is known only now. */
static bool is_for_us(const struct local_listener *from, char **why)
{
	if (bind_is_local(from->fd))
		return true;
	why_say(why,
		"%s is not on loopback, so others could use the service in your name: TCP does not "
		"tell who calls; expected ListenStream=127.0.0.1:PORT or a path in the socket unit",
		from->address);
	return false;
}

/* False: *why. */
static bool listener_bind(struct local_listener *from, char **why)
{
	const struct local_config *config = from->config;
	struct bind_access access = { 0 };

	access.mode = config->mode ? (mode_t)strtoul(config->mode, NULL, 8) : 0;
	from->fd = bind_listen_with(&config->address, &access, &from->file, NULL, why);
	if (from->fd < 0)
		return false;
	bind_describe(&config->address, from->fd, from->address, sizeof(from->address));
	return config->address.kind != ADDRESS_FD || is_for_us(from, why);
}

static void listener_start(struct local_listener *from)
{
	int one = 1;

	/* what it accepts inherits this; others than TCP refuse: fine */
	setsockopt(from->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	acceptor_insist(&from->acceptor, from->local->worker, from->fd, from->address,
			&acceptor_events);
}

static void listener_close(struct local_listener *from)
{
	if (from->fd < 0)
		return;
	acceptor_abandon(&from->acceptor);
	bind_release(&from->config->address, from->fd, &from->file);
	from->fd = -1;
}

static void hold_setup(void *setup)
{
	setup_ref(setup);
}

static void release_setup(void *setup)
{
	setup_unref(setup);
}

static struct pool_config pool_config_of(struct setup *setup)
{
	const struct tunnel_config *config = setup->config;

	return (struct pool_config){
		.addresses = &config->relays,
		.server_name = config->server_name,
		.ca_file = config->ca_file,
		.certificate = config->certificate,
		.key = config->key,
		.egress = setup->carrier.egress,
		.connections = LOCAL_SESSIONS,
		.streams = config->limits.streams,
		.limits = "limits.streams",
		.stream_window = config->limits.stream_window,
		.session_window = config->limits.session_window,
		.dial_ms = config->timeouts.dial,
		.handshake_ms = config->timeouts.handshake,
		.ping_ms = config->timeouts.ping,
		.dead_ms = config->timeouts.dead,
		.pickup_ms = config->timeouts.pickup,
		.hold = hold_setup,
		.release = release_setup,
		.owner = setup,
	};
}

static void on_check_over(struct deferred *d)
{
	struct local *l = (struct local *)((char *)d - offsetof(struct local, check_over));

	if (l->told_over)
		return;
	l->told_over = true;
	timer_cancel(l->worker, &l->drain);
	pool_end(l->pool);
	if (l->over)
		l->over(l);
}

/* ---- the listeners of a config ---- */

/* False: *why. The socket is taken over when nothing can fail any more. */
static bool make_listener(struct local *l, struct local_listener *made, char **why)
{
	const char *mode = made->config->mode ? made->config->mode : "";

	for (unsigned i = 0; i < l->n_listeners; i++) {
		struct local_listener *old = l->listeners[i];

		if (old->heir || !address_equal(&old->config->address, &made->config->address))
			continue;
		if (strcmp(old->config->mode ? old->config->mode : "", mode) != 0) {
			why_say(why, "the mode of %s has changed, which needs a restart",
				old->address);
			return false;
		}
		old->heir = made;
		return true;
	}
	return listener_bind(made, why);
}

/* Takes over from those before it what they have; closes what is left. */
static void exchange_listeners(struct local *l, struct local_listener **now, unsigned n)
{
	for (unsigned i = 0; i < l->n_listeners; i++) {
		struct local_listener *old = l->listeners[i];

		old->left = true;
		if (old->heir) {
			acceptor_abandon(&old->acceptor);
			old->heir->fd = old->fd;
			old->heir->file = old->file;
			memcpy(old->heir->address, old->address, sizeof(old->address));
			old->heir = NULL;
			old->fd = -1;
		} else {
			acceptor_stop(&old->acceptor);
			listener_close(old);
			log_info("%s leads nowhere any more", old->address);
		}
		listener_unref(old);
	}
	free(l->listeners);
	l->listeners = now;
	l->n_listeners = n;
	l->share = l->setup->config->limits.streams / 2 / (n ? n : 1);
	l->unshared = l->share * n;
	for (unsigned i = 0; i < n; i++) {
		listener_start(now[i]);
		log_info("%s leads to %s", now[i]->address, now[i]->config->service);
	}
}

static void throw_away(struct local *l, struct local_listener **made, size_t n)
{
	for (unsigned i = 0; i < l->n_listeners; i++)
		l->listeners[i]->heir = NULL;
	for (size_t i = 0; i < n; i++) {
		if (!made[i])
			continue;
		listener_close(made[i]);
		listener_unref(made[i]);
	}
	free(made);
}

int local_reload(struct local *l, struct setup *setup, char **why)
{
	const struct tunnel_config *config = setup->config;
	const struct pool_config how = pool_config_of(setup);
	size_t n = config->n_locals;
	struct local_listener **made = xcalloc(n + 1, sizeof(struct local_listener *));
	bool good = true;

	*why = NULL;
	for (size_t i = 0; good && i < n; i++) {
		made[i] = listener_new(l, setup, &config->locals[i]);
		good = make_listener(l, made[i], why);
	}
	if (good && !l->pool)
		good = (l->pool = pool_new(l->worker, &how, why));
	else if (good)
		good = pool_reload(l->pool, &how, why) == 0;
	if (!good) {
		throw_away(l, made, n);
		return -EINVAL;
	}
	setup_ref(setup);
	setup_unref(l->setup);
	l->setup = setup;
	exchange_listeners(l, made, (unsigned)n);
	return 0;
}

int local_init(struct local *l, struct worker *w, struct setup *setup, char **why)
{
	l->worker = w;
	l->check_over.run = on_check_over;
	return local_reload(l, setup, why);
}

void local_deinit(struct local *l)
{
	for (unsigned i = 0; i < l->n_listeners; i++)
		listener_close(l->listeners[i]);
	while (l->streams) {
		if (l->streams->splice)
			splice_end(l->streams->splice, REASON_SHUTDOWN);
		else
			fail(l->streams, REASON_SHUTDOWN, "");
	}
	if (l->worker) {
		timer_cancel(l->worker, &l->drain);
		worker_undefer(&l->check_over);
	}
	l->pool = pool_free(l->pool);
	for (unsigned i = 0; i < l->n_listeners; i++)
		listener_unref(l->listeners[i]);
	free(l->listeners);
	l->listeners = NULL;
	l->n_listeners = 0;
	l->setup = setup_unref(l->setup);
}

void local_kill(struct local *l)
{
	struct local_stream *next;

	for (struct local_stream *st = l->streams; st; st = next) {
		next = st->next;
		if (st->splice)
			splice_end(st->splice, REASON_SHUTDOWN);
		else
			fail(st, REASON_SHUTDOWN, "");
	}
	check_over(l);
}

static void on_drain_timer(struct timer *t)
{
	struct local *l = (struct local *)((char *)t - offsetof(struct local, drain));

	log_warning("%" PRIu64 " local connections are still open after timeouts.drain: closing "
		    "them",
		    l->live);
	local_kill(l);
}

void local_stop(struct local *l)
{
	if (l->stopping)
		return;
	l->stopping = true;
	for (unsigned i = 0; i < l->n_listeners; i++) {
		acceptor_stop(&l->listeners[i]->acceptor);
		listener_close(l->listeners[i]);
	}
	timer_set(l->worker, &l->drain, l->setup->config->timeouts.drain, on_drain_timer);
	check_over(l);
}
