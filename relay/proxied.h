/* proxied: a connection at a listener with proxy_protocol, until its PROXY header has been read. */
#ifndef RELAY_PROXIED_H
#define RELAY_PROXIED_H

struct gateway_worker;
struct listener;
struct peer;

/* Takes over fd, an accepted connection (already counted in gateway.connections). */
void proxied_new(struct listener *l, int fd, const struct peer *peer);

/* Shutting down: ends all of this worker. */
void proxied_end_all(struct gateway_worker *gw);

#endif
