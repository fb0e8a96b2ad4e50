/*
 * ask: a secret that a person types, or a program writes, once.
 *
 * Theory of operation: the terminal's echo is off while it is read. A signal that would end the
 * program then is caught, so that the echo comes back first; and raised again after that. Such
 * signals are let in only while it waits: one that came just before would be caught, and the wait
 * go on.
 */
#include "tunnel/ask.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static const int endings[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
#define ENDINGS (sizeof(endings) / sizeof(*endings))

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	caught = number;
}

bool ask_can(void)
{
	return isatty(STDIN_FILENO);
}

static ssize_t read_byte(char *to, const sigset_t *waiting)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	return ppoll(&in, 1, NULL, waiting) < 0 ? -1 : read(STDIN_FILENO, to, 1);
}

/* Byte by byte: what is behind the line is not ours. waiting: signals that are blocked meanwhile.
 */
static ssize_t read_line(char *buf, size_t size, const sigset_t *waiting)
{
	size_t len = 0;

	for (;;) {
		ssize_t n = len < size ? read_byte(buf + len, waiting) : -1;

		if (len == size)
			return -EFBIG;
		if (n < 0 && errno == EINTR && !caught)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0 && len == 0)
			return -ENODATA;
		if (n == 0 || buf[len] == '\n')
			return (ssize_t)len;
		len++;
	}
}

static ssize_t read_hidden(const char *prompt, char *buf, size_t size)
{
	const struct sigaction catch = { .sa_handler = on_signal }; /* and no SA_RESTART */
	struct sigaction old[ENDINGS];
	struct termios shown, hidden;
	sigset_t held, before;
	ssize_t n;

	if (tcgetattr(STDIN_FILENO, &shown) < 0)
		return -errno;
	caught = 0;
	sigemptyset(&held);
	for (size_t i = 0; i < ENDINGS; i++)
		sigaddset(&held, endings[i]);
	sigprocmask(SIG_BLOCK, &held, &before);
	for (size_t i = 0; i < ENDINGS; i++)
		sigaction(endings[i], &catch, &old[i]);
	hidden = shown;
	hidden.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
	fputs(prompt, stderr);
	n = read_line(buf, size, &before);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
	fputc('\n', stderr);
	for (size_t i = 0; i < ENDINGS; i++)
		sigaction(endings[i], &old[i], NULL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (caught) {
		raise(caught);
		return -EINTR;
	}
	return n;
}

ssize_t ask_line(const char *prompt, char *buf, size_t size)
{
	return ask_can() ? read_hidden(prompt, buf, size) : read_line(buf, size, NULL);
}
