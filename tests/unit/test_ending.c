/* ending: which signal begins a drain, which is the same one once more, which cuts it short. */
#include "relay/ending.h"
#include "tests/unit/check.h"

static void test_one_and_its_echo(void)
{
	struct ending e = { 0 };

	CHECK(ending_signalled(&e, 5000) == ENDING_BEGIN);
	CHECK(ending_signalled(&e, 5000) == ENDING_SAME);
	CHECK(ending_signalled(&e, 5000 + ENDING_SAME_MS - 1) == ENDING_SAME);
	/* counted from the first: a steady stream of them does not put it off */
	CHECK(ending_signalled(&e, 5000 + ENDING_SAME_MS) == ENDING_NOW);
	CHECK(ending_signalled(&e, 90000) == ENDING_NOW);
}

static void test_asked_for(void)
{
	struct ending e = { 0 };

	CHECK(ending_asked(&e));
	CHECK(!ending_asked(&e));
	/* systemd stops what an operator drains: it goes on */
	CHECK(ending_signalled(&e, 70000) == ENDING_SAME);
	CHECK(!ending_asked(&e));
	CHECK(ending_signalled(&e, 70500) == ENDING_SAME);
	CHECK(ending_signalled(&e, 71000) == ENDING_NOW);
}

static void test_asked_after_a_signal(void)
{
	struct ending e = { 0 };

	CHECK(ending_signalled(&e, 0) == ENDING_BEGIN);
	CHECK(!ending_asked(&e));
	CHECK(ending_signalled(&e, 2000) == ENDING_NOW);
}

int main(void)
{
	test_one_and_its_echo();
	test_asked_for();
	test_asked_after_a_signal();
	return 0;
}
