/*
 * ask: a secret that a person types, or a program writes, once.
 *
 * Theory of operation: the terminal's echo is off while it is read. A signal that would end the
 * program then is caught, so that the echo comes back first; and raised again after that.
 */
#include "tunnel/ask.h"

#include <errno.h>
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

/* Byte by byte: what is behind the line is not ours. */
static ssize_t read_line(char *buf, size_t size)
{
	size_t len = 0;

	for (;;) {
		ssize_t n = len < size ? read(STDIN_FILENO, buf + len, 1) : -1;

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
	ssize_t n;

	if (tcgetattr(STDIN_FILENO, &shown) < 0)
		return -errno;
	caught = 0;
	for (size_t i = 0; i < ENDINGS; i++)
		sigaction(endings[i], &catch, &old[i]);
	hidden = shown;
	hidden.c_lflag &= ~(tcflag_t)ECHO;
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
	fputs(prompt, stderr);
	n = read_line(buf, size);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &shown);
	fputc('\n', stderr);
	for (size_t i = 0; i < ENDINGS; i++)
		sigaction(endings[i], &old[i], NULL);
	if (caught) {
		raise(caught);
		return -EINTR;
	}
	return n;
}

ssize_t ask_line(const char *prompt, char *buf, size_t size)
{
	return ask_can() ? read_hidden(prompt, buf, size) : read_line(buf, size);
}
