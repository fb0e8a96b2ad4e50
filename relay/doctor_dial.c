/*
 * doctor_dial: names and connections.
 *
 * Theory of operation: the daemon's own code, relay/resolver and relay/dial, in a worker whose loop
 * is turned here until the answer is there. Each has a time-out of its own; doctor_wait has one
 * more, a little later.
 */
#include "relay/doctor_dial.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/dns.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/address.h"
#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/doctor.h"
#include "relay/fd.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define ADDRESSES_TEXT 400
#define SETTLE_MS 3000 /* lingering closes take 2 s at most */

/* ---- waiting ---- */

struct alarm {
	struct timer timer;
	bool over;
};

static void on_alarm(struct timer *t)
{
	((struct alarm *)((char *)t - offsetof(struct alarm, timer)))->over = true;
}

bool doctor_wait(struct worker *w, const bool *done, uint64_t ms)
{
	struct alarm alarm = { .over = false };

	timer_set(w, &alarm.timer, ms, on_alarm);
	while (!*done && !alarm.over)
		worker_turn(w, true);
	timer_cancel(w, &alarm.timer);
	return *done;
}

void doctor_settle(struct worker *w)
{
	struct alarm alarm = { .over = false };

	timer_set(w, &alarm.timer, SETTLE_MS, on_alarm);
	do
		worker_turn(w, w->conduits > 0);
	while (w->conduits > 0 && !alarm.over);
	timer_cancel(w, &alarm.timer);
}

/* ---- names ---- */

struct question {
	bool done;
	int error;
	char addresses[ADDRESSES_TEXT];
};

static void on_addresses(int error, struct evutil_addrinfo *list, void *user)
{
	struct question *q = user;
	size_t used = 0;

	q->done = true;
	q->error = error;
	for (const struct evutil_addrinfo *i = list; i && used < sizeof(q->addresses);
	     i = i->ai_next) {
		char host[64];

		if (getnameinfo(i->ai_addr, i->ai_addrlen, host, sizeof(host), NULL, 0,
				NI_NUMERICHOST) == 0)
			used += (size_t)snprintf(q->addresses + used, sizeof(q->addresses) - used,
						 "%s%s", used ? ", " : "", host);
	}
	if (list)
		evutil_freeaddrinfo(list);
}

static bool has_name(const struct address *a)
{
	uint8_t ip[16];

	return a->kind == ADDRESS_TCP && inet_pton(AF_INET, a->name, ip) != 1 &&
	       inet_pton(AF_INET6, a->name, ip) != 1 && !strchr(a->name, '%');
}

bool doctor_resolve(struct doctor *d, const struct address *a)
{
	struct evutil_addrinfo ask = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct evdns_getaddrinfo_request *query;
	struct question q = { .done = false };
	struct evdns_base *dns;

	if (!has_name(a))
		return true;
	if (doctor_now() >= d->end) {
		doctor_skip(d, "the time that the checks before it have taken");
		return false;
	}
	dns = worker_dns(d->worker);
	if (!dns) {
		doctor_wrong(d, "see /etc/resolv.conf",
			     "there is no resolver: /etc/resolv.conf "
			     "cannot be read");
		return false;
	}
	query = evdns_getaddrinfo(dns, a->name, NULL, &ask, on_addresses, &q);
	if (!q.done && !doctor_wait(d->worker, &q.done, doctor_ms(d, 0))) {
		evdns_getaddrinfo_cancel(query); /* its callback still comes, with an error */
		doctor_wait(d->worker, &q.done, DOCTOR_CHECK_MS);
		doctor_wrong(d,
			     "see which servers /etc/resolv.conf names, and whether a firewall "
			     "lets questions to them pass",
			     "%s: no answer from the DNS in time", a->name);
		return false;
	}
	if (q.error || !*q.addresses) {
		doctor_wrong(d,
			     "correct the name, or the DNS that /etc/resolv.conf names (the "
			     "daemon asks that and /etc/hosts)",
			     "%s does not resolve: %s", a->name,
			     q.error ? evutil_gai_strerror(q.error) : "it has no address");
		return false;
	}
	doctor_ok(d, "%s is %s", a->name, q.addresses);
	return true;
}

/* ---- connections ---- */

struct dialling {
	bool done;
	int fd;
	enum reason why;
	char *text;
	size_t size;
};

static void on_dialled(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct dialling *g = user;

	g->done = true;
	g->why = why;
	if (c)
		g->fd = fd_conduit_release(c);
	else
		snprintf(g->text, g->size, "%s", detail);
}

static int dial(const struct doctor *d, const struct address *a, uint64_t ms, struct dialling *g)
{
	struct dial *pending = dial_start(d->worker, a, doctor_ms(d, ms), on_dialled, g);

	if (!pending) {
		snprintf(g->text, g->size, "out of memory");
	} else if (!doctor_wait(d->worker, &g->done, doctor_ms(d, ms) + 1000)) {
		dial_cancel(pending);
		snprintf(g->text, g->size, "no answer in time");
		g->why = REASON_DIAL_TIMEOUT;
	}
	return g->fd;
}

int doctor_dial(const struct doctor *d, const struct address *a, uint64_t ms, char *why,
		size_t size)
{
	struct dialling g = { .fd = -1, .text = why, .size = size };

	return dial(d, a, ms, &g);
}

void doctor_target(struct doctor *d, const struct address *a, uint64_t ms)
{
	char why[ADDRESS_TEXT_MAX + 200];
	struct dialling g = { .fd = -1, .text = why, .size = sizeof(why) };
	const char *advice = "see that the address is right";

	if (doctor_now() >= d->end) {
		doctor_skip(d, "the time that the checks before it have taken");
		return;
	}
	if (dial(d, a, ms, &g) >= 0) {
		close(g.fd);
		doctor_ok(d, "it takes connections");
		return;
	}
	if (strstr(why, strerror(EACCES)))
		advice = "let this user connect: the socket's and its folders' owner, group and "
			 "mode, and SELinux or AppArmor, decide";
	else if (g.why == REASON_DIAL_REFUSED)
		advice = "start the service, or correct its address";
	else if (g.why == REASON_DIAL_TIMEOUT)
		advice = "something drops what is sent there: a firewall, or a host that is down";
	else if (g.why == REASON_DIAL_UNREACHABLE)
		advice =
			"correct the address or its name in the DNS; see the routes (ip route get)";
	doctor_wrong(d, advice, "%s", why);
}
