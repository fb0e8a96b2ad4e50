/*
 * config: attest-relay's config: loading, references, looking things up.
 *
 * Theory of operation: a file is read by load.c; any error throws all of it away. The struct lies
 * inside a box with its reference count and its indexes: arrays of pointers into the struct, sorted
 * by name, made once and never changed. So a config may be read by any thread that holds a
 * reference.
 */
#include "config/config.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/flag.h"
#include "config/load.h"
#include "config/schema.h"
#include "config/xalloc.h"

struct entry {
	const char *name; /* in lower case, as the reader stores names */
	const void *value;
};

struct index {
	struct entry *at;
	size_t n;
};

struct box {
	atomic_uint refs;
	struct index owners, services, hostnames, listeners;
	struct relay_config config;
};

static struct box *box_of(const struct relay_config *c)
{
	return (struct box *)((char *)(uintptr_t)c - offsetof(struct box, config));
}

static int compare_entries(const void *a, const void *b)
{
	return strcasecmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void sort(struct index *index)
{
	if (index->n)
		qsort(index->at, index->n, sizeof(*index->at), compare_entries);
}

static const void *look_up(const struct index *index, const char *name)
{
	struct entry key = { .name = name };
	const struct entry *found;

	if (!index->n)
		return NULL;
	found = bsearch(&key, index->at, index->n, sizeof(*index->at), compare_entries);
	return found ? found->value : NULL;
}

static void make_indexes(struct box *box)
{
	const struct relay_config *c = &box->config;
	size_t hostnames = 0;

	for (size_t i = 0; i < c->n_services; i++)
		hostnames += c->services[i].hostnames.n;
	box->owners.at = xcalloc(c->n_owners, sizeof(struct entry));
	box->services.at = xcalloc(c->n_services, sizeof(struct entry));
	box->hostnames.at = xcalloc(hostnames, sizeof(struct entry));
	box->listeners.at = xcalloc(c->n_listeners, sizeof(struct entry));
	for (size_t i = 0; i < c->n_listeners; i++)
		box->listeners.at[box->listeners.n++] =
			(struct entry){ c->listeners[i].name, &c->listeners[i] };
	for (size_t i = 0; i < c->n_owners; i++)
		box->owners.at[box->owners.n++] =
			(struct entry){ c->owners[i].name, &c->owners[i] };
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_config *service = &c->services[i];

		box->services.at[box->services.n++] = (struct entry){ service->name, service };
		for (size_t j = 0; j < service->hostnames.n; j++)
			box->hostnames.at[box->hostnames.n++] =
				(struct entry){ service->hostnames.at[j], service };
	}
	sort(&box->listeners);
	sort(&box->owners);
	sort(&box->services);
	sort(&box->hostnames);
}

/* The indexes come first: relations are looked up by them. */
static void check_file(const struct source *s, void *of, const struct node *root, bool clean)
{
	if (clean)
		make_indexes(box_of(of));
	check_relay(s, of, root, clean);
}

static const struct load_kind kind = { &relay_table, check_file };

static struct relay_config *new_zeroed(void)
{
	struct box *box = xcalloc(1, sizeof(*box));

	atomic_init(&box->refs, 1);
	return &box->config;
}

struct relay_config *relay_config_parse(const char *name, const char *text, size_t len,
					struct config_errors *e)
{
	struct relay_config *c = new_zeroed();

	return load_text(&kind, name, text, len, e, c) ? c : relay_config_unref(c);
}

struct relay_config *relay_config_load(const char *path, struct config_errors *e)
{
	struct relay_config *c = new_zeroed();

	return load_file(&kind, path, e, c) ? c : relay_config_unref(c);
}

struct relay_config *relay_config_ref(struct relay_config *c)
{
	atomic_fetch_add_explicit(&box_of(c)->refs, 1, memory_order_relaxed);
	return c;
}

struct relay_config *relay_config_unref(struct relay_config *c)
{
	struct box *box;

	if (!c)
		return NULL;
	box = box_of(c);
	if (atomic_fetch_sub_explicit(&box->refs, 1, memory_order_acq_rel) > 1)
		return NULL;
	table_free(&relay_table, c);
	free(box->listeners.at);
	free(box->owners.at);
	free(box->services.at);
	free(box->hostnames.at);
	free(box);
	return NULL;
}

const char *relay_config_differs(const struct relay_config *a, const struct relay_config *b)
{
	for (size_t i = 0; i < relay_table.n; i++) {
		const struct field *f = &relay_table.fields[i];

		if (f->flags & FIELD_RESTART && !table_same(&relay_table, f->key, a, b))
			return f->key;
	}
	return NULL;
}

bool relay_config_same_service(const struct service_config *a, const struct service_config *b)
{
	return table_equal(&relay_service_table, a, b);
}

int relay_config_set_word(struct relay_config *c, const char *key, const char *text, char **why)
{
	return flag_set_word(&relay_table, c, key, text, why);
}

void relay_config_dump(const struct relay_config *c, FILE *to)
{
	table_dump(&relay_table, c, to);
}

const struct service_config *relay_config_service(const struct relay_config *c, const char *name)
{
	return look_up(&box_of(c)->services, name);
}

const struct service_config *relay_config_hostname(const struct relay_config *c, const char *host)
{
	return look_up(&box_of(c)->hostnames, host);
}

const struct owner_config *relay_config_owner(const struct relay_config *c, const char *name)
{
	return look_up(&box_of(c)->owners, name);
}

const struct listener_config *relay_config_listener(const struct relay_config *c, const char *name)
{
	return look_up(&box_of(c)->listeners, name);
}
