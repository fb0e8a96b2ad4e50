/*
 * test_vm: who is remembered, who is forgotten, and that no count is lost with them.
 */
#include "qgs-bridge/vm.h"
#include "tests/unit/check.h"

static struct vm_table t;

static void begin(unsigned max, unsigned labels)
{
	CHECK_INT(vm_table_init(&t, max, labels), 0);
}

static struct vm *come(unsigned i)
{
	char key[WHO_KEY_MAX];

	snprintf(key, sizeof(key), "cid:%u", i);
	return vm_begin(&t, key);
}

static struct vm *come_and_go(unsigned i)
{
	struct vm *vm = come(i);

	CHECK(vm);
	vm->counts.answered++;
	vm->counts.waited_max_ms = i;
	vm_over(&t, vm);
	return vm;
}

static void test_same(void)
{
	struct vm *a, *b;

	begin(8, 8);
	a = come(1);
	b = come(1);
	CHECK(a == b);
	CHECK_INT(a->connections, 2);
	CHECK_STR(a->key, "cid:1");
	CHECK(come(2) != a);
	CHECK_INT(t.n, 2);
	vm_over(&t, a);
	vm_over(&t, a);
	CHECK(come(1) == a); /* remembered */
	CHECK_INT(a->counts.connections, 3);
	vm_table_deinit(&t);
}

/* The least recently used of those without a connection. */
static void test_forgetting(void)
{
	struct vm *one, *four;

	begin(4, 4);
	one = come(1);
	come_and_go(2);
	come_and_go(3);
	four = come_and_go(4);
	come_and_go(2);
	CHECK(come(5)); /* in place of 3 */
	CHECK_INT(t.n, 4);
	CHECK_INT(t.other.answered, 1);
	CHECK_INT(t.other.waited_max_ms, 3);
	CHECK(come(4) == four);
	CHECK(come(1) == one);
	CHECK(come(2));
	CHECK(!come(6)); /* all are live */
	vm_over(&t, four);
	CHECK(come(6));
	CHECK_INT(t.n, 4);
	CHECK_INT(t.other.answered, 2);
	vm_table_deinit(&t);
}

static uint64_t count_answered(unsigned *labelled)
{
	uint64_t sum = vm_table_other(&t).answered;

	*labelled = 0;
	for (struct vm *vm = t.oldest; vm; vm = vm->newer) {
		sum += vm->labelled ? vm->counts.answered : 0;
		*labelled += vm->labelled;
	}
	return sum;
}

/* Many come by: nothing is lost, "other" never falls, labels are bounded and used up. */
static void test_counts(void)
{
	unsigned labelled;
	uint64_t other = 0;

	begin(16, 5);
	for (unsigned i = 0; i < 3000; i++) {
		come_and_go(i * 7 % 23);
		CHECK_INT(count_answered(&labelled), i + 1);
		CHECK_INT(labelled, t.labelled);
		CHECK_INT(labelled, i < 5 ? i + 1 : 5);
		CHECK(vm_table_other(&t).answered >= other);
		other = vm_table_other(&t).answered;
	}
	CHECK_INT(t.n, 16);
	CHECK_INT(vm_table_other(&t).waited_max_ms, 22);
	vm_table_deinit(&t);
}

static void test_limit(void)
{
	struct vm *live[3];
	unsigned labelled;

	begin(8, 8);
	for (unsigned i = 0; i < 3; i++)
		live[i] = come(i);
	for (unsigned i = 3; i < 8; i++)
		come_and_go(i);
	vm_table_limit(&t, 2, 1);
	CHECK_INT(t.n, 3); /* those that are live */
	CHECK_INT(count_answered(&labelled), 5);
	CHECK_INT(labelled, 1);
	CHECK(!come(9));
	CHECK(come(1) == live[1]); /* known ones may come */
	vm_over(&t, live[1]);
	vm_over(&t, live[2]);
	CHECK_INT(t.n, 2);
	vm_over(&t, live[0]);
	CHECK_INT(t.n, 2);
	vm_table_limit(&t, 9, 9);
	CHECK(come(9));
	CHECK_INT(t.n, 3);
	vm_table_deinit(&t);
}

int main(void)
{
	test_same();
	test_forgetting();
	test_counts();
	test_limit();
	return 0;
}
