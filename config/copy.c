/*
 * copy: a part of a config that is to outlive the whole.
 *
 * Theory of operation: the struct is copied as it is, then all that it owns is made anew, by its
 * table, as table_free frees it. Memory as while a config is read (xalloc.h).
 */
#include <stdlib.h>
#include <string.h>

#include "config/schema.h"
#include "config/xalloc.h"

static size_t entry_size(const struct field *f)
{
	switch (f->type) {
	case FIELD_TEXTS:
		return sizeof(char *);
	case FIELD_ADDRESSES:
		return sizeof(struct address);
	case FIELD_NETWORKS:
		return sizeof(struct network);
	case FIELD_STRUCTS:
		return f->table->size;
	default:
		return 0;
	}
}

/* In its place, which has a copy of the pointer: now it gets a text of its own. */
static void own_text(void *at)
{
	char *text;

	memcpy(&text, at, sizeof(text));
	if (text)
		text = xstrdup(text);
	memcpy(at, &text, sizeof(text));
}

static void own_address(struct address *a)
{
	if (a->name)
		a->name = xstrdup(a->name);
}

static void own_all(const struct table *t, void *of);

static void own_list(const struct field *f, void *base)
{
	const size_t size = entry_size(f);
	char *list, *own = NULL;
	size_t n;

	memcpy(&list, (char *)base + f->offset, sizeof(list));
	memcpy(&n, (char *)base + f->count, sizeof(n));
	if (n) {
		own = xcalloc(n, size);
		memcpy(own, list, n * size);
	}
	for (size_t i = 0; i < n; i++) {
		if (f->type == FIELD_TEXTS)
			own_text(own + i * size);
		else if (f->type == FIELD_ADDRESSES)
			own_address((struct address *)(void *)own + i);
		else if (f->type == FIELD_STRUCTS)
			own_all(f->table, own + i * size);
	}
	memcpy((char *)base + f->offset, &own, sizeof(own));
}

static void own_all(const struct table *t, void *of)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->fields[i];
		void *at = (char *)of + f->offset;

		if (f->type == FIELD_TEXT)
			own_text(at);
		else if (f->type == FIELD_ADDRESS)
			own_address(at);
		else if (f->type == FIELD_STRUCT)
			own_all(f->table, at);
		else if (entry_size(f))
			own_list(f, of);
	}
}

void table_copy(const struct table *t, void *to, const void *from)
{
	memcpy(to, from, t->size);
	own_all(t, to);
}

struct service_config *service_config_copy(const struct service_config *s)
{
	struct service_config *copy = xcalloc(1, sizeof(*copy));

	table_copy(&relay_service_table, copy, s);
	return copy;
}

struct service_config *service_config_free(struct service_config *s)
{
	if (s)
		table_free(&relay_service_table, s);
	free(s);
	return NULL;
}

struct listener_config *listener_config_copy(const struct listener_config *l)
{
	struct listener_config *copy = xcalloc(1, sizeof(*copy));

	table_copy(&relay_listener_table, copy, l);
	return copy;
}

struct listener_config *listener_config_free(struct listener_config *l)
{
	if (l)
		table_free(&relay_listener_table, l);
	free(l);
	return NULL;
}
