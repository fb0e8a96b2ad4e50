/*
 * census: asks all workers what they hold, from the main thread, which does not wait for it.
 *
 * Each worker fills a bounded page in its own thread, between two of its events; the last one wakes
 * the main thread. A worker that is stuck costs an answer without it, after CENSUS_WAIT_MS.
 * Thread: the main one, but for answer, which is the worker's.
 */
#ifndef RELAY_CENSUS_H
#define RELAY_CENSUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/census_page.h"

struct censuses;
struct event_base;
struct gateway;
struct json_object;
struct worker;

#define CENSUS_WAIT_MS 5000
#define CENSUSES_MAX 64 /* under way, or left behind by a stuck worker; as many as connections */

struct census_result {
	struct json_object *list; /* by id; done's to take (set NULL) */
	uint64_t next;            /* what to ask for after; 0: that was all */
	uint64_t matching;        /* how many there were after question.after */
	unsigned missing;         /* workers that did not answer */
};

typedef void census_answer(struct worker *w, struct census_page *page);
typedef void census_done(struct census_result *result, void *user);

/* NULL: out of memory. */
struct censuses *censuses_new(struct event_base *base, struct gateway *g);
/* The workers' threads are over. What is under way is dropped. NULL is fine; returns NULL. */
struct censuses *censuses_free(struct censuses *c);

/* done is called once, later. False: out of memory, or too many; it is not called. */
bool census_ask(struct censuses *c, const struct census_question *question, census_answer *answer,
		census_done *done, void *user);

#endif
