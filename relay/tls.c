/*
 * tls: TLS over a plain socket, as a conduit.
 *
 * Theory of operation: OpenSSL talks to the socket through a BIO of ours. Reading is recv(2), with
 * OpenSSL reading ahead. Writing goes to the out buffer, a worker's buffer held only while it is
 * not empty (a little that has to wait lies in malloc's); flush() hands it to the socket, several
 * records with one send. So SSL_write never
 * stops half-way and has nothing to be retried. What the socket does not take goes out in the
 * background, whatever the owner wants, and nothing more is encrypted until then.
 *
 *   handshake  h is set; its step runs from the loop until done() is told, the conduit has no owner
 *   open       the owner's; reads and writes
 *   closing    closed by its owner with a clean reason; what is left and close_notify go out, then
 *              FIN, then input is thrown away until the peer has ended too (a socket closed over
 *              unread bytes makes the kernel send RST, which can destroy our last ones at the
 *              peer). Bounded by TLS_FLUSH_MS and then TLS_LINGER_MS.
 *
 * One edge-triggered watch stays from the handshake to the end, as in fd.c. An edge comes once, and
 * OpenSSL may hold bytes the socket knows nothing of, so two flags say what is left to read: hungry
 * (OpenSSL has said that only the socket can help) and drained (the socket has no more: the last
 * recv came back short). An edge ends both. What is due to the owner is told when the edge comes,
 * and again in each turn (deferred) until it is used up or wanted no more.
 *
 * A failed send is remembered in broken: what the peer sent before can still be read, then the
 * error shows instead of EOF.
 */
#include "relay/tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay/tls_conduit.h"
#include "relay/tls_context.h"

#define TLS_LINGER_MS 2000 /* after our FIN: for the peer's */
#define TLS_FLUSH_MS 10000 /* after close: for the peer to take what is left */
#define TLS_RECORDS 3      /* in the out buffer, which has room for alerts and the like besides */
#define TLS_DISCARD 16     /* recv calls per wake-up while closing */

/* With these a short read need not be the last. */
#define ENDS (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)

_Static_assert(TLS_RECORDS *SSL3_RT_MAX_PACKET_SIZE + 1024 < WORKER_BUFFER, "records fit");

static struct tls_conduit *of(const struct conduit *c)
{
	return (struct tls_conduit *)c;
}

static void closing_step(struct tls_conduit *t);

/* What has to be told now, and in each turn until that changes; READY_ABORT once. */
static unsigned due(const struct tls_conduit *t)
{
	unsigned events = 0;

	if (t->base.dead || SSL_get_shutdown(t->ssl) & SSL_RECEIVED_SHUTDOWN ||
	    (!t->blocked && (!t->drained || (!t->hungry && SSL_has_pending(t->ssl)))))
		events |= READY_READ;
	if (!t->out)
		events |= READY_WRITE;
	if (t->aborted)
		events |= READY_ABORT;
	return events & t->wanted;
}

static void settle(struct tls_conduit *t)
{
	if (due(t))
		worker_defer(t->base.worker, &t->tell);
	else
		worker_undefer(&t->tell);
}

static void tls_want(struct conduit *c, unsigned events)
{
	struct tls_conduit *t = of(c);

	t->wanted = (uint8_t)(events & (READY_READ | READY_WRITE | READY_ABORT));
	tls_flush(t);
	settle(t);
}

static void step(struct tls_conduit *t)
{
	unsigned events;

	if (t->h) {
		tls_handshake_step(t);
		return;
	}
	if (t->closing) {
		closing_step(t);
		return;
	}
	events = due(t);
	if (events & READY_ABORT)
		t->aborted = 0;
	settle(t); /* again in the next turn, unless it is used up by then */
	if (events)
		conduit_ready(&t->base, events); /* t may be another worker's now */
}

void tls_tell(struct deferred *d)
{
	step((struct tls_conduit *)((char *)d - offsetof(struct tls_conduit, tell)));
}

static void on_edge(struct edge *e, uint32_t events)
{
	struct tls_conduit *t =
		(struct tls_conduit *)((char *)e - offsetof(struct tls_conduit, edge));

	if (events & (EPOLLIN | ENDS))
		t->hungry = t->drained = 0;
	t->wary |= (events & ENDS) != 0;
	if (events & EPOLLERR)
		t->aborted = 1;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) {
		t->full = 0;
		tls_flush(t);
	}
	step(t);
}

int tls_watch(struct tls_conduit *t)
{
	int protocol = 0;
	socklen_t len = sizeof(protocol);

	getsockopt(t->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len);
	t->wary |= protocol != IPPROTO_TCP;
	t->hungry = t->drained = t->full = 0;
	return edge_watch(t->base.worker, &t->edge, t->fd,
			  EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI, on_edge);
}

/* --- reading and writing --- */

/* Makes what OpenSSL's last call failed of the conduit's end. */
static int die(struct tls_conduit *t, int ssl_error)
{
	unsigned long e = ERR_peek_error();

	if (ssl_error == SSL_ERROR_SSL && ERR_GET_LIB(e) == ERR_LIB_SSL &&
	    ERR_GET_REASON(e) >= SSL_AD_REASON_OFFSET)
		t->alert = (uint8_t)(ERR_GET_REASON(e) - SSL_AD_REASON_OFFSET);
	if (t->error)
		t->base.dead = t->error;
	else if (t->eof) /* FIN without close_notify, unless a failed send had the RST's error */
		t->base.dead = t->broken ? t->broken : -ECONNABORTED;
	else if (t->alert)
		t->base.dead = -ECONNRESET;
	else
		t->base.dead = -EPROTO;
	tls_flush(t); /* our alert */
	return t->base.dead;
}

static ssize_t tls_read(struct conduit *c, void *buf, size_t max)
{
	struct tls_conduit *t = of(c);
	size_t done = 0, n;
	int r = SSL_ERROR_NONE;

	if (c->dead)
		return c->dead;
	while (done < max) {
		ERR_clear_error();
		if (SSL_read_ex(t->ssl, (char *)buf + done, max - done, &n) != 1) {
			r = SSL_get_error(t->ssl, 0);
			break;
		}
		done += n;
	}
	if (r == SSL_ERROR_WANT_READ)
		t->hungry = 1;
	else if (r != SSL_ERROR_NONE && r != SSL_ERROR_ZERO_RETURN && r != SSL_ERROR_WANT_WRITE)
		die(t, r);
	if (t->out && !t->base.dead) /* an answer of OpenSSL's own, such as a key update */
		tls_flush(t);
	settle(t); /* what stays inside OpenSSL is told again, though the socket may be silent */
	if (done)
		return (ssize_t)done;
	if (r == SSL_ERROR_ZERO_RETURN && t->broken)
		c->dead = t->broken;
	if (c->dead)
		return c->dead;
	return r == SSL_ERROR_ZERO_RETURN ? 0 : -EAGAIN;
}

/* Encrypts up to TLS_RECORDS records into the empty out buffer. Bytes taken; c->dead on failure. */
static size_t encrypt(struct tls_conduit *t, const uint8_t *data, size_t len)
{
	size_t done = 0, n;

	for (int i = 0; i < TLS_RECORDS && done < len; i++) {
		size_t part = len - done < SSL3_RT_MAX_PLAIN_LENGTH ? len - done
								    : SSL3_RT_MAX_PLAIN_LENGTH;

		ERR_clear_error();
		if (SSL_write_ex(t->ssl, data + done, part, &n) != 1) {
			die(t, SSL_get_error(t->ssl, 0));
			break;
		}
		done += n;
	}
	return done;
}

static ssize_t tls_write(struct conduit *c, const void *buf, size_t len)
{
	struct tls_conduit *t = of(c);
	size_t done = 0;

	tls_flush(t);
	while (!c->dead && !t->broken && !t->out && done < len) {
		done += encrypt(t, (const uint8_t *)buf + done, len - done);
		tls_flush(t);
	}
	settle(t);
	if (c->dead)
		return c->dead;
	if (t->broken)
		return t->broken;
	return done || len == 0 ? (ssize_t)done : -EAGAIN;
}

/* Puts close_notify behind all that was written, and FIN behind that. 0 or -EAGAIN: not yet. */
static int finish(struct tls_conduit *t)
{
	tls_flush(t);
	if (!t->out && !t->close_sent) {
		ERR_clear_error();
		SSL_shutdown(t->ssl);
		t->close_sent = 1;
		tls_flush(t);
	}
	if (t->out)
		return -EAGAIN;
	if (!t->fin_sent && !t->broken)
		shutdown(t->fd,
			 SHUT_WR); /* fails only if the connection is gone: seen on reading */
	t->fin_sent = 1;
	return 0;
}

static int tls_shutdown(struct conduit *c)
{
	struct tls_conduit *t = of(c);
	int r;

	if (c->dead)
		return c->dead;
	r = finish(t);
	settle(t);
	return t->broken ? t->broken : r;
}

/* --- the end --- */

void tls_free(struct reapable *r)
{
	struct tls_conduit *t =
		(struct tls_conduit *)((char *)r - offsetof(struct tls_conduit, reapable));

	SSL_free(t->ssl);
	tls_context_unref(t->context);
	free(t->h);
	free(t);
}

void tls_end(struct tls_conduit *t, bool reset)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	edge_forget_closing(&t->edge);
	worker_undefer(&t->tell);
	timer_cancel(t->base.worker, &t->timer);
	tls_out_drop(t);
	if (reset) /* refused by Unix and vsock sockets, which cannot reset */
		setsockopt(t->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(t->fd);
	t->fd = -1;
	conduit_deinit(&t->base);
	worker_reap(t->base.worker, &t->reapable);
}

bool tls_discard(struct tls_conduit *t)
{
	char nothing[4096];
	ssize_t n = 1;

	if (t->eof || t->error)
		return true;
	for (int i = 0; i < TLS_DISCARD && n > 0; i++)
		n = recv(t->fd, nothing, sizeof(nothing), 0);
	t->eof = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
	t->drained = n < 0 && errno == EAGAIN;
	return t->eof;
}

static void on_closing_timer(struct timer *timer)
{
	tls_end((struct tls_conduit *)((char *)timer - offsetof(struct tls_conduit, timer)), false);
}

static void closing_step(struct tls_conduit *t)
{
	bool over = tls_discard(t), finished = t->fin_sent;

	if (finish(t) == 0 && (over || t->broken || t->base.dead)) {
		tls_end(t, false);
		return;
	}
	if (t->fin_sent && !finished)
		timer_set(t->base.worker, &t->timer, TLS_LINGER_MS, on_closing_timer);
	if (!over && !t->drained)
		worker_defer(t->base.worker, &t->tell);
}

static void tls_close(struct conduit *c, enum reason why)
{
	struct tls_conduit *t = of(c);

	worker_undefer(&t->tell);
	if (!reason_is_clean(why) || c->dead || t->broken) {
		tls_end(t, !reason_is_clean(why));
		return;
	}
	if (t->fin_sent && !t->out) { /* its owner has said EOF before, and waited as it saw fit */
		tls_end(t, false);
		return;
	}
	t->closing = 1;
	/* after close_notify nothing comes that could turn our close into RST */
	if (finish(t) == 0 && SSL_get_shutdown(t->ssl) & SSL_RECEIVED_SHUTDOWN) {
		tls_end(t, false);
		return;
	}
	timer_set(c->worker, &t->timer, t->fin_sent ? TLS_LINGER_MS : TLS_FLUSH_MS,
		  on_closing_timer);
	closing_step(t);
}

static void tls_detach(struct conduit *c)
{
	struct tls_conduit *t = of(c);

	worker_undefer(&t->tell);
	t->wanted = 0;
	edge_forget(&t->edge);
}

static int tls_attach(struct conduit *c, struct worker *w)
{
	struct tls_conduit *t = of(c);

	c->worker = w;
	return tls_watch(t); /* what is in the out buffer goes on there */
}

static size_t tls_held(const struct conduit *c)
{
	const struct tls_conduit *t = of(c);

	return t->out && !t->little ? WORKER_BUFFER : 0;
}

static enum reason tls_why(const struct conduit *c)
{
	if (tls_alert_is_about_certificate(of(c)->alert))
		return REASON_HANDSHAKE_FAILED;
	return c->dead == -EPROTO   ? REASON_PROTOCOL
	       : c->dead == -ENOMEM ? REASON_NO_MEMORY
				    : REASON_NONE;
}

const struct conduit_ops tls_ops = {
	.name = "tls",
	.socket = true,
	.read = tls_read,
	.write = tls_write,
	.shutdown = tls_shutdown,
	.want = tls_want,
	.close = tls_close,
	.detach = tls_detach,
	.attach = tls_attach,
	.held = tls_held,
	.why = tls_why,
};

const char *tls_conduit_alpn(const struct conduit *c)
{
	return of(c)->alpn;
}

struct identity *tls_conduit_identity(const struct conduit *c)
{
	return tls_context_identity(of(c)->ssl);
}

const char *tls_conduit_version(const struct conduit *c)
{
	return SSL_get_version(of(c)->ssl);
}

const char *tls_conduit_subject(const struct conduit *c, char *buf, size_t size)
{
	X509 *certificate = SSL_get0_peer_certificate(of(c)->ssl);
	X509_NAME *subject = certificate ? X509_get_subject_name(certificate) : NULL;
	int at = subject ? X509_NAME_get_index_by_NID(subject, NID_commonName, -1) : -1;
	unsigned char *text = NULL;
	int len;

	buf[0] = '\0';
	if (at < 0)
		return buf;
	len = ASN1_STRING_to_UTF8(&text,
				  X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	if (len > 0 && (size_t)len < size && !memchr(text, '\0', (size_t)len)) {
		memcpy(buf, text, (size_t)len);
		buf[len] = '\0';
	}
	if (len >= 0)
		OPENSSL_free(text);
	return buf;
}

const char *tls_conduit_alert(struct conduit *c)
{
	struct tls_conduit *t = of(c);
	char nothing[4096];

	/* a failed send may be all that its owner saw: the alert that explains it lies behind */
	for (int i = 0; i < TLS_DISCARD && t->broken && !c->dead; i++)
		if (tls_read(c, nothing, sizeof(nothing)) <= 0)
			break;
	return t->alert ? tls_alert_text(t->alert) : "";
}

const char *tls_conduit_refusal(struct conduit *c)
{
	const char *alert = strcmp(c->ops->name, "tls") == 0 ? tls_conduit_alert(c) : "";

	return *alert && c->ops->why(c) == REASON_HANDSHAKE_FAILED ? alert : "";
}

int tls_conduit_socket(const struct conduit *c)
{
	return of(c)->fd;
}
