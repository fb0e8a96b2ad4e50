/*
 * process: what the kernel knows of this process, and what it is made of, for metrics.
 *
 * Names are those that Prometheus' own client libraries give these figures in all programs.
 */
#ifndef RELAY_PROCESS_H
#define RELAY_PROCESS_H

struct exposition;

/*
 * Opens what is read later, from /proc: before a sandbox takes that away, and in the process whose
 * figures they are to be. Without it some figures are left out. Once; main thread.
 */
void process_open(void);
void process_close(void); /* not open: nothing */

/* process_cpu_seconds_total and so on. */
void process_write(struct exposition *e);
/* PREFIX_build_info: 1; versions of this program and of what it runs with are its labels. */
void process_write_build(struct exposition *e);

#endif
