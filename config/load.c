/*
 * load: a file of settings into its struct.
 *
 * Theory of operation: text -> tree (tree.c) -> struct by its table (read.c) -> relations checked
 * (the kind's own). All goes to its end whatever is wrong on the way, so that one run shows all
 * faults; whoever called throws the struct away then.
 */
#include "config/load.h"

#include <stdlib.h>

#include "config/file.h"
#include "config/schema.h"

/* folder is freed. */
static bool load(const struct load_kind *kind, const char *name, char *folder, const char *text,
		 size_t len, struct config_errors *e, void *to)
{
	struct source s = { .name = name, .folder = folder, .e = e };
	size_t before = e->n + e->more;
	struct node *root = tree_read(name, text, len, e);

	if (root) {
		if (root->type != NODE_MAP)
			source_error(&s, root, "not keys and values; expected the keys of %s",
				     kind->table->what);
		table_read(&s, kind->table, root, to);
		kind->check(&s, to, root, e->n + e->more == before);
	}
	tree_free(root);
	file_sort_errors(name, e);
	free(folder);
	return e->n + e->more == before;
}

bool load_file(const struct load_kind *kind, const char *path, struct config_errors *e, void *to)
{
	size_t len;
	char *text = file_read(path, &len, e);
	bool good = text && load(kind, path, file_folder(path), text, len, e, to);

	free(text);
	return good;
}

bool load_text(const struct load_kind *kind, const char *name, const char *text, size_t len,
	       struct config_errors *e, void *to)
{
	/* An absolute name's folder needs no look at the file system. */
	char *folder = name[0] == '/' ? file_folder(name) : NULL;

	return load(kind, name, folder, text, len, e, to);
}
