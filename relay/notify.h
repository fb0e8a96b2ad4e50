/*
 * notify: what systemd is told of a program: its state, a line for people, that it lives, and which
 * sockets to keep for it. Nothing happens where nobody listens (no NOTIFY_SOCKET). Any thread.
 *
 * Units are Type=notify, or notify-reload with systemd 253 and later: the words are the same.
 */
#ifndef RELAY_NOTIFY_H
#define RELAY_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NOTIFY_STATUS_MS 10000 /* how often the line for people is made again */

void notify_ready(void); /* also: reloaded, whatever came of it */
void notify_reloading(void);
void notify_stopping(void);
void notify_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Another process of this unit is the service from now on. */
void notify_main_pid(pid_t pid);

/* How often it is to be said that all is well, in ms: a third of WatchdogSec=. 0: never. */
uint64_t notify_watchdog_ms(void);
void notify_watchdog(void);

/*
 * May sockets be left with systemd, to be given to the next process? $FDSTORE says so: systemd 254
 * and later set it by FileDescriptorStoreMax=, for earlier ones the unit has to.
 */
bool notify_has_store(void);
/* name: printable ASCII without colons. fd stays the caller's. False: it was not taken. */
bool notify_store(const char *name, int fd);
void notify_unstore(const char *name);

#endif
