/*
 * wake: rousing what lives in another worker, any number of times, without allocating.
 *
 * worker_post carries a letter once and may fail for want of memory. A wake is embedded in what is
 * roused and cannot fail; roused again before it has run, it runs once. Its owner also learns that
 * the worker is freed while it is still there.
 */
#ifndef RELAY_WAKE_H
#define RELAY_WAKE_H

#include <pthread.h>
#include <stdbool.h>

struct worker;

struct wake {
	void (*run)(struct wake *k);	  /* from the worker's loop; it may leave */
	void (*orphaned)(struct wake *k); /* the worker is being freed; it must leave */
	struct worker *worker;		  /* NULL: in none */
	struct wake *next, *prev;	  /* a ring */
	bool roused;
};

/* All that live in one worker. */
struct wakes {
	pthread_mutex_t lock;
	struct wake quiet, roused; /* the rings' heads */
};

/* In the worker's own thread. */
void wake_enter(struct wake *k, struct worker *w);
void wake_leave(struct wake *k); /* in none: nothing */

/* Any thread; the caller sees to it that k does not leave meanwhile. */
void wake_rouse(struct wake *k);

/* For the worker. */
void wakes_init(struct wakes *all);
void wakes_run(struct wakes *all);
void wakes_deinit(struct wakes *all); /* tells those who are left */

#endif
