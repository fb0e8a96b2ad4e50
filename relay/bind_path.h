/*
 * bind_path: Unix sockets that are files: what may be replaced, and how one is made whole before
 * anybody finds it. See relay/bind.h for the contract; paths have at most 107 bytes here.
 */
#ifndef RELAY_BIND_PATH_H
#define RELAY_BIND_PATH_H

#include <stdbool.h>
#include <stddef.h>

struct bind_access;
struct bind_file;

/* Sees to it that nothing is at path. 0, or -1: it may not be removed, and why gets a text. */
int bind_path_clear(const char *path, char *why, size_t size);
/* A listening fd, at path under the file that *made gets, or -1 and why. */
int bind_path_listen(const char *path, const struct bind_access *access, struct bind_file *made,
		     char *why, size_t size);
bool bind_path_is(const char *path, const struct bind_file *file);
void bind_path_remove(const char *path, const struct bind_file *file); /* if it is that file */

#endif
