/*
 * serve: the far end as a program.
 *
 * Theory of operation: one thread, one loop, any number of listening sockets, until SIGTERM, SIGINT
 * or (if asked for) the end of stdin. Then it says its statistics as a last line. Streams that are
 * open by then end with the process.
 */
#include "bench/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/far.h"
#include "bench/input.h"
#include "bench/place.h"

#define LISTENERS 16
#define ACCEPT_BURST 64

static struct far far = { 0 };
static bool ended;

static void on_accept(struct watch *w, uint32_t events)
{
	int fd;

	for (int i = 0; i < ACCEPT_BURST; i++) {
		fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			far_open(&far, fd);
		else if (errno == EAGAIN)
			return;
		else if (errno != ECONNABORTED && errno != EINTR)
			fatal("accept: %s", strerror(errno));
	}
}

static void on_signal(struct watch *w, uint32_t events)
{
	ended = true;
}

static void watch_signals(struct watch *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	w->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	w->on = on_signal;
	loop_want(&far.loop, w, EPOLLIN);
}

int serve_main(int argc, char **argv)
{
	struct watch listeners[LISTENERS] = { 0 }, signals = { 0 };
	struct input input = { 0 };
	unsigned n = 0;
	char line[512];

	loop_init(&far.loop);
	for (int i = 0; i < argc; i++) {
		struct place p;

		if (strcmp(argv[i], "--stdin-eof") == 0) {
			input_watch(&input, &far.loop);
			continue;
		}
		if (n == LISTENERS)
			fatal("serve: %d addresses at most", LISTENERS);
		place_parse(&p, argv[i]);
		listeners[n].fd = place_listen(&p, argv[i]);
		listeners[n].on = on_accept;
		loop_want(&far.loop, &listeners[n++], EPOLLIN);
	}
	if (n == 0)
		fatal("serve: where? HOST:PORT or unix:PATH, one or more");
	watch_signals(&signals);
	puts("ready");
	fflush(stdout);
	while (!ended && !input.ended)
		loop_turn(&far.loop, LOOP_NEVER);
	far_statistics(&far, line, sizeof(line));
	fputs(line, stdout);
	far_close_all(&far);
	loop_deinit(&far.loop);
	return 0;
}
