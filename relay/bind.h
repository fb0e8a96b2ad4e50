/* bind: from an address to a listening socket. */
#ifndef RELAY_BIND_H
#define RELAY_BIND_H

#include "config/address.h"

#define BIND_BACKLOG 4096 /* vsock has no SYN retry; the kernel cuts it to somaxconn */

/*
 * Listens at tcp, unix, vsock, hybrid (a Unix socket PATH_PORT, where the VMM connects for its
 * guest) or takes over fd:NAME from systemd. A Unix path left behind by a dead process is replaced;
 * one that is served by a living one is not. tcp:[::] takes IPv4 too.
 * A non-blocking, close-on-exec fd, or -1 with *why an allocated line for people. Blocks on DNS if
 * the host is a name: for start-up only.
 */
int bind_listen(const struct address *a, char **why);
/* Closes fd and removes a Unix path that bind_listen made. */
void bind_close(const struct address *a, int fd);
/* Removes the path alone, for a socket that somebody else has closed. */
void bind_forget(const struct address *a);

/* Where fd really listens (the port, if 0 was asked for), as an address. Returns buf. */
const char *bind_describe(const struct address *a, int fd, char *buf, size_t size);

#endif
