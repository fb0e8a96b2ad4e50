/*
 * dial: connects to an address without blocking.
 *
 * Theory of operation: RESOLVING (evdns; skipped for IP addresses and local sockets) -> TRYING: one
 * attempt per address, started DIAL_STAGGER_MS apart or as soon as the one before failed, all going
 * on at once; the first to connect wins and the others are closed -> for hybrid vsock a preamble on
 * the winner (hybrid.h) -> DONE. The result, good or bad, is told at once; from a deferred call if
 * it is there before dial_start returns. One timer bounds it all.
 *
 * Each attempt's socket is a conduit from the start, so the winner is handed over as it is, its
 * watch with it.
 *
 * Owns: the attempts' conduits until one is handed over. Limits: DIAL_ADDRESSES_MAX.
 */
#include "relay/dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/dns.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/hybrid.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define RETRY_MS 40 /* a Unix listener's queue is full: try again */

struct attempt {
	struct dial *dial;
	struct conduit *conduit; /* NULL: over or not begun */
	socklen_t len;
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
		struct sockaddr_un un;
	} to;
};

struct dial {
	struct worker *worker;
	const struct address *address;
	dial_done *done;
	void *user;
	struct timer deadline, stagger;
	struct deferred tell;
	struct reapable reapable;
	struct evdns_getaddrinfo_request *query;
	bool asking; /* the query's callback has not run yet */
	bool starting; /* inside dial_start */
	bool over;
	unsigned n, next, live; /* addresses; the next to try; attempts going on */
	unsigned heard; /* bytes of the VMM's answer */
	struct conduit *conduit; /* the result */
	enum reason why;
	char *detail; /* NULL: there was no memory for it */
	struct attempt attempt[]; /* room for DIAL_ADDRESSES_MAX, or for the one there is */
};

static void try_next(struct dial *d);

static enum reason reason_of(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case ECONNRESET: /* vsock: nobody listens */
	case ENOENT:	 /* Unix: no such socket */
		return REASON_DIAL_REFUSED;
	case ETIMEDOUT:
		return REASON_DIAL_TIMEOUT;
	case ENETUNREACH:
	case EHOSTUNREACH:
	case ENODEV: /* vsock: no such guest */
	case EADDRNOTAVAIL:
		return REASON_DIAL_UNREACHABLE;
	case EMFILE: /* these say nothing of the target */
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		return REASON_NO_MEMORY;
	default:
		return REASON_DIAL_FAILED;
	}
}

static void attempt_close(struct attempt *a)
{
	if (!a->conduit)
		return;
	conduit_close(a->conduit, REASON_EOF);
	a->conduit = NULL;
	a->dial->live--;
}

static void on_tell(struct deferred *deferred)
{
	struct dial *d = (struct dial *)((char *)deferred - offsetof(struct dial, tell));
	dial_done *done = d->done;

	d->done = NULL;
	if (done)
		done(d->user, d->conduit, d->conduit ? REASON_NONE : d->why,
		     d->detail ? d->detail : "");
	if (!d->asking) /* else the resolver's callback releases it */
		worker_reap(d->worker, &d->reapable);
}

/* Ends all that goes on and tells the result. */
static void finish(struct dial *d)
{
	if (d->over)
		return;
	d->over = true;
	timer_cancel(d->worker, &d->deadline);
	timer_cancel(d->worker, &d->stagger);
	for (unsigned i = 0; i < d->n; i++)
		attempt_close(&d->attempt[i]);
	if (d->asking)
		evdns_getaddrinfo_cancel(d->query); /* its callback still comes */
	if (d->starting)
		worker_defer(d->worker, &d->tell);
	else
		on_tell(&d->tell);
}

static void fail(struct dial *d, enum reason why, const char *cause)
{
	char where[ADDRESS_TEXT_MAX];

	d->why = why;
	free(d->detail);
	if (asprintf(&d->detail, "%s: %s", address_format(d->address, where, sizeof(where)),
		     cause) < 0)
		d->detail = NULL;
	finish(d);
}

static void on_free(struct reapable *r)
{
	struct dial *d = (struct dial *)((char *)r - offsetof(struct dial, reapable));

	free(d->detail);
	free(d);
}

static void connected(struct attempt *a)
{
	struct dial *d = a->dial;

	conduit_want(a->conduit, 0);
	a->conduit->ready = NULL;
	d->conduit = a->conduit;
	a->conduit = NULL;
	d->live--;
	finish(d);
}

/* One address did not work: go on with the next, or give up with this cause. */
static void attempt_failed(struct attempt *a, int error)
{
	struct dial *d = a->dial;

	attempt_close(a);
	d->why = reason_of(error);
	if (d->next < d->n) {
		try_next(d);
	} else if (d->live == 0) {
		char cause[96];

		if (d->n > 1)
			snprintf(cause, sizeof(cause), "%s (%u addresses tried)", strerror(error),
				 d->n);
		else
			snprintf(cause, sizeof(cause), "%s", strerror(error));
		fail(d, reason_of(error), cause);
	}
}

/* Hybrid vsock: the VMM answers. */
static void on_preamble(struct conduit *c, unsigned events)
{
	struct attempt *a = c->user;
	enum hybrid_verdict verdict;
	char byte;

	do { /* byte by byte, so that nothing behind the line is taken */
		ssize_t n = conduit_read(c, &byte, 1);

		if (n == -EAGAIN)
			return;
		if (n <= 0) { /* the VMM closes when nobody listens on that port in the guest */
			attempt_failed(a, n < 0 ? (int)-n : ECONNREFUSED);
			return;
		}
		verdict = hybrid_hear(&a->dial->heard, byte);
	} while (verdict == HYBRID_MORE);
	if (verdict == HYBRID_OPEN)
		connected(a);
	else
		attempt_failed(a, EPROTO);
}

static void start_preamble(struct attempt *a)
{
	char line[HYBRID_REQUEST_MAX];
	size_t len = hybrid_request(line, a->dial->address->port);
	ssize_t n = conduit_write(a->conduit, line, len);

	if (n != (ssize_t)len) {
		attempt_failed(a, n < 0 ? (int)-n : EPROTO);
		return;
	}
	a->conduit->ready = on_preamble;
	conduit_want(a->conduit, READY_READ);
}

static void through(struct attempt *a)
{
	if (a->dial->address->kind == ADDRESS_HYBRID)
		start_preamble(a);
	else
		connected(a);
}

static void on_connect(struct conduit *c, unsigned events)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (events & READY_ABORT &&
	    getsockopt(fd_conduit_socket(c), SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error)
		attempt_failed(c->user, error);
	else
		through(c->user);
}

static void on_stagger(struct timer *t)
{
	struct dial *d = (struct dial *)((char *)t - offsetof(struct dial, stagger));

	if (d->next < d->n)
		try_next(d);
}

/* 0, or the errno of what failed. */
static int attempt_open(struct attempt *a)
{
	int family = a->to.any.sa_family, one = 1, fd;

	fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	if (family == AF_INET || family == AF_INET6)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	a->conduit = fd_conduit_connecting(a->dial->worker, fd, family);
	if (!a->conduit) {
		close(fd);
		return ENOMEM;
	}
	a->conduit->ready = on_connect;
	a->conduit->user = a;
	a->dial->live++;
	return 0;
}

static void try_next(struct dial *d)
{
	unsigned i = d->next++;
	struct attempt *a = &d->attempt[i];
	int error;

	a->dial = d;
	error = attempt_open(a);
	if (error) {
		attempt_failed(a, error);
		return;
	}
	if (connect(fd_conduit_socket(a->conduit), &a->to.any, a->len) == 0) {
		through(a);
		return;
	}
	if (errno == EAGAIN && a->to.any.sa_family == AF_UNIX) {
		attempt_close(a);
		d->next = i;
		timer_set(d->worker, &d->stagger, RETRY_MS, on_stagger);
		return;
	}
	if (errno != EINPROGRESS) {
		attempt_failed(a, errno);
		return;
	}
	conduit_want(a->conduit, READY_WRITE | READY_ABORT);
	if (d->next < d->n)
		timer_set(d->worker, &d->stagger, DIAL_STAGGER_MS, on_stagger);
}

/* RFC 8305 section 4: families alternate, IPv6 first; within a family the resolver's order. */
static void take_addresses(struct dial *d, const struct addrinfo *list)
{
	const struct addrinfo *six = list, *four = list;
	bool want_six = true;

	while (d->n < DIAL_ADDRESSES_MAX) {
		const struct addrinfo **from, *ai;

		while (six && six->ai_family != AF_INET6)
			six = six->ai_next;
		while (four && four->ai_family != AF_INET)
			four = four->ai_next;
		if (!six && !four)
			break;
		from = (want_six && six) || !four ? &six : &four;
		ai = *from;
		memcpy(&d->attempt[d->n].to, ai->ai_addr, ai->ai_addrlen);
		d->attempt[d->n++].len = ai->ai_addrlen;
		*from = ai->ai_next;
		want_six = from == &four;
	}
}

static void on_resolved(int error, struct evutil_addrinfo *list, void *arg)
{
	struct dial *d = arg;

	d->asking = false;
	if (d->over) { /* cancelled */
		if (list)
			evutil_freeaddrinfo(list);
		worker_reap(d->worker, &d->reapable); /* on_tell has run before */
		return;
	}
	if (error) {
		fail(d, REASON_DIAL_UNREACHABLE, evutil_gai_strerror(error));
		return;
	}
	take_addresses(d, list);
	evutil_freeaddrinfo(list);
	if (d->n)
		try_next(d);
	else
		fail(d, REASON_DIAL_UNREACHABLE, "the name has no address");
}

/* IPv4, or IPv6 without scope, written out; the most frequent, and quickly done. False: not so. */
static bool literal(const struct address *address, struct attempt *a)
{
	if (address->kind != ADDRESS_TCP)
		return false;
	if (inet_pton(AF_INET, address->name, &a->to.in.sin_addr) == 1) {
		a->to.in.sin_family = AF_INET;
		a->to.in.sin_port = htons((uint16_t)address->port);
		a->len = sizeof(a->to.in);
		return true;
	}
	if (inet_pton(AF_INET6, address->name, &a->to.in6.sin6_addr) != 1)
		return false;
	a->to.in6.sin6_family = AF_INET6;
	a->to.in6.sin6_port = htons((uint16_t)address->port);
	a->len = sizeof(a->to.in6);
	return true;
}

static void resolve(struct dial *d)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV },
			*list = NULL;
	struct evutil_addrinfo ask = { .ai_family = AF_UNSPEC,
				       .ai_socktype = SOCK_STREAM,
				       .ai_flags = EVUTIL_AI_NUMERICSERV };
	struct evdns_getaddrinfo_request *query;
	struct evdns_base *dns;
	char port[16];

	snprintf(port, sizeof(port), "%u", d->address->port);
	if (getaddrinfo(d->address->name, port, &hints, &list) == 0) { /* an IP address */
		take_addresses(d, list);
		freeaddrinfo(list);
		try_next(d);
		return;
	}
	dns = worker_dns(d->worker);
	if (!dns) {
		fail(d, REASON_DIAL_UNREACHABLE, "no resolver (see /etc/resolv.conf)");
		return;
	}
	d->asking = true;
	query = evdns_getaddrinfo(dns, d->address->name, port, &ask, on_resolved, d);
	if (d->asking) /* otherwise the callback has run already */
		d->query = query;
}

static void local_address(struct dial *d)
{
	const struct address *a = d->address;
	struct attempt *only = &d->attempt[0];
	struct sockaddr_un *un = &only->to.un;

	d->n = 1;
	if (a->kind == ADDRESS_VSOCK) {
		only->to.vm.svm_family = AF_VSOCK;
		only->to.vm.svm_cid = a->cid;
		only->to.vm.svm_port = a->port;
		only->len = sizeof(only->to.vm);
	} else {
		size_t len = strlen(a->name);

		if (len >= sizeof(un->sun_path)) {
			fail(d, REASON_DIAL_FAILED, "the path is too long for a Unix socket");
			return;
		}
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, a->name, len);
		only->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
		if (a->name[0] == '@') {
			un->sun_path[0] = '\0';
			only->len--;
		}
	}
	try_next(d);
}

static void on_deadline(struct timer *t)
{
	struct dial *d = (struct dial *)((char *)t - offsetof(struct dial, deadline));

	fail(d, REASON_DIAL_TIMEOUT, "no answer within the dial time-out");
}

struct dial *dial_start(struct worker *w, const struct address *address, uint64_t timeout_ms,
			dial_done *done, void *user)
{
	struct attempt only = { 0 };
	bool is_literal = literal(address, &only);
	size_t n = address->kind == ADDRESS_TCP && !is_literal ? DIAL_ADDRESSES_MAX : 1;
	struct dial *d = calloc(1, sizeof(*d) + n * sizeof(d->attempt[0]));

	if (!d)
		return NULL;
	d->worker = w;
	d->address = address;
	d->starting = true;
	d->done = done;
	d->user = user;
	d->tell.run = on_tell;
	d->reapable.free = on_free;
	timer_set(w, &d->deadline, timeout_ms, on_deadline);
	switch (address->kind) {
	case ADDRESS_TCP:
		if (is_literal) {
			d->attempt[0] = only;
			d->n = 1;
			try_next(d);
		} else {
			resolve(d);
		}
		break;
	case ADDRESS_UNIX:
	case ADDRESS_VSOCK:
	case ADDRESS_HYBRID:
		local_address(d);
		break;
	default:
		fail(d, REASON_DIAL_FAILED, "not an address that can be dialled");
	}
	d->starting = false;
	return d;
}

void dial_cancel(struct dial *d)
{
	if (!d)
		return;
	d->done = NULL;
	if (d->conduit) {
		conduit_close(d->conduit, REASON_RESET);
		d->conduit = NULL;
	}
	finish(d);
}
