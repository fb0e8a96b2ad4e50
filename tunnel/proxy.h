/*
 * proxy: from a socket that is connected to a proxy to one that is, through it, connected to a
 * relay. What is needed to begin TLS with the relay.
 */
#ifndef TUNNEL_PROXY_H
#define TUNNEL_PROXY_H

#include <stdint.h>

#include "relay/reason.h"

struct address;
struct proxy;
struct proxy_opening;
struct worker;

/*
 * done: once, from the loop: a socket the callee owns, or -1, the reason and a line for people that
 * names the proxy (valid during the call). The socket is the one that was given; or, with TLS to
 * the proxy, one of a pair whose other end is joined to that for as long as both last.
 */
typedef void proxy_done(void *user, int fd, enum reason why, const char *detail);

/*
 * fd is consumed in every case; proxy and target must stay valid until done. ms bounds each of
 * resolving the target (socks5), TLS with the proxy and the talk with it. NULL: out of memory.
 */
struct proxy_opening *proxy_open(struct worker *w, int fd, const struct proxy *proxy,
				 const struct address *target, uint64_t ms, proxy_done *done,
				 void *user);
void proxy_opening_cancel(struct proxy_opening *o); /* done will not be called; NULL is fine */

/* Ends what still joins sockets with TLS to the proxy. For the program's end. */
void proxy_end_joints(const struct proxy *proxy);

#endif
