/*
 * process: what the kernel knows of this process, and what it is made of, for metrics.
 *
 * Theory of operation: /proc/self/statm is read again through a descriptor that was opened at the
 * start, and /proc/self/fd counted through another, so no path is needed later. Since Linux 6.2 the
 * size of that folder is the number of descriptors; before, it is listed. Two descriptors stay
 * open. The rest are system calls.
 */
#include "relay/process.h"

#include <dirent.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "relay/exposition.h"
#include "relay/version.h"

#define STAT_MAX 1024 /* bytes of /proc/self/stat: 52 numbers and a name */
#define STAT_BEGAN 19 /* of those behind the name: when it began, in ticks since boot */

static struct {
	int statm;
	DIR *fds;
	uint64_t began_us; /* since 1970; 0: not known */
} process = { .statm = -1 };

static uint64_t us_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_nsec / 1000;
}

/* 0: not known. */
static uint64_t read_began(void)
{
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	struct timespec now, since_boot;
	uint64_t ticks;
	char text[STAT_MAX + 1], *at;
	ssize_t n = fd < 0 ? -1 : read(fd, text, STAT_MAX);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strrchr(text, ')'); /* the name may have anything in it */
	for (unsigned i = 0; at && i <= STAT_BEGAN; i++)
		at = strchr(at + 1, ' ');
	if (!at)
		return 0;
	ticks = strtoull(at + 1, NULL, 10);
	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &since_boot);
	return us_of(&now) - us_of(&since_boot) +
	       ticks * (1000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

void process_open(void)
{
	process_close();
	process.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	process.fds = opendir("/proc/self/fd");
	process.began_us = read_began();
}

void process_close(void)
{
	if (process.statm >= 0)
		close(process.statm);
	if (process.fds)
		closedir(process.fds);
	process.statm = -1;
	process.fds = NULL;
}

/* 0: cannot tell. */
static uint64_t count_fds(void)
{
	const struct dirent *entry;
	uint64_t n = 0;
	struct stat st;

	if (!process.fds)
		return 0;
	if (fstat(dirfd(process.fds), &st) == 0 && st.st_size > 0)
		return (uint64_t)st.st_size;
	rewinddir(process.fds);
	while ((entry = readdir(process.fds)))
		n += entry->d_name[0] != '.';
	return n;
}

static void gauge(struct exposition *e, const char *name, const char *help, uint64_t value)
{
	exposition_common(e, name, "gauge", help);
	exposition_sample(e, value, EXPOSITION_END);
}

static void write_memory(struct exposition *e)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), all, resident;
	ssize_t n;
	char text[STAT_MAX + 1];

	n = process.statm < 0 ? -1 : pread(process.statm, text, STAT_MAX, 0);
	text[n > 0 ? n : 0] = '\0';
	if (sscanf(text, "%" SCNu64 " %" SCNu64, &all, &resident) != 2)
		return;
	gauge(e, "process_virtual_memory_bytes", "Virtual memory size in bytes.", all * page);
	gauge(e, "process_resident_memory_bytes", "Resident memory size in bytes.",
	      resident * page);
}

static uint64_t us_of_timeval(const struct timeval *t)
{
	return (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_usec;
}

void process_write(struct exposition *e)
{
	uint64_t fds = count_fds();
	struct rusage usage;
	struct rlimit limit;

	if (getrusage(RUSAGE_SELF, &usage) == 0) {
		exposition_common(e, "process_cpu_seconds_total", "counter",
				  "Total user and system CPU time spent in seconds.");
		exposition_seconds(e,
				   us_of_timeval(&usage.ru_utime) + us_of_timeval(&usage.ru_stime),
				   EXPOSITION_END);
	}
	write_memory(e);
	if (fds)
		gauge(e, "process_open_fds", "Number of open file descriptors.", fds);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
		gauge(e, "process_max_fds", "Maximum number of open file descriptors.",
		      limit.rlim_cur);
	if (!process.began_us)
		return;
	exposition_common(e, "process_start_time_seconds", "gauge",
			  "Start time of the process since unix epoch in seconds.");
	exposition_seconds(e, process.began_us, EXPOSITION_END);
}

void process_write_build(struct exposition *e)
{
	exposition_head(e, "build_info", "gauge",
			"Always 1; the versions it runs with are the labels.");
	exposition_sample(e, 1, "version", VERSION, "openssl",
			  OpenSSL_version(OPENSSL_VERSION_STRING), "libevent", event_get_version(),
			  "nghttp2", version_of_nghttp2(), EXPOSITION_END);
}
