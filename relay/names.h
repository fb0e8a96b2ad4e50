/*
 * names: this machine's addresses by name, asked for in a thread of its own (getaddrinfo): an event
 * loop goes on while a DNS server does not answer.
 *
 * It is the same question that bind.h asks by itself at the start, so hosts(5) and nsswitch.conf(5)
 * have their say; for where clients' streams go there is resolver.h.
 */
#ifndef RELAY_NAMES_H
#define RELAY_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "config/address.h"

struct event_base;
struct names;

/* For all names together. glibc gives each server 5 s, twice: the second one has time to answer. */
#define NAMES_WAIT_S 15
/* Threads, of this process: one that nobody waits for any more goes on for as long as it likes. */
#define NAMES_THREADS_MAX 8

/*
 * done: when all have been answered, or NAMES_WAIT_S are over; from base's loop, once. It may free
 * n. hosts are copied, each of them once. NULL: no memory, or too many threads (errno says which).
 */
struct names *names_ask(struct event_base *base, const char *const *hosts, size_t n,
			void (*done)(struct names *n, void *user), void *user);
/* Would asking for these be the same question? */
bool names_is_about(const struct names *n, const char *const *hosts, size_t n_hosts);
/* From done on. NULL: it has an address, or was not asked for; else why it has none. */
const char *names_failure(const struct names *n, const char *host);
/*
 * a, or if its host is a name with an answer, the same with the IP address instead. Nothing of it
 * is to be freed; it is good for as long as n and a are. n: NULL: a.
 */
struct address names_apply(const struct names *n, const struct address *a);
/* Whatever has come of it. NULL is fine; returns NULL. */
struct names *names_free(struct names *n);

/* A TCP address whose host is no IP address. */
bool names_has_name(const struct address *a);

#endif
