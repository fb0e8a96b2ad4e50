/* A worker that is stuck costs an answer without it; what it reads later changes nothing any more.
 */
#include <event2/event.h>
#include <event2/thread.h>
#include <json-c/json_object.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "relay/census.h"
#include "relay/gateway.h"
#include "relay/worker.h"
#include "tests/unit/check.h"

#define WORKERS 2

static struct gateway g;
static struct event_base *base;
static sem_t in, out; /* it is stuck; it is to go on */
static atomic_uint answered[WORKERS];
static unsigned done, whole;

static void get_stuck(struct worker *w, void *arg)
{
	sem_post(&in);
	sem_wait(&out);
}

static void answer(struct worker *w, struct census_page *page)
{
	answered[w->index]++;
	census_note(page, w->index + 1, NULL);
	page->at[0].facts = json_object_new_int((int)w->index);
}

static void on_done(struct census_result *result, void *user)
{
	const unsigned missing = *(const unsigned *)user;

	CHECK_INT(result->missing, missing);
	CHECK_INT(result->matching, WORKERS - missing);
	CHECK_INT(json_object_array_length(result->list), WORKERS - missing);
	CHECK_INT(result->next, 0);
	done++;
	whole += !missing;
}

static bool ask(struct censuses *c, const unsigned *missing)
{
	const struct census_question question = { .limit = 10 };

	return census_ask(c, &question, answer, on_done, (void *)missing);
}

static void wait_for_done(unsigned n)
{
	while (done < n)
		event_base_loop(base, EVLOOP_ONCE);
	CHECK_INT(done, n);
}

int main(void)
{
	static const unsigned none = 0, one = 1;
	struct censuses *c;

	evthread_use_pthreads();
	base = event_base_new();
	sem_init(&in, 0, 0);
	sem_init(&out, 0, 0);
	g.n_workers = WORKERS;
	for (unsigned i = 0; i < WORKERS; i++) {
		g.workers[i] = worker_new(i);
		CHECK(g.workers[i]);
		CHECK_INT(worker_start(g.workers[i]), 0);
	}
	c = censuses_new(base, &g);
	CHECK(ask(c, &none));
	wait_for_done(1);
	CHECK_INT(answered[1], 1);

	/* as many as there may be wait for one that is stuck; no more are taken, then or afterwards
	 */
	CHECK_INT(worker_post(g.workers[1], get_stuck, NULL), 0);
	sem_wait(&in);
	for (unsigned i = 0; i < CENSUSES_MAX; i++)
		CHECK(ask(c, &one));
	CHECK(!ask(c, &one));
	wait_for_done(1 + CENSUSES_MAX);
	CHECK(!ask(c, &one));
	CHECK_INT(answered[0], 1 + CENSUSES_MAX);

	/* it goes on: what was given up is not done late, and there is room again */
	sem_post(&out);
	CHECK_INT(worker_post(g.workers[1], get_stuck, NULL), 0);
	sem_wait(&in); /* behind all that it had to read */
	sem_post(&out);
	CHECK_INT(answered[1], 1);
	CHECK(ask(c, &none));
	wait_for_done(2 + CENSUSES_MAX);
	CHECK_INT(whole, 2);

	/* the end, with one under way */
	CHECK(ask(c, &none));
	for (unsigned i = 0; i < WORKERS; i++) {
		worker_stop(g.workers[i]);
		worker_join(g.workers[i]);
	}
	CHECK(!censuses_free(c));
	CHECK(!censuses_free(NULL));
	for (unsigned i = 0; i < WORKERS; i++)
		worker_free(g.workers[i]);
	CHECK_INT(done, 2 + CENSUSES_MAX);
	event_base_free(base);
	libevent_global_shutdown();
	return 0;
}
