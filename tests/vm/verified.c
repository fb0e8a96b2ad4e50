/*
 * verified: bytes that follow from a seed, and how sending and expecting them ends.
 *
 * Theory of operation: sockets block, and have time-outs of their own: EAGAIN is one of these.
 */
#include "tests/vm/verified.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

const char *const outcome_names[OUTCOMES] = { "ok", "refused", "cut", "wrong", "timeout" };

static unsigned char byte_at(uint32_t seed, uint32_t i)
{
	uint32_t x = (seed ^ i >> 8) * 2654435761u + i * 40503u;

	return (unsigned char)(x >> 16);
}

static enum outcome of_errno(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK ? TIMEOUT : CUT;
}

enum outcome send_bytes(int fd, uint32_t seed, uint32_t len)
{
	unsigned char buf[16384];

	for (uint32_t at = 0; at < len;) {
		uint32_t n = len - at < sizeof(buf) ? len - at : sizeof(buf), done = 0;

		for (uint32_t i = 0; i < n; i++)
			buf[i] = byte_at(seed, at + i);
		while (done < n) {
			ssize_t r = send(fd, buf + done, n - done, MSG_NOSIGNAL);

			if (r < 0)
				return of_errno();
			done += (uint32_t)r;
		}
		at += n;
	}
	return OK;
}

enum outcome expect_bytes(int fd, uint32_t seed, uint32_t len)
{
	unsigned char buf[16384];
	uint32_t at = 0;

	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n < 0 && of_errno() == TIMEOUT)
			return TIMEOUT;
		if (n <= 0)
			return n == 0 && at == len ? OK : at == 0 ? REFUSED : CUT;
		for (ssize_t i = 0; i < n; i++, at++)
			if (at >= len || buf[i] != byte_at(seed, at))
				return WRONG;
	}
}

void *sending(void *arg)
{
	struct sending *s = arg;

	s->how = send_bytes(s->fd, s->seed, s->len);
	shutdown(s->fd, SHUT_WR);
	return NULL;
}

void small_stack(pthread_attr_t *attr)
{
	pthread_attr_init(attr);
	pthread_attr_setstacksize(attr, 128 * 1024);
}

enum outcome exchange(struct sending *out, uint32_t seed, uint32_t len)
{
	pthread_attr_t small;
	pthread_t thread;
	enum outcome in;

	small_stack(&small);
	errno = pthread_create(&thread, &small, sending, out);
	if (errno) {
		perror("pthread_create");
		exit(2);
	}
	in = expect_bytes(out->fd, seed, len);
	if (in != OK) /* nor will what is sent arrive */
		shutdown(out->fd, SHUT_RDWR);
	pthread_join(thread, NULL);
	return in;
}
