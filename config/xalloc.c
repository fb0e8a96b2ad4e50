/*
 * xalloc: allocation that does not fail, for reading configs.
 *
 * Theory of operation: each function is the libc one of its name, or abort() with a word on stderr.
 * No state. What is returned is freed with free(3).
 */
#include "config/xalloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *p)
{
	if (!p) {
		fputs("out of memory while reading the configuration\n", stderr);
		abort();
	}
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	return must(calloc(n ? n : 1, size ? size : 1));
}

void *xreallocarray(void *p, size_t n, size_t size)
{
	return must(reallocarray(p, n ? n : 1, size));
}

char *xstrndup(const char *text, size_t len)
{
	return must(strndup(text, len));
}

char *xstrdup(const char *text)
{
	return must(strdup(text));
}

char *xvasprintf(const char *fmt, va_list args)
{
	char *text;

	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	return must(text);
}

char *xasprintf(const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	text = xvasprintf(fmt, args);
	va_end(args);
	return text;
}
