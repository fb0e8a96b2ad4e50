/* outset: what each program does to its own process before anything else. */
#ifndef RELAY_OUTSET_H
#define RELAY_OUTSET_H

#include <stdint.h>

/*
 * No core dump, and no other process of this user looks in: tokens, keys and requests pass through
 * memory. A peer that is gone is an error of write(2), not a signal. SIGUSR1 and SIGUSR2, which
 * have other daemons open their logs anew, do not end this one.
 */
void outset_protect(void);

/* As many descriptors as this process may have: how many that is. 0: the kernel does not say. */
uint64_t outset_descriptors(void);

#endif
