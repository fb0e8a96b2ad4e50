/*
 * table: rows of text in columns, for people.
 *
 * Theory of operation: cells are cleaned when they come, and kept; widths are known when all are
 * there. To fit, the widest column gives way, one character at a time.
 */
#include "attestctl/table.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#define GAP 2 /* between columns */

struct table {
	const char *title[TABLE_COLUMNS_MAX];
	bool right[TABLE_COLUMNS_MAX];
	size_t columns;
	char **cell;
	size_t n, room;
};

struct table *table_new(void)
{
	return calloc(1, sizeof(struct table));
}

struct table *table_free(struct table *t)
{
	if (!t)
		return NULL;
	for (size_t i = 0; i < t->n; i++)
		free(t->cell[i]);
	free(t->cell);
	free(t);
	return NULL;
}

void table_column(struct table *t, const char *title, bool right)
{
	if (t->columns == TABLE_COLUMNS_MAX)
		return;
	t->title[t->columns] = title;
	t->right[t->columns++] = right;
}

/* What changes the direction or the joining of others' characters: nothing to be seen itself. */
static bool is_format(wchar_t c)
{
	return (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
	       (c >= 0x2060 && c <= 0x2069) || c == 0xfeff;
}

/* The character at text: its bytes, and in *width its columns; 0: none that may be shown. */
static size_t character(const char *text, size_t *width)
{
	mbstate_t state = { 0 };
	wchar_t c;
	size_t len = mbrtowc(&c, text, strnlen(text, MB_LEN_MAX), &state);
	int columns;

	if (len == 0 || len == (size_t)-1 || len == (size_t)-2)
		return 0;
	columns = wcwidth(c);
	if (columns < 0 || !iswprint((wint_t)c) || is_format(c))
		return 0;
	*width = (size_t)columns;
	return len;
}

char *table_clean(const char *text)
{
	char *out = malloc(strlen(text) + 1), *to = out;
	size_t width;

	if (!out)
		return NULL;
	while (*text) {
		size_t len = character(text, &width);

		if (len)
			memcpy(to, text, len);
		else
			*to = '?';
		to += len ? len : 1;
		text += len ? len : 1;
	}
	*to = '\0';
	return out;
}

size_t table_width(const char *text)
{
	size_t total = 0, width;

	while (*text) {
		size_t len = character(text, &width);

		total += len ? width : 1;
		text += len ? len : 1;
	}
	return total;
}

void table_cell(struct table *t, const char *text)
{
	size_t room = t->room ? t->room * 2 : 64;
	char **cell;

	if (t->n == t->room) {
		cell = realloc(t->cell, room * sizeof(*cell));
		if (!cell)
			return;
		t->cell = cell;
		t->room = room;
	}
	t->cell[t->n++] = text ? table_clean(text) : NULL;
}

size_t table_rows(const struct table *t)
{
	return t->columns ? t->n / t->columns : 0;
}

static const char *cell_at(const struct table *t, size_t row, size_t column)
{
	const char *text = t->cell[row * t->columns + column];

	return text ? text : "";
}

/* 0: nothing stands there. */
static size_t widest(const struct table *t, size_t column)
{
	size_t most = 0;

	for (size_t i = 0; i < table_rows(t); i++) {
		size_t width = table_width(cell_at(t, i, column));

		most = width > most ? width : most;
	}
	if (most && table_width(t->title[column]) > most)
		most = table_width(t->title[column]);
	return most;
}

static void fit(const struct table *t, size_t width, size_t columns[])
{
	for (;;) {
		size_t total = 0, largest = 0;

		for (size_t i = 0; i < t->columns; i++) {
			total += columns[i] ? columns[i] + (total ? GAP : 0) : 0;
			if (columns[i] > columns[largest])
				largest = i;
		}
		if (total <= width || columns[largest] <= TABLE_CELL_LEAST)
			return;
		columns[largest]--;
	}
}

/* At most columns wide, "..." if it was cut. Returns its width. */
static size_t put_cut(const char *text, size_t columns, FILE *to)
{
	size_t all = table_width(text), most = all <= columns ? columns : columns - 3;
	size_t used = 0, width;

	while (*text) {
		size_t len = character(text, &width);

		if (!len || used + width > most)
			break;
		fwrite(text, 1, len, to);
		used += width;
		text += len;
	}
	if (all > columns) {
		fputs("...", to);
		used += 3;
	}
	return used;
}

static void put_row(const struct table *t, const char *(*at)(const struct table *, size_t, size_t),
		    size_t row, const size_t columns[], FILE *to)
{
	size_t owed = 0; /* blanks, put only if something follows */
	bool first = true;

	for (size_t i = 0; i < t->columns; i++) {
		const char *text = at(t, row, i);
		size_t width = table_width(text);

		if (!columns[i])
			continue;
		owed += first ? 0 : GAP;
		first = false;
		width = width < columns[i] ? width : columns[i];
		if (t->right[i])
			owed += columns[i] - width;
		if (*text) {
			fprintf(to, "%*s", (int)owed, "");
			owed = 0;
			width = put_cut(text, columns[i], to);
		}
		if (!t->right[i])
			owed += columns[i] - width;
	}
	fputc('\n', to);
}

static const char *title_at(const struct table *t, size_t row, size_t column)
{
	return t->title[column];
}

void table_print(const struct table *t, size_t width, size_t most, FILE *to)
{
	size_t columns[TABLE_COLUMNS_MAX], rows = table_rows(t);

	for (size_t i = 0; i < t->columns; i++)
		columns[i] = widest(t, i);
	if (width)
		fit(t, width, columns);
	if (rows)
		put_row(t, title_at, 0, columns, to);
	for (size_t i = 0; i < rows && (!most || i < most); i++)
		put_row(t, cell_at, i, columns, to);
}

size_t table_terminal(int fd, size_t *rows)
{
	struct winsize size;

	if (!isatty(fd) || ioctl(fd, TIOCGWINSZ, &size) < 0)
		return 0;
	if (rows)
		*rows = size.ws_row ? size.ws_row : 24;
	return size.ws_col ? size.ws_col : 80;
}
