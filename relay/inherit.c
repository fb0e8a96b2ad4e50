/*
 * inherit: listening sockets that somebody else has opened for this process.
 *
 * Theory of operation: a list of names and descriptors. A socket unit's name is whatever its
 * FileDescriptorName= says, and answers to fd:NAME alone. All others were opened by an
 * attest-relay, and are called by their address; before one is used it is looked at: it listens,
 * its port is that of the address, its path still leads to the file that it was bound to. One that
 * fails this is closed, and the address is opened anew.
 *
 * One of fd:NAME is never closed before the process ends: systemd has it, too, and who is in its
 * queue waits for whoever asks next.
 *
 * Files are compared by device and inode, which mean something while the socket is open; here it
 * is.
 */
#include "relay/inherit.h"

#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "config/address.h"
#include "relay/bind.h"
#include "relay/log.h"
#include "relay/notify.h"

struct inherited {
	char name[INHERIT_NAME_MAX];
	int fd; /* -1: taken, or closed */
	struct bind_file file;
	bool from_systemd; /* by a socket unit, or from its store */
	int taken;         /* the descriptor that somebody has now; -1: nobody */
	bool stays;        /* taken, and may be again: of fd:NAME */
	bool lent;
};

static struct inherited *all;
static size_t n_all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of lent and file */

/* ---- names ---- */

static bool is_path(const struct address *a)
{
	return (a->kind == ADDRESS_UNIX || a->kind == ADDRESS_HYBRID) && a->name[0] == '/';
}

/* The address's part. Its length; 0: it cannot be said. */
static size_t name_address(const struct address *a, char name[INHERIT_NAME_MAX])
{
	char text[ADDRESS_TEXT_MAX];
	size_t n;

	address_format(a, text, sizeof(text));
	n = strlen(text);
	if (n >= INHERIT_NAME_MAX)
		return 0;
	for (size_t i = 0; i <= n; i++) {
		if (text[i] && (text[i] <= ' ' || text[i] >= 127))
			return 0;
		name[i] = text[i];
		if (text[i] == ':')
			name[i] = ',';
	}
	return n;
}

const char *inherit_name(const struct address *a, const struct bind_file *file,
			 char name[INHERIT_NAME_MAX])
{
	size_t n = name_address(a, name);
	int more;

	if (!n || !is_path(a))
		return n ? name : NULL;
	more = snprintf(name + n, INHERIT_NAME_MAX - n, " %" PRIx64 ".%" PRIx64,
			(uint64_t)file->dev, (uint64_t)file->ino);
	return more > 0 && (size_t)more < INHERIT_NAME_MAX - n ? name : NULL;
}

/* Which file the name says it is. */
static struct bind_file file_of(const char *name)
{
	const char *space = strchr(name, ' ');
	uint64_t dev, ino;

	if (!space || sscanf(space + 1, "%" SCNx64 ".%" SCNx64, &dev, &ino) != 2)
		return (struct bind_file){ 0 };
	return (struct bind_file){ .dev = (dev_t)dev, .ino = (ino_t)ino };
}

/* ---- coming in ---- */

static bool add(const char *name, int fd, bool from_systemd)
{
	struct inherited *more;

	if (n_all >= INHERIT_MAX || !sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) ||
	    !(more = realloc(all, (n_all + 1) * sizeof(*all)))) {
		close(fd);
		return false;
	}
	all = more;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	all[n_all] = (struct inherited){
		.fd = fd, .taken = -1, .file = file_of(name), .from_systemd = from_systemd
	};
	snprintf(all[n_all].name, sizeof(all[n_all].name), "%s", name);
	n_all++;
	return true;
}

bool inherit_add(const char *name, int fd)
{
	return add(name, fd, false);
}

void inherit_from_systemd(void)
{
	static bool done;
	char **names = NULL;
	int n = done ? 0 : sd_listen_fds_with_names(1, &names);

	done = true;
	for (int i = 0; i < n; i++) {
		if (!add(names[i], SD_LISTEN_FDS_START + i, true))
			log_warning("systemd handed over %s, which is not a listening stream "
				    "socket (Accept=no is needed): closed",
				    names[i]);
		free(names[i]);
	}
	free(names);
}

/* ---- being asked for ---- */

static bool has_port(const struct address *a, int fd)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);

	if (getsockname(fd, (struct sockaddr *)&at, &len) < 0)
		return false;
	switch (at.ss_family) {
	case AF_INET:
		return !a->port || ntohs(((struct sockaddr_in *)&at)->sin_port) == a->port;
	case AF_INET6:
		return !a->port || ntohs(((struct sockaddr_in6 *)&at)->sin6_port) == a->port;
	default:
		return at.ss_family == AF_VSOCK &&
		       (!a->port || ((struct sockaddr_vm *)&at)->svm_port == a->port);
	}
}

/* What it is called is what it is. */
static bool is_true(const struct inherited *i, const struct address *a)
{
	switch (a->kind) {
	case ADDRESS_TCP:
	case ADDRESS_VSOCK:
		return has_port(a, i->fd);
	case ADDRESS_UNIX:
	case ADDRESS_HYBRID:
		return sd_is_socket(i->fd, AF_UNIX, SOCK_STREAM, 1) &&
		       (!is_path(a) || bind_is_there(a, &i->file));
	default:
		return true;
	}
}

static bool is_called(const struct inherited *i, const struct address *a)
{
	char name[INHERIT_NAME_MAX];
	size_t n;

	if (a->kind == ADDRESS_FD && strcmp(i->name, a->name) == 0)
		return true;
	n = name_address(a, name);
	return n && strncmp(i->name, name, n) == 0 && (i->name[n] == '\0' || i->name[n] == ' ');
}

int inherit_take(const struct address *a, struct bind_file *file, bool *mismatch)
{
	inherit_from_systemd();
	*mismatch = false;
	for (size_t n = 0; n < n_all; n++) {
		struct inherited *i = &all[n];
		int fd = i->fd;

		if (fd < 0 || !is_called(i, a))
			continue;
		if (a->kind == ADDRESS_FD) {
			i->stays = true;
			return fd;
		}
		*mismatch = !is_true(i, a);
		i->fd = -1;
		if (*mismatch) {
			close(fd);
			continue;
		}
		pthread_mutex_lock(&lock);
		i->lent = true;
		i->taken = fd;
		pthread_mutex_unlock(&lock);
		if (file)
			*file = i->file;
		return fd;
	}
	return -1;
}

bool inherit_by_unit(const struct address *a)
{
	for (size_t n = 0; a->kind == ADDRESS_FD && n < n_all; n++)
		if (all[n].stays && all[n].from_systemd && strcmp(all[n].name, a->name) == 0)
			return true;
	return false;
}

bool inherit_has(const struct address *a)
{
	for (size_t n = 0; n < n_all; n++)
		if (all[n].fd >= 0 && is_called(&all[n], a))
			return true;
	return false;
}

bool inherit_is_lent(const struct bind_file *file)
{
	bool lent = false;

	pthread_mutex_lock(&lock);
	for (size_t n = 0; n < n_all && file->ino; n++)
		lent = lent || (all[n].lent && all[n].file.ino == file->ino &&
				all[n].file.dev == file->dev);
	pthread_mutex_unlock(&lock);
	return lent;
}

void inherit_own(void)
{
	pthread_mutex_lock(&lock);
	for (size_t n = 0; n < n_all; n++) {
		/* whoever connects to a Unix socket learns by it who listens (SO_PEERCRED) */
		if (all[n].lent)
			listen(all[n].taken, BIND_BACKLOG);
		all[n].lent = false;
	}
	pthread_mutex_unlock(&lock);
}

/* The address that a name is of; its path is removed if it still is that file. */
static void remove_path(const struct inherited *i)
{
	char text[INHERIT_NAME_MAX], *end;
	struct address a;
	char *why = NULL;

	snprintf(text, sizeof(text), "%s", i->name);
	end = strchr(text, ' ');
	if (!i->file.ino || !end)
		return;
	*end = '\0';
	text[strcspn(text, ",")] = ':';
	if (strncmp(text, "hybrid:", 7) == 0 && (end = strrchr(text, ',')))
		*end = ':';
	if (address_parse(&a, text, &why) == 0) {
		bind_withdraw(&a, &i->file);
		address_deinit(&a);
	}
	free(why);
}

/* From systemd and from a predecessor, too: then its path is in use. */
static bool came_twice(const struct inherited *i)
{
	const char *unit = strncmp(i->name, "fd,", 3) == 0 ? i->name + 3 : NULL;

	for (size_t n = 0; n < n_all; n++) {
		if (all[n].taken >= 0 && strcmp(all[n].name, i->name) == 0)
			return true;
		if (unit && all[n].stays && strcmp(all[n].name, unit) == 0)
			return true;
	}
	return false;
}

void inherit_close_rest(void)
{
	for (size_t n = 0; n < n_all; n++) {
		struct inherited *i = &all[n];

		if (i->fd < 0 || i->stays)
			continue;
		if (!came_twice(i)) {
			log_warning("%s was handed over%s, and no listener has it: closed", i->name,
				    i->from_systemd ? " by systemd" : "");
			remove_path(i);
		}
		close(i->fd);
		i->fd = -1;
		if (i->from_systemd)
			notify_unstore(i->name);
	}
}
