/*
 * outset: what each program does to its own process before anything else.
 *
 * Theory of operation: two system calls' worth of caution, and the hard limit of descriptors: the
 * soft one is 1024 nearly everywhere, for the sake of select(2), which is not used here.
 */
#include "relay/outset.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

void outset_protect(void)
{
#ifndef __SANITIZE_ADDRESS__ /* its leak checker attaches to the process */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	signal(SIGPIPE, SIG_IGN);
	signal(SIGUSR1, SIG_IGN); /* until somebody waits for it */
	signal(SIGUSR2, SIG_IGN);
}

uint64_t outset_descriptors(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return 0;
	if (files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	return files.rlim_cur;
}
