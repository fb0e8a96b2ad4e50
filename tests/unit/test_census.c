/* A page of a census keeps the smallest numbers, however they come, and counts all. */
#include <stdint.h>

#include "relay/census.h"
#include "tests/unit/check.h"

#define THINGS 1000

static void page_of(size_t limit, uint64_t after, uint64_t step)
{
	const struct census_question question = { .limit = limit, .after = after };
	struct census_page page = { .question = &question };
	uint64_t first = after < THINGS ? after + 1 : 0;
	const size_t there = after < THINGS ? THINGS - after : 0;

	page.at = calloc(limit, sizeof(*page.at));
	CHECK(page.at);
	/* every number once, in an order that jumps about: step has no factor of THINGS + 1 */
	for (uint64_t i = 1, id = step; i <= THINGS; i++, id = (id + step) % (THINGS + 1))
		census_note(&page, id, NULL);
	CHECK_INT(page.matching, there);
	CHECK_INT(page.n, there < limit ? there : limit);
	census_sort(&page);
	for (size_t i = 0; i < page.n; i++) {
		CHECK_INT(page.at[i].id, first + i);
		CHECK(census_find(&page, first + i) == &page.at[i]);
	}
	CHECK(!census_find(&page, first + page.n));
	CHECK(!census_find(&page, after));
	free(page.at);
}

static void one(void)
{
	const struct census_question question = { .limit = 10, .one = 7 };
	struct census_entry at[10] = { 0 };
	struct census_page page = { .question = &question, .at = at };

	for (uint64_t id = 1; id < 20; id++)
		census_note(&page, id, NULL);
	CHECK_INT(page.n, 1);
	CHECK_INT(page.at[0].id, 7);
}

int main(void)
{
	const size_t limits[] = { 1, 2, 3, 10, 999, 1000, 1001 };
	const uint64_t steps[] = { 1, 2, 3, 500, 1000 };

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
		for (size_t j = 0; j < sizeof(steps) / sizeof(steps[0]); j++) {
			page_of(limits[i], 0, steps[j]);
			page_of(limits[i], 990, steps[j]);
			page_of(limits[i], THINGS, steps[j]);
		}
	one();
	return 0;
}
