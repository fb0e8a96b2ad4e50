/*
 * vm-peer: both ends of the streams that the tests in a VM send through the programs under test.
 *
 *   vm-peer serve ADDRESS                     answer calls; a line for each that ended early
 *   vm-peer call ADDRESS KIND UP DOWN [N]     N calls at once; 0: all were right
 *   vm-peer storm ADDRESS SECONDS N           N threads that call, and call again when refused
 *   vm-peer errno ADDRESS                     print what connecting, or the first read, says
 *   vm-peer connects ADDRESS                  0: somebody listens there; else print why
 *
 * ADDRESS is vsock:CID:PORT (any to listen) or unix:PATH.
 *
 * A call is a header, then UP verified bytes to the server and DOWN verified bytes back. KIND late:
 * the server answers only when it has seen the caller's end-of-file. KIND early: the server ends
 * its direction before the caller has sent a byte of UP. KIND rest: as late, but the caller rests
 * between the header and UP. All callers of "call" have sent their header before the first goes on:
 * N streams are open at a time.
 *
 * Every call ends as one of: ok; refused (no connection, or its end before the first byte of the
 * answer); cut (its end within the answer); wrong (a byte that should not be there); timeout.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define THREADS_MAX 1024
#define IO_TIMEOUT  30 /* seconds for one read or write: an emulated machine is slow */
#define REST	    3  /* seconds */

enum outcome { OK, REFUSED, CUT, WRONG, TIMEOUT, OUTCOMES };

static const char *const outcome_names[] = { "ok", "refused", "cut", "wrong", "timeout" };

struct header {
	char kind; /* 'l'ate, 'e'arly or 'r'est */
	char unused[3];
	uint32_t up, down, seed;
};

struct place {
	union {
		struct sockaddr any;
		struct sockaddr_vm vm;
		struct sockaddr_un un;
	} to;
	socklen_t len;
};

struct caller {
	const struct place *place;
	struct header header;
	pthread_barrier_t *all; /* NULL: goes on at once */
	time_t until;		/* storm: when to stop */
	unsigned long count[OUTCOMES];
	int error;  /* of the last refused connect */
	double longest; /* seconds of a call that was ok */
};

static void die(const char *what)
{
	fprintf(stderr, "vm-peer: %s: %s\n", what, strerror(errno));
	exit(2);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void place_parse(struct place *p, const char *text)
{
	unsigned cid, port;

	memset(p, 0, sizeof(*p));
	if (sscanf(text, "vsock:any:%u", &port) == 1 ||
	    sscanf(text, "vsock:%u:%u", &cid, &port) == 2) {
		p->to.vm.svm_family = AF_VSOCK;
		p->to.vm.svm_cid = strncmp(text, "vsock:any", 9) == 0 ? VMADDR_CID_ANY : cid;
		p->to.vm.svm_port = port;
		p->len = sizeof(p->to.vm);
	} else if (strncmp(text, "unix:", 5) == 0 && strlen(text + 5) < sizeof(p->to.un.sun_path)) {
		p->to.un.sun_family = AF_UNIX;
		strcpy(p->to.un.sun_path, text + 5);
		p->len = sizeof(p->to.un);
	} else {
		errno = EINVAL;
		die(text);
	}
	/* On a machine that is no VM of these tests, CID 2 is somebody else's. */
	if (p->to.vm.svm_family == AF_VSOCK && p->to.vm.svm_cid == VMADDR_CID_HOST &&
	    access("/this-is-a-test-vm", F_OK) < 0)
		die("vsock CID 2 outside a test VM");
}

/* A socket with time-outs; its writes may fail, and the process goes on. */
static int place_socket(const struct place *p)
{
	struct timeval limit = { .tv_sec = IO_TIMEOUT };
	int fd = socket(p->to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	return fd;
}

/* ---- verified bytes ---- */

static unsigned char byte_at(uint32_t seed, uint32_t i)
{
	uint32_t x = (seed ^ i >> 8) * 2654435761u + i * 40503u;

	return (unsigned char)(x >> 16);
}

static enum outcome of_errno(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK ? TIMEOUT : CUT;
}

static enum outcome send_bytes(int fd, uint32_t seed, uint32_t len)
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

/* Reads until end-of-file: exactly these bytes must have come. Without any: refused. */
static enum outcome expect_bytes(int fd, uint32_t seed, uint32_t len)
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

/* ---- the server ---- */

static void answer(int fd)
{
	struct header h;
	enum outcome up, down = OK;

	if (recv(fd, &h, sizeof(h), MSG_WAITALL) != sizeof(h))
		return;
	if (h.kind == 'e') {
		down = send_bytes(fd, ~h.seed, h.down);
		shutdown(fd, SHUT_WR);
	}
	up = expect_bytes(fd, h.seed, h.up);
	if (h.kind != 'e' && up == OK)
		down = send_bytes(fd, ~h.seed, h.down);
	if (h.kind == 'e') {
		printf("early %u up=%s down=%s\n", h.seed, outcome_names[up], outcome_names[down]);
		fflush(stdout);
	}
}

static void *answering(void *fd)
{
	answer((int)(intptr_t)fd);
	close((int)(intptr_t)fd);
	return NULL;
}

static _Noreturn void serve(const char *text)
{
	struct place p;
	pthread_attr_t small;
	int fd, one;

	place_parse(&p, text);
	fd = place_socket(&p);
	if (p.to.any.sa_family == AF_UNIX)
		unlink(p.to.un.sun_path);
	if (bind(fd, &p.to.any, p.len) < 0 || listen(fd, 4096) < 0)
		die(text);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ 0 }, sizeof(struct timeval));
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128 * 1024);
	pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
	for (;;) {
		struct timeval limit = { .tv_sec = IO_TIMEOUT };
		pthread_t thread;

		one = accept(fd, NULL, NULL);
		if (one < 0)
			die("accept");
		setsockopt(one, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(one, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		errno = pthread_create(&thread, &small, answering, (void *)(intptr_t)one);
		if (errno)
			die("pthread_create");
	}
}

/* ---- callers ---- */

/* Connects and sends the header: the socket, or -1 and c->error. */
static int begin(struct caller *c)
{
	int fd = place_socket(c->place);

	if (connect(fd, &c->place->to.any, c->place->len) == 0 &&
	    send(fd, &c->header, sizeof(c->header), MSG_NOSIGNAL) == sizeof(c->header))
		return fd;
	c->error = errno;
	close(fd);
	return -1;
}

static enum outcome finish(const struct header *h, int fd)
{
	enum outcome how, sent;

	if (h->kind == 'e') {
		how = expect_bytes(fd, ~h->seed, h->down);
		return how == OK ? send_bytes(fd, h->seed, h->up) : how;
	}
	if (h->kind == 'r')
		sleep(REST);
	sent = send_bytes(fd, h->seed, h->up);
	shutdown(fd, SHUT_WR);
	how = expect_bytes(fd, ~h->seed, h->down);
	return how == OK ? sent : how;
}

static void *calling(void *arg)
{
	struct caller *c = arg;
	double start = now();
	int fd = begin(c);
	enum outcome how = REFUSED;

	if (c->all)
		pthread_barrier_wait(c->all);
	if (fd >= 0) {
		how = finish(&c->header, fd);
		close(fd);
	}
	c->count[how]++;
	if (how == OK && now() - start > c->longest)
		c->longest = now() - start;
	return NULL;
}

static void *storming(void *arg)
{
	struct caller *c = arg;

	while (time(NULL) < c->until) {
		unsigned long good = c->count[OK];

		calling(c);
		c->header.seed += 7919;
		if (c->count[OK] == good) /* as a client would: not at once again */
			usleep(50000);
	}
	return NULL;
}

/* Runs n callers; 0: every call was ok. */
static int run(struct caller *model, unsigned n, void *(*thread)(void *))
{
	struct caller *c = calloc(n, sizeof(*c)), sum = { 0 };
	pthread_t *threads = calloc(n, sizeof(*threads));
	pthread_attr_t small;
	unsigned long all = 0;

	if (!c || !threads)
		die("calloc");
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 128 * 1024);
	for (unsigned i = 0; i < n; i++) {
		c[i] = *model;
		c[i].header.seed = (uint32_t)getpid() * 65536u + i;
		errno = pthread_create(&threads[i], &small, thread, &c[i]);
		if (errno)
			die("pthread_create");
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(threads[i], NULL);
		for (int how = 0; how < OUTCOMES; how++) {
			sum.count[how] += c[i].count[how];
			all += c[i].count[how];
		}
		sum.error = c[i].error ? c[i].error : sum.error;
		sum.longest = c[i].longest > sum.longest ? c[i].longest : sum.longest;
	}
	printf("calls=%lu", all);
	for (int how = 0; how < OUTCOMES; how++)
		printf(" %s=%lu", outcome_names[how], sum.count[how]);
	printf(" longest=%.2fs%s%s\n", sum.longest, sum.error ? " error=" : "",
	       sum.error ? strerrorname_np(sum.error) : "");
	free(threads);
	free(c);
	return sum.count[OK] == all && all > 0 ? 0 : 1;
}

static int report_errno(const struct place *p)
{
	int fd = place_socket(p);
	char byte;
	ssize_t n;

	if (connect(fd, &p->to.any, p->len) < 0) {
		printf("connect %s\n", strerrorname_np(errno));
		return 0;
	}
	n = recv(fd, &byte, 1, 0);
	printf("read %s\n", n > 0 ? "data" : n == 0 ? "EOF" : strerrorname_np(errno));
	close(fd);
	return 0;
}

static int connects(const struct place *p)
{
	int fd = place_socket(p), r = connect(fd, &p->to.any, p->len);

	if (r < 0)
		printf("%s\n", strerrorname_np(errno));
	close(fd);
	return r < 0 ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: vm-peer serve ADDRESS | call ADDRESS late|early|rest UP DOWN [N]\n"
			"       | storm ADDRESS SECONDS N | errno ADDRESS | connects ADDRESS\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct place p;
	struct caller model = { .place = &p };
	pthread_barrier_t all;
	unsigned n;

	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		serve(argv[2]);
	if (argc < 3)
		return usage();
	place_parse(&p, argv[2]);
	if (argc == 3 && strcmp(argv[1], "errno") == 0)
		return report_errno(&p);
	if (argc == 3 && strcmp(argv[1], "connects") == 0)
		return connects(&p);
	if ((argc == 6 || argc == 7) && strcmp(argv[1], "call") == 0) {
		n = argc == 7 ? (unsigned)strtoul(argv[6], NULL, 10) : 1;
		if (!n || n > THREADS_MAX)
			return usage();
		model.header.kind = argv[3][0];
		model.header.up = (uint32_t)strtoul(argv[4], NULL, 10);
		model.header.down = (uint32_t)strtoul(argv[5], NULL, 10);
		pthread_barrier_init(&all, NULL, n);
		model.all = &all;
		return run(&model, n, calling);
	}
	if (argc == 5 && strcmp(argv[1], "storm") == 0) {
		n = (unsigned)strtoul(argv[4], NULL, 10);
		if (!n || n > THREADS_MAX)
			return usage();
		model.header.kind = 'l';
		model.header.up = 1052;
		model.header.down = 5000;
		model.until = time(NULL) + (time_t)strtoul(argv[3], NULL, 10);
		return run(&model, n, storming);
	}
	return usage();
}
