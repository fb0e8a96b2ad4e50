/*
 * place: unix:/path, vsock:CID:PORT, tcp:ADDRESS:PORT as socket addresses.
 */
#ifndef TESTS_TOOLS_PLACE_H
#define TESTS_TOOLS_PLACE_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

struct place {
	const char *text; /* as given; not owned */
	const char *path; /* of a Unix socket, into text; or NULL */
	struct sockaddr_storage address;
	socklen_t len;
};

/* NULL, or why not. CID may be "any", for listening. */
const char *place_parse(struct place *p, const char *text);
/* The host of the machine this runs in: never to be asked by mistake. */
bool place_is_host(const struct place *p);

/* A listening socket, non-blocking, or -1 and errno. A path is made anew; mode 0: the umask's. */
int place_listen(const struct place *p, mode_t mode);

#endif
