/*
 * log_out: where lines of the log leave. Whoever has one never waits for who takes it.
 *
 * Thread: any, but for log_out_setup.
 */
#ifndef RELAY_LOG_OUT_H
#define RELAY_LOG_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_OUT_JOURNAL "/run/systemd/journal/socket"
#define LOG_OUT_MAX ((size_t)1 << 20) /* bytes that wait: some thousand lines */

/* Before there are threads, and before a sandbox closes. journal: some will go there. */
void log_out_setup(bool journal);
/* Opens the way there, if it is not; before anybody is told to send to it. */
void log_out_journal(void);

/*
 * A whole line for stderr, or a datagram for journald. False: nobody is there, so it went nowhere;
 * who has no other place for it counts it as lost.
 */
bool log_out_put(bool journal, const char *text, size_t len);
void log_out_lose(void);

uint64_t log_out_lost(void);

#endif
