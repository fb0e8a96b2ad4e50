/*
 * listener: the gateway's side of accepting.
 *
 * Theory of operation: an acceptor on the socket that all workers share; each connection is counted
 * against the gateway's limit and its source's, then it is an intake's, or its PROXY header is read
 * first, which says who its source is.
 */
#include "relay/listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "relay/bind.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/figures.h"
#include "relay/gateway.h"
#include "relay/intake.h"
#include "relay/log.h"
#include "relay/opening.h"
#include "relay/proxied.h"
#include "relay/sockets.h"
#include "relay/tls.h"
#include "relay/worker.h"

static struct listener *of(struct acceptor *a)
{
	return (struct listener *)((char *)a - offsetof(struct listener, acceptor));
}

static const char *on_admit(struct acceptor *a)
{
	return gateway_connection_begin(of(a)->gateway);
}

static void on_none(struct acceptor *a)
{
	gateway_connection_none(of(a)->gateway);
}

static void on_accepted(struct acceptor *a, int fd, const struct peer *peer)
{
	struct listener *l = of(a);
	const char *setting;
	struct client client;
	enum reason why;

	figure_add(l->figure, l->worker->index, FIGURE_ACCEPTED, 1);
	if (l->config->proxy_protocol) {
		proxied_new(l, fd, peer);
		return;
	}
	client_init(&client, peer);
	why = gateway_connection_from(l->gateway, &client, worker_now(l->worker), &setting);
	if (why != REASON_NONE)
		listener_refuse(l, fd, &client, why, setting);
	else
		intake_new(l, fd, &client, gateway_settings(l->worker)->config->timeouts.handshake);
}

void listener_refuse(const struct listener *l, int fd, const struct client *client, enum reason why,
		     const char *detail)
{
	struct conduit *c = fd_conduit_of(l->worker, fd, client_family(client));

	opening_log_refused(l->worker, l->name, client, "", why, detail);
	if (c)
		conduit_close(c, why);
	else
		close(fd);
}

/* Can somebody on another machine, or in a VM, connect? fd: as it was bound, or inherited. */
static bool is_reachable(int fd)
{
	static const uint8_t v6[16] = { [15] = 1 };
	struct peer at;

	peer_of_local(&at, fd);
	return (at.family == AF_INET && at.ip[0] != 127) ||
	       (at.family == AF_INET6 && memcmp(at.ip, v6, sizeof(v6)) != 0) ||
	       (at.family == AF_VSOCK && at.a != VMADDR_CID_LOCAL);
}

static void warn_of_strangers(const struct listener_config *l, int fd)
{
	const bool certified = l->client_ca && l->client_certificates == CERTIFICATES_REQUIRED &&
			       !(l->doors & ~(unsigned)(DOORS_HTTP | DOOR_TUNNEL));
	char where[ADDRESS_TEXT_MAX];

	if (l->doors == DOOR_TUNNEL || !is_reachable(fd))
		return;
	log_warning("listener %s at %s: %s may open %s%s, since there are no clients in the config "
		    "(attest-relay.yaml(5)): say there who may open what",
		    l->name, bind_describe(&l->address, fd, where, sizeof(where)),
		    certified ? "whoever has a certificate of its client_ca"
			      : "anybody who can connect",
		    l->service ? "its service " : "any service", l->service ? l->service : "");
}

void listener_warn_of_strangers(const struct gateway *g)
{
	const struct relay_config *c = gateway_config(g);

	for (size_t i = 0; c->n_clients == 0 && i < c->n_listeners; i++)
		warn_of_strangers(&c->listeners[i], g->sockets->at[i]->fd);
}

static const struct acceptor_events events = {
	.admit = on_admit,
	.none = on_none,
	.accepted = on_accepted,
};

/* ---- coming and going ---- */

struct listener *listener_new(struct gateway *g, struct worker *w, struct settings *s,
			      const struct listener_config *config, struct listening *socket)
{
	struct listener *l = calloc(1, sizeof(*l));
	struct tls_context *tls;

	if (!l)
		return NULL;
	atomic_init(&l->refs, 1);
	l->acceptor = (struct acceptor){ .worker = w, .fd = -1 };
	l->gateway = g;
	l->worker = w;
	l->config = listener_config_copy(config);
	tls = settings_tls(s, (size_t)(config - s->config->listeners));
	l->tls = tls ? tls_context_ref(tls) : NULL;
	l->socket = sockets_hold(socket);
	l->name = strdup(config->name);
	return l->name ? l : listener_unref(l);
}

void listener_start(struct listener *l)
{
	int one = 1;

	/* not before: only now has a reload declared the names that are new with it */
	if (!l->figure)
		l->figure = figures_of(l->gateway->figures, FIGURES_LISTENERS, l->name);
	/* what it accepts inherits this; others than TCP refuse: fine */
	setsockopt(l->socket->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	acceptor_insist(&l->acceptor, l->worker, l->socket->fd, l->name, &events);
}

void listener_stop(struct listener *l)
{
	if (!l->socket)
		return;
	acceptor_stop(&l->acceptor);
	l->socket = sockets_put(l->socket);
}

void listener_become(struct listener *l, struct listener *now)
{
	const bool moves = l->socket != now->socket;
	struct listener_config *config = l->config;
	struct tls_context *tls = l->tls;

	if (moves)
		listener_stop(l); /* whoever is in its queue comes in as it was */
	l->config = now->config;
	l->tls = now->tls;
	now->config = config; /* gone with it */
	now->tls = tls;
	if (moves) {
		l->socket = sockets_hold(now->socket);
		listener_start(l);
	}
}

struct listener *listener_ref(struct listener *l)
{
	atomic_fetch_add_explicit(&l->refs, 1, memory_order_relaxed);
	return l;
}

struct listener *listener_unref(struct listener *l)
{
	if (!l || atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
		return NULL;
	figure_put(l->figure);
	sockets_put(l->socket);
	tls_context_unref(l->tls);
	listener_config_free(l->config);
	free(l->name);
	free(l);
	return NULL;
}
