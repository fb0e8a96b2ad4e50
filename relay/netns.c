/*
 * netns: sockets in other network namespaces.
 *
 * Theory of operation: a socket belongs for good to the namespace its thread is in when it is made,
 * and so do the addresses it is bound to. So the calling thread goes there for one socket(2) and
 * comes back at once; other threads stay where they are. Nothing is entered if the file names the
 * namespace the thread is in anyway.
 */
#include "relay/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "relay/log.h"

static const char own_path[] = "/proc/thread-self/ns/net";

static int make(int family, char *why, size_t size)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		snprintf(why, size, "socket: %s", strerror(errno));
	return fd;
}

/* On the way there, between two descriptors of namespaces. */
static int make_there(int own, int there, const char *path, int family, char *why, size_t size)
{
	int fd;

	if (setns(there, CLONE_NEWNET) < 0) {
		snprintf(why, size, "cannot enter the network namespace %s: %s%s", path,
			 strerror(errno),
			 errno == EPERM    ? "; that needs CAP_SYS_ADMIN"
			 : errno == EINVAL ? "; the file is not one of a network namespace"
					   : "");
		return -1;
	}
	fd = make(family, why, size);
	if (setns(own, CLONE_NEWNET) < 0) {
		/* all this thread makes from now on would be in somebody else's network */
		log_error("cannot come back from the network namespace %s: %s", path,
			  strerror(errno));
		abort();
	}
	return fd;
}

int netns_socket(const char *path, int family, ino_t *inode, char *why, size_t size)
{
	struct stat here = { 0 }, st;
	bool known = stat(own_path, &here) == 0;
	int own, there, fd;

	if (!path) {
		fd = make(family, why, size);
		if (fd >= 0)
			*inode = here.st_ino;
		return fd;
	}
	there = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (there < 0 || fstat(there, &st) < 0) {
		snprintf(why, size, "cannot open the network namespace %s: %s", path,
			 strerror(errno));
		if (there >= 0)
			close(there);
		return -1;
	}
	own = open(own_path, O_RDONLY | O_CLOEXEC);
	if (known && st.st_dev == here.st_dev && st.st_ino == here.st_ino) {
		fd = make(family, why, size);
	} else if (own < 0) {
		snprintf(why, size, "cannot open %s: %s", own_path, strerror(errno));
		fd = -1;
	} else {
		fd = make_there(own, there, path, family, why, size);
	}
	if (own >= 0)
		close(own);
	close(there);
	if (fd >= 0)
		*inode = st.st_ino;
	return fd;
}
