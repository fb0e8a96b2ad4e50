/*
 * flag: settings that a command line gives instead of a file.
 *
 * Theory of operation: a flag names its row by the key that a file would have, so that it takes
 * what the file takes and refuses it in the same words. A section's struct lies inside the
 * config's, at its row's offset.
 */
#include "config/flag.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "config/schema.h"
#include "config/xalloc.h"

static const struct field *find(const struct table *t, const char *key, size_t len)
{
	for (size_t i = 0; i < t->n; i++)
		if (strncmp(t->fields[i].key, key, len) == 0 && !t->fields[i].key[len])
			return &t->fields[i];
	return NULL;
}

const struct field *flag_row(const struct table *t, const char *key)
{
	return find(t, key, strlen(key));
}

bool flag_word(const struct field *f, const char *text, int *to)
{
	for (const struct word *w = f->words; w->text; w++)
		if (strcmp(w->text, text) == 0) {
			*to = (int)w->value;
			return true;
		}
	return false;
}

int flag_set_word(const struct table *t, void *config, const char *key, const char *text,
		  char **why)
{
	size_t len = strcspn(key, ".");
	const struct field *f = find(t, key, len);
	char expected[EXPECTED_MAX];
	uint8_t *in = config;
	int value;

	if (key[len] == '.') {
		in += f->offset;
		f = flag_row(f->table, key + len + 1);
	}
	if (flag_word(f, text, &value)) {
		memcpy(in + f->offset, &value, sizeof(value));
		return 0;
	}
	*why = xasprintf("expected %s", field_expected(f, true, expected, sizeof(expected)));
	return -EINVAL;
}
