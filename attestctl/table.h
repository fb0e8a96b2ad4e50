/*
 * table: rows of text in columns, for people.
 *
 * Columns are as wide as what is in them. Where that is wider than the terminal, the widest are cut
 * (with "..."), so that a row is a line; without a terminal nothing is cut. Columns in which
 * nothing stands are left out. What could move a cursor or is no text of this locale becomes '?'.
 */
#ifndef ATTESTCTL_TABLE_H
#define ATTESTCTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 24
#define TABLE_CELL_LEAST 6 /* no column is cut below this */

struct table;

struct table *table_new(void);             /* NULL: out of memory */
struct table *table_free(struct table *t); /* NULL is fine; returns NULL */
/* In order, before all rows; title stays the caller's. right: numbers. */
void table_column(struct table *t, const char *title, bool right);
/* The next cell of the row, a new row after the last column. NULL: empty. */
void table_cell(struct table *t, const char *text);
size_t table_rows(const struct table *t);
/* width: of the terminal; 0: there is none. most: rows; 0: all. */
void table_print(const struct table *t, size_t width, size_t most, FILE *to);

/* The width of the terminal at fd, and its height in *rows (may be NULL); 0: it is none. */
size_t table_terminal(int fd, size_t *rows);
/* How many columns text takes on a terminal. */
size_t table_width(const char *text);
/* text as it may be shown, to be freed; NULL: out of memory. */
char *table_clean(const char *text);

#endif
