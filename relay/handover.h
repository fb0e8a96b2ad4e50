/*
 * handover: all listening sockets of a running attest-relay, for whoever listens at them next: an
 * heir that takes over while this process lives (heir.h), or the next run, for which systemd keeps
 * them.
 *
 * Thread: the main one, that of base.
 */
#ifndef RELAY_HANDOVER_H
#define RELAY_HANDOVER_H

#include <stdbool.h>

struct admin;
struct event_base;
struct gateway;
struct handover;

/*
 * succeeded: another process accepts at all sockets, and this one has let go of them: it is to
 * drain. same_unit: it is systemd's main process of this unit by now. NULL: out of memory.
 */
struct handover *handover_new(struct event_base *base, struct gateway *g, struct admin *admin,
			      void (*succeeded)(void *user, bool same_unit), void *user);
/* Somebody asks for the sockets at fd (of admin_detach), which is consumed, and gets an answer. */
void handover_asked(struct handover *h, int fd);
/* Started, or reloaded: systemd keeps the sockets of now, and no others. */
void handover_store(struct handover *h);
/* About to listen no more: what systemd or an heir has by now is left as it is, with its paths. */
void handover_leave(struct handover *h);
/* Nobody is to listen after this process: systemd keeps none. */
void handover_forget(struct handover *h);
/* Has another process the sockets, which does not serve yet? */
bool handover_is_under_way(const struct handover *h);
struct handover *handover_free(struct handover *h); /* NULL is fine; returns NULL */

#endif
