/*
 * dump: effective values as YAML that loads again to the same.
 *
 * Theory of operation: walks the same tables as the reader. Texts and addresses are always quoted;
 * in the quotes, whatever YAML would not read back as it is becomes an escape. What is absent
 * (NULL, an empty list) is left out, since writing it is not allowed either. No state.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config/scalar.h"
#include "config/schema.h"

static void table_dump_at(const struct table *t, const void *of, int indent, bool entry, FILE *to);

/* One UTF-8 character at text: its length, or 0 if it is none. */
static size_t decode(const unsigned char *text, uint32_t *code)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = text[0] < 0x80                      ? 1
		   : text[0] >= 0xf0 && text[0] < 0xf8 ? 4
		   : text[0] >= 0xe0 && text[0] < 0xf0 ? 3
		   : text[0] >= 0xc0 && text[0] < 0xe0 ? 2
						       : 0;

	if (n == 0)
		return 0;
	*code = n == 1 ? text[0] : text[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (text[i] & 0x3f);
	}
	return *code >= least[n] ? n : 0;
}

static void dump_quoted(const char *text, FILE *to)
{
	const unsigned char *p = (const unsigned char *)text;

	fputc('"', to);
	while (*p) {
		uint32_t code = '?';
		size_t n = decode(p, &code);

		if (n == 1 && (code == '"' || code == '\\'))
			fprintf(to, "\\%c", (int)code);
		else if (n == 1 && code >= ' ' && code < 0x7f)
			fputc((int)code, to);
		else if (n >= 2 && code >= 0xa0 && code < 0xd800 && code != 0x2028 &&
			 code != 0x2029)
			fwrite(p, 1, n, to);
		else if (code > 0xffff)
			fprintf(to, "\\U%08" PRIX32, code);
		else
			fprintf(to, "\\u%04" PRIX32, code);
		p += n ? n : 1;
	}
	fputc('"', to);
}

static void dump_address(const struct address *a, FILE *to)
{
	char text[ADDRESS_TEXT_MAX];

	dump_quoted(address_format(a, text, sizeof(text)), to);
}

static void dump_hash(const struct token_hash *hash, FILE *to)
{
	fputs("\"sha256:", to);
	for (size_t i = 0; i < TOKEN_HASH_SIZE; i++)
		fprintf(to, "%02x", hash->bytes[i]);
	fputc('"', to);
}

static void dump_network(const struct network *n, FILE *to)
{
	char text[NETWORK_TEXT_MAX];

	dump_quoted(network_format(n, text, sizeof(text)), to);
}

static const void *list_of(const struct field *f, const void *base, size_t *n)
{
	const void *list;

	memcpy(&list, (const char *)base + f->offset, sizeof(list));
	memcpy(n, (const char *)base + f->count, sizeof(*n));
	return list;
}

static uint64_t number_of(const struct field *f, const void *at)
{
	unsigned small;
	uint64_t n;

	if (f->width == sizeof(small)) {
		memcpy(&small, at, sizeof(small));
		return small;
	}
	memcpy(&n, at, sizeof(n));
	return n;
}

static bool flag_set(const struct field *f, const void *at, const struct word *w)
{
	unsigned value;

	memcpy(&value, at, sizeof(value));
	return value & w->value;
}

static bool is_set(const struct field *f, const void *base)
{
	const void *at = (const char *)base + f->offset;
	const char *text;
	size_t n;

	switch (f->type) {
	case FIELD_TEXT:
		memcpy(&text, at, sizeof(text));
		return text != NULL;
	case FIELD_ADDRESS:
		return ((const struct address *)at)->kind != ADDRESS_NONE;
	case FIELD_FLAGS:
		for (const struct word *w = f->words; w->text; w++)
			if (flag_set(f, at, w))
				return true;
		return false;
	case FIELD_TEXTS:
	case FIELD_ADDRESSES:
	case FIELD_NETWORKS:
	case FIELD_STRUCTS:
		list_of(f, base, &n);
		return n > 0;
	case FIELD_STRUCT: /* without what it requires it is none, whatever has defaults in it */
		for (size_t i = 0; i < f->table->n; i++)
			if ((f->table->fields[i].flags & FIELD_REQUIRED) &&
			    !is_set(&f->table->fields[i], at))
				return false;
		for (size_t i = 0; i < f->table->n; i++)
			if (is_set(&f->table->fields[i], at))
				return true;
		return false;
	case FIELD_TIME:
		return number_of(f, at) != 0;
	case FIELD_REFUSED:
		return false;
	default:
		return true;
	}
}

static void dump_scalar(const struct field *f, const void *at, FILE *to)
{
	char buf[SCALAR_TEXT_MAX];
	const char *text;
	int value;

	fputc(' ', to);
	switch (f->type) {
	case FIELD_TEXT:
		memcpy(&text, at, sizeof(text));
		dump_quoted(text, to);
		break;
	case FIELD_NUMBER:
		if ((f->flags & FIELD_AUTO) && number_of(f, at) == 0)
			fputs("auto", to);
		else
			fprintf(to, "%" PRIu64, number_of(f, at));
		break;
	case FIELD_DURATION:
		fputs(scalar_format_duration(number_of(f, at), buf, sizeof(buf)), to);
		break;
	case FIELD_SIZE:
		fputs(scalar_format_size(number_of(f, at), buf, sizeof(buf)), to);
		break;
	case FIELD_ADDRESS:
		dump_address(at, to);
		break;
	case FIELD_HASH:
		dump_hash(at, to);
		break;
	case FIELD_TIME:
		fputs(scalar_format_time(number_of(f, at), buf, sizeof(buf)), to);
		break;
	case FIELD_ENUM:
		memcpy(&value, at, sizeof(value));
		for (const struct word *w = f->words; w->text; w++)
			if ((int)w->value == value)
				fputs(w->text, to);
		break;
	default:
		break;
	}
	fputc('\n', to);
}

static void dump_flags(const struct field *f, const void *at, FILE *to)
{
	const char *between = "";

	fputs(" [", to);
	for (const struct word *w = f->words; w->text; w++)
		if (flag_set(f, at, w)) {
			fprintf(to, "%s%s", between, w->text);
			between = ", ";
		}
	fputs("]\n", to);
}

/* An entry of which nothing but its first field is set. */
static bool is_short(const struct field *f, const void *entry)
{
	if (!(f->flags & FIELD_SHORT))
		return false;
	for (size_t i = 1; i < f->table->n; i++)
		if (is_set(&f->table->fields[i], entry))
			return false;
	return true;
}

static void dump_entry(const struct field *f, const void *entry, int indent, FILE *to)
{
	const struct field *first = &f->table->fields[0];

	if (is_short(f, entry))
		dump_scalar(first, (const char *)entry + first->offset, to);
	else
		table_dump_at(f->table, entry, indent, true, to);
}

static void dump_list(const struct field *f, const void *base, int indent, FILE *to)
{
	size_t n;
	const char *list = list_of(f, base, &n);

	fputc('\n', to);
	for (size_t i = 0; i < n; i++) {
		fprintf(to, "%*s- ", indent + 2, "");
		if (f->type == FIELD_TEXTS)
			dump_quoted(((char *const *)(const void *)list)[i], to);
		else if (f->type == FIELD_ADDRESSES)
			dump_address((const struct address *)(const void *)list + i, to);
		else if (f->type == FIELD_NETWORKS)
			dump_network((const struct network *)(const void *)list + i, to);
		else
			dump_entry(f, list + i * f->table->size, indent + 4, to);
		if (f->type != FIELD_STRUCTS)
			fputc('\n', to);
	}
}

static void table_dump_at(const struct table *t, const void *of, int indent, bool entry, FILE *to)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->fields[i];
		const void *at = (const char *)of + f->offset;

		if (!is_set(f, of))
			continue;
		/* The first key of an entry stands behind its "- ". */
		fprintf(to, "%*s%s:", entry ? 0 : indent, "", f->key);
		entry = false;
		if (f->type == FIELD_STRUCT) {
			fputc('\n', to);
			table_dump_at(f->table, at, indent + 2, false, to);
		} else if (f->type == FIELD_FLAGS) {
			dump_flags(f, at, to);
		} else if (f->type == FIELD_TEXTS || f->type == FIELD_ADDRESSES ||
			   f->type == FIELD_NETWORKS || f->type == FIELD_STRUCTS) {
			dump_list(f, of, indent, to);
		} else {
			dump_scalar(f, at, to);
		}
	}
}

/* NULL: out of memory. */
static char *text_of(const struct table *t, const void *of)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);

	if (!to)
		return NULL;
	table_dump_at(t, of, 0, false, to);
	fclose(to);
	return text;
}

bool table_equal(const struct table *t, const void *a, const void *b)
{
	char *x = text_of(t, a), *y = text_of(t, b);
	bool same = x && y && strcmp(x, y) == 0;

	free(x);
	free(y);
	return same;
}

bool table_same(const struct table *t, const char *key, const void *a, const void *b)
{
	struct table one = *t;

	while (one.n && strcmp(one.fields->key, key) != 0)
		one.fields++, one.n--;
	one.n = one.n ? 1 : 0;
	return table_equal(&one, a, b);
}

void table_dump(const struct table *t, const void *of, FILE *to)
{
	table_dump_at(t, of, 0, false, to);
}
