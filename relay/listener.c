/*
 * listener: the gateway's side of accepting.
 *
 * Theory of operation: an acceptor on the socket that all workers share; each connection is counted
 * against the gateway's limit, then it is an intake's, or its PROXY header is read first.
 */
#include "relay/listener.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "relay/gateway.h"
#include "relay/intake.h"
#include "relay/proxied.h"

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
	gateway_connection_over(of(a)->gateway);
}

static void on_accepted(struct acceptor *a, int fd, const struct peer *peer)
{
	struct listener *l = of(a);
	struct client client;

	if (l->config->proxy_protocol) {
		proxied_new(l, fd, peer);
		return;
	}
	client_init(&client, peer);
	intake_new(l, fd, &client, gateway_settings(l->worker)->config->timeouts.handshake);
}

static const struct acceptor_events events = {
	.admit = on_admit,
	.none = on_none,
	.accepted = on_accepted,
};

struct listener *listener_new(struct gateway *g, struct worker *w,
			      const struct listener_config *config, int fd)
{
	struct listener *l = calloc(1, sizeof(*l));
	int one = 1;

	if (!l)
		return NULL;
	l->config = config;
	l->gateway = g;
	l->worker = w;
	/* what it accepts inherits this; others than TCP refuse: fine */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (acceptor_start(&l->acceptor, w, fd, config->name, &events) < 0)
		return listener_free(l);
	return l;
}

void listener_stop(struct listener *l)
{
	acceptor_stop(&l->acceptor);
}

struct listener *listener_free(struct listener *l)
{
	if (!l)
		return NULL;
	acceptor_abandon(&l->acceptor);
	free(l);
	return NULL;
}
