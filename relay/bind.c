/*
 * bind: listening sockets.
 *
 * Theory of operation: what was inherited is used first. One function per kind, each socket() ..
 * listen() with one exit for errors, whose text names the address, the step and what to do. Paths
 * are bind_path's; bind_listen binds to them where they are, bind_listen_with has them made aside.
 * Names are resolved in this process's own network namespace, whatever the socket's.
 *
 * SO_REUSEPORT is looked at when a socket binds, and when it begins to listen: its own, and that of
 * those in its way. So a new one and those that are leaving have it for that moment only. The
 * kernel remembers, and would let others of this user bind there, who may have all sockets anyway
 * (takeover.h).
 */
#include "relay/bind.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/vm_sockets.h>

#include "relay/bind_path.h"
#include "relay/inherit.h"
#include "relay/netns.h"

#define TEXT_MAX 640 /* of a complaint: room for two paths */

static int complain(const struct address *a, char **why, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Returns -1, for the caller to return. */
static int complain(const struct address *a, char **why, const char *fmt, ...)
{
	char where[ADDRESS_TEXT_MAX], text[TEXT_MAX];
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

static void let_overlap(int fd, const struct bind_access *access, int on)
{
	if (!access->n_leaving)
		return;
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	for (size_t i = 0; i < access->n_leaving; i++)
		setsockopt(access->leaving[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
}

static int listen_at(const struct address *a, const struct bind_access *access,
		     const struct sockaddr *sa, socklen_t len, ino_t *netns, char **why)
{
	char text[TEXT_MAX];
	ino_t inode;
	int fd = netns_socket(access->netns, sa->sa_family, &inode, text, sizeof(text));
	int one = 1, zero = 0, error;

	if (fd < 0)
		return complain(a, why, "%s", text);
	if (sa->sa_family == AF_INET || sa->sa_family == AF_INET6)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sa->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	let_overlap(fd, access, 1);
	error = bind(fd, sa, len) == 0 && listen(fd, BIND_BACKLOG) == 0 ? 0 : errno;
	let_overlap(fd, access, 0);
	if (!error) {
		*netns = inode;
		return fd;
	}
	close(fd);
	errno = error;
	return complain(a, why, "%s%s", strerror(error), hint(error));
}

static int listen_tcp(const struct address *a, const struct bind_access *access, ino_t *netns,
		      char **why)
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
	fd = listen_at(a, access, list->ai_addr, list->ai_addrlen, netns, why);
	freeaddrinfo(list);
	return fd;
}

static int listen_vsock(const struct address *a, const struct bind_access *access, ino_t *netns,
			char **why)
{
	struct sockaddr_vm vm = { .svm_family = AF_VSOCK, .svm_cid = a->cid, .svm_port = a->port };

	return listen_at(a, access, (const struct sockaddr *)&vm, sizeof(vm), netns, why);
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

/* made: the file to have it made as; NULL: it is bound where it is. */
static int listen_unix(const struct address *a, const struct bind_access *access,
		       struct bind_file *made, ino_t *netns, char **why)
{
	char text[TEXT_MAX];
	struct sockaddr_un un;
	socklen_t len;
	int fd;

	if (unix_path(a, &un, &len) < 0)
		return complain(a, why,
				"the path is too long for a Unix socket (107 bytes at most)");
	if (!un.sun_path[0])
		return listen_at(a, access, (const struct sockaddr *)&un, len, netns, why);
	if (!made) {
		if (bind_path_clear(un.sun_path, text, sizeof(text)) < 0)
			return complain(a, why, "%s", text);
		return listen_at(a, access, (const struct sockaddr *)&un, len, netns, why);
	}
	fd = bind_path_listen(un.sun_path, access, made, text, sizeof(text));
	return fd < 0 ? complain(a, why, "%s", text) : fd;
}

static int take_over(const struct address *a, char **why)
{
	bool mismatch;
	int fd = inherit_take(a, NULL, &mismatch);

	if (fd >= 0)
		return fd;
	return complain(a, why,
			"systemd handed over no listening socket of this name "
			"(FileDescriptorName= and Accept=no in the socket unit)");
}

static int listen_any(const struct address *a, const struct bind_access *access,
		      struct bind_file *made, ino_t *netns, char **why)
{
	bool mismatch;
	int fd = a->kind == ADDRESS_FD ? -1 : inherit_take(a, made, &mismatch);

	if (fd >= 0)
		return fd;
	switch (a->kind) {
	case ADDRESS_TCP:
		return listen_tcp(a, access, netns, why);
	case ADDRESS_UNIX:
	case ADDRESS_HYBRID:
		return listen_unix(a, access, made, netns, why);
	case ADDRESS_VSOCK:
		return listen_vsock(a, access, netns, why);
	case ADDRESS_FD:
		return take_over(a, why);
	default:
		return complain(a, why, "not an address to listen at");
	}
}

int bind_listen(const struct address *a, char **why)
{
	static const struct bind_access no_wishes;
	ino_t netns;

	return listen_any(a, &no_wishes, NULL, &netns, why);
}

int bind_listen_with(const struct address *a, const struct bind_access *access,
		     struct bind_file *file, ino_t *netns, char **why)
{
	struct bind_file made = file ? *file : (struct bind_file){ 0 };
	ino_t inode = 0;
	int fd = listen_any(a, access, &made, &inode, why);

	if (fd < 0)
		return fd;
	if (file)
		*file = made;
	if (netns)
		*netns = inode;
	return fd;
}

/* False: it is no file. */
static bool file_of(const struct address *a, struct sockaddr_un *un)
{
	socklen_t len;

	return (a->kind == ADDRESS_UNIX || a->kind == ADDRESS_HYBRID) &&
	       unix_path(a, un, &len) == 0 && un->sun_path[0];
}

void bind_identify(const struct address *a, struct bind_file *file)
{
	struct sockaddr_un un;
	struct stat st;

	*file = (struct bind_file){ 0 };
	if (file_of(a, &un) && lstat(un.sun_path, &st) == 0)
		*file = (struct bind_file){ .dev = st.st_dev, .ino = st.st_ino };
}

void bind_begin_no_more(int fd)
{
	/* what such a filter sees begins with the TCP header */
	struct sock_filter drop_syn[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, offsetof(struct tcphdr, th_flags)),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TH_SYN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	const struct sock_fprog program = { sizeof(drop_syn) / sizeof(*drop_syn), drop_syn };

	setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

bool bind_is_there(const struct address *a, const struct bind_file *file)
{
	struct sockaddr_un un;

	return file_of(a, &un) && bind_path_is(un.sun_path, file);
}

void bind_withdraw(const struct address *a, const struct bind_file *file)
{
	struct sockaddr_un un;

	if (file_of(a, &un) && !inherit_is_lent(file))
		bind_path_remove(un.sun_path, file);
}

void bind_release(const struct address *a, int fd, const struct bind_file *file)
{
	if (fd < 0 || a->kind == ADDRESS_FD)
		return;
	if (file)
		bind_withdraw(a, file);
	close(fd);
}

bool bind_is_local(int fd)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);
	const struct in6_addr *in6 = &((struct sockaddr_in6 *)&at)->sin6_addr;

	if (getsockname(fd, (struct sockaddr *)&at, &len) < 0)
		return false;
	switch (at.ss_family) {
	case AF_UNIX:
		return true;
	case AF_INET:
		return ntohl(((struct sockaddr_in *)&at)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(in6) ||
		       (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == IN_LOOPBACKNET);
	default:
		return false;
	}
}

void bind_forget(const struct address *a)
{
	struct sockaddr_un un;

	if (file_of(a, &un))
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
		/* NOLINTNEXTLINE(clang-analyzer-core.*): set; glibc's type of it hides that */
		real.port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
							   : ((struct sockaddr_in *)&at)->sin_port);
	return address_format(&real, buf, size);
}
