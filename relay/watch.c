/*
 * watch: do the workers' loops still turn?
 *
 * Theory of operation: a worker has at most one letter of ours in its mailbox. Answering is one
 * store; only what has been answered is asked again, so that a late answer ends being stuck.
 * That a post fails for want of memory says nothing about the loop: it is tried again.
 */
#include "relay/watch.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "relay/log.h"
#include "relay/worker.h"

struct watched {
	struct worker *worker;
	atomic_bool asked; /* and not yet answered */
	bool stuck;
};

struct watch {
	atomic_uint stuck;
	unsigned n;
	struct watched at[];
};

struct watch *watch_new(struct worker *const *workers, unsigned n)
{
	struct watch *w = calloc(1, sizeof(*w) + n * sizeof(struct watched));

	if (!w)
		return NULL;
	w->n = n;
	for (unsigned i = 0; i < n; i++)
		w->at[i].worker = workers[i];
	return w;
}

static void answer(struct worker *worker, void *arg)
{
	struct watched *one = arg;

	atomic_store(&one->asked, false);
}

static void judge(struct watched *one, bool stuck)
{
	if (stuck && !one->stuck)
		log_error("worker %u is stuck: its loop has not turned since it was last looked "
			  "at; its streams stand still",
			  one->worker->index);
	else if (!stuck && one->stuck)
		log_warning("worker %u turns again", one->worker->index);
	one->stuck = stuck;
}

bool watch_look(struct watch *w)
{
	unsigned stuck = 0;

	for (unsigned i = 0; i < w->n; i++) {
		struct watched *one = &w->at[i];

		judge(one, atomic_load(&one->asked));
		stuck += one->stuck;
		if (one->stuck)
			continue;
		atomic_store(&one->asked, true);
		if (worker_post(one->worker, answer, one) < 0)
			atomic_store(&one->asked, false);
	}
	atomic_store(&w->stuck, stuck);
	return stuck == 0;
}

unsigned watch_stuck(const struct watch *w)
{
	return atomic_load(&w->stuck);
}

struct watch *watch_free(struct watch *w)
{
	free(w);
	return NULL;
}
