/*
 * failures: the last refusals, and ends that were none in order.
 *
 * Theory of operation: a ring under a lock that a writer only tries: no worker ever waits for
 * another, or for a reader, because of it.
 */
#include "relay/failures.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "relay/audit.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct failure ring[FAILURES_MAX]; /* under lock, as is: */
static uint64_t noted;
static atomic_uint_fast64_t unnoted;

static bool is_failure(const struct audit_record *r)
{
	switch (r->kind) {
	case AUDIT_STREAM_REFUSED:
	case AUDIT_CONNECTION_REFUSED:
	case AUDIT_SESSION_REFUSED:
		return true;
	case AUDIT_STREAM_END:
	case AUDIT_SESSION_END:
		/* clients leave and agents go all day long */
		return r->why != REASON_EOF && r->why != REASON_RESET && r->why != REASON_IDLE &&
		       r->why != REASON_GOING_AWAY && r->why != REASON_REPLACED &&
		       r->why != REASON_CLOSED_EARLY && r->why != REASON_NONE;
	default:
		return false;
	}
}

static void keep(char *to, size_t size, const char *text)
{
	snprintf(to, size, "%s", text ? text : "");
}

void failures_note(const struct audit_record *r)
{
	struct timespec now;
	struct failure *f;

	if (!is_failure(r))
		return;
	if (pthread_mutex_trylock(&lock) != 0) {
		atomic_fetch_add_explicit(&unnoted, 1, memory_order_relaxed);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	f = &ring[noted++ % FAILURES_MAX];
	f->number = noted;
	f->at_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
	f->id = r->id;
	f->event = audit_event(r->kind);
	f->why = r->why;
	keep(f->listener, sizeof(f->listener), r->listener);
	keep(f->client, sizeof(f->client), r->client);
	keep(f->service, sizeof(f->service), r->service);
	keep(f->tunnel, sizeof(f->tunnel), r->tunnel);
	keep(f->detail, sizeof(f->detail), r->detail);
	pthread_mutex_unlock(&lock);
}

size_t failures_read(struct failure to[FAILURES_MAX])
{
	size_t n = 0;

	pthread_mutex_lock(&lock);
	while (n < FAILURES_MAX && n < noted) {
		to[n] = ring[(noted - 1 - n) % FAILURES_MAX];
		n++;
	}
	pthread_mutex_unlock(&lock);
	return n;
}

uint64_t failures_unnoted(void)
{
	return atomic_load_explicit(&unnoted, memory_order_relaxed);
}
