/* doctor_dial: names and connections, by the daemon's own resolver and dial, in d->worker. */
#ifndef RELAY_DOCTOR_DIAL_H
#define RELAY_DOCTOR_DIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address;
struct doctor;
struct worker;

/* Turns the worker's loop until *done. False: ms were over before. */
bool doctor_wait(struct worker *w, const bool *done, uint64_t ms);

/* What was closed is let end in order, for a while. For the end. */
void doctor_settle(struct worker *w);

/*
 * A line if the address has a name to be resolved; nothing if it has none. False: it does not
 * resolve.
 */
bool doctor_resolve(struct doctor *d, const struct address *a);

/* A connected socket, or -1 and why not, naming the address. */
int doctor_dial(const struct doctor *d, const struct address *a, uint64_t ms, char *why,
		size_t size);
/* A line: whether a service can be connected to. Closed at once, without a byte. */
void doctor_target(struct doctor *d, const struct address *a, uint64_t ms);

#endif
