/*
 * atomic_file: small files that are there whole or not at all.
 *
 * Theory of operation: written under another name beside its place, with its mode from the first
 * moment on, then renamed; without replacing anything, if so told.
 */
#include "relay/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* The folder's entry, too, is on the disk only after this. */
static int sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder =
		slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int r = fd < 0 || fsync(fd) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	free(folder);
	return r;
}

static int fill(int fd, const void *data, size_t len, mode_t mode, unsigned flags)
{
	int r = fchmod(fd, mode) < 0 ? -errno : write_all(fd, data, len);

	if (r == 0 && flags & ATOMIC_FILE_SYNC && fsync(fd) < 0)
		r = -errno;
	return r;
}

static int move(const char *from, const char *to, unsigned flags)
{
	if (!(flags & ATOMIC_FILE_NEW))
		return rename(from, to) < 0 ? -errno : 0;
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS) /* the file system, or the kernel, cannot do it */
		return -errno;
	if (link(from, to) < 0)
		return -errno;
	unlink(from);
	return 0;
}

int atomic_file_move(const char *from, const char *to, unsigned flags)
{
	int r = move(from, to, flags);

	return r == 0 && flags & ATOMIC_FILE_SYNC ? sync_folder(to) : r;
}

int atomic_file_write(const char *path, const void *data, size_t len, mode_t mode, unsigned flags)
{
	char *temporary;
	int fd, r;

	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return -ENOMEM;
	fd = mkostemp(temporary, O_CLOEXEC); /* 0600 */
	if (fd < 0) {
		r = -errno;
		free(temporary);
		return r;
	}
	r = fill(fd, data, len, mode, flags);
	if (close(fd) < 0 && r == 0)
		r = -errno;
	if (r == 0)
		r = atomic_file_move(temporary, path, flags);
	if (r < 0)
		unlink(temporary);
	free(temporary);
	return r;
}

ssize_t atomic_file_read(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	size_t len = 0;
	ssize_t n = fd < 0 ? -1 : 1;
	int r;

	while (n > 0 && len < size) {
		n = read(fd, buf + len, size - len);
		if (n > 0)
			len += (size_t)n;
		else if (n < 0 && errno == EINTR)
			n = 1;
	}
	r = n < 0 ? -errno : len == size ? -EFBIG : 0;
	if (fd >= 0)
		close(fd);
	if (r < 0)
		return r;
	buf[len] = '\0';
	return (ssize_t)len;
}

ssize_t atomic_file_load(const char *path, size_t max, char **text)
{
	struct stat st;
	char *buf;
	ssize_t n;

	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size < 0 || (size_t)st.st_size > max)
		return -EFBIG;
	buf = malloc((size_t)st.st_size + 2); /* the NUL, and a byte to see that it has not grown */
	if (!buf)
		return -ENOMEM;
	n = atomic_file_read(path, buf, (size_t)st.st_size + 2);
	if (n < 0)
		free(buf);
	else
		*text = buf;
	return n;
}
