/*
 * client: what is known of who came to a listener.
 *
 * Theory of operation: a plain value, filled step by step on the way in (accept, PROXY header,
 * TLS), copied from owner to owner, and read for log lines and for headers to targets.
 */
#include "relay/client.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/identity.h"
#include "relay/tls.h"

void client_init(struct client *k, const struct peer *peer)
{
	memset(k, 0, sizeof(*k));
	k->peer = *peer;
}

void client_told(struct client *k, const struct peer *from, const struct peer *to)
{
	k->proxy = k->peer;
	k->peer = *from;
	k->to = *to;
}

void client_not_told(struct client *k)
{
	k->untold = true;
}

void client_secured(struct client *k, const struct conduit *tls)
{
	k->tls_version = tls_conduit_version(tls);
	k->identity = tls_conduit_identity(tls);
	k->verified = k->identity && identity_kind(k->identity) == IDENTITY_CLIENT;
	if (k->verified)
		tls_conduit_subject(tls, k->subject, sizeof(k->subject));
}

const char *client_proxy(const struct client *k, char *buf, size_t size)
{
	buf[0] = '\0';
	return k->proxy.family ? peer_format(&k->proxy, buf, size) : buf;
}

const char *client_format(const struct client *k, char *buf, size_t size)
{
	char peer[PEER_TEXT_MAX], proxy[PEER_TEXT_MAX];

	peer_format(&k->peer, peer, sizeof(peer));
	client_proxy(k, proxy, sizeof(proxy));
	snprintf(buf, size, "%s%s%s", peer, *proxy ? " by " : "", proxy);
	return buf;
}

const char *client_address(const struct peer *peer, char *buf, size_t size)
{
	buf[0] = '\0';
	if (peer->family == AF_INET || peer->family == AF_INET6 || peer->family == AF_VSOCK)
		peer_format(peer, buf, size);
	return buf;
}

size_t client_header(const struct client *k, unsigned version, const char *asked, const char *id,
		     uint8_t to[PROXYPROTO_SENT_MAX])
{
	const struct proxyproto_about about = {
		.from = &k->peer,
		.to = &k->to,
		.authority = asked,
		.id = id,
		.tls_version = k->tls_version,
		.tls_subject = k->verified ? k->subject : NULL,
	};

	return proxyproto_encode(to, version, &about);
}
