/*
 * carrier: dials, asks a proxy to pass us on, does the TLS handshake and the WebSocket upgrade.
 *
 * Theory of operation:
 *
 *   dialling      relay/dial: TCP (or a Unix socket); then the socket's options are set
 *   passing       with a proxy only, which was dialled: tunnel/proxy
 *   handshaking   relay/tls: client, the relay's certificate verified
 *   upgrading     WebSocket only: tunnel/ws, inside TLS
 *
 * At most one of the four is under way; done ends them. A direct carrier needs the relay's ALPN
 * name: a server that did not choose it is something else (a proxy, a web server).
 *
 * Black holes: TCP_USER_TIMEOUT bounds how long sent bytes may stay unanswered; the session's pings
 * see to it that there are some. TCP_NOTSENT_LOWAT keeps what the kernel holds unsent short, so
 * that a stream that becomes ready need not queue behind megabytes of another.
 *
 * The struct is freed by the reaper after done or cancel.
 */
#include "tunnel/carrier.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "config/address.h"
#include "relay/conduit.h"
#include "relay/dial.h"
#include "relay/fd.h"
#include "relay/tls.h"
#include "relay/worker.h"
#include "tunnel/egress.h"
#include "tunnel/hello.h"
#include "tunnel/proxy.h"
#include "tunnel/ws.h"

#define UNSENT_MAX (128 * 1024)
#define KEEPALIVE_SECONDS 30 /* for what lies under a session that is not yet one */

struct carrier {
	const struct carrier_shared *shared;
	enum carrier_kind kind;
	const struct address *address;
	char name[HOST_SIZE];
	const struct carrier_events *events;
	void *user;
	const struct proxy *proxy; /* NULL: directly */
	struct dial *dial;
	struct proxy_opening *passing;
	struct tls_handshake *handshake;
	struct ws_opening *opening;
	struct reapable reapable;
};

static const char *const kind_texts[] = {
	[CARRIER_DIRECT] = "direct TLS",
	[CARRIER_WEBSOCKET] = "WebSocket",
};
_Static_assert(sizeof(kind_texts) / sizeof(*kind_texts) == CARRIER_KINDS, "a text for each kind");

const char *carrier_kind_text(enum carrier_kind kind)
{
	return kind_texts[kind];
}

static void carrier_free(struct reapable *r)
{
	free((char *)r - offsetof(struct carrier, reapable));
}

static void tell(struct carrier *c, struct conduit *conduit, enum reason why, bool reached,
		 const char *detail)
{
	c->events->done(c->user, conduit, why, reached, detail);
	worker_reap(c->shared->worker, &c->reapable);
}

static void on_upgraded(void *user, struct conduit *ws, enum reason why, const char *detail)
{
	struct carrier *c = user;

	c->opening = NULL;
	tell(c, ws, why, true, detail);
}

static void upgrade(struct carrier *c, struct conduit *tls)
{
	static const struct ws_handshake_terms terms = {
		.path = HELLO_WEBSOCKET_PATH,
		.subprotocol = HELLO_WEBSOCKET_SUBPROTOCOL,
	};

	c->opening = ws_connect(tls, c->name, &terms, c->shared->handshake_ms, on_upgraded, c);
	if (!c->opening)
		tell(c, NULL, REASON_NO_MEMORY, true, "out of memory");
}

static void on_handshake(void *user, struct conduit *tls, enum reason why, const char *detail)
{
	struct carrier *c = user;
	const char *alpn = c->shared->alpn ? c->shared->alpn : HELLO_ALPN;
	char wrong[256];

	c->handshake = NULL;
	if (!tls) {
		tell(c, NULL, why, true, detail);
	} else if (c->kind == CARRIER_WEBSOCKET) {
		upgrade(c, tls);
	} else if (strcmp(tls_conduit_alpn(tls), alpn) != 0) {
		conduit_close(tls, REASON_EOF);
		snprintf(wrong, sizeof(wrong),
			 "TLS works, but what answers is no relay's %s door (it did not choose "
			 "ALPN \"%s\"); check address and port, and any proxy in between",
			 c->shared->alpn ? "connect" : "tunnel", alpn);
		tell(c, NULL, REASON_NO_DOOR, true, wrong);
	} else {
		tell(c, tls, REASON_NONE, true, "");
	}
}

/* Best effort: a Unix socket has none of these, and none is needed for the bytes to flow. */
static void set_options(int fd, uint64_t dead_ms)
{
	static const struct {
		int level, option, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX },
		{ IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_SECONDS },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
	};
	unsigned dead = dead_ms > INT32_MAX ? INT32_MAX : (unsigned)dead_ms;

	for (unsigned i = 0; i < sizeof(options) / sizeof(*options); i++)
		setsockopt(fd, options[i].level, options[i].option, &options[i].value,
			   sizeof(options[i].value));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
}

static void handshake(struct carrier *c, int fd)
{
	const struct carrier_shared *s = c->shared;

	c->handshake = tls_connect(s->worker, fd, s->tls[c->kind], c->name, s->handshake_ms,
				   on_handshake, c);
	if (!c->handshake)
		tell(c, NULL, REASON_NO_MEMORY, true, "out of memory");
}

/* A proxy that does not pass us on would not do so for the other kind of carrier either. */
static void proxy_failed(struct carrier *c, enum reason why, const char *detail)
{
	char where[ADDRESS_TEXT_MAX], text[2 * ADDRESS_TEXT_MAX];

	snprintf(text, sizeof(text), "%.200s: %.600s",
		 address_format(c->address, where, sizeof(where)), detail);
	tell(c, NULL, why, false, text);
}

static void on_passed(void *user, int fd, enum reason why, const char *detail)
{
	struct carrier *c = user;

	c->passing = NULL;
	if (fd >= 0)
		handshake(c, fd);
	else
		proxy_failed(c, why, detail);
}

static void on_dialled(void *user, struct conduit *plain, enum reason why, const char *detail)
{
	struct carrier *c = user;
	const struct carrier_shared *s = c->shared;
	char text[ADDRESS_TEXT_MAX + 64];
	int fd;

	c->dial = NULL;
	if (!plain && c->proxy) {
		snprintf(text, sizeof(text), "the proxy cannot be reached: %s", detail);
		proxy_failed(c, why, text);
		return;
	}
	if (!plain) {
		tell(c, NULL, why, false, detail);
		return;
	}
	fd = fd_conduit_release(plain);
	set_options(fd, s->dead_ms);
	c->events->connected(c->user);
	if (!c->proxy) {
		handshake(c, fd);
		return;
	}
	c->passing = proxy_open(s->worker, fd, c->proxy, c->address, s->handshake_ms, on_passed, c);
	if (!c->passing)
		tell(c, NULL, REASON_NO_MEMORY, true, "out of memory");
}

struct carrier *carrier_open(const struct carrier_shared *shared, enum carrier_kind kind,
			     const struct address *address, const char *name,
			     const struct carrier_events *events, void *user)
{
	struct carrier *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->shared = shared;
	c->kind = kind;
	c->address = address;
	host_plain(name, c->name);
	c->events = events;
	c->user = user;
	c->reapable.free = carrier_free;
	c->proxy = egress_to(shared->egress, address);
	c->dial = dial_start(shared->worker, c->proxy ? &c->proxy->url.address : address,
			     shared->dial_ms, on_dialled, c);
	if (!c->dial) {
		free(c);
		return NULL;
	}
	return c;
}

void carrier_cancel(struct carrier *c)
{
	if (!c)
		return;
	dial_cancel(c->dial);
	proxy_opening_cancel(c->passing);
	tls_handshake_cancel(c->handshake);
	ws_opening_cancel(c->opening);
	worker_reap(c->shared->worker, &c->reapable);
}
