/*
 * tree: a YAML text as a small tree that knows where each value stands.
 */
#ifndef CONFIG_TREE_H
#define CONFIG_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

#define TREE_DEPTH_MAX 16 /* the deepest value of our schemas is 5 down */

enum node_type {
	NODE_BAD, /* an error was reported for it already: to be skipped in silence */
	NODE_SCALAR,
	NODE_LIST,
	NODE_MAP, /* its children in turn key, value, key, value... */
};

struct node {
	enum node_type type;
	bool plain;  /* SCALAR: not quoted, so null means null */
	char *value; /* SCALAR: without NUL inside */
	size_t line; /* from 1 */
	size_t column;
	struct node *first, *last; /* children */
	struct node *next;
	size_t n; /* children */
};

/* NULL: e has an entry. Errors that do not end the reading leave NODE_BAD in their place. */
struct node *tree_read(const char *name, const char *text, size_t len, struct config_errors *e);
struct node *tree_free(struct node *node); /* NULL is fine */

/* The value under key, or NULL. A map's first, as the reader of fields takes it. NULL is fine. */
const struct node *node_get(const struct node *map, const char *key);
/* The i-th child of a list, or NULL. Linear. */
const struct node *node_at(const struct node *list, size_t i);

#endif
