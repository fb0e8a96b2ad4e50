/*
 * fd: a plain stream socket as a conduit.
 *
 * Theory of operation: one edge-triggered watch per socket, made when something is first wanted,
 * which stays until the socket goes. An edge comes once, so the conduit remembers what it told:
 * vain is what is known to say -EAGAIN, and an edge takes it back. What is wanted and not in vain
 * is told when the edge comes, and again in each turn (deferred) until the owner has used it up or
 * wants it no more. So neither a request and its reply nor backpressure costs an epoll_ctl, and
 * reading or writing in vain costs no system call.
 *
 * Known to be in vain: after -EAGAIN; and on TCP after a short read or write. Not after a short
 * read when the peer has ended, or sent urgent data (wary): then there may be more, with no edge to
 * come. Unix sockets read short at passed descriptors, too; there only -EAGAIN counts.
 *
 * EPOLLOUT is watched for from the first time that a write has to wait. TCP tells it only to whom
 * it has turned away; the others tell it whenever the peer reads, so there it is dropped again when
 * it comes unwanted.
 *
 * EPOLLHUP alone is no abort. On TCP it says that both ends have ended in order; on Unix sockets,
 * where it comes before we have ended, that the peer has closed: it takes nothing any more, but
 * what it said before is to be heard. Who has nothing of it in hand may want READY_GONE.
 *
 * close with an abort reason sets SO_LINGER 0 on TCP, so that the peer sees RST and not FIN; Unix
 * and vsock sockets cannot say it. A clean close of a TCP socket in which received bytes lie unread
 * would also make the kernel send RST: that happens only when both sides have ended in order, so
 * there are none.
 */
#include "relay/fd.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "relay/conduit.h"
#include "relay/edge.h"
#include "relay/worker.h"

/* Always watched for; with these a short read need not be the last. */
#define ENDS (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)
#define INPUT ((uint32_t)(EPOLLIN | EPOLLRDHUP | EPOLLPRI))

struct fd_conduit {
	struct conduit base; /* first: cast both ways */
	struct edge edge;    /* its fd is the socket, watched or not */
	union {
		struct deferred tell;	  /* what the owner has not used up */
		struct reapable reapable; /* when closed */
	};
	int broken; /* -errno of a failed send: from then on EOF is no orderly end any more */
	uint8_t wanted;
	uint8_t tcp : 1;
	uint8_t out : 1;   /* EPOLLOUT is watched for, too */
	uint8_t wary : 1;  /* see above */
	uint8_t error : 1; /* an EPOLLERR has come, and nobody has been told */
	uint8_t gone : 1;  /* the same of an EPOLLHUP that says so */
	uint8_t shut : 1;  /* we have ended */
	uint8_t fresh : 1; /* its edge has told it in this turn */
};

static struct fd_conduit *of(struct conduit *c)
{
	return (struct fd_conduit *)c;
}

static bool in_vain(const struct fd_conduit *f, unsigned what)
{
	/* only what an edge takes back can be relied on */
	return f->base.vain & what && f->edge.worker && (what == READY_READ || f->out);
}

/* What has to be told now, and in each turn until that changes. */
static unsigned due(const struct fd_conduit *f)
{
	return f->wanted & (READY_READ | READY_WRITE) & (unsigned)~f->base.vain;
}

static void settle(struct fd_conduit *f)
{
	if (due(f)) {
		worker_defer(f->base.worker, &f->tell);
	} else {
		worker_undefer(&f->tell);
		f->fresh = 0;
	}
}

static void on_tell(struct deferred *d)
{
	struct fd_conduit *f =
		(struct fd_conduit *)((char *)d - offsetof(struct fd_conduit, tell));
	unsigned events = f->fresh ? 0 : due(f);

	f->fresh = 0;
	settle(f); /* again in the next turn, unless it is used up by then */
	if (events)
		conduit_ready(&f->base, events); /* f may be another worker's now */
}

static void on_edge(struct edge *e, uint32_t events);

static void watch(struct fd_conduit *f, bool out)
{
	uint32_t events = INPUT | (out ? EPOLLOUT : 0);
	int r;

	if (f->edge.worker)
		r = edge_change(&f->edge, events);
	else
		r = edge_watch(f->base.worker, &f->edge, f->edge.fd, events, on_edge);
	f->out = out;
	f->error = f->gone = 0; /* told anew if it still holds */
	if (r < 0) { /* deaf: let the next read or write say so */
		f->base.dead = r;
		f->base.vain = 0;
	}
}

static void used_up(struct fd_conduit *f, unsigned what)
{
	f->base.vain |= (uint8_t)what;
	if (what & f->wanted & READY_WRITE && !f->out)
		watch(f, true);
	settle(f);
}

static bool left_nothing(const struct fd_conduit *f)
{
	char byte;

	return recv(f->edge.fd, &byte, 1, MSG_PEEK) <= 0;
}

/* Of the ends that have come: what is wanted and has not been told. */
static unsigned ends(struct fd_conduit *f)
{
	unsigned tell = 0;

	if (f->error && f->wanted & READY_ABORT) {
		tell |= READY_ABORT;
		f->error = 0;
	}
	if (f->gone && f->wanted & READY_GONE && left_nothing(f)) {
		tell |= READY_GONE;
		f->gone = 0;
	}
	return tell;
}

static void on_edge(struct edge *e, uint32_t events)
{
	struct fd_conduit *f = (struct fd_conduit *)((char *)e - offsetof(struct fd_conduit, edge));
	unsigned tell;

	if (events & (EPOLLIN | ENDS))
		f->base.vain &= (uint8_t)~READY_READ;
	if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		f->base.vain &= (uint8_t)~READY_WRITE;
	f->wary |= (events & ENDS) != 0;
	f->base.urgent |= (events & EPOLLPRI) != 0;
	f->error = (events & EPOLLERR) != 0;
	f->gone = (events & (EPOLLHUP | EPOLLERR)) == EPOLLHUP && !f->tcp && !f->shut;
	if (f->out && !f->tcp && !(f->wanted & READY_WRITE))
		watch(f, false);
	tell = due(f);
	f->fresh = tell != 0;
	tell |= ends(f);
	settle(f);
	if (tell)
		conduit_ready(&f->base, tell); /* f may be another worker's now */
}

static void fd_want(struct conduit *c, unsigned events)
{
	struct fd_conduit *f = of(c);
	bool out = f->out || events & c->vain & READY_WRITE;

	f->wanted = (uint8_t)(events & (READY_READ | READY_WRITE | READY_ABORT | READY_GONE));
	if (f->wanted &&
	    (!f->edge.worker || out != f->out || (f->error && f->wanted & READY_ABORT) ||
	     (f->gone && f->wanted & READY_GONE)))
		watch(f, out);
	settle(f);
}

static ssize_t fd_read(struct conduit *c, void *buf, size_t max)
{
	struct fd_conduit *f = of(c);
	ssize_t n;

	if (c->dead)
		return c->dead;
	if (in_vain(f, READY_READ))
		return -EAGAIN;
	do
		n = recv(f->edge.fd, buf, max, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		if (n < (ssize_t)max && f->tcp && !f->wary)
			used_up(f, READY_READ);
		return n;
	}
	if (n < 0 && errno == EAGAIN) {
		used_up(f, READY_READ);
		return -EAGAIN;
	}
	if (n < 0 || f->broken)
		c->dead = n < 0 ? -errno : f->broken;
	return c->dead;
}

static ssize_t fd_write(struct conduit *c, const void *buf, size_t len)
{
	struct fd_conduit *f = of(c);
	ssize_t n;

	if (c->dead)
		return c->dead;
	if (in_vain(f, READY_WRITE))
		return -EAGAIN;
	do
		n = send(f->edge.fd, buf, len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN) {
		/* the peer is gone; what it sent before can still be read, then the error shows */
		f->broken = -errno;
		f->error = 0;
		return f->broken;
	}
	if (n < 0 || (n < (ssize_t)len && f->tcp))
		used_up(f, READY_WRITE);
	return n < 0 ? -EAGAIN : n;
}

static int fd_shutdown(struct conduit *c)
{
	struct fd_conduit *f = of(c);

	f->shut = 1;
	if (shutdown(f->edge.fd, SHUT_WR) < 0 && errno != ENOTCONN)
		return -errno;
	return 0;
}

static void fd_free(struct reapable *r)
{
	free((char *)r - offsetof(struct fd_conduit, reapable));
}

/* The conduit is over; its memory goes at the end of the turn. */
static void leave(struct fd_conduit *f)
{
	f->wanted = 0;
	worker_undefer(&f->tell);
	f->edge.fd = -1;
	f->reapable.free = fd_free;
	conduit_deinit(&f->base);
	worker_reap(f->base.worker, &f->reapable);
}

static void fd_close(struct conduit *c, enum reason why)
{
	struct fd_conduit *f = of(c);

	if (!reason_is_clean(why)) {
		struct linger now = { .l_onoff = 1, .l_linger = 0 };

		/* refused by Unix and vsock sockets, which cannot reset */
		setsockopt(f->edge.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	}
	edge_forget_closing(&f->edge);
	close(f->edge.fd);
	leave(f);
}

static int fd_fd(const struct conduit *c)
{
	return ((const struct fd_conduit *)c)->edge.fd;
}

static void fd_detach(struct conduit *c)
{
	struct fd_conduit *f = of(c);

	f->wanted = 0;
	worker_undefer(&f->tell);
	edge_forget(&f->edge);
}

static int fd_attach(struct conduit *c, struct worker *w)
{
	return 0; /* the watch is made anew when something is wanted, and tells what there is */
}

#define FD_OPS(kind)                                                                               \
	{                                                                                          \
		.name = kind, .socket = true, .read = fd_read, .write = fd_write,                  \
		.shutdown = fd_shutdown, .want = fd_want, .close = fd_close, .fd = fd_fd,          \
		.detach = fd_detach, .attach = fd_attach                                           \
	}

static const struct conduit_ops tcp_ops = FD_OPS("tcp"), unix_ops = FD_OPS("unix"),
				vsock_ops = FD_OPS("vsock");

static struct fd_conduit *make(struct worker *w, int fd, int family)
{
	struct fd_conduit *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	conduit_init(&f->base,
		     family == AF_UNIX	  ? &unix_ops :
		     family == AF_VSOCK ? &vsock_ops :
					  &tcp_ops,
		     w);
	f->base.vain = READY_READ; /* until the first edge */
	f->tcp = f->base.ops == &tcp_ops;
	f->edge.fd = fd;
	f->tell.run = on_tell;
	return f;
}

struct conduit *fd_conduit_of(struct worker *w, int fd, int family)
{
	struct fd_conduit *f = make(w, fd, family);

	return f ? &f->base : NULL;
}

struct conduit *fd_conduit_new(struct worker *w, int fd)
{
	int family = AF_UNSPEC;
	socklen_t len = sizeof(family);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
	return fd_conduit_of(w, fd, family);
}

struct conduit *fd_conduit_connecting(struct worker *w, int fd, int family)
{
	struct fd_conduit *f = make(w, fd, family);

	if (!f)
		return NULL;
	f->base.vain |= READY_WRITE;
	return &f->base;
}

int fd_conduit_release(struct conduit *c)
{
	struct fd_conduit *f = of(c);
	int fd = f->edge.fd;

	edge_forget(&f->edge);
	c->ready = NULL;
	leave(f);
	return fd;
}

int fd_conduit_socket(const struct conduit *c)
{
	return fd_fd(c);
}
