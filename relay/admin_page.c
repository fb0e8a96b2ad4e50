/*
 * admin_page: lists that are told page by page.
 *
 * Theory of operation: pages go by number: what comes or goes between two of them makes no other
 * thing be missed or told twice. attest-relay's are filled by its workers (admin_live); here are
 * those of programs with one thread, which note all and describe what the page has kept.
 */
#include "relay/admin_page.h"

#include <stdlib.h>
#include <string.h>

#include "relay/admin.h"
#include "relay/admin_json.h"
#include "relay/census_page.h"

#define PAGE_DEFAULT 100

/* False: answered with 400. */
static bool take_text(struct admin_request *r, const char *name, char to[CENSUS_TEXT])
{
	const char *text = admin_query(r, name);

	if (!text)
		return true;
	if (strlen(text) < CENSUS_TEXT) {
		memcpy(to, text, strlen(text) + 1);
		return true;
	}
	admin_fail(r, 400, "bad-parameter", "%s: too long", name);
	return false;
}

bool admin_page_take(struct admin_request *r, struct census_question *q)
{
	uint64_t limit = PAGE_DEFAULT;

	*q = (struct census_question){ 0 };
	if (!admin_query_number(r, "after", UINT64_MAX, &q->after) ||
	    !admin_query_number(r, "limit", CENSUS_PAGE_MAX, &limit) ||
	    !admin_query_number(r, "tunnel", UINT64_MAX, &q->tunnel) ||
	    !take_text(r, "service", q->service) || !take_text(r, "owner", q->owner) ||
	    !take_text(r, "client", q->client))
		return false;
	q->limit = limit ? limit : 1;
	return true;
}

static void reply(struct admin_request *r, const char *key, const struct census_page *page)
{
	struct json_object *o = json_object_new_object(), *list = admin_json_list(o, key);

	for (size_t i = 0; i < page->n; i++)
		json_object_array_add(list, page->at[i].facts);
	admin_json_number(o, "remaining", page->matching - page->n);
	if (page->matching > page->n && page->n)
		admin_json_number(o, "next", page->at[page->n - 1].id);
	admin_reply_json(r, 200, o);
}

void admin_page_answer(struct admin_request *r, const char *key,
		       const struct admin_page_source *source, void *user)
{
	struct census_question q;
	struct census_page page = { .question = &q };

	if (!admin_page_take(r, &q))
		return;
	page.at = calloc(q.limit, sizeof(*page.at));
	if (!page.at) {
		admin_reply(r, 500, NULL, NULL);
		return;
	}
	source->note(&page, user);
	census_sort(&page);
	source->describe(&page, user);
	reply(r, key, &page);
	free(page.at);
}
