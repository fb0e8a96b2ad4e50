/*
 * setup: a config in effect, with the way to relays that is made of it. Counted: whatever was begun
 * with it keeps it, so a reload can put another in its place. Thread: one worker.
 */
#ifndef TUNNEL_SETUP_H
#define TUNNEL_SETUP_H

#include <stdbool.h>

#include "tunnel/carrier.h"

struct egress;
struct tunnel_config;

struct setup {
	struct tunnel_config *config;
	struct carrier_shared carrier; /* its TLS: only with services */
	uint64_t files; /* as they were when they were last looked at, before they were read */
	unsigned holders;
};

/*
 * Reads certificate, key and CAs, and looks at the token. config is taken over in every case;
 * egress outlives it. NULL: *why, an allocated line for people (NULL: out of memory).
 */
struct setup *setup_new(struct tunnel_config *config, struct worker *w, const struct egress *egress,
			char **why);
struct setup *setup_ref(struct setup *s);
struct setup *setup_unref(struct setup *s); /* returns NULL; NULL is fine */

/* Certificate, key and CAs once more, for connections from now on. False: *why, nothing changed. */
bool setup_refresh(struct setup *s, char **why);

/*
 * Has one of these files changed since it was read, or since this was last asked? While one is not
 * there, as between two steps of a renewal, nothing has.
 */
bool setup_files_changed(struct setup *s);

/* A setting that is for as long as the program runs, and is another; NULL: none. Static. */
const char *setup_differs(const struct setup *a, const struct setup *b);
/* Does a session have to be made anew because of it: for what is offered, and as whom? */
bool setup_needs_sessions(const struct setup *a, const struct setup *b);

#endif
