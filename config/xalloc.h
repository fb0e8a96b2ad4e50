/*
 * xalloc: memory while a config is read. Running out of it before anything runs ends the program;
 * a config is at most CONFIG_FILE_MAX long, so what a reload asks for is bounded as well.
 */
#ifndef CONFIG_XALLOC_H
#define CONFIG_XALLOC_H

#include <stdarg.h>
#include <stddef.h>

void *xcalloc(size_t n, size_t size) __attribute__((malloc, warn_unused_result));
void *xreallocarray(void *p, size_t n, size_t size) __attribute__((warn_unused_result));
char *xstrndup(const char *text, size_t len) __attribute__((malloc, warn_unused_result));
char *xstrdup(const char *text) __attribute__((malloc, warn_unused_result));
char *xasprintf(const char *fmt, ...)
	__attribute__((malloc, format(printf, 1, 2), warn_unused_result));
char *xvasprintf(const char *fmt, va_list args)
	__attribute__((malloc, format(printf, 1, 0), warn_unused_result));

#endif
