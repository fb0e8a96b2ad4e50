/*
 * census_page: so many things of a list as an answer has, those with the smallest ids. Pure.
 *
 * A worker fills one for a census; a program with one thread answers with one alone.
 */
#ifndef RELAY_CENSUS_PAGE_H
#define RELAY_CENSUS_PAGE_H

#include <stddef.h>
#include <stdint.h>

struct json_object;

#define CENSUS_PAGE_MAX 1000 /* things in an answer: what a worker spends at a time is bounded */
#define CENSUS_TEXT 256

struct census_question {
	uint64_t after;  /* only things whose number is larger; ... */
	size_t limit;    /* ... the first so many of them; 1 to CENSUS_PAGE_MAX */
	uint64_t one;    /* only this one; 0: all */
	uint64_t tunnel; /* streams: in this tunnel; 0: any */
	char service[CENSUS_TEXT], owner[CENSUS_TEXT], client[CENSUS_TEXT]; /* "": any */
};

struct census_entry {
	uint64_t id;
	const void *what;
	struct json_object *facts;
};

/* One worker's. The smallest ids so far are kept, limit of them, in no order. */
struct census_page {
	const struct census_question *question;
	struct census_entry *at;
	size_t n;
	uint64_t matching; /* after question.after; those that are not kept, too */
};

/* One more thing there is. what: for answer, to find it again. */
void census_note(struct census_page *p, uint64_t id, const void *what);
/* The entry of a thing that is kept, once all are noted and census_sort was called. Or NULL. */
void census_sort(struct census_page *p);
struct census_entry *census_find(const struct census_page *p, uint64_t id);

#endif
