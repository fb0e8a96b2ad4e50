/* load: a file of settings, or its text, into the struct that its table describes. */
#ifndef CONFIG_LOAD_H
#define CONFIG_LOAD_H

#include <stdbool.h>
#include <stddef.h>

struct config_errors;
struct node;
struct source;
struct table;

/* What kind of file it is. */
struct load_kind {
	const struct table *table;
	/* What must hold between settings. clean: each by itself is as its row has it. */
	void (*check)(const struct source *s, void *of, const struct node *root, bool clean);
};

/*
 * Into a zeroed struct, to which then much or little has been allocated. False: e has entries, in
 * the order of the file.
 */
bool load_file(const struct load_kind *kind, const char *path, struct config_errors *e, void *to);
/* The same of text that is, or could be, in the file called name. */
bool load_text(const struct load_kind *kind, const char *name, const char *text, size_t len,
	       struct config_errors *e, void *to);

#endif
