/*
 * print_schema: what the library knows about config files, for check_config_docs.py.
 *
 * Theory of operation: without arguments, a line for each key of the programs' tables: program,
 * path, type, presence, what its text must mention, help; between tabs. With a program and
 * a file, loads that file by the library and prints what it found wrong.
 */
#include <inttypes.h>
#include <string.h>

#include "config/bridge.h"
#include "config/config.h"
#include "config/scalar.h"
#include "config/schema_bridge.h"

static const char *const types[FIELD_TYPES] = {
	[FIELD_TEXT] = "text",
	[FIELD_NUMBER] = "number",
	[FIELD_DURATION] = "duration",
	[FIELD_SIZE] = "size",
	[FIELD_ADDRESS] = "address",
	[FIELD_ENUM] = "word",
	[FIELD_FLAGS] = "list of words",
	[FIELD_TEXTS] = "list of texts",
	[FIELD_ADDRESSES] = "list of addresses",
	[FIELD_HASH] = "hash",
	[FIELD_TIME] = "time",
	[FIELD_NETWORKS] = "list of networks",
	[FIELD_STRUCT] = "keys",
	[FIELD_STRUCTS] = "list of keys",
};

static void print_range(const struct field *f)
{
	char min[SCALAR_TEXT_MAX], max[SCALAR_TEXT_MAX];

	if (f->type == FIELD_NUMBER)
		printf("%" PRIu64 " to %" PRIu64, f->min, f->max);
	else if (f->type == FIELD_DURATION)
		printf("%s to %s", scalar_format_duration(f->min, min, sizeof(min)),
		       scalar_format_duration(f->max, max, sizeof(max)));
	else if (f->type == FIELD_SIZE)
		printf("%s to %s", scalar_format_size(f->min, min, sizeof(min)),
		       scalar_format_size(f->max, max, sizeof(max)));
	else if (f->words)
		for (const struct word *w = f->words; w->text; w++)
			printf("%s%s", w == f->words ? "" : "|", w->text);
}

static void print_table(const char *program, const struct table *t, const char *prefix)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct field *f = &t->fields[i];
		char path[128], list[140];

		if (f->type == FIELD_REFUSED)
			continue;
		snprintf(path, sizeof(path), "%s%s", prefix, f->key);
		printf("%s\t%s\t%s\t", program, path, types[f->type]);
		if (f->flags & FIELD_REQUIRED)
			printf("required\t");
		else if (f->def)
			printf("default: %s\t", f->def);
		else
			printf("optional\t");
		print_range(f);
		if (f->flags & FIELD_RESTART && strcmp(program, "relay") == 0)
			printf("|needs a restart");
		printf("\t%s\n", f->help ? f->help : "");
		snprintf(list, sizeof(list), "%s%s", path, f->type == FIELD_STRUCTS ? "[]." : ".");
		if (f->table)
			print_table(program, f->table, list);
	}
}

static int load(const char *program, const char *path)
{
	struct config_errors e = { 0 };
	int failed;

	if (strcmp(program, "relay") == 0)
		relay_config_unref(relay_config_load(path, &e));
	else if (strcmp(program, "bridge") == 0)
		bridge_config_unref(bridge_config_load(path, &e));
	else
		tunnel_config_free(tunnel_config_load(path, &e));
	failed = e.n > 0;
	config_errors_print(&e, stderr);
	config_errors_deinit(&e);
	return failed;
}

int main(int argc, char **argv)
{
	if (argc == 3)
		return load(argv[1], argv[2]);
	print_table("relay", &relay_table, "");
	print_table("tunnel", &tunnel_table, "");
	print_table("bridge", &bridge_table, "");
	return 0;
}
