/*
 * census: asks all workers what they hold, from the main thread, which does not wait for it.
 *
 * Theory of operation: a census has a page for each worker and posts a letter to each. Whoever is
 * the last to answer makes the main thread's event active; that merges the pages by id. The lock is
 * for the count and for abandoned alone: a page is its worker's until that has counted down, and
 * the main thread's afterwards. After CENSUS_WAIT_MS the census is abandoned: it is answered with
 * what there is, and lies in a list until its last letter has been read, so no letter ever finds it
 * gone.
 */
#include "relay/census.h"

#include <event2/event.h>
#include <json-c/json_object.h>
#include <pthread.h>
#include <stdlib.h>

#include "relay/gateway.h"
#include "relay/worker.h"

struct census {
	struct censuses *in;
	struct census *next, **at; /* in one of the lists of in */
	struct census_question question;
	census_answer *answer;
	census_done *done;
	void *user;
	struct event *ready, *late;
	pthread_mutex_t lock;
	unsigned left;  /* workers that have not answered; under lock */
	bool abandoned; /* under lock: nobody is to be woken */
	bool *answered; /* of each worker; under lock */
	unsigned n;
	struct census_page page[];
};

struct censuses {
	struct event_base *base;
	struct gateway *gateway;
	struct census *live, *left_behind;
	unsigned n; /* of both */
};

/* ---- a worker's part ---- */

static void on_letter(struct worker *w, void *arg)
{
	struct census *c = arg;
	struct census_page *page = &c->page[w->index];
	bool late;

	pthread_mutex_lock(&c->lock);
	late = c->abandoned;
	pthread_mutex_unlock(&c->lock);
	if (!late) { /* else nobody waits for it: nothing is to be closed after a "no" */
		page->at = calloc(c->question.limit, sizeof(*page->at));
		c->answer(w, page);
	}
	pthread_mutex_lock(&c->lock);
	c->answered[w->index] = page->at;
	if (--c->left == 0 && !c->abandoned)
		event_active(c->ready, EV_TIMEOUT, 0);
	pthread_mutex_unlock(&c->lock); /* from here on c may be gone */
}

/* ---- the main thread ---- */

static void enlist(struct census *c, struct census **list)
{
	c->next = *list;
	c->at = list;
	if (c->next)
		c->next->at = &c->next;
	*list = c;
}

static void delist(struct census *c)
{
	*c->at = c->next;
	if (c->next)
		c->next->at = c->at;
}

/* No letter is on its way any more, or will be read. */
static void census_free(struct census *c)
{
	delist(c);
	c->in->n--;
	for (unsigned i = 0; i < c->n; i++) {
		for (size_t j = 0; j < c->page[i].n; j++)
			json_object_put(c->page[i].at[j].facts);
		free(c->page[i].at);
	}
	if (c->ready)
		event_free(c->ready);
	if (c->late)
		event_free(c->late);
	pthread_mutex_destroy(&c->lock);
	free(c->answered);
	free(c);
}

static int by_id(const void *a, const void *b)
{
	const struct census_entry *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

/* All pages that are there as one, in order. */
static struct census_entry *merge(struct census *c, const bool *there, size_t *n)
{
	struct census_entry *all;
	size_t room = 1;

	for (unsigned i = 0; i < c->n; i++)
		room += there[i] ? c->page[i].n : 0;
	all = calloc(room, sizeof(*all));
	*n = 0;
	for (unsigned i = 0; all && i < c->n; i++)
		for (size_t j = 0; there[i] && j < c->page[i].n; j++)
			all[(*n)++] = c->page[i].at[j];
	if (all)
		qsort(all, *n, sizeof(*all), by_id);
	return all;
}

/* there: which pages are whole. */
static void conclude(struct census *c, const bool *there)
{
	struct census_result result = { .list = json_object_new_array() };
	size_t n = 0, limit = c->question.limit;
	struct census_entry *all = merge(c, there, &n);

	for (size_t i = 0; all && result.list && i < n && i < limit; i++)
		if (all[i].facts)
			json_object_array_add(result.list, json_object_get(all[i].facts));
	for (unsigned i = 0; i < c->n; i++) {
		result.missing += !there[i];
		result.matching += there[i] ? c->page[i].matching : 0;
	}
	if (all && result.matching > limit && n >= limit)
		result.next = all[limit - 1].id;
	free(all);
	c->done(&result, c->user);
	json_object_put(result.list);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct census *c = arg;

	pthread_mutex_lock(&c->lock); /* the last worker has let go of it then */
	pthread_mutex_unlock(&c->lock);
	conclude(c, c->answered);
	census_free(c);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
	struct census *c = arg;
	bool there[WORKERS_MAX] = { 0 };

	pthread_mutex_lock(&c->lock);
	c->abandoned = true;
	for (unsigned i = 0; i < c->n; i++)
		there[i] = c->answered[i];
	pthread_mutex_unlock(&c->lock);
	event_del(c->ready);
	delist(c);
	enlist(c, &c->in->left_behind);
	conclude(c, there);
}

/* Those whose last letter was read after all. */
static void tidy(struct censuses *all)
{
	struct census *next;

	for (struct census *c = all->left_behind; c; c = next) {
		bool over;

		next = c->next;
		pthread_mutex_lock(&c->lock);
		over = c->left == 0;
		pthread_mutex_unlock(&c->lock);
		if (over)
			census_free(c);
	}
}

static struct census *census_new(struct censuses *all, unsigned n)
{
	struct census *c = calloc(1, sizeof(*c) + n * sizeof(c->page[0]));

	if (!c)
		return NULL;
	c->in = all;
	c->n = n;
	pthread_mutex_init(&c->lock, NULL);
	enlist(c, &all->live);
	all->n++;
	c->answered = calloc(n, sizeof(*c->answered));
	c->ready = event_new(all->base, -1, 0, on_ready, c);
	c->late = evtimer_new(all->base, on_late, c);
	if (c->answered && c->ready && c->late)
		return c;
	census_free(c);
	return NULL;
}

bool census_ask(struct censuses *all, const struct census_question *question, census_answer *answer,
		census_done *done, void *user)
{
	const struct timeval wait = { .tv_sec = CENSUS_WAIT_MS / 1000,
				      .tv_usec = CENSUS_WAIT_MS % 1000 * 1000 };
	const struct gateway *g = all->gateway;
	struct census *c;

	tidy(all);
	c = all->n < CENSUSES_MAX ? census_new(all, g->n_workers) : NULL;
	if (!c)
		return false;
	c->question = *question;
	c->answer = answer;
	c->done = done;
	c->user = user;
	c->left = c->n;
	evtimer_add(c->late, &wait);
	for (unsigned i = 0; i < c->n; i++) {
		c->page[i].question = &c->question;
		if (worker_post(g->workers[i], on_letter, c) == 0)
			continue;
		pthread_mutex_lock(&c->lock); /* one that does not answer */
		c->left--;
		pthread_mutex_unlock(&c->lock);
	}
	return true;
}

struct censuses *censuses_new(struct event_base *base, struct gateway *g)
{
	struct censuses *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->base = base;
	c->gateway = g;
	return c;
}

static void free_all(struct census *c)
{
	struct census *next;

	for (; c; c = next) {
		next = c->next;
		census_free(c);
	}
}

struct censuses *censuses_free(struct censuses *c)
{
	if (!c)
		return NULL;
	free_all(c->live);
	free_all(c->left_behind);
	free(c);
	return NULL;
}
