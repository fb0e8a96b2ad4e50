/* fields: the header fields of a control exchange: bounded, copied, lower-case names. */
#ifndef TUNNEL_FIELDS_H
#define TUNNEL_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

#define FIELDS_MAX 80          /* fields of one message */
#define FIELDS_BYTES_MAX 16384 /* names and values together, with their NULs */

struct fields {
	unsigned n;
	size_t used;
	struct {
		const char *name, *value; /* NUL-terminated, inside bytes */
		bool secret;              /* never indexed by HPACK, never logged */
	} at[FIELDS_MAX];
	char bytes[FIELDS_BYTES_MAX];
};

void fields_init(struct fields *f);

/*
 * 0 or -E2BIG; a name that is not one, or a value with a control character, is -EINVAL. f is
 * untouched on failure.
 */
int fields_add(struct fields *f, const char *name, const char *value, bool secret);

const char *fields_get(const struct fields *f, const char *name); /* first, or NULL */

#endif
