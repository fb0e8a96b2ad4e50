/* fd: a plain stream socket as a conduit (TCP, Unix, vsock). */
#ifndef RELAY_FD_H
#define RELAY_FD_H

struct conduit;
struct worker;

/*
 * Takes over fd: a connected, non-blocking, close-on-exec stream socket; the conduit closes it.
 * The kind (its name, and whether an abort can be said) comes from the socket's family.
 * NULL: out of memory, and fd is still the caller's.
 */
struct conduit *fd_conduit_new(struct worker *w, int fd);
/* The same where the family is known. */
struct conduit *fd_conduit_of(struct worker *w, int fd, int family);
/* The same for a socket under connect(2): the first READY_WRITE, or READY_ABORT, ends that. */
struct conduit *fd_conduit_connecting(struct worker *w, int fd, int family);

/* Takes the socket back out and frees the conduit; nothing may have been unread into it. */
int fd_conduit_release(struct conduit *c);

/* The socket of an fd conduit, for peeking with recv(MSG_PEEK); stays the conduit's. */
int fd_conduit_socket(const struct conduit *c);

#endif
