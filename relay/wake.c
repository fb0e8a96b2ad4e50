/*
 * wake: rousing what lives in another worker.
 *
 * Theory of operation: each wake is in one of two rings of its worker: quiet, or roused and to be
 * run. The first that is roused wakes the worker, which then runs all that are there; those roused
 * meanwhile come next time. All links are under the lock of the worker's rings, so that one may
 * leave at any time: also from the ring that is just being run, which is only its worker's to see.
 *
 * Limits: one place in a ring for each wake, however often it is roused.
 */
#include "relay/wake.h"

#include <stddef.h>

#include "relay/worker.h"

static void make_ring(struct wake *head)
{
	head->next = head->prev = head;
}

static bool is_empty(const struct wake *head)
{
	return head->next == head;
}

static void link_last(struct wake *head, struct wake *k)
{
	k->next = head;
	k->prev = head->prev;
	head->prev->next = k;
	head->prev = k;
}

static void unlink_wake(struct wake *k)
{
	k->prev->next = k->next;
	k->next->prev = k->prev;
}

void wake_enter(struct wake *k, struct worker *w)
{
	k->worker = w;
	k->roused = false;
	pthread_mutex_lock(&w->wakes.lock);
	link_last(&w->wakes.quiet, k);
	pthread_mutex_unlock(&w->wakes.lock);
}

void wake_leave(struct wake *k)
{
	struct worker *w = k->worker;

	if (!w)
		return;
	pthread_mutex_lock(&w->wakes.lock);
	unlink_wake(k);
	pthread_mutex_unlock(&w->wakes.lock);
	k->worker = NULL;
}

void wake_rouse(struct wake *k)
{
	struct wakes *all = &k->worker->wakes;
	bool first = false;

	pthread_mutex_lock(&all->lock);
	if (!k->roused) {
		k->roused = true;
		first = is_empty(&all->roused);
		unlink_wake(k);
		link_last(&all->roused, k);
	}
	pthread_mutex_unlock(&all->lock);
	if (first)
		worker_rouse(k->worker);
}

void wakes_init(struct wakes *all)
{
	pthread_mutex_init(&all->lock, NULL);
	make_ring(&all->quiet);
	make_ring(&all->roused);
}

/* The first of a ring, quiet again; NULL: none. */
static struct wake *calm_first(struct wakes *all, struct wake *head)
{
	struct wake *k = NULL;

	pthread_mutex_lock(&all->lock);
	if (!is_empty(head)) {
		k = head->next;
		k->roused = false;
		unlink_wake(k);
		link_last(&all->quiet, k);
	}
	pthread_mutex_unlock(&all->lock);
	return k;
}

void wakes_run(struct wakes *all)
{
	struct wake now, *k;

	make_ring(&now);
	pthread_mutex_lock(&all->lock);
	while (!is_empty(&all->roused)) {
		k = all->roused.next;
		unlink_wake(k);
		link_last(&now, k);
	}
	pthread_mutex_unlock(&all->lock);
	while ((k = calm_first(all, &now)))
		k->run(k);
}

void wakes_deinit(struct wakes *all)
{
	struct wake *k;

	while ((k = calm_first(all, &all->roused)) || (k = calm_first(all, &all->quiet)))
		k->orphaned(k);
	pthread_mutex_destroy(&all->lock);
}
