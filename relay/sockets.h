/*
 * sockets: the relay's listening sockets, one counted object for each address listened at.
 *
 * A reload keeps those whose address stays, so that nobody in their queue notices, and has opened
 * all others before anything else changes. Whoever accepts on a socket holds it. When nobody does
 * any more it is closed, and its Unix path goes with it, unless another process has the socket.
 *
 * Thread: sockets_hold and sockets_put are for any; all else is for the main thread.
 */
#ifndef RELAY_SOCKETS_H
#define RELAY_SOCKETS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"
#include "relay/bind.h"

struct names;

/* A listening socket. All but refs and given_away stays as it was made. */
struct listening {
	atomic_uint refs;
	char *name; /* of the listener that it was opened for; another may have it by now */
	struct address address; /* as the config has it: a port of 0 is 0 here */
	struct bind_file file;  /* which file its Unix path is; ino 0: it has none */
	int fd;
	atomic_bool given_away; /* the path is another process's now: closing leaves it there */
};

/* By index of config->listeners, as many; each holds its socket. */
struct sockets {
	size_t n;
	struct listening *at[];
};

/*
 * The sockets of c: those of before (NULL: none) whose address is in it are the same ones, the
 * others are opened, and logged. NULL and *why, allocated, with all that is wrong; nothing has
 * changed then. names: the hosts' addresses; NULL, or a name it does not have: blocks on DNS.
 */
struct sockets *sockets_open(const struct sockets *before, const struct relay_config *c,
			     const struct names *names, char **why);
/* Is there one for this address? NULL: there is none. */
bool sockets_have(const struct sockets *s, const struct address *a);
/* Puts them all. NULL is fine; returns NULL. */
struct sockets *sockets_close(struct sockets *s);
/*
 * before is about to be closed, and now is what it is to be. Where an address of now overlaps one
 * that goes, nobody new comes to the old socket any more; blocks then for SOCKETS_YIELD_MS, in
 * which handshakes that have begun there end, and are accepted: the round trip of a client far
 * away.
 */
#define SOCKETS_YIELD_MS 250
void sockets_yield(const struct sockets *before, const struct sockets *now);
/* Another process listens on them, too: closing them here leaves Unix paths as they are. */
void sockets_give_away(struct sockets *s);

struct listening *sockets_hold(struct listening *l);
struct listening *sockets_put(struct listening *l); /* NULL is fine; returns NULL */

#endif
