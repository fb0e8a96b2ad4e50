/*
 * fileprint: a number for the state of some files.
 *
 * Theory of operation: FNV-1a of device, inode, size and times. Nobody is to be kept out by it: who
 * may change the files may do so anyway.
 */
#include "relay/fileprint.h"

#include <sys/stat.h>

#define FNV_PRIME UINT64_C(0x100000001b3)

static void mix(uint64_t *sum, const void *data, size_t len)
{
	const uint8_t *at = data;

	for (size_t i = 0; i < len; i++)
		*sum = (*sum ^ at[i]) * FNV_PRIME;
}

bool fileprint_add(uint64_t *print, const char *path)
{
	struct stat st;
	const bool there = path && stat(path, &st) == 0;

	mix(print, &there, sizeof(there));
	if (!there)
		return false;
	mix(print, &st.st_dev, sizeof(st.st_dev));
	mix(print, &st.st_ino, sizeof(st.st_ino));
	mix(print, &st.st_size, sizeof(st.st_size));
	mix(print, &st.st_mtim, sizeof(st.st_mtim));
	mix(print, &st.st_ctim, sizeof(st.st_ctim));
	return true;
}

uint64_t fileprint_of(const char *const *paths, size_t n)
{
	uint64_t print = FILEPRINT_BEGIN;

	for (size_t i = 0; i < n; i++)
		if (paths[i] && !fileprint_add(&print, paths[i]))
			return 0;
	return print;
}
