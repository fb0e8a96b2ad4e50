/*
 * bind: listening sockets.
 *
 * Theory of operation: one function per kind, each socket() .. listen() with one exit for errors,
 * whose text names the address, the step and what to do. A stale Unix path is told from a served
 * one by connecting to it: refused means nobody is there.
 */
#include "relay/bind.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static int complain(const struct address *a, char **why, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Returns -1, for the caller to return. */
static int complain(const struct address *a, char **why, const char *fmt, ...)
{
	char where[ADDRESS_TEXT_MAX], text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	address_format(a, where, sizeof(where));
	if (asprintf(why, "cannot listen at %s: %s", where, text) < 0)
		*why = NULL;
	return -1;
}

static const char *hint(int error)
{
	switch (error) {
	case EADDRINUSE:
		return "; another program listens there (see ss -lp)";
	case EACCES:
		return "; ports below 1024 and other people's folders need privileges "
		       "(CAP_NET_BIND_SERVICE, or a systemd socket)";
	case EADDRNOTAVAIL:
		return "; no interface of this machine has that address";
	default:
		return "";
	}
}

static int listen_at(const struct address *a, const struct sockaddr *sa, socklen_t len, char **why)
{
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1, zero = 0, error;

	if (fd < 0)
		return complain(a, why, "socket: %s", strerror(errno));
	if (sa->sa_family == AF_INET || sa->sa_family == AF_INET6)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sa->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, sa, len) == 0 && listen(fd, BIND_BACKLOG) == 0)
		return fd;
	error = errno;
	close(fd);
	return complain(a, why, "%s%s", strerror(error), hint(error));
}

static int listen_tcp(const struct address *a, char **why)
{
	struct addrinfo ask = { .ai_socktype = SOCK_STREAM,
				.ai_flags = AI_PASSIVE | AI_NUMERICSERV },
			*list;
	char port[16];
	int fd, r;

	snprintf(port, sizeof(port), "%u", a->port);
	r = getaddrinfo(a->name, port, &ask, &list);
	if (r)
		return complain(a, why, "%s", gai_strerror(r));
	fd = listen_at(a, list->ai_addr, list->ai_addrlen, why);
	freeaddrinfo(list);
	return fd;
}

static int listen_vsock(const struct address *a, char **why)
{
	struct sockaddr_vm vm = { .svm_family = AF_VSOCK, .svm_cid = a->cid, .svm_port = a->port };

	return listen_at(a, (const struct sockaddr *)&vm, sizeof(vm), why);
}

/* The Unix path of an address; 0, or -1: too long. */
static int unix_path(const struct address *a, struct sockaddr_un *un, socklen_t *len)
{
	int n;

	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	if (a->kind == ADDRESS_HYBRID)
		n = snprintf(un->sun_path, sizeof(un->sun_path), "%s_%u", a->name, a->port);
	else
		n = snprintf(un->sun_path, sizeof(un->sun_path), "%s", a->name);
	if (n < 0 || n >= (int)sizeof(un->sun_path))
		return -1;
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1);
	if (un->sun_path[0] == '@') {
		un->sun_path[0] = '\0';
		--*len;
	}
	return 0;
}

/* Does a living process listen there? */
static int is_served(const struct sockaddr_un *un, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), served;

	if (fd < 0)
		return 1; /* cannot tell: leave it alone */
	served = connect(fd, (const struct sockaddr *)un, len) == 0 || errno != ECONNREFUSED;
	close(fd);
	return served;
}

static int listen_unix(const struct address *a, char **why)
{
	struct sockaddr_un un;
	socklen_t len;
	struct stat st;

	if (unix_path(a, &un, &len) < 0)
		return complain(a, why,
				"the path is too long for a Unix socket (107 bytes at most)");
	if (un.sun_path[0] && lstat(un.sun_path, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return complain(a, why, "the path exists and is not a socket: remove it");
		if (is_served(&un, len))
			return complain(a, why, "another program listens there");
		unlink(un.sun_path);
	}
	return listen_at(a, (const struct sockaddr *)&un, len, why);
}

static int take_over(const struct address *a, char **why)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(0, &names), fd = -1;

	for (int i = 0; i < n; i++) {
		if (fd < 0 && strcmp(names[i], a->name) == 0)
			fd = SD_LISTEN_FDS_START + i;
		free(names[i]);
	}
	free(names);
	if (fd < 0)
		return complain(a, why, "systemd handed over no socket of this name "
					"(FileDescriptorName= in the socket unit)");
	if (!sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1))
		return complain(a, why, "what systemd handed over is not a listening stream socket "
					"(Accept=no is needed)");
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return fd;
}

int bind_listen(const struct address *a, char **why)
{
	switch (a->kind) {
	case ADDRESS_TCP:
		return listen_tcp(a, why);
	case ADDRESS_UNIX:
	case ADDRESS_HYBRID:
		return listen_unix(a, why);
	case ADDRESS_VSOCK:
		return listen_vsock(a, why);
	case ADDRESS_FD:
		return take_over(a, why);
	default:
		return complain(a, why, "not an address to listen at");
	}
}

void bind_forget(const struct address *a)
{
	struct sockaddr_un un;
	socklen_t len;

	if ((a->kind == ADDRESS_UNIX || a->kind == ADDRESS_HYBRID) &&
	    unix_path(a, &un, &len) == 0 && un.sun_path[0])
		unlink(un.sun_path);
}

void bind_close(const struct address *a, int fd)
{
	if (fd < 0)
		return;
	bind_forget(a);
	close(fd);
}

const char *bind_describe(const struct address *a, int fd, char *buf, size_t size)
{
	struct address real = *a;
	struct sockaddr_storage at;
	socklen_t len = sizeof(at);

	if (a->kind == ADDRESS_TCP && getsockname(fd, (struct sockaddr *)&at, &len) == 0)
		real.port = ntohs(at.ss_family == AF_INET6 ?
					  ((struct sockaddr_in6 *)&at)->sin6_port :
					  ((struct sockaddr_in *)&at)->sin_port);
	return address_format(&real, buf, size);
}
