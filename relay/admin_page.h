/* admin_page: lists that are told page by page: which page is asked for, and the answer. */
#ifndef RELAY_ADMIN_PAGE_H
#define RELAY_ADMIN_PAGE_H

#include <stdbool.h>

struct admin_request;
struct census_page;
struct census_question;

/* From after, limit and the filters that questions have. False: answered with 400. */
bool admin_page_take(struct admin_request *r, struct census_question *q);

/* For who knows all that there is at once: things that are noted, then described. */
struct admin_page_source {
	void (*note)(struct census_page *page, void *user);
	/* Facts of each entry, which is found by census_find, or by what was noted. */
	void (*describe)(struct census_page *page, void *user);
};
/* {key: [...], "remaining", "next"} */
void admin_page_answer(struct admin_request *r, const char *key,
		       const struct admin_page_source *source, void *user);

#endif
