/* file: config files as they stand on disk: for load.c. */
#ifndef CONFIG_FILE_H
#define CONFIG_FILE_H

#include <stddef.h>

#include "config/config.h"

/* The file's text (to be freed) and its length; NULL: e has an entry. */
char *file_read(const char *path, size_t *len, struct config_errors *e);
/* Puts the errors of the file called name in the order of the file. */
void file_sort_errors(const char *name, struct config_errors *e);
/* The absolute folder of path, to be freed; NULL if that cannot be told. */
char *file_folder(const char *path);

#endif
