/*
 * vms: many VMs at once, each a process of its own.
 *
 * Theory of operation: a bridge may tell the clients of a Unix socket apart by their process. So
 * each VM is a child, with a thread for each request in flight. What they count and measure is in
 * memory they share with the parent, one tally each, which it reads once they have ended. A pipe
 * that it closes lets all begin at once; a shared flag ends the floods. Children end with their
 * parent.
 *
 * Percentiles are exact, of all good requests of a VM that is no flood; of a flood, of its last
 * ones.
 */
#include "tests/tools/vms.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/tools/quote.h"

#define ODD_REPORT_MAX 4000 /* legacy QGS hangs on requests of more than 4096 bytes */
#define FLOOD_KEPT 65536
#define STACK (256U * 1024)

struct tally {
	atomic_ullong begun;
	pthread_mutex_t lock; /* of what follows, among the threads of a child */
	unsigned long long outcomes[OUTCOMES];
	unsigned long long n_us;
	bool failed; /* the first failure: */
	struct client_result first;
	int64_t begin, end; /* us */
	size_t kept;
	uint32_t us[]; /* of good requests, n_us % kept */
};

struct crew {
	const struct vm *vm;
	struct tally *t;
	atomic_bool *over;
	int64_t think_ms;
};

static void __attribute__((noreturn)) fatal(const char *what)
{
	fprintf(stderr, "quote-load: %s: %s\n", what, strerror(errno));
	exit(3);
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void *share(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fatal("memory");
	return p;
}

/* ---- a child ---- */

static void note(struct tally *t, const struct client_result *r)
{
	pthread_mutex_lock(&t->lock);
	t->outcomes[r->outcome]++;
	if (r->outcome == OUTCOME_OK) {
		t->us[t->n_us++ % t->kept] = (uint32_t)r->us;
	} else if (!t->failed) {
		t->failed = true;
		t->first = *r;
	}
	pthread_mutex_unlock(&t->lock);
}

/* A raw report has no length on it: in pieces, only the usual size can be told from less. */
static struct client_how how_of(const struct vm *vm, uint64_t number)
{
	struct client_how how = vm->how;
	uint64_t random = vm->seed + number, size, late;

	if (!vm->odd)
		return how;
	size = noise_next(&random) % (ODD_REPORT_MAX - QUOTE_REPORT + 1);
	how.shut_wr = noise_next(&random) % 2;
	late = noise_next(&random);
	how.read_after_ms = late % 4 ? 0 : (int64_t)(late / 4 % 100);
	if (how.kind != CLIENT_RAW)
		how.report_bytes += size;
	return how;
}

static void *work(void *arg)
{
	struct crew *c = arg;
	struct timespec think = { .tv_sec = c->think_ms / 1000,
				  .tv_nsec = c->think_ms % 1000 * 1000000 };
	uint8_t *room = malloc(client_room(&c->vm->how));
	struct client_result r;
	struct client_how how;
	uint64_t number;

	if (!room)
		abort();
	while (!atomic_load(c->over)) {
		number = atomic_fetch_add(&c->t->begun, 1);
		if (!c->vm->flood && number >= c->vm->requests)
			break;
		how = how_of(c->vm, number);
		client_run(&how, c->vm->name, number, room, &r);
		note(c->t, &r);
		if (c->think_ms && !c->vm->flood)
			nanosleep(&think, NULL);
	}
	free(room);
	return NULL;
}

static void be_vm(struct crew *c, int gate)
{
	pthread_t *threads = calloc(c->vm->concurrency, sizeof(*threads));
	pthread_attr_t attr;
	char byte;

	if (!threads)
		abort();
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	if (read(gate, &byte, 1) != 0)
		fatal("waiting for the others");
	c->t->begin = now_us();
	for (unsigned i = 0; i < c->vm->concurrency; i++) {
		errno = pthread_create(&threads[i], &attr, work, c);
		if (errno)
			fatal("a thread");
	}
	for (unsigned i = 0; i < c->vm->concurrency; i++)
		pthread_join(threads[i], NULL);
	c->t->end = now_us();
	pthread_attr_destroy(&attr);
	free(threads);
}

/* ---- the parent ---- */

static pid_t start(struct crew *c, int gate[2])
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		fatal("fork");
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(3);
	close(gate[1]);
	be_vm(c, gate[0]);
	_exit(0);
}

static void await(pid_t pid, const char *name)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			fatal("waitpid");
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "quote-load: the process of %s ended with status %#x\n", name,
			(unsigned)status);
		exit(3);
	}
}

static struct tally *new_tally(const struct vm *vm)
{
	size_t kept = vm->flood || !vm->requests ? FLOOD_KEPT : vm->requests;
	struct tally *t = share(sizeof(*t) + kept * sizeof(t->us[0]));

	t->kept = kept;
	pthread_mutex_init(&t->lock, NULL);
	return t;
}

/* ---- the report ---- */

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void print_times(uint32_t *us, size_t n)
{
	if (!n) {
		fputs("\"p50_ms\": null, \"p99_ms\": null, \"max_ms\": null", stdout);
		return;
	}
	qsort(us, n, sizeof(*us), compare);
	printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f", us[(n - 1) / 2] / 1000.0,
	       us[(n * 99 + 99) / 100 - 1] / 1000.0, us[n - 1] / 1000.0);
}

static void print_counts(const unsigned long long *outcomes)
{
	unsigned long long all = 0;

	for (int i = 0; i < OUTCOMES; i++)
		all += outcomes[i];
	printf("\"requests\": %llu, \"ok\": %llu, \"errors\": {", all, outcomes[OUTCOME_OK]);
	for (int i = OUTCOME_OK + 1; i < OUTCOMES; i++)
		printf("%s\"%s\": %llu", i == OUTCOME_OK + 1 ? "" : ", ", client_outcomes[i],
		       outcomes[i]);
	fputs("}, ", stdout);
}

static void print_first_error(const struct vm *vms, struct tally *const *tallies, size_t n)
{
	fputs("\"first_error\": ", stdout);
	for (size_t i = 0; i < n; i++) {
		const struct client_result *r = &tallies[i]->first;

		if (vms[i].flood || !tallies[i]->failed)
			continue;
		printf("{\"vm\": \"%s\", \"outcome\": \"%s\", \"errno\": \"%s\", \"why\": \"%s\", "
		       "\"bytes\": %zu, \"ms\": %.3f}, ",
		       vms[i].name, client_outcomes[r->outcome],
		       r->error ? strerrorname_np(r->error) : "", r->why ? r->why : "", r->bytes,
		       (double)r->us / 1000.0);
		return;
	}
	fputs("null, ", stdout);
}

static size_t kept_of(const struct tally *t)
{
	return t->n_us < t->kept ? t->n_us : t->kept;
}

/* All that are no flood, together. True: none failed. */
static bool print_total(const struct vm *vms, struct tally *const *tallies, size_t n)
{
	unsigned long long sum[OUTCOMES] = { 0 }, all = 0;
	int64_t begin = INT64_MAX, end = 0;
	uint32_t *us;
	size_t n_us = 0;

	for (size_t i = 0; i < n; i++)
		n_us += vms[i].flood ? 0 : kept_of(tallies[i]);
	us = calloc(n_us + 1, sizeof(*us));
	if (!us)
		fatal("memory");
	n_us = 0;
	for (size_t i = 0; i < n; i++) {
		const struct tally *t = tallies[i];

		if (vms[i].flood)
			continue;
		for (int k = 0; k < OUTCOMES; k++) {
			sum[k] += t->outcomes[k];
			all += t->outcomes[k];
		}
		memcpy(us + n_us, t->us, kept_of(t) * sizeof(*us));
		n_us += kept_of(t);
		begin = t->begin < begin ? t->begin : begin;
		end = t->end > end ? t->end : end;
	}
	print_counts(sum);
	print_first_error(vms, tallies, n);
	printf("\"seconds\": %.3f, ", end ? (double)(end - begin) / 1e6 : 0);
	print_times(us, n_us);
	free(us);
	return sum[OUTCOME_OK] == all;
}

static bool report(const struct vm *vms, struct tally *const *tallies, const pid_t *pids, size_t n)
{
	bool good;

	fputs("{", stdout);
	good = print_total(vms, tallies, n);
	fputs(", \"vms\": {", stdout);
	for (size_t i = 0; i < n; i++) {
		printf("%s\"%s\": {\"pid\": %d, \"flood\": %s, ", i ? ", " : "", vms[i].name,
		       (int)pids[i], vms[i].flood ? "true" : "false");
		print_counts(tallies[i]->outcomes);
		print_times(tallies[i]->us, kept_of(tallies[i]));
		fputs("}", stdout);
	}
	fputs("}}\n", stdout);
	return good;
}

int vms_run(struct vm *vms, size_t n, int64_t think_ms)
{
	atomic_bool *over = share(sizeof(*over));
	struct tally **tallies = calloc(n, sizeof(*tallies));
	struct crew *crews = calloc(n, sizeof(*crews));
	pid_t *pids = calloc(n, sizeof(*pids));
	int gate[2];
	bool good;

	if (!tallies || !crews || !pids || pipe(gate))
		fatal("starting");
	for (size_t i = 0; i < n; i++) {
		tallies[i] = new_tally(&vms[i]);
		crews[i] = (struct crew){ &vms[i], tallies[i], over, think_ms };
		pids[i] = start(&crews[i], gate);
	}
	close(gate[0]);
	close(gate[1]);
	for (size_t i = 0; i < n; i++) {
		if (!vms[i].flood)
			await(pids[i], vms[i].name);
	}
	atomic_store(over, true);
	for (size_t i = 0; i < n; i++) {
		if (vms[i].flood)
			await(pids[i], vms[i].name);
	}
	good = report(vms, tallies, pids, n);
	free(tallies);
	free(crews);
	free(pids);
	return good ? 0 : 1;
}
