/* peer: who is at the other end of a socket, small enough to keep with every stream. */
#ifndef RELAY_PEER_H
#define RELAY_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct peer {
	uint16_t family; /* AF_INET, AF_INET6, AF_UNIX, AF_VSOCK; 0: not known */
	uint16_t port;	 /* IP */
	uint8_t ip[16];	 /* IPv4 in the first four */
	uint32_t a, b;	 /* Unix: pid, uid (SO_PEERCRED; uid -1: not known); vsock: CID, port */
};

#define PEER_TEXT_MAX 72

struct sockaddr_storage;

/* from: as accept(2) told it, which a peer that has already reset cannot take back. */
void peer_of(struct peer *p, int fd, const struct sockaddr_storage *from);
/* The same of a socket that was connected from here; family 0: it is no more. */
void peer_of_remote(struct peer *p, int fd);
/* Where the socket itself is connected: the address at which this peer found us. */
void peer_of_local(struct peer *p, int fd);
/* AF_INET or AF_INET6, in network byte order; an IPv4 address mapped into IPv6 becomes IPv4. */
void peer_set_ip(struct peer *p, int family, const uint8_t *ip, uint16_t port);
void peer_set_unix(struct peer *p); /* somebody at a Unix socket elsewhere */

/*
 * "tcp:192.0.2.7:4711", "tcp:[2001:db8::1]:4711", "unix:pid=4711,uid=107", "vsock:42:1025";
 * "unix", "unknown".
 */
const char *peer_format(const struct peer *p, char *buf, size_t size);
/* Reads a tcp: or vsock: text as peer_format writes it. False: it is none, p is untouched. */
bool peer_parse(struct peer *p, const char *text);

#endif
