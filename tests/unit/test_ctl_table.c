/* attestctl's tables: as wide as what is in them, cut to fit, and nothing that moves a cursor. */
#include <locale.h>

#include "attestctl/table.h"
#include "tests/unit/check.h"

static void prints(const struct table *t, size_t width, size_t most, const char *expected)
{
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);

	CHECK(to);
	table_print(t, width, most, to);
	fclose(to);
	CHECK_STR(text, expected);
	free(text);
}

static struct table *two_rows(void)
{
	struct table *t = table_new();

	CHECK(t);
	table_column(t, "NAME", false);
	table_column(t, "N", true);
	table_column(t, "NEVER", false);
	table_column(t, "WHAT", false);
	table_cell(t, "a");
	table_cell(t, "7");
	table_cell(t, NULL);
	table_cell(t, "something long");
	table_cell(t, "bcdef");
	table_cell(t, "1234");
	table_cell(t, "");
	table_cell(t, NULL);
	return t;
}

int main(void)
{
	struct table *t = two_rows(), *empty = table_new();
	char *clean;

	CHECK(setlocale(LC_CTYPE, "C.UTF-8"));
	CHECK_INT(table_rows(t), 2);
	/* a column without anything is left out; no blanks at the ends */
	prints(t, 0, 0,
	       "NAME      N  WHAT\n"
	       "a         7  something long\n"
	       "bcdef  1234\n");
	prints(t, 0, 1,
	       "NAME      N  WHAT\n"
	       "a         7  something long\n");
	/* the widest gives way */
	prints(t, 22, 0,
	       "NAME      N  WHAT\n"
	       "a         7  someth...\n"
	       "bcdef  1234\n");
	table_column(empty, "NAME", false);
	prints(empty, 80, 0, "");
	CHECK_INT(table_width("a\u00e9\u6f22"), 4);
	clean = table_clean("a\x1b[2J\n\xff\u00e9\u202e");
	CHECK_STR(clean, "a?[2J??\u00e9???");
	free(clean);
	table_free(t);
	table_free(empty);
	table_free(NULL);
	return 0;
}
