/* thread: waits for a thread's end, but not for ever. */
#ifndef RELAY_THREAD_H
#define RELAY_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/*
 * pthread_timedjoin_np(3) goes by the wall clock: whoever sets that ends the wait. But it is the
 * one that ThreadSanitizer knows; without it, what a thread did is a race with who has joined it.
 */
#ifdef __SANITIZE_THREAD__
#define THREAD_JOIN_CLOCK CLOCK_REALTIME
#define thread_join_until(thread, until) pthread_timedjoin_np(thread, NULL, until)
#else
#define THREAD_JOIN_CLOCK CLOCK_MONOTONIC
#define thread_join_until(thread, until) pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, until)
#endif

/* False: it runs on after ms. */
static inline bool thread_join_within(pthread_t thread, uint64_t ms)
{
	struct timespec until;

	clock_gettime(THREAD_JOIN_CLOCK, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return thread_join_until(thread, &until) == 0;
}

#endif
