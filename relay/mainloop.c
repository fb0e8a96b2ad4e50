/*
 * mainloop: a program of one worker, on the main thread.
 *
 * Theory of operation: signals are blocked and read from a signalfd in the worker's own loop, so
 * nothing here is asynchronous. The end has three steps, each begun once: drain (by a signal or by
 * words), cut (by a second signal), and finish, which the program calls when it has nothing left,
 * and after which no signal means anything.
 */
#include "relay/mainloop.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "relay/log.h"
#include "relay/notify.h"
#include "relay/worker.h"

#define OF(member, field) ((struct mainloop *)((char *)(member)-offsetof(struct mainloop, field)))

/* ---- telling systemd ---- */

void mainloop_tell(struct mainloop *m)
{
	char text[MAINLOOP_STATUS_MAX];

	m->ops->status(text, sizeof(text));
	notify_status("%s%s", m->ending.draining ? "ending: " : "", text);
}

static void on_status(struct timer *t)
{
	struct mainloop *m = OF(t, status);

	mainloop_tell(m);
	if (m->ops->look)
		m->ops->look();
	timer_set(m->worker, t, NOTIFY_STATUS_MS, on_status);
}

static void on_watchdog(struct timer *t)
{
	struct mainloop *m = OF(t, watchdog);

	notify_watchdog();
	timer_set(m->worker, t, m->watchdog_ms, on_watchdog);
}

/* ---- the end ---- */

static void on_finish(struct timer *t)
{
	struct mainloop *m = OF(t, finish);

	if (m->worker->conduits == 0 || worker_now(m->worker) >= m->end_at)
		worker_stop(m->worker);
	else
		timer_set(m->worker, t, 0, on_finish);
}

void mainloop_finish(struct mainloop *m)
{
	if (m->end_at)
		return;
	m->end_at = worker_now(m->worker) + MAINLOOP_END_MS;
	timer_set(m->worker, &m->finish, 0, on_finish);
}

static void drain(struct mainloop *m)
{
	notify_stopping();
	m->ops->drain();
	mainloop_tell(m);
}

void mainloop_drain(struct mainloop *m)
{
	if (ending_asked(&m->ending))
		drain(m);
}

static void terminate(struct mainloop *m)
{
	if (m->end_at)
		return;
	switch (ending_signalled(&m->ending, worker_now(m->worker))) {
	case ENDING_BEGIN:
		drain(m);
		break;
	case ENDING_SAME:
		log_info(ENDING_SAME_TEXT);
		break;
	case ENDING_NOW:
		log_info("second signal: ending at once");
		m->ops->cut();
	}
}

/* ---- signals ---- */

static void log_status(const struct mainloop *m)
{
	char text[MAINLOOP_STATUS_MAX];

	m->ops->status(text, sizeof(text));
	log_info("status: %s", text);
}

static void on_signal(struct edge *e, uint32_t events)
{
	struct mainloop *m = OF(e, signals);
	struct signalfd_siginfo info;
	char *why;

	while (read(e->fd, &info, sizeof(info)) == sizeof(info)) {
		switch (info.ssi_signo) {
		case SIGHUP:
			m->ops->reload(&why);
			free(why);
			break;
		case SIGUSR1:
			log_status(m);
			break;
		default:
			terminate(m);
		}
	}
}

static bool watch_signals(struct mainloop *m)
{
	sigset_t wanted;
	int fd;

	sigemptyset(&wanted);
	sigaddset(&wanted, SIGTERM);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGHUP);
	sigaddset(&wanted, SIGUSR1);
	sigprocmask(SIG_BLOCK, &wanted, NULL);
	fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return false;
	if (edge_watch(m->worker, &m->signals, fd, EPOLLIN, on_signal) == 0)
		return true;
	close(fd);
	return false;
}

/* ---- the run ---- */

bool mainloop_init(struct mainloop *m, const struct mainloop_ops *ops)
{
	*m = (struct mainloop){ .ops = ops };
	evthread_use_pthreads();
	m->worker = worker_new(0);
	if (m->worker && watch_signals(m))
		return true;
	log_error("cannot start: %s", strerror(errno));
	return false;
}

void mainloop_run(struct mainloop *m)
{
	m->watchdog_ms = notify_watchdog_ms();
	if (m->watchdog_ms)
		on_watchdog(&m->watchdog);
	on_status(&m->status);
	worker_run(m->worker);
}

void mainloop_deinit(struct mainloop *m)
{
	if (!m->worker)
		return;
	timer_cancel(m->worker, &m->status);
	timer_cancel(m->worker, &m->watchdog);
	timer_cancel(m->worker, &m->finish);
	if (m->signals.worker) {
		close(m->signals.fd);
		edge_forget_closing(&m->signals);
	}
	m->worker = worker_free(m->worker);
	libevent_global_shutdown();
}
