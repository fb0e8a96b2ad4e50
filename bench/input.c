/*
 * input: the end of stdin.
 *
 * Theory of operation: what is read is thrown away. A stdin that cannot be waited for, as /dev/null
 * or a file, has ended. Once it has ended it is to be forgotten: epoll would tell of it for ever.
 */
#include "bench/input.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static void on_input(struct watch *w, uint32_t events)
{
	char buf[512];
	ssize_t n = read(w->fd, buf, sizeof(buf));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		((struct input *)w)->ended = true;
}

void input_watch(struct input *i, struct loop *l)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &i->watch };

	*i = (struct input){ .watch = { .fd = STDIN_FILENO, .on = on_input } };
	if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e) == 0)
		return;
	if (errno != EPERM && errno != EBADF)
		fatal("stdin: %s", strerror(errno));
	i->ended = true;
}

void input_forget(struct input *i, struct loop *l)
{
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL); /* not there: fine */
}
