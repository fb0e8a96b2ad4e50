/*
 * atomic_file: small files that are there whole or not at all.
 *
 * Plain blocking calls: for small files on a local disk.
 */
#ifndef RELAY_ATOMIC_FILE_H
#define RELAY_ATOMIC_FILE_H

#include <stddef.h>
#include <sys/types.h>

enum {
	ATOMIC_FILE_NEW = 1 << 0,  /* -EEXIST if something of that name is there */
	ATOMIC_FILE_SYNC = 1 << 1, /* on return it survives a loss of power */
};

/* 0 or -errno; then nothing is left behind. */
int atomic_file_write(const char *path, const void *data, size_t len, mode_t mode, unsigned flags)
	__attribute__((warn_unused_result));

/* From one name to another in the same folder. */
int atomic_file_move(const char *from, const char *to, unsigned flags)
	__attribute__((warn_unused_result));

/* The whole file and a NUL; its length, or -errno (-EFBIG: size is not enough for that). */
ssize_t atomic_file_read(const char *path, char *buf, size_t size)
	__attribute__((warn_unused_result));

/* The same of up to max bytes, allocated. -errno: *text is untouched. */
ssize_t atomic_file_load(const char *path, size_t max, char **text)
	__attribute__((warn_unused_result));

#endif
