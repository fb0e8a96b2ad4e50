/*
 * audit_sink: where audit records go: a file, or journald; by a thread that alone ever waits.
 */
#ifndef RELAY_AUDIT_SINK_H
#define RELAY_AUDIT_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Records that wait for a sink that takes none, 10 MiB of them as they usually are: a second of a
 * disk that stalls under the most streams that anybody has seen, or an hour of a quiet relay.
 */
#define AUDIT_QUEUE_MAX 16384
#define AUDIT_RECORD_MAX 4096 /* bytes of one; a pipe takes so many in one piece */

struct audit_sink;

struct audit_counts {
	uint64_t written, lost, queued; /* queued: now */
};

/* A record that says how many were lost, into text. Returns its length. Called by the thread. */
typedef size_t audit_sink_say_lost(uint64_t lost, char text[AUDIT_RECORD_MAX]);

/*
 * Opens and starts the thread. path: of a file; or of journald's socket, and records are in its
 * native protocol then. NULL and *why (allocated; NULL: out of memory).
 */
struct audit_sink *audit_sink_new(const char *path, bool journal, audit_sink_say_lost *say_lost,
				  char **why);
/* Any thread; never waits. What finds the queue full is lost, and counted. */
void audit_sink_put(struct audit_sink *s, const char *text, size_t len);
/* From now on at what path leads to: the file has been renamed. If that fails, the old one goes on.
 */
void audit_sink_reopen(struct audit_sink *s);
struct audit_counts audit_sink_counts(struct audit_sink *s);
/* Writes what is queued, for a few seconds at most. NULL is fine. */
void audit_sink_free(struct audit_sink *s);

#endif
