/*
 * search: an opening on its way to a target.
 *
 * It comes to opening_join or opening_refuse (opening_state.h): from the loop, maybe another
 * worker's, or before search_begin or search_again returns.
 */
#ifndef RELAY_SEARCH_H
#define RELAY_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/reason.h"
#include "relay/timer.h"
#include "relay/worker.h"

#define SEARCH_TRIES 8 /* tunnels of one service asked in one round */

struct conduit;
struct dial;
struct opening;

/* What only an opening on its way needs. */
struct search {
	struct opening *opening;
	struct dial *dial;
	uint64_t parked_at; /* first; 0: never */
	uint64_t dialled_at; /* worker_now */
	struct conduit *target; /* between its opening and the far end's answer */
	struct timer timer;
	struct reapable reapable;
	uint64_t tried;	 /* bits: the targets that were asked in this round; there are few */
	uint64_t identity; /* of the client, if the service's balance asks for it */
	bool parked;	 /* waits for a tunnel to come */
	bool absent;	 /* a tunnel target had no tunnel: worth waiting for one */
	uint8_t tries;	 /* how many tunnels were asked in this round: those did not take it */
	uint64_t asked[SEARCH_TRIES];
	enum reason why; /* of the last target that failed */
	char *detail;	 /* the same in words; NULL: none */
	uint8_t *header; /* for targets that are addresses, before all else; NULL: none is sent */
	size_t header_len;
	char *upgrade; /* see opening_new */
	char asked_for[]; /* the name, as the client said it; "": none */
};

/* asked_for: NULL is "". NULL: out of memory. */
struct search *search_new(struct opening *o, const char *asked_for);
void search_free(struct search *f); /* one that has not begun; NULL is fine */
void search_begin(struct opening *o);
/* Of an opening that is parked: a tunnel may have come. */
void search_again(struct opening *o);
/* Found, or given up: what is under way is cancelled. Over already: nothing. */
void search_end(struct opening *o);

#endif
