/*
 * intake: finds out what a client wants, without taking a byte that is not ours.
 *
 * Theory of operation:
 *
 *   PEEKING    recv(MSG_PEEK), edge-triggered (the bytes stay unread, so level-triggered would
 *              spin). A ClientHello for a service goes to the sni door with every byte still in the
 *              kernel; one for the relay itself goes on as SHAKING; other first bytes as READING.
 *   SHAKING    the relay's own TLS. ALPN attest-relay/1 is an agent, h2 a client with HTTP/2.
 *   READING    the head of an HTTP request: CONNECT for the connect door, /connect/ for the
 *              websocket door, GET /tunnel for an agent's WebSocket, /enroll for one that has no
 *              certificate yet. What came behind the head is given back; with it the heads of
 *              WebSockets, and HTTP/2's preface.
 *
 * One timer (timeouts.handshake) covers all three, and so does a struct handshake. Every way out
 * leads to an opening, to the side of tunnels, HTTP/2 or WebSockets, to enrolment, or to refuse().
 * Memory: HTTPHEAD_MAX while a head is read.
 *
 * Longer than other files: which door it is, is decided in one place.
 */
#include "relay/intake.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/clienthello.h"
#include "relay/edge.h"
#include "relay/enrolment.h"
#include "relay/fd.h"
#include "relay/gateway.h"
#include "relay/httphead.h"
#include "relay/listener.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/refusal.h"
#include "relay/tls.h"

#define TLS_RECORD_HANDSHAKE 0x16
#define ALPN_H2 "h2"

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"; /* RFC 9113 3.4 */

struct intake {
	struct listener *listener;
	struct worker *worker;
	int fd;           /* PEEKING */
	struct edge edge; /* PEEKING */
	struct handshake handshake;
	struct tls_handshake *shake; /* SHAKING */
	struct conduit *conduit;     /* READING */
	bool secure;                 /* READING inside TLS */
	char *head;
	size_t head_len;
	uint64_t deadline;
	struct timer timer;
	struct client client;
	struct intake *next, **prevp;
	struct reapable reapable;
};

static void on_free(struct reapable *r)
{
	struct intake *i = (struct intake *)((char *)r - offsetof(struct intake, reapable));

	listener_unref(i->listener);
	free(i);
}

/* The intake has done its part: whatever it still owns is let go. */
static void leave(struct intake *i)
{
	timer_cancel(i->worker, &i->timer);
	handshake_end(&i->handshake);
	*i->prevp = i->next;
	if (i->next)
		i->next->prevp = i->prevp;
	if (i->fd >= 0) {
		edge_forget(&i->edge);
		close(i->fd);
	}
	tls_handshake_cancel(i->shake);
	conduit_close(i->conduit, REASON_RESET);
	free(i->head);
	counter_add(&i->worker->counters.value[COUNTER_LIVE_INTAKES], (uint64_t)-1);
	worker_reap(i->worker, &i->reapable);
}

static void log_refusal(const struct intake *i, const char *wanted, enum reason why,
			const char *detail)
{
	opening_log_refused(i->worker, i->listener->name, &i->client, wanted, why, detail);
}

/* From peeking to a conduit; NULL: out of memory, and the intake is over. */
static struct conduit *take_conduit(struct intake *i)
{
	struct conduit *c = fd_conduit_of(i->worker, i->fd, client_family(&i->client));
	struct source *source;

	if (!c) {
		log_refusal(i, "", REASON_NO_MEMORY, "");
		source = i->client.source;
		leave(i);
		gateway_connection_over(source);
		return NULL;
	}
	edge_forget(&i->edge);
	i->fd = -1; /* consumed */
	return c;
}

/* Says no, in the words of door. */
static void refuse(struct intake *i, enum door door, enum reason why, const char *wanted,
		   const char *detail)
{
	struct source *source = i->client.source;
	struct conduit *c = i->conduit;

	if (!c && i->fd >= 0) {
		c = take_conduit(i);
		if (!c)
			return;
	}
	if (*wanted)
		why = claim_in_vain(source, worker_now(i->worker), why, &detail);
	log_refusal(i, wanted, why, detail);
	i->conduit = NULL; /* consumed */
	leave(i);
	if (c)
		refusal_send(c, door, why, *detail ? detail : reason_explanation(why),
			     gateway_on_connection_over, source);
	else
		gateway_connection_over(source);
}

/* Gone before it said anything worth an answer; not worth a line either (health checks). */
static void vanish(struct intake *i, enum reason why)
{
	struct source *source = i->client.source;

	opening_log_vanished(i->worker, i->listener->name, &i->client, why);
	leave(i);
	gateway_connection_over(source);
}

static void open_route(struct intake *i, struct conduit *c, enum door door,
		       const struct route *route)
{
	struct listener *l = i->listener;
	struct worker *w = i->worker;
	struct client client = i->client;

	i->conduit = NULL; /* consumed */
	leave(i);
	opening_new(l, w, c, door, NULL, &client, route);
}

/* May this client use the doors of HTTP? Without TLS there is no certificate to be seen. */
static enum reason judge(const struct intake *i)
{
	const struct listener_config *l = i->listener->config;
	const enum reason why = settings_judge_identity(
		gateway_settings(i->worker), i->listener->name, i->client.identity, settings_now());

	if (why != REASON_NONE) /* taken back while it shook hands */
		return why;
	if (!l->client_ca || l->client_certificates == CERTIFICATES_OPTIONAL || i->client.verified)
		return REASON_NONE;
	gateway_failed_to_authenticate(&i->client, worker_now(i->worker));
	return REASON_FORBIDDEN;
}

/* On to a side of the gateway. */
static void pass_on(struct intake *i, struct conduit *c, gateway_client_accept *accept)
{
	enum reason verdict = judge(i);
	struct listener *l = i->listener;
	struct worker *w = i->worker;
	struct client client = i->client;

	i->conduit = NULL; /* consumed */
	leave(i);
	accept(l, w, c, &client, verdict);
}

/* ---- READING ---- */

/* The same, with all that was read given back. */
static void pass_on_unread(struct intake *i, gateway_client_accept *accept)
{
	if (conduit_unread(i->conduit, i->head, i->head_len) < 0)
		refuse(i, DOOR_CONNECT, REASON_NO_MEMORY, "", "");
	else
		pass_on(i, i->conduit, accept);
}

static void connect_request(struct intake *i, const struct httphead *head)
{
	char host[HTTPHEAD_HOST_SIZE];
	enum reason verdict;
	struct route route;
	uint16_t port;

	if (httphead_authority(head->target, host, &port) < 0) {
		refuse(i, DOOR_CONNECT, REASON_PROTOCOL, "", "CONNECT needs HOST:PORT");
		return;
	}
	verdict = judge(i);
	if (verdict != REASON_NONE) {
		refuse(i, DOOR_CONNECT, verdict, host,
		       verdict == REASON_FORBIDDEN
			       ? "a client certificate of this listener's CA is needed"
			       : "");
		return;
	}
	if (router_by_authority(&route, gateway_settings(i->worker)->config, host) < 0) {
		refuse(i, DOOR_CONNECT, REASON_UNKNOWN_SERVICE, host, "");
		return;
	}
	if (conduit_unread(i->conduit, i->head + head->len, i->head_len - head->len) < 0)
		refuse(i, DOOR_CONNECT, REASON_NO_MEMORY, host, "");
	else
		open_route(i, i->conduit, DOOR_CONNECT, &route);
}

static bool is_upgrade(const struct httphead *head)
{
	return httphead_is(head->method, "GET") && httphead_is(head->target, "/tunnel") &&
	       httphead_has_token(head, "upgrade", "websocket");
}

static bool is_for_websocket(const struct httphead *head)
{
	const size_t len = sizeof(GATEWAY_WEBSOCKET_PATH) - 1;

	return head->target.len >= len && memcmp(head->target.at, GATEWAY_WEBSOCKET_PATH, len) == 0;
}

static void agent_upgrade(struct intake *i)
{
	struct listener *l = i->listener;
	struct gateway *g = l->gateway;
	struct conduit *c = i->conduit;
	struct worker *w = i->worker;
	struct client client = i->client;

	if (conduit_unread(c, i->head, i->head_len) < 0) {
		refuse(i, DOOR_CONNECT, REASON_NO_MEMORY, "", "");
		return;
	}
	i->conduit = NULL; /* consumed */
	leave(i);
	g->tunnel.upgrade(l, w, c, &client);
}

/* On to the enrolment, with what is left of the time. */
static void enrol(struct intake *i, const struct httphead *head)
{
	const uint64_t now = worker_now(i->worker);
	struct conduit *c = i->conduit;

	i->conduit = NULL; /* consumed */
	enrolment_begin(i->listener, i->worker, c, &i->client, head, i->head, i->head_len,
			i->deadline > now ? i->deadline - now : 1);
	OPENSSL_cleanse(i->head, i->head_len); /* there was a code in it */
	leave(i);
}

static void read_request(struct intake *i, const struct httphead *head)
{
	unsigned doors = i->listener->config->doors;

	if (doors & DOOR_CONNECT && httphead_is(head->method, "CONNECT"))
		connect_request(i, head);
	else if (doors & DOOR_WEBSOCKET && is_for_websocket(head))
		pass_on_unread(i, i->listener->gateway->websocket.accept);
	else if (doors & DOOR_TUNNEL && i->secure && is_upgrade(head))
		agent_upgrade(i);
	else if (doors & DOOR_TUNNEL && i->secure && enrolment_is_wanted(head))
		enrol(i, head);
	else
		refuse(i, DOOR_CONNECT, REASON_NO_DOOR, "",
		       "this relay answers to CONNECT, to WebSockets and to agents");
}

/* Is it HTTP/2, as far as it has come? */
static bool is_preface(const struct intake *i)
{
	size_t len = i->head_len < sizeof(preface) - 1 ? i->head_len : sizeof(preface) - 1;

	return i->listener->config->doors & DOOR_CONNECT && memcmp(i->head, preface, len) == 0;
}

static void on_readable(struct conduit *c, unsigned events)
{
	struct intake *i = c->user;
	struct httphead head;
	ssize_t n = conduit_read(c, i->head + i->head_len, HTTPHEAD_MAX - i->head_len);

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		vanish(i, n == 0 ? REASON_EOF : REASON_RESET);
		return;
	}
	i->head_len += (size_t)n;
	if (is_preface(i)) {
		if (i->head_len >= sizeof(preface) - 1)
			pass_on_unread(i, i->listener->gateway->h2.accept);
		return;
	}
	switch (httphead_parse(i->head, i->head_len, &head)) {
	case HTTPHEAD_OK:
		read_request(i, &head);
		break;
	case HTTPHEAD_BAD:
		refuse(i, DOOR_CONNECT, REASON_PROTOCOL, "", head.why);
		break;
	case HTTPHEAD_TOO_LARGE:
		refuse(i, DOOR_CONNECT, REASON_TOO_LARGE, "", head.why);
		break;
	case HTTPHEAD_MORE:
		if (i->head_len == HTTPHEAD_MAX)
			refuse(i, DOOR_CONNECT, REASON_TOO_LARGE, "", "the head is too large");
		break;
	}
}

static void start_reading(struct intake *i, struct conduit *c)
{
	i->conduit = c;
	i->head = malloc(HTTPHEAD_MAX);
	if (!i->head) {
		refuse(i, DOOR_CONNECT, REASON_NO_MEMORY, "", "");
		return;
	}
	c->ready = on_readable;
	c->user = i;
	conduit_want(c, READY_READ);
}

/* ---- SHAKING ---- */

static void on_shaken(void *user, struct conduit *c, enum reason why, const char *detail)
{
	struct intake *i = user;
	struct listener *l = i->listener;
	struct gateway *g = l->gateway;

	i->shake = NULL;
	if (!c) {
		refuse(i, DOOR_STATIC, why, "", detail);
		return;
	}
	i->secure = true;
	client_secured(&i->client, c);
	if (strcmp(tls_conduit_alpn(c), CLIENTHELLO_ALPN) == 0) {
		struct worker *w = i->worker;
		struct client client = i->client;

		leave(i);
		g->tunnel.accept(l, w, c, &client);
	} else if (strcmp(tls_conduit_alpn(c), ALPN_H2) == 0) {
		pass_on(i, c, g->h2.accept);
	} else {
		start_reading(i, c);
	}
}

static void start_tls(struct intake *i)
{
	uint64_t now = worker_now(i->worker);
	int fd = i->fd;

	edge_forget(&i->edge);
	i->fd = -1; /* consumed */
	i->shake = tls_accept(i->worker, fd, gateway_tls(i->listener),
			      i->deadline > now ? i->deadline - now : 1, on_shaken, i);
	if (!i->shake)
		refuse(i, DOOR_STATIC, REASON_NO_MEMORY, "", "");
}

/* ---- PEEKING ---- */

/* Is this ClientHello for the relay itself? */
static bool is_for_relay(const struct intake *i, const struct clienthello *hello)
{
	const char *domain = gateway_settings(i->worker)->config->domain;
	const struct tls_context *own = gateway_tls(i->listener);

	if (!own)
		return false;
	if (!(i->listener->config->doors & DOOR_SNI) || !*hello->host)
		return true;
	return (domain && strcasecmp(hello->host, domain) == 0) ||
	       tls_context_has_name(own, hello->host);
}

static void route_hello(struct intake *i, const struct clienthello *hello)
{
	struct conduit *c;
	struct route route;

	if (is_for_relay(i, hello)) {
		start_tls(i);
	} else if (!(i->listener->config->doors & DOOR_SNI)) {
		refuse(i, DOOR_SNI, REASON_NO_DOOR, hello->host, "this listener has no TLS");
	} else if (!*hello->host) {
		refuse(i, DOOR_SNI, REASON_NO_SNI, "", "");
	} else if (router_by_host(&route, gateway_settings(i->worker)->config, hello->host) < 0) {
		refuse(i, DOOR_SNI, REASON_UNKNOWN_SERVICE, hello->host, "");
	} else {
		c = take_conduit(i);
		if (c)
			open_route(i, c, DOOR_SNI, &route);
	}
}

static void on_hello(struct intake *i, const uint8_t *data, size_t len, bool ended)
{
	struct clienthello hello;

	switch (clienthello_parse(data, len, &hello)) {
	case CLIENTHELLO_OK:
		route_hello(i, &hello);
		break;
	case CLIENTHELLO_MORE:
		if (len == CLIENTHELLO_MAX)
			refuse(i, DOOR_SNI, REASON_TOO_LARGE, "", "the ClientHello is too large");
		else if (ended)
			vanish(i, REASON_EOF);
		break;
	case CLIENTHELLO_NOT_TLS:
		refuse(i, DOOR_STATIC, REASON_NO_DOOR, "", "");
		break;
	case CLIENTHELLO_BAD:
		refuse(i, DOOR_SNI, REASON_PROTOCOL, "", hello.why);
		break;
	}
}

static void on_peek(struct edge *e, uint32_t events)
{
	struct intake *i = (struct intake *)((char *)e - offsetof(struct intake, edge));
	uint8_t *data = i->worker->scratch;
	ssize_t n;

	do
		n = recv(i->fd, data, CLIENTHELLO_MAX, MSG_PEEK);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		vanish(i, n == 0 ? REASON_EOF : REASON_RESET);
	} else if (data[0] == TLS_RECORD_HANDSHAKE) {
		on_hello(i, data, (size_t)n, events & EPOLLRDHUP);
	} else if (i->listener->config->doors & DOORS_HTTP && data[0] >= 'A' && data[0] <= 'Z') {
		struct conduit *c = take_conduit(i);

		if (c)
			start_reading(i, c);
	} else {
		refuse(i, DOOR_STATIC, REASON_NO_DOOR, "", "");
	}
}

static void on_deadline(struct timer *t)
{
	struct intake *i = (struct intake *)((char *)t - offsetof(struct intake, timer));

	refuse(i, i->conduit ? DOOR_CONNECT : DOOR_STATIC, REASON_HANDSHAKE_TIMEOUT, "", "");
}

/* Too many; reset, since a lingering close would hold it for as long again. */
static void on_dropped(struct handshake *h)
{
	refuse((struct intake *)((char *)h - offsetof(struct intake, handshake)), DOOR_STATIC,
	       REASON_HANDSHAKE_LIMIT, "", "limits.handshakes");
}

/* A static listener: the listener says it all. */
static void open_static(struct listener *l, int fd, const struct client *client)
{
	struct route route;
	struct conduit *c = fd_conduit_of(l->worker, fd, client_family(client));

	if (!c || router_by_service(&route, gateway_settings(l->worker)->config,
				    l->config->service) < 0) {
		enum reason why = c ? REASON_UNKNOWN_SERVICE : REASON_NO_MEMORY;

		opening_log_refused(l->worker, l->name, client, l->config->service, why, "");
		gateway_connection_over(client->source);
		if (c)
			conduit_close(c, why);
		else
			close(fd);
		return;
	}
	opening_new(l, l->worker, c, DOOR_STATIC, NULL, client, &route);
}

void intake_new(struct listener *l, int fd, const struct client *client, uint64_t ms)
{
	struct gateway_worker *gw = gateway_worker(l->worker);
	struct client who = *client;
	struct intake *i;

	if (gateway_settings(l->worker)->tells_clients && !who.to.family)
		peer_of_local(&who.to, fd);
	if (l->config->service) {
		open_static(l, fd, &who);
		return;
	}
	i = calloc(1, sizeof(*i));
	if (!i) {
		opening_log_refused(l->worker, l->name, &who, "", REASON_NO_MEMORY, "");
		close(fd);
		gateway_connection_over(client->source);
		return;
	}
	i->listener = listener_ref(l);
	i->worker = l->worker;
	i->fd = fd;
	i->reapable.free = on_free;
	i->deadline = worker_now(i->worker) + ms;
	i->client = who;
	i->next = gw->intakes;
	i->prevp = &gw->intakes;
	if (i->next)
		i->next->prevp = &i->next;
	gw->intakes = i;
	counter_add(&i->worker->counters.value[COUNTER_LIVE_INTAKES], 1);
	timer_set(i->worker, &i->timer, ms, on_deadline);
	if (!handshake_begin(&gw->handshakes, &i->handshake, i->client.source, on_dropped))
		refuse(i, DOOR_STATIC, REASON_SOURCE_LIMIT, "", "limits.per_source.handshakes");
	else if (edge_watch(i->worker, &i->edge, fd, EPOLLIN | EPOLLRDHUP, on_peek) < 0)
		vanish(i, REASON_NO_MEMORY);
}

void intake_end_all(struct gateway_worker *gw)
{
	while (gw->intakes)
		vanish(gw->intakes, REASON_SHUTDOWN);
}
