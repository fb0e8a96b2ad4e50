/*
 * heir: the process that is to take this one's place, and all that it is given. See takeover.h for
 * what is said. Thread: that of base.
 */
#ifndef RELAY_HEIR_H
#define RELAY_HEIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct address;
struct bind_file;
struct event_base;

struct heir;

/* What is handed on: pointers last for the call. */
struct handed {
	const struct address *address;
	const struct bind_file *file;
	int fd;
};

struct legacy {
	struct handed *at;
	size_t n;
	bool failed; /* memory ran out: it is not all */
};

struct heir_events {
	/* It is ready: stop accepting; same_unit: it is of this process's own unit. Not freed here.
	 */
	void (*ready)(void *user, pid_t pid, bool same_unit);
	/* It is over with this one, whatever came of it. To be freed. */
	void (*over)(void *user);
};

/* May this peer have everything? Only our own user, and root. */
bool heir_may(int fd, pid_t *pid);
/* Answers an HTTP request at fd with an error. fd is consumed. */
void heir_refuse(int fd, const char *status, const char *why);
/* Answers 101 and hands on. fd is consumed. NULL: it could not be done, and it has been logged. */
struct heir *heir_new(struct event_base *base, int fd, const struct legacy *legacy,
		      const struct heir_events *events, void *user);
struct heir *heir_free(struct heir *h); /* NULL is fine; returns NULL */

#endif
