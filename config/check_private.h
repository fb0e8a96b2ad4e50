/* check_private: what the files that check a relay's config share. */
#ifndef CONFIG_CHECK_PRIVATE_H
#define CONFIG_CHECK_PRIVATE_H

#include "config/schema.h"

struct check {
	const struct source *s;
	const struct relay_config *c;
	const struct node *root;
};

/* A text that must stand only once, and which entry of what it is of. */
struct use {
	const char *text;
	size_t at, sub;
};

/* Sorts uses, and calls again() for each that is not the first of its text. */
void check_duplicates(const struct check *k, struct use *uses, size_t n,
		      void (*again)(const struct check *k, const struct use *first,
				    const struct use *use));
/* The node of list[at].key, or of the entry itself; NULL once errors are only counted. */
const struct node *check_find(const struct check *k, const char *list, size_t at, const char *key);
/* The same of its entry sub. */
const struct node *check_find_sub(const struct check *k, const char *list, size_t at,
				  const char *key, size_t sub);

/* check_identity.c: who is who, and may what. Of a config without errors so far. */
void check_identities(const struct check *k, const struct relay_config *c);

#endif
