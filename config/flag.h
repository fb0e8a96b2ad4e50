/* flag: settings that a command line gives instead of a file, judged by the same rows. */
#ifndef CONFIG_FLAG_H
#define CONFIG_FLAG_H

#include <stdbool.h>

struct field;
struct table;

/* A row of a table that has it. */
const struct field *flag_row(const struct table *t, const char *key);
/* One of a row's words. False: it is none, and *to as it was. */
bool flag_word(const struct field *f, const char *text, int *to);

/*
 * One of a row's words, onto the config that t describes. key: as in a file, "log.level" for what
 * stands in a section. 0; or -EINVAL and *why what was expected, allocated.
 */
int flag_set_word(const struct table *t, void *config, const char *key, const char *text,
		  char **why);

#endif
