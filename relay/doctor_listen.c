/*
 * doctor_listen: whether a program could listen at an address, or who does.
 *
 * Theory of operation: who holds an address is asked of the kernel, never by connecting: a
 * connection would be a client. TCP: /proc/net/tcp; Unix: sock_diag, by the socket's file, since
 * it may have been made under another name. The process is then the one with that socket among its
 * descriptors, if we may look. An address that nobody holds is bound for a moment; a path, which
 * would be a file, is not: there the folder is looked at.
 */
#include "relay/doctor_listen.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "config/address.h"
#include "relay/doctor.h"
#include "relay/doctor_host.h"
#include "relay/netns.h"

#define PATH_TEXT_MAX 512
#define DIAG_BYTES 16384

/* ---- who has it ---- */

static bool process_has(const char *pid, const char *socket)
{
	char folder[64], path[512], target[64];
	bool found = false;
	struct dirent *e;
	DIR *all;

	snprintf(folder, sizeof(folder), "/proc/%.20s/fd", pid);
	all = opendir(folder);
	while (all && !found && (e = readdir(all))) {
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		n = readlink(path, target, sizeof(target) - 1);
		if (n <= 0)
			continue;
		target[n] = '\0';
		found = strcmp(target, socket) == 0;
	}
	if (all)
		closedir(all);
	return found;
}

/* 0: nobody whom we may look at; systemd, which keeps its services' sockets, too: nobody else. */
static pid_t holder_of(unsigned long inode)
{
	DIR *all = opendir("/proc");
	struct dirent *e;
	char socket[64];
	pid_t found = 0;

	snprintf(socket, sizeof(socket), "socket:[%lu]", inode);
	while (all && found <= 1 && (e = readdir(all)))
		if (isdigit((unsigned char)e->d_name[0]) && process_has(e->d_name, socket))
			found = (pid_t)atoi(e->d_name);
	if (all)
		closedir(all);
	return found;
}

/* Somebody listens where we would; inode 0: which socket it is, is not known. */
static void say_held(struct doctor *d, unsigned long inode)
{
	uid_t uid;
	pid_t daemon = doctor_daemon(d->program, &uid), pid = inode ? holder_of(inode) : 0;
	char name[96];

	if (!pid && daemon)
		doctor_ok(d,
			  "somebody listens there whom this user may not look at; it may well "
			  "be the %s that runs (pid %d)",
			  d->program, (int)daemon);
	else if (!pid)
		doctor_wrong(d,
			     "find out which (as root: ss -lptnx), and end one of the two or "
			     "change the address",
			     "another process listens there");
	else if (strncmp(doctor_process(pid, name, sizeof(name)), d->program,
			 strnlen(d->program, 15)) == 0)
		doctor_ok(d, "%s listens there, as it should", name);
	else
		doctor_wrong(d, "end one of the two, or change the address",
			     "%s listens there already", name);
}

/* ---- TCP ---- */

/* As /proc/net/tcp has it: words of 32 bits, each as this machine keeps them. */
static void format_address(const struct sockaddr *sa, char text[33], unsigned *port)
{
	const struct sockaddr_in *in = (const void *)sa;
	const struct sockaddr_in6 *in6 = (const void *)sa;
	uint32_t word[4];
	unsigned n = sa->sa_family == AF_INET ? 1 : 4;

	memcpy(word, n == 1 ? (const void *)&in->sin_addr : (const void *)&in6->sin6_addr, n * 4);
	for (unsigned i = 0; i < n; i++)
		snprintf(text + (size_t)8 * i, 9, "%08X", word[i]);
	*port = ntohs(n == 1 ? in->sin_port : in6->sin6_port);
}

static bool is_any(const char *address)
{
	return strspn(address, "0") == strlen(address);
}

/* The inode of who listens there, or at any address of this port; 0: nobody. */
static unsigned long tcp_listener(const char *table, const char *ours, unsigned port)
{
	FILE *f = fopen(table, "re");
	unsigned long found = 0;
	char line[512];

	while (f && !found && fgets(line, sizeof(line), f)) {
		char address[33];
		unsigned at, state;
		unsigned long inode;

		if (sscanf(line, " %*d: %32[0-9A-F]:%X %*s %X %*s %*s %*s %*s %*s %lu", address,
			   &at, &state, &inode) != 4)
			continue;
		if (at == port && state == TCP_LISTEN &&
		    (is_any(address) || is_any(ours) || strcmp(address, ours) == 0))
			found = inode;
	}
	if (f)
		fclose(f);
	return found;
}

static void try_bind(struct doctor *d, const struct sockaddr *sa, socklen_t len, const char *netns)
{
	char why[PATH_TEXT_MAX];
	ino_t inode;
	uid_t uid;
	int fd = netns_socket(netns, sa->sa_family, &inode, why, sizeof(why)), one = 1, r;

	if (fd < 0) {
		doctor_wrong(d, "see that it is there, and that this user may use it", "%s", why);
		return;
	}
	if (sa->sa_family != AF_VSOCK)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	r = bind(fd, sa, len) < 0 ? errno : 0;
	close(fd);
	if (r == 0)
		doctor_ok(d, "it is free, and this user may listen there");
	else if (r == EADDRINUSE && sa->sa_family == AF_VSOCK && doctor_daemon("qgs", &uid))
		doctor_wrong(d,
			     "take port= out of its qgs.conf, so that it listens at its Unix "
			     "socket and leaves the port to this one",
			     "somebody listens there already, maybe QGS itself, which runs");
	else if (r == EADDRINUSE)
		say_held(d, 0);
	else if (r == EACCES || r == EPERM)
		doctor_wrong(d,
			     "give the daemon CAP_NET_BIND_SERVICE (AmbientCapabilities= in its "
			     "unit), a systemd socket, or a port from 1024 on",
			     "this user may not listen at a port below 1024: %s", strerror(r));
	else
		doctor_wrong(d,
			     r == EADDRNOTAVAIL ? "no interface of this machine has that address: "
						  "correct it, or use 0.0.0.0 or [::]"
						: "correct the address",
			     "one cannot listen there: %s", strerror(r));
}

static void check_tcp(struct doctor *d, const struct address *a, const char *netns)
{
	struct addrinfo ask = { .ai_socktype = SOCK_STREAM,
				.ai_flags = AI_PASSIVE | AI_NUMERICSERV },
			*list;
	unsigned long inode = 0;
	char port[16], ours[33];
	unsigned number;
	int r;

	snprintf(port, sizeof(port), "%u", a->port);
	r = getaddrinfo(a->name, port, &ask, &list);
	if (r) {
		doctor_wrong(d, "use an address of this machine", "%s does not resolve: %s",
			     a->name, gai_strerror(r));
		return;
	}
	format_address(list->ai_addr, ours, &number);
	if (number && !netns)
		inode = tcp_listener(list->ai_family == AF_INET6 ? "/proc/net/tcp6"
								 : "/proc/net/tcp",
				     ours, number);
	if (inode)
		say_held(d, inode);
	else
		try_bind(d, list->ai_addr, list->ai_addrlen, netns);
	freeaddrinfo(list);
}

/* ---- Unix ---- */

struct scan {
	const struct stat *file;
	unsigned long inode; /* of the last one found */
	unsigned n;
	unsigned waiting; /* to be accepted there */
};

/* What an answer of the kernel has of this type, at least so long; or NULL. */
static const void *diag_get(const struct nlmsghdr *h, unsigned type, size_t size)
{
	const struct nlattr *at = (const void *)((const struct unix_diag_msg *)NLMSG_DATA(h) + 1);
	size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof(struct unix_diag_msg));

	while (left >= sizeof(*at) && at->nla_len >= sizeof(*at) && at->nla_len <= left) {
		size_t step = NLA_ALIGN(at->nla_len);

		if (at->nla_type == type && at->nla_len >= sizeof(*at) + size)
			return at + 1;
		if (step >= left)
			break;
		left -= step;
		at = (const void *)((const char *)at + step);
	}
	return NULL;
}

static void diag_note(const struct nlmsghdr *h, struct scan *scan)
{
	const struct unix_diag_msg *m = NLMSG_DATA(h);
	const struct unix_diag_vfs *vfs = diag_get(h, UNIX_DIAG_VFS, sizeof(*vfs));
	const struct unix_diag_rqlen *queue = diag_get(h, UNIX_DIAG_RQLEN, sizeof(*queue));

	/* the kernel keeps 32 bits of the inode, and its own form of the device */
	if (!vfs || vfs->udiag_vfs_ino != (uint32_t)scan->file->st_ino)
		return;
	scan->n++;
	scan->inode = m->udiag_ino;
	scan->waiting = queue ? queue->udiag_rqueue : 0;
}

/* False: that was the last of the kernel's answers. */
static bool diag_read(const void *buf, size_t len, struct scan *scan)
{
	unsigned left = (unsigned)len;

	for (const struct nlmsghdr *h = buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY)
			return false;
		diag_note(h, scan);
	}
	return true;
}

/* Finds the Unix sockets in a state that are this file. Nothing if the kernel does not say. */
static struct scan diag_unix(const struct stat *file, unsigned state)
{
	const struct {
		struct nlmsghdr h;
		struct unix_diag_req ask;
	} request = {
		.h = { .nlmsg_len = sizeof(request),
		       .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.ask = { .sdiag_family = AF_UNIX,
			 .udiag_states = 1u << state,
			 .udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_RQLEN },
	};
	const struct timeval patience = { .tv_sec = 1 };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	_Alignas(struct nlmsghdr) char buf[DIAG_BYTES];
	struct scan scan = { .file = file };
	ssize_t n;

	if (fd < 0)
		return scan;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0 &&
	    send(fd, &request, sizeof(request), 0) > 0)
		do
			n = recv(fd, buf, sizeof(buf), 0);
		while (n > 0 && diag_read(buf, (size_t)n, &scan));
	close(fd);
	return scan;
}

unsigned doctor_listen_connections(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return 0;
	return diag_unix(&st, TCP_ESTABLISHED).n + diag_unix(&st, TCP_LISTEN).waiting;
}

const char *doctor_folder_fault(const char *path, bool makes_folder, char *buf, size_t size)
{
	char copy[PATH_TEXT_MAX];
	const char *folder;
	struct stat st;

	*buf = '\0';
	snprintf(copy, sizeof(copy), "%s", path);
	folder = dirname(copy);
	while (stat(folder, &st) < 0) {
		if (errno != ENOENT || !makes_folder || strcmp(folder, "/") == 0) {
			snprintf(buf, size, "the folder %s: %s", folder, strerror(errno));
			return buf;
		}
		folder = dirname(copy); /* of what it has left in copy: one more up */
	}
	if (!S_ISDIR(st.st_mode))
		snprintf(buf, size, "%s is no folder", folder);
	else if (faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) < 0)
		snprintf(buf, size,
			 "this user may not make files in the folder %s (uid %u, mode "
			 "%04o): %s",
			 folder, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777,
			 strerror(errno));
	return buf;
}

static void check_path(struct doctor *d, const char *path, bool makes_folder)
{
	char fault[PATH_TEXT_MAX + 128];
	unsigned long inode;
	struct stat st;
	bool there = lstat(path, &st) == 0;

	if (there && !S_ISSOCK(st.st_mode)) {
		doctor_wrong(d, "remove it, or change the address",
			     "a file is there that is no socket");
		return;
	}
	inode = there ? diag_unix(&st, TCP_LISTEN).inode : 0;
	if (inode) {
		say_held(d, inode);
		return;
	}
	doctor_folder_fault(path, makes_folder, fault, sizeof(fault));
	if (*fault)
		doctor_wrong(d,
			     "make the folder, for the daemon's user (RuntimeDirectory= in a "
			     "unit does)",
			     "no socket can be made there: %s", fault);
	else
		doctor_ok(d, there ? "a socket was left there that nobody listens at: it will be "
				     "replaced"
				   : "it is free, and this user may make a socket there");
}

static void check_unix(struct doctor *d, const struct address *a, bool makes_folder)
{
	char path[PATH_TEXT_MAX + 16];
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	if (a->kind == ADDRESS_HYBRID)
		snprintf(path, sizeof(path), "%s_%u", a->name, a->port);
	else
		snprintf(path, sizeof(path), "%s", a->name);
	if (strlen(path) >= sizeof(un.sun_path)) {
		doctor_wrong(d, "use a shorter path",
			     "it has more than the 107 bytes that a Unix "
			     "socket's path may have");
	} else if (*path == '@') {
		memcpy(un.sun_path + 1, path + 1, strlen(path) - 1);
		try_bind(d, (const struct sockaddr *)&un,
			 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path)), NULL);
	} else {
		check_path(d, path, makes_folder);
	}
}

/* ---- the others ---- */

static void check_vsock(struct doctor *d, const struct address *a, const char *netns)
{
	const struct sockaddr_vm vm = { .svm_family = AF_VSOCK,
					.svm_cid = a->cid,
					.svm_port = a->port };

	try_bind(d, (const struct sockaddr *)&vm, sizeof(vm), netns);
}

static void check_fd(struct doctor *d, const struct address *a)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(0, &names);
	bool found = false;

	for (int i = 0; i < n; i++) {
		found = found || strcmp(names[i], a->name) == 0;
		free(names[i]);
	}
	free(names);
	if (found)
		doctor_ok(d, "systemd has handed it over");
	else if (n > 0)
		doctor_wrong(d, "FileDescriptorName= in the socket unit says the name",
			     "systemd has handed over sockets, but none of this name");
	else
		doctor_skip(d, "systemd, which hands this socket only to the daemon: see that its "
			       "socket unit has FileDescriptorName= with this name");
}

void doctor_listen(struct doctor *d, const struct address *a, const struct doctor_place *place)
{
	static const struct doctor_place here;

	if (!place)
		place = &here;
	switch (a->kind) {
	case ADDRESS_TCP:
		check_tcp(d, a, place->netns);
		break;
	case ADDRESS_UNIX:
	case ADDRESS_HYBRID:
		check_unix(d, a, place->makes_folder);
		break;
	case ADDRESS_VSOCK:
		check_vsock(d, a, place->netns);
		break;
	case ADDRESS_FD:
		check_fd(d, a);
		break;
	default:
		doctor_wrong(d, "correct the address", "nobody can listen at such an address");
	}
}

void doctor_listen_own(struct doctor *d, const struct address *a)
{
	char where[ADDRESS_TEXT_MAX];

	if (a->kind == ADDRESS_NONE)
		return;
	doctor_about(d, "%s", address_format(a, where, sizeof(where)));
	doctor_listen(d, a, NULL);
}
