/* doctor_host: checks of the machine that all programs share. Each has its id from doctor_check. */
#ifndef RELAY_DOCTOR_HOST_H
#define RELAY_DOCTOR_HOST_H

#include <stdbool.h>
#include <sys/types.h>

struct doctor;

/* A process of this program that is no doctor; 0: none is seen. *uid: whose. */
pid_t doctor_daemon(const char *program, uid_t *uid);
/* Of what a process is: "attest-relay (pid 12)". Returns buf. */
const char *doctor_process(pid_t pid, char *buf, size_t size);

/* For a list of checks. */
void doctor_check_user(struct doctor *d, void *unused);    /* are we as the daemon is? */
void doctor_check_clock(struct doctor *d, void *unused);   /* is it kept in step? */
void doctor_check_sandbox(struct doctor *d, void *unused); /* Landlock, seccomp */
/* How this machine does vsock; for whoever has an address of that kind. */
void doctor_check_vsock(struct doctor *d);

#endif
