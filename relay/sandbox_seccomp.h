/* sandbox_seccomp: which system calls the process may make from now on. */
#ifndef RELAY_SANDBOX_SECCOMP_H
#define RELAY_SANDBOX_SECCOMP_H

struct sandbox_spec;

/* What becomes of a system call. */
enum sandbox_verdict {
	SANDBOX_PASS,	 /* the kernel does it; of some, only with certain arguments */
	SANDBOX_UNKNOWN, /* ENOSYS, as if the kernel did not have it */
	SANDBOX_DEATH,	 /* the process is killed by SIGSYS */
};

/*
 * All threads, for good; no_new_privs must be on. How many calls are let pass (0: all but those
 * that are death), or -errno: ENOSYS, this program was built without.
 */
int sandbox_seccomp_enter(const struct sandbox_spec *s);
/* By the kernel's number of the call, on this architecture. For tests. */
enum sandbox_verdict sandbox_seccomp_verdict(const struct sandbox_spec *s, int number);

#endif
