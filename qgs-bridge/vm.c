/*
 * vm: a bounded table of VMs.
 *
 * Theory of operation: a hash table by key, and a list of all by last use: a VM goes to its new end
 * when a connection of it begins and when one is over. Whoever is to be forgotten is looked for
 * from the old end on and has no connection; so a line that is in use (fair.h) never goes away.
 *
 * Labels go to the first who come. A VM that comes again without one gets one if there is one left:
 * what was counted for it till then stays in "other", so that no counter ever falls.
 *
 * Owns the VMs; a pointer is good while a connection of it is live. Limits: n_max, labelled_max.
 */
#include "qgs-bridge/vm.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int vm_table_init(struct vm_table *t, unsigned max, unsigned labels)
{
	struct hash_key key;
	struct table table;
	int r = hash_key_new(&key);

	if (r < 0)
		return r;
	r = table_init(&table);
	if (r < 0)
		return r;
	*t = (struct vm_table){
		.table = table, .hash = key, .n_max = max, .labelled_max = labels
	};
	return 0;
}

static void add(struct vm_counts *to, const struct vm_counts *from)
{
	to->connections += from->connections;
	to->answered += from->answered;
	to->failed += from->failed;
	to->streams += from->streams;
	to->waited_ms += from->waited_ms;
	if (from->waited_max_ms > to->waited_max_ms)
		to->waited_max_ms = from->waited_max_ms;
}

struct vm_counts vm_table_other(const struct vm_table *t)
{
	struct vm_counts sum = t->other;

	for (const struct vm *vm = t->oldest; vm; vm = vm->newer)
		if (!vm->labelled)
			add(&sum, &vm->counts);
	return sum;
}

/* ---- by last use ---- */

static void list_take_out(struct vm_table *t, struct vm *vm)
{
	*(vm->older ? &vm->older->newer : &t->oldest) = vm->newer;
	*(vm->newer ? &vm->newer->older : &t->newest) = vm->older;
	vm->older = vm->newer = NULL;
}

static void list_put_newest(struct vm_table *t, struct vm *vm)
{
	vm->older = t->newest;
	*(t->newest ? &t->newest->newer : &t->oldest) = vm;
	t->newest = vm;
}

static void use(struct vm_table *t, struct vm *vm)
{
	list_take_out(t, vm);
	list_put_newest(t, vm);
}

/* ---- coming and going ---- */

static void give_label(struct vm_table *t, struct vm *vm)
{
	if (vm->labelled || t->labelled >= t->labelled_max)
		return;
	add(&t->other, &vm->counts);
	vm->counts = (struct vm_counts){ 0 };
	vm->labelled = true;
	t->labelled++;
}

static void take_label(struct vm_table *t, struct vm *vm)
{
	if (!vm->labelled)
		return;
	vm->labelled = false;
	t->labelled--;
}

static void forget(struct vm_table *t, struct vm *vm)
{
	take_label(t, vm);
	add(&t->other, &vm->counts);
	list_take_out(t, vm);
	table_remove(&t->table, &vm->node);
	t->n--;
	free(vm);
}

/* Until fewer than so many are left, as far as that goes. */
static void make_room(struct vm_table *t, unsigned fewer_than)
{
	struct vm *vm = t->oldest, *newer;

	for (; vm && t->n >= fewer_than; vm = newer) {
		newer = vm->newer;
		if (vm->connections == 0)
			forget(t, vm);
	}
}

void vm_table_limit(struct vm_table *t, unsigned max, unsigned labels)
{
	t->n_max = max;
	t->labelled_max = labels;
	make_room(t, max + 1);
	for (struct vm *vm = t->oldest; vm && t->labelled > labels; vm = vm->newer)
		take_label(t, vm);
}

void vm_table_deinit(struct vm_table *t)
{
	struct vm *vm, *newer;

	for (vm = t->oldest; vm; vm = newer) {
		newer = vm->newer;
		free(vm);
	}
	table_deinit(&t->table);
	memset(t, 0, sizeof(*t));
}

static struct vm *find(const struct vm_table *t, const char *key, uint64_t hash)
{
	struct table_node *n;

	for (n = table_first(&t->table, hash); n; n = table_next(n)) {
		struct vm *vm = (struct vm *)((char *)n - offsetof(struct vm, node));

		if (strcmp(vm->key, key) == 0)
			return vm;
	}
	return NULL;
}

static struct vm *make(struct vm_table *t, const char *key, uint64_t hash)
{
	struct vm *vm;

	make_room(t, t->n_max);
	if (t->n >= t->n_max)
		return NULL;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return NULL;
	snprintf(vm->key, sizeof(vm->key), "%s", key);
	table_insert(&t->table, &vm->node, hash);
	list_put_newest(t, vm);
	t->n++;
	return vm;
}

struct vm *vm_begin(struct vm_table *t, const char *key)
{
	uint64_t hash = hash_string(&t->hash, key);
	struct vm *vm = find(t, key, hash);

	if (!vm)
		vm = make(t, key, hash);
	if (!vm)
		return NULL;
	give_label(t, vm);
	use(t, vm);
	vm->connections++;
	vm->counts.connections++;
	return vm;
}

void vm_over(struct vm_table *t, struct vm *vm)
{
	vm->connections--;
	use(t, vm);
	if (t->n > t->n_max) /* a limit that became less */
		make_room(t, t->n_max + 1);
}
