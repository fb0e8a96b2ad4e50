/*
 * vms: many VMs at once, each a process of its own.
 */
#ifndef TESTS_TOOLS_VMS_H
#define TESTS_TOOLS_VMS_H

#include "tests/tools/client.h"

struct vm {
	char name[32];
	struct client_how how;
	unsigned concurrency;
	uint64_t requests; /* to make; a flood makes them until all others are done */
	bool flood;
	bool odd; /* each request's report has a size, and its end a time, drawn from `seed` */
	uint64_t seed;
};

/* Runs them, prints one line of JSON. 0, or 1 if a request of those that are no flood failed. */
int vms_run(struct vm *vms, size_t n, int64_t think_ms);

#endif
