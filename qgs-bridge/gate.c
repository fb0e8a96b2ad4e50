/*
 * gate: one socket of a listener.
 *
 * Theory of operation: closed or open, and whoever owns it says when to try. A listening socket
 * that has lost its path (a VMM or an admin removed it), or whose network namespace is another one
 * now, can be reached by nobody new: who is in its queue already is taken in, and it is closed.
 *
 * So it is when the listener or the program is to end (gate_drain).
 *
 * When it is closed otherwise, who is in the kernel's queue is not taken in: that happens when QGS
 * is away, and had they been in QGS' own queue, they would have been reset just so.
 *
 * A VM's folder may belong to the VM's owner. Below what '*' stands for no symbolic link is
 * followed to where the socket is made and removed, nor is '*' itself one: bind_path.c's business.
 */
#include "qgs-bridge/gate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qgs-bridge/bridge.h"
#include "qgs-bridge/caller.h"
#include "qgs-bridge/chardev.h"
#include "qgs-bridge/entrance.h"
#include "relay/conduit.h"
#include "relay/fd.h"
#include "relay/log.h"

/* --- who comes --- */

static struct caller_place place_of(const struct gate *g)
{
	bool is_path = g->address.kind == ADDRESS_UNIX || g->address.kind == ADDRESS_HYBRID;
	bool is_hybrid = g->address.kind == ADDRESS_HYBRID;

	return (struct caller_place){
		.config = g->config,
		.who = { .name = g->name[0] ? g->name : NULL,
			 .port = g->port,
			 .netns = g->netns,
			 .own_netns = g->bridge->netns },
		.path = is_path ? g->address.name : NULL,
		.port = is_hybrid ? g->address.port : g->port,
	};
}

static struct gate *of(struct acceptor *a)
{
	return (struct gate *)((char *)a - offsetof(struct gate, acceptor));
}

static const char *on_admit(struct acceptor *a)
{
	return of(a)->shut ? NULL : caller_admit(of(a)->bridge);
}

static void on_none(struct acceptor *a)
{
	/* callers are counted when they are there */
}

static void on_accepted(struct acceptor *a, int fd, const struct peer *peer)
{
	struct gate *g = of(a);
	struct caller_place place = place_of(g);

	if (g->shut)
		close(fd);
	else
		caller_accept(g->bridge, &place, fd, peer); /* consumed */
}

static const struct acceptor_events accepting = {
	.admit = on_admit,
	.none = on_none,
	.accepted = on_accepted,
};

static void on_over(void *chardev)
{
	chardev_again(chardev);
}

/* A chardev's guest; limits.connections may be passed by these, one for each VM. */
static void on_spoken(void *user, struct conduit *c)
{
	struct gate *g = user;
	struct caller_place place = place_of(g);
	struct chardev *chardev = g->chardev;

	if (!caller_accept_conduit(g->bridge, &place, c, fd_conduit_socket(c), on_over, chardev))
		chardev_again(chardev);
}

/* --- making it --- */

/* Said once, until it changes. A VM's folder is being filled when it comes: it has a second try. */
static void complain(struct gate *g, const char *why)
{
	bool early = g->name[0] && !g->failed;

	g->failed = true;
	if (early || (g->told && strcmp(g->told, why) == 0))
		return;
	log_limited(LOG_LEVEL_WARNING, NULL, 0, "listener %s: %s; tried again every %d s",
		    g->config->name, why, ENTRANCE_RETRY_MS / 1000);
	free(g->told);
	g->told = strdup(why);
}

/* So many bytes of the path lead to the VM's folder; 0: it is in none. */
static size_t own_folder(const struct gate *g)
{
	/* the folder that '*' is part of is as many bytes from the end as in the pattern */
	const char *rest = g->name[0] ? strchr(strchr(g->config->address.name, '*'), '/') : NULL;

	return rest ? strlen(g->address.name) - strlen(rest) : 0;
}

static mode_t mode_of(const char *octal)
{
	return octal ? (mode_t)strtoul(octal, NULL, 8) : 0;
}

/* A listening fd, or -1 and *why. */
static int make(struct gate *g, char **why)
{
	const struct bind_access access = {
		.owner = g->config->owner,
		.group = g->config->group,
		.selinux = g->config->selinux,
		.netns = g->config->netns,
		.mode = mode_of(g->config->mode),
		.directory_mode = g->name[0] ? 0 : mode_of(g->config->directory_mode),
		.beneath = own_folder(g),
	};

	g->file = (struct bind_file){ 0 };
	return bind_listen_with(&g->address, &access, &g->file, &g->netns, why);
}

/* IP or vsock; 0: others. */
static uint32_t port_of(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
		struct sockaddr_storage room;
	} at = { 0 };
	socklen_t len = sizeof(at);

	if (getsockname(fd, &at.any, &len) < 0)
		return 0;
	switch (at.any.sa_family) {
	case AF_INET:
		return ntohs(at.in.sin_port);
	case AF_INET6:
		return ntohs(at.in6.sin6_port);
	case AF_VSOCK:
		return at.vm.svm_port;
	default:
		return 0;
	}
}

static bool listens(struct gate *g)
{
	char *why = NULL, where[ADDRESS_TEXT_MAX];
	int fd = make(g, &why), one = 1;

	if (fd < 0) {
		complain(g, why ? why : "out of memory");
		free(why);
		return false;
	}
	/* what it accepts inherits this; others than TCP refuse: fine */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	g->fd = fd;
	g->bridge->gates++;
	g->port = port_of(fd);
	g->acceptor = (struct acceptor){ .fd = -1 };
	if (acceptor_start(&g->acceptor, g->bridge->worker, fd, g->config->name, &accepting) < 0) {
		complain(g, "its socket cannot be watched");
		return false;
	}
	log_fields(g->name[0] || g->shut ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, NULL, 0,
		   "listener %s: listens at %s", g->config->name,
		   bind_describe(&g->address, fd, where, sizeof(where)));
	return true;
}

static void unmake(struct gate *g)
{
	if (g->fd < 0)
		return;
	acceptor_abandon(&g->acceptor);
	bind_release(&g->address, g->fd, &g->file);
	g->fd = -1;
	g->bridge->gates--;
}

void gate_drain(struct gate *g)
{
	if (g->fd < 0 || g->address.kind == ADDRESS_FD)
		return;
	bind_withdraw(&g->address, &g->file);
	acceptor_stop(&g->acceptor);
}

bool gate_is_open(const struct gate *g)
{
	return g->fd >= 0 || g->chardev;
}

void gate_open(struct gate *g)
{
	bool good;

	if (gate_is_open(g))
		return;
	if (g->config->socket == SOCKET_CONNECT) {
		g->chardev = chardev_new(g->bridge, &g->address,
					 g->bridge->config->timeouts.common.dial, on_spoken, g);
		good = g->chardev;
	} else {
		good = listens(g);
		if (!good)
			unmake(g);
	}
	if (good) {
		free(g->told);
		g->told = NULL;
		g->failed = false;
	}
}

bool gate_has_vanished(struct gate *g)
{
	const char *netns = g->config->netns;
	struct stat st;

	if (g->fd < 0)
		return false;
	if ((!g->file.ino || bind_is_there(&g->address, &g->file)) &&
	    (!netns || !g->netns || (stat(netns, &st) == 0 && st.st_ino == g->netns)))
		return false;
	log_limited(LOG_LEVEL_INFO, NULL, 0,
		    "listener %s: its socket has lost its place and is made anew", g->config->name);
	acceptor_stop(&g->acceptor); /* with those in its queue: they came in time */
	unmake(g);
	return true;
}

int gate_try(struct gate *g, char **why)
{
	struct stat st;
	int fd;

	/* a namespace comes with its pod */
	if (g->config->socket == SOCKET_CONNECT || g->fd >= 0 ||
	    (g->config->netns && stat(g->config->netns, &st) < 0 && errno == ENOENT))
		return 0;
	fd = make(g, why);
	if (fd < 0)
		return -EADDRNOTAVAIL;
	bind_release(&g->address, fd, &g->file);
	return 0;
}

/* --- begin and end --- */

void gate_adopt(struct gate *g, const struct entrance_config *config)
{
	g->config = config;
	g->acceptor.name = config->name;
}

struct gate *gate_new(struct bridge *b, const struct entrance_config *config, const char *name,
		      const char *path)
{
	struct gate *g = calloc(1, sizeof(*g));
	struct address address = config->address;

	if (!g)
		return NULL;
	if (path)
		address.name = (char *)(uintptr_t)path; /* only to be copied */
	if (address_copy(&g->address, &address) < 0) {
		free(g);
		return NULL;
	}
	g->bridge = b;
	g->config = config;
	g->fd = -1;
	snprintf(g->name, sizeof(g->name), "%s", name ? name : "");
	return g;
}

static void on_reap(struct reapable *r)
{
	struct gate *g = (struct gate *)((char *)r - offsetof(struct gate, reapable));

	address_deinit(&g->address);
	free(g->told);
	free(g);
}

struct gate *gate_free(struct gate *g)
{
	if (!g)
		return NULL;
	unmake(g);
	g->chardev = chardev_free(g->chardev);
	g->reapable.free = on_reap;
	worker_reap(g->bridge->worker, &g->reapable); /* its acceptor may be at work */
	return NULL;
}
