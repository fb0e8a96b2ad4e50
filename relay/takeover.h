/*
 * takeover: one attest-relay takes another one's place, and no client notices. This is the new
 * one's side; heir.h is the old one's.
 *
 * The new one (the heir) asks at the old one's admin socket:
 *
 *   POST /v1/takeover, Connection: Upgrade, Upgrade: attest-takeover/1
 *   <- 101, or an HTTP error with a line that says why
 *   <- "sockets N VERSION", then N times "socket NAME", each with a descriptor (SCM_RIGHTS)
 *   -> "ready INVOCATION"    the heir's listeners accept; INVOCATION: systemd's id of its unit, or
 * -
 *   <- "going"               the old one accepts no more and drains; or "no WHY", and it goes on
 *
 * Until "ready" nothing has changed for the old one, and when the heir is gone before, nothing
 * will. Both look who is at the other end: the same user, or root.
 */
#ifndef RELAY_TAKEOVER_H
#define RELAY_TAKEOVER_H

#include <stdbool.h>

struct address;

#define TAKEOVER_PROTOCOL "attest-takeover/1"
#define TAKEOVER_HEIR_S 60 /* from getting the sockets to being ready; then the old one goes on */

/* ---- the heir: the main thread, before it serves anybody. All of it blocks for some seconds. ----
 */

struct takeover;

enum takeover_outcome {
	TAKEOVER_NOBODY, /* nobody is there: to be started as ever */
	TAKEOVER_GIVEN,  /* the sockets are inherit.h's now */
	TAKEOVER_FAILED, /* *why, allocated, or NULL: out of memory */
};

enum takeover_outcome takeover_ask(const struct address *admin, struct takeover **t, char **why);
/* This process serves: the other one is to go. False: it will not, and *why. It may have died. */
bool takeover_ready(struct takeover *t, char **why);
struct takeover *takeover_free(struct takeover *t); /* NULL is fine; returns NULL */

#endif
