/* A worker: its mailbox, deferred work, the reaper and the pools. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/loop.h"

/* --- mailbox --- */

enum { SENDERS = 4, LETTERS = 5000 };

struct sender {
	pthread_t thread;
	unsigned received;
};

struct sent {
	struct sender *from;
	unsigned number;
};

static struct worker *receiver;
static pthread_t receiver_thread;
static unsigned arrived;

static void on_letter(struct worker *to, void *arg)
{
	struct sent *s = arg;

	CHECK(to == receiver);
	CHECK(pthread_equal(pthread_self(), receiver_thread));
	CHECK_INT(s->number, s->from->received); /* in the order posted, none lost, none twice */
	s->from->received++;
	free(s);
	if (++arrived == SENDERS * LETTERS)
		worker_stop(to);
}

static void on_first(struct worker *to, void *arg)
{
	receiver_thread = pthread_self();
}

static void *send_all(void *arg)
{
	for (unsigned i = 0; i < LETTERS; i++) {
		struct sent *s = malloc(sizeof(*s));

		CHECK(s);
		*s = (struct sent){ .from = arg, .number = i };
		CHECK_INT(worker_post(receiver, on_letter, s), 0);
	}
	return NULL;
}

static void test_mailbox(void)
{
	struct sender s[SENDERS] = { 0 };

	receiver = worker_new(1);
	CHECK(receiver);
	CHECK_INT(worker_post(receiver, on_first, NULL), 0); /* before the thread is there */
	CHECK_INT(worker_start(receiver), 0);
	for (int i = 0; i < SENDERS; i++)
		CHECK_INT(pthread_create(&s[i].thread, NULL, send_all, &s[i]), 0);
	for (int i = 0; i < SENDERS; i++)
		pthread_join(s[i].thread, NULL);
	worker_join(receiver);
	for (int i = 0; i < SENDERS; i++)
		CHECK_INT(s[i].received, LETTERS);
	receiver = worker_free(receiver);
}

/* A letter that posts the next one: none is lost, and the loop's other events have their turn. */
static unsigned chain;

static void on_chain(struct worker *to, void *arg)
{
	if (++chain < 100)
		CHECK_INT(worker_post(to, on_chain, NULL), 0);
}

static void test_post_from_letter(void)
{
	chain = 0;
	CHECK_INT(worker_post(w, on_chain, NULL), 0);
	turn(false);
	CHECK(chain < 100);
	UNTIL(chain == 100);
}

/* Letters nobody reads any more are freed with the worker (LeakSanitizer looks). */
static void test_unread_mail(void)
{
	struct worker *other = worker_new(2);

	CHECK(other);
	for (int i = 0; i < 3; i++)
		CHECK_INT(worker_post(other, on_first, NULL), 0);
	worker_free(other);
	worker_free(NULL);
}

/* --- deferred work --- */

struct job {
	struct deferred d;
	unsigned runs;
	void (*then)(struct job *j);
	struct job *other;
};

static struct job *ran[16];
static unsigned n_ran;

static void on_job(struct deferred *d)
{
	struct job *j = (struct job *)d; /* first member */

	j->runs++;
	if (n_ran < 16)
		ran[n_ran++] = j;
	if (j->then)
		j->then(j);
}

static void test_deferred_order(void)
{
	struct job j[4] = { 0 };

	n_ran = 0;
	for (int i = 0; i < 4; i++) {
		j[i].d.run = on_job;
		worker_defer(w, &j[i].d);
	}
	worker_defer(w, &j[0].d); /* already queued: keeps its place */
	worker_undefer(&j[2].d);
	worker_undefer(&j[2].d); /* not queued: nothing */
	turn(true);              /* must not sleep: there is work */
	CHECK_INT(n_ran, 3);
	CHECK(ran[0] == &j[0] && ran[1] == &j[1] && ran[2] == &j[3]);
	turn(false);
	CHECK_INT(n_ran, 3);
}

static void drop_other(struct job *j)
{
	worker_undefer(&j->other->d);
}

static void queue_self(struct job *j)
{
	worker_defer(w, &j->d);
}

/* Undeferring while deferred work runs, the last in the ring and one in the middle. */
static void test_undefer_inside(void)
{
	struct job j[4] = { 0 };

	n_ran = 0;
	for (int i = 0; i < 4; i++)
		j[i].d.run = on_job;
	j[0].then = drop_other;
	j[0].other = &j[1];
	j[2].then = drop_other;
	j[2].other = &j[3];
	for (int i = 0; i < 4; i++)
		worker_defer(w, &j[i].d);
	turn(false);
	CHECK_INT(n_ran, 2);
	CHECK(ran[0] == &j[0] && ran[1] == &j[2]);
	worker_defer(w, &j[3].d); /* and can be queued again */
	turn(false);
	CHECK_INT(j[3].runs, 1);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	++*(unsigned *)arg;
}

static void stop_soon(struct job *j)
{
	if (j->runs < 50)
		worker_defer(w, &j->d);
	else
		worker_stop(w);
}

/* What is queued while deferred work runs waits a turn, in which the sockets are looked at. */
static void test_deferred_starves_nobody(void)
{
	struct job j = { .d.run = on_job, .then = queue_self };
	unsigned reads = 0;
	int fd[2];
	struct event *e;

	unix_pair(fd);
	e = event_new(w->base, fd[0], EV_READ | EV_PERSIST, on_readable, &reads);
	event_add(e, NULL);
	CHECK_INT(write(fd[1], "x", 1), 1); /* never read: ready for ever */
	n_ran = 0;
	worker_defer(w, &j.d);
	for (unsigned i = 1; i <= 10; i++) {
		turn(false);
		CHECK_INT(j.runs, i);
		CHECK_INT(reads, i);
	}
	worker_undefer(&j.d);
	event_free(e);
	close(fd[0]);
	close(fd[1]);
}

/*
 * Nor does a socket that is always ready keep deferred work, or the stop, from its turn. This one
 * turns the real loop, on its own thread; the alarm ends the test if it hangs.
 */
static void test_sockets_starve_nobody(void)
{
	struct worker *mine = w, *other = worker_new(3);
	struct job j = { .d.run = on_job, .then = stop_soon };
	unsigned reads = 0;
	int fd[2];
	struct event *e;

	CHECK(other);
	w = other; /* for stop_soon */
	unix_pair(fd);
	e = event_new(w->base, fd[0], EV_READ | EV_PERSIST, on_readable, &reads);
	event_add(e, NULL);
	CHECK_INT(write(fd[1], "x", 1), 1);
	worker_defer(w, &j.d);
	alarm(20);
	worker_run(w);
	alarm(0);
	CHECK_INT(j.runs, 50);
	CHECK(reads <= 60); /* one round each time */
	event_free(e);
	close(fd[0]);
	close(fd[1]);
	worker_free(other);
	w = mine;
}

/* --- the reaper --- */

struct corpse {
	struct reapable r;
	unsigned *freed;
	struct job *job;
	struct corpse *next; /* dies with it */
};

static void on_reap(struct reapable *r)
{
	struct corpse *c = (struct corpse *)r; /* first member */

	++*c->freed;
	if (c->next)
		worker_reap(w, &c->next->r);
	free(c);
}

static struct corpse *corpse(unsigned *freed)
{
	struct corpse *c = calloc(1, sizeof(*c));

	CHECK(c);
	c->r.free = on_reap;
	c->freed = freed;
	return c;
}

static struct corpse *doomed;
static unsigned freed;

static void kill_it(struct job *j)
{
	worker_reap(w, &doomed->r);
	CHECK_INT(freed, 0); /* not inside its own callback */
}

static void test_reaper(void)
{
	struct job j = { .d.run = on_job, .then = kill_it };

	freed = 0;
	doomed = corpse(&freed);
	doomed->next = corpse(&freed);
	worker_defer(w, &j.d);
	turn(false);
	CHECK_INT(freed, 2); /* at the end of that turn, the one that was doomed with it too */

	/* what is to be reaped when the worker ends is reaped then */
	struct worker *other = worker_new(4);

	CHECK(other);
	freed = 0;
	worker_reap(other, &corpse(&freed)->r);
	worker_free(other);
	CHECK_INT(freed, 1);
}

/* --- pools --- */

static void test_buffers_bounded(void)
{
	enum { MANY = WORKER_BUFFERS_KEPT * 2 };
	void *b[MANY], *again;

	for (int i = 0; i < MANY; i++) {
		b[i] = worker_buffer_get(w);
		CHECK(b[i]);
		memset(b[i], i, WORKER_BUFFER); /* all of it is ours (AddressSanitizer looks) */
	}
	for (int i = 0; i < MANY; i++)
		CHECK_INT(((uint8_t *)b[i])[WORKER_BUFFER - 1], (uint8_t)i);
	for (int i = 0; i < MANY; i++)
		worker_buffer_put(w, b[i]);
	worker_buffer_put(w, NULL);
	CHECK_INT(w->private->n_buffers, WORKER_BUFFERS_KEPT);
	again = worker_buffer_get(w);
	CHECK_INT(w->private->n_buffers, WORKER_BUFFERS_KEPT - 1);
	worker_buffer_put(w, again);
}

static void test_pipes_bounded(void)
{
	enum { MANY = WORKER_PIPES_KEPT + 8 };
	struct worker_pipe *p[MANY], *full;
	int fd;

	for (int i = 0; i < MANY; i++) {
		p[i] = worker_pipe_get(w);
		CHECK(p[i]);
		CHECK(p[i]->size >= 4096);
		CHECK_INT(fcntl(p[i]->fd[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
		CHECK_INT(fcntl(p[i]->fd[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	}
	for (int i = 0; i < MANY; i++)
		worker_pipe_put(w, p[i], true);
	CHECK_INT(w->private->n_pipes, WORKER_PIPES_KEPT);

	/* one with bytes in it never comes back: they would be somebody else's */
	full = worker_pipe_get(w);
	fd = full->fd[0];
	CHECK_INT(write(full->fd[1], "secret", 6), 6);
	worker_pipe_put(w, full, false);
	CHECK_INT(w->private->n_pipes, WORKER_PIPES_KEPT - 1);
	CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
	for (int i = 0; i < WORKER_PIPES_KEPT - 1; i++) {
		char c;

		p[i] = worker_pipe_get(w);
		CHECK(read(p[i]->fd[0], &c, 1) < 0 && errno == EAGAIN);
	}
	for (int i = 0; i < WORKER_PIPES_KEPT - 1; i++)
		worker_pipe_put(w, p[i], true);
}

/* To others than root the kernel gives 64 MiB of pipes, then tiny ones: those are not used. */
static void as_nobody(void)
{
	const struct rlimit plenty = { 4096, 4096 };
	unsigned n = 0;

	/* so that it is not descriptors that run out */
	if (setrlimit(RLIMIT_NOFILE, &plenty) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
		_exit(77);
	w->pipes_max = 1000;
	for (struct worker_pipe *p; n < 1000 && (p = worker_pipe_get(w)); n++)
		CHECK(p->size >= WORKER_BUFFER);
	CHECK(n > 0 && n < 1000);
	CHECK_INT(w->private->pipes_made, n);
	/* and it is not tried again for each read */
	CHECK(worker_now(w) < w->private->no_pipes_until);
	CHECK(!worker_pipe_get(w));
	_exit(0);
}

static bool pipes_are_limited(void)
{
	unsigned long soft = 1;
	FILE *f = fopen("/proc/sys/fs/pipe-user-pages-soft", "r");

	CHECK(f);
	CHECK_INT(fscanf(f, "%lu", &soft), 1);
	fclose(f);
	return soft && soft < 1000 * (PIPE_SIZE / 4096); /* pages */
}

static void test_no_tiny_pipes(void)
{
	int status;
	pid_t pid;

	if (geteuid() != 0) {
		fprintf(stderr, "not root: left out, since one's other programs use pipes too\n");
		return;
	}
	if (!pipes_are_limited()) {
		fprintf(stderr, "pipes are not limited here: left out\n");
		return;
	}
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		as_nobody();
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		fprintf(stderr, "cannot become somebody else: left out\n");
	else
		CHECK_INT(WEXITSTATUS(status), 0);
}

int main(void)
{
	loop_begin();
	test_mailbox();
	test_post_from_letter();
	test_unread_mail();
	test_deferred_order();
	test_undefer_inside();
	test_deferred_starves_nobody();
	test_sockets_starve_nobody();
	test_reaper();
	test_buffers_bounded();
	test_pipes_bounded();
	test_no_tiny_pipes();
	loop_end();
	return 0;
}
