/* thread: waits for a thread's end, but not for ever. */
#ifndef RELAY_THREAD_H
#define RELAY_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/*
 * False: it runs on after ms. By a clock that nobody sets: pthread_timedjoin_np(3) goes by the wall
 * clock. ThreadSanitizer does not know pthread_clockjoin_np(3), and would take what the thread did
 * for a race with who has joined it; there is no bound in its builds.
 */
static inline bool thread_join_within(pthread_t thread, uint64_t ms)
{
#ifdef __SANITIZE_THREAD__
	return pthread_join(thread, NULL) == 0;
#else
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) == 0;
#endif
}

#endif
