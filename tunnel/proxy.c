/*
 * proxy: the way through a proxy, up to where the relay itself is spoken to.
 *
 * Theory of operation:
 *
 *   resolving   socks5 only: the relay's name becomes an address here, as curl has it
 *   securing    https only: relay/tls with the proxy, its certificate verified
 *   talking     tunnel/proxy_words: says and hears until there is a verdict
 *
 * One at a time; finish or cancel ends each. The timer bounds the talk and the resolving, the TLS
 * handshake has its own.
 *
 * TLS with the relay wants a socket. Without TLS to the proxy that is the proxy's own. With it, the
 * TLS conduit is spliced with one end of a Unix socket pair, and the other end is the result: bytes
 * are copied once more then, but neither TLS knows of the other. That splice ends when one side
 * does: the pings of the session see to it that neither stays silent. It is kept in a list of the
 * proxy's for the end of the program only, where a proxy may be in no hurry to close.
 *
 * The struct is freed by the reaper after done or cancel, and after the resolver's callback.
 */
#include "tunnel/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/dns.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/splice.h"
#include "relay/timer.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/egress.h"

#define DETAIL_MAX (PROXY_DETAIL_MAX + EGRESS_TEXT_MAX + 32)
#define SPLICE_IDLE_MS (24 * 3600 * UINT64_C(1000)) /* sessions ping, and have time-outs */
#define SPLICE_HALF_CLOSED_MS 10000 /* as long as TLS waits for its last bytes to be taken */

struct proxy_opening {
	struct worker *worker;
	const struct proxy *proxy;
	const struct address *target;
	uint64_t ms;
	proxy_done *done;
	void *user;
	int fd; /* while resolving; then -1 */
	struct evdns_getaddrinfo_request *query;
	bool asking; /* the resolver's callback has not run yet */
	const char *unresolved; /* why the target's name has no address; or NULL */
	bool over;
	bool plain; /* network is an fd conduit, not a TLS one */
	struct tls_handshake *handshake;
	struct conduit *network; /* the proxy, to talk with */
	struct timer timer;
	struct deferred begin;
	struct reapable reapable;
	struct proxy_talk talk;
	struct proxy_credentials credentials;
	size_t said; /* of talk.say */
	char host[256]; /* what the proxy is asked for */
};

static void on_free(struct reapable *r)
{
	struct proxy_opening *o =
		(struct proxy_opening *)((char *)r - offsetof(struct proxy_opening, reapable));

	explicit_bzero(o, sizeof(*o));
	free(o);
}

/* Ends whatever is under way. The network, if it is still there, is closed. */
static void end(struct proxy_opening *o)
{
	o->over = true;
	timer_cancel(o->worker, &o->timer);
	worker_undefer(&o->begin);
	tls_handshake_cancel(o->handshake);
	o->handshake = NULL;
	conduit_close(o->network, REASON_SHUTDOWN);
	o->network = NULL;
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
	if (o->asking)
		evdns_getaddrinfo_cancel(o->query); /* its callback still comes, and releases o */
	else
		worker_reap(o->worker, &o->reapable);
}

/* detail follows "the proxy URL". */
static void fail(struct proxy_opening *o, enum reason why, const char *detail)
{
	char text[DETAIL_MAX];

	snprintf(text, sizeof(text), "the proxy %.300s %.500s", o->proxy->text, detail);
	end(o);
	o->done(o->user, -1, why, text);
}

/* ---- through ---- */

struct proxy_joint {
	struct splice *splice;
	struct proxy_joint *next, **prevp;
};

static void on_splice_end(struct splice *s, enum reason why)
{
	struct proxy_joint *j = s->user;

	if (!j)
		return;
	*j->prevp = j->next;
	if (j->next)
		j->next->prevp = j->prevp;
	free(j);
}

/* Without memory for that it is not kept. */
static void keep(struct proxy_joint **list, struct splice *s)
{
	struct proxy_joint *j = list ? malloc(sizeof(*j)) : NULL;

	if (!j)
		return;
	*j = (struct proxy_joint){ .splice = s, .next = *list, .prevp = list };
	if (j->next)
		j->next->prevp = &j->next;
	*list = j;
	s->user = j;
}

void proxy_end_joints(const struct proxy *proxy)
{
	while (proxy->joints && *proxy->joints)
		splice_end((*proxy->joints)->splice, REASON_SHUTDOWN);
}

/* Joins the TLS conduit with a socket. Consumes it. The other end, or -1. */
static int bridge(struct worker *w, const struct proxy *proxy, struct conduit *tls)
{
	static const struct splice_spec spec = {
		.idle_ms = SPLICE_IDLE_MS,
		.half_closed_ms = SPLICE_HALF_CLOSED_MS,
		.end = on_splice_end,
		.uncounted = true,
	};
	struct conduit *near = NULL;
	struct splice *joint;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0) {
		near = fd_conduit_new(w, pair[0]);
		if (!near) {
			close(pair[0]);
			close(pair[1]);
		}
	}
	if (!near) {
		conduit_close(tls, REASON_NO_MEMORY);
		return -1;
	}
	joint = splice_new(w, near, tls, &spec, NULL);
	if (!joint) {
		close(pair[1]);
		return -1;
	}
	keep(proxy->joints, joint);
	return pair[1];
}

static void through(struct proxy_opening *o)
{
	struct conduit *network = o->network;
	int fd;

	o->network = NULL;
	conduit_want(network, 0);
	network->ready = NULL;
	fd = o->plain ? fd_conduit_release(network) : bridge(o->worker, o->proxy, network);
	if (fd < 0) {
		fail(o, REASON_NO_MEMORY, "cannot be joined: out of memory or descriptors");
		return;
	}
	end(o);
	o->done(o->user, fd, REASON_NONE, "");
}

/* ---- talking ---- */

static void lost(struct proxy_opening *o, ssize_t n)
{
	char detail[128];

	snprintf(detail, sizeof(detail), "%s%s without an answer%s",
		 n == 0 ? "closed the connection" : "broke the connection: ",
		 n == 0 ? "" : strerror((int)-n),
		 o->plain && proxy_url_is_http(&o->proxy->url) ?
			 ": is it a proxy for http://, or one for https:// or socks5://?" :
			 "");
	fail(o, REASON_DIAL_FAILED, detail);
}

/* False: it is over. */
static bool speak(struct proxy_opening *o)
{
	while (o->said < o->talk.say_len) {
		ssize_t n = conduit_write(o->network, o->talk.say + o->said,
					  o->talk.say_len - o->said);

		if (n == -EAGAIN || n == 0)
			return true;
		if (n < 0) {
			lost(o, n);
			return false;
		}
		o->said += (size_t)n;
	}
	o->said = o->talk.say_len = 0;
	return true;
}

static bool hear(struct proxy_opening *o)
{
	struct proxy_talk *t = &o->talk;
	ssize_t n = conduit_read(o->network, t->heard + t->heard_len,
				 sizeof(t->heard) - t->heard_len);

	if (n == -EAGAIN)
		return true;
	if (n <= 0) {
		lost(o, n);
		return false;
	}
	t->heard_len += (size_t)n;
	switch (proxy_talk_judge(t)) {
	case PROXY_MORE:
		return true;
	case PROXY_OPEN:
		through(o);
		return false;
	case PROXY_NO:
		if (t->rejected)
			egress_rejected(o->proxy, &o->credentials, worker_now(o->worker));
		fail(o, REASON_DIAL_REFUSED, t->detail);
		return false;
	}
	return false;
}

static void on_network(struct conduit *c, unsigned events)
{
	struct proxy_opening *o = c->user;

	/* no answer counts before the question has gone out */
	if (events & READY_READ && !o->talk.say_len && !hear(o))
		return;
	if (speak(o))
		conduit_want(c, o->talk.say_len ? READY_WRITE : READY_READ);
}

static void on_timeout(struct timer *t)
{
	struct proxy_opening *o =
		(struct proxy_opening *)((char *)t - offsetof(struct proxy_opening, timer));
	char detail[ADDRESS_TEXT_MAX + 128];

	if (o->network && o->talk.step == PROXY_STEP_METHOD)
		snprintf(detail, sizeof(detail),
			 "gave no answer to SOCKS5 within %llu ms: is it a proxy of that kind?",
			 (unsigned long long)o->ms);
	else if (o->network)
		snprintf(detail, sizeof(detail),
			 "gave no answer within %llu ms: it may be unable to reach %s:%u itself",
			 (unsigned long long)o->ms, o->host, o->target->port);
	else
		snprintf(detail, sizeof(detail),
			 "was not asked yet: the name %s did not resolve within %llu ms (with "
			 "socks5h:// the proxy resolves it)",
			 o->target->name, (unsigned long long)o->ms);
	fail(o, REASON_DIAL_TIMEOUT, detail);
}

/* Consumes network. */
static void talk(struct proxy_opening *o, struct conduit *network)
{
	bool exposed;
	char *why;

	o->network = network;
	if (egress_credentials(o->proxy, &o->credentials, &exposed, &why) < 0) {
		char detail[PROXY_DETAIL_MAX];

		snprintf(detail, sizeof(detail), "needs credentials: %s",
			 why ? why : "out of memory");
		free(why);
		fail(o, REASON_BAD_CREDENTIAL, detail);
		return;
	}
	if (egress_rests(o->proxy, &o->credentials, worker_now(o->worker))) {
		fail(o, REASON_BAD_CREDENTIAL,
		     "has refused the user name and password, which are not shown to it again for "
		     "some minutes, lest it lock them: others are at once, and the same after "
		     "SIGHUP");
		return;
	}
	if (proxy_talk_begin(&o->talk, o->proxy->url.scheme, o->host, (uint16_t)o->target->port,
			     &o->credentials) < 0) {
		fail(o, REASON_INTERNAL, "cannot be asked for this host: its name is too long");
		return;
	}
	timer_set(o->worker, &o->timer, o->ms, on_timeout);
	network->ready = on_network;
	network->user = o;
	conduit_want(network, READY_WRITE);
}

/* ---- securing ---- */

static void on_secured(void *user, struct conduit *tls, enum reason why, const char *detail)
{
	struct proxy_opening *o = user;
	const char *hint = tls ? NULL : strstr(detail, "; name the relay's CA");
	char text[PROXY_DETAIL_MAX];

	o->handshake = NULL;
	if (tls) {
		talk(o, tls);
		return;
	}
	snprintf(text, sizeof(text), "cannot be spoken to by TLS: %.*s%s",
		 hint ? (int)(hint - detail) : 200, detail,
		 hint ? "; name its CA (--proxy-ca-file, proxy_ca_file)" : "");
	fail(o, why, text);
}

static void reach(struct proxy_opening *o)
{
	char name[HOST_SIZE];
	struct conduit *plain;
	int fd = o->fd;

	timer_cancel(o->worker, &o->timer);
	o->fd = -1;
	o->plain = o->proxy->url.scheme != PROXY_HTTPS;
	if (!o->plain) {
		o->handshake = tls_connect(o->worker, fd, o->proxy->tls,
					   host_plain(o->proxy->url.address.name, name), o->ms,
					   on_secured, o);
		if (!o->handshake)
			fail(o, REASON_NO_MEMORY, "cannot be spoken to by TLS: out of memory");
		return;
	}
	plain = fd_conduit_new(o->worker, fd);
	if (!plain) {
		close(fd);
		fail(o, REASON_NO_MEMORY, "cannot be spoken to: out of memory");
		return;
	}
	talk(o, plain);
}

/* ---- resolving ---- */

/* Of several addresses, one of IPv4: the proxy's network is not ours, and may have no IPv6. */
static bool take_address(struct proxy_opening *o, const struct evutil_addrinfo *list)
{
	const struct evutil_addrinfo *found = list;

	while (found && found->ai_family != AF_INET)
		found = found->ai_next;
	if (!found)
		found = list;
	return found && getnameinfo(found->ai_addr, found->ai_addrlen, o->host, sizeof(o->host),
				    NULL, 0, NI_NUMERICHOST) == 0;
}

static void on_resolved(int error, struct evutil_addrinfo *list, void *user)
{
	struct proxy_opening *o = user;

	o->asking = false;
	if (error)
		o->unresolved = evutil_gai_strerror(error);
	else if (!o->over && !take_address(o, list))
		o->unresolved = "it has no address";
	if (list)
		evutil_freeaddrinfo(list);
	if (o->over)
		worker_reap(o->worker, &o->reapable);
	else
		worker_defer(o->worker, &o->begin); /* this may be inside proxy_open */
}

static void on_begin(struct deferred *d)
{
	struct proxy_opening *o =
		(struct proxy_opening *)((char *)d - offsetof(struct proxy_opening, begin));
	char detail[ADDRESS_TEXT_MAX + 160];

	if (!o->unresolved) {
		reach(o);
		return;
	}
	snprintf(detail, sizeof(detail),
		 "was not asked: the name %s does not resolve here: %s (with socks5h:// the proxy "
		 "resolves it)",
		 o->target->name, o->unresolved);
	fail(o, REASON_DIAL_UNREACHABLE, detail);
}

static bool is_literal(const char *host)
{
	uint8_t address[16];

	return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

/* False: there is no resolver. */
static bool resolve(struct proxy_opening *o)
{
	struct evutil_addrinfo ask = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct evdns_base *dns = worker_dns(o->worker);
	struct evdns_getaddrinfo_request *query;

	if (!dns)
		return false;
	timer_set(o->worker, &o->timer, o->ms, on_timeout);
	o->asking = true;
	query = evdns_getaddrinfo(dns, o->target->name, NULL, &ask, on_resolved, o);
	if (o->asking) /* otherwise the callback has run already */
		o->query = query;
	return true;
}

struct proxy_opening *proxy_open(struct worker *w, int fd, const struct proxy *proxy,
				 const struct address *target, uint64_t ms, proxy_done *done,
				 void *user)
{
	struct proxy_opening *o = calloc(1, sizeof(*o));

	if (!o) {
		close(fd);
		return NULL;
	}
	o->worker = w;
	o->proxy = proxy;
	o->target = target;
	o->ms = ms;
	o->done = done;
	o->user = user;
	o->fd = fd;
	o->begin.run = on_begin;
	o->reapable.free = on_free;
	snprintf(o->host, sizeof(o->host), "%s", target->name);
	if (proxy->url.scheme != PROXY_SOCKS5 || is_literal(target->name) || !resolve(o))
		worker_defer(w, &o->begin); /* without a resolver here, the proxy's */
	return o;
}

void proxy_opening_cancel(struct proxy_opening *o)
{
	if (o)
		end(o);
}
