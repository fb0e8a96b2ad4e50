/*
 * fd: a plain stream socket as a conduit.
 *
 * Theory of operation: one libevent event per socket, level-triggered, whose mask is changed as
 * interest changes. Interest is armed at once and disarmed lazily: dropping it only notes so, and
 * the event is taken away when it fires unwanted. So a request/reply exchange costs no epoll_ctl,
 * and backpressure costs one wake-up.
 *
 * Waiting for READY_ABORT alone is an edge-triggered watch without any event, which tells of errors
 * only. Once made it stays until the socket goes: it costs nothing while nothing happens.
 *
 * close with an abort reason sets SO_LINGER 0 on TCP, so that the peer sees RST and not FIN; Unix
 * and vsock sockets cannot say it. A clean close of a TCP socket in which received bytes lie unread
 * would also make the kernel send RST: that happens only when both sides have ended in order, so
 * there are none.
 */
#include "relay/fd.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "relay/conduit.h"
#include "relay/edge.h"
#include "relay/worker.h"

struct fd_conduit {
	struct conduit base; /* first: cast both ways */
	struct event event;
	struct edge edge;
	int fd;
	int broken; /* -errno of a failed send: from then on EOF is no orderly end any more */
	uint8_t wanted, armed;
	struct reapable reapable;
};

static struct fd_conduit *of(struct conduit *c)
{
	return (struct fd_conduit *)c;
}

static void on_event(evutil_socket_t fd, short what, void *arg);

static void on_edge(struct edge *e, uint32_t events)
{
	struct fd_conduit *f = (struct fd_conduit *)((char *)e - offsetof(struct fd_conduit, edge));

	/* EPOLLHUP alone: both directions have ended, in order */
	if (!(events & EPOLLERR))
		return;
	if (f->wanted == READY_ABORT)
		conduit_ready(&f->base, READY_ABORT);
	else /* an edge comes once: watched anew when it is asked for, it is told then */
		edge_forget(e);
}

static short mask_of(unsigned events)
{
	return (short)((events & READY_READ ? EV_READ : 0) | (events & READY_WRITE ? EV_WRITE : 0));
}

/* Makes libevent watch for exactly what. */
static void arm(struct fd_conduit *f, unsigned what)
{
	short mask = mask_of(what);

	if (f->armed)
		event_del(&f->event);
	f->armed = 0;
	if (!mask)
		return;
	event_assign(&f->event, f->base.worker->base, f->fd, (short)(mask | EV_PERSIST), on_event,
		     f);
	if (event_add(&f->event, NULL) == 0)
		f->armed = (uint8_t)what;
}

static void fd_want(struct conduit *c, unsigned events)
{
	struct fd_conduit *f = of(c);

	f->wanted = (uint8_t)(events & (READY_READ | READY_WRITE | READY_ABORT));
	events &= READY_READ | READY_WRITE;
	if (events & (unsigned)~f->armed)
		arm(f, events);
	/* reading or writing notices an abort by itself */
	if (f->wanted == READY_ABORT && !f->edge.worker)
		edge_watch(c->worker, &f->edge, f->fd, 0, on_edge);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct fd_conduit *f = arg;
	unsigned events = (unsigned)((what & EV_READ ? READY_READ : 0) |
				     (what & EV_WRITE ? READY_WRITE : 0));

	events &= f->wanted;
	if (f->armed & (unsigned)~f->wanted)
		arm(f, f->wanted & (READY_READ | READY_WRITE));
	if (events)
		conduit_ready(&f->base, events);
}

static ssize_t fd_read(struct conduit *c, void *buf, size_t max)
{
	ssize_t n;

	if (c->dead)
		return c->dead;
	do
		n = recv(of(c)->fd, buf, max, 0);
	while (n < 0 && errno == EINTR);
	if (n == 0 && of(c)->broken)
		c->dead = of(c)->broken;
	else if (n < 0 && errno != EAGAIN)
		c->dead = -errno;
	else
		return n < 0 ? -errno : n;
	return c->dead;
}

static ssize_t fd_write(struct conduit *c, const void *buf, size_t len)
{
	ssize_t n;

	if (c->dead)
		return c->dead;
	do
		n = send(of(c)->fd, buf, len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0 || errno == EAGAIN)
		return n < 0 ? -EAGAIN : n;
	/* the peer is gone; what it sent before can still be read, then the error shows */
	of(c)->broken = -errno;
	return -errno;
}

static int fd_shutdown(struct conduit *c)
{
	if (shutdown(of(c)->fd, SHUT_WR) < 0 && errno != ENOTCONN)
		return -errno;
	return 0;
}

static void fd_free(struct reapable *r)
{
	struct fd_conduit *f = (struct fd_conduit *)((char *)r -
						     offsetof(struct fd_conduit, reapable));

	free(f);
}

static void fd_close(struct conduit *c, enum reason why)
{
	struct fd_conduit *f = of(c);

	arm(f, 0);
	edge_forget(&f->edge);
	f->wanted = 0;
	if (!reason_is_clean(why)) {
		struct linger now = { .l_onoff = 1, .l_linger = 0 };

		/* refused by Unix and vsock sockets, which cannot reset */
		setsockopt(f->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	}
	close(f->fd);
	f->fd = -1;
	conduit_deinit(c);
	worker_reap(c->worker, &f->reapable);
}

static int fd_fd(const struct conduit *c)
{
	return ((const struct fd_conduit *)c)->fd;
}

static void fd_detach(struct conduit *c)
{
	struct fd_conduit *f = of(c);

	f->wanted = 0;
	arm(f, 0);
	edge_forget(&f->edge);
}

static int fd_attach(struct conduit *c, struct worker *w)
{
	return 0; /* the event is assigned to the new base when something is wanted */
}

#define FD_OPS(kind)                                                                               \
	{                                                                                          \
		.name = kind, .read = fd_read, .write = fd_write, .shutdown = fd_shutdown,         \
		.want = fd_want, .close = fd_close, .fd = fd_fd, .detach = fd_detach,              \
		.attach = fd_attach                                                                \
	}

static const struct conduit_ops tcp_ops = FD_OPS("tcp"), unix_ops = FD_OPS("unix"),
				vsock_ops = FD_OPS("vsock");

static const struct conduit_ops *ops_of(int fd)
{
	int family = AF_UNSPEC;
	socklen_t len = sizeof(family);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
	if (family == AF_UNIX)
		return &unix_ops;
	return family == AF_VSOCK ? &vsock_ops : &tcp_ops;
}

struct conduit *fd_conduit_new(struct worker *w, int fd)
{
	struct fd_conduit *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	conduit_init(&f->base, ops_of(fd), w);
	f->fd = fd;
	f->reapable.free = fd_free;
	return &f->base;
}

int fd_conduit_release(struct conduit *c)
{
	struct fd_conduit *f = of(c);
	int fd = f->fd;

	arm(f, 0);
	edge_forget(&f->edge);
	c->ready = NULL;
	conduit_deinit(c);
	worker_reap(c->worker, &f->reapable);
	return fd;
}

int fd_conduit_socket(const struct conduit *c)
{
	return fd_fd(c);
}
