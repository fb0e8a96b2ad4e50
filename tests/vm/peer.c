/*
 * vm-peer: both ends of the streams that the tests in a VM send through the programs under test.
 *
 *   vm-peer serve ADDRESS                     answer calls; a line for each that ended early, and
 *                                             for each with a wrong byte
 *   vm-peer call ADDRESS KIND UP DOWN [N]     N calls at once; 0: all were right
 *   vm-peer storm ADDRESS SECONDS N           N threads that call, and call again when refused
 *   vm-peer mix SEED N AT_ONCE ADDRESS...     N calls, AT_ONCE at a time, of kinds and sizes drawn
 *                                             from SEED, to each address in turn
 *   vm-peer errno ADDRESS                     print what connecting, or the first read, says
 *   vm-peer connects ADDRESS                  0: somebody listens there; else print why
 *   vm-peer activate ADDRESS NAME PROGRAM...  run it with a socket that listens there, as systemd
 *                                             does for a socket unit
 *
 * ADDRESS is vsock:CID:PORT (any to listen) or unix:/PATH.
 *
 * A call is a header, then UP verified bytes to the server and DOWN verified bytes back. KIND late:
 * the server answers only when it has seen the caller's end-of-file. KIND early: the server ends
 * its direction before the caller has sent a byte of UP. KIND rest: as late, but the caller rests
 * between the header and UP. KIND both: both directions at once. KIND gone: the caller leaves when
 * it has sent all, without an answer. All callers of "call" have sent their header before the first
 * goes on: N streams are open at a time.
 *
 * Every call ends as one of: ok; refused (no connection, or its end before the first byte of the
 * answer); cut (its end within the answer); wrong (a byte that should not be there); timeout.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "tests/tools/place.h"
#include "tests/tools/quote.h"
#include "tests/vm/verified.h"

#define THREADS_MAX 1024
#define IO_TIMEOUT 30 /* seconds for one read or write: an emulated machine is slow */
#define REST 3        /* seconds */
#define SIZE_BITS 18  /* of a call by mix; small ones are as frequent as large ones */
#define PLACES_MAX 8

struct header {
	char kind; /* 'l'ate, 'e'arly, 'r'est, 'b'oth or 'g'one */
	char unused[3];
	uint32_t up, down, seed;
};

/* What all callers of a mix take their calls from. */
struct mix {
	struct place places[PLACES_MAX];
	unsigned n_places;
	uint64_t seed;
	unsigned n;
	atomic_uint next;
};

struct caller {
	const struct place *place;
	struct mix *mix;
	struct header header;
	pthread_barrier_t *all; /* NULL: goes on at once */
	time_t until;           /* storm: when to stop */
	unsigned long count[OUTCOMES];
	int error;           /* of the last refused connect */
	double longest;      /* seconds of a call, however it ended */
	unsigned long early; /* calls of this kind that were ok */
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

static void read_place(struct place *p, const char *text)
{
	const char *why = place_parse(p, text);
	const struct sockaddr_vm *a = (const struct sockaddr_vm *)&p->address;

	if (why) {
		fprintf(stderr, "vm-peer: %s: %s\n", text, why);
		exit(2);
	}
	/* On a machine that is no VM of these tests, CID 2 is somebody else's. */
	if (a->svm_family == AF_VSOCK && a->svm_cid == VMADDR_CID_HOST &&
	    access("/this-is-a-test-vm", F_OK) < 0)
		die("vsock CID 2 outside a test VM");
}

static const struct sockaddr *address(const struct place *p)
{
	return (const struct sockaddr *)&p->address;
}

static void limit_time(int fd)
{
	struct timeval limit = { .tv_sec = IO_TIMEOUT };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* A socket with time-outs; its writes may fail, and the process goes on. */
static int place_socket(const struct place *p)
{
	int fd = socket(p->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	limit_time(fd);
	return fd;
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
	if (h.kind == 'b')
		up = exchange(&(struct sending){ fd, ~h.seed, h.down, OK }, h.seed, h.up);
	else
		up = expect_bytes(fd, h.seed, h.up);
	if (h.kind != 'e' && h.kind != 'b' && up == OK)
		down = send_bytes(fd, ~h.seed, h.down);
	if (h.kind == 'e' || up == WRONG)
		printf("%s %u up=%s down=%s\n", h.kind == 'e' ? "early" : "other", h.seed,
		       outcome_names[up], outcome_names[down]);
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

	read_place(&p, text);
	fd = place_socket(&p);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (p.path)
		unlink(p.path);
	if (bind(fd, address(&p), p.len) < 0 || listen(fd, 4096) < 0)
		die(text);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ 0 }, sizeof(struct timeval));
	small_stack(&small);
	pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
	for (;;) {
		pthread_t thread;

		one = accept(fd, NULL, NULL);
		if (one < 0)
			die("accept");
		limit_time(one);
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

	if (connect(fd, address(c->place), c->place->len) == 0 &&
	    send(fd, &c->header, sizeof(c->header), MSG_NOSIGNAL) == sizeof(c->header))
		return fd;
	c->error = errno;
	close(fd);
	return -1;
}

static enum outcome finish(const struct header *h, int fd)
{
	struct sending out = { fd, h->seed, h->up, OK };
	enum outcome how;

	if (h->kind == 'e') {
		how = expect_bytes(fd, ~h->seed, h->down);
		return how == OK ? send_bytes(fd, h->seed, h->up) : how;
	}
	if (h->kind == 'g')
		return send_bytes(fd, h->seed, h->up);
	if (h->kind == 'r')
		sleep(REST);
	if (h->kind == 'b') {
		how = exchange(&out, ~h->seed, h->down);
	} else {
		sending(&out);
		how = expect_bytes(fd, ~h->seed, h->down);
	}
	return how == OK ? out.how : how;
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
	c->early += how == OK && c->header.kind == 'e';
	if (now() - start > c->longest)
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

static uint32_t draw_size(uint64_t *state)
{
	uint64_t bits = noise_next(state) % (SIZE_BITS + 1);

	return (uint32_t)(1 + noise_next(state) % (1ULL << bits));
}

static void *mixing(void *arg)
{
	struct caller *c = arg;
	struct mix *m = c->mix;
	unsigned i;

	while ((i = atomic_fetch_add(&m->next, 1)) < m->n) {
		uint64_t state = m->seed + i;

		c->place = &m->places[i % m->n_places];
		c->header.kind = "lebg"[noise_next(&state) % 4];
		c->header.up = draw_size(&state);
		c->header.down = draw_size(&state);
		c->header.seed = (uint32_t)noise_next(&state);
		calling(c);
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
	small_stack(&small);
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
		sum.early += c[i].early;
		sum.longest = c[i].longest > sum.longest ? c[i].longest : sum.longest;
	}
	printf("calls=%lu", all);
	for (int how = 0; how < OUTCOMES; how++)
		printf(" %s=%lu", outcome_names[how], sum.count[how]);
	printf(" early=%lu longest=%.2fs%s%s\n", sum.early, sum.longest, sum.error ? " error=" : "",
	       sum.error ? strerrorname_np(sum.error) : "");
	free(threads);
	free(c);
	return sum.count[OK] == all && all > 0 ? 0 : 1;
}

/* mix SEED N AT_ONCE ADDRESS... */
static int run_mix(int argc, char **argv)
{
	struct mix m = { .n_places = (unsigned)argc - 5 };
	struct caller model = { .mix = &m };
	unsigned long at_once = strtoul(argv[4], NULL, 10);

	m.seed = strtoull(argv[2], NULL, 10);
	m.n = (unsigned)strtoul(argv[3], NULL, 10);
	for (unsigned i = 0; i < m.n_places; i++)
		read_place(&m.places[i], argv[5 + i]);
	return run(&model, (unsigned)at_once, mixing);
}

static int report_errno(const struct place *p)
{
	int fd = place_socket(p);
	char byte;
	ssize_t n;

	if (connect(fd, address(p), p->len) < 0) {
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
	int fd = place_socket(p), r = connect(fd, address(p), p->len);

	if (r < 0)
		printf("%s\n", strerrorname_np(errno));
	close(fd);
	return r < 0 ? 1 : 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: vm-peer serve ADDRESS | call ADDRESS late|early|rest UP DOWN [N]\n"
			"       | storm ADDRESS SECONDS N | errno ADDRESS | connects ADDRESS\n"
			"       | mix SEED N AT_ONCE ADDRESS...\n");
	return 2;
}

static int activate(const struct place *p, char **argv)
{
	char pid[16];
	int fd = place_listen(p, 0);

	if (fd < 0 || dup2(fd, 3) != 3)
		die(p->text);
	if (fd != 3)
		close(fd);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_FDNAMES", argv[0], 1);
	execvp(argv[1], argv + 1);
	die(argv[1]);
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
	if (argc > 5 && argc <= 5 + PLACES_MAX && strcmp(argv[1], "mix") == 0) {
		n = (unsigned)strtoul(argv[4], NULL, 10);
		return n && n <= THREADS_MAX ? run_mix(argc, argv) : usage();
	}
	if (argc < 3)
		return usage();
	read_place(&p, argv[2]);
	if (argc == 3 && strcmp(argv[1], "errno") == 0)
		return report_errno(&p);
	if (argc == 3 && strcmp(argv[1], "connects") == 0)
		return connects(&p);
	if (argc > 4 && strcmp(argv[1], "activate") == 0)
		return activate(&p, argv + 3);
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
