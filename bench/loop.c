/*
 * loop: epoll.
 *
 * Theory of operation: level-triggered, for an exchange then costs one recv and one send and never
 * an epoll_ctl, and no reader has to read until EAGAIN. A closed descriptor leaves epoll by itself;
 * no descriptor here is ever duplicated.
 */
#include "bench/loop.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define SECOND 1000000000ULL

void fatal(const char *fmt, ...)
{
	va_list ap;

	fputs("bench-load: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(2);
}

uint64_t loop_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

void loop_init(struct loop *l)
{
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0)
		fatal("epoll: %s", strerror(errno));
}

void loop_deinit(struct loop *l)
{
	close(l->epoll);
	l->epoll = -1;
}

void loop_want(struct loop *l, struct watch *w, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = w };

	if (events == w->armed)
		return;
	if (epoll_ctl(l->epoll, w->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &e) < 0)
		fatal("epoll_ctl: %s", strerror(errno));
	w->armed = events;
}

void loop_close(struct watch *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	w->armed = 0;
}

void loop_turn(struct loop *l, uint64_t until)
{
	struct epoll_event events[EVENTS];
	struct timespec wait = { 0 };
	int n, ms = -1;

	if (until != LOOP_NEVER) {
		uint64_t now = loop_now(), ns = until > now ? until - now : 0;

		wait.tv_sec = (time_t)(ns / SECOND);
		wait.tv_nsec = (long)(ns % SECOND);
		ms = (int)(ns / 1000000 + 1);
	}
	n = epoll_pwait2(l->epoll, events, EVENTS, until == LOOP_NEVER ? NULL : &wait, NULL);
	if (n < 0 && errno == ENOSYS) /* under valgrind */
		n = epoll_wait(l->epoll, events, EVENTS, ms);
	if (n < 0 && errno != EINTR)
		fatal("epoll_pwait2: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		struct watch *w = events[i].data.ptr;

		w->on(w, events[i].events);
	}
}
