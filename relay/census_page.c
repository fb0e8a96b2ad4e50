/*
 * census_page: so many things of a list as an answer has.
 *
 * Theory of operation: things come in no order. The smallest ids so far are in a heap whose root is
 * the largest of them; of what is not kept only the number is.
 */
#include "relay/census_page.h"

#include <stdlib.h>

static void exchange(struct census_entry *a, struct census_entry *b)
{
	struct census_entry t = *a;

	*a = *b;
	*b = t;
}

static void sink(struct census_page *p)
{
	size_t i = 0;

	for (;;) {
		size_t largest = i, left = 2 * i + 1, right = left + 1;

		if (left < p->n && p->at[left].id > p->at[largest].id)
			largest = left;
		if (right < p->n && p->at[right].id > p->at[largest].id)
			largest = right;
		if (largest == i)
			return;
		exchange(&p->at[i], &p->at[largest]);
		i = largest;
	}
}

void census_note(struct census_page *p, uint64_t id, const void *what)
{
	const struct census_question *q = p->question;
	struct census_entry *at = p->at;

	if (id <= q->after || (q->one && id != q->one))
		return;
	p->matching++;
	if (!at)
		return; /* out of memory */
	if (p->n == q->limit) {
		if (id >= at[0].id)
			return;
		at[0] = (struct census_entry){ .id = id, .what = what };
		sink(p);
		return;
	}
	at[p->n] = (struct census_entry){ .id = id, .what = what };
	for (size_t i = p->n++; i && at[i].id > at[(i - 1) / 2].id; i = (i - 1) / 2)
		exchange(&at[i], &at[(i - 1) / 2]);
}

static int by_id(const void *a, const void *b)
{
	const struct census_entry *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

void census_sort(struct census_page *p)
{
	if (p->n)
		qsort(p->at, p->n, sizeof(*p->at), by_id);
}

struct census_entry *census_find(const struct census_page *p, uint64_t id)
{
	const struct census_entry key = { .id = id };

	return p->n ? bsearch(&key, p->at, p->n, sizeof(*p->at), by_id) : NULL;
}
