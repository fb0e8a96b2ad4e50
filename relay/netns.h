/* netns: sockets in other network namespaces. */
#ifndef RELAY_NETNS_H
#define RELAY_NETNS_H

#include <stddef.h>
#include <sys/types.h>

/*
 * A stream socket, non-blocking and close-on-exec, in the namespace that path names (a file such as
 * /run/netns/NAME or /proc/PID/ns/net; NULL: the thread's own). *inode: which one that is, 0: not
 * known. -1: why gets a text for people. A socket stays in its namespace; the thread does not.
 */
int netns_socket(const char *path, int family, ino_t *inode, char *why, size_t size);

#endif
