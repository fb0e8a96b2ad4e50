/*
 * bridge: qgs-bridge's config, from its file, from flags, or from both; and its drop-ins.
 *
 * Theory of operation: bridge_config_new is the table's defaults. A file is read by the same table;
 * a flag changes the struct, with the very checks a file's value has. What is missing, or does not
 * go together, is known only at the end: bridge_config_check. From then on the config never
 * changes, and whoever keeps a pointer into it holds a reference.
 * Everything in the structs is allocated with malloc and their own.
 */
#include "config/bridge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/flag.h"
#include "config/load.h"
#include "config/scalar.h"
#include "config/schema_bridge.h"
#include "config/xalloc.h"

/* ---- files ---- */

static void check_main_file(const struct source *s, void *of, const struct node *root, bool clean)
{
	check_bridge(s, of, root, clean);
}

static void check_drop_in(const struct source *s, void *of, const struct node *root, bool clean)
{
	check_vm_file(s, of, root);
}

static const struct load_kind main_file = { &bridge_table, check_main_file };
static const struct load_kind drop_in = { &vm_file_table, check_drop_in };

static struct bridge_config *new_zeroed(void)
{
	struct bridge_config *c = xcalloc(1, sizeof(*c));

	c->refs = 1;
	return c;
}

struct bridge_config *bridge_config_load(const char *path, struct config_errors *e)
{
	struct bridge_config *c = new_zeroed();

	return load_file(&main_file, path, e, c) ? c : bridge_config_unref(c);
}

struct bridge_config *bridge_config_parse(const char *name, const char *text, size_t len,
					  struct config_errors *e)
{
	struct bridge_config *c = new_zeroed();

	return load_text(&main_file, name, text, len, e, c) ? c : bridge_config_unref(c);
}

struct vm_file *vm_file_load(const char *path, struct config_errors *e)
{
	struct vm_file *f = xcalloc(1, sizeof(*f));

	return load_file(&drop_in, path, e, f) ? f : vm_file_free(f);
}

struct vm_file *vm_file_parse(const char *name, const char *text, size_t len,
			      struct config_errors *e)
{
	struct vm_file *f = xcalloc(1, sizeof(*f));

	return load_text(&drop_in, name, text, len, e, f) ? f : vm_file_free(f);
}

struct vm_file *vm_file_free(struct vm_file *f)
{
	if (f)
		table_free(&vm_file_table, f);
	free(f);
	return NULL;
}

/* ---- the whole ---- */

static void set_defaults(const struct table *t, void *to)
{
	struct config_errors none = { 0 };
	struct source s = { .name = "defaults", .e = &none };

	table_read(&s, t, NULL, to);
	config_errors_deinit(&none);
}

struct bridge_config *bridge_config_new(void)
{
	struct bridge_config *c = new_zeroed();

	set_defaults(&bridge_table, c);
	return c;
}

struct bridge_config *bridge_config_ref(struct bridge_config *c)
{
	c->refs++;
	return c;
}

struct bridge_config *bridge_config_unref(struct bridge_config *c)
{
	if (!c || --c->refs > 0)
		return NULL;
	table_free(&bridge_table, c);
	free(c);
	return NULL;
}

void bridge_config_dump(const struct bridge_config *c, FILE *to)
{
	table_dump(&bridge_table, c, to);
}

int bridge_config_check(const struct bridge_config *c, const char *name, struct config_errors *e)
{
	size_t before = e->n + e->more;

	check_bridge_run(name, c, e);
	return e->n + e->more == before ? 0 : -EINVAL;
}

int vm_file_check(const struct vm_file *f, const struct bridge_config *c, const char *name,
		  struct config_errors *e)
{
	size_t before = e->n + e->more;

	check_vm_file_run(name, f, c, e);
	return e->n + e->more == before ? 0 : -EINVAL;
}

/* ---- flags ---- */

/* Frees wrong. */
static int refuse(const char *text, char *wrong, char **why)
{
	*why = xasprintf("%s: %s", text, wrong);
	free(wrong);
	return -EINVAL;
}

static bool is_taken(const struct bridge_config *c, const char *name)
{
	for (size_t i = 0; i < c->n_listeners; i++)
		if (strcmp(c->listeners[i].name, name) == 0)
			return true;
	return false;
}

static char *free_name(const struct bridge_config *c)
{
	for (size_t i = 1;; i++) {
		char *name = xasprintf("listener-%zu", i);

		if (!is_taken(c, name))
			return name;
		free(name);
	}
}

/* NULL, or what is wrong, allocated; l may have its address then. */
static char *read_listener(const struct bridge_config *c, struct entrance_config *l,
			   const char *text)
{
	const struct field *list = flag_row(&bridge_table, "listeners");
	struct entrance_config metrics = { .address = c->metrics };
	char *wrong = NULL;

	if (c->n_listeners >= list->max)
		return xasprintf("too many listeners; expected at most %zu", (size_t)list->max);
	if (field_address(flag_row(list->table, "address"), text, &l->address, &wrong) < 0)
		return wrong;
	wrong = check_entrance_address(l);
	for (size_t i = 0; i < c->n_listeners && !wrong; i++)
		if (check_entrances_clash(l, &c->listeners[i]))
			wrong = xasprintf("is the address of the listener %s already; expected "
					  "another",
					  c->listeners[i].name);
	if (!wrong && check_entrances_clash(l, &metrics))
		wrong = xstrdup("is the address of metrics already; expected another");
	return wrong;
}

int bridge_config_add_listener(struct bridge_config *c, const char *text, char **why)
{
	const struct table *t = flag_row(&bridge_table, "listeners")->table;
	struct entrance_config l = { 0 };
	char *wrong;

	set_defaults(t, &l);
	wrong = read_listener(c, &l, text);
	if (wrong) {
		table_free(t, &l);
		return refuse(text, wrong, why);
	}
	check_entrance_settle(&l);
	l.name = free_name(c);
	c->listeners = xreallocarray(c->listeners, c->n_listeners + 1, sizeof(*c->listeners));
	c->listeners[c->n_listeners++] = l;
	return 0;
}

int bridge_config_set_qgs(struct bridge_config *c, const char *text, char **why)
{
	const struct field *f = flag_row(flag_row(&bridge_table, "qgs")->table, "address");
	struct address a;
	char *wrong;

	if (field_address(f, text, &a, &wrong) < 0)
		return refuse(text, wrong, why);
	address_deinit(&c->qgs.address);
	c->qgs.address = a;
	return 0;
}

static bool is_flag_file(const struct entrance_config *l)
{
	return l->line == 0 && check_entrance_makes_file(l);
}

/* Of all listeners that flags made, and that are files, the member at offset. */
static int set_of_files(struct bridge_config *c, const char *key, const char *text, char **why)
{
	const struct field *f = flag_row(flag_row(&bridge_table, "listeners")->table, key);
	char expected[EXPECTED_MAX];
	bool any = false;

	if (!text[0] || !f->is(text))
		return refuse(text,
			      xasprintf("expected %s",
					field_expected(f, false, expected, sizeof(expected))),
			      why);
	for (size_t i = 0; i < c->n_listeners; i++) {
		char **at = (char **)(void *)((char *)&c->listeners[i] + f->offset);

		if (!is_flag_file(&c->listeners[i]))
			continue;
		any = true;
		free(*at);
		*at = xstrdup(text);
	}
	if (any)
		return 0;
	return refuse(text,
		      xstrdup("no socket that could have it; expected --listen unix:/path or "
			      "--listen hybrid:/path:PORT"),
		      why);
}

int bridge_config_set_word(struct bridge_config *c, const char *key, const char *text, char **why)
{
	return flag_set_word(&bridge_table, c, key, text, why);
}

int bridge_config_set_mode(struct bridge_config *c, const char *text, char **why)
{
	return set_of_files(c, "mode", text, why);
}

int bridge_config_set_group(struct bridge_config *c, const char *text, char **why)
{
	return set_of_files(c, "group", text, why);
}
