/*
 * agent: the guest owner's end: one link to each relay, and the services behind them.
 *
 * Thread: one worker, for everything.
 */
#ifndef TUNNEL_AGENT_H
#define TUNNEL_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay/timer.h"
#include "tunnel/hello.h"
#include "tunnel/serve.h"

struct agent;
struct link;
struct link_line;
struct setup;

enum agent_outcome {
	AGENT_ORDERLY, /* stopped, or with once: every session ended in order */
	AGENT_FAILED,  /* with once: a relay could not be reached, or was lost */
	AGENT_REFUSED, /* with once: a relay refused for good */
};

struct agent_spec {
	struct setup *setup;              /* to begin with; without services there are no links */
	const char *instance;             /* must outlive the agent, as all pointers here */
	bool once;                        /* one attempt a relay, none after a loss */
	void (*changed)(struct agent *a); /* a link came up or went down; may be NULL */
	void (*over)(struct agent *a, enum agent_outcome outcome); /* nothing is left to do */
};

struct agent {
	const struct agent_spec *spec;
	struct worker *worker;
	struct setup *setup; /* in effect: held */
	void *user;
	struct serve serve;
	struct link **links; /* one for each relay of the config */
	unsigned n_links;
	uint64_t wave;       /* counts configs that need fresh sessions */
	struct link_line *lines;  /* all connections, of all links */
	uint64_t generation; /* the last one used */
	struct timer drain;
	bool stopping; /* no new sessions */
	bool killed;   /* ... and streams are not waited for */
	bool told_over;
	enum agent_outcome outcome; /* the worst so far */
};

/* Begins to connect from the loop. Out of memory ends the program, as in agent_reload. */
void agent_init(struct agent *a, struct worker *w, const struct agent_spec *spec);
/*
 * Another config, which cannot fail any more. Relays that are gone are left in order; if services
 * or credentials are others, each of the rest gets a fresh session, and keeps the one it has until
 * the relay has agreed to that.
 */
void agent_reload(struct agent *a, struct setup *setup);
/* After over, when the loop has ended. */
void agent_deinit(struct agent *a);

/* Waiting links try now. Those that were refused for good only if refused_too. */
void agent_retry(struct agent *a, bool refused_too);

/* Tells the relays, lets live streams finish for timeouts.drain, then calls over. */
void agent_stop(struct agent *a);
void agent_kill(struct agent *a); /* ... without the wait */

unsigned agent_up(const struct agent *a); /* links that are up */

/* For links. */
uint64_t agent_next_generation(struct agent *a);
uint64_t agent_random(void);
void agent_check_over(struct agent *a);
void agent_failed(struct agent *a, enum agent_outcome outcome); /* notes it */

#endif
