/*
 * expected: what a field takes, and what an unknown key may have meant, in words for errors.
 *
 * Theory of operation: the words are made from the field's row, so they cannot say something else
 * than what is checked. No state.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/scalar.h"
#include "config/schema.h"
#include "config/xalloc.h"

static const char *const kind_texts[ADDRESS_KINDS] = {
	[ADDRESS_NONE] = "none",
	[ADDRESS_TCP] = "tcp:HOST:PORT",
	[ADDRESS_UNIX] = "unix:/path",
	[ADDRESS_VSOCK] = "vsock:CID:PORT",
	[ADDRESS_HYBRID] = "hybrid:/path:PORT",
	[ADDRESS_FD] = "fd:NAME",
	[ADDRESS_SERVICE] = "service:SERVICE.OWNER",
	[ADDRESS_TUNNEL] = "tunnel",
};

/* Joined by commas, the last by "or". */
struct joined {
	char *buf;
	size_t size, used;
};

static void join(struct joined *j, const char *text, bool first, bool last)
{
	int n = snprintf(j->buf + j->used, j->size - j->used, "%s%s",
			 first  ? ""
			 : last ? " or "
				: ", ",
			 text);

	if (n > 0 && (size_t)n < j->size - j->used)
		j->used += (size_t)n;
}

static void join_kinds(struct joined *j, unsigned kinds)
{
	bool first = true;

	for (unsigned kind = 0; kind < ADDRESS_KINDS; kind++) {
		if (!(kinds & 1u << kind))
			continue;
		join(j, kind_texts[kind], first, kinds >> kind == 1);
		first = false;
	}
}

static void join_words(struct joined *j, const struct word *words)
{
	for (const struct word *w = words; w->text; w++)
		join(j, w->text, w == words, !w[1].text);
}

static void expected_range(const struct field *f, struct joined *j)
{
	char min[SCALAR_TEXT_MAX], max[SCALAR_TEXT_MAX];
	char *to = j->buf + j->used;
	size_t size = j->size - j->used;

	if (f->type == FIELD_NUMBER)
		snprintf(to, size, "%sa number from %" PRIu64 " to %" PRIu64,
			 f->flags & FIELD_AUTO ? "auto or " : "", f->min, f->max);
	else if (f->type == FIELD_DURATION)
		snprintf(to, size, "a duration from %s to %s, in ms, s, min, h or d",
			 scalar_format_duration(f->min, min, sizeof(min)),
			 scalar_format_duration(f->max, max, sizeof(max)));
	else
		snprintf(to, size, "a size from %s to %s, in KiB, MiB, GiB, KB, MB, GB or bytes",
			 scalar_format_size(f->min, min, sizeof(min)),
			 scalar_format_size(f->max, max, sizeof(max)));
}

static bool is_list(const struct field *f)
{
	return f->type == FIELD_FLAGS || f->type == FIELD_TEXTS || f->type == FIELD_ADDRESSES ||
	       f->type == FIELD_NETWORKS || f->type == FIELD_STRUCTS;
}

static void expected_short(const struct field *f, struct joined *j)
{
	char text[EXPECTED_MAX];

	if (!(f->flags & FIELD_SHORT))
		return;
	join(j, ", or ", true, false);
	join(j, field_expected(&f->table->fields[0], false, text, sizeof(text)), true, false);
}

const char *field_expected(const struct field *f, bool entry, char *buf, size_t size)
{
	struct joined j = { .buf = buf, .size = size };

	buf[0] = '\0';
	if (is_list(f) && !entry)
		join(&j, f->flags & FIELD_NONEMPTY ? "a list, not empty, of " : "a list of ", true,
		     false);
	switch (f->type) {
	case FIELD_TEXT:
	case FIELD_TEXTS:
		join(&j, f->expected, true, false);
		break;
	case FIELD_NUMBER:
	case FIELD_DURATION:
	case FIELD_SIZE:
		expected_range(f, &j);
		break;
	case FIELD_ADDRESS:
	case FIELD_ADDRESSES:
		join_kinds(&j, f->kinds);
		break;
	case FIELD_ENUM:
	case FIELD_FLAGS:
		join_words(&j, f->words);
		break;
	case FIELD_TIME:
		join(&j, "a date, or a time in UTC, such as 2030-01-31 or 2030-01-31T12:00:00Z",
		     true, false);
		break;
	case FIELD_HASH:
		join(&j, "sha256: and 64 hex digits; make one with: attest-relay token new", true,
		     false);
		break;
	case FIELD_NETWORKS:
		join(&j, "networks such as 10.0.0.0/8 or ::1, or unix", true, false);
		break;
	case FIELD_STRUCT:
		join(&j, "keys and values", true, false);
		expected_short(f, &j);
		break;
	case FIELD_STRUCTS:
		join(&j, f->table->what, true, false);
		join(&j, "s, each of keys and values", true, false);
		expected_short(f, &j);
		break;
	case FIELD_REFUSED:
	case FIELD_TYPES:
		break;
	}
	return buf;
}

/* How many letters to add, drop, change or swap with the next: the distance of a typing error. */
static size_t distance(const char *a, const char *b)
{
	enum { MAX = 24 };
	size_t rows[3][MAX + 1], *before = rows[0], *above = rows[1], *row = rows[2];
	size_t n = strlen(a), m = strlen(b);

	if (n > MAX || m > MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= m; j++)
		above[j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t *oldest = before;

		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t least = above[j - 1] + (a[i - 1] != b[j - 1]);

			if (above[j] + 1 < least)
				least = above[j] + 1;
			if (row[j - 1] + 1 < least)
				least = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    before[j - 2] + 1 < least)
				least = before[j - 2] + 1;
			row[j] = least;
		}
		before = above;
		above = row;
		row = oldest;
	}
	return above[m];
}

void table_unknown_key(const struct source *s, const struct table *t, const struct node *key)
{
	const struct field *best = NULL;
	char quoted[SCALAR_QUOTED_MAX], known[600];
	size_t least = strlen(key->value) / 3 + 1, n = 0;

	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->fields[i];
		size_t d = distance(key->value, f->key);

		if (f->type == FIELD_REFUSED)
			continue;
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", f->key);
		if (d <= least && (!best || d < least)) {
			best = f;
			least = d;
		}
	}
	scalar_quote(key->value, quoted, sizeof(quoted));
	if (best)
		source_error(s, key, "unknown key %s, did you mean %s? expected one of %s", quoted,
			     best->key, known);
	else
		source_error(s, key, "unknown key %s; expected one of %s", quoted, known);
}

int field_parse_address(const struct field *f, const char *text, struct address *to, char **why)
{
	char expected[EXPECTED_MAX];

	if (address_parse(to, text, why) == 0)
		return 0;
	if (!address_has_kind(text)) {
		free(*why);
		*why = xasprintf("expected %s",
				 field_expected(f, true, expected, sizeof(expected)));
	}
	return -EINVAL;
}
