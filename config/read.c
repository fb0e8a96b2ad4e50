/*
 * read: the walker that fills structs from a tree by the tables of schema_*.c.
 *
 * Theory of operation: table_read goes over the pairs of a map, finds each key's row and lets the
 * function of its type store the value; afterwards what was not there gets its default, through
 * the very same functions, or is reported as missing. An error never ends the walk: the value stays
 * zero, an entry of a list keeps its place, and whoever started the walk throws the struct away.
 * Recursion follows the tables, never the file. What is stored belongs to the struct; table_free
 * gives it back, from half-read structs too.
 *
 * Longer than other files: a function for each type of value, all of one kind.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "config/scalar.h"
#include "config/schema.h"
#include "config/xalloc.h"

#define CREDENTIAL "credential:" /* a FIELD_PATH: in $CREDENTIALS_DIRECTORY */

void source_error(const struct source *s, const struct node *at, const char *fmt, ...)
{
	va_list args;
	char *text;

	va_start(args, fmt);
	text = xvasprintf(fmt, args);
	va_end(args);
	config_errors_add(s->e, "%s:%zu:%zu: %s", s->name, at ? at->line : 1, at ? at->column : 1,
			  text);
	free(text);
}

static void wrong(const struct source *s, const struct node *at, const struct field *f, bool entry,
		  const char *what)
{
	char expected[EXPECTED_MAX];

	source_error(s, at, "%s: %s; expected %s", f->key, what,
		     field_expected(f, entry, expected, sizeof(expected)));
}

static void wrong_value(const struct source *s, const struct node *at, const struct field *f,
			bool entry, const char *what)
{
	char quoted[SCALAR_QUOTED_MAX];
	char *text;

	if (f->flags & FIELD_HIDDEN) {
		wrong(s, at, f, entry, what);
		return;
	}
	text = xasprintf("%s %s", scalar_quote(at->value, quoted, sizeof(quoted)), what);
	wrong(s, at, f, entry, text);
	free(text);
}

static bool is_null(const struct node *node)
{
	return node->plain && (!node->value[0] || strcmp(node->value, "~") == 0 ||
			       strcasecmp(node->value, "null") == 0);
}

static const char *type_text(const struct node *node)
{
	if (node->type == NODE_LIST)
		return "a list";
	if (node->type == NODE_MAP)
		return "keys and values";
	return is_null(node) ? "no value" : "a single value";
}

/* The text of a scalar; or NULL, and it is reported. */
static const char *scalar(const struct source *s, const struct node *node, const struct field *f,
			  bool entry)
{
	if (node->type == NODE_BAD)
		return NULL;
	if (node->type != NODE_SCALAR || is_null(node)) {
		wrong(s, node, f, entry, type_text(node));
		return NULL;
	}
	if (!node->value[0]) {
		wrong(s, node, f, entry, "empty");
		return NULL;
	}
	return node->value;
}

/* The path of a file that systemd keeps for this service only (LoadCredential=). */
static char *credential(const struct source *s, const struct node *node, const struct field *f,
			bool entry)
{
	const char *folder = getenv("CREDENTIALS_DIRECTORY");
	const char *name = node->value + strlen(CREDENTIAL);

	if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		wrong_value(s, node, f, entry, "has no credential's name");
		return NULL;
	}
	if (!folder || folder[0] != '/') {
		source_error(s, node,
			     "%s: systemd has handed over no credentials (LoadCredential= in the "
			     "unit); to check the file by hand, set CREDENTIALS_DIRECTORY to "
			     "/run/credentials/ and the unit's name",
			     f->key);
		return NULL;
	}
	return xasprintf("%s/%s", folder, name);
}

static char *text_of(const struct source *s, const struct node *node, const struct field *f,
		     bool entry)
{
	const char *value = scalar(s, node, f, entry);
	char *text;

	if (!value)
		return NULL;
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f) {
			wrong_value(s, node, f, entry, "has a control character");
			return NULL;
		}
	if (!f->is(value)) {
		wrong_value(s, node, f, entry, "is not well-formed");
		return NULL;
	}
	if ((f->flags & FIELD_PATH) && strncmp(value, CREDENTIAL, strlen(CREDENTIAL)) == 0)
		return credential(s, node, f, entry);
	if ((f->flags & FIELD_PATH) && s->folder && value[0] != '/')
		return xasprintf("%s/%s", s->folder, value);
	text = xstrdup(value);
	if (f->flags & FIELD_LOWER)
		for (char *p = text; *p; p++)
			if (*p >= 'A' && *p <= 'Z')
				*p = (char)(*p - 'A' + 'a');
	return text;
}

static void read_text(const struct source *s, const struct field *f, const struct node *node,
		      void *to)
{
	char *text = text_of(s, node, f, false);

	memcpy(to, &text, sizeof(text));
}

static void read_number(const struct source *s, const struct field *f, const struct node *node,
			void *to)
{
	const char *value = scalar(s, node, f, false), *bad;
	uint64_t n = 0;
	unsigned small;

	if (!value)
		return;
	if ((f->flags & FIELD_AUTO) && strcmp(value, "auto") == 0) {
		bad = NULL;
	} else {
		if (f->type == FIELD_DURATION)
			bad = scalar_duration(value, &n);
		else if (f->type == FIELD_SIZE)
			bad = scalar_size(value, &n);
		else
			bad = scalar_number(value, &n);
		if (!bad && n < f->min)
			bad = "is too small";
		if (!bad && n > f->max)
			bad = "is too large";
	}
	if (bad) {
		wrong_value(s, node, f, false, bad);
		return;
	}
	small = (unsigned)n;
	memcpy(to, f->width == sizeof(small) ? (void *)&small : (void *)&n, f->width);
}

const char *field_address_wrong(const struct field *f, const struct address *a)
{
	if (!(f->kinds & 1u << a->kind))
		return "is of a kind that cannot stand here";
	if (!(f->flags & FIELD_DIAL))
		return NULL;
	if (a->kind == ADDRESS_TCP && a->port == 0)
		return "has port 0, which cannot be connected to";
	if (a->kind == ADDRESS_VSOCK && a->cid == UINT32_MAX)
		return "has the CID any, which cannot be connected to";
	return NULL;
}

int field_address(const struct field *f, const char *text, struct address *to, char **why)
{
	struct address a;
	const char *bad;

	if (field_parse_address(f, text, &a, why) < 0)
		return -EINVAL;
	bad = field_address_wrong(f, &a);
	if (bad) {
		char expected[EXPECTED_MAX];

		*why = xasprintf("%s; expected %s", bad,
				 field_expected(f, true, expected, sizeof(expected)));
		address_deinit(&a);
		return -EINVAL;
	}
	*to = a;
	return 0;
}

static void read_address(const struct source *s, const struct field *f, const struct node *node,
			 void *to)
{
	const char *value = scalar(s, node, f, true);
	char quoted[SCALAR_QUOTED_MAX];
	struct address a, *at = to;
	char *why;

	if (!value)
		return;
	if (field_parse_address(f, value, &a, &why) < 0) {
		source_error(s, node, "%s: %s is not an address; %s", f->key,
			     scalar_quote(value, quoted, sizeof(quoted)), why);
		free(why);
	} else if (field_address_wrong(f, &a)) {
		wrong_value(s, node, f, true, field_address_wrong(f, &a));
		address_deinit(&a);
	} else {
		*at = a;
	}
}

static const struct word *word_of(const struct source *s, const struct field *f,
				  const struct node *node)
{
	const char *value = scalar(s, node, f, true);

	if (!value)
		return NULL;
	for (const struct word *w = f->words; w->text; w++)
		if (strcmp(w->text, value) == 0)
			return w;
	wrong_value(s, node, f, true, "is not known");
	return NULL;
}

static void read_enum(const struct source *s, const struct field *f, const struct node *node,
		      void *to)
{
	const struct word *w = word_of(s, f, node);
	int value = w ? (int)w->value : 0;

	memcpy(to, &value, sizeof(value));
}

static void read_hash(const struct source *s, const struct field *f, const struct node *node,
		      void *to)
{
	const char *value = scalar(s, node, f, true);
	const char *bad = value ? scalar_hash(value, to) : NULL;

	if (bad) {
		char *text = xasprintf("it %s", bad);

		wrong(s, node, f, true, text);
		free(text);
	}
}

static void read_time(const struct source *s, const struct field *f, const struct node *node,
		      void *to)
{
	const char *value = scalar(s, node, f, true);
	uint64_t seconds = 0;
	const char *bad = value ? scalar_time(value, &seconds) : NULL;

	if (bad)
		wrong_value(s, node, f, true, bad);
	memcpy(to, &seconds, sizeof(seconds));
}

static void read_network(const struct source *s, const struct field *f, const struct node *node,
			 void *to)
{
	const char *value = scalar(s, node, f, true);
	const char *bad = value ? network_parse(to, value) : NULL;

	if (bad)
		wrong_value(s, node, f, true, bad);
}

/* The list's entries if it is a sound one, else NULL and it is reported. */
static const struct node *entries(const struct source *s, const struct field *f,
				  const struct node *node)
{
	uint64_t max = f->type == FIELD_FLAGS || !f->max ? CONFIG_LIST_MAX : f->max;

	if (node->type == NODE_BAD)
		return NULL;
	if (node->type != NODE_LIST) {
		wrong(s, node, f, false, type_text(node));
		return NULL;
	}
	if (node->n > max) {
		source_error(s, node, "%s: %zu entries; expected at most %" PRIu64, f->key, node->n,
			     max);
		return NULL;
	}
	if (!node->n && (f->flags & FIELD_NONEMPTY))
		wrong(s, node, f, false, "an empty list");
	return node->first;
}

static void read_flags(const struct source *s, const struct field *f, const struct node *node,
		       void *to)
{
	unsigned value = 0;

	for (const struct node *at = entries(s, f, node); at; at = at->next) {
		const struct word *w = word_of(s, f, at);

		if (w && (value & w->value))
			wrong_value(s, at, f, true, "stands there twice");
		if (w)
			value |= w->value;
	}
	memcpy(to, &value, sizeof(value));
}

static void read_field(const struct source *s, const struct field *f, const struct node *node,
		       void *base);

/* The entry is its first field alone. */
static void read_short(const struct source *s, const struct table *t, const struct node *node,
		       void *to)
{
	table_read(s, t, NULL, to);
	read_field(s, &t->fields[0], node, to);
}

static void read_entry_struct(const struct source *s, const struct field *f,
			      const struct node *node, void *to)
{
	const struct table *t = f->table;

	if (t->line != NO_LINE) {
		int line = (int)node->line;

		memcpy((char *)to + t->line, &line, sizeof(line));
	}
	if (f->flags & FIELD_SHORT && node->type == NODE_SCALAR && !is_null(node))
		read_short(s, t, node, to);
	else if (node->type != NODE_MAP && node->type != NODE_BAD)
		source_error(s, node, "%s: %s; expected the keys and values of a %s", f->key,
			     type_text(node), t->what);
	else
		table_read(s, t, node, to);
}

static void read_entry_text(const struct source *s, const struct field *f, const struct node *node,
			    void *to)
{
	char *text = text_of(s, node, f, true);

	memcpy(to, &text, sizeof(text));
}

static const struct entry_type {
	size_t size; /* 0: the table's */
	void (*read)(const struct source *s, const struct field *f, const struct node *node,
		     void *to);
} entry_types[FIELD_TYPES] = {
	[FIELD_TEXTS] = { sizeof(char *), read_entry_text },
	[FIELD_ADDRESSES] = { sizeof(struct address), read_address },
	[FIELD_NETWORKS] = { sizeof(struct network), read_network },
	[FIELD_STRUCTS] = { 0, read_entry_struct },
};

static void read_list(const struct source *s, const struct field *f, const struct node *node,
		      void *base)
{
	const struct entry_type *type = &entry_types[f->type];
	size_t size = type->size ? type->size : f->table->size;
	const struct node *at = entries(s, f, node);
	size_t n = at ? node->n : 0;
	char *list = at ? xcalloc(n, size) : NULL;

	memcpy((char *)base + f->offset, &list, sizeof(list));
	memcpy((char *)base + f->count, &n, sizeof(n));
	for (size_t i = 0; i < n; i++, at = at->next)
		type->read(s, f, at, list + i * size);
}

static void read_field(const struct source *s, const struct field *f, const struct node *node,
		       void *base)
{
	void *to = (char *)base + f->offset;

	switch (f->type) {
	case FIELD_TEXT:
		read_text(s, f, node, to);
		break;
	case FIELD_NUMBER:
	case FIELD_DURATION:
	case FIELD_SIZE:
		read_number(s, f, node, to);
		break;
	case FIELD_ADDRESS:
		read_address(s, f, node, to);
		break;
	case FIELD_ENUM:
		read_enum(s, f, node, to);
		break;
	case FIELD_HASH:
		read_hash(s, f, node, to);
		break;
	case FIELD_TIME:
		read_time(s, f, node, to);
		break;
	case FIELD_FLAGS:
		read_flags(s, f, node, to);
		break;
	case FIELD_STRUCT:
		if (f->flags & FIELD_SHORT && node->type == NODE_SCALAR && !is_null(node)) {
			read_short(s, f->table, node, to);
			break;
		}
		if (node->type != NODE_MAP && node->type != NODE_BAD)
			wrong(s, node, f, false, type_text(node));
		table_read(s, f->table, node->type == NODE_MAP ? node : NULL, to);
		break;
	case FIELD_TEXTS:
	case FIELD_ADDRESSES:
	case FIELD_NETWORKS:
	case FIELD_STRUCTS:
		read_list(s, f, node, base);
		break;
	case FIELD_REFUSED:
	case FIELD_TYPES:
		break;
	}
}

static void read_default(const struct source *s, const struct field *f, void *base)
{
	struct node value = { .type = NODE_SCALAR, .value = (char *)f->def };
	struct node list = { .type = NODE_LIST, .first = &value, .n = 1 };

	if (f->type == FIELD_STRUCT)
		table_read(s, f->table, NULL, (char *)base + f->offset);
	else if (f->def)
		read_field(s, f, entry_types[f->type].read ? &list : &value, base);
}

static const struct field *find(const struct table *t, const char *key)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->fields[i].key, key) == 0)
			return &t->fields[i];
	return NULL;
}

static void read_pair(const struct source *s, const struct table *t, const struct node *key,
		      void *to, size_t *seen)
{
	const struct field *f;

	if (key->type == NODE_BAD)
		return;
	if (key->type != NODE_SCALAR) {
		source_error(s, key, "%s as a key; expected the name of a key", type_text(key));
		return;
	}
	f = find(t, key->value);
	if (!f) {
		if (key->plain && strcmp(key->value, "<<") == 0)
			source_error(s, key,
				     "a merge key; expected values written out, merge keys "
				     "are not supported");
		else
			table_unknown_key(s, t, key);
	} else if (f->type == FIELD_REFUSED) {
		source_error(s, key,
			     "%s: not supported by this version, and to ignore it might leave open "
			     "what it was to close; expected it left out",
			     f->key);
	} else if (seen[f - t->fields]) {
		source_error(s, key, "%s: again, it stands on line %zu already; expected it once",
			     f->key, seen[f - t->fields]);
	} else {
		seen[f - t->fields] = key->line;
		read_field(s, f, key->next, to);
	}
}

void table_read(const struct source *s, const struct table *t, const struct node *map, void *to)
{
	size_t seen[TABLE_FIELDS_MAX] = { 0 };
	bool is_map = map && map->type == NODE_MAP;

	for (const struct node *key = is_map ? map->first : NULL; key && key->next;
	     key = key->next->next)
		read_pair(s, t, key, to, seen);
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->fields[i];

		if (seen[i])
			continue;
		if ((f->flags & FIELD_REQUIRED) && is_map)
			wrong(s, map, f, false, "missing");
		read_default(s, f, to);
	}
}

static void free_list(const struct field *f, void *base)
{
	char *list;
	size_t n;

	memcpy(&list, (char *)base + f->offset, sizeof(list));
	memcpy(&n, (char *)base + f->count, sizeof(n));
	for (size_t i = 0; i < n; i++) {
		if (f->type == FIELD_TEXTS)
			free(((char **)(void *)list)[i]);
		else if (f->type == FIELD_ADDRESSES)
			address_deinit((struct address *)(void *)list + i);
		else if (f->type == FIELD_STRUCTS)
			table_free(f->table, list + i * f->table->size);
	}
	free(list);
}

void table_free(const struct table *t, void *of)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->fields[i];
		void *at = (char *)of + f->offset;
		char *text;

		if (f->type == FIELD_TEXT) {
			memcpy(&text, at, sizeof(text));
			free(text);
		} else if (f->type == FIELD_ADDRESS) {
			address_deinit(at);
		} else if (f->type == FIELD_STRUCT) {
			table_free(f->table, at);
		} else if (entry_types[f->type].read) {
			free_list(f, of);
		}
	}
}
