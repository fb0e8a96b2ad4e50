/*
 * proxied: takes the PROXY header off a connection, and not a byte more.
 *
 * Theory of operation: recv(MSG_PEEK), edge-triggered, until it is known what comes first; then the
 * header, exactly, is read, and the intake has the connection as if there had been none. Who may
 * send one is decided by the real peer's address, which no header can change:
 *
 *                     a header   something else
 *   listed, required  read       refused
 *   listed, optional  read       goes on as it is
 *   others, required  refused as soon as accepted
 *   others, optional  refused    goes on as it is
 *
 * timeouts.handshake covers this and the intake together. Memory: the struct; all bytes stay in the
 * kernel.
 */
#include "relay/proxied.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/client.h"
#include "relay/conduit.h"
#include "relay/edge.h"
#include "relay/fd.h"
#include "relay/gateway.h"
#include "relay/intake.h"
#include "relay/listener.h"
#include "relay/opening.h"
#include "relay/worker.h"

struct proxied {
	struct listener *listener;
	struct worker *worker;
	int fd;
	bool listed; /* by its address it is one of the proxies */
	struct edge edge;
	struct handshake handshake;
	uint64_t deadline;
	struct timer timer;
	struct client client;
	struct proxied *next, **prevp;
	struct reapable reapable;
};

static void on_free(struct reapable *r)
{
	struct proxied *p = (struct proxied *)((char *)r - offsetof(struct proxied, reapable));

	listener_unref(p->listener);
	free(p);
}

/* Over; whoever calls has taken fd or closes it. */
static void leave(struct proxied *p)
{
	timer_cancel(p->worker, &p->timer);
	handshake_end(&p->handshake);
	edge_forget(&p->edge);
	*p->prevp = p->next;
	if (p->next)
		p->next->prevp = p->prevp;
	counter_add(&p->worker->counters.value[COUNTER_LIVE_INTAKES], (uint64_t)-1);
	worker_reap(p->worker, &p->reapable);
}

/* A reset: there is no door yet in whose words to say it. */
static void refuse(struct proxied *p, enum reason why, const char *detail)
{
	leave(p);
	listener_refuse(p->listener, p->fd, &p->client, why, detail);
	gateway_connection_over(p->client.source);
}

/* Gone without a header's worth of bytes (health checks): not worth a line. */
static void vanish(struct proxied *p, enum reason why)
{
	opening_log_vanished(p->worker, p->listener->name, &p->client, why);
	leave(p);
	close(p->fd);
	gateway_connection_over(p->client.source);
}

static void go_on(struct proxied *p)
{
	struct gateway *g = p->listener->gateway;
	uint64_t now = worker_now(p->worker);
	enum reason why = REASON_NONE;
	const char *setting;

	leave(p);
	if (p->listed) /* only now is it known whose it is */
		why = gateway_connection_from(g, &p->client, now, &setting);
	if (why != REASON_NONE)
		listener_refuse(p->listener, p->fd, &p->client, why, setting);
	else
		intake_new(p->listener, p->fd, &p->client,
			   p->deadline > now ? p->deadline - now : 1);
}

static void take(struct proxied *p, const struct proxyproto *head)
{
	/* all of it lies in the kernel's buffer: it was just seen there */
	if (recv(p->fd, p->worker->scratch, head->len, 0) != (ssize_t)head->len) {
		vanish(p, REASON_RESET);
		return;
	}
	if (head->from.family)
		client_told(&p->client, &head->from, &head->to);
	else
		client_not_told(&p->client);
	go_on(p);
}

static void judge(struct proxied *p, const uint8_t *data, size_t len, bool ended)
{
	struct proxyproto head;
	enum proxyproto_result r = proxyproto_parse(data, len, &head);

	if (head.version && !p->listed) {
		refuse(p, REASON_FORBIDDEN, "a PROXY header, but no proxy of proxy_networks");
		return;
	}
	switch (r) {
	case PROXYPROTO_OK:
		take(p, &head);
		break;
	case PROXYPROTO_MORE:
		if (ended)
			vanish(p, REASON_EOF);
		break;
	case PROXYPROTO_NONE:
		if (p->listener->config->proxy_protocol == PROXY_TAKEN_REQUIRED)
			refuse(p, REASON_PROTOCOL, "no PROXY header, which this listener requires");
		else
			go_on(p);
		break;
	case PROXYPROTO_BAD:
		refuse(p, REASON_PROTOCOL, head.why);
		break;
	case PROXYPROTO_TOO_LARGE:
		refuse(p, REASON_TOO_LARGE, "the PROXY header is too large");
		break;
	}
}

static void on_peek(struct edge *e, uint32_t events)
{
	struct proxied *p = (struct proxied *)((char *)e - offsetof(struct proxied, edge));
	uint8_t *data = p->worker->scratch;
	ssize_t n;

	do
		n = recv(p->fd, data, PROXYPROTO_MAX, MSG_PEEK);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		vanish(p, n == 0 ? REASON_EOF : REASON_RESET);
	else
		judge(p, data, (size_t)n, events & EPOLLRDHUP);
}

static void on_dropped(struct handshake *h)
{
	refuse((struct proxied *)((char *)h - offsetof(struct proxied, handshake)),
	       REASON_HANDSHAKE_LIMIT, "limits.handshakes");
}

static void on_deadline(struct timer *t)
{
	refuse((struct proxied *)((char *)t - offsetof(struct proxied, timer)),
	       REASON_HANDSHAKE_TIMEOUT, "");
}

static bool is_listed(const struct listener_config *config, const struct peer *peer)
{
	enum network_kind kind = peer->family == AF_INET    ? NETWORK_IPV4
				 : peer->family == AF_INET6 ? NETWORK_IPV6
							    : NETWORK_NONE;

	for (size_t i = 0; i < config->proxy_networks.n; i++) {
		const struct network *n = &config->proxy_networks.at[i];

		if (n->kind == NETWORK_UNIX ? peer->family == AF_UNIX
					    : network_has_ip(n, kind, peer->ip))
			return true;
	}
	return false;
}

/* With its source, which nobody but a proxy can tell, if it is one's. False: it is turned away. */
static bool count(struct proxied *p)
{
	const struct listener *l = p->listener;
	const char *setting;
	enum reason why;

	if (p->listed) {
		gateway_connection_unknown(l->gateway, &p->client);
		return true;
	}
	why = gateway_connection_from(l->gateway, &p->client, worker_now(p->worker), &setting);
	if (why != REASON_NONE)
		listener_refuse(l, p->fd, &p->client, why, setting);
	return why == REASON_NONE;
}

void proxied_new(struct listener *l, int fd, const struct peer *peer)
{
	uint64_t ms = gateway_settings(l->worker)->config->timeouts.handshake;
	struct gateway_worker *gw = gateway_worker(l->worker);
	struct proxied *p = calloc(1, sizeof(*p));

	if (!p) {
		struct client who;

		client_init(&who, peer);
		opening_log_refused(l->worker, l->name, &who, "", REASON_NO_MEMORY, "");
		close(fd);
		gateway_connection_none(l->gateway);
		return;
	}
	p->listener = listener_ref(l);
	p->worker = l->worker;
	p->fd = fd;
	p->listed = is_listed(l->config, peer);
	p->deadline = worker_now(l->worker) + ms;
	p->reapable.free = on_free;
	client_init(&p->client, peer);
	if (!count(p)) {
		listener_unref(l);
		free(p);
		return;
	}
	p->next = gw->proxied;
	p->prevp = &gw->proxied;
	if (p->next)
		p->next->prevp = &p->next;
	gw->proxied = p;
	counter_add(&p->worker->counters.value[COUNTER_LIVE_INTAKES], 1);
	if (!p->listed && l->config->proxy_protocol == PROXY_TAKEN_REQUIRED) {
		refuse(p, REASON_FORBIDDEN,
		       "no proxy of proxy_networks, which this listener requires");
		return;
	}
	timer_set(p->worker, &p->timer, ms, on_deadline);
	if (!handshake_begin(&gw->handshakes, &p->handshake, p->client.source, on_dropped))
		refuse(p, REASON_SOURCE_LIMIT, "limits.per_source.handshakes");
	else if (edge_watch(p->worker, &p->edge, fd, EPOLLIN | EPOLLRDHUP, on_peek) < 0)
		vanish(p, REASON_NO_MEMORY);
}

void proxied_end_all(struct gateway_worker *gw)
{
	while (gw->proxied)
		vanish(gw->proxied, REASON_SHUTDOWN);
}
