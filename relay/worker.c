/*
 * worker: a loop and what its conduits share.
 *
 * Theory of operation: a worker sleeps in its own epoll instance (edge.h), where its sockets and
 * its mailbox are. libevent is for what it does better: asking the DNS, and whatever a program adds
 * to base. While it waits for something, the worker sleeps in libevent's loop instead and has that
 * watch the epoll instance.
 *
 * A turn runs events, then timers, then deferred work, then the reaper. Deferred work queued while
 * deferred work runs waits for the next turn, which then does not sleep: so nothing starves the
 * sockets.
 *
 * The mailbox is a list under a mutex and an eventfd; the list is taken whole, then run in order.
 * Then come the wakes (wake.h), which share the eventfd.
 * Pools keep a bounded number of free buffers and pipes; what is above goes back to the system.
 *
 * Start-up allocation may fail and says so; nothing at run time here ends the process.
 */
#include "relay/worker.h"

#include <errno.h>
#include <event2/dns.h>
#include <event2/event.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "relay/edge.h"
#include "relay/log.h"
#include "relay/resolver.h"
#include "relay/thread.h"

#define PIPE_SIZE (1024 * 1024) /* asked for; the kernel may give less (pipe-max-size) */
#define PIPES_RETRY_MS 1000     /* until the next try to make one, when none is to be had */

#define DOZE_MS 20 /* while libevent cannot watch the epoll instance */

struct letter {
	void (*fn)(struct worker *w, void *arg);
	void *arg;
	struct letter *next;
};

struct pooled {
	struct pooled *next;
};

struct worker_private {
	struct event *edge_event; /* added while the worker sleeps in libevent's loop */
	struct edge mail_watch;
	int mail_fd;
	pthread_mutex_t mail_lock;
	struct letter *mail, **mail_end;
	struct deferred deferred; /* the ring's head */
	struct reapable *dead;
	struct pooled *buffers;
	unsigned n_buffers;
	struct worker_pipe *pipes;
	unsigned n_pipes, pipes_made; /* free; all there are */
	uint64_t no_pipes_until;
	struct resolver resolver;
	pthread_t thread;
	bool started;
	atomic_bool stop;
};

uint64_t worker_now(const struct worker *w)
{
	struct timespec ts;

	(void)w;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void worker_rouse(struct worker *w)
{
	uint64_t one = 1;
	ssize_t n = write(w->private->mail_fd, &one, sizeof(one));

	(void)n; /* EAGAIN only when the counter is full: then it is readable anyway */
}

static void on_mail(struct edge *e, uint32_t events)
{
	struct worker *w = e->worker;
	struct worker_private *p = w->private;
	struct letter *l, *next;
	uint64_t n;

	if (read(p->mail_fd, &n, sizeof(n)) < 0 && errno == EAGAIN)
		return;
	pthread_mutex_lock(&p->mail_lock);
	l = p->mail;
	p->mail = NULL;
	p->mail_end = &p->mail;
	pthread_mutex_unlock(&p->mail_lock);
	for (; l; l = next) {
		next = l->next;
		l->fn(w, l->arg);
		free(l);
	}
	wakes_run(&w->wakes);
}

int worker_post(struct worker *w, void (*fn)(struct worker *w, void *arg), void *arg)
{
	struct worker_private *p = w->private;
	struct letter *l = malloc(sizeof(*l));
	bool first;

	if (!l)
		return -ENOMEM;
	*l = (struct letter){ .fn = fn, .arg = arg };
	pthread_mutex_lock(&p->mail_lock);
	first = !p->mail;
	*p->mail_end = l;
	p->mail_end = &l->next;
	pthread_mutex_unlock(&p->mail_lock);
	if (first)
		worker_rouse(w);
	return 0;
}

void worker_defer(struct worker *w, struct deferred *d)
{
	struct deferred *head = &w->private->deferred;

	if (d->prev)
		return;
	d->next = head;
	d->prev = head->prev;
	head->prev->next = d;
	head->prev = d;
}

void worker_undefer(struct deferred *d)
{
	if (!d->prev)
		return;
	d->prev->next = d->next;
	d->next->prev = d->prev;
	d->next = d->prev = NULL;
}

static void run_deferred(struct worker *w)
{
	struct deferred *head = &w->private->deferred, now, *d;

	if (head->next == head)
		return;
	/* take the ring over, so that what is queued meanwhile waits for the next turn */
	now = *head;
	now.next->prev = &now;
	now.prev->next = &now;
	head->next = head->prev = head;
	while ((d = now.next) != &now) {
		worker_undefer(d);
		d->run(d);
	}
}

void worker_reap(struct worker *w, struct reapable *r)
{
	r->next = w->private->dead;
	w->private->dead = r;
}

static void reap(struct worker *w)
{
	struct reapable *r;

	while ((r = w->private->dead)) {
		w->private->dead = r->next;
		r->free(r);
	}
}

void *worker_buffer_get(struct worker *w)
{
	struct worker_private *p = w->private;
	struct pooled *b = p->buffers;

	if (!b) {
		b = malloc(WORKER_BUFFER);
	} else {
		p->buffers = b->next;
		p->n_buffers--;
	}
	if (b)
		counter_add(&w->counters.value[COUNTER_LIVE_BUFFERS], 1);
	return b;
}

void worker_buffer_put(struct worker *w, void *buf)
{
	struct worker_private *p = w->private;
	struct pooled *b = buf;

	if (!b)
		return;
	counter_add(&w->counters.value[COUNTER_LIVE_BUFFERS], (uint64_t)-1);
	if (p->n_buffers >= WORKER_BUFFERS_KEPT) {
		free(b);
		return;
	}
	b->next = p->buffers;
	p->buffers = b;
	p->n_buffers++;
}

void *worker_buffer_shrink(struct worker *w, void *buf, size_t start, size_t len)
{
	void *little = len <= WORKER_LITTLE ? malloc(len) : NULL;

	if (!little)
		return NULL;
	memcpy(little, (uint8_t *)buf + start, len);
	worker_buffer_put(w, buf);
	return little;
}

static void pipe_close(struct worker_pipe *pipe)
{
	close(pipe->fd[0]);
	close(pipe->fd[1]);
	free(pipe);
}

/* NULL: none to be had, or one so small that copying is better (pipe-user-pages-soft). */
static struct worker_pipe *pipe_open(void)
{
	struct worker_pipe *pipe = malloc(sizeof(*pipe));
	int size;

	if (!pipe)
		return NULL;
	if (pipe2(pipe->fd, O_CLOEXEC | O_NONBLOCK) < 0) {
		free(pipe);
		return NULL;
	}
	size = fcntl(pipe->fd[1], F_SETPIPE_SZ, PIPE_SIZE);
	if (size < 0)
		size = fcntl(pipe->fd[1], F_GETPIPE_SZ);
	pipe->size = size > 0 ? (size_t)size : 0;
	if (pipe->size >= WORKER_BUFFER)
		return pipe;
	pipe_close(pipe);
	return NULL;
}

struct worker_pipe *worker_pipe_get(struct worker *w)
{
	struct worker_private *p = w->private;
	struct worker_pipe *pipe = p->pipes;

	if (pipe) {
		p->pipes = pipe->next;
		p->n_pipes--;
		return pipe;
	}
	if (p->pipes_made >= w->pipes_max || worker_now(w) < p->no_pipes_until)
		return NULL;
	pipe = pipe_open();
	if (pipe)
		p->pipes_made++;
	else
		p->no_pipes_until = worker_now(w) + PIPES_RETRY_MS;
	return pipe;
}

void worker_pipe_put(struct worker *w, struct worker_pipe *pipe, bool empty)
{
	struct worker_private *p = w->private;

	if (!empty || p->n_pipes >= WORKER_PIPES_KEPT) {
		p->pipes_made--;
		pipe_close(pipe);
		return;
	}
	pipe->next = p->pipes;
	p->pipes = pipe;
	p->n_pipes++;
}

struct evdns_base *worker_dns(struct worker *w)
{
	return resolver_dns(&w->private->resolver, w->base);
}

/* libevent's own words: for whoever debugs it, and never straight to stderr. */
static void on_libevent(int severity, const char *text)
{
	log_debug("libevent: %s", text);
}

static void on_edge_or_time(evutil_socket_t fd, short what, void *arg)
{
}

struct worker *worker_new(unsigned index)
{
	struct worker *w = calloc(1, sizeof(*w));
	struct event_config *config = event_config_new();
	struct worker_private *p;

	if (!w || !config)
		goto fail;
	w->index = index;
	w->pipes_max = WORKER_PIPES_MAX;
	event_set_log_callback(on_libevent);
	p = w->private = calloc(1, sizeof(*p));
	if (!p)
		goto fail;
	w->edge_fd = p->mail_fd = -1;
	p->mail_end = &p->mail;
	p->deferred.next = p->deferred.prev = &p->deferred;
	pthread_mutex_init(&p->mail_lock, NULL);
	wakes_init(&w->wakes);
	/* one thread; mail has its own lock */
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	w->base = event_base_new_with_config(config);
	p->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->edge_fd = epoll_create1(EPOLL_CLOEXEC);
	w->scratch = malloc(WORKER_SCRATCH);
	w->input = malloc(WORKER_SCRATCH);
	w->output = malloc(WORKER_SCRATCH);
	if (!w->base || p->mail_fd < 0 || w->edge_fd < 0 || !w->scratch || !w->input || !w->output)
		goto fail;
	p->edge_event = event_new(w->base, w->edge_fd, EV_READ, on_edge_or_time, NULL);
	if (!p->edge_event || edge_watch(w, &p->mail_watch, p->mail_fd, EPOLLIN, on_mail) < 0)
		goto fail;
	event_config_free(config);
	return w;
fail:
	if (config)
		event_config_free(config);
	return worker_free(w);
}

static void free_private(struct worker *w)
{
	struct worker_private *p = w->private;
	struct worker_pipe *pipe;
	struct pooled *b;
	struct letter *l;

	edge_forget(&p->mail_watch); /* no more letters, whose addressees may be gone */
	wakes_deinit(&w->wakes);
	/* its callbacks release who still asks: they come from one more turn */
	if (p->resolver.dns) {
		evdns_base_free(p->resolver.dns, 1);
		event_base_loop(w->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	}
	reap(w);
	if (p->edge_event)
		event_free(p->edge_event);
	if (p->mail_fd >= 0)
		close(p->mail_fd);
	if (w->edge_fd >= 0)
		close(w->edge_fd);
	while ((l = p->mail)) {
		p->mail = l->next;
		free(l);
	}
	while ((b = p->buffers)) {
		p->buffers = b->next;
		free(b);
	}
	while ((pipe = p->pipes)) {
		p->pipes = pipe->next;
		pipe_close(pipe);
	}
	pthread_mutex_destroy(&p->mail_lock);
	free(p);
}

struct worker *worker_free(struct worker *w)
{
	if (!w)
		return NULL;
	if (w->private)
		free_private(w);
	if (w->base)
		event_base_free(w->base);
	free(w->scratch);
	free(w->input);
	free(w->output);
	free(w);
	return NULL;
}

/* Sleeps in libevent's loop, for so long (ms; -1: for ever) or until anything happens here. */
static void sleep_in_libevent(struct worker *w, int ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	if (event_add(w->private->edge_event, ms < 0 ? NULL : &tv) < 0) { /* no memory: doze */
		event_base_loop(w->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		edge_turn(w, ms < 0 || ms > DOZE_MS ? DOZE_MS : ms);
		return;
	}
	/* ONCE in both: NONBLOCK alone goes round as long as any socket has news */
	event_base_loop(w->base, EVLOOP_ONCE | (ms == 0 ? EVLOOP_NONBLOCK : 0));
	event_del(w->private->edge_event);
}

/* For metrics: since sleep ended. */
static void note_turn(struct worker *w)
{
	atomic_uint_fast64_t *since = &w->counters.turn_since;
	uint64_t ms = worker_now(w) - counter_get(since);

	counter_set(since, 0);
	durations_add(w->counters.durations, DURATIONS_TURN, ms * 1000);
}

void worker_turn(struct worker *w, bool wait)
{
	struct deferred *head = &w->private->deferred;
	int ms = wait && head->next == head ? timer_wait(w) : 0;

	if (event_base_get_num_events(w->base, EVENT_BASE_COUNT_ADDED | EVENT_BASE_COUNT_ACTIVE)) {
		sleep_in_libevent(w, ms);
		ms = 0;
	}
	edge_turn(w, ms);
	timer_turn(w);
	run_deferred(w);
	reap(w);
	note_turn(w);
}

void worker_run(struct worker *w)
{
	while (!atomic_load_explicit(&w->private->stop, memory_order_acquire))
		worker_turn(w, true);
}

static void *thread_main(void *arg)
{
	worker_run(arg);
	return NULL;
}

int worker_start(struct worker *w)
{
	int r = pthread_create(&w->private->thread, NULL, thread_main, w);

	w->private->started = r == 0;
	return -r;
}

void worker_join(struct worker *w)
{
	if (w->private->started)
		pthread_join(w->private->thread, NULL);
	w->private->started = false;
}

bool worker_join_within(struct worker *w, uint64_t ms)
{
	if (w->private->started && !thread_join_within(w->private->thread, ms))
		return false;
	w->private->started = false;
	return true;
}

void worker_stop(struct worker *w)
{
	atomic_store_explicit(&w->private->stop, true, memory_order_release);
	worker_rouse(w);
}
