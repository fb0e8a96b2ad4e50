/*
 * fields: header fields in one block of fixed size.
 *
 * Theory of operation: names and values are copied one after the other into bytes; at points at
 * them. So a message, however its sender shaped it, costs sizeof(struct fields) and no more, and
 * fields stay valid as long as the struct stays where it is (it must not be copied).
 */
#include "tunnel/fields.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

void fields_init(struct fields *f)
{
	f->n = 0;
	f->used = 0;
}

static bool name_ok(const char *name)
{
	if (!*name)
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("!#$%&'*+-.^_`|~", *name))
			return false;
	return true;
}

static bool value_ok(const char *value)
{
	for (; *value; value++)
		if ((unsigned char)*value < ' ' || *value == 0x7f)
			return false;
	return true;
}

int fields_add(struct fields *f, const char *name, const char *value, bool secret)
{
	size_t name_size = strlen(name) + 1, value_size = strlen(value) + 1;
	char *to = f->bytes + f->used;

	if (!name_ok(name) || !value_ok(value))
		return -EINVAL;
	if (f->n == FIELDS_MAX || name_size > FIELDS_BYTES_MAX - f->used ||
	    value_size > FIELDS_BYTES_MAX - f->used - name_size)
		return -E2BIG;
	for (size_t i = 0; i < name_size; i++)
		to[i] = (char)tolower((unsigned char)name[i]);
	memcpy(to + name_size, value, value_size);
	f->at[f->n].name = to;
	f->at[f->n].value = to + name_size;
	f->at[f->n].secret = secret;
	f->n++;
	f->used += name_size + value_size;
	return 0;
}

const char *fields_get(const struct fields *f, const char *name)
{
	for (unsigned i = 0; i < f->n; i++)
		if (strcasecmp(f->at[i].name, name) == 0)
			return f->at[i].value;
	return NULL;
}
