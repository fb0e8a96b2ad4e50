/*
 * notify: what systemd is told of a program.
 *
 * Theory of operation: each call is a datagram of libsystemd's to NOTIFY_SOCKET; none is waited
 * for.
 */
#include "relay/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#define STATUS_MAX 512
#define STORE_MAX 300 /* bytes of a state that names a socket; systemd takes 255 for the name */

void notify_ready(void)
{
	sd_notify(0, "READY=1");
}

void notify_reloading(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
		   (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
}

void notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void notify_status(const char *fmt, ...)
{
	char text[STATUS_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	sd_notifyf(0, "STATUS=%s", text);
}

void notify_main_pid(pid_t pid)
{
	sd_notifyf(0, "MAINPID=%d", (int)pid);
}

uint64_t notify_watchdog_ms(void)
{
	uint64_t us, ms;

	if (sd_watchdog_enabled(0, &us) <= 0)
		return 0;
	ms = us / 3000;
	return ms ? ms : 1;
}

void notify_watchdog(void)
{
	sd_notify(0, "WATCHDOG=1");
}

bool notify_has_store(void)
{
	const char *max = getenv("FDSTORE");

	return max && strtoul(max, NULL, 10) > 0 && getenv("NOTIFY_SOCKET");
}

bool notify_store(const char *name, int fd)
{
	char state[STORE_MAX];
	const int n = snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s", name);

	return n > 0 && (size_t)n < sizeof(state) &&
	       sd_pid_notify_with_fds(0, 0, state, &fd, 1) > 0;
}

void notify_unstore(const char *name)
{
	char state[STORE_MAX];
	const int n = snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", name);

	if (n > 0 && (size_t)n < sizeof(state))
		sd_notify(0, state);
}
