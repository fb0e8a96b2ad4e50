/*
 * tls_bio: the out buffer, and OpenSSL's way to the socket.
 *
 * Theory of operation: reading is recv(2) at once; writing only fills the out buffer, which
 * tls_flush sends. See tls.c for how the two are driven.
 */
#include <errno.h>
#include <openssl/bio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "relay/tls_conduit.h"

void tls_out_drop(struct tls_conduit *t)
{
	if (t->little)
		free(t->out);
	else
		worker_buffer_put(t->base.worker, t->out);
	t->out = NULL;
	t->out_start = t->out_end = 0;
	t->blocked = t->full = t->little = 0;
}

/* What the socket does not take may have to wait for long. */
static void shrink(struct tls_conduit *t)
{
	size_t len = tls_out_len(t);
	uint8_t *little = t->little ? NULL : worker_buffer_shrink(t->base.worker, t->out,
								  t->out_start, len);

	if (!little)
		return;
	t->out = little;
	t->out_start = 0;
	t->out_end = (uint32_t)len;
	t->little = 1;
}

/* Room behind what is in the out buffer. False: out of memory. */
static bool grow(struct tls_conduit *t)
{
	size_t len = tls_out_len(t);
	uint8_t *out = worker_buffer_get(t->base.worker);

	if (!out)
		return false;
	if (t->out)
		memcpy(out, t->out + t->out_start, len);
	if (t->little)
		free(t->out);
	t->out = out;
	t->out_start = 0;
	t->out_end = (uint32_t)len;
	t->little = 0;
	return true;
}

void tls_flush(struct tls_conduit *t)
{
	ssize_t n;

	if (!t->out)
		return;
	if (t->full) { /* but OpenSSL may have added to a little, and that have grown for it */
		shrink(t);
		return;
	}
	do
		n = send(t->fd, t->out + t->out_start, tls_out_len(t), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		t->out_start += (uint32_t)n;
	} else if (n < 0 && errno != EAGAIN) {
		t->broken = -errno;
		t->aborted = 1; /* the send may have taken the error, and no edge will tell it */
	}
	if (tls_out_len(t) == 0 || t->broken)
		tls_out_drop(t);
	else
		t->full = 1;
	if (t->full)
		shrink(t);
}

static int bio_write(BIO *b, const char *data, int len)
{
	struct tls_conduit *t = BIO_get_data(b);
	size_t room, n = (size_t)len;

	BIO_clear_retry_flags(b);
	if (t->broken || t->fin_sent)
		return len; /* nobody will read it */
	if ((!t->out || t->little) && !grow(t)) {
		t->error = -ENOMEM;
		return -1;
	}
	if (t->out_end == WORKER_BUFFER && t->out_start > 0) {
		memmove(t->out, t->out + t->out_start, tls_out_len(t));
		t->out_end -= t->out_start;
		t->out_start = 0;
	}
	room = WORKER_BUFFER - t->out_end;
	if (room == 0) { /* a long handshake, or a peer that asks for answers and takes none */
		t->blocked = 1;
		BIO_set_retry_write(b);
		return -1;
	}
	n = n < room ? n : room;
	memcpy(t->out + t->out_end, data, n);
	t->out_end += (uint32_t)n;
	return (int)n;
}

void tls_on_message(int sent, int version, int type, const void *data, size_t len, SSL *ssl,
		    void *conduit)
{
	struct tls_conduit *t = conduit;
	uint64_t now;

	if (sent || type != SSL3_RT_HANDSHAKE || !len ||
	    *(const uint8_t *)data != SSL3_MT_KEY_UPDATE)
		return;
	now = worker_now(t->base.worker);
	if (now - t->key_updates_at >= 1000) {
		t->key_updates_at = now;
		t->key_updates = 0;
	}
	if (++t->key_updates > TLS_KEY_UPDATES)
		t->error = -EPROTO;
}

static int bio_read(BIO *b, char *buf, int max)
{
	struct tls_conduit *t = BIO_get_data(b);
	ssize_t n;

	BIO_clear_retry_flags(b);
	if (t->error)
		return -1;
	if (t->eof)
		return 0;
	if (t->drained) {
		BIO_set_retry_read(b);
		return -1;
	}
	do
		n = recv(t->fd, buf, (size_t)max, 0);
	while (n < 0 && errno == EINTR);
	t->drained = n < 0 || (n < max && !t->wary);
	if (n < 0 && errno == EAGAIN)
		BIO_set_retry_read(b);
	else if (n < 0)
		t->error = -errno;
	else if (n == 0)
		t->eof = 1;
	return (int)n;
}

static long bio_ctrl(BIO *b, int command, long number, void *pointer)
{
	const struct tls_conduit *t = BIO_get_data(b);

	if (command == BIO_CTRL_EOF)
		return t->eof;
	return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;

static void make_bio_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "conduit");

	if (!m)
		return;
	BIO_meth_set_write(m, bio_write);
	BIO_meth_set_read(m, bio_read);
	BIO_meth_set_ctrl(m, bio_ctrl);
	bio_method = m;
}

BIO *tls_bio_new(struct tls_conduit *t)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	BIO *b;

	pthread_once(&once, make_bio_method);
	b = bio_method ? BIO_new(bio_method) : NULL;
	if (b) {
		BIO_set_data(b, t);
		BIO_set_init(b, 1);
	}
	return b;
}
