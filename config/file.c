/*
 * file: config files into memory; errors collected.
 *
 * Theory of operation: a file is read to its end, which need not be known before (a pipe will do),
 * and not beyond CONFIG_FILE_MAX. Everything that touches the file system for a config is here.
 */
#include "config/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/xalloc.h"

void config_errors_add(struct config_errors *e, const char *fmt, ...)
{
	va_list args;

	if (e->n >= CONFIG_ERRORS_MAX) {
		e->more++;
		return;
	}
	e->at = xreallocarray(e->at, e->n + 1, sizeof(*e->at));
	va_start(args, fmt);
	e->at[e->n++] = xvasprintf(fmt, args);
	va_end(args);
}

void config_errors_print(const struct config_errors *e, FILE *to)
{
	for (size_t i = 0; i < e->n; i++)
		fprintf(to, "%s\n", e->at[i]);
	if (e->more)
		fprintf(to, "and %zu more\n", e->more);
}

char *config_errors_join(const struct config_errors *e)
{
	char *text = strdup(e->n ? "" : "the config cannot be read"), *more;

	for (size_t i = 0; text && i < e->n; i++) {
		if (asprintf(&more, "%s%s%s", text, i ? "; " : "", e->at[i]) < 0)
			more = NULL;
		free(text);
		text = more;
	}
	if (!text || !e->more)
		return text;
	if (asprintf(&more, "%s; and %zu more", text, e->more) < 0)
		more = NULL;
	free(text);
	return more;
}

/* Where in the file an entry "name:line:column: ..." points to; 0: nowhere. */
static uint64_t position(const char *name, const char *entry)
{
	size_t len = strlen(name);
	unsigned line, column;

	if (strncmp(entry, name, len) != 0 || sscanf(entry + len, ":%u:%u:", &line, &column) != 2)
		return 0;
	return (uint64_t)line << 32 | column;
}

void file_sort_errors(const char *name, struct config_errors *e)
{
	/* insertion: few, almost sorted, and equals stay as they were */
	for (size_t i = 1; i < e->n; i++) {
		char *entry = e->at[i];
		uint64_t at = position(name, entry);
		size_t to = i;

		for (; to > 0 && position(name, e->at[to - 1]) > at; to--)
			e->at[to] = e->at[to - 1];
		e->at[to] = entry;
	}
}

void config_errors_deinit(struct config_errors *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->at[i]);
	free(e->at);
	*e = (struct config_errors){ 0 };
}

/* 0, or -errno. */
static int read_all(int fd, char *text, size_t max, size_t *len)
{
	*len = 0;
	while (*len < max) {
		ssize_t n = read(fd, text + *len, max - *len);

		if (n == 0)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		*len += (size_t)n;
	}
	return -EFBIG;
}

char *file_read(const char *path, size_t *len, struct config_errors *e)
{
	size_t max = CONFIG_FILE_MAX + 1;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	char *text;
	int r;

	if (fd < 0) {
		config_errors_add(e, "%s:1:1: cannot be opened: %s; expected a readable file", path,
				  strerror(errno));
		return NULL;
	}
	text = xcalloc(max, 1);
	r = read_all(fd, text, max, len);
	close(fd);
	if (r == 0)
		return text;
	free(text);
	if (r == -EFBIG)
		config_errors_add(e, "%s:1:1: too long; expected at most %d bytes", path,
				  CONFIG_FILE_MAX);
	else
		config_errors_add(e, "%s:1:1: cannot be read: %s; expected a readable file", path,
				  strerror(-r));
	return NULL;
}

char *file_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : 0;
	char *cwd, *folder;

	if (path[0] == '/')
		return xstrndup(path, len);
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return NULL;
	folder = slash ? xasprintf("%s/%.*s", cwd, (int)len, path) : xstrdup(cwd);
	free(cwd);
	return folder;
}
