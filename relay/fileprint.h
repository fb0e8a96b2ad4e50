/*
 * fileprint: has one of these files changed, or another been put in its place? A number made of
 * what the kernel says of each, so that two looks can be compared.
 *
 * Any thread; plain stat(2), which follows links.
 */
#ifndef RELAY_FILEPRINT_H
#define RELAY_FILEPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILEPRINT_BEGIN UINT64_C(0xcbf29ce484222325)

/* path: NULL is as good as a file that is not there. False: it is not. */
bool fileprint_add(uint64_t *print, const char *path);
/* Of them all, NULL ones aside. 0: one is not there, as between two steps of a renewal. */
uint64_t fileprint_of(const char *const *paths, size_t n);

#endif
