/* sandbox_landlock: which files the process may reach from now on, and signals to whom. */
#ifndef RELAY_SANDBOX_LANDLOCK_H
#define RELAY_SANDBOX_LANDLOCK_H

#include <stddef.h>

struct sandbox_spec;

/*
 * The calling thread, and those it makes, for good; no_new_privs must be on. The kernel's version
 * of Landlock, or -errno with *what an explanation: ENOSYS or EOPNOTSUPP, it has none.
 */
int sandbox_landlock_enter(const struct sandbox_spec *s, const char **what);

#endif
