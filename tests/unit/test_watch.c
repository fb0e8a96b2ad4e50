/* watch: a worker whose loop hangs is noticed, whoever hangs it; and when it goes on. */
#include <semaphore.h>

#include "relay/watch.h"
#include "relay/worker.h"
#include "tests/unit/check.h"

static sem_t hanging, let_go;

static void hang(struct worker *w, void *arg)
{
	sem_post(&hanging);
	while (sem_wait(&let_go) < 0)
		;
}

static void pass(struct worker *w, void *arg)
{
	sem_post(arg);
}

/* Waits until this worker has run all that was posted to it. */
static void flush(struct worker *w)
{
	sem_t passed;

	sem_init(&passed, 0, 0);
	CHECK(worker_post(w, pass, &passed) == 0);
	while (sem_wait(&passed) < 0)
		;
	sem_destroy(&passed);
}

int main(void)
{
	struct worker *workers[2];
	struct watch *w;

	sem_init(&hanging, 0, 0);
	sem_init(&let_go, 0, 0);
	for (unsigned i = 0; i < 2; i++) {
		workers[i] = worker_new(i);
		CHECK(workers[i] && worker_start(workers[i]) == 0);
	}
	w = watch_new(workers, 2);
	CHECK(w);

	CHECK(watch_look(w)); /* nobody was asked before */
	flush(workers[0]);
	flush(workers[1]);
	CHECK(watch_look(w));
	flush(workers[0]);
	flush(workers[1]);

	CHECK(worker_post(workers[1], hang, NULL) == 0);
	while (sem_wait(&hanging) < 0)
		;
	CHECK(watch_look(w)); /* it had answered until now */
	flush(workers[0]);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(!watch_look(w));
		CHECK(watch_stuck(w) == 1);
		flush(workers[0]);
	}
	sem_post(&let_go);
	flush(workers[1]);
	CHECK(watch_look(w));
	CHECK(watch_stuck(w) == 0);

	for (unsigned i = 0; i < 2; i++) {
		worker_stop(workers[i]);
		worker_join(workers[i]);
		worker_free(workers[i]);
	}
	watch_free(w);
	return 0;
}
